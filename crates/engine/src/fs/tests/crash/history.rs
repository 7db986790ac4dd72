//! A user at work: random calls by several handles, each written down with what it does.

mod bytes;
mod names;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cid::Cid;
use tempfile::TempDir;

use super::beside::Beside;
use super::dice::Dice;
use super::log::Log;
use super::model::{Act, Model, Node, Place, Step};
use super::shelf::{Shelf, publish};
use super::text::pattern;
use super::world::World;
use crate::clock::Clock;
use crate::fs::tests::rig::{CALLER, READ_WRITE};
use crate::fs::{Attr, Changes, Cut, FsError, Kind};
use crate::journal::key;
use crate::journal::record::{Content, Record};
use crate::types::{Fh, Ino};

/// How a step ends: with an error that nobody has refused it by, the history does too.
type Done<T = ()> = Result<T, FsError>;

/// No file grows beyond this, nor all of them together beyond the second.
const LONGEST: u64 = 2_300_000;
const MOST_BYTES: u64 = 6 << 20;
/// So much room is left at most where others fill the disk: about twice what calls ask for.
const MOST_FREE: u64 = 20 << 20;
/// What saves everything waits for 2 s until a file has been written anew, and not for one that has taken
/// nearly so long.
const LATE: Duration = Duration::from_millis(1_500);
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

/// A commit that has begun: its cut, where in the log that was made, and the bytes of files then.
struct Begun {
    cut: Cut,
    changes: Changes,
    when: (usize, usize),
    then: BTreeMap<u64, Vec<u8>>,
}

/// A user at work in a volume.
pub(super) struct History<'a> {
    pub(super) world: &'a World,
    pub(super) dice: Dice,
    /// What this user knows of: as acknowledged.
    pub(super) model: Model,
    pub(super) log: &'a Mutex<Log>,
    /// The directory that this user works in.
    home: u64,
    pub(super) shelf: &'a Mutex<Shelf>,
    /// The cache's folder, which goes now and then.
    pub(super) cache: Option<&'a TempDir>,
    /// Others bring the tree to the disk and to the node.
    pub(super) attended: bool,
    /// Who works while calls wait for the disk.
    pub(super) beside: Option<Arc<Beside>>,
    handles: Vec<Handle>,
    cut: Option<Begun>,
    /// When files were emptied.
    emptied: HashMap<u64, Duration>,
    /// The calls that have emptied files, with the time, and when that began by the real clock, until they
    /// are written anew.
    rewriting: HashMap<u64, (usize, i64, Instant)>,
    fresh: u64,
    /// The number of the last call.
    last: usize,
    /// Calls that were refused for want of quota.
    pub(super) refused: usize,
    /// Calls that were refused for want of room on the disk.
    pub(super) full: usize,
}

impl<'a> History<'a> {
    pub(super) fn new(
        world: &'a World,
        dice: Dice,
        model: Model,
        log: &'a Mutex<Log>,
        shelf: &'a Mutex<Shelf>,
        cache: Option<&'a TempDir>,
    ) -> Self {
        Self {
            world,
            dice,
            model,
            log,
            home: world.root.0,
            shelf,
            cache,
            attended: false,
            beside: None,
            handles: Vec::new(),
            cut: None,
            emptied: HashMap::new(),
            rewriting: HashMap::new(),
            fresh: 0,
            last: 0,
            refused: 0,
            full: 0,
        }
    }

    /// The same user, who works in the directory `home` alone, beside another.
    pub(super) fn in_home(mut self, home: u64) -> Self {
        self.home = home;
        self.attended = true;
        self.fresh = 1 << 32;
        self
    }

    /// Makes `steps` random calls, until one fails.
    ///
    /// # Errors
    /// That of the call, but want of quota or of room, which it may be refused for.
    pub(super) fn run(&mut self, steps: usize) -> Done {
        for _ in 0..steps {
            self.world.clock.advance(Duration::from_millis(10));
            self.one()?;
        }
        Ok(())
    }

    /// As [`History::run`], with others at work beside: one makes all durable now and then, the other
    /// commits all the time.
    pub(super) fn run_attended(&mut self, steps: usize) -> Done {
        self.attended = true;
        let (world, shelf, log) = (self.world, self.shelf, self.log);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Acquire) {
                    world.volume.save_changed().expect("a disk that works");
                    let written = world.volume.journal.write_table();
                    written.expect("a disk that works");
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
            scope.spawn(|| {
                while !stop.load(Ordering::Acquire) {
                    let begun = lock(log).place();
                    let cut = world.volume.cut().expect("a cut");
                    let when = (begun, lock(log).place());
                    let changes = cut.changes().expect("changes");
                    let published = publish(world, shelf, (&cut, &changes), when);
                    published.expect("a disk that works");
                }
            });
            let done = self.run(steps);
            stop.store(true, Ordering::Release);
            done
        })
    }

    pub(super) fn one(&mut self) -> Done {
        if self.world.is_shared && self.dice.below(6) == 0 {
            let free = (self.dice.below(3) > 0).then(|| self.dice.below(MOST_FREE));
            self.world.power.leave_room(free);
        }
        match self.dice.below(100) {
            0..13 => self.create(),
            13..21 => self.open(),
            21..42 => self.write(),
            42..48 => self.resize(),
            48..54 => self.rewrite(),
            54..58 => self.allocate(),
            58..60 => self.copy(),
            60..64 => self.sync_file(),
            64..67 => self.sync_dir(),
            67..69 => self.rename(),
            69..74 => self.replace(),
            74..76 => self.exchange(),
            76..78 => self.link(),
            78..82 => self.unlink(),
            82..84 => self.folders(),
            84..85 => self.special(),
            85..88 => self.attributes(),
            88..92 => self.close(),
            92..97 => self.publishing(),
            97..99 => self.background(),
            _ => self.look(),
        }
    }

    fn lock_log(&self) -> MutexGuard<'a, Log> {
        lock(self.log)
    }

    /// Makes a call that may do `act`, and has done what `did` says of its answer. Nothing where it was
    /// refused for want of quota or of room: then it has done nothing.
    fn doing<T>(
        &mut self,
        act: Option<Act>,
        call: impl FnOnce(&World) -> Done<T>,
        did: impl FnOnce(&Self, &T) -> Option<Act>,
    ) -> Done<Option<T>> {
        let world = self.world;
        let number = self.lock_log().begin(&world.power);
        if let Some(beside) = &self.beside {
            beside.let_in(act.as_ref().is_none_or(Act::is_sync));
        }
        let result = call(world);
        self.forgive();
        if let Some(beside) = &self.beside {
            beside.meet();
        }
        let now_ns = world.clock.wall_ns();
        let (act, answer) = match result {
            Ok(answer) => (did(self, &answer), Some(answer)),
            Err(FsError::Quota) => {
                self.refused += 1;
                (None, None)
            }
            Err(FsError::NoRoom) if world.is_shared => {
                self.full += 1;
                (None, None)
            }
            Err(error) => {
                self.lock_log().fail(number, act, now_ns);
                return Err(error);
            }
        };
        if let Some(act) = &act {
            self.model.begin(number, act, now_ns);
            self.model.acknowledge(number);
        }
        self.lock_log().end(number, act, now_ns, &world.power);
        self.last = number;
        Ok(answer)
    }

    /// Whatever was being written anew was waited for as long as that is done: by the real clock, which
    /// nobody here moves.
    fn forgive(&mut self) {
        let late = |(_, (_, _, begun)): &(&u64, &(usize, i64, Instant))| begun.elapsed() > LATE;
        for (ino, (number, now_ns, _)) in self.rewriting.iter().filter(late) {
            let forgiven = Act::Empty(*ino, *now_ns, true);
            self.lock_log().correct(*number, forgiven);
        }
    }

    /// Makes a call, which does `act` unless it is refused; whether it was done.
    fn call(&mut self, act: Act, call: impl FnOnce(&World) -> Done) -> Done<bool> {
        let done = act.clone();
        let answer = self.doing(Some(act), call, |_, ()| Some(done))?;
        Ok(answer.is_some())
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
        let root = std::iter::once(self.home);
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

    /// Makes a node at `place` by `call`, with a symlink's target or the number of a device.
    fn make<T>(
        &mut self,
        place: &Place,
        (target, rdev): (&[u8], u32),
        call: impl FnOnce(&World) -> Done<T>,
        attr: impl Fn(&T) -> &Attr,
    ) -> Done<Option<T>> {
        let now_ns = self.world.clock.wall_ns();
        self.doing(None, call, |_, made| {
            let attr = attr(made);
            let node = Node {
                kind: attr.kind,
                mode: attr.mode,
                owner: (attr.uid, attr.gid),
                rdev,
                target: target.to_vec(),
                xattrs: BTreeMap::new(),
                mtime_ns: match attr.kind {
                    Kind::Directory => now_ns,
                    _ => 0,
                },
                ctime_ns: now_ns,
            };
            let step = Step::Make(place.clone(), attr.ino.0, Box::new(node));
            Some(Act::Names(step))
        })
    }

    /// Makes and opens a file; its number and its handle.
    fn make_file(&mut self, place: &Place, flags: i32) -> Done<Option<(u64, Fh)>> {
        let (dir, name) = (Ino(place.0), place.1.clone());
        let create = |world: &World| {
            let drive = &world.drive;
            drive.create(CALLER, dir, name.as_bytes(), 0o644, READ_WRITE | flags)
        };
        let made = self.make(place, (&[], 0), create, |(attr, _)| attr)?;
        let Some((attr, opened)) = made else {
            return Ok(None);
        };
        self.keep_handle(attr.ino.0, opened.fh, flags & O_APPEND != 0)?;
        Ok(Some((attr.ino.0, opened.fh)))
    }

    fn create(&mut self) -> Done {
        let Some(place) = self.free_place() else {
            return Ok(());
        };
        if self.files().len() >= MOST_FILES {
            return self.unlink();
        }
        let append = self.dice.below(4) == 0;
        let flags = if append { O_APPEND } else { 0 };
        let Some((ino, fh)) = self.make_file(&place, flags)? else {
            return Ok(());
        };
        for _ in 0..self.dice.below(3) {
            self.write_at(ino, fh, append)?;
        }
        Ok(())
    }

    fn keep_handle(&mut self, ino: u64, fh: Fh, append: bool) -> Done {
        self.handles.push(Handle { ino, fh, append });
        if self.handles.len() > MOST_HANDLES {
            self.close_number(0)?;
        }
        Ok(())
    }

    fn open(&mut self) -> Done {
        let Some((_, ino)) = self.pick_file() else {
            return Ok(());
        };
        let append = self.dice.below(3) == 0;
        let flags = READ_WRITE | if append { O_APPEND } else { 0 };
        let opened = self.world.drive.open(Ino(ino), flags)?;
        self.keep_handle(ino, opened.fh, append)?;
        self.write_at(ino, opened.fh, append)
    }

    fn sync_ino(&mut self, ino: u64) -> Done {
        self.call(Act::Sync(Some(ino)), |world| {
            world.drive.fsync(Ino(ino), false)
        })?;
        Ok(())
    }

    fn sync_file(&mut self) -> Done {
        match self.pick_file() {
            Some((_, ino)) => self.sync_ino(ino),
            None => Ok(()),
        }
    }

    fn sync_dir(&mut self) -> Done {
        let dirs = self.dirs();
        let dir = self.dice.pick(&dirs).unwrap_or(self.home);
        self.call(Act::Sync(None), |world| world.drive.fsync(Ino(dir), false))?;
        Ok(())
    }

    fn close(&mut self) -> Done {
        let count = self.handles.len() as u64;
        if count > 0 {
            let number = self.dice.below(count) as usize;
            self.close_number(number)?;
        }
        Ok(())
    }

    fn close_number(&mut self, number: usize) -> Done {
        let Handle { ino, fh, .. } = self.handles.remove(number);
        let is_last = !self.handles.iter().any(|handle| handle.ino == ino);
        let closed = is_last.then_some(Act::Closed(ino));
        let close = |world: &World| {
            let flushed = world.drive.flush(Ino(ino), fh);
            world.drive.release(Ino(ino), fh);
            match flushed {
                // It is closed all the same.
                Err(FsError::NoRoom) if world.is_shared => Ok(()),
                flushed => flushed,
            }
        };
        self.doing(closed.clone(), close, |_, ()| closed)?;
        if is_last {
            self.rewriting.remove(&ino);
        }
        Ok(())
    }

    /// A commit begins, ends, or is given up.
    fn publishing(&mut self) -> Done {
        if self.attended {
            return Ok(());
        }
        match self.cut.take() {
            None => {
                self.wait(Duration::from_secs(2))?;
                let begin = |world: &World| {
                    let mut cut = world.volume.cut()?;
                    if world.volume.limits.chunks == 1 {
                        // So that the power is cut between its steps, too.
                        let volume = Arc::clone(&world.volume);
                        cut.tell_steps(move || drop(volume.journal.sync()));
                    }
                    let changes = cut.changes()?;
                    Ok((cut, changes))
                };
                let begun = self.lock_log().place();
                let cut = self.doing(Some(Act::SyncAll), begin, |_, _| Some(Act::SyncAll))?;
                let when = (begun, self.lock_log().place());
                let Some((cut, changes)) = cut else {
                    return Ok(());
                };
                let files = changes.files.iter().filter_map(|ino| {
                    let outer = ino.0 | self.world.root.0 & !Ino::MAX.0;
                    Some((ino.0, self.model.files.get(&outer)?.bytes()))
                });
                let then = files.collect();
                self.cut = Some(Begun {
                    cut,
                    changes,
                    when,
                    then,
                });
                let text = self.fresh();
                self.keep(vec![("pending", Some(pattern(text, 0, 8)))])
            }
            Some(_) if self.dice.below(4) == 0 => Ok(()),
            Some(begun) => {
                let (shelf, cut, then) = (self.shelf, begun.cut, begun.then);
                let (changes, when) = (&begun.changes, begun.when);
                let put = |world: &World| publish(world, shelf, (&cut, changes), when);
                let Some(contents) = self.doing(None, put, |_, _| None)? else {
                    return Ok(());
                };
                for (ino, content) in contents {
                    // The other user's are not known here.
                    if let Some(then) = then.get(&ino.0) {
                        assert!(content == *then, "a commit holds another instant");
                    }
                }
                drop(cut);
                // What another user has just let go of is needed until that is durable.
                if self.beside.is_none() {
                    self.forget_unneeded();
                }
                let text = self.fresh();
                let head = Some(pattern(text, 0, 8));
                self.keep(vec![("head", head), ("pending", None)])
            }
        }
    }

    /// What a commit keeps beside the tree.
    fn keep(&mut self, values: Vec<(&'static str, Option<Vec<u8>>)>) -> Done {
        let kept = values.iter().map(|(name, value)| {
            let bytes = value.clone().map(::bytes::Bytes::from);
            (*name, bytes)
        });
        let kept = kept.collect();
        self.call(Act::Kept(Step::Keep(values.clone())), |world| {
            world.volume.keep(kept)
        })?;
        Ok(())
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

    fn wait(&mut self, time: Duration) -> Done {
        self.world.clock.advance(time);
        self.call(Act::Late, |_| Ok(()))?;
        Ok(())
    }

    /// What happens by itself.
    fn background(&mut self) -> Done {
        match self.dice.below(4) {
            _ if self.attended => {}
            0 => drop(self.doing(
                None,
                |world| Ok(world.volume.journal.write_table()?),
                |_, ()| None,
            )?),
            1 => drop(
                self.cache
                    .map(|cache| std::fs::remove_dir_all(cache.path())),
            ),
            luck => {
                if luck == 2 {
                    self.wait(Duration::from_secs(3))?;
                }
                let open: Vec<u64> = self.handles.iter().map(|handle| handle.ino).collect();
                let now = self.world.clock.boottime();
                let young = |ino: &u64| {
                    let emptied = self.emptied.get(ino);
                    emptied.is_some_and(|when| now - *when < Duration::from_secs(2))
                };
                let left = open.into_iter().filter(young).collect();
                self.call(Act::Flush(left), |world| world.volume.save_changed())?;
            }
        }
        Ok(())
    }

    /// Reads a file while all is well.
    fn look(&mut self) -> Done {
        let Some((place, ino)) = self.pick_file() else {
            return Ok(());
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
        Ok(())
    }

    /// `fsync` of some file, or of the root directory: what was done so far is not all in vain.
    pub(super) fn sync_one(&mut self) -> Done {
        match self.pick_file() {
            Some((_, ino)) => self.sync_ino(ino),
            None => self.sync_dir(),
        }
    }
}

fn lock(log: &Mutex<Log>) -> MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}
