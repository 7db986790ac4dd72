//! Two machines and one node, in every order of writing, committing, naming, renewing, sleeping and
//! returning, to depth 8: over the judgements of [`crate::publish::judge`] and the rule by which nodes take
//! records.

use std::collections::{HashMap, HashSet};

use cid::Cid;

use crate::journal::record::CidBytes;
use crate::names::record::{Network, ipns_sequence};
use crate::pack::Child;
use crate::pack::cid::{leaf_cid, node_cid};
use crate::pack::entry::{Attr, Sums, TreeRef};
use crate::pack::root::{Root, WriterId};
use crate::publish::judge::{contains_ours, is_current, is_foreign, may_follow};
use crate::publish::pending::{Versions, version};
use crate::publish::state::{Head, Own};
use crate::types::{Ino, TokenId, TokenKey, VolumeKey};

const DEPTH: u32 = 8;
const MONTH_S: u64 = 30 * 86_400;
const LIFE_S: u64 = 365 * 86_400;

/// What a machine, or the node, may do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    /// Something is written on a machine.
    Write(usize),
    /// It looks at the name, and builds a root on its head.
    Build(usize),
    /// It looks at the name once more: the record leaves with the next step.
    Look(usize),
    /// The record arrives.
    Put(usize),
    /// It looks at the name, and puts its last record again.
    Renew(usize),
    /// It ends, or is killed; a month passes.
    Sleep(usize),
    /// It is mounted again.
    Return(usize),
    /// Somebody mounts it with --take-over.
    TakeOver(usize),
    /// The node forgets the name.
    Forget,
}

/// A record at the node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Named {
    root: Cid,
    /// What decides which of two records is newer.
    ipns: u64,
    end_s: u64,
}

/// A commit on its way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Pending {
    root: Cid,
    end_s: u64,
    /// The second look was well.
    looked: bool,
}

#[derive(Clone, Debug, Default)]
struct Machine {
    awake: bool,
    writer: u8,
    head: Option<Head>,
    versions: Versions,
    dirty: bool,
    pending: Option<Pending>,
    /// It has been told of a conflict, and waits for somebody.
    told: bool,
    /// A take-over waits for its commit.
    supersedes: bool,
    end_s: u64,
}

#[derive(Clone, Debug)]
struct World {
    network: Network,
    now_s: u64,
    named: Option<Named>,
    machines: [Machine; 2],
    /// By its CID, what a root contains: its parent's tree, and what its writer had published.
    roots: HashMap<Cid, (Root, Vec<Cid>)>,
    writers: u8,
}

impl World {
    fn new(network: Network) -> Self {
        let machine = |writer| Machine {
            awake: true,
            writer,
            ..Machine::default()
        };
        Self {
            network,
            now_s: 1_800_000_000,
            named: None,
            machines: [machine(1), machine(2)],
            roots: HashMap::new(),
            writers: 2,
        }
    }

    /// All that a user could see of it; what was given up is in none.
    fn key(&self) -> String {
        format!(
            "{:?} {:?} {} {:?}",
            self.named, self.machines, self.now_s, self.writers
        )
    }

    fn is_possible(&self, step: Step) -> bool {
        let machine = |at: usize| &self.machines[at];
        let works = |at: usize| machine(at).awake && !machine(at).told;
        match step {
            Step::Write(at) => machine(at).awake && !machine(at).dirty,
            Step::Build(at) => works(at) && machine(at).dirty && machine(at).pending.is_none(),
            Step::Look(at) => works(at) && machine(at).pending.as_ref().is_some_and(|p| !p.looked),
            Step::Put(at) => works(at) && machine(at).pending.as_ref().is_some_and(|p| p.looked),
            Step::Renew(at) => {
                works(at) && machine(at).pending.is_none() && machine(at).head.is_some()
            }
            Step::Sleep(at) => machine(at).awake,
            Step::Return(at) => !machine(at).awake,
            Step::TakeOver(at) => machine(at).told && machine(at).awake,
            Step::Forget => self.named.is_some(),
        }
    }

    fn root(&self, cid: &Cid) -> &Root {
        &self.roots[cid].0
    }

    /// Whether `cid` is `below`, or was made from a tree that has it.
    fn has(&self, cid: &Cid, below: &Cid) -> bool {
        cid == below
            || self.roots[cid]
                .1
                .iter()
                .any(|parent| self.has(parent, below))
    }

    /// What `commit` asks of a name before it goes on: true when the machine may.
    fn look(&mut self, at: usize, ours: Option<Cid>) -> bool {
        let Some(named) = self.named.clone() else {
            return true;
        };
        let head = self.machines[at].head.clone().unwrap_or_default();
        let root = self.root(&named.root).clone();
        if !is_foreign(&head, root.sequence, Some(&named.root), ours.as_ref()) {
            return true;
        }
        let machine = &self.machines[at];
        let idle = !machine.dirty && machine.pending.is_none() && !machine.supersedes;
        let writer = WriterId([machine.writer; 16]);
        if idle && may_follow(&head, &root, writer, false) {
            self.adopt(at, named.root);
            return true;
        }
        self.machines[at].told = true;
        false
    }

    /// The tree of `cid` takes the place of what the machine has.
    fn adopt(&mut self, at: usize, cid: Cid) {
        let root = self.root(&cid).clone();
        let known = self.machines[at].head.clone().unwrap_or_default();
        if let Some(own) = known.own {
            assert!(
                self.has(&cid, &own.root.0),
                "its own tree is lost in silence: {self:#?}"
            );
        }
        let machine = &mut self.machines[at];
        machine.versions = Versions::of(&root);
        machine.head = Some(Head {
            sequence: root.sequence,
            root: Some(CidBytes(cid)),
            next: known.next.max(root.sequence + 1),
            ..known
        });
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Write(at) => self.machines[at].dirty = true,
            Step::Build(at) => self.build(at),
            Step::Look(at) => {
                let ours = self.machines[at]
                    .pending
                    .as_ref()
                    .map(|pending| pending.root);
                let well = self.look(at, ours);
                if let Some(pending) = &mut self.machines[at].pending {
                    pending.looked = well;
                }
            }
            Step::Put(at) => self.put(at),
            Step::Renew(at) => self.renew(at),
            Step::Sleep(at) => {
                let machine = &mut self.machines[at];
                machine.awake = false;
                machine.told = false;
                if let Some(pending) = &mut machine.pending {
                    pending.looked = false;
                }
                self.now_s += MONTH_S;
            }
            Step::Return(at) => {
                self.machines[at].awake = true;
                self.mount(at);
            }
            Step::TakeOver(at) => self.take_over(at),
            Step::Forget => self.named = None,
        }
    }

    fn build(&mut self, at: usize) {
        if !self.look(at, None) {
            return;
        }
        let held_s = self.named.as_ref().map_or(0, |named| named.end_s);
        let machine = &mut self.machines[at];
        let head = machine.head.clone().unwrap_or_default();
        let writer = WriterId([machine.writer; 16]);
        let child = |cid| Child::new(cid, 1);
        let tree = TreeRef {
            root: child(node_cid(b"tree")),
            sums: Sums::default(),
        };
        let mut root = Root {
            volume: VolumeKey {
                token: TokenKey {
                    chain_id: 1,
                    contract: Default::default(),
                    token: TokenId::from(1),
                },
                epoch: 1,
            },
            sequence: head.next.max(1),
            parent: head.root.map(|root| root.0),
            versions: machine.versions.to_map(),
            writer,
            time_ns: 0,
            next_inode: Ino(2),
            attr: Attr::default(),
            tree,
            table: tree,
            header: child(leaf_cid(b"header")),
        };
        if let Some(own) = head.own
            && let Some(version) = version(own.sequence, &own.root.0)
        {
            root.note(writer, version);
        }
        let cid = root.encode().unwrap().cid;
        machine.end_s = (self.now_s + LIFE_S).max(machine.end_s + 1).max(held_s + 1);
        machine.pending = Some(Pending {
            root: cid,
            end_s: machine.end_s,
            looked: false,
        });
        // What the tree was made from: its parent, and all that was here.
        let made_from = [head.root, head.own.map(|own| own.root)];
        let made_from = made_from.into_iter().flatten().map(|cid| cid.0).collect();
        self.roots.insert(cid, (root, made_from));
    }

    /// Whether the node takes it, as nodes of its kind do.
    fn offer(&mut self, offered: Named) -> bool {
        let wins = self.named.as_ref().is_none_or(|held| match self.network {
            Network::Btfs => offered.end_s > held.end_s,
            Network::Ipfs => {
                (offered.ipns, offered.end_s) > (held.ipns, held.end_s) || offered == *held
            }
        });
        if wins {
            self.named = Some(offered);
        }
        wins
    }

    fn put(&mut self, at: usize) {
        let Some(pending) = self.machines[at].pending.clone() else {
            return;
        };
        let sequence = self.root(&pending.root).sequence;
        let taken = self.offer(Named {
            root: pending.root,
            ipns: ipns_sequence(sequence, 0).unwrap(),
            end_s: pending.end_s,
        });
        let renewed = |named: &Named| named.root == pending.root;
        if !taken && !self.named.as_ref().is_some_and(renewed) {
            // It is read back: another machine's root, or a record that ends later of what was named before.
            if self.look(at, Some(pending.root)) {
                self.finish_later(at);
            }
            return;
        }
        let root = self.root(&pending.root).clone();
        let machine = &mut self.machines[at];
        machine.versions = Versions::of(&root);
        (machine.pending, machine.dirty, machine.supersedes) = (None, false, false);
        machine.head = Some(Head {
            sequence,
            root: Some(CidBytes(pending.root)),
            next: sequence + 1,
            own: Some(Own {
                sequence,
                root: CidBytes(pending.root),
            }),
            ..Head::default()
        });
    }

    /// As `finish_pending`: the record is signed anew, behind the one that the node has.
    fn finish_later(&mut self, at: usize) {
        let held_s = self.named.as_ref().map_or(0, |named| named.end_s);
        let machine = &mut self.machines[at];
        machine.end_s = (self.now_s + LIFE_S).max(machine.end_s + 1).max(held_s + 1);
        if let Some(pending) = &mut machine.pending {
            (pending.end_s, pending.looked) = (machine.end_s, false);
        }
    }

    fn renew(&mut self, at: usize) {
        if !self.look(at, None) {
            return;
        }
        let held_s = self.named.as_ref().map_or(0, |named| named.end_s);
        let machine = &mut self.machines[at];
        let Some(head) = &mut machine.head else {
            return;
        };
        let Some(root) = head.root else { return };
        head.renewals += 1;
        machine.end_s = (self.now_s + LIFE_S).max(machine.end_s + 1).max(held_s + 1);
        let offered = Named {
            root: root.0,
            ipns: ipns_sequence(head.sequence, head.renewals).unwrap(),
            end_s: machine.end_s,
        };
        self.offer(offered);
    }

    /// As `bootstrap` judges.
    fn mount(&mut self, at: usize) {
        let Some(named) = self.named.clone() else {
            return;
        };
        let root = self.root(&named.root).clone();
        let machine = &self.machines[at];
        let nothing_here = machine.pending.is_none() && !machine.dirty && !machine.supersedes;
        if machine
            .pending
            .as_ref()
            .is_some_and(|pending| pending.root == named.root)
        {
            return; // it is finished first
        }
        if machine.head.is_none() && !machine.dirty {
            self.adopt(at, named.root);
            return;
        }
        let head = machine.head.clone().unwrap_or_default();
        if is_current(&head, root.sequence, Some(&named.root)) {
            return;
        }
        let writer = WriterId([machine.writer; 16]);
        if nothing_here && may_follow(&head, &root, writer, false) {
            // The folder is removed, and begun anew by another writer.
            self.adopt(at, named.root);
            self.writers += 1;
            let machine = &mut self.machines[at];
            machine.writer = self.writers;
            if let Some(head) = &mut machine.head {
                (head.own, head.next) = (None, root.sequence + 1);
            }
            machine.end_s = 0;
            return;
        }
        self.machines[at].told = true;
    }

    /// As `supersede`.
    fn take_over(&mut self, at: usize) {
        let Some(named) = self.named.clone() else {
            self.machines[at].told = false;
            return;
        };
        let root = self.root(&named.root).clone();
        let machine = &mut self.machines[at];
        machine.told = false;
        let known = machine.head.clone().unwrap_or_default();
        if is_current(&known, root.sequence, Some(&named.root)) {
            return;
        }
        let given = machine.pending.take().map(|pending| pending.root);
        let given = given.map_or(0, |cid| self.roots[&cid].0.sequence + 1);
        let machine = &mut self.machines[at];
        machine.versions = machine.versions.with(&Versions::of(&root));
        machine.head = Some(Head {
            sequence: root.sequence,
            root: Some(CidBytes(named.root)),
            next: known.next.max(given).max(root.sequence + 1),
            ..known
        });
        (machine.dirty, machine.supersedes) = (true, true);
    }

    /// What else must hold in every state: a commit that waits for its name comes to it by itself, or its machine is told
    /// of a conflict.
    fn check_ends(&self) {
        for at in 0..2 {
            let mut next = self.clone();
            for _ in 0..3 {
                for step in [Step::Return(at), Step::Look(at), Step::Put(at)] {
                    if next.machines[at].pending.is_some() && next.is_possible(step) {
                        next.take(step);
                    }
                }
            }
            let machine = &next.machines[at];
            assert!(
                machine.pending.is_none() || machine.told,
                "stuck: {self:#?}"
            );
        }
    }

    /// What must hold in every state: nobody goes on in silence from a name that does not contain what
    /// he has published.
    fn check(&self) {
        let Some(named) = &self.named else { return };
        for at in 0..2 {
            let Some(own) = self.machines[at].head.as_ref().and_then(|head| head.own) else {
                continue;
            };
            let writer = WriterId([self.machines[at].writer; 16]);
            let contained = self.has(&named.root, &own.root.0);
            // The vector says no more than what is so.
            let said = contains_ours(self.root(&named.root), writer, Some(own));
            assert!(contained || !said, "{self:#?}");
            if contained || !self.machines[at].awake || self.machines[at].told {
                continue;
            }
            let newer = self.root(&named.root).sequence;
            if newer < own.sequence {
                continue; // an old record: the newer one is put again
            }
            for step in [Step::Build(at), Step::Renew(at)] {
                let mut next = self.clone();
                if matches!(step, Step::Build(_)) {
                    next.machines[at].dirty = true;
                }
                next.machines[at].pending = None;
                next.take(step);
                assert!(next.machines[at].told, "not told at {step:?}: {self:#?}");
                assert_eq!(next.named, self.named, "{step:?}");
            }
        }
    }
}

impl World {
    /// Takes steps, each of which is possible.
    fn take_all(&mut self, steps: &[Step]) {
        for &step in steps {
            assert!(self.is_possible(step), "{step:?}");
            self.take(step);
        }
    }
}

const STEPS: [Step; 17] = [
    Step::Write(0),
    Step::Write(1),
    Step::Build(0),
    Step::Build(1),
    Step::Look(0),
    Step::Look(1),
    Step::Put(0),
    Step::Put(1),
    Step::Renew(0),
    Step::Renew(1),
    Step::Sleep(0),
    Step::Sleep(1),
    Step::Return(0),
    Step::Return(1),
    Step::TakeOver(0),
    Step::TakeOver(1),
    Step::Forget,
];

/// Goes through all schedules from `begin`; how many states there were.
fn explore(begin: World) -> usize {
    let mut seen = HashSet::from([begin.key()]);
    let mut front = vec![begin];
    for _ in 0..DEPTH {
        let mut next = Vec::new();
        for world in &front {
            for step in STEPS {
                if !world.is_possible(step) {
                    continue;
                }
                let mut after = world.clone();
                after.take(step);
                if seen.insert(after.key()) {
                    after.check();
                    after.check_ends();
                    next.push(after);
                }
            }
        }
        front = next;
    }
    seen.len()
}

/// Both machines have what the first one published.
fn shared(network: Network) -> World {
    let mut world = World::new(network);
    world.take_all(&[
        Step::Write(0),
        Step::Build(0),
        Step::Look(0),
        Step::Put(0),
        Step::Sleep(1),
        Step::Return(1),
    ]);
    assert!(world.machines[1].head.is_some());
    world
}

#[test]
fn whatever_two_machines_and_a_node_do_no_tree_is_lost_in_silence() {
    for network in [Network::Btfs, Network::Ipfs] {
        let states = explore(World::new(network)) + explore(shared(network));
        assert!(states > 10_000, "{states}");
    }
}

/// Else the model could not fail.
#[test]
#[should_panic(expected = "in silence")]
fn a_machine_that_went_by_the_sequence_alone_would_lose_its_tree() {
    let mut world = shared(Network::Btfs);
    // Both look before either names: the later one hides the other, which must not follow it.
    world.take_all(&[
        Step::Write(0),
        Step::Write(1),
        Step::Build(0),
        Step::Build(1),
        Step::Look(0),
        Step::Look(1),
        Step::Put(0),
        Step::Sleep(1),
    ]);
    world.machines[1].pending.as_mut().unwrap().looked = true;
    world.machines[1].pending.as_mut().unwrap().end_s += 1;
    world.put(1);
    let hidden = world.named.clone().unwrap().root;
    world.adopt(0, hidden);
}
