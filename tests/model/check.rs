//! A system under test with all that is known of it: each of its answers is held against what the
//! reference says.

use std::collections::{BTreeSet, HashMap};

use rustix::io::Errno;

use super::access::Accesses;
use super::call::{
    Access, Attr, Call, Event, FILES, How, Item, NAMES, Reply, SCANS, System, XATTRS,
    symlink_target,
};
use super::node::{Body, Id, Stamp};
use super::oracle::{Answer, Outcome, Reference};
use super::pattern;

/// Bytes that are read at once where a whole file is compared.
const PIECE: u64 = 1 << 20;

/// Which names a reader of a directory has met.
#[derive(Default)]
struct Met {
    names: BTreeSet<u8>,
    /// As they were at the mark; nothing where there is none.
    marked: BTreeSet<u8>,
}

/// A system, and what its answers so far bind it to.
pub(crate) struct Checked<T> {
    system: T,
    /// The inode number that each inode showed first.
    numbers: HashMap<Id, u64>,
    /// Between which moments each step was, ns.
    spans: Vec<(i64, i64)>,
    met: [Met; SCANS],
    accesses: Accesses,
}

impl<T: System> Checked<T> {
    /// A new one; `quota` in bytes.
    pub(crate) fn fresh(quota: u64) -> Self {
        let system = T::fresh(quota);
        let made = (i64::MIN, system.now_ns());
        Self {
            system,
            numbers: HashMap::new(),
            spans: vec![made],
            met: Default::default(),
            accesses: Accesses::default(),
        }
    }

    /// Makes `call`, which the reference has answered with `outcome`; `reference` as it is after it.
    ///
    /// # Errors
    /// What is wrong.
    pub(crate) fn call(
        &mut self,
        reference: &Reference,
        outcome: &Outcome,
        call: &Call,
    ) -> Result<(), String> {
        let begin = self.system.now_ns();
        let reply = self.system.call(call);
        self.spans.push((begin, self.system.now_ns()));
        self.note_read(reference, call, begin);
        self.compare(reference, outcome, reply)
            .map_err(|why| format!("{call:?}: {why}"))?;
        match call {
            Call::OpenDir { at, .. } => self.met[*at] = Met::default(),
            Call::Mark(at) => self.met[*at].marked = self.met[*at].names.clone(),
            Call::Back(at) => self.met[*at].names = self.met[*at].marked.clone(),
            Call::Event(Event::Settle | Event::Restart | Event::Move) => self.all(reference)?,
            _ => {}
        }
        let used = self.system.used();
        match used.contains(&reference.used()) {
            true => Ok(()),
            false => Err(format!(
                "{call:?}: {used:?} bytes used, not {}",
                reference.used()
            )),
        }
    }

    /// Which access time a call may move.
    fn note_read(&mut self, reference: &Reference, call: &Call, begin_ns: i64) {
        for path in call.paths() {
            // A symlink on the way is followed, and at its end by some.
            let ways = (1..=path.len()).filter_map(|len| reference.find(&path[..len]).ok());
            for id in ways {
                if let Body::Symlink(_) = reference.node(id).body {
                    self.accesses.note(id, begin_ns);
                }
            }
        }
        match call {
            Call::Read { at, .. } | Call::Copy { from: (at, _), .. } => {
                if let Ok(open) = reference.open_file(*at) {
                    self.accesses.note(open.file, begin_ns);
                }
            }
            Call::ReadDir { at, .. } => {
                if let Some(scan) = reference.open_scan(*at) {
                    self.accesses.note(scan.dir, begin_ns);
                }
            }
            Call::Event(Event::Move) => self.accesses.forget(),
            _ => {}
        }
    }

    fn compare(
        &mut self,
        reference: &Reference,
        outcome: &Outcome,
        reply: Result<Reply, Errno>,
    ) -> Result<(), String> {
        let answer = match (outcome, reply) {
            (Ok(Answer::Found(file, offset, hole)), found) => {
                let found = match found {
                    Ok(Reply::Offset(found)) => Some(found),
                    Err(Errno::NXIO) => None,
                    other => return Err(format!("answered {other:?}")),
                };
                let content = reference.content(*file).ok_or("no file")?;
                return content.may_find(*offset, *hole, found);
            }
            (Ok(answer), Ok(reply)) => (answer, reply),
            (Err(wanted), Err(got)) if *wanted == got => return Ok(()),
            (wanted, got) => return Err(format!("answered {got:?}, not {wanted:?}")),
        };
        match answer {
            (Answer::Items(at), Reply::Items(items)) => self.items(reference, *at, &items),
            (Answer::Content(file, offset, len), Reply::Bytes(bytes)) => {
                let content = reference.content(*file).ok_or("no file")?;
                same_bytes(*offset, &bytes, &content.read(*offset, *len))
            }
            (Answer::Attr(id), Reply::Attr(attr)) => self.attr(reference, *id, &attr),
            (answer, reply) => {
                let wanted = match answer {
                    Answer::Done => Reply::Done,
                    Answer::Count(count) => Reply::Count(*count),
                    Answer::Target(len) => Reply::Bytes(symlink_target(*len)),
                    Answer::Value(len, text) => Reply::Bytes(pattern::bytes(*text, 0, *len)),
                    Answer::Names(names) => Reply::Names(xattr_names(names.iter().copied())),
                    other => return Err(format!("answered {reply:?}, not {other:?}")),
                };
                match wanted == reply {
                    true => Ok(()),
                    false => Err(format!("answered {reply:?}, not {answer:?}")),
                }
            }
        }
    }

    fn items(&mut self, reference: &Reference, at: usize, items: &[Item]) -> Result<(), String> {
        let scan = reference.open_scan(at).ok_or("nothing is open there")?;
        let met = &mut self.met[at].names;
        for item in items {
            let name = number_of(item).filter(|name| scan.ever.contains(name));
            let name = name.ok_or_else(|| format!("lists {item:?}, which never was there"))?;
            let steady = scan.steady.contains(&name);
            if !met.insert(name) && steady {
                return Err(format!("lists {item:?} again"));
            }
        }
        let skipped: Vec<_> = scan.steady.difference(met).collect();
        match items.is_empty() && !skipped.is_empty() {
            true => Err(format!("never lists {skipped:?}")),
            false => Ok(()),
        }
    }

    fn attr(&mut self, reference: &Reference, id: Id, attr: &Attr) -> Result<(), String> {
        let node = reference.node(id);
        let known = *self.numbers.entry(id).or_insert(attr.ino);
        if known != attr.ino {
            return Err(format!("had inode number {known}: {attr:?}"));
        }
        let twice = self
            .numbers
            .iter()
            .find(|(other, number)| **other != id && **number == known);
        if twice.is_some() {
            return Err(format!("has another's inode number: {attr:?}"));
        }
        let wanted = Attr {
            ino: known,
            kind: node.kind(),
            size: node.size(),
            blocks: node.blocks(),
            mode: node.mode,
            nlink: node.nlink,
            uid: node.uid,
            gid: node.gid,
            rdev: node.rdev(),
            atime_ns: attr.atime_ns,
            mtime_ns: attr.mtime_ns,
            ctime_ns: attr.ctime_ns,
        };
        if *attr != wanted {
            return Err(format!("is {attr:?}, not {wanted:?}"));
        }
        let span = |stamp| match stamp {
            Stamp::Lost => None,
            Stamp::Set(ns) => Some((ns, ns)),
            Stamp::Step(step) => Some(self.spans[step as usize]),
        };
        let accessed = span(node.atime);
        for (which, stamp, found) in [
            ("atime", node.atime, attr.atime_ns),
            ("mtime", node.mtime, attr.mtime_ns),
            ("ctime", node.ctime, attr.ctime_ns),
        ] {
            if which == "atime" && T::MOVES_ATIMES {
                continue;
            }
            let Some((from, to)) = span(stamp) else {
                continue;
            };
            if found < from || found > to {
                return Err(format!(
                    "{which} is {found}, not of {stamp:?} ({from} to {to})"
                ));
            }
        }
        if T::MOVES_ATIMES {
            let now_ns = self.system.now_ns();
            let fault = self.accesses.fault(id, node, attr, accessed, now_ns);
            return fault.map_or(Ok(()), Err);
        }
        Ok(())
    }

    /// Holds all that can be seen against the reference.
    ///
    /// # Errors
    /// What is wrong.
    pub(crate) fn all(&mut self, reference: &Reference) -> Result<(), String> {
        let mut read = BTreeSet::new();
        for (path, id) in reference.walk() {
            self.one(reference, &path, id, read.insert(id))
                .map_err(|why| format!("afterwards, {path:?}: {why}"))?;
        }
        for at in 0..FILES {
            if let Ok(open) = reference.open_file(at) {
                self.expect(reference, &Call::StatOpen(at), Answer::Attr(open.file))?;
                if open.access != Access::Write && read.insert(open.file) {
                    self.content(reference, at, open.file)
                        .map_err(|why| format!("afterwards, open file {at}: {why}"))?;
                }
            }
        }
        Ok(())
    }

    /// One path, and with `whole` what is in it.
    fn one(
        &mut self,
        reference: &Reference,
        path: &[u8],
        id: Id,
        whole: bool,
    ) -> Result<(), String> {
        let path = path.to_vec();
        self.expect(reference, &Call::Stat(path.clone()), Answer::Attr(id))?;
        if !whole {
            return Ok(());
        }
        let node = reference.node(id);
        let names: Vec<usize> = node.xattrs.keys().copied().collect();
        for name in &names {
            let (len, text) = node.xattrs[name];
            self.expect(
                reference,
                &Call::GetXattr(path.clone(), *name),
                Answer::Value(len, text),
            )?;
        }
        self.expect(
            reference,
            &Call::ListXattrs(path.clone()),
            Answer::Names(names),
        )?;
        match &node.body {
            Body::File(_) => {
                let (at, access, how) = (FILES, Access::Read, How::default());
                self.expect(
                    reference,
                    &Call::Open {
                        at,
                        path,
                        access,
                        how,
                    },
                    Answer::Done,
                )?;
                self.content(reference, at, id)?;
                self.expect(reference, &Call::Close(at), Answer::Done)
            }
            Body::Directory(entries) => {
                let begin_ns = self.system.now_ns();
                self.listing(reference, path.clone(), &entries.keys().copied().collect())?;
                self.accesses.note(id, begin_ns);
                self.expect(reference, &Call::Stat(path), Answer::Attr(id))
            }
            Body::Symlink(len) => {
                self.accesses.note(id, self.system.now_ns());
                self.expect(reference, &Call::Readlink(path), Answer::Target(*len))
            }
            Body::Special(_) => Ok(()),
        }
    }

    fn listing(
        &mut self,
        reference: &Reference,
        path: Vec<u8>,
        wanted: &BTreeSet<u8>,
    ) -> Result<(), String> {
        let at = SCANS;
        self.expect(reference, &Call::OpenDir { at, path }, Answer::Done)?;
        let mut found = BTreeSet::new();
        loop {
            let items = match self.system.call(&Call::ReadDir { at, about: 5 }) {
                Ok(Reply::Items(items)) => items,
                other => return Err(format!("listing answered {other:?}")),
            };
            if items.is_empty() {
                break;
            }
            for item in items {
                let name = number_of(&item).ok_or_else(|| format!("lists {item:?}"))?;
                if !found.insert(name) {
                    return Err(format!("lists {item:?} twice"));
                }
            }
        }
        self.expect(reference, &Call::CloseDir(at), Answer::Done)?;
        match found == *wanted {
            true => Ok(()),
            false => Err(format!("lists {found:?}, not {wanted:?}")),
        }
    }

    fn content(&mut self, reference: &Reference, at: usize, id: Id) -> Result<(), String> {
        let content = reference.content(id).ok_or("no file")?;
        self.accesses.note(id, self.system.now_ns());
        for (offset, len) in content.worth_reading() {
            for offset in (offset..offset + len.max(1)).step_by(PIECE as usize) {
                let len = PIECE as u32;
                let answer = Answer::Content(id, offset, PIECE);
                self.expect(reference, &Call::Read { at, offset, len }, answer)?;
            }
        }
        Ok(())
    }

    fn expect(&mut self, reference: &Reference, call: &Call, answer: Answer) -> Result<(), String> {
        let reply = self.system.call(call);
        self.compare(reference, &Ok(answer), reply)
    }
}

fn number_of(item: &Item) -> Option<u8> {
    let at = NAMES.iter().position(|name| *name == item.name)?;
    u8::try_from(at).ok()
}

fn xattr_names(names: impl Iterator<Item = usize>) -> Vec<Vec<u8>> {
    let mut names: Vec<_> = names.map(|name| XATTRS[name].as_bytes().to_vec()).collect();
    names.sort();
    names
}

fn same_bytes(offset: u64, found: &[u8], wanted: &[u8]) -> Result<(), String> {
    if found == wanted {
        return Ok(());
    }
    let (len, wanted_len) = (found.len(), wanted.len());
    let differs = found.iter().zip(wanted).position(|(a, b)| a != b);
    let at = differs.unwrap_or(len.min(wanted_len)) as u64 + offset;
    Err(format!(
        "{len} bytes for {wanted_len} at {offset}, wrong from {at} on"
    ))
}
