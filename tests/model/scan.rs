//! An open directory in the reference: which entries a reader must meet, and may.

use std::collections::BTreeSet;

use super::node::Id;

/// One that is being read.
#[derive(Clone, Debug)]
pub(crate) struct Scan {
    pub dir: Id,
    /// There since reading began: each must come exactly once.
    pub steady: BTreeSet<u8>,
    /// There at some time since then: nothing else may come.
    pub ever: BTreeSet<u8>,
}

impl Scan {
    pub(super) fn new(dir: Id, names: impl Iterator<Item = u8>) -> Self {
        let steady: BTreeSet<u8> = names.collect();
        Self {
            dir,
            ever: steady.clone(),
            steady,
        }
    }

    pub(super) fn added(&mut self, dir: Id, name: u8) {
        if dir == self.dir {
            self.ever.insert(name);
        }
    }

    pub(super) fn removed(&mut self, dir: Id, name: u8) {
        if dir == self.dir {
            self.steady.remove(&name);
        }
    }
}
