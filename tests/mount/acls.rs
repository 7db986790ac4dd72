//! POSIX ACLs: what tools copy keeps them, here and on another machine, and they let users in and keep them out as on a
//! local disk.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use rustix::fs::{AtFlags, CWD, StatxFlags, XattrFlags, lgetxattr, lsetxattr, statx};
use rustix::io::Errno;

use crate::command::{TOOL, run, tool};
use crate::harness::Machine;
use crate::permissions::{ONE, OTHER, TEAM, by, here_and_there, make_dir, make_file, mode, own};

/// What `script` prints, run by a shell in `dir`.
#[track_caller]
fn shell(dir: &Path, script: &str) -> String {
    let mut command = Command::new("sh");
    command.current_dir(dir).args(["-ec", script]);
    run(command, TOOL).ok().stdout
}

/// Modes, owners and ACLs of all that is below `dir`.
#[track_caller]
fn told(dir: &Path) -> String {
    shell(
        dir,
        "find . | LC_ALL=C sort | grep -v symlink | getfacl -pn -",
    )
}

/// A tree with an ACL of each kind.
const TREE: &str = "
mkdir -p folder/below
echo text >file; echo text >linked; ln linked folder/second; ln -s file symlink; mkfifo fifo
setfacl -m u:65533:rw-,g:65500:r-x,m::r-- file
setfacl -m u:65533:---,g:65534:rwx linked
setfacl -m g:65500:rw fifo
setfacl -m u:65534:rwx,d:u:65533:r-x,d:g:65500:rwx,d:o::- folder
setfacl -d -m u::rwx,g::r-x,o::- folder/below
echo inherits >folder/new; mkdir folder/inner
";

#[test]
fn acls_copied_by_tools_survive_crash_and_move_to_another_machine() {
    let mut machine = Machine::demo_with(&["--commit-idle", "1h", "--commit-max", "1h"]);
    let (original, dir) = (machine.scratch().join("original"), machine.dir());
    fs::create_dir(&original).expect("mkdir");
    shell(&original, TREE);
    let expected = told(&original);
    for entry in ["user:65533:rw-\t", "mask::r--", "default:group:65500:rwx"] {
        assert!(expected.contains(entry), "{expected}");
    }
    let from = original.display();
    let copies = [
        ("cp", format!("cp -a {from} cp")),
        ("rsync", format!("rsync -aHA {from}/ rsync")),
        (
            "tar",
            format!("mkdir tar; tar -C {from} --acls -cf - . | tar -C tar --acls -xpf -"),
        ),
    ];
    for (copy, script) in &copies {
        shell(&dir, script);
        assert_eq!(told(&dir.join(copy)), expected, "{copy}");
    }
    let check = |dir: &Path, when: &str| {
        for (copy, _) in &copies {
            assert_eq!(told(&dir.join(copy)), expected, "{copy} {when}");
        }
    };
    // By the journal alone: nothing is published yet.
    tool("sync", &[dir.as_path()]);
    machine.kill();
    machine.start();
    check(&dir, "after a crash");
    machine.flush();
    machine.stop();
    let second = Machine::second(&machine);
    check(&second.dir(), "on another machine");
    // And back onto a local disk.
    let back = second.scratch();
    shell(
        &back,
        &format!("cp -a {} back", second.dir().join("cp").display()),
    );
    assert_eq!(told(&back.join("back")), expected);
}

#[test]
fn acls_allow_and_deny_users_as_on_a_local_disk() {
    let (_machine, dirs) = here_and_there();
    let script = "
        setfacl -m u:65534:r-- letter; setfacl -m u:65534:--- open
        setfacl -m g:65500:rw- team; setfacl -m u:65534:rw-,m::r-- masked
        setfacl -m u:65534:rwx folder";
    let ask = "
for name in ('letter', 'open', 'team', 'masked', 'folder/new'):
    t(get, name); t(put, name)
t(os.listdir, 'folder')";
    for dir in &dirs {
        for (name, bits) in [
            ("letter", 0o600),
            ("open", 0o666),
            ("team", 0o600),
            ("masked", 0o600),
        ] {
            make_file(&dir.join(name), 0, 0, bits);
        }
        make_dir(&dir.join("folder"), 0, 0, 0o700);
        // Whoever has asked already is told the other answer, too.
        let nobody = "EACCES EACCES ok ok EACCES EACCES EACCES EACCES EACCES EACCES EACCES";
        assert_eq!(by(ONE, &[TEAM], dir, ask), nobody, "{dir:?}");
        shell(dir, script);
        let one = "ok EACCES EACCES EACCES ok ok ok EACCES ENOENT ok ok";
        assert_eq!(by(ONE, &[TEAM], dir, ask), one, "{dir:?}");
        let other = "EACCES EACCES ok ok EACCES EACCES EACCES EACCES EACCES EACCES EACCES";
        assert_eq!(by(OTHER, &[], dir, ask), other, "{dir:?}");
        // A chmod closes the group's class, named users with it.
        fs::set_permissions(dir.join("letter"), Permissions::from_mode(0o600)).expect("chmod");
        assert_eq!(by(ONE, &[], dir, "t(get, 'letter')"), "EACCES", "{dir:?}");
        fs::set_permissions(dir.join("letter"), Permissions::from_mode(0o640)).expect("chmod");
        assert_eq!(by(ONE, &[], dir, "t(get, 'letter')"), "ok", "{dir:?}");
        shell(dir, "setfacl -b letter folder");
        let gone = "t(get, 'letter'); t(os.listdir, 'folder')";
        assert_eq!(by(ONE, &[], dir, gone), "EACCES EACCES", "{dir:?}");
    }
    let changed = "
t(os.setxattr, 'masked', 'system.posix_acl_access', os.getxattr('team', 'system.posix_acl_access'))";
    let [local, drive] = dirs
        .each_ref()
        .map(|dir| (by(ONE, &[], dir, changed), told(dir)));
    assert_eq!(local.0, "EPERM", "an ACL is its owner's to change");
    assert_eq!(local, drive);
}

#[test]
fn default_acl_or_umask_applies_as_on_a_local_disk() {
    let (_machine, dirs) = here_and_there();
    let script = "
        mkdir plain given; setfacl -m d:u:65533:rwx,d:g::r-x,d:o::r given
        for mask in 022 077; do for into in plain given; do
            (umask $mask; cd $into; echo x >file$mask; mkdir -m 770 folder$mask; mkdir deep$mask; mkfifo fifo$mask
             install -m 604 /dev/null installed$mask; ln -s file symlink$mask; cp file$mask copied$mask)
        done; done
        setfacl -m u:65533:x given/file022; chmod 640 given/file022; chmod g=,o= given/folder022
        setfacl -x u:65533 given/file077; setfacl -k given/deep022";
    let [local, drive] = dirs.each_ref().map(|dir| {
        shell(dir, script);
        told(dir)
    });
    assert!(local.contains("user:65533:rwx\t#effective:---"), "{local}");
    assert_eq!(local, drive);
    // A group's set-id bit goes with an ACL of whoever is not in the group.
    let give = "os.setxattr('file', 'system.posix_acl_access', os.getxattr('model', 'system.posix_acl_access'))";
    for (group, after) in [(ONE, 0o2674), (TEAM, 0o674)] {
        for dir in &dirs {
            make_file(&dir.join("model"), 0, 0, 0o600);
            shell(dir, "setfacl -m u::rw-,u:65533:rwx,g::r--,o::r-- model");
            make_file(&dir.join("file"), ONE, group, 0o2755);
            by(ONE, &[], dir, give);
            assert_eq!(mode(&dir.join("file")), after, "{dir:?}");
        }
    }
}

/// Of a drive that root alone enters the kernel compares no ACLs; there, too, they change the mode.
#[test]
fn a_mode_that_an_acl_has_changed_is_shown_at_once() {
    let machine = Machine::demo();
    let file = machine.dir().join("file");
    fs::write(&file, "x").expect("write");
    own(&file, 0, 0, 0o600);
    // As `ls -l` asks: for the mode, and nothing that every change changes.
    let shown = || {
        let told = statx(CWD, &file, AtFlags::empty(), StatxFlags::MODE).expect("statx");
        told.stx_mode & 0o777
    };
    assert_eq!(shown(), 0o600);
    shell(&machine.dir(), "setfacl -m u:65533:rw,m::r file");
    assert_eq!(shown(), 0o640);
    // The mountpoint has none, and gets none.
    let (mount, mut value) = (machine.mountpoint(), [0; 256]);
    let len = lgetxattr(&file, "system.posix_acl_access", &mut value[..]).expect("an ACL");
    for name in ["system.posix_acl_access", "system.posix_acl_default"] {
        let set = lsetxattr(&mount, name, &value[..len], XattrFlags::empty());
        assert_eq!(set, Err(Errno::PERM), "{name}");
        let got = lgetxattr(&mount, name, &mut [0; 256][..]);
        assert_eq!(got, Err(Errno::NODATA), "{name}");
    }
}
