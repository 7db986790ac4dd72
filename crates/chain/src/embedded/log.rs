//! The append-only file of the embedded chain.
//!
//! Invariant: a record is on disk before [`Log::append`] returns, and records come back in order,
//! whole, or not at all. Opening truncates a half-written tail; damage before the last record is an
//! error.
//!
//! | part | bytes |
//! |---|---|
//! | frame | u32be length of the record, its complement, the record, first 8 bytes of SHA-256 of all that |
//!
//! `chain.log` is frames only; the first is the genesis. `lock` is held by flock(2) while the log is
//! open.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::super::ChainError;
use super::record::Record;
use pxfs_base::durable::{create_folder, lock_whole};

const HEAD_BYTES: usize = 8;
const SUM_BYTES: usize = 8;
/// Far above a block with one transaction of at most 30 million gas.
const RECORD_MAX: usize = 64 << 20;

/// The open log of a folder, exclusive to this process.
#[derive(Debug)]
pub(super) struct Log {
    file: File,
    folder: PathBuf,
    length: u64,
    broken: bool,
    _lock: File,
}

impl Log {
    pub(super) fn exists(folder: &Path) -> bool {
        path_in(folder).exists()
    }

    /// Creates the folder (0700) and a log that begins with `genesis`.
    pub(super) fn create(folder: &Path, genesis: &Record) -> Result<Self, ChainError> {
        let fault = |fault| damaged(folder, format!("cannot be made: {fault}"));
        create_folder(folder).map_err(fault)?;
        let lock = lock(folder)?;
        if Self::exists(folder) {
            return Err(damaged(folder, "holds a chain already".to_owned()));
        }
        // Renamed when whole: a log without genesis never has the final name.
        let draft = folder.join("chain.log.new");
        let content = frame(&genesis.encode());
        let made = (|| {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&draft)?;
            file.write_all(&content)?;
            file.sync_all()?;
            std::fs::rename(&draft, path_in(folder))?;
            File::open(folder)?.sync_all()?;
            Ok(file)
        })();
        Ok(Self {
            file: made.map_err(fault)?,
            folder: folder.to_owned(),
            length: content.len() as u64,
            broken: false,
            _lock: lock,
        })
    }

    /// Opens the log and passes each record to `take`, oldest first; what `take` refuses is damage.
    /// Truncates a half-written last record.
    pub(super) fn open(
        folder: &Path,
        mut take: impl FnMut(Record) -> Result<(), String>,
    ) -> Result<Self, ChainError> {
        if !Self::exists(folder) {
            return Err(damaged(
                folder,
                "holds no chain: run `pxfs demo` or `pxfs deploy`".to_owned(),
            ));
        }
        let lock = lock(folder)?;
        let fault = |fault: std::io::Error| damaged(folder, format!("cannot be read: {fault}"));
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path_in(folder))
            .map_err(fault)?;
        let mut content = Vec::new();
        file.read_to_end(&mut content).map_err(fault)?;

        let mut rest = content.as_slice();
        let mut length = 0;
        while let Some((record, after)) = next_frame(rest) {
            let record = Record::decode(record).map_err(|_| "a record is malformed".to_owned());
            record
                .and_then(&mut take)
                .map_err(|what| damaged(folder, format!("is damaged at byte {length}: {what}")))?;
            length += (rest.len() - after.len()) as u64;
            rest = after;
        }
        if length == 0 || holds_frame(rest) {
            let what = format!("is damaged at byte {length}: restore it from a copy");
            return Err(damaged(folder, what));
        }
        if !rest.is_empty() {
            tracing::warn!(
                bytes = rest.len(),
                "cutting a half-written record off {}",
                path_in(folder).display()
            );
            file.set_len(length)
                .and_then(|()| file.sync_all())
                .map_err(fault)?;
        }
        Ok(Self {
            file,
            folder: folder.to_owned(),
            length,
            broken: false,
            _lock: lock,
        })
    }

    /// Durable on return. After an error nothing more is accepted: the next opening finds out what
    /// the disk holds.
    pub(super) fn append(&mut self, record: &Record) -> Result<(), ChainError> {
        if self.broken {
            let what = "could not be written before: start again".to_owned();
            return Err(damaged(&self.folder, what));
        }
        let content = frame(&record.encode());
        let written = self
            .file
            .seek(SeekFrom::Start(self.length))
            .and_then(|_| self.file.write_all(&content));
        if let Err(fault) = written {
            // Nothing was promised: roll back, and a retry may succeed.
            self.broken = self.file.set_len(self.length).is_err();
            return Err(damaged(&self.folder, format!("cannot be written: {fault}")));
        }
        if let Err(fault) = self.file.sync_data() {
            // After a failed sync the page cache says nothing of the disk (fsync(2)).
            self.broken = true;
            return Err(damaged(&self.folder, format!("cannot be written: {fault}")));
        }
        self.length += content.len() as u64;
        Ok(())
    }
}

fn path_in(folder: &Path) -> PathBuf {
    folder.join("chain.log")
}

fn damaged(folder: &Path, what: String) -> ChainError {
    ChainError::Damaged(format!("{} {what}", folder.display()))
}

fn lock(folder: &Path) -> Result<File, ChainError> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(folder.join("lock"))
        .map_err(|fault| damaged(folder, format!("cannot be locked: {fault}")))?;
    match lock_whole(&file) {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let what = format!("{} is in use by another pxfs", folder.display());
            Err(ChainError::Busy(what))
        }
        Err(TryLockError::Error(fault)) => {
            Err(damaged(folder, format!("cannot be locked: {fault}")))
        }
    }
}

pub(super) fn frame(record: &[u8]) -> Vec<u8> {
    let length = u32::try_from(record.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(HEAD_BYTES + record.len() + SUM_BYTES);
    bytes.extend(length.to_be_bytes());
    bytes.extend((!length).to_be_bytes());
    bytes.extend(record);
    let sum = Sha256::digest(&bytes);
    bytes.extend(sum.iter().take(SUM_BYTES));
    bytes
}

/// The intact record at the front of `input`, and what follows its frame.
fn next_frame(input: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = input.split_first_chunk::<4>()?;
    let (complement, rest) = rest.split_first_chunk::<4>()?;
    let length = u32::from_be_bytes(*length);
    let count = usize::try_from(length).ok()?;
    if u32::from_be_bytes(*complement) != !length || count > RECORD_MAX {
        return None;
    }
    let (record, rest) = rest.split_at_checked(count)?;
    let (sum, rest) = rest.split_at_checked(SUM_BYTES)?;
    let summed = input.get(..HEAD_BYTES + count)?;
    (Sha256::digest(summed).get(..SUM_BYTES) == Some(sum)).then_some((record, rest))
}

/// Whether an intact frame begins anywhere in `input`: none can follow a half-written one, because
/// each was on disk before the next began.
fn holds_frame(input: &[u8]) -> bool {
    (1..input.len()).any(|at| input.get(at..).and_then(next_frame).is_some())
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::samples;
    use super::*;

    fn write(folder: &Path) -> Vec<usize> {
        let samples = samples();
        let mut log = Log::create(folder, &samples[0]).unwrap();
        let mut ends = vec![log.length as usize];
        for sample in &samples[1..] {
            log.append(sample).unwrap();
            ends.push(log.length as usize);
        }
        ends
    }

    fn read(folder: &Path) -> Result<Vec<Record>, ChainError> {
        let mut records = Vec::new();
        Log::open(folder, |record| {
            records.push(record);
            Ok(())
        })?;
        Ok(records)
    }

    #[test]
    fn a_crash_at_any_byte_leaves_every_record_whole_or_absent() {
        let folder = tempfile::tempdir().unwrap();
        let ends = write(folder.path());
        let content = std::fs::read(path_in(folder.path())).unwrap();
        for length in ends[0]..=content.len() {
            std::fs::write(path_in(folder.path()), &content[..length]).unwrap();
            let whole = ends.iter().filter(|end| **end <= length).count();
            assert_eq!(read(folder.path()).unwrap(), samples()[..whole]);
            let kept = std::fs::metadata(path_in(folder.path())).unwrap().len();
            assert_eq!(kept as usize, ends[whole - 1], "the torn tail is cut");
            // What follows is written behind the truncation.
            let mut log = Log::open(folder.path(), |_| Ok(())).unwrap();
            log.append(&Record::Clock(77)).unwrap();
            drop(log);
            assert_eq!(read(folder.path()).unwrap()[whole..], [Record::Clock(77)]);
        }
    }

    #[test]
    fn damage_in_the_middle_is_an_error_and_nothing_is_cut() {
        let folder = tempfile::tempdir().unwrap();
        let ends = write(folder.path());
        let content = std::fs::read(path_in(folder.path())).unwrap();
        for at in 0..ends[2] {
            let mut bytes = content.clone();
            bytes[at] ^= 0x40;
            std::fs::write(path_in(folder.path()), &bytes).unwrap();
            let fault = read(folder.path()).unwrap_err();
            assert!(matches!(fault, ChainError::Damaged(_)), "{at}: {fault}");
            assert_eq!(std::fs::read(path_in(folder.path())).unwrap(), bytes);
        }
    }

    #[test]
    fn one_folder_has_one_owner() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path());
        let owner = Log::open(folder.path(), |_| Ok(())).unwrap();
        assert!(matches!(read(folder.path()), Err(ChainError::Busy(_))));
        drop(owner);
        assert!(read(folder.path()).is_ok());
    }

    #[test]
    fn a_new_chain_never_takes_the_place_of_another() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path());
        let again = Log::create(folder.path(), &samples()[0]);
        assert!(matches!(again, Err(ChainError::Damaged(_))));
        assert_eq!(read(folder.path()).unwrap().len(), 4);
    }
}
