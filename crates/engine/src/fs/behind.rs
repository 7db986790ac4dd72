//! What stands behind an object in the order in which directories are listed: what one who reads
//! a tree in order will want next.
//!
//! Invariant: only looks; an answer may be out of date at once, and is good for nothing but fetching
//! ahead. Called by `fetch`.

use cid::Cid;

use super::volume::Volume;
use super::{FsError, Kind};
use crate::journal::key;
use crate::journal::record::{Content, Cookie, Entry, Record as _};
use crate::pack::chunk::CHUNK_SIZE;
use crate::types::Ino;

/// A place in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The directory.
    pub dir: Ino,
    /// The serial number of the entry there; 0: before the first.
    pub at: u64,
}

/// An entry behind a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behind {
    /// Where it is.
    pub place: Place,
    /// What it is.
    pub what: What,
}

/// What an entry is to one who reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A published file of one leaf: its CID, its length in bytes.
    Leaf(Cid, u64),
    /// A directory.
    Directory(Ino),
    /// Anything else: nothing that is fetched with others.
    Other,
}

impl Volume {
    /// Where an inode stands, by one of its names; `None` when it has none.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn place_of(&self, ino: Ino) -> Result<Option<Place>, FsError> {
        let links = self.journal.scan(&key::links(ino), None, 1)?;
        let link = links.first().and_then(|(link, _)| key::parse_link(link));
        let Some((dir, name)) = link else {
            return Ok(None);
        };
        let entry: Option<Entry> = self.journal.record(&key::entry(dir, name))?;
        Ok(entry.map(|entry| Place {
            dir,
            at: entry.cookie,
        }))
    }

    /// Up to `most` entries behind `place` in its directory, in the order of a listing.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn behind(&self, place: Place, most: usize) -> Result<Vec<Behind>, FsError> {
        let Place { dir, at } = place;
        let after = key::cookie(dir, at);
        let found = (self.journal).scan(&key::cookies(dir), Some(&after), most)?;
        let mut behind = Vec::with_capacity(found.len());
        for (cookie, bytes) in found {
            let Some(at) = key::parse_second(&cookie) else {
                continue;
            };
            let entry = Cookie::from_bytes(&bytes)?;
            let ino = Ino(entry.ino);
            let what = match Kind::from_number(entry.kind)? {
                Kind::Directory => What::Directory(ino),
                Kind::File => self.leaf_of(ino)?,
                _ => What::Other,
            };
            let place = Place { dir, at };
            behind.push(Behind { place, what });
        }
        Ok(behind)
    }

    fn leaf_of(&self, ino: Ino) -> Result<What, FsError> {
        let content: Option<Content> = self.journal.record(&key::content(ino))?;
        let clean = content.filter(|content| content.inline.is_none() && !content.staged);
        let base = clean.and_then(|content| content.base);
        let base = base.filter(|base| (1..=CHUNK_SIZE).contains(&base.size) && !base.damaged);
        Ok(base.map_or(What::Other, |base| What::Leaf(base.cid.0, base.size)))
    }
}
