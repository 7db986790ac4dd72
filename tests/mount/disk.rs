//! A local disk that fails under a mount: nothing that was acknowledged is lost, nothing is called durable that is not,
//! and nothing hangs.

mod below;

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::io::Errno;

use crate::command::{ends, wait_until};
use crate::harness::{Machine, is_mounted};
use crate::samples::{assert_pattern, pattern};
use below::{Disk, Health};

/// What comes by itself has to come within this time.
const SOON: Duration = Duration::from_secs(120);
/// Length of a file that goes through the stage, and of one that the journal holds.
const GREAT: usize = 300_000;
const SMALL: usize = 900;

/// A machine whose local state is on a disk of the test's.
struct Scene {
    disk: Disk,
    machine: Machine,
    /// What was acknowledged as durable: its name, its seed, its length.
    kept: Vec<(String, u64, usize)>,
}

impl Drop for Scene {
    /// The daemon ends first, the disk goes then, and the folders after it.
    fn drop(&mut self) {
        self.machine.kill();
    }
}

impl Scene {
    /// Chain, node, wallet and cache are elsewhere: what fails is where journal and stage lie.
    fn new() -> Self {
        let machine = Machine::prepared("demo");
        let volumes = machine.state().join("volumes");
        fs::create_dir_all(&volumes).expect("a folder");
        Self::on(Disk::mount(&volumes), machine)
    }

    /// All that the daemon keeps is on the disk.
    fn whole() -> Self {
        let machine = Machine::prepared("demo");
        let state = machine.state();
        fs::create_dir(&state).expect("a folder");
        let disk = Disk::mount(&state);
        fs::create_dir(state.join("cache")).expect("a folder on the disk");
        symlink(state.join("cache"), machine.cache()).expect("a link");
        Self::on(disk, machine)
    }

    fn on(disk: Disk, machine: Machine) -> Self {
        let mut scene = Self {
            disk,
            machine,
            kept: Vec::new(),
        };
        scene.machine.start();
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.machine.dir().join(name)
    }

    /// Writes a new file, and hears that it is durable.
    #[track_caller]
    fn keep(&mut self, name: &str, len: usize) {
        let seed = self.kept.len() as u64;
        let file = File::create(self.path(name)).expect("create");
        file.write_all_at(&pattern(seed, 0, len), 0).expect("write");
        file.sync_all().expect("fsync");
        self.kept.push((name.to_owned(), seed, len));
    }

    /// All that was acknowledged is there.
    #[track_caller]
    fn assert_kept(&self) {
        let kept = self.kept.iter();
        let kept: Vec<_> = kept
            .map(|(name, seed, len)| (self.path(name), *seed, *len as u64))
            .collect();
        ends("reading", SOON, move || {
            for (path, seed, len) in kept {
                assert_pattern(&path, seed, len);
            }
        });
    }

    /// `status` says that the disk has failed, and what to do.
    #[track_caller]
    fn assert_told(&self) {
        let token = self.machine.token("1");
        assert_eq!(token["state"], "poisoned", "{token:#}");
        let reason = token["reason"].as_str().expect("a reason");
        for word in ["unmount", "check the local disk", "mount again"] {
            assert!(reason.contains(word), "{word} is not in: {reason}");
        }
        let plain = self.machine.ask(&["status"]).ok().stdout;
        for word in ["poisoned", reason] {
            assert!(plain.contains(word), "{word} is not in: {plain}");
        }
    }

    /// What was there can be read, and nothing can be changed.
    #[track_caller]
    fn assert_read_only(&self, held: &File) {
        self.assert_kept();
        let held = held.try_clone().expect("a descriptor");
        let (first, new) = (self.path(&self.kept[0].0), self.path("refused"));
        let answers = ends("calls", SOON, move || {
            let mode = Permissions::from_mode(0o600);
            let open = OpenOptions::new().write(true).open(&first);
            let changes = [
                ("write", held.write_all_at(b"x", 0)),
                ("ftruncate", held.set_len(1 << 20)),
                ("create", File::create(&new).map(drop)),
                ("open", open.map(drop)),
                ("mkdir", fs::create_dir(&new)),
                ("rename", fs::rename(&first, &new)),
                ("unlink", fs::remove_file(&first)),
                ("chmod", fs::set_permissions(&first, mode)),
            ];
            let sync = |path: &Path| File::open(path).and_then(|file| file.sync_all());
            let syncs = [
                ("fsync", held.sync_all()),
                ("fsync of another", sync(&first)),
                ("fsync of the directory", sync(new.parent().expect("one"))),
            ];
            let changes = changes.map(|(call, answer)| (call, errno(answer), Errno::ROFS));
            let syncs = syncs.map(|(call, answer)| (call, errno(answer), Errno::IO));
            changes.into_iter().chain(syncs).collect::<Vec<_>>()
        });
        for (call, told, wanted) in answers {
            assert_eq!(told, Some(wanted), "{call}");
        }
        let flushed = self.machine.ask(&["flush"]).exits(7).one_line();
        assert!(flushed.stderr.contains("may be lost"), "{flushed:?}");
    }

    /// Ends the drive as a user does who has read `status`.
    #[track_caller]
    fn leave(&mut self) {
        self.machine.umount().exits(7);
        self.machine.ended(SOON);
        assert!(!is_mounted(&self.machine.mountpoint()));
    }

    /// Mounts again: all is there, and work goes on.
    #[track_caller]
    fn come_back(&mut self) {
        self.machine.start();
        self.assert_kept();
        assert_eq!(self.machine.token("1")["state"], "ok");
        let name = format!("after {}", self.kept.len());
        self.keep(&name, GREAT);
        self.machine.flush();
        self.assert_kept();
    }
}

/// Writes `bytes` at the beginning of `file`: it ends, whatever the disk does.
#[track_caller]
fn write(file: &File, bytes: Vec<u8>) -> io::Result<()> {
    let file = file.try_clone()?;
    ends("a write", SOON, move || file.write_all_at(&bytes, 0))
}

fn errno<T>(result: io::Result<T>) -> Option<Errno> {
    result.err().and_then(|why| Errno::from_io_error(&why))
}

/// A program that has a file open for writing, until it is told to close it.
struct Holder(Child);

impl Holder {
    /// Opens `path`, which is there.
    #[track_caller]
    fn open(path: &Path) -> Self {
        const HOLD: &str = r"
import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY)
print('open', flush=True)
sys.stdin.readline()
try:
    os.close(fd)
    print(0)
except OSError as error:
    print(error.errno)
";
        let mut child = Command::new("python3")
            .args(["-c", HOLD])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 starts");
        let mut stdout = child.stdout.take().expect("its output");
        let mut holder = Self(child);
        let (line, stdout) = ends("open", SOON, move || {
            let mut line = [0; 5];
            (stdout.read_exact(&mut line).map(|()| line), stdout)
        });
        assert_eq!(&line.expect("it opens the file"), b"open\n");
        holder.0.stdout = Some(stdout);
        holder
    }

    /// What `close` answers.
    #[track_caller]
    fn close(mut self) -> Option<Errno> {
        let mut stdin = self.0.stdin.take().expect("its input");
        stdin.write_all(b"\n").expect("it listens");
        let mut stdout = self.0.stdout.take().expect("its output");
        let told = ends("close", SOON, move || {
            let mut told = String::new();
            stdout.read_to_string(&mut told).map(|_| told)
        });
        let told: i32 = told.expect("its output").trim().parse().expect("a number");
        (told != 0).then(|| Errno::from_raw_os_error(told))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// The answer of a sync of `file` while the disk fails one with `errno`.
#[track_caller]
fn sync_that_fails(scene: &Scene, file: &File, bytes: &[u8], errno: Errno) -> Option<Errno> {
    let answers = (0..100).map(|_| {
        // Refused where the daemon has met the failure by itself.
        drop(file.write_all_at(bytes, 0));
        scene.disk.set(Health::FailsOneSync(errno));
        let syncs = file.try_clone().expect("a descriptor");
        self::errno(ends("fsync", SOON, move || syncs.sync_all()))
    });
    // Where the daemon had saved all of it just before, no sync of the disk was needed.
    let told = answers.flatten().next();
    scene.disk.set(Health::Well);
    told
}

#[test]
fn one_failed_sync_is_reported_forever_and_loses_nothing_acknowledged() {
    let mut scene = Scene::new();
    scene.keep("published", GREAT);
    scene.machine.flush();
    for (round, (len, errno)) in [
        (GREAT, Errno::IO),
        (SMALL, Errno::IO),
        // What was written may be gone then too, whatever room there is later.
        (SMALL, Errno::NOSPC),
    ]
    .into_iter()
    .enumerate()
    {
        scene.keep(&format!("great {round}"), GREAT);
        scene.keep(&format!("small {round}"), SMALL);
        let path = scene.path(&format!("in doubt {round}"));
        let file = File::create(&path).expect("create");
        let holder = Holder::open(&path);
        let struck = scene.disk.struck();
        let told = sync_that_fails(&scene, &file, &pattern(99, 0, len), errno);
        assert_eq!(told, Some(Errno::IO), "round {round}");
        assert!(scene.disk.struck() > struck, "no sync was asked for");
        // The disk is well again; nobody knows what it has.
        scene.assert_told();
        scene.assert_read_only(&file);
        assert_eq!(holder.close(), Some(Errno::IO));
        scene.assert_told();
        drop(file);
        scene.leave();
        scene.come_back();
    }
    scene.machine.stop();
}

/// The disk fails from now on, and is well again for the next mount.
fn fails_for_good(mut scene: Scene, health: Health) {
    scene.keep("published", GREAT);
    scene.machine.flush();
    // What is published has to be found in the cache from here on, which has nothing open.
    scene.machine.restart();
    scene.assert_kept();
    scene.machine.restart();
    scene.keep("great", GREAT);
    scene.keep("small", SMALL);
    let path = scene.path("in doubt");
    let file = File::create(&path).expect("create");
    let holder = Holder::open(&path);
    scene.disk.set(health);
    // It is in memory, or refused where the daemon has found out by then; no program asks for more.
    let written = errno(write(&file, pattern(99, 0, SMALL)));
    let refused = [None, Some(Errno::ROFS), Some(Errno::IO)];
    assert!(refused.contains(&written), "{written:?}");
    scene.machine.wait_for("1", "state", "poisoned");
    scene.assert_told();
    // What is here needs no node.
    scene.machine.fault("all fail");
    scene.assert_read_only(&file);
    scene.machine.fault("");
    assert_eq!(holder.close(), Some(Errno::IO));
    drop(file);
    scene.leave();
    if health == Health::ReadOnly {
        let before = scene.machine.log().len();
        let told = scene.machine.try_start().expect_err("nothing is shown");
        scene.machine.kill();
        let (told, state) = (&told[before..], scene.machine.state());
        for word in [state.to_str().expect("UTF-8"), "Read-only file system"] {
            assert!(told.contains(word), "{word} is not in: {told}");
        }
    }
    scene.disk.set(Health::Well);
    scene.come_back();
    scene.machine.stop();
}

#[test]
fn a_read_only_disk_loses_nothing_acknowledged_and_blocks_nobody() {
    fails_for_good(Scene::new(), Health::ReadOnly);
}

#[test]
fn a_sole_disk_turned_read_only_stays_readable_and_loses_nothing() {
    fails_for_good(Scene::whole(), Health::ReadOnly);
}

#[test]
fn a_broken_disk_is_reported_on_close_and_blocks_nobody() {
    fails_for_good(Scene::new(), Health::Broken);
}

#[test]
fn a_sole_disk_that_breaks_stays_readable_and_loses_nothing() {
    fails_for_good(Scene::whole(), Health::Broken);
}

#[test]
fn failing_syncs_are_reported_on_close_and_block_nobody() {
    fails_for_good(Scene::new(), Health::FailsSyncs);
}

#[test]
fn a_large_write_the_disk_refuses_is_reported_at_once() {
    let mut scene = Scene::new();
    scene.keep("great", GREAT);
    for health in [Health::Broken, Health::ReadOnly] {
        let file = File::create(scene.path("in doubt")).expect("create");
        scene.disk.set(health);
        let written = write(&file, pattern(99, 0, GREAT));
        let told = errno(written).expect("it is refused");
        // The daemon may have found out before.
        assert!([Errno::IO, Errno::ROFS].contains(&told), "{told:?}");
        // Where it has not, there is something for it to save.
        drop(file.write_all_at(b"x", 0));
        scene.machine.wait_for("1", "state", "poisoned");
        scene.assert_read_only(&file);
        drop(file);
        scene.leave();
        scene.disk.set(Health::Well);
        scene.come_back();
    }
    scene.machine.stop();
}

/// Who waits for room gets it, and what he is told then is true.
fn waits_for_room(health: Health) {
    let mut scene = Scene::new();
    let mut round = 0;
    // Where the daemon had saved all of it just before, no room was needed.
    while scene.disk.struck() == 0 {
        round += 1;
        assert!(round < 20, "it was never full for anybody");
        scene.keep(&format!("great {round}"), GREAT);
        let name = format!("waits {round}");
        let file = File::create(scene.path(&name)).expect("create");
        let bytes = pattern(scene.kept.len() as u64, 0, SMALL);
        file.write_all_at(&bytes, 0).expect("write");
        scene.disk.set(health);
        let syncs = file.try_clone().expect("a descriptor");
        let (tells, told) = mpsc::channel();
        std::thread::spawn(move || drop(tells.send(syncs.sync_all())));
        let mut early = None;
        wait_until("the disk is full for somebody", SOON, || {
            early = early.take().or_else(|| told.try_recv().ok());
            scene.disk.struck() > 0 || early.is_some()
        });
        scene.disk.set(Health::Well);
        let told = early.unwrap_or_else(|| told.recv_timeout(SOON).expect("the sync ends"));
        // On a machine that stands still for long the wait may have ended before there was room.
        if let Err(why) = told {
            assert_eq!(Errno::from_io_error(&why), Some(Errno::NOSPC), "{why}");
            file.sync_all().expect("there is room");
        }
        assert_eq!(scene.machine.token("1")["state"], "ok");
        let seed = scene.kept.len() as u64;
        scene.kept.push((name, seed, SMALL));
        scene.keep(&format!("more {round}"), GREAT);
        drop(file);
        // As a crash would: what was in memory alone is gone.
        scene.machine.kill();
        scene.machine.start();
        scene.assert_kept();
    }
    scene.machine.flush();
    scene.machine.stop();
}

#[test]
fn an_fsync_on_a_full_disk_succeeds_once_there_is_space() {
    waits_for_room(Health::Full);
}

#[test]
fn an_fsync_hit_by_an_unreported_full_disk_succeeds_once_space_returns() {
    waits_for_room(Health::FullUnsaid);
}
