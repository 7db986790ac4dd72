//! Trees made to fill a disk or memory.

use prost::Message;

use super::*;
use crate::pack::cid::{leaf_cid, node_cid};
use crate::store::Block;
use crate::store::BlockStoreExt;
use crate::store::memory::MemoryStore;

/// The messages as other programs define them.
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

#[derive(Clone, PartialEq, Message)]
struct Unixfs {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(bytes = "vec", optional, tag = "2")]
    data: Option<Vec<u8>>,
    #[prost(uint64, optional, tag = "3")]
    size: Option<u64>,
    #[prost(uint64, repeated, packed = "false", tag = "4")]
    parts: Vec<u64>,
}

const FILE: i32 = 2;

/// A node over `links` of these declared lengths, as other programs write it.
fn node(links: &[(Cid, u64)]) -> Block {
    let unixfs = Unixfs {
        kind: FILE,
        data: None,
        size: Some(
            links
                .iter()
                .map(|(_, size)| *size)
                .fold(0, u64::saturating_add),
        ),
        parts: links.iter().map(|(_, size)| *size).collect(),
    };
    let link = |(cid, _): &(Cid, u64)| Link {
        hash: Some(cid.to_bytes()),
    };
    let node = Node {
        data: Some(unixfs.encode_to_vec()),
        links: links.iter().map(link).collect(),
    };
    let data = Bytes::from(node.encode_to_vec());
    Block {
        cid: node_cid(&data),
        data,
    }
}

fn leaf(bytes: &'static [u8]) -> Block {
    Block {
        cid: leaf_cid(bytes),
        data: Bytes::from_static(bytes),
    }
}

/// What `get` writes of the last block, and its error.
async fn got(blocks: &[Block]) -> anyhow::Result<Vec<u8>> {
    let store = MemoryStore::new();
    store.put_many(blocks).await.unwrap();
    let store: Arc<dyn BlockStore> = Arc::new(store);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let mut out = NewFile::create(&path).unwrap();
    let cid = blocks.last().unwrap().cid;
    let read = read(&store, &cid, &mut out, &|_, _| {});
    let length = tokio::time::timeout(std::time::Duration::from_secs(30), read);
    let length = length.await.expect("it ends")?;
    out.finish().unwrap();
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(bytes.len() as u64, length);
    Ok(bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_several_levels_comes_in_its_order() {
    let (a, b) = (leaf(b"first "), leaf(b"second "));
    let low = node(&[(a.cid, 6), (b.cid, 7)]);
    let top = node(&[(low.cid, 13), (a.cid, 6), (low.cid, 13)]);
    let bytes = got(&[a, b, low, top]).await.unwrap();
    assert_eq!(bytes, b"first second first first second ");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_that_doubles_at_each_level_fills_no_disk() {
    for lies in [false, true] {
        let mut blocks = vec![leaf(&[7; 1024])];
        let mut size = 1024;
        for _ in 0..30 {
            let below = blocks.last().unwrap().cid;
            blocks.push(node(&[(below, size), (below, size)]));
            size = if lies { 1024 } else { size * 2 };
        }
        assert!(got(&blocks).await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_of_nodes_without_end_is_refused() {
    let mut blocks = vec![leaf(b"x")];
    for _ in 0..600 {
        let below = blocks.last().unwrap().cid;
        blocks.push(node(&[(below, 1)]));
    }
    let error = got(&blocks).await.unwrap_err();
    assert!(error.to_string().contains("too deep"), "{error:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_that_are_empty_or_of_another_length_are_refused() {
    let (leaf, empty) = (leaf(b"leaf"), leaf(b""));
    for (below, size) in [(&leaf, 5), (&leaf, 3), (&empty, 0)] {
        let top = node(&[(below.cid, size)]);
        assert!(got(&[below.clone(), top]).await.is_err(), "{size}");
    }
}
