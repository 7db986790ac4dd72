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
pub(crate) const ONE: u32 = 65_534;
pub(crate) const OTHER: u32 = 65_533;
pub(crate) const TEAM: u32 = 65_500;

/// What the programs begin with: `t` tells of a call what came of it.
pub(crate) const PRELUDE: &str = r#"
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
pub(crate) fn by(user: u32, groups: &[u32], dir: &Path, program: &str) -> String {
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

/// A folder on the local disk and one on the drive, that others may do everything in, each with a file `source`.
pub(crate) fn here_and_there() -> (Machine, [std::path::PathBuf; 2]) {
    let (machine, drive) = open_to_all();
    let local = machine.scratch().join("all");
    make_dir(&local, 0, 0, 0o777);
    own(&machine.scratch(), 0, 0, 0o755);
    for dir in [&local, &drive] {
        make_file(&dir.join("source"), 0, 0, 0o644);
    }
    machine.flush();
    (machine, [local, drive])
}

pub(crate) fn make_dir(path: &Path, user: u32, group: u32, mode: u32) {
    fs::create_dir(path).expect("mkdir");
    own(path, user, group, mode);
}

pub(crate) fn make_file(path: &Path, user: u32, group: u32, mode: u32) {
    fs::write(path, "content").expect("write");
    own(path, user, group, mode);
}

pub(crate) fn own(path: &Path, user: u32, group: u32, mode: u32) {
    chown(path, Some(user), Some(group)).expect("chown");
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("chmod");
}

pub(crate) fn mode(path: &Path) -> u32 {
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
fn cids_are_shown_to_the_files_owner_only() {
    let (machine, dir) = open_to_all();
    make_file(&dir.join("mine"), ONE, ONE, 0o644);
    make_file(&dir.join("roots"), 0, 0, 0o644);
    machine.flush();
    let told = |user| {
        let ask = "
for path, name in (('mine', 'cid'), ('roots', 'cid'), ('..', 'root'), ('mine', 'state'), ('..', 'token')):
    t(os.getxattr, path, 'user.px.' + name)
print(len(os.listxattr('mine') + os.listxattr('roots') + os.listxattr('..')))";
        by(user, &[], &dir, ask)
    };
    assert_eq!(told(ONE), "ok ENODATA ENODATA ok ok 0");
    assert_eq!(told(OTHER), "ENODATA ENODATA ENODATA ok ok 0");
    assert_eq!(told(0), "ok ok ok ok ok 0");
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
fn in_a_sticky_folder_only_owners_exchange() {
    let (_machine, dirs) = here_and_there();
    let swap = r#"
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def swap(one, other):
    if libc.renameat2(-100, one.encode(), -100, other.encode(), 2) != 0:
        raise OSError(ctypes.get_errno(), "")
"#;
    for dir in &dirs {
        make_dir(&dir.join("tmp"), OTHER, OTHER, 0o1777);
        for (name, owner) in [("mine", ONE), ("more", ONE), ("roots", 0)] {
            make_file(&dir.join("tmp").join(name), owner, owner, 0o666);
            make_file(&dir.join(name), owner, owner, 0o666);
        }
        make_dir(&dir.join("tmp/folder"), 0, 0, 0o777);
        let program = r#"
t(swap, "tmp/mine", "tmp/roots"); t(swap, "tmp/roots", "tmp/mine"); t(swap, "tmp/folder", "tmp/mine")
t(swap, "mine", "tmp/roots"); t(swap, "tmp/roots", "mine")
t(swap, "tmp/mine", "tmp/more"); t(swap, "tmp/mine", "roots"); t(swap, "mine", "tmp/more")
"#;
        let told = by(ONE, &[], dir, &format!("{swap}{program}"));
        assert_eq!(told, "EPERM EPERM EPERM EPERM EPERM ok ok ok", "{dir:?}");
        // Whose folder it is may.
        let program = "t(swap, 'tmp/roots', 'tmp/more'); t(swap, 'tmp/folder', 'tmp/roots')";
        let told = by(OTHER, &[], dir, &format!("{swap}{program}"));
        assert_eq!(told, "ok ok", "{dir:?}");
    }
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

#[test]
fn devices_and_setuid_work_only_with_dev_and_suid_options() {
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

#[test]
fn uid_gid_and_umask_options_override_stored_owners_and_modes() {
    let shown = format!("allow_other,uid={ONE},gid={TEAM},umask=027");
    let mut machine = Machine::demo_with(&["-o", &shown]);
    let file = machine.dir().join("file");
    let made = machine.dir().join("made");
    fs::write(&file, "x")
        .and_then(|()| fs::write(&made, "x"))
        .expect("write");
    let told = |path: &Path| {
        let told = fs::metadata(path).expect("stat");
        (told.uid(), told.gid(), told.mode() & 0o7777)
    };
    own(&file, OTHER, OTHER, 0o4604);
    assert_eq!(told(&file), (ONE, TEAM, 0o750));
    // The one that is shown may do what an owner may; the one that is stored is as anybody of the group.
    let changes =
        "t(get, 'file'); t(os.chmod, 'file', 0o640); t(os.chown, 'file', 0, -1); t(put, 'new')";
    let dir = machine.dir();
    assert_eq!(by(OTHER, &[TEAM], &dir, changes), "ok EPERM EPERM EACCES");
    assert_eq!(by(ONE, &[], &dir, changes), "ok ok EPERM ok");
    assert_eq!(told(&file), (ONE, TEAM, 0o750));
    machine.replace_arg("-o", "-o", "allow_other");
    machine.restart();
    assert_eq!(told(&file), (OTHER, OTHER, 0o640));
    let of = |path: &Path| told(path).0;
    assert_eq!((of(&dir.join("new")), of(&made)), (ONE, 0));
}
