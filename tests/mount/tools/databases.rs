//! Databases: SQLite with both of its journals, Postgres.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use super::start_anew;
use crate::command::{Answer, TOOL, run};
use crate::harness::Machine;
use crate::postgres::Postgres;

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
    run(command, TOOL).ok()
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

#[test]
fn postgres_keeps_every_transaction_through_stops_a_crash_and_a_remount() {
    let mut machine = Machine::demo_with(&["--package", "1", "-o", "allow_other"]);
    let mut postgres = Postgres::init(&machine);
    postgres.start();
    postgres.run("pgbench", &["-q", "-i", "-s", "1"]);
    let work = |postgres: &Postgres| postgres.run("pgbench", &["-n", "-c", "2", "-t", "150"]);
    let holds = |postgres: &Postgres, transactions: u64| {
        let sums = "SELECT (SELECT count(*) FROM pgbench_history), \
                    (SELECT count(*) FROM pgbench_accounts), \
                    (SELECT sum(delta) FROM pgbench_history) = ALL (ARRAY[\
                    (SELECT sum(abalance) FROM pgbench_accounts), \
                    (SELECT sum(tbalance) FROM pgbench_tellers), \
                    (SELECT sum(bbalance) FROM pgbench_branches)])";
        assert_eq!(postgres.ask(sums), format!("{transactions}|100000|t"));
    };
    work(&postgres);
    holds(&postgres, 300);
    // Without a checkpoint: what is there comes from its log alone.
    postgres.stop("immediate");
    postgres.start();
    holds(&postgres, 300);
    work(&postgres);
    postgres.stop("fast");
    postgres.run("pg_checksums", &["--check"]);
    start_anew(&mut machine);
    postgres.run("pg_checksums", &["--check"]);
    postgres.start();
    holds(&postgres, 600);
    work(&postgres);
    holds(&postgres, 900);
    postgres.stop("fast");
}
