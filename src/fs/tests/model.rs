//! Random operations on a few files, with commits and restarts between them, against byte vectors.

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;

use super::rig::{READ_WRITE, Rig};
use crate::fs::{Changes, Cut, FsError, Kind, SetAttr};
use crate::pack::charge;
use crate::pack::chunk::CHUNK_SIZE;
use crate::types::Ino;

#[derive(Clone, Debug)]
enum Step {
    Write(u8, u64, u32, u8),
    Append(u8, u32, u8),
    Resize(u8, u64),
    /// `mode` as fallocate(2).
    Allocate(u8, u64, u64, i32),
    /// From one file to another or to itself, from here to there.
    Copy(u8, u8, u64, u64, u64),
    Remove(u8),
    Rename(u8, u8),
    Save(u8),
    Restart,
    Cut,
    Settle,
    GiveUp,
}

/// Offsets near what matters: the start, the inline border, chunk borders.
fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..200_u64,
        65_000..66_000_u64,
        (0..4_u64, -300..300_i64).prop_map(|(c, d)| (c * CHUNK_SIZE).saturating_add_signed(d)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let file = 0..3_u8;
    prop_oneof![
        6 => (file.clone(), offset(), 1..3000_u32, 1..255_u8).prop_map(|(f, o, l, b)| Step::Write(f, o, l, b)),
        2 => (file.clone(), 1..80_000_u32, 1..255_u8).prop_map(|(f, l, b)| Step::Append(f, l, b)),
        3 => (file.clone(), offset()).prop_map(|(f, s)| Step::Resize(f, s)),
        1 => (file.clone(), Just(0)).prop_map(|(f, s)| Step::Resize(f, s)),
        1 => (file.clone(), offset(), 1..2_000_000_u64).prop_map(|(f, o, l)| Step::Allocate(f, o, l, 0)),
        3 => (file.clone(), offset(), 1..3_000_000_u64, prop::sample::select(vec![1, 3, 16, 17])).prop_map(|(f, o, l, m)| Step::Allocate(f, o, l, m)),
        2 => (file.clone(), file.clone(), offset(), offset(), 1..3_000_000_u64).prop_map(|(a, b, o, t, l)| Step::Copy(a, b, o, t, l)),
        4 => (file.clone(), file.clone(), 0..3_u64, 1..5_u64).prop_map(|(a, b, o, l)| Step::Copy(a, b, o * CHUNK_SIZE, o * CHUNK_SIZE, l * CHUNK_SIZE)),
        1 => file.clone().prop_map(Step::Remove),
        1 => (file.clone(), file.clone()).prop_map(|(a, b)| Step::Rename(a, b)),
        1 => file.prop_map(Step::Save),
        1 => Just(Step::Restart),
        2 => Just(Step::Cut),
        2 => Just(Step::Settle),
        1 => Just(Step::GiveUp),
    ]
}

struct Run {
    rig: Rig,
    model: BTreeMap<String, Vec<u8>>,
    cut: Option<Taken>,
}

/// A cut, what it changes, the files as they were then, and their names.
type Taken = (
    Cut,
    Changes,
    BTreeMap<String, Vec<u8>>,
    HashMap<Ino, String>,
);

fn name(file: u8) -> String {
    format!("f{file}")
}

impl Run {
    fn take(&mut self, step: Step) {
        match step {
            Step::Write(file, offset, len, byte) => {
                self.write(&name(file), offset, &vec![byte; len as usize])
            }
            Step::Append(file, len, byte) => {
                let end = self.model.get(&name(file)).map_or(0, Vec::len) as u64;
                self.write(&name(file), end, &vec![byte; len as usize]);
            }
            Step::Resize(file, size) => {
                if let Some(bytes) = self.model.get_mut(&name(file)) {
                    bytes.resize(size as usize, 0);
                    let set = SetAttr {
                        size: Some(size),
                        ..SetAttr::default()
                    };
                    self.rig
                        .drive
                        .setattr(self.rig.ino(&name(file)), None, &set)
                        .unwrap();
                }
            }
            Step::Allocate(file, offset, len, mode) => {
                if let Some(bytes) = self.model.get_mut(&name(file)) {
                    let (keeps_size, zeroes) = (mode & 1 != 0, mode & 18 != 0);
                    if !keeps_size {
                        bytes.resize(bytes.len().max((offset + len) as usize), 0);
                    }
                    if zeroes {
                        let end = bytes.len().min((offset + len) as usize);
                        let part = bytes.get_mut(offset as usize..end);
                        part.unwrap_or_default().fill(0);
                    }
                    let ino = self.rig.ino(&name(file));
                    let opened = self.rig.drive.open(ino, READ_WRITE).unwrap();
                    let done = self
                        .rig
                        .drive
                        .fallocate(ino, opened.fh, offset, len, mode, false);
                    assert_eq!(done, Ok(()));
                    self.rig.drive.release(ino, opened.fh);
                }
            }
            Step::Copy(from, to, offset, at, len) => {
                let apart = from != to || offset + len <= at || at + len <= offset;
                if apart && self.model.contains_key(&name(from)) {
                    self.copy(&name(from), &name(to), offset, at, len);
                }
            }
            Step::Remove(file) => {
                if self.model.remove(&name(file)).is_some() {
                    self.rig
                        .drive
                        .unlink(self.rig.root, name(file).as_bytes())
                        .unwrap();
                }
            }
            Step::Rename(from, to) => {
                if from != to && self.model.contains_key(&name(from)) {
                    let bytes = self.model.remove(&name(from)).unwrap();
                    self.model.insert(name(to), bytes);
                    let (root, from, to) = (self.rig.root, name(from), name(to));
                    self.rig
                        .drive
                        .rename(root, from.as_bytes(), root, to.as_bytes(), 0)
                        .unwrap();
                }
            }
            Step::Save(file) => {
                if self.model.contains_key(&name(file)) {
                    self.rig
                        .drive
                        .fsync(self.rig.ino(&name(file)), true)
                        .unwrap();
                }
            }
            Step::Restart => {
                self.cut = None;
                self.rig.drive.sync().unwrap();
                self.rig.reopen();
            }
            Step::Cut => {
                self.cut = None;
                let cut = self.rig.volume.cut().unwrap();
                let changes = cut.changes().unwrap();
                let names = self
                    .model
                    .keys()
                    .map(|n| (Ino(self.rig.ino(n).0 & Ino::MAX.0), n.clone()))
                    .collect();
                self.cut = Some((cut, changes, self.model.clone(), names));
            }
            Step::Settle => {
                if let Some((cut, changes, then, names)) = self.cut.take() {
                    let (built, contents) = self.rig.build(&cut, &changes);
                    for (ino, content) in contents {
                        assert!(
                            content == then[&names[&ino]],
                            "a commit holds another instant"
                        );
                    }
                    cut.settle(&changes, &built).unwrap();
                }
            }
            Step::GiveUp => self.cut = None,
        }
    }

    /// As the kernel and a program do: call after call, and past what cannot be copied so.
    fn copy(&mut self, from: &str, to: &str, mut offset: u64, mut at: u64, len: u64) {
        let all = self.model[from].clone();
        let end = all.len().min((offset + len) as usize);
        if offset as usize >= end {
            return;
        }
        if !self.model.contains_key(to) {
            self.write(to, 0, &[]);
        }
        let data = &all[offset as usize..end];
        let bytes = self.model.get_mut(to).unwrap();
        let to_end = at as usize + data.len();
        bytes.resize(bytes.len().max(to_end), 0);
        bytes[at as usize..to_end].copy_from_slice(data);
        let (from, to) = (self.rig.ino(from), self.rig.ino(to));
        let source = self.rig.drive.open(from, READ_WRITE).unwrap().fh;
        let target = self.rig.drive.open(to, READ_WRITE).unwrap().fh;
        while (offset as usize) < end {
            let left = end as u64 - offset;
            let (a, b) = ((source, offset), (target, at));
            let copied = match self.rig.drive.copy_file_range(a, b, left, false) {
                Ok(copied) => copied,
                Err(error) => {
                    assert_eq!(error, FsError::NotSupported);
                    let bytes = self.rig.read_handle(from, source, offset, left as u32);
                    self.rig.drive.write(to, target, at, &bytes, false).unwrap()
                }
            };
            assert!(copied > 0, "no end");
            offset += u64::from(copied);
            at += u64::from(copied);
        }
        self.rig.drive.release(from, source);
        self.rig.drive.release(to, target);
    }

    fn write(&mut self, name: &str, offset: u64, data: &[u8]) {
        let ino = match self.model.get(name) {
            Some(_) => self.rig.ino(name),
            None => {
                let (attr, opened) = self.rig.create(name);
                self.rig.drive.release(attr.ino, opened.fh);
                attr.ino
            }
        };
        let bytes = self.model.entry(name.to_owned()).or_default();
        let end = offset as usize + data.len();
        bytes.resize(bytes.len().max(end), 0);
        bytes[offset as usize..end].copy_from_slice(data);
        let opened = self.rig.drive.open(ino, READ_WRITE).unwrap();
        let written = self
            .rig
            .drive
            .write(ino, opened.fh, offset, data, false)
            .unwrap();
        assert_eq!(written as usize, data.len());
        self.rig.drive.flush(ino, opened.fh).unwrap();
        self.rig.drive.release(ino, opened.fh);
    }

    fn check(&mut self) {
        let names: Vec<String> = self.model.keys().cloned().collect();
        for name in &names {
            let found = self.rig.read(name);
            assert!(
                found == self.model[name],
                "{name} differs from what was written"
            );
        }
        let mut listed = Vec::new();
        self.rig
            .drive
            .readdir(self.rig.root, 2, false, &mut |item, _| {
                assert_eq!(item.kind, Kind::File);
                listed.push(String::from_utf8(item.name.clone()).unwrap());
                true
            })
            .unwrap();
        listed.sort();
        assert_eq!(listed, names);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn every_byte_reads_back_as_written(steps in prop::collection::vec(step(), 1..40)) {
        let mut run = Run { rig: Rig::new(), model: BTreeMap::new(), cut: None };
        for step in steps {
            run.take(step);
        }
        run.check();
        // Removing everything gives every byte of the quota back.
        run.cut = None;
        run.take(Step::Restart);
        run.check();
        let used = run.rig.used();
        for name in run.model.keys().cloned().collect::<Vec<_>>() {
            run.rig.drive.unlink(run.rig.root, name.as_bytes()).unwrap();
        }
        prop_assert!(used >= charge::VOLUME_OVERHEAD);
        prop_assert_eq!(run.rig.used(), charge::VOLUME_OVERHEAD);
        run.rig.drive.sync().unwrap();
        run.rig.reopen();
        prop_assert_eq!(run.rig.used(), charge::VOLUME_OVERHEAD);
    }
}
