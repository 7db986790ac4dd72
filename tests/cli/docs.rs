//! The documents: what they link to is there, and the facts that the code also has are the code's.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use pxfs::exit::Exit;

const OPERATOR: &str = include_str!("../../docs/operator.md");
const DESIGN: &str = include_str!("../../docs/design.md");
const LOCKS: &str = include_str!("../../crates/engine/src/fs/locks.rs");

/// Folders below which a path in a document is one of this repository.
const FOLDERS: [&str; 5] = ["crates/", "src/", "tests/", "benches/", "docs/"];

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Each document with its text, by its path from the top.
fn documents() -> BTreeMap<PathBuf, String> {
    let in_docs = fs::read_dir(top().join("docs")).unwrap();
    let in_docs = in_docs.map(|entry| Path::new("docs").join(entry.unwrap().file_name()));
    let at_top = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(PathBuf::from);
    in_docs
        .filter(|path| path.extension().is_some_and(|end| end == "md"))
        .chain(at_top)
        .map(|path| (path.clone(), fs::read_to_string(top().join(path)).unwrap()))
        .collect()
}

/// The text without blocks of code.
fn prose(text: &str) -> String {
    let parts = text.split("\n```").step_by(2);
    parts.collect::<Vec<_>>().join("\n")
}

/// Where the links of `text` lead: file and heading.
fn links(text: &str) -> Vec<(&str, &str)> {
    let targets = text
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next());
    targets
        .filter(|target| !target.contains("://"))
        .map(|target| target.split_once('#').unwrap_or((target, "")))
        .collect()
}

/// The anchors of a document's headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        let title = heading.trim_start_matches('#').trim().to_lowercase();
        let letters = title.chars().filter_map(|c| match c {
            ' ' => Some('-'),
            c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
            _ => None,
        });
        letters.collect()
    };
    headings.map(anchor).collect()
}

/// The first cells of the rows of the table that stands below `heading` in `text`.
fn first_cells<'a>(text: &'a str, heading: &str) -> Vec<&'a str> {
    let section = text.split(heading).nth(1).unwrap();
    let rows = section.lines().skip_while(|line| !line.starts_with('|'));
    let rows = rows.take_while(|line| line.starts_with('|')).skip(2);
    rows.map(|row| row.split('|').nth(1).unwrap().trim())
        .collect()
}

#[test]
fn links_of_the_documents_lead_somewhere() {
    let documents = documents();
    for (path, text) in &documents {
        let text = prose(text);
        for (file, heading) in links(&text) {
            let folder = path.parent().unwrap();
            let target = match file {
                "" => top().join(path),
                file => top().join(folder).join(file),
            };
            assert!(target.exists(), "{}: no {file}", path.display());
            if !heading.is_empty() {
                let there = fs::read_to_string(&target).unwrap();
                let is_there = anchors(&prose(&there)).contains(heading);
                assert!(is_there, "{}: no {file}#{heading}", path.display());
            }
        }
    }
}

#[test]
fn source_paths_in_the_documents_exist() {
    for (path, text) in documents() {
        let text = prose(&text);
        for code in text.split('`').skip(1).step_by(2) {
            let is_path = FOLDERS.iter().any(|folder| code.starts_with(folder));
            if is_path && !code.contains([' ', '*', '…']) {
                assert!(top().join(code).exists(), "{}: no {code}", path.display());
            }
        }
    }
}

#[test]
fn commands_in_the_documents_exist() {
    let mut commands = BTreeSet::new();
    for text in documents().values() {
        let blocks = text.split("\n```").skip(1).step_by(2);
        let lines = blocks.flat_map(str::lines);
        let lines = lines.filter_map(|line| line.strip_prefix("pxfs "));
        let starts = text.split("`pxfs ").skip(1).chain(lines);
        let is_word = |c: char| c.is_ascii_lowercase() || c == '-';
        let words = starts.map(|rest| rest.split(|c| !is_word(c)).next().unwrap());
        commands.extend(words.filter(|word| !word.is_empty()).map(str::to_owned));
    }
    assert!(commands.len() > 15, "{commands:?}");
    for command in commands {
        let mut pxfs = Command::cargo_bin("pxfs").unwrap();
        let shown = pxfs.args([&command, "--help"]).output().unwrap();
        assert!(shown.status.success(), "there is no `pxfs {command}`");
    }
}

#[test]
fn the_operator_can_look_up_every_exit_code() {
    let section = OPERATOR.split("### Exit codes").nth(1).unwrap();
    let table = section.split("\n#").next().unwrap();
    let cells = table.split('|').map(str::trim);
    let told: BTreeSet<u8> = cells.filter_map(|cell| cell.parse().ok()).collect();
    let is_used = |code: &u8| u8::from(Exit::from(*code)) == *code;
    assert_eq!(told, (0..=u8::MAX).filter(is_used).collect());
}

#[test]
fn the_design_names_the_lock_levels_as_the_code_does() {
    let told = first_cells(DESIGN, "\n## Locks");
    let lines = LOCKS.lines().filter_map(|line| line.strip_prefix("//! | "));
    let cells = lines.map(|line| line.split('|').next().unwrap().trim());
    let levels = cells.filter(|cell| cell.starts_with(|c: char| c.is_ascii_digit()));
    let levels: Vec<_> = levels.map(|level| level.replace(['[', ']'], "")).collect();
    assert_eq!(told, levels);
}
