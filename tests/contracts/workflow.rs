//! The gate for one Chainlink workflow, or for one owner's workflows, in the metadata of a report.

use alloy::primitives::{Address, B256, Bytes, address, b256};

use crate::world::*;

const ID: B256 = b256!("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa");
const MAKER: Address = address!("bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb");

/// As Chainlink's forwarder packs it: id (32 bytes), name (10), owner (20), report id (2).
fn metadata(id: B256, maker: Address) -> Vec<u8> {
    [id.as_slice(), b"pxfs-sync0", maker.as_slice(), &[0, 1]].concat()
}

/// Asks for a sync and reports it with `metadata`; why that was refused, or nothing.
async fn report(w: &World, metadata: Vec<u8>) -> Option<String> {
    let token = alloy::primitives::U256::ONE;
    let open = w.info(token).await.requestId;
    let request = if open.is_zero() {
        w.request(w.alice, token).await
    } else {
        open
    };
    let report = w.answer(request, token, 1, 1, ROOT).await;
    let call =
        w.px.onReport(Bytes::from(metadata), report.encode().into())
            .from(w.oracle);
    match call.clone().call().await {
        Ok(_) => {
            the::<PxSync::Synced>(&done(call).await);
            None
        }
        Err(error) => Some(reason(&error)),
    }
}

#[tokio::test]
async fn only_the_workflow_that_was_set_reports() {
    let w = World::new().await;
    w.mint(w.alice, 0).await;
    assert_eq!(
        report(&w, vec![]).await,
        None,
        "unset, the metadata is not looked at"
    );
    done(w.px.setWorkflow(ID, Address::ZERO).from(w.owner)).await;
    let refused = Some("!workflow".to_owned());
    assert_eq!(report(&w, vec![]).await, refused);
    assert_eq!(report(&w, metadata(ROOT, MAKER)).await, refused);
    assert_eq!(
        report(&w, metadata(ID, MAKER)[..61].to_vec()).await,
        refused
    );
    assert_eq!(report(&w, metadata(ID, MAKER)).await, None);
    assert_eq!(
        report(&w, metadata(ID, Address::ZERO)).await,
        None,
        "whoever owns it"
    );
}

#[tokio::test]
async fn only_the_workflows_of_the_owner_that_was_set_report() {
    let w = World::new().await;
    w.mint(w.alice, 0).await;
    done(w.px.setWorkflow(B256::ZERO, MAKER).from(w.owner)).await;
    let refused = Some("!workflow".to_owned());
    assert_eq!(report(&w, metadata(ID, w.bob)).await, refused);
    assert_eq!(
        report(&w, metadata(ID, MAKER)[..61].to_vec()).await,
        refused
    );
    assert_eq!(report(&w, metadata(ID, MAKER)).await, None);
    assert_eq!(
        report(&w, metadata(ROOT, MAKER)).await,
        None,
        "whichever it is"
    );

    done(w.px.setWorkflow(ID, MAKER).from(w.owner)).await;
    assert_eq!(
        report(&w, metadata(ROOT, MAKER)).await,
        refused,
        "with both set, both count"
    );
    assert_eq!(report(&w, metadata(ID, w.bob)).await, refused);
    assert_eq!(report(&w, metadata(ID, MAKER)).await, None);
}

#[tokio::test]
async fn the_right_workflow_from_a_wrong_forwarder_is_refused() {
    let w = World::new().await;
    done(w.px.setWorkflow(ID, MAKER).from(w.owner)).await;
    let call =
        w.px.onReport(metadata(ID, MAKER).into(), Bytes::new())
            .from(w.bob);
    assert_eq!(refusal(call).await, "!forwarder");
}
