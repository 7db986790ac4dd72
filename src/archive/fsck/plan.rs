//! What a check has still to look at, and what for.
//!
//! Invariant: where a block is lost, what waits for it stands with it, and goes on from there once it is found.
//! Called by the check.

use std::sync::Arc;

use ::cid::Cid;
use bytes::Bytes;

use crate::fetch::source::Held;
use crate::pack::entry::{Entry, TreeRef};
use crate::pack::file;
use crate::pack::tree::TreeKind;
use crate::types::Ino;

/// What a block is needed for: where it may be had, and how it is told.
#[derive(Clone)]
pub(super) struct Use {
    /// Below the token's directory.
    pub(super) path: Arc<[u8]>,
    /// Whose content or tree it is, and the directories that lead there, from the root.
    pub(super) ino: Option<Ino>,
    pub(super) above: Arc<[Ino]>,
    /// The content, or the tree, and the length of the content.
    pub(super) of: Option<(Cid, Option<u64>)>,
    pub(super) chunk: Option<u64>,
    pub(super) data: Option<Bytes>,
}

impl Use {
    pub(super) fn of(path: &str) -> Self {
        Self {
            path: path.as_bytes().into(),
            ino: None,
            above: Arc::default(),
            of: None,
            chunk: None,
            data: None,
        }
    }

    pub(super) fn here(&self, data: Bytes) -> Self {
        Self {
            data: Some(data),
            ..self.clone()
        }
    }

    /// For what stands in this directory under the name of `entry`.
    pub(super) fn below(&self, kind: TreeKind, entry: &Entry) -> Self {
        let number = entry.ino.0.to_string();
        let name = match kind {
            TreeKind::Table => number.as_bytes(),
            TreeKind::Directory => &entry.key,
        };
        let path = match &*self.path {
            b"" => name.into(),
            path => [path, b"/", name].concat().into(),
        };
        Self {
            path,
            ino: Some(entry.ino),
            of: None,
            ..self.clone()
        }
    }

    /// For the pages of the directory that this is about.
    pub(super) fn in_directory(&self, ino: Ino, tree: &TreeRef) -> Self {
        Self {
            ino: Some(ino),
            above: self.above.iter().copied().chain([ino]).collect(),
            of: Some((tree.root.cid, None)),
            ..self.clone()
        }
    }

    pub(super) fn in_file(&self, content: Cid, size: u64, chunk: Option<u64>) -> Self {
        Self {
            of: Some((content, Some(size))),
            chunk,
            ..self.clone()
        }
    }
}

/// What is still to be looked at.
pub(super) enum Work {
    Tree(Tree),
    /// A part of a content.
    Part(Use, file::Place),
}

/// Entries of a tree behind a key.
pub(super) struct Tree {
    pub(super) what: Use,
    pub(super) kind: TreeKind,
    pub(super) tree: TreeRef,
    pub(super) after: Option<Bytes>,
    /// Pages of it.
    pub(super) held: Held,
}

impl Tree {
    pub(super) fn new(what: Use, kind: TreeKind, tree: TreeRef) -> Self {
        Self {
            what,
            kind,
            tree,
            after: None,
            held: Held::new(),
        }
    }

    /// The same, without the pages.
    pub(super) fn again(&self) -> Work {
        Work::Tree(Self {
            after: self.after.clone(),
            ..Self::new(self.what.clone(), self.kind, self.tree)
        })
    }
}

/// A block that the node has not got, nor this machine.
pub(super) struct Missing {
    pub(super) cid: Cid,
    pub(super) what: Use,
    pub(super) reason: String,
    /// What cannot go on without it.
    pub(super) work: Option<Work>,
}
