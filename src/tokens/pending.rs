//! Unpublished data of a volume.

use crate::fs::{Pending, Volume};

/// What is unpublished. A volume that cannot tell counts as holding something.
pub(crate) fn pending(volume: &Volume) -> Pending {
    volume.pending().unwrap_or_else(|error| {
        tracing::debug!(%error, token = %volume.key().token.token, "what is pending is not known");
        Pending {
            any: true,
            ..Pending::default()
        }
    })
}

/// Whether anything is unpublished, or cannot be told.
pub(crate) fn is_pending(volume: &Volume) -> bool {
    pending(volume).any
}
