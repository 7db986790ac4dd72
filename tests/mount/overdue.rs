//! A token whose sync is overdue grows no more until it is synced, and then at once.

use std::ffi::CString;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::fs::{
    CWD, FallocateFlags, FileType, Mode, XattrFlags, copy_file_range, fallocate, mknodat, setxattr,
};
use rustix::io::Errno;

use crate::command::run;
use crate::harness::Machine;
use crate::samples::{assert_pattern, pattern};

/// Copies the first chunk of what is published, which is shared and not written.
fn copy_chunk(dir: &Path) -> io::Result<()> {
    let from = File::open(dir.join("published"))?;
    let to = File::options().write(true).open(dir.join("copy"))?;
    let copied = copy_file_range(from, None, to, None, 1 << 20)?;
    assert_eq!(copied, 1 << 20);
    Ok(())
}

/// Every call of the rule for growth, each on an entry of its own kind.
fn growing_calls(dir: &Path) -> Vec<(&'static str, io::Result<()>)> {
    let write = |name: &str, offset: u64| {
        File::options()
            .write(true)
            .open(dir.join(name))
            .and_then(|file| file.write_at(b"x", offset))
            .map(drop)
    };
    let on_file = |act: &dyn Fn(&File) -> io::Result<()>| {
        File::options()
            .write(true)
            .open(dir.join("file"))
            .and_then(|file| act(&file))
    };
    let node = CString::new(dir.join("fifo").as_os_str().as_bytes()).expect("no NUL");
    vec![
        ("write at the end", write("file", 5000)),
        ("write in place", write("file", 0)),
        ("write into a hole", write("sparse", 4096)),
        ("truncate up", on_file(&|file| file.set_len(9000))),
        (
            "fallocate",
            on_file(&|file| Ok(fallocate(file, FallocateFlags::empty(), 0, 9000)?)),
        ),
        (
            "zeroing a range",
            on_file(&|file| Ok(fallocate(file, FallocateFlags::ZERO_RANGE, 0, 100)?)),
        ),
        ("a copy that shares", copy_chunk(dir)),
        (
            "more than a small new file",
            fs::write(dir.join("new"), [b'x'; (16 << 10) + 1]),
        ),
        (
            "mknod",
            mknodat(CWD, node, FileType::Fifo, Mode::RUSR, 0).map_err(io::Error::from),
        ),
        ("symlink", symlink("file", dir.join("new-link"))),
        (
            "link",
            fs::hard_link(dir.join("file"), dir.join("new-name")),
        ),
        (
            "setxattr that enlarges",
            setxattr(
                dir.join("file"),
                "user.new",
                &[b'x'; 100],
                XattrFlags::empty(),
            )
            .map_err(io::Error::from),
        ),
    ]
}

#[track_caller]
fn assert_growth_is_refused(dir: &Path) {
    for (call, result) in growing_calls(dir) {
        let code = result.err().and_then(|why| why.raw_os_error());
        assert_eq!(
            code,
            Some(Errno::ACCESS.raw_os_error()),
            "{call} while the sync is overdue"
        );
    }
}

#[test]
fn an_overdue_sync_stops_growth_and_nothing_else() {
    let mut machine = Machine::demo();
    let dir = machine.dir();
    fs::write(dir.join("file"), pattern(1, 0, 5000)).expect("writable");
    for name in ["old", "doomed", "shrinking"] {
        fs::write(dir.join(name), pattern(2, 0, 200_000)).expect("writable");
    }
    fs::create_dir(dir.join("doomed-folder")).expect("mkdir");
    File::create(dir.join("sparse"))
        .and_then(|file| file.set_len(100_000))
        .expect("a sparse file");
    fs::write(dir.join("published"), pattern(4, 0, 2 << 20)).expect("writable");
    File::create(dir.join("copy")).expect("an empty file");
    machine.flush();
    // Accepted before the deadline, published after it.
    fs::write(dir.join("accepted"), pattern(3, 0, 300_000)).expect("writable");

    machine.ask(&["dev", "advance", "31d"]).ok();
    machine.wait_for("1", "state", "overdue");
    assert_growth_is_refused(&dir);
    // Backup programs write a lock before they restore anything.
    let lock = dir.join("lock");
    fs::create_dir(&lock).expect("a directory as a lock");
    fs::write(lock.join("host.tmp"), [b'x'; 300]).expect("a lock");
    fs::rename(lock.join("host.tmp"), lock.join("host")).expect("rename");
    fs::remove_dir_all(&lock).expect("unlocked");

    assert_pattern(&dir.join("file"), 1, 5000);
    assert!(fs::read_dir(&dir).expect("listing").count() >= 6);
    fs::rename(dir.join("old"), dir.join("renamed-to-something-longer")).expect("rename");
    fs::set_permissions(dir.join("file"), Permissions::from_mode(0o600)).expect("chmod");
    fs::remove_file(dir.join("doomed")).expect("unlink");
    fs::remove_dir(dir.join("doomed-folder")).expect("rmdir");
    File::options()
        .write(true)
        .open(dir.join("shrinking"))
        .and_then(|file| {
            let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            fallocate(&file, punch, 0, 65_536)?;
            file.set_len(100)
        })
        .expect("punching and truncating down");
    machine.flush();

    // The deadline holds after a restart.
    machine.restart();
    machine.wait_for("1", "state", "overdue");
    assert_growth_is_refused(&dir);
    assert_pattern(&dir.join("accepted"), 3, 300_000);

    // Emptying a file is not growth either; writing to it is.
    let emptied = File::options()
        .write(true)
        .truncate(true)
        .open(dir.join("accepted"))
        .expect("O_TRUNC");
    assert_eq!(emptied.metadata().expect("stat").len(), 0);

    let answer = machine.ask(&["sync", "1", "--yes", "--json"]).ok().json();
    assert_eq!(answer["token"], "1");
    for (call, result) in growing_calls(&dir) {
        result.unwrap_or_else(|why| panic!("{call} right after the sync: {why}"));
    }
    assert_pattern(&dir.join("copy"), 4, 1 << 20);
    emptied
        .write_at(b"again", 0)
        .expect("a handle that was open all the time writes again");
    assert_eq!(machine.token("1")["state"], "ok");
}

/// Stores into mappings before and after a deadline, and tells the error numbers of `msync`, `fsync` and `close`.
const STORE_WHILE_OVERDUE: &str = r#"
import mmap, os, shlex, subprocess, sys
before, after, size, pxfs = sys.argv[1], sys.argv[2], 300000, sys.argv[3:]
def told(*calls):
    def number(call):
        try:
            call()
        except OSError as error:
            return error.errno
        return 0
    return [number(call) for call in calls]
def opened(path):
    fd = os.open(path, os.O_RDWR)
    return fd, mmap.mmap(fd, size)
# A child that begins while files are open closes them, which writes their pages back.
shell = subprocess.Popen(["sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
def ask(*args):
    command = shlex.join([*pxfs[:1], *args, *pxfs[1:]])
    print(f"{command} > /dev/null; echo $?", file=shell.stdin, flush=True)
    assert shell.stdout.readline() == "0\n"
def all_of(fd, m):
    return told(m.flush, lambda: os.fsync(fd), lambda: os.close(os.dup(fd)))
fd, m = opened(before)
m[5:9] = b"then"
print(all_of(fd, m))
m[100000:100004] = b"kept"
ask("dev", "advance", "31d")
w = os.open(after, os.O_WRONLY)
while True:
    try:
        os.pwrite(w, b"grown", size)
        os.ftruncate(w, size)
    except PermissionError:
        break
second, n = opened(after)
n[200000:200004] = b"late"
# Another program may have had all pages written back meanwhile.
m[50] = 1
for _ in range(2):
    print(all_of(fd, m), all_of(second, n))
    print(os.pread(fd, 4, 100000), os.pread(second, 4, 200000))
    m[50], n[50] = 2, 2
ask("sync", "1", "--yes")
print(all_of(fd, m), all_of(second, n))
"#;

#[test]
fn mmap_writes_while_overdue_are_retained_reported_and_published_after_sync() {
    let mut machine = Machine::demo();
    let paths = ["before", "after"].map(|name| machine.dir().join(name));
    for path in &paths {
        fs::write(path, pattern(1, 0, 300_000)).expect("writable");
    }
    machine.flush();
    // It lets the time pass while it has the files mapped.
    let pxfs = machine.command();
    let environment = pxfs
        .get_envs()
        .filter_map(|(name, value)| Some((name, value?)));
    let mut python = Command::new("python3");
    python.env_clear().envs(environment);
    python.args(["-c", STORE_WHILE_OVERDUE]).args(&paths);
    python.arg(pxfs.get_program());
    python.arg("--state-dir").arg(machine.state());
    python.arg("--cache-dir").arg(machine.cache());
    let late = Errno::ACCESS.raw_os_error();
    let refused = format!("[{late}, {late}, {late}]");
    let refused = format!("{refused} {refused}\nb'kept' b'late'\n");
    let expected = format!("[0, 0, 0]\n{refused}{refused}[0, 0, 0] [0, 0, 0]\n");
    let told = run(python, Duration::from_secs(120)).ok();
    assert_eq!(told.stdout, expected);

    machine.flush();
    let kept = paths
        .each_ref()
        .map(|path| fs::read(path).expect("readable"));
    for (at, bytes) in [(5, b"then"), (100_000, b"kept")] {
        assert_eq!(&kept[0][at..at + 4], bytes);
    }
    assert_eq!(&kept[1][200_000..200_004], b"late");
    machine.stop();
    let second = Machine::second(&machine);
    for (name, kept) in ["before", "after"].iter().zip(kept) {
        assert!(
            fs::read(second.dir().join(name)).expect("readable") == kept,
            "{name}"
        );
    }
}
