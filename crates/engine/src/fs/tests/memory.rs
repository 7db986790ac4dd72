//! How much memory is in use at most, to the byte: each thread counts what it asks the allocator for and gives back.

#![allow(
    unsafe_code,
    reason = "the allocator itself, for tests alone, that counts"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;

use super::rig::{CALLER, READ_WRITE, allowance, open_with, options, scratch};
use crate::cache::Cache;
use crate::clock::ManualClock;
use crate::fs::recover::Bounds;
use crate::fs::{Attr, DirItem, Drive, Volume, VolumeOptions};
use crate::journal::{FolderDisk, Without};
use crate::types::Ino;

thread_local! {
    /// Bytes that this thread has in use, and the most that it had.
    static IN_USE: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

impl Counting {
    fn count(more: isize) {
        // A thread that is about to end counts no longer.
        let _ = IN_USE.try_with(|in_use| {
            let (now, most) = in_use.get();
            in_use.set((now + more, most.max(now + more)));
        });
    }
}

// SAFETY: all is passed on to the system's allocator as it comes.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::count(layout.size() as isize);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::count(layout.size() as isize);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, bytes: *mut u8, layout: Layout) {
        Self::count(-(layout.size() as isize));
        unsafe { System.dealloc(bytes, layout) }
    }

    unsafe fn realloc(&self, bytes: *mut u8, layout: Layout, new: usize) -> *mut u8 {
        Self::count(new as isize - layout.size() as isize);
        unsafe { System.realloc(bytes, layout, new) }
    }
}

/// The most bytes that this thread has in use amid `work` beyond those before, and how many are left behind it.
fn in_use(work: impl FnOnce()) -> (isize, isize) {
    let (before, _) = IN_USE.get();
    IN_USE.set((before, before));
    work();
    let (after, most) = IN_USE.get();
    (most - before, after - before)
}

/// What pages of the journal's table take, which are kept as long as there is room.
const TABLE: usize = 64 << 10;

/// What may come and go by chance: where a tree of records has one level more, or a page is cut elsewhere.
const SLACK: isize = 24 << 10;

struct Home {
    folder: TempDir,
    clock: Arc<ManualClock>,
}

impl Home {
    fn new() -> Self {
        Self {
            folder: scratch(),
            clock: Arc::new(ManualClock::at(1_700_000_000_000_000_000)),
        }
    }

    fn stage(&self) -> std::path::PathBuf {
        self.folder.path().join("stage")
    }

    /// What is there, or an empty volume.
    fn open(&self) -> (Drive, Arc<Volume>, Ino) {
        let disk = |folder: &Path| Arc::new(FolderDisk::open(folder).unwrap());
        let (home, stage) = (disk(self.folder.path()), disk(&self.stage()));
        let cache = Arc::new(Cache::in_memory());
        let options = VolumeOptions {
            journal_cache_bytes: TABLE,
            ..options(Without::default())
        };
        let opened = open_with(home, stage, &self.clock, &cache, &options).unwrap();
        let allowance = allowance(&self.clock, 1 << 40);
        opened.1.set_allowance(&allowance).unwrap();
        opened
    }
}

fn put(drive: &Drive, root: Ino, name: &str, places: impl IntoIterator<Item = u64>) {
    let made = drive.create(CALLER, root, name.as_bytes(), 0o644, READ_WRITE);
    let (attr, opened) = made.unwrap();
    for at in places {
        drive.write(attr.ino, opened.fh, at, b"x", false).unwrap();
    }
    drive.release(attr.ino, opened.fh);
}

/// The most that is in use while the most of what a crash may have left is looked through: `count` files with a stage
/// file each, so many small ones, so many chunks of one file, and so many stage files that are nobody's.
fn recovery_of(count: u64) -> isize {
    let home = Home::new();
    let (drive, volume, root) = home.open();
    for n in 0..count {
        put(&drive, root, &format!("staged-{n}"), [100_000]);
        put(&drive, root, &format!("small-{n}"), [10]);
    }
    put(&drive, root, "chunks", (0..count).map(|n| n << 20));
    drive.sync().unwrap();
    drop((drive, volume));
    let (_drive, volume, _) = home.open();
    // What the log had, and is in memory until the table has it.
    volume.journal.rest().unwrap();
    for n in 0..count {
        std::fs::write(home.stage().join(format!("{}", 900_000 + n)), b"x").unwrap();
    }
    let bounds = Bounds {
        page: 8,
        files: 256,
    };
    let (most, _) = in_use(|| volume.recover(bounds).unwrap());
    let left = std::fs::read_dir(home.stage()).unwrap().count();
    assert_eq!(left as u64, count + 1, "the staged files and no other");
    most
}

#[test]
fn recovery_memory_does_not_grow_with_records_chunks_or_stage_files() {
    let (few, many) = (recovery_of(500), recovery_of(4000));
    assert!(
        many <= few + SLACK,
        "{many} bytes of eight times what took {few}"
    );
}

/// The most that is in use while a folder of `count` files is listed with attributes, and what is left.
fn listing_of(count: u64) -> (isize, isize) {
    let home = Home::new();
    let (drive, volume, root) = home.open();
    for n in 0..count {
        put(&drive, root, &format!("entry-{n:05}"), []);
    }
    drive.sync().unwrap();
    volume.journal.rest().unwrap();
    let list = || {
        let fh = drive.opendir(root).unwrap();
        let (mut cookie, mut listed) = (0, 0);
        loop {
            let (from, before) = (cookie, listed);
            // As much as the kernel takes at a time.
            let mut add = |item: &DirItem, attr: Option<&Attr>| {
                let is_full = listed == before + 30;
                if !is_full {
                    cookie = item.cookie;
                    listed += u64::from(attr.is_some());
                }
                !is_full
            };
            drive.readdir(root, from, true, &mut add).unwrap();
            if listed == before {
                break;
            }
        }
        drive.releasedir(root, fh);
        assert_eq!(listed, count);
    };
    in_use(list)
}

#[test]
fn listing_a_larger_directory_takes_and_retains_no_more_memory() {
    let ((few, few_left), (many, many_left)) = (listing_of(1000), listing_of(8000));
    assert!(
        many <= few + SLACK && many_left <= few_left + SLACK,
        "{many} bytes of eight times what took {few}; {many_left} and {few_left} are left"
    );
}
