//! Tokens come, go and lack a key while the drive is mounted.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use alloy::primitives::{Address, U256, hex, keccak256};
use pxfs::chain::wallet::Wallet;
use rustix::fs::{XattrFlags, setxattr};
use rustix::io::Errno;
use tempfile::TempDir;

use crate::command::{tool, wait_until};
use crate::harness::Machine;
use crate::samples::{assert_pattern, assert_same, pattern, read_at_last};

/// A look at the embedded chain is 2 s apart; a machine under load is slow.
const SOON: Duration = Duration::from_secs(120);

/// A call of the contract: its signature, and arguments of 32 bytes each.
fn calldata(signature: &str, words: &[U256]) -> String {
    let mut bytes = keccak256(signature)[..4].to_vec();
    bytes.extend(words.iter().flat_map(U256::to_be_bytes::<32>));
    hex::encode_prefixed(bytes)
}

/// Transfers a token to an address that nobody has.
#[track_caller]
fn give_away(machine: &Machine, token: u64) {
    let wallet = machine.state().join("wallet");
    let wallet = Wallet::open(&wallet, None).expect("the wallet");
    let word = |address: Address| U256::from_be_slice(address.as_slice());
    let to = Address::repeat_byte(0xaa);
    let words = [word(wallet.address()), word(to), U256::from(token)];
    let data = calldata("transferFrom(address,address,uint256)", &words);
    machine.ask(&["dev", "call", &data]).ok();
}

/// Mints as a block explorer does: no name key comes with it.
#[track_caller]
fn mint_without_key(machine: &Machine, package: u64) {
    let packages = machine.ask(&["packages", "--json"]).ok().json();
    let price = packages
        .as_array()
        .and_then(|all| all.iter().find(|one| one["id"] == package))
        .and_then(|one| one["price_wei"].as_str())
        .expect("a price")
        .to_owned();
    let data = calldata("mint(uint256)", &[U256::from(package)]);
    machine.ask(&["dev", "call", &data, "--value", &price]).ok();
}

#[test]
fn a_token_minted_while_mounted_appears_and_can_be_used() {
    let mut machine = Machine::demo();
    let minted = machine
        .ask(&["mint", "--package", "1", "--yes", "--json"])
        .ok()
        .json();
    assert_eq!(minted["token"], "2");
    let dir = machine.mountpoint().join("2");
    wait_until("the new directory appears", SOON, || dir.is_dir());
    fs::write(dir.join("file"), pattern(1, 0, 100_000)).expect("writable at once");
    machine.flush();
    machine.ask(&["sync", "2", "--yes"]).ok();
    assert!(machine.number("2", "usage_on_chain_bytes") >= 100_000);
    machine.restart();
    assert_pattern(&dir.join("file"), 1, 100_000);
    let names: Vec<_> = fs::read_dir(machine.mountpoint())
        .expect("listing")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

/// The folders of volumes in which the daemon has a file open.
#[track_caller]
fn open_volumes(machine: &Machine) -> BTreeSet<OsString> {
    let volumes = machine.state().join("volumes");
    let volumes = volumes.canonicalize().expect("a folder of volumes");
    let open = format!("/proc/{}/fd", machine.pid().as_raw_nonzero());
    let open = fs::read_dir(open).expect("what the daemon has open");
    let files = open.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
    let below = files.filter_map(|file| Some(file.strip_prefix(&volumes).ok()?.to_owned()));
    below
        .filter_map(|file| Some(file.iter().next()?.to_owned()))
        .collect()
}

#[test]
fn an_unused_token_opens_no_file_before_its_first_listing() {
    let mut machine = Machine::demo();
    for _ in 0..2 {
        machine.ask(&["mint", "--package", "1", "--yes"]).ok();
    }
    machine.restart();
    let dir = |token: &str| machine.mountpoint().join(token);
    wait_until("all directories are there", SOON, || dir("3").is_dir());
    let names = || {
        fs::read_dir(machine.mountpoint())
            .expect("a listing")
            .count()
    };
    assert_eq!(names(), 3);
    assert_eq!(
        dir("2").metadata().expect("its attributes").mode(),
        0o40_755
    );
    assert_eq!(machine.token("2")["state"], "ok");
    let first = open_volumes(&machine);
    assert_eq!(first.len(), 1, "the first token alone: {first:?}");
    assert_eq!(fs::read_dir(dir("3")).expect("a listing").count(), 0);
    assert_eq!(open_volumes(&machine).len(), 2);
    fs::write(dir("3").join("file"), pattern(1, 0, 5000)).expect("writable at once");
    machine.flush();
    assert_pattern(&dir("3").join("file"), 1, 5000);
}

#[test]
fn nothing_is_made_or_removed_in_the_mountpoint_itself() {
    let machine = Machine::demo();
    let root = machine.mountpoint();
    let not_permitted = Some(Errno::PERM.raw_os_error());
    let code = |result: std::io::Result<()>| result.err().and_then(|why| why.raw_os_error());
    assert_eq!(code(fs::create_dir(root.join("99"))), not_permitted);
    assert_eq!(code(fs::write(root.join("file"), "x")), not_permitted);
    assert_eq!(code(fs::remove_dir(root.join("1"))), not_permitted);
    assert_eq!(
        code(fs::rename(root.join("1"), root.join("2"))),
        not_permitted
    );
}

#[test]
fn a_token_that_was_given_away_turns_read_only_and_says_why() {
    let machine = Machine::demo();
    let dir = machine.dir();
    fs::write(dir.join("mine"), pattern(1, 0, 5000)).expect("writable");
    machine.flush();
    give_away(&machine, 1);
    let refused = || {
        let result = fs::write(machine.mountpoint().join("1/more"), "x");
        result.is_err_and(|why| why.raw_os_error() == Some(Errno::ROFS.raw_os_error()))
    };
    wait_until("the token turns read-only", SOON, refused);
    let row = machine.token("1");
    assert!(
        ["read-only", "detached"].contains(&row["state"].as_str().unwrap_or("")),
        "{row:#}"
    );
    assert!(
        row["reason"]
            .as_str()
            .is_some_and(|reason| !reason.is_empty()),
        "{row:#}"
    );
    assert_pattern(&dir.join("mine"), 1, 5000);
}

#[test]
fn a_token_without_a_key_is_read_only_until_it_is_registered() {
    let machine = Machine::demo();
    mint_without_key(&machine, 1);
    let dir = machine.mountpoint().join("2");
    wait_until("the new directory appears", SOON, || dir.is_dir());
    let row = machine.token("2");
    assert_eq!(row["state"], "unregistered");
    let reason = row["reason"].as_str().unwrap_or("");
    assert!(
        reason.contains("pxfs register 2"),
        "the remedy is named: {reason}"
    );
    let refused = fs::write(dir.join("file"), "x").expect_err("read-only");
    assert_eq!(refused.raw_os_error(), Some(Errno::ROFS.raw_os_error()));

    machine.ask(&["register", "2", "--yes"]).ok();
    wait_until("it can be written", SOON, || {
        fs::write(dir.join("file"), "x").is_ok()
    });
    machine.flush();
    assert_eq!(machine.token("2")["state"], "ok");
}

/// Whatever comes later, all of this is to be there.
fn write_unpublished(dir: &Path) {
    fs::create_dir_all(dir.join("a/b")).expect("folders");
    fs::write(dir.join("a/b/large"), pattern(2, 0, 3_000_000)).expect("a file");
    fs::write(dir.join("small"), pattern(3, 0, 300)).expect("a file");
    let mode = fs::Permissions::from_mode(0o4750);
    fs::set_permissions(dir.join("small"), mode).expect("a mode");
    fs::hard_link(dir.join("small"), dir.join("a/linked")).expect("a hard link");
    symlink("a/b/large", dir.join("link")).expect("a symlink");
    setxattr(dir.join("small"), "user.note", b"kept", XattrFlags::empty()).expect("an attribute");
    let sparse = File::create(dir.join("sparse")).expect("a file");
    sparse.write_all_at(b"end", 5_000_000).expect("a byte");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        dir.join("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o620),
        0,
    )
    .expect("a fifo");
}

/// A machine of which nothing reaches the node by itself, with a published file, `published`, and
/// what [`write_unpublished`] makes; the token has been given away.
#[track_caller]
fn given_away_with_unpublished_data() -> (Machine, TempDir) {
    let machine = Machine::demo_with(&[
        "--commit-idle",
        "1h",
        "--commit-max",
        "1h",
        "--read-timeout",
        "15s",
    ]);
    for name in ["published", "changed"] {
        fs::write(machine.dir().join(name), pattern(1, 0, 2_000_000)).expect("writable");
    }
    machine.flush();
    write_unpublished(&machine.dir());
    let changed = File::options()
        .write(true)
        .open(machine.dir().join("changed"));
    let changed = changed.expect("writable");
    changed
        .write_all_at(&pattern(4, 0, 50_000), 1_500_000)
        .expect("writable");
    drop(changed);
    let reference = tempfile::tempdir().expect("a folder");
    tool("cp", &[Path::new("-a"), &machine.dir(), reference.path()]);
    give_away(&machine, 1);
    wait_until("it is set aside", SOON, || detached(&machine).is_dir());
    (machine, reference)
}

fn detached(machine: &Machine) -> PathBuf {
    machine.mountpoint().join("1.detached")
}

/// Brings here what the node alone may hold, so that no read timeout ends a program that reads it later.
#[track_caller]
fn fetch_published(machine: &Machine) {
    for name in ["published", "changed"] {
        read_at_last(&detached(machine).join(name)).expect("readable");
    }
}

#[track_caller]
fn is_read_only(dir: &Path) {
    let refused = fs::write(dir.join("more"), "x").expect_err("read-only");
    assert_eq!(refused.raw_os_error(), Some(Errno::ROFS.raw_os_error()));
}

#[test]
fn unpublished_data_of_a_transferred_token_is_readable_until_saved() {
    let (mut machine, reference) = given_away_with_unpublished_data();
    let original = reference.path().join("1");
    assert!(!machine.dir().exists(), "it has another name now");
    is_read_only(&detached(&machine));
    assert_same(&original, &detached(&machine));
    let row = machine.token("1");
    assert_eq!(row["state"], "detached", "{row:#}");
    let reason = row["reason"].as_str().unwrap_or("");
    let remedy = "`pxfs detach 1 --save DIR | --discard`";
    assert!(reason.contains(remedy), "{reason}");
    assert!(row["pending_files"].as_u64() >= Some(3), "{row:#}");
    assert!(row["pending_bytes"].as_u64() >= Some(3_000_000), "{row:#}");
    let told = machine.ask(&["flush"]).exits(7).one_line();
    assert!(told.stderr.contains(remedy), "{}", told.stderr);

    // A crash, and a node that does not answer: what is here is read all the same.
    machine.fault("all hang");
    machine.kill();
    machine.start_without_token();
    let dir = detached(&machine);
    assert_pattern(&dir.join("a/b/large"), 2, 3_000_000);
    assert_pattern(&dir.join("small"), 3, 300);
    is_read_only(&dir);
    machine.fault("");

    let saved = machine.scratch().join("saved");
    let folder = saved.to_str().expect("UTF-8");
    let answer = machine.ask(&["detach", "1", "--save", folder, "--json"]);
    let answer = answer.ok().json();
    assert_eq!(answer["directory"], "1.detached");
    assert_eq!(answer["saved"], folder);
    assert_same(&original, &saved);
    let meta = fs::metadata(saved.join("sparse")).expect("stat");
    assert!(meta.blocks() * 512 < 1_000_000, "a hole stays a hole");
    assert!(!detached(&machine).exists(), "it is gone at once");
    machine
        .ask(&["detach", "1", "--save", folder])
        .exits(5)
        .one_line();
    machine.ask(&["flush"]).ok();
    let volumes = machine.state().join("volumes");
    assert_eq!(fs::read_dir(volumes).expect("listing").count(), 0);
    machine.stop();
}

#[test]
fn a_save_that_fails_in_part_drops_nothing_and_names_the_files() {
    let (mut machine, reference) = given_away_with_unpublished_data();
    machine.kill();
    // The published file is on the node alone.
    drop(fs::remove_dir_all(machine.cache()));
    machine.start_without_token();
    machine.fault("get fail");
    let scratch = machine.scratch();
    let at = |name: &str| scratch.join(name).to_str().expect("UTF-8").to_owned();
    let answer = machine.ask(&["detach", "1", "--save", &at("part")]);
    let answer = answer.exits(1).one_line();
    for name in ["published", "changed"] {
        assert!(answer.stderr.contains(name), "{}", answer.stderr);
    }
    // What was never published is in the copy, and still on the drive.
    let changed = fs::read(scratch.join("part/changed")).expect("readable");
    assert_eq!(changed.len(), 2_000_000);
    let copied = changed.get(1_500_000..1_550_000);
    assert!(copied == Some(&pattern(4, 0, 50_000)), "to the last byte");
    for dir in [detached(&machine), scratch.join("part")] {
        assert_pattern(&dir.join("a/b/large"), 2, 3_000_000);
        assert_pattern(&dir.join("small"), 3, 300);
    }
    machine.fault("");
    // Not over what is there, not into the drive or the state folder.
    for folder in [
        at("part"),
        detached(&machine)
            .join("x")
            .to_str()
            .expect("UTF-8")
            .to_owned(),
        machine
            .state()
            .join("x")
            .to_str()
            .expect("UTF-8")
            .to_owned(),
        at("no/such/parent"),
    ] {
        machine
            .ask(&["detach", "1", "--save", &folder])
            .exits(2)
            .one_line();
    }
    machine
        .ask(&["detach", "1", "--discard"])
        .exits(1)
        .one_line();
    fetch_published(&machine);
    assert_same(&reference.path().join("1"), &detached(&machine));
    let whole = at("whole");
    machine
        .ask(&["detach", "1.detached", "--save", &whole])
        .ok();
    assert_same(&reference.path().join("1"), Path::new(&whole));
}

#[test]
fn what_was_left_can_be_saved_or_given_up_without_a_mount() {
    let (mut machine, reference) = given_away_with_unpublished_data();
    machine.kill();
    let saved = machine.scratch().join("saved");
    let folder = saved.to_str().expect("UTF-8");
    machine
        .ask(&["detach", "7", "--save", folder])
        .exits(5)
        .one_line();
    assert!(!saved.exists(), "nothing is made for what is not there");
    machine.ask(&["detach", "1", "--save", folder]).ok();
    assert_same(&reference.path().join("1"), &saved);
    machine
        .ask(&["detach", "1", "--discard", "--yes"])
        .exits(5)
        .one_line();
    machine.start_without_token();
    assert!(!detached(&machine).exists());

    // The other way.
    let (mut machine, _reference) = given_away_with_unpublished_data();
    machine.kill();
    machine
        .ask(&["detach", "1", "--discard"])
        .exits(1)
        .one_line();
    machine.ask(&["detach", "1", "--discard", "--yes"]).ok();
    machine.start_without_token();
    assert!(!detached(&machine).exists());
}

#[test]
fn a_reregistered_token_starts_empty_and_its_unpublished_data_stays_readable() {
    let mut machine = Machine::demo_with(&["--commit-idle", "1h", "--commit-max", "1h"]);
    fs::write(machine.dir().join("old"), pattern(1, 0, 200_000)).expect("writable");
    let mut open = File::open(machine.dir().join("old")).expect("readable");
    let writer = File::options().append(true).open(machine.dir().join("old"));
    let mut writer = writer.expect("writable");
    // Not without saying so.
    let told = machine.ask(&["register", "1", "--yes"]).exits(1).one_line();
    assert!(told.stderr.contains("--new-volume"), "{}", told.stderr);
    assert_eq!(machine.token("1")["epoch"], 1);

    machine
        .ask(&["register", "1", "--new-volume", "--yes"])
        .ok();
    assert_eq!(fs::read_dir(machine.dir()).expect("listing").count(), 0);
    fs::write(machine.dir().join("new"), pattern(2, 0, 200_000)).expect("writable");
    machine
        .ask(&["flush", machine.dir().to_str().expect("UTF-8")])
        .ok();
    // Who had it open goes on reading the old one, and writes into neither.
    let refused = writer.write_all(b"more").expect_err("read-only");
    assert_eq!(refused.raw_os_error(), Some(Errno::ROFS.raw_os_error()));
    drop(writer);
    let mut bytes = Vec::new();
    open.read_to_end(&mut bytes).expect("readable");
    assert!(bytes == pattern(1, 0, 200_000), "bytes of another volume");
    drop(open);
    for round in 0..2 {
        assert_pattern(&detached(&machine).join("old"), 1, 200_000);
        is_read_only(&detached(&machine));
        assert_pattern(&machine.dir().join("new"), 2, 200_000);
        assert!(!machine.dir().join("old").exists());
        if round == 0 {
            // It says that something stays behind, and leaves all the same.
            let told = machine.umount().exits(7).one_line();
            assert!(told.stderr.contains("1.detached"), "{}", told.stderr);
            machine.ended(SOON);
            machine.start();
        }
    }
    let left = detached(&machine);
    let left = left.to_str().expect("UTF-8");
    machine.ask(&["flush", left]).exits(7).one_line();
    let table = machine.ask(&["status"]).ok().stdout;
    assert!(
        table.contains("\n1.detached: token 1 is in epoch 2"),
        "{table}"
    );
    let status = machine.status();
    let rows = status["tokens"].as_array().expect("rows");
    let told: Vec<_> = rows
        .iter()
        .map(|row| (&row["epoch"], &row["state"]))
        .collect();
    assert_eq!(
        told,
        [(&2.into(), &"ok".into()), (&1.into(), &"detached".into())]
    );
    machine.ask(&["detach", "1", "--discard", "--yes"]).ok();
    assert!(!detached(&machine).exists());
    fs::write(machine.dir().join("more"), "x").expect("the new one goes on");
    machine.stop();
}

#[test]
fn a_transferred_token_without_unpublished_data_is_gone_at_next_mount() {
    let mut machine = Machine::demo();
    fs::write(machine.dir().join("mine"), pattern(1, 0, 5000)).expect("writable");
    machine.flush();
    give_away(&machine, 1);
    wait_until("it turns read-only", SOON, || {
        machine.token("1")["state"] == "read-only"
    });
    assert_pattern(&machine.dir().join("mine"), 1, 5000);
    machine
        .ask(&["detach", "1", "--discard", "--yes"])
        .exits(5)
        .one_line();
    machine.stop();
    machine.start_without_token();
    let left = fs::read_dir(machine.mountpoint()).expect("listing").count();
    assert_eq!(left, 0);
    let volumes = machine.state().join("volumes");
    assert_eq!(fs::read_dir(volumes).expect("listing").count(), 0);
    machine.stop();
}

#[test]
fn a_detach_that_is_cut_off_leaves_all_of_it_or_nothing() {
    let (mut machine, reference) = given_away_with_unpublished_data();
    // While it is being saved: the published file comes from a node that hangs.
    machine.kill();
    drop(fs::remove_dir_all(machine.cache()));
    machine.start_without_token();
    machine.fault("get hang");
    let part = machine.scratch().join("part");
    let mut saving = machine.command();
    saving
        .args(["detach", "1", "--save"])
        .arg(&part)
        .arg("--state-dir")
        .arg(machine.state());
    let saving = saving.stderr(std::process::Stdio::null()).spawn();
    let mut saving = saving.expect("pxfs starts");
    let begun = || part.is_dir();
    wait_until("the copy is begun", SOON, begun);
    machine.kill();
    assert!(!saving.wait().expect("our child").success());
    machine.clear_fault();
    machine.start_without_token();
    fetch_published(&machine);
    assert_same(&reference.path().join("1"), &detached(&machine));

    // Once it is on its way out: whatever was not removed yet is removed by the next start.
    machine.kill();
    let volumes = machine.state().join("volumes");
    let trash = machine.state().join("trash");
    fs::create_dir(&trash).expect("a folder");
    for entry in fs::read_dir(volumes).expect("listing") {
        let entry = entry.expect("an entry");
        fs::rename(entry.path(), trash.join(entry.file_name())).expect("rename");
    }
    machine.start_without_token();
    assert!(!detached(&machine).exists());
    assert!(!trash.exists(), "the room comes back");
}
