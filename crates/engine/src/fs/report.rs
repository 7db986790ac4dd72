//! What a volume tells of itself: `statfs`, what is pending, the virtual attributes.

use std::collections::HashSet;
use std::sync::Arc;

use super::content::data_bytes;
use super::volume::Volume;
use super::{FsError, Kind, StatFs};
use crate::journal::key;
use crate::journal::record::Content;
use crate::pack::cid::node_cid;
use crate::types::Ino;

/// What a token's directory tells in its virtual attributes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    /// Token id, decimal.
    pub token: String,
    /// The token's name key (`k51…`); empty when it has none.
    pub name: String,
    /// State as `pxfs status` tells it.
    pub state: String,
}

/// Who tells them.
pub(super) type Told = Arc<dyn Fn() -> Labels + Send + Sync>;

/// What is not published yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// Regular files with content that is not published.
    pub files: u64,
    /// Their data, in bytes: what is a hole in them does not count.
    pub bytes: u64,
    /// Anything at all that is not published, names and attributes too.
    pub any: bool,
}

impl Volume {
    /// Room and use of this token.
    pub(super) fn statfs(&self) -> StatFs {
        let inodes = self.journal.counters().inodes;
        self.quota().statfs(inodes)
    }

    /// Makes one inode, and every name, durable.
    pub(super) fn fsync(&self, ino: Ino) -> Result<(), FsError> {
        if let Some(reason) = self.poisoned() {
            return Err(FsError::Disk(reason));
        }
        if let Some(held) = self.files.hold_known(ino) {
            let saved = self.save(&held);
            self.leave(held);
            saved?;
        }
        self.sync_journal()?;
        self.check_late(ino)
    }

    /// What is not published yet. Reads a record for each changed file.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn pending(&self) -> Result<Pending, FsError> {
        self.pending_in(1024)
    }

    /// From now on nobody knows what is pending.
    #[cfg(any(test, feature = "testing"))]
    pub fn spoil_pending(&self) {
        let mut batch = crate::journal::Batch::default();
        batch.mark(key::dirty_inode(Ino(2)));
        batch.put_bytes(key::content(Ino(2)), bytes::Bytes::from_static(b"?"));
        self.journal.apply(batch).expect("it takes it");
    }

    /// From now on `ino` has so many names, whatever it has.
    #[cfg(any(test, feature = "testing"))]
    pub fn miscount_names(&self, ino: Ino, nlink: u32) {
        let mut inode = self.inode(ino).expect("it is there");
        inode.nlink = nlink;
        let mut batch = crate::journal::Batch::default();
        batch.put(key::inode(ino), &inode);
        self.apply(batch).expect("it takes it");
    }

    /// As [`Volume::pending`], with so many records at a time in memory.
    pub(super) fn pending_in(&self, page: usize) -> Result<Pending, FsError> {
        let mut pending = Pending {
            any: self.activity().is_some(),
            ..Pending::default()
        };
        // Files in use differ from their records until they are saved.
        let unsaved: Vec<Ino> = self.unsaved.files();
        let mut known = HashSet::new();
        for ino in unsaved {
            if let Some(file) = self.files.peek(ino).filter(|_| !self.files.is_orphan(ino)) {
                known.insert(ino);
                pending.files += 1;
                pending.bytes += file.body().allocated_bytes();
            }
        }
        let mut after: Option<Vec<u8>> = None;
        loop {
            let step = self
                .journal
                .scan(&key::dirty_inodes(), after.as_deref(), page)?;
            for (found, _) in &step {
                let Some(ino) = key::parse_ino(found).filter(|ino| !known.contains(ino)) else {
                    continue;
                };
                let content: Option<Content> = self.journal.record(&key::content(ino))?;
                if let Some(content) = content.filter(|c| c.version != c.published) {
                    pending.files += 1;
                    pending.bytes += data_bytes(&content);
                }
            }
            match step.last() {
                Some((last, _)) => after = Some(last.clone()),
                None => return Ok(pending),
            }
        }
    }

    /// Has the token's directory tell in its virtual attributes what `told` says at the moment they are read. It waits for
    /// nothing.
    pub fn set_labels(&self, told: impl Fn() -> Labels + Send + Sync + 'static) {
        *self.labels.lock() = Arc::new(told);
    }

    /// CID of the last published root, from what is kept of it with the commit itself: true as soon as that is settled.
    /// Empty before the first.
    fn root_label(&self) -> Result<String, FsError> {
        let block = self.raw_meta("root-block")?;
        Ok(block.map_or_else(String::new, |block| node_cid(&block).to_string()))
    }

    /// The virtual attribute `user.px.FIELD` of an inode.
    pub(super) fn virtual_attribute(&self, ino: Ino, field: &[u8]) -> Result<Vec<u8>, FsError> {
        if field == b"birth" {
            let birth_ns = self.inode(ino)?.birth_ns;
            // Every number of nanoseconds that a record can hold is such a time.
            let birth = jiff::Timestamp::from_nanosecond(birth_ns.into());
            return birth
                .map(|birth| format!("{birth:.9}").into_bytes())
                .map_err(|_| FsError::NoAttribute);
        }
        if ino == Ino::ROOT {
            let told = Arc::clone(&self.labels.lock());
            let labels = told();
            let text = match field {
                b"token" => labels.token,
                b"name" => labels.name,
                b"root" => self.root_label()?,
                b"state" => labels.state,
                _ => String::new(),
            };
            return if text.is_empty() {
                Err(FsError::NoAttribute)
            } else {
                Ok(text.into_bytes())
            };
        }
        if Kind::from_number(self.inode(ino)?.kind)? != Kind::File {
            return Err(FsError::NoAttribute);
        }
        let unsaved = self.files.peek(ino).is_some_and(|file| file.look().unsaved);
        let content: Content = self
            .journal
            .record(&key::content(ino))?
            .ok_or(FsError::NotFound)?;
        let published = !unsaved && content.version == content.published;
        match field {
            b"state" if published => Ok(b"published".to_vec()),
            b"state" if self.active_cut().is_some() => Ok(b"uploading".to_vec()),
            b"state" => Ok(b"local".to_vec()),
            b"cid" => content
                .base
                .filter(|_| published)
                .map(|base| base.cid.0.to_string().into_bytes())
                .ok_or(FsError::NoAttribute),
            _ => Err(FsError::NoAttribute),
        }
    }
}
