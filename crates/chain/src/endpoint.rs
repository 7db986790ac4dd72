//! A connection to a chain: one alloy provider over HTTP or the embedded chain.
//!
//! Invariant: every request ends in bounded time, and no error or label shows more of a URL than
//! scheme and host, because paths and queries hold keys.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use alloy::eips::BlockId;
use alloy::primitives::{Address, Bytes, TxKind};
use alloy::providers::{DynProvider, Provider, RootProvider};
use alloy::rpc::client::RpcClient;
use alloy::rpc::json_rpc::{ErrorPayload, RpcError};
use alloy::rpc::types::{Filter, Log, TransactionInput, TransactionRequest};
use alloy::sol_types::{Revert, SolCall, SolError};
use alloy::transports::{TransportError, TransportErrorKind};
use tokio::sync::OnceCell;

use super::ChainError;
use super::contract::error_words;
use super::http::{HttpFault, Kind, Limits, Servers, SocketUrl};
use super::many::Many;
use super::{busy, embedded};

/// A chain connection. Cheap to clone.
#[derive(Clone)]
pub struct Endpoint {
    provider: DynProvider,
    label: Arc<str>,
    servers: Option<Servers>,
    sockets: Arc<[SocketUrl]>,
    embedded: bool,
    chain_id: Arc<OnceCell<u64>>,
    idle: Arc<OnceCell<bool>>,
    many: Arc<Many>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({})", self.label)
    }
}

impl Endpoint {
    /// Connects to a JSON-RPC URL; sends nothing yet.
    ///
    /// # Errors
    /// [`ChainError::Permanent`] if `url` is not an http or https URL.
    pub fn http(url: &str) -> Result<Self, ChainError> {
        Self::over_http(&[url], None)
    }

    /// Connects to several JSON-RPC URLs, of which the first healthy one is asked; only to the chain with
    /// this id, if given. WebSocket URLs announce changes; if there are no others, requests go to the same
    /// URLs over HTTP. Sends nothing yet.
    ///
    /// # Errors
    /// [`ChainError::Permanent`] if there is none, or one has another scheme.
    pub fn over_http(urls: &[&str], chain_id: Option<u64>) -> Result<Self, ChainError> {
        let (sockets, urls) = SocketUrl::among(urls)?;
        let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
        let servers = Servers::new(&urls, chain_id, Limits::default())?;
        Ok(Self {
            sockets: sockets.into(),
            ..Self::over(servers)
        })
    }

    pub(super) fn over(servers: Servers) -> Self {
        let client = RpcClient::new(servers.clone(), false);
        Self {
            servers: Some(servers.clone()),
            ..Self::new(client, &servers.current(), false)
        }
    }

    /// Over the chain inside this process.
    #[must_use]
    pub fn embedded(chain: &embedded::Handle) -> Self {
        Self::new(RpcClient::new(chain.clone(), true), "embedded", true)
    }

    /// Over any client.
    pub fn new(client: RpcClient, label: &str, embedded: bool) -> Self {
        Self {
            provider: RootProvider::new(client).erased(),
            label: label.into(),
            servers: None,
            sockets: Arc::default(),
            embedded,
            chain_id: Arc::default(),
            idle: Arc::default(),
            many: Arc::default(),
        }
    }

    pub(super) fn sockets(&self) -> &[SocketUrl] {
        &self.sockets
    }

    /// What it knows about batching calls.
    pub(super) fn many(&self) -> &Many {
        &self.many
    }

    #[cfg(test)]
    pub(super) fn with_many(self, many: Many) -> Self {
        let many = Arc::new(many);
        Self { many, ..self }
    }

    /// Scheme and host, or `embedded`.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The label of the server that answered last.
    #[must_use]
    pub fn current(&self) -> Arc<str> {
        let servers = self.servers.as_ref();
        servers.map_or_else(|| Arc::clone(&self.label), Servers::current)
    }

    /// The alloy provider.
    #[must_use]
    pub fn provider(&self) -> &DynProvider {
        &self.provider
    }

    /// EIP-155 chain id, asked once.
    ///
    /// # Errors
    /// As [`Endpoint::fault`].
    pub async fn chain_id(&self) -> Result<u64, ChainError> {
        let ask = || async { self.provider.get_chain_id().await };
        let id = self.chain_id.get_or_try_init(ask).await;
        id.copied().map_err(|fault| self.fault(fault))
    }

    /// Number of the newest block.
    ///
    /// # Errors
    /// As [`Endpoint::fault`].
    pub async fn height(&self) -> Result<u64, ChainError> {
        let height = self.provider.get_block_number().await;
        height.map_err(|fault| self.fault(fault))
    }

    /// Whether the chain mines only on demand, so that its time runs ahead of its newest block
    /// (embedded, anvil). Asked once.
    pub async fn is_idle(&self) -> Result<bool, ChainError> {
        let ask = || async {
            if self.embedded {
                return Ok(true);
            }
            // Providers that do not answer this are no development chains.
            match self.provider.get_client_version().await {
                Ok(version) => Ok(version.starts_with("anvil")),
                Err(RpcError::ErrorResp(_)) => Ok(false),
                Err(fault) => Err(self.fault(fault)),
            }
        };
        self.idle.get_or_try_init(ask).await.copied()
    }

    /// Advances a development chain's time (embedded, anvil), and mines a block.
    ///
    /// # Errors
    /// [`ChainError::Permanent`] on every other chain.
    pub async fn advance(&self, step: Duration) -> Result<(), ChainError> {
        let seconds = step.as_secs();
        let client = self.provider.client();
        let advanced = client
            .request::<_, serde_json::Value>("evm_increaseTime", (seconds,))
            .await;
        advanced.map_err(|fault| match self.fault(fault) {
            ChainError::Permanent(what) => {
                ChainError::Permanent(format!("cannot advance the time of this chain: {what}"))
            }
            other => other,
        })?;
        let mined = client
            .request_noparams::<serde_json::Value>("evm_mine")
            .await;
        mined.map(drop).map_err(|fault| self.fault(fault))
    }

    /// Calls a read-only function of a contract.
    ///
    /// # Errors
    /// [`ChainError::Reverted`] with the contract's reason, [`ChainError::Permanent`] if the answer is
    /// malformed, else as [`Endpoint::fault`].
    pub async fn call<C: SolCall>(
        &self,
        contract: Address,
        call: &C,
        block: BlockId,
    ) -> Result<C::Return, ChainError> {
        let output = self
            .call_raw(contract, call.abi_encode().into(), block)
            .await?;
        self.read::<C>(contract, &output)
    }

    /// The raw answer of a contract to `data`.
    ///
    /// # Errors
    /// [`ChainError::Reverted`] with the contract's reason, else as [`Endpoint::fault`].
    pub(super) async fn call_raw(
        &self,
        contract: Address,
        data: Bytes,
        block: BlockId,
    ) -> Result<Bytes, ChainError> {
        let output = self.provider.call(request(contract, data)).block(block);
        output.await.map_err(|fault| self.fault(fault))
    }

    /// Whether a transaction of `from` with `data` would succeed now; sends nothing.
    ///
    /// # Errors
    /// As [`Endpoint::fault`]; a contract's refusal is an answer.
    pub(super) async fn would_succeed(
        &self,
        from: Address,
        contract: Address,
        data: Bytes,
    ) -> Result<bool, ChainError> {
        let tried = TransactionRequest {
            from: Some(from),
            ..request(contract, data)
        };
        match self.provider.call(tried).block(BlockId::latest()).await {
            Ok(_) => Ok(true),
            Err(fault) => match self.fault(fault) {
                fault if is_refusal(&fault) => Ok(false),
                fault => Err(fault),
            },
        }
    }

    pub(super) fn read<C: SolCall>(
        &self,
        contract: Address,
        output: &Bytes,
    ) -> Result<C::Return, ChainError> {
        C::abi_decode_returns_validate(output).map_err(|_| {
            ChainError::Permanent(format!(
                "contract {contract} on {} does not answer `{}` as it should",
                self.label,
                C::SIGNATURE
            ))
        })
    }

    /// The logs for `filter`.
    ///
    /// # Errors
    /// [`LogsFault::TooMuch`] if the endpoint gives fewer logs, or no such old ones, at once.
    pub(super) async fn logs(&self, filter: &Filter) -> Result<Vec<Log>, LogsFault> {
        let logs = self.provider.get_logs(filter).await;
        logs.map_err(|fault| self.logs_fault(fault))
    }

    pub(super) fn logs_fault(&self, fault: TransportError) -> LogsFault {
        // Endpoints word it in a hundred ways, so any refusal of just these blocks counts.
        let too_much = match &fault {
            RpcError::ErrorResp(payload) => !busy::is_later(payload),
            RpcError::Transport(TransportErrorKind::Custom(fault)) => {
                fault.downcast_ref::<HttpFault>().is_some_and(|fault| {
                    use Kind::{Slow, Status, TooLarge};
                    matches!(fault.kind, Slow | TooLarge | Status(400 | 413 | 422))
                })
            }
            _ => false,
        };
        let fault = self.fault(fault);
        match too_much {
            true => LogsFault::TooMuch(fault.to_string()),
            false => LogsFault::Other(fault),
        }
    }

    /// A transport error in one line.
    ///
    /// [`ChainError::Reverted`] if the contract refuses or the transaction is invalid,
    /// [`ChainError::Transient`] if the endpoint does not answer or is busy,
    /// [`ChainError::Unserved`] if it does not answer as a chain does, else
    /// [`ChainError::Permanent`].
    #[must_use]
    pub fn fault(&self, fault: TransportError) -> ChainError {
        let at = &self.label;
        match fault {
            RpcError::ErrorResp(payload) => refusal(&payload, at),
            RpcError::NullResp => ChainError::Unserved(format!("{at} gave an empty answer")),
            RpcError::Transport(kind) => transport(&kind, at),
            RpcError::UnsupportedFeature(what) => ChainError::Permanent(format!("{at}: {what}")),
            RpcError::LocalUsageError(fault) => ChainError::Permanent(format!("{at}: {fault}")),
            RpcError::SerError(_) | RpcError::DeserError { .. } => {
                ChainError::Unserved(format!("{at} does not answer as a chain does"))
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum LogsFault {
    /// Fewer blocks may work.
    #[error("{0}")]
    TooMuch(String),
    /// Independent of the number of blocks.
    #[error("{0}")]
    Other(ChainError),
}

pub(super) fn request(contract: Address, data: Bytes) -> TransactionRequest {
    TransactionRequest {
        to: Some(TxKind::Call(contract)),
        input: TransactionInput::both(data),
        ..TransactionRequest::default()
    }
}

fn refusal(payload: &ErrorPayload, at: &str) -> ChainError {
    let message = payload.message.as_ref();
    if let Some(reason) = reverted(payload) {
        let data = payload
            .data
            .as_ref()
            .and_then(|data| revert_data(data.get()));
        return refused(&data.unwrap_or_default(), &pxfs_base::text::message(reason));
    }
    let line = pxfs_base::text::message(message);
    let lower = message.to_lowercase();
    let of_transaction = [
        "insufficient funds",
        "nonce too",
        "gas too low",
        "fee cap",
        "max fee per gas",
    ];
    if of_transaction.iter().any(|words| lower.contains(words)) {
        ChainError::Reverted(line)
    } else if busy::is_later(payload) {
        ChainError::Transient(format!("{at} is busy: {line}"))
    } else {
        ChainError::Permanent(format!("{at} answered: {line}"))
    }
}

/// A contract's refusal without words.
pub(super) const WITHOUT_REASON: &str = "reverted without a reason";

/// Whether the contract refused ([`refused`]), not the chain a transaction.
pub(super) fn is_refusal(fault: &ChainError) -> bool {
    matches!(fault, ChainError::Reverted(why) if why.starts_with("reverted"))
}

/// The contract's refusal `data`, which a node put into `words`.
pub(super) fn refused(data: &Bytes, words: &str) -> ChainError {
    // Nodes word a reasonless refusal differently; its data is the same.
    let told = Revert::abi_decode(data).map(|told| pxfs_base::text::message(&told.reason));
    let words = match told {
        Ok(told) if words.is_empty() => told,
        _ => words.to_owned(),
    };
    ChainError::Reverted(match (error_words(data), words.as_str()) {
        (Some(words), _) => format!("reverted: {words}"),
        (None, words) if words.is_empty() || words.starts_with("custom error") => {
            match data.is_empty() {
                true => WITHOUT_REASON.to_owned(),
                false => pxfs_base::text::message(&format!("reverted with {data}")),
            }
        }
        (None, words) => format!("reverted: {}", words.trim_start_matches("revert: ")),
    })
}

/// The refusal bytes in an error's `data`: hex, text that ends in it, or an object that contains
/// it.
fn revert_data(json: &str) -> Option<Bytes> {
    fn find(value: &serde_json::Value) -> Option<Bytes> {
        match value {
            serde_json::Value::String(text) => text.rsplit(' ').next()?.parse().ok(),
            serde_json::Value::Object(fields) => fields.values().find_map(find),
            _ => None,
        }
    }
    find(&serde_json::from_str(json).ok()?)
}

/// What follows each node's words for a revert.
fn reverted(payload: &ErrorPayload) -> Option<&str> {
    let message = payload.message.as_ref();
    let known = [
        "execution reverted",
        "Execution reverted",
        "VM Exception while processing transaction: revert",
        // OpenEthereum and Nethermind put the rest in the data.
        "VM execution error",
        "reverted",
    ];
    let rest = known.iter().find_map(|known| message.strip_prefix(known));
    match rest {
        Some(rest) => Some(rest.trim_start_matches([':', ' ', '.', ','])),
        // geth's code for it, whatever the words.
        None => (payload.code == 3).then_some(""),
    }
}

fn transport(kind: &TransportErrorKind, at: &str) -> ChainError {
    let TransportErrorKind::Custom(fault) = kind else {
        return ChainError::Transient(format!("{at} broke the connection"));
    };
    match fault.downcast_ref::<HttpFault>() {
        Some(HttpFault { what, kind }) => match kind {
            Kind::OtherChain(_) => ChainError::Permanent(what.clone()),
            Kind::Status(status) if *status < 500 => ChainError::Unserved(what.clone()),
            _ => ChainError::Transient(what.clone()),
        },
        None => ChainError::Transient(format!("{at} broke the connection")),
    }
}
