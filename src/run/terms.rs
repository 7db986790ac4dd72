//! Holds a request to what it was asked for: chain, contract, account, price, cap.
//!
//! Invariant: what names another chain, contract or account than the parts have is refused before anything
//! is read for it. Called by `desk`, and by commands that have no daemon.

use super::parts::{ChainParts, Parts};
use crate::cli::exit::fail;
use crate::control::Terms;

impl Parts {
    /// These parts for a request under `terms`: its cap and its price are kept to. They run no oracle.
    ///
    /// # Errors
    /// They are of another chain, contract or account.
    pub fn under(&self, terms: &Terms) -> anyhow::Result<Self> {
        self.check(terms)?;
        let chain = &self.chain;
        let max_fee = terms.max_fee.or(self.config.max_fee);
        Ok(Self {
            config: self.config.clone(),
            clock: self.clock.clone(),
            node: self.node.clone(),
            chain: ChainParts {
                endpoint: chain.endpoint.clone(),
                embedded: chain.embedded.clone(),
                chain_id: chain.chain_id,
                contract: chain.contract,
                wallet: chain.wallet.clone(),
                ledger: chain.ledger.clone(),
                dialect: chain.dialect,
                transactor: (chain.transactor.clone())
                    .with_gas_cost_max(max_fee)
                    .with_price(terms.price),
                operator: None,
            },
        })
    }

    fn check(&self, terms: &Terms) -> anyhow::Result<()> {
        let chain = &self.chain;
        let drive = format!(
            "what the state folder {} is used with",
            self.config.state_dir.display()
        );
        let fix = "leave it out, or name another state folder by --state-dir";
        if let Some(asked) = terms.chain_id.filter(|asked| *asked != chain.chain_id) {
            let has = chain.chain_id;
            fail!(
                Chain,
                "--chain-id asks for {asked}, and {drive} is chain {has}: {fix}"
            );
        }
        let known: Vec<_> = self.config.rpc.iter().map(Terms::digest).collect();
        if terms.rpc.iter().any(|asked| !known.contains(asked)) {
            let has = chain.endpoint.label();
            fail!(
                Chain,
                "--rpc-url names another chain endpoint than {drive} ({has}): {fix}"
            );
        }
        let mut others = terms.contracts.iter();
        if let Some(asked) = others.find(|asked| **asked != chain.contract) {
            let has = chain.contract;
            fail!(
                Usage,
                "--contract asks for {asked}, and {drive} is contract {has}: {fix}"
            );
        }
        let has = chain.wallet.address();
        if let Some(asked) = terms.account.filter(|asked| *asked != has) {
            fail!(
                Usage,
                "--wallet is account {asked}, and {drive} is account {has}: {fix}"
            );
        }
        Ok(())
    }
}
