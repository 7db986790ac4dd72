//! The promises that need no mount to be shown.

use std::collections::BTreeMap;
use std::time::Duration;

use super::rig::{CALLER, QUOTA, READ_WRITE, Rig};
use crate::fs::{Access, Drive, FsError, Kind, LoadedEntry, SetAttr};
use crate::journal::{Batch, JournalError, key};
use crate::pack::cid::{leaf_cid, node_cid};
use crate::pack::entry::{Attr, Inode, Kind as Published, Sums, TreeRef};
use crate::pack::root::{Root, WriterId};
use crate::pack::{Child, charge};
use crate::types::Ino;

#[test]
fn a_synced_file_survives_a_crash_and_its_name_too() {
    let rig = Rig::new();
    rig.put("kept", b"precious").unwrap();
    rig.drive.fsync(rig.ino("kept"), false).unwrap();
    let mut rig = rig.crash();
    assert_eq!(rig.read("kept"), b"precious");
}

#[test]
fn what_a_crash_takes_is_the_end_of_the_history_alone() {
    let rig = Rig::new();
    for i in 0..50 {
        rig.put(&format!("f{i}"), b"x").unwrap();
    }
    rig.drive.fsync(rig.root, false).unwrap();
    for i in 50..60 {
        rig.put(&format!("f{i}"), b"x").unwrap();
    }
    let rig = rig.crash();
    let there = |i: usize| {
        rig.drive
            .lookup(rig.root, format!("f{i}").as_bytes())
            .is_ok()
    };
    assert!((0..50).all(there));
    let first_gone = (50..60).find(|i| !there(*i)).unwrap_or(60);
    assert!((first_gone..60).all(|i| !there(i)));
}

#[test]
fn a_poisoned_volume_stays_read_only_whatever_access_is_set_later() {
    let rig = Rig::new();
    rig.put("before", b"x").unwrap();
    rig.volume
        .poison(JournalError::Disk("input/output error".to_owned()));
    let refused = rig.put("after", b"x").unwrap_err();
    assert!(matches!(refused, FsError::ReadOnly(_)), "{refused:?}");
    let elsewhere = Access::ReadOnly("another machine writes".to_owned());
    for access in [elsewhere, Access::Open] {
        rig.volume.set_access(access);
        assert_eq!(rig.put("after", b"x"), Err(refused.clone()));
    }
}

#[test]
fn a_full_volume_takes_what_fits_and_still_lets_one_tidy_up() {
    let mut rig = Rig::with_quota(QUOTA);
    let (attr, opened) = rig.create("big");
    let data = vec![7; 1 << 20];
    let mut end = 0;
    loop {
        match rig.drive.write(attr.ino, opened.fh, end, &data, false) {
            Ok(written) => end += u64::from(written),
            Err(error) => {
                assert_eq!(error, FsError::Quota);
                break;
            }
        }
    }
    assert!(end as f64 >= 0.995 * QUOTA as f64, "only {end} bytes fit");
    assert!(rig.used() <= QUOTA);
    assert_eq!(
        rig.drive.symlink(CALLER, rig.root, b"d", b"t"),
        Err(FsError::Quota)
    );
    // Overwriting what is paid for needs no room.
    assert_eq!(
        rig.drive.write(attr.ino, opened.fh, 5, &data, false),
        Ok(1 << 20)
    );
    let set = SetAttr {
        mode: Some(0o600),
        ..SetAttr::default()
    };
    rig.drive.setattr(attr.ino, None, &set).unwrap();
    let long = "n".repeat(255);
    rig.drive
        .rename(rig.root, b"big", rig.root, long.as_bytes(), 0)
        .unwrap();
    assert_eq!(rig.drive.getattr(attr.ino).unwrap().size, end);
    rig.drive.release(attr.ino, opened.fh);
    rig.drive.sync().unwrap();
    rig.reopen();
    assert_eq!(rig.read(&long)[5..10], data[..5]);
    rig.drive.unlink(rig.root, long.as_bytes()).unwrap();
    assert_eq!(rig.used(), charge::VOLUME_OVERHEAD);
    rig.put("again", b"fits").unwrap();
}

#[test]
fn small_files_fill_97_percent() {
    let rig = Rig::with_quota(10 << 20);
    let data = vec![1; 10 << 10];
    let mut count = 0_u64;
    while rig.put(&format!("{count:080}"), &data).is_ok() {
        count += 1;
    }
    // The last file may have been created and then not have fitted.
    let reserve = rig.volume.with_quota(|quota| quota.reserve_bytes());
    let share = (count * 10_240) as f64 / ((10 << 20) - reserve) as f64;
    assert!(share >= 0.97, "{count} files: {share}");
}

#[test]
fn an_overdue_sync_stops_growth_and_nothing_else() {
    let mut rig = Rig::new();
    rig.put("old", b"content").unwrap();
    let ino = rig.ino("old");
    let opened = rig.drive.open(ino, READ_WRITE).unwrap();
    rig.clock.advance(Duration::from_secs(31 * 86_400));
    let root = rig.root;
    let grow = SetAttr {
        size: Some(100),
        ..SetAttr::default()
    };
    let refused = [
        rig.drive.write(ino, opened.fh, 0, b"c", false).map(drop),
        rig.drive.setattr(ino, None, &grow).map(drop),
        rig.drive.fallocate(ino, opened.fh, 0, 100, 0, false),
        rig.put("large", &[1; (16 << 10) + 1]),
        rig.drive
            .mknod(CALLER, root, b"n", Kind::Fifo, 0o644, 0)
            .map(drop),
        rig.drive.symlink(CALLER, root, b"n", b"t").map(drop),
        rig.drive.link(ino, root, b"n").map(drop),
        rig.drive.setxattr(CALLER, ino, b"user.a", b"1", 0),
    ];
    assert!(
        refused.iter().all(|r| *r == Err(FsError::Overdue)),
        "{refused:?}"
    );
    assert_eq!(rig.read("old"), b"content");
    let shrink = SetAttr {
        size: Some(3),
        mode: Some(0o600),
        ..SetAttr::default()
    };
    rig.drive.setattr(ino, None, &shrink).unwrap();
    rig.drive.rename(root, b"old", root, b"new", 0).unwrap();
    rig.drive.unlink(root, b"new").unwrap();
    // It holds after a restart too.
    rig.drive.release(ino, opened.fh);
    rig.drive.sync().unwrap();
    rig.reopen();
    assert_eq!(rig.put("n", &[1; 20_000]), Err(FsError::Overdue));
}

#[test]
fn overdue_drives_take_a_backups_lock_file_but_cannot_be_filled() {
    let mut rig = Rig::new();
    rig.put("old", b"content").unwrap();
    rig.clock.advance(Duration::from_secs(31 * 86_400));
    let root = rig.root;
    // As restic and borg do: a lock under another name at first, and a directory as a lock.
    rig.put("lock-tmp", &[7; 300]).unwrap();
    rig.drive
        .rename(root, b"lock-tmp", root, b"lock", 0)
        .unwrap();
    rig.drive
        .mkdir(CALLER, root, b"lock.exclusive", 0o755)
        .unwrap();
    assert_eq!(rig.read("lock"), [7; 300]);
    let mut made = 2;
    let refused = loop {
        match rig.put(&format!("f{made}"), &[1; 16 << 10]) {
            Ok(()) => made += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((made, refused), (64, FsError::Overdue));
    // Nor by who starts the daemon anew each time, and the locks from before can be written still.
    rig.volume.sync().unwrap();
    rig.reopen();
    let root = rig.root;
    assert_eq!(rig.put("again", b"x"), Err(FsError::Overdue));
    let lock = rig.ino("lock");
    let opened = rig.drive.open(lock, READ_WRITE).unwrap();
    assert_eq!(rig.drive.write(lock, opened.fh, 0, b"y", false), Ok(1));
    rig.drive.release(lock, opened.fh);
    let dir = rig.drive.mkdir(CALLER, root, b"d", 0o755).map(drop);
    assert_eq!(dir, Err(FsError::Overdue));
    // A lock that is renewed takes the place of the one before.
    rig.drive.unlink(root, b"lock").unwrap();
    rig.put("lock", &[8; 300]).unwrap();
    rig.drive.rmdir(root, b"lock.exclusive").unwrap();
    rig.drive
        .mkdir(CALLER, root, b"lock.exclusive", 0o755)
        .unwrap();
    // No byte beyond what a small file may have, and none of a file from before.
    let lock = rig.ino("lock");
    let opened = rig.drive.open(lock, READ_WRITE).unwrap();
    let write = |at| rig.drive.write(lock, opened.fh, at, b"x", false);
    assert_eq!(write((16 << 10) - 1), Ok(1));
    assert_eq!(write(16 << 10), Err(FsError::Overdue));
    let grow = |size| {
        let set = SetAttr {
            size: Some(size),
            ..SetAttr::default()
        };
        rig.drive.setattr(lock, None, &set).map(drop)
    };
    assert_eq!(grow((16 << 10) + 1), Err(FsError::Overdue));
    let old = rig.ino("old");
    let held = rig.drive.open(old, READ_WRITE).unwrap();
    let written = rig.drive.write(old, held.fh, 0, b"x", false);
    assert_eq!(written, Err(FsError::Overdue));
    // Who is synced writes on.
    let mut synced = super::rig::allowance(&rig.clock, QUOTA);
    synced.last_sync_s += 40 * 86_400;
    rig.volume.set_allowance(&synced).unwrap();
    assert_eq!(write(1 << 20), Ok(1));
    rig.put("more", &[1; 100_000]).unwrap();
    // The next time is another time: what stayed of the last one takes nothing of it.
    rig.clock.advance(Duration::from_secs(60 * 86_400));
    assert_eq!(write(0), Err(FsError::Overdue));
    rig.put("the next lock", &[9; 300]).unwrap();
}

#[test]
fn a_full_token_takes_a_lock_and_never_passes_its_quota() {
    let mut rig = Rig::new();
    let root = rig.root;
    fn grow(rig: &Rig, name: &str, len: usize) -> bool {
        let ino = rig.ino(name);
        let opened = rig.drive.open(ino, READ_WRITE).unwrap();
        let end = rig.drive.getattr(ino).unwrap().size;
        let written = rig.drive.write(ino, opened.fh, end, &vec![7; len], false);
        rig.drive.release(ino, opened.fh);
        written == Ok(len as u32)
    }
    rig.put("old", b"content").unwrap();
    rig.put("doomed", &[1; 200_000]).unwrap();
    rig.put("filler", b"").unwrap();
    while grow(&rig, "filler", 1 << 20) {}
    while grow(&rig, "filler", 1) {}
    let full = rig.volume.with_quota(|quota| quota.room_bytes());
    assert_eq!(full, 0);
    // As restic and borg do.
    rig.put("lock-tmp", &[7; 300]).unwrap();
    rig.drive
        .rename(root, b"lock-tmp", root, b"lock", 0)
        .unwrap();
    rig.drive
        .mkdir(CALLER, root, b"lock.exclusive", 0o755)
        .unwrap();
    assert_eq!(rig.read("lock"), [7; 300]);
    // Neither a file from before nor other calls, nor more than a small file.
    assert!(!grow(&rig, "old", 1));
    let link = rig.drive.link(rig.ino("old"), root, b"n").map(drop);
    assert_eq!(link, Err(FsError::Quota));
    rig.put("large", b"").unwrap();
    assert!(!grow(&rig, "large", (16 << 10) + 1));
    assert_eq!(rig.drive.getattr(rig.ino("large")).unwrap().size, 16 << 10);
    assert!(!grow(&rig, "large", 1));
    rig.drive.unlink(root, b"large").unwrap();
    // Over restarts, too, one ends at the share of the reserve.
    let mut made = 0;
    for _ in 0..3 {
        while rig.put(&format!("f{made}"), &[1; 4000]).is_ok() {
            made += 1;
        }
        rig.volume.sync().unwrap();
        rig.reopen();
    }
    let (used, reserve) = (rig.volume).with_quota(|q| (q.used_bytes(), q.reserve_bytes()));
    assert!(made >= 5, "{made}");
    assert!(used <= QUOTA - reserve / 2, "{used}");
    // One that is renewed takes the place of the one before.
    let root = rig.root;
    rig.drive.unlink(root, b"lock").unwrap();
    rig.put("lock", &[8; 300]).unwrap();
    // With ordinary room again those are files like any others, and another 64 can be made at the next time.
    rig.drive.unlink(root, b"doomed").unwrap();
    for n in 0..100 {
        rig.put(&format!("n{n}"), b"").unwrap();
    }
    assert!(grow(&rig, "f0", 1));
    while grow(&rig, "filler", 1) {}
    for n in 0..64 {
        rig.put(&format!("m{n}"), b"").unwrap();
    }
    assert_eq!(rig.put("one more", b""), Err(FsError::Quota));
}

#[test]
fn a_token_that_went_away_takes_no_change_at_all() {
    let mut rig = Rig::new();
    rig.put("f", b"1").unwrap();
    rig.volume
        .set_access(Access::ReadOnly("transferred".to_owned()));
    let gone = FsError::ReadOnly("transferred".to_owned());
    assert_eq!(rig.put("g", b"1"), Err(gone.clone()));
    assert_eq!(rig.drive.unlink(rig.root, b"f"), Err(gone.clone()));
    assert_eq!(rig.drive.open(rig.ino("f"), READ_WRITE), Err(gone));
    assert_eq!(rig.read("f"), b"1");
}

#[test]
fn the_mount_root_takes_nothing() {
    let rig = Rig::new();
    let root = crate::types::Ino::ROOT;
    assert_eq!(
        rig.drive.mkdir(CALLER, root, b"2", 0o755),
        Err(FsError::NotPermitted)
    );
    assert_eq!(rig.drive.rmdir(root, b"1"), Err(FsError::NotPermitted));
    assert_eq!(rig.drive.unlink(root, b"1"), Err(FsError::NotPermitted));
    assert_eq!(
        rig.drive.rename(root, b"1", root, b"2", 0),
        Err(FsError::NotPermitted)
    );
}

#[test]
fn an_unlinked_open_file_lives_until_it_is_closed() {
    let mut rig = Rig::new();
    let before = rig.used();
    let (attr, opened) = rig.create("f");
    rig.drive
        .write(attr.ino, opened.fh, 0, &vec![1; 200_000], false)
        .unwrap();
    rig.drive.unlink(rig.root, b"f").unwrap();
    assert_eq!(rig.used(), before, "deleting frees at once");
    rig.drive
        .write(attr.ino, opened.fh, 200_000, b"more", false)
        .unwrap();
    assert_eq!(
        rig.read_handle(attr.ino, opened.fh, 199_999, 5),
        b"\x01more"
    );
    rig.drive.release(attr.ino, opened.fh);
    rig.drive.forget(attr.ino, || false);
    assert_eq!(rig.drive.getattr(attr.ino), Err(FsError::NotFound));
    assert_eq!(rig.used(), before);
    rig.drive.sync().unwrap();
    rig.reopen();
    assert_eq!(rig.used(), before);
}

#[test]
fn readdir_neither_skips_nor_repeats_while_entries_come_and_go() {
    let rig = Rig::new();
    for i in 0..600 {
        rig.put(&format!("f{i}"), b"").unwrap();
    }
    let mut seen = Vec::new();
    let mut cookie = 0;
    loop {
        let mut step = Vec::new();
        rig.drive
            .readdir(rig.root, cookie, false, &mut |item, _| {
                cookie = item.cookie;
                step.push(item.name.clone());
                step.len() < 50
            })
            .unwrap();
        if step.is_empty() {
            break;
        }
        let first = step[0].clone();
        seen.extend(step);
        if first.starts_with(b"f") {
            let _ = rig.drive.unlink(rig.root, &first);
            let _ = rig.put(&format!("new{}", seen.len()), b"");
        }
    }
    for i in 0..600 {
        let name = format!("f{i}").into_bytes();
        assert_eq!(seen.iter().filter(|n| **n == name).count(), 1, "f{i}");
    }
}

#[test]
fn a_name_that_is_replaced_or_made_again_is_listed_once() {
    let rig = Rig::new();
    for i in 0..400 {
        rig.put(&format!("f{i}"), b"").unwrap();
    }
    let (mut seen, mut cookie) = (Vec::new(), 0);
    loop {
        let before = seen.len();
        rig.drive
            .readdir(rig.root, cookie, false, &mut |item, _| {
                cookie = item.cookie;
                seen.push(item.name.clone());
                seen.len() < before + 20
            })
            .unwrap();
        if seen.len() == before {
            break;
        }
        // Behind the reader and before it.
        for i in (0..400).step_by(7) {
            let name = format!("f{i}");
            if i % 2 == 0 {
                rig.put("new", b"").unwrap();
                rig.drive
                    .rename(rig.root, b"new", rig.root, name.as_bytes(), 0)
                    .unwrap();
            } else {
                rig.drive.unlink(rig.root, name.as_bytes()).unwrap();
                rig.put(&name, b"").unwrap();
            }
        }
    }
    for i in 0..400 {
        let name = format!("f{i}").into_bytes();
        assert_eq!(seen.iter().filter(|n| **n == name).count(), 1, "f{i}");
    }
}

#[test]
fn hard_links_share_one_charge_and_one_content() {
    let mut rig = Rig::new();
    let before = rig.used();
    rig.put("a", &vec![5; 10_000]).unwrap();
    let ino = rig.ino("a");
    rig.drive.link(ino, rig.root, b"b").unwrap();
    assert!(rig.used() < before + 12_000);
    assert_eq!(rig.drive.getattr(ino).unwrap().nlink, 2);
    rig.drive.unlink(rig.root, b"a").unwrap();
    assert_eq!(rig.read("b"), vec![5; 10_000]);
    rig.drive.unlink(rig.root, b"b").unwrap();
    assert_eq!(rig.used(), before);
}

#[test]
fn a_directory_cannot_move_below_itself_and_links_are_counted() {
    let rig = Rig::new();
    let a = rig.drive.mkdir(CALLER, rig.root, b"a", 0o755).unwrap().ino;
    let b = rig.drive.mkdir(CALLER, a, b"b", 0o755).unwrap().ino;
    assert_eq!(
        rig.drive.rename(rig.root, b"a", b, b"c", 0),
        Err(FsError::Invalid)
    );
    assert_eq!(rig.drive.rmdir(rig.root, b"a"), Err(FsError::NotEmpty));
    let links = |ino| rig.drive.getattr(ino).unwrap().nlink;
    assert_eq!((links(rig.root), links(a)), (3, 3));
    rig.drive.rename(a, b"b", rig.root, b"b", 0).unwrap();
    assert_eq!((links(rig.root), links(a)), (4, 2));
    rig.drive.rename(rig.root, b"b", rig.root, b"a", 0).unwrap();
    assert_eq!(links(rig.root), 3);
    rig.drive.rmdir(rig.root, b"a").unwrap();
    assert_eq!(rig.used(), charge::VOLUME_OVERHEAD);
}

#[test]
fn files_of_an_orphaned_volume_never_pass_for_a_new_volumes() {
    let old = Rig::new();
    old.put("file", b"old").unwrap();
    let slot = old.drive.volumes()[0].0;
    old.drive.set_aside(slot, "1.detached").unwrap();
    let new = Rig::new();
    let given = old.drive.attach("1", slot, new.volume.clone()).unwrap();
    assert_ne!(given, slot);
    // Not even when the old one is gone: the kernel may still hold pages of its files.
    old.drive.detach(slot);
    let third = Rig::new();
    let given = old.drive.attach("2", slot, third.volume.clone()).unwrap();
    assert_ne!(given, slot);
}

#[test]
fn tokens_with_colliding_inode_slots_keep_theirs_in_any_mount_order() {
    let (first, second) = (Rig::new(), Rig::new());
    let attach =
        |drive: &Drive, rig: &Rig, name: &str| drive.attach(name, 7, rig.volume.clone()).unwrap();
    let drive = Drive::new((0, 0), 0);
    let slots = [attach(&drive, &first, "1"), attach(&drive, &second, "2")];
    assert_ne!(slots[0], slots[1]);
    // The next mount meets them in another order.
    let drive = Drive::new((0, 0), 0);
    let again = [attach(&drive, &second, "2"), attach(&drive, &first, "1")];
    assert_eq!(again, [slots[1], slots[0]]);
}

#[test]
fn room_that_is_granted_no_more_is_not_told_as_free() {
    let rig = Rig::new();
    rig.put("file", &vec![1; 200_000]).unwrap();
    let root = rig.drive.statfs(crate::types::Ino::ROOT).unwrap();
    assert_eq!(root.blocks, QUOTA / 4096);
    rig.drive
        .set_aside(rig.drive.volumes()[0].0, "1.detached")
        .unwrap();
    let root = rig.drive.statfs(crate::types::Ino::ROOT).unwrap();
    assert_eq!((root.blocks, root.free), (0, 0));
    let own = rig.drive.statfs(rig.root).unwrap();
    assert_eq!((own.free, own.available), (0, 0));
    assert!(own.blocks >= 200_000 / 4096, "{own:?}");
    assert!(rig.drive.lookup(crate::types::Ino::ROOT, b"1").is_err());
}

#[test]
fn what_is_not_published_counts_before_it_is_saved_and_once_after() {
    let rig = Rig::new();
    let (attr, opened) = rig.create("large");
    let data = vec![1; 200_000];
    rig.drive
        .write(attr.ino, opened.fh, 0, &data, false)
        .unwrap();
    for _ in 0..2 {
        let pending = rig.volume.pending().unwrap();
        assert_eq!((pending.files, pending.bytes), (1, 200_000));
        rig.volume.sync().unwrap();
    }
    rig.drive.unlink(rig.root, b"large").unwrap();
    rig.drive
        .write(attr.ino, opened.fh, 0, &data, false)
        .unwrap();
    assert_eq!(rig.volume.pending().unwrap().files, 0);
}

#[test]
fn truncating_during_every_commit_needs_only_the_last_root() {
    let mut rig = Rig::new();
    rig.put("log", &vec![7; 3 << 20]).unwrap();
    let ino = rig.ino("log");
    let mut last = None;
    for round in 0..4_u8 {
        let cut = rig.volume.cut().unwrap();
        let changes = cut.changes().unwrap();
        if let Some(last) = last {
            let file = cut.file(changes.files[0]).unwrap();
            assert_eq!(file.base.map(|(child, _)| child.cid), Some(last));
        }
        let (built, _) = rig.build(&cut, &changes);
        let kept = (2 << 20) - u64::from(round) * 1000;
        for size in [kept, 3 << 20] {
            let set = SetAttr {
                size: Some(size),
                ..SetAttr::default()
            };
            rig.drive.setattr(ino, None, &set).unwrap();
        }
        cut.settle(&changes, &built).unwrap();
        drop(cut);
        let newest = built.files.get(changes.files[0]).unwrap().unwrap().cid;
        rig.published.retain(|cid, _| *cid == newest);
        last = Some(newest);
        let mut expected = vec![7; kept as usize];
        expected.resize(3 << 20, 0);
        assert!(rig.read("log") == expected);
    }
}

/// Two entries of a published root directory with three, as a second machine gets them.
fn half_loaded(rig: &Rig) -> Vec<LoadedEntry> {
    let attr = Attr {
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime_ns: 1,
        ctime_ns: 1,
        birth_ns: 1,
        xattrs: BTreeMap::new(),
    };
    let empty = Child::new(leaf_cid(b""), 0);
    let tree = |entries| TreeRef {
        root: Child::new(node_cid(b"tree"), 0),
        sums: Sums {
            bytes: 1000,
            inodes: entries,
            entries,
            subdirs: 0,
        },
    };
    let root = Root {
        volume: rig.volume.key(),
        sequence: 1,
        parent: None,
        versions: BTreeMap::new(),
        writer: WriterId([1; 16]),
        time_ns: 1,
        next_inode: Ino(10),
        attr: attr.clone(),
        tree: tree(3),
        table: tree(0),
        header: empty,
    };
    assert!(rig.volume.adopt_root(&root, Vec::new()).unwrap());
    let entry = |name: &'static str, ino| LoadedEntry {
        name: name.into(),
        ino: Ino(ino),
        inode: Inode {
            attr: attr.clone(),
            kind: Published::Symlink(b"target".as_slice().into()),
            links: 1,
        },
        hard: false,
    };
    let entries = vec![entry("one", 2), entry("two", 3)];
    rig.volume
        .enter_loaded(Ino::ROOT, &node_cid(b"tree"), &entries)
        .unwrap();
    entries
}

#[test]
fn removals_while_a_directory_loads_are_refused_and_later_ones_stick() {
    let rig = Rig::new();
    let entries = half_loaded(&rig);
    let (root, drive) = (rig.root, &rig.drive);
    assert!(drive.lookup(root, b"one").is_ok(), "it is here already");
    for attempt in [
        drive.unlink(root, b"one"),
        drive.rename(root, b"one", root, b"three", 0),
        drive.rmdir(root, b"one"),
    ] {
        assert!(matches!(attempt, Err(FsError::NotLocal(_))), "{attempt:?}");
    }
    rig.volume
        .enter_loaded(Ino::ROOT, &node_cid(b"tree"), &entries)
        .unwrap();
    rig.volume
        .finish_loading(Ino::ROOT, &node_cid(b"tree"))
        .unwrap();
    drive.unlink(root, b"one").unwrap();
    drive.rename(root, b"two", root, b"three", 0).unwrap();
    rig.volume
        .enter_loaded(Ino::ROOT, &node_cid(b"tree"), &entries)
        .unwrap();
    assert!(drive.lookup(root, b"one").is_err());
    assert!(drive.lookup(root, b"two").is_err());
    assert!(drive.lookup(root, b"three").is_ok());
}

#[test]
fn files_that_were_exchanged_keep_both_contents_through_a_crash() {
    let rig = Rig::new();
    let (old, new) = (vec![1; 300_000], vec![2; 300_000]);
    rig.put("current", &old).unwrap();
    rig.drive.fsync(rig.ino("current"), false).unwrap();
    rig.put("next", &new).unwrap();
    let (root, exchange) = (rig.root, 2);
    rig.drive
        .rename(root, b"current", root, b"next", exchange)
        .unwrap();
    rig.drive.fsync(root, false).unwrap();
    let mut rig = rig.crash();
    assert!(rig.read("current") == new);
    assert!(rig.read("next") == old);
}

#[test]
fn an_inode_has_65000_names_at_most() {
    let rig = Rig::new();
    rig.put("f", b"content").unwrap();
    let ino = rig.ino("f");
    let inner = Ino(ino.0 & Ino::MAX.0);
    let mut inode = rig.volume.inode(inner).unwrap();
    inode.nlink = 64_999;
    let mut batch = Batch::default();
    batch.put(key::inode(inner), &inode);
    rig.volume.apply(batch).unwrap();
    let attr = rig.drive.link(ino, rig.root, b"last").unwrap();
    assert_eq!(attr.nlink, 65_000);
    let used = rig.used();
    let more = rig.drive.link(ino, rig.root, b"more");
    assert_eq!((more, rig.used()), (Err(FsError::TooManyLinks), used));
}
