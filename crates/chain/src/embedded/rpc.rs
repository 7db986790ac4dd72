//! The read half of the embedded chain's JSON-RPC: what contract calls, fillers, receipts and logs
//! need.
//!
//! Invariant: an answer comes from one state and changes nothing. Calls and estimates at `latest`
//! or `pending` belong to a block mined now, so that `block.timestamp` advances without blocks; at
//! a number or hash they see that block.

use alloy::consensus::Receipt;
use alloy::consensus::transaction::Recovered;
use alloy::eips::{BlockId, BlockNumberOrTag};
use alloy::primitives::{Address, B256, U64, U256};
use alloy::rpc::types::{
    Block as RpcBlock, BlockTransactions, FeeHistory, Filter, FilterBlockOption, Header, Log,
    Transaction, TransactionReceipt, TransactionRequest,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

use super::chain::{Block, Chain, Mined, envelope};
use super::estimate;
use super::evm::{self, BLOCK_GAS, End, Setting};
use super::fault::Fault;

/// The tip proposed to senders, wei: nobody bids against them.
const TIP: u128 = 1_000_000_000;
/// The most blocks in a fee history.
const HISTORY_MAX: u64 = 1024;

type Answer = Result<Box<RawValue>, Fault>;

/// Answers a read. `now` is wall time, seconds.
pub(super) fn answer(chain: &Chain, now: u64, method: &str, params: &Params) -> Answer {
    match method {
        "eth_chainId" => json(&U64::from(chain.chain_id)),
        "net_version" => json(&chain.chain_id.to_string()),
        "web3_clientVersion" => json(&concat!("pxfs/", env!("CARGO_PKG_VERSION"))),
        "eth_syncing" => json(&false),
        "eth_accounts" => json(&Vec::<Address>::new()),
        "eth_blockNumber" => json(&U64::from(chain.height())),
        "eth_gasPrice" => json(&U256::from(TIP + u128::from(chain.next_base_fee()))),
        "eth_maxPriorityFeePerGas" => json(&U256::from(TIP)),
        "eth_feeHistory" => fee_history(chain, params),
        "eth_getBalance" => at(chain, now, params, 1, |view, _| {
            let account = view.account(params.get(0)?);
            json(&account.map(|account| account.balance).unwrap_or_default())
        }),
        "eth_getTransactionCount" => at(chain, now, params, 1, |view, _| {
            let account = view.account(params.get(0)?);
            json(&U64::from(account.map_or(0, |account| account.nonce)))
        }),
        "eth_getCode" => at(chain, now, params, 1, |view, _| {
            json(&view.code_of(params.get(0)?))
        }),
        "eth_getStorageAt" => at(chain, now, params, 2, |view, _| {
            json(&B256::from(view.slot(params.get(0)?, params.get(1)?)))
        }),
        "eth_call" => at(chain, now, params, 1, |view, setting| {
            if params.optional::<Value>(2)?.is_some() {
                return Err(Fault::params("a call here runs on the state as it is"));
            }
            let request: TransactionRequest = params.get(0)?;
            let gas = request.gas.unwrap_or(BLOCK_GAS).min(BLOCK_GAS);
            match evm::call(view, &setting, &request, gas)?.end {
                End::Return(output) => json(&output),
                end => Err(Fault::of_end(end)),
            }
        }),
        "eth_estimateGas" => {
            let request: TransactionRequest = params.get(0)?;
            let id = params.optional(1)?.unwrap_or_default();
            let gas = estimate::gas(&request, |gas| {
                on_state(chain, now, id, |view, setting| {
                    Ok(evm::call(view, &setting, &request, gas)?)
                })
            })?;
            json(&U64::from(gas))
        }
        "eth_getBlockByNumber" => {
            let full = params.optional(1)?.unwrap_or(false);
            match params.get(0)? {
                BlockNumberOrTag::Pending => json(&pending(chain, now)),
                tag => json(&chain.block(number(chain, tag)).map(|b| block(b, full))),
            }
        }
        "eth_getBlockByHash" => {
            let full = params.optional(1)?.unwrap_or(false);
            let found = chain.block_by_hash(params.get(0)?);
            json(&found.map(|found| block(found, full)))
        }
        "eth_getTransactionByHash" => {
            let found = chain.block_of_transaction(params.get(0)?);
            json(&found.and_then(transaction))
        }
        "eth_getTransactionReceipt" => {
            let found = chain.block_of_transaction(params.get(0)?);
            json(&found.and_then(receipt))
        }
        "eth_getLogs" => logs(chain, params),
        _ => Err(Fault::new(
            -32601,
            format!("the method {method} does not exist"),
        )),
    }
}

#[derive(Debug, Default)]
pub(super) struct Params(Vec<Value>);

impl Params {
    /// Absent parameters count as an empty list.
    pub(super) fn new(params: Option<&RawValue>) -> Result<Self, Fault> {
        match params {
            None => Ok(Self::default()),
            Some(raw) => match serde_json::from_str(raw.get()).map_err(Fault::params)? {
                Value::Array(list) => Ok(Self(list)),
                Value::Null => Ok(Self::default()),
                _ => Err(Fault::params("a list is expected")),
            },
        }
    }

    pub(super) fn optional<T: DeserializeOwned>(&self, index: usize) -> Result<Option<T>, Fault> {
        match self.0.get(index) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => serde_json::from_value(value.clone())
                .map(Some)
                .map_err(Fault::params),
        }
    }

    pub(super) fn get<T: DeserializeOwned>(&self, index: usize) -> Result<T, Fault> {
        let value = self.optional(index)?;
        value.ok_or_else(|| Fault::params(format!("parameter {index} is missing")))
    }
}

pub(super) fn json<T: Serialize + ?Sized>(value: &T) -> Answer {
    to_raw_value(value).map_err(|fault| Fault::internal(fault.to_string()))
}

/// Runs `read` on the state that parameter `index` names.
fn at(
    chain: &Chain,
    now: u64,
    params: &Params,
    index: usize,
    read: impl FnOnce(super::state::View<'_>, Setting) -> Answer,
) -> Answer {
    on_state(
        chain,
        now,
        params.optional(index)?.unwrap_or_default(),
        read,
    )
}

fn on_state<T>(
    chain: &Chain,
    now: u64,
    id: BlockId,
    read: impl FnOnce(super::state::View<'_>, Setting) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let block = match id {
        BlockId::Number(BlockNumberOrTag::Number(number)) => chain.block(number),
        BlockId::Number(BlockNumberOrTag::Earliest) => chain.block(0),
        BlockId::Number(_) => {
            let hashes = |number| chain.hash_of(number);
            let view = chain.view_at(chain.height(), &hashes);
            return read(view, chain.next_setting(now));
        }
        BlockId::Hash(hash) => chain.block_by_hash(hash.block_hash),
    };
    let block = block.ok_or_else(|| Fault::new(-32000, "header not found"))?;
    let hashes = |number| chain.hash_of(number);
    read(
        chain.view_at(block.header.number, &hashes),
        chain.setting_at(block),
    )
}

fn number(chain: &Chain, tag: BlockNumberOrTag) -> u64 {
    match tag {
        BlockNumberOrTag::Number(number) => number,
        BlockNumberOrTag::Earliest => 0,
        _ => chain.height(),
    }
}

fn block(block: &Block, full: bool) -> RpcBlock {
    let transactions = match (&block.mined, full) {
        (Some(mined), false) => BlockTransactions::Hashes(vec![*mined.envelope.tx_hash()]),
        (None, false) => BlockTransactions::Hashes(Vec::new()),
        (_, true) => BlockTransactions::Full(transaction(block).into_iter().collect()),
    };
    let header = Header {
        hash: block.hash,
        inner: block.header.clone(),
        total_difficulty: None,
        size: None,
    };
    RpcBlock {
        header,
        uncles: Vec::new(),
        transactions,
        withdrawals: None,
    }
}

fn pending(chain: &Chain, now: u64) -> RpcBlock {
    RpcBlock {
        header: Header::new(chain.next_header(now)),
        uncles: Vec::new(),
        transactions: BlockTransactions::Hashes(Vec::new()),
        withdrawals: None,
    }
}

fn transaction(block: &Block) -> Option<Transaction> {
    let mined = block.mined.as_ref()?;
    Some(Transaction {
        inner: Recovered::new_unchecked(mined.envelope.clone(), mined.sender),
        block_hash: Some(block.hash),
        block_number: Some(block.header.number),
        transaction_index: Some(0),
        effective_gas_price: Some(mined.gas_price(&block.header)),
        block_timestamp: Some(block.header.timestamp),
    })
}

fn receipt(block: &Block) -> Option<TransactionReceipt> {
    use alloy::consensus::Transaction as _;
    let mined = block.mined.as_ref()?;
    let inner = Receipt {
        status: mined.success.into(),
        cumulative_gas_used: block.header.gas_used,
        logs: logs_of(block, mined).collect(),
    };
    Some(TransactionReceipt {
        inner: envelope(mined.envelope.tx_type(), inner, block.header.logs_bloom),
        transaction_hash: *mined.envelope.tx_hash(),
        transaction_index: Some(0),
        block_hash: Some(block.hash),
        block_number: Some(block.header.number),
        gas_used: block.header.gas_used,
        effective_gas_price: mined.gas_price(&block.header),
        blob_gas_used: None,
        blob_gas_price: None,
        from: mined.sender,
        to: mined.envelope.to(),
        contract_address: mined.created,
    })
}

fn logs_of<'a>(block: &'a Block, mined: &'a Mined) -> impl Iterator<Item = Log> + 'a {
    mined.logs.iter().zip(0..).map(|(log, index)| Log {
        inner: log.clone(),
        block_hash: Some(block.hash),
        block_number: Some(block.header.number),
        block_timestamp: Some(block.header.timestamp),
        transaction_hash: Some(*mined.envelope.tx_hash()),
        transaction_index: Some(0),
        log_index: Some(index),
        removed: false,
    })
}

fn logs(chain: &Chain, params: &Params) -> Answer {
    let filter: Filter = params.get(0)?;
    let (from, to) = match filter.block_option {
        FilterBlockOption::AtBlockHash(hash) => {
            let block = chain.block_by_hash(hash);
            let block = block.ok_or_else(|| Fault::new(-32000, "unknown block"))?;
            (block.header.number, block.header.number)
        }
        FilterBlockOption::Range {
            from_block,
            to_block,
        } => (
            number(chain, from_block.unwrap_or_default()),
            number(chain, to_block.unwrap_or_default()),
        ),
    };
    if from > to {
        return Err(Fault::params("the range of blocks ends before it begins"));
    }
    let found: Vec<_> = chain
        .range(from, to)
        .filter(|block| filter.matches_bloom(block.header.logs_bloom))
        .filter_map(|block| Some((block, block.mined.as_ref()?)))
        .flat_map(|(block, mined)| logs_of(block, mined))
        .filter(|log| filter.matches(&log.inner))
        .collect();
    json(&found)
}

fn fee_history(chain: &Chain, params: &Params) -> Answer {
    let count: U64 = params.get(0)?;
    let newest = number(chain, params.optional(1)?.unwrap_or_default()).min(chain.height());
    let percentiles: Vec<f64> = params.optional(2)?.unwrap_or_default();
    let count = count.to::<u64>().clamp(1, HISTORY_MAX);
    let oldest = (newest + 1).saturating_sub(count);
    let mut history = FeeHistory {
        oldest_block: oldest,
        ..FeeHistory::default()
    };
    let mut rewards = Vec::new();
    for block in chain.range(oldest, newest) {
        let base_fee = u128::from(block.header.base_fee_per_gas.unwrap_or_default());
        let tip = block.mined.as_ref().map_or(0, |mined| {
            mined.gas_price(&block.header).saturating_sub(base_fee)
        });
        history.base_fee_per_gas.push(base_fee);
        history
            .gas_used_ratio
            .push(block.header.gas_used as f64 / BLOCK_GAS as f64);
        rewards.push(vec![tip; percentiles.len()]);
    }
    let next = chain
        .block(newest + 1)
        .and_then(|b| b.header.base_fee_per_gas);
    let next = next.unwrap_or_else(|| chain.next_base_fee());
    history.base_fee_per_gas.push(u128::from(next));
    history.reward = (!percentiles.is_empty()).then_some(rewards);
    json(&history)
}
