//! Files and directories as both kinds of node tell them without pxfs: `ls`, `get` and `cat` by paths below a CID. What
//! the stand-in says is held to what a real node says of the same blocks.

use std::fs;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use cid::Cid;
use pxfs::pack::chunk;
use pxfs::pack::dagpb::{Link, Node, Unixfs, symlink};
use pxfs::rpc::{Client, Dialect, Login, RpcError};
use pxfs::store::{Block, BlockStore, BlockStoreExt};
use serde_json::{Value, json};

use crate::btfs::Btfs;
use crate::kubo::Kubo;
use crate::stores::{client, store};

const SOON: Duration = Duration::from_secs(60);

/// Blocks, and what links to the last of them.
struct Tree {
    blocks: Vec<Block>,
    links: Vec<Link>,
}

impl Tree {
    fn new() -> Self {
        Self {
            blocks: Vec::new(),
            links: Vec::new(),
        }
    }

    fn link(&mut self, name: &str, block: Block, tsize: u64) {
        let name = Bytes::copy_from_slice(name.as_bytes());
        let cid = block.cid;
        self.links.push(Link { cid, name, tsize });
        self.blocks.push(block);
    }

    fn leaf(&mut self, name: &str, bytes: &[u8]) -> Cid {
        let block = chunk::leaf(Bytes::copy_from_slice(bytes));
        let cid = block.cid;
        self.link(name, block, bytes.len() as u64);
        cid
    }

    fn symlink(&mut self, name: &str, target: &'static str) -> Cid {
        let (block, child) = symlink(&target.into()).expect("a symlink");
        self.link(name, block, child.tsize);
        child.cid
    }

    /// What `below` links to, as one node.
    fn node(&mut self, name: &str, below: Tree, unixfs: Unixfs) -> Cid {
        let links = below.links;
        let (block, child) = Node { links, unixfs }.encode().expect("a node");
        self.blocks.extend(below.blocks);
        self.link(name, block, child.tsize);
        child.cid
    }
}

/// A file of three chunks.
fn great(seed: u8) -> Vec<u8> {
    (0..700_u32).flat_map(|n| [seed, n as u8, 7]).collect()
}

fn add_great(tree: &mut Tree, name: &str, seed: u8) -> Cid {
    let mut chunks = Tree::new();
    let bytes = great(seed);
    let parts: Vec<&[u8]> = bytes.chunks(900).collect();
    for part in &parts {
        chunks.leaf("", part);
    }
    let unixfs = Unixfs::File {
        size: bytes.len() as u64,
        parts: parts.iter().map(|part| part.len() as u64).collect(),
    };
    tree.node(name, chunks, unixfs)
}

async fn ask(client: &Client, path: &str, args: &[(&str, &str)]) -> Result<Bytes, RpcError> {
    client.call(path, args, &[], 1 << 20, SOON).await
}

/// What `ls` answers, without what the kinds of node call differently: the times.
async fn list(client: &Client, args: &[(&str, &str)]) -> Vec<Value> {
    let told = ask(client, "ls", args).await.expect("a list");
    let told = String::from_utf8(told.to_vec()).expect("text");
    let lines = told.lines().map(|line| {
        let mut line: Value = serde_json::from_str(line).expect("JSON");
        for object in line["Objects"].as_array_mut().expect("objects") {
            for link in object["Links"].as_array_mut().expect("links") {
                let link = link.as_object_mut().expect("a link");
                link.retain(|key, _| !["Mode", "ModTime", "Mtime"].contains(&key.as_str()));
            }
        }
        line
    });
    lines.collect()
}

fn is_failed(told: &Result<Bytes, RpcError>, why: &str) -> bool {
    matches!(told, Err(RpcError::Failed(said)) if said.contains(why))
}

/// Where the node's own words are held to: on a real one and on the stand-in.
pub(crate) async fn holds(client: &Client, store: &dyn BlockStore) {
    let long = format!("{} ünï", "long".repeat(40));
    let (mut all, mut folder, mut deep) = (Tree::new(), Tree::new(), Tree::new());
    deep.leaf("leaf", b"deep");
    deep.leaf(&long, b"of a long name");
    folder.node("deep", deep, Unixfs::Directory("ours".into()));
    let three = add_great(&mut folder, "three", 1);
    folder.leaf("empty", b"");
    // Not in their order, and two of one name.
    let link = all.symlink("to", "folder/three");
    let first = all.leaf("same", b"first");
    let second = add_great(&mut all, "same", 2);
    let folder = all.node("folder", folder, Unixfs::Directory(Bytes::new()));
    let one = all.leaf("one", b"1");
    let mut root = Tree::new();
    let cid = root.node("", all, Unixfs::Directory("ours".into()));
    store.put_many(&root.blocks).await.expect("put");

    let cid = cid.to_string();
    let told = |name: &str, cid: Cid, size: u64, kind: u8, target: &str| {
        let hash = cid.to_string();
        json!({"Name": name, "Hash": hash, "Size": size, "Type": kind, "Target": target})
    };
    let links = [
        told("folder", folder, 0, 1, ""),
        told("one", one, 1, 2, ""),
        told("same", first, 5, 2, ""),
        told("same", second, 2100, 2, ""),
        told("to", link, 12, 4, "folder/three"),
    ];
    let deep = format!("{cid}/folder/deep");
    let listed = list(client, &[("arg", &cid)]).await;
    assert_eq!(
        listed,
        [json!({"Objects": [{"Hash": cid, "Links": links}]})]
    );
    let streamed = list(client, &[("arg", &cid), ("stream", "true")]).await;
    let line = |link: &Value| json!({"Objects": [{"Hash": cid, "Links": [link]}]});
    assert_eq!(streamed, links.each_ref().map(line));
    let both = list(client, &[("arg", &deep), ("arg", &three.to_string())]).await;
    assert_eq!(both[0]["Objects"][0]["Hash"], json!(deep));
    assert_eq!(both[0]["Objects"][0]["Links"][0]["Name"], json!("leaf"));
    let chunks = both[0]["Objects"][1]["Links"].as_array().expect("links");
    let sizes: Vec<&Value> = chunks.iter().map(|chunk| &chunk["Size"]).collect();
    assert_eq!(sizes, [900, 900, 300]);
    let blind = [
        ("arg", cid.as_str()),
        ("resolve-type", "false"),
        ("size", "false"),
    ];
    let blind = list(client, &blind).await;
    assert_eq!(
        blind[0]["Objects"][0]["Links"][0],
        told("folder", folder, 0, 0, "")
    );

    // Each is in the archive by its path below the name that was asked for; of two of one name the last one stays.
    let out = tempfile::tempdir().expect("a folder");
    for (path, name) in [(&cid, cid.as_str()), (&deep, "deep")] {
        let archive = ask(client, "get", &[("arg", path), ("archive", "true")]).await;
        let file = out.path().join("archive.tar");
        fs::write(&file, archive.expect("an archive")).expect("a file");
        let mut tar = Command::new("tar");
        tar.arg("-xmf").arg(&file).arg("-C").arg(out.path());
        assert!(tar.status().expect("tar runs").success(), "{name}");
        assert!(out.path().join(name).is_dir(), "{name}");
    }
    let got = out.path().join(&cid);
    assert_eq!(fs::read(got.join("same")).expect("read"), great(2));
    assert_eq!(fs::read(got.join("folder/three")).expect("read"), great(1));
    assert_eq!(fs::read(got.join("folder/empty")).expect("read"), b"");
    assert_eq!(
        fs::read(got.join("folder/deep/leaf")).expect("read"),
        b"deep"
    );
    let named = out.path().join("deep").join(&long);
    assert_eq!(fs::read(named).expect("read"), b"of a long name");
    let target = fs::read_link(got.join("to")).expect("a symlink");
    assert_eq!(target.to_str(), Some("folder/three"));

    let by_path = format!("{cid}/folder/three");
    let read = ask(client, "cat", &[("arg", &by_path)]).await;
    assert_eq!(read.expect("read"), great(1));
    let directory = ask(client, "cat", &[("arg", &deep)]).await;
    assert!(
        is_failed(&directory, "this dag node is a directory"),
        "{directory:?}"
    );
    for path in ["ls", "get", "cat"] {
        // Below a file each kind of node says it in words of its own.
        let below = [
            ("folder/none", "no link named \"none\""),
            ("folder/three/none", ""),
            ("one/none", ""),
        ];
        for (below, why) in below {
            let arg = format!("{cid}/{below}");
            let told = ask(client, path, &[("arg", &arg)]).await;
            assert!(is_failed(&told, why), "{told:?}");
        }
    }

    // What is not there is no empty answer.
    let (mut absent, mut folder) = (Tree::new(), Tree::new());
    let (mut some, mut gone) = (Tree::new(), Tree::new());
    some.leaf("lost", b"nobody has put it");
    gone.leaf("lost", b"nor the way to it");
    folder.node("some", some, Unixfs::Directory(Bytes::new()));
    folder.node("gone", gone, Unixfs::Directory(Bytes::new()));
    let root = absent.node("", folder, Unixfs::Directory(Bytes::new()));
    // The leaf, its folder, the leaf, its folder, the root.
    for n in [1, 4] {
        let put = store.put_many(&absent.blocks[n..=n]).await;
        put.expect("put");
    }
    let (offline, soon) = (("offline", "true"), ("timeout", "300ms"));
    let lost = format!("{root}/some/lost");
    let told = ask(client, "cat", &[("arg", &lost), offline]).await;
    assert!(is_failed(&told, "could not find"), "{told:?}");
    let told = ask(client, "get", &[("arg", &lost), soon]).await;
    assert!(is_failed(&told, "deadline exceeded"), "{told:?}");
    let told = ask(client, "ls", &[("arg", &root.to_string()), offline]).await;
    assert!(is_failed(&told, "could not find"), "{told:?}");
    let some = format!("{root}/some");
    let told = list(client, &[("arg", &some), offline]).await;
    assert_eq!(told[0]["Objects"][0]["Links"][0]["Size"], 17);
    let cut = [("arg", &root.to_string()[..]), offline];
    let told = client.stream("get", &cut, &[], 1 << 20, SOON).await;
    let (_, error) = told.expect("it begins before it knows");
    assert!(error.is_some_and(|why| why.contains("could not find")));
}

#[tokio::test]
async fn a_tree_on_an_ipfs_node_is_readable_without_pxfs() {
    let node = Kubo::start();
    let blocks = store(node.url(), Dialect::Ipfs, Login::Open);
    holds(&client(node.url(), Dialect::Ipfs, Login::Open), &*blocks).await;
}

#[tokio::test]
async fn a_tree_on_a_btfs_node_is_readable_without_pxfs() {
    let node = Btfs::start();
    let blocks = store(&node.url(), Dialect::Btfs, Login::Open);
    holds(&client(&node.url(), Dialect::Btfs, Login::Open), &*blocks).await;
}
