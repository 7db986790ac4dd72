//! Running programs with a bound: no test waits for ever, and a failure shows what was printed.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How often a condition is looked at while it is awaited.
const LOOK: Duration = Duration::from_millis(10);
/// A tool of the system has to end within this time, however much it has to do.
pub(crate) const TOOL: Duration = Duration::from_secs(900);

/// What a program answered.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The command line, for messages.
    pub line: String,
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Answer {
    /// Passes the answer on if the program succeeded, else fails the test with all it printed.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        self.exits(0)
    }

    /// Passes the answer on if the program ended with `code`.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(
            self.code,
            Some(code),
            "`{}`\n--- stdout\n{}\n--- stderr\n{}",
            self.line,
            self.stdout,
            self.stderr
        );
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|why| panic!("`{}`: {why}\n{}", self.line, self.stdout))
    }

    /// Fails the test unless the program said its error in one line.
    #[track_caller]
    pub(crate) fn one_line(self) -> Self {
        let lines = self.stderr.trim_end().lines().count();
        assert_eq!(
            lines, 1,
            "`{}` should say one line:\n{}",
            self.line, self.stderr
        );
        self
    }
}

/// Runs `command` to its end, at most `limit`; then it is killed and the test fails.
#[track_caller]
pub(crate) fn run(mut command: Command, limit: Duration) -> Answer {
    let mut stdout = tempfile::tempfile().expect("a file for the output");
    let mut stderr = tempfile::tempfile().expect("a file for the errors");
    // Not `{command:?}`: that would print the environment.
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    let line = words.join(" ");
    drop(words);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(stdout.try_clone().expect("a descriptor"))
        .stderr(stderr.try_clone().expect("a descriptor"))
        .spawn()
        .unwrap_or_else(|why| panic!("`{line}` does not start: {why}"));
    let begin = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("the child is ours") {
            break Some(status);
        }
        if begin.elapsed() > limit {
            break None;
        }
        std::thread::sleep(LOOK);
    };
    if status.is_none() {
        drop(child.kill());
        drop(child.wait());
    }
    let answer = Answer {
        line,
        code: status.and_then(|status| status.code()),
        stdout: text(&mut stdout),
        stderr: text(&mut stderr),
    };
    assert!(
        status.is_some(),
        "`{}` did not end within {limit:?}\n--- stdout\n{}\n--- stderr\n{}",
        answer.line,
        answer.stdout,
        answer.stderr
    );
    answer
}

/// Runs a tool of the system, which has to succeed.
#[track_caller]
pub(crate) fn tool<S: AsRef<OsStr>>(program: &str, args: &[S]) -> Answer {
    let mut command = Command::new(program);
    command.args(args);
    run(command, TOOL).ok()
}

/// Runs git in `folder` under no configuration but ours; it has to succeed.
#[track_caller]
pub(crate) fn git(folder: &Path, args: &[&str]) -> Answer {
    let mut command = Command::new("git");
    command
        .current_dir(folder)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
        .args(["-c", "user.name=t", "-c", "user.email=t@example.org"])
        .args(["-c", "safe.directory=*", "-c", "gc.auto=0"])
        .args(["-c", "core.autocrlf=false"])
        .args(args);
    run(command, TOOL).ok()
}

/// Waits until `condition` holds, at most `limit`, else fails the test saying `what`.
#[track_caller]
pub(crate) fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < limit, "waited {limit:?} in vain: {what}");
        std::thread::sleep(LOOK);
    }
}

/// All that was written to `file`.
fn text(file: &mut File) -> String {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).expect("the file can be read");
    file.read_to_end(&mut bytes).expect("the file can be read");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Runs `call` in a thread of its own; the test fails if it does not end within `limit`.
#[track_caller]
pub(crate) fn ends<T: Send + 'static>(
    what: &str,
    limit: Duration,
    call: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (answer, answered) = mpsc::channel();
    std::thread::spawn(move || drop(answer.send(call())));
    answered
        .recv_timeout(limit)
        .unwrap_or_else(|_| panic!("{what} did not end within {limit:?}"))
}
