//! A user at work: random calls by several handles, each written down with what it does.

mod bytes;
mod names;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cid::Cid;
use tempfile::TempDir;

use super::dice::Dice;
use super::model::{Act, Model, Node, Op, Place, Step};
use super::shelf::{Shelf, publish};
use super::world::World;
use crate::clock::Clock;
use crate::fs::tests::rig::{CALLER, READ_WRITE};
use crate::fs::{Attr, Changes, Cut, Kind};
use crate::journal::key;
use crate::journal::record::{Content, Record};
use crate::types::{Fh, Ino};

/// No file grows beyond this, nor all of them together beyond the second.
const LONGEST: u64 = 2_300_000;
const MOST_BYTES: u64 = 6 << 20;
/// Files, directories and handles that are kept at most.
const MOST_FILES: usize = 12;
const MOST_DIRS: usize = 4;
const MOST_HANDLES: usize = 4;

const O_TRUNC: i32 = 0o1000;
const O_APPEND: i32 = 0o2000;

/// An open file.
struct Handle {
    ino: u64,
    fh: Fh,
    append: bool,
}

/// A user at work in a volume.
pub(super) struct History<'a> {
    pub(super) world: &'a World,
    pub(super) dice: Dice,
    pub(super) model: Model,
    pub(super) ops: Vec<Op>,
    pub(super) shelf: &'a Mutex<Shelf>,
    /// The cache's folder, which goes now and then.
    pub(super) cache: Option<&'a TempDir>,
    /// Others bring the tree to the disk and to the node.
    pub(super) attended: bool,
    handles: Vec<Handle>,
    cut: Option<(Cut, Changes, BTreeMap<u64, Vec<u8>>)>,
    /// When files were emptied.
    emptied: HashMap<u64, Duration>,
    fresh: u64,
}

impl<'a> History<'a> {
    pub(super) fn new(
        world: &'a World,
        dice: Dice,
        model: Model,
        shelf: &'a Mutex<Shelf>,
        cache: Option<&'a TempDir>,
    ) -> Self {
        Self {
            world,
            dice,
            model,
            ops: Vec::new(),
            shelf,
            cache,
            attended: false,
            handles: Vec::new(),
            cut: None,
            emptied: HashMap::new(),
            fresh: 0,
        }
    }

    /// Makes `steps` random calls.
    pub(super) fn run(&mut self, steps: usize) {
        for _ in 0..steps {
            self.world.clock.advance(Duration::from_millis(10));
            self.one();
        }
    }

    /// As [`History::run`], with others at work beside: one makes all durable now and then, the other
    /// commits all the time.
    pub(super) fn run_attended(&mut self, steps: usize) {
        self.attended = true;
        let (world, shelf) = (self.world, self.shelf);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Acquire) {
                    world.volume.save_changed().expect("a disk that works");
                    world.volume.journal.write_undurably();
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
            scope.spawn(|| {
                while !stop.load(Ordering::Acquire) {
                    let cut = world.volume.cut().expect("a cut");
                    let changes = cut.changes().expect("changes");
                    publish(world, shelf, &cut, &changes);
                }
            });
            self.run(steps);
            stop.store(true, Ordering::Release);
        });
    }

    fn one(&mut self) {
        match self.dice.below(100) {
            0..13 => self.create(),
            13..21 => self.open(),
            21..43 => self.write(),
            43..49 => self.resize(),
            49..55 => self.rewrite(),
            55..58 => self.allocate(),
            58..60 => self.copy(),
            60..64 => self.sync_file(),
            64..67 => self.sync_dir(),
            67..69 => self.rename(),
            69..74 => self.replace(),
            74..76 => self.exchange(),
            76..78 => self.link(),
            78..83 => self.unlink(),
            83..85 => self.folders(),
            85..86 => self.special(),
            86..88 => self.attributes(),
            88..92 => self.close(),
            92..97 => self.publishing(),
            97..99 => self.background(),
            _ => self.look(),
        }
    }

    /// Writes down a call that is done.
    fn noted(&mut self, begun: usize, act: Act) {
        let op = Op {
            begun,
            acked: self.world.power.now(),
            now_ns: self.world.clock.wall_ns(),
            act,
        };
        self.model.begin(&op);
        self.model.acknowledge(&op);
        self.ops.push(op);
    }

    /// Makes a call, which does `act`.
    fn call(&mut self, act: Act, call: impl FnOnce(&World)) {
        let begun = self.world.power.now();
        call(self.world);
        self.noted(begun, act);
    }

    fn places(&self, is_wanted: impl Fn(Kind) -> bool) -> Vec<(Place, u64)> {
        let tree = &self.model.tree;
        let of_kind = tree
            .entries
            .iter()
            .filter(|(_, ino)| is_wanted(tree.nodes[*ino].kind));
        of_kind.map(|(place, ino)| (place.clone(), *ino)).collect()
    }

    fn files(&self) -> Vec<(Place, u64)> {
        self.places(|kind| kind == Kind::File)
    }

    fn dirs(&self) -> Vec<u64> {
        let dirs = self.places(|kind| kind == Kind::Directory);
        let root = std::iter::once(self.world.root.0);
        root.chain(dirs.into_iter().map(|(_, ino)| ino)).collect()
    }

    fn pick_file(&mut self) -> Option<(Place, u64)> {
        let files = self.files();
        self.dice.pick(&files)
    }

    fn fresh(&mut self) -> u64 {
        self.fresh += 1;
        self.fresh
    }

    /// A place where nothing is; names are used again.
    fn free_place(&mut self) -> Option<Place> {
        let dirs = self.dirs();
        let dir = self.dice.pick(&dirs)?;
        let place = (dir, format!("n{}", self.dice.below(24)));
        (!self.model.tree.entries.contains_key(&place)).then_some(place)
    }

    fn made(&mut self, begun: usize, place: Place, attr: &Attr, target: &[u8]) {
        let node = Node {
            kind: attr.kind,
            mode: attr.mode,
            target: target.to_vec(),
            xattrs: BTreeMap::new(),
            mtime_ns: match attr.kind {
                Kind::Directory => self.world.clock.wall_ns(),
                _ => 0,
            },
        };
        let step = Step::Make(place, attr.ino.0, Box::new(node));
        self.noted(begun, Act::Names(step));
    }

    fn create(&mut self) {
        let Some(place) = self.free_place() else {
            return;
        };
        if self.files().len() >= MOST_FILES {
            return self.unlink();
        }
        let begun = self.world.power.now();
        let (dir, name) = (Ino(place.0), place.1.clone());
        let append = self.dice.below(4) == 0;
        let flags = READ_WRITE | if append { O_APPEND } else { 0 };
        let drive = &self.world.drive;
        let made = drive.create(CALLER, dir, name.as_bytes(), 0o644, flags);
        let (attr, opened) = made.expect("create");
        self.made(begun, place, &attr, &[]);
        self.keep_handle(attr.ino.0, opened.fh, append);
        for _ in 0..self.dice.below(3) {
            self.write_at(attr.ino.0, opened.fh, append);
        }
    }

    fn keep_handle(&mut self, ino: u64, fh: Fh, append: bool) {
        self.handles.push(Handle { ino, fh, append });
        if self.handles.len() > MOST_HANDLES {
            self.close_number(0);
        }
    }

    fn open(&mut self) {
        let Some((_, ino)) = self.pick_file() else {
            return;
        };
        let append = self.dice.below(3) == 0;
        let flags = READ_WRITE | if append { O_APPEND } else { 0 };
        let opened = self.world.drive.open(Ino(ino), flags).expect("open");
        self.keep_handle(ino, opened.fh, append);
        self.write_at(ino, opened.fh, append);
    }

    fn sync_ino(&mut self, ino: u64) {
        self.call(Act::Sync(Some(ino)), |world| {
            world.drive.fsync(Ino(ino), false).expect("fsync");
        });
    }

    fn sync_file(&mut self) {
        if let Some((_, ino)) = self.pick_file() {
            self.sync_ino(ino);
        }
    }

    fn sync_dir(&mut self) {
        let dirs = self.dirs();
        let dir = self.dice.pick(&dirs).unwrap_or(self.world.root.0);
        self.call(Act::Sync(None), |world| {
            world.drive.fsync(Ino(dir), false).expect("fsync");
        });
    }

    fn close(&mut self) {
        let count = self.handles.len() as u64;
        if count > 0 {
            let number = self.dice.below(count) as usize;
            self.close_number(number);
        }
    }

    fn close_number(&mut self, number: usize) {
        let Handle { ino, fh, .. } = self.handles.remove(number);
        let is_last = !self.handles.iter().any(|handle| handle.ino == ino);
        let begun = self.world.power.now();
        self.world.drive.flush(Ino(ino), fh).expect("close");
        self.world.drive.release(Ino(ino), fh);
        if is_last {
            self.noted(begun, Act::Closed(ino));
        }
    }

    /// A commit begins, ends, or is given up.
    fn publishing(&mut self) {
        if self.attended {
            return;
        }
        match self.cut.take() {
            None => {
                self.wait(Duration::from_secs(2));
                let begun = self.world.power.now();
                let cut = self.world.volume.cut().expect("a cut");
                let changes = cut.changes().expect("changes");
                self.noted(begun, Act::SyncAll);
                let files = changes.files.iter().filter_map(|ino| {
                    let outer = ino.0 | self.world.root.0 & !Ino::MAX.0;
                    Some((ino.0, self.model.files.get(&outer)?.bytes()))
                });
                let then = files.collect();
                self.cut = Some((cut, changes, then));
            }
            Some(_) if self.dice.below(4) == 0 => {}
            Some((cut, changes, then)) => {
                let contents = publish(self.world, self.shelf, &cut, &changes);
                for (ino, content) in contents {
                    assert!(content == then[&ino.0], "a commit holds another instant");
                }
                drop(cut);
                self.forget_unneeded();
            }
        }
    }

    /// What no record names any more goes from the node.
    fn forget_unneeded(&mut self) {
        let journal = &self.world.volume.journal;
        let prefix = &key::content(Ino(0))[..1];
        let mut needed: Vec<Cid> = journal
            .scan(prefix, None, usize::MAX)
            .expect("records")
            .iter()
            .filter_map(|(_, bytes)| {
                Some(Content::from_bytes(bytes).expect("a record").base?.cid.0)
            })
            .collect();
        // And what files in use took over from others.
        let used = self.world.volume.files.all();
        needed.extend(used.iter().filter_map(|file| Some(file.body().base?.cid.0)));
        let now = self.world.power.now();
        let mut shelf = self.shelf.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = shelf.contents.keys().filter(|cid| !needed.contains(cid));
        let gone: Vec<Cid> = gone.copied().collect();
        shelf.note(now, gone, false);
    }

    fn wait(&mut self, time: Duration) {
        self.world.clock.advance(time);
        self.call(Act::Late, |_| ());
    }

    /// What happens by itself.
    fn background(&mut self) {
        match self.dice.below(4) {
            _ if self.attended => {}
            0 => self.world.volume.journal.write_undurably(),
            1 => drop(
                self.cache
                    .map(|cache| std::fs::remove_dir_all(cache.path())),
            ),
            luck => {
                if luck == 2 {
                    self.wait(Duration::from_secs(3));
                }
                let open: Vec<u64> = self.handles.iter().map(|handle| handle.ino).collect();
                let now = self.world.clock.boottime();
                let young = |ino: &u64| {
                    let emptied = self.emptied.get(ino);
                    emptied.is_some_and(|when| now - *when < Duration::from_secs(2))
                };
                let left = open.into_iter().filter(young).collect();
                self.call(Act::Flush(left), |world| {
                    world.volume.save_changed().expect("a disk that works");
                });
            }
        }
    }

    /// Reads a file while all is well.
    fn look(&mut self) {
        let Some((place, ino)) = self.pick_file() else {
            return;
        };
        let expected = self.model.files[&ino].bytes();
        let has = |cid: &Cid| {
            let shelf = self.shelf.lock().unwrap_or_else(PoisonError::into_inner);
            shelf.get(cid, usize::MAX)
        };
        let found = self.world.read(Ino(ino), expected.len() as u64, &has);
        assert!(
            found.as_ref() == Ok(&expected),
            "{place:?} is not what was written"
        );
    }

    /// `fsync` of some file, or of the root directory: what was done so far is not all in vain.
    pub(super) fn sync_one(&mut self) {
        match self.pick_file() {
            Some((_, ino)) => self.sync_ino(ino),
            None => self.sync_dir(),
        }
    }
}
