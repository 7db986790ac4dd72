//! What was published and nobody has any more: where somebody says so, a volume begins anew over it.
//!
//! Invariant: nothing is given up but by who asked for that, by `--begin-anew`; a root that was given up is the newest one no
//! more, whoever names it, and what is published from then on is later. Called by `bootstrap`, `commit`, `head` and `naming`.

use cid::Cid;
use minicbor::{CborLen, Decode, Encode};

use super::PublishError;
use super::commit::Context;
use super::pending::{Pending, keep};
use super::state::{Head, State};
use crate::chain::{Accounting, TokenInfo};
use crate::fs::{LostBlock, Volume};
use crate::journal::record::{CidBytes, Record as _};

/// The value of a volume that was begun anew over what was published.
const GONE: &str = "gone";

/// What was given up of a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, CborLen)]
#[cbor(array)]
pub(super) struct Gone {
    /// The highest sequence of what is known to have been published; 0 where none is.
    #[n(0)]
    pub(super) sequence: u64,
    /// The roots.
    #[n(1)]
    roots: Vec<CidBytes>,
    /// Usage metadata that a record leads to, and no node has.
    #[n(2)]
    #[cbor(default)]
    documents: Vec<CidBytes>,
}

impl Gone {
    /// What there is; `None` where the volume was not begun anew.
    pub(super) fn of(volume: &Volume) -> Result<Option<Self>, PublishError> {
        Ok(volume.meta(GONE)?)
    }

    /// Whether `root` was given up in `volume`.
    pub(super) fn has_been(volume: &Volume, root: Option<&Cid>) -> Result<bool, PublishError> {
        Ok(Self::of(volume)?.is_some_and(|gone| gone.has(root)))
    }

    /// Whether nothing newer than what was given up is the head yet.
    pub(super) fn is_newest(&self, head: &Head) -> bool {
        let is_any = !self.roots.is_empty() || !self.documents.is_empty();
        is_any && head.sequence <= self.sequence
    }

    /// Whether `root` was given up.
    pub(super) fn has(&self, root: Option<&Cid>) -> bool {
        root.is_some_and(|root| self.roots.iter().any(|gone| gone.0 == *root))
    }

    /// Whether the root that `document` is of was given up with it.
    pub(super) fn has_document(&self, document: &Cid) -> bool {
        self.documents.iter().any(|gone| gone.0 == *document)
    }

    /// Gives up what `document` is of, durably: some record leads to it. `sequence` is as high as any that may have been
    /// published.
    pub(super) async fn give_up_document(
        mut self,
        context: &Context,
        document: Cid,
        sequence: u64,
    ) -> Result<(), PublishError> {
        let volume = &context.volume;
        tracing::warn!(
            token = %volume.key().token.token, %document,
            "begun anew: nobody has what the name leads to"
        );
        self.sequence = self.sequence.max(sequence);
        self.documents.push(CidBytes(document));
        keep(volume, vec![(GONE, Some(self.to_bytes()))]).await
    }

    /// Gives up `root` of `sequence`, durably. A commit that was cut off is a part of the next one, which then comes in any
    /// case.
    pub(super) async fn give_up(
        mut self,
        context: &Context,
        (sequence, root): (u64, Cid),
        pending: Option<&Pending>,
    ) -> Result<(), PublishError> {
        let volume = &context.volume;
        tracing::warn!(
            token = %volume.key().token.token, %root, sequence,
            "begun anew: nobody has what was published"
        );
        let given = pending.map_or(0, |pending| pending.sequence);
        self.sequence = self.sequence.max(sequence).max(given);
        self.roots.push(CidBytes(root));
        let given_up = (GONE, Some(self.to_bytes()));
        let (pending, now) = (pending.cloned(), context.moment());
        State::end_commit(volume, move |state| {
            state.also(given_up);
            Ok(state.abandon(root, pending.as_ref(), &now))
        })
        .await
    }

    /// Begins anew, durably, where nothing is known of what was published but that something was.
    pub(super) async fn begin_anew(context: &Context) -> Result<(), PublishError> {
        let none = Self::default().to_bytes();
        keep(&context.volume, vec![(GONE, Some(none))]).await
    }
}

/// The sequence of the next commit: later than all that was given to a root, as far as is known here.
pub(super) fn next_sequence(volume: &Volume, head: &Head) -> Result<u64, PublishError> {
    let gone = Gone::of(volume)?.unwrap_or_default();
    Ok(head.next.max(gone.sequence.saturating_add(1)))
}

/// Whether the chain itself shows that something was published: where each commit is charged, usage never falls.
pub(super) fn is_charged(token: &TokenInfo) -> bool {
    token.accounting == Accounting::Additive && token.usage_bytes > 0
}

/// No node has the record of a token that [`is_charged`].
pub(super) fn missing(context: &Context, token: &TokenInfo) -> PublishError {
    PublishError::Missing(format!(
        "the chain counts {} bytes that were stored, and no node has the record of its name {}: name the node that has it \
         by --node, or try again when it is back; where it was another wallet, or another program, that stored them, \
         begin anew with --begin-anew, and --token for this one alone",
        token.usage_bytes,
        context.key.name()
    ))
}

/// A record of `name` leads to usage metadata that no node has.
pub(super) fn lost_document(name: &str, document: &Cid) -> PublishError {
    PublishError::Missing(format!(
        "the name {name} leads to {document}, which no node has, and may be another machine's newer tree: name the node \
         that has it by --node, or try again when it is back; where nobody has it any more, begin anew with \
         --begin-anew, and --token for this one alone"
    ))
}

/// No node has the root of `sequence`, or its header.
pub(super) fn lost_root(sequence: u64, lost: &LostBlock) -> PublishError {
    PublishError::Missing(format!(
        "no node has what was published last, as sequence {sequence} ({}): name the node that has it by --node, or try \
         again when it is back; where nobody has it any more, begin anew with --begin-anew, and --token for this one alone",
        lost.why
    ))
}
