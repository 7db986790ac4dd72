//! Opens what signs for an account, and its tokens' name keys.
//!
//! Invariant: a private key, passphrase or name key comes from a file, credential or variable named
//! for it, never from an argument. If another account owns the tokens, the signing key makes no
//! names, because they would start other volumes.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use alloy::primitives::Address;

use super::key_file;
use crate::chain::ChainError;
use crate::chain::signer::{RemoteSigner, Signer};
use crate::chain::wallet::{Opening, Wallet};
use crate::config::{Config, SignerUrl, wallet_variable};
use crate::exit::{Exit, Failure, fail};
use crate::names::key::NameKey;
use crate::types::TokenId;

/// The source of name keys.
#[derive(Clone, Default)]
pub struct Names {
    /// Given ones, each for the token with its name.
    files: Arc<[NameKey]>,
    /// The wallet that derives the others.
    wallet: Option<Arc<Wallet>>,
}

pub(crate) struct Keys {
    /// `None` for a watched account.
    pub(crate) signer: Option<Signer>,
    /// The key itself, if here.
    pub(crate) wallet: Option<Arc<Wallet>>,
    pub(crate) names: Names,
    pub(crate) owner: Address,
}

impl Names {
    /// The key of `token` on a contract without names; `None` if there is none, or the token's
    /// number is too large.
    #[must_use]
    pub fn of_token(&self, chain_id: u64, contract: &Address, token: TokenId) -> Option<NameKey> {
        let id = token.as_u64()?;
        let of = |secret: &[u8; 32]| NameKey::derive_of_token(secret, chain_id, contract, id);
        match (self.files.first(), &self.wallet) {
            (Some(file), _) => Some(of(&zeroize::Zeroizing::new(file.signing_key().to_bytes()))),
            (None, Some(wallet)) => Some(of(wallet.secret())),
            (None, None) => None,
        }
    }

    /// The key set by a transaction with nonce `index`, given a test for names in use; `None` if
    /// none is left.
    #[must_use]
    pub fn fresh(
        &self,
        chain_id: u64,
        contract: &Address,
        index: u64,
        taken: impl Fn(&str) -> bool,
    ) -> Option<NameKey> {
        if let Some(key) = self.files.iter().find(|key| !taken(&key.name())) {
            return Some(key.clone());
        }
        self.derived(chain_id, contract, index)
    }

    /// Whether keys of names that were not given can be derived.
    #[must_use]
    pub fn derives(&self) -> bool {
        self.wallet.is_some()
    }

    /// Whether any was given.
    #[must_use]
    pub fn any_given(&self) -> bool {
        !self.files.is_empty()
    }

    /// Whether new names belong to their transaction's nonce.
    #[must_use]
    pub fn are_derived(&self) -> bool {
        self.files.is_empty() && self.wallet.is_some()
    }

    /// The key of `name` and its nonce, if derived with one up to `nonce`. Slow.
    #[must_use]
    pub fn find(
        &self,
        name: &str,
        chain_id: u64,
        contract: &Address,
        nonce: u64,
    ) -> Option<(u64, NameKey)> {
        let wallet = self.wallet.as_ref()?;
        NameKey::find(name, wallet.secret(), chain_id, contract, nonce)
    }

    /// The same for many names, deriving each nonce's key once; empty if none are derived.
    #[must_use]
    pub fn find_all(
        &self,
        names: BTreeSet<String>,
        chain_id: u64,
        contract: &Address,
        nonce: u64,
    ) -> HashMap<String, Option<(u64, NameKey)>> {
        match &self.wallet {
            Some(wallet) => NameKey::find_all(names, wallet.secret(), chain_id, contract, nonce),
            None => HashMap::new(),
        }
    }

    /// The key derived with the nonce `index`; `None` if none are derived.
    #[must_use]
    pub fn derived(&self, chain_id: u64, contract: &Address, index: u64) -> Option<NameKey> {
        let wallet = self.wallet.as_ref()?;
        Some(NameKey::derive(wallet.secret(), chain_id, contract, index))
    }

    /// The given key of `name`.
    #[must_use]
    pub fn given(&self, name: &str) -> Option<NameKey> {
        self.files.iter().find(|key| key.name() == name).cloned()
    }
}

/// Opens the signer and keys in `config`.
///
/// # Errors
/// One line each, with its exit code.
pub(crate) async fn open(config: &Config) -> anyhow::Result<Keys> {
    let files = config.name_keys.iter().map(|path| key_file::load(path));
    let files: Result<Arc<[NameKey]>, _> = files.collect();
    let files = files.map_err(|fault| Failure::new(Exit::Usage, fault.to_string()))?;
    if let Some(watched) = config.watched() {
        if config.owner.is_some() {
            fail!(
                Usage,
                "--owner: {watched} is only watched, by its address: leave out one of them"
            );
        }
        let names = Names {
            files,
            wallet: None,
        };
        return Ok(Keys {
            signer: None,
            wallet: None,
            names,
            owner: watched,
        });
    }
    let (signer, wallet) = match config.signer {
        Some(_) => (open_signer(config).await?, None),
        None => {
            let wallet = Arc::new(open_wallet(config)?);
            (Signer::Local(wallet.signer().clone()), Some(wallet))
        }
    };
    let owner = config.owner.unwrap_or(signer.address());
    let own = wallet.clone().filter(|wallet| wallet.address() == owner);
    Ok(Keys {
        signer: Some(signer),
        wallet,
        names: Names { files, wallet: own },
        owner,
    })
}

/// Opens the signer in `config`.
///
/// # Errors
/// As [`open_wallet`]; [`ChainError::Signer`].
pub async fn open_signer(config: &Config) -> anyhow::Result<Signer> {
    match &config.signer {
        None => Ok(Signer::Local(open_wallet(config)?.signer().clone())),
        Some(SignerUrl(url)) => {
            let remote = RemoteSigner::open(url, config.address).await?;
            Ok(Signer::Remote(Arc::new(remote)))
        }
    }
}

/// Opens the wallet in `config`, with the password file if given. Reads a variable only if it is named as
/// the wallet.
///
/// # Errors
/// As [`Wallet::open`]; the password file cannot be read; an address or a signer is named instead.
pub fn open_wallet(config: &Config) -> anyhow::Result<Wallet> {
    if let Some(owner) = config.watched() {
        return Err(needs_wallet("wallet", &owner).into());
    }
    if config.signer.is_some() {
        fail!(
            Usage,
            "wallet: a signer is named in its place, and this needs the key itself: give --wallet FILE"
        );
    }
    let password = match &config.wallet_password_file {
        None => None,
        Some(file) => match std::fs::read_to_string(file) {
            Ok(text) => Some(zeroize::Zeroizing::new(
                text.trim_end_matches(['\n', '\r']).to_owned(),
            )),
            Err(fault) => fail!(Usage, "wallet password file {}: {fault}", file.display()),
        },
    };
    let opening = Opening {
        password: password.as_deref().map(String::as_str),
        derivation_path: config.derivation_path.as_deref(),
    };
    let Some(name) = wallet_variable(&config.wallet) else {
        return Ok(Wallet::open_with(&config.wallet, opening)?);
    };
    match std::env::var(name).map(zeroize::Zeroizing::new) {
        Ok(text) => Ok(Wallet::read(&text, opening, &config.wallet)?),
        Err(_) => Err(ChainError::Wallet(format!(
            "env:{name}: there is no such variable, or it is no text: set it, or give --wallet FILE"
        ))
        .into()),
    }
}

/// The message if `what` needs a wallet.
pub(crate) fn needs_wallet(what: &str, owner: &Address) -> Failure {
    Failure::new(
        Exit::Usage,
        format!(
            "{what}: {owner} is only watched here, by its address: give --wallet in place of --address"
        ),
    )
}
