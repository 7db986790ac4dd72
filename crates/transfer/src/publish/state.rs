//! What the journal says of a volume's publishing: one struct, read and changed in this file alone.
//!
//! A change runs under the one lock of small values: it reads the state as it is, changes it, and writes what differs as
//! one batch. Fields are private and each method is one arrow of the diagram, so nobody writes back what he read before
//! an await.
//!
//! ```text
//!  no head ──begin, begin_empty──▶ head ◀──follow, supersede── another machine's head
//!                                   │ ▲ ╲
//!                      (commit.rs)  │ │  ╲─renew, hold_head (it stays the head)
//!                                   ▼ │
//!                     pending: unsent ─┤ give_up
//!                              │ sent  │
//!                              ▼       │
//!                    pending: unnamed ─┤ give_up
//!                              │       │
//!                              ▼       │
//!                      pending: named ─┘ complete (doubted if the node lost blocks of it)
//!
//!  supersede, abandon: the pending commit is dropped, and the next one goes above another root.
//! ```

use std::sync::Arc;

use bytes::Bytes;
use cid::Cid;
use minicbor::{CborLen, Decode, Encode};

use super::PublishError;
use super::charged;
use super::grace::{Grace, Moment};
use super::past::{PAST, Past};
use super::pending::{DOUBTED, Doubted, PENDING, Pending, Versions};
use crate::fetch::source::blocking;
use crate::fs::{FsError, Notes, UNHELD, Values, Volume};
use crate::journal::record::{CidBytes, Record};
use crate::pack::root::Root;
use crate::store::Block;
use crate::types::Ino;

/// Keys in the journal. They are the format, whatever the fields are called.
const HEAD: &str = "head";
const VERSIONS: &str = "versions";
const GRACE: &str = "grace";
const SALVAGE: &str = "salvage";
/// Stands from a take-over to the commit that ends it.
pub(super) const TAKEN_OVER: &str = "taken-over";

/// Roots that are held for what is left of damaged contents.
const MOST_ROOTS: usize = 32;

/// A commit's charge: sequence and bytes.
type Charge = Option<(u64, u64)>;

/// The newest commit that this state folder knows, as its journal stores it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, CborLen)]
#[cbor(array)]
pub(super) struct Head {
    /// Sequence of the commit.
    #[n(0)]
    pub(super) sequence: u64,
    /// Its root; `None` if only a first document was published.
    #[n(1)]
    pub(super) root: Option<CidBytes>,
    /// Its usage document.
    #[n(2)]
    pub(super) document: Option<CidBytes>,
    /// Commits of this volume so far.
    #[n(3)]
    pub(super) uploads: u64,
    /// How often its record was put again.
    #[n(4)]
    pub(super) renewals: u64,
    /// When it was made, unix seconds.
    #[n(5)]
    pub(super) time_s: u64,
    /// The lowest sequence that was never given to a root.
    #[n(6)]
    pub(super) next: u64,
    /// Our own last commit; `None` before it.
    #[n(7)]
    pub(super) own: Option<Own>,
}

/// Our own last commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, CborLen)]
#[cbor(array)]
pub(super) struct Own {
    #[n(0)]
    pub(super) sequence: u64,
    #[n(1)]
    pub(super) root: CidBytes,
}

/// Roots that stay pinned for what is left of contents that are damaged now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, CborLen)]
#[cbor(array)]
pub(super) struct Salvage {
    /// Oldest first.
    #[n(0)]
    roots: Vec<CidBytes>,
}

impl Salvage {
    pub(super) fn holds(&self, root: &Cid) -> bool {
        self.roots.iter().any(|held| held.0 == *root)
    }
}

/// What another machine published, as it becomes the head here.
pub(super) struct Offered {
    pub(super) root: Cid,
    pub(super) record: Root,
    /// The header's block.
    pub(super) header: Bytes,
    /// Its usage document, if the name leads to it: CID and bytes.
    pub(super) document: Option<(Cid, Bytes)>,
    /// Commits of the volume so far, if the name says so.
    pub(super) uploads: Option<u64>,
    /// When it was made, unix seconds.
    pub(super) time_s: u64,
}

impl Offered {
    fn document_cid(&self) -> Option<CidBytes> {
        self.document.as_ref().map(|(cid, _)| CidBytes(*cid))
    }
}

/// The head; the default one if there is none.
pub(super) fn head(volume: &Volume) -> Result<Head, PublishError> {
    Ok(known_head(volume)?.unwrap_or_default())
}

/// The head, if there is one.
pub(super) fn known_head(volume: &Volume) -> Result<Option<Head>, PublishError> {
    Ok(volume.meta(HEAD)?)
}

/// What the head contains of each writer.
pub(super) fn versions(volume: &Volume) -> Result<Versions, PublishError> {
    Ok(volume.meta(VERSIONS)?.unwrap_or_default())
}

/// What is pinned and will be released.
pub(super) fn grace(volume: &Volume) -> Result<Grace, PublishError> {
    Ok(volume.meta(GRACE)?.unwrap_or_default())
}

/// Roots that are held because something is damaged; `None` if nothing is.
pub(super) fn salvage(volume: &Volume) -> Result<Option<Salvage>, PublishError> {
    Ok(volume.meta(SALVAGE)?)
}

/// The state, during a change.
pub(super) struct State {
    head: Option<Head>,
    versions: Versions,
    grace: Grace,
    salvage: Option<Salvage>,
    past: Past,
    /// Values that other files read, which become durable with these.
    also: Values,
}

impl State {
    /// Changes the state durably, all of it or, if `change` fails, nothing. A change that leaves it as it was waits for no
    /// disk.
    pub(super) async fn change<T: Send + 'static>(
        volume: &Arc<Volume>,
        change: impl FnOnce(&mut Self) -> Result<T, PublishError> + Send + 'static,
    ) -> Result<T, PublishError> {
        let volume = Arc::clone(volume);
        let write = move || {
            let (changed, differs) = volume.notes().change(|notes| {
                let (changed, values) = Self::changed(notes, change)?;
                Ok::<_, PublishError>(((changed, !values.is_empty()), values))
            })?;
            if differs {
                volume.keep(Vec::new())?;
            }
            Ok(changed)
        };
        blocking(write).await?
    }

    /// As [`State::change`]; a commit is at its end, and the charge that `change` returns becomes due in the same batch.
    pub(super) async fn end_commit(
        volume: &Arc<Volume>,
        change: impl FnOnce(&mut Self) -> Result<Charge, PublishError> + Send + 'static,
    ) -> Result<(), PublishError> {
        let volume = Arc::clone(volume);
        let write = move || volume.change_charged(|notes| Self::changed(notes, change));
        blocking(write).await?
    }

    /// What `change` makes of the state now, and the values that differ.
    fn changed<T>(
        notes: &Notes,
        change: impl FnOnce(&mut Self) -> Result<T, PublishError>,
    ) -> Result<(T, Values), PublishError> {
        let mut state = Self::load(notes)?;
        let before = state.values();
        let changed = change(&mut state)?;
        let after = state.values().into_iter().zip(before);
        let mut values: Values = after
            .filter_map(|(after, before)| (after != before).then_some(after))
            .collect();
        values.append(&mut state.also);
        Ok((changed, values))
    }

    fn load(notes: &Notes) -> Result<Self, FsError> {
        Ok(Self {
            head: notes.value(HEAD)?,
            versions: notes.value(VERSIONS)?.unwrap_or_default(),
            grace: notes.value(GRACE)?.unwrap_or_default(),
            salvage: notes.value(SALVAGE)?,
            past: notes.value(PAST)?.unwrap_or_default(),
            also: Vec::new(),
        })
    }

    fn values(&self) -> Values {
        vec![
            (HEAD, self.head.as_ref().map(Record::to_bytes)),
            (VERSIONS, Some(self.versions.to_bytes())),
            (GRACE, Some(self.grace.to_bytes())),
            (SALVAGE, self.salvage.as_ref().map(Record::to_bytes)),
            (PAST, Some(self.past.to_bytes())),
        ]
    }

    /// Stores a value of another file with this change.
    pub(super) fn also(&mut self, value: (&'static str, Option<Bytes>)) {
        self.also.push(value);
    }
}

/// The way of a commit.
impl State {
    /// `pending` becomes the head, and the old head is retained for a while: as long as one of the files `open` without a
    /// name is. A `doubted` replaces the one before; without one that stays.
    pub(super) fn complete(
        &mut self,
        pending: &Pending,
        doubted: Option<&Doubted>,
        (open, now): (&[Ino], &Moment),
    ) -> Result<Charge, PublishError> {
        let old = self.head.take().unwrap_or_default();
        for cid in [old.root, old.document].into_iter().flatten() {
            let is_held = self.salvage.as_ref().is_some_and(|held| held.holds(&cid.0));
            if !is_held {
                self.grace.add(cid.0, now);
            }
        }
        if let Some(old) = old.root {
            self.grace.hold(open, old.0, pending.root.0);
        }
        let document = CidBytes(pending.document_cid());
        self.grace.keep(&pending.root.0);
        self.grace.keep(&document.0);
        self.past.move_on(old.document, Some(document));
        self.versions = Versions::of(&Root::decode(&Block {
            cid: pending.root.0,
            data: Bytes::copy_from_slice(&pending.root_bytes),
        })?);
        self.head = Some(Head {
            sequence: pending.sequence,
            root: Some(pending.root),
            document: Some(document),
            uploads: pending.uploads,
            renewals: 0,
            time_s: pending.time_s,
            next: old.next.max(pending.sequence + 1),
            own: Some(Own {
                sequence: pending.sequence,
                root: pending.root,
            }),
        });
        // What stands above the tree can be put again without any cache.
        let root_block = Bytes::copy_from_slice(&pending.root_bytes);
        let document = Bytes::copy_from_slice(&pending.document);
        self.also.extend([
            (PENDING, None),
            (UNHELD, None),
            (TAKEN_OVER, None),
            ("root-block", Some(root_block)),
            ("document", Some(document)),
        ]);
        let doubted = doubted.map(|doubted| (DOUBTED, Some(doubted.to_bytes())));
        self.also.extend(doubted);
        Ok(pending.charge_bytes.map(|bytes| (pending.sequence, bytes)))
    }

    /// `pending` was never named and never will be. Its sequence may have been seen, so no other root gets it.
    pub(super) fn give_up(&mut self, pending: &Pending, now: &Moment) {
        let head = self.head.get_or_insert_default();
        head.next = head.next.max(pending.sequence + 1);
        if !pending.unsent {
            self.grace.add(pending.root.0, now);
            self.grace.add(pending.document_cid(), now);
        }
        self.also((PENDING, None));
    }

    /// Drops `pending`: the next commit goes above something else. What may have been settled of it is in no other commit,
    /// so it is charged itself.
    fn drop_pending(&mut self, pending: Option<&Pending>) -> Charge {
        self.also((PENDING, None));
        let left = pending.filter(|pending| !pending.unsent && !pending.unnamed)?;
        let charge = (left.sequence, left.charge_bytes?);
        self.also(charged::through(left.sequence));
        Some(charge)
    }

    /// The record of the head `expected` is put once more, above `renewals` of other machines: the head then. `None` if
    /// another one is the head now, because that one has a record of its own.
    pub(super) fn renew(&mut self, expected: &Head, renewals: u64) -> Option<Head> {
        let is_it = |head: &&mut Head| {
            (head.sequence, head.document) == (expected.sequence, expected.document)
        };
        let head = self.head.as_mut().filter(is_it)?;
        head.renewals = head.renewals.max(renewals) + 1;
        Some(head.clone())
    }
}

/// Other machines.
impl State {
    /// What a fresh folder begins with: the values that are stored with another machine's tree.
    pub(super) fn begin(theirs: &Offered) -> Result<Values, PublishError> {
        let record = &theirs.record;
        let head = Head {
            sequence: record.sequence,
            root: Some(CidBytes(theirs.root)),
            document: theirs.document_cid(),
            uploads: theirs.uploads.unwrap_or(0),
            time_s: theirs.time_s,
            next: record.sequence + 1,
            ..Head::default()
        };
        let mut values = vec![
            (HEAD, Some(head.to_bytes())),
            (VERSIONS, Some(Versions::of(record).to_bytes())),
            ("header", Some(theirs.header.clone())),
            // What stands above the tree can be put again from here.
            ("root-block", Some(record.encode()?.data)),
        ];
        let document = theirs.document.as_ref();
        values.extend(document.map(|(_, bytes)| ("document", Some(bytes.clone()))));
        Ok(values)
    }

    /// Begins behind a first document, which has no root.
    pub(super) fn begin_empty(&mut self, sequence: u64, document: Option<Cid>, uploads: u64) {
        self.head = Some(Head {
            sequence,
            document: document.map(CidBytes),
            uploads,
            next: sequence + 1,
            ..Head::default()
        });
    }

    /// The tree here is another machine's now.
    pub(super) fn follow(&mut self, theirs: Offered) -> Result<(), PublishError> {
        let known = self.head.take().unwrap_or_default();
        let document = theirs.document_cid();
        let record = &theirs.record;
        self.past.move_on(known.document, document);
        self.versions = Versions::of(record);
        self.head = Some(Head {
            sequence: record.sequence,
            root: Some(CidBytes(theirs.root)),
            document,
            uploads: theirs.uploads.unwrap_or(known.uploads),
            renewals: 0,
            time_s: theirs.time_s,
            next: known.next.max(record.sequence + 1),
            own: known.own,
        });
        self.also.extend([
            (PENDING, None),
            ("header", Some(theirs.header)),
            ("root-block", Some(record.encode()?.data)),
            ("document", theirs.document.map(|(_, bytes)| bytes)),
        ]);
        Ok(())
    }

    /// Another machine's commit becomes the parent of our next one, which then comes in any case.
    pub(super) fn supersede(
        &mut self,
        (root, record, document): (Cid, &Root, Option<Cid>),
        pending: Option<&Pending>,
        now: &Moment,
    ) -> Charge {
        let known = self.head.take().unwrap_or_default();
        let given = pending.map_or(0, |pending| pending.sequence + 1);
        let unnamed = pending.map(|pending| pending.root);
        let unnamed_document = pending.map(|pending| CidBytes(pending.document_cid()));
        let old = [known.root, known.document, unnamed, unnamed_document];
        for cid in old.into_iter().flatten() {
            self.grace.add(cid.0, now);
        }
        let document = document.map(CidBytes);
        let named_before = known.document.into_iter().chain(unnamed_document);
        self.past.move_on(named_before, document);
        self.versions = self.versions.with(&Versions::of(record));
        self.head = Some(Head {
            sequence: record.sequence,
            root: Some(CidBytes(root)),
            document,
            next: known.next.max(given).max(record.sequence + 1),
            ..known
        });
        self.also((TAKEN_OVER, Some(Bytes::from_static(b"1"))));
        self.drop_pending(pending)
    }

    /// Nobody has `root` any more. What `pending` held is a part of the next commit, which then comes in any case.
    pub(super) fn abandon(&mut self, root: Cid, pending: Option<&Pending>, now: &Moment) -> Charge {
        self.grace.add(root, now);
        if let Some(pending) = pending {
            self.grace.add(pending.root.0, now);
            self.grace.add(pending.document_cid(), now);
            self.also((TAKEN_OVER, Some(Bytes::from_static(b"1"))));
        }
        self.drop_pending(pending)
    }
}

/// What stays pinned on the node.
impl State {
    /// `bundle`, which is about to be pinned, is released with the next commit.
    pub(super) fn hold_bundle(&mut self, bundle: Cid) {
        self.grace.add_spent(bundle);
    }

    /// A release made `after` of what it had read as `before`.
    pub(super) fn release(&mut self, before: &Grace, after: &Grace, now: &Moment) {
        self.grace.take_out(before, after, now);
    }

    /// Something below the head becomes damaged: the head is the last root that links what is left of it.
    pub(super) fn hold_head(&mut self, now: &Moment) {
        let Some(root) = self.head.as_ref().and_then(|head| head.root) else {
            return;
        };
        let held = self.salvage.get_or_insert_default();
        if held.holds(&root.0) {
            return;
        }
        held.roots.push(root);
        while held.roots.len() > MOST_ROOTS {
            self.grace.add(held.roots.remove(0).0, now);
        }
    }

    /// Nothing is damaged any more: the roots that were held for it are retained for a while.
    pub(super) fn end_salvage(&mut self, now: &Moment) {
        let head = self.head.as_ref().and_then(|head| head.root);
        let roots = self.salvage.take().unwrap_or_default().roots;
        for root in roots.iter().filter(|root| Some(**root) != head) {
            self.grace.add(root.0, now);
        }
    }
}
