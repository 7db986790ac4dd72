//! A machine whose power can be cut, for tests of what is kept in real folders: what was synced is there afterwards,
//! and nothing else is.
//!
//! [`super`] tells of each sync that it has made. What a disk would have kept without one is shown by not hearing it.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};

use crate::lock;
use tempfile::TempDir;

/// All machines of this process: syncs are made by threads of anybody.
static MACHINES: Mutex<Vec<Weak<Power>>> = Mutex::new(Vec::new());

/// What is made durable.
#[derive(Clone, Copy, Debug)]
pub enum Sync<'a> {
    /// The bytes of a file that has no name yet.
    Bytes,
    /// The names in a folder.
    Names(&'a Path),
}

/// Whether a sync is lost on its way to the disk.
type Lost = fn(Sync<'_>) -> bool;

/// A folder, and what of it is durable.
pub struct Power {
    folder: TempDir,
    disk: Mutex<Disk>,
}

#[derive(Default)]
struct Disk {
    /// The names in each folder, when that was synced last.
    names: HashMap<PathBuf, BTreeMap<OsString, Named>>,
    /// The bytes of files, by inode. Open, so that no other file gets the number.
    bytes: HashMap<u64, (File, Vec<u8>)>,
    lost: Option<Lost>,
}

/// What has a name.
#[derive(Clone, Copy)]
enum Named {
    Folder,
    File(u64),
}

impl Power {
    /// A machine with an empty folder.
    pub fn on() -> Arc<Self> {
        let power = Arc::new(Self {
            folder: tempfile::tempdir().expect("a folder"),
            disk: Mutex::default(),
        });
        let mut machines = lock(&MACHINES);
        machines.retain(|machine| machine.strong_count() > 0);
        machines.push(Arc::downgrade(&power));
        power
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// From now on the syncs that `lost` says do not come to the disk.
    pub fn lose(&self, lost: Option<Lost>) {
        lock(&self.disk).lost = lost;
    }

    /// What is there after a cut of the power.
    pub fn cut(&self) -> TempDir {
        let left = tempfile::tempdir().expect("a folder");
        lock(&self.disk).restore(self.folder(), left.path());
        left
    }
}

impl Disk {
    /// Makes at `to` what is durable of the folder `from`. A file that was never synced is empty.
    fn restore(&self, from: &Path, to: &Path) {
        for (name, named) in self.names.get(from).into_iter().flatten() {
            let to = to.join(name);
            match named {
                Named::Folder => {
                    fs::create_dir(&to).expect("a folder");
                    self.restore(&from.join(name), &to);
                }
                Named::File(number) => {
                    let bytes = self.bytes.get(number).map(|(_, bytes)| &bytes[..]);
                    fs::write(to, bytes.unwrap_or_default()).expect("a file");
                }
            }
        }
    }

    fn hears(&self, sync: Sync<'_>) -> bool {
        self.lost.is_none_or(|lost| !lost(sync))
    }
}

/// The names in `folder` were synced.
pub fn names_synced(folder: &Path) {
    each_with(folder, |disk| {
        if disk.hears(Sync::Names(folder)) {
            let names = fs::read_dir(folder).expect("a folder").map(named).collect();
            disk.names.insert(folder.to_owned(), names);
        }
    });
}

fn named(entry: std::io::Result<fs::DirEntry>) -> (OsString, Named) {
    let entry = entry.expect("an entry");
    let found = entry.metadata().expect("metadata");
    let named = match found.is_dir() {
        true => Named::Folder,
        false => Named::File(found.ino()),
    };
    (entry.file_name(), named)
}

/// The bytes of the file at `path` were synced.
pub fn bytes_synced(path: &Path) {
    each_with(path, |disk| {
        if disk.hears(Sync::Bytes) {
            let file = File::open(path).expect("a file");
            let number = file.metadata().expect("metadata").ino();
            let bytes = fs::read(path).expect("a file");
            disk.bytes.insert(number, (file, bytes));
        }
    });
}

/// Calls `each` with the disk that has `path`, if it is one of ours.
fn each_with(path: &Path, each: impl Fn(&mut Disk)) {
    let machines: Vec<_> = lock(&MACHINES).iter().filter_map(Weak::upgrade).collect();
    let own = machines
        .iter()
        .filter(|machine| path.starts_with(machine.folder()));
    own.for_each(|machine| each(&mut lock(&machine.disk)));
}
