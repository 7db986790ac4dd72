//! What the node must lose, and what it loses: garbage, and blocks that somebody needs.

use std::fs::{self, File};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use pxfs::pack::cid::{digest, leaf_cid};

use crate::command::wait_until;
use crate::harness::Machine;
use crate::samples::{assert_pattern, pattern};

/// The daemon looks at its node soon after the start.
const SOON: Duration = Duration::from_secs(30);
const MIB: usize = 1 << 20;

/// The file in the embedded node that holds a leaf of these bytes.
fn leaf_file(machine: &Machine, data: &[u8]) -> PathBuf {
    let cid = leaf_cid(data);
    let shard = format!("{:x}", digest(&cid).expect("a leaf")[31] & 0x0f);
    machine
        .node()
        .join("blocks/blocks")
        .join(shard)
        .join(cid.to_string())
}

#[test]
fn the_node_gives_back_the_room_of_what_nothing_holds_while_the_drive_is_in_use() {
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
