//! The embedded node's folder: every call blocks on the disk.
//!
//! Invariant: as in [`super`].

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use cid::Cid;

use super::Usage;
use crate::store::walk::Source;
use crate::store::{Block, MAX_BLOCK_BYTES, StoreError, check_bytes, links};
use pxfs_base::clock::Clock;
use pxfs_base::durable::{self, Unnamed};
use pxfs_format::cid as form;

const FORMAT: &str = "pxfs blocks 1";
/// Shards by the digest's last hex digit: few, because each put syncs those it touched.
pub(super) const SHARDS: &str = "0123456789abcdef";

pub(super) struct Folder {
    blocks: PathBuf,
    pins: PathBuf,
    new: PathBuf,
    collected: PathBuf,
    clock: Arc<dyn Clock>,
    /// Held while the folder is open.
    _lock: File,
}

pub(super) enum Placed {
    /// Stored, whole.
    Held(Cid),
    /// Its bytes are durable, its name is not there yet.
    New(Cid, Unnamed),
}

impl Folder {
    pub(super) fn open(dir: &Path, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let shards: Vec<String> = SHARDS
            .chars()
            .map(|digit| format!("blocks/{digit}"))
            .collect();
        let mut below = vec!["blocks", "pins"];
        below.extend(shards.iter().map(String::as_str));
        let lock = durable::open_store(dir, FORMAT, &below).map_err(|e| trouble(dir, &e))?;
        Ok(Self {
            blocks: dir.join("blocks"),
            pins: dir.join("pins"),
            new: dir.join("new"),
            collected: dir.join("collected"),
            clock,
            _lock: lock,
        })
    }

    /// Makes the bytes of `block` durable unless they are; replaces a damaged file.
    /// [`Folder::name`] and [`Folder::sync`] follow.
    pub(super) fn place(&self, block: &Block) -> Result<Placed, StoreError> {
        block.check()?;
        let (path, now) = (self.path(&block.cid)?, self.now());
        if self.read(&block.cid).is_ok() {
            // A running collection must see that it is in use again.
            let touched = File::options().write(true).open(&path);
            touched
                .and_then(|file| file.set_modified(now))
                .map_err(|e| trouble(&path, &e))?;
            return Ok(Placed::Held(block.cid));
        }
        let new = Unnamed::write(&self.new, &block.data, Some(now));
        let new = new.map_err(|e| trouble(&self.new, &e))?;
        Ok(Placed::New(block.cid, new))
    }

    /// Names a placed block; returns the shard to sync.
    ///
    /// Also for a stored block: its writer may not have synced the shard yet.
    pub(super) fn name(&self, placed: Placed) -> Result<PathBuf, StoreError> {
        let cid = match placed {
            Placed::Held(cid) => cid,
            Placed::New(cid, new) => {
                let path = self.path(&cid)?;
                new.rename(&path).map_err(|e| trouble(&path, &e))?;
                cid
            }
        };
        self.shard(&cid)
    }

    /// Makes a shard's names durable.
    pub(super) fn sync(&self, shard: &Path) -> Result<(), StoreError> {
        durable::sync_folder(shard).map_err(|e| trouble(shard, &e))
    }

    pub(super) fn read(&self, cid: &Cid) -> Result<Bytes, StoreError> {
        let path = self.path(cid)?;
        let file = File::open(&path).map_err(|e| missing_or(cid, &path, &e))?;
        let mut data = Vec::new();
        // One byte more than a block can have detects an oversized file.
        let limit = MAX_BLOCK_BYTES as u64 + 1;
        let expected = file.metadata().map_or(0, |m| m.len().min(limit));
        data.reserve_exact(usize::try_from(expected).unwrap_or(0));
        file.take(limit)
            .read_to_end(&mut data)
            .map_err(|e| trouble(&path, &e))?;
        if data.len() > MAX_BLOCK_BYTES {
            let why = format!("{} is above {MAX_BLOCK_BYTES} bytes", path.display());
            return Err(StoreError::Corrupt(*cid, why));
        }
        check_bytes(cid, &data)?;
        Ok(data.into())
    }

    pub(super) fn holds(&self, cid: &Cid) -> Result<bool, StoreError> {
        exists(&self.path(cid)?)
    }

    /// Pins `root`, durable on return.
    pub(super) fn pin(&self, root: &Cid) -> Result<(), StoreError> {
        let path = self.pins.join(root.to_string());
        File::create(&path).map_err(|e| trouble(&path, &e))?;
        durable::sync_folder(&self.pins).map_err(|e| trouble(&self.pins, &e))
    }

    /// Unpins `root`, durable on return.
    pub(super) fn unpin(&self, root: &Cid) -> Result<(), StoreError> {
        let path = self.pins.join(root.to_string());
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(trouble(&path, &e)),
        }
        durable::sync_folder(&self.pins).map_err(|e| trouble(&self.pins, &e))
    }

    pub(super) fn is_pinned(&self, root: &Cid) -> Result<bool, StoreError> {
        exists(&self.pins.join(root.to_string()))
    }

    pub(super) fn pins(&self) -> Result<Vec<Cid>, StoreError> {
        let mut pins = Vec::new();
        each_cid(&self.pins, |cid, _| {
            pins.push(cid);
            Ok(())
        })?;
        Ok(pins)
    }

    pub(super) fn usage(&self) -> Result<Usage, StoreError> {
        let mut usage = Usage::default();
        for digit in SHARDS.chars() {
            each_cid(&self.blocks.join(digit.to_string()), |_, entry| {
                // A file that vanished meanwhile does not count.
                if let Ok(metadata) = entry.metadata() {
                    usage.block_count += 1;
                    usage.block_bytes += metadata.len();
                }
                Ok(())
            })?;
        }
        Ok(usage)
    }

    /// The blocks of the shard `digit`.
    pub(super) fn shard_blocks(&self, digit: char) -> Result<Vec<Cid>, StoreError> {
        let mut blocks = Vec::new();
        each_cid(&self.blocks.join(digit.to_string()), |cid, _| {
            blocks.push(cid);
            Ok(())
        })?;
        Ok(blocks)
    }

    /// Removes the block `cid` if it was put before `limit`; returns its size. Not durable: a block
    /// that returns after a crash is collected again.
    pub(super) fn remove_older(
        &self,
        cid: &Cid,
        limit: SystemTime,
    ) -> Result<Option<u64>, StoreError> {
        let path = self.path(cid)?;
        let removed = fs::metadata(&path).and_then(|metadata| {
            if metadata.modified()? >= limit {
                return Ok(None);
            }
            fs::remove_file(&path)?;
            Ok(Some(metadata.len()))
        });
        match removed {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            other => other.map_err(|e| trouble(&path, &e)),
        }
    }

    pub(super) fn collected(&self) -> Result<Option<SystemTime>, StoreError> {
        let modified = fs::metadata(&self.collected).and_then(|data| data.modified());
        match modified {
            Ok(at) => Ok(Some(at)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(trouble(&self.collected, &e)),
        }
    }

    /// A collection has ended. Not durable: an extra one is harmless.
    pub(super) fn note_collected(&self) -> Result<(), StoreError> {
        File::create(&self.collected)
            .and_then(|file| file.set_modified(self.now()))
            .map_err(|e| trouble(&self.collected, &e))
    }

    pub(super) fn now(&self) -> SystemTime {
        let ns = u64::try_from(self.clock.wall_ns()).unwrap_or(0);
        SystemTime::UNIX_EPOCH + Duration::from_nanos(ns)
    }

    fn shard(&self, cid: &Cid) -> Result<PathBuf, StoreError> {
        let digest = form::digest(cid).map_err(|e| StoreError::Permanent(e.to_string()))?;
        let nibble = usize::from(digest[31] & 0x0f);
        Ok(self.blocks.join(SHARDS.get(nibble..=nibble).unwrap_or("0")))
    }

    fn path(&self, cid: &Cid) -> Result<PathBuf, StoreError> {
        Ok(self.shard(cid)?.join(cid.to_string()))
    }
}

impl Source for &Folder {
    fn links(&mut self, node: &Cid) -> Result<Vec<Cid>, StoreError> {
        links::links(node, &self.read(node)?)
    }

    fn has_leaf(&mut self, leaf: &Cid) -> Result<bool, StoreError> {
        self.holds(leaf)
    }
}

/// Passes the entries of `folder` with a CID as name to `each`; others are not ours.
fn each_cid(
    folder: &Path,
    mut each: impl FnMut(Cid, &fs::DirEntry) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    for entry in fs::read_dir(folder).map_err(|e| trouble(folder, &e))? {
        let entry = entry.map_err(|e| trouble(folder, &e))?;
        let name = entry.file_name();
        if let Some(Ok(cid)) = name.to_str().map(form::parse) {
            each(cid, &entry)?;
        }
    }
    Ok(())
}

fn exists(path: &Path) -> Result<bool, StoreError> {
    path.try_exists().map_err(|e| trouble(path, &e))
}

fn missing_or(cid: &Cid, path: &Path, error: &io::Error) -> StoreError {
    match error.kind() {
        ErrorKind::NotFound => StoreError::Missing(*cid),
        _ => trouble(path, error),
    }
}

fn trouble(path: &Path, error: &io::Error) -> StoreError {
    let text = format!("{}: {error}", path.display());
    if durable::is_transient(error) {
        StoreError::Transient(text)
    } else {
        StoreError::Permanent(text)
    }
}
