//! The exit codes, and how an error becomes one.
//!
//! Invariant: a released code keeps its meaning, and a retired one is never used again. Every failure of every
//! command passes through [`of`]; answers over the daemon's socket carry the same codes.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::chain::ChainError;
use crate::journal::JournalError;
use crate::mount::MountError;
use crate::names::NameError;
use crate::store::StoreError;

/// Why the process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "u8", from = "u8")]
#[repr(u8)]
pub enum Exit {
    /// All is well.
    Ok = 0,
    /// Any other failure.
    Failure = 1,
    /// The command line, a variable or the configuration file cannot be used as it is.
    Usage = 2,
    /// The chain is unreachable, or not the one that was asked for.
    Chain = 3,
    /// The storage node is unreachable, or refused.
    Node = 4,
    /// No such token, or not ours.
    Token = 5,
    /// A transaction failed or was reverted.
    Transaction = 6,
    /// Not everything is published; it is kept, and sent after the next mount.
    Unpublished = 7,
    /// Wrong key or passphrase.
    Key = 8,
    /// Damage was found.
    Damage = 9,
    /// Not mounted, or already mounted.
    Mounted = 10,
    /// Another pxfs owns the state folder.
    Locked = 11,
    /// The oracle answered with an error, or not in time.
    Oracle = 12,
}

impl From<Exit> for u8 {
    fn from(exit: Exit) -> Self {
        exit as Self
    }
}

impl From<u8> for Exit {
    /// A code of a later version reads as [`Exit::Failure`].
    fn from(code: u8) -> Self {
        match code {
            0 => Self::Ok,
            2 => Self::Usage,
            3 => Self::Chain,
            4 => Self::Node,
            5 => Self::Token,
            6 => Self::Transaction,
            7 => Self::Unpublished,
            8 => Self::Key,
            9 => Self::Damage,
            10 => Self::Mounted,
            11 => Self::Locked,
            12 => Self::Oracle,
            _ => Self::Failure,
        }
    }
}

/// An error whose exit code is known where it is made: one line that says what failed, on what,
/// and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The code that the process ends with.
    pub exit: Exit,
    /// The line.
    pub message: String,
}

impl Failure {
    /// A failure with its code and line.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
        }
    }

    /// What `error` is for the user: its line and its code.
    #[must_use]
    pub fn from_error(error: &anyhow::Error) -> Self {
        Self::new(of(error), one_line(error))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Ends the function with a [`Failure`].
macro_rules! fail {
    ($exit:ident, $($line:tt)+) => {
        return Err($crate::exit::Failure::new(
            $crate::exit::Exit::$exit,
            format!($($line)+),
        ).into())
    };
}
pub(crate) use fail;

/// The exit code of an error: that of the first cause that has a meaning of its own.
#[must_use]
pub fn of(error: &anyhow::Error) -> Exit {
    error
        .chain()
        .find_map(|cause| {
            cause
                .downcast_ref::<Failure>()
                .map(|failure| failure.exit)
                .or_else(|| cause.downcast_ref().map(of_chain))
                .or_else(|| cause.downcast_ref().map(of_store))
                .or_else(|| cause.downcast_ref().map(of_names))
                .or_else(|| cause.downcast_ref().map(of_journal))
        })
        .unwrap_or(Exit::Failure)
}

/// All causes of an error in one line, with no cause said twice.
#[must_use]
pub fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = without_number(&cause.to_string().replace('\n', " "));
        if line.ends_with(&text) {
            continue;
        }
        if !line.is_empty() {
            line.push_str(": ");
        }
        line.push_str(&text);
    }
    line
}

/// `text` without the numbers of the system's errors: their words stand before them.
#[must_use]
pub fn without_number(text: &str) -> String {
    let mut parts = text.split(" (os error ");
    let mut words = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(|digit: char| digit.is_ascii_digit());
        match rest.strip_prefix(')') {
            Some(rest) if rest.len() < part.len() - 1 => words.push_str(rest),
            _ => {
                words.push_str(" (os error ");
                words.push_str(part);
            }
        }
    }
    words
}

/// The exit code and line of a mount that is refused.
#[must_use]
pub fn of_mount(error: MountError) -> Failure {
    let exit = match &error {
        MountError::NotFound(_)
        | MountError::NotDirectory(_)
        | MountError::NotEmpty(_)
        | MountError::Option { .. } => Exit::Usage,
        MountError::AlreadyMounted { .. } => Exit::Mounted,
        MountError::NoFusermount(_)
        | MountError::NoDevice(_)
        | MountError::Denied { .. }
        | MountError::Busy(_)
        | MountError::Io { .. } => Exit::Failure,
    };
    Failure::new(exit, error.to_string())
}

fn of_chain(error: &ChainError) -> Exit {
    match error {
        ChainError::Missing(_) => Exit::Token,
        ChainError::Transient(_) | ChainError::Permanent(_) | ChainError::Unserved(_) => {
            Exit::Chain
        }
        ChainError::Reverted(_) | ChainError::Signer(_) => Exit::Transaction,
        ChainError::Oracle(_) => Exit::Oracle,
        ChainError::Wallet(_) => Exit::Usage,
        ChainError::WrongPassword(_) => Exit::Key,
        ChainError::Busy(_) => Exit::Locked,
        ChainError::Damaged(_) | ChainError::Outbox(_) => Exit::Failure,
    }
}

fn of_journal(error: &JournalError) -> Exit {
    match error {
        JournalError::Corrupt(_) => Exit::Damage,
        JournalError::NoRoom | JournalError::TooLarge | JournalError::Disk(_) => Exit::Failure,
    }
}

fn of_store(error: &StoreError) -> Exit {
    match error {
        StoreError::Transient(_) | StoreError::Away(_) | StoreError::Permanent(_) => Exit::Node,
        StoreError::Missing(_) | StoreError::Corrupt(..) => Exit::Damage,
    }
}

fn of_names(error: &NameError) -> Exit {
    match error {
        NameError::Transient(_) | NameError::Permanent(_) | NameError::Missing(_) => Exit::Node,
        NameError::Corrupt(..) => Exit::Damage,
        NameError::Stale { .. } => Exit::Failure,
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn errors_of_the_system_are_told_in_words() {
        let fault = std::io::Error::from_raw_os_error(2);
        let line = format!("/a: {fault}: name another");
        assert_eq!(
            without_number(&line),
            "/a: No such file or directory: name another"
        );
        for plain in [
            "nothing",
            "a (os error b) c",
            " (os error ",
            "(os error 1)",
            " (os error )",
        ] {
            assert_eq!(without_number(plain), plain);
        }
    }

    #[test]
    fn scripts_can_rely_on_the_numbers() {
        let table = [
            (Exit::Ok, 0),
            (Exit::Failure, 1),
            (Exit::Usage, 2),
            (Exit::Chain, 3),
            (Exit::Node, 4),
            (Exit::Token, 5),
            (Exit::Transaction, 6),
            (Exit::Unpublished, 7),
            (Exit::Key, 8),
            (Exit::Damage, 9),
            (Exit::Mounted, 10),
            (Exit::Locked, 11),
            (Exit::Oracle, 12),
        ];
        for (exit, code) in table {
            assert_eq!((u8::from(exit), Exit::from(code)), (code, exit));
        }
        assert_eq!(Exit::from(200), Exit::Failure);
    }

    #[test]
    fn context_around_an_error_keeps_its_code() {
        let error = Err::<(), _>(ChainError::Reverted("mint: not enough".into()))
            .context("mint of package 2")
            .unwrap_err();
        assert_eq!(of(&error), Exit::Transaction);
        assert_eq!(
            one_line(&error),
            "mint of package 2: transaction: mint: not enough"
        );
    }

    #[test]
    fn an_error_is_one_line_whatever_its_cause_printed() {
        let error = anyhow::anyhow!("first\nsecond").context("outer");
        assert_eq!(one_line(&error), "outer: first second");
        assert_eq!(of(&error), Exit::Failure);
    }
}
