//! Nodes: what other readers find in them, and that one meaning has one form.

use proptest::prelude::*;

use super::*;
use crate::cid::leaf_cid;

fn sample() -> Node {
    let link = |name: &'static str, tsize| Link {
        cid: leaf_cid(name.as_bytes()),
        name: Bytes::from_static(name.as_bytes()),
        tsize,
    };
    Node {
        links: vec![link("a", 1), link("bc", 300), link("", u64::MAX)],
        unixfs: Unixfs::Directory(Bytes::from_static(b"payload")),
    }
}

/// The messages as any protobuf reader knows them.
#[derive(Clone, PartialEq, prost::Message)]
struct PbLink {
    #[prost(bytes = "vec", optional, tag = "1")]
    hash: Option<Vec<u8>>,
    #[prost(string, optional, tag = "2")]
    name: Option<String>,
    #[prost(uint64, optional, tag = "3")]
    tsize: Option<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PbNode {
    #[prost(bytes = "vec", optional, tag = "1")]
    data: Option<Vec<u8>>,
    #[prost(message, repeated, tag = "2")]
    links: Vec<PbLink>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PbUnixfs {
    #[prost(uint32, required, tag = "1")]
    kind: u32,
    #[prost(bytes = "vec", optional, tag = "2")]
    data: Option<Vec<u8>>,
    #[prost(uint64, optional, tag = "3")]
    size: Option<u64>,
    #[prost(uint64, repeated, packed = "false", tag = "4")]
    parts: Vec<u64>,
}

#[test]
fn any_protobuf_reader_finds_links_and_content() {
    use prost::Message;
    let unixfs = [
        sample().unixfs,
        Unixfs::Symlink(Bytes::from_static(b"../target")),
        Unixfs::Whole(Bytes::from_static(b"content")),
        Unixfs::File {
            size: 300,
            parts: vec![200, 100],
        },
    ];
    for unixfs in unixfs {
        let node = Node {
            unixfs: unixfs.clone(),
            ..sample()
        };
        let (block, child) = node.encode().unwrap();
        let read = PbNode::decode(block.data.clone()).unwrap();
        let links = read.links.iter().map(|link| {
            let cid = cid::from_bytes(link.hash.as_ref().unwrap()).unwrap();
            (cid, link.name.clone().unwrap(), link.tsize.unwrap())
        });
        let wanted = node.links.iter().map(|link| {
            let name = String::from_utf8(link.name.to_vec()).unwrap();
            (link.cid, name, link.tsize)
        });
        assert!(links.eq(wanted));
        assert_eq!(child.tsize, u64::MAX);
        let message = PbUnixfs::decode(read.data.unwrap().as_slice()).unwrap();
        let found = match (message.kind, message.data, message.size) {
            (1, Some(data), None) => Unixfs::Directory(data.into()),
            (4, Some(data), None) => Unixfs::Symlink(data.into()),
            (2, Some(data), Some(7)) => Unixfs::Whole(data.into()),
            (2, None, Some(size)) => Unixfs::File {
                size,
                parts: message.parts,
            },
            other => panic!("{other:?}"),
        };
        assert_eq!(found, unixfs);
    }
}

#[test]
fn links_take_the_room_that_pages_count() {
    let empty = Node {
        links: Vec::new(),
        unixfs: sample().unixfs,
    };
    let base = empty.encode().unwrap().0.data.len();
    for link in sample().links {
        let len = link_len(&link.cid, link.name.len(), link.tsize);
        let one = Node {
            links: vec![link],
            unixfs: sample().unixfs,
        };
        assert_eq!(one.encode().unwrap().0.data.len(), base + len);
    }
}

#[test]
fn a_stock_empty_directory_is_not_taken_for_a_page() {
    let bytes = Bytes::from_static(&[0x0a, 0x02, 0x08, 0x01]);
    assert!(Node::decode(&node_cid(&bytes), &bytes).is_err());
}

#[test]
fn a_number_in_a_longer_form_or_above_64_bits_is_refused() {
    let bytes = Bytes::from_static(&[0x0a, 0x05, 0x08, 0x84, 0x00, 0x12, 0x00]);
    assert!(Node::decode(&node_cid(&bytes), &bytes).is_err());
    let mut above = sample().encode().unwrap().0.data.to_vec();
    let at = above
        .windows(10)
        .position(|w| w == [&[0xff; 9][..], &[1]].concat());
    above[at.unwrap() + 9] = 2;
    let above = Bytes::from(above);
    assert!(Node::decode(&node_cid(&above), &above).is_err());
    let right = Bytes::from_static(&[0x0a, 0x04, 0x08, 0x04, 0x12, 0x00]);
    assert!(Node::decode(&node_cid(&right), &right).is_ok());
}

proptest! {
    /// A second encoding of one meaning would be a second CID for one state.
    #[test]
    fn changed_bytes_are_refused_or_mean_something_else(at in 0usize..200, to in any::<u8>(), cut in 0usize..200) {
        let (block, _) = sample().encode().unwrap();
        let mut bytes = block.data.to_vec();
        let at = at % bytes.len();
        bytes[at] = to;
        bytes.truncate(bytes.len().max(cut) - cut / 50);
        let bytes = Bytes::from(bytes);
        if let Ok(node) = Node::decode(&node_cid(&bytes), &bytes) {
            prop_assert_eq!(node.encode().unwrap().0.data, bytes);
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let bytes = Bytes::from(bytes);
        let _ = Node::decode(&node_cid(&bytes), &bytes);
    }
}
