//! A daemon's signals: TERM and INT end it, HUP reloads, USR1 reports.

use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// Flush, unmount, end.
    End,
    /// Read the configuration again.
    Reload,
    /// Log the full status.
    Report,
}

pub(crate) struct Signals {
    term: Stream,
    int: Stream,
    hup: Stream,
    usr1: Stream,
}

impl Signals {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
            usr1: signal(SignalKind::user_defined1())?,
        })
    }

    pub(crate) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.term.recv() => Signal::End,
            _ = self.int.recv() => Signal::End,
            _ = self.hup.recv() => Signal::Reload,
            _ = self.usr1.recv() => Signal::Report,
        }
    }

    pub(crate) async fn end(&mut self) {
        while self.next().await != Signal::End {}
    }
}
