//! Records: the one form, and everything that must be refused.

use super::*;
use crate::pack::cid::{leaf_cid, node_cid};

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
    let golden = include_bytes!("../../../tests/golden/names/record-v1.bin");
    assert_eq!(Record::verify(&key().name(), golden), Ok(record()));
    assert_eq!(record().sign(&key()), golden);
}

#[test]
fn any_changed_byte_is_refused() {
    let good = record().sign(&key());
    let name = key().name();
    for at in 0..good.len() {
        for flip in [0x01, 0x02, 0x10, 0x80, 0xff] {
            let mut bad = good.clone();
            bad[at] ^= flip;
            assert!(
                Record::verify(&name, &bad).is_err(),
                "byte {at} ^ {flip:#x}"
            );
        }
    }
    for cut in 0..good.len() {
        assert!(Record::verify(&name, &good[..cut]).is_err(), "cut at {cut}");
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

#[test]
fn fields_that_nobody_signed_cannot_be_changed() {
    assert!(refused_form(&forged(|e| e.sequence = Some(u64::MAX))));
    assert!(refused_form(&forged(|e| e.ttl_ns = Some(1))));
    assert!(refused_form(&forged(|e| e.value = Some(b"/btfs/x".into()))));
    assert!(refused_form(&forged(|e| e.validity_kind = Some(1))));
    assert!(refused_form(&forged(|e| e.validity = None)));
    assert!(refused_form(&forged(|e| e.sequence = None)));
    assert!(refused_form(&forged(|e| e.public_key = Some(vec![8, 1]))));
    let mut longer = record().sign(&key());
    longer.extend([0x50, 1]);
    assert!(refused_form(&longer), "an unknown field");
}

#[test]
fn a_public_key_beside_the_record_must_be_the_names() {
    let own = key().signing_key().verifying_key();
    let with_key = forged(|e| {
        e.public_key = Some([&PUBLIC_KEY_PREFIX[..], own.as_bytes()].concat());
    });
    assert_eq!(Record::verify(&key().name(), &with_key), Ok(record()));
}

#[test]
fn both_signatures_are_demanded() {
    for (bytes, version) in [
        (forged(|e| e.signature_v1 = None), "V1"),
        (forged(|e| e.signature_v2 = None), "V2"),
        (forged(|e| e.signature_v1 = e.signature_v2.clone()), "V1"),
        (forged(|e| e.signature_v2 = e.signature_v1.clone()), "V2"),
        (forged(|e| e.signature_v2 = Some(vec![0; 63])), "V2"),
    ] {
        assert_eq!(
            Record::verify(&key().name(), &bytes),
            Err(RecordError::Signature(version))
        );
    }
    assert!(refused_form(&forged(|e| e.data = None)));
}

/// s + L verifies with a lax check: the record would have two byte forms.
#[test]
fn a_malleated_signature_is_refused() {
    const ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde,
        0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let bytes = forged(|e| {
        let mut carry = 0;
        for (s, l) in e.signature_v2.as_mut().unwrap()[32..].iter_mut().zip(ORDER) {
            let sum = u16::from(*s) + u16::from(l) + carry;
            *s = sum.to_le_bytes()[0];
            carry = sum >> 8;
        }
    });
    assert_eq!(
        Record::verify(&key().name(), &bytes),
        Err(RecordError::Signature("V2"))
    );
}

/// Signs `data` as the V2 data of an else good record.
fn with_data(data: Vec<u8>) -> Vec<u8> {
    forged(|e| {
        let signature = key().signing_key().sign(&v2_input(&data));
        e.signature_v2 = Some(signature.to_vec());
        e.data = Some(data);
    })
}

#[test]
fn signed_data_in_another_form_is_refused() {
    let good = record().data();
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
fn a_record_as_big_as_a_block_is_refused_before_it_is_parsed() {
    let bytes = vec![0; MAX_RECORD_BYTES + 1];
    assert_eq!(
        Record::verify(&key().name(), &bytes),
        Err(RecordError::TooLong(MAX_RECORD_BYTES + 1))
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
}
