//! One stored file by its CID, in order, also one that other programs have added.
//!
//! Invariant: what is written was verified; memory is bounded by [`AT_ONCE`] blocks, whatever the
//! file's size, beside 40 bytes a leaf of the part that is being read. Called by `blocks`.

use std::collections::VecDeque;
use std::sync::Arc;

use ::cid::Cid;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use prost::Message;

use super::NewFile;
use crate::cli::exit::fail;
use crate::pack::cid::{self as form, Kind};
use crate::run::leave::Tell;
use crate::store::{BlockStore, StoreError};

/// Blocks fetched at one time.
const AT_ONCE: usize = 16;

/// A dag-pb node as any program writes it.
#[derive(Clone, PartialEq, Message)]
struct Node {
    #[prost(bytes = "vec", optional, tag = "1")]
    data: Option<Vec<u8>>,
    #[prost(message, repeated, tag = "2")]
    links: Vec<Link>,
}

#[derive(Clone, PartialEq, Message)]
struct Link {
    #[prost(bytes = "vec", optional, tag = "1")]
    hash: Option<Vec<u8>>,
}

/// The UnixFS message in it.
#[derive(Clone, PartialEq, Message)]
struct Unixfs {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(bytes = "vec", optional, tag = "2")]
    data: Option<Vec<u8>>,
}

const RAW: i32 = 0;
const DIRECTORY: i32 = 1;
const FILE: i32 = 2;

/// What is still to be written, in order.
enum Item {
    Wanted(Cid),
    Here(Cid, Bytes),
}

/// Writes the file `cid` to `out`; its length in bytes.
pub(super) async fn read(
    store: &Arc<dyn BlockStore>,
    cid: &Cid,
    out: &mut NewFile<'_>,
    tell: Tell<'_>,
) -> anyhow::Result<u64> {
    let mut left = VecDeque::from([Item::Wanted(*cid)]);
    let mut written = 0;
    while let Some(item) = left.pop_front() {
        let (cid, bytes) = match item {
            Item::Here(cid, bytes) => (cid, bytes),
            Item::Wanted(cid) => {
                left.push_front(Item::Wanted(cid));
                fetch(store, &mut left).await?;
                continue;
            }
        };
        let (data, links) = match form::kind(&cid) {
            Ok(Kind::Leaf) => (bytes, Vec::new()),
            _ => parse(&cid, &bytes)?,
        };
        for link in links.into_iter().rev() {
            left.push_front(Item::Wanted(link));
        }
        out.write(&data)?;
        written += data.len() as u64;
        tell("fetching", 0);
    }
    Ok(written)
}

/// Fetches the next blocks.
async fn fetch(store: &Arc<dyn BlockStore>, left: &mut VecDeque<Item>) -> Result<(), StoreError> {
    let next: Vec<Cid> = left
        .iter()
        .filter_map(|item| match item {
            Item::Wanted(cid) => Some(*cid),
            Item::Here(..) => None,
        })
        .take(AT_ONCE)
        .collect();
    let fetched: Vec<Bytes> = futures::stream::iter(next)
        .map(|cid| {
            let store = Arc::clone(store);
            async move {
                let bytes = store.get(&cid).await?;
                crate::store::check_bytes(&cid, &bytes)?;
                Ok::<_, StoreError>(bytes)
            }
        })
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    let mut fetched = fetched.into_iter();
    for item in left.iter_mut() {
        if let Item::Wanted(cid) = item {
            match fetched.next() {
                Some(bytes) => *item = Item::Here(*cid, bytes),
                None => break,
            }
        }
    }
    Ok(())
}

/// The bytes of a file's node, and what comes behind them.
fn parse(cid: &Cid, bytes: &Bytes) -> anyhow::Result<(Bytes, Vec<Cid>)> {
    let refused = |why: &str| StoreError::Corrupt(*cid, why.to_owned());
    let node = Node::decode(&bytes[..]).map_err(|_| refused("not dag-pb"))?;
    let unixfs = Unixfs::decode(node.data.as_deref().unwrap_or_default());
    let unixfs = unixfs.map_err(|_| refused("not UnixFS"))?;
    match unixfs.kind {
        RAW | FILE => {}
        DIRECTORY => fail!(Usage, "get {cid}: is a directory: name a file of it"),
        _ => fail!(Usage, "get {cid}: is no file"),
    }
    let mut links = Vec::with_capacity(node.links.len());
    for link in node.links {
        let hash = link.hash.unwrap_or_default();
        links.push(form::from_bytes(&hash).map_err(|error| refused(&error.to_string()))?);
    }
    Ok((unixfs.data.unwrap_or_default().into(), links))
}
