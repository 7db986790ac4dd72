//! A self-contained state folder: wallet, chain with contracts, node, a first token.
//!
//! Invariant: each step runs only if not done before, so a killed demo resumes, and a second run
//! finds everything.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use alloy::primitives::U256;
use anyhow::Context;

use crate::billing;
use crate::chain::embedded::{self, Genesis};
use crate::chain::endpoint::Endpoint;
use crate::chain::transact::Transactor;
use crate::chain::wallet::Wallet;
use crate::chain::{ChainError, deploy};
use crate::clock::{Clock, SystemClock};
use crate::config::{NodeUrl, RpcUrl};
use crate::context::StateDir;
use crate::contracts::{self, Deployed, Parts};
use crate::durable::{Unnamed, sync_folder};
use crate::exit::fail;
use crate::status::MintAnswer;
use crate::types::TokenId;

/// A thousand coins for each account of a demo.
const FUNDS_WEI: u128 = 1_000 * 1_000_000_000_000_000_000;

/// A demo's paths in its state folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The embedded chain.
    pub chain: PathBuf,
    /// The embedded node.
    pub node: PathBuf,
    /// The wallet.
    pub wallet: PathBuf,
    /// The configuration file for other commands.
    pub config: PathBuf,
}

impl Layout {
    /// In `state`.
    #[must_use]
    pub fn of(state: &Path) -> Self {
        Self {
            chain: state.join("chain"),
            node: state.join("node"),
            wallet: state.join("wallet"),
            config: state.join("config.toml"),
        }
    }

    /// For `--rpc-url`.
    #[must_use]
    pub fn rpc_url(&self) -> RpcUrl {
        RpcUrl::Embedded(self.chain.clone())
    }

    /// For `--node`.
    #[must_use]
    pub fn node_url(&self) -> NodeUrl {
        NodeUrl::Embedded(self.node.clone())
    }
}

/// Creates what is missing of wallet, chain and contracts.
///
/// # Errors
/// The disk refuses, or what is there is damaged.
pub async fn prepare(state_dir: &StateDir, wallet: &Path) -> anyhow::Result<Layout> {
    let layout = Layout::of(state_dir.path());
    refuse_orphaned(state_dir, &layout, wallet)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let wallet = wallet.to_owned();
    let files = layout.clone();
    let wallet = tokio::task::spawn_blocking(move || open_or_create(&wallet)).await??;
    // Before the chain, because only this wallet has its coins.
    state_dir.claim(wallet.address())?;
    let (wallet, operator, handle) = tokio::task::spawn_blocking(move || {
        crate::control::private_folder(&files.chain)?;
        // Before the chain, because the genesis funds it.
        let operator = open_or_create(&contracts::operator_file(&files.chain))?;
        let handle = match embedded::Handle::exists(&files.chain) {
            true => embedded::Handle::open(&files.chain, clock)?,
            false => {
                let funded = [&wallet, &operator]
                    .map(|account| (account.address(), U256::from(FUNDS_WEI)))
                    .to_vec();
                let genesis = Genesis {
                    funded,
                    ..Genesis::default()
                };
                embedded::Handle::create(&files.chain, &genesis, clock)?
            }
        };
        anyhow::Ok((wallet, operator, handle))
    })
    .await??;
    if Deployed::read(&layout.chain)?.is_none() {
        let payer = Transactor::new(Endpoint::embedded(&handle), &wallet)
            .kept_in(&contracts::outbox(state_dir.path()));
        let deployed = deploy::deploy(&payer, &[operator.address()], 1).await?;
        let text = serde_json::to_vec_pretty(&Deployed::of(&deployed))?;
        write(&Deployed::file(&layout.chain), &text)?;
    }
    // The folder is reopened with the other parts.
    tokio::task::spawn_blocking(move || handle.close()).await?;
    if !layout.config.try_exists()? {
        write(&layout.config, config_text().as_bytes())?;
    }
    Ok(layout)
}

/// A new wallet would own nothing here, and could pay for nothing.
fn refuse_orphaned(state_dir: &StateDir, layout: &Layout, wallet: &Path) -> anyhow::Result<()> {
    if wallet.try_exists()?
        || (!embedded::Handle::exists(&layout.chain) && state_dir.volumes()?.is_empty())
    {
        return Ok(());
    }
    let owner = match state_dir.owner()? {
        Some(owner) => format!("wallet {owner}"),
        None => "another wallet".to_owned(),
    };
    fail!(
        Usage,
        "wallet {} is missing, and the state folder {} belongs to {owner}: put the wallet back, or give another --state-dir",
        wallet.display(),
        state_dir.path().display()
    )
}

/// Mints the first token if none was ever minted; a token given away is not replaced.
///
/// # Errors
/// Unknown package, or the chain's.
pub async fn first_token(parts: &Parts, package: u64) -> anyhow::Result<Option<MintAnswer>> {
    let owned = parts.chain.ledger.snapshot().await?;
    if !owned.tokens.is_empty() {
        return Ok(None);
    }
    match parts.chain.ledger.token(TokenId::from(1)).await {
        Err(ChainError::Missing(_)) => Ok(Some(billing::mint(parts, package).await?)),
        Err(fault) => Err(fault.into()),
        Ok(_) => Ok(None),
    }
}

fn config_text() -> &'static str {
    "# Written by `pxfs demo`: what other commands need to find its parts.\n\
     rpc-url = \"embedded:chain\"\n\
     node = \"embedded=node\"\n\
     wallet = \"wallet\"\n\
     volume = \"plain\"\n"
}

fn open_or_create(path: &Path) -> Result<Wallet, ChainError> {
    match path.try_exists() {
        Ok(false) => Wallet::create(path, None),
        _ => Wallet::open(path, None),
    }
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let what = || path.display().to_string();
    let folder = path.parent().with_context(what)?;
    Unnamed::write(folder, bytes, None)
        .and_then(|file| file.rename(path))
        .and_then(|()| sync_folder(folder))
        .with_context(what)
}
