//! The bar of what is still to be published, or a line of what is waited for.
//!
//! Invariant: silent where stderr is no terminal. Called by the commands that flush, and by those that send transactions.

use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};

use indicatif::{ProgressBar, ProgressStyle};

/// A bar; gone when it is dropped.
pub(super) struct Progress(Option<Mutex<State>>);

struct State {
    bar: ProgressBar,
    most: u64,
}

impl Progress {
    /// A bar, if one is `wanted` and can be seen.
    pub(super) fn new(wanted: bool) -> Self {
        if !wanted || !std::io::stderr().is_terminal() {
            return Self(None);
        }
        let bar = ProgressBar::new(0);
        // Until there are bytes.
        restyle(&bar, "{msg}");
        Self(Some(Mutex::new(State { bar, most: 0 })))
    }

    /// Shows how far it is.
    pub(super) fn set(&self, what: &str, pending_bytes: u64) {
        let Some(state) = &self.0 else { return };
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.most == 0 && pending_bytes > 0 {
            restyle(&state.bar, "{msg}  {bar:30}  {bytes} of {total_bytes}");
        }
        state.most = state.most.max(pending_bytes);
        state.bar.set_length(state.most);
        state
            .bar
            .set_position(state.most.saturating_sub(pending_bytes));
        state.bar.set_message(what.to_owned());
    }
}

fn restyle(bar: &ProgressBar, form: &str) {
    if let Ok(style) = ProgressStyle::with_template(form) {
        bar.set_style(style);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(state) = &self.0 {
            let state = state.lock().unwrap_or_else(PoisonError::into_inner);
            state.bar.finish_and_clear();
        }
    }
}
