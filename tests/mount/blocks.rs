//! What can be done with the blocks of a volume, on each kind of node: one file fetched or shared, all of it
//! checked and mended, taken out as an archive and put back.

use std::fs;
use std::os::unix::fs::symlink;

use cid::Cid;
use pxfs::pack::cid::leaf_cid;

use crate::command::Answer;
use crate::harness::Machine;
use crate::lost::leaf_file;
use crate::nodes::btfs::Btfs;
use crate::nodes::kubo::Kubo;
use crate::nodes::{assert_same, publish_tree};
use crate::samples::pattern;

const MIB: usize = 1 << 20;

/// A volume is whole; it loses a leaf, which is told by path; it is put again from the cache.
fn is_checked_and_mended(node: &[&str], lose: impl FnOnce(&Machine, &Cid, &str)) {
    let mut machine = Machine::demo_with(node);
    fs::create_dir(machine.dir().join("dir")).expect("a directory");
    fs::write(machine.dir().join("dir/f"), pattern(1, 0, 3 * MIB)).expect("written");
    symlink("f", machine.dir().join("dir/link")).expect("a link");
    let sparse = fs::File::create(machine.dir().join("sparse")).expect("a file");
    sparse.set_len(1 << 40).expect("a hole");
    drop(sparse);
    machine.flush();
    let whole = machine.ask(&["fsck", "1", "--json"]).ok().json();
    assert_eq!(whole["damaged"], serde_json::json!([]), "{whole:#}");
    assert!(whole["bytes"].as_u64() > Some(4 * MIB as u64), "{whole:#}");
    let root = machine.token("1")["root"]
        .as_str()
        .expect("a root")
        .to_owned();
    machine.stop();

    let fsck =
        |more: &[&str]| -> Answer { machine.ask(&[&["fsck", "1", "--json"], node, more].concat()) };
    let leaf = leaf_cid(&pattern(1, MIB as u64, MIB));
    lose(&machine, &leaf, &root);
    let found = fsck(&[]);
    assert_eq!(found.code, Some(9), "{found:?}");
    let found = found.json();
    let damaged = found["damaged"].as_array().expect("a list");
    let row = damaged.iter().find(|row| row["path"] == "dir/f");
    assert_eq!(row.expect("by path")["cid"], leaf.to_string(), "{found:#}");
    let mended = fsck(&["--repair"]).ok().json();
    assert!(mended["repaired"].as_u64() > Some(0), "{mended:#}");
    let again = fsck(&[]).ok().json();
    assert_eq!(again["repaired"], 0);
    assert_eq!(again["blocks"], whole["blocks"]);
}

#[test]
fn a_loss_on_the_embedded_node_is_told_by_path_and_mended() {
    is_checked_and_mended(&[], |machine, _, _| {
        let leaf = leaf_file(machine, &pattern(1, MIB as u64, MIB));
        fs::remove_file(leaf).expect("a leaf");
    });
}

#[test]
fn a_loss_on_an_ipfs_node_is_told_by_path_and_mended_and_its_pin() {
    let node = Kubo::start();
    let url = format!("ipfs={}", node.url());
    is_checked_and_mended(&["--node", &url], |_, leaf, root| {
        node.ipfs(&["pin", "rm", root]);
        node.ipfs(&["block", "rm", &leaf.to_string()]);
    });
    assert!(!node.ipfs(&["pin", "ls", "--type=recursive"]).is_empty());
}

#[test]
fn a_loss_on_a_btfs_node_is_told_by_path_and_mended() {
    let node = Btfs::start();
    let url = format!("btfs={}", node.url());
    is_checked_and_mended(&["--node", &url], |_, leaf, _| node.lose(leaf));
}

#[test]
fn a_volume_goes_from_btfs_to_ipfs_and_back_as_an_archive_that_stock_tools_read_and_write() {
    let (btfs, ipfs) = (Btfs::start(), Kubo::start());
    let from = format!("btfs={}", btfs.url());
    let mut machine = Machine::demo_with(&["--node", &from]);
    let local = publish_tree(&machine);
    // Another machine is to find the root through the chain alone.
    machine.ask(&["sync", "1"]).ok();
    let root = machine.token("1")["root"]
        .as_str()
        .expect("a root")
        .to_owned();
    let archive = machine.scratch().join("volume.car");
    let archive = archive.to_str().expect("a path");
    let told = machine.ask(&["export", "1", archive, "--json"]).ok().json();
    assert_eq!(told["root"], root);
    let refused = machine.ask(&["export", "1", archive]);
    assert_eq!(refused.code, Some(2), "what is there is never written over");
    machine.stop();
    drop(btfs);

    // Stock tools take it as it is.
    let stock = Kubo::start();
    stock.ipfs(&["dag", "import", archive]);
    let out = machine.scratch().join("got");
    stock.ipfs(&[
        "get",
        "-o",
        out.to_str().expect("a path"),
        &format!("{root}/tree/tree"),
    ]);
    assert_same(&local, &out);
    let theirs = machine.scratch().join("theirs.car");
    let exported = stock.try_ipfs(&["dag", "export", "--progress=false", &root]);
    fs::write(&theirs, exported.stdout).expect("an archive");

    let back = Btfs::start();
    let nodes = [
        (archive, format!("ipfs={}", ipfs.url())),
        (
            theirs.to_str().expect("a path"),
            format!("btfs={}", back.url()),
        ),
    ];
    for (archive, node) in &nodes {
        machine.ask(&["import", "1", archive, "--node", node]).ok();
        let mut second = Machine::prepared_second(&machine)
            .with_node(node)
            .with_args(&["--take-over"]);
        second.start();
        assert_same(&local, &second.dir().join("tree"));
        second.stop();
    }
    let cut = fs::read(archive).expect("an archive");
    fs::write(&theirs, &cut[..cut.len() - 1]).expect("an archive");
    let theirs = theirs.to_str().expect("a path");
    let refused = machine.ask(&["import", "1", theirs, "--node", &nodes[0].1]);
    assert!(refused.stderr.contains("it is cut"), "{refused:?}");
}

#[test]
fn one_file_is_shared_by_its_cid_and_fetched_by_it_also_one_that_others_have_added() {
    let node = Kubo::start();
    let url = format!("ipfs={}", node.url());
    let machine = Machine::demo_with(&["--node", &url]);
    let bytes = pattern(3, 0, 2 * MIB + 500_000);
    let shared = machine.dir().join("a file");
    fs::write(&shared, &bytes).expect("written");
    let shared = shared.to_str().expect("a path");
    let cid = machine.ask(&["share", shared]).ok().stdout;
    let cid = cid.trim();
    assert!(node.ipfs(&["pin", "ls", "--type=recursive"]).contains(cid));
    let get = |cid: &str, name: &str| {
        let file = machine.scratch().join(name);
        let answer = machine.ask(&["get", cid, file.to_str().expect("a path")]);
        (answer, fs::read(file).ok())
    };
    let (answer, got) = get(cid, "shared");
    answer.ok();
    assert!(got.as_ref() == Some(&bytes));
    let local = machine.scratch().join("local");
    fs::write(&local, &bytes).expect("a file");
    for chunker in ["size-65536", "size-3000"] {
        let chunker = format!("--chunker={chunker}");
        let local = local.to_str().expect("a path");
        let cid = node.ipfs(&["add", "-Q", &chunker, local]);
        let (answer, got) = get(cid.trim(), &chunker[10..]);
        answer.ok();
        assert!(got.as_ref() == Some(&bytes), "{chunker}");
    }
    let root = machine.token("1")["root"]
        .as_str()
        .expect("a root")
        .to_owned();
    for (cid, code) in [
        (root, 2),
        (leaf_cid(b"nobody has this").to_string(), 4),
        ("no cid".to_owned(), 2),
    ] {
        let (answer, got) = get(&cid, "nothing");
        assert_eq!(answer.code, Some(code), "{answer:?}");
        assert!(got.is_none(), "a file that is half there");
    }
    let outside = machine.ask(&["share", local.to_str().expect("a path")]);
    assert_eq!(outside.code, Some(10), "{outside:?}");
}
