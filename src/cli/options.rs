//! Options of every command, each also a configuration key and a variable.
//!
//! Invariant: names here are an interface.

use std::path::PathBuf;

use clap::{ArgAction, Args};

use crate::config::{
    Account, ChainUrl, Coins, Color, ContractAt, Layer, LogFormat, NamedToken, NodeUrl, SignerUrl,
    Size, Span, VolumeKind,
};
use crate::types::TokenRef;

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
    /// Signer to use instead of a wallet: clef or another, http://…
    #[arg(
        long,
        global = true,
        value_name = "URL",
        conflicts_with_all = ["wallet", "wallet_password_file"]
    )]
    pub(crate) signer: Option<SignerUrl>,
    /// Mount this account's tokens without a wallet: read-only, or writable with their --name-key; with --signer,
    /// the account that signs
    #[arg(
        long,
        global = true,
        value_name = "0x…",
        conflicts_with_all = ["wallet", "wallet_password_file"]
    )]
    pub(crate) address: Option<Account>,
    /// Owner of the tokens, if the wallet or signer only pays (the owner must have approved it); needs --name-key
    #[arg(long, global = true, value_name = "0x…")]
    pub(crate) owner: Option<Account>,
    /// File with 64 hex digits: a token's name key, instead of the wallet's; may be repeated
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) name_key: Vec<PathBuf>,
    /// Storage node: btfs=URL, ipfs=URL or embedded=FOLDER; repeat for more to read from, also gateway=URL
    #[arg(long, global = true, value_name = "KIND=URL")]
    pub(crate) node: Vec<NodeUrl>,
    /// Bearer token file for the node
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
    /// With --address, if the contract stores no names: a token's IPNS name; may be repeated
    #[arg(id = "named", long = "name", global = true, value_name = "TOKEN=k51…")]
    pub(crate) name: Vec<NamedToken>,
    /// Write even if another machine wrote in the last 10 minutes; in a conflict, keep this machine's files
    #[arg(long, global = true)]
    pub(crate) take_over: bool,
    /// If no node has a token's published files any more: give them up and start over; needs --token
    #[arg(long, global = true)]
    pub(crate) begin_anew: bool,
    /// In a conflict, keep the other machine's files; this machine's are set aside
    #[arg(long, global = true, conflicts_with = "take_over")]
    pub(crate) give_way: bool,
    /// Encryption of a new volume: plain (sealed is not available yet) [default: plain]
    #[arg(long, global = true, value_name = "KIND")]
    pub(crate) volume: Option<VolumeKind>,
    /// Which drive, if several are mounted: its mountpoint, or a path in it
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
    /// The most that the gas of one transaction may cost, in the chain's currency, for example 0.01 [default: from recent prices, for transactions that nobody confirmed]
    #[arg(long, global = true, value_name = "COINS")]
    pub(crate) max_fee: Option<Coins>,
    /// Blocks on top of a transaction before mint, register, upgrade, sync, deploy and dev call report success [default: 0]
    #[arg(long, global = true, value_name = "N")]
    pub(crate) confirmations: Option<u64>,
    /// How long a read may wait for the network [default: 30s]
    #[arg(long, global = true, value_name = "TIME")]
    pub(crate) read_timeout: Option<Span>,
    /// Sync tokens automatically this long before their deadlines, for example 3d (costs gas) [default: never]
    #[arg(long, global = true, value_name = "TIME")]
    pub(crate) auto_sync: Option<Span>,
    /// Also answer the contract's sync requests, with the drive's wallet: for a node that no other oracle can read
    #[arg(long, global = true)]
    pub(crate) operate: bool,
    /// How often to poll the chain while a sync or a charge is on its way, else a fifth as often [default: 15s]
    #[arg(long, global = true, value_name = "TIME")]
    pub(crate) refresh: Option<Span>,
    /// ro, allow_other, default_permissions, uid=, gid=, umask=, fsname=, quota-errno=
    #[arg(short, global = true, value_name = "OPT,…", value_delimiter = ',')]
    pub(crate) options: Vec<String>,
    /// error, warn, info, debug, trace, or a filter [default: info for mount, demo and oracle, less for others]
    #[arg(long, global = true, value_name = "LEVEL")]
    pub(crate) log: Option<String>,
    /// Format of log lines: text or json [default: text]
    #[arg(long, global = true, value_name = "FORM")]
    pub(crate) log_format: Option<LogFormat>,
    /// When to use colour: auto, always or never [default: auto]
    #[arg(long, global = true, value_name = "WHEN")]
    pub(crate) color: Option<Color>,
    /// Answer in JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print only errors
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Show no progress bars
    #[arg(long, global = true, action = ArgAction::SetTrue)]
    pub(crate) no_progress: bool,
    /// A file that makes the storage node hang or fail (tests).
    #[arg(long, global = true, hide = true, value_name = "FILE")]
    pub(crate) fault: Option<PathBuf>,
}

impl Options {
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
