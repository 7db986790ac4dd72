//! The golden documents, and what no document may get away with.

use std::collections::BTreeMap;
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::cid::{leaf_cid, node_cid};
use pxfs_base::types::{TokenId, TokenKey};

/// What a golden document must be answered with.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Verdict {
    Good,
    TooLong,
    Version,
    Form,
    Signature,
}

fn verdict(result: Result<Usage, UsageError>) -> Verdict {
    match result {
        Ok(_) => Verdict::Good,
        Err(UsageError::TooLong(_)) => Verdict::TooLong,
        Err(UsageError::Version(_)) => Verdict::Version,
        Err(UsageError::Form { .. }) => Verdict::Form,
        Err(UsageError::Signature) => Verdict::Signature,
        Err(fault @ (UsageError::Value(_) | UsageError::Block(_))) => {
            panic!("not an answer about the document's bytes: {fault}")
        }
    }
}

/// The key of all golden documents: seed 05 × 32.
fn key() -> SigningKey {
    SigningKey::from_bytes(&[5; 32])
}

fn usage() -> Usage {
    Usage {
        volume: VolumeKey {
            token: TokenKey {
                chain_id: 137,
                contract: "0x00112233445566778899aabbccddeeff00112233"
                    .parse()
                    .unwrap(),
                token: TokenId::from(42),
            },
            epoch: 3,
        },
        quota: 104_857_600,
        usage: 52_428_800,
        uploads: 7,
        cid: Some(node_cid(b"tree")),
        root: Some(node_cid(b"root")),
        sequence: 6,
        updated_s: 1_795_282_345,
    }
}

/// `part` (a document without its signature and closing brace) with a right signature.
fn signed(part: &str) -> Vec<u8> {
    let signature = HEXLOWER.encode(&key().sign(&signing_input(part)).to_bytes());
    format!("{part},\"signature\":\"{signature}\"}}").into_bytes()
}

/// The good document with `from` replaced by `to`, signed as it then stands.
fn with(from: &str, to: &str) -> Vec<u8> {
    let part = usage().signed_part().unwrap();
    assert_eq!(part.matches(from).count(), 1, "{from}");
    signed(&part.replace(from, to))
}

/// The good document with a change after signing.
fn after(from: &str, to: &str) -> Vec<u8> {
    let text = String::from_utf8(usage().sign(&key()).unwrap()).unwrap();
    assert_eq!(text.matches(from).count(), 1, "{from}");
    text.replace(from, to).into_bytes()
}

/// The good document with its signature made anew by `change`.
fn resigned(change: impl FnOnce(&mut [u8; 64])) -> Vec<u8> {
    let part = usage().signed_part().unwrap();
    let mut signature = key().sign(&signing_input(&part)).to_bytes();
    change(&mut signature);
    format!("{part},\"signature\":\"{}\"}}", HEXLOWER.encode(&signature)).into_bytes()
}

/// s + L in place of s: verifies with a lax check.
fn malleate(signature: &mut [u8; 64]) {
    const ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde,
        0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let mut carry = 0;
    for (s, l) in signature[32..].iter_mut().zip(ORDER) {
        let sum = u16::from(*s) + u16::from(l) + carry;
        *s = sum.to_le_bytes()[0];
        carry = sum >> 8;
    }
}

/// Of R' = R + a point of order 8: verifies where the equation is taken times the cofactor.
const MIXED_ORDER: &str = "3c61281b891b797c3a7cd5db840c7a2a4ce6c325e83bb8bca2f82326728cee76\
    84b8d83045b0bbf49cbbf379979c50946121b6903ef93215ac5bf1efbc285a04";

/// Every golden document by file name, and its verdict.
fn golden() -> BTreeMap<String, (Vec<u8>, Verdict)> {
    use Verdict::{Form, Good, Signature, TooLong, Version};
    let sign = |usage: Usage| usage.sign(&key()).unwrap();
    let first = Usage {
        usage: 0,
        uploads: 0,
        cid: None,
        root: None,
        sequence: 0,
        ..usage()
    };
    let mut greatest = usage();
    greatest.volume.token.chain_id = MAX_NUMBER;
    greatest.volume.token.token = TokenId(alloy_primitives::U256::MAX);
    greatest.volume.epoch = MAX_NUMBER;
    (greatest.quota, greatest.usage) = (MAX_NUMBER, MAX_NUMBER);
    (greatest.uploads, greatest.sequence) = (MAX_NUMBER, MAX_NUMBER);
    greatest.updated_s = 253_402_300_799;
    let mut zero = first.clone();
    zero.volume.token.chain_id = 0;
    zero.volume.token.token = TokenId::from(0);
    (zero.volume.epoch, zero.quota, zero.updated_s) = (0, 0, 0);
    let leaf = Usage {
        cid: Some(leaf_cid(b"leaf")),
        ..usage()
    };
    let root = usage().root.unwrap().to_string();
    let root_v1 = usage().root.unwrap().into_v1().unwrap().to_string();
    let other = SigningKey::from_bytes(&[6; 32]);
    let part = usage().signed_part().unwrap();
    let twice = part.replace("\"epoch\":3", "\"epoch\":3,\"epoch\":3");
    let swapped = part.replace(
        "\"epoch\":3,\"quota\":104857600",
        "\"quota\":104857600,\"epoch\":3",
    );
    let padded = format!("{part},\"signature\":\"{}\"}}", "0".repeat(MAX_USAGE_BYTES));

    let cases: Vec<(&str, Vec<u8>, Verdict)> = vec![
        ("good-usual", sign(usage()), Good),
        // Rightly signed, for a token that is not the usual one's.
        (
            "good-other-chain",
            with("\"chainId\":137", "\"chainId\":138"),
            Good,
        ),
        (
            "good-other-contract",
            with("ff00112233\"", "ff00112234\""),
            Good,
        ),
        ("good-other-token", with("\"42\"", "\"43\""), Good),
        ("good-other-epoch", with("\"epoch\":3", "\"epoch\":4"), Good),
        ("good-first-of-an-epoch", sign(first), Good),
        ("good-greatest-values", sign(greatest), Good),
        ("good-zeros", sign(zero), Good),
        ("good-cid-is-a-leaf", sign(leaf), Good),
        // The whole.
        ("bad-empty", vec![], Form),
        ("bad-not-json", b"usage".to_vec(), Form),
        (
            "bad-truncated",
            usage().sign(&key()).unwrap()[..300].to_vec(),
            Form,
        ),
        ("bad-above-4-kib", padded.into_bytes(), TooLong),
        (
            "bad-newline-at-the-end",
            [sign(usage()), b"\n".to_vec()].concat(),
            Form,
        ),
        (
            "bad-byte-order-mark",
            [b"\xef\xbb\xbf".to_vec(), sign(usage())].concat(),
            Form,
        ),
        (
            "bad-two-documents",
            [sign(usage()), sign(usage())].concat(),
            Form,
        ),
        (
            "bad-space-after-colon",
            with("\"epoch\":3", "\"epoch\": 3"),
            Form,
        ),
        (
            "bad-space-after-comma",
            with(",\"epoch\"", ", \"epoch\""),
            Form,
        ),
        ("bad-space-at-the-begin", signed(&format!(" {part}")), Form),
        (
            "bad-array-around-it",
            [b"[".to_vec(), sign(usage()), b"]".to_vec()].concat(),
            Form,
        ),
        // Keys.
        ("bad-key-missing", with(",\"uploads\":7", ""), Form),
        ("bad-key-twice", signed(&twice), Form),
        (
            "bad-key-unknown",
            with(",\"epoch\"", ",\"note\":1,\"epoch\""),
            Form,
        ),
        (
            "bad-key-unknown-at-the-end",
            signed(&format!("{part},\"note\":1")),
            Form,
        ),
        ("bad-key-order", signed(&swapped), Form),
        ("bad-key-case", with("\"chainId\"", "\"chainid\""), Form),
        (
            "bad-key-escaped",
            with("\"epoch\"", "\"\\u0065poch\""),
            Form,
        ),
        (
            "bad-key-after-signature",
            after("\"}", "\",\"note\":1}"),
            Form,
        ),
        (
            "bad-signature-missing",
            [part.clone().into_bytes(), b"}".to_vec()].concat(),
            Form,
        ),
        // Numbers.
        (
            "bad-version-2",
            with("\"version\":1", "\"version\":2"),
            Version,
        ),
        (
            "bad-version-string",
            with("\"version\":1", "\"version\":\"1\""),
            Form,
        ),
        (
            "bad-number-leading-zero",
            with("\"epoch\":3", "\"epoch\":03"),
            Form,
        ),
        (
            "bad-number-negative",
            with("\"epoch\":3", "\"epoch\":-3"),
            Form,
        ),
        (
            "bad-number-minus-zero",
            with("\"usage\":52428800", "\"usage\":-0"),
            Form,
        ),
        ("bad-number-plus", with("\"epoch\":3", "\"epoch\":+3"), Form),
        (
            "bad-number-fraction",
            with("\"epoch\":3", "\"epoch\":3.0"),
            Form,
        ),
        (
            "bad-number-exponent",
            with("\"epoch\":3", "\"epoch\":3e0"),
            Form,
        ),
        ("bad-number-hex", with("\"epoch\":3", "\"epoch\":0x3"), Form),
        (
            "bad-number-string",
            with("\"epoch\":3", "\"epoch\":\"3\""),
            Form,
        ),
        (
            "bad-number-null",
            with("\"epoch\":3", "\"epoch\":null"),
            Form,
        ),
        ("bad-number-empty", with("\"epoch\":3", "\"epoch\":"), Form),
        (
            "bad-number-2-pow-53",
            with("\"sequence\":6", "\"sequence\":9007199254740992"),
            Form,
        ),
        (
            "bad-number-above-64-bits",
            with("\"sequence\":6", "\"sequence\":18446744073709551617"),
            Form,
        ),
        // Strings.
        (
            "bad-string-not-ascii",
            with("\"tokenId\":\"42\"", "\"tokenId\":\"٤٢\""),
            Form,
        ),
        (
            "bad-string-escape",
            with("\"tokenId\":\"42\"", "\"tokenId\":\"4\\u0032\""),
            Form,
        ),
        (
            "bad-string-control",
            with("\"tokenId\":\"42\"", "\"tokenId\":\"42\t\""),
            Form,
        ),
        (
            "bad-string-delete",
            with("\"tokenId\":\"42\"", "\"tokenId\":\"42\x7f\""),
            Form,
        ),
        (
            "bad-contract-upper-case",
            with("aabbccddeeff", "AABBCCDDEEFF"),
            Form,
        ),
        ("bad-contract-without-0x", with("\"0x0011", "\"0011"), Form),
        ("bad-contract-short", with("\"0x0011", "\"0x11"), Form),
        ("bad-contract-long", with("\"0x0011", "\"0x000011"), Form),
        (
            "bad-token-number",
            with("\"tokenId\":\"42\"", "\"tokenId\":42"),
            Form,
        ),
        (
            "bad-token-empty",
            with("\"tokenId\":\"42\"", "\"tokenId\":\"\""),
            Form,
        ),
        (
            "bad-token-leading-zero",
            with("\"tokenId\":\"42\"", "\"tokenId\":\"042\""),
            Form,
        ),
        (
            "bad-token-hex",
            with("\"tokenId\":\"42\"", "\"tokenId\":\"0x2a\""),
            Form,
        ),
        (
            "bad-token-2-pow-256",
            with(
                "\"tokenId\":\"42\"",
                "\"tokenId\":\"115792089237316195423570985008687907853269984665640564039457584007913129639936\"",
            ),
            Form,
        ),
        // CIDs.
        (
            "bad-cid-empty",
            with(&format!("\"{}\"", usage().cid.unwrap()), "\"\""),
            Form,
        ),
        (
            "bad-cid-path",
            with(
                &usage().cid.unwrap().to_string(),
                &format!("/ipfs/{}", usage().cid.unwrap()),
            ),
            Form,
        ),
        (
            "bad-cid-upper-case-null",
            with(&format!("\"{}\"", usage().cid.unwrap()), "NULL"),
            Form,
        ),
        (
            "bad-cid-string-null",
            with(&format!("\"{}\"", usage().cid.unwrap()), "\"null\""),
            Form,
        ),
        (
            "bad-cid-v1-dag-pb",
            with(&usage().cid.unwrap().to_string(), &root_v1),
            Form,
        ),
        (
            "bad-cid-wrong-letter",
            with(
                &usage().cid.unwrap().to_string()[..20],
                "Qm000000000000000000",
            ),
            Form,
        ),
        (
            "bad-root-is-a-leaf",
            with(&root, &leaf_cid(b"leaf").to_string()),
            Form,
        ),
        (
            "bad-root-upper-case-base",
            with(&root, &leaf_cid(b"x").to_string().to_uppercase()),
            Form,
        ),
        // Times.
        ("bad-updated-offset", with("25Z", "25+00:00"), Form),
        ("bad-updated-fraction", with("25Z", "25.0Z"), Form),
        ("bad-updated-lower-case", with("25Z", "25z"), Form),
        ("bad-updated-space", with("T17:32", " 17:32"), Form),
        (
            "bad-updated-no-such-day",
            with("2026-11-21", "2026-02-30"),
            Form,
        ),
        ("bad-updated-no-such-hour", with("T17:32", "T24:32"), Form),
        ("bad-updated-leap-second", with("25Z", "60Z"), Form),
        (
            "bad-updated-before-1970",
            with("2026-11-21", "1969-12-31"),
            Form,
        ),
        (
            "bad-updated-number",
            with("\"2026-11-21T17:32:25Z\"", "1795282345"),
            Form,
        ),
        // Signatures.
        (
            "bad-signature-of-another-key",
            usage().sign(&other).unwrap(),
            Signature,
        ),
        (
            "bad-signature-of-other-content",
            after("\"usage\":52428800", "\"usage\":52428801"),
            Signature,
        ),
        (
            "bad-signature-without-prefix",
            {
                let signature = key().sign(format!("{part}}}").as_bytes());
                format!(
                    "{part},\"signature\":\"{}\"}}",
                    HEXLOWER.encode(&signature.to_bytes())
                )
                .into_bytes()
            },
            Signature,
        ),
        ("bad-signature-malleated", resigned(malleate), Signature),
        (
            "bad-signature-mixed-order",
            resigned(|s| {
                HEXLOWER.decode_mut(MIXED_ORDER.as_bytes(), s).unwrap();
            }),
            Signature,
        ),
        ("bad-signature-zeros", resigned(|s| s.fill(0)), Signature),
        (
            "bad-signature-identity",
            resigned(|s| {
                s.fill(0);
                s[0] = 1;
            }),
            Signature,
        ),
        (
            "bad-signature-upper-case",
            {
                let text = String::from_utf8(usage().sign(&key()).unwrap()).unwrap();
                let at = text.rfind(":\"").unwrap();
                format!("{}{}", &text[..at], text[at..].to_uppercase()).into_bytes()
            },
            Form,
        ),
        (
            "bad-signature-short",
            {
                let text = usage().sign(&key()).unwrap();
                [&text[..text.len() - 4], b"\"}"].concat()
            },
            Form,
        ),
        ("bad-signature-long", after("\"}", "00\"}"), Form),
        (
            "bad-signature-0x",
            after("\"signature\":\"", "\"signature\":\"0x"),
            Form,
        ),
    ];
    let count = cases.len();
    let map: BTreeMap<_, _> = cases
        .into_iter()
        .map(|(name, bytes, verdict)| (format!("{name}.json"), (bytes, verdict)))
        .collect();
    assert_eq!(map.len(), count, "two documents of one name");
    map
}

/// The files are what other readers (the workflow in JavaScript) are held to. To write them anew
/// after a deliberate change: `PXFS_BLESS=1 cargo test golden_documents`.
#[test]
fn golden_documents_get_their_verdicts() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/usage");
    let golden = golden();
    if std::env::var_os("PXFS_BLESS").is_some() {
        for (name, (bytes, _)) in &golden {
            std::fs::write(folder.join(name), bytes).unwrap();
        }
        let name = crate::key::name_of(&key().verifying_key());
        std::fs::write(folder.join("key.txt"), name + "\n").unwrap();
    }
    let mut seen = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if !name.ends_with(".json") {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        let (made, wanted) = &golden[&name];
        assert_eq!(&bytes, made, "{name} is not what this version writes");
        let result = Usage::verify(&bytes, &key().verifying_key());
        assert_eq!(
            name.starts_with("good-"),
            result.is_ok(),
            "{name}: {result:?}"
        );
        assert_eq!(verdict(result.clone()), *wanted, "{name}: {result:?}");
        seen += 1;
    }
    assert_eq!(seen, golden.len(), "files are missing");
}

#[test]
fn golden_names_get_their_verdicts() {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/usage/keys.txt");
    let text = std::fs::read_to_string(file).unwrap();
    let mut seen = 0;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let [wanted, name, why] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{line}");
        };
        let found = crate::key::public_key(name);
        assert_eq!(found.is_ok(), wanted == "good", "{why}: {found:?}");
        seen += 1;
    }
    assert!(seen >= 12, "{seen} names");
}

#[test]
fn golden_documents_of_other_tokens_are_told_from_ours() {
    let golden = golden();
    let volume = |file: &str| {
        let document = Usage::verify(&golden[file].0, &key().verifying_key());
        document.unwrap().volume
    };
    let ours = volume("good-usual.json");
    for part in ["chain", "contract", "token", "epoch"] {
        assert_ne!(volume(&format!("good-other-{part}.json")), ours, "{part}");
    }
}

#[test]
fn a_key_of_small_order_signs_nothing() {
    let mut identity = [0; 32];
    identity[0] = 1;
    let weak = VerifyingKey::from_bytes(&identity).unwrap();
    let forged = resigned(|s| {
        s.fill(0);
        s[0] = 1;
    });
    let signature = Signature::from_bytes(&{
        let mut s = [0; 64];
        s[0] = 1;
        s
    });
    let input = signing_input(&usage().signed_part().unwrap());
    assert!(ed25519_dalek::Verifier::verify(&weak, &input, &signature).is_ok());
    assert_eq!(Usage::verify(&forged, &weak), Err(UsageError::Signature));
}

#[test]
fn what_the_form_cannot_carry_is_refused_before_it_is_signed() {
    let above = Usage {
        usage: MAX_NUMBER + 1,
        ..usage()
    };
    let leaf_root = Usage {
        root: Some(leaf_cid(b"x")),
        ..usage()
    };
    let foreign_cid = Usage {
        cid: Some(node_cid(b"x").into_v1().unwrap()),
        ..usage()
    };
    let late = Usage {
        updated_s: 253_402_300_800,
        ..usage()
    };
    for bad in [above, leaf_root, foreign_cid, late] {
        assert!(matches!(bad.sign(&key()), Err(UsageError::Value(_))));
    }
}

#[test]
fn an_error_tells_where_and_what() {
    let error = Usage::verify(&with("\"epoch\":3", "\"epoch\":03"), &key().verifying_key());
    let text = error.unwrap_err().to_string();
    assert!(
        text.contains("byte 106") && text.contains("plain whole number"),
        "{text}"
    );
}

proptest! {
    #[test]
    fn any_changed_byte_is_refused(at in 0_usize..2_000, byte: u8) {
        let good = usage().sign(&key()).unwrap();
        let at = at % good.len();
        let mut bad = good.clone();
        bad[at] = byte;
        prop_assume!(bad != good);
        prop_assert!(Usage::verify(&bad, &key().verifying_key()).is_err());
    }

    #[test]
    fn every_document_comes_back_as_it_was_signed(
        numbers in proptest::array::uniform6(0..=MAX_NUMBER),
        token: [u64; 4],
        contract: [u8; 20],
        content in proptest::option::of(any::<[u8; 4]>()),
        is_leaf: bool,
        updated_s in 0..=253_402_300_799_u64,
    ) {
        let usage = Usage {
            volume: VolumeKey {
                token: TokenKey {
                    chain_id: numbers[0],
                    contract: contract.into(),
                    token: TokenId(alloy_primitives::U256::from_limbs(token)),
                },
                epoch: numbers[1],
            },
            quota: numbers[2],
            usage: numbers[3],
            uploads: numbers[4],
            cid: content.map(|c| if is_leaf { leaf_cid(&c) } else { node_cid(&c) }),
            root: content.map(|c| node_cid(&c)),
            sequence: numbers[5],
            updated_s,
        };
        let bytes = usage.sign(&key()).unwrap();
        prop_assert!(bytes.len() < MAX_USAGE_BYTES);
        prop_assert_eq!(Usage::verify(&bytes, &key().verifying_key()), Ok(usage));
    }

    #[test]
    fn noise_is_refused(noise: Vec<u8>) {
        prop_assert!(Usage::verify(&noise, &key().verifying_key()).is_err());
    }
}
