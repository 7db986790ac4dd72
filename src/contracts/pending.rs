//! Drives transactions that were sent and are not final yet.

use std::time::Duration;

use crate::chain::transact::Transactor;

/// Between two checks of the pending transactions; none while nothing is pending.
const PAUSE: Duration = Duration::from_secs(5);

/// Brings to its end what was sent, also by earlier processes; never returns.
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
