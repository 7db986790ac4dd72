//! What can be done with the blocks of a volume, on each kind of node: one file fetched or shared, all of it
//! checked and mended, taken out as an archive and put back.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cid::Cid;
use pxfs::pack::cid::leaf_cid;
use pxfs::rpc::{Client, Dialect, Login};
use rustix::fs::{XattrFlags, setxattr};

use crate::command::{Answer, wait_until};
use crate::harness::Machine;
use crate::lost::leaf_file;
use crate::nodes::btfs::Btfs;
use crate::nodes::front::{Fault, Front};
use crate::nodes::kubo::Kubo;
use crate::nodes::{assert_same, publish_tree};
use crate::samples::pattern;

const MIB: usize = 1 << 20;
/// More than anything here takes on a loaded machine.
const SOON: Duration = Duration::from_secs(120);

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
fn fsck_on_ipfs_names_lost_files_and_repairs_blocks_and_pin() {
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
fn a_volume_moves_between_btfs_and_ipfs_as_a_standard_archive() {
    let (btfs, ipfs) = (Btfs::start(), Kubo::start());
    let from = format!("btfs={}", btfs.url());
    let mut machine = Machine::demo_with(&["--node", &from]);
    let local = publish_tree(&machine);
    // Another machine is to find the root through the chain alone.
    machine.ask(&["sync", "1", "--yes"]).ok();
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

/// A drive is on one node, and the archive is to be on another.
#[test]
fn import_goes_to_the_named_node_even_beside_a_mounted_drive() {
    let (node, other) = (Btfs::start(), Btfs::start());
    let machine = Machine::demo_with(&["--node", &format!("btfs={}", node.url())]);
    fs::write(machine.dir().join("f"), pattern(1, 0, 100_000)).expect("written");
    machine.flush();
    let archive = machine.scratch().join("volume.car");
    let archive = archive.to_str().expect("a path");
    machine.ask(&["export", "1", archive]).ok();
    let named = format!("btfs={}", other.url());
    machine
        .ask(&["import", "1", archive, "--node", &named])
        .ok();
    let client = Client::new(&other.url(), Dialect::Btfs, Login::Open).expect("a client");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let args = [("type", "recursive"), ("stream", "true")];
    let listed = client.call("pin/ls", &args, &[], 1 << 20, Duration::from_secs(60));
    let listed = runtime.block_on(listed).expect("the node answers");
    let root = machine.token("1")["root"].to_string();
    let root = root.trim_matches('"');
    assert!(
        String::from_utf8_lossy(&listed).contains(root),
        "{listed:?}"
    );
}

/// Each search takes seconds, and a node without peers has nobody to find anything.
#[test]
fn umount_or_an_aborted_fsck_does_not_wait_for_block_searches() {
    let node = Btfs::start();
    let front = Front::of(&node.url());
    let url = format!("btfs={}", front.url());
    let mut machine = Machine::demo_with(&["--node", &url]);
    for i in 0..40 {
        let name = format!("f{i}");
        fs::write(machine.dir().join(&name), &name).expect("written");
    }
    machine.stop();
    fs::remove_dir_all(machine.cache()).expect("the cache");
    for i in 0..40 {
        node.lose(&leaf_cid(format!("f{i}").as_bytes()));
    }
    machine.start();
    // Each block is asked for once, and then those that are lost again.
    let searching = || {
        front.asked();
        let mut command = machine.command();
        command
            .args(["fsck", "1", "--state-dir"])
            .arg(machine.state());
        let silent = command.stdout(Stdio::null()).stderr(Stdio::null());
        let child = silent.spawn().expect("pxfs");
        let mut asked = 0;
        wait_until("it searches", SOON, || {
            let paths = front.asked();
            asked += paths
                .iter()
                .filter(|path| path.ends_with("block/get"))
                .count();
            asked > 64
        });
        child
    };
    // Who gives it up ends it.
    let mut given_up = searching();
    given_up.kill().expect("it runs");
    given_up.wait().expect("it ends");
    let begin = Instant::now();
    let told = machine.ask(&["fsck", "1", "--json"]);
    assert_eq!(told.code, Some(9), "{told:?}");
    assert_eq!(told.json()["damaged"].as_array().map(Vec::len), Some(40));
    let checked = begin.elapsed();
    assert!(checked < SOON / 2, "{checked:?} for a check");
    let mut beside = searching();
    let begin = Instant::now();
    let place = machine.mountpoint();
    let place = place.to_str().expect("a path");
    machine.ask(&["umount", "--now", place]).ok();
    let left = begin.elapsed();
    assert!(left < Duration::from_secs(15), "{left:?} to leave");
    beside.wait().expect("it ends");
    machine.ended(SOON);
}

#[test]
fn a_file_is_shared_and_fetched_by_cid_even_if_foreign() {
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

/// A file is shared, and fetched by its CID, once more after `only` has left nothing else on the node.
fn is_shared_and_fetched(node: &[&str], only: impl FnOnce(&str)) {
    let machine = Machine::demo_with(node);
    let bytes = pattern(3, 0, 2 * MIB + 500_000);
    let shared = machine.dir().join("a file");
    fs::write(&shared, &bytes).expect("written");
    let share = ["share", shared.to_str().expect("a path")];
    let cid = machine.ask(&share).ok().stdout;
    assert_eq!(machine.ask(&share).ok().stdout, cid);
    let cid = cid.trim();
    let get = |cid: &str, name: &str| {
        let file = machine.scratch().join(name);
        let answer = machine.ask(&["get", cid, file.to_str().expect("a path")]);
        (answer, fs::read(file).ok())
    };
    let leaf = &bytes[..MIB];
    let (answer, got) = get(&leaf_cid(leaf).to_string(), "leaf");
    answer.ok();
    assert!(got.as_deref() == Some(leaf));
    let (answer, got) = get(&leaf_cid(b"nobody has this").to_string(), "nothing");
    assert_eq!(answer.code, Some(4), "{answer:?}");
    assert!(got.is_none(), "a file that is half there");
    only(cid);
    let (answer, got) = get(cid, "shared");
    answer.ok();
    assert!(got == Some(bytes));
}

#[test]
fn a_shared_file_on_btfs_survives_deleting_its_volume() {
    let node = Btfs::start();
    let url = format!("btfs={}", node.url());
    let client = Client::new(&node.url(), Dialect::Btfs, Login::Open).expect("a client");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let ask = |path: &str, args: &[(&str, &str)]| {
        let call = client.call(path, args, &[], 64 << 20, Duration::from_secs(60));
        let answer = runtime.block_on(call).expect("the node answers");
        String::from_utf8(answer.to_vec()).expect("text")
    };
    is_shared_and_fetched(&["--node", &url], |shared| {
        let listed = ask("pin/ls", &[("type", "recursive"), ("stream", "true")]);
        assert!(listed.contains(shared), "{listed}");
        for line in listed.lines().filter(|line| !line.contains(shared)) {
            let line: serde_json::Value = serde_json::from_str(line).expect("a line");
            ask("pin/rm", &[("arg", line["Cid"].as_str().expect("a CID"))]);
        }
        ask("repo/gc", &[]);
    });
}

#[test]
fn a_file_on_the_embedded_node_is_shared_and_fetched_by_cid() {
    is_shared_and_fetched(&[], |_| {});
}

/// Runs a stock tool.
fn tool(name: &str, args: &[&str]) -> String {
    let run = Command::new(name).args(args).output();
    let run = run.unwrap_or_else(|fault| panic!("{name}: {fault}"));
    assert!(
        run.status.success(),
        "{name} {args:?}: {}",
        String::from_utf8_lossy(&run.stderr)
    );
    String::from_utf8_lossy(&run.stdout).into_owned()
}

/// What `find` says of all below `folder`.
fn found(folder: &Path) -> Vec<String> {
    let format = "%P|%y|%m|%U|%G|%s|%n|%l|%T@\\n";
    let folder = folder.to_str().expect("a path");
    let told = tool("find", &[folder, "-mindepth", "1", "-printf", format]);
    let mut lines: Vec<String> = told.lines().map(str::to_owned).collect();
    // A folder's length and links are its file system's affair.
    for line in lines.iter_mut().filter(|line| line.contains("|d|")) {
        let parts: Vec<&str> = line.split('|').collect();
        *line = [&parts[..5], &parts[7..]].concat().join("|");
    }
    lines.sort();
    lines
}

#[test]
fn export_gives_a_tar_that_unpacks_every_file_unchanged() {
    let mut machine = Machine::demo();
    let top = machine.dir().join("all");
    fs::create_dir_all(top.join("empty")).expect("a directory");
    let at = |name: &str| top.join(name).to_str().expect("a path").to_owned();
    fs::write(at("f"), pattern(1, 0, 2 * MIB + 77)).expect("written");
    fs::write(at("none"), b"").expect("written");
    fs::write(at(&"long-".repeat(40)), b"long").expect("written");
    fs::write(top.join(OsStr::from_bytes(b"not \xff text")), b"bytes").expect("written");
    symlink("f", at("link")).expect("a link");
    symlink("x".repeat(200), at("far")).expect("a link");
    fs::hard_link(at("f"), at("empty/again")).expect("a link");
    let sparse = fs::File::create(at("sparse")).expect("a file");
    sparse.write_all_at(b"here", 5 << 30).expect("written");
    sparse.set_len(40 << 30).expect("a hole");
    drop(sparse);
    tool("mkfifo", &[&at("fifo")]);
    tool("mknod", &[&at("null"), "c", "1", "300"]);
    tool("chown", &["-h", "3000000:7", &at("link"), &at("none")]);
    tool("chmod", &["6751", &at("none")]);
    tool(
        "touch",
        &["-d", "1960-05-06 07:08:09.123456789", &at("none")],
    );
    setxattr(at("none"), "user.colour", b"blue", XattrFlags::empty()).expect("an attribute");
    let socket = UnixListener::bind(at("socket")).expect("a socket");
    drop(socket);
    machine.flush();

    let archive = machine.scratch().join("all.tar");
    let archive = archive.to_str().expect("a path");
    let told = machine.ask(&["export", "1", "--tar", archive, "--json"]);
    let told = told.ok().json();
    assert_eq!(told["left_out"], 1, "{told:#}");
    let length = fs::metadata(archive).expect("an archive").len();
    assert!(length < 4 * MIB as u64, "{length} bytes: a hole is no data");
    let bytes = fs::read(archive).expect("an archive");
    let xattr = b"SCHILY.xattr.user.colour=blue\n";
    assert!(bytes.windows(xattr.len()).any(|part| part == xattr));
    let out = machine.scratch().join("out");
    fs::create_dir(&out).expect("a directory");
    tool(
        "tar",
        &["xpf", archive, "-C", out.to_str().expect("a path")],
    );
    fs::remove_file(at("socket")).expect("removed");
    // Removing it has moved the folder's own time, which is no part of what is compared.
    assert_eq!(found(&out.join("all")), found(&top));
    let same = |name: &str| {
        fs::metadata(out.join("all").join(name))
            .expect("there")
            .ino()
    };
    assert_eq!(same("f"), same("empty/again"));
    tool(
        "cmp",
        &[&at("f"), out.join("all/f").to_str().expect("a path")],
    );
    let rdev = |path: &Path| fs::metadata(path).expect("there").rdev();
    assert_eq!(rdev(&out.join("all/null")), rdev(Path::new(&at("null"))));
    let sparse = fs::File::open(out.join("all/sparse")).expect("there");
    let mut read = [0; 4];
    sparse.read_exact_at(&mut read, 5 << 30).expect("read");
    assert_eq!(&read, b"here");

    // What is lost is told by path, and nothing is left that looks like an archive.
    machine.stop();
    let leaf = leaf_file(&machine, &pattern(1, MIB as u64, MIB));
    fs::remove_file(leaf).expect("a leaf");
    let other = machine.scratch().join("other.tar");
    let refused = machine.ask(&["export", "1", "--tar", other.to_str().expect("a path")]);
    assert_ne!(refused.code, Some(0), "{refused:?}");
    assert!(refused.stderr.contains("all/"), "{refused:?}");
    assert!(!other.exists());
}

/// That a gateway says nothing of one loss keeps no other from being told.
#[test]
fn a_repair_reports_every_loss_despite_a_silent_gateway() {
    let node = Kubo::start();
    let first = format!("ipfs={}", node.url());
    let mut machine = Machine::demo_with(&["--node", &first]);
    for name in ["f", "g"] {
        fs::write(machine.dir().join(name), name.repeat(2000)).expect("written");
    }
    machine.flush();
    let root = machine.token("1")["root"]
        .as_str()
        .expect("a root")
        .to_owned();
    machine.stop();
    fs::remove_dir_all(machine.cache()).expect("the cache");
    node.ipfs(&["pin", "rm", &root]);
    for name in ["f", "g"] {
        let leaf = leaf_cid(name.repeat(2000).as_bytes());
        node.ipfs(&["block", "rm", &leaf.to_string()]);
    }
    let front = Front::of(node.url());
    front.set(Some(Fault::Status(504)));
    let gateway = format!("gateway={}", front.url());
    let nodes = ["--node", &first, "--node", &gateway];
    let told = machine.ask(&[&["fsck", "1", "--repair", "--json"], &nodes[..]].concat());
    assert_eq!(told.code, Some(9), "{told:?}");
    let told = told.json();
    let damaged = told["damaged"].as_array().expect("a list");
    for name in ["f", "g"] {
        let row = damaged.iter().find(|row| row["path"] == name);
        let reason = row.expect("by path")["reason"].as_str().expect("a reason");
        assert!(reason.contains("does not say"), "{told:#}");
    }
}

#[test]
fn a_node_with_a_wrong_name_does_not_stop_asking_others() {
    let (node, other) = (Kubo::start(), Kubo::start());
    let front = Front::of(node.url());
    let first = format!("ipfs={}", front.url());
    let second = format!("ipfs={}", other.url());
    let mut machine = Machine::demo_with(&["--node", &first, "--node", &second]);
    fs::write(machine.dir().join("f"), "old").expect("written");
    machine.flush();
    let name = machine.token("1")["name"]
        .as_str()
        .expect("a name")
        .to_owned();
    let old = node.ipfs(&["resolve", &format!("/ipns/{name}")]);
    let old = old.trim().trim_start_matches("/ipfs/");
    // What the first node answers by and by leads to a document that nobody has any more.
    front.remember();
    fs::write(machine.dir().join("f"), "new").expect("written");
    machine.flush();
    let root = machine.token("1")["root"]
        .as_str()
        .expect("a root")
        .to_owned();
    machine.stop();
    node.ipfs(&["pin", "rm", old]);
    node.ipfs(&["block", "rm", old]);
    for fault in [Fault::WrongBytes, Fault::Empty, Fault::Replays] {
        front.set_for(&["routing/get"], Some(fault));
        let alone = machine.ask(&["fsck", "1", "--node", &first]);
        assert_ne!(alone.code, Some(0), "{fault:?}: {alone:?}");
        let nodes = ["--node", &first, "--node", &second];
        let checked = machine.ask(&[&["fsck", "1", "--json"], &nodes[..]].concat());
        let checked = checked.ok().json();
        assert_eq!(checked["damaged"], serde_json::json!([]), "{fault:?}");
        let archive = machine.scratch().join(format!("{fault:?}.car"));
        let archive = archive.to_str().expect("a path");
        let told = machine.ask(&[&["export", "1", archive, "--json"], &nodes[..]].concat());
        assert_eq!(told.ok().json()["root"], root, "{fault:?}");
    }
}

#[test]
fn a_btfs_gateway_serves_a_names_document_in_full() {
    let node = Btfs::start();
    let mut machine = Machine::demo_with(&["--node", &format!("btfs={}", node.url())]);
    fs::write(machine.dir().join("f"), "content").expect("written");
    machine.flush();
    let name = machine.token("1")["name"]
        .as_str()
        .expect("a name")
        .to_owned();
    let root = machine.token("1")["root"]
        .as_str()
        .expect("a root")
        .to_owned();
    machine.stop();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let fetched = runtime.block_on(async {
        let url = format!("{}/btns/{name}", node.gateway_url());
        reqwest::get(url).await.expect("an answer").text().await
    });
    let document = fetched.expect("all of it");
    assert!(
        document.contains(&root) && document.ends_with("\"}"),
        "{document}"
    );
}
