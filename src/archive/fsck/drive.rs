//! Records a check's findings in a mounted drive, whose `status` shows them.
//!
//! Invariant: a loss is noted for what needs the block, and forgotten once the check has found all
//! of it.

use std::sync::Arc;

use super::plan::Missing;
use super::{Check, short};
use crate::fetch::source::blocking;
use crate::fs::{LostBlock, Volume};

impl Check<'_> {
    /// The drive reports new losses, and no longer the repaired ones.
    pub(super) async fn settle(&mut self) -> anyhow::Result<()> {
        let Some(volume) = self.shown().cloned() else {
            return Ok(());
        };
        let (damaged, seen) = (
            std::mem::take(&mut self.damaged),
            std::mem::take(&mut self.seen),
        );
        blocking(move || {
            for loss in volume.losses(usize::MAX)? {
                if damaged.contains(&loss.ino) || !seen.contains(&short(&loss.block)) {
                    continue;
                }
                match loss.marked {
                    true => volume.note_back(loss.ino),
                    false => volume.forget_loss(loss.ino)?,
                }
            }
            Ok(())
        })
        .await?
    }

    /// The volume, if a drive shows it.
    fn shown(&self) -> Option<&Arc<Volume>> {
        let volume = self.volume.as_ref()?;
        let shown = self.ground.shown_volume(&volume.key());
        shown
            .is_some_and(|shown| Arc::ptr_eq(&shown, volume))
            .then_some(volume)
    }

    /// Notes a loss in the drive. First loads the directories above, one of which may report its
    /// own damage.
    pub(super) async fn note_lost(&self, missing: &Missing) {
        let (Some(volume), Some(ino), Some((of, _))) =
            (self.shown(), missing.what.ino, missing.what.of)
        else {
            return;
        };
        for dir in missing.what.above.iter().filter(|dir| **dir != ino) {
            let volume = Arc::clone(volume);
            if let Err(error) = self.ground.fetcher.load_directory(volume, *dir).await {
                tracing::debug!(%error, "the directory of what is lost cannot be read");
                return;
            }
        }
        let lost = LostBlock {
            cid: missing.cid,
            chunk: missing.what.chunk,
            why: missing.reason.clone(),
        };
        volume.note_lost(ino, &of, &lost);
    }
}
