//! The suites that file systems are judged by, on a real mount.
//!
//! They are programs of their own; `tests/run setup` builds them into `target/tools`.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::getxattr;
use rustix::process::{Pid, Signal, kill_process};

use crate::command::{run, wait_until};
use crate::harness::Machine;
use crate::samples::pattern;

/// What pjdfstest cannot ask of this mount: it makes as many links as `pathconf` tells, and of a file system that it
/// does not know the C library tells 127, which the suite takes for "unknown" (`fs::tests::promises` makes 65,000).
const NOT_ASKED: [&str; 1] = ["link::link_count_max"];

fn suite(name: &str) -> Command {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("target/tools/bin")
        .join(name);
    assert!(
        path.exists(),
        "{} is missing: run `tests/run setup`",
        path.display()
    );
    Command::new(path)
}

/// A search path whose `mount` asks the kernel alone. pjdfstest remounts the drive read-only and back by `mount`, which
/// would have `mount.fuse` begin a new one. The kernel refuses it for as long as a file that was unlinked is not released,
/// which comes a moment behind its last `close`.
fn remounting(machine: &Machine) -> OsString {
    let folder = machine.scratch().join("bin");
    fs::create_dir(&folder).expect("mkdir");
    let (mut paths, shim) = (vec![folder.clone()], folder.join("mount"));
    let known = std::env::var_os("PATH").unwrap_or_default();
    paths.extend(std::env::split_paths(&known));
    let real = paths.iter().skip(1).map(|path| path.join("mount"));
    let real = real.into_iter().find(|path| path.exists());
    let real = real.expect("a program `mount`");
    fs::write(
        &shim,
        format!(
            "#!/bin/sh\nfor i in $(seq 200); do {} -i \"$@\" && exit; sleep 0.05; done\nexit 1\n",
            real.display()
        ),
    )
    .expect("a script");
    fs::set_permissions(&shim, fs::Permissions::from_mode(0o755)).expect("chmod");
    std::env::join_paths(paths).expect("a search path")
}

/// Runs the tests of pjdfstest whose names contain `which`; what each of them said.
fn posix(which: &str, remounts: bool) -> Verdicts {
    let machine = Machine::demo_with(&["-o", "allow_other,dev,suid"]);
    // Other users walk here too.
    for folder in [machine.mountpoint().join(".."), machine.dir()] {
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("chmod");
    }
    let config = machine.scratch().join("pjdfstest.toml");
    let text = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
utimensat = {}
utime_now = {}
[settings]
naptime = 0.01
allow_remount = REMOUNTS
[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
"#;
    let text = text.replace("REMOUNTS", &remounts.to_string());
    fs::write(&config, text).expect("a file");
    let elsewhere = tempfile::Builder::new()
        .prefix("px-other-")
        .tempdir_in("/dev/shm")
        .expect("a folder on another file system");
    let mut command = suite("pjdfstest");
    command
        .arg("-c")
        .arg(&config)
        .arg("-p")
        .arg(machine.dir())
        .arg("-s")
        .arg(elsewhere.path())
        .arg(which)
        .env("PATH", remounting(&machine));
    Verdicts(run(command, Duration::from_secs(300)).stdout)
}

/// What pjdfstest printed: a line for each test.
struct Verdicts(String);

impl Verdicts {
    /// The tests that ended as `end`.
    fn with(&self, end: &str) -> Vec<String> {
        let lines = self.0.lines().filter_map(|line| line.strip_suffix(end));
        let mut names: Vec<String> = lines.map(|name| name.trim().to_owned()).collect();
        names.sort();
        names
    }
}

#[test]
fn every_call_answers_as_posix_says() {
    let told = posix("", false);
    assert_eq!(told.with("FAILED"), [""; 0], "{}", told.0);
    let is_asked_apart = |name: &String| name.contains("::erofs_");
    let (apart, never) = told
        .with("skipped")
        .into_iter()
        .partition::<Vec<_>, _>(is_asked_apart);
    assert_eq!(never, NOT_ASKED);
    assert!(told.with("ok").len() > 380, "{}", told.0);
    // Where others have run before them, some of those leave files open, and nothing can be remounted.
    let remounted = posix("erofs_", true);
    assert_eq!(remounted.with("ok"), apart, "{}", remounted.0);
    assert_eq!(apart.len(), 13, "{}", told.0);
}

/// Operations of one history.
const OPERATIONS: &str = "20000";
/// Rounds at most; one is of the histories that have not met yet what they are to meet.
const ROUNDS: u32 = 10;
/// So many of its contents have to be evicted and read again beside each history.
const RETURNS: usize = 3;
/// So many commits have to be made beside all of them.
const COMMITS: u64 = 20;
/// A history has to end within this time.
const ENDS: Duration = Duration::from_secs(600);
/// The same where commits and lost caches are in its way.
const HANGS: Duration = Duration::from_secs(1800);

/// What they are, and how often each. `invalidate` and `posix_fadvise` have the kernel forget its pages.
const HISTORY: &str = r#"
flen = 6291456
[opsize]
max = 200000
[weights]
close_open = 1
read = 10
write = 10
mapread = 5
mapwrite = 5
truncate = 3
fsync = 0.1
fdatasync = 0.1
invalidate = 1
posix_fadvise = 1
posix_fallocate = 1
punch_hole = 3
sendfile = 1
copy_file_range = 3
"#;

/// Histories of `fsx`, side by side, each on a file of its own. One is told by its seed:
/// `fsx -f CONFIG -S SEED` repeats it.
struct Histories(Vec<History>);

/// It ends with the test.
struct History {
    seed: u32,
    child: Child,
    file: PathBuf,
    output: PathBuf,
}

impl History {
    fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("our child").is_some()
    }
}

impl Histories {
    /// Begins them, with so many parts of `sendfile`: a history that is stopped in one waits for ever for the rest.
    fn start(machine: &Machine, seeds: impl IntoIterator<Item = u32>, sendfile: u8) -> Self {
        let scratch = machine.scratch();
        let config = scratch.join("fsx.toml");
        let history = HISTORY.replace("sendfile = 1", &format!("sendfile = {sendfile}"));
        fs::write(&config, history).expect("a file");
        let start = |seed: u32| {
            let file = machine.dir().join(format!("fsx-{seed}"));
            let output = scratch.join(format!("fsx-{seed}.out"));
            let told = File::create(&output).expect("a file");
            let mut command = suite("fsx");
            command
                .arg("-f")
                .arg(&config)
                .args(["-S", &seed.to_string(), "-N", OPERATIONS, "-P"])
                .arg(&scratch)
                .arg(&file)
                .stdin(Stdio::null())
                .stdout(told.try_clone().expect("a descriptor"))
                .stderr(told);
            History {
                seed,
                child: command.spawn().expect("fsx starts"),
                file,
                output,
            }
        };
        Self(seeds.into_iter().map(start).collect())
    }

    /// Those that are not over.
    fn running(&mut self) -> impl Iterator<Item = &mut History> {
        let histories = self.0.iter_mut();
        histories.filter_map(|history| (!history.has_ended()).then_some(history))
    }

    /// Waits until each has a file, and lets none go on: what they have written stays as it is.
    fn pause(&mut self) {
        for history in self.running() {
            wait_until("a history begins", ENDS, || {
                history.has_ended() || fs::metadata(&history.file).is_ok_and(|meta| meta.len() > 0)
            });
            if history.has_ended() {
                continue;
            }
            // Whatever comes of it, it is our child until its end has been looked at.
            let pid = Pid::from_child(&history.child);
            kill_process(pid, Signal::STOP).expect("our child");
            let stat = format!("/proc/{}/stat", pid.as_raw_nonzero());
            wait_until("a history stops", ENDS, || {
                let stat = fs::read_to_string(&stat).unwrap_or_default();
                let state = stat.rsplit_once(") ").map_or("", |(_, state)| state);
                state.starts_with(['T', 'Z'])
            });
        }
    }

    /// What is published of each that is not over, with its seed.
    fn contents(&mut self) -> Vec<(u32, String)> {
        let told = self.running().filter_map(|history| {
            let mut cid = [0; 100];
            let len = getxattr(&history.file, "user.px.cid", &mut cid[..]).ok()?;
            let cid = std::str::from_utf8(&cid[..len]).expect("a CID");
            Some((history.seed, cid.to_owned()))
        });
        told.collect()
    }

    fn go_on(&mut self) {
        for history in self.running() {
            kill_process(Pid::from_child(&history.child), Signal::CONT).expect("our child");
        }
    }

    /// Waits for their end, which has to be a good one.
    fn end(mut self) {
        wait_until("all histories end", ENDS, || self.running().count() == 0);
        for history in &mut self.0 {
            let status = history.child.wait().expect("our child");
            let all = fs::read_to_string(&history.output).expect("its output");
            assert!(
                status.success() && all.contains("All operations completed A-OK"),
                "seed {}: {status}: {all}",
                history.seed
            );
        }
    }
}

impl Drop for History {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn every_byte_of_a_random_history_reads_as_it_was_written() {
    Histories::start(&Machine::demo(), 1..7, 1).end();
}

#[test]
fn every_byte_reads_back_despite_commits_and_a_tiny_cache() {
    let machine = Machine::demo_with(&[
        "--cache-size",
        "6MiB",
        "--log",
        "warn,pxfs=info,pxfs_engine::cache::files=trace,pxfs_transfer::fetch::content=trace",
    ]);
    let begun = machine.log().len();
    let came_back = || fetched_again(&machine.log()[begun..]);
    let mut texts = 0..;
    let mut publish_others = |count: u64, len: usize| {
        for (n, text) in (0..count).zip(&mut texts) {
            let other = machine.dir().join(format!("other-{n}"));
            fs::write(other, pattern(text, 0, len)).expect("written");
        }
        machine.flush();
    };
    // What each history had when it was stopped, and how many such contents came back.
    let mut had: HashMap<u32, HashSet<String>> =
        (7..13).map(|seed| (seed, HashSet::new())).collect();
    let returns =
        |contents: &HashSet<String>, back: &HashSet<String>| contents.intersection(back).count();
    // One that was over too soon, or never read what had gone, runs once more.
    for _ in 0..ROUNDS {
        let back = came_back();
        let lacks = |(seed, contents): (&u32, &HashSet<String>)| {
            (returns(contents, &back) < RETURNS).then_some(*seed)
        };
        let mut lacking: Vec<u32> = had.iter().filter_map(lacks).collect();
        if lacking.is_empty() && machine.commits("1") < COMMITS {
            lacking.extend(had.keys());
        }
        if lacking.is_empty() {
            break;
        }
        for seed in &lacking {
            drop(fs::remove_file(machine.dir().join(format!("fsx-{seed}"))));
        }
        let mut histories = Histories::start(&machine, lacking.iter().copied(), 0);
        let (begun, mut stops) = (Instant::now(), 0);
        while histories.running().count() > 0 {
            assert!(begun.elapsed() < HANGS, "a history hangs");
            // What they have is published, and then leaves the cache to others: they find it on the node.
            histories.pause();
            machine.flush();
            for (seed, content) in histories.contents() {
                had.entry(seed).or_default().insert(content);
            }
            publish_others(2, 4 << 20);
            histories.go_on();
            // As long as they run, and more and more seldom, so that they come to an end.
            stops += 1;
            for _ in 0..stops {
                publish_others(1, 2 << 20);
            }
        }
        histories.end();
    }
    let (commits, back) = (machine.commits("1"), came_back());
    let came_back: HashMap<u32, usize> = had
        .iter()
        .map(|(seed, contents)| (*seed, returns(contents, &back)))
        .collect();
    assert!(
        commits >= COMMITS && came_back.values().all(|count| *count >= RETURNS),
        "{commits} commits; so many contents were evicted and read again, by seed: {came_back:?}"
    );
    // What the last commits have just taken over may still go.
    wait_until("a cache of 6 MiB in use has no more", ENDS, || {
        (1..=6 << 20).contains(&bytes_in(&machine.cache()))
    });
}

/// The contents that a daemon with such a log has evicted, in full or in part, and fetched from the node afterwards.
fn fetched_again(log: &str) -> HashSet<String> {
    let (mut evicted, mut again) = (HashSet::new(), HashSet::new());
    for line in log.lines() {
        let content = line.split_once("content=").map(|(_, told)| told);
        let content = content.and_then(|told| told.split_whitespace().next());
        if let Some(content) = content.filter(|_| line.contains("TRACE evicted")) {
            evicted.insert(content);
        } else if let Some(content) = content.filter(|_| line.contains("TRACE fetched")) {
            again.extend(evicted.get(content).map(|content| (*content).to_owned()));
        }
    }
    again
}

/// Bytes of disk that contents take in the cache.
fn bytes_in(cache: &Path) -> u64 {
    let sizes = |folder: &Path| {
        let entries = fs::read_dir(folder).expect("a folder");
        entries
            .map(|entry| entry.expect("an entry"))
            .map(|entry| match entry.file_type().expect("a type").is_dir() {
                true => bytes_in(&entry.path()),
                // The daemon may have evicted it meanwhile.
                false => entry.metadata().map_or(0, |meta| meta.blocks() * 512),
            })
            .sum()
    };
    sizes(cache)
}
