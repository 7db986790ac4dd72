//! One token contract on its chain, and the account that acts on its tokens.

use std::sync::Arc;

use alloy::primitives::Address;

use super::signing::{Names, needs_wallet};
use crate::chain::ChainError;
use crate::chain::dialect::Dialect;
use crate::chain::embedded;
use crate::chain::endpoint::Endpoint;
use crate::chain::ledger::ContractLedger;
use crate::chain::transact::Transactor;
use crate::chain::wallet::Wallet;
use crate::exit::Failure;
use crate::types::{TokenId, TokenRef};

/// One token contract on its chain, with the account whose tokens are mounted.
pub struct ChainParts {
    /// The connection.
    pub endpoint: Endpoint,
    /// The in-process chain, if it is one.
    pub embedded: Option<embedded::Handle>,
    /// EIP-155 id.
    pub chain_id: u64,
    /// The token contract.
    pub contract: Address,
    /// Its tokens' naming.
    pub called: Called,
    /// The tokens' owner.
    pub owner: Address,
    /// The owner's tokens.
    pub ledger: ContractLedger,
    /// The acting account; `None` if only the address is known, and nothing is signed.
    pub account: Option<Account>,
    /// The name keys.
    pub names: Names,
    /// The oracle operator, if this process is one.
    pub operator: Option<Operator>,
    /// Why a chain with a known id, or a stored list, has not answered yet.
    pub silence: Option<ChainError>,
}

/// The account that acts for the owner.
#[derive(Clone)]
pub struct Account {
    /// Its key, if in this process.
    pub wallet: Option<Arc<Wallet>>,
    /// Its transactions.
    pub transactor: Transactor,
}

/// The oracle operator of the embedded chain.
pub struct Operator {
    /// Its account.
    pub wallet: Wallet,
    /// No earlier block concerns it.
    pub from_block: u64,
}

/// How a contract's tokens are named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Called {
    /// The contract's name, if any.
    pub name: Option<String>,
    /// The contract's index, on which its tokens' inode numbers depend.
    pub place: usize,
    /// The number of contracts; if several, the name precedes the token's number.
    pub count: usize,
}

impl Called {
    /// The name of `id` in commands and as a directory.
    #[must_use]
    pub fn token(&self, id: TokenId) -> String {
        let contract = self.name.clone().filter(|_| self.count > 1);
        TokenRef { contract, id }.to_string()
    }

    /// Whether `token` may belong to this contract.
    #[must_use]
    pub fn is(&self, token: &TokenRef) -> bool {
        self.is_named(token.contract.as_deref())
    }

    /// Whether `name` means this contract; `None` means the only one.
    #[must_use]
    pub fn is_named(&self, name: Option<&str>) -> bool {
        match name {
            None => self.count <= 1,
            name => self.name.as_deref() == name,
        }
    }
}

impl ChainParts {
    /// The dialect: known whenever any of its tokens is.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        self.ledger.known_dialect().unwrap_or(Dialect::PxSync)
    }

    /// The account that acts for the owner, to do `what`.
    ///
    /// # Errors
    /// [`Exit::Usage`](crate::exit::Exit::Usage): only the address is known.
    pub fn account(&self, what: &str) -> Result<&Account, Failure> {
        (self.account.as_ref()).ok_or_else(|| needs_wallet(what, &self.owner))
    }

    /// The signing account, if not the owner's.
    #[must_use]
    pub fn operates(&self) -> Option<Address> {
        let signs = self.account.as_ref()?.transactor.address();
        (signs != self.owner).then_some(signs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_before_a_token_only_where_there_are_several_contracts() {
        let called = |name: Option<&str>, count| Called {
            name: name.map(str::to_owned),
            place: 0,
            count,
        };
        let id = TokenId::from(7);
        for (name, count, text) in [
            (None, 1, "7"),
            (Some("px"), 1, "7"),
            (Some("px"), 2, "px-7"),
        ] {
            let called = called(name, count);
            assert_eq!(called.token(id), text);
            assert!(called.is(&text.parse().unwrap()), "{text}");
        }
        let bare: TokenRef = "7".parse().unwrap();
        assert!(!called(Some("px"), 2).is(&bare));
        assert!(called(Some("px"), 1).is(&"px-7".parse().unwrap()));
        assert!(!called(None, 1).is(&"px-7".parse().unwrap()));
    }
}
