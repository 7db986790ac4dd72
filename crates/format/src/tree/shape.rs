//! Sizes of pages: when they are cut and joined, and how.
//!
//! Invariant: a part weighs at most what parts are cut to and one entry more, and no entry weighs
//! more than about 160 KiB, so no page passes a block. Called by `update`.

use bytes::Bytes;

use crate::block::MAX_BLOCK_BYTES;
use crate::entry::TreeKind;
use crate::page::{Body, FRAME, MAX_ITEMS};

/// When pages are cut and joined, by weight in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Above this a page is cut,
    pub(super) split: u64,
    /// in parts of at most about this.
    pub(super) part: u64,
    /// Below this a page looks for a neighbour,
    pub(super) join: u64,
    /// with which it has at most this.
    pub(super) joined: u64,
    /// A topmost page of entries has at most this.
    pub(super) single: u64,
    /// A tree whose pages have together at most this becomes one page again.
    pub(super) whole: u64,
}

/// The shape of plain volumes.
pub(super) const PLAIN: Shape = Shape {
    split: 96 << 10,
    part: 64 << 10,
    join: 24 << 10,
    joined: 72 << 10,
    single: (MAX_BLOCK_BYTES - FRAME) as u64,
    whole: 512 << 10,
};

/// Puts the items of `right`, whose keys begin at `border`, behind those of `left`. Two pages that
/// are neighbours have one level.
pub(super) fn append(left: &mut Body, right: Body, border: Bytes) {
    match (left, right) {
        (Body::Entries(left), Body::Entries(right)) => left.extend(right),
        (Body::Rows(_, left), Body::Rows(_, mut right)) => {
            // What lies before the first border of `right` belongs to its first child still.
            if let Some(first) = right.first_mut() {
                first.border = border;
            }
            left.extend(right);
        }
        _ => {}
    }
}

/// A page cut into parts of equal weight, each with its border; itself when it is small enough.
pub(super) fn cut(shape: Shape, kind: TreeKind, border: Bytes, body: Body) -> Vec<(Bytes, Body)> {
    let weights = body.weights(kind);
    let total: u64 = weights.iter().map(|weight| *weight as u64).sum();
    if total <= shape.split && body.len() <= MAX_ITEMS {
        return vec![(border, body)];
    }
    let parts = total.div_ceil(shape.part).max(2);
    let mut ends = Vec::new();
    let (mut sum, mut passed) = (0, 0);
    for (at, weight) in weights.iter().enumerate() {
        sum += *weight as u64;
        let marks = sum * parts / total.max(1);
        if marks > passed {
            passed = marks;
            ends.push(at + 1);
        }
    }
    match body {
        Body::Entries(items) => divide(items, &ends, border, |entry| &entry.key, Body::Entries),
        Body::Rows(level, items) => {
            let rows = |items| Body::Rows(level, items);
            divide(items, &ends, border, |row| &row.border, rows)
        }
    }
}

/// `items` up to each of `ends`, each part under its first key, the first under `border`.
fn divide<T>(
    mut items: Vec<T>,
    ends: &[usize],
    border: Bytes,
    key: impl Fn(&T) -> &Bytes,
    body: impl Fn(Vec<T>) -> Body,
) -> Vec<(Bytes, Body)> {
    let mut parts = Vec::with_capacity(ends.len());
    let starts = ends.iter().rev().skip(1).copied().chain([0]);
    for start in starts {
        let part = items.split_off(start.min(items.len()));
        if let Some(first) = part.first() {
            let from = if start == 0 {
                border.clone()
            } else {
                key(first).clone()
            };
            parts.push((from, body(part)));
        }
    }
    parts.reverse();
    parts
}
