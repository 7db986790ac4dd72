//! Who may do what, on a drive that other users enter: as on a local disk, supplementary groups
//! included. Each of them is a process of its own.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::io::Errno;

use crate::command::{run, tool};
use crate::harness::Machine;

/// Two users, each with a group of its own, and a group that only some processes are in.
const ONE: u32 = 65_534;
const OTHER: u32 = 65_533;
const TEAM: u32 = 65_500;

/// What the programs begin with: `t` tells of a call what came of it.
const PRELUDE: &str = r#"
import errno, os, stat, sys
def t(call, *args, **named):
    try:
        call(*args, **named)
        print("ok")
    except OSError as error:
        print(errno.errorcode[error.errno])
def put(path, data=b"x"):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
    os.write(fd, data)
    os.close(fd)
def get(path):
    with open(path, "rb") as file:
        return file.read()
def mode(path):
    print(oct(os.stat(path).st_mode & 0o7777))
os.umask(0)
os.chdir(sys.argv[1])
"#;

/// Runs `program` in `dir` as `user` with `groups` besides its own; the words that it prints.
#[track_caller]
fn by(user: u32, groups: &[u32], dir: &Path, program: &str) -> String {
    let mut command = Command::new("setpriv");
    command
        .arg(format!("--reuid={user}"))
        .arg(format!("--regid={user}"));
    if groups.is_empty() {
        command.arg("--clear-groups");
    } else {
        let list: Vec<String> = groups.iter().map(u32::to_string).collect();
        command.arg(format!("--groups={}", list.join(",")));
    }
    command.args(["--", "/usr/bin/env", "python3", "-c"]);
    command.arg(format!("{PRELUDE}{program}")).arg(dir);
    let answer = run(command, Duration::from_secs(60)).ok();
    answer
        .stdout
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

/// A drive that others enter, and a folder on it that they may do everything in.
fn open_to_all() -> (Machine, std::path::PathBuf) {
    let machine = Machine::demo_with(&["-o", "allow_other"]);
    for folder in [machine.mountpoint().join(".."), machine.dir()] {
        fs::set_permissions(&folder, Permissions::from_mode(0o755)).expect("chmod");
    }
    let dir = machine.dir().join("all");
    make_dir(&dir, 0, 0, 0o777);
    (machine, dir)
}

fn make_dir(path: &Path, user: u32, group: u32, mode: u32) {
    fs::create_dir(path).expect("mkdir");
    own(path, user, group, mode);
}

fn make_file(path: &Path, user: u32, group: u32, mode: u32) {
    fs::write(path, "content").expect("write");
    own(path, user, group, mode);
}

fn own(path: &Path, user: u32, group: u32, mode: u32) {
    chown(path, Some(user), Some(group)).expect("chown");
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("chmod");
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("stat").mode() & 0o7777
}

#[test]
fn a_drive_that_is_not_open_to_others_is_closed_to_them() {
    let machine = Machine::demo();
    for folder in [machine.mountpoint().join(".."), machine.dir()] {
        fs::set_permissions(&folder, Permissions::from_mode(0o777)).expect("chmod");
    }
    let parent = machine.mountpoint().with_file_name("");
    let told = by(
        ONE,
        &[],
        &parent,
        "t(os.stat, 'drive/1')\nt(os.listdir, 'drive')",
    );
    assert_eq!(told, "EACCES EACCES");
}

#[test]
fn supplementary_groups_open_what_is_open_to_them_and_nothing_else() {
    let (_machine, dir) = open_to_all();
    make_file(&dir.join("shared"), 0, TEAM, 0o660);
    make_dir(&dir.join("team"), 0, TEAM, 0o770);
    make_dir(&dir.join("inherits"), 0, TEAM, 0o2775);
    let program = r#"
t(get, "shared"); t(put, "shared")
t(put, "team/new"); t(os.mkdir, "inherits/folder"); t(put, "inherits/new")
t(put, "own"); t(os.chown, "own", -1, 65500); t(os.chown, "own", -1, 65533)
"#;
    assert_eq!(
        by(ONE, &[TEAM], &dir, program),
        "ok ok ok ok ok ok ok EPERM"
    );
    let program = r#"
t(get, "shared"); t(put, "shared")
t(put, "team/more"); t(os.mkdir, "inherits/more"); t(put, "inherits/more"); t(os.chown, "own", -1, 65533)
"#;
    let told = by(OTHER, &[], &dir, program);
    assert_eq!(told, "EACCES EACCES EACCES EACCES EACCES EPERM");
    let group = |name: &str| fs::metadata(dir.join(name)).expect("stat").gid();
    assert_eq!(group("team/new"), ONE, "a new file has its maker's group");
    assert_eq!(
        group("inherits/new"),
        TEAM,
        "or that of a set-group-id directory"
    );
    assert_eq!(
        (
            group("inherits/folder"),
            mode(&dir.join("inherits/folder")) & 0o2000
        ),
        (TEAM, 0o2000)
    );
    assert_eq!(group("own"), TEAM);
}

#[test]
fn the_first_class_that_fits_decides() {
    let (_machine, dir) = open_to_all();
    make_file(&dir.join("not-owner"), ONE, ONE, 0o077);
    make_file(&dir.join("not-team"), 0, TEAM, 0o707);
    make_file(&dir.join("only-read"), 0, 0, 0o444);
    make_file(&dir.join("program"), 0, 0, 0o755);
    fs::write(dir.join("program"), "#!/bin/sh\n").expect("write");
    make_dir(&dir.join("passable"), 0, 0, 0o711);
    make_file(&dir.join("passable/known"), 0, 0, 0o644);
    make_dir(&dir.join("listable"), 0, 0, 0o744);
    make_file(&dir.join("listable/file"), 0, 0, 0o644);
    let program = r#"
t(get, "not-owner"); t(get, "not-team"); t(get, "only-read"); t(put, "only-read")
for bits in (os.R_OK, os.W_OK, os.X_OK, os.F_OK):
    print(os.access("only-read", bits))
print(os.access("program", os.X_OK)); print(os.spawnv(os.P_WAIT, "./program", ["program"]))
t(os.listdir, "passable"); t(get, "passable/known"); t(put, "passable/new")
t(os.listdir, "listable"); t(os.stat, "listable/file")
t(os.truncate, "only-read", 1); t(os.setxattr, "only-read", "user.a", b"1")
"#;
    let told = by(ONE, &[TEAM], &dir, program);
    assert_eq!(
        told,
        "EACCES EACCES ok EACCES True False False True True 0 EACCES ok EACCES ok EACCES EACCES EACCES"
    );
    // For root an execute bit has to be there, too.
    let told = by(
        0,
        &[],
        &dir,
        "print(os.access('only-read', os.X_OK), os.access('only-read', os.W_OK))",
    );
    assert_eq!(told, "False True");
}

#[test]
fn in_a_sticky_folder_only_owners_remove_and_rename() {
    let (_machine, dir) = open_to_all();
    make_dir(&dir.join("tmp"), OTHER, OTHER, 0o1777);
    for name in ["a", "b", "c", "d"] {
        make_file(&dir.join("tmp").join(name), 0, 0, 0o666);
    }
    make_file(&dir.join("tmp/mine"), ONE, ONE, 0o600);
    make_file(&dir.join("tmp/over"), ONE, ONE, 0o600);
    make_dir(&dir.join("tmp/folder"), 0, 0, 0o777);
    make_file(&dir.join("outside"), ONE, ONE, 0o600);
    let program = r#"
t(put, "tmp/new"); t(put, "tmp/a")
t(os.unlink, "tmp/a"); t(os.rename, "tmp/b", "tmp/z"); t(os.rename, "tmp/b", "z")
t(os.rename, "tmp/mine", "tmp/c"); t(os.rename, "outside", "tmp/c"); t(os.rmdir, "tmp/folder")
t(os.rename, "tmp/mine", "tmp/over"); t(os.unlink, "tmp/over"); t(os.unlink, "tmp/new")
"#;
    assert_eq!(
        by(ONE, &[], &dir, program),
        "ok ok EPERM EPERM EPERM EPERM EPERM EPERM ok ok ok"
    );
    // Whose folder it is may.
    let program =
        "t(os.unlink, 'tmp/a'); t(os.rename, 'tmp/b', 'tmp/z'); t(os.rmdir, 'tmp/folder')";
    assert_eq!(by(OTHER, &[], &dir, program), "ok ok ok");
}

#[test]
fn attributes_are_their_owners_to_change() {
    let (_machine, dir) = open_to_all();
    make_file(&dir.join("roots"), 0, 0, 0o666);
    make_file(&dir.join("mine"), ONE, ONE, 0o600);
    let program = r#"
t(os.chmod, "roots", 0o600); t(os.chown, "roots", 65534, -1); t(os.utime, "roots", (1, 1))
t(os.utime, "roots"); t(os.setxattr, "roots", "user.a", b"1"); t(os.setxattr, "roots", "trusted.a", b"1")
t(os.chmod, "mine", 0o640); t(os.chown, "mine", 65533, -1); t(os.utime, "mine", (1, 1))
"#;
    assert_eq!(
        by(ONE, &[], &dir, program),
        "EPERM EPERM EPERM ok ok EPERM ok EPERM ok"
    );
    assert_eq!(mode(&dir.join("mine")), 0o640);
    // A set-group-id bit of a group that one is not in does not stay.
    own(&dir.join("mine"), ONE, TEAM, 0o755);
    by(ONE, &[], &dir, "os.chmod('mine', 0o2755)");
    assert_eq!(mode(&dir.join("mine")), 0o755);
    by(ONE, &[TEAM], &dir, "os.chmod('mine', 0o2755)");
    assert_eq!(mode(&dir.join("mine")), 0o2755);
}

#[test]
fn trusted_attributes_are_listed_to_root_alone() {
    let (machine, dir) = open_to_all();
    let local = machine.scratch().join("all");
    make_dir(&local, 0, 0, 0o777);
    own(&machine.scratch(), 0, 0, 0o755);
    for dir in [local.as_path(), &dir] {
        let set = r#"
put("f")
for name in ("user.b", "trusted.a", "trusted.c", "user.a"):
    os.setxattr("f", name, b"1")
print(sorted(os.listxattr("f")))
"#;
        let all = "['trusted.a', 'trusted.c', 'user.a', 'user.b']";
        assert_eq!(by(0, &[], dir, set), all);
        let list = "print(sorted(os.listxattr('f')))\nt(os.getxattr, 'f', 'trusted.a')";
        assert_eq!(by(ONE, &[], dir, list), "['user.a', 'user.b'] ENODATA");
    }
}

/// Ways to change the content of `file`. `source` is another one.
const CHANGES: [(&str, &str); 8] = [
    ("write", "os.pwrite(os.open('file', os.O_WRONLY), b'y', 0)"),
    (
        "append",
        "os.write(os.open('file', os.O_WRONLY | os.O_APPEND), b'y')",
    ),
    ("truncate", "os.truncate('file', 3)"),
    (
        "ftruncate",
        "os.ftruncate(os.open('file', os.O_WRONLY), 100)",
    ),
    ("O_TRUNC", "os.open('file', os.O_WRONLY | os.O_TRUNC)"),
    (
        "fallocate",
        "os.posix_fallocate(os.open('file', os.O_WRONLY), 0, 100000)",
    ),
    (
        "punching",
        "import ctypes; assert ctypes.CDLL(None).fallocate(os.open('file', os.O_WRONLY), 3, \
         ctypes.c_long(0), ctypes.c_long(5)) == 0",
    ),
    (
        "copy_file_range",
        "os.copy_file_range(os.open('source', os.O_RDONLY), os.open('file', os.O_WRONLY), 100)",
    ),
];

/// The mode that a file of mode `before` has after `user` has run `program`, on a local disk and on the drive: the
/// same.
#[track_caller]
fn mode_after(dirs: &[&Path; 2], before: u32, user: u32, program: &str) -> u32 {
    let [local, drive] = dirs.map(|dir| {
        let file = dir.join("file");
        make_file(&file, 0, 0, before);
        by(user, &[], dir, program);
        mode(&file)
    });
    assert_eq!(local, drive, "local disk, drive: {program}");
    drive
}

#[test]
fn what_somebody_else_changes_loses_its_set_id_bits() {
    let (machine, dir) = open_to_all();
    let file = dir.join("file");
    let local = machine.scratch().join("all");
    make_dir(&local, 0, 0, 0o777);
    own(&machine.scratch(), 0, 0, 0o755);
    let dirs = [local.as_path(), &dir];
    for dir in dirs {
        make_file(&dir.join("source"), 0, 0, 0o644);
    }
    machine.flush();
    for (change, program) in CHANGES {
        let after = |before, user| mode_after(&dirs, before, user, program);
        assert_eq!(after(0o6777, ONE), 0o777, "{change}");
        // Also where the group cannot execute by it.
        assert_eq!(after(0o6767, ONE), 0o767, "{change}");
        assert_eq!(after(0o6777, 0), 0o6777, "{change} by root");
    }
    // A change of owner takes them, also one that changes nobody.
    for owners in ["0, 0", "65534, -1", "-1, 65500", "-1, -1"] {
        let program = format!("os.chown('file', {owners})");
        assert_eq!(mode_after(&dirs, 0o6777, 0, &program), 0o777, "{program}");
        assert_eq!(mode_after(&dirs, 0o6767, 0, &program), 0o2767, "{program}");
    }
    // The owner is somebody without the privilege, too.
    own(&file, ONE, ONE, 0o4755);
    by(ONE, &[], &dir, "put('file')");
    assert_eq!(mode(&file), 0o755);
    // Reading and attributes change none.
    own(&file, ONE, ONE, 0o4755);
    by(OTHER, &[], &dir, "get('file')");
    by(ONE, &[], &dir, "os.utime('file')");
    assert_eq!(mode(&file), 0o4755);
}

#[test]
fn devices_and_set_id_programs_have_an_effect_only_where_the_mount_says_so() {
    for (options, effect) in [("allow_other", false), ("allow_other,dev,suid", true)] {
        let machine = Machine::demo_with(&["-o", options]);
        let (device, program) = (machine.dir().join("null"), machine.dir().join("id"));
        let null = rustix::fs::makedev(1, 3);
        mknodat(CWD, &device, FileType::CharacterDevice, Mode::RUSR, null).expect("mknod");
        let opened = fs::File::open(&device).map(drop);
        let refused = opened.err().and_then(|why| why.raw_os_error());
        let expected = (!effect).then(|| Errno::ACCESS.raw_os_error());
        assert_eq!(refused, expected, "{options}");
        // Not by this process: a child that another test starts could hold it open for writing.
        tool("cp", &[Path::new("/usr/bin/id"), &program]);
        chown(&program, Some(65_534), None).expect("chown");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).expect("chmod");
        let user = tool(program.to_str().expect("UTF-8"), &["-u"]);
        let expected = if effect { "65534" } else { "0" };
        assert_eq!(user.stdout.trim(), expected, "{options}");
    }
}
