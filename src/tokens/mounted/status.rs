//! What `status` says of a mounted token.
//!
//! Invariant: the most serious state is shown, with the remedy, and every error.

use std::path::Path;

use pxfs_base::lock;

use super::{MountedToken, Seen};
use crate::chain::TokenInfo;
use crate::clock::Clock;
use crate::contracts::Parts;
use crate::contracts::token_status;
use crate::fs::{Access, Labels, Loss, Pending};
use crate::publish::PublishStatus;
use crate::status::{DamagedFile, LocalStatus, State, TokenStatus};
use crate::tokens::pending;

/// Damaged files that `status` lists.
const MOST_DAMAGED: usize = 100;

impl MountedToken {
    /// The token's state at chain time `now_s`, most serious first.
    pub(super) fn state_of(
        &self,
        token: &TokenInfo,
        now_s: u64,
        barred: Option<(State, String)>,
    ) -> (State, Option<String>) {
        if let Some(why) = self.volume.poisoned() {
            return (
                State::Poisoned,
                Some(format!("{why}: unmount, check the local disk, mount again")),
            );
        }
        if let Some((state, reason)) = barred {
            return (state, Some(reason));
        }
        if let Some(reason) = self.volume.following() {
            return (State::ReadOnly, Some(reason));
        }
        if let Some(reason) = self.publishing.conflict() {
            return (State::Conflict, Some(reason));
        }
        if let Some(reason) = self.stuck() {
            return (State::Stuck, Some(reason));
        }
        if self.volume.overdue() {
            return (
                State::Overdue,
                Some(token_status::overdue(&self.directory, token, now_s)),
            );
        }
        if let Some(asked_s) = token.sync_asked_s {
            let why = token_status::waiting(&self.directory, asked_s, now_s);
            return (State::Syncing, Some(why));
        }
        let (used, room) =
            (self.volume).with_quota(|quota| (quota.used_bytes(), quota.room_bytes()));
        if let Some(why) = self.volume.over_quota(used) {
            return (State::Quota, Some(why));
        }
        let units = self.volume.with_quota(|quota| quota.units_left());
        if let Some(left) = units.filter(|left| *left <= 1) {
            let under_way = token.uploads_left.unwrap_or(left).saturating_sub(left);
            let left = match left {
                0 => "no upload units are left",
                _ => "the last upload unit is kept for a commit of deletes",
            };
            let why = match under_way {
                0 => left.to_owned(),
                some => format!("{left}, beside {some} of commits that are not charged yet"),
            };
            return (
                State::Quota,
                Some(format!(
                    "{why}: buy some by `pxfs upgrade {} --uploads N`, or mint another token; deleting goes on",
                    self.directory
                )),
            );
        }
        if room == 0 {
            return (
                State::Quota,
                Some(format!(
                    "the quota is used up: delete something, or take a larger package by `pxfs upgrade {} --package N`",
                    self.directory
                )),
            );
        }
        if let Some(why) = self.charge_error() {
            return (State::Uncharged, Some(why));
        }
        (State::Ok, None)
    }

    /// The state now, from what was `seen`: since then the deadline may have passed or the quota
    /// filled.
    fn state_now(&self, seen: &Seen, clock: &dyn Clock) -> (State, Option<String>) {
        let barred = match &seen.access {
            Access::ReadOnly(reason) => Some((seen.state, reason.clone())),
            Access::Open => None,
        };
        self.state_of(&seen.token, seen.now_s(clock), barred)
    }

    /// Why nothing reaches the node or the local disk, and the remedy, if that lasts.
    pub(crate) fn stuck(&self) -> Option<String> {
        let full = self.volume.full_disk();
        let full = full.map(|free| full_disk(&self.folder, free));
        full.or_else(|| self.publishing.stuck())
    }

    /// The virtual attributes of its directory.
    pub(super) fn labels(&self, clock: &dyn Clock) -> Labels {
        let seen = lock(&self.seen).clone();
        let (state, _) = self.state_now(&seen, clock);
        Labels {
            token: self.directory.clone(),
            name: seen.name.unwrap_or_default(),
            state: state.as_str().to_owned(),
        }
    }

    pub(crate) fn describe(&self, parts: &Parts, mountpoint: &str) -> TokenStatus {
        let seen = lock(&self.seen).clone();
        let mut status = token_status::describe(parts, &seen.token, seen.timestamp_s);
        (status.state, status.reason) = self.state_now(&seen, parts.clock.as_ref());
        let published = self.publishing.status();
        let pending = pending::pending(&self.volume);
        let (used, reserved, room) = self.volume.with_quota(|quota| {
            (
                quota.used_bytes(),
                quota.reserve_bytes(),
                quota.room_bytes(),
            )
        });
        status.path = Some(format!(
            "{}/{}",
            mountpoint.trim_end_matches('/'),
            self.directory
        ));
        status.volume = Some("plain".to_owned());
        let (damaged, damaged_files) = self.damaged();
        status.local = Some(LocalStatus {
            used_bytes: used,
            reserved_bytes: reserved,
            free_bytes: room,
            pending_bytes: pending.bytes,
            pending_files: pending.files,
            pending: pending.any,
            last_commit: token_status::instant(published.last_commit_s)
                .filter(|_| published.last_commit_s > 0),
            next_commit: (published.next_commit_s.filter(|_| pending.any))
                .and_then(token_status::instant),
            last_error: all_of([
                self.publishing.error(),
                self.charge_error(),
                lock(&self.sync_error).clone(),
            ]),
            damaged_files,
            damaged,
        });
        if status.state == State::Stuck {
            status.reason = status.reason.map(|why| why + &waiting(&pending));
        }
        if let (State::Ok, Some(local)) = (status.state, &status.local) {
            status.reason = lost(local)
                .or_else(|| self.volume.torn_log())
                .or_else(|| published.is_theirs.then(|| theirs(&published)))
                .or_else(|| token_status::by_issuer(&seen.token));
        }
        if published.root.is_some() {
            status.sequence = Some(published.sequence);
            status.root = published.root.map(|root| root.to_string());
        }
        status
    }

    /// The first known losses on the node, and how many in all. Reads the journal.
    fn damaged(&self) -> (Vec<DamagedFile>, u64) {
        let known = self.volume.counted_losses(MOST_DAMAGED, |_| true);
        let (losses, count) = known.unwrap_or_default();
        let tell = |loss: Loss| {
            DamagedFile {
            path: loss.path,
            cid: loss.block.to_string(),
            reason: match (loss.size, loss.stuck) {
                (None, _) => "what is in it cannot be listed; the node may find the block again",
                (_, false) => "reading it fails there; write it anew, or delete it",
                (_, true) => {
                    "what was written since is kept here and not published: write all of it anew, or delete it"
                }
            }
            .to_owned(),
        }
        };
        (losses.into_iter().map(tell).collect(), count as u64)
    }
}

/// The message for a token that shows another machine's tree.
fn theirs(published: &PublishStatus) -> String {
    let at = token_status::instant(published.last_commit_s);
    let at = at.map_or_else(String::new, |at| format!(" at {at}"));
    format!(
        "another machine published sequence {}{at}: that is shown here",
        published.sequence
    )
}

/// The message for a full local disk.
fn full_disk(folder: &Path, free: u64) -> String {
    format!(
        "the local disk is full: {free} bytes are free for {}, and nothing can be written: delete something else on that disk, or unmount, move that folder to a larger one, and mount with --state-dir",
        folder.display()
    )
}

/// What waits to be published, for use after the reason.
pub(crate) fn waiting(pending: &Pending) -> String {
    match (pending.files, pending.any) {
        (0, false) => String::new(),
        (0, true) => "; names wait here until then".to_owned(),
        (files, _) => format!(
            "; {} bytes in {files} files wait here until then",
            pending.bytes
        ),
    }
}

/// Joins the errors in one line.
fn all_of(errors: [Option<String>; 3]) -> Option<String> {
    let errors: Vec<String> = errors.into_iter().flatten().collect();
    (!errors.is_empty()).then(|| errors.join("; "))
}

/// The message if the node has lost blocks.
fn lost(local: &LocalStatus) -> Option<String> {
    let first = local.damaged.first()?;
    let more = match local.damaged_files.saturating_sub(1) {
        0 => String::new(),
        others => format!(" (and {others} more, see --json)"),
    };
    Some(format!(
        "the node has lost block {} of {}{more}: {}",
        first.cid, first.path, first.reason
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_error_hides_another() {
        let some = |text: &str| Some(text.to_owned());
        let told = all_of([some("not published"), None, some("not synced")]);
        assert_eq!(told, some("not published; not synced"));
        assert_eq!(all_of([None, None, None]), None);
    }

    #[test]
    fn all_damaged_files_are_counted_and_not_only_those_that_are_listed() {
        let file = DamagedFile {
            path: "f".into(),
            cid: "Qm".into(),
            reason: "why".into(),
        };
        let mut local = LocalStatus {
            damaged: vec![file; MOST_DAMAGED],
            damaged_files: 5_000,
            ..LocalStatus::default()
        };
        let line = lost(&local).unwrap();
        assert!(line.contains("(and 4999 more, see --json)"), "{line}");
        (local.damaged_files, local.damaged) = (0, Vec::new());
        assert_eq!(lost(&local), None);
    }
}
