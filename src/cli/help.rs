//! What `--help`, `pxfs help` and the manual pages add to the grammar: option groups, and an
//! example for each command.
//!
//! Invariant: `args` has the grammar; nothing here changes parsing. `-h` shows a command's own
//! options, and the common ones by name; `--help` shows all.

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
    (
        "Wallet",
        &[
            "wallet",
            "wallet_password_file",
            "derivation_path",
            "signer",
            "address",
            "owner",
            "name_key",
        ],
    ),
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
        &[
            "config",
            "drive",
            "state_dir",
            "cache_dir",
            "cache_size",
            "options",
        ],
    ),
    (
        "Output",
        &["json", "quiet", "no_progress", "color", "log", "log_format"],
    ),
];

const EXAMPLES: [(&str, &str); 24] = [
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
    ("dev advance", "pxfs dev advance 31d"),
    ("doctor", "pxfs doctor"),
    (
        "completions",
        "pxfs completions bash > /etc/bash_completion.d/pxfs",
    ),
    ("man", "pxfs man mount > pxfs-mount.1"),
];

/// The grammar with its help.
pub(super) fn command() -> Command {
    let mut command = Cli::command().mut_args(grouped);
    let names: Vec<String> = command
        .get_arguments()
        .filter(|arg| arg.is_global_set() && !arg.is_hide_set())
        .filter_map(name)
        .collect();
    let common = format!("Common options (described by --help): {}", names.join(" "));
    for (name, example) in EXAMPLES {
        let show = |sub: Command| {
            let example = format!("Example:\n  {example}");
            sub.after_help(format!("{example}\n\n{common}"))
                .after_long_help(example)
        };
        command = match name.split_once(' ') {
            None => command.mut_subcommand(name, show),
            Some((above, name)) => {
                command.mut_subcommand(above, |above| above.mut_subcommand(name, show))
            }
        };
    }
    command.after_help(format!(
        "{common}\n\n`pxfs help COMMAND` describes a command; `pxfs demo MOUNTPOINT` tries everything out."
    ))
}

/// Prints requested help, also for a command line without its command.
pub(super) fn print(shown: &clap::Error) -> ExitCode {
    let text = shown.render();
    let mut out = std::io::stdout().lock();
    let written = if out.is_terminal() {
        write!(out, "{}", text.ansi())
    } else {
        write!(out, "{text}")
    };
    ExitCode::from(u8::from(written.is_err()))
}

/// The grammar for a manual page, with all options.
pub(super) fn page() -> Command {
    command().mut_args(|arg| arg.hide_short_help(false))
}

/// The command `name` for its own page.
pub(super) fn page_of(name: &str) -> Option<Command> {
    let mut all = page();
    all.build();
    let found = all.find_subcommand(name).filter(|sub| !sub.is_hide_set())?;
    Some(found.clone())
}

/// Puts a common option in its group, and out of `-h`.
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
    use crate::config::{Config, Layer, Size, Span, VolumeKind};

    #[test]
    fn each_common_option_is_in_a_group() {
        let command = command();
        for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
            let id = arg.get_id().as_str();
            let groups = GROUPS.iter().filter(|(_, ids)| ids.contains(&id));
            let is_own = ["help", "version"].contains(&id);
            assert_eq!(groups.count(), usize::from(!is_own), "{id}");
        }
    }

    /// Every visible command, with the words that call it.
    fn all(of: &Command, words: &str) -> Vec<(String, Command)> {
        let shown = of.get_subcommands().filter(|sub| !sub.is_hide_set());
        let shown = shown.filter(|sub| sub.get_name() != "help");
        let each = shown.flat_map(|sub| {
            let words = format!("{words} {}", sub.get_name());
            let below = all(sub, &words);
            std::iter::once((words, sub.clone())).chain(below)
        });
        each.collect()
    }

    #[test]
    fn the_help_of_each_command_has_one_example_of_it() {
        let commands = all(&command(), "pxfs");
        assert!(
            commands
                .iter()
                .any(|(words, _)| words == "pxfs dev advance")
        );
        for (words, mut sub) in commands {
            for help in [sub.render_help(), sub.render_long_help()] {
                let help = help.to_string();
                let (_, example) = help
                    .split_once("Example:\n  ")
                    .unwrap_or_else(|| panic!("{words}: {help}"));
                assert!(example.starts_with(&words), "{words}: {example}");
                assert!(!example.contains("Example:"), "{words}: {example}");
            }
        }
    }

    /// Options whose absence means nothing.
    const WITHOUT_DEFAULT: [&str; 25] = [
        "rpc_url",
        "rpc_url_file",
        "contract",
        "chain_id",
        "wallet_password_file",
        "address",
        "signer",
        "owner",
        "name_key",
        "node",
        "node_token_file",
        "node_password_file",
        "named",
        "config",
        "drive",
        "options",
        "on",
        "listen",
        "peer",
        "allow_address",
        "forwarder",
        "tar",
        "save",
        "package",
        "uploads",
    ];

    #[test]
    fn each_option_that_has_a_default_shows_it() {
        let mut command = command();
        command.build();
        let commands = all(&command, "pxfs").into_iter();
        for (words, mut sub) in commands.chain([("pxfs".to_owned(), command)]) {
            let help = sub.render_long_help().to_string();
            let args = sub.get_arguments().filter(|arg| {
                let is_named = arg.get_long().is_some() && arg.get_action().takes_values();
                is_named && !arg.is_required_set() && !arg.is_hide_set()
            });
            for arg in args {
                let id = arg.get_id().as_str();
                if WITHOUT_DEFAULT.contains(&id) {
                    continue;
                }
                let own = format!("--{} ", arg.get_long().unwrap_or_default());
                let from = help
                    .find(&own)
                    .unwrap_or_else(|| panic!("{words}: {own}: {help}"));
                let rest = &help[from + own.len()..];
                let end = rest.find("\n      --").unwrap_or(rest.len());
                assert!(rest[..end].contains("[default: "), "{words} {own}");
            }
        }
    }

    #[test]
    fn the_defaults_that_are_shown_are_those_that_count() {
        let folders = crate::config::Folders::from_env(|_| None, 1000);
        let config = Config::resolve(Layer::default(), &folders);
        let command = command();
        let shown = |id: &str| {
            let arg = command.get_arguments().find(|arg| arg.get_id() == id);
            let help = arg.and_then(Arg::get_help).map(ToString::to_string);
            let help = help.unwrap_or_else(|| panic!("{id}"));
            let (_, default) = help
                .split_once("[default: ")
                .unwrap_or_else(|| panic!("{help}"));
            default.split(']').next().unwrap_or_default().to_owned()
        };
        for (id, counts) in [
            ("commit_idle", config.commit_idle),
            ("commit_max", config.commit_max),
            ("read_timeout", config.read_timeout),
            ("refresh", config.refresh),
        ] {
            assert_eq!(shown(id).parse::<Span>().unwrap().0, counts, "{id}");
        }
        let size = shown("cache_size").parse::<Size>().unwrap();
        assert_eq!(size.0, config.cache_bytes);
        let kind = shown("volume").parse::<VolumeKind>().unwrap();
        assert_eq!(kind, config.volume);
        let home = std::path::Path::new("/root");
        for (id, counts) in [
            ("state_dir", config.state_dir),
            ("cache_dir", config.cache_dir),
            ("config", folders.config_file()),
        ] {
            assert_eq!(
                home.join(shown(id).trim_start_matches("~/")),
                counts,
                "{id}"
            );
        }
    }

    #[test]
    fn short_help_lists_own_options_first_and_names_the_rest() {
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
