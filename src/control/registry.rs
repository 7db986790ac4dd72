//! The registry of mounted drives and their sockets.
//!
//! A daemon writes `ID.json` and listens at `ID.sock` in the runtime folder; ID is a hash of its
//! state folder. Invariant: an entry counts only in a folder that nobody else can write, and while
//! that folder's user listens: root never talks to a daemon that another user names.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::durable::create_folder;

/// The longest entry, bytes: three paths.
const LONGEST: u64 = 16 * 1024;

/// A drive, mounted now or before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The daemon's process.
    pub pid: u32,
    /// Its state folder.
    pub state_dir: PathBuf,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// Where it listens.
    pub socket: PathBuf,
}

/// This process's entry; removed on drop.
#[derive(Debug)]
pub struct Registration {
    file: PathBuf,
    socket: PathBuf,
}

impl Registration {
    /// Registers a drive in `folder`, creating it if needed, and listens.
    ///
    /// # Errors
    /// The folder is not private or cannot be written.
    pub fn announce(
        folder: &Path,
        state_dir: &Path,
        mountpoint: &Path,
    ) -> io::Result<(Self, UnixListener)> {
        private_folder(folder)?;
        let digest = Sha256::digest(state_dir.as_os_str().as_encoded_bytes());
        let id = HEXLOWER.encode(digest.get(..8).unwrap_or_default());
        let socket = folder.join(format!("{id}.sock"));
        // Its former owner is gone, because the state folder's lock is ours.
        match std::fs::remove_file(&socket) {
            Err(fault) if fault.kind() != io::ErrorKind::NotFound => return Err(fault),
            _ => {}
        }
        let listener = listen(&socket)?;
        std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o600))?;
        let entry = Entry {
            pid: std::process::id(),
            state_dir: state_dir.to_owned(),
            mountpoint: mountpoint.to_owned(),
            socket: socket.clone(),
        };
        let file = folder.join(format!("{id}.json"));
        let draft = folder.join(format!("{id}.new"));
        std::fs::write(&draft, serde_json::to_vec(&entry)?)?;
        std::fs::rename(&draft, &file)?;
        Ok((Self { file, socket }, listener))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        for path in [&self.file, &self.socket] {
            if let Err(error) = std::fs::remove_file(path) {
                tracing::debug!(%error, path = %path.display(), "registry: withdraw");
            }
        }
    }
}

/// The mounted drives registered in `folders`, without ended daemons.
#[must_use]
pub fn find_all(folders: &[PathBuf]) -> Vec<Entry> {
    find(folders, true)
}

/// Drives whose daemon died unregistered.
#[must_use]
pub fn find_ended(folders: &[PathBuf]) -> Vec<Entry> {
    find(folders, false)
}

fn find(folders: &[PathBuf], wanted: bool) -> Vec<Entry> {
    let mut found: Vec<Entry> = Vec::new();
    for folder in folders {
        let Some(owner) = private_owner(folder) else {
            continue;
        };
        let Ok(files) = std::fs::read_dir(folder) else {
            continue;
        };
        for file in files.flatten().map(|file| file.path()) {
            if file.extension().is_none_or(|end| end != "json") {
                continue;
            }
            if let Some(entry) = read(&file, owner)
                && !found.contains(&entry)
                && is_heard(&entry, owner) == wanted
            {
                found.push(entry);
            }
        }
    }
    found.sort_by(|a, b| a.mountpoint.cmp(&b.mountpoint));
    found
}

/// Creates `folder` (0700) if needed; refuses one that others can write, or another user's.
///
/// # Errors
/// `PermissionDenied` with one line of reason, or the disk's.
pub fn private_folder(folder: &Path) -> io::Result<()> {
    // Losing a name loses its content, so the names above are made durable first.
    create_folder(folder)?;
    let meta = std::fs::metadata(folder)?;
    if meta.uid() != rustix::process::geteuid().as_raw() {
        return Err(denied(folder, "belongs to another user"));
    }
    if meta.mode() & 0o077 != 0 {
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

fn denied(folder: &Path, why: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!("{} {why}", folder.display()),
    )
}

/// Whose entries in `folder` count: ours (for root anybody's), if only that user can write there.
fn private_owner(folder: &Path) -> Option<u32> {
    let uid = rustix::process::geteuid().as_raw();
    let meta = std::fs::metadata(folder).ok()?;
    let is_private = meta.mode() & 0o022 == 0 && (meta.uid() == uid || uid == 0);
    is_private.then(|| meta.uid())
}

/// An entry written by `owner`: a regular, bounded file.
fn read(file: &Path, owner: u32) -> Option<Entry> {
    let opened = File::options()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(file)
        .ok()?;
    let meta = opened.metadata().ok()?;
    if !meta.is_file() || meta.uid() != owner || meta.len() > LONGEST {
        return None;
    }
    let mut bytes = Vec::new();
    opened.take(LONGEST).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}

fn is_heard(entry: &Entry, owner: u32) -> bool {
    connect(&entry.socket).is_ok_and(|stream| {
        let peer = rustix::net::sockopt::socket_peercred(&stream);
        peer.is_ok_and(|peer| peer.uid.as_raw() == owner)
    })
}

/// Listens at a path of any length.
fn listen(socket: &Path) -> io::Result<UnixListener> {
    with_short_path(socket, |path| UnixListener::bind(path))
}

/// Connects to a path of any length.
pub(super) fn connect(socket: &Path) -> io::Result<UnixStream> {
    with_short_path(socket, |path| UnixStream::connect(path))
}

/// A socket address holds 108 bytes (unix(7)): longer paths go through their folder's descriptor.
fn with_short_path<T>(socket: &Path, call: impl Fn(&Path) -> io::Result<T>) -> io::Result<T> {
    if socket.as_os_str().len() < 100 {
        return call(socket);
    }
    let (Some(folder), Some(name)) = (socket.parent(), socket.file_name()) else {
        return call(socket);
    };
    let folder = File::options()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(folder)?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
    call(&short.join(name))
}
