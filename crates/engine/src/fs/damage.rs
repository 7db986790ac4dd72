//! What the node has lost of this volume: which blocks, and of which files and directories.
//!
//! Invariant: a loss is kept for what needs the block alone; when that is removed, rewritten or
//! published anew, the loss ends with it (it is dropped at the next look). Noted by `fetch`
//! (reads) and `publish` (commits, the sampler), told by `status`.

use std::collections::BTreeSet;

use cid::Cid;

use super::volume::Volume;
use super::{FsError, Kind, LostBlock};
use crate::journal::record::{CidBytes, Content, Directory, Inode, Lost};
use crate::journal::{Batch, key};
use crate::text;
use crate::types::Ino;

/// Most directories above a file that a path is told with.
const MOST_ABOVE: usize = 4096;
/// Losses that are read from the journal at once.
const STEP: usize = 256;

/// How far the looks at what is lost are. Not kept: the next mount begins anew.
#[derive(Default)]
pub(super) struct Looks {
    /// The last loss that was looked at, of those not marked and of those marked as damaged.
    after: [Option<Ino>; 2],
    /// Damaged entries whose lost block is there.
    back: BTreeSet<Ino>,
}

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
    /// When it was noted, unix seconds.
    pub since_s: u64,
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
    pub fn replace_loss(&self, loss: &Loss, block: &LostBlock) -> Result<(), FsError> {
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
        self.losses_after(None, limit, |_| true)
    }

    /// The first `most` of the losses that `wanted` takes, which sees no paths, and the count of all
    /// of them.
    ///
    /// # Errors
    /// The journal fails.
    pub fn counted_losses(
        &self,
        most: usize,
        wanted: impl Fn(&Loss) -> bool,
    ) -> Result<(Vec<Loss>, usize), FsError> {
        let mut count = 0;
        let losses = self.losses_after(None, usize::MAX, |loss| {
            count += usize::from(wanted(loss));
            wanted(loss) && count <= most
        })?;
        Ok((losses, count))
    }

    /// The next losses that are marked as damaged, or that are not: round and round, from behind the
    /// last that [`Volume::note_looked`] was told of.
    pub fn next_losses(&self, marked: bool, limit: usize) -> Result<Vec<Loss>, FsError> {
        let after = self.looks.lock().after.get(usize::from(marked)).copied();
        self.losses_after(after.flatten(), limit, |loss| loss.marked == marked)
    }

    /// The next look begins behind this one.
    pub fn note_looked(&self, loss: &Loss) {
        if let Some(after) = self.looks.lock().after.get_mut(usize::from(loss.marked)) {
            *after = Some(loss.ino);
        }
    }

    /// The lost block of a damaged entry is there: the next commit finds out whether it is whole.
    pub fn note_back(&self, ino: Ino) {
        self.looks.lock().back.insert(ino);
    }

    /// Damaged entries whose lost block is there, as far as that is known.
    pub fn back(&self) -> Vec<Ino> {
        self.looks.lock().back.iter().copied().collect()
    }

    /// The loss of a damaged entry whose block is there, which is looked after now.
    pub fn take_back(&self, ino: Ino) -> Result<Option<Loss>, FsError> {
        self.looks.lock().back.remove(&ino);
        Ok(self.loss(ino)?.filter(|loss| loss.marked))
    }

    /// At most `limit` of the losses that `wanted` takes: from behind `after` to the last, then from
    /// the first. `wanted` sees no paths.
    fn losses_after(
        &self,
        after: Option<Ino>,
        limit: usize,
        mut wanted: impl FnMut(&Loss) -> bool,
    ) -> Result<Vec<Loss>, FsError> {
        let mut losses = Vec::new();
        let place = after.map(key::lost);
        let mut rounds = vec![(place.clone(), None)];
        rounds.extend(place.map(|place| (None, Some(place))));
        for (mut at, until) in rounds {
            'round: loop {
                let step = self.journal.scan(&key::all_lost(), at.as_deref(), STEP)?;
                let Some((last, _)) = step.last() else { break };
                at = Some(last.clone());
                for (found, _) in &step {
                    if losses.len() >= limit || until.as_ref().is_some_and(|until| found > until) {
                        break 'round;
                    }
                    let Some(ino) = key::parse_ino(found) else {
                        continue;
                    };
                    match self.loss(ino)? {
                        Some(loss) if wanted(&loss) => losses.push(loss),
                        Some(_) => {}
                        // Durable first is that the block is needed no more.
                        None if self.is_unsaved(ino) => {}
                        None => self.forget_loss(ino)?,
                    }
                }
            }
        }
        for loss in &mut losses {
            loss.path = self.path_of(loss.ino);
        }
        Ok(losses)
    }

    /// The loss of an inode, without its path, while what needs the block is published still.
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
            path: String::new(),
            block: lost.block.0,
            of,
            size,
            chunk: lost.chunk,
            since_s: lost.since_s,
            marked,
            stuck,
        }))
    }

    /// Whether the journal may not have yet what the file is.
    fn is_unsaved(&self, ino: Ino) -> bool {
        self.unsaved.contains(ino)
    }

    /// The block is there again, or nobody needs it any more.
    pub fn forget_loss(&self, ino: Ino) -> Result<(), FsError> {
        self.looks.lock().back.remove(&ino);
        let mut batch = Batch::default();
        batch.remove(key::lost(ino));
        self.apply_quietly(batch)
    }

    /// Has the next commit write the entry as damaged, or as whole again. A directory whose entries
    /// are here is not damaged for long: its tree is built anew.
    ///
    /// # Errors
    /// The journal fails.
    pub fn mark_damaged(&self, loss: &Loss, damaged: bool) -> Result<(), FsError> {
        let mut batch = Batch::default();
        if loss.size.is_some() {
            let held = self.hold(loss.ino)?;
            {
                // Of a tree that is given up nothing is marked.
                let Ok(mut body) = self.body_to_change(&held) else {
                    self.leave(held);
                    return Ok(());
                };
                if let Some(base) = body.base.as_mut().filter(|base| base.cid.0 == loss.of) {
                    base.damaged = damaged;
                    body.unsaved = true;
                }
            }
            // One that is being written anew tells it with its next save, if it needs the block still.
            let saved = self.save_unless_rewritten(&held);
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
    pub fn now_s(&self) -> u64 {
        self.clock.wall_s()
    }

    /// The first name of an inode, below the token's directory, as it is shown; of one that is gone, its number.
    pub fn path_of(&self, ino: Ino) -> String {
        let mut names = Vec::new();
        let mut at = ino;
        while at != Ino::ROOT && names.len() < MOST_ABOVE {
            let links = self.journal.scan(&key::links(at), None, 1);
            let link = links.ok().and_then(|links| {
                let (found, _) = links.first()?;
                let (dir, name) = key::parse_link(found)?;
                Some((dir, name.to_vec()))
            });
            let Some((dir, name)) = link else {
                return format!("inode {}", ino.0);
            };
            names.push(name);
            at = dir;
        }
        names.reverse();
        text::path(&names.join(&b'/'))
    }
}
