//! Programs that people trust their data to: restic, SQLite, mapped files, editors.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::command::{Answer, run, tool};
use crate::harness::Machine;
use crate::samples::{assert_pattern, assert_same, pattern, source_tree};

#[test]
fn a_restic_backup_can_be_checked_and_restored() {
    let mut machine = Machine::demo_with(&["--package", "1"]);
    let repository = machine.dir().join("backup");
    let scratch = machine.scratch();
    let restic = |args: &[&str]| {
        let mut command = Command::new("restic");
        command
            .env("RESTIC_PASSWORD", "x")
            .env("RESTIC_REPOSITORY", &repository)
            .env("RESTIC_CACHE_DIR", scratch.join("restic-cache"))
            .current_dir(source_tree())
            .args(args);
        run(command, Duration::from_secs(180)).ok()
    };
    restic(&["init"]);
    restic(&["backup", "--quiet", "."]);
    restic(&["check", "--read-data"]);
    machine.flush();
    machine.restart();
    restic(&["check", "--read-data"]);
    let restored = scratch.join("restored");
    restic(&[
        "restore",
        "latest",
        "--quiet",
        "--target",
        restored.to_str().expect("UTF-8"),
    ]);
    assert_same(source_tree(), &restored);
}

/// A thousand transactions of their own, each with a row that depends on the one before.
fn transactions(journal_mode: &str) -> String {
    let mut script = format!("PRAGMA journal_mode={journal_mode};\nPRAGMA synchronous=FULL;\n");
    script += "CREATE TABLE t(id INTEGER PRIMARY KEY, sum INTEGER, text TEXT);\n";
    script += "INSERT INTO t VALUES(0, 0, '');\n";
    for id in 1..=1000 {
        script += &format!(
            "INSERT INTO t SELECT {id}, sum + {id}, hex(zeroblob({})) FROM t WHERE id = {};\n",
            id % 200,
            id - 1
        );
    }
    script
}

#[track_caller]
fn sqlite(database: &Path, script: &str) -> Answer {
    let mut input = tempfile::NamedTempFile::new().expect("a file");
    input.write_all(script.as_bytes()).expect("a script");
    let mut command = Command::new("sqlite3");
    command
        .arg("-bail")
        .arg(database)
        .arg(format!(".read {}", input.path().display()));
    run(command, Duration::from_secs(180)).ok()
}

fn a_thousand_transactions(journal_mode: &str) {
    let mut machine = Machine::demo();
    let database = machine.dir().join("data.sqlite");
    sqlite(&database, &transactions(journal_mode));
    let check = |database: &Path| {
        let answer = sqlite(
            database,
            "PRAGMA integrity_check;\nSELECT max(id), max(sum), count(*) FROM t;\n",
        );
        assert_eq!(answer.stdout, "ok\n1000|500500|1001\n");
    };
    check(&database);
    machine.flush();
    machine.restart();
    check(&database);
}

#[test]
fn sqlite_keeps_a_thousand_transactions_with_a_rollback_journal() {
    a_thousand_transactions("DELETE");
}

#[test]
fn sqlite_keeps_a_thousand_transactions_with_a_write_ahead_log() {
    a_thousand_transactions("WAL");
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
fn an_editor_that_writes_a_new_file_and_renames_it_over_loses_nothing_in_a_crash() {
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
fn an_editor_that_keeps_a_backup_and_writes_in_place_loses_nothing_in_a_crash() {
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
