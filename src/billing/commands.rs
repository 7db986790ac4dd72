//! Chain commands: list, mint, register, sync, advance time.
//!
//! Invariant: the same code in the daemon and in a command that owns the state folder.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::answer::json;
use super::{dev, list, mint};
use crate::billing::legacy;
use crate::billing::sync;
use crate::billing::upgrade;
use crate::contracts::{self, Parts};
use crate::control::Request;
use crate::exit::fail;

/// Answers a request that needs only chains and node, by the contract of `all` that it names.
///
/// # Errors
/// Those of the operation; a request that needs a mount is refused.
pub async fn answer_of(all: &[Arc<Parts>], request: &Request) -> anyhow::Result<Value> {
    if *request == Request::Tokens {
        return json(list::list(all).await?);
    }
    answer(contracts::pick(all, request.subject())?, request).await
}

/// The same for one contract.
///
/// # Errors
/// As [`answer_of`].
pub async fn answer(parts: &Parts, request: &Request) -> anyhow::Result<Value> {
    if let Some(answer) = legacy::answer(parts, request).await? {
        return Ok(answer);
    }
    if let Some(answer) = upgrade::answer(parts, request).await? {
        return Ok(answer);
    }
    match *request {
        Request::Packages { .. } => json(list::packages(parts).await?),
        Request::Mint {
            package,
            print: true,
            ..
        } => json(mint::mint_call(parts, package).await?),
        Request::Mint { package, .. } => json(mint::mint(parts, package).await?),
        Request::Register {
            ref token,
            print,
            new_volume,
        } => {
            let token = token.id;
            let info = parts.owned(token).await?;
            if !new_volume {
                mint::refuse_live(parts, &info).await?;
            }
            match print {
                true => json(mint::register_call(parts, token).await?),
                false => json(mint::register(parts, token).await?),
            }
        }
        Request::Sync { ref token, wait } => json(sync::sync(parts, token.id, wait).await?),
        Request::SyncOffer { ref token } => json(sync::offer(parts, None, token.id).await?),
        Request::Advance { seconds, .. } => {
            json(dev::advance(parts, Duration::from_secs(seconds)).await?)
        }
        Request::Call {
            ref data,
            value_wei,
            ..
        } => json(dev::call(parts, data.clone(), value_wei).await?),
        Request::Status
        | Request::Tokens
        | Request::Under { .. }
        | Request::UploadPackages { .. }
        | Request::Upgrade { .. }
        | Request::BuyUploads { .. }
        | Request::Get { .. }
        | Request::Share { .. }
        | Request::Fsck { .. }
        | Request::Export { .. }
        | Request::Import { .. }
        | Request::ImportTo { .. }
        | Request::Flush { .. }
        | Request::Umount { .. }
        | Request::Detach { .. } => {
            fail!(Mounted, "nothing is mounted")
        }
    }
}
