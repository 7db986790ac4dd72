//! Databases: SQLite with both of its journals, Postgres.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::start_anew;
use crate::command::{Answer, run, tool};
use crate::harness::Machine;

/// A thousand transactions of their own, each with a row that depends on the one before.
fn transactions(journal_mode: &str) -> String {
    let mut script = format!("PRAGMA journal_mode={journal_mode};\nPRAGMA synchronous=FULL;\n");
    script += "CREATE TABLE t(id INTEGER PRIMARY KEY, sum INTEGER, text TEXT);\n";
    script += "INSERT INTO t VALUES(0, 0, '');\n";
    for id in 1..=1000 {
        script += &format!(
            "INSERT INTO t SELECT {id}, sum + {id}, hex(zeroblob({})) FROM t WHERE id = {};\n",
            id % 200,
            id - 1
        );
    }
    script
}

#[track_caller]
fn sqlite(database: &Path, script: &str) -> Answer {
    let mut input = tempfile::NamedTempFile::new().expect("a file");
    input.write_all(script.as_bytes()).expect("a script");
    let mut command = Command::new("sqlite3");
    command
        .arg("-bail")
        .arg(database)
        .arg(format!(".read {}", input.path().display()));
    run(command, Duration::from_secs(180)).ok()
}

fn a_thousand_transactions(journal_mode: &str) {
    let mut machine = Machine::demo();
    let database = machine.dir().join("data.sqlite");
    sqlite(&database, &transactions(journal_mode));
    let check = |database: &Path| {
        let answer = sqlite(
            database,
            "PRAGMA integrity_check;\nSELECT max(id), max(sum), count(*) FROM t;\n",
        );
        assert_eq!(answer.stdout, "ok\n1000|500500|1001\n");
    };
    check(&database);
    start_anew(&mut machine);
    check(&database);
}

#[test]
fn sqlite_keeps_a_thousand_transactions_with_a_rollback_journal() {
    a_thousand_transactions("DELETE");
}

#[test]
fn sqlite_keeps_a_thousand_transactions_with_a_write_ahead_log() {
    a_thousand_transactions("WAL");
}

/// A Postgres server whose data is on the drive. Killed at the latest when this is dropped.
struct Postgres {
    programs: PathBuf,
    data: PathBuf,
    /// On local disk: its socket and its log.
    around: PathBuf,
}

impl Postgres {
    /// `initdb` as the user that Debian makes for it.
    fn init(machine: &Machine) -> Self {
        let versions =
            fs::read_dir("/usr/lib/postgresql").expect("Debian's postgresql is installed");
        let newest = versions
            .map(|version| version.expect("a version").path())
            .max();
        let postgres = Self {
            programs: newest.expect("a version").join("bin"),
            data: machine.dir().join("data"),
            around: machine.scratch(),
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
    fn run(&self, program: &str, args: &[&str]) -> Answer {
        let mut command = Command::new("runuser");
        command
            .args(["-u", "postgres", "--"])
            .arg(self.programs.join(program))
            .args(args)
            .env("PGDATA", &self.data)
            .env("PGHOST", &self.around)
            .env("PGDATABASE", "postgres")
            .current_dir("/");
        run(command, Duration::from_secs(120)).ok()
    }

    fn start(&self) {
        let log = self.around.join("log");
        let options = format!("-k {} -c listen_addresses=", self.around.display());
        let log = log.to_str().expect("our folders are UTF-8");
        self.run("pg_ctl", &["-w", "-l", log, "-o", &options, "start"]);
    }

    fn stop(&self, mode: &str) {
        self.run("pg_ctl", &["-w", "-m", mode, "stop"]);
    }

    /// The answer to one question, its columns with `|` between.
    fn ask(&self, question: &str) -> String {
        let answer = self.run("psql", &["-X", "-A", "-t", "-c", question]);
        answer.stdout.trim().to_owned()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let pid = fs::read_to_string(self.data.join("postmaster.pid")).unwrap_or_default();
        if let Some(pid) = pid.lines().next() {
            drop(Command::new("kill").args(["-QUIT", pid]).status());
        }
    }
}

#[test]
fn postgres_keeps_every_transaction_through_stops_a_crash_and_a_remount() {
    let mut machine = Machine::demo_with(&["--package", "1", "-o", "allow_other"]);
    let postgres = Postgres::init(&machine);
    postgres.start();
    postgres.run("pgbench", &["-q", "-i", "-s", "1"]);
    let work = || postgres.run("pgbench", &["-n", "-c", "2", "-t", "150"]);
    let holds = |transactions: u64| {
        let sums = "SELECT (SELECT count(*) FROM pgbench_history), \
                    (SELECT count(*) FROM pgbench_accounts), \
                    (SELECT sum(delta) FROM pgbench_history) = ALL (ARRAY[\
                    (SELECT sum(abalance) FROM pgbench_accounts), \
                    (SELECT sum(tbalance) FROM pgbench_tellers), \
                    (SELECT sum(bbalance) FROM pgbench_branches)])";
        assert_eq!(postgres.ask(sums), format!("{transactions}|100000|t"));
    };
    work();
    holds(300);
    // Without a checkpoint: what is there comes from its log alone.
    postgres.stop("immediate");
    postgres.start();
    holds(300);
    work();
    postgres.stop("fast");
    postgres.run("pg_checksums", &["--check"]);
    start_anew(&mut machine);
    postgres.run("pg_checksums", &["--check"]);
    postgres.start();
    holds(600);
    work();
    holds(900);
    postgres.stop("fast");
}
