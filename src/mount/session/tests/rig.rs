//! A mounted drive with one token, on a node that answers as told.

use std::fs;
use std::io;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use tempfile::TempDir;

use super::super::*;
use crate::cache::Cache;
use crate::fs::{Allowance, ChainTime, FsError, Limits, LoadedEntry, Volume, VolumeOptions, Want};
use crate::journal::{FolderDisk, Without};
use crate::pack::entry::{self, Inode, Sums, TreeRef};
use crate::pack::holes::Holes;
use crate::pack::root::{Root, WriterId};
use crate::pack::{Child, cid};
use crate::types::{Ino, TokenId, TokenKey, VolumeKey};

pub(super) const PUBLISHED: &[u8] = b"published by another machine";
pub(super) const QUOTA: u64 = 1 << 30;

/// How the node answers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Node {
    Answers,
    Hangs,
    /// Answers when released.
    Held,
    Panics,
}

/// A node that holds one directory (the root) with one file.
pub(super) struct OneFile {
    pub(super) volume: Arc<Volume>,
    pub(super) cache: Arc<Cache>,
    pub(super) node: Node,
    pub(super) asked: AtomicBool,
    pub(super) let_go: tokio::sync::Notify,
}

impl Fetcher for OneFile {
    fn fetch(&self, want: Want) -> BoxFuture<'_, Result<(), FsError>> {
        self.asked.store(true, Ordering::SeqCst);
        match self.node {
            Node::Answers => async move { self.bring(&want) }.boxed(),
            Node::Hangs => std::future::pending().boxed(),
            Node::Held => async {
                self.let_go.notified().await;
                Err(FsError::TimedOut)
            }
            .boxed(),
            Node::Panics => async { panic!("a defect of the fetcher, on purpose") }.boxed(),
        }
    }
}

impl OneFile {
    pub(super) fn bring(&self, want: &Want) -> Result<(), FsError> {
        match want {
            Want::Volume { .. } => Err(FsError::NotFound),
            Want::Directory { dir, .. } => {
                let entry = LoadedEntry {
                    name: Bytes::from_static(b"published"),
                    ino: Ino(2),
                    inode: Inode {
                        attr: entry::Attr {
                            mode: 0o644,
                            ..entry::Attr::default()
                        },
                        kind: entry::Kind::File {
                            content: Child::new(cid::leaf_cid(PUBLISHED), PUBLISHED.len() as u64),
                            size: PUBLISHED.len() as u64,
                            holes: Holes::none(),
                        },
                        links: 1,
                    },
                    hard: false,
                };
                let tree = self.volume.unloaded_tree(*dir)?.expect("a tree");
                let of = tree.root.cid;
                self.volume.enter_loaded(*dir, &of, &[entry])?;
                self.volume.finish_loading(*dir, &of)
            }
            Want::Content { cid, size, .. } => {
                self.cache.fill(cid, *size, 0, PUBLISHED);
                Ok(())
            }
        }
    }
}

pub(super) struct Rig {
    pub(super) mounted: Mounted,
    pub(super) drive: Arc<Drive>,
    pub(super) fetcher: Arc<OneFile>,
    pub(super) runtime: tokio::runtime::Runtime,
    pub(super) folder: TempDir,
}

impl Rig {
    pub(super) fn new() -> Self {
        Self::with(Node::Answers, &Options::default(), false)
    }

    /// `elsewhere`: the token's tree is only on the node.
    pub(super) fn with(node: Node, options: &Options, elsewhere: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mountpoint = folder.path().join("mnt");
        fs::create_dir(&mountpoint).unwrap();
        let cache = Arc::new(Cache::in_memory());
        let volume = volume(folder.path(), &cache, elsewhere);
        let drive = Arc::new(Drive::new(us(), 0));
        drive.attach("1", 1, Arc::clone(&volume)).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_time()
            .build()
            .unwrap();
        let fetcher = Arc::new(OneFile {
            volume,
            cache,
            node,
            asked: AtomicBool::new(false),
            let_go: tokio::sync::Notify::new(),
        });
        let fetch: Arc<dyn Fetcher> = Arc::<OneFile>::clone(&fetcher);
        let handle = runtime.handle().clone();
        let mounted = start(Arc::clone(&drive), fetch, handle, &mountpoint, options).unwrap();
        Self {
            mounted,
            drive,
            fetcher,
            runtime,
            folder,
        }
    }

    pub(super) fn root(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.root().join("1").join(name)
    }

    /// A child that another test has just forked may hold a descriptor for a moment.
    pub(super) fn unmount(&self) {
        let begun = Instant::now();
        loop {
            match self.mounted.unmount() {
                Err(MountError::Busy(_)) if begun.elapsed() < Duration::from_secs(60) => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                ended => return ended.unwrap(),
            }
        }
    }

    /// Fails instead of waiting for ever.
    pub(super) fn end(&self) -> Ended {
        let most = Duration::from_secs(60);
        self.runtime
            .block_on(async { tokio::time::timeout(most, self.mounted.wait()).await })
            .expect("the mount ends")
    }

    pub(super) fn kind(&self) -> Option<String> {
        let root = self.root().canonicalize().unwrap();
        mountinfo::top(&root).unwrap().map(|entry| entry.kind)
    }
}

pub(super) fn us() -> (u32, u32) {
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    (user.as_raw(), group.as_raw())
}

pub(super) fn volume(folder: &Path, cache: &Arc<Cache>, elsewhere: bool) -> Arc<Volume> {
    let key = VolumeKey {
        token: TokenKey {
            chain_id: 31337,
            contract: Default::default(),
            token: TokenId::from(1),
        },
        epoch: 1,
    };
    let clock = SystemClock;
    let (wall_ns, boot_id) = (clock.wall_ns(), clock.boot_id());
    let volume = Volume::open(
        Arc::new(FolderDisk::open(folder).unwrap()),
        Arc::new(FolderDisk::open(&folder.join("stage")).unwrap()),
        Arc::clone(cache),
        Arc::new(clock),
        &VolumeOptions {
            key,
            journal_cache_bytes: 1 << 20,
            owner: us(),
            without: Without::default(),
            limits: Limits::default(),
        },
    )
    .unwrap();
    let allowance = Allowance {
        size_bytes: QUOTA,
        usage_on_chain_bytes: 0,
        additive: false,
        uploads_left: None,
        last_sync_s: 1_000,
        sync_window_s: 30 * 86_400,
        seen: ChainTime {
            block: 1,
            timestamp_s: 1_000,
            boottime_ns: u64::try_from(SystemClock.boottime().as_nanos()).unwrap(),
            boot_id,
            wall_ns,
        },
        others_bytes: 0,
    };
    volume.set_allowance(&allowance).unwrap();
    if elsewhere {
        assert!(volume.adopt_root(&root_of(key), Vec::new()).unwrap());
    }
    volume
}

/// What another machine has published.
pub(super) fn root_of(key: VolumeKey) -> Root {
    let page = Child::new(cid::node_cid(b"page"), 4);
    let tree = TreeRef {
        root: page,
        sums: Sums::default(),
    };
    Root {
        volume: key,
        sequence: 1,
        parent: None,
        versions: Default::default(),
        writer: WriterId([1; 16]),
        time_ns: 0,
        next_inode: Ino(3),
        attr: entry::Attr {
            mode: 0o755,
            uid: us().0,
            gid: us().1,
            ..entry::Attr::default()
        },
        tree,
        table: tree,
        header: page,
    }
}

pub(super) fn sh(script: &str) -> std::process::Output {
    Command::new("sh").args(["-c", script]).output().unwrap()
}

pub(super) fn numbers(error: &io::Error) -> fuser::Errno {
    fuser::Errno::from_i32(error.raw_os_error().unwrap_or(0))
}
