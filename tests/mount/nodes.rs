//! A drive on a real node: what was written can be had without pxfs, survives the node's collection
//! and its restarts, and is there on another machine.

#[allow(dead_code, reason = "shared with the suite of nodes")]
#[path = "../nodes/btfs/mod.rs"]
pub(crate) mod btfs;
#[allow(dead_code, reason = "shared with the suite of nodes")]
#[path = "../nodes/front.rs"]
pub(crate) mod front;
#[allow(dead_code, reason = "shared with the suite of nodes")]
#[path = "../nodes/kubo.rs"]
pub(crate) mod kubo;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pxfs::pack::cid::leaf_cid;
use pxfs::rpc::{Client, Dialect, Login};
use rustix::io::Errno;
use serde_json::Value;

use crate::command::{run, wait_until};
use crate::harness::Machine;
use crate::samples::pattern;
use btfs::Btfs;
use front::{Fault, Front};
use kubo::Kubo;

const SOON: Duration = Duration::from_secs(120);

/// Small and great files, an empty one, a deep one, a link.
fn write_tree(folder: &Path) {
    fs::create_dir_all(folder.join("a/b/c")).expect("folders");
    let random = |length: usize| {
        let mut bytes = vec![0; length];
        getrandom::fill(&mut bytes).expect("the system gives random bytes");
        bytes
    };
    fs::write(folder.join("empty"), b"").expect("a file");
    fs::write(folder.join("a/great"), random((3 << 20) + 7)).expect("a file");
    for i in 0..40_usize {
        fs::write(folder.join(format!("a/b/small-{i}")), random(i * 97)).expect("a file");
    }
    fs::write(folder.join("a/b/c/deep ünï"), b"deep").expect("a file");
    symlink("a/great", folder.join("link")).expect("a link");
}

/// Puts such a tree into the drive as `tree`, and publishes it; where it lies outside.
#[track_caller]
pub(crate) fn publish_tree(machine: &Machine) -> PathBuf {
    let local = machine.scratch().join("tree");
    write_tree(&local);
    let mut copy = Command::new("cp");
    copy.arg("-a").arg(&local).arg(machine.dir());
    run(copy, SOON).ok();
    machine.flush();
    local
}

/// Fails the test unless two trees are the same, links as links.
#[track_caller]
pub(crate) fn assert_same(a: &Path, b: &Path) {
    let mut command = Command::new("diff");
    command.args(["-r", "--no-dereference"]).arg(a).arg(b);
    run(command, SOON).ok();
}

/// Fails the test unless the node gives what lies at `path` as `local` is, by its own `get` and, entry by entry, by its
/// `ls`.
#[track_caller]
fn assert_comes_out(machine: &Machine, client: &Client, path: &str, local: &Path) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let ask = |call: &str, args: &[(&str, &str)]| {
        let told = client.call(call, args, &[], 64 << 20, SOON);
        runtime.block_on(told).expect("the node answers")
    };
    let out = machine.scratch().join("out of the node");
    fs::create_dir(&out).expect("a folder");
    let archive = out.join("archive.tar");
    let got = ask("get", &[("arg", path), ("archive", "true")]);
    fs::write(&archive, got).expect("a file");
    let mut tar = Command::new("tar");
    tar.arg("-xmf").arg(&archive).arg("-C").arg(&out);
    run(tar, SOON).ok();
    assert_same(local, &out.join(local.file_name().expect("a name")));
    fs::remove_dir_all(&out).expect("removed");

    let mut listed = BTreeMap::new();
    let mut left = vec![(path.to_owned(), String::new())];
    while let Some((path, below)) = left.pop() {
        let told = ask("ls", &[("arg", &path)]);
        let told: Value = serde_json::from_slice(&told).expect("JSON");
        for link in told["Objects"][0]["Links"].as_array().expect("links") {
            let name = link["Name"].as_str().expect("a name");
            let found = (
                link["Type"].as_u64().expect("a type"),
                link["Size"].as_u64().expect("a size"),
                link["Target"].as_str().expect("a target").to_owned(),
            );
            if found.0 == 1 {
                left.push((format!("{path}/{name}"), format!("{below}/{name}")));
            }
            listed.insert(format!("{below}/{name}"), found);
        }
    }
    let mut here = BTreeMap::new();
    let mut left = vec![(local.to_owned(), String::new())];
    while let Some((folder, below)) = left.pop() {
        for entry in fs::read_dir(folder).expect("a folder").flatten() {
            let path = format!("{below}/{}", entry.file_name().to_string_lossy());
            let metadata = entry.metadata().expect("an entry");
            let found = if metadata.is_dir() {
                left.push((entry.path(), path.clone()));
                (1, 0, String::new())
            } else if metadata.is_symlink() {
                let target = fs::read_link(entry.path()).expect("a symlink");
                let target = target.to_string_lossy().into_owned();
                (4, metadata.len(), target)
            } else {
                (2, metadata.len(), String::new())
            };
            here.insert(path, found);
        }
    }
    assert!(here.len() > 40);
    assert_eq!(listed, here);
}

/// The text that a token's name is.
fn name(machine: &Machine) -> String {
    let row = machine.token("1");
    row["name"].as_str().expect("a name").to_owned()
}

/// Everything of `machine` is published; another one that has the wallet alone has it all.
#[track_caller]
fn assert_found_elsewhere(mut machine: Machine, node: &str, more: &[&str], tree: &Path) {
    machine.stop();
    let mut second = Machine::prepared_second(&machine)
        .with_node(node)
        .with_args(&["--take-over"])
        .with_args(more);
    second.start();
    assert_same(tree, &second.dir().join("tree"));
    fs::write(second.dir().join("from the second"), b"too").expect("written");
    second.flush();
}

#[test]
fn an_ipfs_volume_is_readable_without_pxfs_and_from_another_machine() {
    let mut node = Kubo::start();
    let front = Front::of(node.url());
    let url = format!("ipfs={}", front.url());
    let machine = Machine::demo_with(&["--node", &url]);
    let local = publish_tree(&machine);

    // What an operator should know of the node.
    let node_args = ["doctor", "--node", &url];
    let told = machine.ask(&node_args).stdout;
    assert!(told.contains("the node is kubo/0.42.0"), "{told}");
    assert!(told.contains("does not wait for its disk"), "{told}");
    assert!(told.contains("warn  the node answers every user"), "{told}");

    let document = node.ipfs(&["cat", &format!("/ipns/{}", name(&machine))]);
    let document: Value = serde_json::from_str(&document).expect("the usage metadata");
    assert_eq!(document["tokenId"], "1");
    let root = document["root"].as_str().expect("a root");
    assert!(node.ipfs(&["pin", "ls", "--type=recursive"]).contains(root));
    let listed = node.ipfs(&["ls", &format!("{root}/tree")]);
    assert!(listed.contains("tree/"), "{listed}");
    let out = machine.scratch().join("got");
    let out_text = out.to_str().expect("a path");
    node.ipfs(&["get", "-o", out_text, &format!("{root}/tree/tree")]);
    assert_same(&local, &out);
    let client = Client::new(node.url(), Dialect::Ipfs, Login::Open).expect("a client");
    let tree = format!("{root}/tree/tree");
    assert_comes_out(&machine, &client, &tree, &local);

    node.ipfs(&["repo", "gc"]);
    assert_same(&local, &machine.dir().join("tree"));

    // Away, and back: nothing that was written meanwhile is lost.
    front.close();
    node.kill();
    fs::write(machine.dir().join("tree/while away"), b"written").expect("written without a node");
    fs::write(local.join("while away"), b"written").expect("a file");
    node.run();
    front.lead_to(node.url());
    machine.flush();
    node.ipfs(&["repo", "gc"]);
    assert_found_elsewhere(machine, &url, &[], &local);
}

/// Whoever lets it collect while pxfs commits loses nothing, and waits no longer than for a second try.
#[test]
fn commits_succeed_despite_constant_garbage_collection_on_an_ipfs_node() {
    let node = Kubo::start();
    let url = format!("ipfs={}", node.url());
    let machine = Machine::demo_with(&["--node", &url]);
    let is_over = AtomicBool::new(false);
    let local = std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    node.try_ipfs(&["repo", "gc", "--quiet"]);
                }
            });
        }
        let published = std::panic::catch_unwind(AssertUnwindSafe(|| publish_tree(&machine)));
        is_over.store(true, Ordering::Relaxed);
        published.unwrap_or_else(|why| std::panic::resume_unwind(why))
    });
    node.ipfs(&["repo", "gc"]);
    // What held the blocks until they were published is let go of.
    let pins = node.ipfs(&["pin", "ls", "--type=recursive", "--quiet"]);
    assert!(pins.lines().count() <= 6, "{pins}");
    assert_found_elsewhere(machine, &url, &[], &local);
}

#[test]
fn removed_pins_are_restored_and_the_volume_survives_garbage_collection() {
    let node = Kubo::start();
    let url = format!("ipfs={}", node.url());
    let machine = Machine::demo_with(&["--node", &url]);
    let local = publish_tree(&machine);
    let pinned = || {
        let listed = node.ipfs(&["pin", "ls", "--type=recursive", "--quiet"]);
        let mut pins: Vec<String> = listed.lines().map(str::to_owned).collect();
        pins.sort();
        pins
    };
    let document = node.ipfs(&["cat", &format!("/ipns/{}", name(&machine))]);
    let document: Value = serde_json::from_str(&document).expect("the usage metadata");
    let root = document["root"].as_str().expect("a root");
    let pins = pinned();
    assert!(pins.iter().any(|pin| pin == root), "{root}: {pins:?}");
    for pin in &pins {
        node.ipfs(&["pin", "rm", pin]);
    }
    assert!(pinned().is_empty());
    wait_until("the head is pinned again", 3 * SOON, || pinned().len() >= 2);
    assert!(pinned().iter().any(|pin| pin == root), "{root}");
    node.ipfs(&["repo", "gc"]);
    assert_found_elsewhere(machine, &url, &[], &local);
}

#[test]
fn a_password_protected_btfs_volume_survives_gc_restart_and_new_machine() {
    let mut node = Btfs::guarded("the node's password");
    let url = format!("btfs={}", node.url());
    let secret = tempfile::NamedTempFile::new().expect("a file");
    fs::write(secret.path(), "the node's password\n").expect("a password");
    let file = secret.path().to_str().expect("a path");
    let login = ["--node-password-file", file];
    let machine = Machine::demo_with(&["--node", &url, login[0], login[1]]);
    let local = publish_tree(&machine);

    let asked = Login::PasswordFile(secret.path().to_owned());
    let client = Client::new(&node.url(), Dialect::Btfs, asked).expect("a client");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let ask = |path: &str, arg: &str| {
        let args = [("arg", arg)];
        let call = client.call(path, &args, &[], 64 << 20, SOON);
        runtime.block_on(call).expect("the node answers")
    };
    let document = ask("cat", &format!("/btns/{}", name(&machine)));
    let document: Value = serde_json::from_slice(&document).expect("the usage metadata");
    assert_eq!(document["tokenId"], "1");
    ask("repo/gc", "");
    assert_same(&local, &machine.dir().join("tree"));
    let root = document["root"].as_str().expect("a root");
    let tree = format!("{root}/tree/tree");
    assert_comes_out(&machine, &client, &tree, &local);

    node.kill();
    fs::write(machine.dir().join("tree/while away"), b"written").expect("written without a node");
    fs::write(local.join("while away"), b"written").expect("a file");
    node.run();
    machine.flush();
    node.expire_tokens();
    fs::write(machine.dir().join("tree/token ended"), b"written").expect("written");
    fs::write(local.join("token ended"), b"written").expect("a file");
    machine.flush();
    ask("repo/gc", "");
    assert!(node.is_alive());
    assert!(!machine.log().contains("the node's password"));
    assert_found_elsewhere(machine, &url, &login, &local);
}

/// As docs/operator.md has it: whoever has not got the token can delete nothing.
#[test]
fn a_token_protected_ipfs_volume_survives_new_credentials_and_new_machine() {
    let mut node = Kubo::guarded("bearer:the first token");
    let front = Front::of(node.url());
    let url = format!("ipfs={}", front.url());
    let secret = tempfile::NamedTempFile::new().expect("a file");
    fs::write(secret.path(), "the first token\n").expect("a token");
    let file = secret.path().to_str().expect("a path");
    let login = ["--node-token-file", file];
    let machine = Machine::demo_with(&["--node", &url, login[0], login[1]]);
    let local = publish_tree(&machine);

    let public = serde_json::json!("/ip4/0.0.0.0/tcp/5001");
    node.configure(|config| config["Addresses"]["API"] = public);
    let told = machine.ask(&["doctor", "--node", &url, login[0], login[1]]);
    let told = told.stdout;
    assert!(told.contains("the node is kubo/0.42.0"), "{told}");
    assert!(!told.contains("open to others"), "{told}");
    assert!(!told.contains("answers every user"), "{told}");
    let denied = machine.ask(&["doctor", "--node", &url]).stdout;
    assert!(denied.contains("give --node-token-file"), "{denied}");

    let local_only = serde_json::json!("/ip4/127.0.0.1/tcp/0");
    node.configure(|config| config["Addresses"]["API"] = local_only);
    front.close();
    node.kill();
    node.want("bearer:the second token");
    fs::write(machine.dir().join("tree/while away"), b"written").expect("written without a node");
    fs::write(local.join("while away"), b"written").expect("a file");
    node.run();
    front.lead_to(node.url());
    fs::write(secret.path(), "the second token\n").expect("a token");
    machine.flush();
    for token in ["the first token", "the second token"] {
        assert!(!machine.log().contains(token));
    }
    assert_found_elsewhere(machine, &url, &login, &local);
}

/// Whoever comes in by a door of any of them can delete what is read from there.
#[test]
fn a_publicly_accessible_node_is_reported_even_if_not_first() {
    let (ipfs, btfs) = (Kubo::start(), Btfs::start());
    btfs.listen_too("/ip4/0.0.0.0/tcp/5101");
    let (first, second) = (
        format!("ipfs={}", ipfs.url()),
        format!("btfs={}", btfs.url()),
    );
    let nodes = ["--node", &first, "--node", &second];
    let machine = Machine::demo_with(&nodes);
    let told = "its RPC is open to others at /ip4/0.0.0.0/tcp/5101";
    wait_until("the log tells it", SOON, || machine.log().contains(told));
    let asked = [&["doctor"][..], &nodes].concat();
    let checks = machine.ask(&asked).stdout;
    assert!(checks.contains("the node is kubo/"), "{checks}");
    assert!(checks.contains(told), "{checks}");
    assert!(checks.contains("let Addresses.RemoteAPI be"), "{checks}");
}

#[test]
fn a_node_of_the_other_kind_is_refused_with_what_to_do() {
    let node = Btfs::start();
    let url = format!("ipfs={}", node.url());
    let mut machine = Machine::prepared("demo").with_args(&["--node", &url]);
    let log = machine.try_start().expect_err("it is no IPFS node");
    assert!(log.contains("give --node btfs="), "{log}");
}

/// A node with many peers takes longer for a name than a mount may: a machine that begins there waits for it, and
/// does not begin anew with each look.
#[test]
fn a_new_machine_waits_for_a_slow_name_and_says_so() {
    let node = Kubo::start();
    let front = Front::of(node.url());
    let url = format!("ipfs={}", front.url());
    let mut first = Machine::demo_with(&["--node", &url]);
    let local = publish_tree(&first);
    first.stop();
    let mut second = Machine::prepared_second(&first)
        .with_node(&url)
        .with_args(&["--take-over"]);
    let late = Fault::Late(Duration::from_secs(20));
    front.set_for(&["routing/get"], Some(late));
    second.start_without_token();
    let reason = second.token("1")["reason"].to_string();
    assert!(reason.contains("it is waited for"), "{reason}");
    wait_until("the drive is shown", SOON, || second.dir().exists());
    front.set(None);
    assert_same(&local, &second.dir().join("tree"));
    second.stop();
}

/// What is on the old node, which is still there, comes onto the new one with the next commit; the name
/// is told to both.
fn moves_over(from: &str, to: &str) {
    let machine = Machine::demo_with(&["--node", from]);
    let local = publish_tree(&machine);
    let mut first = machine;
    first.stop();

    // Another machine, which holds nothing, reads it through the new node.
    let mut both =
        Machine::prepared_second(&first)
            .with_node(to)
            .with_args(&["--node", from, "--take-over"]);
    both.start();
    assert_same(&local, &both.dir().join("tree"));
    fs::write(local.join("more"), b"more").expect("a file");
    // No commit waits long for the old node, and the next one tells it again.
    wait_until("both nodes are told the name", 3 * SOON, || {
        let logged = both.log().len();
        fs::write(both.dir().join("tree/more"), b"more").expect("written");
        both.flush();
        !both.log()[logged..].contains("the name is not told")
    });
    both.stop();

    for node in [to, from] {
        let mut alone = Machine::prepared_second(&first)
            .with_node(node)
            .with_args(&["--take-over"]);
        match node == to {
            true => {
                alone.start();
                assert_same(&local, &alone.dir().join("tree"));
                assert!(alone.token("1")["last_error"].is_null());
                alone.stop();
            }
            // It knows of a newer tree, which it has not got: never the old one in its place.
            false => {
                let shown = alone.try_start().is_ok();
                assert!(!shown || !alone.dir().join("tree").exists());
            }
        }
    }
}

/// A node of each kind, as `--node` takes it.
fn both() -> ((Btfs, String), (Kubo, String)) {
    let (btfs, ipfs) = (Btfs::start(), Kubo::start());
    let urls = (
        format!("btfs={}", btfs.url()),
        format!("ipfs={}", ipfs.url()),
    );
    ((btfs, urls.0), (ipfs, urls.1))
}

#[test]
fn a_volume_moves_from_a_btfs_node_to_an_ipfs_node() {
    let ((_btfs, from), (_ipfs, to)) = both();
    moves_over(&from, &to);
}

#[test]
fn a_volume_moves_from_an_ipfs_node_to_a_btfs_node() {
    let ((_btfs, to), (_ipfs, from)) = both();
    moves_over(&from, &to);
}

/// The old one is gone, and nothing was written since.
#[test]
fn flush_to_a_new_empty_node_returns_once_everything_is_there() {
    let ((_btfs, from), (_ipfs, to)) = both();
    let mut machine = Machine::demo_with(&["--node", &from]);
    let local = publish_tree(&machine);
    machine.ask(&["sync", "1", "--yes"]).ok();
    machine.stop();
    let mut machine = machine.with_node(&to);
    machine.start();
    machine.ask(&["flush"]).ok();
    machine.stop();
    machine.ask(&["fsck", "1", "--node", &to]).ok();
    let mut other = Machine::prepared_second(&machine)
        .with_node(&to)
        .with_args(&["--take-over"]);
    other.start();
    assert_same(&local, &other.dir().join("tree"));
}

/// The node has nothing of the volume, and a gateway all: the next commit brings it there.
#[test]
fn blocks_only_on_a_gateway_are_copied_not_published_as_damage() {
    let ipfs = Kubo::start();
    let mut machine = Machine::demo_with(&["--node", &format!("ipfs={}", ipfs.url())]);
    let local = publish_tree(&machine);
    machine.ask(&["sync", "1", "--yes"]).ok();
    machine.stop();
    let gateway = format!("gateway={}", ipfs.gateway());
    let empty = Btfs::start();
    let node = format!("btfs={}", empty.url());
    let mut second = Machine::prepared_second(&machine)
        .with_node(&node)
        .with_args(&["--node", &gateway, "--take-over"]);
    second.start();
    fs::write(second.dir().join("new"), "new").expect("written");
    second.ask(&["flush"]).ok();
    let status = second.ask(&["status", "--json"]).ok().json();
    assert_eq!(
        status["tokens"][0]["damaged"],
        serde_json::json!([]),
        "{status}"
    );
    second.stop();
    machine.ask(&["fsck", "1", "--node", &node]).ok();
    let mut third = Machine::prepared_second(&machine)
        .with_node(&node)
        .with_args(&["--take-over"]);
    third.start();
    assert_same(&local, &third.dir().join("tree"));
}

/// A gateway that finds nothing says so late, as a failure of its own, or not at all; and a node that is away may have it.
#[test]
fn a_lost_block_is_named_unless_an_unreachable_node_may_hold_it() {
    const MIB: usize = 1 << 20;
    let (mut node, mut old) = (Kubo::start(), Btfs::start());
    let front = Front::of(node.url());
    let (node_url, gateway) = (format!("ipfs={}", front.url()), Front::of(&node.gateway()));
    let gateway_url = format!("gateway={}", gateway.url());
    let old_url = format!("btfs={}", old.url());
    let args = ["--node", &node_url, "--read-timeout", "8s"];
    let mut machine = Machine::demo_with(&args);
    fs::write(machine.dir().join("f"), pattern(1, 0, 3 * MIB)).expect("written");
    machine.flush();
    machine.stop();
    fs::remove_dir_all(machine.cache()).expect("a cache");
    node.kill();
    node.lose(&leaf_cid(&pattern(1, MIB as u64, MIB)));
    node.run();
    front.lead_to(node.url());
    gateway.set(Some(Fault::Status(504)));
    let read = |machine: &Machine, at: usize| {
        let file = File::open(machine.dir().join("f")).expect("opened");
        let read = file.read_exact_at(&mut [0], at as u64);
        read.map_err(|error| error.raw_os_error())
    };
    let errno = |errno: Errno| Err(Some(errno.raw_os_error()));

    // Nobody can say that the node which is away has not got it.
    old.kill();
    let mut machine = machine.with_args(&["--node", &old_url, "--node", &gateway_url]);
    machine.start();
    assert_eq!(read(&machine, MIB), errno(Errno::TIMEDOUT));
    let told = machine.ask(&["status"]).ok().stdout;
    let place = old_url.trim_start_matches("btfs=");
    assert!(told.contains(&format!("node   {place}  ")), "{told}");
    let is_away = |line: &&str| line.contains(place) && line.contains("cannot be reached");
    assert!(told.lines().any(|line| is_away(&line)), "{told}");
    assert_eq!(machine.token("1")["damaged"], serde_json::json!([]));

    old.run();
    // Who reads while the answer is out has that one.
    wait_until("the loss is told", SOON, || {
        let read = read(&machine, MIB);
        assert!(read.is_err());
        read == errno(Errno::IO)
    });
    assert_eq!(machine.token("1")["damaged"][0]["path"], "f");
    assert_eq!(read(&machine, 2 * MIB), Ok(()));
    machine.terminate();
}

/// It serves files, and no single blocks: nothing can be read from it, and nothing hangs or is taken for lost for that.
#[test]
fn doctor_says_a_btfs_gateway_only_serves_the_oracle() {
    let (old, empty) = (Btfs::start(), Btfs::start());
    let mut machine = Machine::demo_with(&["--node", &format!("btfs={}", old.url())]);
    publish_tree(&machine);
    machine.ask(&["sync", "1", "--yes"]).ok();
    machine.stop();
    let node = format!("btfs={}", empty.url());
    let gateway = format!("gateway={}", old.gateway_url());
    let names = format!("{gateway}/btns/{{name}}");
    let alone = machine.ask(&["fsck", "1", "--repair", "--node", &node, "--node", &gateway]);
    assert_ne!(alone.code, Some(0), "{alone:?}");
    assert!(alone.stderr.contains("missing"), "{alone:?}");
    let doctor = |gateway: &str| {
        let told = machine.ask(&["doctor", "--node", &node, "--node", gateway]);
        let lines = told.stdout.lines().map(str::to_owned);
        lines
            .filter(|line| line.contains("gateway "))
            .collect::<Vec<_>>()
    };
    let told = doctor(&names);
    assert!(
        matches!(&told[..], [line] if line.starts_with("ok ")),
        "{told:?}"
    );
    assert!(told[0].contains("whole files by name"), "{told:?}");
    let told = doctor(&gateway);
    assert!(
        matches!(&told[..], [line] if line.starts_with("FAIL ")),
        "{told:?}"
    );
    assert!(told[0].contains("/btns/{name}"), "{told:?}");
}

/// The node has nothing of the volume; a gateway has, and is not believed.
#[test]
fn blocks_missing_on_the_node_are_read_from_a_gateway_and_verified() {
    let ipfs = Kubo::start();
    let mut machine = Machine::demo_with(&["--node", &format!("ipfs={}", ipfs.url())]);
    let local = publish_tree(&machine);
    // A gateway tells no name: the chain does.
    machine.ask(&["sync", "1", "--yes"]).ok();
    machine.stop();
    let front = Front::of(&ipfs.gateway());
    let empty = Btfs::start();
    let gateway = format!("gateway={}", front.url());
    let mut second = Machine::prepared_second(&machine)
        .with_node(&format!("btfs={}", empty.url()))
        .with_args(&["--node", &gateway, "--take-over", "--read-timeout", "20s"]);
    second.start();
    assert_eq!(
        fs::read(second.dir().join("tree/empty")).expect("read"),
        b""
    );
    front.set(Some(Fault::WrongBytes));
    let wrong = fs::read(second.dir().join("tree/a/great"));
    assert!(wrong.is_err(), "bytes that nobody has written");
    front.set(None);
    assert_same(&local, &second.dir().join("tree"));
    second.stop();
    let alone = machine.ask(&["fsck", "1", "--node", &gateway]);
    assert_eq!(alone.code, Some(2), "{alone:?}");
}
