//! The write-ahead log: what an `fsync` makes durable before the table has it, appended in one piece.
//!
//! A frame holds the records that were put since the frame before it. Two files take turns: each durable
//! commit of the table begins a generation of frames, in the file that the generation before it does not
//! use, and names the first frame that it does not hold itself ([`Since`]). So whoever calls `fsync` while
//! the table is being written waits for a block or two, and what is read at a start is what the last
//! commit of the table has not.
//!
//! Invariant: a frame is begun when all frames before it are durable. So a crash leaves a prefix of them
//! and at most one that is torn, and a frame that is missing before another was changed on the disk: that is
//! told, and nothing is used. A frame counts for its generation and its place alone, so what an older one
//! left in the file is never taken for one; nor is what a user wrote, since nobody knows the journal's salt.
//! After a crash the log is begun anew, with a new generation, before anything is appended: what is torn stays
//! behind. A whole frame that the table cannot know of says that one of the two was put back from a copy: that is
//! told too. What cannot be told is a last frame that was changed on the disk from one that is torn: either is
//! reported, and not used ([`Wal::unused`]). Nor is an older log that was put back. Called by [`super::Journal`].
//!
//! ```text
//! offset  bytes  field, big-endian; a frame begins at a multiple of 4,096 bytes
//! 0       8      XXH64 of all behind it (seed: the journal's salt, and where in the file it begins, added)
//! 8       8      generation
//! 16      8      number, without a gap over all generations
//! 24      8      what was drawn when the log was begun anew
//! 32      8      generation of the newest commit of the table before it, without which it is not complete
//! 40      4      length of the records in bytes
//! 44      n      the records, in the order they were put: length of the key (2 bytes), length of the value
//!                (4 bytes; 2³² - 1: the record is removed), key, value
//! ```

use std::cell::Cell;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::{Buf, Bytes};
use minicbor::{CborLen, Decode, Encode};
use twox_hash::XxHash64;

use super::file::Place;
use super::key::{self, Key};
use super::salvage::Doubts;
use super::sums::BLOCK;
use super::{Barrier, DiskFile, JournalError};

/// Bytes of a frame before its records.
const HEAD: usize = 44;

/// Stands for the length of a value that is removed.
const REMOVED: u32 = u32::MAX;

/// By how many bytes a file grows at a time, at most: blocks that are there already are synced in half the
/// time, since the file system has nothing of its own to write.
const GROWTH: u64 = 1 << 20;

/// The same at first.
const FIRST_GROWTH: u64 = 4 * BLOCK;

/// A record that is put, or removed.
pub(super) type Put = (Key, Option<Bytes>);

/// The first frame that a commit of the table does not hold, and what begins with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode, CborLen)]
#[cbor(array)]
pub(super) struct Since {
    /// Its generation.
    #[n(0)]
    pub(super) generation: u64,
    /// Its number.
    #[n(1)]
    pub(super) frame: u64,
    /// What the sums of all frames of this journal begin with.
    #[n(2)]
    pub(super) salt: u64,
    /// What its frames carry, and those of no generation before the log was begun anew.
    #[n(3)]
    pub(super) draw: u64,
}

impl Since {
    /// The first of all, of a new journal.
    pub(super) fn first() -> io::Result<Self> {
        Ok(Self {
            generation: 0,
            frame: 0,
            salt: draw()?,
            draw: draw()?,
        })
    }

    /// The frame that comes, where the newest commit of the table began generation `base`.
    pub(super) fn head(self, base: u64) -> Head {
        Head {
            generation: self.generation,
            number: self.frame,
            draw: self.draw,
            base,
        }
    }

    /// Whether no crash leaves that frame beside a table that says this.
    fn excludes(self, head: Head) -> bool {
        head.base > self.generation
            || (head.generation >= self.generation && head.draw != self.draw)
    }

    /// Frame `frame` as the first of a log that is begun anew, behind all generations that the files may hold.
    pub(super) fn anew(self, frame: u64) -> io::Result<Self> {
        Ok(Self {
            generation: self.generation + 2,
            frame,
            salt: self.salt,
            draw: draw()?,
        })
    }
}

fn draw() -> io::Result<u64> {
    getrandom::u64().map_err(|error| io::Error::other(error.to_string()))
}

/// The log of one journal.
pub(super) struct Wal {
    place: Place,
    salt: u64,
    names: [String; 2],
    files: [Arc<dyn DiskFile>; 2],
    end: Mutex<End>,
    /// Where the last frame lies, if it was found and is not whole.
    unused: Option<String>,
    /// The newest generation, and its bytes.
    newest: AtomicU64,
    bytes: AtomicU64,
}

/// Which frame it is.
#[derive(Clone, Copy)]
pub(super) struct Head {
    generation: u64,
    number: u64,
    draw: u64,
    base: u64,
}

impl Head {
    /// Whether this is left of frame `number` of `generation`, of the log that was begun with `draw`, though one of its fields
    /// may have changed: no older frame has two of them.
    fn is_remnant_of(self, draw: u64, generation: u64, number: u64) -> bool {
        let same = [
            self.generation == generation,
            self.number == number,
            self.draw == draw,
        ];
        same.iter().filter(|same| **same).count() >= 2
    }
}

/// What is found where a frame may begin.
enum Found<'a> {
    /// A whole one, and its records.
    Frame(Head, &'a [u8]),
    /// None, but what would be its head.
    Other(Head),
}

/// Where the next frame goes.
struct End {
    generation: u64,
    offset: u64,
}

impl Wal {
    /// The files of a journal that is made anew, empty and durable before it has a name.
    pub(super) fn create(place: &Place) -> io::Result<()> {
        for name in place.wal() {
            place.disk.create(&name)?.sync_data()?;
        }
        match place.without.lacks(Barrier::LogName) {
            true => Ok(()),
            false => place.disk.sync_folder(),
        }
    }

    /// The log of a journal whose table says `since`; calls `each` with what was put since then, in order.
    /// Gives the first frame that is not there, too, if any was found. Where `doubts` are taken, frames are damaged
    /// without an error: what can be read of them is put too.
    ///
    /// # Errors
    /// [`JournalError::Corrupt`] where a frame is missing before another; the files cannot be read.
    pub(super) fn open(
        place: &Place,
        since: Since,
        mut doubts: Option<&mut Doubts>,
        mut each: impl FnMut(Put),
    ) -> Result<(Self, Option<u64>), JournalError> {
        let open = |name: String| match place.disk.open(&name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(JournalError::Corrupt(
                format!("{} is missing", place.called(&name)),
            )),
            other => Ok(other?),
        };
        let [even, odd] = place.wal().map(open);
        let mut wal = Self {
            place: place.clone(),
            salt: since.salt,
            names: place.wal(),
            files: [even?, odd?],
            end: Mutex::new(End {
                generation: since.generation,
                offset: 0,
            }),
            unused: None,
            newest: AtomicU64::new(since.generation),
            bytes: AtomicU64::new(0),
        };
        let (next, mut found, mut unused) = (Cell::new(since.frame), false, None);
        for generation in [since.generation, since.generation + 1] {
            wal.refuse_foreign(generation, since)?;
            wal.frames(generation, since, |offset, frame| {
                let (head, records) = match frame {
                    Found::Frame(head, records) => (head, records),
                    Found::Other(head)
                        if !head.is_remnant_of(since.draw, generation, next.get()) =>
                    {
                        return Ok(());
                    }
                    Found::Other(_) => {
                        unused = Some((generation, offset));
                        if let Some(doubts) = &mut doubts {
                            doubts.places.push(wal.place(generation, offset));
                            wal.read_damaged(generation, offset, doubts, &mut each)?;
                            next.set(next.get() + 1);
                        }
                        return Ok(());
                    }
                };
                found = true;
                if since.excludes(head) {
                    return Err(wal.foreign(generation));
                }
                match (head.number.cmp(&next.get()), &mut doubts) {
                    // The table has it.
                    (std::cmp::Ordering::Less, _) => return Ok(()),
                    (std::cmp::Ordering::Equal, _) => {}
                    (std::cmp::Ordering::Greater, None) => {
                        return Err(wal.damaged(generation, next.get()));
                    }
                    // Nothing is left of those before it.
                    (std::cmp::Ordering::Greater, Some(doubts)) => {
                        doubts.places.push(wal.place(generation, offset));
                        doubts.everything = true;
                    }
                }
                next.set(head.number + 1);
                decode(records, &mut each)
            })?;
        }
        wal.unused = unused.map(|(generation, offset)| wal.place(generation, offset));
        if let Some(place) = &wal.unused {
            tracing::warn!(
                "{place}: the last entry of the log is not whole and was not used: a crash cut it off, or it \
                 changed on the disk; what was synced last may be missing"
            );
        }
        Ok((wal, found.then_some(next.get())))
    }

    /// Where the frame lies that a start found last and did not use, because it is not whole.
    pub(super) fn unused(&self) -> Option<&str> {
        self.unused.as_deref()
    }

    /// Appends `records` as the frame `head`. Durable on return. Waits for room until `deadline`, where there is
    /// one.
    ///
    /// # Errors
    /// [`JournalError::NoRoom`], after which the same frame, and no other, may be appended again; all others are
    /// final: what the file holds is not known then.
    pub(super) fn append(
        &self,
        head: Head,
        records: &[Put],
        deadline: Option<Instant>,
    ) -> Result<(), JournalError> {
        let generation = head.generation;
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        if end.generation != generation {
            *end = End {
                generation,
                offset: 0,
            };
        }
        let frame = encode(head, records, self.seed(end.offset))?;
        let behind = end.offset + frame.len() as u64;
        let file = self.file(generation);
        self.write(file.as_ref(), &frame, end.offset, deadline)?;
        if !self.place.without.lacks(Barrier::LogBytes) {
            // After a failed sync nobody knows what of it is on the disk, whatever the error was.
            file.sync_data().map_err(last)?;
        }
        end.offset = behind;
        if self.newest.load(Ordering::Acquire) == generation {
            self.bytes.store(behind, Ordering::Relaxed);
        }
        Ok(())
    }

    fn write(
        &self,
        file: &dyn DiskFile,
        frame: &[u8],
        offset: u64,
        deadline: Option<Instant>,
    ) -> Result<(), JournalError> {
        let write = |bytes: &[u8], at| {
            let written = self.place.patiently(deadline, || file.write_at(bytes, at));
            written.map_err(|error| match JournalError::from(error) {
                JournalError::NoRoom => JournalError::NoRoom,
                other => JournalError::Disk(other.to_string()),
            })
        };
        let len = file.len().map_err(last)?;
        let behind = offset + frame.len() as u64;
        if behind > len {
            let grown = len.clamp(FIRST_GROWTH, GROWTH);
            write(&vec![0; grown as usize], behind)?;
        }
        write(frame, offset)
    }

    /// Bytes of the newest generation: what a start would read.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// As if the newest generation had so many bytes.
    #[cfg(test)]
    pub(super) fn set_bytes(&self, bytes: u64) {
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    /// The frames that come are of `generation`.
    pub(super) fn turn(&self, generation: u64) {
        self.newest.store(generation, Ordering::Release);
        self.bytes.store(0, Ordering::Relaxed);
    }

    fn file(&self, generation: u64) -> &Arc<dyn DiskFile> {
        let [even, odd] = &self.files;
        if generation.is_multiple_of(2) {
            even
        } else {
            odd
        }
    }

    /// Calls `each` with where it lies and each whole frame of `generation` since the log was begun anew, in order;
    /// and with what stands in the place of a frame's head where there is none.
    fn frames(
        &self,
        generation: u64,
        since: Since,
        mut each: impl FnMut(u64, Found<'_>) -> Result<(), JournalError>,
    ) -> Result<(), JournalError> {
        let file = self.file(generation);
        let len = file.len()?;
        let mut offset = 0;
        while offset + BLOCK <= len {
            let is_of = |head: Head| head.generation == generation && head.draw == since.draw;
            offset += match self.frame(file.as_ref(), offset, len, is_of)? {
                None => {
                    let (head, _) = self.head(file.as_ref(), offset)?;
                    each(offset, Found::Other(head))?;
                    BLOCK
                }
                Some((head, records)) => {
                    each(offset, Found::Frame(head, &records))?;
                    padded(HEAD + records.len()) as u64
                }
            };
        }
        Ok(())
    }

    /// The frame at `offset` of `file`, which has `len` bytes, and its records, if a whole one is there that is
    /// wanted.
    fn frame(
        &self,
        file: &dyn DiskFile,
        offset: u64,
        len: u64,
        is_wanted: impl Fn(Head) -> bool,
    ) -> io::Result<Option<(Head, Bytes)>> {
        let (head, size) = self.head(file, offset)?;
        if !is_wanted(head) || offset + HEAD as u64 + u64::from(size) > len {
            return Ok(None);
        }
        let mut frame = vec![0; HEAD + size as usize];
        file.read_at(&mut frame, offset)?;
        let is_whole = frame
            .split_first_chunk()
            .is_some_and(|(found, rest)| *found == sum(self.seed(offset), rest));
        Ok(is_whole.then(|| (head, Bytes::from(frame).split_off(HEAD))))
    }

    /// Calls `each` with the records of a damaged frame that are records at all, and notes what all of them are about.
    fn read_damaged(
        &self,
        generation: u64,
        offset: u64,
        doubts: &mut Doubts,
        each: &mut impl FnMut(Put),
    ) -> Result<(), JournalError> {
        let file = self.file(generation);
        let (_, size) = self.head(file.as_ref(), offset)?;
        let from = offset + HEAD as u64;
        let there = file.len()?.saturating_sub(from);
        let size = u64::from(size).min(there);
        let filled = (padded(HEAD + size as usize) as u64 - HEAD as u64).min(there);
        let mut records = vec![0; filled as usize];
        file.read_at(&mut records, from)?;
        let behind = records.split_off(size as usize);
        let read = decode(&records, &mut |(key, value): Put| {
            doubts.note(&key);
            if value
                .as_ref()
                .is_none_or(|value| key::may_hold(&key, value))
            {
                each((key, value));
            }
        });
        // Else there are records of nobody knows what.
        let are_all = read.is_ok() && size > 0 && behind.iter().all(|byte| *byte == 0);
        doubts.everything |= !are_all;
        Ok(())
    }

    fn place(&self, generation: u64, offset: u64) -> String {
        let called = self.place.called(self.name(generation));
        format!("{called}, byte {offset}")
    }

    /// What a frame at `offset` of `file` would begin with, and the length of its records.
    fn head(&self, file: &dyn DiskFile, offset: u64) -> io::Result<(Head, u32)> {
        let mut head = [0; HEAD];
        file.read_at(&mut head, offset)?;
        let mut fields = head.get(8..).unwrap_or_default();
        let head = Head {
            generation: fields.get_u64(),
            number: fields.get_u64(),
            draw: fields.get_u64(),
            base: fields.get_u64(),
        };
        Ok((head, fields.get_u32()))
    }

    /// Refuses the file of `generation` where it begins with a frame that is not of the same journal and time.
    fn refuse_foreign(&self, generation: u64, since: Since) -> Result<(), JournalError> {
        let file = self.file(generation);
        let len = file.len()?;
        let is_foreign = |head| since.excludes(head);
        match len >= BLOCK && self.frame(file.as_ref(), 0, len, is_foreign)?.is_some() {
            true => Err(self.foreign(generation)),
            false => Ok(()),
        }
    }

    fn foreign(&self, generation: u64) -> JournalError {
        JournalError::Corrupt(format!(
            "{} and {} are not of one moment: one was put back without the other",
            self.place.called(&self.place.name),
            self.place.called(self.name(generation)),
        ))
    }

    fn seed(&self, offset: u64) -> u64 {
        self.salt.wrapping_add(offset)
    }

    fn name(&self, generation: u64) -> &str {
        let [even, odd] = &self.names;
        if generation.is_multiple_of(2) {
            even
        } else {
            odd
        }
    }

    fn damaged(&self, generation: u64, number: u64) -> JournalError {
        let called = self.place.called(self.name(generation));
        JournalError::Corrupt(format!(
            "{called}: frame {number} was changed on the disk: put the file back from a copy; without one \
             `pxfs detach TOKEN --save DIR` gets out what can be got out; then move the folder of the local state \
             away and mount again: what was published is there, what was not is in that folder alone"
        ))
    }
}

fn last(error: io::Error) -> JournalError {
    JournalError::Disk(error.to_string())
}

/// Length of a frame of `len` bytes with what fills its last block.
fn padded(len: usize) -> usize {
    len.next_multiple_of(BLOCK as usize)
}

fn encode(head: Head, records: &[Put], seed: u64) -> Result<Vec<u8>, JournalError> {
    let too_long = |_| JournalError::TooLarge;
    let size: usize = records
        .iter()
        .map(|(key, value)| 6 + key.len() + value.as_ref().map_or(0, Bytes::len))
        .sum();
    let mut frame = Vec::with_capacity(padded(HEAD + size));
    frame.extend_from_slice(&[0; 8]);
    for field in [head.generation, head.number, head.draw, head.base] {
        frame.extend_from_slice(&field.to_be_bytes());
    }
    frame.extend_from_slice(&u32::try_from(size).map_err(too_long)?.to_be_bytes());
    for (key, value) in records {
        let key_len = u16::try_from(key.len()).map_err(too_long)?;
        let value_len = match value {
            Some(value) => u32::try_from(value.len()).map_err(too_long)?,
            None => REMOVED,
        };
        frame.extend_from_slice(&key_len.to_be_bytes());
        frame.extend_from_slice(&value_len.to_be_bytes());
        frame.extend_from_slice(key);
        frame.extend_from_slice(value.as_deref().unwrap_or_default());
    }
    let sum = sum(seed, frame.get(8..).unwrap_or_default());
    if let Some(head) = frame.first_chunk_mut() {
        *head = sum;
    }
    frame.resize(padded(frame.len()), 0);
    Ok(frame)
}

fn sum(seed: u64, bytes: &[u8]) -> [u8; 8] {
    XxHash64::oneshot(seed, bytes).to_be_bytes()
}

/// Calls `each` with the records of a frame.
fn decode(mut records: &[u8], each: &mut impl FnMut(Put)) -> Result<(), JournalError> {
    let odd = || JournalError::Corrupt("a frame of the log has no records".to_owned());
    while records.has_remaining() {
        let key_len = records.try_get_u16().map_err(|_| odd())?;
        let value_len = records.try_get_u32().map_err(|_| odd())?;
        let (key, rest) = records
            .split_at_checked(usize::from(key_len))
            .ok_or_else(odd)?;
        let value_len = (value_len != REMOVED).then_some(value_len as usize);
        let (value, rest) = rest
            .split_at_checked(value_len.unwrap_or(0))
            .ok_or_else(odd)?;
        records = rest;
        each((
            key.to_vec(),
            value_len.map(|_| Bytes::copy_from_slice(value)),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_has_the_bytes_that_are_documented() {
        let records = [
            (key::meta("a"), Some(Bytes::from_static(b"value"))),
            (key::meta("b"), None),
        ];
        let head = Head {
            generation: 3,
            number: 7,
            draw: 9,
            base: 2,
        };
        let frame = encode(head, &records, 4096).unwrap();
        assert_eq!(frame.len(), 4096);
        assert_eq!(frame[8..16], 3_u64.to_be_bytes());
        assert_eq!(frame[16..24], 7_u64.to_be_bytes());
        assert_eq!(frame[24..32], 9_u64.to_be_bytes());
        assert_eq!(frame[32..40], 2_u64.to_be_bytes());
        assert_eq!(frame[40..44], 21_u32.to_be_bytes());
        assert_eq!(frame[44..50], [0, 2, 0, 0, 0, 5]);
        assert_eq!(frame[50..57], *b"\x0bavalue");
        assert_eq!(frame[57..63], [0, 2, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(frame[63..65], *b"\x0bb");
        assert_eq!(frame[65..], [0; 4096 - 65]);
        let sum = XxHash64::oneshot(4096, &frame[8..65]);
        assert_eq!(frame[..8], sum.to_be_bytes());
        let mut back = Vec::new();
        decode(&frame[44..65], &mut |put| back.push(put)).unwrap();
        assert_eq!(back, records);
        for end in 45..65 {
            let cut = decode(&frame[44..end], &mut |_| ());
            assert!(cut.is_err() || end == 57, "{end}");
        }
    }
}
