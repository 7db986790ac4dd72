//! The socket's client, without a runtime.
//!
//! Invariant: no wait exceeds [`PATIENCE`] without a frame; a working daemon sends progress every
//! second.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::{Reply, Request, Step, frame, registry};
use crate::exit::{Exit, Failure};

/// The longest silence of a healthy daemon.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection to a daemon, for one request.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
}

impl Client {
    /// Connects to the daemon at `socket`.
    ///
    /// # Errors
    /// The connection's: `NotFound` or `ConnectionRefused` if nobody listens.
    pub fn connect(socket: &Path) -> io::Result<Self> {
        let stream = registry::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream })
    }

    /// Sends a request, passes progress to `progress`, and returns the answer.
    ///
    /// # Errors
    /// The daemon's answer, or that there is none.
    pub fn ask<T: DeserializeOwned>(
        mut self,
        request: &Request,
        mut progress: impl FnMut(&Step),
    ) -> Result<T, Failure> {
        let silent = |fault: io::Error| {
            let why = match fault.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                    format!("no answer within {} s", PATIENCE.as_secs())
                }
                io::ErrorKind::UnexpectedEof => "it ended before it answered".to_owned(),
                _ => fault.to_string(),
            };
            Failure::new(Exit::Failure, format!("the running pxfs: {why}"))
        };
        frame::write(&mut self.stream, request).map_err(silent)?;
        loop {
            match frame::read(&mut self.stream).map_err(silent)? {
                Reply::Progress(step) => progress(&step),
                Reply::Failed { error, exit } => return Err(Failure::new(exit, error)),
                Reply::Done { answer } => {
                    return serde_json::from_value(answer)
                        .map_err(|fault| silent(io::Error::other(fault)));
                }
            }
        }
    }
}
