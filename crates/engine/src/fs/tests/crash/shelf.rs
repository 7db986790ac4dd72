//! What the node has of a history's commits.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use cid::Cid;

use super::model::Found;
use super::world::World;
use crate::fs::tests::rig::build;
use crate::fs::{Changes, Cut, FsError};
use crate::types::Ino;

/// What the node has, and since when, or until when: so much had reached the disk.
#[derive(Clone, Default)]
pub(super) struct Shelf {
    pub(super) contents: HashMap<Cid, Vec<u8>>,
    log: Vec<(usize, Cid, bool)>,
    pub(super) commits: Vec<Commit>,
}

/// What a commit held: names, and of files the bytes of those that were built.
#[derive(Clone)]
pub(super) struct Commit {
    /// Where in the log its cut began, and where it ended.
    pub(super) when: (usize, usize),
    pub(super) found: Found,
}

impl Shelf {
    /// Whether it had a content in a moment.
    fn had(&self, cid: &Cid, moment: usize) -> bool {
        let mut of_cid = self
            .log
            .iter()
            .filter(|(when, of, _)| of == cid && *when <= moment);
        of_cid.next_back().is_some_and(|(.., put)| *put)
    }

    /// A content that it had in a moment.
    pub(super) fn get(&self, cid: &Cid, moment: usize) -> Option<Vec<u8>> {
        let content = self.contents.get(cid)?;
        self.had(cid, moment).then(|| content.clone())
    }

    /// All that it had in a moment, for ever.
    pub(super) fn as_of(&self, moment: usize) -> Self {
        let had = self
            .contents
            .iter()
            .filter(|(cid, _)| self.had(cid, moment));
        let contents: HashMap<Cid, Vec<u8>> =
            had.map(|(cid, bytes)| (*cid, bytes.clone())).collect();
        let log = contents.keys().map(|cid| (0, *cid, true)).collect();
        Self {
            contents,
            log,
            commits: Vec::new(),
        }
    }

    pub(super) fn note(&mut self, now: usize, cids: impl IntoIterator<Item = Cid>, put: bool) {
        self.log.extend(cids.into_iter().map(|cid| (now, cid, put)));
    }
}

/// Builds, puts and settles a cut, which was made at these places of the log; gives the contents.
pub(super) fn publish(
    world: &World,
    shelf: &Mutex<Shelf>,
    (cut, changes): (&Cut, &Changes),
    when: (usize, usize),
) -> Result<HashMap<Ino, Vec<u8>>, FsError> {
    let (built, contents) = {
        let mut shelf = shelf.lock().unwrap_or_else(PoisonError::into_inner);
        for ino in &changes.files {
            let base = cut.file(*ino)?.base;
            if base.is_some_and(|(base, _)| !shelf.contents.contains_key(&base.cid)) {
                return Err(FsError::Damaged(format!("{ino:?} lies over what is gone")));
            }
        }
        let (built, contents) = build(&mut shelf.contents, cut, changes);
        let now = world.power.now();
        let cids = built.files.all().into_iter().map(|(_, child)| child.cid);
        shelf.note(now, cids, true);
        let found = world.found_in(cut, &contents);
        let found = found.map_err(|error| FsError::Damaged(error.to_string()))?;
        shelf.commits.push(Commit { when, found });
        (built, contents)
    };
    cut.settle(changes, &built)?;
    Ok(contents)
}
