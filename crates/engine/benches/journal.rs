//! What the journal (a log, redb and an overlay) gains over redb alone and over a log alone, in one run.
//!
//! `cargo bench -p pxfs-engine --bench journal -- [RECORDS [FOLDER]]`. FOLDER has to lie on a real disk.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use pxfs_base::lock;
use pxfs_engine::journal::{Batch, FolderDisk, Journal, Without};
use redb::{Database, TableDefinition};

const CACHE: usize = 32 << 20;
const BLOCK: usize = 4096;
const TABLE: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("records");

/// Single records, batches, and records of a batch, in each round.
const SINGLE: u64 = 300;
const BATCHES: u64 = 4;
const BATCH: u64 = 4_000;
const ROUNDS: u64 = 3;

type Pair = (Vec<u8>, Vec<u8>);

/// A store of records on a disk.
trait Engine: Send + Sync {
    /// Durable on return.
    fn put(&self, records: Vec<Pair>);
    /// The same for what is large and has time: into the table, where there is one.
    fn put_many(&self, records: Vec<Pair>) {
        self.put(records);
    }
    /// Cuts the log, where that is not part of [`Engine::put_many`].
    fn checkpoint(&self) {}
}

type Open = fn(&Path) -> Box<dyn Engine>;

const ENGINES: [(&str, Open); 4] = [
    ("log, redb", |folder| Box::new(Ours::open(folder))),
    ("redb", |folder| Box::new(Alone::open(folder, false))),
    ("redb, two-phase", |folder| {
        Box::new(Alone::open(folder, true))
    }),
    ("log", |folder| Box::new(Log::open(folder))),
];

struct Ours(Journal);

impl Ours {
    fn open(folder: &Path) -> Self {
        let disk = FolderDisk::open(folder).expect("folder");
        let journal = Journal::open(Arc::new(disk), "journal", CACHE, Without::default());
        Self(journal.expect("journal"))
    }

    fn apply(&self, records: Vec<Pair>) {
        let mut batch = Batch::default();
        for (key, value) in records {
            batch.put_bytes(key, Bytes::from(value));
        }
        self.0.apply(batch).expect("apply");
    }
}

impl Engine for Ours {
    fn put(&self, records: Vec<Pair>) {
        self.apply(records);
        self.0.sync().expect("sync");
    }

    fn put_many(&self, records: Vec<Pair>) {
        self.apply(records);
        self.0.snapshot(|_| ()).expect("commit");
    }
}

/// redb with its own durability; in two phases it opens after a kill without reading all of the file.
struct Alone {
    db: Database,
    two_phase: bool,
}

impl Alone {
    fn open(folder: &Path, two_phase: bool) -> Self {
        let path = folder.join("redb");
        let db = Database::builder().set_cache_size(CACHE).create(path);
        let db = db.expect("redb");
        Self { db, two_phase }
    }
}

impl Engine for Alone {
    fn put(&self, records: Vec<Pair>) {
        let mut write = self.db.begin_write().expect("begin");
        write.set_two_phase_commit(self.two_phase);
        write.set_quick_repair(self.two_phase);
        {
            let mut table = write.open_table(TABLE).expect("table");
            for (key, value) in &records {
                table.insert(&key[..], &value[..]).expect("insert");
            }
        }
        write.commit().expect("commit");
    }
}

/// All records in memory, an appended log, and now and then a file with all of them.
struct Log {
    folder: PathBuf,
    held: Mutex<Held>,
}

struct Held {
    records: BTreeMap<Vec<u8>, Vec<u8>>,
    log: File,
    end: u64,
    len: u64,
}

impl Log {
    fn open(folder: &Path) -> Self {
        let mut records = BTreeMap::new();
        for name in ["table", "log"] {
            if let Ok(file) = File::open(folder.join(name)) {
                read(&mut BufReader::new(file), &mut records);
            }
        }
        let mut how = OpenOptions::new();
        let log = how.read(true).write(true).create(true).truncate(false);
        let log = log.open(folder.join("log")).expect("log");
        let len = log.metadata().expect("log").len();
        let held = Held {
            records,
            log,
            end: len,
            len,
        };
        Self {
            folder: folder.to_owned(),
            held: Mutex::new(held),
        }
    }
}

fn encode(out: &mut impl Write, key: &[u8], value: &[u8]) {
    out.write_all(&(key.len() as u32).to_be_bytes())
        .expect("write");
    out.write_all(&(value.len() as u32).to_be_bytes())
        .expect("write");
    out.write_all(key).expect("write");
    out.write_all(value).expect("write");
}

fn read(from: &mut impl BufRead, records: &mut BTreeMap<Vec<u8>, Vec<u8>>) {
    let mut at = 0;
    let mut head = [0; 8];
    while from.read_exact(&mut head).is_ok() {
        at += 8;
        let len = |part: usize| u32::from_be_bytes(head[part..part + 4].try_into().expect("4"));
        let (mut key, mut value) = (vec![0; len(0) as usize], vec![0; len(4) as usize]);
        if key.is_empty() {
            // The rest of a block.
            let fill = BLOCK - at % BLOCK;
            let mut fill = vec![0; fill % BLOCK];
            from.read_exact(&mut fill).expect("block");
            at += fill.len();
            continue;
        }
        from.read_exact(&mut key).expect("key");
        from.read_exact(&mut value).expect("value");
        at += key.len() + value.len();
        records.insert(key, value);
    }
}

impl Engine for Log {
    fn put(&self, records: Vec<Pair>) {
        let mut frame = Vec::new();
        for (key, value) in &records {
            encode(&mut frame, key, value);
        }
        frame.resize((frame.len() + 8).next_multiple_of(BLOCK), 0);
        let mut held = lock(&self.held);
        let end = held.end + frame.len() as u64;
        if end > held.len {
            let grown = vec![0; 1 << 20];
            held.log.write_all_at(&grown, end).expect("write");
            held.len = end + grown.len() as u64;
        }
        held.log.write_all_at(&frame, held.end).expect("write");
        held.log.sync_data().expect("sync");
        held.end = end;
        held.records.extend(records);
    }

    fn checkpoint(&self) {
        let mut held = lock(&self.held);
        let new = self.folder.join("table.new");
        let mut out = BufWriter::with_capacity(1 << 20, File::create(&new).expect("table"));
        for (key, value) in &held.records {
            encode(&mut out, key, value);
        }
        let file = out.into_inner().expect("table");
        file.sync_all().expect("sync");
        fs::rename(&new, self.folder.join("table")).expect("rename");
        File::open(&self.folder)
            .and_then(|folder| folder.sync_all())
            .expect("sync");
        held.log.set_len(0).expect("cut");
        (held.end, held.len) = (0, 0);
    }
}

/// Record `number`, whose key lies anywhere among those of the first `records`.
fn record(number: u64, records: u64) -> Pair {
    let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % records;
    let mut key = vec![1];
    key.extend_from_slice(&spread.to_be_bytes());
    (key, number.to_be_bytes().repeat(12))
}

fn batch(from: u64, count: u64, records: u64) -> Vec<Pair> {
    (from..from + count).map(|n| record(n, records)).collect()
}

/// Bytes that this process has given to `write`.
fn written() -> u64 {
    figure("/proc/self/io", "wchar:")
}

fn figure(path: &str, name: &str) -> u64 {
    let mut text = String::new();
    let mut file = File::open(path).expect(path);
    file.read_to_string(&mut text).expect(path);
    let found = text.lines().find_map(|line| line.strip_prefix(name));
    let number = found.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.unwrap_or(0)
}

#[derive(Default)]
struct Measured {
    single: Vec<Duration>,
    single_bytes: u64,
    batch: Vec<Duration>,
    batch_bytes: u64,
    beside: Vec<Duration>,
    checkpoint: Duration,
    checkpoint_bytes: u64,
    open: Duration,
}

fn timed(work: impl FnOnce()) -> Duration {
    let begin = Instant::now();
    work();
    begin.elapsed()
}

fn at(sorted: &mut [Duration], part: f64) -> f64 {
    sorted.sort_unstable();
    let index = (sorted.len() as f64 * part) as usize;
    sorted
        .get(index)
        .map_or(f64::NAN, |time| time.as_secs_f64() * 1000.0)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("folder");
    for entry in fs::read_dir(from).expect("folder") {
        let entry = entry.expect("entry");
        fs::copy(entry.path(), to.join(entry.file_name())).expect("copy");
    }
}

fn main() {
    // `cargo bench` adds `--bench`.
    let mut arguments = std::env::args()
        .skip(1)
        .filter(|given| !given.starts_with("--"));
    let records: u64 = arguments
        .next()
        .map_or(200_000, |given| given.parse().expect("RECORDS"));
    let folder = match arguments.next() {
        Some(folder) => tempfile::tempdir_in(folder),
        None => tempfile::tempdir_in("."),
    };
    let folder = folder.expect("a folder");
    let place = |name: &str| {
        let place = folder.path().join(name);
        fs::create_dir_all(&place).expect("folder");
        place
    };
    let mut next = records;
    let mut engines: Vec<_> = ENGINES
        .iter()
        .map(|(name, open)| {
            let engine = open(&place(name));
            for from in (0..records).step_by(20_000) {
                engine.put_many(batch(from, 20_000.min(records - from), records));
            }
            engine.checkpoint();
            (*name, engine, Measured::default())
        })
        .collect();
    for _ in 0..ROUNDS {
        for (_, engine, measured) in &mut engines {
            let before = written();
            for _ in 0..SINGLE {
                next += 1;
                let one = batch(next, 1, records);
                measured.single.push(timed(|| engine.put(one)));
            }
            measured.single_bytes += written() - before;
            let before = written();
            for _ in 0..BATCHES {
                next += BATCH;
                let many = batch(next, BATCH, records);
                measured.batch.push(timed(|| engine.put_many(many)));
            }
            measured.batch_bytes += written() - before;
            let done = AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    for n in 0..BATCHES {
                        engine.put_many(batch(next + (n << 32), BATCH, records));
                    }
                    done.store(true, Ordering::Release);
                });
                let mut number = next;
                while !done.load(Ordering::Acquire) {
                    number += 1;
                    let one = batch(number, 1, records);
                    measured.beside.push(timed(|| engine.put(one)));
                }
            });
            let before = written();
            measured.checkpoint = timed(|| engine.checkpoint());
            measured.checkpoint_bytes = written() - before;
        }
    }
    // As a kill leaves them: closed by nobody, with something in the log.
    for ((name, engine, measured), (_, open)) in engines.iter_mut().zip(ENGINES) {
        (0..SINGLE).for_each(|n| engine.put(batch(next + n, 1, records)));
        let killed = folder.path().join(format!("{name} killed"));
        copy(&folder.path().join(*name), &killed);
        let mut opened = None;
        measured.open = timed(|| opened = Some(open(&killed)));
    }
    println!("{records} records\n");
    println!(
        "| engine | one record durable, ms: p50 | p99 | KiB written | 4,000 records, ms | MiB written | one beside \
         these, ms: p50 | p99 | checkpoint, ms | MiB | open after a kill, ms |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    let single = (SINGLE * ROUNDS) as f64;
    let batches = (BATCHES * ROUNDS) as f64;
    for (name, _, measured) in &mut engines {
        println!(
            "| {name} | {:.3} | {:.2} | {:.1} | {:.1} | {:.2} | {:.3} | {:.1} | {:.0} | {:.0} | {:.0} |",
            at(&mut measured.single, 0.5),
            at(&mut measured.single, 0.99),
            measured.single_bytes as f64 / single / 1024.0,
            at(&mut measured.batch, 0.5),
            measured.batch_bytes as f64 / batches / f64::from(1 << 20),
            at(&mut measured.beside, 0.5),
            at(&mut measured.beside, 0.99),
            measured.checkpoint.as_secs_f64() * 1000.0,
            measured.checkpoint_bytes as f64 / f64::from(1 << 20),
            measured.open.as_secs_f64() * 1000.0,
        );
    }
}
