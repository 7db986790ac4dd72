//! Random histories of two files by descriptors of all kinds at once: those that only write, which go
//! past the page cache, those that read and write, mappings, cuts, holes and copies, with readers that
//! open, read and close in between. Each read is held against a reference in memory.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::command::tool;
use crate::harness::Machine;

/// Operations of one history, and histories side by side. `PXFS_MIXED_SEEDS` says otherwise how many.
/// `PXFS_MIXED_SEED` and `PXFS_MIXED_OPERATIONS` repeat the one that a failure names, as far as it came, on all sides.
const OPERATIONS: u64 = 1500;
const SEEDS: u64 = 4;
/// Commits that are to run beside the histories; they go on until so many have.
const COMMITS: u64 = 6;

/// Makes a history, and ends with the first byte that reads as another one, and what led there.
const HISTORY: &str = r#"
import ctypes, errno, mmap, os, random, sys
base, seed, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
rnd, libc = random.Random(seed), ctypes.CDLL(None, use_errno=True)
MOST, told = 3 << 20, []
paths = [base + "-a", base + "-b"]
ref = [bytearray(), bytearray()]
for path in paths:
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
writers = [None, None]
held = [None, None]
mapped = [None, None]
stamp = 0

def fresh(n):
    global stamp
    stamp += 1
    return (stamp.to_bytes(4, "little") + b"\xff") * (n // 5 + 1)

def put(f, at, data):
    if len(ref[f]) < at:
        ref[f].extend(bytes(at - len(ref[f])))
    ref[f][at:at + len(data)] = data

def place(f, longest=200_000):
    at = rnd.choice([rnd.randrange(len(ref[f]) + 1), rnd.randrange(MOST), rnd.randrange(MOST) & ~4095])
    n = 1 + rnd.randrange(rnd.choice([100, 5000, longest]))
    return at, min(n, MOST - at)

def check(f, at, n, how, read):
    want = bytes(ref[f][at:at + n])
    if read != want:
        i = next((i for i in range(min(len(read), len(want))) if read[i] != want[i]), min(len(read), len(want)))
        raise Exception(f"{how} of file {f} at {at}+{i}: {len(read)} of {len(want)} bytes, "
                        f"{read[i:i+8]} not {want[i:i+8]}")

def tell(kind, why, trace):
    sys.__excepthook__(kind, why, trace)
    print(f"seed {seed}, operation {len(told)}, the last of {told[-30:]}\n"
          f"repeat: PXFS_MIXED_SEED={seed} PXFS_MIXED_OPERATIONS={len(told)} tests/run mount mixed", file=sys.stderr)
sys.excepthook = tell

def write_all(fd, data, at):
    done = 0
    while done < len(data):
        done += os.pwrite(fd, data[done:], at + done)

for _ in range(count):
    f = rnd.randrange(2)
    op = rnd.choice("wwwwWWrrrrrrmmmMtphcksozdddn")
    at, n = place(f)
    told.append((op, f, at, n))
    if n <= 0:
        continue
    if op == "w":  # a descriptor that only writes, kept or opened for this
        if writers[f] is None:
            writers[f] = os.open(paths[f], os.O_WRONLY)
        data = fresh(n)[:n]
        write_all(writers[f], data, at)
        put(f, at, data)
        if rnd.randrange(2):
            os.close(writers[f])
            writers[f] = None
    elif op == "W":
        fd = os.open(paths[f], os.O_RDWR)
        data = fresh(n)[:n]
        write_all(fd, data, at)
        put(f, at, data)
        check(f, at, n, "read beside its write", os.pread(fd, n, at))
        os.close(fd)
    elif op == "r":
        fd = os.open(paths[f], os.O_RDONLY)
        check(f, at, n, "read", os.pread(fd, n, at))
        os.close(fd)
    elif op in "mM" and ref[f]:
        fd = os.open(paths[f], os.O_RDWR)
        size = len(ref[f])
        m = mmap.mmap(fd, size)
        at = min(at, size - 1)
        n = min(n, size - at)
        check(f, at, n, "mapped read", m[at:at + n])
        if op == "M":
            data = fresh(n)[:n]
            m[at:at + n] = data
            put(f, at, data)
            if rnd.randrange(2):
                m.flush()
        m.close()
        os.close(fd)
    elif op == "t":
        size = rnd.choice([at, 0 if rnd.randrange(4) == 0 else at])
        os.truncate(paths[f], size)
        ref[f][size:] = bytes(max(0, size - len(ref[f])))
    elif op in "ph" and ref[f]:
        fd = os.open(paths[f], rnd.choice([os.O_WRONLY, os.O_RDWR]))
        mode = 3 if op == "p" else 0x11
        at, n = rnd.choice([(at, n), (0, 1 << 20), (1 << 20, 2 << 20)])
        assert libc.fallocate(fd, mode, ctypes.c_long(at), ctypes.c_long(n)) == 0, os.strerror(ctypes.get_errno())
        end = min(at + n, len(ref[f]))
        if end > at:
            ref[f][at:end] = bytes(end - at)
        os.close(fd)
    elif op == "c":
        to, source = 1 - f, os.open(paths[f], os.O_RDONLY)
        target = os.open(paths[to], rnd.choice([os.O_WRONLY, os.O_RDWR]))
        start, end, left = rnd.choice([(at, at, n), (0, 0, MOST), (at, rnd.randrange(MOST - n), n)])
        while left:
            copied = os.copy_file_range(source, target, left, start, end)
            if copied == 0:
                break
            put(to, end, bytes(ref[f][start:start + copied]))
            start, end, left = start + copied, end + copied, left - copied
        os.close(source)
        os.close(target)
    elif op == "k":  # a reader that stays
        if held[f] is not None:
            os.close(held[f])
            held[f] = None
        else:
            held[f] = os.open(paths[f], os.O_RDONLY)
    elif op == "n" and ref[f]:  # a mapping that stays, and is stored into
        if mapped[f] is not None and rnd.randrange(2):
            mapped[f].close()
            mapped[f] = None
        if mapped[f] is None:
            fd = os.open(paths[f], os.O_RDWR)
            mapped[f] = mmap.mmap(fd, len(ref[f]))
            os.close(fd)
        size = min(len(mapped[f]), len(ref[f]))
        at = min(at, size - 1)
        n = min(n, size - at, 5000)
        data = fresh(n)[:n]
        mapped[f][at:at + n] = data
        put(f, at, data)
    elif op == "d":  # what is skipped is zeros
        fd = os.open(paths[f], os.O_RDONLY)
        size, spot = len(ref[f]), 0
        while spot < size:
            try:
                data = os.lseek(fd, spot, os.SEEK_DATA)
            except OSError as why:
                assert why.errno == errno.ENXIO, why
                data = size
            check(f, spot, data - spot, "a hole", bytes(data - spot))
            spot = size if data == size else os.lseek(fd, data, os.SEEK_HOLE)
        os.close(fd)
    elif op == "s":
        fd = os.open(paths[f], os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
    elif op == "o":
        fd = os.open(paths[f], os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
    elif op == "z":
        fd = os.open(paths[f], os.O_WRONLY | os.O_TRUNC)
        data = fresh(n)[:n]
        write_all(fd, data, 0)
        ref[f][:] = data
        os.close(fd)
    if held[f] is not None:
        check(f, at, n, "read by one that stays", os.pread(held[f], n, at))
    assert os.stat(paths[f]).st_size == len(ref[f]), (f, os.stat(paths[f]).st_size, len(ref[f]))
for f in range(2):
    with open(paths[f], "rb") as whole:
        check(f, 0, MOST, "read at the end", whole.read())
print("well")
"#;

/// Ends what goes on until it is set, also where the test fails: whoever waits for it would wait for ever.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn whatever_descriptors_are_used_each_read_has_what_was_written_before_it() {
    let machine = Machine::demo();
    let given = |name: &str| -> Option<u64> {
        let told = std::env::var(name).ok()?;
        Some(told.parse().expect("a number"))
    };
    let repeated = given("PXFS_MIXED_SEED");
    let operations = given("PXFS_MIXED_OPERATIONS").unwrap_or(OPERATIONS);
    let seeds = given("PXFS_MIXED_SEEDS").unwrap_or(SEEDS);
    let first = given("PXFS_MODEL_SEED").unwrap_or(0);
    let done = AtomicBool::new(false);
    let history = |number: u64| {
        let path = machine.dir().join(format!("mixed-{number}"));
        let seed = repeated.unwrap_or(first * 10_000 + number).to_string();
        let operations = operations.to_string();
        let args = ["-c", HISTORY].map(Path::new);
        let (seed, operations) = (Path::new(&seed), Path::new(&operations));
        let told = tool("python3", &[args[0], args[1], &path, seed, operations]);
        assert_eq!(told.stdout.trim(), "well");
        for f in ["a", "b"] {
            drop(std::fs::remove_file(
                path.with_file_name(format!("mixed-{number}-{f}")),
            ));
        }
    };
    let history = &history;
    std::thread::scope(|scope| {
        let ending = Ending(&done);
        let commits = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                machine.flush();
                // What is published is fetched again, by whoever the kernel has no page for.
                drop(std::fs::remove_dir_all(machine.cache()));
            }
        });
        let mut next = 0;
        let mut well = true;
        // Where commits are slow, further histories run until enough of them ran beside.
        while well
            && (next < seeds
                || repeated.is_none() && !commits.is_finished() && machine.commits("1") < COMMITS)
        {
            let round = next..next + SEEDS.min(seeds);
            next = round.end;
            let workers: Vec<_> = round
                .map(|seed| scope.spawn(move || history(seed)))
                .collect();
            for worker in workers {
                well &= worker.join().is_ok();
            }
        }
        drop(ending);
        commits.join().expect("every flush succeeds");
        assert!(well, "a history went wrong");
    });
}
