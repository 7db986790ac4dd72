//! Access times: moved as `relatime` says, by reading alone, and nobody's business but this machine's.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::rig::{CALLER, READ_WRITE, Rig};
use crate::fs::{Access, SetAttr};
use crate::types::Ino;

const O_NOATIME: i32 = 0o1_000_000;
const DAY: Duration = Duration::from_secs(24 * 3600);

fn atime(rig: &Rig, ino: Ino) -> i64 {
    rig.drive.getattr(ino).unwrap().atime_ns
}

/// Time passes, the file is read; whether that moved its access time.
fn read_moves(rig: &Rig, ino: Ino, flags: i32) -> bool {
    rig.clock.advance(Duration::from_secs(10));
    let before = atime(rig, ino);
    let opened = rig.drive.open(ino, flags).unwrap();
    rig.drive.read(ino, opened.fh, 0, 10).unwrap();
    rig.drive.release(ino, opened.fh);
    atime(rig, ino) != before
}

#[test]
fn atime_moves_on_the_first_read_after_a_change_or_day() {
    let mut rig = Rig::new();
    rig.put("f", b"content").unwrap();
    let ino = rig.ino("f");
    assert!(read_moves(&rig, ino, 0), "never read");
    assert!(!read_moves(&rig, ino, 0), "read since");
    let opened = rig.drive.open(ino, READ_WRITE).unwrap();
    rig.clock.advance(Duration::from_secs(1));
    rig.drive.write(ino, opened.fh, 0, b"C", false).unwrap();
    assert!(read_moves(&rig, ino, 0), "written since");
    let mode = SetAttr {
        mode: Some(0o600),
        ..SetAttr::default()
    };
    rig.clock.advance(Duration::from_secs(1));
    rig.drive.setattr(ino, None, &mode).unwrap();
    assert!(read_moves(&rig, ino, 0), "changed since");
    assert!(!read_moves(&rig, ino, 0));
    rig.clock.advance(DAY);
    assert!(!read_moves(&rig, ino, O_NOATIME));
    assert!(read_moves(&rig, ino, 0), "a day old");
    rig.drive.release(ino, opened.fh);
    let now = atime(&rig, ino);
    rig.drive.sync().unwrap();
    rig.reopen();
    assert_eq!(atime(&rig, ino), now, "after a restart");
    assert!(!read_moves(&rig, ino, 0));

    let set = SetAttr {
        atime_ns: Some(77),
        ..SetAttr::default()
    };
    rig.drive.setattr(ino, None, &set).unwrap();
    assert_eq!(atime(&rig, ino), 77, "as it was set");
    rig.drive.sync().unwrap();
    rig.reopen();
    assert_eq!(atime(&rig, ino), 77);
    assert!(read_moves(&rig, ino, 0));
    rig.volume
        .set_access(Access::ReadOnly("given away".to_owned()));
    rig.clock.advance(DAY);
    assert!(
        !read_moves(&rig, ino, 0),
        "nothing is changed of what is read-only"
    );
    rig.volume.set_access(Access::Open);
    rig.drive.keep_access_times(false, true);
    assert!(!read_moves(&rig, ino, 0), "noatime");
}

#[test]
fn listing_updates_a_directorys_atime_unless_turned_off() {
    let rig = Rig::new();
    let folder = rig.drive.mkdir(CALLER, rig.root, b"d", 0o755).unwrap().ino;
    for (of_folders, moves) in [(true, true), (false, false)] {
        rig.drive.keep_access_times(true, of_folders);
        rig.clock.advance(DAY);
        let before = atime(&rig, folder);
        let listed = rig.drive.readdir(folder, 0, false, &mut |_, _| true);
        listed.unwrap();
        assert_eq!(atime(&rig, folder) > before, moves);
    }
}

#[test]
fn reading_leaves_nothing_to_publish_and_brings_back_nothing_that_was_removed() {
    let mut rig = Rig::new();
    rig.put("f", b"content").unwrap();
    let link = rig.drive.symlink(CALLER, rig.root, b"l", b"f").unwrap().ino;
    let folder = rig.drive.mkdir(CALLER, rig.root, b"d", 0o755).unwrap().ino;
    let cut = rig.volume.cut().unwrap();
    let changes = cut.changes().unwrap();
    let (built, _) = rig.build(&cut, &changes);
    cut.settle(&changes, &built).unwrap();
    drop(cut);
    let file = rig.ino("f");
    let before = [file, link, folder].map(|ino| atime(&rig, ino));
    assert!(read_moves(&rig, file, 0));
    rig.drive.readlink(link).unwrap();
    rig.drive
        .readdir(folder, 0, false, &mut |_, _| true)
        .unwrap();
    let after = [file, link, folder].map(|ino| atime(&rig, ino));
    assert!(
        before
            .iter()
            .zip(&after)
            .all(|(before, after)| after > before)
    );
    rig.drive.sync().unwrap();
    assert_eq!(rig.volume.activity(), None);
    assert!(!rig.volume.pending().unwrap().any);
    rig = rig.crash();
    assert_eq!([file, link, folder].map(|ino| atime(&rig, ino)), after);

    let used = rig.used();
    rig.clock.advance(DAY);
    assert!(read_moves(&rig, file, 0));
    rig.drive.unlink(rig.root, b"f").unwrap();
    rig.drive.forget(file, || false);
    rig.drive.sync().unwrap();
    assert!(rig.drive.getattr(file).is_err() && rig.used() < used);
}

#[test]
fn atime_never_goes_backwards_while_the_journal_saves_it() {
    let rig = Rig::new();
    let folder = rig.drive.mkdir(CALLER, rig.root, b"d", 0o755).unwrap().ino;
    let ino = Ino(folder.0 & Ino::MAX.0);
    let volume = &rig.volume;
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let told = scope.spawn(|| {
            let mut last = i64::MIN;
            while !is_over.load(Ordering::Relaxed) {
                let now = volume.getattr(ino).unwrap().atime_ns;
                assert!(now >= last, "{now} after {last}");
                last = now;
            }
        });
        for _ in 0..20_000 {
            rig.clock.advance(DAY);
            volume.note_access(ino);
            volume.save_accesses().unwrap();
            if told.is_finished() {
                break;
            }
        }
        is_over.store(true, Ordering::Relaxed);
    });
}
