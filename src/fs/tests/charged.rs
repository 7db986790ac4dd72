//! What a commit is charged, when the daemon dies between the commit and its charge.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::rig::Rig;

#[test]
fn a_charge_is_kept_through_a_crash_until_the_chain_has_it_for_good() {
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
    rig.volume.settle_charges(&[1], BTreeMap::new()).unwrap();
    let rig = rig.crash();
    assert_eq!(rig.volume.charges(), [(2, 8192)], "and never comes back");
}
