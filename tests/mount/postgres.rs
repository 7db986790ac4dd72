//! A Postgres server for the tests: its data on a drive, the rest on local disk.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::command::{Answer, TOOL, run, tool, wait_until};
use crate::harness::Machine;

/// A Postgres server whose data is on the drive. Killed at the latest when this is dropped.
pub(crate) struct Postgres {
    programs: PathBuf,
    data: PathBuf,
    /// On local disk: its socket and its log.
    around: PathBuf,
    /// While it runs.
    pid: Option<Pid>,
    /// It was ended by [`Postgres::end`].
    died: bool,
}

impl Postgres {
    /// `initdb` as the user that Debian makes for it.
    pub(crate) fn init(machine: &Machine) -> Self {
        let versions =
            fs::read_dir("/usr/lib/postgresql").expect("Debian's postgresql is installed");
        let newest = versions
            .map(|version| version.expect("a version").path())
            .max();
        let postgres = Self {
            programs: newest.expect("a version").join("bin"),
            data: machine.dir().join("data"),
            around: machine.scratch(),
            pid: None,
            died: false,
        };
        // Another user walks here too.
        for folder in [machine.mountpoint().join(".."), machine.dir()] {
            fs::set_permissions(&folder, Permissions::from_mode(0o755)).expect("chmod");
        }
        let id = |flag: &str| {
            tool("id", &[flag, "postgres"])
                .stdout
                .trim()
                .parse()
                .expect("an id")
        };
        let (uid, gid) = (id("-u"), id("-g"));
        fs::create_dir(&postgres.data).expect("mkdir");
        for folder in [&postgres.data, &postgres.around] {
            chown(folder, Some(uid), Some(gid)).expect("chown");
        }
        postgres.run(
            "initdb",
            &[
                "--data-checksums",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--locale=C",
            ],
        );
        postgres
    }

    #[track_caller]
    pub(crate) fn run(&self, program: &str, args: &[&str]) -> Answer {
        let mut command = self.command(program);
        command.args(args);
        run(command, TOOL).ok()
    }

    /// One of its programs, as its user, not run yet.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("runuser");
        command
            .args(["-u", "postgres", "--"])
            .arg(self.programs.join(program))
            .env("PGDATA", &self.data)
            .env("PGHOST", &self.around)
            .env("PGDATABASE", "postgres")
            // How many seconds pg_ctl waits.
            .env("PGCTLTIMEOUT", "600")
            .current_dir("/");
        command
    }

    /// Starts the server; it recovers by itself.
    #[track_caller]
    pub(crate) fn start(&mut self) {
        if std::mem::take(&mut self.died) {
            // Where nobody waits for the dead, as in some containers, its number is taken for one that lives.
            for lock in [
                self.data.join("postmaster.pid"),
                self.around.join(".s.PGSQL.5432.lock"),
            ] {
                drop(fs::remove_file(lock));
            }
        }
        let log = self.around.join("log");
        let options = format!("-k {} -c listen_addresses=", self.around.display());
        let log = log.to_str().expect("our folders are UTF-8");
        let mut command = self.command("pg_ctl");
        command.args(["-w", "-l", log, "-o", &options, "start"]);
        let answer = run(command, TOOL);
        let logged = || fs::read_to_string(log).unwrap_or_default();
        assert_eq!(answer.code, Some(0), "{}{}", answer.stderr, logged());
        let pid = fs::read_to_string(self.data.join("postmaster.pid")).expect("its number");
        let pid = pid.lines().next().and_then(|pid| pid.parse().ok());
        self.pid = pid.and_then(Pid::from_raw);
    }

    #[track_caller]
    pub(crate) fn stop(&mut self, mode: &str) {
        self.run("pg_ctl", &["-w", "-m", mode, "stop"]);
        self.pid = None;
    }

    /// Ends the server where its files are gone.
    #[track_caller]
    pub(crate) fn end(&mut self) {
        if let Some(pid) = self.pid.take() {
            let _ = kill_process(pid, Signal::QUIT);
            self.died = true;
            let stat = format!("/proc/{}/stat", pid.as_raw_nonzero());
            wait_until("the server ends", Duration::from_secs(120), || {
                fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "))
            });
        }
    }

    /// The answer to one question, its columns with `|` between.
    pub(crate) fn ask(&self, question: &str) -> String {
        let answer = self.run("psql", &["-X", "-A", "-t", "-c", question]);
        answer.stdout.trim().to_owned()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(pid) = self.pid {
            let _ = kill_process(pid, Signal::QUIT);
        }
    }
}
