//! The regular files that are in use: open, or changed and not yet saved.
//!
//! Invariant: there is at most one [`File`] an inode, for as long as anybody holds a [`FileRef`] or
//! its content differs from the journal. So whoever changes content sees all changes.

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64};

use super::FsError;
use super::account::{Account, AccountCell};
use super::body::Body;
use super::locks::{
    Content, Memory, Ordered, OrderedGuard, OrderedRw, ReadGuard, Saving, WriteGuard,
};
use crate::types::Ino;

/// One regular file in use.
pub(crate) struct File {
    pub(crate) ino: Ino,
    body: OrderedRw<Body, Content>,
    /// What the last change has left to be told.
    seen: Ordered<Seen, Memory>,
    /// Held while the content is made durable and saved: one at a time, in order.
    pub(crate) saving: Ordered<(), Saving>,
    /// How often all of it was saved.
    pub(super) saves: AtomicU64,
    /// What it is charged.
    pub(super) account: AccountCell,
    /// Its access time as far as it is known, ns: reads look at it first.
    pub(super) atime_ns: AtomicI64,
    /// How often its bytes were read. Counted with the body locked, so that it stands still for who changes it.
    pub(super) reads: AtomicU64,
    /// Another machine's tree has taken this one's place, and it is in no directory of that one that is here: deleted, or
    /// moved to where nobody has looked. What is here of it can be read, and nothing of it changed.
    pub(super) lost: AtomicBool,
}

/// What is told of a content to who does not wait for it.
#[derive(Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) size: u64,
    pub(crate) mtime_ns: i64,
    pub(crate) ctime_ns: i64,
    /// Bytes that are in no hole.
    pub(crate) allocated_bytes: u64,
    /// It differs from the journal.
    pub(crate) unsaved: bool,
}

impl Seen {
    fn of(body: &Body, allocated_bytes: u64) -> Self {
        Self {
            size: body.size,
            mtime_ns: body.mtime_ns,
            ctime_ns: body.ctime_ns,
            allocated_bytes,
            unsaved: body.unsaved,
        }
    }
}

/// The content, locked for a change.
pub(crate) struct BodyMut<'a> {
    body: WriteGuard<'a, Body, Content>,
    seen: &'a Ordered<Seen, Memory>,
}

impl Deref for BodyMut<'_> {
    type Target = Body;

    fn deref(&self) -> &Body {
        &self.body
    }
}

impl DerefMut for BodyMut<'_> {
    fn deref_mut(&mut self) -> &mut Body {
        &mut self.body
    }
}

impl Drop for BodyMut<'_> {
    fn drop(&mut self) {
        // Holes are runs, of which there are few thousand at most.
        *self.seen.lock() = Seen::of(&self.body, self.body.allocated_bytes());
    }
}

impl File {
    /// What `stat` tells, and the virtual attributes. Waits for nobody: while the content is being changed, which may
    /// wait for the disk, it is what was there before.
    pub(crate) fn look(&self) -> Seen {
        *self.seen.lock()
    }

    /// The content, to read.
    #[track_caller]
    pub(crate) fn body(&self) -> ReadGuard<'_, Body, Content> {
        self.body.read()
    }

    /// The content, to change.
    #[track_caller]
    pub(crate) fn body_mut(&self) -> BodyMut<'_> {
        BodyMut {
            body: self.body.write(),
            seen: &self.seen,
        }
    }

    /// As [`File::body_mut`], for a take-over, which holds the contents of all files.
    pub(super) fn body_mut_beside(&self) -> BodyMut<'_> {
        BodyMut {
            body: self.body.write_beside(),
            seen: &self.seen,
        }
    }

    /// Whether some of it may be published content. Waits for nobody: one that is being changed may.
    pub(crate) fn lies_over_published(&self) -> bool {
        match self.body.try_read() {
            Some(body) => body.base.is_some_and(|base| base.valid > 0),
            None => true,
        }
    }
}

struct Slot {
    file: Arc<File>,
    users: usize,
    /// Unlinked: nothing of it is saved any more, and it goes with its last user.
    orphan: bool,
}

/// The table of files in use.
#[derive(Default)]
pub(crate) struct Files {
    table: Ordered<Table, Memory>,
}

#[derive(Default)]
struct Table {
    slots: HashMap<Ino, Slot>,
    /// The files that somebody loads.
    loads: HashMap<Ino, Load>,
    /// The file that was unlinked last without being in use: its records may still be there.
    gone: Option<Ino>,
}

/// A file that is being loaded, by one or by several.
#[derive(Default)]
struct Load {
    loaders: usize,
    /// How often it left the table or was unlinked since, or all records became others: a body that was
    /// loaded before may be old.
    departures: u64,
}

/// A file held in the table.
pub(crate) struct FileRef {
    file: Arc<File>,
}

impl Deref for FileRef {
    type Target = File;

    fn deref(&self) -> &File {
        &self.file
    }
}

/// What became of a file that was let go of.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// Others use it still, or it waits to be saved.
    InUse,
    /// It was the last user of a saved file.
    Gone,
    /// It was the last user of an unlinked file: its records and bytes must go.
    Orphan,
}

impl Files {
    /// Holds the file `ino`, from the table or as `load` gives it.
    pub(crate) fn hold(
        &self,
        ino: Ino,
        load: impl Fn() -> Result<Body, FsError>,
    ) -> Result<FileRef, FsError> {
        loop {
            let departures = {
                let mut table = self.lock();
                if let Some(held) = table.try_hold(ino) {
                    return Ok(held);
                }
                table.begin_load(ino)
            };
            let body = load();
            let mut table = self.lock();
            let is_old = table.end_load(ino) != departures;
            let body = match body {
                Ok(body) => body,
                // Its records may have been others than its stage file: settled meanwhile.
                Err(_) if is_old || table.slots.contains_key(&ino) => continue,
                Err(error) => return Err(error),
            };
            if table.gone == Some(ino) {
                return Err(FsError::NotFound);
            }
            if is_old && !table.slots.contains_key(&ino) {
                continue;
            }
            table.slots.entry(ino).or_insert_with(|| Slot {
                file: Arc::new(File {
                    ino,
                    account: AccountCell::new(Account::of(body.charge())),
                    seen: Ordered::new(Seen::of(&body, body.allocated_bytes())),
                    body: OrderedRw::new(body),
                    saving: Ordered::new(()),
                    saves: AtomicU64::new(0),
                    atime_ns: AtomicI64::new(super::access::UNKNOWN),
                    reads: AtomicU64::new(0),
                    lost: AtomicBool::new(false),
                }),
                users: 0,
                orphan: false,
            });
            if let Some(held) = table.try_hold(ino) {
                return Ok(held);
            }
        }
    }

    /// All files in use, without holding them.
    pub(crate) fn all(&self) -> Vec<Arc<File>> {
        let table = self.lock();
        table
            .slots
            .values()
            .map(|slot| Arc::clone(&slot.file))
            .collect()
    }

    /// Holds the file `ino` if it is in use.
    pub(crate) fn hold_known(&self, ino: Ino) -> Option<FileRef> {
        self.lock().try_hold(ino)
    }

    /// The file if it is in use, without holding it: good for a look, not for a change.
    pub(crate) fn peek(&self, ino: Ino) -> Option<Arc<File>> {
        self.lock()
            .slots
            .get(&ino)
            .map(|slot| Arc::clone(&slot.file))
    }

    /// Lets go of a file. The last user ends its room with `end_room`, before another can come.
    pub(crate) fn leave(&self, held: FileRef, end_room: impl Fn(&File)) -> Left {
        loop {
            let mut table = self.lock();
            let Some(slot) = table.slots.get_mut(&held.ino) else {
                return Left::Gone;
            };
            if slot.users > 1 {
                slot.users -= 1;
                return Left::InUse;
            }
            if held.account.keeps_room() {
                drop(table);
                end_room(&held);
                continue;
            }
            let orphan = slot.orphan;
            let unsaved = match held.body.try_read() {
                Some(body) => {
                    debug_assert!(held.account.is_charged_as(&body));
                    body.unsaved
                }
                // Who has it may come for the table next (a tree that is taken over locks all files
                // first), so it is waited for without the table, and the file held as long.
                None => {
                    drop(table);
                    drop(held.body());
                    continue;
                }
            };
            slot.users = 0;
            if !orphan && unsaved {
                return Left::InUse;
            }
            table.slots.remove(&held.ino);
            table.depart(held.ino);
            return if orphan { Left::Orphan } else { Left::Gone };
        }
    }

    /// The file was unlinked. In use, it lives on without a name until its last user lets go of it, the caller
    /// among them.
    #[must_use]
    pub(crate) fn unlinked(&self, ino: Ino) -> Option<FileRef> {
        let mut table = self.lock();
        table.depart(ino);
        let held = table.try_hold(ino);
        match held {
            Some(_) => table.set_orphan(ino, true),
            None => table.gone = Some(ino),
        }
        held
    }

    /// The file that counts as unlinked has its name still.
    pub(crate) fn linked_again(&self, ino: Ino) {
        let mut table = self.lock();
        table.set_orphan(ino, false);
        table.gone.take_if(|gone| *gone == ino);
    }

    /// All records are other ones now: no body that was loaded before is believed any more, and what
    /// was unlinked may be there again.
    pub(crate) fn forget_past(&self) {
        let mut table = self.lock();
        for load in table.loads.values_mut() {
            load.departures += 1;
        }
        table.gone = None;
    }

    /// Whether somebody besides the caller, who does, holds the file.
    pub(crate) fn is_shared(&self, ino: Ino) -> bool {
        self.lock()
            .slots
            .get(&ino)
            .is_some_and(|slot| slot.users > 1)
    }

    /// Whether the file was unlinked.
    pub(crate) fn is_orphan(&self, ino: Ino) -> bool {
        self.lock().slots.get(&ino).is_some_and(|slot| slot.orphan)
    }

    /// The files that were unlinked and are in use.
    pub(crate) fn orphans(&self) -> Vec<Arc<File>> {
        let table = self.lock();
        let slots = table.slots.values().filter(|slot| slot.orphan);
        slots.map(|slot| Arc::clone(&slot.file)).collect()
    }

    #[track_caller]
    fn lock(&self) -> OrderedGuard<'_, Table, Memory> {
        self.table.lock()
    }
}

impl Table {
    /// The file, held, if it is in use.
    fn try_hold(&mut self, ino: Ino) -> Option<FileRef> {
        let slot = self.slots.get_mut(&ino)?;
        slot.users += 1;
        Some(FileRef {
            file: Arc::clone(&slot.file),
        })
    }

    fn set_orphan(&mut self, ino: Ino, orphan: bool) {
        if let Some(slot) = self.slots.get_mut(&ino) {
            slot.orphan = orphan;
        }
    }

    /// Somebody loads the file: the count of departures, to compare.
    fn begin_load(&mut self, ino: Ino) -> u64 {
        let load = self.loads.entry(ino).or_default();
        load.loaders += 1;
        load.departures
    }

    /// Has loaded it: the count of departures now.
    fn end_load(&mut self, ino: Ino) -> u64 {
        let Some(load) = self.loads.get_mut(&ino) else {
            return 0;
        };
        let departures = load.departures;
        load.loaders -= 1;
        if load.loaders == 0 {
            self.loads.remove(&ino);
        }
        departures
    }

    /// The file left the table, or was unlinked.
    fn depart(&mut self, ino: Ino) {
        if let Some(load) = self.loads.get_mut(&ino) {
            load.departures += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;
    use crate::journal::record::Content;

    fn empty() -> Body {
        Body::from_record(&Content::default(), Vec::new(), None)
    }

    #[test]
    fn a_file_is_loaded_once_whatever_else_is_closed_meanwhile() {
        let files = Files::default();
        let loads = Cell::new(0);
        let held = files.hold(Ino(1), || {
            loads.set(loads.get() + 1);
            assert!(loads.get() < 5, "loaded again and again");
            let other = files.hold(Ino(2), || Ok(empty())).unwrap();
            assert_eq!(files.leave(other, |_| ()), Left::Gone);
            Ok(empty())
        });
        assert_eq!(loads.get(), 1);
        assert_eq!(files.leave(held.unwrap(), |_| ()), Left::Gone);
        assert!(files.lock().loads.is_empty());
    }

    #[test]
    fn a_file_that_was_closed_while_it_was_loaded_is_loaded_again() {
        let files = Files::default();
        let loads = Cell::new(0);
        let held = files.hold(Ino(1), || {
            loads.set(loads.get() + 1);
            if loads.get() == 1 {
                let same = files.hold(Ino(1), || Ok(empty())).unwrap();
                assert_eq!(files.leave(same, |_| ()), Left::Gone);
            }
            Ok(empty())
        });
        assert_eq!(loads.get(), 2);
        assert_eq!(files.leave(held.unwrap(), |_| ()), Left::Gone);
    }

    #[test]
    fn who_looks_at_a_file_does_not_wait_for_who_changes_it() {
        let files = Files::default();
        let held = files.hold(Ino(1), || Ok(empty())).unwrap();
        {
            let mut body = held.body_mut();
            body.size = 5;
            body.mtime_ns = 7;
        }
        // What was changed is seen though nobody looked since, and what is being changed is not yet.
        let mut body = held.body_mut();
        body.size = 9;
        let seen = held.look();
        assert_eq!((seen.size, seen.mtime_ns), (5, 7));
        drop(body);
        assert_eq!(held.look().size, 9);
    }

    #[test]
    fn allocated_bytes_of_a_sparse_file_are_right_while_it_is_saved() {
        let files = Files::default();
        let sparse = || {
            let record = Content {
                size: 4 << 20,
                holes: vec![(1, 3)],
                ..Content::default()
            };
            Ok(Body::from_record(&record, Vec::new(), None))
        };
        let held = files.hold(Ino(1), sparse).unwrap();
        assert_eq!(held.look().allocated_bytes, 2 << 20);
        held.body_mut().cut(2 << 20, 1);
        // Somebody saves it, which changes nothing.
        let _saving = held.body_mut();
        let seen = held.look();
        assert_eq!((seen.size, seen.allocated_bytes), (2 << 20, 1 << 20));
    }

    #[test]
    fn closing_a_busy_file_does_not_block_the_open_file_table() {
        let files = Arc::new(Files::default());
        let held = files.hold(Ino(1), || Ok(empty())).unwrap();
        let file = files.peek(Ino(1)).unwrap();
        let body = file.body_mut();
        let (begun, begins) = channel();
        let (ended, ends) = channel();
        let leaver = Arc::clone(&files);
        std::thread::spawn(move || {
            begun.send(()).unwrap();
            leaver.leave(held, |_| ())
        });
        begins.recv().unwrap();
        // Not held against the promise: a leaver who comes later only makes the test easier.
        std::thread::sleep(Duration::from_millis(50));
        let comer = Arc::clone(&files);
        std::thread::spawn(move || {
            comer.forget_past();
            ended.send(()).unwrap();
        });
        ends.recv_timeout(Duration::from_secs(120))
            .expect("the table is locked by who waits for the file");
        drop(body);
    }
}
