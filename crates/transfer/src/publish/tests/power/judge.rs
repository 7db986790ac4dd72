//! What must be true of a node and of the books whenever a commit has come to its end.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use cid::Cid;

use super::node::{Act, Held};
use crate::fs::Volume;
use crate::names::key::public_key;
use crate::names::record::Record;
use crate::pack::root::Root;
use crate::pack::usage::{self, Usage};
use crate::publish::grace::Grace;
use crate::publish::state::Head;
use crate::publish::state::Salvage;
use crate::publish::tests::rig::token;
use crate::store::Block;

/// What the journal says when a commit is over.
pub(super) struct Books {
    head: Head,
    grace: Grace,
    salvage: Salvage,
    charges: Vec<(u64, u64)>,
}

impl Books {
    pub(super) fn of(volume: &Volume) -> Self {
        Self {
            head: volume.meta("head").expect("a journal").unwrap_or_default(),
            grace: volume.meta("grace").expect("a journal").unwrap_or_default(),
            salvage: volume
                .meta("salvage")
                .expect("a journal")
                .unwrap_or_default(),
            charges: volume.charges(),
        }
    }
}

/// What the name has pointed at.
#[derive(Debug, Default)]
struct Told {
    /// Document, sequence and root, in order.
    named: Vec<(Cid, u64, Option<Cid>)>,
    blocks: BTreeMap<Cid, Bytes>,
}

impl Told {
    fn root(&self, cid: Cid) -> Result<Root, String> {
        let data = self.blocks[&cid].clone();
        Root::decode(&Block { cid, data }).map_err(|e| e.to_string())
    }

    /// The length of the volume's header.
    fn header_bytes(&self) -> Result<u64, String> {
        let Some((.., Some(root))) = self.named.first() else {
            return Ok(0);
        };
        Ok(self.root(*root)?.header.tsize)
    }
}

/// All that the node was told, or what is wrong with it: of each sequence it has one root, and the name never goes
/// back.
fn told(acts: &[Act]) -> Result<Told, String> {
    let name = token().name.expect("a name");
    let key = public_key(&name).expect("a key");
    let mut told = Told::default();
    let mut roots: BTreeMap<u64, Cid> = BTreeMap::new();
    for act in acts {
        match act {
            Act::Put(blocks) => {
                for block in blocks {
                    told.blocks.insert(block.cid, block.data.clone());
                    if let Ok(root) = Root::decode(block) {
                        let first = *roots.entry(root.sequence).or_insert(block.cid);
                        if first != block.cid {
                            return Err(format!("sequence {} is of two roots", root.sequence));
                        }
                    }
                }
            }
            Act::Name(record) => {
                let record = Record::verify(&name, record).map_err(|e| e.to_string())?;
                let document = told
                    .blocks
                    .get(&record.cid)
                    .ok_or("a name of no document")?;
                let document = usage::document(&record.cid, document).map_err(|e| e.to_string())?;
                let usage = Usage::verify(&document, &key).map_err(|e| e.to_string())?;
                let (sequence, root) = (usage.sequence, usage.root);
                if let Some((_, before, known)) = told.named.last() {
                    if sequence < *before {
                        return Err(format!("sequence {sequence} is named after {before}"));
                    }
                    if sequence == *before && root != *known {
                        return Err(format!("sequence {sequence} names two roots"));
                    }
                }
                if root.and_then(|root| told.blocks.get(&root)).is_none() {
                    return Err(format!(
                        "sequence {sequence} names a root that the node never had"
                    ));
                }
                told.named.push((record.cid, sequence, root));
            }
            Act::Pin(_) | Act::Unpin(_) => {}
        }
    }
    Ok(told)
}

/// What is wrong, where the node did `acts` and has `held`, and `shown` was seen of the charges.
pub(super) fn judge(
    acts: &[Act],
    held: &Held,
    books: &Books,
    shown: &BTreeMap<u64, u64>,
    (additive, lossy): (bool, bool),
) -> Result<(), String> {
    let told = told(acts)?;
    judge_pins(held, books)?;
    if additive {
        judge_charges(&told, books, shown, lossy)?;
    }
    if lossy {
        return Ok(());
    }
    // Each root goes on from the one before.
    let mut before: Option<Cid> = None;
    for (_, sequence, root) in &told.named {
        let cid = root.ok_or("a name of no root")?;
        let root = told.root(cid)?;
        if before != Some(cid) && root.parent != before {
            return Err(format!(
                "the root of sequence {sequence} passes over another"
            ));
        }
        before = Some(cid);
    }
    if told.named.last().map(|(.., root)| *root) != Some(books.head.root.map(|root| root.0)) {
        return Err("the name does not point at the head".to_owned());
    }
    Ok(())
}

/// Head and document are pinned, and what else is will be let go of.
fn judge_pins(held: &Held, books: &Books) -> Result<(), String> {
    let head = [books.head.root, books.head.document];
    let head: BTreeSet<Cid> = head.iter().flatten().map(|cid| cid.0).collect();
    if let Some(lost) = head.difference(&held.pins).next() {
        return Err(format!("{lost} of the head is not pinned"));
    }
    let old: BTreeSet<Cid> = books.grace.cids().collect();
    let is_known =
        |cid: &&Cid| head.contains(*cid) || old.contains(*cid) || books.salvage.holds(cid);
    match held.pins.iter().find(|cid| !is_known(cid)) {
        Some(cid) => Err(format!("nobody will let go of {cid}")),
        None => Ok(()),
    }
}

/// Each commit is charged once: those that were named, and what was seen of a charge holds.
fn judge_charges(
    told: &Told,
    books: &Books,
    shown: &BTreeMap<u64, u64>,
    lossy: bool,
) -> Result<(), String> {
    let charges: BTreeMap<u64, u64> = books.charges.iter().copied().collect();
    let all = &books.charges;
    if charges.len() != all.len() {
        return Err(format!("a commit is charged twice: {all:?}"));
    }
    for (sequence, bytes) in shown {
        if charges.get(sequence) != Some(bytes) {
            return Err(format!(
                "commit {sequence} was charged for {bytes} bytes, and is not now: {all:?}"
            ));
        }
    }
    let named: BTreeSet<u64> = told
        .named
        .iter()
        .map(|(_, sequence, _)| *sequence)
        .collect();
    if let Some(free) = named
        .iter()
        .find(|sequence| !charges.contains_key(sequence))
    {
        return Err(format!("commit {free} is not charged: {all:?}"));
    }
    if lossy {
        return Ok(());
    }
    if let Some(more) = charges.keys().find(|sequence| !named.contains(sequence)) {
        return Err(format!(
            "commit {more} was never named, and is charged: {all:?}"
        ));
    }
    let held = Held {
        blocks: told.blocks.clone(),
        ..Held::default()
    };
    let bytes = |cid: &Cid| told.blocks[cid].len() as u64;
    // Each block is paid for once; one that is built anew after it had gone from the tree is so again, and the
    // header with each commit.
    let (mut all_blocks, mut last) = (BTreeSet::new(), BTreeSet::new());
    let mut most = told.header_bytes()? * charges.len().saturating_sub(1) as u64;
    for (document, _, root) in &told.named {
        let below = held.below([Some(*document), *root].into_iter().flatten());
        most += below.difference(&last).map(bytes).sum::<u64>();
        all_blocks.extend(below.iter().copied());
        last = below;
    }
    let least: u64 = all_blocks.iter().map(bytes).sum();
    let charged: u64 = charges.values().sum();
    if !(least..=most).contains(&charged) {
        let why = format!("{charged} bytes are charged, of {least} to {most}: {all:?}");
        return Err(why);
    }
    Ok(())
}
