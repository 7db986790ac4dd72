//! What `--help`, `pxfs help` and the manual pages show beside the grammar: options grouped by task, and an example a command.
//!
//! Invariant: the grammar itself stands in `args`; nothing here changes what is understood. `-h` shows a command's own
//! options, and the common ones by name; `--help` shows all. Called by `cli`.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::{Arg, Command, CommandFactory};

use super::args::Cli;

/// The common options, by task.
const GROUPS: [(&str, &[&str]); 7] = [
    (
        "Chain",
        &[
            "rpc_url",
            "rpc_url_file",
            "contract",
            "chain_id",
            "max_fee",
            "confirmations",
            "auto_sync",
            "operate",
            "refresh",
        ],
    ),
    ("Wallet", &["wallet", "wallet_password_file", "address"]),
    (
        "Storage node",
        &[
            "node",
            "node_token_file",
            "node_password_file",
            "read_timeout",
        ],
    ),
    ("Tokens", &["token", "named", "volume"]),
    (
        "Uploads and conflicts",
        &[
            "commit_idle",
            "commit_max",
            "take_over",
            "give_way",
            "begin_anew",
        ],
    ),
    (
        "Local folders and mount",
        &["config", "state_dir", "cache_dir", "cache_size", "options"],
    ),
    (
        "Output",
        &["json", "quiet", "no_progress", "color", "log", "log_format"],
    ),
];

/// One example a command.
const EXAMPLES: [(&str, &str); 22] = [
    ("demo", "pxfs demo ~/px"),
    (
        "mount",
        "pxfs mount ~/px --rpc-url https://rpc.example --contract 0x… --node btfs=http://127.0.0.1:5001",
    ),
    ("umount", "pxfs umount ~/px"),
    ("flush", "pxfs flush ~/px/1"),
    ("status", "pxfs status ~/px"),
    ("tokens", "pxfs tokens --json"),
    ("packages", "pxfs packages"),
    ("mint", "pxfs mint --package 0"),
    ("register", "pxfs register 7"),
    ("upgrade", "pxfs upgrade 7 --package 2"),
    ("detach", "pxfs detach 7 --save ~/saved"),
    ("sync", "pxfs sync 7"),
    (
        "deploy",
        "pxfs deploy --rpc-url http://127.0.0.1:8545 --wallet owner",
    ),
    (
        "oracle",
        "pxfs oracle --wallet operator --node gateway=https://ipfs.example",
    ),
    (
        "get",
        "pxfs get QmXSvM3PdBeHzKZjxoaFhvpXpC8mteHXjjH6fGQiW8xopB photo.jpg",
    ),
    ("share", "pxfs share ~/px/1/photo.jpg"),
    ("fsck", "pxfs fsck 7 --repair"),
    ("export", "pxfs export 7 --tar volume.tar"),
    ("import", "pxfs import 7 volume.car"),
    ("dev", "pxfs dev advance 31d"),
    ("doctor", "pxfs doctor"),
    (
        "completions",
        "pxfs completions bash > /etc/bash_completion.d/pxfs",
    ),
];

/// The grammar, with all that its help shows.
pub(super) fn command() -> Command {
    let mut command = Cli::command().mut_args(grouped);
    let names: Vec<String> = command
        .get_arguments()
        .filter(|arg| arg.is_global_set() && !arg.is_hide_set())
        .filter_map(name)
        .collect();
    let common = format!("Common options (described by --help): {}", names.join(" "));
    for (name, example) in EXAMPLES {
        let common = common.clone();
        command = command.mut_subcommand(name, move |sub| {
            let example = format!("Example:\n  {example}");
            sub.after_help(format!("{example}\n\n{common}"))
                .after_long_help(example)
        });
    }
    command.after_help(format!(
        "{common}\n\n`pxfs help COMMAND` describes a command; `pxfs demo MOUNTPOINT` tries everything out."
    ))
}

/// Prints help that was asked for, also by a command line that stops where a command is due.
pub(super) fn print(shown: &clap::Error) -> ExitCode {
    let text = shown.render();
    let mut out = std::io::stdout().lock();
    let written = match out.is_terminal() {
        true => write!(out, "{}", text.ansi()),
        false => write!(out, "{text}"),
    };
    ExitCode::from(u8::from(written.is_err()))
}

/// The grammar as a manual page shows it: all options are described there.
pub(super) fn page() -> Command {
    command().mut_args(|arg| arg.hide_short_help(false))
}

/// The command `name` alone, for its own page.
pub(super) fn page_of(name: &str) -> Option<Command> {
    let mut all = page();
    all.build();
    let found = all.find_subcommand(name).filter(|sub| !sub.is_hide_set())?;
    Some(found.clone())
}

/// A common option in its group, and out of `-h`.
fn grouped(arg: Arg) -> Arg {
    let id = arg.get_id().as_str();
    let group = GROUPS.iter().find(|(_, ids)| ids.contains(&id));
    match group {
        Some((heading, _)) => arg.help_heading(*heading).hide_short_help(true),
        None => arg,
    }
}

fn name(arg: &Arg) -> Option<String> {
    match (arg.get_long(), arg.get_short()) {
        (Some(long), _) => Some(format!("--{long}")),
        (None, Some(short)) => Some(format!("-{short}")),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_common_option_is_in_a_group_and_each_command_has_an_example() {
        let command = command();
        for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
            let id = arg.get_id().as_str();
            let groups = GROUPS.iter().filter(|(_, ids)| ids.contains(&id));
            let is_own = ["help", "version"].contains(&id);
            assert_eq!(groups.count(), usize::from(!is_own), "{id}");
        }
        for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
            let example = EXAMPLES.iter().find(|(name, _)| *name == sub.get_name());
            let is_plain = ["man", "help"].contains(&sub.get_name());
            assert!(example.is_some() || is_plain, "{}", sub.get_name());
        }
    }

    #[test]
    fn the_short_help_of_a_command_begins_with_its_own_options_and_names_the_others() {
        let help = |words: &[&str]| {
            let shown = command().try_get_matches_from(words).unwrap_err();
            shown.render().to_string()
        };
        let short = help(&["pxfs", "mint", "-h"]);
        for wanted in [
            "--package",
            "Example:",
            "pxfs mint --package 0",
            "--rpc-url",
        ] {
            assert!(short.contains(wanted), "{wanted} is not in:\n{short}");
        }
        assert!(short.lines().count() < 30, "{short}");
        let long = help(&["pxfs", "mint", "--help"]);
        let place = |text: &str| long.find(text).unwrap_or_else(|| panic!("{text}: {long}"));
        assert!(place("--package") < place("Chain:"), "{long}");
        assert!(place("Wallet:") < place("Output:"), "{long}");
    }

    #[test]
    fn a_manual_page_describes_each_option_that_it_names() {
        let pages = [page(), page_of("mount").unwrap(), page_of("sync").unwrap()];
        for page in pages {
            let mut text = Vec::new();
            clap_mangen::Man::new(page.clone())
                .render(&mut text)
                .unwrap();
            let text = String::from_utf8(text).unwrap();
            let text = text.replace("\\*(Aq", "'").replace('\\', "");
            let options = page.get_arguments().filter(|arg| !arg.is_hide_set());
            let described: Vec<_> = options.filter_map(Arg::get_help).collect();
            assert!(described.len() > 20, "{} options", described.len());
            for help in described {
                let help = help.to_string();
                let begin: Vec<_> = help.split(' ').take(3).collect();
                assert!(text.contains(&begin.join(" ")), "{help}");
            }
        }
    }

    #[test]
    fn what_is_said_in_an_example_is_understood() {
        for (name, example) in EXAMPLES {
            let example = example.split(" > ").next().unwrap_or_default();
            let words = example.split(' ').map(|word| match word {
                "0x…" => "0x00112233445566778899aabbccddeeff00112233",
                word => word,
            });
            let words = words.map(|word| word.replace("=0x…", ""));
            let read = command().try_get_matches_from(words);
            assert!(read.is_ok(), "{name}: {}", read.unwrap_err());
        }
    }
}
