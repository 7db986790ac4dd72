//! Which promise a power cut has broken, and how that was seen.

use std::fmt;

/// What was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    /// The volume does not open.
    Opening,
    /// Something that is there cannot be read, or contradicts itself.
    Reading,
    /// Names or attributes that were promised, or the order in which they became so.
    Names,
    /// Bytes of a file.
    Bytes,
    /// The modification time of a file.
    Time,
    /// The charge, the counts, or the files of the stage are not those of what is there.
    Books,
    /// A call panicked, or failed on a disk that works.
    Sense,
}

/// A broken promise.
#[derive(Clone, Debug)]
pub(super) struct Violation {
    pub(super) lost: Lost,
    told: String,
}

impl Violation {
    pub(super) fn new(lost: Lost, told: impl Into<String>) -> Self {
        let told = told.into();
        Self { lost, told }
    }

    /// The same, seen in such a place.
    pub(super) fn within(self, context: &str) -> Self {
        let told = format!("{context}: {}", self.told);
        Self { told, ..self }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.lost, self.told)
    }
}
