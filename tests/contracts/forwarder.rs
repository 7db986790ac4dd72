//! `OracleForwarder`: k of n operators sign, anyone delivers.

use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::providers::{DynProvider, Provider};
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::{SolStruct, eip712_domain};

use crate::world::fwd::OracleForwarder;
use crate::world::*;

type Forwarder = OracleForwarder::OracleForwarderInstance<DynProvider>;

mod typed {
    alloy::sol! {
        /// What an operator signs (EIP-712).
        struct Report {
            address receiver;
            bytes metadata;
            bytes report;
        }
    }
}

/// Deploys a forwarder with these operators, given in any order.
async fn deploy(w: &World, operators: &[Address], threshold: u64) -> Forwarder {
    let mut operators = operators.to_vec();
    operators.sort_unstable();
    let call = OracleForwarder::deploy_builder(
        w.chain.provider.clone(),
        w.owner,
        operators,
        U256::from(threshold),
    );
    let address = done(call.from(w.owner))
        .await
        .contract_address
        .expect("a new contract");
    OracleForwarder::new(address, w.chain.provider.clone())
}

/// A forwarder that needs two of three operators, in front of a token contract with one open request.
struct Stage {
    w: World,
    forwarder: Forwarder,
    /// By ascending address.
    operators: Vec<PrivateKeySigner>,
    token: U256,
    report: Report,
}

impl Stage {
    async fn new() -> Self {
        Self::with_fee(0).await
    }

    /// The same, where a sync costs something.
    async fn with_fee(fee: u64) -> Self {
        let w = World::new().await;
        if fee != 0 {
            w.set_fee(U256::from(fee)).await;
        }
        let mut operators: Vec<_> = (0..3).map(|_| PrivateKeySigner::random()).collect();
        operators.sort_by_key(PrivateKeySigner::address);
        let addresses: Vec<_> = operators.iter().map(PrivateKeySigner::address).collect();
        let forwarder = deploy(&w, &addresses, 2).await;
        done(w.px.setForwarder(*forwarder.address()).from(w.owner)).await;
        let token = w.mint(w.alice, 0).await;
        let request = w.request(w.alice, token).await;
        let report = w.answer(request, token, 1234, 5, ROOT).await;
        Self {
            w,
            forwarder,
            operators,
            token,
            report,
        }
    }

    /// What the operators sign for this chain, this forwarder and the token contract.
    fn digest(&self, chain_id: u64, receiver: Address, metadata: &[u8], report: &[u8]) -> B256 {
        let domain = eip712_domain! {
            name: "PxOracleForwarder",
            version: "1",
            chain_id: chain_id,
            verifying_contract: *self.forwarder.address(),
        };
        let (metadata, report) = (metadata.to_vec().into(), report.to_vec().into());
        typed::Report {
            receiver,
            metadata,
            report,
        }
        .eip712_signing_hash(&domain)
    }

    async fn good_digest(&self) -> B256 {
        let chain_id = self.w.chain.provider.get_chain_id().await.unwrap();
        self.digest(chain_id, *self.w.px.address(), b"", &self.report.encode())
    }

    /// Signatures of `digest` by the operators at `who`, in that order.
    fn sign(&self, digest: B256, who: &[usize]) -> Vec<Bytes> {
        who.iter()
            .map(|&i| signature(&self.operators[i], digest))
            .collect()
    }

    /// Why delivering the report with these signatures is refused.
    async fn refused(&self, signatures: Vec<Bytes>) -> String {
        refusal(self.delivery(signatures)).await
    }

    fn delivery(
        &self,
        signatures: Vec<Bytes>,
    ) -> alloy::contract::SolCallBuilder<&DynProvider, OracleForwarder::deliverCall> {
        let receiver = *self.w.px.address();
        let report = self.report.encode().into();
        self.forwarder
            .deliver(receiver, Bytes::new(), report, signatures)
            .from(self.w.bob)
    }
}

fn signature(signer: &PrivateKeySigner, digest: B256) -> Bytes {
    signer
        .sign_hash_sync(&digest)
        .expect("a signature")
        .as_bytes()
        .into()
}

#[tokio::test]
async fn two_of_three_operators_are_enough_whoever_delivers() {
    let s = Stage::new().await;
    let digest = s.good_digest().await;
    let told = s
        .forwarder
        .digest(*s.w.px.address(), Bytes::new(), s.report.encode().into());
    assert_eq!(told.call().await.unwrap(), digest);
    let receipt = done(s.delivery(s.sign(digest, &[0, 2]))).await;
    assert_eq!(the::<PxSync::Synced>(&receipt).sequence, 5);
    let event = the::<OracleForwarder::Delivered>(&receipt);
    assert_eq!((event.receiver, event.digest), (*s.w.px.address(), digest));
    assert_eq!(s.w.info(s.token).await.usage, U256::from(1234));
}

#[tokio::test]
async fn more_signatures_than_needed_do_no_harm() {
    let s = Stage::new().await;
    let digest = s.good_digest().await;
    the::<PxSync::Synced>(&done(s.delivery(s.sign(digest, &[0, 1, 2]))).await);
}

#[tokio::test]
async fn a_replayed_delivery_changes_nothing() {
    let s = Stage::new().await;
    let signatures = s.sign(s.good_digest().await, &[0, 1]);
    done(s.delivery(signatures.clone())).await;
    let before = s.w.info(s.token).await;
    s.w.advance(DAY).await;
    let receipt = done(s.delivery(signatures)).await;
    assert!(events::<PxSync::Synced>(&receipt).is_empty());
    assert_eq!(s.w.info(s.token).await, before);
}

#[tokio::test]
async fn too_few_doubled_or_disordered_signatures_deliver_nothing() {
    let s = Stage::new().await;
    let digest = s.good_digest().await;
    assert_eq!(s.refused(vec![]).await, "too few signatures");
    assert_eq!(s.refused(s.sign(digest, &[1])).await, "too few signatures");
    assert_eq!(
        s.refused(s.sign(digest, &[1, 1])).await,
        "signatures not in order"
    );
    assert_eq!(
        s.refused(s.sign(digest, &[1, 0])).await,
        "signatures not in order"
    );
    assert_eq!(
        s.refused(s.sign(digest, &[0, 1, 1])).await,
        "signatures not in order"
    );
    assert!(!s.w.info(s.token).await.synced);
}

#[tokio::test]
async fn a_stranger_among_the_signers_spoils_the_delivery() {
    let s = Stage::new().await;
    let digest = s.good_digest().await;
    let stranger = PrivateKeySigner::random();
    let mut signatures = vec![(s.operators[1].address(), signature(&s.operators[1], digest))];
    signatures.push((stranger.address(), signature(&stranger, digest)));
    signatures.sort();
    let signatures: Vec<_> = signatures.into_iter().map(|(_, bytes)| bytes).collect();
    assert_eq!(s.refused(signatures).await, "not an operator");
}

#[tokio::test]
async fn a_signature_for_anything_else_counts_for_nothing() {
    let s = Stage::new().await;
    let chain_id = s.w.chain.provider.get_chain_id().await.unwrap();
    let receiver = *s.w.px.address();
    let report = s.report.encode();
    let other_report = Report {
        usage: U256::ZERO,
        ..s.report.clone()
    }
    .encode();
    let others = [
        (
            "another chain",
            s.digest(chain_id + 1, receiver, b"", &report),
        ),
        (
            "another receiver",
            s.digest(chain_id, s.w.bob, b"", &report),
        ),
        (
            "other metadata",
            s.digest(chain_id, receiver, b"x", &report),
        ),
        (
            "another report",
            s.digest(chain_id, receiver, b"", &other_report),
        ),
        ("the bare report", alloy::primitives::keccak256(&report)),
    ];
    for (what, digest) in others {
        let why = s.refused(s.sign(digest, &[0, 1])).await;
        assert_eq!(why, "not an operator", "{what}");
    }
    // The same report for another receiver, with signatures that were given for the first.
    let signatures = s.sign(s.good_digest().await, &[0, 1]);
    let elsewhere = s.forwarder.deliver(
        s.w.bob,
        Bytes::new(),
        report.clone().into(),
        signatures.clone(),
    );
    assert_eq!(refusal(elsewhere.from(s.w.bob)).await, "not an operator");
    // And through another forwarder with the same operators.
    let addresses: Vec<_> = s.operators.iter().map(PrivateKeySigner::address).collect();
    let twin = deploy(&s.w, &addresses, 2).await;
    done(s.w.px.setForwarder(*twin.address()).from(s.w.owner)).await;
    let through_twin = twin
        .deliver(receiver, Bytes::new(), report.into(), signatures)
        .from(s.w.bob);
    assert_eq!(refusal(through_twin).await, "not an operator");
}

#[tokio::test]
async fn malleated_signatures_are_refused() {
    let s = Stage::new().await;
    let digest = s.good_digest().await;
    let good = s.operators[0].sign_hash_sync(&digest).expect("a signature");
    // n − s with the other parity recovers the same signer, were it allowed.
    let order = U256::from_be_slice(&alloy::primitives::hex!(
        "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141"
    ));
    let twin = alloy::primitives::Signature::new(good.r(), order - good.s(), !good.v());
    assert_eq!(
        twin.recover_address_from_prehash(&digest).ok(),
        Some(s.operators[0].address())
    );
    let with_first = |first: Bytes| {
        let second = s.sign(digest, &[1]).remove(0);
        s.refused(vec![first, second])
    };
    let why = with_first(twin.as_bytes().into()).await;
    assert!(why.contains("ECDSAInvalidSignatureS"), "{why}");
    // The short form of EIP-2098 is a second encoding of the same signature.
    let why = with_first(good.as_erc2098().into()).await;
    assert!(why.contains("ECDSAInvalidSignatureLength"), "{why}");
    let mut bad_v = good.as_bytes();
    bad_v[64] = 29;
    assert!(
        with_first(bad_v.into())
            .await
            .contains("ECDSAInvalidSignature")
    );
    assert!(
        with_first(Bytes::new())
            .await
            .contains("ECDSAInvalidSignatureLength")
    );
}

#[tokio::test]
async fn only_the_owner_sets_operators_and_they_must_make_sense() {
    let s = Stage::new().await;
    let set = |operators: Vec<Address>, threshold: u64| {
        s.forwarder.setOperators(operators, U256::from(threshold))
    };
    let all: Vec<_> = s.operators.iter().map(PrivateKeySigner::address).collect();
    let why = refusal(set(all.clone(), 1).from(s.w.bob)).await;
    assert!(why.contains("OwnableUnauthorizedAccount"), "{why}");
    let refused =
        async |operators, threshold| refusal(set(operators, threshold).from(s.w.owner)).await;
    assert_eq!(refused(all.clone(), 0).await, "threshold out of range");
    assert_eq!(refused(all.clone(), 4).await, "threshold out of range");
    assert_eq!(refused(vec![], 0).await, "threshold out of range");
    assert_eq!(
        refused(vec![all[1], all[0]], 1).await,
        "operators not in order"
    );
    assert_eq!(
        refused(vec![all[0], all[0]], 2).await,
        "operators not in order"
    );
    assert_eq!(
        refused(vec![Address::ZERO, all[0]], 1).await,
        "operators not in order"
    );
    let crowd: Vec<_> = (1..=33).map(Address::with_last_byte).collect();
    assert_eq!(refused(crowd, 1).await, "too many operators");
    assert_eq!(
        s.forwarder.operators().call().await.unwrap(),
        all,
        "nothing has changed"
    );
    assert_eq!(s.forwarder.threshold().call().await.unwrap(), U256::from(2));
}

#[tokio::test]
async fn a_dismissed_operator_signs_no_more() {
    let s = Stage::new().await;
    let digest = s.good_digest().await;
    let kept = vec![s.operators[1].address(), s.operators[2].address()];
    done(
        s.forwarder
            .setOperators(kept.clone(), U256::from(2))
            .from(s.w.owner),
    )
    .await;
    assert_eq!(s.forwarder.operators().call().await.unwrap(), kept);
    assert!(
        !s.forwarder
            .isOperator(s.operators[0].address())
            .call()
            .await
            .unwrap()
    );
    assert_eq!(s.refused(s.sign(digest, &[0, 1])).await, "not an operator");
    the::<PxSync::Synced>(&done(s.delivery(s.sign(digest, &[1, 2]))).await);
}

#[tokio::test]
async fn metadata_that_was_signed_reaches_the_receiver() {
    let s = Stage::new().await;
    let id = B256::repeat_byte(7);
    done(s.w.px.setWorkflow(id, Address::ZERO).from(s.w.owner)).await;
    let signatures = s.sign(s.good_digest().await, &[0, 1]);
    assert_eq!(s.refused(signatures).await, "!workflow");
    let metadata = [id.as_slice(), &[0; 32]].concat();
    let chain_id = s.w.chain.provider.get_chain_id().await.unwrap();
    let (receiver, report) = (*s.w.px.address(), s.report.encode());
    let signatures = s.sign(s.digest(chain_id, receiver, &metadata, &report), &[0, 1]);
    let call = s
        .forwarder
        .deliver(receiver, metadata.into(), report.into(), signatures);
    the::<PxSync::Synced>(&done(call.from(s.w.bob)).await);
}

#[tokio::test]
async fn the_operators_who_signed_share_the_fee() {
    let s = Stage::with_fee(1001).await;
    let signed = s.sign(s.good_digest().await, &[0, 2]);
    the::<PxSync::Synced>(&done(s.delivery(signed.clone())).await);
    // Again: it pays nothing.
    done(s.delivery(signed)).await;
    let earned = async |i: usize| {
        let who = s.operators[i].address();
        s.forwarder.earned(who).call().await.unwrap()
    };
    let half = U256::from(500);
    assert_eq!(
        (earned(0).await, earned(1).await, earned(2).await),
        (half, U256::ZERO, half)
    );
}

#[tokio::test]
async fn an_operator_withdraws_what_he_earned_once() {
    let s = Stage::with_fee(1000).await;
    let one = s.w.oracle;
    let operators = s.forwarder.setOperators(vec![one], U256::ONE);
    done(operators.from(s.w.owner)).await;
    let signed = vec![signature(&s.w.oracle_signer, s.good_digest().await)];
    done(s.delivery(signed)).await;
    // Also after he was replaced.
    let operators = s.forwarder.setOperators(vec![s.w.bob], U256::ONE);
    done(operators.from(s.w.owner)).await;

    let withdraw = async |who| {
        let receipt = done(s.forwarder.withdraw().from(who)).await;
        let gas = U256::from(receipt.effective_gas_price) * U256::from(receipt.gas_used);
        (the::<OracleForwarder::Withdrawn>(&receipt).amount, gas)
    };
    assert_eq!(withdraw(s.w.bob).await.0, U256::ZERO, "he did not sign");
    let balance = async || s.w.chain.provider.get_balance(one).await.unwrap();
    let before = balance().await;
    let (amount, gas) = withdraw(one).await;
    assert_eq!(amount, U256::from(1000));
    assert_eq!(balance().await, before + amount - gas);
    assert_eq!(withdraw(one).await.0, U256::ZERO);
}

#[tokio::test]
async fn the_forwarder_always_has_an_owner() {
    let s = Stage::new().await;
    let why = refusal(s.forwarder.renounceOwnership().from(s.w.owner)).await;
    assert_eq!(why, "ownership cannot be renounced");
}
