//! The daemon's socket: how one pxfs process asks another.
//!
//! Invariant: the socket is 0600 in a folder 0700, every request's peer is checked, every wait on
//! either side has a bound. `cli` asks through [`Client`], `run` answers through [`serve`].

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

/// Version of the frames; a daemon of another version is not spoken to.
pub const VERSION: u8 = 2;

/// What a command asks of the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Request {
    /// What is asked, unless that contradicts the drive. A daemon that does not know of terms does not
    /// answer it.
    Under {
        /// What it was asked for.
        terms: Terms,
        /// What is asked; not this again.
        request: Box<Request>,
    },
    /// Everything the daemon knows.
    Status,
    /// The owned tokens, freshly read.
    Tokens,
    /// What can be minted.
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
        /// Also where it has one of this wallet's: another volume begins.
        #[serde(default)]
        new_volume: bool,
    },
    /// What upload units can be bought.
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
    /// What a sync of a token would send. A daemon that does not know of it refuses it.
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
        /// Coins that go with it.
        value_wei: alloy::primitives::U256,
        /// Which contract; `None` for the only one.
        #[serde(default)]
        on: Option<String>,
    },
    /// End the local state of a token that is no longer this wallet's.
    Detach {
        /// A token, or a directory.
        name: String,
        /// Copy everything into this folder first.
        save: Option<std::path::PathBuf>,
    },
    /// Fetch one stored file.
    Get {
        /// Its CID.
        cid: String,
        /// A file that is not there yet.
        file: std::path::PathBuf,
    },
    /// Keep one published file for itself.
    Share {
        /// Its CID.
        cid: String,
    },
    /// Read all that is published of a token, and verify it.
    Fsck {
        /// The token.
        token: TokenRef,
        /// Put again what is lost and held here.
        repair: bool,
    },
    /// Write all blocks of a token's volume into a file.
    Export {
        /// The token.
        token: TokenRef,
        /// A file that is not there yet.
        file: std::path::PathBuf,
        /// Its files instead, as a tar archive.
        #[serde(default)]
        as_files: bool,
    },
    /// Put the blocks of such a file onto the node.
    Import {
        /// The token.
        token: TokenRef,
        /// The file.
        file: std::path::PathBuf,
    },
    /// The same onto another node than the drive's. A daemon that does not know of it refuses it.
    ImportTo {
        /// The token.
        token: TokenRef,
        /// The file.
        file: std::path::PathBuf,
        /// The node.
        node: NodeUrl,
        /// The files with what it is to be asked with.
        token_file: Option<std::path::PathBuf>,
        /// The same, with a password.
        password_file: Option<std::path::PathBuf>,
    },
    /// Publish everything that was written before.
    Flush {
        /// Only this token's directory.
        token: Option<String>,
    },
    /// Leave the mountpoint and end.
    Umount {
        /// Publish everything before.
        flush: bool,
    },
}

/// What a request is about, of several contracts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject<'a> {
    /// One token.
    Token(&'a TokenRef),
    /// One contract, or its chain: its name, where it is said.
    Contract(Option<&'a str>),
    /// None of them.
    Nothing,
}

impl Request {
    /// Whether a storage node has anything to do with it; else the chain alone answers, and nothing is sent.
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

/// What the daemon says, one frame each; the last is `Done` or `Failed`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Reply {
    /// Still at it.
    Progress(Step),
    /// The answer.
    Done {
        /// One of the shapes of `status`, or null.
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

/// How far a long request is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What is being done.
    pub what: String,
    /// How much of it is done.
    #[serde(flatten)]
    pub amount: Amount,
}

/// Hears how far a piece of work is: what is being done, and how much of it.
pub type Report<'a> = &'a (dyn Fn(&str, Amount) + Send + Sync);

/// How much of a long request is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// Bytes that are still to be done; 0 where that is not known.
    pub pending_bytes: u64,
    /// Bytes that are done.
    #[serde(default)]
    pub done_bytes: u64,
    /// Whether what is pending is not known to the byte.
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
