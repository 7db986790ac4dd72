//! Settling: what a commit has published becomes clean here.
//!
//! Order: the records first, durably; then the bytes go (into the cache where they are whole). A
//! crash in between publishes some of it once more, and loses nothing.

use super::FsError;
use super::body::Body;
use super::cut::{Built, Changes, Cut, CutFile};
use super::files::File;
use super::volume::Volume;
use crate::journal::record::{Base, CidBytes, Directory, Tree};
use crate::journal::{Barrier, Batch, key};
use crate::pack::Child;
use crate::types::Ino;

/// Marks that are taken off at a time.
const STEP: usize = 512;

/// See [`Cut::settle`].
pub(super) fn settle(cut: &Cut, changes: &Changes, built: &Built) -> Result<(), FsError> {
    let volume = cut.volume();
    for (dir, tree) in &built.directories {
        volume.journal.wait_for_calm()?;
        settle_directory(volume, *dir, (*tree).into())?;
        cut.note_step();
    }
    if let Some(table) = built.table {
        let mut batch = Batch::default();
        batch.put(key::meta("table"), &Tree::from(table));
        volume.apply_quietly(batch)?;
    }
    let mut dirty = Vec::new();
    for ino in &changes.files {
        volume.journal.wait_for_calm()?;
        let clean = match built.files.get(*ino)? {
            Some(content) => settle_file(cut, *ino, &content)?,
            None => false,
        };
        cut.note_step();
        if !clean {
            dirty.push(key::dirty_inode(*ino));
        }
    }
    for ino in &changes.stuck {
        dirty.push(key::dirty_inode(*ino));
        if cut.file(*ino)?.base.is_some_and(|(base, _)| base.damaged) {
            volume.note_told(*ino)?;
        }
    }
    dirty.sort();
    for prefix in [key::dirty_entries(), key::dirty_inodes()] {
        let mut after: Option<Vec<u8>> = None;
        loop {
            let found = cut.snapshot().scan(&prefix, after.as_deref(), STEP)?;
            let Some((last, _)) = found.last() else { break };
            after = Some(last.clone());
            let marks = found.into_iter().map(|(key, _)| key);
            let marks: Vec<_> = marks
                .filter(|found| dirty.binary_search(found).is_err())
                .collect();
            volume.journal.wait_for_calm()?;
            volume.journal.unmark(&marks, cut.version())?;
            cut.note_step();
        }
    }
    if !volume.without.lacks(Barrier::Settle) {
        volume.sync_journal()?;
    }
    if dirty.is_empty() {
        volume.note_published(cut.activity());
    }
    Ok(())
}

fn settle_directory(volume: &Volume, dir: Ino, tree: Tree) -> Result<(), FsError> {
    let _names = volume.lock_names();
    let Some(state) = volume.journal.record::<Directory>(&key::directory(dir))? else {
        return Ok(()); // removed since
    };
    let mut batch = Batch::default();
    batch.put(
        key::directory(dir),
        &Directory {
            published: Some(tree),
            ..state
        },
    );
    volume.apply_quietly(batch)
}

/// True when nothing of the file is left to publish, or a later change has marked it anew.
fn settle_file(cut: &Cut, ino: Ino, content: &Child) -> Result<bool, FsError> {
    let file = cut.file(ino)?;
    let held = match cut.volume().hold(ino) {
        Ok(held) => held,
        Err(FsError::NotFound) => return Ok(true), // removed since
        Err(error) => return Err(error),
    };
    let settled = settle_held(cut, &held, &file, content);
    cut.volume().leave(held);
    settled
}

/// First the base, then the chunks that it has, so many at a time: each step is saved as a whole, and between two of
/// them the content is the same. Its mark stays until the last: a start knows its stage file by that.
fn settle_held(cut: &Cut, held: &File, file: &CutFile, content: &Child) -> Result<bool, FsError> {
    let (volume, then) = (cut.volume(), file.content());
    let chunk_version = |index: u64| file.chunks.get(&index).map(|chunk| chunk.version);
    let drop_clean = |body: &mut Body, from: u64| {
        body.drop_clean(then.version, chunk_version, from, volume.limits.chunks)
    };
    let note_unsaved = || {
        volume.unsaved.note(file.ino);
        volume.journal.call();
    };
    // What is open without a name is in no tree that comes: only this machine has it.
    let is_gone = || volume.files.is_orphan(file.ino);
    let (mut next, cuts) = {
        let mut body = held.body_mut();
        if is_gone() {
            return Ok(false);
        }
        let uncut = body.cuts == then.cuts;
        let valid = if uncut {
            Some(file.size)
        } else {
            cut.lowest(file.ino, body.cuts.wrapping_sub(then.cuts))
                .map(|low| low.min(file.size))
        };
        // Nothing of it lies below a file that was cut to nothing since, and nobody knows how much
        // does of one that was cut while the cut was being made: what the file has stays as it is,
        // and the next commit publishes it.
        let Some(valid) = valid.filter(|&valid| uncut || valid > 0) else {
            // One that was emptied since is to be published once more anyway.
            return Ok(false);
        };
        if let Some(bytes) = &file.inline {
            volume.cache.fill(&content.cid, file.size, 0, bytes);
        }
        let base = Base {
            cid: CidBytes(content.cid),
            size: file.size,
            valid,
            tsize: content.tsize,
            damaged: content.damaged,
        };
        let whole = uncut && body.size == file.size && body.is_wholly_staged();
        let mut next = None;
        // From here on the journal has less than is known: what a power cut brings back is the old base.
        note_unsaved();
        if body.settle(base, then.version) {
            // It is read from there until the cache has it: also what is clean, while the rest is not yet.
            if let Some(stage) = body.stage.as_ref().filter(|_| whole)
                && body.is_clean(chunk_version)
            {
                volume
                    .adoptions
                    .lock()
                    .insert(stage.number(), (content.cid, file.size));
            }
            next = drop_clean(&mut body, 0);
        }
        (next, body.cuts)
    };
    loop {
        if is_gone() || !volume.save_unless_rewritten(held)? {
            return Ok(false);
        }
        let Some(from) = next else {
            return Ok(true);
        };
        volume.journal.wait_for_calm()?;
        cut.note_step();
        let mut body = held.body_mut();
        // One that was cut since, or has another base, goes on as it is: that has marked it anew.
        note_unsaved();
        next = match body.cuts == cuts {
            true => drop_clean(&mut body, from),
            false => None,
        };
    }
}
