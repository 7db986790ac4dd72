//! A drive of somebody who is not root: mounted and unmounted by `fusermount3`.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::command::{TOOL, run};

const TOLD: &str = "\
fuse.pxfs
default_permissions group_id=65534 nodev nosuid user_id=65534
the folder of the token: 65534 65534
the mode keeps its owner out, too
root is kept out
its user's other programs do not see into it
published
unmounted
the daemon ends well
not mounted
words
0
3000000
unmounted by fusermount3
the daemon ends well
not mounted
folder
words
more
the daemon ends well
not mounted
";

#[test]
fn an_unprivileged_user_can_mount_use_and_remount_a_drive_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("chmod");
    // Whatever becomes of the test, nothing of it stays: neither mounts nor processes.
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(["sh", "-c", include_str!("user/drive.sh"), "drive.sh"])
        .args([
            folder.path().as_os_str(),
            env!("CARGO_BIN_EXE_pxfs").as_ref(),
        ]);
    let answer = run(command, TOOL).ok();
    assert_eq!(answer.stdout, TOLD, "{}", answer.stderr);
}
