//! What was put and is in no frame of the log yet.

use super::footprint;
use crate::journal::key::Key;
use crate::journal::wal::Put;
use bytes::Bytes;

/// Bytes of it beyond which the background writes a frame though nobody asks: whoever syncs next carries the rest alone.
const MUCH: usize = 1 << 20;

/// Records in the order in which they were put.
#[derive(Default)]
pub(super) struct Unlogged {
    puts: Vec<Put>,
    bytes: usize,
    /// How many at the beginning, and their bytes, are being written into the table: they need no frame once it has them.
    covered: (usize, usize),
}

impl Unlogged {
    pub(super) fn put(&mut self, key: Key, value: Option<Bytes>) {
        self.bytes += footprint(&key, &value);
        self.puts.push((key, value));
    }

    /// Whether a frame of it would keep whoever syncs next.
    pub(super) fn is_much(&self) -> bool {
        self.bytes >= MUCH
    }

    /// All of it is being written into the table.
    pub(super) fn cover(&mut self) {
        self.covered = (self.puts.len(), self.bytes);
    }

    /// The table has what was covered.
    pub(super) fn forget_covered(&mut self) {
        let (puts, bytes) = std::mem::take(&mut self.covered);
        self.puts.drain(..puts);
        self.bytes -= bytes;
    }

    /// Takes all of it for a frame.
    pub(super) fn take(&mut self) -> Vec<Put> {
        std::mem::take(self).puts
    }
}
