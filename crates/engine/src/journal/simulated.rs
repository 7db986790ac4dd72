//! A disk whose power can be cut, for tests.
//!
//! [`Power`] is the machine: it writes down, in order, what its disks were asked to do, and answers
//! with errors where a test wants that, or where its disk is full. An [`Image`] plays such a record back, and tells what a cut of
//! the power leaves.

mod image;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::disk::{Disk, DiskFile};
pub use image::{Image, Kept};
use pxfs_base::lock;

/// What is written at once, in bytes, also where a write fails on its way.
const PAGE: u64 = 4096;

/// Folders of one machine.
pub const FOLDERS: usize = 2;

/// What is on the disks when there is power again: the files of each folder.
pub type Left = [BTreeMap<String, Vec<u8>>; FOLDERS];

/// What a disk was asked to do.
#[allow(missing_docs, reason = "each is the call of `Disk` of that name")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Create,
    Open,
    Len,
    Rename,
    Remove,
    Read,
    Write,
    SetLen,
    SyncData,
    SyncFolder,
}

/// What has changed on a disk, or became durable. Files have numbers, each its own.
#[allow(missing_docs, reason = "each is the call of `Disk` of that name")]
#[derive(Clone, Debug)]
pub enum Event {
    Create(usize, String, usize),
    Remove(usize, String),
    Rename(usize, String, String),
    Write(usize, u64, Arc<[u8]>),
    SetLen(usize, u64),
    SyncData(usize),
    SyncFailed(usize),
    SyncFolder(usize),
}

/// Answers a call with an error instead of doing it: folder, name of the file, call.
pub type Fault = Box<dyn FnMut(usize, &str, Call) -> Option<io::ErrorKind> + Send>;

/// Runs before each sync, in the thread that asks for it.
pub type Pause = Arc<dyn Fn() + Send + Sync>;

/// A machine with its disks.
#[derive(Default)]
pub struct Power {
    state: Mutex<State>,
    pause: Mutex<Option<Pause>>,
    /// A real folder: files of the second disk can be had there by their path, as they are.
    shown: Mutex<Option<PathBuf>>,
    /// How many were asked for.
    asked: AtomicUsize,
}

#[derive(Default)]
struct State {
    events: Vec<Event>,
    names: [BTreeMap<String, usize>; FOLDERS],
    files: Vec<Vec<u8>>,
    /// The pages of each file that take room.
    taken: Vec<BTreeSet<u64>>,
    /// The pages that there are for all files; `None`: no end of them.
    pages: Option<u64>,
    fault: Option<Fault>,
}

/// One folder of a machine.
pub struct SimulatedDisk {
    power: Arc<Power>,
    folder: usize,
}

struct SimulatedFile {
    power: Arc<Power>,
    folder: usize,
    name: String,
    number: usize,
}

impl fmt::Debug for SimulatedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Power {
    /// A machine that finds `left` on its disks.
    pub fn on(left: Left) -> Arc<Self> {
        let mut state = State::default();
        for (names, files) in state.names.iter_mut().zip(left) {
            for (name, bytes) in files {
                names.insert(name, state.files.len());
                state.taken.push((0..pages(bytes.len() as u64)).collect());
                state.files.push(bytes);
            }
        }
        Arc::new(Self {
            state: Mutex::new(state),
            ..Self::default()
        })
    }

    /// One of its folders.
    pub fn disk(self: &Arc<Self>, folder: usize) -> Arc<dyn Disk> {
        Arc::new(SimulatedDisk {
            power: Arc::clone(self),
            folder,
        })
    }

    /// How much has happened.
    pub fn now(&self) -> usize {
        self.lock().events.len()
    }

    /// All that has happened.
    pub fn events(&self) -> Vec<Event> {
        self.lock().events.clone()
    }

    /// From now on `fault` is asked before each call.
    pub fn set_fault(&self, fault: Option<Fault>) {
        self.lock().fault = fault;
    }

    /// From now on there is room for so many bytes more, in all folders together; `None`: for all.
    pub fn leave_room(&self, bytes: Option<u64>) {
        let mut state = self.lock();
        let used = state.used_pages();
        state.pages = bytes.map(|bytes| used + bytes / PAGE);
    }

    /// From now on `pause` runs before each sync.
    pub fn set_pause(&self, pause: Option<Pause>) {
        *lock(&self.pause) = pause;
    }

    /// From now on the files of the second disk have paths, in `folder`: what is done to a file there
    /// is not done to the one on the disk.
    pub fn show_in(&self, folder: PathBuf) {
        *lock(&self.shown) = Some(folder);
    }

    /// How many files were shown.
    pub fn shown(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    fn pause(&self) {
        let pause = lock(&self.pause).clone();
        if let Some(pause) = pause {
            pause();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    fn enter(&mut self, folder: usize, name: &str, call: Call) -> io::Result<()> {
        let fault = self.fault.as_mut();
        match fault.and_then(|fault| fault(folder, name, call)) {
            Some(kind) => Err(kind.into()),
            None => Ok(()),
        }
    }

    /// Pages in use: those of the files that have a name.
    fn used_pages(&self) -> u64 {
        let named = self.names.iter().flat_map(BTreeMap::values);
        named.map(|number| self.taken[*number].len() as u64).sum()
    }

    /// Pages that can still be written; `None`: all.
    fn free_pages(&self) -> Option<u64> {
        Some(self.pages?.saturating_sub(self.used_pages()))
    }

    /// Whether a write of `len` bytes finds room.
    fn check_room(&self, number: usize, offset: u64, len: u64) -> io::Result<()> {
        let taken = &self.taken[number];
        let new = (offset / PAGE..pages(offset + len)).filter(|page| !taken.contains(page));
        match self.free_pages() {
            Some(free) if new.count() as u64 > free => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    fn write(&mut self, number: usize, offset: u64, data: &[u8]) {
        let end = offset + data.len() as u64;
        self.taken[number].extend(offset / PAGE..pages(end));
        overwrite(&mut self.files[number], index(offset), data);
        self.events
            .push(Event::Write(number, offset, Arc::from(data)));
    }
}

/// How many pages hold so many bytes.
fn pages(bytes: u64) -> u64 {
    bytes.div_ceil(PAGE)
}

fn index(at: u64) -> usize {
    usize::try_from(at).expect("files of tests fit the memory")
}

fn overwrite(bytes: &mut Vec<u8>, at: usize, data: &[u8]) {
    let end = at + data.len();
    bytes.resize(bytes.len().max(end), 0);
    bytes[at..end].copy_from_slice(data);
}

impl DiskFile for SimulatedFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let mut state = self.power.lock();
        state.enter(self.folder, &self.name, Call::Read)?;
        if buf.is_empty() {
            return Ok(());
        }
        let start = index(offset);
        let found = state.files[self.number].get(start..start + buf.len());
        buf.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.power.lock();
        let entered = state.enter(self.folder, &self.name, Call::Write);
        let entered =
            entered.and_then(|()| state.check_room(self.number, offset, data.len() as u64));
        // A write that fails may have been done in part: so many pages.
        let done = match entered {
            Ok(()) => data,
            Err(_) => {
                let half = (offset + data.len() as u64 / 2) / PAGE * PAGE;
                &data[..index(half.saturating_sub(offset))]
            }
        };
        let has_room = |done: &[u8]| {
            let room = state.check_room(self.number, offset, done.len() as u64);
            room.is_ok()
        };
        if !done.is_empty() && has_room(done) {
            state.write(self.number, offset, done);
        }
        entered
    }

    fn sync_data(&self) -> io::Result<()> {
        self.power.pause();
        let mut state = self.power.lock();
        let entered = state.enter(self.folder, &self.name, Call::SyncData);
        state.events.push(match entered {
            Ok(()) => Event::SyncData(self.number),
            Err(_) => Event::SyncFailed(self.number),
        });
        entered
    }

    fn len(&self) -> io::Result<u64> {
        let mut state = self.power.lock();
        state.enter(self.folder, &self.name, Call::Len)?;
        Ok(state.files[self.number].len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.power.lock();
        state.enter(self.folder, &self.name, Call::SetLen)?;
        state.files[self.number].resize(index(len), 0);
        state.taken[self.number].retain(|page| *page < pages(len));
        state.events.push(Event::SetLen(self.number, len));
        Ok(())
    }
}

impl SimulatedDisk {
    fn file(&self, name: &str, number: usize) -> Arc<dyn DiskFile> {
        Arc::new(SimulatedFile {
            power: Arc::clone(&self.power),
            folder: self.folder,
            name: name.to_owned(),
            number,
        })
    }
}

impl Disk for SimulatedDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.power.lock();
        state.enter(self.folder, name, Call::Create)?;
        let number = match state.names[self.folder].get(name).copied() {
            Some(number) => {
                state.files[number].clear();
                state.taken[number].clear();
                state.events.push(Event::SetLen(number, 0));
                number
            }
            None => {
                let number = state.files.len();
                state.files.push(Vec::new());
                state.taken.push(BTreeSet::new());
                state.names[self.folder].insert(name.to_owned(), number);
                let event = Event::Create(self.folder, name.to_owned(), number);
                state.events.push(event);
                number
            }
        };
        Ok(self.file(name, number))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.power.lock();
        state.enter(self.folder, name, Call::Open)?;
        let number = state.names[self.folder].get(name).copied();
        Ok(self.file(name, number.ok_or(io::ErrorKind::NotFound)?))
    }

    fn rename(&self, name: &str, to: &str) -> io::Result<()> {
        let mut state = self.power.lock();
        state.enter(self.folder, name, Call::Rename)?;
        let names = &mut state.names[self.folder];
        let number = names.remove(name).ok_or(io::ErrorKind::NotFound)?;
        names.insert(to.to_owned(), number);
        let event = Event::Rename(self.folder, name.to_owned(), to.to_owned());
        state.events.push(event);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.power.lock();
        state.enter(self.folder, name, Call::Remove)?;
        if state.names[self.folder].remove(name).is_some() {
            let event = Event::Remove(self.folder, name.to_owned());
            state.events.push(event);
        }
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let state = self.power.lock();
        Ok(state.names[self.folder].keys().cloned().collect())
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.power.pause();
        let mut state = self.power.lock();
        state.enter(self.folder, "", Call::SyncFolder)?;
        state.events.push(Event::SyncFolder(self.folder));
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let free = self.power.lock().free_pages();
        Ok(free.map_or(u64::MAX, |pages| pages * PAGE))
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        let folder = lock(&self.power.shown)
            .clone()
            .filter(|_| self.folder == 1)?;
        let state = self.power.lock();
        let bytes = &state.files[*state.names[1].get(name)?];
        std::fs::create_dir_all(&folder).ok()?;
        let path = folder.join(name);
        std::fs::write(&path, bytes).ok()?;
        self.power.asked.fetch_add(1, Ordering::Relaxed);
        Some(path)
    }
}
