//! Checks that names tell contracts and tokens apart.

use crate::config::Config;
use crate::exit::{Exit, Failure, fail};
use crate::types::TokenRef;

/// Several contracts need distinct names, and each named token must belong to one.
pub(crate) fn check_names(config: &Config) -> anyhow::Result<()> {
    let contracts = &config.contracts;
    let names: Vec<&str> = contracts
        .iter()
        .filter_map(|one| one.name.as_deref())
        .collect();
    let is_twice = |name: &&&str| names.iter().filter(|known| known == name).count() > 1;
    if let Some(twice) = names.iter().find(is_twice) {
        fail!(
            Usage,
            "--contract {twice}=…: two contracts have this name: give each its own"
        );
    }
    if contracts.len() > 1
        && let Some(bare) = contracts.iter().find(|one| one.name.is_none())
    {
        fail!(
            Usage,
            "--contract {}: there are several: give each a name, NAME=0x…, for its directories",
            bare.address
        );
    }
    let mut named = config.names.iter().map(|named| &named.token);
    if let Some(token) = named.clone().next().filter(|_| config.watched().is_none()) {
        fail!(
            Usage,
            "--name {token}=…: a wallet knows its own tokens' names: it is for who watches by --address"
        );
    }
    let is_named_twice = |token: &&TokenRef| {
        config
            .names
            .iter()
            .filter(|one| one.token == **token)
            .count()
            > 1
    };
    if let Some(token) = named.find(is_named_twice) {
        fail!(
            Usage,
            "--name {token}=…: it is given twice: which one is it?"
        );
    }
    let told = config.names.iter().map(|told| ("--name", &told.token));
    let tokens = config.tokens.iter().map(|token| ("--token", token));
    for (option, token) in tokens.chain(told) {
        let is_known = match &token.contract {
            None => contracts.len() <= 1,
            Some(name) => names.contains(&name.as_str()),
        };
        if !is_known {
            return Err(unknown(&format!("{option} {token}"), &names).into());
        }
    }
    Ok(())
}

/// The message for an unknown contract name.
pub(crate) fn unknown(what: &str, names: &[&str]) -> Failure {
    let line = match names {
        [] | [_] => format!("{what}: there is one contract, and it is not called so"),
        names => format!(
            "{what}: there are several contracts: name one of {}",
            names.join(", ")
        ),
    };
    Failure::new(Exit::Usage, line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Folders, Layer};

    fn config(contracts: &[&str], tokens: &[&str]) -> Config {
        let layer = Layer {
            contract: contracts.iter().map(|one| one.parse().unwrap()).collect(),
            token: tokens.iter().map(|one| one.parse().unwrap()).collect(),
            ..Layer::default()
        };
        Config::resolve(layer, &Folders::from_env(|_| None, 0))
    }

    const ONE: &str = "one=0x5fbdb2315678afecb367f032d93f642f64180aa3";
    const TWO: &str = "two=0xe7f1725e7734ce288f8367e1bb143e90bb3f0512@100";
    const BARE: &str = "0xe7f1725e7734ce288f8367e1bb143e90bb3f0512";

    #[test]
    fn a_token_that_is_named_is_one_of_a_contract_that_is() {
        for (contracts, tokens) in [
            (&[][..], &["1"][..]),
            (&[BARE], &["1", "2"]),
            (&[ONE], &["one-1", "2"]),
            (&[ONE, TWO], &["one-1", "two-1"]),
        ] {
            assert!(
                check_names(&config(contracts, tokens)).is_ok(),
                "{tokens:?}"
            );
        }
        for (contracts, tokens) in [
            (&[][..], &["one-1"][..]),
            (&[BARE], &["one-1"]),
            (&[ONE], &["two-1"]),
            (&[ONE, TWO], &["1"]),
            (&[ONE, TWO], &["three-1"]),
            (&[ONE, BARE], &[]),
            (&[ONE, ONE], &[]),
        ] {
            assert!(
                check_names(&config(contracts, tokens)).is_err(),
                "{tokens:?}"
            );
        }
    }
}
