//! How much of one file is dealt with at a time, and how finely what is staged of it is told.
//!
//! Invariant: none of this changes what a file reads as. Tests take less than what is usual, so that small files meet
//! what otherwise large ones do.

/// How much of one file is dealt with at a time.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Records of a file's chunks that are removed at once: with its last name, when the kernel has let go of it, and
    /// when it is settled.
    pub chunks: usize,
    /// Ranges of a chunk that are told apart, where what lies between them is at hand.
    pub ranges: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            chunks: 1024,
            ranges: 256,
        }
    }
}
