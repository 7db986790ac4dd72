//! What is seen of what takes long: `status --watch`, and the progress of commands on a terminal.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::drive::{World, ended};

/// Runs a command of pxfs on a terminal; all that it wrote there.
fn on_a_terminal(world: &World, words: &str) -> String {
    let line = format!("{} {words}", env!("CARGO_BIN_EXE_pxfs"));
    let typescript = world.path("typescript");
    let output = Command::new("script")
        .args(["--quiet", "--return", "--flush", "--command", &line])
        .arg(&typescript)
        .env_clear()
        .env("HOME", world.path(""))
        .env("PATH", "/usr/bin:/bin")
        .env("TERM", "xterm")
        .current_dir(world.path(""))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let seen = fs::read(typescript).unwrap();
    let seen = String::from_utf8_lossy(&seen).into_owned();
    assert!(output.status.success(), "{words}: {seen}");
    seen
}

#[test]
fn status_watch_tells_each_change_and_ends_well_with_ctrl_c() {
    let world = World::new();
    let mut demo = world.demo_with(&["--commit-idle=1h", "--commit-max=1h"]);
    for (words, first, changed) in [
        (&["status", "--watch"][..], "mounted for", "in 1 file"),
        (
            &["status", "--watch", "--json", "px"],
            "\"pending_files\":1",
            "\"pending_files\":2",
        ),
    ] {
        let mut command = world.command(words);
        let mut watch = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
        let mut wait_for = |what: &str| {
            let line = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains(what)));
            line.unwrap_or_else(|| panic!("{what} was never told"))
                .unwrap()
        };
        let line = wait_for(first);
        if words.contains(&"--json") {
            serde_json::from_str::<Value>(&line).unwrap();
        }
        fs::write(world.token("1").join(first.replace('"', "")), "x").unwrap();
        wait_for(changed);
        let sent = Command::new("kill")
            .args(["-INT", &watch.id().to_string()])
            .status();
        assert!(sent.unwrap().success());
        assert_eq!(ended(&mut watch), 0);
    }
    // It ends with its drive, and says so.
    let mut command = world.command(&["status", "--watch"]);
    let mut watch = command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    lines.next().unwrap().unwrap();
    world.leaves("px");
    assert_eq!(ended(&mut demo), 0);
    assert_eq!(ended(&mut watch), 10);
    drop(lines);
}

#[test]
fn long_commands_tell_bytes_rate_and_time_left_on_a_terminal() {
    let world = World::new();
    let fault = world.path("fault");
    fs::write(&fault, "").unwrap();
    let flag = format!("--fault={}", fault.display());
    let mut demo = world.demo_with(&["--commit-idle=1h", "--commit-max=1h", &flag]);
    let bytes: Vec<u8> = (0..4_u32 << 20).map(|n| (n / 251 * 7 + n) as u8).collect();
    fs::write(world.token("1").join("file"), &bytes).unwrap();
    // So slow that it is seen.
    fs::write(&fault, "put-many delay=1500ms\nget delay=700ms\n").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(500));
    let seen = on_a_terminal(&world, "flush");
    for wanted in ["publishing 1 file", " of 4", "B/s", "] "] {
        assert!(seen.contains(wanted), "{wanted} is not in:\n{seen}");
    }
    assert!(!seen.contains("100 %"), "full before all is done:\n{seen}");
    for (words, what) in [
        ("fsck 1", "checking: "),
        ("export 1 --tar files.tar", "exporting: "),
        ("export 1 blocks.car", "exporting: "),
    ] {
        let seen = on_a_terminal(&world, words);
        for wanted in [what, "of about 4", "B/s", " left"] {
            assert!(
                seen.contains(wanted),
                "{words}: {wanted} is not in:\n{seen}"
            );
        }
    }
    // Nothing of it where it is not asked for.
    let quiet = on_a_terminal(&world, "fsck 1 --no-progress");
    assert!(!quiet.contains("B/s"), "{quiet}");
    fs::write(&fault, "").unwrap();
    world.leaves("px");
    assert_eq!(ended(&mut demo), 0);
}
