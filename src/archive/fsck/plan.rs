//! What a check still has to do.
//!
//! Invariant: work that waits for a lost block is stored with it, and resumes once it is found.

use std::sync::Arc;

use ::cid::Cid;
use bytes::Bytes;

use crate::fetch::source::Held;
use crate::pack::entry::{Entry, TreeRef};
use crate::pack::file;
use crate::pack::tree::TreeKind;
use crate::types::Ino;

/// What needs a block: where to find it, and how to report it.
#[derive(Clone)]
pub(super) struct Use {
    /// Below the token's directory.
    pub(super) path: Arc<[u8]>,
    /// The inode of the content or tree, after the directories above it, from the root.
    pub(super) ino: Option<Ino>,
    pub(super) above: Arc<[Ino]>,
    /// The content or tree, and a content's length.
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

    /// For `entry` in this directory.
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

    /// For this directory's own pages.
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

pub(super) enum Work {
    Tree(Tree),
    /// A part of a content.
    Part(Use, file::Place),
}

/// Entries after a key.
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

    pub(super) fn again(&self) -> Work {
        Work::Tree(Self {
            after: self.after.clone(),
            ..Self::new(self.what.clone(), self.kind, self.tree)
        })
    }
}

/// A block that neither node nor machine has.
pub(super) struct Missing {
    pub(super) cid: Cid,
    pub(super) what: Use,
    pub(super) reason: String,
    pub(super) work: Option<Work>,
}
