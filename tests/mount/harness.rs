//! One machine with one daemon: starts it, asks it, stops or kills it, and cleans up after it.
//!
//! Invariant: whatever a test does, when its [`Machine`] is dropped the daemon is dead, nothing is
//! mounted, and its folders are gone.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::command::{Answer, run, wait_until};

/// The program under test.
const PXFS: &str = env!("CARGO_BIN_EXE_pxfs");
/// A start has to end within this time; a machine under load is slow.
const START: Duration = Duration::from_secs(180);
/// What the daemon logs of a token that it cannot show.
const REFUSED: &str = "cannot be shown";
/// A client command has to end within this time.
const ASK: Duration = Duration::from_secs(600);
/// What comes by itself has to come within this time.
const SOON: Duration = Duration::from_secs(120);
/// States of a token in which no other try to publish helps.
const HOPELESS: [&str; 3] = ["conflict", "read-only", "poisoned"];

/// A machine: folders, a mountpoint, and at most one daemon.
pub(crate) struct Machine {
    /// Where drive, state and cache are. Removed with the machine.
    folder: TempDir,
    /// Chain, node and wallet, which a second machine shares; those of the first one.
    home: PathBuf,
    /// The arguments of the daemon, without the common ones.
    daemon_args: Vec<OsString>,
    /// Environment of the daemon alone.
    daemon_env: Vec<(OsString, OsString)>,
    daemon: Option<Child>,
}

impl Machine {
    /// A new drive by `pxfs demo`, mounted, with the free package of 100 MiB.
    #[track_caller]
    pub(crate) fn demo() -> Self {
        Self::demo_with(&[])
    }

    /// A new drive by `pxfs demo` with more arguments, mounted.
    #[track_caller]
    pub(crate) fn demo_with(args: &[&str]) -> Self {
        let mut machine = Self::prepared("demo");
        machine.daemon_args.extend(args.iter().map(OsString::from));
        machine.start();
        machine
    }

    /// The folders and the arguments of a machine whose daemon has not been started.
    pub(crate) fn prepared(command: &str) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("px-")
            .tempdir()
            .expect("a temporary folder");
        fs::create_dir(folder.path().join("drive")).expect("a mountpoint");
        let home = folder.path().join("state");
        Self {
            folder,
            home,
            daemon_args: vec![command.into()],
            daemon_env: Vec::new(),
            daemon: None,
        }
    }

    /// Another machine of the same owner: fresh state and cache, the same wallet, chain and node.
    /// The first one must have been stopped (an embedded chain belongs to one process).
    #[track_caller]
    pub(crate) fn second(first: &Self) -> Self {
        let mut machine = Self::prepared_second(first);
        machine.start();
        machine
    }

    /// As [`Machine::second`], not started.
    pub(crate) fn prepared_second(first: &Self) -> Self {
        let mut machine = Self::prepared("mount");
        machine.home.clone_from(&first.home);
        machine.daemon_args.extend(machine.parts());
        machine.daemon_args.push("-f".into());
        machine
    }

    /// With another node than it has been given.
    pub(crate) fn with_node(mut self, node: &str) -> Self {
        self.replace_arg("--node", "--node", node);
        self
    }

    /// As [`Machine::prepared_second`], without a word of the wallet: whoever starts it has to give it.
    pub(crate) fn prepared_service(first: &Self) -> Self {
        let mut machine = Self::prepared_second(first);
        let wallet = machine.daemon_args.iter().position(|arg| arg == "--wallet");
        let at = wallet.expect("the wallet is named");
        machine.daemon_args.drain(at..at + 2);
        machine
    }

    /// From its next start on it has `new` and its value in place of the option `old` and its value; that value.
    #[track_caller]
    pub(crate) fn replace_arg(&mut self, old: &str, new: &str, value: &str) -> String {
        let at = self.daemon_args.iter().position(|arg| arg == old);
        let at = at.expect("the option is given");
        self.daemon_args[at] = new.into();
        let was = std::mem::replace(&mut self.daemon_args[at + 1], value.into());
        was.into_string().expect("UTF-8")
    }

    /// Without an argument of its daemon that stands alone.
    pub(crate) fn remove_arg(&mut self, old: &str) {
        self.daemon_args.retain(|arg| arg != old);
    }

    /// With more arguments for its daemon.
    pub(crate) fn with_args(mut self, args: &[&str]) -> Self {
        self.daemon_args.extend(args.iter().map(OsString::from));
        self
    }

    /// Makes the node behave as `script` says (see `docs/operator.md`); empty ends all faults.
    /// Returns when the daemon has taken it up.
    #[track_caller]
    pub(crate) fn fault(&self, script: &str) {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let mark = format!("# script {}", SERIAL.fetch_add(1, Ordering::Relaxed));
        let file = self.fault_file();
        let new = file.with_extension("new");
        fs::write(&new, format!("{mark}\n{script}\n")).expect("a fault file");
        fs::rename(&new, &file).expect("a fault file");
        let taken_up = || self.log().contains(&mark);
        wait_until("the daemon takes up the fault", SOON, taken_up);
    }

    /// How many blocks this run of the daemon has offered to the node. Ends all faults.
    #[track_caller]
    pub(crate) fn blocks_sent(&self) -> u64 {
        self.fault("");
        let log = self.log();
        let told = log.lines().rev().find_map(|line| {
            let (_, count) = line.split_once("the fault file")?.1.split_once("blocks=")?;
            let digits = count.split(|c: char| !c.is_ascii_digit()).next()?;
            digits.parse().ok()
        });
        told.unwrap_or_else(|| panic!("the log does not tell how many:\n{log}"))
    }

    /// Ends all faults for the next start of the daemon.
    pub(crate) fn clear_fault(&self) {
        drop(fs::write(self.fault_file(), ""));
    }

    fn fault_file(&self) -> PathBuf {
        self.folder.path().join("fault")
    }

    /// The arguments that name the embedded parts of this machine's owner.
    pub(crate) fn parts(&self) -> Vec<OsString> {
        let named = |option: &str, prefix: &str, name: &str| {
            let mut value = OsString::from(prefix);
            value.push(self.home.join(name));
            [OsString::from(option), value]
        };
        [
            named("--rpc-url", "embedded:", "chain"),
            named("--node", "embedded=", "node"),
            named("--wallet", "", "wallet"),
            [OsString::from("--volume"), OsString::from("plain")],
        ]
        .concat()
    }

    /// A variable that the daemon gets from its next start on.
    pub(crate) fn set_env(&mut self, name: &str, value: impl AsRef<OsStr>) {
        self.daemon_env.retain(|(known, _)| known != name);
        self.daemon_env.push((name.into(), value.as_ref().into()));
    }

    /// The mountpoint.
    pub(crate) fn mountpoint(&self) -> PathBuf {
        self.folder.path().join("drive")
    }

    /// The state folder of this machine.
    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// The cache folder of this machine.
    pub(crate) fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    /// Where all of it is: state, cache, log, what commands have left.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A folder on local disk that goes away with the machine.
    pub(crate) fn scratch(&self) -> PathBuf {
        let folder = self.folder.path().join("scratch");
        fs::create_dir_all(&folder).expect("a scratch folder");
        folder
    }

    /// The folder of the embedded node.
    pub(crate) fn node(&self) -> PathBuf {
        self.home.join("node")
    }

    /// The directory of the first token.
    pub(crate) fn dir(&self) -> PathBuf {
        self.mountpoint().join("1")
    }

    /// A `pxfs` command line for this machine, not run yet: no variable of the caller reaches it.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(PXFS);
        let kept = |name: &OsString| {
            !name.as_bytes().starts_with(b"PXFS_") && !name.as_bytes().starts_with(b"XDG_")
        };
        command
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| kept(name)))
            .env("HOME", self.folder.path())
            .env("RUST_BACKTRACE", "1")
            .current_dir(self.folder.path());
        command
    }

    /// The folders as arguments.
    fn folders(&self) -> [OsString; 4] {
        [
            "--state-dir".into(),
            self.state().into(),
            "--cache-dir".into(),
            self.cache().into(),
        ]
    }

    /// Starts the daemon and waits until the drive is there.
    #[track_caller]
    pub(crate) fn start(&mut self) {
        if let Err(log) = self.try_start() {
            panic!("the daemon ended before it had mounted:\n{log}");
        }
    }

    /// As [`Machine::start`], where the first token has no directory.
    #[track_caller]
    pub(crate) fn start_without_token(&mut self) {
        if let Err(log) = self.try_start_until(|_| true) {
            panic!("the daemon ended before it had mounted:\n{log}");
        }
    }

    /// Starts the daemon; its log when it ends, or refuses the token, instead of showing the drive.
    #[track_caller]
    pub(crate) fn try_start(&mut self) -> Result<(), String> {
        self.try_start_until(|machine| machine.dir().exists())
    }

    #[track_caller]
    fn try_start_until(&mut self, is_there: impl Fn(&Self) -> bool) -> Result<(), String> {
        let logged = self.log().len();
        // One that has refused its only token says so a moment before it ends.
        let begin = Instant::now();
        while self.is_running() {
            assert!(begin.elapsed() < START, "the daemon runs already");
            std::thread::sleep(Duration::from_millis(10));
        }
        self.daemon = None;
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_file())
            .expect("a log file");
        let (first, rest) = self.daemon_args.split_first().expect("a command");
        let mut command = self.command();
        command
            .arg(first)
            .arg(self.mountpoint())
            .args(rest)
            .args(self.folders())
            .env("PXFS_FAULT", self.fault_file())
            .env("PXFS_LOG", "info")
            .envs(self.daemon_env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log);
        self.daemon = Some(command.spawn().expect("pxfs starts"));
        let begin = Instant::now();
        loop {
            if let Some(daemon) = &mut self.daemon
                && daemon.try_wait().expect("our child").is_some()
            {
                self.daemon = None;
                return Err(self.log());
            }
            if is_mounted(&self.mountpoint()) && self.is_announced() && is_there(self) {
                return Ok(());
            }
            // Mounted, but the token is damaged: the log says how.
            let log = self.log();
            if log.get(logged..).is_some_and(|new| new.contains(REFUSED)) {
                return Err(log);
            }
            assert!(
                begin.elapsed() < START,
                "not mounted after {START:?}:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Whether the daemon can be asked: it mounts first, and listens then.
    fn is_announced(&self) -> bool {
        let pid = self.daemon.as_ref().map(Child::id);
        let entries = fs::read_dir(self.folder.path().join(".local/state/pxfs/run"));
        let files = entries.into_iter().flatten().flatten();
        files
            .filter_map(|file| fs::read(file.path()).ok())
            .filter_map(|text| serde_json::from_slice::<Value>(&text).ok())
            .any(|entry| {
                entry["pid"]
                    .as_u64()
                    .map(u32::try_from)
                    .and_then(Result::ok)
                    == pid
            })
    }

    /// Stops the daemon as `systemctl stop` does: everything is flushed, then it unmounts.
    #[track_caller]
    pub(crate) fn stop(&mut self) {
        let status = self.terminate();
        assert!(
            status.success(),
            "stopping ended with {status}:\n{}",
            self.log()
        );
        assert!(
            !is_mounted(&self.mountpoint()),
            "still mounted:\n{}",
            self.log()
        );
    }

    /// Sends SIGTERM and waits for the daemon's end.
    #[track_caller]
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.ended(ASK)
    }

    /// Waits for the daemon's end, at most `limit`.
    #[track_caller]
    pub(crate) fn ended(&mut self, limit: Duration) -> ExitStatus {
        let mut daemon = self.daemon.take().expect("a daemon");
        let mut status = None;
        let begin = Instant::now();
        while status.is_none() && begin.elapsed() < limit {
            status = daemon.try_wait().expect("our child");
            std::thread::sleep(Duration::from_millis(5));
        }
        status.unwrap_or_else(|| {
            self.daemon = Some(daemon);
            panic!("the daemon did not end within {limit:?}:\n{}", self.log())
        })
    }

    /// Puts the one folder that gave way back in the place of the volume that took its own, as docs/user.md says.
    pub(crate) fn bring_back_what_gave_way(&self) {
        let state = self.state();
        let aside = fs::read_dir(state.join("set-aside"))
            .and_then(|mut all| all.next().expect("one volume"))
            .expect("a folder");
        let name = aside.file_name().into_string().expect("UTF-8");
        let (volume, _) = name.rsplit_once('-').expect("a time at the end");
        let place = state.join("volumes").join(volume);
        fs::remove_dir_all(&place).expect("the newer one");
        fs::rename(aside.path(), &place).expect("back");
    }

    /// Kills the daemon as a crash would: its dead mount stays.
    pub(crate) fn leave_dead(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            drop(daemon.kill());
            drop(daemon.wait());
        }
    }

    /// Kills the daemon as a crash would, and takes its dead mount away.
    pub(crate) fn kill(&mut self) {
        self.leave_dead();
        // Nothing is mounted where the daemon had not come so far.
        let _ = unmount(self.mountpoint(), UnmountFlags::DETACH);
    }

    /// Stops and starts the daemon.
    #[track_caller]
    pub(crate) fn restart(&mut self) {
        self.stop();
        self.start();
    }

    /// Sends a signal to the daemon.
    #[track_caller]
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the daemon can be signalled");
    }

    /// The daemon's process.
    #[track_caller]
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(self.daemon.as_ref().expect("a daemon"))
    }

    /// Whether the daemon is alive.
    pub(crate) fn is_running(&mut self) -> bool {
        self.daemon
            .as_mut()
            .is_some_and(|daemon| daemon.try_wait().is_ok_and(|status| status.is_none()))
    }

    /// Runs a client command of this machine to its end.
    #[track_caller]
    pub(crate) fn ask(&self, args: &[&str]) -> Answer {
        let mut command = self.command();
        command.args(args).args(self.folders());
        run(command, ASK)
    }

    /// `pxfs flush`, which has to succeed: what was written is published then.
    #[track_caller]
    pub(crate) fn flush(&self) {
        self.ask(&["flush"]).ok();
    }

    /// As [`Machine::flush`], where the read timeout is so short that a flush on a slow machine may give up while all is
    /// well.
    #[track_caller]
    pub(crate) fn flush_at_last(&self) {
        wait_until("all is published", SOON, || {
            let answer = self.ask(&["flush"]);
            if answer.code == Some(0) {
                return true;
            }
            let answer = answer.exits(7);
            let state = self.token("1")["state"].clone();
            assert!(
                !HOPELESS.iter().any(|hopeless| state == *hopeless)
                    && !answer.stderr.contains("conflict"),
                "{state}: {}",
                answer.stderr
            );
            false
        });
    }

    /// `pxfs umount`, again while programs that other tests start at this moment hold what was open here.
    #[track_caller]
    pub(crate) fn umount(&self) -> Answer {
        let mountpoint = self.mountpoint();
        let args = ["umount", mountpoint.to_str().expect("UTF-8")];
        let mut answer = self.ask(&args);
        wait_until("nobody holds anything of the drive", SOON, || {
            let is_busy = answer.code == Some(1) && answer.stderr.contains("busy");
            if is_busy {
                answer = self.ask(&args);
            }
            !is_busy
        });
        answer
    }

    /// `pxfs status --json`.
    #[track_caller]
    pub(crate) fn status(&self) -> Value {
        self.ask(&["status", "--json"]).ok().json()
    }

    /// The row of `token` in `pxfs status --json`.
    #[track_caller]
    pub(crate) fn token(&self, token: &str) -> Value {
        let status = self.status();
        status["tokens"]
            .as_array()
            .and_then(|rows| rows.iter().find(|row| row["id"] == token))
            .unwrap_or_else(|| panic!("no token {token} in {status:#}"))
            .clone()
    }

    /// A number in the row of `token`.
    #[track_caller]
    pub(crate) fn number(&self, token: &str, field: &str) -> u64 {
        let row = self.token(token);
        row[field]
            .as_u64()
            .unwrap_or_else(|| panic!("no number `{field}` in {row:#}"))
    }

    /// Commits of `token`; none before the first has ended.
    #[track_caller]
    pub(crate) fn commits(&self, token: &str) -> u64 {
        self.token(token)["sequence"].as_u64().unwrap_or(0)
    }

    /// Waits until the row of `token` has `field` at `value`.
    #[track_caller]
    pub(crate) fn wait_for(&self, token: &str, field: &str, value: &str) {
        let what = format!("`{field}` of token {token} becomes `{value}`");
        wait_until(&what, SOON, || self.token(token)[field] == value);
    }

    /// What the daemon has logged, all its runs.
    pub(crate) fn log(&self) -> String {
        let text = fs::read(self.log_file()).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("daemon.log")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(60).collect();
            let ended = self.daemon.as_mut().map(Child::try_wait);
            eprintln!("--- the daemon ({ended:?}): its log, the end");
            for line in tail.iter().rev() {
                eprintln!("{line}");
            }
        }
        self.kill();
        if is_mounted(&self.mountpoint()) {
            // Removing the folder now would delete what is on the drive.
            eprintln!("{} is still mounted and stays", self.mountpoint().display());
            self.folder.disable_cleanup(true);
        }
    }
}

/// Whether something is mounted at `path`.
pub(crate) fn is_mounted(path: &Path) -> bool {
    // Field 5 is the mount point; a space in it is written \040, and our folders have none.
    let Ok(table) = fs::read_to_string("/proc/self/mountinfo") else {
        return false;
    };
    table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .any(|point| Path::new(point) == path)
}
