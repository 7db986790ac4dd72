//! Who is ahead of whom: the judgements on a name that two machines write.
//!
//! Invariant: pure. A root is hidden by nothing that does not contain it, unless somebody asked for that;
//! what a machine published last is contained in a root by that root's version vector alone, never by its sequence.
//! Called by `commit`, `follow` and `head`; `tests::model` goes through all that two machines can do.

use cid::Cid;

use super::state::{Head, Own};
use crate::pack::cid as form;
use crate::pack::root::{Root, WriterId};

/// Whether a machine with this head must not put a name over what it points at: a root of this sequence. `ours` is
/// the root that the machine is about to name, or has named.
pub(super) fn is_foreign(
    head: &Head,
    sequence: u64,
    root: Option<&Cid>,
    ours: Option<&Cid>,
) -> bool {
    let known = head.root.map(|root| root.0);
    let is_ours = ours.is_some() && root == ours;
    let is_known = sequence == head.sequence && root == known.as_ref();
    // A commit of ours that left before a crash, and was given up since, is no other machine's.
    let is_given_up = sequence < head.next && root.is_none();
    let is_empty = root.is_none() && known.is_none();
    !(is_ours || is_known || sequence < head.sequence || is_given_up || is_empty)
}

/// Whether a volume with this head is as new as what is offered, or newer.
pub(super) fn is_current(head: &Head, sequence: u64, root: Option<&Cid>) -> bool {
    let known = head.root.map(|root| root.0);
    sequence < head.sequence || (sequence == head.sequence && root == known.as_ref())
}

/// Whether a machine may take over `root`, and lose nothing by it. `is_half_done`: it has begun to, and come as far
/// as its head, perhaps.
pub(super) fn may_follow(head: &Head, root: &Root, writer: WriterId, is_half_done: bool) -> bool {
    let is_ahead = root.sequence >= head.sequence + u64::from(!is_half_done);
    is_ahead && contains_ours(root, writer, head.own)
}

/// Whether a root contains our own last commit.
pub(super) fn contains_ours(root: &Root, writer: WriterId, own: Option<Own>) -> bool {
    let Some(own) = own else { return true };
    let digest = form::digest(&own.root.0).ok();
    if root.writer == writer {
        return root.sequence == own.sequence;
    }
    root.versions
        .get(&writer)
        .is_some_and(|version| version.sequence == own.sequence && Some(version.root) == digest)
}
