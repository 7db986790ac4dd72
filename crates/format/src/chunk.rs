//! Chunks: the pieces of a file's content, each one raw leaf in a plain volume.
//!
//! Invariant: chunk `i` of a file of `size` bytes holds the bytes from `i × CHUNK_SIZE` to the next
//! border or the file's end; an empty file has one empty chunk. Called by `file`, by a commit that
//! makes leaves and by a reader that looks for one.

use std::ops::Range;
use std::sync::OnceLock;

use bytes::Bytes;

use super::cid::leaf_cid;
use crate::block::Block;

/// Bytes of a full chunk of a plain volume.
pub const CHUNK_SIZE: u64 = 1 << 20;

/// The largest file, in bytes.
pub const MAX_FILE: u64 = i64::MAX as u64;

/// Number of chunks, and so of leaves, of a file of `size` bytes: at least 1.
#[must_use]
pub fn count(size: u64) -> u64 {
    size.div_ceil(CHUNK_SIZE).max(1)
}

/// Bytes of chunk `index` of a file of `size` bytes; 0 beyond the end.
#[must_use]
pub fn len(size: u64, index: u64) -> u64 {
    size.saturating_sub(index.saturating_mul(CHUNK_SIZE))
        .min(CHUNK_SIZE)
}

/// The chunks that `len` bytes at `offset` lie in.
#[must_use]
pub fn chunks_of(offset: u64, len: u64) -> Range<u64> {
    offset / CHUNK_SIZE..(offset + len).div_ceil(CHUNK_SIZE)
}

/// The leaf over `data` (at most [`CHUNK_SIZE`] bytes).
#[must_use]
pub fn leaf(data: Bytes) -> Block {
    Block {
        cid: leaf_cid(&data),
        data,
    }
}

/// The leaf of `len` zeros: what a chunk that is a hole is stored as. At most [`CHUNK_SIZE`].
#[must_use]
pub fn zero_leaf(len: u64) -> Block {
    static FULL: OnceLock<Block> = OnceLock::new();
    let full = FULL.get_or_init(|| leaf(Bytes::from(vec![0; CHUNK_SIZE as usize])));
    if len >= CHUNK_SIZE {
        return full.clone();
    }
    leaf(full.data.slice(..len as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_of_a_file_has_one_chunk() {
        assert_eq!((count(0), count(1), count(CHUNK_SIZE)), (1, 1, 1));
        assert_eq!(count(CHUNK_SIZE + 1), 2);
        assert_eq!(count(MAX_FILE), 1 << 43);
        for size in [0, 1, CHUNK_SIZE, CHUNK_SIZE + 1, 5_000_000] {
            let sum: u64 = (0..count(size) + 1).map(|i| len(size, i)).sum();
            assert_eq!(sum, size);
        }
    }

    #[test]
    fn a_hole_reads_as_zeros_of_its_length() {
        for length in [0, 1, 4096, CHUNK_SIZE] {
            let block = zero_leaf(length);
            assert_eq!(block.data.len() as u64, length);
            assert!(block.data.iter().all(|b| *b == 0));
            assert_eq!(block.cid, leaf_cid(&block.data));
        }
    }
}
