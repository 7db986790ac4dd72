//! The trash: what a file manager throws away can be restored, whatever token it lies in.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::io::Errno;

use crate::command::{TOOL, run, tool, wait_until};
use crate::harness::Machine;
use crate::samples::{assert_pattern, pattern};

const SOON: Duration = Duration::from_secs(120);

/// A drive with two tokens.
fn machine() -> Machine {
    let machine = Machine::demo();
    machine.ask(&["mint", "--package", "1", "--yes"]).ok();
    let second = machine.mountpoint().join("2");
    wait_until("the new token appears", SOON, || second.is_dir());
    machine
}

fn trash(machine: &Machine) -> PathBuf {
    let uid = rustix::process::getuid().as_raw();
    machine.mountpoint().join(format!(".Trash-{uid}"))
}

/// Throws `path` away as file managers of GNOME, Xfce and others do.
fn throw(path: &Path) {
    let mut gio = Command::new("gio");
    gio.arg("trash").arg(path).env("GIO_USE_VFS", "local");
    run(gio, TOOL).ok();
    assert!(!path.exists(), "{} is still there", path.display());
}

/// Puts `name` back where `info` says, as the specification has it.
fn restore(machine: &Machine, name: &str) -> PathBuf {
    let trash = trash(machine);
    let info = trash.join("info").join(format!("{name}.trashinfo"));
    let text = fs::read_to_string(&info).expect("what tells where it came from");
    let path = text.lines().find_map(|line| line.strip_prefix("Path="));
    let back = machine.mountpoint().join(path.expect("a path"));
    fs::rename(trash.join("files").join(name), &back).expect("restored");
    fs::remove_file(&info).expect("removed");
    back
}

fn names(folder: &Path) -> Vec<String> {
    let listed = fs::read_dir(folder).expect("listed");
    let mut names: Vec<String> = listed
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into()
        })
        .collect();
    names.sort();
    names
}

#[test]
fn what_a_file_manager_throws_away_can_be_restored() {
    let mut machine = machine();
    let (first, second) = (machine.dir(), machine.mountpoint().join("2"));
    fs::write(first.join("photo"), pattern(1, 0, 300_000)).expect("written");
    fs::create_dir(second.join("album")).expect("made");
    fs::write(second.join("album/photo"), pattern(2, 0, 200_000)).expect("written");
    let number = fs::metadata(second.join("album")).expect("there").ino();
    machine.flush();
    let used = machine.number("1", "used_bytes");

    throw(&second.join("album"));
    let files = trash(&machine).join("files");
    assert_pattern(&files.join("album/photo"), 2, 200_000);
    let moved = fs::metadata(files.join("album")).expect("there").ino();
    assert_eq!(moved, number, "a copy");
    throw(&first.join("photo"));
    assert_eq!(names(&files), ["album", "photo"]);
    assert_eq!(names(&trash(&machine)), ["expunged", "files", "info"]);
    // A token's own is seen in one place, and the mountpoint lists its tokens.
    let uid = rustix::process::getuid().as_raw();
    assert!(!second.join(format!(".Trash-{uid}")).exists());
    assert_eq!(names(&machine.mountpoint()), ["1", "2"]);

    machine.restart();
    assert_eq!(names(&files), ["album", "photo"]);
    assert_eq!(restore(&machine, "album"), second.join("album"));
    assert_pattern(&second.join("album/photo"), 2, 200_000);
    assert_eq!(restore(&machine, "photo"), first.join("photo"));
    assert_pattern(&first.join("photo"), 1, 300_000);
    assert_eq!(names(&files), Vec::<String>::new());
    assert_eq!(names(&trash(&machine).join("info")), Vec::<String>::new());
    // What is left is the directories themselves.
    let left = machine.number("1", "used_bytes") - used;
    assert!(left < 64 << 10, "{left}");
}

#[test]
fn what_lies_in_the_trash_is_whole_in_its_own_token() {
    let machine = machine();
    let second = machine.mountpoint().join("2");
    fs::write(second.join("letter"), pattern(3, 0, 5_000)).expect("written");
    throw(&second.join("letter"));
    machine.flush();
    let tar = machine.scratch().join("second.tar");
    let to = tar.to_str().expect("a path");
    machine.ask(&["export", "2", "--tar", to]).ok();
    let listed = tool("tar", &["-tf", to]).stdout;
    for wanted in ["files/letter", "info/letter.trashinfo"] {
        assert!(listed.contains(wanted), "{wanted} is not in:\n{listed}");
    }
}

#[test]
fn a_file_of_any_length_beside_what_is_thrown_away_stays_whole() {
    let machine = machine();
    let (trash, second) = (trash(&machine), machine.mountpoint().join("2"));
    let info = trash.join("info/long.trashinfo");
    // It is made in the first token, and what is thrown away is of the second.
    let content = pattern(6, 0, 200_000);
    fs::write(&info, &content).expect("written");
    fs::write(second.join("long"), "x").expect("written");
    fs::rename(second.join("long"), trash.join("files/long")).expect("thrown");
    assert!(fs::read(&info).expect("there") == content);
}

#[test]
fn the_trash_is_emptied_and_gives_its_room_back() {
    let machine = machine();
    let (first, second) = (machine.dir(), machine.mountpoint().join("2"));
    for (dir, name) in [(&first, "one"), (&second, "one")] {
        fs::write(dir.join(name), pattern(4, 0, 1 << 20)).expect("written");
        throw(&dir.join(name));
    }
    let trash = trash(&machine);
    let files = names(&trash.join("files"));
    assert_eq!(
        files.len(),
        2,
        "the second has a name of its own: {files:?}"
    );
    machine.flush();
    let full = ["1", "2"].map(|token| machine.number(token, "used_bytes"));
    for folder in ["files", "info"] {
        for name in names(&trash.join(folder)) {
            // As gvfs does it: out of sight first.
            let expunged = trash.join("expunged").join(&name);
            fs::rename(trash.join(folder).join(&name), &expunged).expect("moved");
            fs::remove_file(expunged).expect("removed");
        }
    }
    machine.flush();
    let empty = ["1", "2"].map(|token| machine.number(token, "used_bytes"));
    assert!(empty[0] + (1 << 20) <= full[0], "{empty:?} {full:?}");
    assert!(empty[1] + (1 << 20) <= full[1], "{empty:?} {full:?}");
}

#[test]
fn the_trash_takes_nothing_between_tokens_and_nothing_from_strangers() {
    let machine = Machine::demo_with(&["-o", "allow_other"]);
    machine.ask(&["mint", "--package", "1", "--yes"]).ok();
    let (first, second) = (machine.dir(), machine.mountpoint().join("2"));
    wait_until("the new token appears", SOON, || second.is_dir());
    fs::write(first.join("kept"), "k").expect("written");
    throw(&first.join("kept"));
    // To another token it is copied, as between any two file systems.
    let thrown = trash(&machine).join("files/kept");
    let refused = fs::rename(&thrown, second.join("kept")).expect_err("another token");
    assert_eq!(refused.kind(), ErrorKind::CrossesDevices);
    // Nor does what another token throws away take its place.
    fs::write(second.join("other"), "o").expect("written");
    let refused = fs::rename(second.join("other"), &thrown).expect_err("the name is taken");
    assert_eq!(refused.kind(), ErrorKind::AlreadyExists);
    assert_eq!(fs::read(&thrown).expect("there"), b"k");
    // No other name begins a trash, and the real one has one way in.
    for name in [".Trash", ".Trash-x", "folder"] {
        let refused = fs::create_dir(machine.mountpoint().join(name)).expect_err("refused");
        assert_eq!(Errno::from_io_error(&refused), Some(Errno::PERM), "{name}");
    }
    let refused = fs::create_dir(first.join(".Trash-77")).expect_err("refused");
    assert_eq!(Errno::from_io_error(&refused), Some(Errno::PERM));
    // One whom no token belongs to takes none of its quota.
    for (path, mode) in [
        (&first, 0o755),
        (&second, 0o755),
        (&machine.folder().to_owned(), 0o711),
    ] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
    }
    let foreign = machine.mountpoint().join(".Trash-4242/info/x.trashinfo");
    let mut as_stranger = Command::new("setpriv");
    as_stranger.args(["--reuid=4242", "--regid=4242", "--clear-groups", "touch"]);
    as_stranger.arg(&foreign);
    let answer = run(as_stranger, TOOL);
    assert_ne!(answer.code, Some(0));
    assert!(answer.stderr.contains("not permitted"), "{}", answer.stderr);
    // Nor does anybody else look into this one.
    let mut builder = fs::DirBuilder::new();
    assert!(builder.mode(0o700).create(trash(&machine)).is_err());
    let mode = fs::metadata(trash(&machine)).expect("there").mode();
    assert_eq!(mode & 0o777, 0o700);
}
