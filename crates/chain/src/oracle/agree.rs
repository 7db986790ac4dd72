//! How operators on several machines agree on one signed report.
//!
//! The forwarder counts signatures of the same bytes, and operators may have read different
//! documents (a commit spreads, a gateway is down). So each shares the document with its report and
//! signature. The token's own key signs a document, so each operator can verify and take the
//! newest: all converge. Without any document, they report the code that tells most.
//!
//! Invariant: nothing in a statement is trusted but a document's own signature, and an operator's
//! on the very report delivered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use alloy::primitives::{Address, B256, Bytes, Signature};
use async_trait::async_trait;
use ed25519_dalek::VerifyingKey;
use serde::{Deserialize, Serialize};

use super::reader::{Finding, Refusal, best, judge, more_telling};
use crate::contract::Report;
use pxfs_base::types::VolumeKey;

/// An operator's statement on a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// The report that it would deliver.
    pub report: Bytes,
    /// Its signatures of the report, 65 bytes each.
    pub signatures: Vec<Bytes>,
    /// The usage metadata behind the report, if it found any.
    pub document: Option<String>,
}

/// The other operators.
#[async_trait]
pub trait Colleagues: Send + Sync {
    /// The statements on `request` of those that answer in time.
    async fn statements(&self, request: B256) -> Vec<Statement>;
}

/// This operator's statements on open requests, for the others. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Board(Arc<Mutex<BTreeMap<B256, Statement>>>);

impl Board {
    /// What it says about `request`.
    #[must_use]
    pub fn get(&self, request: B256) -> Option<Statement> {
        self.lock().get(&request).cloned()
    }

    pub(super) fn put(&self, request: B256, statement: Statement) {
        self.lock().insert(request, statement);
    }

    pub(super) fn take_down(&self, request: B256) {
        self.lock().remove(&request);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<B256, Statement>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who may sign, and how many must.
#[derive(Clone, Debug)]
pub(super) struct Council {
    pub(super) threshold: usize,
    pub(super) operators: BTreeSet<Address>,
}

impl Council {
    /// The operators that signed `digest`, ascending, as the forwarder wants them.
    pub(super) fn votes<'a>(
        &self,
        digest: B256,
        signatures: impl IntoIterator<Item = &'a Bytes>,
    ) -> BTreeMap<Address, Bytes> {
        let votes = signatures.into_iter().filter_map(|bytes| {
            let signer = signer(digest, bytes)?;
            self.operators
                .contains(&signer)
                .then(|| (signer, bytes.clone()))
        });
        votes.collect()
    }

    /// How many others come before one of `own` at `request`: the first one rotates, so that they
    /// share the gas.
    pub(super) fn turns_before(&self, request: B256, own: &[Address]) -> u32 {
        let count = self.operators.len().max(1);
        let first = usize::from(request.0[31]) % count;
        let mut places = (0..count).filter(|turn| {
            let at = self.operators.iter().nth((first + turn) % count);
            at.is_some_and(|operator| own.contains(operator))
        });
        u32::try_from(places.next().unwrap_or(count)).unwrap_or(u32::MAX)
    }
}

/// The signer, if the signature has the one form that the forwarder takes.
fn signer(digest: B256, bytes: &Bytes) -> Option<Address> {
    let plain = bytes.len() == 65 && matches!(bytes.last(), Some(27 | 28));
    let signature = Signature::from_raw(bytes).ok().filter(|_| plain)?;
    if signature.normalize_s().is_some() {
        return None;
    }
    signature.recover_address_from_prehash(&digest).ok()
}

/// What to report, from our own reading and the others' statements.
pub(super) fn settle(
    own: Result<Finding, Refusal>,
    others: &[Statement],
    key: Option<&VerifyingKey>,
    volume: &VolumeKey,
    admits: impl Fn(&Statement) -> bool,
) -> Result<Finding, Refusal> {
    let told = others.iter().filter_map(|other| {
        let document = other.document.as_ref()?.clone().into_bytes();
        judge(document.into(), key?, volume).ok()
    });
    let settled = best(told.map(Ok).chain([own]));
    settled.map_err(|refusal| {
        let admitted = others.iter().filter(|other| admits(other));
        let codes = admitted.filter_map(|other| Report::code(&other.report));
        let code = codes
            .filter(|code| *code != 0)
            .fold(refusal.code, more_telling);
        Refusal { code, ..refusal }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_operator_has_a_turn_and_none_waits_for_ever() {
        let operators: Vec<Address> = (1..=3).map(Address::repeat_byte).collect();
        let council = Council {
            threshold: 2,
            operators: operators.iter().copied().collect(),
        };
        for request in 0..6 {
            let request = B256::with_last_byte(request);
            let turns = operators
                .iter()
                .map(|own| council.turns_before(request, &[*own]));
            let turns: BTreeSet<u32> = turns.collect();
            assert_eq!(turns, [0, 1, 2].into());
        }
        assert_eq!(council.turns_before(B256::ZERO, &operators), 0);
        assert_eq!(council.turns_before(B256::ZERO, &[Address::ZERO]), 3);
    }

    #[test]
    fn a_signature_that_the_forwarder_would_not_take_is_no_vote() {
        use alloy::signers::SignerSync;
        use alloy::signers::local::PrivateKeySigner;
        let own = PrivateKeySigner::random();
        let digest = B256::repeat_byte(7);
        let good = own.sign_hash_sync(&digest).unwrap();
        let council = Council {
            threshold: 1,
            operators: [own.address()].into(),
        };
        let raw = |signature: Signature| Bytes::from(signature.as_bytes());
        let votes = |bytes: Bytes| council.votes(digest, [&bytes]).len();
        assert_eq!(votes(raw(good)), 1);
        // The same point with the higher s.
        let order = alloy::primitives::uint!(
            0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141_U256
        );
        let high = Signature::new(good.r(), order - good.s(), !good.v());
        assert_eq!(votes(raw(high)), 0);
        let mut parity = good.as_bytes();
        parity[64] -= 27;
        assert_eq!(votes(Bytes::copy_from_slice(&parity)), 0);
        assert_eq!(votes(Bytes::from_static(&[1; 64])), 0);
        let stranger = PrivateKeySigner::random().sign_hash_sync(&digest).unwrap();
        assert_eq!(votes(raw(stranger)), 0);
        let twice = [raw(good), raw(good)];
        assert_eq!(council.votes(digest, &twice).len(), 1);
    }
}
