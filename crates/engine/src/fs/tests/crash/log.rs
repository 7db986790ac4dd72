//! What was done to a volume: calls in the order in which they began and ended, also where two
//! overlap. Played back to any moment it tells what was promised then.

use std::collections::HashMap;

use super::model::{Act, Model};
use crate::journal::simulated::Power;

/// A call, done at this time. One that was refused, and did nothing, has no act.
#[derive(Debug, Default)]
pub(super) struct Op {
    pub(super) act: Option<Act>,
    now_ns: i64,
    /// So much had reached the disk.
    pub(super) begun: usize,
    pub(super) ended: Option<usize>,
}

/// A call begins or ends.
#[derive(Clone, Copy, Debug)]
enum Mark {
    Begin(usize),
    End(usize),
}

/// All calls.
#[derive(Debug, Default)]
pub(super) struct Log {
    ops: Vec<Op>,
    marks: Vec<Mark>,
}

impl Log {
    /// A call begins; gives its number.
    pub(super) fn begin(&mut self, power: &Power) -> usize {
        let number = self.ops.len();
        self.ops.push(Op {
            begun: power.now(),
            ..Op::default()
        });
        self.marks.push(Mark::Begin(number));
        number
    }

    /// It has done `act`, if anything, and has returned.
    pub(super) fn end(&mut self, number: usize, act: Option<Act>, now_ns: i64, power: &Power) {
        self.fail(number, act, now_ns);
        self.ops[number].ended = Some(power.now());
        self.marks.push(Mark::End(number));
    }

    /// It has failed: what it has done of `act`, if any, nobody knows.
    pub(super) fn fail(&mut self, number: usize, act: Option<Act>, now_ns: i64) {
        let op = &mut self.ops[number];
        (op.act, op.now_ns) = (act, now_ns);
    }

    /// As [`Log::end`] for a call that is over as soon as it began.
    pub(super) fn note(&mut self, act: Act, now_ns: i64, power: &Power) {
        let number = self.begin(power);
        self.end(number, Some(act), now_ns, power);
    }

    /// What a call did turns out to be another thing.
    pub(super) fn correct(&mut self, number: usize, act: Act) {
        self.ops[number].act = Some(act);
    }

    /// How many begins and ends there are.
    pub(super) fn place(&self) -> usize {
        self.marks.len()
    }

    /// Calls that had begun before a moment, the last ones.
    pub(super) fn told(&self, moment: usize) -> String {
        let begun = self.ops.iter().filter(|op| op.begun <= moment);
        let all: Vec<String> = begun
            .map(|op| format!("\n  {} to {:?}: {:?}", op.begun, op.ended, op.act))
            .collect();
        all[all.len().saturating_sub(40)..].concat()
    }
}

/// A log that is played back.
pub(super) struct Replay<'a> {
    log: &'a Log,
    /// Of each call the place of its end.
    ends: HashMap<usize, usize>,
    next: usize,
    pub(super) model: Model,
}

impl<'a> Replay<'a> {
    pub(super) fn of(log: &'a Log, before: &Model) -> Self {
        let ends = log.marks.iter().enumerate();
        let ends = ends.filter_map(|(place, mark)| match mark {
            Mark::Begin(_) => None,
            Mark::End(number) => Some((*number, place)),
        });
        Self {
            log,
            ends: ends.collect(),
            next: 0,
            model: before.clone(),
        }
    }

    /// Goes on to the moment in which so much had reached the disk: what began before it may be there,
    /// what has ended by then is promised.
    pub(super) fn until(&mut self, moment: usize) {
        while let Some(mark) = self.log.marks.get(self.next) {
            let (Mark::Begin(number) | Mark::End(number)) = *mark;
            let op = &self.log.ops[number];
            let has_ended = op.ended.is_some_and(|ended| ended <= moment);
            match mark {
                Mark::Begin(_) if op.begun >= moment && !has_ended => return,
                Mark::End(_) if !has_ended => return,
                _ => self.next += 1,
            }
            self.play(*mark);
        }
    }

    fn play(&mut self, mark: Mark) {
        let (Mark::Begin(number) | Mark::End(number)) = mark;
        let op = &self.log.ops[number];
        match (mark, &op.act) {
            (Mark::Begin(_), Some(act)) => self.model.begin(number, act, op.now_ns),
            (Mark::End(_), Some(_)) => self.model.acknowledge(number),
            (_, None) => {}
        }
    }

    /// What a commit may hold whose cut began and ended at these places: all that had returned before, and of
    /// what was called until then what a cut of the power leaves too. Goes on to the first call that was under
    /// way when it began.
    pub(super) fn cut(&mut self, (begun, ended): (usize, usize)) -> Model {
        while let Some(mark) = self.log.marks[..begun].get(self.next) {
            let (Mark::Begin(number) | Mark::End(number)) = *mark;
            if self.ends.get(&number).is_none_or(|end| *end >= begun) {
                break;
            }
            self.next += 1;
            self.play(*mark);
        }
        let mut model = self.model.clone();
        let all = usize::MAX;
        model.begin(all, &Act::SyncAll, 0);
        model.acknowledge(all);
        for mark in &self.log.marks[self.next..ended] {
            if let Mark::Begin(number) = *mark
                && let Op {
                    act: Some(act),
                    now_ns,
                    ..
                } = &self.log.ops[number]
            {
                model.begin(number, act, *now_ns);
            }
        }
        model
    }
}
