//! The user's calls on the bytes of files.

use std::sync::Arc;

use super::{Handle, History, LONGEST, MOST_BYTES, O_TRUNC};
use crate::clock::Clock;
use crate::fs::SetAttr;
use crate::fs::tests::crash::content::Change;
use crate::fs::tests::crash::model::Act;
use crate::fs::tests::crash::text::pattern;
use crate::fs::tests::crash::world::World;
use crate::fs::tests::rig::READ_WRITE;
use crate::types::{Fh, Ino};

/// `FALLOC_FL_PUNCH_HOLE` with `FALLOC_FL_KEEP_SIZE`, and `FALLOC_FL_ZERO_RANGE`, of fallocate(2).
const PUNCH: i32 = 0x03;
const ZERO_RANGE: i32 = 0x10;

impl History<'_> {
    pub(super) fn write(&mut self) {
        let count = self.handles.len() as u64;
        if count == 0 {
            return self.open();
        }
        let number = self.dice.below(count) as usize;
        let Handle { ino, fh, append } = self.handles[number];
        self.write_at(ino, fh, append);
        // Not for too long without, as most programs do.
        if self.dice.below(4) == 0 {
            self.sync_ino(ino);
        }
    }

    pub(super) fn write_at(&mut self, ino: u64, fh: Fh, append: bool) {
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
        let all: u64 = self.model.files.values().map(|file| file.len()).sum();
        if offset + len > LONGEST || all + len > MOST_BYTES {
            return;
        }
        let text = self.fresh();
        let data: Arc<[u8]> = pattern(text, offset, len as usize).into();
        let change = Change::Write(offset, Arc::clone(&data));
        self.call(Act::Bytes(ino, change), |world| {
            let told = if append { 0 } else { offset };
            let written = world.drive.write(Ino(ino), fh, told, &data, false);
            assert_eq!(written.expect("write"), len as u32);
        });
    }

    pub(super) fn resize(&mut self) {
        let Some((_, ino)) = self.pick_file() else {
            return;
        };
        let len = self.model.files[&ino].len();
        let to = match self.dice.below(4) {
            0 => (len + self.dice.below(300_000)).min(LONGEST),
            _ => 1 + self.dice.below(len),
        };
        self.call(Act::Bytes(ino, Change::Resize(to)), |world| {
            set_len(world, ino, to)
        });
        if self.dice.below(2) == 0 {
            self.open_and_write(ino);
        }
    }

    pub(super) fn open_and_write(&mut self, ino: u64) {
        let opened = self.world.drive.open(Ino(ino), READ_WRITE).expect("open");
        self.keep_handle(ino, opened.fh, false);
        self.write_at(ino, opened.fh, false);
    }

    /// Empties a file and writes it anew; sometimes much is done before that is over.
    pub(super) fn rewrite(&mut self) {
        let Some((_, ino)) = self.pick_file() else {
            return;
        };
        while let Some(number) = self.handles.iter().position(|handle| handle.ino == ino) {
            self.close_number(number);
        }
        self.emptied.insert(ino, self.world.clock.boottime());
        if self.dice.below(5) == 0 {
            self.call(Act::Empty(ino), |world| set_len(world, ino, 0));
            return self.call(Act::Closed(ino), |_| ());
        }
        let begun = self.world.power.now();
        let opened = self
            .world
            .drive
            .open(Ino(ino), READ_WRITE | O_TRUNC)
            .expect("open");
        self.noted(begun, Act::Empty(ino));
        if self.attended {
            // Whoever commits waits for so long, by a clock that nobody here moves.
            self.call(Act::Late, |_| ());
        }
        self.handles.push(Handle {
            ino,
            fh: opened.fh,
            append: false,
        });
        for _ in 0..=self.dice.below(2) {
            self.write_at(ino, opened.fh, false);
            if self.attended {
                continue;
            }
            match self.dice.below(5) {
                0 => self.background(),
                1 => self.sync_dir(),
                2 => self.create(),
                _ => {}
            }
        }
        let place = self
            .handles
            .iter()
            .position(|handle| handle.fh == opened.fh);
        if let Some(number) = place.filter(|_| self.attended || self.dice.below(4) > 0) {
            self.close_number(number);
        }
    }

    /// `fallocate`: room taken, a range zeroed, or a hole punched.
    pub(super) fn allocate(&mut self) {
        let Some((_, ino)) = self.pick_file() else {
            return;
        };
        let len = self.model.files[&ino].len();
        let (offset, more) = (self.dice.below(len + 1), 1 + self.dice.below(1_500_000));
        if offset + more > LONGEST {
            return;
        }
        let (mode, change) = match self.dice.below(3) {
            0 => (0, Change::Resize(len.max(offset + more))),
            luck => {
                let mode = if luck == 1 { PUNCH } else { ZERO_RANGE };
                let end = match mode {
                    PUNCH => len.min(offset + more),
                    _ => offset + more,
                };
                if end <= offset {
                    return;
                }
                let zeros = vec![0; (end - offset) as usize];
                (mode, Change::Write(offset, zeros.into()))
            }
        };
        let opened = self.world.drive.open(Ino(ino), READ_WRITE).expect("open");
        self.call(Act::Bytes(ino, change), |world| {
            let drive = &world.drive;
            let done = drive.fallocate(Ino(ino), opened.fh, offset, more, mode, false);
            done.expect("fallocate");
        });
        self.keep_handle(ino, opened.fh, false);
    }

    /// `copy_file_range` between two files, often of all of the first.
    pub(super) fn copy(&mut self) {
        let (Some((_, from)), Some((_, to))) = (self.pick_file(), self.pick_file()) else {
            return;
        };
        let len = self.model.files[&from].len();
        if from == to || len == 0 {
            return;
        }
        let (offset, place) = match self.dice.below(3) {
            0 => (self.dice.below(len), self.dice.below(100_000)),
            _ => (0, 0),
        };
        let drive = &self.world.drive;
        let source = drive.open(Ino(from), 0).expect("open").fh;
        let target = drive.open(Ino(to), READ_WRITE).expect("open").fh;
        let begun = self.world.power.now();
        let copied = drive.copy_file_range((source, offset), (target, place), len - offset, false);
        // What is not here is read and written by the caller.
        if let Ok(copied) = copied {
            let end = (offset + u64::from(copied)) as usize;
            let data = self.model.files[&from].bytes()[offset as usize..end].into();
            self.noted(begun, Act::Bytes(to, Change::Write(place, data)));
        }
        drive.release(Ino(from), source);
        self.keep_handle(to, target, false);
    }
}

fn set_len(world: &World, ino: u64, len: u64) {
    let set = SetAttr {
        size: Some(len),
        ..SetAttr::default()
    };
    world.drive.setattr(Ino(ino), None, &set).expect("truncate");
}
