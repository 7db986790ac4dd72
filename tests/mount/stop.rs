//! The daemon is told to end while programs go on writing: what they were told is written is there.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc;
use std::thread::JoinHandle;

use rustix::fs::{Mode, OFlags};
use rustix::process::Signal;

use crate::harness::{Machine, is_mounted};

/// Files, or records, after which a writer is under way.
const UNDER_WAY: u64 = 200;
/// A bound for a writer that nobody stops.
const MANY: u64 = 1_000_000;
/// Bytes of a record.
const RECORD: usize = 100;

/// Writes until a call fails; gives how many were acknowledged.
fn writer(
    started: mpsc::Sender<()>,
    mut one: impl FnMut(u64) -> std::io::Result<()> + Send + 'static,
) -> JoinHandle<u64> {
    std::thread::spawn(move || {
        for number in 0..MANY {
            if one(number).is_err() {
                return number;
            }
            if number == UNDER_WAY {
                started.send(()).expect("somebody waits");
            }
        }
        panic!("the daemon never ended");
    })
}

/// Makes files in a folder that it holds open: the mount is in use.
fn files(folder: PathBuf, started: mpsc::Sender<()>) -> JoinHandle<u64> {
    let folder = File::open(folder).expect("the folder");
    writer(started, move |number| {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
        let name = number.to_string();
        let mut file = File::from(rustix::fs::openat(&folder, name, flags, Mode::from(0o644))?);
        file.write_all(&[number as u8; RECORD])
    })
}

/// Appends to one open file.
fn records(path: PathBuf, started: mpsc::Sender<()>) -> JoinHandle<u64> {
    let open = OpenOptions::new().append(true).create(true).open(path);
    let mut file = open.expect("the file");
    writer(started, move |number| {
        file.write_all(&[number as u8; RECORD])
    })
}

#[test]
fn writing_during_shutdown_loses_nothing_acknowledged() {
    let mut machine = Machine::demo();
    for (round, signal) in [Signal::TERM, Signal::INT].into_iter().enumerate() {
        let folder = machine.dir().join(format!("folder{round}"));
        let log = machine.dir().join(format!("log{round}"));
        fs::create_dir(&folder).expect("mkdir");
        let (started, under_way) = mpsc::channel();
        let files = files(folder.clone(), started.clone());
        let records = records(log.clone(), started);
        for _ in 0..2 {
            under_way.recv().expect("a writer");
        }
        machine.signal(signal);
        let made = files.join().expect("files");
        let written = records.join().expect("records");
        machine.ended(std::time::Duration::from_secs(300));
        machine.start();

        for number in 0..made {
            let bytes = fs::read(folder.join(number.to_string()));
            let bytes = bytes.unwrap_or_else(|why| panic!("file {number} of {made}: {why}"));
            assert_eq!(bytes, [number as u8; RECORD], "file {number}");
        }
        let bytes = fs::read(&log).expect("the log");
        assert!(
            bytes.len() as u64 >= written * RECORD as u64,
            "{} bytes of {written} records",
            bytes.len()
        );
        for (number, record) in (0..written).zip(bytes.chunks(RECORD)) {
            assert_eq!(record, [number as u8; RECORD], "record {number}");
        }
    }
}

/// A service's end runs it at a path where something else may lie by then.
#[test]
fn umount_dead_takes_away_what_a_killed_daemon_left_and_nothing_else() {
    let mut drive = Machine::demo();
    let mountpoint = drive.mountpoint();
    let path = mountpoint.to_str().expect("UTF-8").to_owned();
    let dead = |drive: &Machine| drive.ask(&["umount", "--dead", &path]).ok();
    dead(&drive);
    assert!(is_mounted(&mountpoint), "a drive that works stays");

    drive.leave_dead();
    assert!(is_mounted(&mountpoint));
    dead(&drive);
    assert!(!is_mounted(&mountpoint));

    let tmpfs = Command::new("mount")
        .args(["-t", "tmpfs", "tmpfs"])
        .arg(&mountpoint)
        .status();
    assert!(tmpfs.expect("mount(8)").success());
    fs::write(mountpoint.join("file"), b"of somebody else").expect("writable");
    dead(&drive);
    assert!(mountpoint.join("file").exists(), "another file system");
    rustix::mount::unmount(&mountpoint, rustix::mount::UnmountFlags::DETACH).expect("unmounted");
    dead(&drive);
}
