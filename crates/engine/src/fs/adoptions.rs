//! Stage files that hold exactly a published content, until the cache takes them over.

use std::collections::HashMap;

use cid::Cid;

/// A content, by its CID and length in bytes.
pub(super) type Published = (Cid, u64);

/// Found by their numbers and by what they hold; of several that hold the same, one.
#[derive(Default)]
pub(super) struct Adoptions {
    contents: HashMap<u64, Published>,
    stages: HashMap<Published, u64>,
}

impl Adoptions {
    pub(super) fn insert(&mut self, stage: u64, content: Published) {
        self.remove(stage);
        self.contents.insert(stage, content);
        self.stages.insert(content, stage);
    }

    /// What the stage file was to be taken over as.
    pub(super) fn remove(&mut self, stage: u64) -> Option<Published> {
        let content = self.contents.remove(&stage)?;
        if self.stages.get(&content) == Some(&stage) {
            self.stages.remove(&content);
        }
        Some(content)
    }

    /// The number of a stage file that holds `content`.
    pub(super) fn holding(&self, content: &Published) -> Option<u64> {
        self.stages.get(content).copied()
    }

    /// Whether the stage file still holds `content`.
    pub(super) fn holds(&self, stage: u64, content: &Published) -> bool {
        self.contents.get(&stage) == Some(content)
    }
}
