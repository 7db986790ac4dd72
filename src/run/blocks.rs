//! What commands do with blocks: fetch a file, keep one that is shared, check a volume, take all of it
//! out, put all of it back.
//!
//! Invariant: the same code whether the daemon is asked or the command holds the state folder itself;
//! no byte is written or believed that was not verified. Called by `desk` and `cli`.

mod archive;
mod fsck;
mod new_file;
mod tar;
#[cfg(test)]
mod tests;
mod trees;
mod unixfs;

use std::path::Path;
use std::sync::Arc;

use ::cid::Cid;
use anyhow::Context;
use ed25519_dalek::VerifyingKey;
use serde_json::Value;

use self::new_file::NewFile;
use crate::chain::{Accounting, TokenInfo};
use crate::config::Config;
use crate::contracts::token_status;
use crate::contracts::{self, Parts};
use crate::control::Request;
use crate::exit::fail;
use crate::fs::Volume;
use crate::names::NameError;
use crate::names::key::public_key;
use crate::names::record::Record;
use crate::node;
use crate::pack::cid as form;
use crate::pack::root::Root;
use crate::pack::usage::{self, Usage};
use crate::publish::{is_ours, standing};
use crate::run::ground::Ground;
use crate::run::leave::Tell;
use crate::run::operate;
use crate::run::state::StateDir;
use crate::status::{GetAnswer, ShareAnswer};
use crate::store::retry::{Policy, RetryStore};
use crate::store::{Block, BlockStore, BlockStoreExt, StoreError};
use crate::types::{TokenId, VolumeKey};

/// Answers a request about blocks where nothing is mounted.
///
/// # Errors
/// Those of the operation.
pub async fn run(
    all: &[Arc<Parts>],
    state_dir: StateDir,
    request: &Request,
    tell: Tell<'_>,
) -> anyhow::Result<Value> {
    let parts = Arc::clone(contracts::pick(all, request.subject())?);
    let ground = Ground::build(parts, Arc::new(state_dir)).await?;
    match answer(&ground, request, tell).await? {
        Some(answer) => Ok(answer),
        None => fail!(Mounted, "nothing is mounted"),
    }
}

/// Answers a request about blocks; `None` for any other.
pub(crate) async fn answer(
    ground: &Ground,
    request: &Request,
    tell: Tell<'_>,
) -> anyhow::Result<Option<Value>> {
    let answer = match request {
        Request::Get { cid, file } => operate::json(get(ground, cid, file, tell).await?),
        Request::Share { cid } => operate::json(share(ground, cid).await?),
        Request::Fsck { token, repair } => {
            let policy = Policy::default();
            operate::json(fsck::check(ground, token.id, *repair, policy, tell).await?)
        }
        Request::Export {
            token,
            file,
            as_files,
        } => operate::json(match as_files {
            true => tar::export(ground, token.id, file, tell).await?,
            false => archive::export(ground, token.id, file, tell).await?,
        }),
        Request::Import { token, file } => {
            let node = &ground.parts.node.store;
            operate::json(archive::import(ground, node, token.id, file, tell).await?)
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
            operate::json(archive::import(ground, &node, token.id, file, tell).await?)
        }
        _ => return Ok(None),
    };
    answer.map(Some)
}

/// Fetches one stored file.
async fn get(ground: &Ground, cid: &str, file: &Path, tell: Tell<'_>) -> anyhow::Result<GetAnswer> {
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

/// Pins a stored file for itself: it stays when its volume goes on.
async fn share(ground: &Ground, cid: &str) -> anyhow::Result<ShareAnswer> {
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

/// The same store; what fails for the moment is tried again.
fn patient(store: &Arc<dyn BlockStore>) -> Arc<dyn BlockStore> {
    Arc::new(RetryStore::new(Arc::clone(store), Policy::default()))
}

/// What is published of a token.
struct Published {
    root: Block,
    record: Root,
    /// The usage metadata; not where the chain alone knows the root.
    document: Option<Block>,
    /// Sequence and root of what was published last from this state folder, if anything was.
    ours: Option<(u64, Cid)>,
    /// The volume, where this state folder knows it.
    volume: Option<Arc<Volume>>,
}

/// The newest root of a token that a node's name or the chain tells of.
async fn published(ground: &Ground, id: TokenId) -> anyhow::Result<Published> {
    let parts = &ground.parts;
    let info = parts.owned(id).await?;
    let token = parts.chain.called.token(id);
    let key = parts.volume_key(&info);
    let store = patient(&parts.node.reads);
    let named = named(parts, &info, &key, &store).await?;
    let name = parts.chain.name_of(&info);
    let chain = name.and_then(|name| info.published(&name));
    let chain = chain.and_then(|(sequence, root)| Some((sequence, root?)));
    let chain = chain.filter(|(sequence, _)| {
        let known = named.as_ref().map(|(usage, _)| usage.sequence);
        known.is_none_or(|known| known < *sequence)
    });
    let (cid, document) = match (named, chain) {
        (_, Some((_, root))) => (Some(form::node_of_digest(root.0)), None),
        (Some((usage, document)), None) => (usage.root, Some(document)),
        (None, None) => (None, None),
    };
    let volume = ground.known_volume(&key).await?;
    let last = volume.as_ref().filter(|volume| is_ours(volume));
    let last = last.map(|volume| standing(volume));
    let ours = last.and_then(|last| Some((last.sequence, last.root?)));
    let Some(cid) = cid else {
        if let Some((sequence, root)) = ours {
            fail!(
                Damage,
                "token {token}: the node has lost its name: root {root} was published from here last, at sequence {sequence}: \
                 `pxfs flush` has it named again, or says why not"
            );
        }
        fail!(
            Token,
            "token {token}: nothing of it is published: `pxfs flush` publishes"
        );
    };
    let root = Block {
        data: store.get(&cid).await.context("the root")?,
        cid,
    };
    root.check()?;
    let record = Root::decode(&root)?;
    if record.volume != key {
        fail!(
            Damage,
            "token {token}: root {cid} is of another token or epoch"
        );
    }
    Ok(Published {
        root,
        record,
        document,
        ours,
        volume,
    })
}

/// The newest usage metadata that a node's name leads to.
async fn named(
    parts: &Parts,
    info: &TokenInfo,
    key: &VolumeKey,
    store: &Arc<dyn BlockStore>,
) -> anyhow::Result<Option<(Usage, Block)>> {
    let chain = &parts.chain;
    let called = || chain.called.token(info.id);
    let name = match (chain.name_of(info), info.accounting) {
        (Some(name), _) => name,
        (None, Accounting::Absolute) => fail!(Token, "{}", token_status::unregistered(&called())),
        (None, _) => return Err(token_status::unnamed(chain, &called()).into()),
    };
    let signer = public_key(&name)?;
    let others = parts.node.others.iter().map(|other| &other.names);
    let (mut newest, mut last_error) = (None::<(Usage, Block)>, None::<anyhow::Error>);
    for names in std::iter::once(&parts.node.names).chain(others) {
        let bytes = match names.resolve(&name).await {
            Ok(bytes) => bytes,
            Err(NameError::Missing(_)) => continue,
            Err(error) => {
                last_error = Some(error.into());
                continue;
            }
        };
        // One node's wrong answer is not the last word: another may have the right one.
        let (usage, document) = match document_of(&name, &signer, &bytes, store).await {
            Ok(found) => found,
            Err(error) => {
                last_error = Some(error);
                continue;
            }
        };
        if usage.volume != *key {
            continue;
        }
        if newest
            .as_ref()
            .is_none_or(|(known, _)| known.sequence < usage.sequence)
        {
            newest = Some((usage, document));
        }
    }
    match (newest, last_error) {
        (None, Some(error)) => Err(error),
        (newest, _) => Ok(newest),
    }
}

/// The usage metadata that the record `bytes` of `name` leads to, verified.
async fn document_of(
    name: &str,
    signer: &VerifyingKey,
    bytes: &[u8],
    store: &Arc<dyn BlockStore>,
) -> anyhow::Result<(Usage, Block)> {
    let cid = Record::verify(name, bytes)?.cid;
    let document = Block {
        data: store.get(&cid).await.context("the usage metadata")?,
        cid,
    };
    document.check()?;
    let text = usage::document(&cid, &document.data)?;
    Ok((Usage::verify(&text, signer)?, document))
}
