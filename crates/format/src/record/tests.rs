//! Records: the one form, and everything that must be refused.

use super::*;
use crate::cid::{leaf_cid, node_cid};

const SEED: [u8; 32] = [3; 32];

fn key() -> NameKey {
    NameKey::from_seed(&SEED)
}

fn record() -> Record {
    Record {
        network: Network::Btfs,
        cid: leaf_cid(b"usage metadata"),
        sequence: ipns_sequence(7, 2).unwrap(),
        end_of_life: "2033-05-18T03:33:20Z".parse().unwrap(),
        ttl_ns: 60_000_000_000,
    }
}

/// An envelope of ours with something changed, signed again where the change is under a signature.
fn forged(change: impl FnOnce(&mut Envelope)) -> Vec<u8> {
    let mut envelope = Envelope::decode(&record().sign(&key())[..]).unwrap();
    change(&mut envelope);
    envelope.encode_to_vec()
}

fn refused_form(bytes: &[u8]) -> bool {
    matches!(
        Record::verify(&key().name(), bytes),
        Err(RecordError::Form(_))
    )
}

#[test]
fn a_record_comes_back_as_it_was_signed() {
    for (network, cid, sequence) in [
        (Network::Btfs, leaf_cid(b"x"), BTNS_SEQUENCE),
        (Network::Ipfs, node_cid(b"x"), 0),
    ] {
        let record = Record {
            network,
            cid,
            sequence,
            ..record()
        };
        let bytes = record.sign(&key());
        assert_eq!(Record::verify(&key().name(), &bytes), Ok(record));
    }
}

/// The golden record was made by another program (tests/golden/names/README.md says how); signing
/// is deterministic, so the bytes must be the same. Records on nodes live for a year.
#[test]
fn records_on_nodes_stay_readable() {
    let golden = include_bytes!("../../../../tests/golden/names/record-v1.bin");
    assert_eq!(Record::verify(&key().name(), golden), Ok(record()));
    assert_eq!(record().sign(&key()), golden);
}

/// A record of each network, as its nodes have it.
fn records() -> [Record; 2] {
    [(Network::Ipfs, 7), (Network::Btfs, BTNS_SEQUENCE)].map(|(network, sequence)| Record {
        network,
        sequence,
        ..record()
    })
}

#[test]
fn no_changed_byte_makes_a_record_say_anything_else() {
    let name = key().name();
    for record in records() {
        let good = record.sign(&key());
        let says_else = |bytes: &[u8]| {
            let found = Record::verify(&name, bytes);
            found.is_ok_and(|found| !found.is_same(&record))
        };
        let mut taken = 0;
        for at in 0..good.len() {
            for flip in [0x01, 0x02, 0x10, 0x80, 0xff] {
                let mut bad = good.clone();
                bad[at] ^= flip;
                assert!(!says_else(&bad), "byte {at} ^ {flip:#x}");
                taken += usize::from(Record::verify(&name, &bad).is_ok());
            }
        }
        for cut in 0..good.len() {
            assert!(!says_else(&good[..cut]), "cut at {cut}");
        }
        // Those of the other network's signature.
        assert!(taken > 5 * 64, "{taken}");
    }
}

#[test]
fn a_record_of_another_key_is_refused() {
    let other = NameKey::from_seed(&[4; 32]);
    assert_eq!(
        Record::verify(&other.name(), &record().sign(&key())),
        Err(RecordError::Signature("V2"))
    );
    assert!(matches!(
        Record::verify("k51", &record().sign(&key())),
        Err(RecordError::Name(_))
    ));
}

/// An unsigned field of its own, after or before all others.
fn beside(record: &[u8], field: &[u8]) -> [Vec<u8>; 2] {
    [[record, field].concat(), [field, record].concat()]
}

/// Nodes take all of these, and of equals keep the greater bytes.
#[test]
fn nothing_that_anybody_puts_around_a_record_hides_it() {
    let name = key().name();
    let group = [vec![0x7b; 3000], vec![0x42, 1, b'x'], vec![0x7c; 3000]].concat();
    let unknown: [&[u8]; 6] = [
        &[0x7a, 1, b'x'],
        &[0x78, 0xff, 1],
        &[0x7d, 1, 2, 3, 4],
        &[0x79, 1, 2, 3, 4, 5, 6, 7, 8],
        // Known, and of another kind than it should be.
        &[0x2a, 0],
        &group,
    ];
    let megabyte = [&[0x7a, 0x80, 0x80, 0x40][..], &[0; 1 << 20]].concat();
    for record in records() {
        let good = record.sign(&key());
        let found = |bytes: &[u8]| Record::verify(&name, bytes);
        for field in unknown.into_iter().chain([&megabyte[..]]) {
            for padded in beside(&good, field) {
                assert_eq!(found(&padded).as_ref(), Ok(&record));
            }
        }
        // The last one counts.
        let [forged, twice] = beside(&good, &[0x0a, 1, b'x', 0x42, 1, b'x']);
        assert_eq!(found(&twice).as_ref(), Ok(&record));
        assert!(found(&forged).is_err());
        for half in [
            &[0x7a][..],
            &[0x7a, 2, b'x'],
            &[0x7b],
            &[0x7c],
            &[0x7f],
            &[0xff; 11],
        ] {
            let refused = beside(&good, half).map(|bytes| found(&bytes).is_err());
            assert!(refused[0], "{half:?}");
        }
    }
}

#[test]
fn fields_that_nobody_signed_say_nothing() {
    let name = key().name();
    let said = |change: fn(&mut Envelope)| Record::verify(&name, &forged(change));
    for change in [
        (|e| e.sequence = Some(u64::MAX)) as fn(&mut Envelope),
        |e| e.sequence = None,
        |e| e.ttl_ns = Some(1),
        |e| e.validity_kind = Some(1),
        |e| e.public_key = Some(vec![8, 1]),
    ] {
        assert_eq!(said(change), Ok(record()));
    }
    // What BTFS nodes check.
    for change in [
        (|e| e.value = Some(b"/btfs/x".into())) as fn(&mut Envelope),
        |e| e.validity = None,
    ] {
        assert_eq!(said(change), Err(RecordError::Signature("V1")));
    }
}

/// Anybody can take away the signature that a node does not look at, or put one of another record there.
#[test]
fn a_record_counts_by_the_signature_that_its_network_checks() {
    let name = key().name();
    let [ipns, btns] = records();
    let said = |record: &Record, change: &dyn Fn(&mut Envelope)| {
        let mut envelope = Envelope::decode(&record.sign(&key())[..]).unwrap();
        change(&mut envelope);
        Record::verify(&name, &envelope.encode_to_vec())
    };
    let none = |e: &mut Envelope| {
        *e = Envelope {
            signature_v2: e.signature_v2.clone(),
            data: e.data.clone(),
            ..Envelope::default()
        }
    };
    assert_eq!(said(&ipns, &none).as_ref(), Ok(&ipns));
    let wrong = said(&ipns, &|e| e.signature_v2 = e.signature_v1.clone());
    assert_eq!(wrong, Err(RecordError::Signature("V2")));
    let wrong = said(&btns, &|e| e.signature_v1 = e.signature_v2.clone());
    assert_eq!(wrong, Err(RecordError::Signature("V1")));
    assert_eq!(said(&btns, &none), Err(RecordError::Signature("V1")));

    let without_ttl = Record {
        ttl_ns: 0,
        ..btns.clone()
    };
    let older = Record {
        end_of_life: "2033-05-18T03:33:19Z".parse().unwrap(),
        ..btns.clone()
    };
    let older = Envelope::decode(&older.sign(&key())[..]).unwrap();
    let (data, signature) = (older.data.clone(), older.signature_v2.clone());
    let swapped = |e: &mut Envelope| {
        (e.data, e.signature_v2) = (data.clone(), signature.clone());
    };
    let cases: [&dyn Fn(&mut Envelope); 3] = [
        &|e| (e.data, e.signature_v2) = (None, None),
        &|e| e.signature_v2 = Some(vec![0; 63]),
        &swapped,
    ];
    for change in cases {
        assert_eq!(said(&btns, change).as_ref(), Ok(&without_ttl));
    }
}

/// s + L verifies with a lax check.
#[test]
fn a_malleated_signature_is_refused() {
    const ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde,
        0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let malleated = |signature: &mut Option<Vec<u8>>| {
        let mut carry = 0;
        for (s, l) in signature.as_mut().unwrap()[32..].iter_mut().zip(ORDER) {
            let sum = u16::from(*s) + u16::from(l) + carry;
            *s = sum.to_le_bytes()[0];
            carry = sum >> 8;
        }
    };
    for (record, version) in records().into_iter().zip(["V2", "V1"]) {
        let mut envelope = Envelope::decode(&record.sign(&key())[..]).unwrap();
        match version {
            "V1" => malleated(&mut envelope.signature_v1),
            _ => malleated(&mut envelope.signature_v2),
        }
        assert_eq!(
            Record::verify(&key().name(), &envelope.encode_to_vec()),
            Err(RecordError::Signature(version))
        );
    }
}

/// Signs `data` as all that there is.
fn with_data(data: Vec<u8>) -> Vec<u8> {
    let signature = key().signing_key().sign(&v2_input(&data));
    Envelope {
        signature_v2: Some(signature.to_vec()),
        data: Some(data),
        ..Envelope::default()
    }
    .encode_to_vec()
}

/// Signs these as BTFS nodes check it.
fn with_v1(value: &str, validity: &str) -> Vec<u8> {
    let (value, validity) = (value.as_bytes(), validity.as_bytes());
    let signature = key().signing_key().sign(&v1_input(value, validity));
    Envelope {
        value: Some(value.to_vec()),
        signature_v1: Some(signature.to_vec()),
        validity: Some(validity.to_vec()),
        ..Envelope::default()
    }
    .encode_to_vec()
}

#[test]
fn what_btfs_nodes_check_in_another_form_is_refused() {
    let cid = leaf_cid(b"usage metadata");
    let verified = |value: &str, validity: &str| {
        Record::verify(&key().name(), &with_v1(value, validity)).is_ok()
    };
    let (value, end) = (format!("/btfs/{cid}"), "2033-05-18T03:33:20.000000000Z");
    assert!(verified(&value, end));
    for other in [
        "2033-05-18T03:33:20Z",
        "2033-05-18T05:33:20.000000000+02:00",
        "",
    ] {
        assert!(!verified(&value, other), "{other}");
    }
    // The same signed bytes, parted elsewhere.
    assert!(!verified(&format!("{value}2"), &end[1..]));
    for other in [
        format!("/ipfs/{cid}"),
        format!("{value}/"),
        value.to_uppercase(),
    ] {
        assert!(!verified(&other, end), "{other}");
    }
}

#[test]
fn signed_data_in_another_form_is_refused() {
    let [ipns, _] = records();
    let good = ipns.data();
    assert!(Record::verify(&key().name(), &with_data(good.clone())).is_ok());
    let mut indefinite = good.clone();
    indefinite[0] = 0xbf;
    indefinite.push(0xff);
    assert!(refused_form(&with_data(indefinite)));
    let mut more = good.clone();
    more[0] = 0xa6;
    more.extend([0x61, b'x', 0]);
    assert!(refused_form(&with_data(more)), "a sixth field");
    let mut tail = good.clone();
    tail.push(0);
    assert!(refused_form(&with_data(tail)), "bytes after the map");
    let mut kind = good.clone();
    *kind.last_mut().unwrap() = 1;
    assert!(refused_form(&with_data(kind)), "another kind of validity");
    let mut wide = good;
    wide.pop();
    wide.extend([0x18, 0]);
    assert!(refused_form(&with_data(wide)), "an integer of two bytes");
    assert!(refused_form(&with_data(vec![])));
}

#[test]
fn values_that_no_node_resolves_alike_are_refused() {
    for value in ["/ipns/x", "/btfs/", "/ipfs/Qm", "x", "/btfs//ipfs/x"] {
        assert!(parse_value(value.as_bytes()).is_err(), "{value}");
    }
    let path = format!("{}/tree", record().value().escape_ascii());
    assert!(parse_value(path.as_bytes()).is_err());
    assert!(parse_value(b"/btfs/\xff").is_err());
}

#[test]
fn an_oversized_record_is_refused_before_parsing() {
    let bytes = vec![0; MAX_GIVEN_BYTES + 1];
    assert_eq!(
        Record::verify(&key().name(), &bytes),
        Err(RecordError::TooLong(MAX_GIVEN_BYTES + 1))
    );
}

#[test]
fn a_record_dies_at_its_end_of_life() {
    let record = record();
    let end = i64::try_from(record.end_of_life.as_nanosecond()).unwrap();
    assert_eq!(record.check_alive(end - 1), Ok(()));
    for now in [end, i64::MAX] {
        assert_eq!(
            record.check_alive(now),
            Err(RecordError::Expired(record.end_of_life))
        );
    }
}

#[test]
fn renewals_are_newer_than_their_commit_and_older_than_the_next() {
    let first = ipns_sequence(0, 0).unwrap();
    let renewed = ipns_sequence(0, RENEWALS - 1).unwrap();
    let next = ipns_sequence(1, 0).unwrap();
    assert!(first < renewed && renewed < next);
    assert_eq!(commit_of_ipns_sequence(renewed), 0);
    assert_eq!(commit_of_ipns_sequence(next), 1);
    assert_eq!(ipns_sequence(0, RENEWALS), None);
    assert_eq!(ipns_sequence(1 << 43, 0), None);
    assert_eq!(ipns_sequence((1 << 53) - 1, 0), None);
    assert!(ipns_sequence((1 << 43) - 1, RENEWALS - 1).is_some());
}

#[test]
fn a_node_keeps_the_newest_record() {
    let held = record();
    let later = Record {
        end_of_life: "2033-05-18T03:33:21Z".parse().unwrap(),
        ..held.clone()
    };
    let higher = Record {
        sequence: held.sequence + 1,
        end_of_life: "2033-05-18T03:33:19Z".parse().unwrap(),
        ..held.clone()
    };
    assert!(later.replaces(&held) && !held.replaces(&later));
    assert!(higher.replaces(&later) && !later.replaces(&higher));
    assert!(!held.replaces(&held));

    // Two machines at one moment: on IPFS the first one stays, on BTFS each commit is of this kind.
    for (network, takes) in [(Network::Ipfs, false), (Network::Btfs, true)] {
        let held = Record {
            network,
            ..held.clone()
        };
        let other = Record {
            cid: leaf_cid(b"another machine's"),
            network,
            ..later.clone()
        };
        assert_eq!(other.replaces(&held), takes);
        assert!(!held.replaces(&other));
    }
}
