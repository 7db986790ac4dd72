//! Block commands: fetch a file, share one, check, export and import a volume.
//!
//! Invariant: the same code in the daemon and in a command that owns the state folder; no
//! unverified byte is written or trusted.

mod car;
mod fsck;
mod new_file;
mod published;
mod tar;
#[cfg(test)]
mod tests;
mod trees;
mod unixfs;

use std::path::Path;
use std::sync::Arc;

use ::cid::Cid;
use serde_json::Value;

use self::new_file::NewFile;
use self::published::patient;
use crate::config::Config;
use crate::context::MountContext;
use crate::context::StateDir;
use crate::contracts::{self, Parts};
use crate::control::Report;
use crate::control::Request;
use crate::exit::fail;
use crate::node;
use crate::pack::cid as form;
use crate::status::{GetAnswer, ShareAnswer};
use crate::store::retry::Policy;
use crate::store::{BlockStoreExt, StoreError};

/// Answers a block request without a mount.
///
/// # Errors
/// Those of the operation.
pub async fn run(
    all: &[Arc<Parts>],
    state_dir: StateDir,
    request: &Request,
    tell: Report<'_>,
) -> anyhow::Result<Value> {
    let parts = Arc::clone(contracts::pick(all, request.subject())?);
    let ground = MountContext::build(parts, Arc::new(state_dir)).await?;
    match answer(&ground, request, tell).await? {
        Some(answer) => Ok(answer),
        None => fail!(Mounted, "nothing is mounted"),
    }
}

/// Answers a block request; `None` for any other.
pub(crate) async fn answer(
    ground: &MountContext,
    request: &Request,
    tell: Report<'_>,
) -> anyhow::Result<Option<Value>> {
    let answer = match request {
        Request::Get { cid, file } => json(get(ground, cid, file, tell).await?),
        Request::Share { cid } => json(share(ground, cid).await?),
        Request::Fsck { token, repair } => {
            let policy = Policy::default();
            json(fsck::check(ground, token.id, *repair, policy, tell).await?)
        }
        Request::Export {
            token,
            file,
            as_files,
        } => json(match as_files {
            true => tar::export(ground, token.id, file, tell).await?,
            false => car::export(ground, token.id, file, tell).await?,
        }),
        Request::Import { token, file } => {
            let node = &ground.parts.node.store;
            json(car::import(ground, node, token.id, file, tell).await?)
        }
        Request::ImportTo {
            token,
            file,
            node,
            token_file,
            password_file,
        } => {
            let config = Config {
                nodes: vec![node.clone()],
                node_token_file: token_file.clone(),
                node_password_file: password_file.clone(),
                ..ground.parts.config.clone()
            };
            let node = match ground.parts.config.nodes.first() == Some(node) {
                true => Arc::clone(&ground.parts.node.store),
                false => node::open(&config, &ground.parts.clock).await?.store,
            };
            json(car::import(ground, &node, token.id, file, tell).await?)
        }
        _ => return Ok(None),
    };
    answer.map(Some)
}

async fn get(
    ground: &MountContext,
    cid: &str,
    file: &Path,
    tell: Report<'_>,
) -> anyhow::Result<GetAnswer> {
    let cid = parse(cid)?;
    let store = patient(&ground.parts.node.reads);
    let mut new = NewFile::create(file)?;
    let bytes = match unixfs::read(&store, &cid, &mut new, tell).await {
        Err(error) if matches!(error.downcast_ref(), Some(StoreError::Missing(_))) => {
            fail!(
                Node,
                "get {cid}: {error} on every node: add one that has it by --node"
            )
        }
        read => read?,
    };
    new.finish()?;
    Ok(GetAnswer {
        cid: cid.to_string(),
        file: file.display().to_string(),
        bytes,
    })
}

/// Pins a stored file by itself: it survives changes of its volume.
async fn share(ground: &MountContext, cid: &str) -> anyhow::Result<ShareAnswer> {
    let cid = parse(cid)?;
    ground.parts.node.store.pin(&cid, None).await?;
    Ok(ShareAnswer {
        cid: cid.to_string(),
    })
}

fn parse(cid: &str) -> anyhow::Result<Cid> {
    match form::parse(cid) {
        Ok(cid) => Ok(cid),
        Err(why) => fail!(Usage, "{cid}: {why}: give a Qm… or a bafkrei…"),
    }
}

fn json(answer: impl serde::Serialize) -> anyhow::Result<Value> {
    Ok(serde_json::to_value(answer)?)
}
