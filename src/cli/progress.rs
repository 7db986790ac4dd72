//! A long command's progress: bytes, rate, time left.
//!
//! Invariant: silent without a terminal; a bar is full only at the end.

use std::fmt::Write;
use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::Duration;

use indicatif::{HumanDuration, ProgressBar, ProgressState, ProgressStyle};
use pxfs_base::lock;

use super::output::{bar, share};
use crate::control::Amount;

/// Keeps the line within 80 columns.
const WIDTH: u64 = 16;
/// How often the clock is shown, progress or not.
const TICK: Duration = Duration::from_millis(500);

/// What is known of the amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Only the step.
    Words,
    /// And the bytes done, and the time.
    Bytes,
    /// And the total, and the time left.
    Bar,
    /// And an estimated total.
    About,
}

/// A line on the terminal; removed on drop.
pub(super) struct Progress(Option<Mutex<State>>);

struct State {
    bar: ProgressBar,
    form: Form,
}

impl Form {
    fn of(amount: &Amount) -> Self {
        match (amount.pending_bytes, amount.done_bytes) {
            (0, 0) => Self::Words,
            (0, _) => Self::Bytes,
            _ if amount.is_about => Self::About,
            _ => Self::Bar,
        }
    }

    fn style(self) -> ProgressStyle {
        let form = match self {
            Self::Words => "{msg}",
            Self::Bytes => "{msg}  {binary_bytes}  {binary_bytes_per_sec}  {elapsed}",
            Self::Bar => {
                "{msg}\n{filled}  {binary_bytes} of {binary_total_bytes}  {binary_bytes_per_sec}  {left}"
            }
            Self::About => {
                "{msg}\n{filled}  {binary_bytes} of about {binary_total_bytes}  {binary_bytes_per_sec}  {left}"
            }
        };
        let style = ProgressStyle::with_template(form);
        let style = style.unwrap_or_else(|_| ProgressStyle::default_spinner());
        let style = style.with_key("left", |state: &ProgressState, out: &mut dyn Write| {
            // Before the start nothing is known.
            if state.pos() > 0 {
                let _ = write!(out, "{:#} left", HumanDuration(state.eta()));
            }
        });
        style.with_key("filled", |state: &ProgressState, out: &mut dyn Write| {
            let (done, all) = (state.pos(), state.len().unwrap_or(0));
            // An unwritable line is skipped.
            let _ = write!(
                out,
                "{} {:>3} %",
                bar(done, all, WIDTH),
                share(done, all, 100)
            );
        })
    }
}

impl Progress {
    /// A line, if `wanted` and visible.
    pub(super) fn new(wanted: bool) -> Self {
        if !wanted || !std::io::stderr().is_terminal() {
            return Self(None);
        }
        let (bar, form) = (ProgressBar::new(0), Form::Words);
        bar.set_style(form.style());
        bar.enable_steady_tick(TICK);
        Self(Some(Mutex::new(State { bar, form })))
    }

    pub(super) fn set(&self, what: &str, amount: Amount) {
        let Some(state) = &self.0 else { return };
        let mut state = lock(state);
        let form = Form::of(&amount);
        if form != state.form {
            state.form = form;
            state.bar.set_style(form.style());
        }
        let all = amount.done_bytes.saturating_add(amount.pending_bytes);
        state.bar.set_length(all);
        state.bar.set_position(amount.done_bytes);
        state.bar.set_message(what.to_owned());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(state) = &self.0 {
            let state = lock(state);
            state.bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_shown_only_of_what_is_known() {
        let form = |done, total| Form::of(&Amount::of(done, total));
        assert_eq!(form(0, 0), Form::Words);
        assert_eq!(form(7, 0), Form::Bytes);
        assert_eq!(form(0, 9), Form::Bar);
        // More than estimated.
        assert_eq!(Form::of(&Amount::of_about(8, 9)), Form::About);
        assert_eq!(Form::of(&Amount::of_about(10, 9)), Form::Bytes);
    }
}
