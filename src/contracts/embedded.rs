//! What lies beside an embedded chain: its contracts, and its oracle operator's key.

use std::path::{Path, PathBuf};

use alloy::primitives::Address;
use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::chain::deploy::Deployment;
use crate::exit::fail;

/// The contracts of an embedded chain: `contracts.json` in its folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deployed {
    /// The file's version, 1.
    pub version: u8,
    /// The token contract.
    pub contract: Address,
    /// The forwarder of the oracle's reports.
    pub forwarder: Address,
    /// The token contract's block.
    pub block: u64,
}

impl Deployed {
    /// From a deployment.
    #[must_use]
    pub fn of(deployment: &Deployment) -> Self {
        Self {
            version: 1,
            contract: deployment.contract,
            forwarder: deployment.forwarder,
            block: deployment.block,
        }
    }

    /// The file's path in a chain's folder.
    #[must_use]
    pub fn file(chain: &Path) -> PathBuf {
        chain.join("contracts.json")
    }

    /// The contracts of `chain`; `None` before a deployment.
    ///
    /// # Errors
    /// The file is damaged.
    pub fn read(chain: &Path) -> anyhow::Result<Option<Self>> {
        let file = Self::file(chain);
        let bytes = match std::fs::read(&file) {
            Err(fault) if fault.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.with_context(|| file.display().to_string())?,
        };
        let what = || format!("{}: damaged", file.display());
        let read: Self = serde_json::from_slice(&bytes).with_context(what)?;
        match read.version {
            1 => Ok(Some(read)),
            other => fail!(
                Failure,
                "{}: version {other} is not known: use a newer pxfs",
                file.display()
            ),
        }
    }
}

/// The outbox in a state folder.
#[must_use]
pub fn outbox(state: &Path) -> PathBuf {
    state.join("outbox")
}

/// The operator's key file in an embedded chain's folder.
#[must_use]
pub fn operator_file(chain: &Path) -> PathBuf {
    chain.join("operator")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A changed form leaves earlier versions' chains without contracts.
    #[test]
    fn contracts_are_found_again_by_every_later_version() {
        let golden = include_str!("../../tests/golden/state/contracts.json");
        let contracts = Deployed {
            version: 1,
            contract: "0x5fbdb2315678afecb367f032d93f642f64180aa3"
                .parse()
                .unwrap(),
            forwarder: "0xe7f1725e7734ce288f8367e1bb143e90bb3f0512"
                .parse()
                .unwrap(),
            block: 2,
        };
        assert_eq!(
            serde_json::to_string_pretty(&contracts).unwrap(),
            golden.trim_end()
        );
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(Deployed::file(dir.path()), golden).unwrap();
        assert_eq!(Deployed::read(dir.path()).unwrap(), Some(contracts));
    }

    #[test]
    fn a_damaged_list_of_contracts_is_no_missing_one() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Deployed::read(dir.path()).unwrap(), None);
        std::fs::write(Deployed::file(dir.path()), "{").unwrap();
        assert!(Deployed::read(dir.path()).is_err());
    }
}
