//! `pxfs status --watch`: repeats the status at each change.
//!
//! Invariant: checks at most once a second; Ctrl-C ends it at once, even if a drive hangs.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::Duration;

use super::locate;
use super::setup::Setup;
use super::status::{ask, render_all, together};
use crate::control::Entry;
use crate::exit::{Exit, Failure};
use crate::status::Status;

const PAUSE: Duration = Duration::from_secs(1);
/// Moves to the upper left corner, and clears the line and the screen.
const HOME: &str = "\x1b[H";
const END_OF_LINE: &str = "\x1b[K\n";
const END_OF_SCREEN: &str = "\x1b[J";

enum Event {
    /// The drives' answers.
    Told(Vec<Status>, Vec<Failure>),
    Interrupted,
}

pub(super) fn run(setup: &Setup, mountpoint: Option<&Path>) -> anyhow::Result<Exit> {
    let entries = locate::each(setup, mountpoint)?;
    if entries.is_empty() {
        return Err(locate::missing(setup, mountpoint).into());
    }
    let (tell, told) = mpsc::channel();
    await_interrupt(tell.clone())?;
    // Abandoned at the end, because a drive may take long.
    thread::spawn(move || look_again(&entries, &tell));
    let is_screen = io::stdout().is_terminal() && !setup.json;
    let (mut last, mut shown) = (Vec::new(), String::new());
    loop {
        match told.recv()? {
            Event::Interrupted => return Ok(Exit::Ok),
            Event::Told(all, silent) if all.is_empty() => {
                return match together(silent) {
                    Some(failure) => Err(failure.into()),
                    None => Ok(Exit::Ok),
                };
            }
            Event::Told(all, _) => {
                let text = if setup.json {
                    lines(&all)?
                } else {
                    render_all(&all)
                };
                let all = timeless(all);
                // Off screen, mere time is no change.
                let is_new = if is_screen {
                    text != shown
                } else {
                    all != last
                };
                if is_new && !print(&text, is_screen, setup.json)? {
                    return Ok(Exit::Ok);
                }
                (last, shown) = (all, text);
            }
        }
    }
}

fn await_interrupt(tell: Sender<Event>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    // Before the first check, so that none is missed.
    let mut interrupt = {
        let _within = runtime.enter();
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?
    };
    thread::spawn(move || {
        runtime.block_on(interrupt.recv());
        // It has ended by itself.
        let _ = tell.send(Event::Interrupted);
    });
    Ok(())
}

/// Until nobody listens, or nobody answers.
fn look_again(entries: &[Entry], tell: &Sender<Event>) {
    loop {
        let (all, silent) = ask(entries);
        let is_over = all.is_empty();
        if tell.send(Event::Told(all, silent)).is_err() || is_over {
            return;
        }
        thread::sleep(PAUSE);
    }
}

fn lines(all: &[Status]) -> serde_json::Result<String> {
    let lines: Result<Vec<String>, _> = all.iter().map(serde_json::to_string).collect();
    Ok(lines?.join("\n"))
}

/// Without what changes by itself.
fn timeless(mut all: Vec<Status>) -> Vec<Status> {
    for status in &mut all {
        status.uptime_s = 0;
        let chains = std::iter::once(&mut status.chain).chain(&mut status.chains);
        for chain in chains {
            (chain.age_s, chain.block) = (0, 0);
        }
    }
    all
}

/// False once nobody reads.
fn print(text: &str, is_screen: bool, is_json: bool) -> io::Result<bool> {
    let whole = match (is_screen, is_json) {
        (true, _) => {
            let lines = text.lines().map(|line| format!("{line}{END_OF_LINE}"));
            format!("{HOME}{}{END_OF_SCREEN}", lines.collect::<String>())
        }
        (false, true) => format!("{text}\n"),
        (false, false) => format!("{text}\n\n"),
    };
    let mut out = io::stdout().lock();
    match out.write_all(whole.as_bytes()).and_then(|()| out.flush()) {
        Err(fault) if fault.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        written => written.map(|()| true),
    }
}
