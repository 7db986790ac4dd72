//! Another machine's newer tree in the place of this one: nothing of the old one comes back.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::rig::{CALLER, READ_WRITE, Rig, open};
use crate::cache::Cache;
use crate::clock::ManualClock;
use crate::fs::body::Body;
use crate::fs::quota::TAKEN_OVER;
use crate::fs::{Access, FsError, LoadedEntry, SetAttr, Volume};
use crate::journal::Without;
use crate::journal::simulated::{Call, Left, Power};
use crate::pack::Child;
use crate::pack::cid::{leaf_cid, node_cid};
use crate::pack::entry::{Attr, Inode, Kind, Sums, TreeRef};
use crate::pack::root::{Root, WriterId};
use crate::types::Ino;

static OLD: [u8; 100_000] = [1; 100_000];
static NEW: [u8; 5_000] = [2; 5_000];

/// A drive whose file `f` is published, and nothing else to publish.
fn published() -> (Rig, Ino) {
    let mut rig = Rig::new();
    rig.put("f", &OLD).unwrap();
    let ino = Ino(rig.ino("f").0 & Ino::MAX.0);
    publish(&mut rig);
    (rig, ino)
}

fn publish(rig: &mut Rig) {
    rig.volume.sync().unwrap();
    let cut = rig.volume.cut().unwrap();
    let changes = cut.changes().unwrap();
    let (built, _) = rig.build(&cut, &changes);
    cut.settle(&changes, &built).unwrap();
    drop(cut);
    assert!(rig.volume.activity().is_none());
}

fn attr() -> Attr {
    Attr {
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime_ns: 1,
        ctime_ns: 1,
        birth_ns: 1,
        xattrs: BTreeMap::new(),
    }
}

/// What the other machine has published.
fn newer(volume: &Volume) -> Root {
    let tree = |name: &[u8], entries| TreeRef {
        root: Child::new(node_cid(name), 0),
        sums: Sums {
            bytes: 1000,
            inodes: entries,
            entries,
            subdirs: 0,
        },
    };
    Root {
        volume: volume.key(),
        sequence: 2,
        parent: None,
        versions: BTreeMap::new(),
        writer: WriterId([1; 16]),
        time_ns: 1,
        next_inode: Ino(10),
        attr: attr(),
        tree: tree(b"newer", 1),
        table: tree(b"table", 0),
        header: Child::new(leaf_cid(b""), 0),
    }
}

/// Its directory with `f`, as the fetcher enters it.
fn enter(rig: &Rig, ino: Ino) {
    enter_in(rig, Ino::ROOT, b"newer", ino);
}

/// The directory `dir`, which is the tree `of`, with `f`.
fn enter_in(rig: &Rig, dir: Ino, of: &[u8], ino: Ino) {
    let content = Child::new(leaf_cid(&NEW), NEW.len() as u64);
    let entry = LoadedEntry {
        name: b"f".as_slice().into(),
        ino,
        inode: Inode {
            attr: attr(),
            kind: Kind::File {
                content,
                size: NEW.len() as u64,
                holes: std::iter::empty().collect(),
            },
            links: 1,
        },
        hard: false,
    };
    let of = node_cid(of);
    rig.volume.enter_loaded(dir, &of, &[entry]).unwrap();
    rig.volume.finish_loading(dir, &of).unwrap();
}

/// Its directory with a directory `d`, into which nobody has looked here.
fn enter_directory(rig: &Rig, ino: Ino) {
    let tree = TreeRef {
        root: Child::new(node_cid(b"within"), 0),
        sums: Sums {
            bytes: 1000,
            inodes: 1,
            entries: 1,
            subdirs: 0,
        },
    };
    let entry = LoadedEntry {
        name: b"d".as_slice().into(),
        ino,
        inode: Inode {
            attr: attr(),
            kind: Kind::Directory(tree),
            links: 1,
        },
        hard: false,
    };
    let of = node_cid(b"newer");
    rig.volume.enter_loaded(Ino::ROOT, &of, &[entry]).unwrap();
    rig.volume.finish_loading(Ino::ROOT, &of).unwrap();
}

fn is_new(body: &Body) -> bool {
    body.base.is_some_and(|base| base.cid.0 == leaf_cid(&NEW))
}

#[test]
fn a_body_loaded_before_a_newer_tree_arrived_is_reloaded() {
    let (rig, ino) = published();
    let followed = RefCell::new(None);
    let held = rig.volume.files.hold(ino, || {
        let body = rig.volume.load_body(ino)?;
        if followed.borrow().is_none() {
            *followed.borrow_mut() = rig.volume.begin_following(&newer(&rig.volume))?;
            enter(&rig, ino);
        }
        Ok(body)
    });
    assert!(is_new(&held.unwrap().body()));
}

#[test]
fn a_file_that_came_into_use_meanwhile_gets_its_new_content_too() {
    let (rig, ino) = published();
    let old = RefCell::new(Some(rig.volume.load_body(ino).unwrap()));
    let followed = rig
        .volume
        .begin_following(&newer(&rig.volume))
        .unwrap()
        .unwrap();
    enter(&rig, ino);
    let load = || old.borrow_mut().take().ok_or(FsError::NotFound);
    let held = rig.volume.files.hold(ino, load).unwrap();
    assert!(!is_new(&held.body()));
    rig.volume.finish_following(followed).unwrap();
    assert!(is_new(&held.body()));
}

#[test]
fn times_set_on_what_was_before_do_not_bring_it_back() {
    let (rig, ino) = published();
    let held = rig.volume.hold(ino).unwrap();
    let followed = rig
        .volume
        .begin_following(&newer(&rig.volume))
        .unwrap()
        .unwrap();
    enter(&rig, ino);
    let set = rig.volume.set_times(&held, 1, 1);
    assert!(matches!(set, Err(FsError::ReadOnly(_))), "{set:?}");
    rig.volume.finish_following(followed).unwrap();
    assert!(is_new(&rig.volume.load_body(ino).unwrap()));
    assert!(is_new(&held.body()));
}

#[test]
fn a_file_deleted_here_but_present_in_the_newer_tree_opens() {
    let (mut rig, ino) = published();
    let file = rig.ino("f");
    rig.drive.unlink(rig.root, b"f").unwrap();
    rig.drive.forget(file, || false);
    publish(&mut rig);
    let followed = rig
        .volume
        .begin_following(&newer(&rig.volume))
        .unwrap()
        .unwrap();
    enter(&rig, ino);
    rig.volume.finish_following(followed).unwrap();
    assert!(is_new(&rig.volume.hold(ino).unwrap().body()));
}

#[test]
fn a_switch_to_a_newer_tree_restarts_after_an_abort() {
    let (rig, ino) = published();
    let followed = rig.volume.begin_following(&newer(&rig.volume)).unwrap();
    // One at a time.
    assert!(
        rig.volume
            .begin_following(&newer(&rig.volume))
            .unwrap()
            .is_none()
    );
    drop(followed);
    assert!(rig.volume.is_half_followed() && rig.volume.following().is_some());
    assert!(rig.put("g", b"g").is_err());
    let followed = rig
        .volume
        .begin_following(&newer(&rig.volume))
        .unwrap()
        .unwrap();
    enter(&rig, ino);
    // What was loaded before it was begun is known still.
    assert!(followed.was_loaded(Ino::ROOT));
    rig.volume.finish_following(followed).unwrap();
    assert_eq!(rig.volume.following(), None);
    rig.put("g", b"g").unwrap();
}

#[test]
fn switching_trees_invalidates_everything_the_kernel_may_have_cached() {
    let mut rig = Rig::new();
    let drive = &rig.drive;
    let dir = drive.mkdir(CALLER, rig.root, b"d", 0o755).unwrap();
    let link = drive.symlink(CALLER, dir.ino, b"l", b"to").unwrap();
    rig.put("f", &OLD).unwrap();
    let file = rig.ino("f");
    publish(&mut rig);
    let followed = rig.volume.begin_following(&newer(&rig.volume)).unwrap();
    assert_eq!(rig.volume.take_followed(), None, "before it is done");
    enter(&rig, Ino(9));
    // Also what one that came to no end has taken away.
    drop(followed);
    let followed = rig.volume.begin_following(&newer(&rig.volume)).unwrap();
    rig.volume.finish_following(followed.unwrap()).unwrap();
    let told = rig.volume.take_followed().unwrap();
    let mut once = told.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), told.len(), "{told:?}");
    for ino in [rig.root, dir.ino, link.ino, file] {
        assert!(
            told.contains(&Ino(ino.0 & Ino::MAX.0)),
            "{ino:?} of {told:?}"
        );
    }
    assert_eq!(rig.volume.take_followed(), None, "told once");
}

#[test]
fn a_half_switched_tree_stays_read_only_until_the_switch_finishes() {
    let closed = || Access::ReadOnly("it is no longer ours".to_owned());
    for (before, meanwhile) in [(closed(), Access::Open), (Access::Open, closed())] {
        let (rig, ino) = published();
        rig.volume.set_access(before);
        drop(rig.volume.begin_following(&newer(&rig.volume)).unwrap());
        rig.volume.set_access(meanwhile.clone());
        let made = rig.drive.mkdir(CALLER, rig.root, b"d", 0o755);
        assert_eq!(made, Err(FsError::ReadOnly(TAKEN_OVER.to_owned())));
        // So it can be ended still.
        let followed = rig.volume.begin_following(&newer(&rig.volume)).unwrap();
        enter(&rig, ino);
        rig.volume.finish_following(followed.unwrap()).unwrap();
        let made = rig.drive.mkdir(CALLER, rig.root, b"d", 0o755).map(drop);
        match meanwhile {
            Access::Open => assert_eq!(made, Ok(())),
            Access::ReadOnly(why) => assert_eq!(made, Err(FsError::ReadOnly(why))),
        }
    }
}

#[test]
fn no_call_waits_for_the_disk_that_makes_another_tree_durable() {
    let power = Power::on(Left::default());
    let clock = Arc::new(ManualClock::at(1_700_000_000_000_000_000));
    let cache = Arc::new(Cache::in_memory());
    let (home, stage) = (power.disk(0), power.disk(1));
    let (_drive, volume, _) = open(home, stage, &clock, &cache, Without::default()).unwrap();
    let syncs = Arc::new(AtomicUsize::new(0));
    let (looker, told) = (Arc::downgrade(&volume), Arc::clone(&syncs));
    power.set_pause(Some(Arc::new(move || {
        let volume = looker.upgrade().unwrap();
        assert!(volume.names.try_lock().is_some(), "names are locked");
        told.fetch_add(1, Ordering::Relaxed);
    })));
    let followed = volume.begin_following(&newer(&volume)).unwrap().unwrap();
    assert!(syncs.load(Ordering::Relaxed) > 0);
    volume.finish_following(followed).unwrap();

    // Where it cannot be made durable it is no tree to change, and to be ended.
    power.set_pause(None);
    power.set_fault(Some(Box::new(|_, _, call| {
        (call == Call::SyncData).then_some(ErrorKind::Other)
    })));
    assert!(volume.begin_following(&newer(&volume)).is_err());
    assert!(volume.is_half_followed() && volume.following().is_some());
    power.set_fault(None);
}

#[test]
fn writes_to_a_file_moved_elsewhere_are_refused_or_stored_never_dropped() {
    let (mut rig, ino) = published();
    let (file, dir) = (rig.ino("f"), Ino(9));
    let opened = rig.drive.open(file, READ_WRITE).unwrap();
    let write = |rig: &Rig| rig.drive.write(file, opened.fh, 0, b"mine", false);
    let followed = rig.volume.begin_following(&newer(&rig.volume)).unwrap();
    enter_directory(&rig, dir);
    rig.volume.finish_following(followed.unwrap()).unwrap();
    drop(rig.volume.take_followed());
    // Deleted, or moved to where nobody has looked: nothing is taken that might go nowhere.
    assert_eq!(write(&rig), Err(FsError::Stale));
    let private = SetAttr {
        mode: Some(0o600),
        ..SetAttr::default()
    };
    let changed = rig.drive.setattr(file, None, &private);
    assert_eq!(changed.map(drop), Err(FsError::Stale));
    let set = rig.drive.setxattr(CALLER, file, b"user.a", b"1", 0);
    assert_eq!(set, Err(FsError::Stale));
    // Who has it open still looks at it, and reads what was here.
    let told = rig.drive.getattr(file).unwrap();
    assert_eq!((told.nlink, told.size), (0, OLD.len() as u64));
    assert_eq!(rig.read_handle(file, opened.fh, 0, 10), OLD[..10]);

    // It is found where it was moved to: the same file for all.
    enter_in(&rig, dir, b"within", ino);
    assert_eq!(rig.volume.take_followed(), Some(vec![ino]), "pages of it");
    assert_eq!(rig.drive.getattr(file).unwrap().size, NEW.len() as u64);
    assert_eq!(write(&rig), Ok(4));
    rig.drive.fsync(file, false).unwrap();
    let changed = rig.drive.setattr(file, None, &private);
    assert_eq!(changed.map(|attr| attr.mode), Ok(0o600));
    rig.drive.release(file, opened.fh);
    let rig = rig.crash();
    let body = rig.volume.load_body(ino).unwrap();
    assert!(body.stage.is_some() && body.size == NEW.len() as u64);
}

#[test]
fn a_file_deleted_on_another_machine_goes_at_its_last_close() {
    let (rig, ino) = published();
    let file = rig.ino("f");
    let opened = rig.drive.open(file, READ_WRITE).unwrap();
    let followed = rig.volume.begin_following(&newer(&rig.volume)).unwrap();
    enter_directory(&rig, Ino(9));
    rig.volume.finish_following(followed.unwrap()).unwrap();
    assert!(rig.volume.files.peek(ino).is_some());
    rig.drive.release(file, opened.fh);
    assert!(rig.volume.files.peek(ino).is_none());
    rig.drive.forget(file, || false);
    assert_eq!(rig.drive.getattr(file), Err(FsError::Stale));
    assert_eq!(rig.volume.removed.count(), 0);
}
