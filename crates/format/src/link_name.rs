//! The names of a directory's links: stock tools write them to disk, so they are UTF-8.

use bytes::Bytes;

/// The start of a link name that holds a name as hex. A name of more than 125 bytes that needs it becomes longer than
/// most disks take.
pub const ESCAPE: &[u8] = b"_px_";

fn is_escaped(name: &[u8]) -> bool {
    name.starts_with(ESCAPE) || std::str::from_utf8(name).is_err()
}

/// The length of [`link_name`] of `name`, in bytes.
#[must_use]
pub fn link_name_len(name: &[u8]) -> u64 {
    if is_escaped(name) {
        (ESCAPE.len() + 2 * name.len()) as u64
    } else {
        name.len() as u64
    }
}

/// The link name of the entry `name`: the same, or [`ESCAPE`] and all of it as hex if it is not UTF-8 or begins with
/// [`ESCAPE`]. No two names have one link name.
#[must_use]
pub fn link_name(name: &Bytes) -> Bytes {
    if !is_escaped(name) {
        return name.clone();
    }
    let mut out = ESCAPE.to_vec();
    out.extend_from_slice(data_encoding::HEXLOWER.encode(name).as_bytes());
    out.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_that_stock_tools_cannot_hold_are_escaped() {
        let link = |name: &'static [u8]| link_name(&Bytes::from_static(name));
        assert_eq!(link(b"plain"), "plain");
        assert_eq!(link("ünï".as_bytes()), "ünï");
        assert_eq!(link(b"caf\xe9"), "_px_636166e9");
        assert_eq!(link(b"_px_"), "_px_5f70785f");
        assert_eq!(link(b"_px"), "_px");
    }

    proptest! {
        /// Two names with one link name would be one file to stock tools, and one lost.
        #[test]
        fn no_two_names_have_one_link(a in prop::collection::vec(any::<u8>(), 1..9), b in prop::collection::vec(any::<u8>(), 1..9)) {
            let (a, b) = (Bytes::from(a), Bytes::from(b));
            prop_assert_eq!(link_name(&a) == link_name(&b), a == b);
            prop_assert_eq!(link_name(&a) == link_name(&link_name(&b)), a == link_name(&b));
            prop_assert_eq!(link_name(&a).len() as u64, link_name_len(&a));
        }
    }
}
