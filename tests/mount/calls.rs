//! The calls of `docs/semantics.md`, each as a program would use it.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::fs::{
    CWD, FallocateFlags, FileType, FlockOperation, Mode, RenameFlags, Timespec, Timestamps,
    XattrFlags, fallocate, flock, getxattr, listxattr, mknodat, removexattr, renameat_with, seek,
    setxattr, utimensat,
};
use rustix::io::Errno;

use crate::command::{tool, wait_until};
use crate::harness::Machine;
use crate::samples::{assert_pattern, pattern};

#[track_caller]
fn refused<T>(result: io::Result<T>, errno: Errno) {
    let why = result.err().expect("a refusal");
    assert_eq!(why.raw_os_error(), Some(errno.raw_os_error()), "{why}");
}

fn rw(path: &Path) -> File {
    File::options()
        .read(true)
        .write(true)
        .open(path)
        .expect("open")
}

#[test]
fn appending_truncating_and_holes_keep_every_byte_in_its_place() {
    let mut machine = Machine::demo();
    let dir = machine.dir();

    let path = dir.join("appended");
    let mut one = OpenOptions::new()
        .append(true)
        .create(true)
        .open(&path)
        .expect("create");
    let mut other = OpenOptions::new().append(true).open(&path).expect("open");
    one.write_all(b"one ")
        .and_then(|()| other.write_all(b"other "))
        .expect("write");
    one.write_all(b"one again").expect("write");
    assert_eq!(fs::read(&path).expect("read"), b"one other one again");

    // A hole of 100 MiB fits into a quota of 100 MiB; reads give zeros.
    let path = dir.join("sparse");
    let file = File::create(&path).expect("create");
    file.set_len(100 << 20).expect("truncate up");
    file.write_all_at(b"middle", 50 << 20).expect("write");
    drop(file);
    let mut file = rw(&path);
    assert_eq!(
        seek(&file, rustix::fs::SeekFrom::Data(0)),
        Ok((50 << 20) & !4095)
    );
    assert!(
        seek(&file, rustix::fs::SeekFrom::Hole(50 << 20)).expect("a hole behind the data")
            < (51 << 20) + 4096
    );
    assert!(
        file.metadata().expect("stat").blocks() * 512 <= 2 << 20,
        "st_blocks leaves holes out"
    );
    let mut around = [1; 16];
    file.read_exact_at(&mut around, (50 << 20) - 5)
        .expect("read");
    assert_eq!(&around, b"\0\0\0\0\0middle\0\0\0\0\0");
    // Down, and up again: what was cut off does not come back.
    file.set_len((50 << 20) + 3).expect("truncate down");
    file.set_len((50 << 20) + 6).expect("truncate up");
    file.seek(SeekFrom::Start(50 << 20)).expect("seek");
    let mut end = Vec::new();
    file.read_to_end(&mut end).expect("read");
    assert_eq!(end, b"mid\0\0\0");

    // The same over a small file that grows large, at odd offsets.
    let path = dir.join("grown");
    let file = File::create(&path).expect("create");
    for (offset, len) in [(0, 100), (100, 70_000), (70_100, 1), (70_101, 2_000_000)] {
        file.write_all_at(&pattern(4, offset, len), offset)
            .expect("write");
    }
    drop(file);
    machine.flush();
    machine.restart();
    assert_pattern(&path, 4, 2_070_101);
    // Changing a few published bytes leaves the others.
    rw(&path)
        .write_all_at(b"changed", 1_500_000)
        .expect("write");
    machine.flush();
    machine.restart();
    let bytes = fs::read(&path).expect("read");
    let mut expected = pattern(4, 0, 2_070_101);
    expected[1_500_000..1_500_007].copy_from_slice(b"changed");
    assert!(bytes == expected);
    assert_eq!(
        fs::read(dir.join("sparse")).expect("read").len(),
        (50 << 20) + 6
    );
}

#[test]
fn preallocated_room_is_charged_and_reads_as_zeros() {
    let machine = Machine::demo();
    let path = machine.dir().join("file");
    let file = File::create_new(&path).expect("create");
    let free = |path: &Path| rustix::fs::statvfs(path).expect("statfs").f_bavail;
    let before = free(&path);
    fallocate(&file, FallocateFlags::empty(), 0, 8 << 20).expect("fallocate");
    assert!(before - free(&path) >= 2048, "8 MiB are charged");
    assert_eq!(fs::metadata(&path).expect("stat").len(), 8 << 20);
    assert!(fs::read(&path).expect("read").iter().all(|byte| *byte == 0));
    let now = free(&path);
    // A hole within the file is data from then on: writing there is growth no more.
    file.set_len(16 << 20).expect("truncate");
    fallocate(&file, FallocateFlags::KEEP_SIZE, 8 << 20, 8 << 20).expect("fallocate");
    let reserved = free(&path);
    assert!(now - reserved >= 2048, "8 MiB more are charged");
    file.write_all_at(&pattern(1, 0, 8 << 20), 8 << 20)
        .expect("write");
    assert_eq!(free(&path), reserved);
    for mode in [
        FallocateFlags::COLLAPSE_RANGE,
        FallocateFlags::INSERT_RANGE,
        FallocateFlags::UNSHARE_RANGE,
        FallocateFlags::PUNCH_HOLE,
    ] {
        assert_eq!(
            fallocate(&file, mode, 0, 1 << 20),
            Err(Errno::OPNOTSUPP),
            "{mode:?}"
        );
    }
}

#[test]
fn room_behind_the_end_is_kept_until_the_file_is_closed() {
    let machine = Machine::demo();
    let (path, filler) = (machine.dir().join("file"), machine.dir().join("filler"));
    let free = || rustix::fs::statvfs(machine.dir()).expect("statfs").f_bavail;
    let file = File::create_new(&path).expect("create");
    file.write_all_at(b"begun", 0).expect("write");
    let before = free();
    // As a program of its own, which ends: nobody has it open then but this one.
    let len = ["-n", "-o", "5", "-l", "30000000"];
    let args: Vec<&Path> = len.map(Path::new).into_iter().chain([&*path]).collect();
    tool("fallocate", &args);
    let now = free();
    assert!(before - now >= 30_000_000 / 4096, "{before} {now}");
    let seen = fs::metadata(&path).expect("stat");
    assert_eq!((seen.len(), seen.blocks()), (5, 1));
    // Others fill what is left, and it can be written all the same.
    let full = File::create_new(&filler).expect("create");
    let mut at = 0;
    let why = loop {
        match full.write_at(&pattern(2, at, 1 << 20), at) {
            Ok(written) => at += written as u64,
            Err(why) => break why,
        }
    };
    assert_eq!(why.raw_os_error(), Some(Errno::DQUOT.raw_os_error()));
    assert!(at < 75 << 20, "{at} bytes were free for others");
    file.write_all_at(&pattern(1, 5, 20_000_000), 5)
        .expect("what was kept");
    file.sync_all().expect("sync");
    // The rest is the others' as soon as nobody has it open.
    drop(file);
    wait_until("the room is given back", Duration::from_secs(60), || {
        full.write_at(&pattern(2, at, 5 << 20), at).is_ok()
    });
    drop(full);
    machine.flush();
    assert!(fs::read(&path).expect("read")[5..] == pattern(1, 5, 20_000_000));
    // By a truncation, too.
    fs::remove_file(&filler).expect("remove");
    let file = File::options().write(true).open(&path).expect("open");
    let before = free();
    fallocate(&file, FallocateFlags::KEEP_SIZE, 20_000_005, 20 << 20).expect("fallocate");
    assert!(before - free() >= 20 << 8);
    file.set_len(20_000_005).expect("truncate");
    assert_eq!(free(), before);
}

#[test]
fn attributes_and_inode_numbers_survive_a_remount() {
    let mut machine = Machine::demo();
    let dir = machine.dir();
    let path = dir.join("file");
    fs::write(&path, "x").expect("write");
    fs::set_permissions(&path, Permissions::from_mode(0o640)).expect("chmod");
    chown(&path, Some(12), Some(34)).expect("chown");
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: 1_000_000_000,
            tv_nsec: 1,
        },
        last_modification: Timespec {
            tv_sec: 1_234_567_890,
            tv_nsec: 123_456_789,
        },
    };
    utimensat(CWD, &path, &times, rustix::fs::AtFlags::empty()).expect("utimensat");
    fs::create_dir(dir.join("folder")).expect("mkdir");
    fs::set_permissions(dir.join("folder"), Permissions::from_mode(0o2755)).expect("chmod");
    fs::create_dir(dir.join("folder/inner")).expect("mkdir");
    symlink("file", dir.join("link")).expect("symlink");
    fs::hard_link(&path, dir.join("folder/second")).expect("link");
    for (name, kind) in [
        ("fifo", FileType::Fifo),
        ("socket", FileType::Socket),
        ("null", FileType::CharacterDevice),
    ] {
        let device = rustix::fs::makedev(1, 3);
        let device = if kind == FileType::CharacterDevice {
            device
        } else {
            0
        };
        mknodat(CWD, dir.join(name), kind, Mode::RUSR, device).expect("mknod");
    }
    setxattr(&path, "user.kept", b"value", XattrFlags::empty()).expect("setxattr");

    let all = || {
        let mut seen = Vec::new();
        for name in [
            "",
            "file",
            "folder",
            "folder/inner",
            "folder/second",
            "link",
            "fifo",
            "socket",
            "null",
        ] {
            let path = dir.join(name);
            let meta = fs::symlink_metadata(&path).expect("stat");
            // The kernel gives none to `user.` attributes of what is neither file nor directory.
            let mut birth = [0; 64];
            let birth = getxattr(&path, "user.px.birth", &mut birth)
                .map(|len| String::from_utf8_lossy(&birth[..len]).into_owned());
            let times = (
                meta.mtime(),
                meta.mtime_nsec(),
                meta.ctime(),
                meta.ctime_nsec(),
                birth,
            );
            let who = (
                meta.mode(),
                meta.uid(),
                meta.gid(),
                meta.nlink(),
                meta.rdev(),
            );
            seen.push((name, meta.ino(), meta.len(), who, times));
        }
        seen
    };
    let before = all();
    assert_eq!(before[1].3, (0o100_640, 12, 34, 2, 0));
    assert_eq!((before[1].4.0, before[1].4.1), (1_234_567_890, 123_456_789));
    assert_eq!(before[1].1, before[4].1, "one inode with two names");
    assert_eq!(
        before[2].3.3, 3,
        "a directory with one subdirectory has three links"
    );
    assert!(
        fs::symlink_metadata(dir.join("socket"))
            .expect("stat")
            .file_type()
            .is_socket()
    );
    machine.flush();
    machine.restart();
    assert_eq!(before, all());
    let mut value = [0; 16];
    let len = getxattr(&path, "user.kept", &mut value).expect("getxattr");
    assert_eq!(&value[..len], b"value");
}

#[test]
fn extended_attributes_follow_the_manual() {
    let machine = Machine::demo();
    let path = machine.dir().join("file");
    fs::write(&path, "x").expect("write");
    let set = |name: &str, value: &[u8], flags| setxattr(&path, name, value, flags);
    set("user.a", b"1", XattrFlags::CREATE).expect("new");
    assert_eq!(set("user.a", b"2", XattrFlags::CREATE), Err(Errno::EXIST));
    assert_eq!(set("user.b", b"2", XattrFlags::REPLACE), Err(Errno::NODATA));
    set("user.a", b"22", XattrFlags::REPLACE).expect("replaced");
    let mut list = [0u8; 64];
    let len = listxattr(&path, &mut list).expect("listxattr");
    assert_eq!(&list[..len], b"user.a\0");
    let mut small = [0u8; 1];
    assert_eq!(getxattr(&path, "user.a", &mut small), Err(Errno::RANGE));
    removexattr(&path, "user.a").expect("removexattr");
    assert_eq!(removexattr(&path, "user.a"), Err(Errno::NODATA));
    // Ours can be read, and are neither listed nor written.
    let mut state = [0u8; 64];
    getxattr(&path, "user.px.state", &mut state).expect("a state");
    assert_eq!(listxattr(&path, &mut list), Ok(0));
    assert_eq!(
        set("user.px.state", b"x", XattrFlags::empty()),
        Err(Errno::PERM)
    );
}

#[test]
fn renames_do_what_their_flags_say() {
    let machine = Machine::demo();
    let dir = machine.dir();
    let (a, b) = (dir.join("a"), dir.join("b"));
    fs::write(&a, "a")
        .and_then(|()| fs::write(&b, "b"))
        .expect("write");
    let with = |flags| renameat_with(CWD, &a, CWD, &b, flags).map_err(io::Error::from);
    refused(with(RenameFlags::NOREPLACE), Errno::EXIST);
    with(RenameFlags::EXCHANGE).expect("exchange");
    assert_eq!(
        (fs::read(&a).expect("read"), fs::read(&b).expect("read")),
        (b"b".to_vec(), b"a".to_vec())
    );
    fs::rename(&a, &b).expect("rename over");
    assert_eq!(fs::read(&b).expect("read"), b"b");
    assert!(!a.exists());

    fs::create_dir_all(dir.join("one/two/three")).expect("mkdir");
    refused(
        fs::rename(dir.join("one"), dir.join("one/two/three/four")),
        Errno::INVAL,
    );
    refused(fs::rename(&b, dir.join("one")), Errno::ISDIR);
    refused(fs::rename(dir.join("one"), &b), Errno::NOTDIR);
    fs::create_dir(dir.join("other")).expect("mkdir");
    refused(
        fs::rename(dir.join("other"), dir.join("one")),
        Errno::NOTEMPTY,
    );
    fs::rename(dir.join("one"), dir.join("other")).expect("over an empty directory");
    assert!(dir.join("other/two/three").is_dir());
    refused(fs::remove_dir(dir.join("other")), Errno::NOTEMPTY);
    refused(fs::write(dir.join("n".repeat(256)), ""), Errno::NAMETOOLONG);
    let longest = machine.mountpoint().join("n".repeat(255));
    refused(fs::metadata(longest), Errno::NOENT);
    let too_long = machine.mountpoint().join("n".repeat(256));
    refused(fs::metadata(too_long), Errno::NAMETOOLONG);
    refused(fs::create_dir(dir.join("other")), Errno::EXIST);
    refused(fs::read(dir.join("nowhere")), Errno::NOENT);
    refused(
        fs::hard_link(dir.join("other"), dir.join("hard")),
        Errno::PERM,
    );
}

#[test]
fn an_unlinked_open_file_stays_readable_and_its_quota_is_free() {
    let machine = Machine::demo();
    let path = machine.dir().join("file");
    fs::write(&path, pattern(1, 0, 5 << 20)).expect("write");
    let free = || rustix::fs::statvfs(machine.dir()).expect("statfs").f_bavail;
    let file = rw(&path);
    let before = free();
    fs::remove_file(&path).expect("unlink");
    assert!(free() >= before + 1270, "its 5 MiB are free");
    let mut bytes = vec![0; 5 << 20];
    file.read_exact_at(&mut bytes, 0).expect("read");
    assert!(bytes == pattern(1, 0, 5 << 20));
    file.write_all_at(b"more", 10).expect("write");
    assert_eq!(file.metadata().expect("fstat").nlink(), 0);
    machine.flush();
}

#[test]
fn a_change_of_owner_clears_set_id_bits() {
    let machine = Machine::demo();
    let path = machine.dir().join("program");
    fs::write(&path, "x").expect("write");
    fs::set_permissions(&path, Permissions::from_mode(0o6755)).expect("chmod");
    chown(&path, Some(65534), Some(65534)).expect("chown");
    assert_eq!(fs::metadata(&path).expect("stat").mode() & 0o7777, 0o755);
}

#[test]
fn a_listing_skips_and_repeats_nothing_while_the_folder_changes() {
    let machine = Machine::demo();
    let folder = machine.dir().join("folder");
    fs::create_dir(&folder).expect("mkdir");
    for n in 0..2000 {
        File::create(folder.join(format!("stays-{n}"))).expect("create");
        File::create(folder.join(format!("goes-{n}"))).expect("create");
    }
    let mut seen = std::collections::BTreeMap::new();
    for (n, entry) in fs::read_dir(&folder).expect("listing").enumerate() {
        *seen
            .entry(entry.expect("an entry").file_name())
            .or_insert(0) += 1;
        if n < 2000 {
            fs::remove_file(folder.join(format!("goes-{n}"))).expect("unlink");
            File::create(folder.join(format!("comes-{n}"))).expect("create");
            // As most programs save: a name that was listed, and one that was not, by turns.
            let at = if n % 2 == 0 { n / 2 } else { 1999 - n / 2 };
            let kept = folder.join(format!("stays-{at}"));
            if n % 3 == 0 {
                fs::remove_file(&kept).expect("unlink");
                File::create(&kept).expect("create");
            } else {
                let saved = machine.dir().join("saved");
                File::create(&saved).expect("create");
                fs::rename(&saved, &kept).expect("rename");
            }
        }
    }
    for n in 0..2000 {
        let name = format!("stays-{n}");
        assert_eq!(seen.get(OsStr::new(&name)), Some(&1), "{name}");
    }
    assert!(
        seen.values().all(|times| *times == 1),
        "an entry was listed twice"
    );
}

/// What `write` and `pwrite` do with a descriptor that begins or ceases to append, and with a single write that
/// says so for itself, each seen by the page cache and without it.
const APPENDS_NOW: &str = r#"
import fcntl, os, sys
path = sys.argv[1]
RWF_NOAPPEND, RWF_APPEND = 0x20, 0x10
def found():
    with open(path, "rb") as f:
        warm = f.read()
        os.fsync(f.fileno())
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    with open("/proc/sys/vm/drop_caches", "w") as f:
        f.write("1")
    with open(path, "rb") as f:
        cold = f.read()
    return warm.decode() if warm == cold else (warm, cold)
def opened(flags):
    with open(path, "wb") as f:
        f.write(b"0123456789")
    return os.open(path, flags)
for access in os.O_WRONLY, os.O_RDWR:
    fd = opened(access | os.O_APPEND)
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_APPEND)
    os.pwrite(fd, b"AB", 2)
    print("cleared", found())
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)
    os.lseek(fd, 0, 0)
    os.write(fd, b"CD")
    print("set", found())
    os.pwritev(fd, [b"EF"], 4, RWF_NOAPPEND)
    print("not this one", found())
    os.close(fd)
    fd = opened(access)
    os.pwritev(fd, [b"GH"], 0, RWF_APPEND)
    os.pwrite(fd, b"I", 0)
    print("only this one", found())
    os.close(fd)
"#;

#[test]
fn a_write_lands_where_its_descriptor_appends_now() {
    let machine = Machine::demo();
    let path = machine.dir().join("log");
    let told = tool("python3", &[Path::new("-c"), Path::new(APPENDS_NOW), &path]);
    let once = "cleared 01AB456789\nset 01AB456789CD\nnot this one 01ABEF6789CD\nonly this one I123456789GH";
    assert_eq!(told.stdout.trim(), format!("{once}\n{once}"));
}

#[test]
fn programs_that_append_to_one_file_lose_no_line() {
    let machine = Machine::demo();
    let path = machine.dir().join("log");
    let program = r#"
import os, sys
path = sys.argv[1]
children = []
for who, access in enumerate([os.O_WRONLY, os.O_RDWR, os.O_WRONLY, os.O_RDWR]):
    pid = os.fork()
    if pid == 0:
        for n in range(500):
            if n % 10 == 0:
                fd = os.open(path, access | os.O_APPEND | os.O_CREAT, 0o600)
            os.write(fd, b"%d %d\n" % (who, n))
            if n % 10 == 9:
                os.close(fd)
        os._exit(0)
    children.append(pid)
for pid in children:
    os.waitpid(pid, 0)
with open(path) as f:
    lines = [tuple(map(int, line.split())) for line in f]
print(len(lines), all([n for who, n in lines if who == w] == list(range(500)) for w in range(4)))
"#;
    let told = tool("python3", &[Path::new("-c"), Path::new(program), &path]);
    assert_eq!(told.stdout.trim(), "2000 True");
}

#[test]
fn an_allocation_moves_the_time_of_the_last_change() {
    let machine = Machine::demo();
    let path = machine.dir().join("file");
    fs::write(&path, pattern(1, 0, 200_000)).expect("write");
    let file = rw(&path);
    for (at, len) in [(0, 1000), (0, 300_000)] {
        let past = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        file.set_modified(past).expect("utimens");
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), at, len)
            .expect("fallocate");
        let metadata = file.metadata().expect("fstat");
        assert!(metadata.modified().expect("a time") > past, "{len} bytes");
    }
}

#[test]
fn locks_keep_programs_of_this_machine_apart() {
    let machine = Machine::demo();
    let path = machine.dir().join("file");
    fs::write(&path, "x").expect("write");
    let (one, other) = (rw(&path), rw(&path));
    flock(&one, FlockOperation::NonBlockingLockExclusive).expect("a lock");
    assert_eq!(
        flock(&other, FlockOperation::NonBlockingLockExclusive),
        Err(Errno::WOULDBLOCK)
    );
    flock(&one, FlockOperation::Unlock).expect("unlock");
    flock(&other, FlockOperation::NonBlockingLockExclusive).expect("a lock");
}

#[test]
fn the_kernel_makes_a_drive_read_only_unless_somebody_writes() {
    let machine = Machine::demo();
    let path = machine.dir().join("file");
    let top = machine.mountpoint();
    let remount = |how: &str| {
        let mut mount = Command::new("mount");
        mount
            .args(["-i", "-o"])
            .arg(format!("remount,{how}"))
            .arg(&top);
        crate::command::run(mount, Duration::from_secs(60))
    };
    let file = File::create(&path).expect("create");
    let told = remount("ro").stderr;
    assert!(told.contains("busy"), "{told}");
    drop(file);
    // The last `close` reaches the drive a moment later.
    wait_until("nobody writes any more", Duration::from_secs(60), || {
        remount("ro").code == Some(0)
    });
    refused(File::create(&path), Errno::ROFS);
    remount("rw").ok();
    fs::write(&path, "x").expect("write");
}

#[test]
fn copies_between_files_of_the_drive_are_right() {
    let machine = Machine::demo();
    let (from, to) = (machine.dir().join("from"), machine.dir().join("to"));
    fs::write(&from, pattern(1, 0, 3_000_000)).expect("write");
    // std uses copy_file_range here.
    assert_eq!(fs::copy(&from, &to).expect("copy"), 3_000_000);
    assert_pattern(&to, 1, 3_000_000);
    let mut piece = Vec::new();
    File::open(&to)
        .expect("open")
        .take(10)
        .read_to_end(&mut piece)
        .expect("read");
    assert_eq!(piece, pattern(1, 0, 10));
}

#[test]
fn nothing_moves_between_tokens_by_rename_or_link() {
    let machine = Machine::demo();
    machine.ask(&["mint", "--package", "1", "--yes"]).ok();
    let other = machine.mountpoint().join("2");
    crate::command::wait_until(
        "token 2 appears",
        std::time::Duration::from_secs(60),
        || other.is_dir(),
    );
    let file = machine.dir().join("file");
    fs::write(&file, "x").expect("write");
    refused(fs::rename(&file, other.join("file")), Errno::XDEV);
    refused(fs::hard_link(&file, other.join("file")), Errno::XDEV);
}
