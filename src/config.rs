//! The configuration: what a command was told by its flags, by `PXFS_…` variables, by TOML files,
//! and what it takes where nothing was said. Plain data; nothing here opens anything but the file.
//!
//! Invariant: a key means the same as a flag, as a variable and in a file; flag > variable > file >
//! default, key by key; a key that is not known is an error.

mod contract;
mod env;
mod folders;
mod layer;
mod named;
mod values;

use alloy::primitives::{Address, U256};
use std::path::PathBuf;
use std::time::Duration;

pub use crate::rpc::host_only;
pub use contract::{ChainUrl, ContractAt};
pub use folders::Folders;
pub use layer::{ConfigError, Layer, wallet_variable};
pub use named::NamedToken;
pub use values::{
    Account, Coins, Color, LogFormat, NodeUrl, RpcUrl, SignerUrl, Size, Span, VolumeKind,
};

use crate::types::TokenRef;

/// What a command works with once all layers are merged and the defaults are filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where the durable state lives.
    pub state_dir: PathBuf,
    /// Where bytes are kept that can be fetched again; `None` follows the state folder.
    pub cache_dir: PathBuf,
    /// The cache's cap in bytes.
    pub cache_bytes: u64,
    /// Chain endpoints, the first is asked first; empty when nothing was configured.
    pub rpc: Vec<ChainUrl>,
    /// Token contracts; empty means that of the embedded chain.
    pub contracts: Vec<ContractAt>,
    /// Refuse a chain with another id.
    pub chain_id: Option<u64>,
    /// The wallet file, or `env:NAME` where it is in a variable.
    pub wallet: PathBuf,
    /// The file with the wallet's password.
    pub wallet_password_file: Option<PathBuf>,
    /// Which key of a mnemonic (BIP-44).
    pub derivation_path: Option<String>,
    /// What signs; then the wallet is not looked at.
    pub signer: Option<SignerUrl>,
    /// The account whose tokens are watched, without its wallet; then the wallet is not looked at. With a signer, its
    /// account.
    pub address: Option<Address>,
    /// Whose tokens these are, where the account that signs is not their owner.
    pub owner: Option<Address>,
    /// Files of name keys.
    pub name_keys: Vec<PathBuf>,
    /// Storage nodes; the first is written to. Empty when nothing was configured.
    pub nodes: Vec<NodeUrl>,
    /// The file with a token that the node takes.
    pub node_token_file: Option<PathBuf>,
    /// The file with the node's password.
    pub node_password_file: Option<PathBuf>,
    /// Only these tokens; empty means all.
    pub tokens: Vec<TokenRef>,
    /// The names of tokens that are watched, of contracts that keep none.
    pub names: Vec<NamedToken>,
    /// What a token without a volume gets.
    pub volume: VolumeKind,
    /// Nobody has said which.
    pub volume_is_default: bool,
    /// Write although another machine did a moment ago; in a conflict, publish what is here.
    pub take_over: bool,
    /// Begin anew where nobody has what was published; of one token alone.
    pub begin_anew: bool,
    /// In a conflict, take what another machine published.
    pub give_way: bool,
    /// A commit begins this long after the last change.
    pub commit_idle: Duration,
    /// A commit begins at the latest this long after the first change.
    pub commit_max: Duration,
    /// The most that the gas of one transaction may cost, in wei; `None` for no bound.
    pub max_fee: Option<U256>,
    /// Blocks on top of a transaction before a command says that it is done.
    pub confirmations: u64,
    /// How long a read may wait for the network.
    pub read_timeout: Duration,
    /// Sync tokens unasked this long before their deadlines.
    pub auto_sync: Option<Duration>,
    /// Be the oracle's operator of the contracts, by the wallet.
    pub operate: bool,
    /// Between two looks at a chain over HTTP while something is awaited of it; five times that lies between others.
    pub refresh: Duration,
    /// The words of `-o`.
    pub options: Vec<String>,
    /// A file that makes the storage node hang or fail (tests).
    pub fault: Option<PathBuf>,
}

/// Cap of the cache where nothing is said: 10 GiB.
const CACHE_BYTES: u64 = 10 << 30;

impl Config {
    /// Fills what no layer says. `layer` is the merged one.
    #[must_use]
    pub fn resolve(layer: Layer, folders: &Folders) -> Self {
        let state_dir = layer
            .state_dir
            .clone()
            .unwrap_or_else(|| folders.state.clone());
        let own_state = layer.state_dir.is_some();
        let cache_dir = layer.cache_dir.unwrap_or_else(|| {
            if own_state {
                state_dir.join("cache")
            } else {
                folders.cache.clone()
            }
        });
        let wallet = layer
            .wallet
            .or_else(|| folders.credential("wallet"))
            .unwrap_or_else(|| state_dir.join("wallet"));
        Self {
            cache_dir,
            wallet,
            cache_bytes: layer.cache_size.map_or(CACHE_BYTES, |size| size.0),
            rpc: layer.rpc_url,
            contracts: layer.contract,
            chain_id: layer.chain_id,
            wallet_password_file: layer.wallet_password_file,
            derivation_path: layer.derivation_path,
            signer: layer.signer,
            address: layer.address.map(|account| account.0),
            owner: layer.owner.map(|account| account.0),
            name_keys: layer.name_key,
            nodes: layer.node,
            node_token_file: layer.node_token_file,
            node_password_file: layer.node_password_file,
            tokens: layer.token,
            names: layer.name,
            take_over: layer.take_over.unwrap_or(false),
            begin_anew: layer.begin_anew.unwrap_or(false),
            give_way: layer.give_way.unwrap_or(false),
            // Sealed as soon as there are sealed volumes.
            volume: layer.volume.unwrap_or(VolumeKind::Plain),
            volume_is_default: layer.volume.is_none(),
            commit_idle: layer
                .commit_idle
                .map_or(Duration::from_secs(5), |span| span.0),
            commit_max: layer
                .commit_max
                .map_or(Duration::from_secs(60), |span| span.0),
            max_fee: layer.max_fee.map(|most| most.0),
            confirmations: layer.confirmations.unwrap_or(0),
            read_timeout: layer
                .read_timeout
                .map_or(Duration::from_secs(30), |span| span.0),
            auto_sync: layer.auto_sync.map(|span| span.0),
            operate: layer.operate.unwrap_or(false),
            refresh: layer.refresh.map_or(Duration::from_secs(15), |span| {
                span.0.max(Duration::from_secs(1))
            }),
            options: layer.options,
            fault: layer.fault,
            state_dir,
        }
    }

    /// The account that is only watched: nothing can be signed for it.
    #[must_use]
    pub fn watched(&self) -> Option<Address> {
        self.address.filter(|_| self.signer.is_none())
    }
}

#[cfg(test)]
mod tests;
