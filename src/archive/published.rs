//! What is published of a token: the newest root by its name or the chain.

use std::sync::Arc;

use ::cid::Cid;
use anyhow::Context;
use ed25519_dalek::VerifyingKey;

use crate::chain::{Accounting, TokenInfo};
use crate::context::MountContext;
use crate::contracts::Parts;
use crate::contracts::token_status;
use crate::exit::fail;
use crate::fs::Volume;
use crate::names::NameError;
use crate::names::key::public_key;
use crate::names::record::Record;
use crate::pack::cid as form;
use crate::pack::root::Root;
use crate::pack::usage::{self, Usage};
use crate::publish::{is_ours, standing};
use crate::store::retry::{Policy, RetryStore};
use crate::store::{Block, BlockStore, BlockStoreExt};
use crate::types::{TokenId, VolumeKey};

pub(super) fn patient(store: &Arc<dyn BlockStore>) -> Arc<dyn BlockStore> {
    Arc::new(RetryStore::new(Arc::clone(store), Policy::default()))
}

pub(super) struct Published {
    pub(super) root: Block,
    pub(super) record: Root,
    /// The usage metadata; `None` if only the chain knows the root.
    pub(super) document: Option<Block>,
    /// Sequence and root last published from this state folder.
    pub(super) ours: Option<(u64, Cid)>,
    /// The volume, if this state folder has it.
    pub(super) volume: Option<Arc<Volume>>,
}

/// A token's newest root, by node or chain.
pub(super) async fn published(ground: &MountContext, id: TokenId) -> anyhow::Result<Published> {
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
    let volume = known_volume(ground, &key).await?;
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

/// The newest usage metadata by name.
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
        // One node's wrong answer is not final: another may have the right one.
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

/// The verified usage metadata that the record `bytes` of `name` leads to.
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

/// The volume `key` of this state folder, shown or not; `None` if unknown, or about to be shown.
async fn known_volume(
    ground: &MountContext,
    key: &VolumeKey,
) -> anyhow::Result<Option<Arc<Volume>>> {
    if let Some(volume) = ground.shown_volume(key) {
        return Ok(Some(volume));
    }
    if ground.shows_any() || !ground.state_dir.volume(key).exists() {
        return Ok(None);
    }
    let opened =
        crate::context::open_volume(ground, *key, crate::context::JOURNAL_CACHE_MIN_BYTES).await?;
    Ok(Some(opened))
}
