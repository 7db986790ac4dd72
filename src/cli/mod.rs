//! The `pxfs` command: one file a command, `args` the grammar, `crate::exit` the codes.
//!
//! Invariant: an error is one line on stderr (with `--json` one object, and nothing on stdout), and
//! its code is in `crate::exit`.

mod arenas;
mod args;
mod ask;
mod chain;
mod demo;
mod deploy;
mod detach;
mod doctor;
mod dumps;
mod help;
mod locate;
mod log;
mod mount;
mod options;
mod oracle;
mod output;
mod progress;
mod setup;
mod status;
mod umount;
mod volume;
mod watch;

use std::process::ExitCode;

use clap::FromArgMatches;
use clap::error::ErrorKind;

use crate::exit::{Exit, Failure};
use args::{Cli, Command, Dev};
use setup::Setup;

use crate::oracle::Plan;

/// Runs this process's command.
#[must_use]
pub fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().collect();
    let json = words.iter().any(|word| word == "--json");
    if let Err(fault) = dumps::forbid() {
        let line =
            format!("cannot turn off core dumps, which could hold the wallet's key: {fault}");
        output::report(&Failure::new(Exit::Failure, line), json);
        return ExitCode::from(u8::from(Exit::Failure));
    }
    let read = help::command().try_get_matches_from(&words);
    let outcome = match read.and_then(|read| Cli::from_arg_matches(&read)) {
        Ok(cli) => run(cli),
        Err(fault)
            if matches!(
                fault.kind(),
                ErrorKind::DisplayHelp
                    | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                    | ErrorKind::DisplayVersion
            ) =>
        {
            return help::print(&fault);
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
    // These need no configuration, and must not fail for a broken one.
    match &cli.command {
        Command::Syncfs { path } => return umount::syncfs(path),
        Command::Completions { shell } => return output::completions(*shell),
        Command::Man { command } => return output::manual(command.as_deref()),
        Command::Demo { .. } | Command::Mount { .. } => arenas::bound(),
        _ => {}
    }
    let setup = Setup::of(&cli.options)?;
    match cli.command {
        Command::Demo {
            mountpoint,
            package,
        } => demo::run(&setup, &mountpoint, package),
        Command::Mount {
            mountpoint,
            foreground,
            ready,
        } => mount::run(&setup, &mountpoint, foreground, ready),
        Command::Umount {
            mountpoint,
            dead: true,
            ..
        } => umount::dead(&mountpoint),
        Command::Umount {
            mountpoint, now, ..
        } => umount::umount(&setup, &mountpoint, now),
        Command::Flush { path } => umount::flush(&setup, path.as_deref()),
        Command::Status { mountpoint, watch } => {
            let mountpoint = mountpoint.as_deref();
            if watch {
                watch::run(&setup, mountpoint)
            } else {
                status::run(&setup, mountpoint)
            }
        }
        Command::Tokens => chain::tokens(&setup),
        Command::Packages { on, uploads: false } => chain::packages(&setup, on),
        Command::Packages { on, uploads: true } => chain::upload_packages(&setup, on),
        Command::Upgrade {
            token,
            package,
            uploads,
            yes,
            print,
        } => chain::upgrade(&setup, &token, (package, uploads), yes, print),
        Command::Mint {
            on,
            package,
            yes,
            print,
        } => chain::mint(&setup, on, package, yes, print),
        Command::Register {
            token,
            new_volume,
            yes,
            print,
        } => chain::register(&setup, &token, new_volume, yes, print),
        Command::Detach {
            name,
            save,
            discard: _,
            yes,
        } => detach::run(&setup, &name, save.as_deref(), yes),
        Command::Get { cid, file } => volume::get(&setup, cid, &file),
        Command::Share { path } => volume::share(&setup, &path),
        Command::Fsck { token, repair } => volume::fsck(&setup, &token, repair),
        Command::Export { token, file, tar } => {
            volume::export(&setup, &token, file.as_deref(), tar.as_deref())
        }
        Command::Import { token, file } => volume::import(&setup, &token, &file),
        Command::Sync {
            token,
            no_wait,
            yes,
            print,
        } => chain::sync(&setup, &token, !no_wait, yes, print),
        Command::Deploy {
            operator,
            threshold,
            forwarder,
            yes,
        } => {
            let trust = deploy::Trust {
                operators: operator,
                threshold,
                forwarder,
            };
            deploy::run(&setup, &trust, yes)
        }
        Command::Oracle {
            listen,
            peer,
            allow_address,
            from_block,
            max_per_token,
        } => {
            let plan = Plan {
                listen,
                peers: peer,
                allowed: allow_address,
                from_block,
                max_per_token,
            };
            oracle::run(&setup, &plan)
        }
        Command::Dev {
            command: Dev::Advance { duration, on },
        } => chain::advance(&setup, on, duration),
        Command::Dev {
            command: Dev::Call { data, value, on },
        } => chain::call(&setup, on, data, value),
        Command::Doctor => doctor::run(&setup),
        Command::Syncfs { .. } | Command::Completions { .. } | Command::Man { .. } => Ok(Exit::Ok),
    }
}
