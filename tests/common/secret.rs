//! Looks for a private key in what was said and written, in every form that it could come out in.
//!
//! Shared, as a file, by the suites.

use std::fs;
use std::path::{Path, PathBuf};

use alloy::hex;
use data_encoding::{BASE64_NOPAD, HEXUPPER};

/// The levels of the log, the last of all libraries below too, and its forms.
pub(crate) const LEVELS: [&str; 6] = [
    "error",
    "warn",
    "info",
    "debug",
    "trace",
    "trace,pxfs=trace",
];
pub(crate) const FORMS: [&str; 2] = ["text", "json"];

/// The key as hex, as bytes, as base64, and as a debugger prints bytes.
fn forms(key: &str) -> [Vec<u8>; 5] {
    let raw = hex::decode(key).expect("hex");
    let listed = format!("{raw:?}");
    [
        key.as_bytes().to_vec(),
        HEXUPPER.encode(&raw).into_bytes(),
        BASE64_NOPAD.encode(&raw).into_bytes(),
        listed.trim_matches(['[', ']']).as_bytes().to_vec(),
        raw,
    ]
}

/// Which form of `key` stands in `said`, if one.
fn found(key: &str, said: &[u8]) -> Option<Vec<u8>> {
    let mut forms = forms(key).into_iter();
    forms.find(|form| said.windows(form.len()).any(|bytes| bytes == form))
}

/// Nothing of `said` has `key`; something was said.
#[track_caller]
pub(crate) fn assert_nowhere(key: &str, said: &[Vec<u8>]) {
    assert!(said.iter().any(|said| !said.is_empty()), "nothing was said");
    for said in said {
        assert!(
            found(key, said).is_none(),
            "{}",
            String::from_utf8_lossy(said)
        );
    }
}

/// What stands in all files below `folder`, but `but` (the wallet's own).
pub(crate) fn files_below(folder: &Path, but: &Path) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let mut left: Vec<PathBuf> = vec![folder.to_owned()];
    while let Some(path) = left.pop() {
        let kind = fs::symlink_metadata(&path).expect("there").file_type();
        if kind.is_dir() {
            let entries = fs::read_dir(&path).expect("a folder");
            left.extend(entries.map(|entry| entry.expect("an entry").path()));
        } else if kind.is_file() && path != but {
            all.push(fs::read(&path).expect("a file"));
        }
    }
    all
}

#[test]
fn a_key_is_found_in_each_form() {
    let key = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
    for form in forms(key) {
        let said = [b"level=trace key=", &form[..], b" and more"].concat();
        assert!(found(key, &said).is_some(), "{form:?}");
    }
    // The form that `base64` prints.
    let known = b"rAl0vsOaF+NrpKa00jj/lEustHjL7V78rnhNe/Ty/4A=";
    assert!(found(key, known).is_some());
    assert!(found(key, b"0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266").is_none());
}
