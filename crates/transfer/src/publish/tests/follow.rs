//! One machine reads what another goes on writing, over one embedded node that collects its garbage.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use alloy::primitives::B256;
use async_trait::async_trait;
use futures::future::BoxFuture;

use super::rig::{CALLER, Machine, Shared, second, token};
use crate::chain::TokenInfo;
use crate::fs::FsError;
use crate::names::fault::{Call, Fault};
use crate::names::{NameError, NameStore};
use crate::pack::cid as form;
use crate::publish::naming::renew;
use crate::publish::{Key, PublishError, Publisher, Timing, follow, standing, watch};
use crate::store::embedded::EmbeddedStore;
use crate::store::{Block, BlockStoreExt};
use crate::types::Ino;

const MIB: usize = 1 << 20;

/// Three chunks, no two equal.
fn content(seed: u8) -> Vec<u8> {
    let chunk = |i: usize| [seed, (i >> 20) as u8, (i >> 12) as u8, (i >> 4) as u8];
    (0..3 * MIB).map(|i| chunk(i)[i % 4]).collect()
}

/// A writer and a reader that knows what was published first and has read nothing of it.
async fn two(shared: &Shared) -> (Machine, Machine) {
    let writer = Machine::new(shared);
    let dir = writer.dir(writer.root, "dir").await;
    writer.put(dir, "f", &[(0, &content(1))]).await;
    writer.put(dir, "gone", &[(0, &content(2))]).await;
    writer.dir(writer.root, "unseen").await;
    writer.put(writer.root, "same", &[(0, &content(3))]).await;
    writer.commit().await.unwrap();
    let reader = second(shared).await;
    let root = reader.root;
    let dir = reader.call(|d| d.lookup(root, b"dir")).await.unwrap().ino;
    reader.call(|d| d.lookup(dir, b"f")).await.unwrap();
    (writer, reader)
}

/// The writer goes on, and the node keeps nothing of what was before.
async fn go_on(shared: &Shared, writer: &Machine) {
    let root = writer.root;
    let dir = writer.call(|d| d.lookup(root, b"dir")).await.unwrap().ino;
    writer.put(dir, "f", &[(0, &content(4))]).await;
    let gone = writer.call(|d| d.lookup(dir, b"gone")).await.unwrap().ino;
    writer.call(|d| d.unlink(dir, b"gone")).await.unwrap();
    writer.drive.forget(gone, || false);
    let unseen = writer
        .call(|d| d.lookup(root, b"unseen"))
        .await
        .unwrap()
        .ino;
    writer.put(unseen, "new", &[(0, b"new")]).await;
    writer.commit().await.unwrap();
    for round in 0..2_u8 {
        shared.clock.advance(Duration::from_secs(25 * 3600));
        writer.put(root, "tick", &[(0, &[round])]).await;
        writer.commit().await.unwrap();
    }
    let (store, _) = shared.node.as_ref().unwrap();
    let collected = store.collect(EmbeddedStore::GRACE).await.unwrap();
    assert!(collected.removed_bytes > 5 * MIB as u64, "{collected:?}");
}

async fn all_of(
    machine: &Machine,
    fh: crate::types::Fh,
    ino: crate::types::Ino,
) -> Result<Vec<u8>, FsError> {
    machine.call(|d| d.read(ino, fh, 0, 3 * MIB as u32)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_misses_a_block_reads_what_is_published_now() {
    let shared = Shared::embedded();
    let (writer, reader) = two(&shared).await;
    let root = reader.root;
    let dir = reader.call(|d| d.lookup(root, b"dir")).await.unwrap().ino;
    let f = reader.call(|d| d.lookup(dir, b"f")).await.unwrap().ino;
    let gone = reader.call(|d| d.lookup(dir, b"gone")).await.unwrap().ino;
    let (open, open_gone) = (
        reader.drive.open(f, 0).unwrap(),
        reader.drive.open(gone, 0).unwrap(),
    );
    go_on(&shared, &writer).await;
    // In one open file, by one read: no error, and no bytes of two states.
    assert!(all_of(&reader, open.fh, f).await.unwrap() == content(4));
    assert_eq!(reader.tree().await, writer.tree().await);
    assert!(reader.volume.losses(9).unwrap().is_empty());
    // What is deleted is gone: its blocks are nowhere.
    assert!(all_of(&reader, open_gone.fh, gone).await.is_err());
    reader.drive.release(gone, open_gone.fh);
    reader.drive.release(f, open.fh);
    assert!(reader.volume.take_followed().is_some());
    // And it may write from here on.
    reader.put(root, "answer", &[(0, b"answer")]).await;
    reader.commit().await.unwrap();
    assert_eq!(second(&shared).await.tree().await, reader.tree().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_was_never_looked_into_is_the_one_of_now() {
    let shared = Shared::embedded();
    let (writer, reader) = two(&shared).await;
    let root = reader.root;
    let unseen = reader
        .call(|d| d.lookup(root, b"unseen"))
        .await
        .unwrap()
        .ino;
    go_on(&shared, &writer).await;
    let found = reader.call(|d| d.lookup(unseen, b"new")).await;
    assert_eq!(found.unwrap().size, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_unpublished_here_is_never_given_up_for_what_is_newer() {
    let shared = Shared::embedded();
    let (writer, reader) = two(&shared).await;
    reader.put(reader.root, "mine", &[(0, b"mine")]).await;
    go_on(&shared, &writer).await;
    assert!(!follow(&reader.context).await.unwrap());
    let root = reader.root;
    let dir = reader.call(|d| d.lookup(root, b"dir")).await.unwrap().ino;
    let f = reader.call(|d| d.lookup(dir, b"f")).await.unwrap().ino;
    let open = reader.drive.open(f, 0).unwrap();
    assert!(matches!(
        all_of(&reader, open.fh, f).await,
        Err(FsError::Lost(_))
    ));
    assert!(matches!(
        reader.commit().await,
        Err(PublishError::Conflict(_))
    ));
    let mine = reader.call(|d| d.lookup(root, b"mine")).await.unwrap();
    assert_eq!(mine.size, 4);
    reader.put(root, "more", &[(0, b"more")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_with_nothing_to_publish_goes_on_instead_of_calling_it_a_conflict() {
    let shared = Shared::embedded();
    let (writer, reader) = two(&shared).await;
    go_on(&shared, &writer).await;
    reader.commit().await.unwrap();
    assert_eq!(reader.tree().await, writer.tree().await);
    // An inode that the kernel still knows and the tree does not is looked for by name.
    let stale = crate::types::Ino(reader.root.0 + 4711);
    assert_eq!(reader.drive.getattr(stale), Err(FsError::Stale));
    let root = reader.root;
    let made = reader.call(|d| d.mkdir(CALLER, root, b"mine", 0o755)).await;
    made.unwrap();
    reader.commit().await.unwrap();
    // Both go on in turn.
    writer.commit().await.unwrap();
    assert_eq!(reader.tree().await, writer.tree().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_while_a_newer_tree_is_taken_over_is_refused_or_kept() {
    let shared = Shared::embedded();
    let (writer, reader) = two(&shared).await;
    let root = reader.root;
    let same = reader.call(|d| d.lookup(root, b"same")).await.unwrap().ino;
    let open = reader.drive.open(same, 2).unwrap();
    go_on(&shared, &writer).await;
    let following = tokio::spawn({
        let context = reader.context.clone();
        async move { follow(&context).await }
    });
    let mut kept = Vec::new();
    for i in 0..20_000_u64 {
        let byte = [i as u8];
        match reader.drive.write(same, open.fh, i % 1000, &byte, false) {
            Ok(_) => kept.push((i % 1000, byte[0])),
            Err(error) => assert!(matches!(error, FsError::ReadOnly(_)), "{error:?}"),
        }
        if following.is_finished() {
            break;
        }
    }
    following.await.unwrap().unwrap();
    let mut wanted = content(3);
    for (at, byte) in kept {
        wanted[at as usize] = byte;
    }
    assert!(all_of(&reader, open.fh, same).await.unwrap() == wanted);
    reader.drive.release(same, open.fh);
}

/// A reader that has begun to take over what a writer has published since, and misses a block that it
/// needs for that; the block.
async fn half_way(shared: &Shared) -> (Machine, Machine, Block) {
    let (writer, reader) = two(shared).await;
    let root = writer.root;
    let dir = writer.call(|d| d.lookup(root, b"dir")).await.unwrap().ino;
    writer.put(dir, "f", &[(0, &content(4))]).await;
    writer.commit().await.unwrap();
    let cut = writer.volume.cut().unwrap();
    let cid = cut.published_tree(Ino::ROOT).unwrap().unwrap().root.cid;
    drop(cut);
    let data = shared.blocks.get(&cid).await.unwrap();
    assert!(shared.blocks.lose(&cid));
    follow(&reader.context).await.unwrap_err();
    assert!(reader.volume.following().is_some());
    (writer, reader, Block { cid, data })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_take_over_that_the_node_did_not_let_come_to_its_end_goes_on_the_next_time() {
    let shared = Shared::new();
    let (writer, reader, block) = half_way(&shared).await;
    shared.blocks.put_many(&[block]).await.unwrap();
    assert!(follow(&reader.context).await.unwrap());
    assert_eq!(reader.volume.following(), None);
    assert_eq!(reader.tree().await, writer.tree().await);
    reader.put(reader.root, "answer", &[(0, b"answer")]).await;
    reader.commit().await.unwrap();
    assert_eq!(second(&shared).await.tree().await, reader.tree().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_publisher_ends_a_take_over_that_came_to_no_end() {
    let shared = Shared::new();
    let (writer, reader, block) = half_way(&shared).await;
    let publisher = Publisher::spawn(
        reader.context.clone(),
        Timing::default(),
        &tokio::runtime::Handle::current(),
    );
    shared.blocks.put_many(&[block]).await.unwrap();
    let ended = async {
        while reader.volume.following().is_some() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let ended = tokio::time::timeout(Duration::from_secs(60), ended).await;
    publisher.stop().await;
    ended.unwrap();
    assert_eq!(reader.tree().await, writer.tree().await);
    reader.put(reader.root, "answer", &[(0, b"answer")]).await;
}

/// The newest commit of a volume, as the chain would say it.
fn on_chain(machine: &Machine, root: Option<B256>) -> TokenInfo {
    let status = standing(&machine.volume);
    let digest = status
        .root
        .map(|cid| B256::from(form::digest(&cid).unwrap()));
    TokenInfo {
        sequence: Some(status.sequence),
        root: root.or(digest),
        ..token()
    }
}

/// Who has the name alone follows it as far as the chain does not say otherwise, and goes on by the
/// chain where the name is lost.
#[tokio::test(flavor = "multi_thread")]
async fn who_only_watches_believes_the_chain_before_the_name_and_signs_nothing() {
    let shared = Shared::new();
    let (writer, mut reader) = two(&shared).await;
    reader.context.key = Key::Theirs(writer.context.key.name());
    let context = &reader.context;
    assert_eq!(watch(context, &token()).await, Ok(false));

    writer.put(writer.root, "more", &[(0, b"more")]).await;
    writer.commit().await.unwrap();
    let before = reader.tree().await;
    let forged = on_chain(&writer, Some(B256::repeat_byte(9)));
    let refused = watch(context, &forged).await.unwrap_err();
    assert!(matches!(refused, PublishError::Refused(_)), "{refused}");
    assert_eq!(reader.tree().await, before);
    assert_eq!(watch(context, &token()).await, Ok(true));
    assert_eq!(watch(context, &on_chain(&writer, None)).await, Ok(false));
    assert_eq!(reader.tree().await, writer.tree().await);

    writer.put(writer.root, "last", &[(0, b"last")]).await;
    writer.commit().await.unwrap();
    let lost = NameError::Missing(writer.context.key.name());
    let lost = Fault::Before(lost);
    reader.names.set(Call::Resolve, lost, None);
    assert_eq!(watch(context, &token()).await, Ok(false));
    assert_eq!(watch(context, &on_chain(&writer, None)).await, Ok(true));
    assert_eq!(reader.tree().await, writer.tree().await);
    reader.names.clear();

    // Here nobody has closed the volume: what is written is not published, nor written over.
    reader.put(reader.root, "mine", &[(0, b"mine")]).await;
    let refused = reader.commit().await.unwrap_err();
    assert!(refused.to_string().contains("is not here"), "{refused}");
    writer.put(writer.root, "next", &[(0, b"next")]).await;
    writer.commit().await.unwrap();
    let refused = watch(&reader.context, &token()).await.unwrap_err();
    assert!(matches!(refused, PublishError::Refused(_)), "{refused}");
    assert!(reader.tree().await.contains_key("/mine"));
}

/// Names of a node whose second answer is old: `meanwhile` ends before it arrives.
struct Overtaken {
    inner: Arc<dyn NameStore>,
    resolved: AtomicUsize,
    meanwhile: Mutex<Option<BoxFuture<'static, ()>>>,
}

#[async_trait]
impl NameStore for Overtaken {
    async fn publish(&self, name: &str, record: &[u8]) -> Result<Vec<u8>, NameError> {
        self.inner.publish(name, record).await
    }

    async fn resolve(&self, name: &str) -> Result<Vec<u8>, NameError> {
        let answer = self.inner.resolve(name).await;
        if self.resolved.fetch_add(1, Ordering::Relaxed) == 1 {
            let meanwhile = self.meanwhile.lock().unwrap().take().unwrap();
            meanwhile.await;
        }
        answer
    }
}

#[tokio::test]
async fn a_renewal_leaves_the_head_that_was_followed_meanwhile() {
    let shared = Shared::new();
    let (writer, reader) = two(&shared).await;
    let followed = reader.context.clone();
    let mut renewing = reader.context.clone();
    let names = Overtaken {
        inner: Arc::clone(&renewing.node.names),
        resolved: AtomicUsize::new(0),
        meanwhile: Mutex::new(Some(Box::pin(async move {
            writer.put(writer.root, "new", &[(0, b"new")]).await;
            writer.commit().await.unwrap();
            assert!(follow(&followed).await.unwrap());
        }))),
    };
    renewing.node.names = Arc::new(names);
    renew(&renewing).await.unwrap();
    let head = standing(&reader.volume);
    assert_eq!((head.sequence, head.is_theirs), (2, true));
    let root = reader.root;
    let new = reader.call(|d| d.lookup(root, b"new")).await.unwrap();
    assert_eq!(new.size, 3);
    // And the name still leads there.
    let third = second(&shared).await;
    assert!(third.tree().await.contains_key("/new"));
}
