//! The wallet: one secp256k1 private key, from a keystore file, 64 hex digits, or a mnemonic
//! (BIP-39, English) with a derivation path (BIP-44).
//!
//! Invariant: the key is never printed, is wiped when dropped, and never comes from a file that the
//! group or others may read.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use alloy::primitives::{Address, B256};
use alloy::signers::local::PrivateKeySigner;
use bip32::{DerivationPath, XPrv};
use bip39::{Language, Mnemonic};
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use zeroize::Zeroizing;

use super::ChainError;
use super::keystore;

const FILE_MAX: u64 = 64 * 1024;

/// The shortest mnemonic, words.
const WORDS_MIN: usize = 12;

/// The default key of a mnemonic (BIP-44: Ethereum's first account).
const FIRST_KEY: &str = "m/44'/60'/0'/0/0";

/// How to open a wallet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Opening<'a> {
    /// The keystore's password, or the mnemonic's passphrase.
    pub password: Option<&'a str>,
    /// The key of a mnemonic; `m/44'/60'/0'/0/0` by default.
    pub derivation_path: Option<&'a str>,
}

/// A private key that can sign, and from which other keys are derived.
pub struct Wallet {
    secret: Zeroizing<[u8; 32]>,
    signer: PrivateKeySigner,
}

impl fmt::Debug for Wallet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Wallet({})", self.address())
    }
}

impl Wallet {
    /// Opens the wallet in `path`: a keystore V3 file (with `password`) or 64 hex digits.
    ///
    /// # Errors
    /// [`ChainError::Wallet`] if the file is missing, readable by others, or no wallet;
    /// [`ChainError::WrongPassword`] if a keystore's password is wrong or missing.
    pub fn open(path: &Path, password: Option<&str>) -> Result<Self, ChainError> {
        let opening = Opening {
            password,
            ..Opening::default()
        };
        Self::open_with(path, opening)
    }

    /// The same, with more options.
    ///
    /// # Errors
    /// As [`Wallet::open`].
    pub fn open_with(path: &Path, opening: Opening<'_>) -> Result<Self, ChainError> {
        Self::read(&read_private(path)?, opening, path)
    }

    /// Parses the wallet in `text`, which came from `path`.
    ///
    /// # Errors
    /// [`ChainError::Wallet`] if it is no wallet, [`ChainError::WrongPassword`].
    pub fn read(text: &str, opening: Opening<'_>, path: &Path) -> Result<Self, ChainError> {
        let is_words = text.split_whitespace().count() >= WORDS_MIN;
        if is_words && !text.trim_start().starts_with('{') {
            return Self::from_words(text.trim(), opening, path);
        }
        if let Some(derived) = opening.derivation_path {
            let what =
                format!("is no mnemonic, and has no key {derived}: leave out --derivation-path");
            return Err(refuse(path, &what));
        }
        let secret = if text.trim_start().starts_with('{') {
            keystore::open(text, opening.password).map_err(|fault| fault.at(path))?
        } else {
            parse_hex(text.trim()).ok_or_else(|| {
                refuse(
                    path,
                    "is no keystore, no 64 hex digits, and no mnemonic: give another file",
                )
            })?
        };
        Self::from_secret(secret).ok_or_else(|| refuse(path, "holds no valid private key"))
    }

    /// No error shows a word, because most may be right.
    fn from_words(words: &str, opening: Opening<'_>, path: &Path) -> Result<Self, ChainError> {
        let words = Mnemonic::parse_in(Language::English, words).map_err(|_| {
            let what = "holds words that are no mnemonic (BIP-39, English, 12 to 24 words): copy them again";
            refuse(path, what)
        })?;
        let derived = opening.derivation_path.unwrap_or(FIRST_KEY);
        let derived: DerivationPath = derived.parse().map_err(|_| {
            let what = format!("--derivation-path {derived}: say for example m/44'/60'/0'/0/1");
            ChainError::Wallet(what)
        })?;
        let seed = Zeroizing::new(words.to_seed(opening.password.unwrap_or_default()));
        let key = XPrv::derive_from_path(seed.as_slice(), &derived).ok();
        let secret = key.map(|key| Zeroizing::new(key.to_bytes()));
        let wallet = secret.and_then(Self::from_secret);
        wallet.ok_or_else(|| refuse(path, "holds no valid private key"))
    }

    /// Creates a random wallet in `path` (mode 0600): as a keystore with a `password`, else as 64 hex
    /// digits. The file appears whole or not at all, is durable on return, and never overwrites another.
    ///
    /// # Errors
    /// [`ChainError::Wallet`] if the file exists or cannot be written.
    pub fn create(path: &Path, password: Option<&str>) -> Result<Self, ChainError> {
        let wallet = Self::random().map_err(|fault| refuse(path, &fault))?;
        let text = match password {
            Some(password) => keystore::seal(&wallet.secret, wallet.address(), password)
                .map_err(|fault| refuse(path, &fault))?,
            None => Zeroizing::new(HEXLOWER.encode(wallet.secret.as_slice()) + "\n"),
        };
        write_new(path, text.as_bytes()).map_err(|fault| match fault.kind() {
            ErrorKind::AlreadyExists => refuse(path, "exists already: give another path"),
            _ => refuse(path, &format!("cannot be written: {fault}")),
        })?;
        Ok(wallet)
    }

    /// A random wallet in memory only.
    ///
    /// # Errors
    /// One line, if the system gives no randomness.
    pub fn random() -> Result<Self, String> {
        // A random number is an invalid key once in 2^128.
        for _ in 0..4 {
            let mut secret = Zeroizing::new([0; 32]);
            getrandom::fill(secret.as_mut_slice())
                .map_err(|fault| format!("no randomness: {fault}"))?;
            if let Some(wallet) = Self::from_secret(secret) {
                return Ok(wallet);
            }
        }
        Err("no randomness".to_owned())
    }

    /// The wallet of a private key; `None` if it is zero or above the curve's order.
    #[must_use]
    pub fn from_secret(secret: Zeroizing<[u8; 32]>) -> Option<Self> {
        let signer = PrivateKeySigner::from_bytes(&B256::from(*secret)).ok()?;
        Some(Self { secret, signer })
    }

    /// The account's address.
    #[must_use]
    pub fn address(&self) -> Address {
        self.signer.address()
    }

    /// The private key, only for deriving other keys (HKDF).
    #[must_use]
    pub fn secret(&self) -> &[u8; 32] {
        &self.secret
    }

    /// Signs transactions and digests.
    #[must_use]
    pub fn signer(&self) -> &PrivateKeySigner {
        &self.signer
    }
}

pub(super) fn refuse(path: &Path, what: &str) -> ChainError {
    ChainError::Wallet(format!("{} {what}", path.display()))
}

fn parse_hex(text: &str) -> Option<Zeroizing<[u8; 32]>> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let bytes = Zeroizing::new(HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).ok()?);
    let mut secret = Zeroizing::new([0; 32]);
    if bytes.len() != secret.len() {
        return None;
    }
    secret.copy_from_slice(&bytes);
    Some(secret)
}

fn read_private(path: &Path) -> Result<Zeroizing<String>, ChainError> {
    let broken = |fault: std::io::Error| match fault.kind() {
        ErrorKind::NotFound => refuse(path, "does not exist: give --wallet FILE"),
        _ => refuse(path, &format!("cannot be read: {fault}")),
    };
    // Non-blocking: a FIFO given by mistake must not hang us.
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(broken)?;
    let meta = file.metadata().map_err(broken)?;
    if !meta.is_file() {
        return Err(refuse(path, "is not a file"));
    }
    if shared(&file, meta.mode()) {
        return Err(refuse(
            path,
            &format!(
                "may be read by group or others: run `chmod 600 {}`",
                path.display()
            ),
        ));
    }
    // Read whole at once, so that no growing buffer leaves copies.
    let mut bytes = Zeroizing::new(Vec::with_capacity(FILE_MAX as usize + 1));
    let mut limited = Read::by_ref(&mut file).take(FILE_MAX + 1);
    limited.read_to_end(&mut bytes).map_err(broken)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(refuse(path, "is too large for a wallet"));
    }
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(_) => Err(refuse(
            path,
            "is no keystore, no 64 hex digits, and no mnemonic",
        )),
    }
}

/// Whether anybody but the owner, root and this user can use the file. systemd grants a service
/// user its credential by an ACL entry; then the mode's group bits are the ACL's mask (acl(5)), so
/// the ACL decides.
fn shared(file: &File, mode: u32) -> bool {
    if mode & 0o007 != 0 {
        return true;
    }
    if mode & 0o070 == 0 {
        return false;
    }
    let mut acl = [0; 1024];
    match rustix::fs::fgetxattr(file, "system.posix_acl_access", &mut acl[..]) {
        Ok(length) => {
            let uid = rustix::process::getuid().as_raw();
            acl.get(..length).is_none_or(|acl| acl_shared(acl, uid))
        }
        Err(_) => true,
    }
}

/// Reads `system.posix_acl_access`: u32le version 2, then entries of u16le tag, u16le permissions,
/// u32le id (linux/posix_acl_xattr.h). True if another user or any group has a permission.
fn acl_shared(acl: &[u8], uid: u32) -> bool {
    const OWNER: u16 = 0x01;
    const USER: u16 = 0x02;
    const MASK: u16 = 0x10;
    let Some((version, entries)) = acl.split_first_chunk::<4>() else {
        return true;
    };
    if u32::from_le_bytes(*version) != 2 || entries.len() % 8 != 0 {
        return true;
    }
    entries.chunks_exact(8).any(|entry| {
        let [t0, t1, p0, p1, i0, i1, i2, i3] = *entry else {
            return true;
        };
        let id = u32::from_le_bytes([i0, i1, i2, i3]);
        let own = match u16::from_le_bytes([t0, t1]) {
            OWNER | MASK => true,
            USER => id == uid || id == 0,
            _ => false,
        };
        !own && u16::from_le_bytes([p0, p1]) != 0
    })
}

fn write_new(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut tag = [0; 8];
    getrandom::fill(&mut tag).map_err(|fault| std::io::Error::other(fault.to_string()))?;
    let draft = folder.join(format!(".wallet-{}", HEXLOWER.encode(&tag)));
    let written = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&draft)?;
        file.write_all(content)?;
        file.sync_all()?;
        // A link, unlike a rename, never replaces an existing file.
        std::fs::hard_link(&draft, path)
    })();
    let cleaned = std::fs::remove_file(&draft);
    written?;
    cleaned?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests;
