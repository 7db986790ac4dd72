//! Unused tokens: what they cost, and that they are as safe.

use super::*;
use crate::billing::sync::{self, By};
use crate::fs::Want;
use crate::oracle;
use crate::types::Fh;

/// Tokens of the wallet, each with its name.
async fn minted(world: &World, count: u64) -> Vec<TokenId> {
    let mut all = Vec::new();
    for n in 0..count {
        let package = u64::from(n > 0);
        all.push(billing::mint(&world.parts, package).await.unwrap().token);
    }
    all
}

/// The open files of this process that lie below `folder`.
fn open_below(folder: &std::path::Path) -> usize {
    let open = std::fs::read_dir("/proc/self/fd").unwrap();
    let targets = open.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
    targets.filter(|target| target.starts_with(folder)).count()
}

impl World {
    /// A mount of `count` tokens; the second has published data.
    async fn published(count: u64) -> (Self, Vec<TokenId>) {
        let world = Self::new().await;
        world.show();
        let tokens = minted(&world, count).await;
        world.statuses().await;
        world.list("2").await.unwrap();
        world.write("2", "mine", b"precious").unwrap();
        let live = world.tokens.get(tokens[1]).unwrap();
        live.flush().await.unwrap();
        drop(live);
        (world, tokens)
    }

    /// The next mount, after `token` lost its local state.
    async fn without(self, token: TokenId) -> Self {
        let key = self.tokens.get(token).unwrap().key;
        let dir = self.end().await;
        let state = dir.path().join("state");
        StateDir::open(&state).unwrap().drop_volume(&key).unwrap();
        let world = Self::begin(dir).await;
        world.show();
        world.statuses().await;
        world
    }

    /// Opens a directory as the mount does, fetching what it lacks.
    async fn list(&self, directory: &str) -> Result<Fh, FsError> {
        let drive = &self.ground.drive;
        let dir = drive.lookup(Ino::ROOT, directory.as_bytes())?.ino;
        for _ in 0..9 {
            match drive.opendir(dir) {
                Err(FsError::NotLocal(want)) => self.ground.fetcher.fetch(*want).await?,
                done => return done,
            }
        }
        Err(FsError::TimedOut)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unused_token_holds_no_open_file_until_first_use() {
    let world = World::new().await;
    world.show();
    minted(&world, 3).await;
    let folder = world.ground.state_dir.path().join("volumes");
    let statuses = world.statuses().await;
    assert_eq!(world.directories(), ["1", "2", "3"]);
    let of_first = open_below(&folder);
    assert!(of_first > 0, "the first one is open");
    assert_eq!(world.ground.state_dir.volumes().unwrap().len(), 1);
    // A waiting token reports what an open one does.
    let told = |status: &TokenStatus| {
        let local = status.local.clone().unwrap();
        (status.state, local.used_bytes, local.pending)
    };
    assert_eq!(told(&statuses[1]), told(&statuses[0]));
    assert_eq!(statuses[1].path.as_deref(), Some("/m/2"));
    let drive = &world.ground.drive;
    let ino = |name: &[u8]| drive.lookup(Ino::ROOT, name).unwrap().ino;
    let attr = drive.getattr(ino(b"2")).unwrap();
    assert_eq!((attr.mode, attr.nlink), (0o755, 2));
    let before = drive.statfs(ino(b"2")).unwrap();
    assert_eq!(
        drive.getxattr(attr.ino, b"user.any"),
        Err(FsError::NoAttribute)
    );
    assert_eq!(drive.listxattr(attr.ino), Ok(Vec::new()));
    assert_eq!(open_below(&folder), of_first);

    world.list("2").await.unwrap();
    assert_eq!(open_below(&folder), 2 * of_first);
    // Its number and room stay.
    assert_eq!(ino(b"2"), attr.ino);
    assert_eq!(drive.statfs(attr.ino).unwrap(), before);
    world.write("2", "mine", b"kept").unwrap();
    world
        .tokens
        .get(TokenId::from(2))
        .unwrap()
        .flush()
        .await
        .unwrap();
    assert_eq!(world.ground.state_dir.volumes().unwrap().len(), 2);
    assert!(
        world
            .statuses()
            .await
            .iter()
            .all(|one| one.state == State::Ok)
    );
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_token_had_not_published_is_published_though_nobody_touches_it() {
    let world = World::new().await;
    world.show();
    let tokens = minted(&world, 3).await;
    world.statuses().await;
    world.list("3").await.unwrap();
    world.write("3", "mine", b"precious").unwrap();
    let world = world.again().await;
    let statuses = world.statuses().await;
    assert_eq!(world.directories(), ["1", "2", "3"]);
    assert!(statuses[2].local.as_ref().unwrap().pending);
    let live = world.tokens.get(tokens[2]).expect("it is open");
    live.flush().await.unwrap();
    assert!(!live.is_pending());
    drop(live);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_calls_that_want_a_token_open_it_once() {
    let world = World::new().await;
    world.show();
    minted(&world, 2).await;
    world.statuses().await;
    let slot = (1..=9).find(|slot| world.ground.drive.is_unused(*slot));
    let want = || Want::Volume {
        slot: slot.unwrap(),
    };
    let calls = (0..8).map(|_| world.ground.fetcher.fetch(want()));
    let opened = futures::future::join_all(calls).await;
    assert!(opened.iter().all(Result::is_ok), "{opened:?}");
    assert_eq!(world.tokens.all().len(), 2);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_published_elsewhere_is_there_at_the_first_use() {
    let (world, tokens) = World::published(2).await;
    let world = world.without(tokens[1]).await;
    assert!(world.tokens.get(tokens[1]).is_none());
    world.list("2").await.unwrap();
    let drive = &world.ground.drive;
    let dir = drive.lookup(Ino::ROOT, b"2").unwrap().ino;
    let found = match drive.lookup(dir, b"mine") {
        Err(FsError::NotLocal(want)) => {
            world.ground.fetcher.fetch(*want).await.unwrap();
            drive.lookup(dir, b"mine")
        }
        found => found,
    };
    assert_eq!(found.unwrap().size, 8);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_published_token_without_a_local_folder_is_opened_at_mount() {
    let (world, tokens) = World::published(3).await;
    let (parts, all) = (&world.parts, &world.tokens);
    let oracle = oracle::begin(parts).await.unwrap().unwrap();
    let oracle = tokio::spawn(oracle);
    sync::of_mount(parts, all, tokens[1], By::User, true)
        .await
        .unwrap();
    oracle.abort();
    let world = world.without(tokens[1]).await;
    // Its name is renewed and its blocks are checked, though nobody uses it.
    assert!(world.tokens.get(tokens[1]).is_some());
    assert!(world.tokens.get(tokens[2]).is_none());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unused_token_that_is_transferred_leaves_nothing_behind() {
    let world = World::new().await;
    let tokens = minted(&world, 3).await;
    world.statuses().await;
    world.give_away(tokens[1]).await;
    assert_eq!(world.statuses().await.len(), 2);
    assert_eq!(world.directories(), ["1", "3"]);
    assert_eq!(world.ground.state_dir.volumes().unwrap().len(), 1);
    world.end().await;
}
