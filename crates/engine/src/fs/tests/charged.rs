//! What a commit is charged, when the daemon dies between the commit and its charge.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::rig::{QUOTA, Rig, allowance};
use crate::fs::Allowance;

/// What the chain grants in `block`, with `used` bytes charged.
fn seen(rig: &Rig, block: u64, used: u64) -> Allowance {
    let mut seen = Allowance {
        additive: true,
        uploads_left: Some(9),
        usage_on_chain_bytes: used,
        ..allowance(&rig.clock, QUOTA)
    };
    seen.seen.block = block;
    seen
}

#[test]
fn a_charge_stays_counted_until_the_allowance_includes_its_block() {
    let rig = Rig::new();
    let left = || {
        rig.volume
            .with_quota(|quota| (quota.chargeable_bytes(), quota.units_left()))
    };
    rig.volume.set_allowance(&seen(&rig, 7, 0)).unwrap();
    rig.volume
        .keep_charged(Vec::new(), Some((1, 4096)))
        .unwrap();
    let charged = (QUOTA - 4096, Some(8));
    assert_eq!(left(), charged);
    // It is final in block 9, and what is known of the chain is of block 7.
    let settled = rig.volume.settle_charges(&[(1, 9)], BTreeMap::new());
    assert_eq!(settled, Ok(Vec::new()));
    assert_eq!(left(), charged);
    let mut after = seen(&rig, 9, 4096);
    after.uploads_left = Some(8);
    rig.volume.set_allowance(&after).unwrap();
    assert_eq!(left(), charged);
    let settled = rig.volume.settle_charges(&[(1, 9)], BTreeMap::new());
    assert_eq!(settled, Ok(vec![1]));
    assert_eq!(left(), charged);
    assert!(rig.volume.charges().is_empty());
}

#[test]
fn who_charges_is_called_for_each_new_commit_alone() {
    let rig = Rig::new();
    let called = Arc::new(AtomicU64::new(0));
    let calls = Arc::clone(&called);
    rig.volume.on_charge(move || {
        calls.fetch_add(1, Ordering::Relaxed);
    });
    let keep = |charge| rig.volume.keep_charged(Vec::new(), charge).unwrap();
    keep(None);
    assert_eq!(called.load(Ordering::Relaxed), 0);
    keep(Some((1, 4096)));
    keep(Some((1, 4096)));
    assert_eq!(called.load(Ordering::Relaxed), 1);
    keep(Some((2, 4096)));
    assert_eq!(called.load(Ordering::Relaxed), 2);
}

#[test]
fn a_charge_survives_crashes_until_it_is_final_on_chain() {
    let rig = Rig::new();
    let head = || vec![("head", Some(Bytes::from_static(b"of commit 1")))];
    rig.volume.keep_charged(head(), Some((1, 4096))).unwrap();
    // Between the commit and its charge, and again before anybody heard that it is mined.
    let rig = rig.crash();
    assert_eq!(rig.volume.charges(), [(1, 4096)]);
    let mined = BTreeMap::from([(1, 9)]);
    rig.volume.settle_charges(&[], mined).unwrap();
    let rig = rig.crash();
    assert_eq!(rig.volume.charges(), [(1, 4096)]);
    // Told once more of the same commit, and of the next one.
    rig.volume.keep_charged(head(), Some((1, 4096))).unwrap();
    rig.volume.keep_charged(head(), Some((2, 8192))).unwrap();
    rig.volume.set_allowance(&seen(&rig, 9, 4096)).unwrap();
    let settled = rig.volume.settle_charges(&[(1, 9)], BTreeMap::new());
    assert_eq!(settled, Ok(vec![1]));
    let rig = rig.crash();
    assert_eq!(rig.volume.charges(), [(2, 8192)], "and never comes back");
}
