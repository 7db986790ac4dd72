//! Drives transactions that are sent but not final.

use std::time::Duration;

use crate::chain::transact::Transactor;

/// Between two checks while something is pending.
const PAUSE: Duration = Duration::from_secs(5);

/// Completes sent transactions, also earlier processes'; never returns.
pub(crate) async fn drive_pending(transactor: Transactor) {
    let mut told = None;
    loop {
        let carried = transactor.carry().await;
        let is_over = carried == Ok(true);
        let fault = carried.err();
        if let Some(fault) = &fault
            && told.as_ref() != Some(fault)
        {
            tracing::warn!("{fault}");
        }
        told = fault;
        if is_over {
            transactor.asked().await;
        }
        tokio::time::sleep(PAUSE).await;
    }
}
