//! Bytes that somebody has changed on the node, in every kind of block that is published.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use ::cid::Cid;
use pxfs::pack::cid::{self, Kind};
use pxfs::pack::dagpb::Node;

use crate::harness::Machine;
use crate::samples::{assert_pattern, files_below, pattern};

/// Changes the byte at `at` of a file; gives the old content.
fn flip(path: &Path, at: usize) -> Vec<u8> {
    let old = fs::read(path).expect("readable");
    let mut new = old.clone();
    new[at] ^= 0x20;
    write_over(path, &new);
    old
}

/// Puts other bytes into a file that nobody is to change.
fn write_over(path: &Path, bytes: &[u8]) {
    let mode = fs::metadata(path).expect("stat").permissions();
    fs::set_permissions(path, Permissions::from_mode(0o600)).expect("a mode");
    fs::write(path, bytes).expect("writable");
    fs::set_permissions(path, mode).expect("a mode");
}

/// The files of the node that hold what is published under `root`, by what they are. Those of
/// earlier commits are not among them.
fn published_files(node: &Path, root: &str) -> BTreeMap<&'static str, Vec<PathBuf>> {
    let mut files: BTreeMap<&str, Vec<PathBuf>> = BTreeMap::new();
    let mut places = BTreeMap::new();
    for (path, _) in files_below(&node.join("blocks/blocks")) {
        let name = path.file_name().and_then(|name| name.to_str());
        let Ok(cid) = Cid::try_from(name.expect("UTF-8")) else {
            continue;
        };
        let text = fs::read(&path).expect("readable");
        let text = String::from_utf8_lossy(&text);
        if text.contains("{\"version\":1,") && text.contains(root) {
            files.entry("document").or_default().push(path.clone());
        }
        places.insert(cid, path);
    }
    let records = files_below(&node.join("names"));
    let records = records
        .into_iter()
        .filter(|(path, len)| *len > 0 && !path.ends_with("lock") && !path.ends_with("format"));
    files.insert("name record", records.map(|(path, _)| path).collect());
    let mut left = vec![("root", Cid::try_from(root).expect("a CID"))];
    while let Some((kind, cid)) = left.pop() {
        let path = places[&cid].clone();
        let data = fs::read(&path).expect("readable");
        let node = match kind {
            "leaf" | "header" => None,
            _ => Some(Node::decode(&cid, &data.into()).expect("a node")),
        };
        for link in node.into_iter().flat_map(|node| node.links) {
            let below = match (kind, &link.name[..]) {
                _ if cid::kind(&link.cid) == Ok(Kind::Leaf) && kind != "root" => "leaf",
                ("root", b"header") => "header",
                ("root", b"links") => "inode table",
                ("root", _) => "page",
                ("page", b"folder") => "page",
                _ => "file node",
            };
            left.push((below, link.cid));
        }
        files.entry(kind).or_default().push(path);
    }
    files
}

#[test]
fn no_changed_byte_on_the_node_is_ever_given_to_a_reader() {
    let mut machine = Machine::demo();
    let dir = machine.dir();
    let (small, large) = (pattern(1, 0, 3_000), pattern(2, 0, 2_500_000));
    fs::create_dir(dir.join("folder")).expect("mkdir");
    fs::write(dir.join("folder/small"), &small).expect("writable");
    fs::write(dir.join("folder/linked"), &small).expect("writable");
    fs::hard_link(dir.join("folder/linked"), dir.join("folder/again")).expect("link");
    fs::write(dir.join("large"), &large).expect("writable");
    machine.flush();
    let root = machine.token("1")["root"]
        .as_str()
        .expect("a root")
        .to_owned();
    machine.stop();
    let files = published_files(&machine.node(), &root);
    for kind in [
        "root",
        "header",
        "page",
        "inode table",
        "file node",
        "leaf",
        "document",
        "name record",
    ] {
        assert!(files.contains_key(kind), "no {kind} among {files:#?}");
    }
    for (kind, path) in files
        .iter()
        .flat_map(|(kind, paths)| paths.iter().map(move |path| (kind, path)))
    {
        let len = fs::metadata(path).expect("stat").len() as usize;
        for at in [0, len / 3, 2 * len / 3, len - 1] {
            let old = flip(path, at);
            // A second machine knows nothing but what the node says.
            let mut second = Machine::prepared_second(&machine);
            let mut is_noticed = second.try_start().is_err();
            if !is_noticed {
                for (name, right) in [
                    ("folder/small", &small),
                    ("folder/again", &small),
                    ("large", &large),
                ] {
                    // What is read is right, whatever else is broken.
                    match fs::read(second.dir().join(name)) {
                        Ok(bytes) => assert!(bytes == *right, "{kind}, byte {at}: {name}"),
                        Err(_) => is_noticed = true,
                    }
                }
            }
            second.kill();
            drop(second);
            write_over(path, &old);
            // Of a record only what is signed counts: around it anything may stand.
            let counts = *kind != "name record";
            assert!(
                is_noticed || !counts,
                "{kind}, byte {at} of {len}: nobody noticed"
            );
        }
    }
    let mut second = Machine::second(&machine);
    assert_pattern(&second.dir().join("large"), 2, 2_500_000);
    second.stop();
}
