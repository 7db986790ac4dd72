//! Drives of an address whose wallet is elsewhere: they show what its owner publishes, and change nothing.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use pxfs::names::key::NameKey;
use rustix::fs::{XattrFlags, setxattr};
use rustix::io::Errno;

use crate::command::wait_until;
use crate::contract::{Chain, Kind};
use crate::harness::Machine;
use crate::nodes::kubo::Kubo;
use crate::nodes::{assert_same, publish_tree};
use crate::samples::{assert_pattern, pattern};

/// `CLI.md`: the command line cannot be used as it is.
const USAGE: i32 = 2;
/// `CLI.md`: not everything is published.
const UNPUBLISHED: i32 = 7;
/// A look at the chain each second, and one at the name with it; a machine under load is slow.
const SOON: Duration = Duration::from_secs(120);

/// A commit is made when somebody asks for it alone, and the chain is looked at each second.
pub(crate) const QUIET: [&str; 6] = [
    "--commit-idle",
    "1h",
    "--commit-max",
    "1h",
    "--refresh",
    "1s",
];

/// A chain, a node, and the owner's drive on it, with a name key for token 1.
pub(crate) fn owned() -> (Chain, Kubo, String, Machine) {
    let (chain, kubo) = (Chain::new(Kind::Sync), Kubo::start());
    let node = format!("ipfs={}", kubo.url());
    let mut owner = chain.machine_with(None, &QUIET).with_node(&node);
    owner.start();
    owner.ask(&["register", "1", "--yes"]).ok();
    owner.wait_for("1", "state", "ok");
    (chain, kubo, node, owner)
}

/// Every kind of change below `dir`, which has a file `f`.
fn changes(dir: &Path) -> Vec<(&'static str, io::Result<()>)> {
    let f = dir.join("f");
    let new = dir.join("new");
    let path = CString::new(f.as_os_str().as_encoded_bytes()).expect("no zero");
    vec![
        ("create", File::create(&new).map(drop)),
        (
            "open to write",
            OpenOptions::new().write(true).open(&f).map(drop),
        ),
        (
            "truncate",
            rustix_err(
                rustix::fs::open(
                    &*path,
                    rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::TRUNC,
                    rustix::fs::Mode::empty(),
                )
                .map(drop),
            ),
        ),
        ("mkdir", fs::create_dir(&new)),
        ("unlink", fs::remove_file(&f)),
        ("rename", fs::rename(&f, &new)),
        ("link", fs::hard_link(&f, &new)),
        ("symlink", symlink("f", &new)),
        (
            "chmod",
            fs::set_permissions(&f, fs::Permissions::from_mode(0o600)),
        ),
        (
            "setxattr",
            rustix_err(setxattr(&f, "user.note", b"x", XattrFlags::empty())),
        ),
    ]
}

fn rustix_err(result: rustix::io::Result<()>) -> io::Result<()> {
    result.map_err(io::Error::from)
}

#[track_caller]
fn assert_read_only(dir: &Path) {
    for (what, done) in changes(dir) {
        let code = done.err().and_then(|why| why.raw_os_error());
        assert_eq!(code, Some(Errno::ROFS.raw_os_error()), "{what}");
    }
}

#[test]
fn a_watched_drive_shows_what_its_owner_publishes_and_sends_nothing() {
    let (chain, kubo, node, mut owner) = owned();
    let local = publish_tree(&owner);
    fs::write(owner.dir().join("f"), pattern(1, 0, 5000)).expect("written");
    fs::write(owner.dir().join("gone"), b"soon").expect("written");
    owner.flush();
    let sent = chain.sent();

    let mut watcher = chain.watcher(&node);
    watcher.start();
    assert_same(&local, &watcher.dir().join("tree"));
    assert_pattern(&watcher.dir().join("f"), 1, 5000);
    assert_read_only(&watcher.dir());
    let row = watcher.token("1");
    assert_eq!(row["state"], "read-only", "{row:#}");
    let reason = row["reason"].as_str().expect("a reason");
    assert!(
        reason.contains(&chain.owner().to_string()) && reason.contains("--wallet"),
        "{reason}"
    );
    let theirs = owner.token("1");
    for field in [
        "name",
        "root",
        "sequence",
        "epoch",
        "quota_bytes",
        "used_bytes",
    ] {
        assert_eq!(row[field], theirs[field], "{field}");
    }
    assert!(!watcher.state().join("wallet").exists());

    // While it is mounted, a file is in use, and what it showed is known to the kernel.
    let open = File::open(watcher.dir().join("f")).expect("open");
    fs::write(owner.dir().join("f"), pattern(2, 0, 2_000_000)).expect("written");
    fs::write(owner.dir().join("tree/a/b/more"), b"more").expect("written");
    fs::remove_file(owner.dir().join("gone")).expect("removed");
    owner.flush();
    wait_until("the owner's commit appears", SOON, || {
        // The kernel is told of each that it knows, in no order.
        let grown = fs::metadata(watcher.dir().join("f")).is_ok_and(|f| f.len() == 2_000_000);
        let more = watcher.dir().join("tree/a/b/more").exists();
        grown && more && !watcher.dir().join("gone").exists()
    });
    assert_pattern(&watcher.dir().join("f"), 2, 2_000_000);
    drop(open);
    assert_read_only(&watcher.dir());
    let root = owner.token("1")["root"].clone();
    watcher.wait_for("1", "root", root.as_str().expect("a root"));
    wait_until("nothing is amiss", SOON, || {
        watcher.token("1")["last_error"].is_null()
    });

    // What was published while it was not mounted is there at the next mount.
    watcher.stop();
    fs::write(owner.dir().join("tree/away"), b"meanwhile").expect("written");
    owner.flush();
    watcher.start();
    assert_eq!(
        fs::read(watcher.dir().join("tree/away")).expect("there"),
        b"meanwhile"
    );

    // The node is away, and back.
    drop(kubo);
    assert_pattern(&watcher.dir().join("f"), 2, 2_000_000);
    wait_until("it says that nothing new is known", SOON, || {
        watcher.token("1")["last_error"].is_string()
    });
    assert_eq!(chain.sent(), sent, "the account has sent something");
    watcher.stop();
    owner.kill();
}

/// Their names follow from the wallet and stand nowhere on chain: the owner tells them.
#[test]
fn a_token_whose_contract_stores_no_name_is_watched_by_name() {
    for kind in [Kind::V1, Kind::V2] {
        let (chain, kubo) = (Chain::new(kind), Kubo::start());
        let node = format!("ipfs={}", kubo.url());
        let never = ["--commit-idle", "1h", "--commit-max", "1h"];
        let mut owner = chain.machine_with(None, &never).with_node(&node);
        owner.start();
        fs::write(owner.dir().join("f"), pattern(1, 0, 5000)).expect("written");
        owner.flush();
        let name = owner.token("1")["name"].clone();
        let name = name.as_str().expect("the owner sees it").to_owned();
        let label = tool_label(&owner.dir());
        assert_eq!(label, name);

        let called = format!("1={name}");
        let mut watcher = chain.watcher(&node).with_args(&["--name", &called]);
        watcher.start();
        assert_pattern(&watcher.dir().join("f"), 1, 5000);
        assert_read_only(&watcher.dir());
        let row = watcher.token("1");
        assert_eq!(
            (&row["state"], &row["name"]),
            (&"read-only".into(), &name.into())
        );
        // What reads does so by the name, too.
        watcher.ask(&["fsck", "1"]).ok();

        // What follows appears by itself, and so does what the chain says.
        fs::write(owner.dir().join("more"), pattern(2, 0, 50_000)).expect("written");
        owner.flush();
        let more = watcher.dir().join("more");
        wait_until("the owner's commit appears", SOON, || more.exists());
        assert_pattern(&more, 2, 50_000);
        let usage = || chain.storage().0;
        wait_until("it is charged, and that is seen", SOON, || {
            usage() > 55_000 && watcher.number("1", "usage_on_chain_bytes") == usage()
        });
        watcher.stop();
        owner.stop();

        // Of another's name nothing is believed: what it leads to is of no token of this contract.
        let other = Chain::new(kind);
        let mut stranger = other.watcher(&node).with_args(&["--name", &called]);
        stranger.replace_arg("--contract", "--contract", &other.another(kind).to_string());
        let refused = stranger.try_start().expect_err("nothing can be shown");
        assert!(
            refused.contains("points at a document of another token"),
            "{refused}"
        );

        // One that leads nowhere is no empty drive: the chain shows that something was stored.
        let nobody = format!("1={}", NameKey::from_seed(&[9; 32]).name());
        let mut lost = chain.watcher(&node).with_args(&["--name", &nobody]);
        let refused = lost.try_start().expect_err("nothing can be shown");
        for words in ["no node has the record of its name", "--node"] {
            assert!(refused.contains(words), "{refused}");
        }
    }
}

/// What `user.px.name` says of a token's directory.
fn tool_label(dir: &Path) -> String {
    let mut value = [0; 100];
    let count = rustix::fs::getxattr(dir, "user.px.name", &mut value).expect("a label");
    String::from_utf8_lossy(&value[..count]).into_owned()
}

/// The folder of a drive that was killed is mounted by the address alone, and with the wallet again.
#[test]
fn unpublished_data_is_shown_and_retained_when_mounted_by_address() {
    let (chain, _kubo, _node, mut owner) = owned();
    fs::write(owner.dir().join("published"), pattern(1, 0, 5000)).expect("written");
    owner.flush();
    fs::write(owner.dir().join("pending"), pattern(2, 0, 300_000)).expect("written");
    let file = File::open(owner.dir().join("pending"));
    file.and_then(|file| file.sync_all()).expect("durable here");
    owner.kill();

    let wallet = owner.replace_arg("--wallet", "--address", &chain.owner().to_string());
    let sent = chain.sent();
    owner.start();
    assert_pattern(&owner.dir().join("published"), 1, 5000);
    assert_pattern(&owner.dir().join("pending"), 2, 300_000);
    let made = fs::create_dir(owner.dir().join("d")).expect_err("read-only");
    assert_eq!(made.raw_os_error(), Some(Errno::ROFS.raw_os_error()));
    assert_eq!(owner.token("1")["pending"], true);
    let flushed = owner.ask(&["flush"]).exits(UNPUBLISHED).one_line();
    assert!(flushed.stderr.contains("--wallet"), "{}", flushed.stderr);
    assert_eq!(owner.terminate().code(), Some(UNPUBLISHED));
    assert_eq!(chain.sent(), sent);

    owner.replace_arg("--address", "--wallet", &wallet);
    owner.start();
    owner.wait_for("1", "state", "ok");
    owner.flush();
    assert_pattern(&owner.dir().join("pending"), 2, 300_000);
    assert_eq!(owner.token("1")["pending_files"], 0);
    owner.stop();
}

#[test]
fn a_token_of_a_watched_address_comes_and_goes_with_the_chain() {
    let chain = Chain::new(Kind::Sync);
    let store = tempfile::tempdir().expect("a folder");
    let mut watcher = chain.watcher(&format!("embedded={}", store.path().display()));
    watcher.start();
    // It has no name key: there is nothing to read.
    let row = watcher.token("1");
    assert_eq!(row["state"], "read-only", "{row:#}");
    let reason = row["reason"].as_str().expect("a reason");
    assert!(reason.contains("no name key"), "{reason}");
    assert_eq!(fs::read_dir(watcher.dir()).expect("listed").count(), 0);
    let made = fs::create_dir(watcher.dir().join("d")).expect_err("read-only");
    assert_eq!(made.raw_os_error(), Some(Errno::ROFS.raw_os_error()));

    chain.mint(chain.larger_package());
    let second = watcher.mountpoint().join("2");
    wait_until("a token that was minted appears", SOON, || second.is_dir());
    chain.give_away();
    wait_until("a token that was given away says so", SOON, || {
        let row = watcher.token("1");
        row["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("belongs to"))
    });
    watcher.stop();
}

#[test]
fn a_watched_drive_refuses_each_command_in_one_clear_line() {
    let chain = Chain::new(Kind::Sync);
    let store = tempfile::tempdir().expect("a folder");
    let node = format!("embedded={}", store.path().display());
    let mut watcher = chain.watcher(&node);
    watcher.start();
    let sent = chain.sent();
    for asked in [
        &["mint", "--package", "0", "--yes"][..],
        &["register", "1", "--yes"],
        &["upgrade", "1", "--package", "1", "--yes"],
        &["sync", "1", "--yes"],
        &["sync", "1", "--yes", "--no-wait"],
        &["dev", "call", "0x00"],
    ] {
        let refused = watcher.ask(asked).exits(USAGE).one_line();
        assert!(
            refused.stderr.contains("only watched") && refused.stderr.contains("--wallet"),
            "{asked:?}: {}",
            refused.stderr
        );
    }
    // What another wallet is to sign needs none here, but a key for the name.
    let refused = watcher.ask(&["mint", "--package", "0", "--print"]);
    let refused = refused.exits(USAGE).one_line();
    assert!(refused.stderr.contains("--name-key"), "{}", refused.stderr);
    // The same where the command says whose drive it means; another's it is not.
    let (owner, other) = (chain.owner().to_string(), format!("0x{}", "11".repeat(20)));
    for (address, words) in [(&owner, "only watched"), (&other, "--address is account")] {
        let asked = ["sync", "1", "--yes", "--address", address];
        let refused = watcher.ask(&asked).exits(USAGE).one_line().stderr;
        assert!(refused.contains(words), "{refused}");
    }
    let refused = watcher.ask(&["flush"]).exits(USAGE).one_line();
    assert!(
        refused.stderr.contains("nothing is to be published"),
        "{}",
        refused.stderr
    );
    // What reads goes on, and nothing of all that stands in the status.
    watcher.ask(&["packages"]).ok();
    assert_eq!(watcher.ask(&["tokens", "--json"]).ok().json()[0]["id"], "1");
    assert!(watcher.token("1")["last_error"].is_null());
    assert_eq!(chain.sent(), sent);
    watcher.stop();
}

#[test]
fn an_address_that_cannot_be_watched_is_refused_before_anything_is_mounted() {
    let chain = Chain::new(Kind::V2);
    let store = tempfile::tempdir().expect("a folder");
    let node = format!("embedded={}", store.path().display());
    // Where the contract keeps no names, somebody has to say them.
    let mut watcher = chain.watcher(&node);
    let log = watcher.try_start().expect_err("nothing can be shown");
    for words in ["keeps no names", "--name 1=k51", "--wallet"] {
        assert!(log.contains(words), "{words}: {log}");
    }

    let machine = Machine::prepared("mount");
    let mountpoint = machine.mountpoint();
    let place = mountpoint.to_str().expect("a path");
    let owner = chain.owner().to_string();
    let name = NameKey::from_seed(&[7; 32]).name();
    let (named, one) = (format!("x-1={name}"), format!("1={name}"));
    let other = format!("1={}", NameKey::from_seed(&[8; 32]).name());
    for (args, words) in [
        (&["--address", "0x12"][..], "0x12"),
        (
            &["--address", "0x5fbDB2315678afecb367f032d93F642f64180aa3"],
            "wrong",
        ),
        (&["--address", &owner, "--wallet", "w"], "--wallet"),
        (&["--address", &owner, "--name", "1=k51"], "k51"),
        (&["--address", &owner, "--name", &named], "--name x-1"),
        (
            &["--address", &owner, "--name", &one, "--name", &other],
            "twice",
        ),
        (
            &["--volume", "plain", "--wallet", "w", "--name", &one],
            "--address",
        ),
        (&["--address", &owner, "--auto-sync", "3d"], "--auto-sync"),
        (&["--address", &owner, "--operate"], "--operate"),
        (&["--address", &owner, "--take-over"], "--take-over"),
    ] {
        let line = [
            &[
                "mount",
                place,
                "--rpc-url",
                "http://127.0.0.1:9",
                "--node",
                &node,
            ],
            args,
        ]
        .concat();
        let refused = machine.ask(&line).exits(USAGE).one_line();
        assert!(
            refused.stderr.contains(words),
            "{args:?}: {}",
            refused.stderr
        );
    }
}
