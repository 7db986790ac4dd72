//! Tar headers (POSIX.1-2001, "pax").
//!
//! Invariant: every value is exact. What the 1988 header cannot hold is in an extended header
//! before it; sparse files follow GNU tar's version 1.0. Pure.

use bytes::Bytes;

use crate::pack::entry::Attr;

/// Archives consist of whole blocks.
pub(super) const BLOCK: usize = 512;

/// The greatest numbers in fields of 8 and 12 bytes.
const MOST_7: u64 = 0o7_777_777;
const MOST_11: u64 = 0o77_777_777_777;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Type {
    /// With this many bytes.
    File(u64),
    /// A sparse file of this length; the stored bytes include those of [`map`].
    Sparse {
        size: u64,
        stored: u64,
    },
    /// A hard link to this path.
    Link(Vec<u8>),
    /// Its target.
    Symlink(Bytes),
    /// Linux's device number.
    CharDevice(u32),
    /// Linux's device number.
    BlockDevice(u32),
    Directory,
    Fifo,
}

/// The headers of the member `path`: extended if needed, then its own.
pub(super) fn header(path: &[u8], kind: &Type, attr: &Attr) -> Vec<u8> {
    let mut records = Records::default();
    let (flag, size, target, device) = match kind {
        Type::File(size) => (b'0', *size, &[][..], 0),
        Type::Sparse { stored, .. } => (b'0', *stored, &[][..], 0),
        Type::Link(to) => (b'1', 0, &to[..], 0),
        Type::Symlink(to) => (b'2', 0, &to[..], 0),
        Type::CharDevice(number) => (b'3', 0, &[][..], *number),
        Type::BlockDevice(number) => (b'4', 0, &[][..], *number),
        Type::Directory => (b'5', 0, &[][..], 0),
        Type::Fifo => (b'6', 0, &[][..], 0),
    };
    let mut name = path;
    if let Type::Sparse { size, .. } = kind {
        records.add("GNU.sparse.major", b"1");
        records.add("GNU.sparse.minor", b"0");
        records.add("GNU.sparse.name", path);
        records.add("GNU.sparse.realsize", size.to_string().as_bytes());
        name = b"GNUSparseFile.0/sparse";
    }
    records.text("path", name);
    records.text("linkpath", target);
    let uid = records.number("uid", u64::from(attr.uid), MOST_7);
    let gid = records.number("gid", u64::from(attr.gid), MOST_7);
    let size = records.number("size", size, MOST_11);
    let mtime_s = attr.mtime_ns.div_euclid(1_000_000_000);
    let mtime = u64::try_from(mtime_s).ok().filter(|at| *at <= MOST_11);
    if mtime.is_none() || attr.mtime_ns.rem_euclid(1_000_000_000) != 0 {
        records.add("mtime", seconds(attr.mtime_ns).as_bytes());
    }
    for (name, value) in &attr.xattrs {
        let key = [b"SCHILY.xattr.", &name[..]].concat();
        records.bytes(&key, value);
    }
    let mut out = Vec::new();
    if !records.0.is_empty() {
        let len = records.0.len();
        let own = Fields {
            name: b"././@PaxHeader",
            mode: 0o644,
            size: len as u64,
            flag: b'x',
            ..Fields::default()
        };
        own.write(&mut out);
        out.append(&mut records.0);
        pad(&mut out, len);
    }
    let own = Fields {
        name,
        mode: u64::from(attr.mode),
        uid,
        gid,
        size,
        mtime_s: mtime.unwrap_or(0),
        flag,
        target,
        major: u64::from((device >> 8) & 0xfff),
        minor: u64::from((device & 0xff) | ((device >> 12) & 0xf_ff00)),
    };
    own.write(&mut out);
    out
}

/// The map of a sparse file's stored parts (offset, length), which precedes their bytes.
pub(super) fn map(parts: &[(u64, u64)]) -> Vec<u8> {
    let mut text = format!("{}\n", parts.len());
    for (offset, len) in parts {
        text.push_str(&format!("{offset}\n{len}\n"));
    }
    let mut map = text.into_bytes();
    let len = map.len();
    pad(&mut map, len);
    map
}

/// Pads after `len` bytes.
pub(super) fn pad(out: &mut Vec<u8>, len: usize) {
    let more = len.next_multiple_of(BLOCK) - len;
    out.resize(out.len() + more, 0);
}

/// Nanoseconds as seconds with a fraction.
fn seconds(ns: i64) -> String {
    let (sign, ns) = if ns < 0 {
        ("-", ns.unsigned_abs())
    } else {
        ("", ns as u64)
    };
    let text = format!("{sign}{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[derive(Default)]
struct Records(Vec<u8>);

impl Records {
    fn add(&mut self, key: &str, value: &[u8]) {
        self.bytes(key.as_bytes(), value);
    }

    /// `LENGTH KEY=VALUE`, where the length counts itself.
    fn bytes(&mut self, key: &[u8], value: &[u8]) {
        let rest = key.len() + value.len() + 3;
        let mut len = rest + 1;
        while len != rest + len.to_string().len() {
            len = rest + len.to_string().len();
        }
        self.0.extend_from_slice(len.to_string().as_bytes());
        self.0.push(b' ');
        self.0.extend_from_slice(key);
        self.0.push(b'=');
        self.0.extend_from_slice(value);
        self.0.push(b'\n');
    }

    /// A text that the field of 100 bytes may not hold.
    fn text(&mut self, key: &str, value: &[u8]) {
        if value.len() > 100 || !value.is_ascii() {
            self.add(key, value);
        }
    }

    /// The number for the field.
    fn number(&mut self, key: &str, value: u64, most: u64) -> u64 {
        if value <= most {
            return value;
        }
        self.add(key, value.to_string().as_bytes());
        0
    }
}

#[derive(Default)]
struct Fields<'a> {
    name: &'a [u8],
    mode: u64,
    uid: u64,
    gid: u64,
    size: u64,
    mtime_s: u64,
    flag: u8,
    target: &'a [u8],
    major: u64,
    minor: u64,
}

impl Fields<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        let mut block = Vec::with_capacity(BLOCK);
        let text = |block: &mut Vec<u8>, bytes: &[u8], len: usize| {
            let end = block.len() + len;
            block.extend(bytes.iter().take(len));
            block.resize(end, 0);
        };
        let octal = |block: &mut Vec<u8>, number: u64, len: usize| {
            let digits = len - 1;
            block.extend_from_slice(format!("{number:0digits$o}\0").as_bytes());
        };
        text(&mut block, self.name, 100);
        octal(&mut block, self.mode, 8);
        octal(&mut block, self.uid, 8);
        octal(&mut block, self.gid, 8);
        octal(&mut block, self.size, 12);
        octal(&mut block, self.mtime_s, 12);
        let sum_at = block.len();
        text(&mut block, b"        ", 8);
        block.push(self.flag);
        text(&mut block, self.target, 100);
        text(&mut block, b"ustar\x0000", 8);
        text(&mut block, b"", 64);
        octal(&mut block, self.major, 8);
        octal(&mut block, self.minor, 8);
        block.resize(BLOCK, 0);
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        let sum = format!("{sum:06o}\0 ");
        if let Some(field) = block.get_mut(sum_at..sum_at + 8) {
            field.copy_from_slice(sum.as_bytes());
        }
        out.append(&mut block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_a_record_counts_its_own_digits() {
        for len in (0..110).chain(980..1010) {
            let mut records = Records::default();
            records.add("path", &vec![b'x'; len]);
            let text = String::from_utf8(records.0).unwrap();
            let told: usize = text.split(' ').next().unwrap().parse().unwrap();
            assert_eq!(told, text.len(), "{text:?}");
        }
    }

    #[test]
    fn times_before_the_epoch_and_parts_of_seconds_are_exact() {
        for (ns, text) in [
            (0, "0"),
            (1, "0.000000001"),
            (1_500_000_000, "1.5"),
            (-1_500_000_000, "-1.5"),
            (-2_000_000_000, "-2"),
        ] {
            assert_eq!(seconds(ns), text);
        }
    }

    #[test]
    fn what_no_field_holds_stands_in_the_extended_header() {
        let attr = Attr {
            mode: 0o644,
            uid: u32::MAX,
            mtime_ns: -1,
            ..Attr::default()
        };
        let path = "ä".repeat(60);
        let out = header(path.as_bytes(), &Type::File(9 << 30), &attr);
        assert_eq!(out.len() % BLOCK, 0);
        let text = String::from_utf8_lossy(&out);
        for record in [
            "uid=4294967295\n",
            "size=9663676416\n",
            "mtime=-0.000000001\n",
        ] {
            assert!(text.contains(record), "{record}");
        }
        assert!(text.contains(&format!("path={path}\n")));
    }
}
