//! What is read a page at a time: what a crash has left, and what a commit is made of.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use super::rig::Rig;
use crate::fs::recover::Bounds;
use crate::journal::key;
use crate::types::Ino;

const PAGE: usize = 8;

fn bytes(seed: usize, len: usize) -> Vec<u8> {
    (0..len)
        .map(|at| ((at / 7 + seed * 31) % 251) as u8)
        .collect()
}

#[test]
fn recovery_works_a_page_at_a_time_and_removes_crash_leftovers() {
    let rig = Rig::new();
    // Staged files, one of them of many chunks.
    for n in 0..40 {
        rig.put(&format!("staged-{n}"), &bytes(n, 70_000 + n))
            .unwrap();
    }
    let (attr, opened) = rig.create("sparse");
    for n in 0..30_u64 {
        let at = n * (1 << 20) + 5;
        rig.drive
            .write(attr.ino, opened.fh, at, b"here", false)
            .unwrap();
    }
    rig.drive.release(attr.ino, opened.fh);
    // Unlinked while open.
    for n in 0..25 {
        let name = format!("gone-{n}");
        let (attr, opened) = rig.create(&name);
        for chunk in 0..12_u64 {
            let (at, bytes) = (chunk << 20, bytes(n, 70_000));
            rig.drive
                .write(attr.ino, opened.fh, at, &bytes, false)
                .unwrap();
        }
        rig.drive.fsync(attr.ino, false).unwrap();
        rig.drive.unlink(rig.root, name.as_bytes()).unwrap();
    }
    rig.drive.sync().unwrap();
    let journal = &rig.volume.journal;
    assert_eq!(journal.scan(&key::orphans(), None, 100).unwrap().len(), 25);
    // What no record names: whole files, and the ends of others.
    let stage = rig.stage();
    let mut known = BTreeMap::new();
    for entry in std::fs::read_dir(&stage).unwrap() {
        let path = entry.unwrap().path();
        known.insert(path.clone(), std::fs::metadata(&path).unwrap().len());
        let file = std::fs::File::options().append(true).open(&path).unwrap();
        std::io::Write::write_all(&mut &file, &[7; 5000]).unwrap();
    }
    for n in 0..20 {
        std::fs::write(stage.join(format!("{}", 900_000 + n)), b"nobody's").unwrap();
    }
    std::fs::write(stage.join("no-number"), b"nobody's").unwrap();

    journal.longest_scan.store(0, Ordering::Relaxed);
    let bounds = Bounds {
        page: PAGE,
        files: 6,
    };
    rig.volume.recover(bounds).unwrap();
    let longest = rig.volume.journal.longest_scan.load(Ordering::Relaxed);
    assert!(longest <= PAGE, "{longest} records at once");
    assert_eq!(
        rig.volume.journal.scan(&key::orphans(), None, 9),
        Ok(vec![])
    );

    let left: Vec<_> = std::fs::read_dir(&stage).unwrap().collect();
    assert_eq!(left.len(), 41, "the staged files and no other");
    for entry in left {
        let path = entry.unwrap().path();
        let len = std::fs::metadata(&path).unwrap().len();
        assert_eq!(Some(&len), known.get(&path), "{}", path.display());
    }
    let mut rig = rig.crash();
    for n in 0..40 {
        assert!(
            rig.read(&format!("staged-{n}")) == bytes(n, 70_000 + n),
            "{n}"
        );
    }
    let sparse = rig.read("sparse");
    assert_eq!(&sparse[(29 << 20) + 5..], b"here");
    let unlinked = rig.volume.journal.scan(&key::chunks(Ino(0)), None, 1);
    assert_eq!(unlinked, Ok(vec![]));
}

#[test]
fn committing_a_large_directory_reads_each_name_once_page_by_page() {
    let rig = Rig::new();
    for n in 0..50 {
        rig.put(&format!("old-{n:02}"), b"old").unwrap();
    }
    let commit = |expected: Vec<String>| {
        let cut = rig.volume.cut().unwrap();
        let changes = cut.changes().unwrap();
        assert_eq!(changes.directories, [Ino::ROOT]);
        let mut names: Vec<String> = Vec::new();
        loop {
            let after = names.last().map(String::as_bytes);
            let page = cut.changed_names(&changes, Ino::ROOT, after, PAGE).unwrap();
            assert!(page.len() <= PAGE);
            if page.is_empty() {
                break;
            }
            names.extend(
                page.iter()
                    .map(|name| String::from_utf8_lossy(name).into_owned()),
            );
        }
        assert_eq!(names, expected);
        let built = super::rig::build(&mut Default::default(), &cut, &changes).0;
        cut.settle(&changes, &built).unwrap();
    };
    commit((0..50).map(|n| format!("old-{n:02}")).collect());
    // Names with a mark of their own, and names whose inode alone has changed, in between.
    let mut expected = Vec::new();
    for n in 0..50 {
        let name = format!("old-{n:02}");
        match n % 3 {
            0 => {
                let ino = rig.ino(&name);
                let set = crate::fs::SetAttr {
                    mode: Some(0o600),
                    ..Default::default()
                };
                rig.drive.setattr(ino, None, &set).unwrap();
                expected.push(name);
            }
            1 => {
                rig.drive.unlink(rig.root, name.as_bytes()).unwrap();
                rig.put(&format!("new-{n:02}"), b"new").unwrap();
                expected.extend([name, format!("new-{n:02}")]);
            }
            _ => {}
        }
    }
    expected.sort();
    commit(expected);
}
