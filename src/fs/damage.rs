//! What the node has lost of this volume: which blocks, and of which files and directories.
//!
//! Invariant: a loss is kept for what needs the block alone; when that is removed, rewritten or
//! published anew, the loss ends with it (it is dropped at the next look). Noted by `fetch`
//! (reads) and `publish` (commits, the sampler), told by `status`.

use cid::Cid;

use super::volume::Volume;
use super::{FsError, Kind, LostBlock};
use crate::journal::record::{CidBytes, Content, Directory, Inode, Lost};
use crate::journal::{Batch, key};
use crate::types::Ino;

/// Most directories above a file that a path is told with.
const MOST_ABOVE: usize = 4096;

/// A file or directory that a lost block is needed for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The inode.
    pub ino: Ino,
    /// Its name below the token's directory, the first one of several.
    pub path: String,
    /// The block.
    pub block: Cid,
    /// The published content, or tree, that needs it.
    pub of: Cid,
    /// Length of the content in bytes; `None` for a directory.
    pub size: Option<u64>,
    /// Which chunk of it the block is; `None` for a node.
    pub chunk: Option<u64>,
    /// Whether the entry says, or will say, that it is damaged.
    pub marked: bool,
    /// Whether what was written since cannot be published for it.
    pub stuck: bool,
}

impl Volume {
    /// Notes that the node has lost a block of what `ino` has published as `of`. The first loss of
    /// each is kept.
    pub fn note_lost(&self, ino: Ino, of: &Cid, lost: &LostBlock) {
        let noted = self.note_loss(ino, of, lost, 0, false);
        if let Err(error) = noted {
            tracing::warn!(ino = ino.0, block = %lost.cid, %error, "a lost block is not noted");
        }
    }

    /// The same for a content of `version` that cannot be published for want of the block.
    pub(crate) fn note_stuck(
        &self,
        ino: Ino,
        of: &Cid,
        lost: &LostBlock,
        version: u64,
    ) -> Result<(), FsError> {
        self.note_loss(ino, of, lost, version, true)
    }

    /// Takes `block` for what is lost of `ino` from here on.
    pub(crate) fn replace_loss(&self, loss: &Loss, block: &LostBlock) -> Result<(), FsError> {
        self.note_loss(loss.ino, &loss.of, block, 0, true)
    }

    fn note_loss(
        &self,
        ino: Ino,
        of: &Cid,
        lost: &LostBlock,
        stuck: u64,
        anew: bool,
    ) -> Result<(), FsError> {
        let known: Option<Lost> = self.journal.record(&key::lost(ino))?;
        let known = known.filter(|known| known.of.0 == *of);
        if known.is_some() && !anew {
            return Ok(());
        }
        let record = Lost {
            block: CidBytes(lost.cid),
            of: CidBytes(*of),
            chunk: lost.chunk,
            since_s: known.map_or_else(|| self.now_s(), |known| known.since_s),
            stuck: stuck.max(known.map_or(0, |known| known.stuck)),
            told: false,
        };
        let mut batch = Batch::default();
        batch.put(key::lost(ino), &record);
        self.apply_quietly(batch)?;
        if known.is_none() {
            let token = self.key.token.token;
            tracing::warn!(%token, path = self.path_of(ino), block = %lost.cid, why = lost.why, "damaged");
        }
        Ok(())
    }

    /// What is known to be lost now, at most `limit` of it.
    ///
    /// # Errors
    /// The journal fails.
    pub fn losses(&self, limit: usize) -> Result<Vec<Loss>, FsError> {
        let mut losses = Vec::new();
        let mut after: Option<Vec<u8>> = None;
        while losses.len() < limit {
            let step = self
                .journal
                .scan(&key::all_lost(), after.as_deref(), limit.min(256))?;
            let Some((last, _)) = step.last() else { break };
            after = Some(last.clone());
            for (found, _) in &step {
                let Some(ino) = key::parse_ino(found) else {
                    continue;
                };
                match self.loss(ino)? {
                    Some(loss) => losses.push(loss),
                    None => self.forget_loss(ino)?,
                }
            }
        }
        losses.truncate(limit);
        Ok(losses)
    }

    /// The loss of an inode, while what needs the block is published still.
    fn loss(&self, ino: Ino) -> Result<Option<Loss>, FsError> {
        let (Some(lost), Some(inode)) = (
            self.journal.record::<Lost>(&key::lost(ino))?,
            self.journal.record::<Inode>(&key::inode(ino))?,
        ) else {
            return Ok(None);
        };
        let of = lost.of.0;
        let mut stuck = false;
        let found = match Kind::from_number(inode.kind)? {
            Kind::File if inode.nlink > 0 => {
                let (base, version) = match self.files.peek(ino) {
                    Some(file) => {
                        let body = file.body();
                        (body.base, body.version)
                    }
                    None => {
                        let content: Option<Content> = self.journal.record(&key::content(ino))?;
                        content.map_or((None, 0), |content| (content.base, content.version))
                    }
                };
                stuck = lost.stuck != 0 && lost.stuck == version;
                base.filter(|base| base.cid.0 == of)
                    .map(|base| (Some(base.size), base.damaged))
            }
            Kind::Directory => {
                let state: Option<Directory> = self.journal.record(&key::directory(ino))?;
                let tree = state.and_then(|state| state.published);
                tree.filter(|tree| tree.cid.0 == of)
                    .map(|tree| (None, tree.damaged))
            }
            _ => None,
        };
        Ok(found.map(|(size, marked)| Loss {
            ino,
            path: self.path_of(ino),
            block: lost.block.0,
            of,
            size,
            chunk: lost.chunk,
            marked,
            stuck,
        }))
    }

    /// The block is there again, or nobody needs it any more.
    pub(crate) fn forget_loss(&self, ino: Ino) -> Result<(), FsError> {
        let mut batch = Batch::default();
        batch.remove(key::lost(ino));
        self.apply_quietly(batch)
    }

    /// Has the next commit write the entry as damaged, or as whole again. A directory whose entries
    /// are here is not damaged for long: its tree is built anew.
    ///
    /// # Errors
    /// The journal fails.
    pub(crate) fn mark_damaged(&self, loss: &Loss, damaged: bool) -> Result<(), FsError> {
        let mut batch = Batch::default();
        if loss.size.is_some() {
            let held = self.hold(loss.ino)?;
            {
                let mut body = held.body_mut();
                if let Some(base) = body.base.as_mut().filter(|base| base.cid.0 == loss.of) {
                    base.damaged = damaged;
                    body.unsaved = true;
                }
            }
            let saved = self.save(&held);
            self.leave(held);
            saved?;
        } else {
            let _names = self.lock_names();
            let state: Option<Directory> = self.journal.record(&key::directory(loss.ino))?;
            let Some(mut state) = state else {
                return Ok(());
            };
            // The root has no entry that could say so.
            if !state.loaded && loss.ino != Ino::ROOT {
                if let Some(tree) = &mut state.published {
                    tree.damaged = damaged;
                }
                batch.put(key::directory(loss.ino), &state);
            }
        }
        batch.mark(key::dirty_inode(loss.ino));
        self.apply(batch)
    }

    /// The published entry of a stuck file says that it is damaged: there is no more to publish.
    pub(super) fn note_told(&self, ino: Ino) -> Result<(), FsError> {
        let Some(lost) = self.journal.record::<Lost>(&key::lost(ino))? else {
            return Ok(());
        };
        let mut batch = Batch::default();
        batch.put(key::lost(ino), &Lost { told: true, ..lost });
        self.apply_quietly(batch)
    }

    /// Wall time, unix seconds.
    pub(crate) fn now_s(&self) -> u64 {
        u64::try_from(self.clock.wall_ns() / 1_000_000_000).unwrap_or(0)
    }

    /// The first name of an inode, below the token's directory; of one that is gone, its number.
    pub(crate) fn path_of(&self, ino: Ino) -> String {
        let mut names = Vec::new();
        let mut at = ino;
        while at != Ino::ROOT && names.len() < MOST_ABOVE {
            let links = self.journal.scan(&key::links(at), None, 1);
            let link = links.ok().and_then(|links| {
                let (found, _) = links.first()?;
                let (dir, name) = key::parse_link(found)?;
                Some((dir, String::from_utf8_lossy(name).into_owned()))
            });
            let Some((dir, name)) = link else {
                return format!("inode {}", ino.0);
            };
            names.push(name);
            at = dir;
        }
        names.reverse();
        names.join("/")
    }
}
