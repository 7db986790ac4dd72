//! Access times where reading moves them, as far as they can be told: `relatime` says when a read moves one, and
//! which reads come to the file system at all is the kernel's affair.
//!
//! Invariant: one that is later than the last change stays; one that is not may be of any read since. Called by the
//! checker, which tells what was read.

use std::collections::HashMap;

use super::call::Attr;
use super::node::{Id, Node, Stamp};

/// What is known of the access times of all inodes.
#[derive(Default)]
pub(super) struct Accesses(HashMap<Id, Access>);

/// Of one.
#[derive(Default)]
struct Access {
    /// As it was found last, and how the times stood then.
    seen: Option<Seen>,
    /// When the last read before that began: what the kernel reads ahead may come later.
    read_before: Option<i64>,
    /// When the first one since began.
    read_since: Option<i64>,
}

struct Seen {
    atime_ns: i64,
    /// It was no later than the last change.
    is_due: bool,
    stamps: Stamps,
}

/// Access, modification and change, as the reference knows them.
type Stamps = (Stamp, Stamp, Stamp);

fn stamps(node: &Node) -> Stamps {
    (node.atime, node.mtime, node.ctime)
}

impl Accesses {
    /// Something was read, or may have been, from `begin_ns` on.
    pub(super) fn note(&mut self, id: Id, begin_ns: i64) {
        self.0
            .entry(id)
            .or_default()
            .read_since
            .get_or_insert(begin_ns);
    }

    /// Nobody knows any of them any more.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }

    /// What is wrong with the access time of `attr`, found at `now_ns` and of `node`, if something is; without reads it
    /// were of the `span`, if that is known.
    pub(super) fn fault(
        &mut self,
        id: Id,
        node: &Node,
        attr: &Attr,
        span: Option<(i64, i64)>,
        now_ns: i64,
    ) -> Option<String> {
        let access = self.0.entry(id).or_default();
        let (found, stamps) = (attr.atime_ns, stamps(node));
        let changed = attr.mtime_ns.max(attr.ctime_ns);
        let seen = access
            .seen
            .as_ref()
            .filter(|seen| seen.stamps.0 == stamps.0);
        let stayed = match (seen, span) {
            (Some(seen), _) => found == seen.atime_ns,
            (None, Some((from, to))) => (from..=to).contains(&found),
            (None, None) => true,
        };
        let was_due = seen.is_none_or(|seen| seen.is_due || seen.stamps != stamps);
        let reads = access.read_before.or(access.read_since);
        let moved = was_due && reads.is_some_and(|from| (from..=now_ns).contains(&found));
        let is_due = found <= changed;
        let fault = (!stayed && !moved).then(|| {
            format!(
                "atime is {found}, was {:?}, of {:?} ({span:?}), read from {reads:?} on, due: {was_due}",
                seen.map(|seen| seen.atime_ns),
                stamps.0,
            )
        });
        access.seen = Some(Seen {
            atime_ns: found,
            is_due,
            stamps,
        });
        access.read_before = access.read_since.take().or(access.read_before);
        fault
    }
}
