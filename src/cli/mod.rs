//! The `pxfs` command: one file a command, `args` the grammar, `exit` the codes.
//!
//! Invariant: an error is one line on stderr (with `--json` one object, and nothing on stdout), and
//! its code is in `exit`. Called by `main`.

mod args;
pub mod exit;
mod output;
mod setup;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use args::{Cli, Command};
use exit::{Exit, Failure};

/// Runs the command of this process.
#[must_use]
pub fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().collect();
    let json = words.iter().any(|word| word == "--json");
    let outcome = match Cli::try_parse_from(&words) {
        Ok(cli) => run(cli),
        Err(fault)
            if matches!(
                fault.kind(),
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
            ) =>
        {
            let printed = fault.print();
            return ExitCode::from(u8::from(printed.is_err()));
        }
        Err(fault) => Err(Failure::new(Exit::Usage, output::usage_line(&fault)).into()),
    };
    match outcome {
        Ok(exit) => ExitCode::from(u8::from(exit)),
        Err(error) => {
            let failure = Failure::from_error(&error);
            output::report(&failure, json);
            ExitCode::from(u8::from(failure.exit))
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<Exit> {
    let setup = setup::Setup::of(&cli.options)?;
    match cli.command {
        _ => {
            let _ = setup;
            exit::fail!(Failure, "not yet")
        }
    }
}
