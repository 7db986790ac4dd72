//! The commands and their own options.
//!
//! Invariant: names here are an interface; an option that is not implemented is not accepted.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use super::options::Options;
use crate::config::Span;
use crate::types::TokenRef;

/// Mount PollinationX storage NFTs as a drive.
///
/// Every option is also a key of the configuration file and a variable PXFS_…;
/// a flag beats a variable beats the file.
#[derive(Debug, Parser)]
#[command(name = "pxfs", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) options: Options,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Try it: a drive with its own test chain, storage node and wallet; nothing else to install
    Demo {
        /// Where to mount it; created if it is missing
        mountpoint: PathBuf,
        /// The package of the first token
        #[arg(long, default_value_t = 0, value_name = "N")]
        package: u64,
    },
    /// Mount your tokens at MOUNTPOINT (in the background)
    Mount {
        /// An empty directory
        mountpoint: PathBuf,
        /// Stay in the foreground
        #[arg(short, long)]
        foreground: bool,
        /// The background process: says on stdout when it is mounted.
        #[arg(long, hide = true)]
        ready: bool,
    },
    /// Upload everything, then unmount
    Umount {
        /// The drive
        mountpoint: PathBuf,
        /// Unmount without uploading; pending data stays on this machine
        #[arg(long)]
        now: bool,
        /// Only remove the dead mount of a pxfs that was killed; a working drive stays mounted
        #[arg(long, conflicts_with = "now")]
        dead: bool,
    },
    /// Upload everything now and wait
    Flush {
        /// The drive, or a path in it: then only that token
        path: Option<PathBuf>,
    },
    /// Show tokens, quota, pending uploads, sync deadlines, node and chain
    Status {
        /// The drive
        mountpoint: Option<PathBuf>,
        /// Update it whenever something changes, until Ctrl-C
        #[arg(short, long)]
        watch: bool,
    },
    /// List the tokens that the wallet owns
    Tokens,
    /// List the packages that can be minted, with their prices
    Packages {
        /// Contract, if there are several
        #[arg(long, value_name = "NAME")]
        on: Option<String>,
        /// List packages of upload units instead (for contracts that count uploads)
        #[arg(long)]
        uploads: bool,
    },
    /// Mint a token
    Mint {
        /// Contract, if there are several
        #[arg(long, value_name = "NAME")]
        on: Option<String>,
        /// Which package (see `pxfs packages`)
        #[arg(long, value_name = "N")]
        package: u64,
        /// Do not ask for confirmation
        #[arg(short, long)]
        yes: bool,
        /// Show the transaction instead of sending it
        #[arg(long)]
        print: bool,
    },
    /// Set up a token that was minted elsewhere so that it can be mounted
    Register {
        /// The token
        token: TokenRef,
        /// Also if this wallet has set it up already: starts an empty volume, and moves no files there
        #[arg(long)]
        new_volume: bool,
        /// Do not ask for confirmation
        #[arg(short, long)]
        yes: bool,
        /// Show the transaction instead of sending it
        #[arg(long)]
        print: bool,
    },
    /// Move a token to a larger package, or buy it upload units
    #[command(group(clap::ArgGroup::new("more").required(true).args(["package", "uploads"])))]
    Upgrade {
        /// The token
        token: TokenRef,
        /// The package (see `pxfs packages`)
        #[arg(long, value_name = "N")]
        package: Option<u64>,
        /// The package of upload units (see `pxfs packages --uploads`)
        #[arg(long, value_name = "N")]
        uploads: Option<u64>,
        /// Do not ask for confirmation
        #[arg(short, long)]
        yes: bool,
        /// Show the transaction instead of sending it
        #[arg(long)]
        print: bool,
    },
    /// Save or discard data that was not uploaded before a token left this wallet, or save what is readable of damaged local state
    #[command(group(clap::ArgGroup::new("end").required(true).args(["save", "discard"])))]
    Detach {
        /// The token or its directory: 7, or 7.detached-3 if there are several
        #[arg(value_name = "TOKEN")]
        name: String,
        /// Copy everything into this folder (missing or empty), then remove it here; damaged local state is not removed
        #[arg(long, value_name = "DIR")]
        save: Option<PathBuf>,
        /// Remove it without a copy
        #[arg(long)]
        discard: bool,
        /// Do not ask for confirmation
        #[arg(short, long)]
        yes: bool,
    },
    /// Sync a token: report its usage on chain so that it can be written to (costs gas)
    Sync {
        /// The token
        token: TokenRef,
        /// Return once the transaction is mined
        #[arg(long)]
        no_wait: bool,
        /// Do not ask for confirmation
        #[arg(short, long)]
        yes: bool,
        /// Show the transaction instead of sending it
        #[arg(long)]
        print: bool,
    },
    /// Deploy the contracts of px-sync
    Deploy {
        /// Account that signs the oracle's reports; repeat for several [default: the wallet's own]
        #[arg(long, value_name = "ADDRESS")]
        operator: Vec<alloy::primitives::Address>,
        /// How many of them must sign [default: all]
        #[arg(long, value_name = "K", requires = "operator")]
        threshold: Option<u64>,
        /// Trust an existing forwarder, such as Chainlink's, and deploy none
        #[arg(long, value_name = "ADDRESS", conflicts_with = "operator")]
        forwarder: Option<alloy::primitives::Address>,
        /// Do not ask for confirmation
        #[arg(short, long)]
        yes: bool,
    },
    /// Run an oracle operator: answer the contract's sync requests
    Oracle {
        /// Where other operators fetch this one's signatures, for example 0.0.0.0:4010
        #[arg(long, value_name = "ADDRESS:PORT")]
        listen: Option<std::net::SocketAddr>,
        /// Another operator, if several must sign; repeat for each
        #[arg(long, value_name = "URL")]
        peer: Vec<String>,
        /// Allow gateways and peers at this private address or range, for example 10.0.0.0/8; may be repeated
        #[arg(long, value_name = "ADDRESS[/BITS]")]
        allow_address: Vec<crate::rpc::guard::Prefix>,
        /// First block to scan [default: 10,000 before the newest, or where it stopped]
        #[arg(long, value_name = "N")]
        from_block: Option<u64>,
        /// Most deliveries to pay for per token and day; further requests wait
        #[arg(long, value_name = "N", default_value_t = crate::oracle::MAX_PER_TOKEN)]
        max_per_token: usize,
    },
    /// Fetch one stored file by its CID
    Get {
        /// The file: Qm… or bafkrei…
        cid: String,
        /// Where to write it; must not exist yet
        file: PathBuf,
    },
    /// Publish and pin one file; print its CID
    Share {
        /// The file
        path: PathBuf,
    },
    /// Verify every block of a token on the node (exit 9: damage)
    Fsck {
        /// The token
        token: TokenRef,
        /// Upload lost blocks again that are still here or on another node
        #[arg(long)]
        repair: bool,
    },
    /// Write a token's whole volume into one file, as blocks (CARv1) or as its files
    Export {
        /// The token
        token: TokenRef,
        /// For the blocks; must not exist yet
        #[arg(required_unless_present = "tar", conflicts_with = "tar")]
        file: Option<PathBuf>,
        /// For the files, as a tar archive; must not exist yet
        #[arg(long, value_name = "FILE")]
        tar: Option<PathBuf>,
    },
    /// Upload the blocks of an exported file to the node, and pin them
    Import {
        /// The token
        token: TokenRef,
        /// The file
        file: PathBuf,
    },
    /// For development and tests
    #[command(arg_required_else_help = true)]
    Dev {
        #[command(subcommand)]
        command: Dev,
    },
    /// Check FUSE, folders, wallet, chain and node, and say how to fix what is wrong
    Doctor,
    /// Print shell completions
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or that of one command
    Man {
        /// The command
        command: Option<String>,
    },
    /// syncfs(2) of a path in a process of its own.
    #[command(hide = true)]
    Syncfs {
        /// The drive
        path: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Dev {
    /// Let chain time pass (embedded chain)
    Advance {
        /// For example 31d
        duration: Span,
        /// On the chain of which contract, where there are several
        #[arg(long, value_name = "NAME")]
        on: Option<String>,
    },
    /// Send any call to the token contract.
    #[command(hide = true)]
    Call {
        /// Calldata, 0x…
        data: alloy::primitives::Bytes,
        /// Wei that go with it
        #[arg(long, default_value = "0", value_name = "WEI")]
        value: alloy::primitives::U256,
        /// Which contract, where there are several
        #[arg(long, value_name = "NAME")]
        on: Option<String>,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_grammar_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_may_stand_before_or_behind_the_command() {
        for line in [
            "pxfs --json --state-dir /s status",
            "pxfs status --json --state-dir /s",
        ] {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            assert!(cli.options.json);
            assert_eq!(cli.options.layer().state_dir, Some("/s".into()));
        }
    }

    #[test]
    fn nothing_is_dropped_that_was_not_said_to_be() {
        for line in ["pxfs detach 1", "pxfs detach 1 --save /d --discard"] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }

    #[test]
    fn the_commands_of_the_interface_are_understood() {
        for line in [
            "demo /m",
            "demo /m --package 2 --node embedded=/n --volume plain --state-dir /s",
            "mount /m -f -o ro,allow_other,umask=077,_netdev",
            "umount /m --now",
            "flush",
            "flush /m/1",
            "status /m",
            "status --watch",
            "tokens --json",
            "packages",
            "mint --package 1 --yes",
            "mint --package 1 --print",
            "register 1",
            "register 1 --new-volume --yes",
            "detach 1 --save /d",
            "detach 1.detached-3 --discard --yes",
            "sync 1 --no-wait --yes",
            "sync 1 --print",
            "sync 1 --yes --confirmations 3",
            "sync px-1",
            "mint --on px --package 1 --yes",
            "packages --on px",
            "get QmX /f",
            "share /m/1/f",
            "fsck 1 --repair --json",
            "export 1 /f.car",
            "export 1 --tar /f.tar",
            "import 1 /f.car",
            "dev advance 31d",
            "doctor",
            "completions bash",
            "man",
            "man mount",
            "help mount",
        ] {
            let words = std::iter::once("pxfs").chain(line.split(' '));
            let read = Cli::try_parse_from(words);
            let is_help = read.as_ref().is_err_and(|fault| fault.exit_code() == 0);
            assert!(read.is_ok() || is_help, "{line}");
        }
    }
}
