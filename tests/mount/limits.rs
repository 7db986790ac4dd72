//! The longest names and paths, the largest sparse files, and every byte that a name may have.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use crate::harness::Machine;
use crate::samples::pattern;

const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;

fn refused<T>(result: io::Result<T>, errno: Errno) {
    let code = result.err().and_then(|why| why.raw_os_error());
    assert_eq!(code, Some(errno.raw_os_error()));
}

#[test]
fn a_sparse_16_tib_file_retains_writes_anywhere_in_it() {
    let mut machine = Machine::demo();
    let path = machine.dir().join("image");
    let free = || rustix::fs::statvfs(machine.dir()).expect("statfs").f_bavail * 4096;
    let before = free();
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .expect("create");
    file.set_len(16 * TIB).expect("truncate -s 16T");
    assert!(
        before - free() < 3 * MIB,
        "a hole of 16 TiB was charged {}",
        before - free()
    );
    let places = [
        0,
        TIB - 3,
        7 * TIB + 12_345,
        16 * TIB - MIB - 100_000,
        16 * TIB - 65_536,
    ];
    let piece = |at: u64| pattern(at, 0, 50_000);
    for at in places {
        file.write_all_at(&piece(at), at).expect("write");
    }
    // The local file system has the bytes until they are published, and says where it ends: ext4 takes
    // all of 16 TiB but the last 4 KiB.
    let last = file.write_all_at(b"end", 16 * TIB - 3);
    let has_last = last.is_ok();
    if !has_last {
        refused(last, Errno::FBIG);
    }
    assert!(before - free() < 20 * MIB);
    let check = |file: &File, expected: &[(u64, u64)], when: &str| {
        assert_eq!(file.metadata().expect("stat").len(), 16 * TIB);
        for at in places {
            let mut found = vec![1; 50_020];
            file.read_exact_at(&mut found, at.saturating_sub(10))
                .expect("read");
            let start = at.min(10) as usize;
            assert!(
                found[..start].iter().all(|byte| *byte == 0),
                "before {at} {when}"
            );
            assert!(found[start..start + 50_000] == piece(at), "at {at} {when}");
            assert!(
                found[start + 50_000..].iter().all(|byte| *byte == 0),
                "behind {at} {when}"
            );
        }
        let mut end = [1; 3];
        file.read_exact_at(&mut end, 16 * TIB - 3).expect("read");
        assert_eq!(&end, if has_last { b"end" } else { b"\0\0\0" }, "{when}");
        let mut data = Vec::new();
        let mut at = 0;
        while let Ok(found) = seek(file, SeekFrom::Data(at)) {
            let end = seek(file, SeekFrom::Hole(found)).expect("an end");
            data.push((found, end));
            at = end;
        }
        assert_eq!(data, expected, "{when}");
        assert_eq!(
            file.metadata().expect("stat").blocks() * 512,
            6 * MIB,
            "{when}"
        );
    };
    // What is not published yet is told in blocks of 4 KiB.
    let block = |at: u64| at / 4096 * 4096;
    let mut written = vec![
        (0, 53_248),
        (TIB - 4096, TIB + 53_248),
        (block(places[2]), block(places[2]) + 53_248),
        (block(places[3]), block(places[3]) + 53_248),
        (16 * TIB - 65_536, 16 * TIB - 12_288),
    ];
    written.extend(has_last.then_some((16 * TIB - 4096, 16 * TIB)));
    check(&file, &written, "at once");
    drop(file);
    machine.flush();
    machine.stop();
    drop(fs::remove_dir_all(machine.cache()));
    machine.start();
    let chunk = |at: u64| at / MIB * MIB;
    let published = [
        (0, MIB),
        (TIB - MIB, TIB + MIB),
        (chunk(places[2]), chunk(places[2]) + MIB),
        (16 * TIB - 2 * MIB, 16 * TIB),
    ];
    check(
        &File::open(&path).expect("open"),
        &published,
        "from the node",
    );
    // Cut, and made long again: nothing comes back.
    let file = File::options()
        .read(true)
        .write(true)
        .open(&path)
        .expect("open");
    file.set_len(8 * TIB)
        .and_then(|()| file.set_len(16 * TIB))
        .expect("truncate");
    assert_eq!(seek(&file, SeekFrom::Data(8 * TIB)), Err(Errno::NXIO));
}

/// Every name of one byte that there is, and long ones that hold every byte.
fn names() -> Vec<OsString> {
    let bytes = || (1..=255_u8).filter(|byte| *byte != b'/');
    let single = bytes().filter(|byte| *byte != b'.').map(|byte| vec![byte]);
    let all: Vec<u8> = bytes().collect();
    let mut backwards = all.clone();
    backwards.reverse();
    assert_eq!(all.len(), 254);
    let long = [
        b"..x".to_vec(),
        vec![b'.'; 3],
        all,
        backwards,
        vec![0xff; 255],
        vec![b'n'; 255],
    ];
    single.chain(long).map(OsString::from_vec).collect()
}

fn listed(dir: &Path) -> BTreeSet<OsString> {
    let entries = fs::read_dir(dir).expect("listing");
    entries
        .map(|entry| entry.expect("an entry").file_name())
        .collect()
}

#[test]
fn a_name_may_have_any_byte_and_255_of_them() {
    let mut machine = Machine::demo();
    let dir = machine.dir();
    let (files, folders) = (dir.join("files"), dir.join("folders"));
    fs::create_dir(&files)
        .and_then(|()| fs::create_dir(&folders))
        .expect("mkdir");
    for name in names() {
        fs::write(files.join(&name), name.as_bytes()).expect("write");
        fs::create_dir(folders.join(&name)).expect("mkdir");
        fs::write(folders.join(&name).join(&name), "x").expect("write");
    }
    refused(
        fs::write(dir.join(OsStr::from_bytes(&[0xfe; 256])), ""),
        Errno::NAMETOOLONG,
    );
    let expected: BTreeSet<OsString> = names().into_iter().collect();
    let check = |dir: &Path| {
        assert_eq!(listed(&dir.join("files")), expected);
        assert_eq!(listed(&dir.join("folders")), expected);
        for name in &expected {
            let found = fs::read(dir.join("files").join(name)).expect("read");
            assert_eq!(found, name.as_bytes());
            assert!(dir.join("folders").join(name).join(name).is_file());
        }
    };
    check(&dir);
    machine.flush();
    machine.stop();
    let mut second = Machine::prepared_second(&machine);
    second.start();
    check(&second.dir());
}

#[test]
fn a_path_may_reach_path_max_and_a_tree_go_deeper() {
    let mut machine = Machine::demo();
    let dir = machine.dir();
    // 4,095 bytes and their NUL are the most that a call takes.
    let mut longest = PathBuf::from(&dir);
    while longest.as_os_str().len() + 256 < 4095 - 2 {
        longest.push("d".repeat(200));
    }
    fs::create_dir_all(&longest).expect("mkdir -p");
    let name = "f".repeat(4095 - longest.as_os_str().len() - 1);
    let path = longest.join(&name);
    assert_eq!(path.as_os_str().len(), 4095);
    fs::write(&path, "deep").expect("write");
    refused(fs::write(longest.join(name + "f"), ""), Errno::NAMETOOLONG);

    // Step by step one gets further down than a path can tell.
    let program = r#"
import os, sys
os.chdir(sys.argv[1])
step = sys.argv[2] == "make"
for n in range(600):
    if step:
        os.mkdir("%03d-folder" % n)
    os.chdir("%03d-folder" % n)
if step:
    open("file", "w").write("deeper")
print(open("file").read())
"#;
    let walk = |dir: &Path, word: &str| {
        let args = [
            OsStr::new("-c"),
            OsStr::new(program),
            dir.as_os_str(),
            OsStr::new(word),
        ];
        let told = crate::command::tool("python3", &args);
        assert_eq!(told.stdout.trim(), "deeper");
    };
    walk(&dir, "make");
    machine.flush();
    machine.restart();
    assert_eq!(fs::read(&path).expect("read"), b"deep");
    walk(&dir, "find");
    machine.stop();
    let mut second = Machine::prepared_second(&machine);
    second.start();
    walk(&second.dir(), "find");
}
