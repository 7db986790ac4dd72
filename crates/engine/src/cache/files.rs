//! Contents of more than 64 KiB: one sparse file each, named by its CID, filled chunk by chunk.
//!
//! Invariant: the bytes on disk that are accounted for never pass the limit (room is made before a
//! byte is written, least recently used contents first, then chunks of the content being filled);
//! a file is trusted only while it is the very inode that was opened or created here. No lock is
//! held across I/O; the index lock and a content's lock are never held together. The one exception: a file
//! gets or loses its name under [`Files::names`]. Threads that fill, adopt, evict or give way take it, and a reader that
//! meets a broken file.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use lru::LruCache;
use pxfs_base::lock;
use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};

use super::content::{Content, Identity};
use super::direct::Buffers;
use super::key::Key;
use super::{By, CHUNK_BYTES, Presence, chunk_len};
use crate::pack::cid;

/// Files kept open.
const OPEN_FILES: usize = 128;
/// Data ranges looked for in one file; beyond them chunks count as absent.
const MOST_RANGES: usize = 1 << 20;

/// Contents of more than 64 KiB.
pub(super) struct Files {
    dir: PathBuf,
    buffers: Buffers,
    index: Mutex<Index>,
    /// Held while a file and its entry in the index come or go together: else a thread that evicts a content, or
    /// replaces its file, would unlink the new file of another thread. Taken before [`Files::index`].
    names: Mutex<()>,
}

struct Index {
    contents: LruCache<Key, Arc<Content>>,
    /// Each with the content that it was opened for: never another one's of the same key.
    open: LruCache<Key, (Arc<Content>, Arc<File>)>,
    /// Bytes on disk, and bytes reserved for fills that are on their way.
    used_bytes: u64,
}

impl Files {
    /// Lists what is in `dir` (created when missing), without reading contents.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let mut found = Vec::new();
        for shelf in std::fs::read_dir(dir)? {
            let shelf = shelf?.path();
            if !shelf.is_dir() {
                continue;
            }
            for entry in std::fs::read_dir(shelf)? {
                let entry = entry?;
                let key = entry
                    .file_name()
                    .to_str()
                    .and_then(|name| cid::parse(name).ok())
                    .and_then(|cid| Key::of(&cid));
                if let (Some(key), Ok(data)) = (key, entry.metadata())
                    && data.is_file()
                {
                    let content =
                        Content::found(data.len(), Identity::of(&data), data.blocks() * 512);
                    found.push((data.mtime(), data.blocks() * 512, key, content));
                }
            }
        }
        // The order of the last fills is the best that is known of the order of use.
        found.sort_by_key(|(mtime, ..)| *mtime);
        let mut index = Index {
            contents: LruCache::unbounded(),
            open: LruCache::unbounded(),
            used_bytes: 0,
        };
        for (_, bytes, key, content) in found {
            index.used_bytes += bytes;
            index.contents.put(key, Arc::new(content));
        }
        Ok(Self {
            dir: dir.to_owned(),
            buffers: Buffers::default(),
            index: Mutex::new(index),
            names: Mutex::new(()),
        })
    }

    /// Bytes on disk.
    pub(super) fn bytes(&self) -> u64 {
        self.index().used_bytes
    }

    /// Reads a part of one chunk; true only when all of it was here and verified.
    pub(super) fn read(&self, key: Key, size: u64, chunk: u64, from: u64, buf: &mut [u8]) -> bool {
        let Some(content) = self.content(key, size) else {
            return false;
        };
        let Some(turn) = content.verified(chunk) else {
            return false;
        };
        let Some(file) = self.file(key, &content) else {
            return false;
        };
        if file.read_exact_at(buf, chunk * CHUNK_BYTES + from).is_err() {
            // Shorter than it was, or a failing disk: none of it is to be trusted.
            self.forget(key, &content);
            return false;
        }
        content.is_turn(turn)
    }

    /// What is known of a chunk.
    pub(super) fn presence(&self, key: Key, size: u64, chunk: u64) -> Presence {
        self.content(key, size)
            .map_or(Presence::Absent, |content| content.presence(chunk))
    }

    /// The bytes of a chunk that an earlier run left.
    pub(super) fn unverified(&self, key: Key, size: u64, chunk: u64) -> Option<Vec<u8>> {
        let content = self.content(key, size)?;
        if content.presence(chunk) != Presence::Unverified {
            return None;
        }
        let file = self.file(key, &content)?;
        let mut bytes = vec![0; usize::try_from(chunk_len(size, chunk)?).ok()?];
        if file.read_exact_at(&mut bytes, chunk * CHUNK_BYTES).is_err() {
            self.forget(key, &content);
            return None;
        }
        Some(bytes)
    }

    /// Trusts a chunk that an earlier run left.
    pub(super) fn trust(&self, key: Key, size: u64, chunk: u64) {
        if let Some(content) = self.content(key, size) {
            content.trust(chunk);
        }
    }

    /// Drops a chunk that an earlier run left.
    pub(super) fn discard(&self, key: Key, size: u64, chunk: u64) {
        if let Some(content) = self.content(key, size)
            && content.claim_unverified(chunk)
        {
            self.punch(key, &content, chunk);
        }
    }

    /// Adds a verified chunk; false when the disk did not take it.
    pub(super) fn fill(
        &self,
        key: Key,
        size: u64,
        chunk: u64,
        bytes: &[u8],
        limit_bytes: u64,
        by: By,
    ) -> bool {
        let content = match self.content(key, size) {
            Some(content) if !self.is_unlinked(key, &content) => content,
            _ => match self.content_or_new(key, size) {
                Ok(content) => content,
                Err(_) => return false,
            },
        };
        self.discard(key, size, chunk);
        if content.presence(chunk) == Presence::Verified {
            return true;
        }
        if !content.claim_absent(chunk) {
            return false;
        }
        let need = chunk_room(bytes.len() as u64);
        if !self.make_room(need, limit_bytes, Some((key, &content, chunk))) {
            let _ = content.filled(chunk, 0, false);
            return false;
        }
        let written = self.file(key, &content).is_some_and(|file| {
            let offset = chunk * CHUNK_BYTES;
            let written = (by == By::Disk && self.write_direct(key, &content, offset, bytes))
                || file.write_all_at(bytes, offset).is_ok();
            if !written {
                punch_hole(&file, offset, bytes.len() as u64);
            }
            written
        });
        match content.filled(chunk, need, written) {
            Ok(()) => true,
            Err(unused) => {
                self.give_back(unused);
                false
            }
        }
    }

    /// Writes a part of the content's file past the kernel's cache.
    fn write_direct(&self, key: Key, content: &Content, offset: u64, bytes: &[u8]) -> bool {
        let is_it = |file: &File| {
            file.metadata()
                .is_ok_and(|data| content.is_file(Identity::of(&data), data.len()))
        };
        self.buffers.write(&self.path(key), is_it, offset, bytes)
    }

    /// Takes the file at `path` as the whole content: by renaming alone. False when it was not
    /// taken, and is still at `path`.
    pub(super) fn adopt(&self, key: Key, size: u64, path: &Path, limit_bytes: u64) -> bool {
        let Ok(file) = OpenOptions::new().read(true).write(true).open(path) else {
            return false;
        };
        let Ok(data) = file.metadata() else {
            return false;
        };
        let bytes = data.blocks() * 512;
        if data.len() != size {
            return false;
        }
        self.remove(key, |_| true);
        if !self.make_room(bytes, limit_bytes, None) {
            return false;
        }
        let ranges = data_ranges(&file, size);
        let content = Content::adopted(size, Identity::of(&data), bytes, &ranges);
        let home = self.path(key);
        let _names = lock(&self.names);
        let moved = home
            .parent()
            .map_or(Ok(()), std::fs::create_dir_all)
            .and_then(|()| std::fs::rename(path, &home));
        if moved.is_err() {
            self.give_back(bytes);
            return false;
        }
        self.insert(key, &Arc::new(content), file);
        true
    }

    /// Evicts until at most `limit_bytes` are on disk.
    pub(super) fn shrink(&self, limit_bytes: u64) {
        let _ = self.make_room(0, limit_bytes, None);
    }

    /// Reserves `need` bytes, evicting what was used least recently; `filling` is the content and
    /// chunk that they are for, which gives up its other chunks last. False when there is no way.
    fn make_room(
        &self,
        need: u64,
        limit_bytes: u64,
        filling: Option<(Key, &Arc<Content>, u64)>,
    ) -> bool {
        if need > limit_bytes {
            return false;
        }
        while !self.reserve(need, limit_bytes) {
            if self.evict(need, limit_bytes, filling.map(|(key, ..)| key)) {
                continue;
            }
            let Some((key, content, chunk)) = filling else {
                return false;
            };
            let Some(behind) = content.claim_behind(chunk) else {
                return false;
            };
            self.punch(key, content, behind);
        }
        true
    }

    fn reserve(&self, need: u64, limit_bytes: u64) -> bool {
        let mut index = self.index();
        let fits = index.used_bytes + need <= limit_bytes;
        if fits {
            index.used_bytes += need;
        }
        fits
    }

    /// Evicts the content used least recently, unless `need` bytes fit by now; false if there is none but `filling`.
    fn evict(&self, need: u64, limit_bytes: u64, filling: Option<Key>) -> bool {
        let _names = lock(&self.names);
        let victim = {
            let mut index = self.index();
            if index.used_bytes + need <= limit_bytes {
                return true;
            }
            if let Some(key) = filling {
                index.contents.promote(&key);
            }
            let is_last = index.contents.len() == 1
                && filling.is_some_and(|key| index.contents.contains(&key));
            let victim = if is_last {
                None
            } else {
                index.contents.pop_lru()
            };
            if let Some((key, _)) = &victim {
                index.open.pop(key);
            }
            victim
        };
        let Some((key, content)) = victim else {
            return false;
        };
        let freed = content.end();
        let _ = std::fs::remove_file(self.path(key));
        tracing::trace!(content = %key.cid(), bytes = freed, "evicted");
        self.give_back(freed);
        true
    }

    /// Makes a hole of a chunk that is claimed.
    fn punch(&self, key: Key, content: &Arc<Content>, chunk: u64) {
        let len = chunk_len(content.size, chunk).unwrap_or(0);
        if let Some(file) = self.file(key, content) {
            punch_hole(&file, chunk * CHUNK_BYTES, len);
        }
        let freed = content.punched(chunk, chunk_room(len));
        tracing::trace!(content = %key.cid(), bytes = freed, "evicted");
        self.give_back(freed);
    }

    /// The content, when its length is `size`, as the one used last; its chunks looked for.
    fn content(&self, key: Key, size: u64) -> Option<Arc<Content>> {
        let content = self.index().contents.get(&key).cloned()?;
        if content.size != size {
            return None;
        }
        if content.is_unseen() {
            let file = self.file(key, &content)?;
            content.looked(&data_ranges(&file, size));
        }
        Some(content)
    }

    /// The open file of `content`; `None`, and the content is forgotten, when it is not there any
    /// more or is another one.
    fn file(&self, key: Key, content: &Arc<Content>) -> Option<Arc<File>> {
        if let Some((of, file)) = self.index().open.get(&key)
            && Arc::ptr_eq(of, content)
        {
            return Some(Arc::clone(file));
        }
        let opened = crate::durable::open_at_least_to_read(&self.path(key))
            .ok()
            .filter(|file| {
                file.metadata()
                    .is_ok_and(|data| content.is_file(Identity::of(&data), data.len()))
            });
        let Some(file) = opened.map(Arc::new) else {
            self.forget(key, content);
            return None;
        };
        let mut index = self.index();
        if !index
            .contents
            .peek(&key)
            .is_some_and(|known| Arc::ptr_eq(known, content))
        {
            // Evicted meanwhile: what stands under the name may be a newer file.
            return None;
        }
        index.keep_open(key, content, &file);
        Some(file)
    }

    /// Whether somebody deleted the file of `content`.
    fn is_unlinked(&self, key: Key, content: &Arc<Content>) -> bool {
        let linked = self
            .file(key, content)
            .and_then(|file| file.metadata().ok())
            .is_some_and(|data| data.nlink() > 0);
        if !linked {
            self.forget(key, content);
        }
        !linked
    }

    /// The content, with a new file if it has none.
    fn content_or_new(&self, key: Key, size: u64) -> io::Result<Arc<Content>> {
        let _names = lock(&self.names);
        let known = self.index().contents.get(&key).cloned();
        match known.filter(|content| content.size == size) {
            Some(content) => Ok(content),
            None => self.create(key, size),
        }
    }

    /// A new, empty file for a content; what stood under its name is removed.
    fn create(&self, key: Key, size: u64) -> io::Result<Arc<Content>> {
        let path = self.path(key);
        if let Some(shelf) = path.parent() {
            std::fs::create_dir_all(shelf)?;
        }
        let mut new = OpenOptions::new();
        new.read(true).write(true).create_new(true).mode(0o600);
        let file = match new.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                std::fs::remove_file(&path)?;
                new.open(&path)?
            }
            other => other?,
        };
        let content = match file.set_len(size).and_then(|()| file.metadata()) {
            Ok(data) => Arc::new(Content::created(size, Identity::of(&data))),
            Err(error) => {
                std::fs::remove_file(&path)?;
                return Err(error);
            }
        };
        self.insert(key, &content, file);
        Ok(content)
    }

    /// Enters a content whose file has just got its name.
    fn insert(&self, key: Key, content: &Arc<Content>, file: File) {
        let other = {
            let mut index = self.index();
            index.keep_open(key, content, &Arc::new(file));
            index.contents.put(key, Arc::clone(content))
        };
        if let Some(other) = other {
            self.give_back(other.end());
        }
    }

    /// Deletes the content and its file, if it is the one meant.
    fn remove(&self, key: Key, is_meant: impl FnOnce(&Arc<Content>) -> bool) {
        let _names = lock(&self.names);
        let removed = {
            let mut index = self.index();
            let meant = index.contents.peek(&key).is_some_and(is_meant);
            meant.then(|| index.remove(key)).flatten()
        };
        if let Some(content) = removed {
            let _ = std::fs::remove_file(self.path(key));
            self.give_back(content.end());
        }
    }

    /// Forgets `content`, whose file is gone or broken.
    fn forget(&self, key: Key, content: &Arc<Content>) {
        self.remove(key, |known| Arc::ptr_eq(known, content));
    }

    fn give_back(&self, bytes: u64) {
        let mut index = self.index();
        index.used_bytes = index.used_bytes.saturating_sub(bytes);
    }

    fn path(&self, key: Key) -> PathBuf {
        let shelf = key.digest().first().copied().unwrap_or(0);
        self.dir
            .join(format!("{shelf:02x}"))
            .join(key.cid().to_string())
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        lock(&self.index)
    }
}

impl Index {
    fn remove(&mut self, key: Key) -> Option<Arc<Content>> {
        self.open.pop(&key);
        self.contents.pop(&key)
    }

    fn keep_open(&mut self, key: Key, content: &Arc<Content>, file: &Arc<File>) {
        self.open.put(key, (Arc::clone(content), Arc::clone(file)));
        while self.open.len() > OPEN_FILES {
            self.open.pop_lru();
        }
    }
}

/// Room that `len` bytes take on disk.
fn chunk_room(len: u64) -> u64 {
    len.next_multiple_of(4096)
}

/// Gives the blocks of a range back to the file system; without such a call it stays as it is.
fn punch_hole(file: &File, offset: u64, len: u64) {
    let _ = fallocate(
        file,
        FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        offset,
        len,
    );
}

/// The ranges (offset, end) of a file that are not holes.
fn data_ranges(file: &File, size: u64) -> Vec<(u64, u64)> {
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < size && ranges.len() < MOST_RANGES {
        let Ok(start) = seek(file, SeekFrom::Data(at)) else {
            break;
        };
        let Ok(end) = seek(file, SeekFrom::Hole(start)) else {
            break;
        };
        if end <= start {
            break;
        }
        ranges.push((start, end.min(size)));
        at = end;
    }
    ranges
}
