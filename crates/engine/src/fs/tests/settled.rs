//! What is done at once elsewhere: a commit settles what a user opens, a file grows into the room of
//! another.

use std::cell::RefCell;

use super::rig::{READ_WRITE, Rig};
use crate::fs::SetAttr;
use crate::journal::key;
use crate::journal::record::Content;
use crate::types::Ino;

#[test]
fn published_data_is_readable_locally_before_the_cache_adopts_it() {
    let mut rig = Rig::new();
    rig.put("f", &[7; 200_000]).unwrap();
    let ino = rig.ino("f");
    let cut = rig.volume.cut().unwrap();
    let changes = cut.changes().unwrap();
    let (built, _) = rig.build(&cut, &changes);
    cut.settle(&changes, &built).unwrap();
    let opened = rig.drive.open(ino, READ_WRITE).unwrap();
    let read = rig.drive.read(ino, opened.fh, 0, 200_000);
    assert_eq!(read.unwrap(), [7; 200_000]);
    drop(cut);
}

#[test]
fn a_file_that_is_settled_while_it_is_opened_opens() {
    let mut rig = Rig::new();
    rig.put("f", &[7; 200_000]).unwrap();
    let ino = Ino(rig.ino("f").0 & Ino::MAX.0);
    rig.volume.sync().unwrap();
    let cut = rig.volume.cut().unwrap();
    let changes = cut.changes().unwrap();
    let (built, _) = rig.build(&cut, &changes);
    let volume = &rig.volume;
    let commit = RefCell::new(Some(cut));
    let held = volume.files.hold(ino, || {
        let content: Content = volume.journal.record(&key::content(ino))?.unwrap();
        // Between its records and its stage file.
        if let Some(cut) = commit.borrow_mut().take() {
            cut.settle(&changes, &built)?;
            drop(cut);
            volume.sync()?;
        }
        if let Some(stage) = content.stage {
            volume.stage.get(stage)?;
        }
        volume.load_body(ino)
    });
    volume.leave(held.unwrap());
    assert_eq!(rig.stage_files(), 0);
    assert_eq!(rig.read("f"), [7; 200_000]);
}

#[test]
fn a_crash_brings_back_no_more_than_the_quota() {
    let rig = Rig::with_quota(1 << 20);
    rig.put("f", &[7; 600_000]).unwrap();
    rig.volume.sync().unwrap();
    let shorter = SetAttr {
        size: Some(10),
        ..SetAttr::default()
    };
    rig.drive.setattr(rig.ino("f"), None, &shorter).unwrap();
    rig.put("g", &[8; 600_000]).unwrap();
    rig.drive.fsync(rig.ino("g"), false).unwrap();
    let mut rig = rig.crash();
    assert!(rig.used() <= 1 << 20, "{} bytes", rig.used());
    assert_eq!(rig.read("g"), [8; 600_000]);
}

#[test]
fn fsync_at_full_quota_saves_only_files_that_gave_space() {
    let rig = Rig::with_quota(1 << 20);
    rig.put("f", &[7; 600_000]).unwrap();
    rig.volume.sync().unwrap();
    let shorter = SetAttr {
        size: Some(10),
        ..SetAttr::default()
    };
    rig.drive.setattr(rig.ino("f"), None, &shorter).unwrap();
    rig.put("g", &[8; 600_000]).unwrap();
    rig.put("other", &[9; 200_000]).unwrap();
    rig.drive.fsync(rig.ino("g"), false).unwrap();
    let is_unsaved = |name| {
        let ino = Ino(rig.ino(name).0 & Ino::MAX.0);
        rig.volume.unsaved.contains(ino)
    };
    let unsaved = ["f", "g", "other"].map(is_unsaved);
    assert_eq!(unsaved, [false, false, true]);
}
