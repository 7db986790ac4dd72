//! The quota is the token's, to the byte: `df` shows it, writing ends at it, and nothing that was
//! accepted is lost to it.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;

use rustix::fs::{StatVfs, statvfs};
use rustix::io::Errno;

use crate::command::tool;
use crate::harness::Machine;
use crate::samples::{assert_pattern, pattern};

/// The free package of the contracts.
const FREE: u64 = 100 << 20;

fn df(path: &Path) -> StatVfs {
    statvfs(path).expect("statfs")
}

/// Bytes that `df` calls used.
fn used(path: &Path) -> u64 {
    let df = df(path);
    (df.f_blocks - df.f_bfree) * df.f_frsize
}

/// Writes to `file` at `offset` until nothing more fits; how many bytes were accepted. The last
/// piece that is accepted may be short; then the very next byte is refused.
#[track_caller]
pub(crate) fn fill(file: &File, id: u64, mut offset: u64) -> u64 {
    loop {
        let piece = pattern(id, offset, 1 << 20);
        match file.write_at(&piece, offset) {
            Ok(written) => {
                offset += written as u64;
                if written < piece.len() {
                    let more = file.write_at(&piece[written..=written], offset);
                    let why = more.expect_err("a short write means full");
                    assert_eq!(why.raw_os_error(), Some(Errno::DQUOT.raw_os_error()));
                    return offset;
                }
            }
            Err(why) => {
                assert_eq!(
                    why.raw_os_error(),
                    Some(Errno::DQUOT.raw_os_error()),
                    "{why}"
                );
                return offset;
            }
        }
    }
}

#[test]
fn quota_errno_option_reports_enospc_at_full_quota() {
    for (args, told) in [
        (&["-o", "quota-errno=ENOSPC"][..], Errno::NOSPC),
        (&[], Errno::DQUOT),
    ] {
        let machine = Machine::demo_with(args);
        let file = File::create(machine.dir().join("f")).expect("create");
        let flags = rustix::fs::FallocateFlags::empty();
        assert_eq!(rustix::fs::fallocate(&file, flags, 0, FREE), Err(told));
    }
}

#[test]
fn df_shows_the_package_and_the_root_the_sum() {
    let machine = Machine::demo();
    machine.ask(&["mint", "--package", "1", "--yes"]).ok();
    let second = machine.mountpoint().join("2");
    crate::command::wait_until(
        "token 2 appears",
        std::time::Duration::from_secs(60),
        || second.exists(),
    );
    let first = df(&machine.dir());
    assert_eq!(
        (first.f_frsize, first.f_blocks * first.f_frsize),
        (4096, FREE)
    );
    assert_eq!(df(&second).f_blocks * 4096, 1 << 30);
    // Free inodes are the empty files that still fit.
    let (before, made) = (df(&second), 1000);
    for n in 0..made {
        File::create(second.join(format!("{n:04}"))).expect("create");
    }
    let after = df(&second);
    assert_eq!(
        after.f_files - after.f_ffree,
        before.f_files - before.f_ffree + made
    );
    let of_one = (before.f_bavail - after.f_bavail) * 4096 / made;
    let fit = after.f_bavail * 4096 / of_one.max(1);
    assert!(
        after.f_ffree.abs_diff(fit) <= fit / 4,
        "{} are told, {fit} of {of_one} bytes fit",
        after.f_ffree
    );
    let root = df(&machine.mountpoint());
    assert_eq!(root.f_blocks * root.f_frsize, FREE + (1 << 30));

    let before = used(&machine.dir());
    fs::write(machine.dir().join("file"), pattern(1, 0, 10 << 20)).expect("writable");
    let after = used(&machine.dir());
    assert!(
        after >= before + (10 << 20) && after < before + (10 << 20) + (64 << 10),
        "{before} {after}"
    );
    let told = machine.number("1", "used_bytes");
    assert!(
        after.abs_diff(told) < 8192,
        "df says {after}, status says {told}"
    );
    assert_eq!(
        used(&machine.mountpoint()) / 8192,
        (after + used(&second)) / 8192
    );
}

#[test]
fn one_file_fills_the_quota_and_all_that_was_accepted_is_kept() {
    let mut machine = Machine::demo();
    let dir = machine.dir();
    fs::write(dir.join("early"), pattern(9, 0, 100_000)).expect("writable");
    let file = File::create(dir.join("filler")).expect("a new file");
    let len = fill(&file, 1, 0);
    file.sync_all().expect("fsync at a full quota");
    drop(file);
    assert!(
        len + 100_000 >= FREE / 1000 * 995,
        "only {len} of {FREE} bytes fit"
    );
    assert_eq!(fs::metadata(dir.join("filler")).expect("stat").len(), len);
    let told = df(&dir);
    assert_eq!((told.f_bavail, told.f_ffree), (0, 0));
    assert!(
        told.f_bfree * 4096 >= FREE / 1000 - 4096,
        "{}",
        told.f_bfree
    );

    // What is not growth goes on.
    fs::set_permissions(dir.join("filler"), Permissions::from_mode(0o600)).expect("chmod");
    let long = dir.join("l".repeat(250));
    fs::rename(dir.join("filler"), &long).expect("rename to a long name");
    // The longer name has taken more than was free.
    let why = symlink("early", dir.join("one more")).expect_err("growth at a full quota");
    assert_eq!(why.raw_os_error(), Some(Errno::DQUOT.raw_os_error()));

    // A commit at a full quota succeeds.
    machine.flush();
    machine.restart();
    assert_pattern(&long, 1, len);
    assert_eq!(
        fs::metadata(&long).expect("stat").permissions().mode() & 0o777,
        0o600
    );

    // Deleting and truncating free at once.
    let full = df(&dir).f_bavail;
    fs::remove_file(dir.join("early")).expect("unlink at a full quota");
    assert!(
        df(&dir).f_bavail >= full + 24,
        "deleting 100,000 bytes frees at once"
    );
    fs::write(dir.join("again"), pattern(3, 0, 90_000)).expect("what was freed can be used");
    File::options()
        .write(true)
        .open(&long)
        .and_then(|file| file.set_len(1 << 20))
        .expect("truncate");
    assert!(df(&dir).f_bavail * 4096 > FREE / 10 * 9);
    machine.flush();
    machine.restart();
    assert_pattern(&long, 1, 1 << 20);
    assert_pattern(&dir.join("again"), 3, 90_000);
}

#[test]
fn a_thousand_longer_names_at_a_full_quota_are_published() {
    let machine = Machine::demo();
    let dir = machine.dir();
    for id in 0..1200 {
        fs::write(dir.join(format!("n{id}")), b"x").expect("writable");
    }
    let file = File::create(dir.join("filler")).expect("a new file");
    fill(&file, 1, 0);
    drop(file);
    machine.flush();
    for id in 0..1200 {
        let long = format!("n{id}{}", "l".repeat(240));
        fs::rename(dir.join(format!("n{id}")), dir.join(long)).expect("a longer name");
    }
    machine.flush();
    let used = machine.number("1", "used_bytes");
    assert!(
        used > FREE,
        "only {used} bytes are used: the reserve sufficed"
    );
    fs::remove_file(dir.join("filler")).expect("unlink");
    machine.flush();
    fs::write(dir.join("again"), pattern(3, 0, 90_000)).expect("there is room");
}

#[test]
fn small_files_fill_the_quota_too() {
    let mut machine = Machine::demo();
    let dir = machine.dir();
    let name = |n: u64| format!("{n:0>80}");
    let mut count = 0;
    'full: for folder in 0.. {
        let folder = dir.join(folder.to_string());
        match fs::create_dir(&folder) {
            Err(why) if why.raw_os_error() == Some(Errno::DQUOT.raw_os_error()) => break,
            other => other.expect("mkdir"),
        }
        for _ in 0..500 {
            let written = File::create(folder.join(name(count)))
                .and_then(|mut file| file.write_all(&pattern(count, 0, 10 << 10)));
            match written {
                Ok(()) => count += 1,
                Err(why) => {
                    assert_eq!(
                        why.raw_os_error(),
                        Some(Errno::DQUOT.raw_os_error()),
                        "{why}"
                    );
                    break 'full;
                }
            }
        }
    }
    let bytes = count * (10 << 10);
    assert!(bytes >= FREE / 100 * 97, "only {bytes} of {FREE} bytes fit");
    machine.flush();
    machine.restart();
    for n in (0..count).step_by(97) {
        assert_pattern(&dir.join((n / 500).to_string()).join(name(n)), n, 10 << 10);
    }
    fs::remove_dir_all(dir.join("0")).expect("deleting a folder at a full quota");
    assert!(
        df(&dir).f_bavail * 4096 > 490 * (10 << 10),
        "deleting frees at once"
    );
}

/// Where the drive calls that unsupported, glibc writes a byte in each block instead, until nothing is left.
#[test]
fn preallocating_more_than_the_quota_fails_at_once_without_using_space() {
    let machine = Machine::demo();
    let (dir, path) = (machine.dir(), machine.dir().join("download"));
    let program = r#"
import errno, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
for size in (200 << 20, 100 << 30, 1 << 60):
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        print(errno.errorcode[error.errno], os.fstat(fd).st_size)
"#;
    File::create(&path).expect("a file");
    let before = used(&dir);
    let told = tool("python3", &[Path::new("-c"), Path::new(program), &path]);
    assert_eq!(told.stdout, "EDQUOT 0\n".repeat(3));
    assert_eq!(used(&dir), before);
}
