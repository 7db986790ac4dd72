//! The login for a node. BTFS: a token for a day, void after the node restarts; IPFS with
//! `API.Authorizations`: its bearer token.
//!
//! Invariant: password and token are never shown, not even by `Debug`.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use zeroize::Zeroizing;

use super::Dialect;

/// How to log in.
#[derive(Clone, Default)]
pub enum Login {
    /// Not at all: the node must be open to us.
    #[default]
    Open,
    /// Bearer token file that somebody renews: read again when the node refuses.
    TokenFile(PathBuf),
    /// Password file of the node.
    PasswordFile(PathBuf),
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "Open",
            Self::TokenFile(_) => "TokenFile",
            Self::PasswordFile(_) => "PasswordFile",
        })
    }
}

impl Login {
    /// The first line of its file; the error is one line, with the file's name.
    pub(super) fn secret(&self, dialect: Dialect) -> Result<Zeroizing<String>, String> {
        let (what, file) = match self {
            Self::Open => {
                let option = match dialect {
                    Dialect::Btfs => "--node-password-file",
                    Dialect::Ipfs => "--node-token-file",
                };
                return Err(format!("the node wants a login: give {option}"));
            }
            Self::TokenFile(file) => ("--node-token-file", file),
            Self::PasswordFile(file) => ("--node-password-file", file),
        };
        let named = |why: &str| format!("{what} {}: {why}", file.display());
        let text = std::fs::read_to_string(file).map_err(|fault| named(&fault.to_string()))?;
        let text = Zeroizing::new(text);
        match text.lines().next().map(str::trim) {
            Some(line) if !line.is_empty() => Ok(Zeroizing::new(line.to_owned())),
            _ => Err(named("is empty")),
        }
    }
}

#[derive(Default)]
pub(super) struct Token {
    current: Mutex<Option<Zeroizing<String>>>,
    /// One login at a time, because many calls fail at once when a token expires.
    pub(super) renewing: tokio::sync::Mutex<()>,
}

impl Token {
    pub(super) fn get(&self) -> Option<Zeroizing<String>> {
        self.lock().clone()
    }

    pub(super) fn set(&self, token: Zeroizing<String>) {
        *self.lock() = Some(token);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Zeroizing<String>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
