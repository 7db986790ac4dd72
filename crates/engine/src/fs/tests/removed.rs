//! What was removed while the kernel holds it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::meter::Meter;
use super::rig::{CALLER, READ_WRITE, Rig};
use crate::fs::{FsError, Kind, SetAttr};
use crate::journal::key;
use crate::pack::chunk::CHUNK_SIZE;
use crate::types::Ino;

/// What has not come by then never comes.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_file_unlinked_between_lookup_and_open_can_be_used() {
    let mut rig = Rig::new();
    let before = rig.used();
    // Saved and closed, written and closed, and replaced: each is found, and its name goes.
    for (name, saved) in [("saved", true), ("unsaved", false), ("replaced", true)] {
        let large = vec![7; 100_000];
        rig.put(name, &large).unwrap();
        let found = rig.ino(name);
        if saved {
            rig.drive.sync().unwrap();
        }
        match name {
            "replaced" => {
                rig.put("new", b"").unwrap();
                let (root, to) = (rig.root, name.as_bytes());
                rig.drive.rename(root, b"new", root, to, 0).unwrap();
                let new = rig.ino(name);
                rig.drive.unlink(root, to).unwrap();
                rig.drive.forget(new, || false);
            }
            _ => rig.drive.unlink(rig.root, name.as_bytes()).unwrap(),
        }
        assert_eq!(rig.used(), before, "{name}");
        let opened = rig.drive.open(found, READ_WRITE).unwrap();
        let mode = SetAttr {
            mode: Some(0o600),
            ..SetAttr::default()
        };
        let attr = rig.drive.setattr(found, None, &mode).unwrap();
        assert_eq!((attr.nlink, attr.mode, attr.size), (0, 0o600, 100_000));
        assert_eq!(rig.drive.listxattr(found).unwrap(), b"");
        let linked = rig.drive.link(found, rig.root, b"again");
        assert_eq!(linked, Err(FsError::NotFound));
        assert_eq!(rig.read_handle(found, opened.fh, 99_999, 5), [7]);
        rig.drive
            .write(found, opened.fh, 0, b"more", false)
            .unwrap();
        // The last of both lets it go, whichever it is.
        if saved {
            rig.drive.forget(found, || false);
            assert_eq!(rig.read_handle(found, opened.fh, 0, 4), b"more");
            rig.drive.release(found, opened.fh);
        } else {
            rig.drive.release(found, opened.fh);
            rig.drive.forget(found, || true);
            assert_eq!(rig.drive.getattr(found).unwrap().size, 100_000);
            rig.drive.forget(found, || false);
        }
        assert_eq!(rig.drive.getattr(found), Err(FsError::NotFound));
        assert_eq!(rig.volume.removed.count(), 0);
        rig.drive.sync().unwrap();
        assert_eq!((rig.stage_files(), rig.used()), (0, before), "{name}");
    }
    // Nobody holds anything after a crash.
    rig.put("f", &vec![1; 100_000]).unwrap();
    rig.drive.sync().unwrap();
    rig.drive.unlink(rig.root, b"f").unwrap();
    rig.drive.sync().unwrap();
    let rig = rig.crash();
    assert_eq!((rig.stage_files(), rig.used()), (0, before));
}

#[test]
fn a_removed_directory_works_while_held_then_costs_nothing() {
    let mut rig = Rig::new();
    let drive = &rig.drive;
    let dir = drive.mkdir(CALLER, rig.root, b"d", 0o750).unwrap();
    drive
        .mknod(CALLER, dir.ino, b"f", Kind::Fifo, 0o600, 0)
        .unwrap();
    let fifo = drive.lookup(dir.ino, b"f").unwrap();
    drive.unlink(dir.ino, b"f").unwrap();
    drive.rmdir(rig.root, b"d").unwrap();
    let used = rig.volume.with_quota(|quota| quota.used_bytes());

    let held = drive.getattr(dir.ino).unwrap();
    assert_eq!((held.nlink, held.mode), (0, 0o750));
    assert_eq!(drive.getattr(fifo.ino).unwrap().nlink, 0);
    drive.opendir(dir.ino).unwrap();
    // What the C library takes for the end of an empty listing.
    let listed = drive.readdir(dir.ino, 0, true, &mut |_, _| true);
    assert_eq!(listed, Err(FsError::NotFound));
    let made = drive.mkdir(CALLER, dir.ino, b"new", 0o755);
    assert_eq!(made, Err(FsError::NotFound));
    assert_eq!(drive.lookup(dir.ino, b"f"), Err(FsError::NotFound));
    let mode = SetAttr {
        mode: Some(0o700),
        ..SetAttr::default()
    };
    assert_eq!(drive.setattr(dir.ino, None, &mode).unwrap().mode, 0o700);
    drive.setxattr(CALLER, dir.ino, b"user.a", b"1", 0).unwrap();
    assert_eq!(drive.getxattr(dir.ino, b"user.a").unwrap(), b"1");
    assert_eq!(rig.volume.with_quota(|quota| quota.used_bytes()), used);

    drive.forget(fifo.ino, || true);
    assert_eq!(drive.getattr(fifo.ino).unwrap().nlink, 0);
    drive.forget(fifo.ino, || false);
    assert_eq!(drive.getattr(fifo.ino), Err(FsError::NotFound));
    drive.getattr(dir.ino).unwrap();
    drive.forget(dir.ino, || false);
    assert_eq!(drive.getattr(dir.ino), Err(FsError::NotFound));
    assert_eq!(drive.opendir(dir.ino), Err(FsError::NotFound));
    assert_eq!(rig.volume.removed.count(), 0);

    // What was changed without a name reaches neither journal nor node.
    let dir = rig.drive.mkdir(CALLER, rig.root, b"d", 0o750).unwrap();
    rig.drive.rmdir(rig.root, b"d").unwrap();
    rig.drive.setattr(dir.ino, None, &mode).unwrap();
    rig.drive.sync().unwrap();
    rig.reopen();
    assert_eq!(rig.drive.getattr(dir.ino), Err(FsError::NotFound));
}

#[test]
fn readdir_cookies_stay_valid_while_thousands_of_names_are_removed() {
    let rig = Rig::new();
    let (dir, most) = (rig.root, 6000);
    let name = |i: usize| format!("f{i}").into_bytes();
    let make = |i| {
        rig.drive
            .mknod(CALLER, dir, &name(i), Kind::Fifo, 0o600, 0)
            .unwrap();
    };
    (0..most).for_each(make);
    let (fh, second) = (
        rig.drive.opendir(dir).unwrap(),
        rig.drive.opendir(dir).unwrap(),
    );
    let (mut seen, mut cookie) = (Vec::new(), 0);
    let mut list = |until: usize| {
        rig.drive
            .readdir(dir, cookie, false, &mut |item, _| {
                cookie = item.cookie;
                seen.push(item.name.clone());
                seen.len() < until
            })
            .unwrap();
    };
    list(5000);
    for i in 0..most {
        rig.drive.unlink(dir, &name(i)).unwrap();
    }
    rig.drive.releasedir(dir, second);
    (0..most).for_each(make);
    list(usize::MAX);
    // And `.` and `..`.
    assert_eq!(seen.len(), most + 2);
    let seen: std::collections::HashSet<_> = seen.into_iter().collect();
    assert!((0..most).all(|i| seen.contains(&name(i))));
    rig.drive.unlink(dir, &name(0)).unwrap();
    rig.drive.releasedir(dir, fh);
    assert_eq!(rig.volume.places.lock().count(), 0);
}

#[test]
fn deleting_a_file_of_many_chunks_does_not_block_name_changes() {
    let meter = Meter::new();
    let used = || meter.volume.with_quota(|quota| quota.used_bytes());
    let before = used();
    // So many records are there when the name has gone, and when the kernel has let go of the file.
    for (name, chunks, kept) in [("few", 20, 0), ("many", 3000, 3000), ("cut", 3000, 3000)] {
        let (file, fh) = meter.create(name);
        let len = chunks * CHUNK_SIZE;
        meter.drive.fallocate(file, fh, 0, len, 0, false).unwrap();
        meter.drive.release(file, fh);
        meter.drive.sync().unwrap();
        let staged = || {
            let of = key::chunks(Ino(file.0 & Ino::MAX.0));
            let found = meter.volume.journal.scan(&of, None, usize::MAX);
            found.unwrap().len() as u64
        };
        assert_eq!(staged(), chunks, "{name}");
        if name == "cut" {
            let nothing = SetAttr {
                size: Some(0),
                ..SetAttr::default()
            };
            meter.drive.setattr(file, None, &nothing).unwrap();
        }
        let longest = &meter.volume.journal.longest_batch;
        longest.store(0, Ordering::Relaxed);
        meter.drive.unlink(meter.root, name.as_bytes()).unwrap();
        assert_eq!((staged(), used()), (kept, before), "{name}");
        // Who has found it before opens it.
        let fh = meter.drive.open(file, READ_WRITE).unwrap().fh;
        let tail = if name == "cut" { 0 } else { 3 };
        assert_eq!(
            meter.drive.read(file, fh, len - 3, 9).unwrap(),
            [0; 3][..tail]
        );
        meter.drive.release(file, fh);
        meter.drive.forget(file, || false);
        assert_eq!(meter.drive.getattr(file), Err(FsError::NotFound));
        assert_eq!((staged(), used()), (0, before), "{name}");
        meter.drive.sync().unwrap();
        assert_eq!(meter.volume.journal.counters().used_bytes, before);
        let longest = longest.load(Ordering::Relaxed);
        assert!(longest <= 1_100, "{name}: {longest} records at once");
    }
}

#[test]
fn a_file_is_loaded_before_its_name_goes_while_others_change_theirs() {
    let mut rig = Rig::new();
    for name in ["gone", "replaced", "new"] {
        rig.put(name, &[7; 100_000]).unwrap();
    }
    rig.drive.sync().unwrap();
    let volume = &rig.volume;
    std::thread::scope(|scope| {
        let drive = &rig.drive;
        for name in ["gone", "replaced"] {
            let ino = Ino(rig.ino(name).0 & Ino::MAX.0);
            assert!(volume.files.peek(ino).is_none(), "{name} is closed");
            let names = volume.lock_names();
            scope.spawn(move || match name {
                "gone" => drive.unlink(rig.root, b"gone").unwrap(),
                _ => (drive.rename(rig.root, b"new", rig.root, b"replaced", 0)).unwrap(),
            });
            let begun = Instant::now();
            while volume.files.peek(ino).is_none() {
                assert!(
                    begun.elapsed() < PATIENCE,
                    "{name} waits for the names first"
                );
                std::thread::yield_now();
            }
            drop(names);
        }
    });
    assert!(rig.drive.lookup(rig.root, b"gone").is_err());
    assert_eq!(rig.read("replaced"), [7; 100_000]);
}

#[test]
fn unlink_racing_with_a_rename_removes_the_newly_named_file() {
    let meter = Arc::new(Meter::new());
    let used = || meter.volume.with_quota(|quota| quota.used_bytes());
    let mut found = Vec::new();
    let mut of_one = None;
    for name in ["f", "g"] {
        let (file, fh) = meter.create(name);
        meter.write((file, fh), 0, name.repeat(100_000).as_bytes());
        meter.drive.release(file, fh);
        found.push(file);
        of_one.get_or_insert_with(used);
    }
    meter.drive.sync().unwrap();
    // While the file is opened that is to go, its name is given to the other one.
    let (other, once) = (Arc::downgrade(&meter), AtomicBool::new(true));
    meter.stage.set_open_pause(Some(Arc::new(move || {
        if once.swap(false, Ordering::Relaxed) {
            let meter = other.upgrade().unwrap();
            for (name, to) in [("f", "h"), ("g", "f")] {
                let (name, to) = (name.as_bytes(), to.as_bytes());
                let renamed = meter.drive.rename(meter.root, name, meter.root, to, 0);
                assert_eq!(renamed, Ok(()));
            }
        }
    })));
    meter.drive.unlink(meter.root, b"f").unwrap();
    meter.stage.set_open_pause(None);
    let left: Vec<bool> = [b"f", b"g", b"h"]
        .map(|name| meter.drive.lookup(meter.root, name).is_ok())
        .to_vec();
    assert_eq!(left, [false, false, true]);
    assert_eq!(Some(used()), of_one);
    // Who has found the one that went has it still, whole.
    for (file, text) in found.into_iter().zip(["f", "g"]) {
        let opened = meter.drive.open(file, READ_WRITE).unwrap();
        let read = meter.drive.read(file, opened.fh, 0, 200_000).unwrap();
        assert!(read == text.repeat(100_000).as_bytes(), "{text}");
    }
}
