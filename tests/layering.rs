//! Holds the source to its layers: imports go one way, and some things are said in one place only.
//!
//! It reads `src/**/*.rs` as text, without comments, string literals and test code. Unit tests may
//! reach across layers; what ships may not. Each rule is shown able to fail on sample text below.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A folder (or file) of `src/` and the crate modules that it may name. A folder may always name itself.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("clock", &[]),
    ("durable", &[]),
    ("fault", &[]),
    ("text", &[]),
    ("status", &["types"]),
    ("mount", &["fs", "types", "clock"]),
    (
        "fs",
        &["journal", "pack", "cache", "types", "clock", "text"],
    ),
    ("journal", &["types", "clock", "durable"]),
    ("pack", &["types"]),
    ("rpc", &["text"]),
    (
        "store",
        &["rpc", "pack", "types", "clock", "durable", "fault", "text"],
    ),
    (
        "names",
        &["rpc", "pack", "types", "clock", "durable", "fault", "text"],
    ),
    (
        "chain",
        &[
            "store", "names", "pack", "types", "clock", "durable", "text",
        ],
    ),
    ("cache", &["store", "pack", "types", "clock", "durable"]),
    (
        "fetch",
        &["fs", "journal", "store", "pack", "cache", "types", "clock"],
    ),
    (
        "publish",
        &[
            "fetch", "fs", "journal", "pack", "store", "names", "chain", "types", "clock",
        ],
    ),
];

/// Plain values of a module that another may name, though nothing else of it.
const VALUES: &[(&str, &str)] = &[
    ("pack", "crate::store::Block"),
    ("fs", "crate::chain::Accounting"),
    ("fs", "crate::chain::TokenInfo"),
    ("journal", "crate::pack::Child"),
    ("journal", "crate::pack::entry::"),
];

/// Modules at the top, which put the parts together: they may name any.
const TOP: &[&str] = &[
    "lib",
    "main",
    "run",
    "cli",
    "config",
    "control",
    "exit",
    "metrics",
    "node",
    "contracts",
    "context",
    "tokens",
    "billing",
    "archive",
    "oracle",
    "signals",
];

/// A word, and the files of `src/` (or folders, ending in `/`) outside which it must not appear.
const ONLY_IN: &[(&str, &[&str])] = &[
    // The synchronous half knows no runtime: it appears wherever async code is at home.
    (
        "tokio::",
        &[
            "run.rs",
            "run/",
            "node/",
            "contracts/",
            "context/",
            "tokens/",
            "billing/",
            "archive/",
            "oracle/",
            "signals.rs",
            "cli/",
            "control.rs",
            "control/",
            "clock/",
            "chain/",
            "fault.rs",
            "rpc.rs",
            "rpc/",
            "store/",
            "names/",
            "publish/",
            "fetch/",
            "fetch.rs",
            "mount/",
            "main.rs",
            "metrics.rs",
        ],
    ),
    ("fuser::", &["mount/"]),
    ("redb::", &["journal/"]),
    ("revm::", &["chain/"]),
    ("sol!", &["chain/contract.rs", "chain/contract/"]),
];

/// The one table of errno constants.
const ERRNO_TABLE: &str = "mount/errno.rs";

/// Concrete parts: only `run.rs` and their own folder build them; everybody else holds the trait.
const CONCRETE: &[(&str, &str)] = &[
    ("EmbeddedStore", "store/"),
    ("EmbeddedNames", "names/"),
    ("EmbeddedChain", "chain/"),
    ("MemoryStore", "store/"),
    ("MemoryNames", "names/"),
    ("RpcStore", "store/"),
    ("FaultStore", "store/"),
    ("RpcNames", "names/"),
    ("FaultNames", "names/"),
];

/// Lines of one file, without its tests, above which it has to be split.
const LONGEST: usize = 700;

/// One file of the source: its path below `src/`, and its text as the rules see it.
struct Source {
    path: String,
    text: String,
}

/// Removes comments and the content of string literals, keeping line ends; then removes every item
/// under `#[cfg(test)]`.
fn strip(text: &str) -> String {
    strip_tests(&strip_comments(text))
}

/// Replaces comments and string contents by nothing, keeping line ends.
fn strip_comments(text: &str) -> String {
    let bytes: Vec<char> = text.chars().collect();
    let at = |i: usize| bytes.get(i).copied().unwrap_or('\0');
    let mut out = String::new();
    let mut i = 0;
    while i < bytes.len() {
        let c = at(i);
        if c == '/' && at(i + 1) == '/' {
            while i < bytes.len() && at(i) != '\n' {
                i += 1;
            }
        } else if c == '/' && at(i + 1) == '*' {
            let mut depth = 1;
            i += 2;
            while i < bytes.len() && depth > 0 {
                match (at(i), at(i + 1)) {
                    ('/', '*') => {
                        depth += 1;
                        i += 1;
                    }
                    ('*', '/') => {
                        depth -= 1;
                        i += 1;
                    }
                    ('\n', _) => out.push('\n'),
                    _ => {}
                }
                i += 1;
            }
        } else if c == 'r' && raw_hashes(&bytes, i).is_some() {
            let hashes = raw_hashes(&bytes, i).unwrap_or(0);
            i += 2 + hashes;
            while i < bytes.len() && !(at(i) == '"' && (1..=hashes).all(|n| at(i + n) == '#')) {
                if at(i) == '\n' {
                    out.push('\n');
                }
                i += 1;
            }
            i += 1 + hashes;
            out.push_str("\"\"");
        } else if c == '"' {
            i += 1;
            while i < bytes.len() && at(i) != '"' {
                if at(i) == '\n' {
                    out.push('\n');
                }
                i += if at(i) == '\\' { 2 } else { 1 };
            }
            i += 1;
            out.push_str("\"\"");
        } else if c == '\'' && at(i + 1) == '\\' {
            // A character such as '\'' or '\\'.
            i += 3;
            while i < bytes.len() && at(i) != '\'' {
                i += 1;
            }
            i += 1;
        } else if c == '\'' && at(i + 2) == '\'' {
            i += 3;
        } else {
            out.push(c);
            i += 1;
        }
    }
    out
}

/// The number of `#` if a raw string begins at `i`.
fn raw_hashes(text: &[char], i: usize) -> Option<usize> {
    let before = i
        .checked_sub(1)
        .and_then(|b| text.get(b))
        .copied()
        .unwrap_or(' ');
    let word = |c: char| c.is_alphanumeric() || c == '_';
    if word(before) && before != 'b' {
        return None;
    }
    let hashes = text.iter().skip(i + 1).take_while(|c| **c == '#').count();
    (text.get(i + 1 + hashes) == Some(&'"')).then_some(hashes)
}

/// Removes the item that follows each `#[cfg(test)]`: up to its closing brace, or its semicolon.
fn strip_tests(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("#[cfg(test)]") {
        out.push_str(&rest[..at]);
        let item = &rest[at..];
        let mut depth = 0usize;
        let mut end = item.len();
        for (i, c) in item.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 {
                        end = i + 1;
                        break;
                    }
                }
                ';' if depth == 0 => {
                    end = i + 1;
                    break;
                }
                _ => {}
            }
        }
        rest = &item[end..];
    }
    out.push_str(rest);
    out
}

/// The modules that `text` names behind `crate::`, also in groups: `use crate::{fs::Volume, types}`.
fn crate_modules(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, prefix) in text.match_indices("crate::") {
        let before = text[..at].chars().next_back().unwrap_or(' ');
        if before.is_alphanumeric() || before == '_' || before == '$' {
            continue;
        }
        let path = &text[at + prefix.len()..];
        if let Some(group) = path.strip_prefix('{') {
            let mut depth = 0usize;
            let mut first = String::new();
            let mut name_ended = false;
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => {
                        found.push(std::mem::take(&mut first));
                        name_ended = false;
                    }
                    c if depth == 0
                        && !name_ended
                        && (c.is_alphanumeric() || c == '_' || c == '*') =>
                    {
                        first.push(c);
                    }
                    ':' => name_ended = true,
                    _ => {}
                }
            }
            found.push(first);
        } else {
            let name: String = path
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_' || *c == '*')
                .collect();
            found.push(name);
        }
    }
    found.retain(|name| !name.is_empty());
    found
}

/// Whether `word` stands in `text` on its own, not as the end or the beginning of a longer name.
fn names(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back().unwrap_or(' ');
        let after = text[at + word.len()..].chars().next().unwrap_or(' ');
        let open_end = word.ends_with(':') || word.ends_with('!');
        !(before.is_alphanumeric() || before == '_')
            && (open_end || !(after.is_alphanumeric() || after == '_'))
    })
}

/// `text` without the path `value`, where it is not the beginning of a longer name.
fn without(text: &str, value: &str) -> String {
    let mut parts = text.split(value);
    let mut out = parts.next().unwrap_or("").to_owned();
    for part in parts {
        let goes_on = part.starts_with(|c: char| c.is_alphanumeric() || c == '_');
        if goes_on && !value.ends_with(':') {
            out.push_str(value);
        }
        out.push_str(part);
    }
    out
}

/// Whether `text` names an errno constant: `libc::EDQUOT`, in `use libc::{EIO, …}`, or fuser's
/// `Errno::EIO`. (rustix leaves the first E out; it is used to look at local errors.)
fn names_errno(text: &str) -> bool {
    let constant = |name: &str| {
        name.len() > 1
            && name.starts_with('E')
            && name
                .chars()
                .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit())
    };
    let follows = |(at, prefix): (usize, &str)| {
        let path = &text[at + prefix.len()..];
        let path = match path.strip_prefix('{') {
            Some(group) => group.split('}').next().unwrap_or(""),
            None => {
                let end = path
                    .find(|c: char| !(c.is_alphanumeric() || c == '_'))
                    .unwrap_or(path.len());
                &path[..end]
            }
        };
        path.split(',').any(|name| constant(name.trim()))
    };
    text.match_indices("libc::").any(follows)
        || (names(text, "fuser") && text.match_indices("Errno::").any(follows))
}

/// The module of a file: its first folder, or its own name at the top.
fn module_of(path: &str) -> &str {
    path.split('/')
        .next()
        .unwrap_or(path)
        .trim_end_matches(".rs")
}

/// Whether `path` is one of `places`, or below one of them.
fn within(path: &str, places: &[&str]) -> bool {
    places
        .iter()
        .any(|place| path == *place || (place.ends_with('/') && path.starts_with(place)))
}

/// Every broken rule, as `path: what is wrong`.
fn violations(sources: &[Source]) -> Vec<String> {
    let layers: BTreeMap<&str, &[&str]> = MAY_IMPORT.iter().copied().collect();
    let mut found = Vec::new();
    for Source { path, text } in sources {
        let module = module_of(path);
        let mut imports = text.clone();
        for (_, value) in VALUES.iter().filter(|(of, _)| *of == module) {
            imports = without(&imports, value);
        }
        let named = crate_modules(&imports);
        if named.iter().any(|name| name == "*") {
            found.push(format!("{path}: imports everything (`use crate::*`)"));
        }
        match layers.get(module) {
            Some(allowed) => {
                for name in &named {
                    let known = layers.contains_key(name.as_str()) || TOP.contains(&name.as_str());
                    if known && name != module && !allowed.contains(&name.as_str()) {
                        found.push(format!("{path}: `{module}` must not name `{name}`"));
                    }
                }
            }
            None if TOP.contains(&module) => {}
            None => found.push(format!(
                "{path}: `{module}` has no row in tests/layering.rs"
            )),
        }
        for (word, places) in ONLY_IN {
            if names(text, word) && !within(path, places) {
                found.push(format!("{path}: `{word}` belongs to {}", places.join(", ")));
            }
        }
        if names_errno(text) && path != ERRNO_TABLE {
            found.push(format!("{path}: errno constants belong to {ERRNO_TABLE}"));
        }
        for (part, home) in CONCRETE {
            if names(text, part) && !within(path, &[home, "node/", "contracts/", "run/"]) {
                found.push(format!("{path}: only run.rs builds a `{part}`"));
            }
        }
        let lines = text.lines().filter(|line| !line.trim().is_empty()).count();
        if lines > LONGEST {
            found.push(format!(
                "{path}: {lines} lines, split it (at most {LONGEST})"
            ));
        }
    }
    found
}

/// All files of `src/`, without those that hold only tests.
fn read_sources(folder: &Path, below: &str, into: &mut Vec<Source>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder)
        .expect("src is readable")
        .map(|entry| entry.expect("an entry of src").path())
        .collect();
    entries.sort();
    for path in entries {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .expect("names in src are UTF-8");
        let below = format!("{below}{name}");
        if path.is_dir() {
            if name != "tests" {
                read_sources(&path, &format!("{below}/"), into);
            }
        } else if name.ends_with(".rs") && name != "tests.rs" {
            let text = fs::read_to_string(&path).expect("sources are UTF-8");
            into.push(Source {
                path: below,
                text: strip(&text),
            });
        }
    }
}

#[test]
fn the_source_keeps_its_layers() {
    let mut sources = Vec::new();
    read_sources(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        "",
        &mut sources,
    );
    assert!(sources.len() > 5, "src was not found");
    let found = violations(&sources);
    assert!(
        found.is_empty(),
        "{} broken rules:\n{}",
        found.len(),
        found.join("\n")
    );
}

/// The violations of one file with this text.
fn of(path: &str, text: &str) -> Vec<String> {
    violations(&[Source {
        path: path.to_owned(),
        text: strip(text),
    }])
}

#[test]
fn each_rule_can_fail() {
    let broken = [
        ("journal/log.rs", "use crate::fs::Volume;"),
        (
            "fs/io.rs",
            "use crate::{types::Ino, publish::{queue, commit}};",
        ),
        ("fs/io.rs", "fn f() { crate::store::get(); }"),
        ("pack/tree.rs", "use tokio::sync::Mutex;"),
        ("journal/log.rs", "async fn f() { tokio::spawn(g()); }"),
        ("fs/quota.rs", "use crate::chain::{TokenInfo, Ledger};"),
        ("pack/tree.rs", "use crate::store::BlockStore;"),
        ("fs/tree.rs", "fn f() -> i32 { libc::EDQUOT }"),
        ("fs/tree.rs", "use libc::{EIO, c_int};"),
        (
            "mount/adapter.rs",
            "use fuser::Errno; fn f() -> Errno { Errno::EIO }",
        ),
        ("store/rpc.rs", "use fuser::Filesystem;"),
        ("chain/ledger.rs", "alloy::sol! { contract A {} }"),
        ("publish/commit.rs", "let s = EmbeddedStore::open(dir);"),
        ("cli/mod.rs", "use crate::*;"),
        ("unheard_of.rs", "fn f() {}"),
    ];
    for (path, text) in broken {
        assert_eq!(
            of(path, text).len(),
            1,
            "{path}: {text}: {:?}",
            of(path, text)
        );
    }
    let long = "fn f() {}\n".repeat(LONGEST + 1);
    assert_eq!(of("fs/io.rs", &long).len(), 1);
}

#[test]
fn what_the_rules_allow_passes() {
    let fine = [
        (
            "mount/adapter.rs",
            "use crate::fs::Volume; use fuser::Filesystem;",
        ),
        ("mount/errno.rs", "fn f() -> i32 { libc::EDQUOT }"),
        (
            "journal/disk.rs",
            "use rustix::io::Errno; fn f(e: Errno) -> bool { e == Errno::EXIST }",
        ),
        ("fs/io.rs", "use libc::c_int; use crate::journal::Log;"),
        ("fs/quota.rs", "use crate::chain::Accounting;"),
        ("pack/tree.rs", "use crate::store::Block;"),
        (
            "fs/io.rs",
            "// use crate::store::get\n/* tokio:: */ const A: &str = \"tokio::\"; const B: &str = r#\"sol!\"#;",
        ),
        (
            "fs/io.rs",
            "const Q: char = '\"'; // \"\nuse crate::types::Ino;",
        ),
        (
            "fs/io.rs",
            "fn f() {}\n#[cfg(test)]\nmod tests { use crate::store::Memory; fn g() { tokio::run(); } }",
        ),
        (
            "run.rs",
            "let s = EmbeddedStore::open(dir); use crate::store::x;",
        ),
        ("store/embedded.rs", "pub struct EmbeddedStore;"),
        ("publish/mod.rs", "use crate::{fs, chain::Ledger};"),
    ];
    for (path, text) in fine {
        assert_eq!(of(path, text), Vec::<String>::new(), "{path}: {text}");
    }
}
