//! What the node must lose, and what it loses: garbage, and blocks that somebody needs.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use pxfs::pack::cid::{digest, leaf_cid};

use crate::command::wait_until;
use crate::harness::Machine;
use crate::samples::{assert_pattern, pattern};

/// The daemon looks at its node soon after the start.
const SOON: Duration = Duration::from_secs(180);
const MIB: usize = 1 << 20;

/// The file in the embedded node that holds a leaf of these bytes.
pub(crate) fn leaf_file(machine: &Machine, data: &[u8]) -> PathBuf {
    let cid = leaf_cid(data);
    let shard = format!("{:x}", digest(&cid).expect("a leaf")[31] & 0x0f);
    machine
        .node()
        .join("blocks/blocks")
        .join(shard)
        .join(cid.to_string())
}

#[test]
fn the_node_frees_unreferenced_blocks_while_the_drive_is_mounted() {
    let mut machine = Machine::demo();
    fs::write(machine.dir().join("kept"), pattern(1, 0, 3 * MIB)).expect("writable");
    machine.stop();
    let garbage = leaf_file(&machine, b"nothing points at this");
    fs::write(&garbage, b"nothing points at this").expect("the node's folder");
    let long_ago = SystemTime::now() - Duration::from_secs(2 * 3600);
    for folder in fs::read_dir(machine.node().join("blocks/blocks")).expect("shards") {
        for block in fs::read_dir(folder.expect("a shard").path()).expect("blocks") {
            let block = File::options()
                .write(true)
                .open(block.expect("a block").path());
            block
                .and_then(|file| file.set_modified(long_ago))
                .expect("a time");
        }
    }
    let _ = fs::remove_file(machine.node().join("blocks/collected"));
    machine.start();
    fs::write(machine.dir().join("new"), pattern(2, 0, 3 * MIB)).expect("writable");
    machine.flush();
    wait_until("the garbage is gone", SOON, || !garbage.exists());
    machine.stop();
    fs::remove_dir_all(machine.cache()).expect("a cache");
    fs::remove_dir_all(machine.state().join("volumes")).expect("the local state");
    machine.start();
    assert_pattern(&machine.dir().join("kept"), 1, 3 * MIB as u64);
    assert_pattern(&machine.dir().join("new"), 2, 3 * MIB as u64);
    machine.stop();
}

/// A machine with `f` of 3 MiB and `g`, published, whose daemon is stopped.
fn published() -> Machine {
    let mut machine = Machine::demo();
    fs::write(machine.dir().join("f"), pattern(1, 0, 3 * MIB)).expect("writable");
    fs::create_dir(machine.dir().join("dir")).expect("a directory");
    fs::write(machine.dir().join("dir/g"), pattern(2, 0, 100_000)).expect("writable");
    machine.stop();
    machine
}

#[test]
fn a_silently_lost_block_is_restored_from_this_machine() {
    let mut machine = published();
    let leaf = leaf_file(&machine, &pattern(1, MIB as u64, MIB));
    fs::remove_file(&leaf).expect("a leaf");
    machine.start();
    wait_until("the block is back", SOON, || leaf.exists());
    machine.stop();
    fs::remove_dir_all(machine.cache()).expect("a cache");
    let mut second = Machine::second(&machine);
    assert_pattern(&second.dir().join("f"), 1, 3 * MIB as u64);
    second.stop();
}

#[test]
fn a_lost_block_affects_one_file_and_status_names_it() {
    let mut machine = published();
    fs::remove_dir_all(machine.cache()).expect("a cache");
    let lost = pattern(1, MIB as u64, MIB);
    fs::remove_file(leaf_file(&machine, &lost)).expect("a leaf");
    machine.start();
    let path = machine.dir().join("f");
    let file = File::open(&path).expect("listed and opened as ever");
    let mut byte = [0];
    let read = file.read_exact_at(&mut byte, MIB as u64 + 5);
    let errno = read.expect_err("a lost chunk").raw_os_error();
    assert_eq!(errno, Some(rustix::io::Errno::IO.raw_os_error()));
    file.read_exact_at(&mut byte, 2 * MIB as u64)
        .expect("a chunk that is there");
    let row = machine.token("1");
    assert_eq!(row["damaged"][0]["path"], "f", "{row:#}");
    assert_eq!(row["damaged"][0]["cid"], leaf_cid(&lost).to_string());
    let told = machine.ask(&["status"]).ok().stdout;
    assert!(told.contains("lost block"), "{told}");
    // Everything else goes on, and is published.
    fs::write(machine.dir().join("new"), pattern(3, 0, 100_000)).expect("writable");
    machine.flush();
    // What is written into the file beside the loss stays here, and flushing says so.
    let file = File::options().write(true).open(&path).expect("writable");
    file.write_all_at(b"edit", MIB as u64 + 7).expect("written");
    file.sync_all().expect("durable on this machine");
    let flushed = machine.ask(&["flush"]);
    assert_eq!(flushed.code, Some(7), "{flushed:?}");
    assert!(flushed.stderr.contains("lost blocks of f"), "{flushed:?}");
    drop(file);
    machine.terminate();
    // Also for a machine that knows nothing of it.
    let mut second = Machine::second(&machine);
    let read = fs::read(second.dir().join("f")).expect_err("a lost chunk");
    assert_eq!(read.raw_os_error(), errno);
    assert_pattern(&second.dir().join("new"), 3, 100_000);
    assert_pattern(&second.dir().join("dir/g"), 2, 100_000);
    second.terminate();
    drop(second);
    machine.start();
    fs::write(&path, pattern(9, 0, 2 * MIB)).expect("written anew");
    machine.flush();
    assert_eq!(machine.token("1")["damaged"], serde_json::json!([]));
    machine.stop();
    let mut second = Machine::second(&machine);
    assert_pattern(&second.dir().join("f"), 9, 2 * MIB as u64);
    second.stop();
}
