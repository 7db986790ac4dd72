//! The daemon's socket: how pxfs processes talk.
//!
//! Invariant: the socket is 0600 in a folder 0700, every request's peer is checked, and every wait
//! is bounded. [`Client`] asks, [`serve`] answers.

mod client;
mod frame;
mod registry;
mod server;
mod terms;

use serde::{Deserialize, Serialize};

pub use client::Client;
pub use registry::{Entry, Registration, find_all, find_ended, private_folder};
pub use server::{Handler, Progress, serve};
pub use terms::{AskedUrl, Terms};

use crate::config::NodeUrl;
use crate::types::TokenRef;

/// Version of the frames; other versions are not spoken to.
pub const VERSION: u8 = 2;

/// A command's request to the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Request {
    /// A request, unless its terms contradict the drive. Older daemons do not answer it.
    Under {
        /// The conditions.
        terms: Terms,
        /// The request; not this variant again.
        request: Box<Request>,
    },
    /// The status.
    Status,
    /// The owned tokens, freshly read.
    Tokens,
    /// The packages on sale.
    Packages {
        /// Of which contract; `None` for the only one.
        #[serde(default)]
        on: Option<String>,
    },
    /// Mint a token of a package; `print` sends nothing.
    Mint {
        /// Of which contract; `None` for the only one.
        #[serde(default)]
        on: Option<String>,
        /// Number of the package.
        package: u64,
        /// Only build the call.
        print: bool,
    },
    /// Give a token a name key; `print` sends nothing.
    Register {
        /// The token.
        token: TokenRef,
        /// Only build the call.
        print: bool,
        /// Even if it has one of this wallet's: a new volume starts.
        #[serde(default)]
        new_volume: bool,
    },
    /// The upload packages on sale.
    UploadPackages {
        /// Of which contract; `None` for the only one.
        #[serde(default)]
        on: Option<String>,
    },
    /// Move a token to a larger package; `print` sends nothing.
    Upgrade {
        /// The token.
        token: TokenRef,
        /// Number of the package.
        package: u64,
        /// Only build the call.
        print: bool,
    },
    /// Buy upload units for a token; `print` sends nothing.
    BuyUploads {
        /// The token.
        token: TokenRef,
        /// Number of the package of uploads.
        package: u64,
        /// Only build the call.
        print: bool,
    },
    /// Sync a token.
    Sync {
        /// The token.
        token: TokenRef,
        /// Wait for its effect on chain.
        wait: bool,
    },
    /// What a sync of a token would send. Older daemons refuse it.
    SyncOffer {
        /// The token.
        token: TokenRef,
    },
    /// Let chain time pass.
    Advance {
        /// Seconds.
        seconds: u64,
        /// On the chain of which contract; `None` for the only one.
        #[serde(default)]
        on: Option<String>,
    },
    /// Send any call to the token contract.
    Call {
        /// The calldata.
        data: alloy::primitives::Bytes,
        /// Its value.
        value_wei: alloy::primitives::U256,
        /// Which contract; `None` for the only one.
        #[serde(default)]
        on: Option<String>,
    },
    /// End an orphaned volume.
    Detach {
        /// A token, or a directory.
        name: String,
        /// First copy everything into this folder.
        save: Option<std::path::PathBuf>,
    },
    /// Fetch one stored file.
    Get {
        /// Its CID.
        cid: String,
        /// Must not exist.
        file: std::path::PathBuf,
    },
    /// Pin one published file by itself.
    Share {
        /// Its CID.
        cid: String,
    },
    /// Verify everything published of a token.
    Fsck {
        /// The token.
        token: TokenRef,
        /// Upload lost blocks again that are here.
        repair: bool,
    },
    /// Write all blocks of a token's volume into a file.
    Export {
        /// The token.
        token: TokenRef,
        /// Must not exist.
        file: std::path::PathBuf,
        /// Its files instead, as a tar archive.
        #[serde(default)]
        as_files: bool,
    },
    /// Upload such a file's blocks to the node.
    Import {
        /// The token.
        token: TokenRef,
        /// The file.
        file: std::path::PathBuf,
    },
    /// The same to another node. Older daemons refuse it.
    ImportTo {
        /// The token.
        token: TokenRef,
        /// The file.
        file: std::path::PathBuf,
        /// The node.
        node: NodeUrl,
        /// Its bearer token file.
        token_file: Option<std::path::PathBuf>,
        /// Its password file.
        password_file: Option<std::path::PathBuf>,
    },
    /// Publish everything written before.
    Flush {
        /// Only this token's directory.
        token: Option<String>,
    },
    /// Unmount and end.
    Umount {
        /// Publish everything first.
        flush: bool,
    },
}

/// Which of several contracts a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject<'a> {
    /// One token.
    Token(&'a TokenRef),
    /// One contract, or its chain, by name if given.
    Contract(Option<&'a str>),
    /// None of them.
    Nothing,
}

impl Request {
    /// Whether a storage node is needed; otherwise the chain alone answers, and nothing is sent.
    #[must_use]
    pub fn needs_node(&self) -> bool {
        !matches!(
            self,
            Self::Tokens | Self::Packages { .. } | Self::UploadPackages { .. }
        )
    }

    /// What it is about.
    #[must_use]
    pub fn subject(&self) -> Subject<'_> {
        match self {
            Self::Register { token, .. }
            | Self::Upgrade { token, .. }
            | Self::BuyUploads { token, .. }
            | Self::Sync { token, .. }
            | Self::SyncOffer { token }
            | Self::Fsck { token, .. }
            | Self::Export { token, .. }
            | Self::Import { token, .. }
            | Self::ImportTo { token, .. } => Subject::Token(token),
            Self::Packages { on }
            | Self::UploadPackages { on }
            | Self::Mint { on, .. }
            | Self::Advance { on, .. }
            | Self::Call { on, .. } => Subject::Contract(on.as_deref()),
            Self::Under { request, .. } => request.subject(),
            Self::Status
            | Self::Tokens
            | Self::Detach { .. }
            | Self::Get { .. }
            | Self::Share { .. }
            | Self::Flush { .. }
            | Self::Umount { .. } => Subject::Nothing,
        }
    }
}

/// The daemon's answer, one frame each; `Done` or `Failed` is last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Reply {
    /// Still working.
    Progress(Step),
    /// The answer.
    Done {
        /// A shape of `status`, or null.
        answer: serde_json::Value,
    },
    /// What went wrong.
    Failed {
        /// One line.
        error: String,
        /// The exit code.
        exit: crate::exit::Exit,
    },
}

/// A long request's progress.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The present step.
    pub what: String,
    /// How much of it is done.
    #[serde(flatten)]
    pub amount: Amount,
}

/// Receives progress: the step and its amount.
pub type Report<'a> = &'a (dyn Fn(&str, Amount) + Send + Sync);

/// How much is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// Pending bytes; 0 if unknown.
    pub pending_bytes: u64,
    /// Bytes that are done.
    #[serde(default)]
    pub done_bytes: u64,
    /// Whether the pending bytes are an estimate.
    #[serde(default)]
    pub is_about: bool,
}

impl Amount {
    /// `done` of `total` bytes.
    #[must_use]
    pub fn of(done: u64, total: u64) -> Self {
        Self {
            pending_bytes: total.saturating_sub(done),
            done_bytes: done,
            is_about: false,
        }
    }

    /// `done` of about `total` bytes.
    #[must_use]
    pub fn of_about(done: u64, total: u64) -> Self {
        Self {
            is_about: true,
            ..Self::of(done, total)
        }
    }
}

#[cfg(test)]
mod tests;
