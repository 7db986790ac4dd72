//! Databases whose daemon is killed in the middle of their transactions: after the remount they recover by themselves,
//! are whole, and have every transaction that they had acknowledged, and at most one of each client besides.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{Dice, kills};
use crate::command::{run, wait_until};
use crate::harness::Machine;
use crate::postgres::Postgres;

/// How long a client may need for its first commit, or to notice that the drive is gone.
const CLIENT: Duration = Duration::from_secs(60);

/// A program that prints the number of each transaction that is committed. Killed when dropped.
struct Client {
    child: Child,
    told: PathBuf,
}

impl Client {
    fn start(mut command: Command, told: PathBuf) -> Self {
        let out = File::create(&told).expect("a file");
        command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(Stdio::null());
        let child = command.spawn().expect("a client");
        Self { child, told }
    }

    fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("our child").is_some()
    }

    /// The last transaction that it was told of, when it has noticed that the drive is gone.
    #[track_caller]
    fn end(mut self) -> u64 {
        wait_until("the client ends", CLIENT, || self.has_ended());
        let told = fs::read_to_string(&self.told).expect("what it said");
        // Its last line may be cut.
        let whole = told.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let last = whole
            .lines()
            .filter_map(|line| line.trim().parse().ok())
            .max();
        last.unwrap_or(0)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Lets the clients work for a while, and kills the daemon under them.
#[track_caller]
fn kill_under(machine: &mut Machine, clients: &mut [Client], dice: &mut Dice) {
    let begun = |client: &Client| fs::metadata(&client.told).is_ok_and(|told| told.len() > 0);
    wait_until("the clients begin", CLIENT, || clients.iter().all(begun));
    std::thread::sleep(Duration::from_millis(dice.below(700)));
    let ended = clients.iter_mut().any(Client::has_ended);
    machine.kill();
    assert!(!ended, "a client ended before the drive did");
    if dice.below(2) == 0 {
        drop(fs::remove_dir_all(machine.cache()));
    }
}

fn drive(args: &[&str]) -> Machine {
    let commits = ["--commit-idle", "50ms", "--commit-max", "200ms"];
    Machine::demo_with(&[args, &commits].concat())
}

/// What SQLite says of a database: whether it is whole, its counter, its rows, and how many of them are not as they
/// were written.
const WHOLE: &str = "PRAGMA integrity_check;
SELECT (SELECT n FROM total), count(*), max(n), min(n) FROM entry;
SELECT count(*) FROM entry WHERE text <> '' AND (text NOT LIKE n || ' %'
  OR text <> replace(hex(zeroblob((length(text) / (length(n) + 1)))), '00', n || ' '));";

/// One life of the drive under SQLite; what was lost or is not whole.
fn sqlite_dies(machine: &mut Machine, mode: &str, dice: &mut Dice) -> Result<(), String> {
    let database = machine.dir().join("data.sqlite");
    let mut command = Command::new("python3");
    command
        .args(["-c", include_str!("sqlite.py")])
        .arg(&database)
        .arg(mode);
    let mut clients = [Client::start(command, machine.scratch().join("told"))];
    kill_under(machine, &mut clients, dice);
    let [client] = clients;
    let acknowledged = client.end();
    machine.start();
    let mut look = Command::new("sqlite3");
    look.arg(&database).arg(WHOLE);
    let answer = run(look, CLIENT);
    let found = [acknowledged, acknowledged + 1]
        .map(|n| format!("ok\n{n}|{n}|{n}|1\n0\n"))
        .contains(&answer.stdout);
    match found {
        true => Ok(()),
        false => Err(format!(
            "{acknowledged} were acknowledged: {}{}",
            answer.stdout, answer.stderr
        )),
    }
}

fn sqlite_survives(mode: &str, seed: u64) {
    let (mut machine, mut dice) = (drive(&[]), Dice(seed));
    for life in 0..kills() / 6 {
        let survived = sqlite_dies(&mut machine, mode, &mut dice);
        survived.unwrap_or_else(|why| panic!("{mode}, death {life}: {why}"));
    }
}

#[test]
fn sqlite_with_a_rollback_journal_keeps_every_transaction_that_it_acknowledged() {
    sqlite_survives("DELETE", 1);
}

#[test]
fn sqlite_with_a_write_ahead_log_keeps_every_transaction_that_it_acknowledged() {
    sqlite_survives("WAL", 2);
}

#[test]
fn the_database_notices_a_journal_that_skips_a_write() {
    let (mut machine, mut dice) = (drive(&[]), Dice(3));
    machine.set_env("PXFS_TEST_WITHOUT", "JournalCommit");
    machine.restart();
    let dies = |_| sqlite_dies(&mut machine, "WAL", &mut dice).err();
    assert!(
        (0..20).find_map(dies).is_some(),
        "20 deaths, and nothing was missed"
    );
}

#[test]
fn postgres_keeps_every_transaction_that_it_acknowledged() {
    let mut machine = drive(&["--package", "1", "-o", "allow_other"]);
    let (mut postgres, mut dice) = (Postgres::init(&machine), Dice(4));
    postgres.start();
    postgres.ask(
        "CREATE EXTENSION amcheck; \
         CREATE TABLE total(client int PRIMARY KEY, n bigint); INSERT INTO total VALUES (0, 0), (1, 0); \
         CREATE TABLE entry(client int, n bigint, text text, PRIMARY KEY (client, n))",
    );
    // One statement is one transaction, whose number comes back when it is committed.
    let script = machine.scratch().join("script");
    for life in 0..(kills() / 15).max(2) {
        let mut clients = [0, 1].map(|client| {
            let one = format!(
                "WITH next AS (UPDATE total SET n = n + 1 WHERE client = {client} RETURNING n) INSERT INTO entry \
                 SELECT {client}, n, repeat(md5(n::text), 1 + n::int % 60) FROM next RETURNING n;\n"
            );
            let script = script.with_extension(client.to_string());
            fs::write(&script, one.repeat(50_000)).expect("a script");
            let mut command = postgres.command("psql");
            command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-f"]);
            command.arg(&script);
            Client::start(command, script.with_extension(format!("told{client}")))
        });
        kill_under(&mut machine, &mut clients, &mut dice);
        let acknowledged = clients.map(Client::end);
        postgres.end();
        machine.start();
        postgres.start();
        for (client, acknowledged) in acknowledged.into_iter().enumerate() {
            let found = postgres.ask(&format!(
                "SELECT (SELECT n FROM total WHERE client = {client}), count(*), max(n), min(n), \
                 count(*) FILTER (WHERE text <> repeat(md5(n::text), 1 + n::int % 60)) \
                 FROM entry WHERE client = {client}"
            ));
            let right = [acknowledged, acknowledged + 1].map(|n| format!("{n}|{n}|{n}|1|0"));
            assert!(
                right.contains(&found),
                "death {life}, client {client}: {acknowledged} were acknowledged, {found}"
            );
        }
        postgres.run(
            "pg_amcheck",
            &["--heapallindexed", "--parent-check", "postgres"],
        );
    }
    postgres.stop("fast");
    postgres.run("pg_checksums", &["--check"]);
}
