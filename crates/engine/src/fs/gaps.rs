//! What was written into a chunk in many places becomes one range: the gaps are filled with what they read as.
//!
//! Invariant: the content does not change, so nothing is charged for it; nothing is asked of the network; what fails
//! leaves the ranges as they are, however many. Called, with the file's content locked, by whoever has just written some of it.

use std::ops::Range;

use super::FsError;
use super::body::{Body, Source};
use super::volume::Volume;
use crate::pack::chunk::chunks_of;
use crate::types::Ino;

impl Volume {
    /// Fills the gaps of those chunks of `len` bytes at `offset` that have more ranges than are told apart.
    pub(super) fn fill_gaps(&self, ino: Ino, body: &mut Body, offset: u64, len: u64, version: u64) {
        for index in chunks_of(offset, len) {
            let Some(span) = body.scattered(index, self.limits.ranges) else {
                continue;
            };
            if let Err(error) = self.fill(ino, body, span, version) {
                tracing::debug!(%error, ino = ino.0, "a chunk that was written in many places takes memory");
            }
        }
    }

    /// Writes `span` of the stage file as it reads, where that is at hand and there is room for it.
    fn fill(
        &self,
        ino: Ino,
        body: &mut Body,
        span: Range<u64>,
        version: u64,
    ) -> Result<(), FsError> {
        let len = span.end - span.start;
        let Some(stage) = body.stage.clone() else {
            return Ok(());
        };
        if self.stage.free_bytes()? < self.needed_room(len) {
            return Ok(());
        }
        let parts = body.sources(span.clone());
        let at = |part: &Range<u64>| {
            (part.start - span.start) as usize..(part.end - span.start) as usize
        };
        let mut bytes = vec![0; len as usize];
        let below = parts.iter().filter(|(_, source)| *source == Source::Base);
        let below = below.map(|(part, _)| part.clone());
        if let Some(below) = below.reduce(|first, last| first.start..last.end) {
            let part = bytes.get_mut(at(&below)).unwrap_or_default();
            if !body
                .base
                .is_some_and(|base| self.read_here(&base, below.start, part))
            {
                return Ok(());
            }
        }
        let mut staged = vec![0; len as usize];
        stage.read_at(&mut staged, span.start)?;
        for (part, source) in parts {
            match (source, bytes.get_mut(at(&part)), staged.get(at(&part))) {
                (Source::Stage, Some(to), Some(from)) => to.copy_from_slice(from),
                (Source::Zero, Some(to), _) => to.fill(0),
                _ => {}
            }
        }
        self.stage_bytes(ino, body, &stage, span.start, &bytes, version)?;
        body.written(span.start, len, version);
        Ok(())
    }
}
