//! A machine with one token: a drive, its publisher's context, and a node it may share.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use cid::Cid;
use futures::future::BoxFuture;
use tempfile::TempDir;

use crate::cache::Cache;
use crate::chain::{Accounting, TokenInfo};
use crate::clock::{Clock, ManualClock};
use crate::fetch::{DirectorySink, Fetcher, Volumes};
use crate::fs::{Caller, Drive, FsError, Kind, Limits, SetAttr, Volume, VolumeOptions};
use crate::journal::record::{CidBytes, Record as _};
use crate::journal::{Disk, FolderDisk, Without};
use crate::names::NameStore;
use crate::names::fault::FaultNames;
use crate::names::key::NameKey;
use crate::names::memory::MemoryNames;
use crate::names::record::Network;
use crate::publish::allowance;
use crate::publish::commit::{Done, commit};
use crate::publish::pending::{PENDING, Pending};
use crate::publish::receipt::Receipts;
use crate::publish::state::Head;
use crate::publish::{Allowed, Bootstrap, Context, Key, Node, PublishError, bootstrap, follow};
use crate::store::embedded::EmbeddedStore;
use crate::store::fault::FaultStore;
use crate::store::many::ManyStore;
use crate::store::memory::MemoryStore;
use crate::store::{BlockStore, BlockStoreExt};
use crate::types::{Ino, TokenId, TokenKey, VolumeKey};

pub(super) const CALLER: Caller = Caller {
    uid: 5,
    gid: 6,
    umask: 0,
};
const READ_WRITE: i32 = 2;

/// What several machines share.
pub(super) struct Shared {
    pub(super) clock: Arc<ManualClock>,
    /// Where blocks are, unless in `node`.
    pub(super) blocks: Arc<MemoryStore>,
    /// The embedded node, where it is the one, and its folder.
    pub(super) node: Option<(EmbeddedStore, TempDir)>,
    pub(super) names: Arc<MemoryNames>,
    /// What stands before `blocks`, where anything does.
    pub(super) front: Option<Arc<dyn BlockStore>>,
    /// Who is read from beside the node, and tells no names.
    pub(super) elsewhere: Option<Arc<FaultStore>>,
}

impl Shared {
    pub(super) fn new() -> Self {
        let clock = Arc::new(ManualClock::at(1_800_000_000_000_000_000));
        Self {
            names: Arc::new(MemoryNames::new(Arc::<ManualClock>::clone(&clock))),
            blocks: Arc::new(MemoryStore::new()),
            node: None,
            front: None,
            elsewhere: None,
            clock,
        }
    }

    /// With an embedded node.
    pub(super) fn embedded() -> Self {
        let shared = Self::new();
        let folder = tempfile::tempdir().unwrap();
        let clock: Arc<dyn Clock> = Arc::<ManualClock>::clone(&shared.clock);
        let store = EmbeddedStore::open(folder.path(), clock).unwrap();
        Self {
            node: Some((store, folder)),
            ..shared
        }
    }

    fn store(&self) -> Arc<dyn BlockStore> {
        match (&self.node, &self.front) {
            (Some((store, _)), _) => Arc::new(store.clone()),
            (None, Some(front)) => Arc::clone(front),
            (None, None) => Arc::<MemoryStore>::clone(&self.blocks),
        }
    }
}

pub(super) struct Machine {
    pub(super) drive: Arc<Drive>,
    pub(super) volume: Arc<Volume>,
    pub(super) context: Context,
    pub(super) store: Arc<FaultStore>,
    pub(super) names: Arc<FaultNames>,
    pub(super) root: Ino,
    folder: TempDir,
    pub(super) receipts: Receipts,
}

/// What the fetcher sees of a machine, as the daemon does it.
struct Reader {
    drive: Arc<Drive>,
    context: OnceLock<Weaken>,
}

/// A context that keeps nothing open.
struct Weaken {
    volume: Weak<Volume>,
    fetcher: Weak<Fetcher>,
    store: Arc<dyn BlockStore>,
    names: Arc<FaultNames>,
    clock: Arc<dyn Clock>,
}

impl Weaken {
    fn context(&self) -> Option<Context> {
        Some(Context {
            volume: self.volume.upgrade()?,
            node: Node {
                label: "node".to_owned(),
                store: Arc::clone(&self.store),
                names: Arc::<FaultNames>::clone(&self.names),
                fetcher: self.fetcher.upgrade()?,
                network: Network::Btfs,
                others: Vec::new(),
                ahead: false,
            },
            key: Key::Ours(key()),
            clock: Arc::clone(&self.clock),
        })
    }
}

impl Volumes for Reader {
    fn volume(&self, slot: u16) -> Option<Arc<dyn DirectorySink>> {
        let volume = self.drive.volume(slot)?;
        Some(volume)
    }

    fn renew(&self, _slot: u16) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            match self.context.get().and_then(Weaken::context) {
                Some(context) => follow(&context).await.unwrap_or(false),
                None => false,
            }
        })
    }
}

/// Everything about a file that a user could miss.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    kind: Kind,
    mode: u16,
    owner: (u32, u32),
    mtime_ns: i64,
    nlink: u32,
    rdev: u32,
    pub(super) content: Vec<u8>,
    xattrs: Vec<u8>,
}

pub(super) fn token() -> TokenInfo {
    TokenInfo {
        id: TokenId::from(1),
        owner: Default::default(),
        package: "free".to_owned(),
        epoch: 1,
        name: Some(key().name()),
        size_bytes: 1 << 30,
        usage_bytes: 0,
        uploads_left: None,
        accounting: Accounting::Absolute,
        last_sync_s: 1_800_000_000,
        sync_window_s: 30 * 86_400,
        sequence: None,
        root: None,
        anchor: None,
        sync_asked_s: None,
    }
}

fn key() -> NameKey {
    NameKey::from_seed(&[7; 32])
}

impl Machine {
    pub(super) fn new(shared: &Shared) -> Self {
        Self::in_folder(shared, tempfile::tempdir().unwrap())
    }

    fn in_folder(shared: &Shared, folder: TempDir) -> Self {
        let home = Arc::new(FolderDisk::open(folder.path()).unwrap());
        let stage = Arc::new(FolderDisk::open(&folder.path().join("stage")).unwrap());
        Self::on(shared, folder, home, stage)
    }

    /// With its local state on these disks.
    pub(super) fn on(
        shared: &Shared,
        folder: TempDir,
        home: Arc<dyn Disk>,
        stage: Arc<dyn Disk>,
    ) -> Self {
        let clock: Arc<dyn Clock> = Arc::<ManualClock>::clone(&shared.clock);
        let cache = Arc::new(Cache::in_memory());
        let key_of = VolumeKey {
            token: TokenKey {
                chain_id: 31337,
                contract: Default::default(),
                token: TokenId::from(1),
            },
            epoch: 1,
        };
        let volume = Volume::open(
            home,
            stage,
            Arc::clone(&cache),
            Arc::clone(&clock),
            &VolumeOptions {
                key: key_of,
                journal_cache_bytes: 1 << 20,
                owner: (0, 0),
                without: Without::default(),
                limits: Limits::default(),
            },
        )
        .unwrap();
        let allowance = allowance(&token(), 1, 1_800_000_000, clock.as_ref());
        volume.set_allowance(&allowance).unwrap();
        let drive = Arc::new(Drive::new((0, 0), 0));
        let slot = drive.attach("1", 1, Arc::clone(&volume)).unwrap();
        let store = Arc::new(FaultStore::new(shared.store()));
        let dyn_store: Arc<dyn BlockStore> = Arc::<FaultStore>::clone(&store);
        let reader = Arc::new(Reader {
            drive: Arc::clone(&drive),
            context: OnceLock::new(),
        });
        let volumes: Arc<dyn crate::fetch::Volumes> = Arc::<Reader>::clone(&reader);
        let patience = Duration::from_secs(60);
        let mut reads = Arc::clone(&dyn_store);
        if let Some(elsewhere) = &shared.elsewhere {
            let near: Vec<Arc<dyn BlockStore>> =
                vec![Arc::clone(&reads), Arc::<FaultStore>::clone(elsewhere)];
            reads = Arc::new(ManyStore::new(reads, near));
        }
        let fetcher = Arc::new(Fetcher::new(reads, None, cache, volumes, patience));
        let names = Arc::new(FaultNames::new(Arc::<MemoryNames>::clone(&shared.names)));
        let context = Context {
            volume: Arc::clone(&volume),
            node: Node {
                label: "node".to_owned(),
                store: dyn_store,
                names: Arc::<FaultNames>::clone(&names),
                fetcher,
                network: Network::Btfs,
                others: Vec::new(),
                ahead: false,
            },
            key: Key::Ours(key()),
            clock,
        };
        let weak = Weaken {
            volume: Arc::downgrade(&context.volume),
            fetcher: Arc::downgrade(&context.node.fetcher),
            store: Arc::clone(&context.node.store),
            names: Arc::clone(&names),
            clock: Arc::clone(&context.clock),
        };
        let _ = reader.context.set(weak);
        let receipts = Receipts::of(&volume, "node");
        Self {
            drive,
            volume,
            context,
            store,
            names,
            root: Ino(u64::from(slot) << 48 | 1),
            folder,
            receipts,
        }
    }

    /// As after a kill -9.
    pub(super) fn crash(self, shared: &Shared) -> Self {
        let Self {
            folder,
            drive,
            volume,
            context,
            store,
            names,
            receipts,
            ..
        } = self;
        drop((drive, volume, context, store, names, receipts));
        Self::in_folder(shared, folder)
    }

    pub(super) async fn commit(&self) -> Result<Done, PublishError> {
        commit(&self.context, &self.receipts).await
    }

    pub(super) async fn start(&self) -> Result<Bootstrap, PublishError> {
        self.mount_with(&token(), self.fresh(), false).await
    }

    /// As a mount without `--take-over`.
    pub(super) async fn mount(&self) -> Result<Bootstrap, PublishError> {
        self.mount_with(&token(), false, false).await
    }

    /// As a mount with `--take-over`.
    pub(super) async fn take_over(&self) -> Result<Bootstrap, PublishError> {
        self.mount_with(&token(), true, false).await
    }

    /// As a mount with `--begin-anew`.
    pub(super) async fn begin_anew(&self) -> Result<Bootstrap, PublishError> {
        self.mount_with(&token(), false, true).await
    }

    /// With what the chain says of the token.
    pub(super) async fn mount_with(
        &self,
        token: &TokenInfo,
        take_over: bool,
        begin_anew: bool,
    ) -> Result<Bootstrap, PublishError> {
        let allowed = Allowed {
            take_over,
            begin_anew,
        };
        bootstrap(&self.context, token, allowed).await
    }

    /// A folder that was never used may write although another machine did a moment ago.
    fn fresh(&self) -> bool {
        self.volume.raw_meta("head").unwrap().is_none()
    }

    /// Puts the journal back to the moment between the settling of the last commit and its being taken
    /// as the head, which was `before`.
    pub(super) async fn between_settling_and_head(
        &self,
        before: Option<Bytes>,
        charge_bytes: Option<u64>,
        sample: &[Cid],
    ) {
        let head: Head = self.volume.meta("head").unwrap().unwrap();
        let root = head.root.unwrap();
        let name = self.context.key.name();
        let record = self.names.resolve(&name).await.unwrap();
        let document = head.document.unwrap().0;
        let pending = Pending {
            sequence: head.sequence,
            root,
            root_bytes: self.store.get(&root.0).await.unwrap().to_vec().into(),
            document: (crate::pack::usage::document(
                &document,
                &self.store.get(&document).await.unwrap(),
            ))
            .unwrap()
            .to_vec()
            .into(),
            record: record.into(),
            time_s: head.time_s,
            uploads: head.uploads,
            charge_bytes,
            unsent: false,
            unnamed: false,
            sample: sample.iter().copied().map(CidBytes).collect(),
            is_file: true,
        };
        let values = vec![("head", before), (PENDING, Some(pending.to_bytes()))];
        self.volume.keep(values).unwrap();
        assert!(self.volume.activity().is_none());
    }

    /// Runs a call of the drive, fetching what it wants first.
    pub(super) async fn call<T>(
        &self,
        call: impl Fn(&Drive) -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        loop {
            match call(&self.drive) {
                Err(FsError::NotLocal(want)) => self.context.node.fetcher.fetch(*want).await?,
                other => return other,
            }
        }
    }

    pub(super) async fn dir(&self, parent: Ino, name: &str) -> Ino {
        let made = self
            .call(|d| d.mkdir(CALLER, parent, name.as_bytes(), 0o755))
            .await;
        made.unwrap().ino
    }

    pub(super) async fn put(&self, parent: Ino, name: &str, parts: &[(u64, &[u8])]) -> Ino {
        let found = self.call(|d| d.lookup(parent, name.as_bytes())).await;
        let ino = match found {
            Ok(attr) => attr.ino,
            Err(_) => {
                let node = self
                    .call(|d| d.mknod(CALLER, parent, name.as_bytes(), Kind::File, 0o640, 0))
                    .await;
                node.unwrap().ino
            }
        };
        let opened = self.drive.open(ino, READ_WRITE).unwrap();
        for (offset, bytes) in parts {
            let written = self
                .call(|d| d.write(ino, opened.fh, *offset, bytes, false))
                .await;
            assert_eq!(written.unwrap() as usize, bytes.len());
        }
        self.drive.flush(ino, opened.fh).unwrap();
        self.drive.release(ino, opened.fh);
        ino
    }

    pub(super) fn resize(&self, ino: Ino, size: u64) {
        let set = SetAttr {
            size: Some(size),
            ..SetAttr::default()
        };
        self.drive.setattr(ino, None, &set).unwrap();
    }

    /// The whole tree by path.
    pub(super) async fn tree(&self) -> BTreeMap<String, Seen> {
        self.try_tree().await.unwrap()
    }

    /// As [`Machine::tree`], where some of it may not be there.
    pub(super) async fn try_tree(&self) -> Result<BTreeMap<String, Seen>, FsError> {
        let mut seen = BTreeMap::new();
        let mut left = vec![(String::new(), self.root)];
        while let Some((path, dir)) = left.pop() {
            let items = self
                .call(|d| {
                    let mut items = Vec::new();
                    d.readdir(dir, 2, false, &mut |item, _| {
                        items.push(item.clone());
                        true
                    })?;
                    Ok(items)
                })
                .await?;
            for item in items {
                let path = format!("{path}/{}", String::from_utf8_lossy(&item.name));
                let attr = self.drive.getattr(item.ino)?;
                let content = match attr.kind {
                    Kind::File => {
                        let opened = self.drive.open(item.ino, 0)?;
                        let read = self
                            .call(|d| d.read(item.ino, opened.fh, 0, attr.size as u32))
                            .await;
                        self.drive.release(item.ino, opened.fh);
                        read?
                    }
                    Kind::Symlink => self.drive.readlink(item.ino)?,
                    _ => Vec::new(),
                };
                if attr.kind == Kind::Directory {
                    left.push((path.clone(), item.ino));
                }
                let one = Seen {
                    kind: attr.kind,
                    mode: attr.mode,
                    owner: (attr.uid, attr.gid),
                    mtime_ns: attr.mtime_ns,
                    nlink: attr.nlink,
                    rdev: attr.rdev,
                    content,
                    xattrs: self.drive.listxattr(item.ino)?,
                };
                seen.insert(path, one);
            }
        }
        Ok(seen)
    }

    pub(super) fn used(&self) -> u64 {
        self.volume.with_quota(|quota| quota.used_bytes())
    }
}

/// Another machine with the same wallet and nothing else.
pub(super) async fn second(shared: &Shared) -> Machine {
    let machine = Machine::new(shared);
    let found = machine.start().await.unwrap();
    assert!(matches!(found, Bootstrap::Adopted(_)), "{found:?}");
    machine
}
