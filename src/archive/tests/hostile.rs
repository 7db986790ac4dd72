//! A volume of few blocks that is long or contradictory must not trap its reader.

use std::time::Duration;

use tokio::time::timeout;

use crate::archive::{fsck, tar};
use crate::billing;
use crate::fs::{Drive, SetAttr};
use crate::run::tests::World;
use crate::store::retry::Policy;
use crate::types::{Ino, TokenId};

const BOUND: Duration = Duration::from_secs(60);

/// A drive with the file `f` in its one token; its inode.
async fn drive() -> (World, TokenId, Ino) {
    let world = World::new().await;
    let token = billing::mint(&world.parts, 0).await.unwrap().token;
    world.look(token).await;
    world.write("1", "f", b"bytes").unwrap();
    let drive = &world.ground.drive;
    let root = drive.lookup(Ino::ROOT, b"1").unwrap().ino;
    let file = drive.lookup(root, b"f").unwrap().ino;
    (world, token, file)
}

fn link(drive: &Drive, file: Ino, name: &str) {
    let root = drive.lookup(Ino::ROOT, b"1").unwrap().ino;
    drive.link(file, root, name.as_bytes()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn fsck_of_an_exabyte_sparse_file_reads_only_its_few_blocks() {
    let (world, token, file) = drive().await;
    let set = SetAttr {
        size: Some(1 << 60),
        ..SetAttr::default()
    };
    world.ground.drive.setattr(file, None, &set).unwrap();
    world.flush().await;
    let policy = Policy::default();
    let checked = fsck::check(&world.ground, token, false, policy, &|_, _| {});
    let checked = timeout(BOUND, checked).await.expect("it ends").unwrap();
    assert_eq!(checked.damaged, []);
    assert!(checked.blocks < 50, "{} blocks", checked.blocks);
    world.end().await;
}

/// Otherwise a directory of such names, in which no inode is stored, could be in the volume any
/// number of times.
#[tokio::test(flavor = "multi_thread")]
async fn an_export_refuses_a_file_named_more_often_than_recorded() {
    let (world, token, file) = drive().await;
    for name in ["g", "h"] {
        link(&world.ground.drive, file, name);
    }
    world.flush().await;
    let folder = tempfile::tempdir().unwrap();
    let export = async |name: &str| {
        let path = folder.path().join(name);
        let told = tar::export(&world.ground, token, &path, &|_, _| {}).await;
        (told, path.exists())
    };
    let (told, is_there) = export("whole").await;
    assert!(is_there, "{told:?}");
    link(&world.ground.drive, file, "i");
    let inner = Ino(file.0 & Ino::MAX.0);
    world.volume().miscount_names(inner, 2);
    world.flush().await;
    let (told, is_there) = export("more").await;
    let error = format!("{:#}", told.unwrap_err());
    assert!(error.contains("more names than"), "{error}");
    assert!(!is_there);
    world.end().await;
}
