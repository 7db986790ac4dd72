//! The file below redb: what is read is what was written, and a full disk makes a write wait, not fail.
//!
//! Each block that is read is compared with its sum ([`super::sums`]), where one is known. While the
//! journal is being opened its changes are a draft, until [`JournalFile::accept`]. redb takes nothing more
//! after an I/O error until it is opened again, and gives nothing more after one of a read: that is tried a few
//! times, and noted ([`JournalFile::unreadable`]). Want of room is no such error: what waits here is still in
//! memory, in sight of readers, and goes on when there is room.

use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use pxfs_base::lock;
use redb::StorageBackend;

use super::draft::{Draft, Step};
use super::sums::{BLOCK, Sums};
use super::{Barrier, Disk, DiskFile, JournalError, Without};

/// How often a write that found no room is tried again.
const AGAIN: Duration = Duration::from_millis(200);

/// How often a read that failed is tried: a disk may fail once, and redb reads nothing more after it.
const READS: usize = 3;

/// Bytes that are read ahead at a time.
const AHEAD: usize = 1 << 20;

/// Where a journal lies, and how it is kept.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) name: String,
    /// A journal of so many bytes has a mark; a smaller one is read whole in no time.
    pub(super) marked_from: u64,
    /// Once it is true nothing waits any more.
    pub(super) ended: Arc<AtomicBool>,
    pub(super) without: Without,
}

/// The journal's file.
pub(super) struct JournalFile {
    file: Arc<dyn DiskFile>,
    place: Place,
    sums: Sums,
    /// The sums are those of a mark: what differs is refused, not learnt.
    trusted: bool,
    draft: Mutex<Draft>,
    /// Whether changes go into the draft.
    drafting: AtomicBool,
    /// Held while the file is written to, so that its sums and its bytes are of one moment.
    writing: Mutex<()>,
    /// A write failed: what the file holds is not known any more.
    broken: AtomicBool,
    /// Why a read failed, if one has: redb reads nothing more.
    unreadable: OnceLock<JournalError>,
}

/// What redb is given.
#[derive(Clone, Debug)]
pub(super) struct Backend(pub(super) Arc<JournalFile>);

impl std::fmt::Debug for JournalFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.place.name)
    }
}

impl JournalFile {
    /// A file that is to be filled.
    pub(super) fn new(file: Arc<dyn DiskFile>, place: Place) -> Arc<Self> {
        let file = Self::with(file, place, Sums::default(), 0);
        file.drafting.store(false, Ordering::Release);
        Arc::new(file)
    }

    /// A file that is there, with its changes as a draft. `None` where `trusted` and no mark says what
    /// it should hold.
    pub(super) fn found(
        file: Arc<dyn DiskFile>,
        place: Place,
        trusted: bool,
    ) -> io::Result<Option<Arc<Self>>> {
        let len = file.len()?;
        let sums = match trusted {
            false => Sums::default(),
            true => match place.read_mark(file.as_ref(), len) {
                Some(sums) => sums,
                None => return Ok(None),
            },
        };
        let mut found = Self::with(file, place, sums, len);
        found.trusted = trusted;
        Ok(Some(Arc::new(found)))
    }

    fn with(file: Arc<dyn DiskFile>, place: Place, sums: Sums, len: u64) -> Self {
        Self {
            file,
            place,
            sums,
            trusted: false,
            draft: Mutex::new(Draft::of(len)),
            drafting: AtomicBool::new(true),
            writing: Mutex::default(),
            broken: AtomicBool::new(false),
            unreadable: OnceLock::new(),
        }
    }

    /// Why nothing can be read of it any more, if so.
    pub(super) fn unreadable(&self) -> Option<JournalError> {
        self.unreadable.get().cloned()
    }

    /// Makes the changes of the draft, in order; there is none from here on.
    pub(super) fn accept(&self) -> io::Result<()> {
        let draft = std::mem::replace(&mut *lock(&self.draft), Draft::of(0));
        self.drafting.store(false, Ordering::Release);
        for step in draft.steps() {
            match step {
                Step::Write(offset, data) => self.write(offset, &data)?,
                Step::SetLen(len) => self.set_len(len)?,
                Step::Sync => self.sync()?,
            }
        }
        Ok(())
    }

    /// Reads the whole file once, in order, so that the reads of a check find it in memory. What cannot
    /// be read is the check's to tell.
    pub(super) fn read_ahead(&self) {
        let mut bytes = vec![0; AHEAD];
        let len = self.file.len().unwrap_or(0);
        for offset in (0..len).step_by(AHEAD) {
            let there = (len - offset).min(AHEAD as u64) as usize;
            let part = bytes.get_mut(..there).unwrap_or_default();
            if self.file.read_at(part, offset).is_err() {
                return;
            }
        }
    }

    /// Whether it was opened by its mark.
    pub(super) fn is_trusted(&self) -> bool {
        self.trusted
    }

    /// Its length in bytes.
    pub(super) fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    /// Whether the journal is large enough for a mark.
    pub(super) fn is_marked(&self) -> bool {
        self.len().is_ok_and(|len| len >= self.place.marked_from)
    }

    /// Writes down what the file holds now. A mark that cannot be written costs a check, no more.
    pub(super) fn mark(&self) {
        if self.is_marked()
            && !self.broken.load(Ordering::Acquire)
            && let Err(error) = self.try_mark()
        {
            tracing::debug!(%error, "no mark of the journal: it is read whole at the next start");
        }
    }

    fn try_mark(&self) -> io::Result<()> {
        let mark = {
            let _one = lock(&self.writing);
            let first = first_block(self.file.as_ref())?;
            self.sums.to_mark(self.file.len()?, &first)
        };
        let (disk, name) = (&self.place.disk, self.place.mark());
        let new = format!("{name}.new");
        let file = disk.create(&new)?;
        file.write_at(&mark, 0)?;
        disk.rename(&new, &name)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let _one = lock(&self.writing);
        self.patiently(|| self.file.write_at(data, offset))?;
        self.sums.note(offset, data);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let _one = lock(&self.writing);
        self.patiently(|| self.file.set_len(len))?;
        self.sums.cut(len);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        if self.place.without.lacks(Barrier::JournalBytes) {
            return Ok(());
        }
        // After a failed sync nobody knows what of it is on the disk, whatever the error was: want of
        // room too ends the journal.
        self.file.sync_data().map_err(|error| {
            self.broken.store(true, Ordering::Release);
            io::Error::other(error.to_string())
        })
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let read = self.try_read(offset, out);
        if let Err(error) = &read {
            let name = self.place.called(&self.place.name);
            let told = match error.kind() {
                ErrorKind::InvalidData => JournalError::Corrupt(error.to_string()),
                _ => JournalError::Disk(format!("{name} cannot be read: {error}")),
            };
            tracing::error!(error = %told, "the journal gives nothing more");
            let _ = self.unreadable.set(told);
        }
        read
    }

    fn try_read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.read_again(offset, out)?;
        if self.sums.differing(offset, out).is_none() {
            return Ok(());
        }
        // It may have been written at this moment.
        let _one = lock(&self.writing);
        self.read_again(offset, out)?;
        self.refuse_differing(offset, out)
    }

    /// Reads, a few times where the disk fails.
    fn read_again(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut left = READS;
        loop {
            left -= 1;
            match self.file.read_at(out, offset) {
                Err(error) if left > 0 => {
                    tracing::warn!(%error, offset, "the journal could not be read: again");
                }
                done => return done,
            }
        }
    }

    fn refuse_differing(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        match self.sums.differing(offset, bytes) {
            None => Ok(()),
            Some(block) => Err(io::Error::new(
                ErrorKind::InvalidData,
                format!(
                    "{}: bytes {} to {} were changed on the disk",
                    self.place.name,
                    block * BLOCK,
                    (block + 1) * BLOCK
                ),
            )),
        }
    }

    fn patiently(&self, write: impl Fn() -> io::Result<()>) -> io::Result<()> {
        let written = self.place.patiently(None, write);
        self.broken.fetch_or(written.is_err(), Ordering::AcqRel);
        written
    }
}

impl Place {
    /// Tries `write` again while there is no room for it, until the volume is closed, or until `deadline`.
    pub(super) fn patiently(
        &self,
        deadline: Option<Instant>,
        write: impl Fn() -> io::Result<()>,
    ) -> io::Result<()> {
        let may_wait = || {
            !self.ended.load(Ordering::Acquire)
                && deadline.is_none_or(|deadline| Instant::now() < deadline)
        };
        loop {
            match write() {
                Err(e) if full(&e) && may_wait() => std::thread::sleep(AGAIN),
                other => return other,
            }
        }
    }

    /// What the file `name` is called in what users read.
    pub(super) fn called(&self, name: &str) -> String {
        let path = self.disk.path(name);
        path.map_or_else(|| name.to_owned(), |path| path.display().to_string())
    }

    /// The names of the two files of the write-ahead log: of its even and its odd generations.
    pub(super) fn wal(&self) -> [String; 2] {
        [0, 1].map(|n| format!("{}.wal{n}", self.name))
    }

    /// The name of the mark.
    pub(super) fn mark(&self) -> String {
        format!("{}.sums", self.name)
    }

    /// The sums of a journal of `len` bytes, where there is a mark of it as it is.
    fn read_mark(&self, file: &dyn DiskFile, len: u64) -> Option<Sums> {
        if len < self.marked_from.max(BLOCK) {
            return None;
        }
        let mark = self.disk.open(&self.mark()).ok()?;
        // One sum a block, and little besides.
        let size = mark.len().ok().filter(|size| *size <= len)?;
        let mut bytes = vec![0; size as usize];
        mark.read_at(&mut bytes, 0).ok()?;
        Sums::from_mark(&bytes, len, &first_block(file).ok()?)
    }
}

fn first_block(file: &dyn DiskFile) -> io::Result<Vec<u8>> {
    let mut first = vec![0; BLOCK as usize];
    file.read_at(&mut first, 0)?;
    Ok(first)
}

fn full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded
    )
}

impl Backend {
    /// The draft, while changes go into it.
    fn draft(&self) -> Option<MutexGuard<'_, Draft>> {
        let drafting = self.0.drafting.load(Ordering::Acquire);
        drafting.then(|| lock(&self.0.draft))
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        match self.draft() {
            Some(draft) => Ok(draft.len()),
            None => self.0.file.len(),
        }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let Some(draft) = self.draft() else {
            return self.0.read(offset, out);
        };
        draft.read(self.0.file.as_ref(), offset, out)?;
        if self.0.trusted {
            return self.0.refuse_differing(offset, out);
        }
        // All that counts is compared with redb's own sums before the journal is used.
        self.0.sums.learn(offset, out);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let Some(mut draft) = self.draft() else {
            return self.0.set_len(len);
        };
        draft.set_len(len);
        self.0.sums.cut(len);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        match self.draft() {
            Some(mut draft) => draft.sync(),
            None => return self.0.sync(),
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let Some(mut draft) = self.draft() else {
            return self.0.write(offset, data);
        };
        draft.write(self.0.file.as_ref(), offset, data)?;
        self.0.sums.note(offset, data);
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        if self.draft().is_none() {
            self.0.mark();
        }
        Ok(())
    }
}
