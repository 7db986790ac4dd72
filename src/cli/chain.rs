//! `tokens`, `packages`, `mint`, `register`, `upgrade`, `sync`, `dev advance`.

use alloy::primitives::{B256, Bytes, U256};

use super::ask::{Agreed, answer, answer_for, at_most};
use super::output::{bytes, cancelled, coins, confirm, json_answer, report, table, text_answer};
use super::setup::Setup;
use super::status::chain_table;
use crate::chain::coin;
use crate::config::Span;
use crate::control::Request;
use crate::exit::{Exit, Failure, fail};
use crate::status::{
    AdvanceAnswer, CallAnswer, MintAnswer, PackageAnswer, SyncAnswer, SyncOffer, TokensAnswer,
    UploadsAnswer,
};
use crate::types::TokenRef;

pub(super) fn tokens(setup: &Setup) -> anyhow::Result<Exit> {
    let TokensAnswer { tokens, left_out } = answer(setup, &Request::Tokens)?;
    let shown = match (setup.json, tokens.is_empty()) {
        (true, _) => json_answer(&tokens),
        (false, true) if !left_out.is_empty() => Ok(Exit::Ok),
        (false, true) => text_answer("no tokens: `pxfs packages` lists what can be minted"),
        (false, false) => text_answer(&chain_table(&tokens)),
    }?;
    if left_out.is_empty() {
        return Ok(shown);
    }
    // The list is incomplete, and programs must notice.
    let exit = Exit::Chain;
    let lines = left_out.iter().map(|one| {
        let (id, contract, why) = (one.chain_id, &one.contract, &one.error);
        format!("tokens: the list lacks those of contract {contract} on chain {id}: {why}")
    });
    if setup.json {
        report(
            &Failure::new(exit, lines.collect::<Vec<_>>().join("; ")),
            true,
        )
    } else {
        lines.for_each(|line| report(&Failure::new(exit, line), false))
    }
    Ok(exit)
}

pub(super) fn packages(setup: &Setup, on: Option<String>) -> anyhow::Result<Exit> {
    let packages: Vec<PackageAnswer> = answer(setup, &Request::Packages { on })?;
    if setup.json {
        return json_answer(&packages);
    }
    let rows = packages
        .into_iter()
        .map(|package| {
            vec![
                package.id.to_string(),
                package.name,
                bytes(package.size_bytes),
                coins(package.chain_id, &package.price_wei),
                package
                    .uploads
                    .map_or_else(|| "not limited".to_owned(), |uploads| uploads.to_string()),
            ]
        })
        .collect();
    let heading = ["PACKAGE", "NAME", "SIZE", "PRICE", "UPLOADS"];
    text_answer(&table(&heading, rows))
}

pub(super) fn mint(
    setup: &Setup,
    on: Option<String>,
    package: u64,
    yes: bool,
    print: bool,
) -> anyhow::Result<Exit> {
    let request = |print| Request::Mint {
        on: on.clone(),
        package,
        print,
    };
    if print {
        return show_call(setup, &request(true));
    }
    let mut agreed = None;
    if !yes {
        let what = format!("Mint {}", package_words(setup, on.clone(), package)?);
        agreed = Some(agree(setup, "mint", &what, &request(true))?);
    }
    let minted: MintAnswer = answer_for(setup, &request(false), agreed)?;
    show_minted(setup, &minted, "minted")
}

pub(super) fn register(
    setup: &Setup,
    token: &TokenRef,
    new_volume: bool,
    yes: bool,
    print: bool,
) -> anyhow::Result<Exit> {
    let request = |print| Request::Register {
        token: token.clone(),
        print,
        new_volume,
    };
    if print {
        return show_call(setup, &request(true));
    }
    let mut agreed = None;
    if !yes {
        let answer: TokensAnswer = answer(setup, &Request::Tokens)?;
        let called = token.to_string();
        let mut tokens = answer.tokens.iter();
        let named = tokens.find(|known| known.directory == called);
        // What it would replace must be known.
        if let (None, Some(silent)) = (named, answer.left_out.first()) {
            fail!(
                Chain,
                "register: cannot tell whether token {token} has a name key already: {}",
                silent.error
            );
        }
        let what = if named.is_some_and(|known| known.name.is_some()) {
            format!(
                "Register token {token} again, which replaces its name key and starts an empty drive (its files are not moved there),"
            )
        } else {
            format!("Register token {token}")
        };
        agreed = Some(agree(setup, "register", &what, &request(true))?);
    }
    let registered: MintAnswer = answer_for(setup, &request(false), agreed)?;
    show_minted(setup, &registered, "registered")
}

pub(super) fn upload_packages(setup: &Setup, on: Option<String>) -> anyhow::Result<Exit> {
    let packages: Vec<UploadsAnswer> = answer(setup, &Request::UploadPackages { on })?;
    if setup.json {
        return json_answer(&packages);
    }
    let rows = packages.into_iter().map(|known| {
        let (price, uploads) = (
            coins(known.chain_id, &known.price_wei),
            known.uploads.to_string(),
        );
        vec![known.id.to_string(), known.name, uploads, price]
    });
    text_answer(&table(
        &["PACKAGE", "NAME", "UPLOADS", "PRICE"],
        rows.collect(),
    ))
}

/// `pxfs upgrade`: a larger package, or upload units.
pub(super) fn upgrade(
    setup: &Setup,
    token: &TokenRef,
    (package, uploads): (Option<u64>, Option<u64>),
    yes: bool,
    print: bool,
) -> anyhow::Result<Exit> {
    let request = |print| match (package, uploads) {
        (_, Some(package)) => Request::BuyUploads {
            token: token.clone(),
            package,
            print,
        },
        (package, None) => Request::Upgrade {
            token: token.clone(),
            package: package.unwrap_or_default(),
            print,
        },
    };
    if print {
        return show_call(setup, &request(true));
    }
    let mut agreed = None;
    if !yes {
        let on = token.contract.clone();
        let what = match (package, uploads) {
            (_, Some(package)) => {
                let all: Vec<UploadsAnswer> = answer(setup, &Request::UploadPackages { on })?;
                let wanted = all.iter().find(|known| known.id == package);
                let count = wanted.map_or_else(String::new, |known| format!("{} ", known.uploads));
                format!("Buy {count}upload units for token {token}")
            }
            (package, None) => format!(
                "Upgrade token {token} to {}",
                package_words(setup, on, package.unwrap_or_default())?
            ),
        };
        agreed = Some(agree(setup, "upgrade", &what, &request(true))?);
    }
    let upgraded: MintAnswer = answer_for(setup, &request(false), agreed)?;
    show_minted(setup, &upgraded, "upgraded")
}

fn package_words(setup: &Setup, on: Option<String>, package: u64) -> anyhow::Result<String> {
    let packages: Vec<PackageAnswer> = answer(setup, &Request::Packages { on })?;
    let Some(wanted) = packages.iter().find(|known| known.id == package) else {
        let known: Vec<String> = packages.iter().map(|known| known.id.to_string()).collect();
        fail!(
            Token,
            "no package {package} can be minted: choose one of {}",
            known.join(", ")
        );
    };
    Ok(format!(
        "package {package} ({}, {})",
        wanted.name,
        bytes(wanted.size_bytes)
    ))
}

/// Asks for consent to `what`, showing place, account, price and gas cost; `print` builds the
/// transaction. Returns what was agreed.
fn agree(setup: &Setup, command: &str, what: &str, print: &Request) -> anyhow::Result<Agreed> {
    agree_to(command, what, answer(setup, print)?)
}

fn agree_to(command: &str, what: &str, call: CallAnswer) -> anyhow::Result<Agreed> {
    let gas_cost = call.gas_cost_wei.map(|wei| wei.parse()).transpose()?;
    let gas_cost = gas_cost.map(at_most);
    let gas = match (&call.gas, &gas_cost) {
        (Some(gas), Some(most)) => format!(
            "{gas} gas, at most {}",
            coins(call.chain_id, &most.to_string())
        ),
        _ => "gas".to_owned(),
    };
    let (price, account) = (
        coins(call.chain_id, &call.value_wei),
        call.account.unwrap_or_default(),
    );
    let what = format!(
        "{what} for {price} and {gas}, on chain {} by contract {}, from account {account}",
        call.chain_id, call.to
    );
    match confirm(&format!("{what}. Go on?")) {
        true => Ok(Agreed {
            price: call.value_wei.parse()?,
            gas_cost,
        }),
        false => Err(cancelled(command, &what).into()),
    }
}

pub(super) fn sync(
    setup: &Setup,
    token: &TokenRef,
    wait: bool,
    yes: bool,
    print: bool,
) -> anyhow::Result<Exit> {
    let offer = || {
        let token = token.clone();
        answer::<SyncOffer>(setup, &Request::SyncOffer { token })
    };
    if print {
        return show_offer(setup, &offer()?);
    }
    let mut agreed = None;
    if !yes {
        let SyncOffer { call, note, .. } = offer()?;
        agreed = Some(match (call, note) {
            (Some(call), None) => agree_to("sync", &format!("Sync token {token}"), call)?,
            (Some(call), Some(note)) => {
                agree_to("sync", &format!("Sync token {token} ({note})"), call)?
            }
            // Nobody was asked, so nothing is paid.
            (None, note) => {
                if let Some(note) = note.filter(|_| !setup.quiet) {
                    eprintln!("token {token}: {note}");
                }
                Agreed {
                    price: U256::ZERO,
                    gas_cost: Some(U256::ZERO),
                }
            }
        });
    }
    let request = Request::Sync {
        token: token.clone(),
        wait,
    };
    let synced: SyncAnswer = answer_for(setup, &request, agreed)?;
    if setup.json {
        return json_answer(&synced);
    }
    let transaction = &synced.transaction;
    let text = match (synced.usage, synced.sequence) {
        (Some(usage), Some(sequence)) => format!(
            "token {token} is synced: {} in use, sequence {sequence}",
            bytes(usage)
        ),
        _ if synced.request.is_none() => {
            format!("token {token} is up to date, by transaction {transaction}")
        }
        _ => format!("token {token}: asked the oracle, in transaction {transaction}"),
    };
    let paid = paid_lines(synced.chain_id, synced.paid_wei.as_deref(), transaction);
    text_answer(&(text + &paid))
}

fn paid_lines(chain_id: u64, paid_wei: Option<&str>, transaction: &str) -> String {
    let paid = paid_wei.map(|wei| format!("\npaid {}", coins(chain_id, wei)));
    let hash = transaction.parse().ok();
    let link = hash.and_then(|hash| coin::link(chain_id, hash));
    let link = link.map(|link| format!("\n{link}"));
    paid.unwrap_or_default() + &link.unwrap_or_default()
}

fn show_offer(setup: &Setup, offer: &SyncOffer) -> anyhow::Result<Exit> {
    let note = offer.note.as_deref().unwrap_or("nothing to send");
    match (&offer.call, offer.charges.as_slice()) {
        (Some(call), _) => show(setup, call),
        (None, []) if setup.json => json_answer(&offer.call),
        (None, charges) if setup.json => json_answer(&charges),
        (None, charges) => {
            let charges = charges.iter().map(call_text);
            let all: Vec<String> = std::iter::once(note.to_owned()).chain(charges).collect();
            text_answer(&all.join("\n\n"))
        }
    }
}

pub(super) fn advance(setup: &Setup, on: Option<String>, step: Span) -> anyhow::Result<Exit> {
    let seconds = step.0.as_secs();
    let advanced: AdvanceAnswer = answer(setup, &Request::Advance { seconds, on })?;
    if setup.json {
        json_answer(&advanced)
    } else {
        text_answer(&format!("chain time is now {}", advanced.chain_time))
    }
}

pub(super) fn call(
    setup: &Setup,
    on: Option<String>,
    data: Bytes,
    value_wei: U256,
) -> anyhow::Result<Exit> {
    let request = Request::Call {
        data,
        value_wei,
        on,
    };
    let hash: B256 = answer(setup, &request)?;
    if setup.json {
        json_answer(&hash)
    } else {
        text_answer(&format!("transaction {hash}"))
    }
}

fn show_minted(setup: &Setup, minted: &MintAnswer, done: &str) -> anyhow::Result<Exit> {
    if setup.json {
        return json_answer(minted);
    }
    let (token, transaction) = (&minted.directory, &minted.transaction);
    let mut text = format!("token {token} is {done}, in transaction {transaction}");
    if let Some(name) = &minted.name {
        text += &format!("\nits name is {name}");
    }
    let paid = minted.paid_wei.as_deref();
    text += &paid_lines(minted.chain_id, paid, transaction);
    text_answer(&text)
}

fn show_call(setup: &Setup, request: &Request) -> anyhow::Result<Exit> {
    show(setup, &answer(setup, request)?)
}

fn show(setup: &Setup, call: &CallAnswer) -> anyhow::Result<Exit> {
    if setup.json {
        return json_answer(call);
    }
    text_answer(&call_text(call))
}

fn call_text(call: &CallAnswer) -> String {
    let nonce = call.nonce.map_or_else(String::new, |nonce| {
        format!("\nnonce {nonce} (the name key is derived from it)")
    });
    let name = call
        .name
        .as_ref()
        .map_or_else(String::new, |name| format!("\nname  {name}"));
    format!(
        "chain {}\nto    {}\nvalue {} wei{nonce}{name}\ndata  {}",
        call.chain_id, call.to, call.value_wei, call.data
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paid_transaction_is_shown_with_price_and_explorer_link() {
        let hash = format!("0x{}", "ab".repeat(32));
        assert_eq!(
            paid_lines(137, Some("50000000000000000"), &hash),
            format!("\npaid 0.05 POL\nhttps://polygonscan.com/tx/{hash}")
        );
        assert_eq!(paid_lines(31337, None, &hash), "");
    }
}
