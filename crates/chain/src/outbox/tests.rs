//! The machine against a hostile chain: thousands of runs, each charge counted.

use super::*;

/// Blocks on top that make a block final.
const FINAL: usize = 4;
const RULES: Rules = Rules {
    patience: Duration::from_secs(10),
    max_fee: 1_000,
    again: true,
};

/// Reproducible pseudo-random numbers.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    fn one_in(&mut self, sides: u64) -> bool {
        self.roll(sides) == 0
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Ours,
    Foreign,
    Fill,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tx {
    nonce: u64,
    what: What,
    max_fee: u128,
}

/// A chain with only our account: blocks of at most one transaction, and the mempool.
#[derive(Clone, Default)]
struct World {
    blocks: Vec<Option<Tx>>,
    /// The number of final blocks.
    settled: usize,
    pool: Vec<Tx>,
    fee: u128,
}

impl World {
    fn next(&self) -> u64 {
        self.blocks.iter().flatten().count() as u64
    }

    fn charges(&self) -> usize {
        let mined = self.blocks.iter().flatten();
        mined.filter(|tx| tx.what == What::Ours).count()
    }

    fn mine(&mut self, dice: &mut Dice) {
        let next = self.next();
        self.pool.retain(|tx| tx.nonce >= next);
        let fits = |tx: &&Tx| tx.nonce == next && tx.max_fee >= self.fee;
        let fit: Vec<Tx> = self.pool.iter().filter(fits).copied().collect();
        let chosen = match fit.len() as u64 {
            0 => None,
            count => Some(fit[usize::try_from(dice.roll(count)).unwrap()]),
        };
        self.blocks.push(chosen);
        let deep = self.blocks.len().saturating_sub(FINAL);
        self.settled = self.settled.max(deep);
    }

    /// Replaces the newest blocks; their transactions return, or not.
    fn reorganise(&mut self, dice: &mut Dice) {
        let depth = usize::try_from(dice.roll(FINAL as u64)).unwrap();
        let keep = self.blocks.len().saturating_sub(depth).max(self.settled);
        for tx in self.blocks.split_off(keep).into_iter().flatten() {
            if dice.one_in(2) {
                self.pool.push(tx);
            }
        }
    }

    /// What a node with this view would say.
    fn look(&self, entry: &Entry, waited: Duration) -> Look {
        let last = entry.tries.last();
        let place = last.and_then(|last| {
            let mut blocks = self.blocks.iter();
            blocks.position(|tx| tx.is_some_and(|tx| tx.nonce == last.nonce))
        });
        let taken = place.and_then(|place| {
            let taker = match self.blocks[place]?.what {
                What::Ours => Taker::Same { success: true },
                _ => Taker::Other,
            };
            Some((taker, place < self.settled))
        });
        Look {
            next: self.next(),
            taken,
            elsewhere: Some(false),
            fee: self.fee,
            gas: 0,
            waited,
        }
    }
}

fn entry() -> Entry {
    Entry::new(Purpose {
        to: Some(Address::repeat_byte(1)),
        data: Bytes::from_static(b"charge"),
        value: U256::ZERO,
        bound: false,
    })
}

fn signed(max_fee: u128) -> Signed {
    Signed {
        hash: B256::ZERO,
        raw: Bytes::new(),
        gas: 21_000,
        max_fee,
        tip: None,
    }
}

/// Executes a step as a daemon that may be killed at any point; true when over.
fn carry_out(
    step: Step,
    entry: &mut Entry,
    world: &mut World,
    dice: &mut Dice,
    calm: bool,
) -> bool {
    let killed = |dice: &mut Dice| !calm && dice.one_in(6);
    if killed(dice) {
        // Nothing written or sent.
        return false;
    }
    match step {
        Step::Sign { nonce } => entry.tries.push(Try {
            nonce,
            since: 0,
            signed: vec![signed(world.fee.max(1))],
        }),
        Step::Replace { max_fee } => {
            let last = entry.tries.last_mut().unwrap();
            last.signed.push(signed(max_fee));
        }
        Step::Fill { nonce } => {
            world.pool.push(Tx {
                nonce,
                what: What::Fill,
                max_fee: RULES.max_fee,
            });
            return false;
        }
        Step::Wait(_) => return false,
        Step::Over(outcome) => {
            assert_eq!(outcome, Outcome::Happened);
            return true;
        }
        Step::Send => {}
    }
    if killed(dice) {
        // Written, and not sent.
        return false;
    }
    let last = entry.tries.last().unwrap();
    let tx = Tx {
        nonce: last.nonce,
        what: What::Ours,
        max_fee: last.signed.last().unwrap().max_fee,
    };
    // Sent once, twice, or lost.
    for _ in 0..if calm { 1 } else { dice.roll(3) } {
        world.pool.push(tx);
    }
    false
}

/// One purpose's life; the chain at its end.
fn live(seed: u64) -> (Entry, World) {
    let mut dice = Dice(seed * 2_654_435_761 + 88_172_645_463_325_252);
    let mut world = World {
        fee: 10,
        ..World::default()
    };
    let mut old = world.clone();
    let mut entry = entry();
    let mut over = false;
    for turn in 0..400 {
        let calm = turn > 150;
        match dice.roll(8) {
            0 if !calm => world.reorganise(&mut dice),
            1 if !calm => {
                // A browser wallet, at our nonce or the next.
                let nonce = world.next() + dice.roll(2);
                world.pool.push(Tx {
                    nonce,
                    what: What::Foreign,
                    max_fee: RULES.max_fee,
                });
            }
            2 if !calm => world.pool.retain(|_| !dice.one_in(2)),
            3 if !calm => world.fee = 1 + u128::from(dice.roll(200)),
            4 if !calm => old = world.clone(),
            _ => world.mine(&mut dice),
        }
        assert!(
            world.charges() <= 1,
            "seed {seed}: charged twice: {entry:?}"
        );
        if over {
            continue;
        }
        // A lagging node, or one that has not seen the nonce, is asked too.
        let seen = if !calm && dice.one_in(4) {
            &old
        } else {
            &world
        };
        let mut look = seen.look(&entry, Duration::from_secs(dice.roll(20)));
        if !calm && dice.one_in(4) {
            look.taken = None;
        }
        let step = entry.next(&look, &RULES);
        over = carry_out(step, &mut entry, &mut world, &mut dice, calm);
    }
    assert!(over, "seed {seed}: it never ended: {entry:?}");
    (entry, world)
}

#[test]
fn no_purpose_is_lost_or_charged_twice_in_five_thousand_lives() {
    let (mut again, mut replaced) = (0, 0);
    for seed in 1..=5_000 {
        let (entry, world) = live(seed);
        assert_eq!(world.charges(), 1, "seed {seed}");
        again += usize::from(entry.tries.len() > 1);
        replaced += usize::from(entry.tries.iter().any(|one| one.signed.len() > 1));
    }
    // The runs are as hostile as intended.
    assert!(again > 500 && replaced > 500, "{again} {replaced}");
}

/// An entry with one try at nonce 7, for 100 wei.
fn sent() -> Entry {
    let mut sent = entry();
    sent.tries.push(Try {
        nonce: 7,
        since: 0,
        signed: vec![signed(100)],
    });
    sent
}

fn look(next: u64, taken: Option<(Taker, bool)>) -> Look {
    Look {
        next,
        taken,
        elsewhere: Some(false),
        fee: 100,
        gas: 0,
        waited: RULES.patience,
    }
}

#[test]
fn a_second_nonce_is_signed_only_once_the_first_is_lost() {
    let step = |next, taken| sent().next(&look(next, taken), &RULES);
    let same = Taker::Same { success: true };
    assert_eq!(step(8, Some((Taker::Other, true))), Step::Sign { nonce: 8 });
    assert_eq!(step(5, Some((Taker::Other, true))), Step::Sign { nonce: 8 });
    for (next, taken) in [
        (7, None),
        (8, None),
        (6, None),
        (8, Some((Taker::Other, false))),
        (8, Some((same, false))),
        (8, Some((same, true))),
    ] {
        let step = step(next, taken);
        assert!(
            !matches!(step, Step::Sign { .. }),
            "{next} {taken:?}: {step:?}"
        );
    }
    assert_eq!(step(8, None), Step::Wait(Wait::Unseen));
    assert_eq!(step(6, None), Step::Fill { nonce: 6 });
}

#[test]
fn it_is_over_only_in_a_final_block() {
    let step = |taken| sent().next(&look(8, Some(taken)), &RULES);
    let (same, refused) = (
        Taker::Same { success: true },
        Taker::Same { success: false },
    );
    assert_eq!(step((same, false)), Step::Wait(Wait::NotFinal));
    assert_eq!(step((same, true)), Step::Over(Outcome::Happened));
    assert_eq!(step((refused, true)), Step::Over(Outcome::Refused));
}

#[test]
fn a_fee_too_low_is_raised_but_never_beyond_the_cap() {
    let step = |fee| {
        sent().next(
            &Look {
                fee,
                ..look(7, None)
            },
            &RULES,
        )
    };
    assert_eq!(step(100), Step::Send);
    assert_eq!(
        step(101),
        Step::Replace { max_fee: 113 },
        "or nodes refuse it"
    );
    assert_eq!(step(1_000), Step::Replace { max_fee: 1_000 });
    assert_eq!(step(1_001), Step::Wait(Wait::FeeCap));
    // Enough fee, too little gas.
    let short = Look {
        gas: 21_001,
        ..look(7, None)
    };
    assert_eq!(sent().next(&short, &RULES), Step::Replace { max_fee: 113 });
    let soon = Look {
        waited: Duration::from_secs(1),
        ..look(7, None)
    };
    assert_eq!(sent().next(&soon, &RULES), Step::Wait(Wait::Sent));
}

#[test]
fn what_happened_elsewhere_or_may_have_is_not_signed_again() {
    let step = |elsewhere, bound| {
        let mut sent = sent();
        sent.purpose.bound = bound;
        let look = Look {
            elsewhere,
            ..look(8, Some((Taker::Other, true)))
        };
        sent.next(&look, &RULES)
    };
    assert_eq!(step(Some(false), false), Step::Sign { nonce: 8 });
    assert_eq!(step(Some(true), false), Step::Over(Outcome::Happened));
    assert_eq!(step(None, false), Step::Wait(Wait::Unseen));
    assert_eq!(step(Some(false), true), Step::Over(Outcome::Lost));
}

#[test]
fn a_commands_transaction_cancelled_elsewhere_is_not_signed_again() {
    let rules = Rules {
        again: false,
        ..RULES
    };
    let step = |taken| sent().next(&look(8, taken), &rules);
    assert_eq!(step(Some((Taker::Other, true))), Step::Over(Outcome::Lost));
    assert_eq!(
        step(Some((Taker::Other, false))),
        Step::Wait(Wait::NotFinal),
        "the block that cancels it may be replaced"
    );
    let same = Taker::Same { success: true };
    assert_eq!(step(Some((same, true))), Step::Over(Outcome::Happened));
}
