//! The places that make local state durable, or keep an order in which it becomes so, by name: each
//! can be left out, to show that the crash tests notice.
//!
//! Invariant: in a release build nothing is left out, whatever is asked for. Which one is left out is
//! an argument of a volume; tests set it, and `run` from a variable of the environment.

use std::str::FromStr;

/// A place without which a power cut could lose what was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Barrier {
    /// The bytes of a stage file are synced when the file is saved.
    StageBytes,
    /// The name of a new stage file is synced with them.
    StageName,
    /// The names of a new log are synced before the journal has one.
    LogName,
    /// The name of a new journal is synced when it is opened.
    JournalName,
    /// The journal's file is synced within each durable commit.
    JournalBytes,
    /// The write-ahead log is synced with each frame.
    LogBytes,
    /// What was applied is committed when somebody asks for it to be durable.
    JournalCommit,
    /// The bytes of a file are durable before the records that name them are written.
    BytesFirst,
    /// Records that let go of bytes are durable before the bytes go.
    RecordsFirst,
    /// A file that takes another's place is saved before its name is changed.
    RenameSource,
    /// A file that was just emptied is not saved before it is written anew.
    Rewrite,
    /// What a commit has published is durably so when it is settled.
    Settle,
    /// What was applied is committed every few seconds, though nobody asks.
    BackgroundCommit,
    /// What a commit keeps beside the tree is durable before it goes on.
    Keep,
    /// At a start, stage files end where their last byte is mapped.
    RecoveryCut,
    /// What a start has made is durable when the volume is open: the first records of a new one.
    FirstRecords,
    /// At a start, what a daemon that was killed wrote into stage files is synced.
    RecoveryBytes,
}

impl Barrier {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::StageBytes,
        Self::StageName,
        Self::LogName,
        Self::JournalName,
        Self::JournalBytes,
        Self::LogBytes,
        Self::JournalCommit,
        Self::BytesFirst,
        Self::RecordsFirst,
        Self::RenameSource,
        Self::Rewrite,
        Self::Settle,
        Self::BackgroundCommit,
        Self::Keep,
        Self::RecoveryCut,
        Self::FirstRecords,
        Self::RecoveryBytes,
    ];
}

impl FromStr for Barrier {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let mut all = Self::ALL.into_iter();
        all.find(|barrier| format!("{barrier:?}") == name)
            .ok_or_else(|| format!("no barrier `{name}`; there are {:?}", Self::ALL))
    }
}

/// Which barrier is left out, if one is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Without(Option<Barrier>);

impl Without {
    /// Leaves out `barrier`, in a debug build.
    #[must_use]
    pub const fn the(barrier: Barrier) -> Self {
        Self(Some(barrier))
    }

    /// Whether `barrier` is left out.
    pub(crate) fn lacks(self, barrier: Barrier) -> bool {
        cfg!(debug_assertions) && self.0 == Some(barrier)
    }
}
