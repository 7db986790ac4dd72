//! Defects planted between the model test and a good drive: the test has to find each, and to tell
//! it in few calls.

use std::ops::RangeInclusive;

use rustix::io::Errno;

use super::core::Core;
use super::reference::{Call, Event, Failure, Reply, System, run};

/// Sequences within which a defect has to be found.
const SEQUENCES: u32 = 1000;

/// What goes wrong between caller and drive.
trait Defect: Default + 'static {
    fn call(&mut self, core: &mut Core, call: &Call) -> Result<Reply, Errno>;
}

/// A drive with a defect.
struct Planted<D> {
    core: Core,
    defect: D,
}

impl<D: Defect> System for Planted<D> {
    const EVENTS: &'static [(u32, Event)] = Core::EVENTS;
    const QUOTAS: &'static [u64] = Core::QUOTAS;
    const LONGEST: u64 = Core::LONGEST;
    const MOVES_ATIMES: bool = Core::MOVES_ATIMES;
    fn fresh(quota: u64) -> Self {
        let core = Core::fresh(quota);
        let defect = D::default();
        Self { core, defect }
    }

    fn room(quota: u64) -> u64 {
        Core::room(quota)
    }

    fn small_room(quota: u64) -> u64 {
        Core::small_room(quota)
    }

    fn call(&mut self, call: &Call) -> Result<Reply, Errno> {
        self.defect.call(&mut self.core, call)
    }

    fn used(&mut self) -> RangeInclusive<u64> {
        self.core.used()
    }

    fn now_ns(&self) -> i64 {
        self.core.now_ns()
    }
}

/// The shortest sequence that shows a defect.
#[track_caller]
fn found<D: Defect>() -> Failure {
    let result = run::<Planted<D>>(SEQUENCES, 1);
    *result.expect_err("the model test does not notice a planted defect")
}

/// Says that a write over bytes was done, and does it not.
#[derive(Default)]
struct LostOverwrite;

impl Defect for LostOverwrite {
    fn call(&mut self, core: &mut Core, call: &Call) -> Result<Reply, Errno> {
        if let Call::Write {
            at, offset, len, ..
        } = call
            && let Ok(Reply::Attr(attr)) = core.call(&Call::StatOpen(*at))
            && *len > 0
            && offset + u64::from(*len) <= attr.size
        {
            let no_change = Call::Write {
                at: *at,
                offset: *offset,
                len: 0,
                text: 0,
            };
            core.call(&no_change)?;
            return Ok(Reply::Count(u64::from(*len)));
        }
        core.call(call)
    }
}

#[test]
fn the_model_finds_a_lost_write_in_a_few_calls() {
    let failure = found::<LostOverwrite>();
    let writes = |call: &Call| matches!(call, Call::Write { .. });
    assert!(failure.calls.iter().any(writes), "{failure:?}");
    assert!(failure.calls.len() <= 6, "{failure:?}");
}

/// Leaves set-id bits where the owner changes.
#[derive(Default)]
struct KeptSetId;

impl Defect for KeptSetId {
    fn call(&mut self, core: &mut Core, call: &Call) -> Result<Reply, Errno> {
        let before = match call {
            Call::Chown(path, ..) => core.call(&Call::Stat(path.clone())).ok(),
            _ => None,
        };
        let reply = core.call(call);
        if let (Call::Chown(path, ..), Some(Reply::Attr(attr))) = (call, before) {
            drop(core.call(&Call::Chmod(path.clone(), attr.mode)));
        }
        reply
    }
}

#[test]
fn the_model_finds_a_set_id_bit_that_survives_chown() {
    let failure = found::<KeptSetId>();
    let owner = |call: &Call| matches!(call, Call::Chown(..));
    assert!(failure.calls.iter().any(owner), "{failure:?}");
    assert!(failure.calls.len() <= 6, "{failure:?}");
}

/// Lists one entry too few behind one that was removed while the directory was being read.
#[derive(Default)]
struct SkippedEntry {
    removed: bool,
}

impl Defect for SkippedEntry {
    fn call(&mut self, core: &mut Core, call: &Call) -> Result<Reply, Errno> {
        let reply = core.call(call);
        match (call, reply) {
            (Call::Unlink(_), Ok(reply)) => {
                self.removed = true;
                Ok(reply)
            }
            (Call::ReadDir { .. }, Ok(Reply::Items(mut items)))
                if self.removed && items.len() > 1 =>
            {
                self.removed = false;
                items.remove(0);
                Ok(Reply::Items(items))
            }
            (_, reply) => reply,
        }
    }
}

#[test]
fn the_model_finds_an_entry_skipped_by_readdir() {
    let failure = found::<SkippedEntry>();
    let removal = |call: &Call| matches!(call, Call::Unlink(_));
    assert!(failure.calls.iter().any(removal), "{failure:?}");
    assert!(failure.calls.len() <= 6, "{failure:?}");
}
