//! What a reader would lose if the cache were wrong: right bytes, room on the disk, or both.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use cid::Cid;

use super::*;
use crate::pack::cid::{leaf_cid, node_cid};

const MIB: u64 = 1 << 20;

/// The bytes of one chunk of the content number `content`: no two are equal, none is all zeros.
fn chunk_bytes(content: u64, size: u64, chunk: u64) -> Vec<u8> {
    let len = usize::try_from(chunk_len(size, chunk).unwrap()).unwrap();
    let mut bytes = (content * 1_000_003 + chunk + 1)
        .to_le_bytes()
        .repeat(len / 8 + 1);
    bytes.truncate(len);
    bytes
}

fn cid_of(content: u64) -> Cid {
    node_cid(&content.to_le_bytes())
}

fn fill_all(cache: &Cache, content: u64, size: u64) {
    for chunk in 0..size.div_ceil(MIB) {
        cache.fill(
            &cid_of(content),
            size,
            chunk,
            &chunk_bytes(content, size, chunk),
        );
    }
}

/// Reads a whole chunk; `None` when it is not there.
fn read_chunk(cache: &Cache, content: u64, size: u64, chunk: u64) -> Option<Vec<u8>> {
    let mut buf = vec![0; usize::try_from(chunk_len(size, chunk).unwrap()).unwrap()];
    cache
        .read(&cid_of(content), size, chunk * MIB, &mut buf)
        .then_some(buf)
}

/// Bytes that the files below `dir` take.
fn disk_bytes(dir: &Path) -> u64 {
    files_below(dir)
        .iter()
        .map(|path| std::os::unix::fs::MetadataExt::blocks(&path.metadata().unwrap()) * 512)
        .sum()
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else {
            found.push(path);
        }
    }
    found
}

#[test]
fn what_was_filled_is_read_across_chunk_borders() {
    let dir = tempfile::tempdir().unwrap();
    for cache in [
        Cache::open(dir.path(), 64 * MIB).unwrap(),
        Cache::in_memory(),
    ] {
        let size = 2 * MIB + 100_000;
        fill_all(&cache, 1, size);
        let mut whole = Vec::new();
        for chunk in 0..3 {
            whole.extend(chunk_bytes(1, size, chunk));
        }
        for (offset, len) in [
            (0, whole.len()),
            (MIB as usize - 7, 14),
            (5, 0),
            (whole.len() - 1, 1),
        ] {
            let mut buf = vec![0; len];
            assert!(cache.read(&cid_of(1), size, offset as u64, &mut buf));
            assert_eq!(buf, whole[offset..offset + len]);
        }
        assert!(!cache.read(&cid_of(1), size, size, &mut [0]));
        assert!(!cache.read(&cid_of(1), size, u64::MAX, &mut [0]));
        assert!(!cache.read(&cid_of(1), size + 1, 0, &mut [0]) || cache.disk.is_none());
        assert!(!cache.read(&cid_of(2), size, 0, &mut [0]));
    }
}

#[test]
fn a_chunk_that_is_not_all_of_it_is_not_taken() {
    let cache = Cache::in_memory();
    let bytes = chunk_bytes(1, MIB, 0);
    cache.fill(&cid_of(1), MIB, 0, &bytes[1..]);
    cache.fill(&cid_of(1), MIB, 1, &bytes);
    cache.fill(&cid_of(1), 0, 0, &[]);
    assert_eq!(cache.usage().memory_bytes, 0);
}

#[test]
fn small_contents_and_nodes_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let leaf = b"a small file".to_vec();
    let node = Bytes::from_static(b"an encoded node");
    let cache = Cache::open(dir.path(), 64 * MIB).unwrap();
    cache.fill(&leaf_cid(&leaf), leaf.len() as u64, 0, &leaf);
    cache.put_node(&node_cid(&node), &node);
    drop(cache);
    let cache = Cache::open(dir.path(), 64 * MIB).unwrap();
    let mut buf = vec![0; leaf.len()];
    assert!(cache.read(&leaf_cid(&leaf), leaf.len() as u64, 0, &mut buf));
    assert_eq!(buf, leaf);
    assert_eq!(cache.node(&node_cid(&node)).unwrap(), node);
    assert_eq!(cache.node(&node_cid(b"another")), None);
}

#[test]
fn chunks_of_an_earlier_run_are_not_trusted_before_they_were_hashed() {
    let dir = tempfile::tempdir().unwrap();
    let size = 3 * MIB + 5;
    let cache = Cache::open(dir.path(), 64 * MIB).unwrap();
    for chunk in [0, 2, 3] {
        cache.fill(&cid_of(1), size, chunk, &chunk_bytes(1, size, chunk));
    }
    drop(cache);

    let cache = Cache::open(dir.path(), 64 * MIB).unwrap();
    let presence = |chunk| cache.presence(&cid_of(1), size, chunk);
    assert_eq!(read_chunk(&cache, 1, size, 0), None);
    assert_eq!(presence(0), Presence::Unverified);
    assert_eq!(presence(1), Presence::Absent);
    assert_eq!(presence(2), Presence::Unverified);
    assert_eq!(presence(3), Presence::Unverified);

    let found = cache.unverified(&cid_of(1), size, 0).unwrap();
    assert_eq!(found, chunk_bytes(1, size, 0));
    cache.trust(&cid_of(1), size, 0);
    assert_eq!(read_chunk(&cache, 1, size, 0).unwrap(), found);

    cache.discard(&cid_of(1), size, 2);
    assert_eq!(presence(2), Presence::Absent);
    cache.trust(&cid_of(1), size, 2);
    assert_eq!(read_chunk(&cache, 1, size, 2), None);
    cache.fill(&cid_of(1), size, 2, &chunk_bytes(1, size, 2));
    assert_eq!(
        read_chunk(&cache, 1, size, 2).unwrap(),
        chunk_bytes(1, size, 2)
    );

    // Filling is as good as hashing.
    cache.fill(&cid_of(1), size, 3, &chunk_bytes(1, size, 3));
    assert_eq!(
        read_chunk(&cache, 1, size, 3).unwrap(),
        chunk_bytes(1, size, 3)
    );
    assert_eq!(cache.usage().dropped_chunks, 0);
}

#[test]
fn what_goes_past_the_kernels_cache_is_on_the_disk_and_right() {
    let dir = tempfile::tempdir().unwrap();
    // The last chunk ends where no disk takes it so.
    let size = 3 * MIB + 4097;
    let fill = |cache: &Cache, content, chunk| {
        let bytes = chunk_bytes(content, size, chunk);
        cache.fill_by(By::Disk, &cid_of(content), size, chunk, &bytes);
    };
    let cache = Cache::open(dir.path(), 8 * MIB).unwrap();
    for chunk in 0..4 {
        fill(&cache, 1, chunk);
        assert_eq!(
            read_chunk(&cache, 1, size, chunk).unwrap(),
            chunk_bytes(1, size, chunk)
        );
    }
    assert_eq!(cache.usage().memory_bytes, 0);
    drop(cache);
    let cache = Cache::open(dir.path(), 8 * MIB).unwrap();
    for chunk in 0..4 {
        let found = cache.unverified(&cid_of(1), size, chunk).unwrap();
        assert_eq!(found, chunk_bytes(1, size, chunk));
    }
    for content in 2..8 {
        for chunk in 0..4 {
            fill(&cache, content, chunk);
            assert!(disk_bytes(dir.path()) <= 8 * MIB);
        }
    }
    assert_eq!(cache.usage().dropped_chunks, 0);
}

#[test]
fn fetched_chunks_are_readable_before_reaching_disk_and_evict_no_small_file() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(dir.path(), 64 * MIB).unwrap();
    let leaf = b"a small file".to_vec();
    cache.fill(&leaf_cid(&leaf), leaf.len() as u64, 0, &leaf);
    let size = 40 * MIB;
    for chunk in 0..40 {
        let bytes = Bytes::from(chunk_bytes(1, size, chunk));
        assert!(cache.hold(&cid_of(1), size, chunk, &bytes));
        assert_eq!(cache.presence(&cid_of(1), size, chunk), Presence::Verified);
        assert_eq!(read_chunk(&cache, 1, size, chunk).unwrap(), bytes);
    }
    assert!(cache.usage().memory_bytes <= 16 * MIB + leaf.len() as u64);
    assert_eq!(read_chunk(&cache, 1, size, 0), None);
    let key = Key::of(&leaf_cid(&leaf)).unwrap();
    assert!(cache.recent.get(key, 0).is_some());
    let part = Bytes::from_static(b"not all of it");
    assert!(!cache.hold(&cid_of(1), size, 1, &part));
    assert_eq!(read_chunk(&cache, 1, size, 1), None);
    // Beside a small disk there is no memory for it: that would keep more than the cache.
    let bytes = Bytes::from(chunk_bytes(1, size, 0));
    let dir = tempfile::tempdir().unwrap();
    for small in [
        Cache::open(dir.path(), 63 * MIB).unwrap(),
        Cache::in_memory(),
    ] {
        assert!(!small.hold(&cid_of(1), size, 0, &bytes));
        assert_eq!(small.usage().memory_bytes, 0);
    }
}

#[test]
fn the_first_chunks_of_a_file_that_arrive_together_are_all_stored() {
    const CHUNKS: u64 = 8;
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(dir.path(), 256 * MIB).unwrap();
    let size = CHUNKS * MIB;
    for content in 0..24 {
        let start = std::sync::Barrier::new(8);
        std::thread::scope(|scope| {
            for chunk in 0..CHUNKS {
                let (cache, start) = (&cache, &start);
                scope.spawn(move || {
                    let bytes = chunk_bytes(content, size, chunk);
                    start.wait();
                    cache.fill(&cid_of(content), size, chunk, &bytes);
                });
            }
        });
        cache.forget();
        for chunk in 0..CHUNKS {
            let read = read_chunk(&cache, content, size, chunk);
            assert!(
                read == Some(chunk_bytes(content, size, chunk)),
                "chunk {chunk} of content {content} is not stored"
            );
        }
    }
}

#[test]
fn a_published_file_stays_whole_while_its_chunks_are_fetched() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("cache");
    let size = 2 * MIB;
    for content in 0..60 {
        let cache = Cache::open(&home, 256 * MIB).unwrap();
        let staged = dir.path().join("staged");
        let whole: Vec<u8> = (0..2).flat_map(|c| chunk_bytes(content, size, c)).collect();
        std::fs::write(&staged, &whole).unwrap();
        let start = std::sync::Barrier::new(3);
        std::thread::scope(|scope| {
            for chunk in 0..2 {
                let (cache, start) = (&cache, &start);
                scope.spawn(move || {
                    let bytes = chunk_bytes(content, size, chunk);
                    start.wait();
                    cache.fill(&cid_of(content), size, chunk, &bytes);
                });
            }
            start.wait();
            cache.adopt_file(&cid_of(content), size, &staged);
        });
        assert_eq!(cache.usage().disk_bytes, disk_bytes(&home), "{content}");
        drop(cache);
        let cache = Cache::open(&home, 256 * MIB).unwrap();
        for chunk in 0..2 {
            let found = cache.unverified(&cid_of(content), size, chunk);
            assert!(
                found == Some(chunk_bytes(content, size, chunk)),
                "chunk {chunk} of content {content} is gone"
            );
        }
    }
}

#[test]
fn the_cap_holds_and_what_was_used_last_stays() {
    let dir = tempfile::tempdir().unwrap();
    let cap = 16 * MIB;
    let cache = Cache::open(dir.path(), cap).unwrap();
    for content in 0..40 {
        fill_all(&cache, content, 2 * MIB);
        // Content 0 is used all the time.
        assert!(read_chunk(&cache, 0, 2 * MIB, 1).is_some(), "at {content}");
        assert!(cache.usage().disk_bytes <= cap);
        assert!(disk_bytes(dir.path()) <= cap);
    }
    assert_eq!(read_chunk(&cache, 1, 2 * MIB, 0), None);
    assert_eq!(
        read_chunk(&cache, 39, 2 * MIB, 0).unwrap(),
        chunk_bytes(39, 2 * MIB, 0)
    );
    drop(cache);
    // A smaller cap holds from the next start on.
    let cache = Cache::open(dir.path(), cap / 4).unwrap();
    assert!(cache.usage().disk_bytes <= cap / 4);
    assert!(disk_bytes(dir.path()) <= cap / 4);
}

#[test]
fn a_file_larger_than_the_cache_is_read_and_the_cap_holds() {
    let dir = tempfile::tempdir().unwrap();
    let cap = 8 * MIB;
    let cache = Cache::open(dir.path(), cap).unwrap();
    let size = 40 * MIB + 17;
    for chunk in 0..41 {
        cache.fill(&cid_of(1), size, chunk, &chunk_bytes(1, size, chunk));
        assert_eq!(
            read_chunk(&cache, 1, size, chunk).unwrap(),
            chunk_bytes(1, size, chunk)
        );
        assert!(disk_bytes(dir.path()) <= cap, "at {chunk}");
    }
    // What is left is the end of the file, and right.
    assert_eq!(read_chunk(&cache, 1, size, 0), None);
    assert_eq!(
        read_chunk(&cache, 1, size, 38).unwrap(),
        chunk_bytes(1, size, 38)
    );
    assert_eq!(cache.usage().dropped_chunks, 0);
}

#[test]
fn a_cache_too_small_for_a_chunk_still_serves_the_last_one() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(dir.path(), MIB).unwrap();
    fill_all(&cache, 1, 4 * MIB);
    assert_eq!(
        read_chunk(&cache, 1, 4 * MIB, 3).unwrap(),
        chunk_bytes(1, 4 * MIB, 3)
    );
    assert!(disk_bytes(dir.path()) <= MIB);
    assert_eq!(cache.usage().dropped_chunks, 4);
}

#[test]
fn what_the_disk_refuses_is_served_from_memory() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(dir.path(), 64 * MIB).unwrap();
    // No file system has files of this length.
    let size = i64::MAX as u64;
    cache.fill(&cid_of(1), size, 7, &chunk_bytes(1, size, 7));
    assert_eq!(
        read_chunk(&cache, 1, size, 7).unwrap(),
        chunk_bytes(1, size, 7)
    );
    assert_eq!(cache.usage().dropped_chunks, 1);
    assert_eq!(
        files_below(&dir.path().join("v1/files")),
        Vec::<PathBuf>::new()
    );
}

#[test]
fn the_folder_may_be_deleted_while_it_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("cache");
    let cache = Cache::open(&home, 64 * MIB).unwrap();
    let size = 2 * MIB;
    fill_all(&cache, 1, size);
    std::fs::remove_dir_all(&home).unwrap();
    for round in 0..2 {
        for content in 1..4 {
            for chunk in 0..2 {
                if let Some(found) = read_chunk(&cache, content, size, chunk) {
                    assert_eq!(found, chunk_bytes(content, size, chunk));
                }
            }
            fill_all(&cache, content, size);
            for chunk in 0..2 {
                let found = read_chunk(&cache, content, size, chunk).unwrap();
                assert_eq!(found, chunk_bytes(content, size, chunk), "round {round}");
            }
        }
    }
    // And it is in use again.
    assert_eq!(files_below(&home.join("v1/files")).len(), 3);
    assert_eq!(cache.usage().dropped_chunks, 0);
}

#[test]
fn a_file_that_was_cut_or_exchanged_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(dir.path(), 400 * MIB).unwrap();
    let size = MIB;
    // More contents than files are kept open, so that the first are opened anew.
    for content in 0..140 {
        fill_all(&cache, content, size);
    }
    let files = files_below(&dir.path().join("v1/files"));
    assert_eq!(files.len(), 140);
    for path in files {
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, vec![0; MIB as usize]).unwrap();
    }
    let mut served = 0;
    for content in 0..140 {
        if let Some(found) = read_chunk(&cache, content, size, 0) {
            assert_eq!(found, chunk_bytes(content, size, 0));
            served += 1;
        }
    }
    assert!(served < 140, "every file was still open");
}

#[test]
fn a_reader_never_sees_the_zeros_of_an_evicted_chunk() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(dir.path(), 6 * MIB).unwrap();
    let size = 12 * MIB;
    let done = AtomicBool::new(false);
    let hits = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|reader| {
                let (cache, done) = (&cache, &done);
                scope.spawn(move || {
                    let mut hits = 0_u64;
                    let mut buf = vec![0; 4096];
                    let mut at = reader;
                    while !done.load(Ordering::Relaxed) {
                        at = (at * 31 + 7) % 36;
                        let (content, chunk) = (at % 3, at / 3);
                        if cache.read(&cid_of(content), size, chunk * MIB + 8192, &mut buf) {
                            assert_eq!(buf, chunk_bytes(content, size, chunk)[..4096]);
                            hits += 1;
                        }
                    }
                    hits
                })
            })
            .collect();
        for round in 0..12 {
            for content in 0..3 {
                // Alone it punches its own chunks; beside others whole files go.
                for chunk in 0..12 {
                    let bytes = chunk_bytes((content + round) % 3, size, chunk);
                    cache.fill(&cid_of((content + round) % 3), size, chunk, &bytes);
                }
            }
        }
        done.store(true, Ordering::Relaxed);
        readers
            .into_iter()
            .map(|reader| reader.join().unwrap())
            .sum::<u64>()
    });
    assert!(hits > 0, "no reader ever hit");
    assert!(disk_bytes(dir.path()) <= 6 * MIB);
}

#[test]
fn a_published_file_is_taken_over_without_a_copy() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(&dir.path().join("cache"), 64 * MIB).unwrap();
    let size = 2 * MIB + 3;
    let staged = dir.path().join("staged");
    let mut whole = Vec::new();
    for chunk in 0..3 {
        whole.extend(chunk_bytes(1, size, chunk));
    }
    std::fs::write(&staged, &whole).unwrap();
    let inode = std::os::unix::fs::MetadataExt::ino(&staged.metadata().unwrap());
    cache.adopt_file(&cid_of(1), size, &staged);
    assert!(!staged.exists());
    let files = files_below(&dir.path().join("cache/v1/files"));
    assert_eq!(
        std::os::unix::fs::MetadataExt::ino(&files[0].metadata().unwrap()),
        inode
    );
    for chunk in 0..3 {
        assert_eq!(
            read_chunk(&cache, 1, size, chunk).unwrap(),
            chunk_bytes(1, size, chunk)
        );
    }
    // Small, of another length, larger than the cache: taken, or gone, never wrong.
    std::fs::write(&staged, b"small").unwrap();
    cache.adopt_file(&leaf_cid(b"small"), 5, &staged);
    let mut buf = [0; 5];
    assert!(cache.read(&leaf_cid(b"small"), 5, 0, &mut buf));
    assert_eq!(&buf, b"small");
    std::fs::write(&staged, vec![1; 100_000]).unwrap();
    cache.adopt_file(&cid_of(2), 100_001, &staged);
    assert!(!staged.exists());
    assert_eq!(cache.presence(&cid_of(2), 100_001, 0), Presence::Absent);
    std::fs::write(&staged, vec![1; 65 << 20]).unwrap();
    cache.adopt_file(&cid_of(3), 65 * MIB, &staged);
    assert!(!staged.exists());
    assert_eq!(cache.presence(&cid_of(3), 65 * MIB, 0), Presence::Absent);
    assert_eq!(cache.presence(&cid_of(1), size, 0), Presence::Verified);
}

#[test]
fn the_cache_gives_way_to_what_is_not_uploaded() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(dir.path(), 64 * MIB).unwrap();
    for content in 0..10 {
        fill_all(&cache, content, 2 * MIB);
    }
    let before = disk_bytes(dir.path());
    cache.give_way(5 * MIB);
    assert!(disk_bytes(dir.path()) <= before - 5 * MIB);
    assert_eq!(
        read_chunk(&cache, 9, 2 * MIB, 0).unwrap(),
        chunk_bytes(9, 2 * MIB, 0)
    );
    cache.give_way(u64::MAX);
    assert_eq!(read_chunk(&cache, 9, 2 * MIB, 0), None);
    fill_all(&cache, 9, 2 * MIB);
    assert!(read_chunk(&cache, 9, 2 * MIB, 0).is_some());
}

#[test]
fn the_cache_has_no_room_to_give_on_another_disk() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(&dir.path().join("cache"), 64 * MIB).unwrap();
    assert!(cache.shares_room(dir.path()));
    assert!(!cache.shares_room(Path::new("/proc")));
    assert!(!Cache::in_memory().shares_room(dir.path()));
}

#[test]
fn an_unusable_folder_is_told_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, b"").unwrap();
    let error = Cache::open(&file, MIB).err().unwrap().to_string();
    assert!(error.contains("file") && !error.contains('\n'), "{error}");

    let _first = Cache::open(&dir.path().join("cache"), MIB).unwrap();
    let error = Cache::open(&dir.path().join("cache"), MIB).err().unwrap();
    assert!(
        error.to_string().ends_with("another pxfs is using it"),
        "{error}"
    );
}

#[test]
fn what_is_cached_is_for_its_owner_alone_whatever_the_umask() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("new").join("cache");
    let _cache = Cache::open(&dir, 64 * MIB).unwrap();
    for made in [dir.parent().unwrap(), &dir] {
        let mode = made.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{}", made.display());
    }
}
