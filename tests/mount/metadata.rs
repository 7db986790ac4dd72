//! What a commit leaves on the node, read as anybody else would: by name, from blocks alone, with
//! none of the volume format's code.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use cid::Cid;
use ed25519_dalek::Signature;
use pxfs::clock::SystemClock;
use pxfs::names::embedded::EmbeddedNames;
use pxfs::names::record::Record;
use pxfs::names::{NameStore, key};
use pxfs::store::BlockStoreExt;
use pxfs::store::embedded::EmbeddedStore;
use rustix::fs::getxattr;
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::harness::Machine;
use crate::samples::pattern;

/// The node of a machine that was stopped.
struct Node {
    runtime: Runtime,
    blocks: EmbeddedStore,
    names: EmbeddedNames,
}

/// A node of UnixFS: its type (1 directory, 2 file, 4 symlink), its own bytes, and its links.
struct Unixfs {
    kind: u64,
    data: Vec<u8>,
    links: Vec<(Vec<u8>, Cid)>,
}

impl Node {
    fn open(folder: &Path) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let clock = Arc::new(SystemClock);
        // Some of it may start tasks.
        let _context = runtime.enter();
        let blocks =
            EmbeddedStore::open(&folder.join("blocks"), clock.clone()).expect("the blocks");
        let names = EmbeddedNames::open(&folder.join("names"), clock).expect("the names");
        drop(_context);
        Self {
            runtime,
            blocks,
            names,
        }
    }

    fn block(&self, cid: &Cid) -> Vec<u8> {
        self.runtime
            .block_on(self.blocks.get(cid))
            .expect("a block that is linked")
            .to_vec()
    }

    /// What `name` points at.
    fn resolve(&self, name: &str) -> Cid {
        let bytes = self
            .runtime
            .block_on(self.names.resolve(name))
            .expect("a record");
        Record::verify(name, &bytes).expect("a valid record").cid
    }

    fn unixfs(&self, cid: &Cid) -> Unixfs {
        let mut node = Unixfs {
            kind: 2,
            data: Vec::new(),
            links: Vec::new(),
        };
        if cid.codec() == 0x55 {
            node.data = self.block(cid);
            return node;
        }
        for (field, value) in fields(&self.block(cid)) {
            match field {
                1 => {
                    let inner = fields(&value);
                    let of = |wanted: u64| inner.iter().find(|(field, _)| *field == wanted);
                    node.kind = of(1).map_or(0, |(_, value)| u64::from(value[0]));
                    node.data = of(2).map_or_else(Vec::new, |(_, value)| value.clone());
                }
                2 => {
                    let link = fields(&value);
                    let of = |wanted: u64| {
                        link.iter()
                            .find(|(field, _)| *field == wanted)
                            .map(|(_, value)| value.clone())
                    };
                    let cid = Cid::try_from(of(1).expect("a hash")).expect("a CID");
                    node.links.push((of(2).unwrap_or_default(), cid));
                }
                other => panic!("field {other} in a dag-pb node"),
            }
        }
        node
    }

    /// All bytes of a file, leaf by leaf.
    fn file(&self, cid: &Cid) -> Vec<u8> {
        let node = self.unixfs(cid);
        assert_eq!(node.kind, 2, "a file");
        node.links.iter().fold(node.data, |mut bytes, (_, child)| {
            bytes.extend(self.file(child));
            bytes
        })
    }

    /// The names in a directory.
    fn directory(&self, cid: &Cid) -> BTreeMap<String, Cid> {
        let node = self.unixfs(cid);
        assert_eq!(node.kind, 1, "a directory");
        let named = |(name, cid): (Vec<u8>, Cid)| (String::from_utf8(name).expect("UTF-8"), cid);
        node.links.into_iter().map(named).collect()
    }
}

/// The fields of a protobuf message: number and bytes (of a varint, its little-endian value).
fn fields(message: &[u8]) -> Vec<(u64, Vec<u8>)> {
    fn varint(rest: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let (byte, more) = rest.split_first().expect("a whole varint");
            *rest = more;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        value
    }
    let mut rest = message;
    let mut found = Vec::new();
    while !rest.is_empty() {
        let tag = varint(&mut rest);
        let value = match tag & 7 {
            0 => varint(&mut rest).to_le_bytes().to_vec(),
            2 => {
                let len = usize::try_from(varint(&mut rest)).expect("a length");
                let (value, more) = rest.split_at(len);
                rest = more;
                value.to_vec()
            }
            other => panic!("wire type {other}"),
        };
        found.push((tag >> 3, value));
    }
    found
}

fn attribute(path: &Path, name: &str) -> String {
    let mut value = [0; 256];
    let len = getxattr(path, name, &mut value)
        .unwrap_or_else(|why| panic!("{name} of {}: {why}", path.display()));
    String::from_utf8(value[..len].to_vec()).expect("text")
}

#[test]
fn the_usage_metadata_is_true_and_leads_to_the_tree() {
    let mut machine = Machine::demo_with(&["--commit-idle", "1h", "--commit-max", "1h"]);
    let dir = machine.dir();
    fs::create_dir(dir.join("folder")).expect("mkdir");
    fs::write(dir.join("folder/small"), pattern(1, 0, 5000)).expect("write");
    fs::write(dir.join("large"), pattern(2, 0, 3_000_000)).expect("write");
    std::os::unix::fs::symlink("large", dir.join("link")).expect("symlink");
    assert_eq!(attribute(&dir.join("large"), "user.px.state"), "local");
    machine.flush();
    let root = attribute(&dir, "user.px.root");
    assert_eq!(machine.token("1")["root"], root);
    assert_eq!(attribute(&dir.join("large"), "user.px.state"), "published");
    let large = attribute(&dir.join("large"), "user.px.cid");
    let small = attribute(&dir.join("folder/small"), "user.px.cid");
    machine.ask(&["sync", "1", "--yes"]).ok();
    let row = machine.token("1");
    assert_eq!(
        row["used_bytes"], row["usage_on_chain_bytes"],
        "after a sync the chain has what is used"
    );
    assert_eq!(
        attribute(&dir, "user.px.root"),
        row["root"].as_str().unwrap_or("")
    );
    assert_eq!(
        attribute(&dir, "user.px.name"),
        row["name"].as_str().unwrap_or("")
    );
    let chain_id = machine.status()["chain"]["id"].clone();
    machine.stop();

    let node = Node::open(&machine.node());
    let name = row["name"].as_str().expect("a name");
    let bytes = node.file(&node.resolve(name));
    let text = String::from_utf8(bytes).expect("text");
    let document: Value = serde_json::from_str(&text).expect("JSON");

    // The closed form: these keys in this order, nothing else, no spaces.
    let keys = [
        "version",
        "chainId",
        "contract",
        "tokenId",
        "epoch",
        "quota",
        "usage",
        "uploads",
        "cid",
        "root",
        "sequence",
        "updated",
        "signature",
    ];
    let mut places: Vec<usize> = Vec::new();
    for key in keys {
        places.push(
            text.find(&format!("\"{key}\":"))
                .unwrap_or_else(|| panic!("no {key} in {text}")),
        );
    }
    assert!(places.is_sorted() && !text.contains(' '), "{text}");
    assert_eq!(
        document.as_object().map(serde_json::Map::len),
        Some(keys.len())
    );

    // True values.
    assert_eq!(document["version"], 1);
    assert_eq!(document["chainId"], chain_id);
    assert_eq!(
        document["contract"].as_str(),
        row["contract"].as_str().map(str::to_lowercase).as_deref()
    );
    assert_eq!(document["tokenId"], "1");
    for (field, told) in [
        ("epoch", "epoch"),
        ("quota", "quota_bytes"),
        ("usage", "used_bytes"),
        ("sequence", "sequence"),
    ] {
        assert_eq!(document[field], row[told], "{field}");
    }
    assert_eq!(document["root"], row["root"]);

    // Signed by the key whose name it is found under, over everything before the signature.
    let (signed, signature) = text.split_once(",\"signature\":\"").expect("a signature");
    let message = format!("pxfs-usage-v1:{signed}}}");
    let signature = data_encoding::HEXLOWER
        .decode(signature.trim_end_matches("\"}").as_bytes())
        .expect("hex");
    let signature = Signature::from_slice(&signature).expect("64 bytes");
    let key = key::public_key(name).expect("a name of a key");
    key.verify_strict(message.as_bytes(), &signature)
        .expect("a valid signature");

    // `root` and `cid` lead to the files.
    let cid = |field: &str| Cid::from_str(document[field].as_str().expect("a CID")).expect("a CID");
    let root = node.directory(&cid("root"));
    assert_eq!(
        root.keys().map(String::as_str).collect::<Vec<_>>(),
        ["header", "links", "tree"]
    );
    assert_eq!(root["tree"], cid("cid"));
    let tree = node.directory(&cid("cid"));
    assert_eq!(
        tree.keys().map(String::as_str).collect::<Vec<_>>(),
        ["folder", "large", "link"]
    );
    assert_eq!(tree["large"].to_string(), large);
    assert!(node.file(&tree["large"]) == pattern(2, 0, 3_000_000));
    let link = node.unixfs(&tree["link"]);
    assert_eq!((link.kind, link.data.as_slice()), (4, &b"large"[..]));
    let folder = node.directory(&tree["folder"]);
    assert_eq!(folder["small"].to_string(), small);
    assert!(node.file(&folder["small"]) == pattern(1, 0, 5000));
}
