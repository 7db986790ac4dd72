//! What a volume holds that was not published yet.

use crate::fs::{Pending, Volume};

/// What a volume holds that was not published. One that cannot tell holds something.
pub(crate) fn pending(volume: &Volume) -> Pending {
    volume.pending().unwrap_or_else(|error| {
        tracing::debug!(%error, token = %volume.key().token.token, "what is pending is not known");
        Pending {
            any: true,
            ..Pending::default()
        }
    })
}

/// Whether a volume holds anything that was not published. One that cannot tell does.
pub(crate) fn is_pending(volume: &Volume) -> bool {
    pending(volume).any
}
