//! The configuration: flags, `PXFS_…` variables, TOML files, and defaults. Plain data; only the
//! file is opened.
//!
//! Invariant: a key means the same as a flag, as a variable and in a file; flag > variable > file >
//! default, key by key; an unknown key is an error.

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

/// The merged configuration with defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The state folder.
    pub state_dir: PathBuf,
    /// The cache folder.
    pub cache_dir: PathBuf,
    /// The cache's limit, bytes.
    pub cache_bytes: u64,
    /// Chain endpoints, in order of preference; empty if not configured.
    pub rpc: Vec<ChainUrl>,
    /// Token contracts; empty means the embedded chain's.
    pub contracts: Vec<ContractAt>,
    /// Any other chain is refused.
    pub chain_id: Option<u64>,
    /// The wallet file, or `env:NAME` for a variable.
    pub wallet: PathBuf,
    /// The file with the wallet's password.
    pub wallet_password_file: Option<PathBuf>,
    /// The key of a mnemonic (BIP-44).
    pub derivation_path: Option<String>,
    /// Replaces the wallet.
    pub signer: Option<SignerUrl>,
    /// The watched account, instead of a wallet; with a signer, its account.
    pub address: Option<Address>,
    /// The tokens' owner, if another account signs.
    pub owner: Option<Address>,
    /// Name key files.
    pub name_keys: Vec<PathBuf>,
    /// Storage nodes; the first is written to. Empty if not configured.
    pub nodes: Vec<NodeUrl>,
    /// Bearer token file for the node.
    pub node_token_file: Option<PathBuf>,
    /// Password file for the node.
    pub node_password_file: Option<PathBuf>,
    /// Only these tokens; empty means all.
    pub tokens: Vec<TokenRef>,
    /// Names of watched tokens, for contracts without names.
    pub names: Vec<NamedToken>,
    /// The kind of a new volume.
    pub volume: VolumeKind,
    /// The kind was not configured.
    pub volume_is_default: bool,
    /// Write despite another machine's recent commit; in a conflict, publish this machine's files.
    pub take_over: bool,
    /// If nobody has the published files any more, start over; for one token only.
    pub begin_anew: bool,
    /// In a conflict, take the other machine's files.
    pub give_way: bool,
    /// A commit begins this long after the last change.
    pub commit_idle: Duration,
    /// A commit begins at the latest this long after the first change.
    pub commit_max: Duration,
    /// The most for one transaction's gas, wei; `None` for no limit.
    pub max_fee: Option<U256>,
    /// Blocks on top before a command reports success.
    pub confirmations: u64,
    /// How long a read may wait for the network.
    pub read_timeout: Duration,
    /// Sync tokens automatically this long before their deadlines.
    pub auto_sync: Option<Duration>,
    /// Run the contracts' oracle operator with the wallet.
    pub operate: bool,
    /// Between two checks of a chain over HTTP while something is pending; else five times that.
    pub refresh: Duration,
    /// The words of `-o`.
    pub options: Vec<String>,
    /// A file that makes the storage node hang or fail (tests).
    pub fault: Option<PathBuf>,
}

/// The default cache limit: 10 GiB.
const CACHE_BYTES: u64 = 10 << 30;

impl Config {
    /// Fills the defaults into the merged `layer`.
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
            // Sealed once sealed volumes exist.
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

    /// The watched account, for which nothing can be signed.
    #[must_use]
    pub fn watched(&self) -> Option<Address> {
        self.address.filter(|_| self.signer.is_none())
    }
}

#[cfg(test)]
mod tests;
