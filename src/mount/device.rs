//! Mounts and unmounts: by system call as root, through `fusermount3` for everybody else.
//!
//! fuser's own mounting loses the error number, names the type `fuse`, and unmounts twice if
//! somebody else has unmounted (it takes `POLLERR` for "still mounted"), which hits whatever is
//! mounted there by then. So fuser gets a connection that is mounted already.

use std::ffi::{CString, OsStr};
use std::fs::OpenOptions;
use std::io::{self, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use rustix::process::{getegid, geteuid};

use super::{MountError, Options};

/// The file system type that `mount` and `findmnt` show.
pub(super) const KIND: &str = "fuse.pxfs";

const DEVICE: &str = "/dev/fuse";

const HELPER_PATIENCE: Duration = Duration::from_secs(10);

/// How long unmounting may take: the kernel first writes mapped pages back, and each write may wait
/// for room.
pub(crate) const UNMOUNT_PATIENCE: Duration = Duration::from_secs(120);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// Only if nothing is in use.
    Cleanly,
    /// Out of sight at once, gone with the last user.
    Lazily,
}

/// Mounts on the canonical `path`; returns the connection for the session.
pub(super) fn mount(path: &Path, options: &Options) -> Result<OwnedFd, MountError> {
    if geteuid().is_root() {
        mount_as_root(path, options)
    } else {
        mount_as_user(path, options)
    }
}

/// Unmounts the topmost mount at `path`.
pub(super) fn unmount(path: &Path, how: How) -> Result<(), MountError> {
    if geteuid().is_root() {
        let flags = match how {
            How::Cleanly => UnmountFlags::NOFOLLOW,
            How::Lazily => UnmountFlags::NOFOLLOW | UnmountFlags::DETACH,
        };
        rustix::mount::unmount(path, flags).map_err(|error| unmount_error(path, error.into()))
    } else {
        unmount_as_user(path, how)
    }
}

/// Whether a thread may have its own descriptor of the connection: `FUSE_DEV_IOC_CLONE` opens the
/// device anew, which users behind `fusermount3` may be denied.
pub(super) fn can_clone() -> bool {
    open_device().is_ok()
}

fn open_device() -> io::Result<OwnedFd> {
    let file = OpenOptions::new().read(true).write(true).open(DEVICE)?;
    Ok(file.into())
}

fn mount_as_root(path: &Path, options: &Options) -> Result<OwnedFd, MountError> {
    let device = open_device().map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => no_privilege(path),
        _ => MountError::NoDevice(error),
    })?;
    // user_id and group_id are the daemon's; the kernel reads only the file type of `rootmode`.
    let mut data = format!(
        "fd={},rootmode=40000,user_id={},group_id={}",
        device.as_raw_fd(),
        geteuid().as_raw(),
        getegid().as_raw()
    );
    if checks_permissions(options) {
        data.push_str(",default_permissions");
    }
    if options.allow_other {
        data.push_str(",allow_other");
    }
    let data =
        CString::new(data).map_err(|error| MountError::io("mount on", path, error.into()))?;
    rustix::mount::mount(
        options.fsname.as_str(),
        path,
        KIND,
        flags(options),
        data.as_c_str(),
    )
    .map_err(|error| {
        let error = io::Error::from(error);
        match error.kind() {
            io::ErrorKind::PermissionDenied => no_privilege(path),
            _ => MountError::io("mount on", path, error),
        }
    })?;
    Ok(device)
}

/// Whether the kernel should compare ACLs, and with them modes. Not if the mount overrides the
/// modes: those decide then.
pub(super) fn compares_acls(options: &Options) -> bool {
    let compares_modes = !geteuid().is_root() || checks_permissions(options);
    compares_modes && options.umask.is_none()
}

/// Whether the kernel should check modes and owners. If only root enters it need not: root passes
/// every check, and each costs a call for every entry made or removed (the kernel drops a
/// directory's attributes with each change).
fn checks_permissions(options: &Options) -> bool {
    options.allow_other || options.default_permissions
}

fn no_privilege(path: &Path) -> MountError {
    MountError::Denied {
        path: path.to_owned(),
        reason: "root without CAP_SYS_ADMIN: give the container `--cap-add SYS_ADMIN --device /dev/fuse`"
            .to_owned(),
    }
}

fn flags(options: &Options) -> MountFlags {
    let mut flags = MountFlags::empty();
    flags.set(MountFlags::RDONLY, options.read_only);
    flags.set(MountFlags::NOEXEC, !options.exec);
    flags.set(MountFlags::NOSUID, !options.suid);
    flags.set(MountFlags::NODEV, !options.dev);
    flags
}

/// The same for `fusermount3`, which takes words and allows `suid` and `dev` only to root.
fn words(options: &Options) -> String {
    let mut words = vec![
        if options.read_only { "ro" } else { "rw" },
        if options.exec { "exec" } else { "noexec" },
        "nosuid",
        "nodev",
        "default_permissions",
        "subtype=pxfs",
    ];
    if options.allow_other {
        words.push("allow_other");
    }
    format!("{},fsname={}", words.join(","), options.fsname)
}

/// `fusermount3` sends the connection over the socket that `_FUSE_COMMFD` names (libfuse,
/// `util/fusermount.c`). The socket is its standard input, so that no program started meanwhile
/// inherits it.
fn mount_as_user(path: &Path, options: &Options) -> Result<OwnedFd, MountError> {
    let failed = |error| MountError::io("mount on", path, error);
    if options.suid || options.dev {
        return Err(MountError::Denied {
            path: path.to_owned(),
            reason: "only root may ask for `suid` or `dev`".to_owned(),
        });
    }
    let helper = fusermount(path)?;
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    ours.set_read_timeout(Some(HELPER_PATIENCE))
        .map_err(failed)?;
    let child = Command::new(helper)
        .args(["-o", &words(options), "--"])
        .arg(path)
        .env("_FUSE_COMMFD", "0")
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let connection = receive_descriptor(&ours);
    let said = finish(child, HELPER_PATIENCE).map_err(failed)?;
    match connection.map_err(failed)? {
        Some(connection) => Ok(connection),
        None => Err(refusal(path, said.text)),
    }
}

/// Reads the meaning from the message, because `fusermount3` has one exit code for everything.
fn refusal(path: &Path, said: String) -> MountError {
    let about_device = said.contains(DEVICE) || said.contains("modprobe");
    let denied = said.contains("ermission denied");
    let reason = match (about_device, denied) {
        (true, false) => return MountError::NoDevice(io::Error::other(said)),
        (true, true) => format!("{said}: everybody must be able to open it (mode 0666)"),
        (false, _) => said,
    };
    MountError::Denied {
        path: path.to_owned(),
        reason,
    }
}

/// `None` if the other side closes without sending one.
fn receive_descriptor(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    Ok(control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    }))
}

fn unmount_as_user(path: &Path, how: How) -> Result<(), MountError> {
    let failed = |error| MountError::io("unmount", path, error);
    let mode = match how {
        How::Cleanly => "-u",
        How::Lazily => "-uz",
    };
    let child = Command::new(fusermount(path)?)
        .args([mode, "--"])
        .arg(path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let said = finish(child, UNMOUNT_PATIENCE).map_err(failed)?;
    if said.success {
        Ok(())
    } else if said.text.contains("busy") {
        Err(MountError::Busy(path.to_owned()))
    } else {
        Err(MountError::Denied {
            path: path.to_owned(),
            reason: said.text,
        })
    }
}

fn unmount_error(path: &Path, error: io::Error) -> MountError {
    match error.kind() {
        io::ErrorKind::ResourceBusy => MountError::Busy(path.to_owned()),
        io::ErrorKind::PermissionDenied => no_privilege(path),
        _ => MountError::io("unmount", path, error),
    }
}

struct Said {
    success: bool,
    /// Standard error in one line.
    text: String,
}

/// Waits for `child`, and kills it after `patience`.
fn finish(mut child: Child, patience: Duration) -> io::Result<Said> {
    let until = Instant::now() + patience;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() >= until {
            child.kill()?;
            child.wait()?;
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "fusermount3 does not come back",
            ));
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let mut text = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        stderr.take(4096).read_to_end(&mut text)?;
    }
    let text = String::from_utf8_lossy(&text);
    Ok(Said {
        success: status.success(),
        text: text.split_whitespace().collect::<Vec<_>>().join(" "),
    })
}

/// libfuse 3's helper, or libfuse 2's, which speaks the same.
fn fusermount(path: &Path) -> Result<PathBuf, MountError> {
    find_fusermount().ok_or_else(|| MountError::NoFusermount(path.to_owned()))
}

/// The helper that mounts for users other than root, if there is one.
#[must_use]
pub fn find_fusermount() -> Option<PathBuf> {
    find_helper(&std::env::var_os("PATH").unwrap_or_default())
}

/// Services often have no useful `PATH`.
fn find_helper(search: &OsStr) -> Option<PathBuf> {
    let usual = ["/usr/bin", "/bin", "/usr/sbin", "/sbin", "/usr/local/bin"].map(PathBuf::from);
    let dirs: Vec<PathBuf> = std::env::split_paths(search)
        .filter(|dir| dir.is_absolute())
        .chain(usual)
        .collect();
    ["fusermount3", "fusermount"]
        .iter()
        .flat_map(|name| dirs.iter().map(move |dir| dir.join(name)))
        .find(|program| program.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_id_programs_and_devices_have_no_effect_unless_asked_for() {
        let plain = flags(&Options::default());
        assert_eq!(plain, MountFlags::NOSUID | MountFlags::NODEV);
        let mut options = Options::default();
        options.apply("ro,noexec,suid,dev").unwrap();
        assert_eq!(flags(&options), MountFlags::RDONLY | MountFlags::NOEXEC);
    }

    #[test]
    fn permissions_are_checked_wherever_somebody_but_root_may_enter() {
        let mut options = Options::default();
        assert!(!checks_permissions(&options));
        options.apply("default_permissions").unwrap();
        assert!(checks_permissions(&options));
        let mut options = Options::default();
        options.apply("allow_other").unwrap();
        assert!(checks_permissions(&options));
    }

    #[test]
    fn the_helper_is_told_what_the_kernel_would_be() {
        let mut options = Options::default();
        assert_eq!(
            words(&options),
            "rw,exec,nosuid,nodev,default_permissions,subtype=pxfs,fsname=pxfs"
        );
        options.apply("ro,noexec,allow_other,fsname=x y").unwrap();
        assert_eq!(
            words(&options),
            "ro,noexec,nosuid,nodev,default_permissions,subtype=pxfs,allow_other,fsname=x y"
        );
    }

    #[test]
    fn fusermount3_is_found_on_path_never_in_the_working_directory() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("fusermount3"), b"").unwrap();
        assert_eq!(
            find_helper(dir.path().as_os_str()),
            Some(dir.path().join("fusermount3"))
        );
        let found = find_helper(OsStr::new("."));
        assert!(found.is_none_or(|program| program.is_absolute()));
    }

    #[test]
    fn a_busy_mount_is_not_taken_for_a_forbidden_one() {
        let path = Path::new("/mnt");
        let busy = unmount_error(path, io::ErrorKind::ResourceBusy.into());
        assert!(matches!(busy, MountError::Busy(_)));
        let denied = unmount_error(path, io::ErrorKind::PermissionDenied.into());
        assert!(matches!(denied, MountError::Denied { .. }));
    }

    #[test]
    fn what_the_helper_refuses_comes_with_the_right_remedy() {
        let path = Path::new("/mnt");
        let closed = "fusermount3: failed to open /dev/fuse: Permission denied";
        let closed = refusal(path, closed.to_owned()).to_string();
        assert!(
            closed.contains("0666") && !closed.contains("modprobe"),
            "{closed}"
        );
        let missing = "fusermount3: fuse device not found, try 'modprobe fuse' first";
        let missing = refusal(path, missing.to_owned());
        assert!(matches!(missing, MountError::NoDevice(_)));
        let config =
            "option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf";
        let config = refusal(path, config.to_owned()).to_string();
        assert!(config.contains("user_allow_other"), "{config}");
    }

    #[test]
    fn a_helper_that_fails_is_heard_and_one_that_hangs_is_ended() {
        let start = |script: &str| {
            Command::new("/bin/sh")
                .args(["-c", script])
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        };
        let said = finish(start("echo 'not\n allowed' >&2; exit 1"), HELPER_PATIENCE).unwrap();
        assert!(!said.success);
        assert_eq!(said.text, "not allowed");
        let hung = finish(start("exec sleep 1000"), Duration::ZERO);
        assert_eq!(hung.err().unwrap().kind(), io::ErrorKind::TimedOut);
    }
}
