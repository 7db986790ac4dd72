//! The command line's grammar.
//!
//! Invariant: names here are an interface; an option that is not implemented is not accepted.
//! Called by `cli` alone.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};

use crate::config::{
    Account, ChainUrl, Coins, Color, ContractAt, Layer, LogFormat, NamedToken, NodeUrl, SignerUrl,
    Size, Span, VolumeKind,
};
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
    /// A drive with nothing else installed: chain, storage node and wallet of its own
    Demo {
        /// Where the drive appears; made when it is missing
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
        /// The process that goes to the background: says on stdout when it is mounted.
        #[arg(long, hide = true)]
        ready: bool,
    },
    /// Upload everything, then unmount
    Umount {
        /// The drive
        mountpoint: PathBuf,
        /// Unmount without uploading; what is pending is kept here
        #[arg(long)]
        now: bool,
        /// Only take away what a pxfs that was killed left there; a drive that works stays
        #[arg(long, conflicts_with = "now")]
        dead: bool,
    },
    /// Upload everything now and wait
    Flush {
        /// The drive, or anything in it: then only that token
        path: Option<PathBuf>,
    },
    /// Show tokens, quota, pending uploads, sync deadlines, node and chain
    Status {
        /// The drive
        mountpoint: Option<PathBuf>,
        /// Show it again whenever something changes, until Ctrl-C
        #[arg(short, long)]
        watch: bool,
    },
    /// List the tokens that the wallet owns
    Tokens,
    /// List the packages that can be minted, with their prices
    Packages {
        /// Of which contract, where there are several
        #[arg(long, value_name = "NAME")]
        on: Option<String>,
        /// The packages of upload units instead, where the contract counts uploads
        #[arg(long)]
        uploads: bool,
    },
    /// Mint a token
    Mint {
        /// Of which contract, where there are several
        #[arg(long, value_name = "NAME")]
        on: Option<String>,
        /// Which package (see `pxfs packages`)
        #[arg(long, value_name = "N")]
        package: u64,
        /// Do not ask
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
        /// Also where it has one of this wallet's: begins an empty volume, takes nothing along
        #[arg(long)]
        new_volume: bool,
        /// Do not ask
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
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
        /// Show the transaction instead of sending it
        #[arg(long)]
        print: bool,
    },
    /// Save or discard what a token that this wallet no longer owns had not uploaded, or save what can be read of damaged local state
    #[command(group(clap::ArgGroup::new("end").required(true).args(["save", "discard"])))]
    Detach {
        /// The token, or its directory: 7, or 7.detached-3 where there are several
        #[arg(value_name = "TOKEN")]
        name: String,
        /// Copy everything into this folder (missing or empty), then remove it here; damaged local state is not removed
        #[arg(long, value_name = "DIR")]
        save: Option<PathBuf>,
        /// Remove it without a copy
        #[arg(long)]
        discard: bool,
        /// Do not ask
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
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
        /// Show the transaction instead of sending it
        #[arg(long)]
        print: bool,
    },
    /// Deploy the contracts of px-sync
    Deploy {
        /// An account that signs the oracle's reports; repeat for several [default: the wallet's own]
        #[arg(long, value_name = "ADDRESS")]
        operator: Vec<alloy::primitives::Address>,
        /// How many of them must sign [default: all]
        #[arg(long, value_name = "K", requires = "operator")]
        threshold: Option<u64>,
        /// Trust a forwarder that is there, such as Chainlink's, and deploy none
        #[arg(long, value_name = "ADDRESS", conflicts_with = "operator")]
        forwarder: Option<alloy::primitives::Address>,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// Be an operator of the oracle: answer the contract's sync requests
    Oracle {
        /// Where the other operators can ask what this one has signed, for example 0.0.0.0:4010
        #[arg(long, value_name = "ADDRESS:PORT")]
        listen: Option<std::net::SocketAddr>,
        /// Another operator, where several must sign; repeat for each
        #[arg(long, value_name = "URL")]
        peer: Vec<String>,
        /// Gateways and peers may have this private address, or one of 10.0.0.0/8; may be repeated
        #[arg(long, value_name = "ADDRESS[/BITS]")]
        allow_address: Vec<crate::rpc::guard::Prefix>,
        /// The first block to look at [default: 10,000 before the newest, or where it stopped]
        #[arg(long, value_name = "N")]
        from_block: Option<u64>,
        /// Deliveries to pay for, for each token and day; further requests wait
        #[arg(long, value_name = "N", default_value_t = crate::run::oracle::MAX_PER_TOKEN)]
        max_per_token: usize,
    },
    /// Fetch one stored file by its CID
    Get {
        /// The file: Qm… or bafkrei…
        cid: String,
        /// Where it is written; must not be there yet
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
        /// Upload again what is lost and still held here, or on another node
        #[arg(long)]
        repair: bool,
    },
    /// Write a token's whole volume into one file, as blocks (CARv1) or as its files
    Export {
        /// The token
        token: TokenRef,
        /// For the blocks; must not be there yet
        #[arg(required_unless_present = "tar", conflicts_with = "tar")]
        file: Option<PathBuf>,
        /// For the files, as a tar archive; must not be there yet
        #[arg(long, value_name = "FILE")]
        tar: Option<PathBuf>,
    },
    /// Put the blocks of an exported file onto the node, and pin them
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
    /// Check FUSE, folders, wallet, chain and node; say what to mend
    Doctor,
    /// Print the completions of a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or that of one command
    Man {
        /// Which command's
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

/// Options of every command.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Options {
    /// Configuration file [default: ~/.config/pxfs/config.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Chain: https://…, wss://… (announces changes), or embedded:FOLDER; repeat for fallbacks, with CHAIN= before each for several chains
    #[arg(long, global = true, value_name = "[CHAIN=]URL")]
    pub(crate) rpc_url: Vec<ChainUrl>,
    /// File with one chain URL a line
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) rpc_url_file: Option<PathBuf>,
    /// Token contract; repeat for several, each with a name: directories are NAME-TOKEN then
    #[arg(long, global = true, value_name = "[NAME=]ADDRESS[@CHAIN]")]
    pub(crate) contract: Vec<ContractAt>,
    /// Refuse any other chain
    #[arg(long, global = true, value_name = "N")]
    pub(crate) chain_id: Option<u64>,
    /// Keystore V3 JSON, 64 hex digits, or the words of a mnemonic; `env:NAME` for a variable that holds them [default: the file `wallet` in the state folder]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) wallet: Option<PathBuf>,
    /// File with the wallet's password, or the mnemonic's passphrase
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) wallet_password_file: Option<PathBuf>,
    /// Which key of a mnemonic [default: m/44'/60'/0'/0/0]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) derivation_path: Option<String>,
    /// In place of a wallet, what signs: clef or another signer, http://…
    #[arg(
        long,
        global = true,
        value_name = "URL",
        conflicts_with_all = ["wallet", "wallet_password_file"]
    )]
    pub(crate) signer: Option<SignerUrl>,
    /// Without a wallet: the tokens of this account, read-only, or writable by their --name-key; with --signer,
    /// which of its accounts signs
    #[arg(
        long,
        global = true,
        value_name = "0x…",
        conflicts_with_all = ["wallet", "wallet_password_file"]
    )]
    pub(crate) address: Option<Account>,
    /// The tokens of this account, which has approved the wallet or signer: that pays; needs --name-key
    #[arg(long, global = true, value_name = "0x…")]
    pub(crate) owner: Option<Account>,
    /// File with 64 hex digits: the key of a token's name, in place of the wallet's; may be repeated
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) name_key: Vec<PathBuf>,
    /// Storage node: btfs=URL, ipfs=URL or embedded=FOLDER; behind the first also gateway=URL
    #[arg(long, global = true, value_name = "KIND=URL")]
    pub(crate) node: Vec<NodeUrl>,
    /// File with a token that the node takes
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) node_token_file: Option<PathBuf>,
    /// File with the node's password
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        conflicts_with = "node_token_file"
    )]
    pub(crate) node_password_file: Option<PathBuf>,
    /// Mount only this token; may be repeated [default: all]
    #[arg(long, global = true, value_name = "ID")]
    pub(crate) token: Vec<TokenRef>,
    /// With --address, of a contract that keeps no names: where a token's volume is found; may be repeated
    #[arg(id = "named", long = "name", global = true, value_name = "TOKEN=k51…")]
    pub(crate) name: Vec<NamedToken>,
    /// Write although another machine did within the last 10 minutes; in a conflict, publish what is
    /// here over it
    #[arg(long, global = true)]
    pub(crate) take_over: bool,
    /// Where nobody has what was published of a token any more: begin anew over it; with --token
    #[arg(long, global = true)]
    pub(crate) begin_anew: bool,
    /// In a conflict, show what another machine published, and set aside what is here
    #[arg(long, global = true, conflicts_with = "take_over")]
    pub(crate) give_way: bool,
    /// Encryption of a new volume: plain (sealed is not available yet) [default: plain]
    #[arg(long, global = true, value_name = "KIND")]
    pub(crate) volume: Option<VolumeKind>,
    /// Which drive, where several are mounted: its mountpoint, or anything in it
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) drive: Option<PathBuf>,
    /// Local data that is not uploaded yet [default: ~/.local/state/pxfs]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// Cache; safe to delete [default: ~/.cache/pxfs]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) cache_dir: Option<PathBuf>,
    /// Greatest size of the cache [default: 10GiB]
    #[arg(long, global = true, value_name = "SIZE")]
    pub(crate) cache_size: Option<Size>,
    /// Upload this long after the last change [default: 5s]
    #[arg(long, global = true, value_name = "TIME")]
    pub(crate) commit_idle: Option<Span>,
    /// Upload at the latest this long after the first change [default: 60s]
    #[arg(long, global = true, value_name = "TIME")]
    pub(crate) commit_max: Option<Span>,
    /// The most that the gas of one transaction may cost, in the chain's coins, for example 0.01 [default: by chain and by recent prices, of what is sent unasked]
    #[arg(long, global = true, value_name = "COINS")]
    pub(crate) max_fee: Option<Coins>,
    /// Blocks on top of a transaction before mint, register, upgrade, sync, deploy and dev call say that it is done [default: 0]
    #[arg(long, global = true, value_name = "N")]
    pub(crate) confirmations: Option<u64>,
    /// How long a read may wait for the network [default: 30s]
    #[arg(long, global = true, value_name = "TIME")]
    pub(crate) read_timeout: Option<Span>,
    /// Sync tokens unasked, this long before their deadlines, for example 3d: it costs gas [default: never]
    #[arg(long, global = true, value_name = "TIME")]
    pub(crate) auto_sync: Option<Span>,
    /// Answer the contract's sync requests, too, by the drive's wallet: for a node that no other oracle can read
    #[arg(long, global = true)]
    pub(crate) operate: bool,
    /// How often to poll the chain while a sync or a charge is on its way, else a fifth as often [default: 15s]
    #[arg(long, global = true, value_name = "TIME")]
    pub(crate) refresh: Option<Span>,
    /// ro, allow_other, default_permissions, uid=, gid=, umask=, fsname=, quota-errno=
    #[arg(short, global = true, value_name = "OPT,…", value_delimiter = ',')]
    pub(crate) options: Vec<String>,
    /// error, warn, info, debug, trace, or a filter [default: info of a drive and an oracle, less of other commands]
    #[arg(long, global = true, value_name = "LEVEL")]
    pub(crate) log: Option<String>,
    /// Form of log lines [default: text]
    #[arg(long, global = true, value_name = "FORM")]
    pub(crate) log_format: Option<LogFormat>,
    /// When to use colour [default: auto]
    #[arg(long, global = true, value_name = "WHEN")]
    pub(crate) color: Option<Color>,
    /// Answer in JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Say only errors
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// No progress
    #[arg(long, global = true, action = ArgAction::SetTrue)]
    pub(crate) no_progress: bool,
    /// A file that makes the storage node hang or fail.
    #[arg(long, global = true, hide = true, value_name = "FILE")]
    pub(crate) fault: Option<PathBuf>,
}

impl Options {
    /// The layer that the flags give.
    pub(crate) fn layer(&self) -> Layer {
        Layer {
            rpc_url: self.rpc_url.clone(),
            rpc_url_file: self.rpc_url_file.clone(),
            contract: self.contract.clone(),
            chain_id: self.chain_id,
            wallet: self.wallet.clone(),
            wallet_password_file: self.wallet_password_file.clone(),
            derivation_path: self.derivation_path.clone(),
            signer: self.signer.clone(),
            address: self.address,
            owner: self.owner,
            name_key: self.name_key.clone(),
            node: self.node.clone(),
            node_token_file: self.node_token_file.clone(),
            node_password_file: self.node_password_file.clone(),
            token: self.token.clone(),
            name: self.name.clone(),
            take_over: self.take_over.then_some(true),
            begin_anew: self.begin_anew.then_some(true),
            give_way: self.give_way.then_some(true),
            volume: self.volume,
            state_dir: self.state_dir.clone(),
            cache_dir: self.cache_dir.clone(),
            cache_size: self.cache_size,
            commit_idle: self.commit_idle,
            commit_max: self.commit_max,
            max_fee: self.max_fee,
            confirmations: self.confirmations,
            read_timeout: self.read_timeout,
            auto_sync: self.auto_sync,
            operate: self.operate.then_some(true),
            refresh: self.refresh,
            options: self.options.clone(),
            log: self.log.clone(),
            log_format: self.log_format,
            color: self.color,
            fault: self.fault.clone(),
        }
    }
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
