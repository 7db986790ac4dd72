//! The parts whose cost could creep, each alone and in memory: `cargo bench`.
//!
//! No disk and no FUSE: what changes here is this repository's doing. `-- --save-baseline NAME` and
//! `-- --baseline NAME` compare two states of it.

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use cid::Cid;
use criterion::{Criterion, criterion_group, criterion_main};
use pxfs::cache::Cache;
use pxfs::clock::SystemClock;
use pxfs::fs::{Allowance, Caller, ChainTime, Drive, Limits, Volume, VolumeOptions};
use pxfs::journal::{MemoryDisk, Without};
use pxfs::pack::entry::{Attr, Entry, Inode, Kind, TreeKind};
use pxfs::pack::holes::Holes;
use pxfs::pack::{Child, chunk, tree};
use pxfs::store::Block;
use pxfs::types::{Ino, TokenId, TokenKey, VolumeKey};

const CALLER: Caller = Caller {
    uid: 0,
    gid: 0,
    umask: 0,
};
const READ_WRITE: i32 = 2;

/// A drive with one token, in memory; and the token's directory.
fn drive() -> (Drive, Ino) {
    let key = VolumeKey {
        token: TokenKey {
            chain_id: 31337,
            contract: Default::default(),
            token: TokenId::from(1),
        },
        epoch: 1,
    };
    let options = VolumeOptions {
        key,
        journal_cache_bytes: 32 << 20,
        owner: (0, 0),
        without: Without::default(),
        limits: Limits::default(),
    };
    let volume = Volume::open(
        Arc::new(MemoryDisk::default()),
        Arc::new(MemoryDisk::default()),
        Arc::new(Cache::in_memory()),
        Arc::new(SystemClock),
        &options,
    )
    .expect("a volume in memory");
    volume.with_quota(|quota| quota.set_allowance(allowance()));
    let drive = Drive::new((0, 0), 0);
    let slot = drive.attach("1", 1, volume).expect("the first token");
    (drive, Ino(u64::from(slot) << 48 | 1))
}

fn allowance() -> Allowance {
    Allowance {
        size_bytes: 1 << 50,
        usage_on_chain_bytes: 0,
        additive: false,
        uploads_left: None,
        last_sync_s: 1_000,
        sync_window_s: 1 << 40,
        seen: ChainTime {
            block: 1,
            timestamp_s: 1_000,
            boottime_ns: 0,
            boot_id: String::new(),
            wall_ns: 0,
        },
        others_bytes: 0,
    }
}

fn pages(c: &mut Criterion) {
    let leaf = chunk::leaf(Bytes::from_static(b"content"));
    let edits: Vec<tree::Change> = (0..1000)
        .map(|n| {
            let key = Bytes::from(format!("file-{n:04}"));
            let inode = Inode {
                attr: Attr::default(),
                kind: Kind::File {
                    content: Child::leaf(&leaf),
                    size: 7,
                    holes: Holes::none(),
                },
                links: 1,
            };
            let entry = Entry {
                key: key.clone(),
                ino: Ino(n + 2),
                inode: Some(inode),
            };
            (key, Some(entry))
        })
        .collect();
    let nothing = HashMap::<Cid, Bytes>::new();
    c.bench_function("encode a directory of 1,000 entries", |b| {
        b.iter(|| {
            let mut bytes = 0;
            let mut out = |block: Block| bytes += block.data.len();
            let tree = tree::update(TreeKind::Directory, None, &edits, &nothing, &mut out);
            black_box((tree.expect("a tree"), bytes))
        });
    });
}

fn names(c: &mut Criterion) {
    let (drive, root) = drive();
    let name = |n: u64| format!("file-{n:05}").into_bytes();
    for n in 0..10_000 {
        let made = drive.create(CALLER, root, &name(n), 0o644, READ_WRITE);
        let (attr, opened) = made.expect("a file");
        drive.release(attr.ino, opened.fh);
    }
    drive.sync().expect("a disk in memory");
    let mut at = 0;
    c.bench_function("look up one of 10,000 names", |b| {
        b.iter(|| {
            at = (at + 7919) % 10_000;
            black_box(drive.lookup(root, &name(at)).expect("a file"))
        });
    });
    let mut made = 0_u64;
    c.bench_function("create and close a file (journal append)", |b| {
        b.iter(|| {
            made += 1;
            let name = format!("new-{made}").into_bytes();
            let new = drive.create(CALLER, root, &name, 0o644, READ_WRITE);
            let (attr, opened) = new.expect("a file");
            drive.release(attr.ino, opened.fh);
        });
    });
    let (attr, opened) = drive
        .create(CALLER, root, b"synced", 0o644, READ_WRITE)
        .expect("a file");
    c.bench_function("write 4 KiB and fsync (journal commit)", |b| {
        b.iter(|| {
            let written = drive.write(attr.ino, opened.fh, 0, &[7; 4096], false);
            written.expect("room");
            drive.fsync(attr.ino, true).expect("a disk in memory");
        });
    });
}

fn extents(c: &mut Criterion) {
    let (drive, root) = drive();
    let (attr, opened) = drive
        .create(CALLER, root, b"image", 0o644, READ_WRITE)
        .expect("a file");
    let mut at = 1_u64;
    c.bench_function("write 4 KiB at random within 1 GiB (extents)", |b| {
        b.iter(|| {
            at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let offset = (at >> 33) % (1 << 18) * 4096;
            let written = drive.write(attr.ino, opened.fh, offset, &[7; 4096], false);
            black_box(written.expect("room"))
        });
    });
}

criterion_group!(benches, pages, names, extents);
criterion_main!(benches);
