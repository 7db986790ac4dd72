//! Who is told what leads to the content on a node: whoever knows a CID reads a plain volume there, whatever its modes are.

use super::Drive;
use crate::fs::FsError;
use crate::types::Ino;

/// The virtual attributes that do.
const LEADING: [&[u8]; 2] = [b"user.px.root", b"user.px.cid"];

impl Drive {
    /// As [`Drive::getxattr`], for the user `by`: what leads to the content on a node is shown to its owner, to root, and to
    /// the user of this process.
    ///
    /// # Errors
    /// As [`Drive::getxattr`].
    pub fn getxattr_for(&self, by: u32, ino: Ino, name: &[u8]) -> Result<Vec<u8>, FsError> {
        if LEADING.contains(&name) && by != 0 && by != self.owner.0 && by != self.getattr(ino)?.uid
        {
            return Err(FsError::NoAttribute);
        }
        self.getxattr(ino, name)
    }
}
