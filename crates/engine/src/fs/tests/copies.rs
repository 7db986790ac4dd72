//! `copy_file_range`: what is published is taken over, and is the copy's own from then on.

use super::rig::{READ_WRITE, Rig};
use crate::fs::{FsError, LostBlock, SetAttr};
use crate::pack::chunk::CHUNK_SIZE;

const LEN: usize = 4 * CHUNK_SIZE as usize + 1000;

fn content() -> Vec<u8> {
    (0..LEN).map(|at| (at / 777) as u8 | 1).collect()
}

/// Publishes everything; how many contents had to be built of bytes.
fn publish(rig: &mut Rig) {
    let cut = rig.volume.cut().unwrap();
    let changes = cut.changes().unwrap();
    let (built, _) = rig.build(&cut, &changes);
    cut.settle(&changes, &built).unwrap();
}

/// A rig with the published file `from`, nothing of which is on this machine.
fn published() -> Rig {
    let mut rig = Rig::new();
    rig.put("from", &content()).unwrap();
    publish(&mut rig);
    rig.forget_cache();
    rig
}

/// One call: copies what it can of `from` at `offset` to the same place of `to`.
fn copy(rig: &Rig, offset: u64, len: u64) -> Result<u32, FsError> {
    let (from, to) = (rig.ino("from"), rig.ino("to"));
    let source = rig.drive.open(from, 0).unwrap().fh;
    let target = rig.drive.open(to, READ_WRITE).unwrap().fh;
    let copied = rig
        .drive
        .copy_file_range((source, offset), (target, offset), len, false);
    rig.drive.release(from, source);
    rig.drive.release(to, target);
    copied
}

fn resize(rig: &Rig, name: &str, size: u64) {
    let set = SetAttr {
        size: Some(size),
        ..SetAttr::default()
    };
    rig.drive.setattr(rig.ino(name), None, &set).unwrap();
}

/// Nothing of the file's content has to be read or sent by the next commit.
fn assert_linked_as_it_is(rig: &Rig, name: &str) {
    rig.drive.sync().unwrap();
    let cut = rig.volume.cut().unwrap();
    let ino = crate::types::Ino(rig.ino(name).0 & crate::types::Ino::MAX.0);
    let file = cut.file(ino).unwrap();
    assert_eq!(file.changed().count(), 0, "chunks of {name} are built anew");
    assert!(file.base.is_some() && file.inline.is_none());
}

#[test]
fn copying_a_published_file_reads_no_data_and_is_charged_in_full() {
    let mut rig = published();
    let before = rig.used();
    rig.put("to", b"what was there before").unwrap();
    let one = rig.used() - before;
    assert_eq!(copy(&rig, 0, 1 << 40), Ok(LEN as u32));
    assert!(
        rig.used() - before - one >= LEN as u64 - 100,
        "shared blocks count for each"
    );
    assert_linked_as_it_is(&rig, "to");
    publish(&mut rig);
    rig = rig.crash();
    assert!(rig.read("to") == content());
}

#[test]
fn a_commit_puts_nothing_below_a_copy_that_was_made_beside_it() {
    let mut rig = published();
    rig.put("to", &[7; 3000]).unwrap();
    let cut = rig.volume.cut().unwrap();
    let changes = cut.changes().unwrap();
    let (built, _) = rig.build(&cut, &changes);
    resize(&rig, "to", 1000);
    assert_eq!(copy(&rig, 0, 1 << 40), Ok(LEN as u32));
    // The file counts two cuts now: were one of them in what the commit holds, the other would be the copy.
    let ino = crate::types::Ino(rig.ino("to").0 & crate::types::Ino::MAX.0);
    assert_eq!(cut.lowest(ino, 1), None);
    assert_eq!(cut.lowest(ino, 2), Some(0));
    cut.settle(&changes, &built).unwrap();
    drop(cut);
    publish(&mut rig);
    rig = rig.crash();
    assert!(rig.read("to") == content());
}

#[test]
fn copies_in_pieces_share_blocks_with_holes_and_over_staged_data() {
    let mut rig = published();
    let from = rig.ino("from");
    let opened = rig.drive.open(from, READ_WRITE).unwrap();
    rig.drive
        .fallocate(from, opened.fh, CHUNK_SIZE, CHUNK_SIZE, 3, false)
        .unwrap();
    rig.put("to", &vec![7; 3 * CHUNK_SIZE as usize]).unwrap();
    let mut expected = content();
    expected[CHUNK_SIZE as usize..2 * CHUNK_SIZE as usize].fill(0);
    // As the kernel cuts a long copy: not at a chunk.
    assert_eq!(
        copy(&rig, 0, 3 * CHUNK_SIZE - 4096),
        Ok(2 * CHUNK_SIZE as u32)
    );
    assert_eq!(
        copy(&rig, 2 * CHUNK_SIZE, 1 << 30),
        Ok((LEN as u64 - 2 * CHUNK_SIZE) as u32)
    );
    assert_linked_as_it_is(&rig, "to");
    assert!(rig.read("to") == expected);
    let blocks = |name: &str| rig.drive.getattr(rig.ino(name)).unwrap().blocks;
    assert_eq!(blocks("to"), blocks("from"), "holes stay holes");
    // Over another content, and only in part: that cannot be shared.
    let mut rig = published();
    rig.put("to", &vec![7; LEN + 5]).unwrap();
    publish(&mut rig);
    assert_eq!(
        copy(&rig, 0, 1 << 30),
        Err(FsError::NotSupported),
        "not on this machine"
    );
    assert!(rig.read("to") == vec![7; LEN + 5]);
}

#[test]
fn a_commit_under_way_does_not_come_below_a_copy() {
    for before in [0, 100, LEN + 5] {
        let mut rig = published();
        rig.put("to", &vec![9; before]).unwrap();
        let cut = rig.volume.cut().unwrap();
        let changes = cut.changes().unwrap();
        resize(&rig, "to", 0);
        assert_eq!(copy(&rig, 0, 1 << 30), Ok(LEN as u32));
        let (built, _) = rig.build(&cut, &changes);
        cut.settle(&changes, &built).unwrap();
        drop(cut);
        assert!(rig.read("to") == content(), "over {before} bytes");
        rig.drive.sync().unwrap();
        rig = rig.crash();
        assert!(
            rig.read("to") == content(),
            "over {before} bytes, after a crash"
        );
        publish(&mut rig);
        assert!(
            rig.read("to") == content(),
            "over {before} bytes, published"
        );
    }
    // The same where nothing was emptied.
    let mut rig = published();
    rig.put("to", b"").unwrap();
    let cut = rig.volume.cut().unwrap();
    let changes = cut.changes().unwrap();
    assert_eq!(copy(&rig, 0, 1 << 30), Ok(LEN as u32));
    let (built, _) = rig.build(&cut, &changes);
    cut.settle(&changes, &built).unwrap();
    drop(cut);
    assert!(rig.read("to") == content(), "over nothing");
    publish(&mut rig);
    assert!(rig.read("to") == content(), "over nothing, published");
}

#[test]
fn a_copy_outlives_what_becomes_of_its_source() {
    for (what, published_first) in [
        (0, false),
        (0, true),
        (1, false),
        (1, true),
        (2, false),
        (2, true),
    ] {
        let mut rig = published();
        rig.put("to", b"").unwrap();
        assert_eq!(copy(&rig, 0, 1 << 30), Ok(LEN as u32));
        if published_first {
            publish(&mut rig);
        }
        match what {
            0 => rig.drive.unlink(rig.root, b"from").unwrap(),
            1 => resize(&rig, "from", 10),
            _ => {
                rig.drive.unlink(rig.root, b"from").unwrap();
                rig.put("from", &vec![3; LEN]).unwrap();
            }
        }
        publish(&mut rig);
        rig.forget_cache();
        assert!(rig.read("to") == content());
        // And the other way round.
        resize(&rig, "to", 5);
        if what == 2 {
            assert!(rig.read("from") == vec![3; LEN]);
        }
    }
}

/// The node has lost a block of `from`.
fn lose(rig: &Rig) {
    let lost = LostBlock {
        cid: crate::pack::cid::leaf_cid(b"gone"),
        chunk: None,
        why: "gone".to_owned(),
    };
    let from = crate::types::Ino(rig.ino("from").0 & crate::types::Ino::MAX.0);
    let published = rig.volume.cut().unwrap().file(from).unwrap().base;
    let (of, _) = published.unwrap();
    rig.volume.note_lost(from, &of.cid, &lost);
}

#[test]
fn a_loss_is_reported_again_if_a_crash_restores_its_file() {
    let rig = published();
    lose(&rig);
    let count = |rig: &Rig| rig.volume.losses(9).unwrap().len();
    assert_eq!(count(&rig), 1);
    rig.drive.open(rig.ino("from"), READ_WRITE).unwrap();
    resize(&rig, "from", 0);
    assert_eq!(count(&rig), 0, "nobody needs it any more");
    rig.volume.sync_journal().unwrap();
    let mut rig = rig.crash();
    assert_eq!(count(&rig), 1, "the file is back");
    resize(&rig, "from", 0);
    rig.drive.sync().unwrap();
    assert_eq!(count(&rig), 0);
    rig.reopen();
    assert_eq!(count(&rig), 0);
}

#[test]
fn what_the_node_has_lost_is_not_shared() {
    let mut rig = published();
    rig.put("to", b"").unwrap();
    lose(&rig);
    assert_eq!(copy(&rig, 0, 1 << 30), Err(FsError::NotSupported));
    assert!(rig.read("to").is_empty());
}

#[test]
fn a_copy_ends_at_the_exact_byte_of_the_quota() {
    let mut rig = Rig::with_quota(8 << 20);
    rig.put("from", &content()).unwrap();
    publish(&mut rig);
    rig.put("to", b"").unwrap();
    let (mut at, mut calls) = (0, 0);
    let end = loop {
        match copy(&rig, at, 1 << 30) {
            Ok(copied) => at += u64::from(copied),
            Err(FsError::NotSupported) => drop(rig.read("from")),
            Err(error) => break error,
        }
        calls += 1;
        assert!(calls < 20);
    };
    assert_eq!(end, FsError::Quota);
    assert!(at > CHUNK_SIZE && at < LEN as u64, "{at}");
    assert_eq!(rig.volume.with_quota(|quota| quota.room_bytes()), 0);
    assert!(rig.read("to") == content()[..at as usize]);
}
