//! A node whose disk is full: what was written waits here, and is sent when there is room. And a full disk here.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::command::run;
use crate::harness::Machine;
use crate::nodes::kubo::Kubo;
use crate::samples::{assert_pattern, pattern};

const MIB: usize = 1 << 20;

/// A file system of its own for the node's repository, which must be unmounted after the node has ended.
struct Small<'a>(&'a Path);

impl Small<'_> {
    fn mount(place: &Path, options: &str) {
        let mut command = Command::new("mount");
        command
            .args(["-t", "tmpfs", "-o", options, "pxfs-test"])
            .arg(place);
        run(command, Duration::from_secs(20)).ok();
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        // Lazily: whatever still holds it lets go of it when it ends.
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn an_ipfs_node_with_a_full_disk_gets_the_rest_later() {
    let place = tempfile::Builder::new().prefix("px-full-").tempdir();
    let place = place.expect("a folder");
    Small::mount(place.path(), "size=24m");
    let _small = Small(place.path());
    let node = Kubo::start_in(&place.path().join("repo"));
    let url = format!("ipfs={}", node.url());
    let machine = Machine::demo_with(&["--node", &url, "--read-timeout", "30s"]);
    fs::write(machine.dir().join("small"), b"fits").expect("written");
    machine.flush();
    for n in 0..4 {
        let bytes = pattern(n, 0, 16 * MIB);
        fs::write(machine.dir().join(format!("great-{n}")), bytes).expect("written");
    }
    let flushed = machine.ask(&["flush"]);
    assert_eq!(flushed.code, Some(7), "{flushed:?}");
    assert!(flushed.stderr.contains("no space left"), "{flushed:?}");
    // The drive goes on.
    assert_pattern(&machine.dir().join("great-2"), 2, 16 * MIB as u64);
    fs::write(machine.dir().join("meanwhile"), b"written").expect("written");
    Small::mount(place.path(), "remount,size=400m");
    machine.flush();
    let mut machine = machine;
    machine.stop();
    let mut second = Machine::prepared_second(&machine)
        .with_node(&url)
        .with_args(&["--take-over"]);
    second.start();
    for n in 0..4 {
        assert_pattern(&second.dir().join(format!("great-{n}")), n, 16 * MIB as u64);
    }
    second.stop();
    drop((second, machine, node));
}

#[test]
fn a_full_local_disk_is_told_with_its_folder_and_what_waits() {
    let mut machine = Machine::prepared("demo");
    let volumes = machine.state().join("volumes");
    fs::create_dir_all(&volumes).expect("a folder");
    Small::mount(&volumes, "size=48m");
    let _small = Small(&volumes);
    machine.start();
    machine.fault("put-many fail");
    let refused = (0..64).find_map(|n| {
        let file = machine.dir().join(format!("f{n}"));
        fs::write(file, pattern(n, 0, MIB)).err()
    });
    let refused = refused.expect("it is full some time");
    assert_eq!(refused.kind(), std::io::ErrorKind::StorageFull, "{refused}");
    let row = machine.token("1");
    assert_eq!(row["state"], "stuck", "{row:#}");
    let why = row["reason"].as_str().unwrap_or_default();
    let folder = machine.state().display().to_string();
    for words in [
        "the local disk is full",
        "bytes are free for",
        &folder,
        "wait here",
    ] {
        assert!(why.contains(words), "{words} is not in: {why}");
    }
    let flushed = machine.ask(&["flush"]).exits(7).one_line();
    assert!(
        flushed.stderr.contains("the local disk is full"),
        "{flushed:?}"
    );
    Small::mount(&volumes, "remount,size=400m");
    machine.fault("");
    machine.flush();
    machine.wait_for("1", "state", "ok");
    machine.stop();
}
