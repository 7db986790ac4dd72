//! Calls and flags that few programs use: each answers as `docs/semantics.md` says.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, IFlags, Mode, OFlags, RenameFlags, StatxFlags, XattrFlags, getxattr, inotify,
    ioctl_getflags, ioctl_setflags, open, renameat_with, setxattr, statx,
};
use rustix::io::Errno;

use crate::command::tool;
use crate::harness::Machine;
use crate::samples::pattern;

fn birth(path: &Path) -> String {
    let mut value = [0; 64];
    let len = getxattr(path, "user.px.birth", &mut value).expect("a time of birth");
    String::from_utf8_lossy(&value[..len]).into_owned()
}

#[test]
fn the_time_of_birth_is_an_attribute_since_statx_cannot_tell_it() {
    let mut machine = Machine::demo();
    let path = machine.dir().join("file");
    let before = jiff::Timestamp::now();
    fs::write(&path, "x").expect("write");
    let born = birth(&path);
    let time: jiff::Timestamp = born.parse().expect("RFC 3339");
    assert!(before <= time && time <= jiff::Timestamp::now(), "{born}");
    assert_eq!(born.len(), "2026-01-02T03:04:05.123456789Z".len(), "{born}");
    // The kernel asks for it by a call that fuser does not know, and shows none.
    let told = statx(CWD, &path, AtFlags::empty(), StatxFlags::BTIME).expect("statx");
    assert!(!StatxFlags::from_bits_retain(told.stx_mask).contains(StatxFlags::BTIME));

    fs::write(&path, "changed").expect("write");
    fs::rename(&path, machine.dir().join("renamed")).expect("rename");
    let path = machine.dir().join("renamed");
    assert_eq!(birth(&path), born);
    assert!(birth(&machine.dir()) < born, "a directory has one too");
    machine.flush();
    machine.stop();
    let mut second = Machine::prepared_second(&machine);
    second.start();
    assert_eq!(birth(&second.dir().join("renamed")), born, "from the node");
}

#[test]
fn a_first_read_moves_the_access_time_and_further_ones_do_not() {
    for (options, moves) in [("relatime", true), ("noatime", false)] {
        let machine = Machine::demo_with(&["-o", options]);
        let path = machine.dir().join("file");
        fs::write(&path, "content").expect("write");
        let accessed = || {
            // What the kernel has in its cache is read without asking.
            fs::write("/proc/sys/vm/drop_caches", "3").expect("root may");
            assert_eq!(fs::read(&path).expect("read"), b"content");
            let meta = fs::metadata(&path).expect("stat");
            (meta.atime(), meta.atime_nsec())
        };
        let meta = fs::metadata(&path).expect("stat");
        let (made, changed) = (
            (meta.atime(), meta.atime_nsec()),
            (meta.mtime(), meta.mtime_nsec()),
        );
        let first = accessed();
        assert_eq!(first > changed, moves, "{options}");
        assert_eq!(first > made, moves, "{options}");
        assert_eq!(accessed(), first, "{options}");
    }
}

#[test]
fn direct_io_reads_and_writes_the_same_bytes() {
    let machine = Machine::demo();
    let path = machine.dir().join("file");
    let direct = OFlags::DIRECT.bits().cast_signed();
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .custom_flags(direct)
        .open(&path)
        .expect("create");
    let mut expected = pattern(1, 0, 3_000_000);
    file.write_all_at(&expected, 0).expect("write");
    // Neither offset nor length nor memory has to be aligned.
    file.write_all_at(b"odd", 4097).expect("write");
    expected[4097..4100].copy_from_slice(b"odd");
    let mut found = vec![0; 1_000_001];
    file.read_exact_at(&mut found, 7).expect("read");
    assert!(found == expected[7..1_000_008]);
    // Pages that others have are not shown when they are old.
    assert!(fs::read(&path).expect("read") == expected);
    file.write_all_at(b"again", 10_000).expect("write");
    expected[10_000..10_005].copy_from_slice(b"again");
    assert!(fs::read(&path).expect("read") == expected);
    File::options()
        .write(true)
        .open(&path)
        .expect("open")
        .write_all_at(b"cached", 20_000)
        .expect("write");
    let mut found = [0; 6];
    file.read_exact_at(&mut found, 20_000).expect("read");
    assert_eq!(&found, b"cached");
}

#[test]
fn who_watches_a_folder_sees_what_happens_on_this_machine() {
    let machine = Machine::demo();
    let watch = inotify::init(inotify::CreateFlags::NONBLOCK).expect("inotify");
    let flags = inotify::WatchFlags::CREATE
        | inotify::WatchFlags::MODIFY
        | inotify::WatchFlags::MOVED_TO
        | inotify::WatchFlags::DELETE;
    inotify::add_watch(&watch, machine.dir(), flags).expect("a watch");
    let path = machine.dir().join("file");
    fs::write(&path, "x").expect("write");
    fs::rename(&path, machine.dir().join("renamed")).expect("rename");
    fs::remove_file(machine.dir().join("renamed")).expect("unlink");
    let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
    let mut events = inotify::Reader::new(&watch, &mut buffer);
    let mut seen = Vec::new();
    while let Ok(event) = events.next() {
        let name = event
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        seen.push((event.events(), name.unwrap_or_default()));
    }
    let expected = [
        (inotify::ReadFlags::CREATE, "file"),
        (inotify::ReadFlags::MODIFY, "file"),
        (inotify::ReadFlags::MOVED_TO, "renamed"),
        (inotify::ReadFlags::DELETE, "renamed"),
    ];
    assert_eq!(seen, expected.map(|(event, name)| (event, name.to_owned())));
}

#[test]
fn files_without_a_name_flags_and_quota_calls_are_refused_as_told() {
    let machine = Machine::demo();
    let path = machine.dir().join("file");
    fs::write(&path, "x").expect("write");
    let unnamed = open(machine.dir(), OFlags::TMPFILE | OFlags::RDWR, Mode::RUSR);
    assert_eq!(unnamed.map(drop), Err(Errno::OPNOTSUPP));
    // As the programs that want one do then.
    let mut unnamed = tempfile::tempfile_in(machine.dir()).expect("a file that was unlinked");
    unnamed.write_all(b"x").expect("write");
    let file = File::open(&path).expect("open");
    assert_eq!(ioctl_getflags(file.as_fd()), Err(Errno::NOTTY));
    assert_eq!(
        ioctl_setflags(file.as_fd(), IFlags::IMMUTABLE),
        Err(Errno::NOTTY)
    );
    let program = r#"
import ctypes, errno, fcntl, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
fd = os.open(sys.argv[1], os.O_RDONLY)
file = os.open(os.path.join(sys.argv[1], "plain"), os.O_CREAT | os.O_RDWR)
os.write(file, b"x")
FS_IOC_FIEMAP = 0xC020660B
for call in (
    lambda: fcntl.ioctl(file, FS_IOC_FIEMAP, bytearray(struct.pack("QQIIII", 0, 1, 0, 0, 0, 0))),
    lambda: os.preadv(file, [bytearray(1)], 0, os.RWF_NOWAIT),
):
    try:
        print(call())
    except OSError as why:
        print(why.errno == errno.EOPNOTSUPP)
Q_GETQUOTA, SYS_quotactl_fd = 0x800007, 443
libc.syscall(SYS_quotactl_fd, fd, Q_GETQUOTA << 8, 0, ctypes.create_string_buffer(256))
print(ctypes.get_errno())
"#;
    let told = tool(
        "python3",
        &[Path::new("-c"), Path::new(program), &machine.dir()],
    );
    let none = Errno::NOSYS.raw_os_error();
    let expected = format!("True\nTrue\n{none}");
    assert_eq!(told.stdout.trim(), expected);
}

#[test]
fn a_file_is_always_ready() {
    let machine = Machine::demo();
    let path = machine.dir().join("file");
    fs::write(&path, "x").expect("write");
    let program = r#"
import os, select, sys
fd = os.open(sys.argv[1], os.O_RDWR)
poll = select.poll()
poll.register(fd, select.POLLIN | select.POLLOUT | select.POLLPRI)
print(poll.poll(5000) == [(fd, select.POLLIN | select.POLLOUT)])
print(select.select([fd], [fd], [fd], 5) == ([fd], [fd], []))
epoll = select.epoll()
epoll.register(fd, select.EPOLLIN)
print(epoll.poll(5) == [(fd, select.EPOLLIN)])
"#;
    let told = tool("python3", &[Path::new("-c"), Path::new(program), &path]);
    assert_eq!(told.stdout.trim(), "True\nTrue\nTrue");
}

#[test]
fn calls_beyond_a_limit_fail_with_the_documented_errno() {
    let machine = Machine::demo();
    let dir = machine.dir();
    let (file, other) = (dir.join("file"), dir.join("other"));
    fs::write(&file, "x")
        .and_then(|()| fs::write(&other, "y"))
        .expect("write");
    for flags in [
        RenameFlags::WHITEOUT,
        RenameFlags::NOREPLACE | RenameFlags::EXCHANGE,
    ] {
        assert_eq!(
            renameat_with(CWD, &file, CWD, &other, flags),
            Err(Errno::INVAL)
        );
    }
    let target = "t".repeat(4095);
    symlink(&target, dir.join("link")).expect("symlink");
    assert_eq!(
        fs::read_link(dir.join("link"))
            .expect("readlink")
            .as_os_str(),
        target.as_str()
    );
    let longer = symlink("t".repeat(4096), dir.join("longer"));
    assert_eq!(
        longer.expect_err("too long").raw_os_error(),
        Some(Errno::NAMETOOLONG.raw_os_error())
    );
    // All attributes of an inode together.
    let set = |name: &str, len| setxattr(&file, name, &vec![1; len], XattrFlags::empty());
    set("user.large", 60_000).expect("setxattr");
    assert_eq!(set("user.more", 7_000), Err(Errno::NOSPC));
    assert_eq!(set("system.other", 1), Err(Errno::OPNOTSUPP));
    set("trusted.a", 1)
        .and_then(|()| set("security.a", 1))
        .expect("root may");
    assert_eq!(set("user.px.birth", 1), Err(Errno::PERM));
    let opened = File::options().write(true).open(&file).expect("open");
    let beyond = opened.write_at(b"x", 1 << 62);
    let code = beyond.err().and_then(|why| why.raw_os_error());
    assert_eq!(code, Some(Errno::FBIG.raw_os_error()));
    let program = r#"
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.truncate(sys.argv[1].encode(), ctypes.c_long(5))
print(ctypes.get_errno())
"#;
    let told = tool("python3", &[Path::new("-c"), Path::new(program), &dir]);
    assert_eq!(told.stdout.trim(), Errno::ISDIR.raw_os_error().to_string());
}

#[test]
fn record_locks_keep_processes_of_this_machine_apart_byte_by_byte() {
    let machine = Machine::demo();
    let path = machine.dir().join("file");
    fs::write(&path, "0123456789").expect("write");
    let program = r#"
import fcntl, os, struct, sys
path = sys.argv[1]
one = os.open(path, os.O_RDWR)
fcntl.lockf(one, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 0)
child = os.fork()
if child == 0:
    other = os.open(path, os.O_RDWR)
    fcntl.lockf(other, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 5)
    try:
        fcntl.lockf(other, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 4)
    except BlockingIOError:
        os._exit(7)
    os._exit(0)
print(os.WEXITSTATUS(os.waitpid(child, 0)[1]))
# Locks of an open file keep apart what one process has opened twice.
F_OFD_SETLK = 37
whole = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 6, 0, 0)
fcntl.fcntl(one, F_OFD_SETLK, whole)
try:
    fcntl.fcntl(os.open(path, os.O_RDWR), F_OFD_SETLK, whole)
except BlockingIOError:
    print("apart")
"#;
    let told = tool("python3", &[Path::new("-c"), Path::new(program), &path]);
    assert_eq!(told.stdout.trim(), "7\napart");
}

#[test]
fn a_place_in_a_folder_is_found_again_after_it_has_changed() {
    let machine = Machine::demo();
    let folder = machine.dir().join("folder");
    fs::create_dir(&folder).expect("mkdir");
    for n in 0..3000 {
        File::create(folder.join(format!("{n:04}"))).expect("create");
    }
    // `telldir` in the middle, then everything before is removed and as much is added.
    let program = r#"
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.opendir.restype = libc.readdir.restype = ctypes.c_void_p
libc.telldir.restype = ctypes.c_long
for call in (libc.readdir, libc.telldir, libc.rewinddir, libc.closedir):
    call.argtypes = [ctypes.c_void_p]
libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
folder = sys.argv[1]
stream = libc.opendir(folder.encode())
def names():
    while entry := libc.readdir(stream):
        yield ctypes.string_at(entry + 19).decode()
seen = []
listing = names()
while len(seen) < 1500:
    seen.append(next(listing))
place = libc.telldir(stream)
rest = list(listing)
for name in seen:
    if name not in (".", ".."):
        os.unlink(os.path.join(folder, name))
        open(os.path.join(folder, "new-" + name), "w").close()
libc.seekdir(stream, place)
again = list(names())
print([name for name in again if not name.startswith("new-")] == rest, len(again) == len(set(again)))
libc.rewinddir(stream)
print(len(list(names())))
"#;
    let told = tool("python3", &[Path::new("-c"), Path::new(program), &folder]);
    assert_eq!(told.stdout.trim(), "True True\n3002");
}

#[test]
fn nothing_can_be_changed_on_a_drive_that_is_mounted_read_only() {
    let mut machine = Machine::demo();
    fs::write(machine.dir().join("file"), "kept").expect("write");
    fs::create_dir(machine.dir().join("folder")).expect("mkdir");
    machine.flush();
    machine.stop();
    let mut machine = machine.with_args(&["-o", "ro"]);
    machine.start();
    let dir = machine.dir();
    let (file, folder, new) = (dir.join("file"), dir.join("folder"), dir.join("new"));
    let (node, now) = (rustix::fs::FileType::Fifo, std::time::SystemTime::now());
    let errno = |result: std::io::Result<()>| result.map_err(|e| e.raw_os_error());
    let refused = [
        (
            "chmod",
            errno(fs::set_permissions(
                &file,
                fs::metadata(&file).expect("stat").permissions(),
            )),
        ),
        (
            "chown",
            errno(std::os::unix::fs::chown(&file, Some(1), None)),
        ),
        (
            "lchown",
            errno(std::os::unix::fs::lchown(&file, Some(1), None)),
        ),
        ("link", errno(fs::hard_link(&file, &new))),
        ("mkdir", errno(fs::create_dir(&new))),
        (
            "mkfifo",
            errno(rustix::fs::mknodat(CWD, &new, node, Mode::RUSR, 0).map_err(Into::into)),
        ),
        ("creat", errno(File::create(&new).map(drop))),
        (
            "open to write",
            errno(File::options().write(true).open(&file).map(drop)),
        ),
        ("rename", errno(fs::rename(&file, &new))),
        ("rmdir", errno(fs::remove_dir(&folder))),
        ("symlink", errno(std::os::unix::fs::symlink("file", &new))),
        (
            "truncate",
            errno(
                OpenOptions::new()
                    .write(true)
                    .truncate(true)
                    .open(&file)
                    .map(drop),
            ),
        ),
        ("unlink", errno(fs::remove_file(&file))),
        (
            "times",
            errno(File::open(&file).and_then(|f| f.set_modified(now))),
        ),
        (
            "xattr",
            errno(
                rustix::fs::setxattr(&file, "user.a", b"b", rustix::fs::XattrFlags::empty())
                    .map_err(Into::into),
            ),
        ),
    ];
    for (call, answer) in refused {
        assert_eq!(answer, Err(Some(Errno::ROFS.raw_os_error())), "{call}");
    }
    assert_eq!(fs::read(&file).expect("read"), b"kept");
}

#[test]
fn a_timestamp_out_of_range_is_clamped_without_hanging() {
    let machine = Machine::demo();
    let path = machine.dir().join("file");
    fs::write(&path, "x").expect("write");
    let program = r#"
import os, sys
# More often than there are threads that could end by it.
for seconds in [-2**63] * 9 + [-2**63 + 1, -2**62, 2**62, 2**63 - 1]:
    for nanoseconds in (0, 1, 999999999):
        os.utime(sys.argv[1], ns=(seconds * 10**9 + nanoseconds,) * 2)
        print(os.stat(sys.argv[1]).st_mtime_ns)
"#;
    let told = tool("python3", &[Path::new("-c"), Path::new(program), &path]).stdout;
    let [first, last] = [i64::MIN, i64::MAX].map(|ns| ns.to_string());
    let expected = [vec![first.as_str(); 33], vec![last.as_str(); 6]].concat();
    assert_eq!(told.lines().collect::<Vec<_>>(), expected);
}

/// Prints the error number of each call that asks for more than a drive has.
const ASKS_FOR_MORE: &str = r#"
import ctypes, errno, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
top, path = sys.argv[1], os.path.join(sys.argv[1], "file")
def told(what, answer):
    print(what, "done" if answer >= 0 else errno.errorcode[ctypes.get_errno()])
page = bytearray(4096)
struct.pack_into("III", page, 1024, 1, 2047, 0)
page[4086:] = b"SWAPSPACE2"
with open(path, "wb") as file:
    file.write(page + bytes(2047 * 4096))
os.chmod(path, 0o600)
told("swap", libc.swapon(path.encode(), 0))
fd = os.open(path, os.O_RDWR)
RWF_DONTCACHE = 0x80
for what, call in (("read", os.preadv), ("write", os.pwritev)):
    try:
        call(fd, [page], 0, RWF_DONTCACHE)
    except OSError as why:
        print(what, why.errno == errno.EOPNOTSUPP)
init, mark = {"x86_64": (300, 301), "aarch64": (262, 263)}[os.uname().machine]
FAN_REPORT_FID, FAN_MARK_ADD, FAN_MARK_MOUNT, FAN_MARK_FILESYSTEM, FAN_MODIFY = 0x200, 1, 0x10, 0x100, ctypes.c_ulong(2)
watch = libc.syscall(init, FAN_REPORT_FID, os.O_RDONLY)
for what, all in (("mount", FAN_MARK_MOUNT), ("all", FAN_MARK_FILESYSTEM), ("file", 0)):
    told(what, libc.syscall(mark, watch, FAN_MARK_ADD | all, FAN_MODIFY, -100, path.encode()))
ready, is_ready = os.pipe()
end, is_end = os.pipe()
child = os.fork()
if child == 0:
    os.close(is_end)
    CLONE_NEWUSER = 0x10000000
    libc.unshare(CLONE_NEWUSER)
    os.write(is_ready, b"x")
    os.read(end, 1)
    os._exit(0)
os.read(ready, 1)
for which in ("uid_map", "gid_map"):
    with open("/proc/%d/%s" % (child, which), "w") as map:
        map.write("0 1000 10")
users = os.open("/proc/%d/ns/user" % child, os.O_RDONLY)
open_tree, mount_setattr, OPEN_TREE_CLONE, AT_EMPTY_PATH, MOUNT_ATTR_IDMAP = 428, 442, 1, 0x1000, 0x100000
tree = libc.syscall(open_tree, -100, top.encode(), OPEN_TREE_CLONE)
told("a tree", tree)
told("other users", libc.syscall(mount_setattr, tree, b"", AT_EMPTY_PATH, struct.pack("QQQQ", MOUNT_ATTR_IDMAP, 0, 0, users), ctypes.c_size_t(32)))
os.close(tree); os.close(is_end)
os.waitpid(child, 0)
"#;

#[test]
fn what_asks_for_more_than_a_drive_has_is_refused_as_told() {
    let machine = Machine::demo();
    let told = tool(
        "python3",
        &[Path::new("-c"), Path::new(ASKS_FOR_MORE), &machine.dir()],
    );
    let expected = "swap EINVAL\nread True\nwrite True\nmount ENODEV\nall ENODEV\nfile done\na tree done\nother users EINVAL";
    assert_eq!(told.stdout.trim(), expected);
}
