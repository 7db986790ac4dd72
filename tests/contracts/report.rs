//! `onReport`: which answers are taken, which are refused, and what each leaves behind.

use alloy::primitives::{B256, U256};

use crate::world::*;

#[tokio::test]
async fn a_report_writes_usage_timestamp_sequence_and_root() {
    let w = World::new().await;
    let token = w.mint(w.alice, 0).await;
    w.advance(DAY).await;
    let request = w.request(w.alice, token).await;
    assert_eq!(w.info(token).await.requestId, request);
    w.advance(60).await;
    let receipt = w
        .deliver(&w.answer(request, token, 1234, 7, ROOT).await)
        .await;
    let event = the::<PxSync::Synced>(&receipt);
    assert_eq!(
        (event.tokenId, event.usage, event.sequence, event.root),
        (token, U256::from(1234), 7, ROOT)
    );
    assert_eq!(the::<PxSync::MetadataUpdate>(&receipt)._tokenId, token);

    let info = w.info(token).await;
    assert_eq!((info.synced, info.sequence, info.root), (true, 7, ROOT));
    assert_eq!(info.usage, U256::from(1234));
    assert_eq!(info.requestId, B256::ZERO);
    assert_eq!(info.lastUpdateTimestamp, w.now().await);
}

#[tokio::test]
async fn usage_is_absolute_so_deleting_frees_space() {
    let w = World::new().await;
    let token = w.mint(w.alice, 0).await;
    w.synced(token, FREE_BYTES, 1, ROOT).await;
    let one_more = w.px.canUpload(token, U256::ONE);
    assert!(!one_more.call().await.unwrap().can);
    w.synced(token, 500, 2, OTHER_ROOT).await;
    assert_eq!(w.info(token).await.usage, U256::from(500));
    assert!(one_more.call().await.unwrap().can);
}

#[tokio::test]
async fn only_the_forwarder_reports() {
    let w = World::new().await;
    let token = w.mint(w.alice, 0).await;
    let request = w.request(w.alice, token).await;
    let report = w.answer(request, token, 1, 1, ROOT).await;
    for liar in [w.alice, w.bob, w.owner] {
        let call =
            w.px.onReport(Default::default(), report.encode().into())
                .from(liar);
        assert_eq!(refusal(call).await, "!forwarder");
    }
    assert_eq!(
        w.info(token).await.requestId,
        request,
        "the request is still open"
    );
    the::<PxSync::Synced>(&w.deliver(&report).await);
}

#[tokio::test]
async fn a_report_of_no_open_request_does_nothing_and_says_nothing() {
    let w = World::new().await;
    let token = w.mint(w.alice, 0).await;
    let request = w.request(w.alice, token).await;
    let before = w.info(token).await;
    let good = w.answer(request, token, 1, 1, ROOT).await;
    let strangers = [
        Report {
            request: ROOT,
            ..good.clone()
        },
        Report {
            request: B256::ZERO,
            ..good.clone()
        },
        Report {
            token: U256::from(2),
            ..good.clone()
        },
        Report {
            token: U256::from(2),
            request: B256::ZERO,
            ..good.clone()
        },
        Report {
            token: U256::ZERO,
            ..good.clone()
        },
        Report {
            token: U256::MAX,
            ..good.clone()
        },
    ];
    for report in strangers {
        assert!(w.deliver(&report).await.logs().is_empty(), "{report:?}");
    }
    for bytes in [
        vec![],
        vec![0; 31],
        good.encode()[..223].to_vec(),
        [good.encode(), vec![0]].concat(),
    ] {
        let call =
            w.px.onReport(Default::default(), bytes.into())
                .from(w.oracle);
        assert!(done(call).await.logs().is_empty());
    }
    assert_eq!(w.info(token).await, before);
}

#[tokio::test]
async fn a_replayed_report_changes_nothing() {
    let w = World::new().await;
    let token = w.mint(w.alice, 0).await;
    let request = w.request(w.alice, token).await;
    let report = w.answer(request, token, 1, 1, ROOT).await;
    w.deliver(&report).await;
    let before = w.info(token).await;
    w.advance(DAY).await;
    assert!(w.deliver(&report).await.logs().is_empty());
    assert_eq!(w.info(token).await, before);
    w.request(w.alice, token).await;
    assert!(
        w.deliver(&report).await.logs().is_empty(),
        "nor does it answer the next request"
    );
}

#[tokio::test]
async fn an_old_sequence_is_refused_and_said_so() {
    let w = World::new().await;
    let token = w.mint(w.alice, 0).await;
    w.synced(token, 1000, 7, ROOT).await;
    let before = w.info(token).await;
    for sequence in [6, 0] {
        let receipt = w.try_sync(token, 10, sequence, OTHER_ROOT).await;
        assert_eq!(failure(&receipt), 130);
    }
    let after = w.info(token).await;
    assert_eq!(after.requestId, B256::ZERO, "the request is closed");
    let expected = TokenInfo {
        requestedAt: after.requestedAt,
        ..before
    };
    assert_eq!(after, expected, "usage, sequence, root and deadline stay");
}

#[tokio::test]
async fn a_report_of_another_epoch_is_refused_and_said_so() {
    let w = World::new().await;
    let token = w.mint(w.alice, 0).await;
    done(w.px.register(token, OTHER_KEY.to_owned()).from(w.alice)).await;
    for epoch in [
        U256::ZERO,
        U256::from(1),
        U256::from(3),
        U256::from(2) + (U256::ONE << 64),
        U256::MAX,
    ] {
        let request = w.request(w.alice, token).await;
        let report = Report {
            epoch,
            ..w.answer(request, token, 10, 10, ROOT).await
        };
        let receipt = w.deliver(&report).await;
        let event = the::<PxSync::SyncFailed>(&receipt);
        assert_eq!((event.tokenId, event.requestId), (token, request));
        assert_eq!(failure(&receipt), 129);
        assert!(!w.info(token).await.synced);
        assert_eq!(w.info(token).await.requestId, B256::ZERO);
    }
}

#[tokio::test]
async fn an_idle_token_renews_with_its_old_sequence_and_root() {
    let w = World::new().await;
    let token = w.mint(w.alice, 0).await;
    w.synced(token, 1000, 7, ROOT).await;
    w.advance(29 * DAY).await;
    w.synced(token, 1000, 7, ROOT).await;
    let info = w.info(token).await;
    assert_eq!(info.lastUpdateTimestamp, w.now().await);
    assert_eq!((info.sequence, info.root), (7, ROOT));
    w.advance(29 * DAY).await;
    assert!(w.px.canUpload(token, U256::ONE).call().await.unwrap().can);
}

#[tokio::test]
async fn a_token_never_used_renews_with_sequence_0_and_no_root() {
    let w = World::new().await;
    let token = w.mint(w.alice, 0).await;
    w.synced(token, 0, 0, B256::ZERO).await;
    w.synced(token, 0, 0, B256::ZERO).await;
    let info = w.info(token).await;
    assert_eq!(
        (info.synced, info.sequence, info.root),
        (true, 0, B256::ZERO)
    );
    // Sequence 0 counts as stored: another root cannot take its place.
    assert_eq!(failure(&w.try_sync(token, 0, 0, ROOT).await), 131);
}

#[tokio::test]
async fn the_same_sequence_with_another_root_is_refused_and_said_so() {
    let w = World::new().await;
    let token = w.mint(w.alice, 0).await;
    w.synced(token, 1000, 7, ROOT).await;
    let before = w.info(token).await;
    w.advance(DAY).await;
    assert_eq!(failure(&w.try_sync(token, 1000, 7, OTHER_ROOT).await), 131);
    assert_eq!(failure(&w.try_sync(token, 1000, 7, B256::ZERO).await), 131);
    let after = w.info(token).await;
    assert_eq!(after.root, ROOT);
    assert_eq!(
        after.lastUpdateTimestamp, before.lastUpdateTimestamp,
        "and renews nothing"
    );
}

#[tokio::test]
async fn usage_above_the_size_is_stored_and_stops_uploads() {
    let w = World::new().await;
    let token = w.mint(w.alice, 0).await;
    w.synced(token, FREE_BYTES, 1, ROOT).await;
    let none = w.px.canUpload(token, U256::ZERO);
    assert!(none.call().await.unwrap().can, "full, and not above");
    for usage in [FREE_BYTES + 1, MAX_INTEGER] {
        w.synced(token, usage, 2, ROOT).await;
        assert_eq!(
            w.px.getStorageUsageInBytes(token).call().await.unwrap(),
            U256::from(usage)
        );
        let answer = none.call().await.unwrap();
        assert!(!answer.can && answer.sizeOrBandwidthExceeded && !answer.timestampLock);
        w.px.tokenURI(token)
            .call()
            .await
            .expect("still has a picture");
        w.px.pxStorage(token).call().await.expect("still reads");
    }
}

#[tokio::test]
async fn the_oracles_error_closes_the_request_and_is_told() {
    let w = World::new().await;
    let token = w.mint(w.alice, 0).await;
    let before = w.info(token).await;
    for code in [1u8, 6, 127] {
        let request = w.request(w.alice, token).await;
        let report = w.failed(request, token, code).await;
        assert_eq!(failure(&w.deliver(&report).await), code);
        assert_eq!(w.info(token).await.requestId, B256::ZERO);
    }
    let after = w.info(token).await;
    assert_eq!(
        after,
        TokenInfo {
            requestedAt: after.requestedAt,
            ..before
        }
    );
}

/// What nobody could read five minutes ago may be there now, and the fee is paid for an answer that is true.
#[tokio::test]
async fn a_failure_that_was_seen_too_long_ago_closes_nothing() {
    let w = World::new().await;
    let token = w.mint(w.alice, 0).await;
    let request = w.request(w.alice, token).await;
    let old = w.failed(request, token, 2).await;
    w.advance(301).await;
    for seen in [
        old.sequence,
        U256::ZERO,
        U256::from(w.now().await + 120),
        U256::MAX,
    ] {
        let report = Report {
            sequence: seen,
            ..old.clone()
        };
        assert!(w.deliver(&report).await.logs().is_empty(), "{seen}");
        assert_eq!(w.info(token).await.requestId, request);
    }
    let report = Report {
        sequence: U256::from(w.now().await - 200),
        ..old
    };
    assert_eq!(failure(&w.deliver(&report).await), 2);
    let request = w.request(w.alice, token).await;
    let good = w.answer(request, token, 9, 9, ROOT).await;
    the::<PxSync::Synced>(&w.deliver(&good).await);
}

#[tokio::test]
async fn numbers_that_no_document_can_hold_close_the_request_without_reverting() {
    let w = World::new().await;
    let token = w.mint(w.alice, 0).await;
    let above = U256::from(MAX_INTEGER) + U256::ONE;
    let none = B256::ZERO;
    let good = w.answer(none, token, 9, 9, ROOT).await;
    let bad = [
        Report {
            usage: above,
            ..good.clone()
        },
        Report {
            usage: U256::MAX,
            ..good.clone()
        },
        Report {
            sequence: above,
            ..good.clone()
        },
        // Would be 0 if it were cut to 64 bits.
        Report {
            sequence: U256::ONE << 64,
            ..good.clone()
        },
        Report {
            usage: U256::ONE << 64,
            ..good.clone()
        },
        // The contract's own codes are not the oracle's to send.
        Report {
            error: U256::from(128),
            ..good.clone()
        },
        Report {
            error: U256::from(130),
            ..good.clone()
        },
        Report {
            error: U256::ONE << 8,
            ..good.clone()
        },
    ];
    for report in bad {
        let request = w.request(w.alice, token).await;
        let report = Report { request, ..report };
        assert_eq!(failure(&w.deliver(&report).await), 128, "{report:?}");
        assert!(!w.info(token).await.synced);
    }
}

#[tokio::test]
async fn the_codes_are_those_that_the_documents_tell() {
    let w = World::new().await;
    assert_eq!(w.px.MALFORMED().call().await.unwrap(), 128);
    assert_eq!(w.px.OTHER_EPOCH().call().await.unwrap(), 129);
    assert_eq!(w.px.OLD_SEQUENCE().call().await.unwrap(), 130);
    assert_eq!(w.px.OTHER_ROOT().call().await.unwrap(), 131);
}
