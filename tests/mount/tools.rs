//! Programs that people trust their data to: what they write can be verified and read back, at once and
//! after the daemon has started anew without a cache.

mod archives;
mod backups;
mod builds;
mod databases;

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use crate::command::tool;
use crate::harness::Machine;
use crate::samples::{assert_pattern, pattern};

/// Publishes everything, and starts the daemon anew with its cache folder gone.
#[track_caller]
fn start_anew(machine: &mut Machine) {
    machine.flush();
    machine.stop();
    drop(fs::remove_dir_all(machine.cache()));
    machine.start();
}

#[test]
fn what_was_written_through_a_mapping_is_there_after_a_remount() {
    let mut machine = Machine::demo();
    let dir = machine.dir();
    let program = r#"
import mmap, os, sys
synced, closed = sys.argv[1], sys.argv[2]
size = 3 * 1024 * 1024 + 123
for path in (synced, closed):
    with open(path, "w+b") as f:
        f.truncate(size)
        with mmap.mmap(f.fileno(), size) as m:
            for at in range(0, size, 4096):
                m[at:at+8] = at.to_bytes(8, "little")
            m[size-1] = 7
            if path == synced:
                m.flush()
                assert os.pread(f.fileno(), 8, 8192) == (8192).to_bytes(8, "little")
"#;
    let (synced, closed) = (dir.join("synced"), dir.join("closed"));
    let python = [Path::new("-c"), Path::new(program), &synced, &closed];
    tool("python3", &python);
    // The pages of a mapping come to the drive when the kernel writes them back.
    tool("sync", &[Path::new("-f"), &closed]);
    machine.flush();
    machine.restart();
    let mut expected = vec![0; 3 * 1024 * 1024 + 123];
    for at in (0..expected.len() - 8).step_by(4096) {
        expected[at..at + 8].copy_from_slice(&(at as u64).to_le_bytes());
    }
    let last = expected.len() - 1;
    expected[last] = 7;
    for path in [synced, closed] {
        assert!(
            fs::read(&path).expect("readable") == expected,
            "{}",
            path.display()
        );
    }
}

#[test]
fn a_mapped_file_is_seen_by_readers_and_writers_alike() {
    let machine = Machine::demo();
    let file = machine.dir().join("shared");
    fs::write(&file, vec![b'a'; 8192]).expect("writable");
    let program = r#"
import mmap, os, sys
with open(sys.argv[1], "r+b") as f:
    with mmap.mmap(f.fileno(), 8192) as m:
        os.pwrite(f.fileno(), b"written", 4096)
        assert m[4096:4103] == b"written", m[4096:4103]
        m[0:6] = b"mapped"
        m.flush()
        assert os.pread(f.fileno(), 6, 0) == b"mapped"
"#;
    tool("python3", &[Path::new("-c"), Path::new(program), &file]);
    let bytes = fs::read(&file).expect("readable");
    assert_eq!(
        (&bytes[..6], &bytes[4096..4103]),
        (&b"mapped"[..], &b"written"[..])
    );
}

#[test]
fn saving_by_rename_loses_nothing_in_a_crash() {
    let mut machine = Machine::demo();
    let dir = machine.dir();
    let document = dir.join("document");
    for version in 0..40 {
        let temporary = dir.join(".document.swp");
        let mut file = File::create(&temporary).expect("a new file");
        file.write_all(&pattern(version, 0, 30_000 + version as usize))
            .expect("writable");
        file.sync_all().expect("fsync");
        fs::rename(&temporary, &document).expect("rename over");
    }
    File::open(&dir)
        .and_then(|dir| dir.sync_all())
        .expect("fsync of the directory");
    machine.kill();
    machine.start();
    assert_pattern(&document, 39, 30_039);
    assert!(!dir.join(".document.swp").exists());
}

#[test]
fn saving_in_place_with_a_backup_loses_nothing_in_a_crash() {
    let mut machine = Machine::demo();
    let dir = machine.dir();
    let (document, backup) = (dir.join("document"), dir.join("document~"));
    fs::write(&document, pattern(0, 0, 100_000)).expect("writable");
    for version in 1..20 {
        fs::rename(&document, &backup).expect("rename");
        let mut file = File::create(&document).expect("a new file");
        file.write_all(&pattern(version, 0, 100_000))
            .expect("writable");
        file.sync_all().expect("fsync");
        drop(file);
        if version % 2 == 0 {
            fs::remove_file(&backup).expect("unlink");
        }
    }
    machine.kill();
    machine.start();
    assert_pattern(&document, 19, 100_000);
    assert_pattern(&backup, 18, 100_000);
}
