//! One layer of the configuration (file, variables or flags), and merging.
//!
//! Invariant: an absent key, or an empty list, says nothing.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer};

use super::contract::{ChainUrl, ContractAt};
use super::named::NamedToken;
use super::values::{
    Account, Coins, Color, LogFormat, NodeUrl, RpcUrl, SignerUrl, Size, Span, VolumeKind,
};
use crate::types::TokenRef;

/// One source. The file's keys are the flags' names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Layer {
    /// Chain endpoints.
    #[serde(deserialize_with = "one_or_many")]
    pub rpc_url: Vec<ChainUrl>,
    /// A file with one chain endpoint a line.
    pub rpc_url_file: Option<PathBuf>,
    /// Token contracts.
    #[serde(deserialize_with = "one_or_many")]
    pub contract: Vec<ContractAt>,
    /// The only accepted chain id.
    pub chain_id: Option<u64>,
    /// Wallet file.
    pub wallet: Option<PathBuf>,
    /// The file with its password.
    pub wallet_password_file: Option<PathBuf>,
    /// Which key of a mnemonic.
    pub derivation_path: Option<String>,
    /// The signer that replaces the wallet file.
    pub signer: Option<SignerUrl>,
    /// The watched account, instead of a wallet; with a signer, its account.
    pub address: Option<Account>,
    /// The tokens' owner, if an approved account signs.
    pub owner: Option<Account>,
    /// Files of name keys.
    #[serde(deserialize_with = "one_or_many")]
    pub name_key: Vec<PathBuf>,
    /// Storage nodes.
    #[serde(deserialize_with = "one_or_many")]
    pub node: Vec<NodeUrl>,
    /// Bearer token file for the node.
    pub node_token_file: Option<PathBuf>,
    /// Password file for the node.
    pub node_password_file: Option<PathBuf>,
    /// Mount only these.
    #[serde(deserialize_with = "one_or_many")]
    pub token: Vec<TokenRef>,
    /// Names of watched tokens, for contracts without names.
    #[serde(deserialize_with = "one_or_many")]
    pub name: Vec<NamedToken>,
    /// Write despite another machine's recent commit.
    pub take_over: Option<bool>,
    /// If nobody has the published files any more, start over; only on the command line.
    #[serde(skip)]
    pub begin_anew: Option<bool>,
    /// In a conflict, take the other machine's files.
    pub give_way: Option<bool>,
    /// Kind of a new volume.
    pub volume: Option<VolumeKind>,
    /// State folder.
    pub state_dir: Option<PathBuf>,
    /// Cache folder.
    pub cache_dir: Option<PathBuf>,
    /// Cap of the cache.
    pub cache_size: Option<Size>,
    /// Idle time before a commit.
    pub commit_idle: Option<Span>,
    /// Longest time before a commit.
    pub commit_max: Option<Span>,
    /// The most for one transaction's gas.
    pub max_fee: Option<Coins>,
    /// Blocks on top before success is reported.
    pub confirmations: Option<u64>,
    /// Deadline of a network read.
    pub read_timeout: Option<Span>,
    /// Sync automatically this long before a deadline.
    pub auto_sync: Option<Span>,
    /// Be the oracle's operator.
    pub operate: Option<bool>,
    /// Between two checks of the chain.
    pub refresh: Option<Span>,
    /// Words of `-o`.
    #[serde(deserialize_with = "one_or_many")]
    pub options: Vec<String>,
    /// Log level or filter.
    pub log: Option<String>,
    /// Form of log lines.
    pub log_format: Option<LogFormat>,
    /// Use of colour.
    pub color: Option<Color>,
    /// Fault file (tests).
    #[serde(skip)]
    pub fault: Option<PathBuf>,
}

/// The error for a wallet beside an address or signer.
pub(super) const TORN: &str = "an address is watched without its wallet, and a signer stands in its place: leave out the wallet, or the address and the signer";

/// Why a layer cannot be used: one line.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    /// The file cannot be read: path, reason.
    #[error("config {0}: {1}")]
    Unreadable(PathBuf, String),
    /// The file is invalid: path, line (from 1) and reason.
    #[error("config {0}, line {1}: {2}")]
    Invalid(PathBuf, usize, String),
    /// A variable is invalid: name, reason.
    #[error("{0}: {1}")]
    Variable(String, String),
}

/// The variable in `env:NAME`, which replaces a wallet file.
#[must_use]
pub fn wallet_variable(wallet: &Path) -> Option<&str> {
    wallet.to_str()?.strip_prefix("env:")
}

impl Layer {
    /// Reads the TOML file at `path`; relative paths are relative to its folder.
    ///
    /// # Errors
    /// [`ConfigError::Unreadable`] and [`ConfigError::Invalid`].
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let unreadable = |why: String| ConfigError::Unreadable(path.to_owned(), why);
        let text = std::fs::read(path).map_err(|fault| unreadable(fault.to_string()))?;
        let text = String::from_utf8(text).map_err(|_| unreadable("is not UTF-8 text".into()))?;
        let mut layer = Self::parse(&text)
            .map_err(|(line, why)| ConfigError::Invalid(path.to_owned(), line, why))?;
        let folder = std::path::absolute(path).ok();
        if let Some(folder) = folder.as_deref().and_then(Path::parent) {
            layer.resolve_paths(folder);
        }
        Ok(layer)
    }

    /// Parses TOML; an error has its line (from 1) and a reason.
    fn parse(text: &str) -> Result<Self, (usize, String)> {
        let layer: Self = toml::from_str(text).map_err(|fault| {
            let at = fault.span().map_or(0, |span| span.start.min(text.len()));
            let line = text
                .get(..at)
                .map_or(1, |head| head.matches('\n').count() + 1);
            (line, fault.message().replace('\n', " "))
        })?;
        if layer.is_torn() {
            let is_it = |line: &str| {
                let line = line.trim_start();
                line.starts_with("address") || line.starts_with("signer")
            };
            let line = text.lines().position(is_it).map_or(0, |index| index + 1);
            return Err((line, TORN.to_owned()));
        }
        Ok(layer)
    }

    /// Whether it names a wallet beside an address or a signer, so that the owner is ambiguous.
    pub(super) fn is_torn(&self) -> bool {
        self.names_wallet() && (self.address.is_some() || self.signer.is_some())
    }

    fn names_wallet(&self) -> bool {
        self.wallet.is_some() || self.wallet_password_file.is_some()
    }

    /// Makes paths absolute, from `folder`.
    pub fn resolve_paths(&mut self, folder: &Path) {
        let paths = [
            &mut self.rpc_url_file,
            &mut self.wallet,
            &mut self.wallet_password_file,
            &mut self.node_token_file,
            &mut self.node_password_file,
            &mut self.state_dir,
            &mut self.cache_dir,
            &mut self.fault,
        ];
        let is_file = |path: &&mut PathBuf| wallet_variable(path).is_none();
        let keys = self.name_key.iter_mut();
        for path in paths.into_iter().flatten().filter(is_file).chain(keys) {
            *path = folder.join(&*path);
        }
        for url in &mut self.rpc_url {
            if let RpcUrl::Embedded(path) = &mut url.url {
                *path = folder.join(&*path);
            }
        }
        for url in &mut self.node {
            if let NodeUrl::Embedded(path) = url {
                *path = folder.join(&*path);
            }
        }
    }

    /// This layer over `below`, key by key; lists are taken whole.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        fn list<T>(upper: Vec<T>, lower: Vec<T>) -> Vec<T> {
            if upper.is_empty() { lower } else { upper }
        }
        let wallet_here = self.names_wallet();
        // Endpoints and their file are one key.
        let urls_here = !self.rpc_url.is_empty() || self.rpc_url_file.is_some();
        let (rpc_url, rpc_url_file) = if urls_here {
            (self.rpc_url, self.rpc_url_file)
        } else {
            (below.rpc_url, below.rpc_url_file)
        };
        // So are wallet, signer, and address.
        let (wallet_below, file_below) = if self.address.is_some() || self.signer.is_some() {
            (None, None)
        } else {
            (below.wallet, below.wallet_password_file)
        };
        let signer_below = if wallet_here || self.address.is_some() {
            None
        } else {
            below.signer
        };
        let address_below = if wallet_here || self.signer.is_some() {
            None
        } else {
            below.address
        };
        Self {
            rpc_url,
            rpc_url_file,
            contract: list(self.contract, below.contract),
            chain_id: self.chain_id.or(below.chain_id),
            wallet: self.wallet.or(wallet_below),
            wallet_password_file: self.wallet_password_file.or(file_below),
            derivation_path: self.derivation_path.or(below.derivation_path),
            signer: self.signer.or(signer_below),
            address: self.address.or(address_below),
            owner: self.owner.or(below.owner),
            name_key: list(self.name_key, below.name_key),
            node: list(self.node, below.node),
            node_token_file: self.node_token_file.or(below.node_token_file),
            node_password_file: self.node_password_file.or(below.node_password_file),
            token: list(self.token, below.token),
            name: list(self.name, below.name),
            take_over: self.take_over.or(below.take_over),
            begin_anew: self.begin_anew.or(below.begin_anew),
            give_way: self.give_way.or(below.give_way),
            volume: self.volume.or(below.volume),
            state_dir: self.state_dir.or(below.state_dir),
            cache_dir: self.cache_dir.or(below.cache_dir),
            cache_size: self.cache_size.or(below.cache_size),
            commit_idle: self.commit_idle.or(below.commit_idle),
            commit_max: self.commit_max.or(below.commit_max),
            max_fee: self.max_fee.or(below.max_fee),
            confirmations: self.confirmations.or(below.confirmations),
            read_timeout: self.read_timeout.or(below.read_timeout),
            auto_sync: self.auto_sync.or(below.auto_sync),
            operate: self.operate.or(below.operate),
            refresh: self.refresh.or(below.refresh),
            options: list(self.options, below.options),
            log: self.log.or(below.log),
            log_format: self.log_format.or(below.log_format),
            color: self.color.or(below.color),
            fault: self.fault.or(below.fault),
        }
    }

    /// Reads the endpoints' file, if named, into `rpc_url`.
    ///
    /// # Errors
    /// [`ConfigError::Unreadable`] and [`ConfigError::Invalid`]; never with the URL itself.
    pub fn read_url_file(&mut self) -> Result<(), ConfigError> {
        let Some(path) = self.rpc_url_file.take() else {
            return Ok(());
        };
        let text = std::fs::read_to_string(&path)
            .map_err(|fault| ConfigError::Unreadable(path.clone(), fault.to_string()))?;
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let url = line
                .parse()
                .map_err(|why| ConfigError::Invalid(path.clone(), index + 1, why))?;
            self.rpc_url.push(url);
        }
        Ok(())
    }
}

fn one_or_many<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: std::str::FromStr,
    T::Err: ToString,
{
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Text {
        Number(u64),
        Text(String),
    }
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a string or a list of strings")]
    enum Form {
        One(Text),
        Many(Vec<Text>),
    }
    let texts = match Form::deserialize(deserializer)? {
        Form::One(text) => vec![text],
        Form::Many(texts) => texts,
    };
    texts
        .into_iter()
        .map(|text| match text {
            Text::Number(number) => number.to_string(),
            Text::Text(text) => text,
        })
        .map(|text| {
            text.parse()
                .map_err(|why: T::Err| serde::de::Error::custom(why.to_string()))
        })
        .collect()
}
