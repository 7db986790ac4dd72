//! The user's calls on the bytes of files.

use std::sync::Arc;
use std::time::Instant;

use super::{Done, Handle, History, LONGEST, MOST_BYTES, O_TRUNC};
use crate::clock::Clock;
use crate::fs::tests::crash::content::{Change, Times};
use crate::fs::tests::crash::model::Act;
use crate::fs::tests::crash::text::pattern;
use crate::fs::tests::crash::world::World;
use crate::fs::tests::rig::READ_WRITE;
use crate::fs::{Attr, FsError, SetAttr};
use crate::types::{Fh, Ino};

/// `FALLOC_FL_PUNCH_HOLE` with `FALLOC_FL_KEEP_SIZE`, and `FALLOC_FL_ZERO_RANGE`, of fallocate(2).
const PUNCH: i32 = 0x03;
const ZERO_RANGE: i32 = 0x10;
const KEEP_SIZE: i32 = 0x01;

/// The unit in which the kernel writes a mapping back.
const PAGE: u64 = 4096;

impl History<'_> {
    pub(super) fn write(&mut self) -> Done {
        let count = self.handles.len() as u64;
        if count == 0 {
            return self.open();
        }
        let number = self.dice.below(count) as usize;
        let Handle { ino, fh, append } = self.handles[number];
        self.write_at(ino, fh, append)?;
        // Not for too long without, as most programs do.
        match self.dice.below(4) {
            0 => self.sync_ino(ino),
            _ => Ok(()),
        }
    }

    /// Bytes of all files that are there: under a name, or open.
    fn bytes_there(&self) -> u64 {
        let is_open = |ino: &u64| self.handles.iter().any(|handle| handle.ino == *ino);
        let nodes = &self.model.tree.nodes;
        let files = self.model.files.iter();
        let there = files.filter(|(ino, _)| nodes.contains_key(ino) || is_open(ino));
        there.map(|(_, file)| file.len()).sum()
    }

    /// Makes a call that changes the bytes of a file, as `change` says of its answer.
    fn change<T>(
        &mut self,
        ino: u64,
        expected: Change,
        call: impl FnOnce(&World) -> Done<T>,
        change: impl FnOnce(&T) -> Change,
    ) -> Done<bool> {
        let now = Times::at(self.world.clock.wall_ns());
        let told = |world: &World| {
            let answer = call(world)?;
            let Attr {
                mtime_ns, ctime_ns, ..
            } = world.drive.getattr(Ino(ino))?;
            Ok((answer, Times { mtime_ns, ctime_ns }))
        };
        let act = Act::Bytes(ino, expected, now);
        let done = self.doing(Some(act), told, |_, (answer, times)| {
            Some(Act::Bytes(ino, change(answer), *times))
        })?;
        Ok(done.is_some())
    }

    pub(super) fn write_at(&mut self, ino: u64, fh: Fh, append: bool) -> Done {
        let len = 1 + match self.dice.below(24) {
            0..13 => self.dice.below(6_000),
            13..18 => self.dice.below(66_000),
            18..22 => self.dice.below(200_000),
            _ => self.dice.below(1_200_000),
        };
        let end = self.model.files[&ino].len();
        let offset = match self.dice.below(16) {
            _ if append => end,
            0..6 => end,
            6 => end + self.dice.below(400_000),
            7 => (1 << 20) - self.dice.below(5_000),
            _ => self.dice.below(end + 1),
        };
        if offset + len > LONGEST || self.bytes_there() + len > MOST_BYTES {
            return Ok(());
        }
        let text = self.fresh();
        let of = |offset: u64, len: u64| pattern(text, offset, len as usize);
        if self.dice.below(8) == 0 && end > 0 && !self.world.is_tight && !self.world.is_shared {
            // The kernel writes back pages of a mapping: up to the end, where that comes before.
            let page = offset.min(end - 1) / PAGE * PAGE;
            let data: Arc<[u8]> = of(page, len.min(end - page)).into();
            let change = Change::Write(page, Arc::clone(&data));
            let write = |world: &World| world.drive.write_mapped(Ino(ino), fh, page, &data);
            self.change(ino, change.clone(), write, |_| change)?;
            return Ok(());
        }
        let data: Arc<[u8]> = of(offset, len).into();
        let write = |world: &World| world.drive.write(Ino(ino), fh, offset, &data, false);
        let expected = Change::Write(offset, Arc::clone(&data));
        self.change(ino, expected, write, |written| {
            Change::Write(offset, data[..*written as usize].into())
        })?;
        Ok(())
    }

    pub(super) fn resize(&mut self) -> Done {
        let Some((_, ino)) = self.pick_file() else {
            return Ok(());
        };
        let len = self.model.files[&ino].len();
        let to = match self.dice.below(4) {
            0 => (len + self.dice.below(300_000)).min(LONGEST),
            _ => 1 + self.dice.below(len),
        };
        let change = Change::Resize(to);
        self.change(
            ino,
            change.clone(),
            |world| set_len(world, ino, to),
            |()| change,
        )?;
        match self.dice.below(2) {
            0 => self.open_and_write(ino),
            _ => Ok(()),
        }
    }

    pub(super) fn open_and_write(&mut self, ino: u64) -> Done {
        let opened = self.world.drive.open(Ino(ino), READ_WRITE)?;
        self.keep_handle(ino, opened.fh, false)?;
        self.write_at(ino, opened.fh, false)
    }

    /// Empties a file and writes it anew; sometimes much is done before that is over.
    pub(super) fn rewrite(&mut self) -> Done {
        let Some((_, ino)) = self.pick_file() else {
            return Ok(());
        };
        while let Some(number) = self.handles.iter().position(|handle| handle.ino == ino) {
            self.close_number(number)?;
        }
        self.emptied.insert(ino, self.world.clock.boottime());
        let now_ns = self.world.clock.wall_ns();
        let emptied = Act::Empty(ino, now_ns, false);
        if self.dice.below(5) == 0 {
            // Nobody has it open, so nobody writes it anew: it may be saved as it is from this call on.
            let over = Act::Empty(ino, now_ns, true);
            if !self.call(over, |world| set_len(world, ino, 0))? {
                return Ok(());
            }
            self.call(Act::Closed(ino), |_| Ok(()))?;
            return Ok(());
        }
        let begun = Instant::now();
        let open = |world: &World| world.drive.open(Ino(ino), READ_WRITE | O_TRUNC);
        let did = emptied.clone();
        let opened = self.doing(Some(emptied), open, |_, _| Some(did))?;
        let Some(opened) = opened else {
            return Ok(());
        };
        self.rewriting.insert(ino, (self.last, now_ns, begun));
        self.handles.push(Handle {
            ino,
            fh: opened.fh,
            append: false,
        });
        for _ in 0..=self.dice.below(2) {
            self.write_at(ino, opened.fh, false)?;
            if self.attended {
                continue;
            }
            match self.dice.below(5) {
                0 => self.background()?,
                1 => self.sync_dir()?,
                2 => self.create()?,
                _ => {}
            }
        }
        let place = self
            .handles
            .iter()
            .position(|handle| handle.fh == opened.fh);
        if let Some(number) = place.filter(|_| self.attended || self.dice.below(4) > 0) {
            self.close_number(number)?;
        }
        Ok(())
    }

    /// `fallocate`: room taken, a range zeroed, or a hole punched.
    pub(super) fn allocate(&mut self) -> Done {
        let Some((_, ino)) = self.pick_file() else {
            return Ok(());
        };
        let len = self.model.files[&ino].len();
        let (offset, more) = (self.dice.below(len + 1), 1 + self.dice.below(1_500_000));
        if offset + more > LONGEST {
            return Ok(());
        }
        let (mode, change) = match self.dice.below(4) {
            0 => (0, Change::Resize(len.max(offset + more))),
            // What is there stays.
            1 if offset + more <= len => (KEEP_SIZE, Change::Write(0, Arc::new([]))),
            1 => return Ok(()),
            luck => {
                let mode = if luck == 2 { PUNCH } else { ZERO_RANGE };
                let end = match mode {
                    PUNCH => len.min(offset + more),
                    _ => offset + more,
                };
                if end <= offset {
                    return Ok(());
                }
                let zeros = vec![0; (end - offset) as usize];
                (mode, Change::Write(offset, zeros.into()))
            }
        };
        let opened = self.world.drive.open(Ino(ino), READ_WRITE)?;
        let allocate = |world: &World| {
            let drive = &world.drive;
            drive.fallocate(Ino(ino), opened.fh, offset, more, mode, false)
        };
        self.change(ino, change.clone(), allocate, |()| change)?;
        self.keep_handle(ino, opened.fh, false)
    }

    /// `copy_file_range` between two files, often of all of the first.
    pub(super) fn copy(&mut self) -> Done {
        let (Some((_, from)), Some((_, to))) = (self.pick_file(), self.pick_file()) else {
            return Ok(());
        };
        let len = self.model.files[&from].len();
        if from == to || len == 0 {
            return Ok(());
        }
        let (offset, place) = match self.dice.below(3) {
            0 => (self.dice.below(len), self.dice.below(100_000)),
            _ => (0, 0),
        };
        let drive = &self.world.drive;
        let source = drive.open(Ino(from), 0)?.fh;
        let target = drive.open(Ino(to), READ_WRITE)?.fh;
        let bytes = self.model.files[&from].bytes();
        let data = |copied: u32| bytes[offset as usize..offset as usize + copied as usize].into();
        let copy = |world: &World| {
            let drive = &world.drive;
            match drive.copy_file_range((source, offset), (target, place), len - offset, false) {
                // What is not here is read and written by the caller.
                Err(FsError::NotSupported | FsError::NotLocal(_)) => Ok(0),
                copied => copied,
            }
        };
        let expected = Change::Write(place, bytes[offset as usize..].into());
        self.change(to, expected, copy, |copied| {
            Change::Write(place, data(*copied))
        })?;
        self.world.drive.release(Ino(from), source);
        self.keep_handle(to, target, false)
    }
}

fn set_len(world: &World, ino: u64, len: u64) -> Done {
    let set = SetAttr {
        size: Some(len),
        ..SetAttr::default()
    };
    world.drive.setattr(Ino(ino), None, &set).map(drop)
}
