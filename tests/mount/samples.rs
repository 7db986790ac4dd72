//! What the tests write: a real source tree, bytes that tell where they belong, and comparisons.

use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::fs::{XattrFlags, setxattr};
use rustix::io::Errno;

use crate::command::{run, tool};

#[path = "../shared/pattern.rs"]
mod text;

pub(crate) use text::pattern;

/// How many files the source tree has at least.
const TREE_FILES: usize = 3000;
/// Where crates stop being added to it.
const TREE_BYTES: u64 = 40 << 20;
/// How long [`read_at_last`] goes on.
const AT_LAST: Duration = Duration::from_secs(60);

/// A real tree of several thousand files: sources of the crates that pxfs is built from, as cargo
/// unpacked them, and a folder of odd entries. Made once a run; tests only read it.
pub(crate) fn source_tree() -> &'static Path {
    static TREE: OnceLock<PathBuf> = OnceLock::new();
    TREE.get_or_init(|| {
        let tree = Path::new(env!("CARGO_TARGET_TMPDIR")).join("source-tree");
        // A tree that an interrupted run left half made is made anew.
        if !tree.join("complete").exists() {
            drop(fs::remove_dir_all(&tree));
            fs::create_dir_all(&tree).expect("a folder in target/");
            copy_crates(&tree);
            odd_entries(&tree.join("odd"));
            fs::write(tree.join("complete"), "").expect("a mark");
        }
        tree
    })
}

/// Copies unpacked crates into `tree` until there are enough files.
fn copy_crates(tree: &Path) {
    let cargo_home = std::env::var_os("CARGO_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cargo"),
        PathBuf::from,
    );
    let registries =
        fs::read_dir(cargo_home.join("registry/src")).expect("cargo has unpacked crates");
    let mut crates: Vec<PathBuf> = registries
        .flat_map(|registry| fs::read_dir(registry.expect("a registry").path()).expect("crates"))
        .map(|entry| entry.expect("a crate").path())
        .collect();
    crates.sort();
    let (mut files, mut bytes) = (0, 0);
    for one in crates {
        let (its_files, its_bytes) = measure(&one);
        // The few crates with large generated files would fill the quota by themselves.
        if its_bytes > TREE_BYTES / 20 || bytes + its_bytes > TREE_BYTES {
            continue;
        }
        tool("cp", &[Path::new("-a"), &one, tree]);
        files += its_files;
        bytes += its_bytes;
        if files >= TREE_FILES {
            return;
        }
    }
    panic!("the crates in cargo's folder have only {files} files");
}

/// Files and bytes below `folder`.
fn measure(folder: &Path) -> (usize, u64) {
    let mut sum = (0, 0);
    for entry in fs::read_dir(folder).expect("a folder of a crate") {
        let entry = entry.expect("an entry");
        let meta = entry.metadata().expect("its attributes");
        if meta.is_dir() {
            let (files, bytes) = measure(&entry.path());
            sum = (sum.0 + files, sum.1 + bytes);
        } else {
            sum = (sum.0 + 1, sum.1 + meta.len());
        }
    }
    sum
}

/// A small tree with all that copies lose first, and a few hundred plain files.
pub(crate) fn odd_tree(folder: &Path) {
    plain_tree(&folder.join("plain"));
    odd_entries(&folder.join("odd"));
}

/// A tree of nothing but files and folders that every tool can name.
pub(crate) fn plain_tree(folder: &Path) {
    for group in 0..10_u64 {
        let below = folder.join(group.to_string());
        fs::create_dir_all(&below).expect("a folder");
        for number in 0..20_u64 {
            let id = group * 100 + number;
            let len = usize::try_from(id * id % 30_000).expect("small");
            fs::write(below.join(format!("file {number}")), pattern(id, 0, len)).expect("a file");
        }
    }
    fs::write(folder.join("large"), pattern(7, 0, 3_500_000)).expect("a file");
    fs::write(folder.join("ünï.txt"), "unicode").expect("a file");
}

/// What real trees have here and there, and copies lose first.
fn odd_entries(odd: &Path) {
    let at = |name: &str| odd.join(name);
    let mode = |name: &str, mode: u32| {
        fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).expect("a mode");
    };
    fs::create_dir_all(at("empty-folder")).expect("a folder");
    fs::create_dir_all(at("a/b/c/d/e/f/g/h")).expect("folders");
    fs::write(at("empty"), "").expect("a file");
    fs::write(at("ünï🦀.txt"), "unicode").expect("a file");
    fs::write(at(&"n".repeat(255)), "long").expect("a file");
    let raw = odd.join(std::ffi::OsStr::from_bytes(b"not-utf8-\xff\xfe"));
    fs::write(raw, "bytes").expect("a file");
    fs::write(at("new\nline and space"), "odd").expect("a file");
    fs::write(at("script.sh"), "#!/bin/sh\n").expect("a file");
    mode("script.sh", 0o755);
    fs::write(at("secret"), "s").expect("a file");
    mode("secret", 0o600);
    fs::write(at("linked"), pattern(1, 0, 5000)).expect("a file");
    fs::hard_link(at("linked"), at("linked-too")).expect("a hard link");
    symlink("script.sh", at("link")).expect("a symlink");
    symlink("nowhere/at/all", at("dangling")).expect("a symlink");
    fs::write(at("big"), pattern(2, 0, 3_500_000)).expect("a file");
    let sparse = fs::File::create(at("sparse")).expect("a file");
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", 5_000_000).expect("a byte");
    let noted = at("noted");
    fs::write(&noted, "x").expect("a file");
    setxattr(&noted, "user.note", b"kept", XattrFlags::empty()).expect("an extended attribute");
}

/// Fails the test unless `copy` has the content and the attributes of `original`, both ways.
#[track_caller]
pub(crate) fn assert_same(original: &Path, copy: &Path) {
    let mut command = Command::new("rsync");
    let mut from = original.as_os_str().to_owned();
    from.push("/");
    command.args(["-anciHX", "--delete"]).arg(from).arg(copy);
    let answer = run(command, Duration::from_secs(300)).ok();
    let lines: Vec<&str> = answer
        .stdout
        .lines()
        .filter(|line| !line.ends_with(" ./"))
        .collect();
    assert!(
        lines.is_empty(),
        "{} differs from {} in {} entries:\n{}",
        copy.display(),
        original.display(),
        lines.len(),
        lines[..lines.len().min(20)].join("\n")
    );
}

/// Fails the test unless the file at `path` is exactly the first `len` bytes of text `id`. Reads it
/// in pieces.
#[track_caller]
pub(crate) fn assert_pattern(path: &Path, id: u64, len: u64) {
    let mut file = fs::File::open(path).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    let mut piece = vec![0; 1 << 20];
    let mut at = 0;
    loop {
        let got = file
            .read(&mut piece)
            .unwrap_or_else(|why| panic!("{} at {at}: {why}", path.display()));
        if got == 0 {
            break;
        }
        assert!(
            piece[..got] == pattern(id, at, got),
            "{}: wrong bytes after {at}",
            path.display()
        );
        at += got as u64;
    }
    assert_eq!(at, len, "length of {}", path.display());
}

/// The bytes of a file, where the read timeout is so short that on a slow machine a read may end by it while all is well.
pub(crate) fn read_at_last(path: &Path) -> io::Result<Vec<u8>> {
    let begin = Instant::now();
    loop {
        let read = fs::read(path);
        let timed_out =
            matches!(&read, Err(why) if why.raw_os_error() == Some(Errno::TIMEDOUT.raw_os_error()));
        if !timed_out || begin.elapsed() > AT_LAST {
            return read;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// All regular files below `folder`, with their length.
pub(crate) fn files_below(folder: &Path) -> Vec<(PathBuf, u64)> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("listing") {
            let entry = entry.expect("an entry");
            let meta = entry.metadata().expect("stat");
            if meta.is_dir() {
                folders.push(entry.path());
            } else {
                files.push((entry.path(), meta.len()));
            }
        }
    }
    files.sort();
    files
}
