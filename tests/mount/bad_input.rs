//! Bad input gets one clear line and the right exit code, and loses nothing.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use pxfs::chain::wallet::Wallet;

use crate::command::{Answer, run, tool};
use crate::harness::{Machine, is_mounted};
use crate::permissions::OTHER;
use crate::samples::{assert_pattern, files_below, pattern};

/// A machine that has been set up and stopped: its drive holds one file, `kept`, published.
fn stopped() -> Machine {
    let mut machine = Machine::demo();
    fs::write(machine.dir().join("kept"), pattern(1, 0, 50_000)).expect("writable");
    machine.stop();
    machine
}

/// `pxfs mount -f` at `mountpoint` with more arguments; it has to end by itself.
#[track_caller]
fn mount(machine: &Machine, mountpoint: &Path, more: &[&str]) -> Answer {
    let mut command = machine.command();
    command
        .args(["mount", "-f", "--state-dir"])
        .arg(machine.state())
        .arg("--cache-dir")
        .arg(machine.cache())
        .args(machine.parts())
        .args(more)
        .arg(mountpoint);
    let answer = run(command, std::time::Duration::from_secs(60));
    assert!(!is_mounted(mountpoint) || answer.code != Some(0));
    answer
}

/// Everything is still as [`stopped`] left it.
#[track_caller]
fn nothing_lost(machine: &mut Machine) {
    machine.start();
    assert_pattern(&machine.dir().join("kept"), 1, 50_000);
    machine.stop();
}

/// The one line that `pxfs mount` says names `what`.
#[track_caller]
fn names(answer: Answer, what: &Path) {
    let answer = answer.one_line();
    let what = what.to_str().expect("our paths are UTF-8");
    assert!(
        answer.stderr.contains(what),
        "{what} is not named: {}",
        answer.stderr
    );
}

#[test]
fn a_mountpoint_that_cannot_be_one_is_told_so() {
    let mut machine = stopped();
    let scratch = machine.scratch();
    let missing = scratch.join("missing");
    names(mount(&machine, &missing, &[]).exits(2), &missing);
    let file = scratch.join("file");
    fs::write(&file, "x").expect("a file");
    names(mount(&machine, &file, &[]).exits(2), &file);
    let full = scratch.join("full");
    fs::create_dir(&full)
        .and_then(|()| fs::write(full.join("x"), "x"))
        .expect("a folder");
    names(mount(&machine, &full, &[]).exits(2), &full);
    assert_eq!(fs::read(full.join("x")).expect("untouched"), b"x");
    nothing_lost(&mut machine);
}

#[test]
fn a_second_mount_is_refused_and_the_first_goes_on() {
    let mut machine = Machine::demo();
    fs::write(machine.dir().join("kept"), pattern(1, 0, 50_000)).expect("writable");
    // On top of the first one.
    let mountpoint = machine.mountpoint();
    let top = mount(&machine, &mountpoint, &[]).one_line();
    assert!([10, 11].contains(&top.code.unwrap_or(0)), "{top:?}");
    // Elsewhere, with the same state folder.
    let elsewhere = machine.scratch().join("elsewhere");
    fs::create_dir(&elsewhere).expect("a folder");
    mount(&machine, &elsewhere, &[]).exits(11).one_line();
    assert_pattern(&machine.dir().join("kept"), 1, 50_000);
    machine.stop();
    nothing_lost(&mut machine);
}

#[test]
fn commands_without_a_mount_say_so() {
    let machine = stopped();
    machine.ask(&["flush"]).exits(10).one_line();
    let nowhere = machine.scratch();
    let nowhere = nowhere.to_str().expect("UTF-8");
    machine.ask(&["umount", nowhere]).exits(10).one_line();
    machine.ask(&["status", nowhere]).exits(10).one_line();
}

#[test]
fn an_error_in_json_is_one_object() {
    let machine = stopped();
    let answer = machine.ask(&["flush", "--json"]).exits(10);
    let object: serde_json::Value = serde_json::from_str(&answer.stderr).expect("one JSON object");
    assert_eq!(object["exit"], 10);
    assert!(
        object["error"]
            .as_str()
            .is_some_and(|line| !line.is_empty())
    );
    assert_eq!(answer.stdout, "");
}

#[test]
fn a_cache_that_others_could_change_is_refused_or_closed_to_them() {
    let mut machine = Machine::demo();
    machine.stop();
    let cache = machine.cache();
    let owner = |user| chown(&cache, Some(user), Some(user)).expect("chown");
    owner(OTHER);
    let refused = machine.try_start().expect_err("it is another user's");
    for word in ["cache folder", "belongs to another user", "--cache-dir"] {
        assert!(refused.contains(word), "{word}: {refused}");
    }
    let told = machine.ask(&["doctor"]).exits(1).stdout;
    assert!(told.contains("FAIL  cache folder"), "{told}");
    owner(0);
    fs::set_permissions(&cache, Permissions::from_mode(0o777)).expect("a mode");
    machine.start();
    let mode = fs::metadata(&cache).expect("stat").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn a_wallet_that_cannot_be_used_is_refused() {
    let mut machine = stopped();
    let wallet = machine.state().join("wallet");
    let text = fs::read(&wallet).expect("the wallet");
    let set = |text: &[u8], mode: u32| {
        fs::write(&wallet, text).expect("writable");
        fs::set_permissions(&wallet, Permissions::from_mode(mode)).expect("a mode");
    };
    let mountpoint = machine.mountpoint();
    // The old key's bytes are not in the message.
    let refused = |exit: i32| {
        let answer = mount(&machine, &mountpoint, &[]).exits(exit).one_line();
        assert!(answer.stderr.contains("wallet"), "{}", answer.stderr);
        let secret = String::from_utf8_lossy(&text);
        assert!(!answer.stderr.contains(secret.trim()), "the key is printed");
    };
    set(&text, 0o644);
    refused(2);
    set(&text, 0o640);
    refused(2);
    set(b"not a key", 0o600);
    refused(2);
    set(b"", 0o600);
    refused(2);
    fs::remove_file(&wallet).expect("unlink");
    refused(2);
    set(&text, 0o600);
    nothing_lost(&mut machine);
}

#[test]
fn a_configuration_that_is_cut_off_or_unknown_is_refused() {
    let machine = stopped();
    let file = machine.scratch().join("config.toml");
    for text in [
        "rpc-url = [\"embed",
        "no-such-key = 1\n",
        "commit-idle = \"soon\"\n",
        "\u{0}\u{1}",
    ] {
        fs::write(&file, text).expect("writable");
        let path = file.to_str().expect("UTF-8");
        machine
            .ask(&["tokens", "--config", path])
            .exits(2)
            .one_line();
    }
    machine
        .ask(&["tokens", "--config", "/no/such/file"])
        .exits(2)
        .one_line();
    machine.ask(&["no-such-command"]).exits(2).one_line();
    machine
        .ask(&["status", "--no-such-flag"])
        .exits(2)
        .one_line();
    machine.ask(&["sync", "one"]).exits(2).one_line();
}

#[test]
fn an_unknown_package_and_a_foreign_token_are_told_so() {
    let machine = Machine::demo();
    machine
        .ask(&["mint", "--package", "99", "--yes"])
        .exits(5)
        .one_line();
    // The free package is one for each address.
    machine
        .ask(&["mint", "--package", "0", "--yes"])
        .exits(6)
        .one_line();
    machine.ask(&["sync", "77", "--yes"]).exits(5).one_line();
    machine
        .ask(&["register", "77", "--yes"])
        .exits(5)
        .one_line();
    fs::write(machine.dir().join("still"), "writable").expect("the drive goes on");
}

#[test]
fn a_damaged_journal_is_told_and_not_used() {
    let mut machine = stopped();
    for (path, len) in files_below(&machine.state()) {
        let ours =
            path.starts_with(machine.node()) || path.starts_with(machine.state().join("chain"));
        if ours || len == 0 || path.extension().is_none_or(|kind| kind != "redb") {
            continue;
        }
        let old = fs::read(&path).expect("readable");
        // The beginning, the middle, the end, and a file that is cut off.
        for (from, to) in [
            (0, 512.min(old.len())),
            (old.len() / 2, old.len() / 2 + 4096),
            (old.len() - 64, old.len()),
        ] {
            let mut new = old.clone();
            new[from..to].iter_mut().for_each(|byte| *byte ^= 0xff);
            fs::write(&path, &new).expect("writable");
            told_or_right(&mut machine);
            fs::write(&path, &old).expect("writable");
        }
        File::options()
            .write(true)
            .open(&path)
            .and_then(|file| file.set_len(old.len() as u64 / 2))
            .expect("cut");
        told_or_right(&mut machine);
        fs::write(&path, &old).expect("writable");
        nothing_lost(&mut machine);
        return;
    }
    panic!(
        "no journal file found in {:?}",
        files_below(&machine.state())
    );
}

/// Starts; either the damage is told in the log, or the content is right.
#[track_caller]
fn told_or_right(machine: &mut Machine) {
    if machine.try_start().is_ok() {
        match fs::read(machine.dir().join("kept")) {
            Ok(bytes) => assert!(
                bytes == pattern(1, 0, 50_000),
                "wrong bytes from a damaged journal"
            ),
            Err(why) => assert_eq!(
                why.raw_os_error(),
                Some(rustix::io::Errno::IO.raw_os_error())
            ),
        }
    } else {
        let log = machine.log();
        assert!(
            !log.contains("panicked"),
            "a damaged journal made it panic:\n{log}"
        );
    }
    machine.kill();
}

#[test]
fn a_full_local_disk_stops_writers_and_loses_nothing() {
    let mut machine = Machine::prepared("demo");
    let state = machine.state();
    fs::create_dir(&state).expect("a folder");
    let state_name = state.to_str().expect("UTF-8").to_owned();
    tool(
        "mount",
        &["-t", "tmpfs", "-o", "size=48m", "pxfs-test", &state_name],
    );
    let _unmounted = Unmount(state.clone());
    machine.start();
    let dir = machine.dir();

    let mut accepted = 0u64;
    let mut refused = None;
    for id in 0..100 {
        let path = dir.join(format!("f{id}"));
        match fs::write(&path, pattern(id, 0, 1 << 20)).and_then(|()| File::open(&path)?.sync_all())
        {
            Ok(()) => accepted += 1,
            Err(why) => {
                refused = Some(why);
                drop(fs::remove_file(&path));
                break;
            }
        }
    }
    let refused = refused.expect("48 MiB do not hold 100 MiB");
    assert_eq!(
        refused.raw_os_error(),
        Some(rustix::io::Errno::NOSPC.raw_os_error()),
        "{refused}"
    );
    for id in 0..accepted {
        assert_pattern(&dir.join(format!("f{id}")), id, 1 << 20);
    }
    // Room comes back, writing resumes.
    tool("mount", &["-o", "remount,size=300m", &state_name]);
    fs::write(dir.join("more"), pattern(500, 0, 1 << 20)).expect("writing resumes");
    machine.flush();
    machine.restart();
    for id in 0..accepted {
        assert_pattern(&dir.join(format!("f{id}")), id, 1 << 20);
    }
    assert_pattern(&dir.join("more"), 500, 1 << 20);
    machine.stop();
}

/// Unmounts a folder when the test ends.
struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn a_drive_whose_wallet_is_missing_or_another_says_whose_it_is() {
    let mut machine = stopped();
    let wallet = machine.state().join("wallet");
    let address = Wallet::open(&wallet, None).expect("the wallet").address();
    let address = address.to_string();
    let kept = machine.scratch().join("wallet");
    fs::rename(&wallet, &kept).expect("rename");
    let told = machine.try_start().expect_err("it is refused");
    let last = told.trim_end().lines().last().unwrap_or("").to_owned();
    for word in ["wallet", &*address, "--state-dir"] {
        assert!(last.contains(word), "{word} is not in: {last}");
    }
    assert!(!wallet.exists(), "no new one is made");
    // Another one, whose tokens these are not.
    Wallet::create(&wallet, None).expect("a wallet");
    let mountpoint = machine.mountpoint();
    for answer in [
        mount(&machine, &mountpoint, &[]),
        machine.ask(&["detach", "1", "--discard", "--yes"]),
    ] {
        let answer = answer.exits(8).one_line();
        assert!(answer.stderr.contains(&address), "{}", answer.stderr);
    }
    let told = machine.try_start().expect_err("it is refused");
    let last = told.trim_end().lines().last().unwrap_or("").to_owned();
    assert!(last.contains(&address), "{last}");
    fs::rename(&kept, &wallet).expect("rename");
    nothing_lost(&mut machine);
}

#[test]
fn a_demo_whose_configuration_is_cut_short_says_so_and_loses_nothing() {
    let mut machine = stopped();
    let file = machine.state().join("config.toml");
    let text = fs::read(&file).expect("the configuration");
    for len in [0, text.len() / 2, text.len() - 3] {
        fs::write(&file, &text[..len]).expect("writable");
        let told = machine.try_start().expect_err("it is refused");
        let last = told.trim_end().lines().last().unwrap_or("").to_owned();
        assert!(last.contains("config.toml"), "{last}");
    }
    // As the line says: it is made anew.
    fs::remove_file(&file).expect("unlink");
    nothing_lost(&mut machine);
    assert_eq!(fs::read(&file).expect("the configuration"), text);
}
