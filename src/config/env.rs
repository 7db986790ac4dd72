//! The layer of `PXFS_…` variables.
//!
//! Invariant: a key's variable is `PXFS_` and the flag's name in upper case with underscores;
//! commas or spaces separate lists.

use std::ffi::OsString;
use std::str::FromStr;

use super::layer::{ConfigError, Layer, TORN};

impl Layer {
    /// Reads the variables by `get`. An empty variable counts as unset.
    ///
    /// # Errors
    /// [`ConfigError::Variable`], without the value, which may be secret.
    pub fn from_env(get: impl Fn(&str) -> Option<OsString>) -> Result<Self, ConfigError> {
        let env = Env { get };
        let layer = Self {
            rpc_url: env.many("PXFS_RPC_URL")?,
            rpc_url_file: env.one("PXFS_RPC_URL_FILE")?,
            contract: env.many("PXFS_CONTRACT")?,
            chain_id: env.number("PXFS_CHAIN_ID")?,
            wallet: env.one("PXFS_WALLET")?,
            wallet_password_file: env.one("PXFS_WALLET_PASSWORD_FILE")?,
            derivation_path: env.one("PXFS_DERIVATION_PATH")?,
            signer: env.one("PXFS_SIGNER")?,
            address: env.one("PXFS_ADDRESS")?,
            owner: env.one("PXFS_OWNER")?,
            name_key: env.many("PXFS_NAME_KEY")?,
            node: env.many("PXFS_NODE")?,
            node_token_file: env.one("PXFS_NODE_TOKEN_FILE")?,
            node_password_file: env.one("PXFS_NODE_PASSWORD_FILE")?,
            token: env.many("PXFS_TOKEN")?,
            name: env.many("PXFS_NAME")?,
            take_over: env.flag("PXFS_TAKE_OVER")?,
            // Only on the command line.
            begin_anew: None,
            give_way: env.flag("PXFS_GIVE_WAY")?,
            volume: env.one("PXFS_VOLUME")?,
            state_dir: env.one("PXFS_STATE_DIR")?,
            cache_dir: env.one("PXFS_CACHE_DIR")?,
            cache_size: env.one("PXFS_CACHE_SIZE")?,
            commit_idle: env.one("PXFS_COMMIT_IDLE")?,
            commit_max: env.one("PXFS_COMMIT_MAX")?,
            max_fee: env.one("PXFS_MAX_FEE")?,
            confirmations: env.number("PXFS_CONFIRMATIONS")?,
            read_timeout: env.one("PXFS_READ_TIMEOUT")?,
            auto_sync: env.one("PXFS_AUTO_SYNC")?,
            operate: env.flag("PXFS_OPERATE")?,
            refresh: env.one("PXFS_REFRESH")?,
            options: env.many("PXFS_OPTIONS")?,
            log: env.one("PXFS_LOG")?,
            log_format: env.one("PXFS_LOG_FORMAT")?,
            color: env.one("PXFS_COLOR")?,
            fault: env.one("PXFS_FAULT")?,
        };
        match layer.is_torn() {
            true if layer.address.is_none() => Err(refuse("PXFS_SIGNER", TORN)),
            true => Err(refuse("PXFS_ADDRESS", TORN)),
            false => Ok(layer),
        }
    }
}

struct Env<F> {
    get: F,
}

impl<F: Fn(&str) -> Option<OsString>> Env<F> {
    fn text(&self, name: &str) -> Result<Option<String>, ConfigError> {
        match (self.get)(name) {
            None => Ok(None),
            Some(value) if value.is_empty() => Ok(None),
            Some(value) => value
                .into_string()
                .map(Some)
                .map_err(|_| refuse(name, "is not UTF-8")),
        }
    }

    fn one<T: FromStr>(&self, name: &str) -> Result<Option<T>, ConfigError>
    where
        T::Err: ToString,
    {
        self.text(name)?
            .map(|text| {
                text.parse()
                    .map_err(|why: T::Err| refuse(name, &why.to_string()))
            })
            .transpose()
    }

    fn number(&self, name: &str) -> Result<Option<u64>, ConfigError> {
        self.text(name)?
            .map(|text| text.parse().map_err(|_| refuse(name, "is not a number")))
            .transpose()
    }

    fn flag(&self, name: &str) -> Result<Option<bool>, ConfigError> {
        match self.text(name)?.as_deref() {
            None => Ok(None),
            Some("1" | "true" | "yes") => Ok(Some(true)),
            Some("0" | "false" | "no") => Ok(Some(false)),
            Some(_) => Err(refuse(name, "is neither true nor false")),
        }
    }

    fn many<T: FromStr>(&self, name: &str) -> Result<Vec<T>, ConfigError>
    where
        T::Err: ToString,
    {
        let text = self.text(name)?.unwrap_or_default();
        text.split([',', ' '])
            .filter(|part| !part.is_empty())
            .map(|part| {
                part.parse()
                    .map_err(|why: T::Err| refuse(name, &why.to_string()))
            })
            .collect()
    }
}

fn refuse(name: &str, why: &str) -> ConfigError {
    ConfigError::Variable(name.to_owned(), why.to_owned())
}
