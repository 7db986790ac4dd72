//! The node loses blocks: what can be mended is, what cannot is told, all else goes on.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cid::Cid;

use super::rig::{CALLER, Machine, Shared, second};
use crate::fs::{FsError, Loss, LostBlock};
use crate::pack::chunk::CHUNK_SIZE;
use crate::pack::cid::leaf_cid;
use crate::publish::heal::{PATIENCE, heal, look_at_marked};
use crate::publish::receipt::Receipts;
use crate::publish::sample::Sampler;
use crate::publish::sample::task::{Signs, turn};
use crate::publish::state::Head;
use crate::store::fault::Call;
use crate::store::hook::Hook;
use crate::store::memory::MemoryStore;
use crate::store::{Block, BlockStore, BlockStoreExt, StoreError};
use crate::types::Ino;

pub(super) const CHUNK: usize = CHUNK_SIZE as usize;

/// Three chunks, no two equal.
pub(super) fn content(seed: u8) -> Vec<u8> {
    let chunk = |i: usize| [seed, (i / CHUNK) as u8, (i >> 12) as u8, (i >> 4) as u8];
    (0..3 * CHUNK).map(|i| chunk(i)[i % 4]).collect()
}

/// The leaf of one chunk of [`content`].
pub(super) fn leaf(seed: u8, chunk: usize) -> Block {
    let data = content(seed)[chunk * CHUNK..(chunk + 1) * CHUNK].to_vec();
    Block {
        cid: leaf_cid(&data),
        data: data.into(),
    }
}

/// What `machine` reads of `name`, from `offset`.
pub(super) async fn read(
    machine: &Machine,
    name: &str,
    offset: usize,
    len: usize,
) -> Result<Vec<u8>, FsError> {
    let root = machine.root;
    let attr = machine.call(|d| d.lookup(root, name.as_bytes())).await?;
    let opened = machine.drive.open(attr.ino, 0)?;
    let (offset, len) = (offset as u64, len as u32);
    let read = machine
        .call(|d| d.read(attr.ino, opened.fh, offset, len))
        .await;
    machine.drive.release(attr.ino, opened.fh);
    read
}

pub(super) fn losses(machine: &Machine) -> Vec<Loss> {
    machine.volume.losses(10).unwrap()
}

fn head(machine: &Machine) -> Head {
    machine.volume.meta("head").unwrap().unwrap()
}

/// That everything a root links is on the node: it can be pinned anew by any node.
pub(super) async fn assert_whole(shared: &Shared, machine: &Machine) {
    let root = head(machine).root.unwrap().0;
    shared.blocks.unpin(&root).await.unwrap();
    shared.blocks.pin(&root, None).await.unwrap();
}

/// A machine that has published `f` and `g`, another one with nothing in its cache, and the node
/// without the second chunk of `f`, which the other one has found out.
pub(super) async fn lost(shared: &Shared) -> (Machine, Ino) {
    let first = Machine::new(shared);
    first.put(first.root, "f", &[(0, &content(1))]).await;
    first.put(first.root, "g", &[(0, &content(2))]).await;
    first.commit().await.unwrap();
    drop(first);
    let machine = second(shared).await;
    assert!(shared.blocks.lose(&leaf(1, 1).cid));
    let failed = read(&machine, "f", CHUNK, CHUNK).await;
    assert!(matches!(failed, Err(FsError::Lost(_))), "{failed:?}");
    let root = machine.root;
    let ino = machine.call(|d| d.lookup(root, b"f")).await.unwrap().ino;
    (machine, ino)
}

#[tokio::test]
async fn a_lost_block_is_told_by_path_and_cid_and_costs_nothing_else() {
    let shared = Shared::new();
    let (machine, _) = lost(&shared).await;
    let told = losses(&machine);
    assert_eq!(told.len(), 1);
    assert_eq!(
        (told[0].path.as_str(), told[0].block),
        ("f", leaf(1, 1).cid)
    );
    machine.put(machine.root, "new", &[(0, b"new")]).await;
    machine.commit().await.unwrap();
    assert_whole(&shared, &machine).await;
    for reader in [second(&shared).await, machine] {
        assert!(read(&reader, "f", CHUNK, 10).await.is_err());
        assert_eq!(
            read(&reader, "f", 0, CHUNK).await.unwrap(),
            &content(1)[..CHUNK]
        );
        assert_eq!(read(&reader, "new", 0, 10).await.unwrap(), b"new");
        assert_eq!(read(&reader, "g", 0, 3 * CHUNK).await.unwrap(), content(2));
        assert_eq!(losses(&reader).len(), 1);
    }
}

#[tokio::test]
async fn what_is_left_of_a_damaged_file_outlives_the_grace_of_old_roots() {
    let shared = Shared::new();
    let (machine, _) = lost(&shared).await;
    let whole = head(&machine).root.unwrap().0;
    for round in 0..3_u8 {
        machine.put(machine.root, "new", &[(0, &[round])]).await;
        machine.commit().await.unwrap();
        shared.clock.advance(std::time::Duration::from_secs(90_000));
    }
    assert!(shared.blocks.pins().await.unwrap().contains(&whole));
    // Once nothing is damaged, it goes.
    let root = machine.root;
    machine.call(|d| d.unlink(root, b"f")).await.unwrap();
    for round in 0..3_u8 {
        machine.put(machine.root, "new", &[(0, &[9, round])]).await;
        machine.commit().await.unwrap();
        shared.clock.advance(std::time::Duration::from_secs(90_000));
    }
    assert!(!shared.blocks.pins().await.unwrap().contains(&whole));
}

#[tokio::test]
async fn a_damaged_file_can_be_renamed_deleted_and_written_anew() {
    let shared = Shared::new();
    let (machine, ino) = lost(&shared).await;
    machine.put(machine.root, "other", &[(0, b"x")]).await;
    machine.commit().await.unwrap();
    let root = machine.root;
    machine
        .call(|d| d.rename(root, b"f", root, b"renamed", 0))
        .await
        .unwrap();
    machine.commit().await.unwrap();
    assert_eq!(losses(&machine)[0].path, "renamed");
    assert_eq!(machine.drive.getattr(ino).unwrap().size, 3 * CHUNK_SIZE);
    assert!(
        read(&second(&shared).await, "renamed", 0, CHUNK)
            .await
            .is_ok()
    );
    machine.resize(ino, 0);
    machine.put(root, "renamed", &[(0, &content(3))]).await;
    machine.commit().await.unwrap();
    assert!(losses(&machine).is_empty());
    let other = second(&shared).await;
    assert_eq!(
        read(&other, "renamed", 0, 3 * CHUNK).await.unwrap(),
        content(3)
    );
    assert!(losses(&other).is_empty());
    machine.call(|d| d.unlink(root, b"renamed")).await.unwrap();
    machine.commit().await.unwrap();
    assert_whole(&shared, &machine).await;
}

#[tokio::test]
async fn writing_over_all_that_was_lost_ends_the_damage() {
    let shared = Shared::new();
    let (machine, _) = lost(&shared).await;
    machine.put(machine.root, "other", &[(0, b"x")]).await;
    machine.commit().await.unwrap();
    let mut wanted = content(1);
    wanted[CHUNK..2 * CHUNK].fill(7);
    let part = vec![7; CHUNK];
    machine.put(machine.root, "f", &[(CHUNK_SIZE, &part)]).await;
    let done = machine.commit().await.unwrap();
    assert_eq!(done.stuck, None);
    assert!(losses(&machine).is_empty());
    assert_whole(&shared, &machine).await;
    let other = second(&shared).await;
    assert_eq!(read(&other, "f", 0, 3 * CHUNK).await.unwrap(), wanted);
}

#[tokio::test]
async fn what_is_written_beside_a_lost_block_is_kept_here_and_all_else_is_published() {
    let shared = Shared::new();
    let (machine, _) = lost(&shared).await;
    // Into the lost chunk, and beside it.
    let edits: [(u64, &[u8]); 2] = [(CHUNK_SIZE + 5, b"edit"), (0, b"begin")];
    machine.put(machine.root, "f", &edits).await;
    machine.put(machine.root, "new", &[(0, b"new")]).await;
    let mut sequences = Vec::new();
    for _ in 0..5 {
        let done = machine.commit().await.unwrap();
        assert!(done.stuck.unwrap().contains("of f:"));
        sequences.push(head(&machine).sequence);
    }
    // One commit for the change, one more for the mark, and no more for nothing.
    assert_eq!(sequences[2..], [sequences[1]; 3]);
    assert!(machine.volume.activity().is_some());
    assert_whole(&shared, &machine).await;
    assert_eq!(read(&machine, "f", 0, 5).await.unwrap(), b"begin");
    let other = second(&shared).await;
    assert_eq!(read(&other, "new", 0, 3).await.unwrap(), b"new");
    assert_eq!(read(&other, "f", 0, 5).await.unwrap(), &content(1)[..5]);
    // The block is found again: everything goes on as if nothing had been.
    shared.blocks.put_many(&[leaf(1, 1)]).await.unwrap();
    machine.volume.sync().unwrap();
    let machine = machine.crash(&shared);
    sample(&machine, 1).await;
    assert_eq!(machine.commit().await.unwrap().stuck, None);
    assert!(losses(&machine).is_empty() && machine.volume.activity().is_none());
    let mut wanted = content(1);
    wanted[..5].copy_from_slice(b"begin");
    wanted[CHUNK + 5..CHUNK + 9].copy_from_slice(b"edit");
    let other = second(&shared).await;
    assert_eq!(read(&other, "f", 0, 3 * CHUNK).await.unwrap(), wanted);
    assert_whole(&shared, &machine).await;
}

#[tokio::test]
async fn a_file_that_lost_two_blocks_is_not_taken_for_whole_when_one_is_back() {
    let shared = Shared::new();
    let (machine, _) = lost(&shared).await;
    assert!(shared.blocks.lose(&leaf(1, 2).cid));
    for round in 0..3_u8 {
        machine.put(machine.root, "new", &[(0, &[round])]).await;
        sample(&machine, 1).await;
        machine.commit().await.unwrap();
        assert_whole(&shared, &machine).await;
        match round {
            0 => shared.blocks.put_many(&[leaf(1, 1)]).await.unwrap(),
            _ => shared.blocks.put_many(&[leaf(1, 2)]).await.unwrap(),
        }
        if round == 1 {
            assert_eq!(losses(&machine)[0].block, leaf(1, 2).cid);
        }
    }
    assert!(losses(&machine).is_empty());
    let other = second(&shared).await;
    assert_eq!(read(&other, "f", 0, 3 * CHUNK).await.unwrap(), content(1));
}

#[tokio::test]
async fn a_directory_that_is_lost_is_told_and_costs_nothing_beside_it() {
    let shared = Shared::new();
    let first = Machine::new(&shared);
    let dir = first.dir(first.root, "dir").await;
    first.put(dir, "f", &[(0, b"in a directory")]).await;
    first.put(first.root, "g", &[(0, b"beside")]).await;
    first.commit().await.unwrap();
    let machine = second(&shared).await;
    let root = machine.root;
    let attr = machine.call(|d| d.lookup(root, b"dir")).await.unwrap();
    let tree = machine
        .volume
        .unloaded_tree(Ino(attr.ino.0 & Ino::MAX.0))
        .unwrap()
        .unwrap();
    assert!(shared.blocks.lose(&tree.root.cid));
    let look = machine.call(|d| d.lookup(attr.ino, b"f")).await;
    assert!(matches!(look, Err(FsError::Lost(_))), "{look:?}");
    assert_eq!(losses(&machine)[0].path, "dir");
    machine.put(root, "g", &[(0, b"changed")]).await;
    machine.commit().await.unwrap();
    assert_whole(&shared, &machine).await;
    drop(machine);
    let third = second(&shared).await;
    assert_eq!(read(&third, "g", 0, 7).await.unwrap(), b"changed");
    let root = third.root;
    let attr = third.call(|d| d.lookup(root, b"dir")).await.unwrap();
    assert!(third.call(|d| d.lookup(attr.ino, b"f")).await.is_err());
}

#[tokio::test]
async fn a_directory_whose_page_is_lost_is_published_anew_by_who_knows_what_is_in_it() {
    let shared = Shared::new();
    let machine = Machine::new(&shared);
    let dir = machine.dir(machine.root, "dir").await;
    for name in ["a", "b", "c"] {
        machine.put(dir, name, &[(0, name.as_bytes())]).await;
    }
    machine.commit().await.unwrap();
    let inner = Ino(dir.0 & Ino::MAX.0);
    let page = published(&machine, inner);
    assert!(shared.blocks.lose(&page));
    // Found out by a commit that needs the page, with nothing in the cache.
    let machine = machine.crash(&shared);
    machine.put(dir, "more", &[(0, b"more")]).await;
    machine.commit().await.unwrap();
    assert_whole(&shared, &machine).await;
    assert_eq!(second(&shared).await.tree().await, machine.tree().await);
    // Found out by a look at the node: the same page has the same name.
    let page = published(&machine, inner);
    assert!(shared.blocks.lose(&page));
    let machine = machine.crash(&shared);
    machine.volume.note_lost(inner, &page, &gone(&page));
    machine.commit().await.unwrap();
    machine.commit().await.unwrap();
    assert!(losses(&machine).is_empty());
    assert!(shared.blocks.has(&page).await.unwrap());
    assert_whole(&shared, &machine).await;
}

/// A reader makes no commit, and its cache may have let go of what it read once.
#[tokio::test]
async fn a_directory_that_was_only_read_here_is_put_again_as_it_was() {
    let shared = Shared::new();
    let first = Machine::new(&shared);
    let dir = first.dir(first.root, "dir").await;
    let sub = first.dir(dir, "sub").await;
    let ino = first.put(dir, "f", &[(0, b"in a directory")]).await;
    first.call(|d| d.link(ino, sub, b"again")).await.unwrap();
    first.put(sub, "g", &[(0, b"below")]).await;
    first.commit().await.unwrap();
    drop(first);
    let machine = second(&shared).await;
    let wanted = machine.tree().await;
    let inner = |ino: Ino| Ino(ino.0 & Ino::MAX.0);
    let pages = [Ino::ROOT, inner(dir), inner(sub)].map(|dir| published(&machine, dir));
    for finds in ["the sampler", "who reads"] {
        for page in &pages {
            assert!(shared.blocks.lose(page), "{finds}");
        }
        machine.context.node.fetcher.source().cache.forget();
        match finds {
            "the sampler" => _ = sample(&machine, 3).await,
            _ => {
                for (dir, page) in [Ino::ROOT, inner(dir), inner(sub)].iter().zip(&pages) {
                    machine.volume.note_lost(*dir, page, &gone(page));
                }
                heal(&machine.context, &machine.receipts, PATIENCE)
                    .await
                    .unwrap();
            }
        }
        assert!(losses(&machine).is_empty(), "{finds}");
        assert_whole(&shared, &machine).await;
        assert_eq!(second(&shared).await.tree().await, wanted, "{finds}");
    }
}

/// A node that looks through its network for what it has not got, in vain.
struct Searching {
    inner: Arc<dyn BlockStore>,
    searches: AtomicU64,
}

#[async_trait]
impl Hook for Searching {
    fn inner(&self) -> &dyn BlockStore {
        self.inner.as_ref()
    }

    async fn get(&self, cid: &Cid) -> Result<Bytes, StoreError> {
        let found = self.inner.get(cid).await;
        let searches = u64::from(found.is_err());
        self.searches.fetch_add(searches, Ordering::Relaxed);
        found
    }
    async fn get_local(&self, cid: &Cid) -> Result<Bytes, StoreError> {
        self.inner.get(cid).await
    }
}

/// Each search takes seconds: new data would wait for all of them, one after the other.
#[tokio::test]
async fn directories_that_are_lost_are_marked_without_a_search_for_each_of_them() {
    let mut shared = Shared::new();
    let first = Machine::new(&shared);
    for i in 0..40 {
        let dir = first.dir(first.root, &format!("d{i}")).await;
        let name = format!("f{i}");
        first.put(dir, &name, &[(0, name.as_bytes())]).await;
    }
    first.commit().await.unwrap();
    drop(first);
    let node = Arc::new(Searching {
        inner: Arc::<MemoryStore>::clone(&shared.blocks),
        searches: AtomicU64::new(0),
    });
    shared.front = Some(Arc::<Searching>::clone(&node));
    let machine = second(&shared).await;
    let root = machine.root;
    for i in 0..40 {
        let name = format!("d{i}");
        let found = machine.call(|d| d.lookup(root, name.as_bytes())).await;
        let dir = Ino(found.unwrap().ino.0 & Ino::MAX.0);
        let tree = machine.volume.unloaded_tree(dir).unwrap().unwrap();
        assert!(shared.blocks.lose(&tree.root.cid));
    }
    let pinned = head(&machine).root.unwrap().0;
    shared.blocks.unpin(&pinned).await.unwrap();
    machine.put(root, "new", &[(0, b"new")]).await;
    machine.commit().await.unwrap_err();
    let mut sampler = Sampler::begin(&machine.volume, Receipts::new());
    sampler.sweep();
    while sampler.is_sweeping() {
        sampler.step(&machine.context).await.unwrap();
    }
    assert_eq!(unmarked(&machine), 40);
    assert_eq!(node.searches.load(Ordering::Relaxed), 0);
    // After a try that failed, only what brings the next one nearer to its end counts as progress.
    machine.receipts.note_end(false);
    let moved = machine.receipts.moved();
    machine.commit().await.unwrap();
    assert_eq!(unmarked(&machine), 0);
    assert!(
        machine.receipts.moved() >= moved + 40,
        "a flush gives up while directories are being marked"
    );
    let searches = node.searches.load(Ordering::Relaxed);
    assert!(searches <= 16, "{searches} searches");
    let other = second(&shared).await;
    assert_eq!(read(&other, "new", 0, 3).await.unwrap(), b"new");
}

fn gone(cid: &Cid) -> LostBlock {
    LostBlock {
        cid: *cid,
        chunk: None,
        why: "gone".to_owned(),
    }
}

pub(super) fn published(machine: &Machine, dir: Ino) -> cid::Cid {
    let cut = machine.volume.cut().unwrap();
    cut.published_tree(dir).unwrap().unwrap().root.cid
}

/// Steps of a sampler; the most calls of the node that one of them has made.
pub(super) async fn sample(machine: &Machine, steps: usize) -> u64 {
    let mut sampler = Sampler::begin(&machine.volume, Receipts::new());
    let mut most = 0;
    for _ in 0..steps {
        machine.store.reset_counts();
        sampler.step(&machine.context).await.unwrap();
        most = most.max(machine.store.count(Call::Has) + machine.store.count(Call::Get));
    }
    most
}

#[tokio::test]
async fn a_block_that_the_node_loses_in_silence_is_put_again_from_the_cache() {
    let shared = Shared::new();
    let machine = Machine::new(&shared);
    let dir = machine.dir(machine.root, "dir").await;
    let ino = machine.put(dir, "f", &[(0, &content(1))]).await;
    machine.call(|d| d.link(ino, dir, b"second")).await.unwrap();
    machine.put(dir, "small", &[(0, b"small")]).await;
    machine
        .call(|d| d.symlink(CALLER, dir, b"link", b"target"))
        .await
        .unwrap();
    machine.commit().await.unwrap();
    // Its cache has what was read.
    let wanted = machine.tree().await;
    let all = shared.blocks.all();
    assert!(all.len() > 9, "{}", all.len());
    for cid in &all {
        shared.blocks.lose(cid);
    }
    sample(&machine, 3).await;
    assert!(losses(&machine).is_empty());
    assert_whole(&shared, &machine).await;
    assert_eq!(second(&shared).await.tree().await, wanted);
}

#[tokio::test]
async fn a_node_that_was_emptied_gets_everything_again_without_a_pause_and_its_pins() {
    let shared = Shared::new();
    let machine = Machine::new(&shared);
    for i in 0..700 {
        let name = format!("f{i}");
        machine
            .put(machine.root, &name, &[(0, name.as_bytes())])
            .await;
    }
    machine.commit().await.unwrap();
    machine.tree().await;
    let pins = shared.blocks.pins().await.unwrap();
    for cid in &pins {
        shared.blocks.unpin(cid).await.unwrap();
    }
    for cid in &shared.blocks.all() {
        shared.blocks.lose(cid);
    }
    let mut sampler = Sampler::begin(&machine.volume, Receipts::new());
    let (signs, mut steps) = (Signs::default(), 0);
    while steps == 0 || sampler.is_sweeping() {
        turn(&machine.context, &mut sampler, &signs).await;
        steps += 1;
    }
    assert!(steps < 10, "{steps} steps");
    assert!(signs.nameless.load(Ordering::Relaxed));
    assert!(losses(&machine).is_empty());
    let back = shared.blocks.pins().await.unwrap();
    assert!(
        pins.iter().all(|cid| back.contains(cid)),
        "{pins:?} {back:?}"
    );
    assert_whole(&shared, &machine).await;
}

#[tokio::test]
async fn a_loss_that_nobody_has_read_is_found_by_the_sampler_and_marked() {
    let shared = Shared::new();
    let first = Machine::new(&shared);
    let dir = first.dir(first.root, "dir").await;
    let sub = first.dir(dir, "sub").await;
    first.put(sub, "f", &[(0, &content(1))]).await;
    first.commit().await.unwrap();
    drop(first);
    let machine = second(&shared).await;
    shared.blocks.lose(&leaf(1, 2).cid);
    sample(&machine, 3).await;
    let told = losses(&machine);
    assert_eq!(told.len(), 1);
    assert_eq!(
        (told[0].path.as_str(), told[0].block),
        ("dir/sub/f", leaf(1, 2).cid)
    );
    machine.commit().await.unwrap();
    assert!(losses(&machine)[0].marked);
    assert_whole(&shared, &machine).await;
    // It comes back, from wherever: nobody has to do anything.
    shared.blocks.put_many(&[leaf(1, 2)]).await.unwrap();
    assert_eq!(step(&machine).await, 1);
    machine.commit().await.unwrap();
    assert!(losses(&machine).is_empty());
    assert_whole(&shared, &machine).await;
    assert_eq!(step(&machine).await, 0);
}

async fn step(machine: &Machine) -> u64 {
    let mut sampler = Sampler::begin(&machine.volume, Receipts::new());
    sampler.step(&machine.context).await.unwrap()
}

/// A round goes on behind a page that is lost above the place where it was.
#[tokio::test]
async fn a_page_that_is_lost_above_where_the_round_is_hides_no_loss_behind_it() {
    let shared = Shared::new();
    let first = Machine::new(&shared);
    let dir = first.dir(first.root, "a").await;
    for i in 0..40 {
        let name = format!("f{i}");
        first.put(dir, &name, &[(0, name.as_bytes())]).await;
    }
    first.put(first.root, "z", &[(0, b"behind")]).await;
    first.commit().await.unwrap();
    let page = published(&first, Ino(dir.0 & Ino::MAX.0));
    drop(first);
    let machine = second(&shared).await;
    let mut sampler = Sampler::begin(&machine.volume, Receipts::new());
    sampler.step(&machine.context).await.unwrap();
    assert!(shared.blocks.lose(&page));
    assert!(shared.blocks.lose(&leaf_cid(b"behind")));
    machine.context.node.fetcher.source().cache.forget();
    for _ in 0..3 {
        sampler.step(&machine.context).await.unwrap();
    }
    let mut told: Vec<String> = losses(&machine).into_iter().map(|loss| loss.path).collect();
    told.sort();
    assert_eq!(told, ["a", "z"]);
}

#[tokio::test]
async fn a_step_costs_the_same_in_a_volume_of_any_size_and_the_round_leaves_nothing_out() {
    let shared = Shared::new();
    let machine = Machine::new(&shared);
    for i in 0..300 {
        let name = format!("f{i}");
        let parent = match i % 3 {
            0 => machine.root,
            _ => machine.dir(machine.root, &format!("d{i}")).await,
        };
        machine.put(parent, &name, &[(0, name.as_bytes())]).await;
    }
    // A terabyte of nothing, with something at its end.
    let end = vec![8; CHUNK];
    machine
        .put(machine.root, "sparse", &[(1 << 40, &end)])
        .await;
    machine.commit().await.unwrap();
    let machine = machine.crash(&shared);
    for lost in [&b"f0"[..], b"f1", b"f150", b"f299", &end] {
        assert!(shared.blocks.lose(&leaf_cid(lost)));
    }
    // Of 502 entries with 202 pages: what a step may ask for, and what lies on the way.
    let most = sample(&machine, 40).await;
    assert!(most < 64, "{most} calls in one step");
    let mut told: Vec<String> = losses(&machine).into_iter().map(|loss| loss.path).collect();
    told.sort();
    assert_eq!(told, ["d1/f1", "d299/f299", "f0", "f150", "sparse"]);
}

/// As long as a test waits for a node that never answers.
pub(super) const SHORT: Duration = Duration::from_millis(50);

/// A node that never says what it has of some blocks.
pub(super) struct Mute {
    inner: Arc<dyn BlockStore>,
    about: HashSet<Cid>,
    pub(super) asked: Mutex<HashSet<Cid>>,
}

#[async_trait]
impl Hook for Mute {
    fn inner(&self) -> &dyn BlockStore {
        self.inner.as_ref()
    }

    async fn get(&self, cid: &Cid) -> Result<Bytes, StoreError> {
        self.asked.lock().unwrap().insert(*cid);
        if self.about.contains(cid) {
            std::future::pending::<()>().await;
        }
        self.inner.get(cid).await
    }
}

/// Puts a node that is mute about `about` in the place of the machine's.
pub(super) fn mute(machine: &mut Machine, about: HashSet<Cid>) -> Arc<Mute> {
    let mute = Arc::new(Mute {
        inner: Arc::clone(&machine.context.node.store),
        about,
        asked: Mutex::default(),
    });
    machine.context.node.store = Arc::<Mute>::clone(&mute);
    mute
}

/// A machine that knows `count` files as lost, none of them marked, and their blocks.
pub(super) async fn many(shared: &Shared, count: usize) -> (Machine, Vec<Cid>) {
    let machine = Machine::new(shared);
    let mut files = Vec::new();
    for i in 0..count {
        let name = format!("f{i}");
        let parts: [(u64, &[u8]); 1] = [(0, name.as_bytes())];
        let ino = machine.put(machine.root, &name, &parts).await;
        files.push((Ino(ino.0 & Ino::MAX.0), leaf_cid(name.as_bytes())));
    }
    machine.commit().await.unwrap();
    let machine = machine.crash(shared);
    for (ino, cid) in &files {
        assert!(shared.blocks.lose(cid));
        let lost = LostBlock {
            cid: *cid,
            chunk: Some(0),
            why: "gone".to_owned(),
        };
        machine.volume.note_lost(*ino, cid, &lost);
    }
    assert_eq!(machine.volume.losses(count + 1).unwrap().len(), count);
    (machine, files.into_iter().map(|(_, cid)| cid).collect())
}

pub(super) fn unmarked(machine: &Machine) -> usize {
    let losses = machine.volume.losses(usize::MAX).unwrap();
    losses.iter().filter(|loss| !loss.marked).count()
}

#[tokio::test]
async fn of_many_losses_each_gets_its_turn_and_is_a_step_of_the_commit() {
    let shared = Shared::new();
    let (machine, _) = many(&shared, 300).await;
    let (pulse, moved) = (machine.receipts.pulse(), machine.receipts.moved());
    // The first cannot be pinned: not all that is lost is known to be so.
    let _ = machine.commit().await;
    assert_eq!(unmarked(&machine), 44);
    assert!(machine.receipts.pulse() >= pulse + 256);
    assert!(machine.receipts.moved() >= moved + 256);
    machine.commit().await.unwrap();
    assert_eq!(unmarked(&machine), 0);
    assert_whole(&shared, &machine).await;
    // The line that names some counts the others.
    let (told, count) = machine.volume.counted_losses(3, |_| true).unwrap();
    assert_eq!((told.len(), count), (3, 300));
}

#[tokio::test]
async fn a_commit_asks_for_nothing_that_is_marked_as_damaged() {
    let shared = Shared::new();
    let (mut machine, _) = lost(&shared).await;
    machine.put(machine.root, "new", &[(0, b"new")]).await;
    machine.commit().await.unwrap();
    assert!(losses(&machine)[0].marked);
    let block = leaf(1, 1).cid;
    let node = mute(&mut machine, HashSet::from([block]));
    machine.put(machine.root, "more", &[(0, b"more")]).await;
    machine.commit().await.unwrap();
    assert!(!node.asked.lock().unwrap().contains(&block));
    // The sampler does.
    let back = look_at_marked(&machine.context, SHORT).await.unwrap();
    assert_eq!(back, 0);
    assert!(node.asked.lock().unwrap().contains(&block));
}

/// Else each try of a commit would send from its beginning, for as long as anything is damaged.
#[tokio::test]
async fn a_file_that_is_lost_for_good_has_nothing_sent_again_that_the_node_has() {
    let shared = Shared::new();
    let (machine, _) = lost(&shared).await;
    machine.put(machine.root, "new", &[(0, b"new")]).await;
    let gone = leaf(1, 1).cid;
    machine.receipts.note(std::iter::once(gone));
    for _ in 0..2 {
        machine.commit().await.unwrap();
        heal(&machine.context, &machine.receipts, PATIENCE)
            .await
            .unwrap();
        assert!(losses(&machine)[0].marked);
        assert!(machine.receipts.has(&leaf_cid(b"new")));
        // What is lost itself would be sent again, if somebody wrote it.
        assert!(!machine.receipts.has(&gone));
    }
}

#[tokio::test]
async fn a_node_that_is_mute_about_what_is_lost_holds_no_commit_up() {
    let shared = Shared::new();
    let (mut machine, blocks) = many(&shared, 40).await;
    shared.blocks.put_many(&again(40)).await.unwrap();
    let node = mute(&mut machine, blocks.into_iter().collect());
    // No look ever comes to its end; each was asked for in its turn.
    let all = || node.about.is_subset(&node.asked.lock().unwrap());
    for _ in 0..100 {
        heal(&machine.context, &machine.receipts, SHORT)
            .await
            .unwrap();
        if all() {
            break;
        }
    }
    assert!(all());
    // What is not known stays as it was.
    assert_eq!(unmarked(&machine), 40);
}

/// The blocks of what [`many`] has lost.
pub(super) fn again(count: usize) -> Vec<Block> {
    let block = |i: usize| {
        let data = format!("f{i}").into_bytes();
        Block {
            cid: leaf_cid(&data),
            data: data.into(),
        }
    };
    (0..count).map(block).collect()
}
