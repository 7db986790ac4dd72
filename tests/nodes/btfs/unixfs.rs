//! Files and directories over the blocks of the stand-in, as go-btfs tells them: paths below a CID, `ls`, `get`, `cat`.
//!
//! Invariant: what is told is read from the folder at that moment; nothing is left out. A block that is missing stops
//! all, with its CID. Sharded directories are not known: pxfs makes none.

use cid::Cid;
use prost::Message;
use serde_json::{Value, json};

use super::disk::{Disk, PbLink, PbNode, RAW};
use super::names;

/// Types of UnixFS.
const DIRECTORY: u64 = 1;
const FILE: u64 = 2;
const SYMLINK: u64 = 4;

/// Block of an archive.
const BLOCK: usize = 512;

/// Why something cannot be told.
pub(super) enum Stop {
    /// It is not here, or not yet.
    Missing(Cid),
    /// Waiting does not help.
    Failed(String),
}

/// The UnixFS message of a node.
#[derive(Clone, PartialEq, Message)]
struct Unixfs {
    #[prost(uint64, tag = "1")]
    kind: u64,
    #[prost(bytes = "vec", tag = "2")]
    data: Vec<u8>,
    #[prost(uint64, tag = "3")]
    size: u64,
}

/// What a CID leads to.
enum Thing {
    /// By name, in the order of the node where names are equal.
    Directory(Vec<Link>),
    /// Its length, the bytes in the node itself, and its parts, which have no names.
    File(u64, Vec<u8>, Vec<Link>),
    /// Its target.
    Symlink(Vec<u8>),
}

/// A link, and how long it says that all below it is.
struct Link {
    name: String,
    cid: Cid,
    tsize: u64,
}

fn look(disk: &Disk, cid: &Cid) -> Result<Thing, Stop> {
    let block = disk.get(cid).ok_or(Stop::Missing(*cid))?;
    if cid.codec() == RAW {
        return Ok(Thing::File(block.len() as u64, block, Vec::new()));
    }
    let unreadable = || Stop::Failed(format!("failed to decode {cid}: unrecognized object"));
    let node = PbNode::decode(block.as_slice()).map_err(|_| unreadable())?;
    let unixfs = Unixfs::decode(node.data.as_slice()).map_err(|_| unreadable())?;
    let link = |link: &PbLink| {
        Some(Link {
            name: link.name.clone(),
            cid: Cid::try_from(link.hash.as_slice()).ok()?,
            tsize: link.size,
        })
    };
    let links: Option<Vec<_>> = node.links.iter().map(link).collect();
    let mut links = links.ok_or_else(unreadable)?;
    match unixfs.kind {
        DIRECTORY => {
            links.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(Thing::Directory(links))
        }
        FILE => Ok(Thing::File(unixfs.size, unixfs.data, links)),
        SYMLINK => Ok(Thing::Symlink(unixfs.data)),
        other => Err(Stop::Failed(format!("unrecognized type: {other}"))),
    }
}

/// Where a path leads: `CID`, `CID/directory/file`, `/btfs/…`, `/btns/NAME/…`.
pub(super) fn resolve(disk: &Disk, path: &str) -> Result<Cid, Stop> {
    let failed = |why: String| Err(Stop::Failed(why));
    let resolved = match path.strip_prefix("/btns/") {
        Some(below) => {
            let (name, rest) = below.split_once('/').unwrap_or((below, ""));
            match names::resolve(disk, name) {
                Some(root) => format!("{root}/{rest}"),
                None => return failed("could not resolve name".into()),
            }
        }
        None => path.to_owned(),
    };
    let below = resolved.strip_prefix("/btfs/").unwrap_or(&resolved);
    if below.starts_with('/') {
        return failed("unsupported path namespace: ".to_owned());
    }
    let mut names = below.split('/').filter(|name| !name.is_empty());
    let Some(Ok(mut cid)) = names.next().map(str::parse::<Cid>) else {
        return failed(format!(
            "invalid path \"{path}\": selected encoding not supported"
        ));
    };
    for name in names {
        let found = match look(disk, &cid)? {
            Thing::Directory(links) => links.into_iter().find(|link| link.name == name),
            Thing::File(..) | Thing::Symlink(_) => None,
        };
        match found {
            Some(link) => cid = link.cid,
            None => return failed(format!("no link named \"{name}\" under {cid}")),
        }
    }
    Ok(cid)
}

/// The links of a directory, as `ls` tells them; types, sizes and targets only where they are to be resolved. A leaf is
/// not looked at, but for what its link says.
pub(super) fn list(disk: &Disk, cid: &Cid, resolves: bool) -> Result<Vec<Value>, Stop> {
    let links = match look(disk, cid)? {
        Thing::Directory(links) | Thing::File(_, _, links) => links,
        Thing::Symlink(_) => Vec::new(),
    };
    let told = links.into_iter().map(|link| {
        let (kind, size, target) = match (link.cid.codec() == RAW, resolves) {
            (true, _) => (FILE, link.tsize, Vec::new()),
            (false, false) => (0, 0, Vec::new()),
            (false, true) => match look(disk, &link.cid)? {
                Thing::Directory(_) => (DIRECTORY, 0, Vec::new()),
                Thing::File(size, ..) => (FILE, size, Vec::new()),
                Thing::Symlink(target) => (SYMLINK, target.len() as u64, target),
            },
        };
        Ok(json!({
            "Name": link.name, "Hash": link.cid.to_string(), "Size": size, "Type": kind,
            "Target": String::from_utf8_lossy(&target), "Mode": 0, "Mtime": "0001-01-01T00:00:00Z"
        }))
    });
    told.collect()
}

/// What `cat` gives: the bytes of a file, the target of a symlink.
pub(super) fn streamed(disk: &Disk, cid: &Cid) -> Result<Vec<u8>, Stop> {
    match look(disk, cid)? {
        Thing::Symlink(target) => Ok(target),
        Thing::Directory(_) | Thing::File(..) => content(disk, cid),
    }
}

/// The bytes of a file.
pub(super) fn content(disk: &Disk, cid: &Cid) -> Result<Vec<u8>, Stop> {
    let (mut all, links) = match look(disk, cid)? {
        Thing::Directory(_) => return Err(Stop::Failed("this dag node is a directory".into())),
        Thing::Symlink(_) => {
            return Err(Stop::Failed("this dag node is not a regular file".into()));
        }
        Thing::File(_, data, links) => (data, links),
    };
    for link in links {
        all.extend(content(disk, &link.cid)?);
    }
    Ok(all)
}

/// The archive of what `cid` leads to, under `name`, into `out`: what has come is there where it stops.
pub(super) fn archive(disk: &Disk, cid: &Cid, name: &str, out: &mut Vec<u8>) -> Result<(), Stop> {
    add(disk, cid, name, out)?;
    out.resize(out.len() + 2 * BLOCK, 0);
    Ok(())
}

fn add(disk: &Disk, cid: &Cid, path: &str, out: &mut Vec<u8>) -> Result<(), Stop> {
    match look(disk, cid)? {
        Thing::Directory(links) => {
            head(out, &format!("{path}/"), b'5', 0o755, 0, b"");
            for link in links {
                add(disk, &link.cid, &format!("{path}/{}", link.name), out)?;
            }
        }
        Thing::Symlink(target) => head(out, path, b'2', 0o644, 0, &target),
        Thing::File(size, ..) => {
            head(out, path, b'0', 0o644, size, b"");
            body(out, &content(disk, cid)?);
        }
    }
    Ok(())
}

/// A header of ustar, behind an extended one where a field does not hold what it should.
fn head(out: &mut Vec<u8>, path: &str, kind: u8, mode: u64, size: u64, target: &[u8]) {
    let mut records = Vec::new();
    for (key, value) in [("path", path.as_bytes()), ("linkpath", target)] {
        if value.len() > 100 || !value.is_ascii() {
            records.extend(record(key, value));
        }
    }
    if !records.is_empty() {
        fields(out, b"PaxHeaders.0", b'x', 0o644, records.len() as u64, b"");
        body(out, &records);
    }
    fields(out, path.as_bytes(), kind, mode, size, target);
}

/// A record of an extended header: its length counts its own digits.
fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
    let mut length = rest.len();
    while length != rest.len() + length.to_string().len() {
        length = rest.len() + length.to_string().len();
    }
    [length.to_string().as_bytes(), &rest].concat()
}

fn fields(out: &mut Vec<u8>, name: &[u8], kind: u8, mode: u64, size: u64, target: &[u8]) {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    let now_s = jiff::Timestamp::now().as_second();
    put(0, &name[..name.len().min(100)]);
    put(100, format!("{mode:07o}").as_bytes());
    put(108, b"0000000\x000000000\0");
    put(124, format!("{size:011o}").as_bytes());
    put(136, format!("{now_s:011o}").as_bytes());
    put(148, b"        ");
    put(156, &[kind]);
    put(157, &target[..target.len().min(100)]);
    put(257, b"ustar\x0000");
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    out.extend(block);
}

/// Content, up to the end of its last block.
fn body(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(bytes);
    out.resize(out.len().next_multiple_of(BLOCK), 0);
}
