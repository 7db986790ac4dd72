//! Content identifiers: the two forms that pxfs stores, made, checked and parsed.
//!
//! Invariant: every CID that passes here is CIDv1 raw (a leaf) or CIDv0 dag-pb (a node), each with
//! a whole SHA-256; the storage networks keep, pin and collect around these two alike. Called by
//! everything that makes or reads a block.

use ::cid::{Cid, Version};
use multihash::Multihash;
use sha2::{Digest, Sha256};

/// Multicodec of raw bytes.
pub(super) const RAW: u64 = 0x55;
/// Multicodec of dag-pb.
const DAG_PB: u64 = 0x70;
/// Multihash code of SHA-256.
const SHA2_256: u64 = 0x12;

/// What a CID names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// CIDv1 raw: plain bytes, no links.
    Leaf,
    /// CIDv0: a dag-pb node with links.
    Node,
}

/// Why a CID, or bytes under it, were refused.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum CidError {
    /// Neither CIDv1 raw nor CIDv0 dag-pb over SHA-256.
    #[error("CID {0} is neither a raw leaf nor a dag-pb node over sha2-256")]
    Form(String),
    /// The bytes hash to something else: to this.
    #[error("the bytes are {0}")]
    Mismatch(Cid),
}

/// The CID of a leaf: CIDv1 raw, SHA-256 of `bytes`.
#[must_use]
pub fn leaf_cid(bytes: &[u8]) -> Cid {
    Cid::new_v1(RAW, wrap(Sha256::digest(bytes).into()))
}

/// The CID of a node whose encoded dag-pb bytes are `bytes`: CIDv0.
#[must_use]
pub fn node_cid(bytes: &[u8]) -> Cid {
    node_of_digest(Sha256::digest(bytes).into())
}

/// The node that the chain names by its 32-byte digest (`Qm…` = base58 of 0x1220 ‖ digest).
#[must_use]
pub fn node_of_digest(digest: [u8; 32]) -> Cid {
    let hash = wrap(digest);
    // A SHA-256 multihash is what CIDv0 is; the other arm cannot be reached and still names it.
    Cid::new_v0(hash).unwrap_or_else(|_| Cid::new_v1(DAG_PB, hash))
}

/// The leaf whose bytes have this SHA-256.
#[must_use]
pub fn leaf_of_digest(digest: [u8; 32]) -> Cid {
    Cid::new_v1(RAW, wrap(digest))
}

/// The SHA-256 in `cid`; an error when `cid` is not one of the two forms.
pub fn digest(cid: &Cid) -> Result<[u8; 32], CidError> {
    kind(cid)?;
    cid.hash()
        .digest()
        .try_into()
        .map_err(|_| CidError::Form(cid.to_string()))
}

/// Which of the two forms `cid` has.
pub fn kind(cid: &Cid) -> Result<Kind, CidError> {
    let kind = match (cid.version(), cid.codec()) {
        (Version::V1, RAW) => Kind::Leaf,
        (Version::V0, DAG_PB) => Kind::Node,
        _ => return Err(CidError::Form(cid.to_string())),
    };
    let hash = cid.hash();
    if hash.code() != SHA2_256 || hash.digest().len() != 32 {
        return Err(CidError::Form(cid.to_string()));
    }
    Ok(kind)
}

/// Checks that `bytes` are what `cid` names.
pub fn verify(cid: &Cid, bytes: &[u8]) -> Result<(), CidError> {
    let found = match kind(cid)? {
        Kind::Leaf => leaf_cid(bytes),
        Kind::Node => node_cid(bytes),
    };
    if found == *cid {
        Ok(())
    } else {
        Err(CidError::Mismatch(found))
    }
}

/// Parses the one text form of each: `bafkrei…` (base32, lower case) or `Qm…` (base58).
pub fn parse(text: &str) -> Result<Cid, CidError> {
    let refused = || CidError::Form(text.chars().take(80).collect());
    // The longest of the two forms has 59 characters.
    if text.len() > 59 {
        return Err(refused());
    }
    let cid: Cid = text.parse().map_err(|_| refused())?;
    kind(&cid)?;
    if cid.to_string() == text {
        Ok(cid)
    } else {
        Err(refused())
    }
}

/// Parses the binary form that stands in dag-pb links (34 bytes of CIDv0, 36 of a raw CIDv1).
pub fn from_bytes(bytes: &[u8]) -> Result<Cid, CidError> {
    let refused =
        || CidError::Form(data_encoding::HEXLOWER.encode(bytes.get(..48).unwrap_or(bytes)));
    let cid = Cid::try_from(bytes).map_err(|_| refused())?;
    kind(&cid)?;
    if cid.to_bytes() == bytes {
        Ok(cid)
    } else {
        Err(refused())
    }
}

/// A SHA-256 digest as a multihash.
fn wrap(digest: [u8; 32]) -> Multihash<64> {
    // 32 bytes always fit into 64.
    Multihash::wrap(SHA2_256, &digest).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values that `add --cid-version=0 --raw-leaves` prints on live nodes.
    #[test]
    fn leaves_have_the_cids_that_nodes_print() {
        let cases: [(&[u8], &str); 2] = [
            (
                b"",
                "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku",
            ),
            (
                &[0],
                "bafkreidogqfzz75tpkmjzjke425xqcrmpcib2p5tg44hnbirumdbpl5adu",
            ),
        ];
        for (bytes, text) in cases {
            assert_eq!(leaf_cid(bytes).to_string(), text);
            assert_eq!(parse(text).unwrap(), leaf_cid(bytes));
        }
        let mebibyte = vec![0; 1 << 20];
        assert_eq!(
            leaf_cid(&mebibyte).to_string(),
            "bafkreibq4fevl27rgurgnxbp7adh42aqiyd6ouflxhj3gzmcxcxzbh6lla"
        );
    }

    /// The empty UnixFS directory has a CID that every node knows.
    #[test]
    fn nodes_have_the_cids_that_nodes_print() {
        let cid = node_cid(&[0x0a, 0x02, 0x08, 0x01]);
        assert_eq!(
            cid.to_string(),
            "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn"
        );
        assert_eq!(node_of_digest(digest(&cid).unwrap()), cid);
    }

    #[test]
    fn a_changed_byte_is_noticed() {
        let leaf = leaf_cid(b"some bytes");
        assert_eq!(verify(&leaf, b"some bytes"), Ok(()));
        assert!(matches!(
            verify(&leaf, b"some bytez"),
            Err(CidError::Mismatch(_))
        ));
        assert!(verify(&node_cid(b"some bytes"), b"some bytez").is_err());
    }

    #[test]
    fn forms_that_nodes_collect_or_read_otherwise_are_refused() {
        let hash = wrap(Sha256::digest(b"x").into());
        let short = Multihash::wrap(SHA2_256, &[7; 31]).unwrap();
        let identity = Multihash::wrap(0, &[7; 32]).unwrap();
        for cid in [
            Cid::new_v1(DAG_PB, hash),
            Cid::new_v1(0x71, hash),
            Cid::new_v1(RAW, short),
            Cid::new_v1(RAW, identity),
        ] {
            assert!(matches!(kind(&cid), Err(CidError::Form(_))), "{cid}");
            assert!(verify(&cid, b"x").is_err(), "{cid}");
            assert!(parse(&cid.to_string()).is_err(), "{cid}");
            assert!(from_bytes(&cid.to_bytes()).is_err(), "{cid}");
        }
    }

    #[test]
    fn one_cid_has_one_text_and_one_binary_form() {
        let leaf = leaf_cid(b"x");
        let upper = leaf
            .to_string_of_base(::cid::multibase::Base::Base32Upper)
            .unwrap();
        assert!(parse(&upper).is_err());
        assert!(parse(&format!("/ipfs/{leaf}")).is_err());
        assert!(parse("").is_err() && parse("Qm").is_err() && parse("é").is_err());
        let mut bytes = leaf.to_bytes();
        assert_eq!(from_bytes(&bytes), Ok(leaf));
        bytes.push(0);
        assert!(from_bytes(&bytes).is_err());
        assert!(from_bytes(&bytes[..20]).is_err());
    }
}
