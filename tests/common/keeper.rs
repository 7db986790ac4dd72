//! A program that a test runs beside itself, and that never outlives it.
//!
//! Invariant: the program is killed when its [`Kept`] is dropped, and when this process ends, however
//! that ends. Shared, as a file, by the harnesses of chains and nodes.

use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout, Command, Stdio};

/// Runs its arguments beside itself until its own input ends, which it does with whoever holds the
/// other end.
const KEEPER: &str = r#""$@" </dev/null & cat >/dev/null; kill -KILL $!; wait"#;

/// A program that runs.
#[derive(Debug)]
pub(crate) struct Kept {
    keeper: Child,
}

/// What the program writes to its standard output.
pub(crate) type Output = Lines<BufReader<ChildStdout>>;

impl Kept {
    /// Runs `program` with `args` and these variables beside those of this process.
    pub(crate) fn start(program: &str, args: &[&str], env: &[(&str, &str)]) -> (Self, Output) {
        let mut keeper = Command::new("sh")
            .args(["-c", KEEPER, "sh", program])
            .args(args)
            .envs(env.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
        let lines = BufReader::new(keeper.stdout.take().expect("a pipe")).lines();
        (Self { keeper }, lines)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        // It ends by itself; waiting leaves no zombie.
        let _ = self.keeper.wait();
    }
}
