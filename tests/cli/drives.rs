//! Several drives at once, and what `doctor` finds: against real mounts.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::drive::{World, ended};

/// A second drive of the same user; ended and unmounted with it.
struct Second<'a> {
    world: &'a World,
    child: Child,
}

impl<'a> Second<'a> {
    fn new(world: &'a World) -> Self {
        let state = format!("--state-dir={}", world.path("second").display());
        let child = world.start(&["demo", "py", &state]);
        Self { world, child }
    }

    fn path(&self, name: &str) -> String {
        self.world.path("py").join(name).display().to_string()
    }
}

impl Drop for Second<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let mountpoint = self.world.path("py");
        let unmounted = Command::new("umount").arg("-l").arg(mountpoint).output();
        drop(unmounted);
    }
}

fn checks(text: &str) -> Vec<Value> {
    serde_json::from_str(text).unwrap()
}

/// What `doctor` says of the check that has `what` in it.
#[track_caller]
fn check(checks: &[Value], what: &str) -> Value {
    let is_it = |check: &&Value| check["check"].as_str().unwrap().contains(what);
    let found: Vec<&Value> = checks.iter().filter(is_it).collect();
    assert_eq!(found.len(), 1, "{what}: {checks:#?}");
    found[0].clone()
}

#[test]
fn several_drives_are_all_listed_and_commands_need_one_named() {
    let world = World::new();
    let mut first = world.demo();
    let second = Second::new(&world);
    let shown = world.succeeds(&["status"]);
    for name in ["px", "py"] {
        let line = format!("{}, mounted for", world.path(name).display());
        assert!(shown.contains(&line), "{line} is not in:\n{shown}");
    }
    let told: Value = serde_json::from_str(&world.succeeds(&["status", "--json"])).unwrap();
    assert_eq!(told.as_array().unwrap().len(), 2, "{told:#}");
    let told = world.succeeds(&["status", "--json", "--drive", "px"]);
    let told: Value = serde_json::from_str(&told).unwrap();
    let mountpoint = world.mountpoint().display().to_string();
    assert_eq!(told["mountpoint"], *mountpoint);

    // None is guessed.
    for words in [
        &["tokens"][..],
        &["mint", "--package", "1", "--yes"],
        &["flush"],
    ] {
        let line = world.fails(2, words);
        assert!(line.contains("px, ") && line.contains("--drive"), "{line}");
    }
    // By its mountpoint, by anything in it, by a variable, by the current directory.
    let inside = second.path("1");
    world.succeeds(&["mint", "--package", "1", "--yes", "--drive", "py"]);
    assert!(Path::new(&second.path("2")).is_dir());
    assert!(!world.token("2").exists(), "minted for the other drive");
    fs::write(Path::new(&inside).join("file"), "x").unwrap();
    world.succeeds(&["flush", "--drive", &inside]);
    for words in [&["fsck", "1"][..], &["export", "1", "second.car"]] {
        world.succeeds(&[words, &["--drive", &inside]].concat());
    }
    let owned = |command: &mut Command| {
        let output = command.args(["tokens", "--json"]).output().unwrap();
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        told.as_array().unwrap().len()
    };
    assert_eq!(owned(world.command(&[]).env("PXFS_DRIVE", "py")), 2);
    assert_eq!(owned(world.command(&[]).env("PXFS_DRIVE", "px")), 1);
    assert_eq!(owned(world.command(&[]).current_dir(&inside)), 2);
    assert_eq!(owned(world.command(&[]).current_dir(world.token("1"))), 1);
    // One that is not mounted is not replaced by another.
    let line = world.fails(10, &["tokens", "--drive", "elsewhere"]);
    assert!(line.contains("elsewhere is not mounted"), "{line}");
    world.leaves("py");
    world.leaves("px");
    assert_eq!(ended(&mut first), 0);
}

#[test]
fn doctor_asks_every_drive_and_names_one_that_is_dead() {
    let world = World::new();
    let mut first = world.demo();
    let mut second = Second::new(&world);
    let told = checks(&world.succeeds(&["doctor", "--json"]));
    for name in ["px", "py"] {
        let line = format!("mounted on {}", world.path(name).display());
        assert_eq!(check(&told, &line)["ok"], true);
    }
    second.child.kill().unwrap();
    second.child.wait().unwrap();
    let output = world.run(&["doctor", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let told = checks(&String::from_utf8(output.stdout).unwrap());
    let dead = world.path("py").display().to_string();
    let found = check(&told, &dead);
    let remedy = format!("pxfs umount --dead {dead}");
    assert!(found["fix"].as_str().unwrap().contains(&remedy), "{found}");
    let living = format!("mounted on {}", world.mountpoint().display());
    assert_eq!(check(&told, &living)["ok"], true);
    // What it says to do cures it.
    world.succeeds(&["umount", "--dead", &dead]);
    world.succeeds(&["doctor"]);
    world.leaves("px");
    assert_eq!(ended(&mut first), 0);
}

#[test]
fn doctor_finds_a_service_well_whose_caller_has_nothing_configured() {
    let world = World::new();
    let mut first = world.demo();
    world.leaves("px");
    assert_eq!(ended(&mut first), 0);
    // As systemd starts it: folders and wallet by variables that no caller of `doctor` has.
    let state = world.path(".local/state/pxfs/demo");
    let run = world.path("run");
    let config = format!("--config={}", state.join("config.toml").display());
    let mut service = world
        .command(&["mount", "-f", "px", &config])
        .env("STATE_DIRECTORY", &state)
        .env("RUNTIME_DIRECTORY", run.join("pxfs"))
        .env("CACHE_DIRECTORY", world.path("cache"))
        .env("HOME", "/nonexistent")
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let home = world.path("home");
    let doctor = || {
        let mut command = world.command(&["doctor", "--json"]);
        command.env("HOME", &home).env("XDG_RUNTIME_DIR", &run);
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        (output.status.code(), checks(&text))
    };
    let is_up = |told: &[Value]| {
        told.iter()
            .any(|one| one["check"].as_str().unwrap().starts_with("mounted on"))
    };
    let mut told = doctor();
    while !is_up(&told.1) {
        assert!(service.try_wait().unwrap().is_none(), "it has ended");
        told = doctor();
    }
    assert_eq!(told.0, Some(0), "{:#?}", told.1);
    assert!(!home.exists(), "it made something");
    let sent = Command::new("kill").arg(service.id().to_string()).status();
    assert!(sent.unwrap().success());
    assert_eq!(ended(&mut service), 0);
}

#[test]
fn doctor_says_what_to_do_about_a_fuse_device_of_any_mode() {
    let world = World::new();
    let device = world.path("fuse");
    let made = Command::new("mknod")
        .arg(&device)
        .args(["c", "10", "229"])
        .status();
    assert!(made.unwrap().success());
    // In a mount namespace of its own, as a user who may not do everything.
    let script = "mount --bind \"$1\" /dev/fuse && exec setpriv --reuid=65534 --regid=65534 --clear-groups \"$2\" doctor --json";
    let told = |mode: u32, group: &str| {
        fs::set_permissions(&device, fs::Permissions::from_mode(mode)).unwrap();
        let owned = Command::new("chgrp").arg(group).arg(&device).status();
        assert!(owned.unwrap().success());
        let output = Command::new("unshare")
            .args(["--mount", "sh", "-c", script, "sh"])
            .arg(&device)
            .arg(env!("CARGO_BIN_EXE_pxfs"))
            .env_clear()
            .env("HOME", "/nonexistent")
            .env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")
            .current_dir("/")
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        let told = checks(&String::from_utf8(output.stdout).unwrap());
        check(&told, "/dev/fuse")
    };
    let fix = |mode, group| told(mode, group)["fix"].to_string();
    assert!(fix(0o600, "0").contains("chmod 666 /dev/fuse"));
    assert!(fix(0o660, "7").contains("usermod -aG 7"));
    assert_eq!(told(0o666, "0")["ok"], true);
}

#[test]
fn doctor_reports_each_fault_once_and_rejects_unknown_log_levels() {
    let world = World::new();
    let line = world.fails(2, &["doctor", "--log", "loud"]);
    assert!(line.contains("--log loud"), "{line}");
    let mut demo = world.demo();
    world.leaves("px");
    assert_eq!(ended(&mut demo), 0);
    // Nobody listens at port 9.
    let state = format!(
        "--state-dir={}",
        world.path(".local/state/pxfs/demo").display()
    );
    for away in [
        [
            "--rpc-url=http://127.0.0.1:9",
            "--contract=0x5FbDB2315678afecb367f032d93F642f64180aa3",
        ],
        ["--node=ipfs=http://127.0.0.1:9", "--quiet"],
    ] {
        let output = world.run(&[&["doctor", &state][..], &away].concat());
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8(output.stdout).unwrap();
        let faults = text.lines().filter(|line| line.starts_with("FAIL"));
        assert_eq!(faults.count(), 1, "{away:?}:\n{text}");
    }
}
