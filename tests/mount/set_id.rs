//! What a change takes of a file besides its bytes, by whoever makes it: set-id bits and capabilities. As on a local
//! disk, or as `docs/semantics.md` says.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::command::run;
use crate::permissions::{
    ONE, OTHER, PRELUDE, TEAM, by, here_and_there, make_dir, make_file, mode, own,
};

/// Ways to change the content of `file`. `source` is another one.
const CHANGES: [(&str, &str); 11] = [
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
    (
        "pwritev2",
        "os.pwritev(os.open('file', os.O_RDWR), [b'y'], 0, os.RWF_DSYNC)",
    ),
    (
        "splice",
        "r, w = os.pipe(); os.write(w, b'y'); os.splice(r, os.open('file', os.O_RDWR), 1)",
    ),
    (
        "sendfile",
        "os.sendfile(os.open('file', os.O_WRONLY), os.open('source', os.O_RDONLY), 0, 3)",
    ),
];

/// Stores into `file` through a mapping.
const STORE: &str =
    "import mmap; m = mmap.mmap(os.open('file', os.O_RDWR), 0); m[0:1] = b'y'; m.flush()";

/// The mode that a file of mode `before` has after `user` has run `program`, on a local disk and on the drive: the
/// same.
#[track_caller]
fn mode_after(dirs: &[PathBuf; 2], before: u32, user: u32, program: &str) -> u32 {
    let [local, drive] = dirs.each_ref().map(|dir| {
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
    let (_machine, dirs) = here_and_there();
    let dir = &dirs[1];
    let file = dir.join("file");
    for (change, program) in CHANGES {
        let after = |before, user| mode_after(&dirs, before, user, program);
        assert_eq!(after(0o6777, ONE), 0o777, "{change}");
        assert_eq!(after(0o6777, 0), 0o6777, "{change} by root");
    }
    // Who stores through a mapping changes it at no call.
    assert_eq!(mode_after(&dirs, 0o6777, ONE, STORE), 0o6777);
    // A change of owner takes them, also one that changes nobody.
    for owners in ["0, 0", "65534, -1", "-1, 65500", "-1, -1"] {
        let program = format!("os.chown('file', {owners})");
        assert_eq!(mode_after(&dirs, 0o6777, 0, &program), 0o777, "{program}");
        assert_eq!(mode_after(&dirs, 0o6767, 0, &program), 0o2767, "{program}");
    }
    // The owner is somebody without the privilege, too.
    own(&file, ONE, ONE, 0o4755);
    by(ONE, &[], dir, "put('file')");
    assert_eq!(mode(&file), 0o755);
    // Reading and attributes change none.
    own(&file, ONE, ONE, 0o4755);
    by(OTHER, &[], dir, "get('file')");
    by(ONE, &[], dir, "os.utime('file')");
    assert_eq!(mode(&file), 0o4755);
}

#[test]
fn a_no_op_chown_clears_set_id_only_for_root_or_owner() {
    let (_machine, dirs) = here_and_there();
    let chown = "t(os.chown, 'file', -1, -1)";
    for owners in ["-1, -1", "0, -1", "-1, 0", "65534, 65534"] {
        let program = format!("t(os.chown, 'file', {owners})");
        assert_eq!(mode_after(&dirs, 0o6777, ONE, &program), 0o6777, "{owners}");
    }
    let change = format!(
        "{chown}\nbefore = os.stat('file').st_ctime_ns\n{chown}\nprint(os.stat('file').st_ctime_ns > before)"
    );
    let drive = &dirs[1];
    let file = drive.join("file");
    for (user, before, told, after) in [
        (0, 0o6777, "ok ok True", 0o777),
        (ONE, 0o6777, "ok ok True", 0o777),
        // EPERM on a local disk.
        (OTHER, 0o6777, "ok ok False", 0o6777),
        // Where there is nothing to take, the time alone changes, whoever asks.
        (OTHER, 0o777, "ok ok True", 0o777),
    ] {
        make_file(&file, ONE, ONE, before);
        assert_eq!(by(user, &[], drive, &change), told, "{user} {before:o}");
        assert_eq!(mode(&file), after, "{user} {before:o}");
    }
    fs::remove_file(&file).expect("removed");
    make_dir(&file, 0, 0, 0o6777);
    assert_eq!(by(ONE, &[], drive, &change), "ok ok True");
    assert_eq!(mode(&file), 0o6777, "of a folder");
}

/// Nobody runs anything by it. A local disk keeps it for members of the group alone; the daemon does not know them.
#[test]
fn setgid_without_group_execute_survives_a_write() {
    let (_machine, [local, drive]) = here_and_there();
    for (change, program) in CHANGES {
        for (before, groups, here, there) in [
            (0o6767, &[TEAM][..], 0o2767, 0o2767),
            (0o6777, &[TEAM], 0o777, 0o777),
            (0o6767, &[], 0o767, 0o2767),
        ] {
            for (dir, after) in [(&local, here), (&drive, there)] {
                let file = dir.join("file");
                make_file(&file, 0, TEAM, before);
                by(ONE, groups, dir, program);
                assert_eq!(mode(&file), after, "{change} of {before:o} in {dir:?}");
            }
        }
    }
}

/// The daemon is not told of the privilege to keep set-id bits, `CAP_FSETID`, but with a write, and goes by the user.
#[test]
fn truncation_clears_set_id_by_user_and_write_by_cap_fsetid() {
    let (_machine, [local, drive]) = here_and_there();
    let cuts = ["truncate", "ftruncate", "O_TRUNC"];
    let others = ["fallocate", "punching", "copy_file_range"];
    let fallen = "--bounding-set=-fsetid --inh-caps=-fsetid";
    let raised = "--reuid=65534 --clear-groups --inh-caps=+fsetid --ambient-caps=+fsetid";
    let by_user = [cuts, others].concat();
    for (who, here, there, by_user) in [
        (fallen, 0o777, 0o6777, cuts.as_slice()),
        (raised, 0o6777, 0o777, &by_user),
    ] {
        for (change, program) in CHANGES {
            let there = if by_user.contains(&change) {
                there
            } else {
                here
            };
            for (dir, after) in [(&local, here), (&drive, there)] {
                let file = dir.join("file");
                make_file(&file, 0, 0, 0o6777);
                let mut command = Command::new("setpriv");
                command.args(who.split(' '));
                command.args(["--", "/usr/bin/env", "python3", "-c"]);
                command.arg(format!("{PRELUDE}{program}")).arg(dir);
                run(command, Duration::from_secs(60)).ok();
                assert_eq!(mode(&file), after, "{change}, {who} in {dir:?}");
            }
        }
    }
}

#[test]
fn what_changes_a_program_or_its_owner_takes_its_capabilities() {
    let (_machine, dirs) = here_and_there();
    // Revision 2, CAP_NET_RAW permitted and effective.
    let set = "os.setxattr('file', 'security.capability', bytes.fromhex('0100000200200000000000000000000000000000'))";
    let owners = ["0, 0", "65534, -1", "-1, 65500", "-1, -1"];
    let chowns = owners.map(|owners| format!("os.chown('file', {owners})"));
    let changes = CHANGES.iter().map(|(_, program)| (*program, true));
    let changes = changes.chain(chowns.iter().map(|program| (program.as_str(), true)));
    let kept = [
        "os.chmod('file', 0o700)",
        "os.utime('file')",
        "get('file')",
        STORE,
    ];
    for (program, is_gone) in changes.chain(kept.map(|program| (program, false))) {
        for dir in &dirs {
            make_file(&dir.join("file"), 0, 0, 0o755);
            let all =
                format!("{set}\n{program}\nprint('security.capability' in os.listxattr('file'))");
            let told = by(0, &[], dir, &all);
            let expected = if is_gone { "False" } else { "True" };
            assert_eq!(told, expected, "{program} in {dir:?}");
        }
    }
}
