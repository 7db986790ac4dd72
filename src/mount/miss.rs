//! Calls that need what this machine does not hold.

use futures::future::BoxFuture;

use crate::fs::{FsError, Want};

/// Brings what a call lacks to this machine.
pub trait Fetcher: Send + Sync {
    /// Fetches `want`; on success the call that asked for it finds it locally. The future may be
    /// dropped at any await when the caller's deadline passes.
    fn fetch(&self, want: Want) -> BoxFuture<'_, Result<(), FsError>>;
}
