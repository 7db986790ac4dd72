//! Bytes stored through a shared mapping: they come late, and are kept whatever the quota says.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;

use crate::command::{tool, wait_until};
use crate::harness::Machine;
use crate::samples::pattern;

/// Length of the mapped file: more than is left when it is stored into.
const LEN: u64 = 16 << 20;

/// Maps a sparse file, takes all room that is left, stores into the mapping, and tells the error
/// numbers of `msync` and `fsync`.
const STORE_AT_FULL_QUOTA: &str = r#"
import mmap, os, sys
path, filler, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
def told(call):
    try:
        call()
    except OSError as error:
        return error.errno
    return 0
fd = os.open(path, os.O_RDWR)
with mmap.mmap(fd, size) as m:
    with open(filler, "wb", buffering=0) as f:
        try:
            while True:
                f.write(b"f" * 1048576)
        except OSError:
            pass
    for at in range(0, size, 65536):
        m[at:at+8] = at.to_bytes(8, "little")
    print(told(m.flush), told(lambda: os.fsync(fd)))
    print(told(lambda: os.close(fd)))
"#;

#[test]
fn mmap_writes_at_full_quota_are_retained_and_reported() {
    let mut machine = Machine::demo();
    let (sparse, filler) = (machine.dir().join("sparse"), machine.dir().join("filler"));
    File::create(&sparse)
        .and_then(|file| file.set_len(LEN))
        .expect("a sparse file");
    machine.flush();
    let python = ["-c", STORE_AT_FULL_QUOTA].map(Path::new);
    let len = LEN.to_string();
    let told = tool(
        "python3",
        &[python[0], python[1], &sparse, &filler, Path::new(&len)],
    );
    let full = Errno::DQUOT.raw_os_error();
    assert_eq!(told.stdout.trim(), format!("{full} {full}\n{full}"));

    // Nothing that exceeds the quota is published, and `status` says why and because of what.
    let token = machine.token("1");
    assert_eq!(token["state"], "quota");
    let reason = token["reason"].as_str().expect("a reason");
    assert!(reason.contains("sparse"), "{reason}");
    let refused = machine.ask(&["flush"]).exits(7).one_line();
    assert!(
        refused.stderr.contains("more are used than the quota has"),
        "{}",
        refused.stderr
    );

    // It is there after the kernel has forgotten it, after a crash, and published once there is room.
    fs::write("/proc/sys/vm/drop_caches", "3").expect("root may");
    check(&sparse);
    machine.kill();
    machine.start();
    check(&sparse);
    machine.ask(&["flush"]).exits(7);
    fs::remove_file(&filler).expect("deleting goes on");
    wait_until("there is room", Duration::from_secs(60), || {
        machine.token("1")["state"] == "ok"
    });
    File::open(&sparse)
        .and_then(|file| file.sync_all())
        .expect("nothing to tell any more");
    machine.flush();
    let second = {
        machine.stop();
        let mut second = Machine::prepared_second(&machine);
        second.start();
        second
    };
    check(&second.dir().join("sparse"));
}

#[track_caller]
fn check(path: &Path) {
    let bytes = fs::read(path).expect("readable");
    assert_eq!(bytes.len() as u64, LEN);
    for at in (0..bytes.len()).step_by(65536) {
        assert_eq!(bytes[at..at + 8], (at as u64).to_le_bytes(), "at {at}");
    }
}

#[test]
fn mmap_of_an_append_descriptor_writes_at_the_mapped_offset() {
    let machine = Machine::demo();
    let path = machine.dir().join("log");
    fs::write(&path, pattern(1, 0, 200_000)).expect("writable");
    let program = r#"
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_APPEND)
with mmap.mmap(fd, 200000) as m:
    m[4096:4104] = b"replaced"
    m.flush()
"#;
    tool("python3", &[Path::new("-c"), Path::new(program), &path]);
    let file = File::open(&path).expect("readable");
    assert_eq!(file.metadata().expect("stat").len(), 200_000);
    let mut found = [0; 8];
    file.read_exact_at(&mut found, 4096).expect("readable");
    assert_eq!(&found, b"replaced");
}

/// Writes through a descriptor that only writes, which goes past the page cache, and looks after each
/// write at what a mapping and another descriptor have, while others keep reading the pages in.
const WRITE_BESIDE_READERS: &str = r#"
import mmap, os, signal, sys
path, rounds, size = sys.argv[1], int(sys.argv[2]), 1 << 20
w = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
os.pwrite(w, bytes(size), 0)
readers = []
for _ in range(2):
    pid = os.fork()
    if pid == 0:
        fd = os.open(path, os.O_RDONLY)
        while True:
            os.pread(fd, 8, size - 8)
            os.pread(fd, 8, size // 2)
    readers.append(pid)
try:
    r = os.open(path, os.O_RDONLY)
    m = mmap.mmap(r, size, prot=mmap.PROT_READ)
    missed = 0
    for i in range(1, rounds + 1):
        stamp = i.to_bytes(8, "little")
        os.pwrite(w, stamp * (size // 8), 0)
        if m[size-8:] != stamp or os.pread(r, 8, size // 2) != stamp:
            missed += 1
    # They read still.
    assert all(os.waitpid(pid, os.WNOHANG) == (0, 0) for pid in readers)
finally:
    for pid in readers:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
print(missed)
"#;

/// Newer kernels drop the pages behind a write themselves, and there no reader would miss one if the
/// daemon did not: that it does is counted in its log.
#[test]
fn a_page_never_stays_older_than_a_write_that_was_answered() {
    let machine = Machine::demo_with(&["--log", "warn,pxfs=info,pxfs::mount::notify=trace"]);
    let path = machine.dir().join("beside");
    let python = ["-c", WRITE_BESIDE_READERS].map(Path::new);
    let rounds = Path::new("500");
    let told = tool("python3", &[python[0], python[1], &path, rounds]);
    assert_eq!(told.stdout.trim(), "0", "writes that a reader missed");
    // A write may come in two parts, and is tried again where somebody reads meanwhile.
    let told = machine.log().matches("TRACE drop pages").count();
    assert!(told >= 500, "{told} times");

    // Nor when it is opened again: what was read in meanwhile was kept.
    let stamps = 500_u64.to_le_bytes().repeat(1 << 17);
    assert!(fs::read(&path).expect("the file") == stamps);
}

/// Writes and syncs by a descriptor that only writes, while a child stores into other bytes of the same page,
/// again and again, and has it written back; how many of the writes are gone a moment later.
const WRITE_BESIDE_A_MAPPING: &str = r#"
import mmap, os, signal, struct, sys, time
path, rounds = sys.argv[1], int(sys.argv[2])
with open(path, "wb") as f:
    f.write(bytes(4096))
w = os.open(path, os.O_WRONLY)
pid = os.fork()
if pid == 0:
    m, i = mmap.mmap(os.open(path, os.O_RDWR), 4096), 0
    while True:
        i += 1
        m[0:8] = struct.pack("<Q", i)
        if i % 50 == 0:
            m.flush()
        if i % 2000 == 0:
            time.sleep(0.002)
try:
    r, lost, before = os.open(path, os.O_RDONLY), 0, 0
    for n in range(1, rounds + 1):
        os.pwrite(w, struct.pack("<Q", n), 512)
        os.fsync(w)
        time.sleep(0.003)
        lost += struct.unpack("<Q", os.pread(r, 8, 512))[0] != n
        stored = struct.unpack("<Q", os.pread(r, 8, 0))[0]
        lost += stored < before
        before = stored
    # It stores still.
    assert os.waitpid(pid, os.WNOHANG) == (0, 0)
finally:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
print(lost)
"#;

#[test]
fn a_synced_write_is_never_undone_by_an_older_mapped_page() {
    let machine = Machine::demo();
    let path = machine.dir().join("both");
    let python = ["-c", WRITE_BESIDE_A_MAPPING].map(Path::new);
    let told = tool("python3", &[python[0], python[1], &path, Path::new("600")]);
    assert_eq!(told.stdout.trim(), "0", "writes that are gone");
    // What the page cache says is what is kept.
    let before = fs::read(&path).expect("readable");
    File::open(&path)
        .and_then(|file| file.sync_all())
        .expect("fsync");
    fs::write("/proc/sys/vm/drop_caches", "3").expect("root may");
    assert!(fs::read(&path).expect("readable") == before);
}

#[test]
fn a_write_takes_a_files_capabilities_away() {
    let machine = Machine::demo();
    let path = machine.dir().join("capable");
    let writer = File::create(&path).expect("a file");
    let set = |value: &str| {
        let path = path.to_str().expect("UTF-8");
        tool(
            "python3",
            &[
                Path::new("-c"),
                Path::new(
                    "import os, sys; os.setxattr(sys.argv[1], 'security.capability', bytes.fromhex(sys.argv[2]))",
                ),
                Path::new(path),
                Path::new(value),
            ],
        );
    };
    let capable = || {
        let mut value = [0; 64];
        rustix::fs::getxattr(&path, "security.capability", &mut value[..]).is_ok()
    };
    // Revision 2, CAP_NET_RAW permitted and effective.
    let net_raw = "0100000200200000000000000000000000000000";
    set(net_raw);
    assert!(capable());
    writer.write_at(b"other code", 0).expect("a write");
    assert!(!capable(), "past the page cache");
    drop(writer);
    set(net_raw);
    let writer = File::options().write(true).open(&path).expect("a file");
    writer.write_at(b"more of it", 0).expect("a write");
    assert!(!capable(), "opened with them");
}

/// Runs a program of Python that is given the paths `args`, and has to succeed.
#[track_caller]
fn python(program: &str, args: &[&Path]) -> String {
    let mut all = vec![Path::new("-c"), Path::new(program)];
    all.extend(args);
    tool("python3", &all).stdout.trim().to_owned()
}

/// A child touches a byte of a mapping; the name of the signal that it died of.
const TOUCH: &str = r#"
import mmap, os, signal, sys
def touch(m, at, value=None):
    child = os.fork()
    if child == 0:
        if value is None:
            os._exit(m[at])
        m[at] = value
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
fd = os.open(sys.argv[1], os.O_RDWR)
"#;

#[test]
fn a_mapping_ends_at_a_truncation_and_reads_zeros_after_growth() {
    let machine = Machine::demo();
    let path = machine.dir().join("file");
    let program = format!(
        "{TOUCH}{}",
        r#"
os.pwrite(fd, b"\x07" * 3_000_000, 0)
shared = mmap.mmap(fd, 3_000_000)
private = mmap.mmap(fd, 3_000_000, flags=mmap.MAP_PRIVATE)
print(shared[2_500_000], private[2_500_000], touch(shared, 2_500_000))
os.ftruncate(fd, 1_000_100)
# The rest of the last page is zeros; behind it there is nothing, in either mapping.
print(shared[1_000_099], shared[1_000_100], touch(shared, 1_000_100), private[1_000_100])
print(touch(shared, 2_500_000), touch(private, 2_500_000), touch(shared, 2_500_000, 1))
os.ftruncate(fd, 3_000_000)
print(touch(shared, 2_500_000), private[2_500_000], shared[1_000_099], shared[1_000_100])
shared[2_500_000] = 9
shared.flush()
print(os.pread(fd, 2, 2_500_000), private[2_500_000])
"#
    );
    fs::write(&path, "").expect("writable");
    let expected = "7 7 7\n7 0 0 0\nSIGBUS SIGBUS SIGBUS\n0 0 7 0\nb'\\t\\x00' 9";
    assert_eq!(python(&program, &[&path]), expected);
    machine.flush();
    let mut expected = vec![7; 1_000_100];
    expected.resize(3_000_000, 0);
    expected[2_500_000] = 9;
    assert!(fs::read(&path).expect("readable") == expected);
}

/// On ext4 these are zeros since Linux 6.13. The kernel tells a daemon of the new length before it writes the page back,
/// and writes back what is in it then.
#[test]
fn mapped_bytes_past_eof_become_content_if_the_file_grows() {
    let machine = Machine::demo();
    let path = machine.dir().join("file");
    let program = r#"
import ctypes, mmap, os, sys
def grown(by, is_written_back):
    fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    os.pwrite(fd, b"a" * 100, 0)
    m = mmap.mmap(fd, 100)
    page = (ctypes.c_ubyte * 4096).from_address(ctypes.addressof(ctypes.c_ubyte.from_buffer(m)))
    page[200] = 1
    if is_written_back:
        m.flush()
    size = os.fstat(fd).st_size
    by(fd)
    os.fsync(fd)
    return size, os.fstat(fd).st_size, page[200], list(os.pread(fd, 2, 200))
for is_written_back in (True, False):
    print(grown(lambda fd: os.posix_fallocate(fd, 0, 4096), is_written_back))
    print(grown(lambda fd: os.pwrite(fd, b"b", 4095), is_written_back))
    print(grown(lambda fd: os.ftruncate(fd, 4096), is_written_back))
"#;
    let lines = |byte| format!("(100, 4096, {byte}, [{byte}, 0])\n").repeat(3);
    let expected = [lines(0), lines(1)].concat();
    assert_eq!(python(program, &[&path]), expected.trim());
    // What is read is what is kept and published.
    machine.flush();
    fs::write("/proc/sys/vm/drop_caches", "3").expect("root may");
    let mut expected = vec![b'a'; 100];
    expected.resize(4096, 0);
    expected[200] = 1;
    assert!(fs::read(&path).expect("readable") == expected);
}

#[test]
fn what_is_stored_into_a_private_mapping_stays_with_its_program() {
    let machine = Machine::demo();
    let path = machine.dir().join("file");
    fs::write(&path, pattern(1, 0, 300_000)).expect("writable");
    let program = r#"
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
m = mmap.mmap(fd, 300000, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
before = os.pread(fd, 10, 70000)
m[70000:70010] = b"privately!"
m.flush()
print(os.pread(fd, 10, 70000) == before, m[70000:70010])
"#;
    assert_eq!(python(program, &[&path]), "True b'privately!'");
    assert!(fs::read(&path).expect("readable") == pattern(1, 0, 300_000));
}

#[test]
fn mappings_see_what_is_punched_zeroed_copied_and_written_below_them() {
    let machine = Machine::demo();
    let (path, source) = (machine.dir().join("file"), machine.dir().join("source"));
    fs::write(&path, vec![7; 5 << 20]).expect("writable");
    fs::write(&source, vec![8; 5 << 20]).expect("writable");
    machine.flush();
    let program = r#"
import ctypes, mmap, os, sys
libc = ctypes.CDLL(None, use_errno=True)
MIB = 1 << 20
fd, source = os.open(sys.argv[1], os.O_RDWR), os.open(sys.argv[2], os.O_RDONLY)
m = mmap.mmap(fd, 5 * MIB)
at = [5, MIB + 5, 2 * MIB + 5, 3 * MIB + 5, 4 * MIB + 5]
seen = lambda: [m[i] for i in at]
print(sum(m[i] for i in range(0, 5 * MIB, 4096)) == 7 * 1280)
# Stored, not written back yet: what is done to the file comes after.
m[MIB + 5] = 1
m[3 * MIB + 5] = 1
assert libc.fallocate(fd, 3, ctypes.c_long(MIB), ctypes.c_long(MIB)) == 0
assert libc.fallocate(fd, 16, ctypes.c_long(2 * MIB + 1), ctypes.c_long(100)) == 0
print(seen())
print(os.copy_file_range(source, fd, 2 * MIB, 3 * MIB, 3 * MIB) > 0)
os.pwrite(fd, b"\x02", 5)
print(seen()[:4])
m[MIB + 6] = 3
m.flush()
print(list(os.pread(fd, 3, MIB + 5)))
"#;
    let expected = "True\n[7, 0, 0, 1, 7]\nTrue\n[2, 0, 0, 8]\n[0, 3, 0]";
    assert_eq!(python(program, &[&path, &source]), expected);
}

#[test]
fn an_unlinked_mapped_file_retains_its_bytes_and_costs_no_quota() {
    let machine = Machine::demo();
    let program = r#"
import mmap, os, sys, time
path, size = sys.argv[1], 3_000_000
def used():
    told = os.statvfs(os.path.dirname(path))
    return told.f_blocks - told.f_bfree
before = used()
fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
os.write(fd, b"w" * size)
m = mmap.mmap(fd, size)
os.close(fd)
m[5:9] = b"here"
os.unlink(path)
print(used() == before)
m[1_000_000:1_000_004] = b"late"
m.flush()
with open("/proc/sys/vm/drop_caches", "w") as f:
    f.write("3")
print(m[3:11], m[999_999:1_000_005], m[size - 2:])
print(used() == before)
m.close()
print(used() == before)
"#;
    let expected = "True\nb'wwhereww' b'wlatew' b'ww'\nTrue\nTrue";
    assert_eq!(python(program, &[&machine.dir().join("file")]), expected);
    machine.flush();
}

/// A child stores into a hole through a mapping that it keeps; what others are told of the file, and copy of it.
const COPY_WHILE_MAPPED: &str = r#"
import errno, mmap, os, subprocess, sys
top, MIB = sys.argv[1], 1 << 20
os.chdir(top)
def child(name, work):
    begun, begins = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        m = work(os.open(name, os.O_RDWR | os.O_CREAT, 0o600))
        os.write(begins[1], b"x")
        os.read(begun[0], 1)
        os._exit(0)
    os.read(begins[0], 1)
    return lambda: (os.write(begun[1], b"x"), os.waitpid(pid, 0))
def first(fd):
    os.ftruncate(fd, 8 * MIB)
    m = mmap.mmap(fd, 8 * MIB)
    m[3 * MIB + 5:3 * MIB + 9] = b"here"
    m[8 * MIB - 1] = 7
    return m
def told(fd, at, whence):
    try:
        return os.lseek(fd, at, whence) / MIB
    except OSError as why:
        return errno.errorcode[why.errno]
def content(name):
    with open(name, "rb") as f:
        found = f.read()
    return len(found) / MIB, found[3 * MIB + 5:3 * MIB + 9], found[-1], found.count(0) == 8 * MIB - 5
def whole(what, command):
    end = child("f", first)
    subprocess.run(command, shell=True, check=True)
    end()
    os.unlink("f")
    print(what, content("g"))
whole("cp", "cp f g")
whole("sparse cp", "cp --sparse=always f g")
# Its time is that of the write-back, so tar may end with 1: it was changed meanwhile.
whole("tar", "{ tar -Scf a f || [ $? = 1 ]; } && tar -xOf a f > g")
whole("after stat", "stat f > /dev/null && { tar -Scf a f || [ $? = 1 ]; } && tar -xOf a f > g")
end = child("f", first)
fd = os.open("f", os.O_RDONLY)
print([told(fd, at * MIB, os.SEEK_DATA) for at in (0, 3, 4, 8)])
print([told(fd, at * MIB, os.SEEK_HOLE) for at in (0, 3, 4, 7)])
end()
# It was there before, and nothing but a hole, and was looked at.
with open("old", "wb") as f:
    f.truncate(8 * MIB)
os.stat("old")
end = child("old", first)
subprocess.run("{ tar -Scf a old || [ $? = 1 ]; } && tar -xOf a old > g", shell=True, check=True)
end()
print("old", content("g"))
"#;

#[test]
fn a_copy_includes_what_another_program_mapped_into_a_hole() {
    let machine = Machine::demo();
    let whole = |what| format!("{what} (8.0, b'here', 7, True)\n");
    let copied = ["cp", "sparse cp", "tar", "after stat"].map(whole).concat();
    // In pages of 4 KiB.
    let sought = "[3.0, 3.0, 7.99609375, 'ENXIO']\n[0.0, 3.00390625, 4.0, 7.0]";
    let told = python(COPY_WHILE_MAPPED, &[&machine.dir()]);
    assert_eq!(told, format!("{copied}{sought}\n{}", whole("old").trim()));
}
