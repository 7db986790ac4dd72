//! The charge: how many bytes of the quota something takes. The one rule of the accounting.
//!
//! Invariant: a pure function of metadata; the sum over a volume is never less than the bytes of
//! all distinct blocks that are stored for it. Called by `fs` (what a call would add), by the tree
//! (the sums of a directory) and by a commit (`usage` of the usage metadata).
//!
//! # The rule
//!
//! | what | charge in bytes |
//! |---|---|
//! | a volume | 4,096: root, header, usage metadata, the empty root directory and inode table |
//! | a name in a directory | 136 + its length + the length of its link name + 1/32 of both |
//! | a directory | 128 more |
//! | a symlink's target | twice its length + 1/32 of both + 16 |
//! | extended attributes | for each 8 + name + value, + 1/32 of the sum |
//! | an inode with more than one name | once the row of the inode table: 136 + 24; each name as above |
//! | content, no whole hole | its length + 64 for each link and 32 for each node above its leaves |
//! | content with `h` whole holes among `n` chunks | its length − `h` MiB + one zero leaf of 1 MiB + its nodes + 24 for each of min(`h`, `n` − `h` + 1, 4,096) runs |
//!
//! *Link name*: the name itself; where that is not UTF-8 or begins with the escape prefix, prefix
//! and hex ([`super::link_name::link_name`]). *Nodes of content*: a file of `n` > 1 chunks has at level
//! 1 ⌈n ÷ 174⌉ nodes, above that again ⌈÷ 174⌉ until one is left; where the file has whole holes,
//! of each level at most `n` − `h` + 2 are counted (those that hold data, one of nothing but holes,
//! one at the right edge), and at most 174 links for each. A *whole hole* is a chunk of 1 MiB that
//! was never written; a shorter last chunk counts as data, written or not. Compressed, shared or
//! repeated content makes nothing cheaper. Modes, owners, times, inode numbers, device numbers and
//! the place in a page change nothing: chmod, chown, utimes need no quota.
//!
//! The fixed parts are the longest encodings there are, so small numbers pay for pages and the
//! index above them: a page of the index carries at least 12 KiB of entries, each of which is
//! charged at least 1/32 more than it takes.

use super::chunk::{self, CHUNK_SIZE};
use super::file::LINKS;
use super::holes::MAX_RUNS;
use super::link_name::link_name_len;

/// What every volume is charged, in bytes.
pub const VOLUME_OVERHEAD: u64 = 4096;

/// What a name is charged before its bytes.
const ENTRY: u64 = 136;

/// What a directory is charged above its entry: its page, and the sums in its entry.
pub const DIRECTORY: u64 = 128;

/// What an inode is charged once for its row of the inode table, while and after it has more than
/// one name: to its attributes ([`xattrs_charge`], content) this is added.
pub const TABLE_ROW: u64 = ENTRY + 24;

/// The smallest charge of anything that can be created: what `statfs` divides by.
pub const SMALLEST_ENTRY: u64 = ENTRY + 2;

/// The charge of one name in a directory, in bytes: of its entry, its link, its extended attributes
/// (`xattrs_bytes` as [`xattrs_bytes`] counts them) and, for a symlink, its target (`target_len` is 0 for
/// everything else). A directory adds [`DIRECTORY`], a file [`file_charge`]. A further name of an
/// inode that has more than one, and the first as well from then on, is
/// `entry_charge(name, 0, 0)`; the inode itself is then [`row_charge`].
#[must_use]
pub fn entry_charge(name: &[u8], xattrs_bytes: u64, target_len: u64) -> u64 {
    let names = (name.len() as u64).saturating_add(link_name_len(name));
    ENTRY + padded(names) + padded(xattrs_bytes) + target_charge(target_len)
}

/// The charge of an inode's row in the inode table, in bytes, without its content: once for an
/// inode with more than one name.
#[must_use]
pub fn row_charge(xattrs_bytes: u64, target_len: u64) -> u64 {
    TABLE_ROW + padded(xattrs_bytes) + target_charge(target_len)
}

/// What extended attributes count, in bytes, before the padding that [`entry_charge`] adds.
#[must_use]
pub fn xattrs_bytes<'a>(xattrs: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> u64 {
    xattrs
        .into_iter()
        .map(|(name, value)| 8 + name.len() as u64 + value.len() as u64)
        .sum()
}

/// The charge of extended attributes where they are not part of an entry (the volume's root
/// directory), in bytes.
#[must_use]
pub fn xattrs_charge(xattrs_bytes: u64) -> u64 {
    padded(xattrs_bytes)
}

/// The charge of a file's content, in bytes. `whole_holes` is the number of chunks of full length
/// that are holes ([`super::holes::Holes::whole`]).
#[must_use]
pub fn file_charge(size: u64, whole_holes: u64) -> u64 {
    let chunks = chunk::count(size);
    let holes = whole_holes.min(size / CHUNK_SIZE);
    let data = chunks - holes;
    let nodes = if holes == 0 { u64::MAX } else { data + 2 };
    let mut charge = size - holes * CHUNK_SIZE;
    if holes > 0 {
        let runs = holes.min(data + 1).min(MAX_RUNS as u64);
        charge = charge.saturating_add(CHUNK_SIZE + 24 * runs);
    }
    let mut below = chunks;
    while below > 1 {
        let level = below.div_ceil(LINKS);
        let stored = level.min(nodes);
        let links = below.min(stored.saturating_mul(LINKS));
        charge = charge.saturating_add(32 * stored + 64 * links);
        below = level;
    }
    charge
}

/// The bytes and 1/32 of them, for the page and index that they lie in.
fn padded(bytes: u64) -> u64 {
    bytes.saturating_add(bytes / 32)
}

/// A symlink's target stands in its entry and in a UnixFS symlink of its own.
fn target_charge(target_len: u64) -> u64 {
    match target_len {
        0 => 0,
        len => padded(len.saturating_mul(2)) + 16,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_file_fills_the_quota() {
        let quota: u64 = 100 << 20;
        let reserve = (quota / 1000).max(64 << 10);
        let free = quota - VOLUME_OVERHEAD - reserve - entry_charge(b"one", 0, 0);
        let largest = (0..quota)
            .rev()
            .step_by(4096)
            .find(|size| file_charge(*size, 0) <= free);
        assert!(largest.unwrap() * 1000 >= quota * 995);
    }

    #[test]
    fn small_files_fill_the_quota() {
        let quota: u64 = 100 << 20;
        let reserve = (quota / 1000).max(64 << 10);
        let each = entry_charge(&[b'n'; 80], 0, 0) + file_charge(10 << 10, 0);
        let files = (quota - VOLUME_OVERHEAD - reserve) / each;
        assert!(files * (10 << 10) * 100 >= quota * 97);
    }

    #[test]
    fn a_huge_hole_costs_a_handful_of_nodes() {
        assert!(file_charge(16 << 40, 16 << 20) < 2 * CHUNK_SIZE);
        assert!(file_charge(chunk::MAX_FILE, 1 << 43) < 3 * CHUNK_SIZE);
    }

    #[test]
    fn no_size_overflows() {
        assert!(file_charge(u64::MAX, 0) > chunk::MAX_FILE);
        assert!(file_charge(u64::MAX, u64::MAX) > 0);
        assert_eq!(file_charge(u64::MAX, 1), u64::MAX);
    }

    proptest! {
        /// Else growing a file, or filling a hole, could free quota.
        #[test]
        fn more_bytes_never_cost_less(size in 0u64..1 << 40, more in 0u64..1 << 30, holes in 0u64..1 << 20) {
            let holes = holes.min(size / CHUNK_SIZE);
            prop_assert!(file_charge(size, holes) <= file_charge(size + more, holes));
            prop_assert!(file_charge(size, holes) <= file_charge(size, holes.saturating_sub(1)));
            let grown = (size + more) / CHUNK_SIZE - size / CHUNK_SIZE;
            prop_assert!(
                file_charge(size / CHUNK_SIZE * CHUNK_SIZE, holes)
                    <= file_charge((size + more) / CHUNK_SIZE * CHUNK_SIZE, holes + grown)
            );
        }
    }
}
