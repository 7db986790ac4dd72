//! What one operation changes.

use bytes::Bytes;

use super::key::Key;
use super::record::Record;

/// What one operation changes.
#[derive(Debug, Default)]
pub struct Batch {
    pub(super) puts: Vec<(Key, Option<Bytes>)>,
    pub(super) marks: Vec<Key>,
    pub(super) used_delta: i64,
    pub(super) inodes_delta: i64,
    pub(super) adopted: Option<Adopted>,
    retired: Vec<u64>,
}

/// What a volume that was never used here takes over from its published root.
#[derive(Debug)]
pub(super) struct Adopted {
    pub(super) next_ino: u64,
    pub(super) used_bytes: u64,
    pub(super) inodes: u64,
}

impl Batch {
    /// Sets a record.
    pub(crate) fn put(&mut self, key: Key, record: &impl Record) {
        self.puts.push((key, Some(record.to_bytes())));
    }

    /// Sets a record without content: its key says it all.
    pub(crate) fn set(&mut self, key: Key) {
        self.puts.push((key, Some(Bytes::new())));
    }

    /// Sets raw bytes.
    pub fn put_bytes(&mut self, key: Key, bytes: Bytes) {
        self.puts.push((key, Some(bytes)));
    }

    /// Removes a record, whether there is one or not.
    pub(crate) fn remove(&mut self, key: Key) {
        self.puts.push((key, None));
    }

    /// Marks something as changed: the record becomes a version given to no other.
    pub(crate) fn mark(&mut self, key: Key) {
        self.marks.push(key);
    }

    /// Changes the nominal bytes that are charged.
    pub(crate) fn charge(&mut self, delta: i64) {
        self.used_delta += delta;
    }

    /// Changes the number of inodes.
    pub(crate) fn count_inodes(&mut self, delta: i64) {
        self.inodes_delta += delta;
    }

    /// Sets what an adopted volume says of itself.
    pub(crate) fn adopt(&mut self, next_ino: u64, used_bytes: u64, inodes: u64) {
        self.adopted = Some(Adopted {
            next_ino,
            used_bytes,
            inodes,
        });
    }

    /// Lets go of stage files: no record names them any more once this is applied.
    pub(crate) fn retire(&mut self, stages: impl IntoIterator<Item = u64>) {
        self.retired.extend(stages);
    }

    /// The stage files that it lets go of.
    pub(crate) fn take_retired(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.retired)
    }
}
