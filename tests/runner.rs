//! `tests/run` counts right: nothing that failed, was ignored, or did not run at all may pass.

use std::fs;
use std::process::{Command, Output};

/// What `tests/lib.sh` makes of a log of `cargo test` that ended with `status`.
fn count(log: &str, status: i32) -> Output {
    count_by("count", log, status)
}

/// The same of a log that `function` of it reads.
fn count_by(function: &str, log: &str, status: i32) -> Output {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("log");
    fs::write(&file, log).expect("a log");
    let script = format!(
        ". tests/lib.sh; {function} '{}' suite {status}; finish",
        file.display()
    );
    Command::new("bash")
        .args(["-c", &script])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("bash runs")
}

/// The last line, and whether the script called it a success.
fn verdict(log: &str, status: i32) -> (String, bool) {
    verdict_of(&count(log, status))
}

fn verdict_of(output: &Output) -> (String, bool) {
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().unwrap_or("").to_owned();
    (last, output.status.success())
}

const FINE: &str = "test a ... ok\n\
    test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s\n\
    test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 5 filtered out; finished in 0.01s\n";

#[test]
fn all_suites_are_added_up() {
    assert_eq!(verdict(FINE, 0), ("15 passed, 0 failed".to_owned(), true));
}

#[test]
fn a_failed_test_fails_the_run_and_is_named() {
    let log = format!(
        "{FINE}test mount::b ... FAILED\ntest result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured\n"
    );
    assert_eq!(
        verdict(&log, 101),
        ("16 passed, 1 failed".to_owned(), false)
    );
    let text = String::from_utf8(count(&log, 101).stdout).expect("text");
    assert!(text.contains("\n  mount::b\n"), "{text}");
}

#[test]
fn an_ignored_test_fails_the_run_unless_a_benchmark_or_opt_in() {
    let log = format!("{FINE}test c ... ignored, needs a network\n");
    assert_eq!(verdict(&log, 0), ("15 passed, 1 failed".to_owned(), false));
    let log = format!("{FINE}test c ... ignored\n");
    assert_eq!(verdict(&log, 0), ("15 passed, 1 failed".to_owned(), false));
    for reason in ["benchmark: minutes", "given: runs where a node is named"] {
        let log = format!("{FINE}test c ... ignored, {reason}\n");
        assert_eq!(verdict(&log, 0), ("15 passed, 0 failed".to_owned(), true));
    }
}

#[test]
fn a_broken_build_or_a_crashed_or_hung_suite_fails() {
    assert_eq!(
        verdict("error: could not compile `pxfs`\n", 101),
        ("0 passed, 1 failed".to_owned(), false)
    );
    // Killed by the time limit after two suites.
    assert_eq!(
        verdict(FINE, 124),
        ("15 passed, 1 failed".to_owned(), false)
    );
    assert_eq!(verdict("", 0), ("0 passed, 1 failed".to_owned(), false));
}

#[test]
fn a_filter_that_no_test_has_is_no_success() {
    let log = "test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 12 filtered out; finished in 0.00s\n";
    assert_eq!(verdict(log, 0), ("0 passed, 1 failed".to_owned(), false));
    let log = format!("{FINE}test c ... ignored, given up for now\n");
    assert_eq!(verdict(&log, 0), ("15 passed, 1 failed".to_owned(), false));
}

#[test]
fn tests_of_the_oracle_workflow_count_as_the_others() {
    let verdict = |log: &str, status| verdict_of(&count_by("count_bun", log, status));
    let fine = "(pass) a [1.00ms]\n 3 pass\n 0 fail\n 9 expect() calls\nRan 3 tests across 1 file. [1.00s]\n";
    assert_eq!(verdict(fine, 0), ("3 passed, 0 failed".to_owned(), true));
    let broken = "(fail) b > c [1.00ms]\n 2 pass\n 1 fail\n";
    assert_eq!(verdict(broken, 1), ("2 passed, 1 failed".to_owned(), false));
    let text = count_by("count_bun", broken, 1).stdout;
    assert!(String::from_utf8_lossy(&text).contains("\n  b > c\n"));
    let skipped = format!("(skip) d\n{fine}");
    assert_eq!(
        verdict(&skipped, 0),
        ("3 passed, 1 failed".to_owned(), false)
    );
    for (log, status) in [("", 0), ("", 127), (fine, 124)] {
        assert!(!verdict(log, status).1, "{log} {status}");
    }
}
