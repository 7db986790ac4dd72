//! User output: answers on stdout, everything else on stderr.
//!
//! Invariant: stdout carries only the answer; a closed pipe is no panic.

use std::io::{IsTerminal, Write};

use alloy::primitives::U256;
use clap::error::{ContextKind, ContextValue};
use comfy_table::{Table, presets};
use serde::Serialize;
use serde_json::json;

use super::help;
use crate::chain::coin;
use crate::exit::{Exit, Failure, fail};

pub(super) fn report(failure: &Failure, json: bool) {
    let line = if json {
        json!({ "error": failure.message, "exit": failure.exit }).to_string()
    } else {
        format!("pxfs: {}", failure.message)
    };
    // Without stderr there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Mistyped values of these options may hold a password or key, as may anything like a URL.
const SECRETIVE: [&str; 3] = ["--node", "--rpc-url", "--peer"];

/// clap's message without the user's URLs.
fn without_urls(fault: &clap::Error) -> String {
    let given = |kind| match fault.get(kind) {
        Some(ContextValue::String(text)) => text.as_str(),
        _ => "",
    };
    let (option, value) = (
        given(ContextKind::InvalidArg),
        given(ContextKind::InvalidValue),
    );
    let mut line = fault.render().to_string();
    for text in [option, value, given(ContextKind::InvalidSubcommand)] {
        if text.contains("//") || text.contains('@') {
            line = line.replace(text, "\u{2026}");
        }
    }
    let is_of = |name: &str| option == name || option.starts_with(&format!("{name} "));
    if SECRETIVE.into_iter().any(is_of) {
        line = line.replace(&format!("'{value}'"), "'\u{2026}'");
    }
    line
}

pub(super) fn usage_line(fault: &clap::Error) -> String {
    let text = without_urls(fault);
    let mut lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("Usage:"))
        .take_while(|line| !line.starts_with("For more information"));
    let first = lines.next().unwrap_or("this is not understood");
    let first = first.strip_prefix("error: ").unwrap_or(first);
    let rest: Vec<&str> = lines.map(|line| line.trim_start_matches("tip: ")).collect();
    let mut line = first.trim_end_matches(':').to_owned();
    if !rest.is_empty() {
        line.push_str(": ");
        line.push_str(&rest.join(", "));
    }
    line.push_str(" (see `pxfs --help`)");
    line
}

pub(super) fn json_answer(answer: &impl Serialize) -> anyhow::Result<Exit> {
    text_answer(&serde_json::to_string_pretty(answer)?)
}

pub(super) fn text_answer(text: &str) -> anyhow::Result<Exit> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        // `pxfs status | head -1` is no failure.
        Err(fault) if fault.kind() == std::io::ErrorKind::BrokenPipe => Ok(Exit::Ok),
        Err(fault) => Err(fault.into()),
        Ok(()) => Ok(Exit::Ok),
    }
}

pub(super) fn completions(shell: clap_complete::Shell) -> anyhow::Result<Exit> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut help::command(), "pxfs", &mut text);
    text_answer(String::from_utf8_lossy(&text).trim_end())
}

pub(super) fn manual(command: Option<&str>) -> anyhow::Result<Exit> {
    let page = match command {
        None => help::page(),
        Some(name) => match help::page_of(name) {
            Some(page) => page,
            None => fail!(Usage, "man: no command {name}: see `pxfs --help`"),
        },
    };
    let mut text = Vec::new();
    clap_mangen::Man::new(page).render(&mut text)?;
    text_answer(String::from_utf8_lossy(&text).trim_end())
}

/// A table with a heading, without borders and trailing blanks.
pub(super) fn table(heading: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(heading.to_vec());
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let text = table.to_string();
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.join("\n")
}

/// Bytes for people: `1.5 MiB`.
pub(super) fn bytes(count: u64) -> String {
    bytesize::ByteSize::b(count).display().iec().to_string()
}

/// How many of `parts` are done, rounded up; all only if everything is.
pub(super) fn share(done: u64, all: u64, parts: u64) -> u64 {
    if all == 0 {
        return 0;
    }
    if done >= all {
        return parts;
    }
    let part = (u128::from(done) * u128::from(parts)).div_ceil(u128::from(all));
    u64::try_from(part).unwrap_or(parts).min(parts - 1)
}

/// A bar of `width` characters, full only at the end.
pub(super) fn bar(done: u64, all: u64, width: u64) -> String {
    let full = share(done, all, width);
    (0..width).fold("[".to_owned(), |bar, at| {
        bar + if at < full { "#" } else { "." }
    }) + "]"
}

/// Decimal wei for people.
pub(super) fn coins(chain_id: u64, wei: &str) -> String {
    match wei.parse::<U256>() {
        Ok(wei) => coin::amount(chain_id, wei),
        Err(_) => format!("{wei} wei"),
    }
}

/// The failure if the user did not confirm `what`.
pub(super) fn cancelled(command: &str, what: &str) -> Failure {
    let line = if can_ask() {
        format!("{command}: cancelled")
    } else {
        format!("{command}: no terminal to ask on: to go on, repeat it with --yes ({what})")
    };
    Failure::new(Exit::Failure, line)
}

pub(super) fn can_ask() -> bool {
    std::io::stdin().is_terminal()
}

/// Asks on the terminal; false without one.
pub(super) fn confirm(question: &str) -> bool {
    if !can_ask() {
        return false;
    }
    let stdin = std::io::stdin();
    let _ = write!(std::io::stderr(), "{question} [y/N] ");
    let mut line = String::new();
    let read = stdin.read_line(&mut line);
    read.is_ok() && matches!(line.trim(), "y" | "Y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_in_binary_units() {
        assert_eq!(bytes(104_857_600), "100.0 MiB");
        assert_eq!(bytes(0), "0 B");
    }
}
