//! One EVM run on a state: a call, an estimate or a transaction.
//!
//! Invariant: a run changes nothing; its outcome holds the changes. Rules of the Prague hard fork.

use alloy::consensus::{Transaction, TxEnvelope};
use alloy::primitives::{Address, B256, Bytes, KECCAK256_EMPTY, Log, TxKind, U256};
use alloy::rpc::types::TransactionRequest;
use revm::context::result::{EVMError, ExecutionResult, HaltReason, InvalidTransaction};
use revm::context::{BlockEnv, CfgEnv, TxEnv};
use revm::database_interface::WrapDatabaseRef;
use revm::primitives::hardfork::SpecId;
use revm::state::EvmState;
use revm::{Context, ExecuteEvm, MainBuilder, MainContext};

use super::record::{Account, Change};
use super::state::View;

/// Gas limit of a block, and so of a transaction or call.
pub(super) const BLOCK_GAS: u64 = 30_000_000;

#[derive(Clone, Copy, Debug)]
pub(super) struct Setting {
    pub(super) chain_id: u64,
    pub(super) number: u64,
    pub(super) timestamp: u64,
    pub(super) base_fee: u64,
    pub(super) random: B256,
}

#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) end: End,
    pub(super) gas_used: u64,
    pub(super) created: Option<Address>,
    pub(super) logs: Vec<Log>,
    pub(super) state: EvmState,
}

#[derive(Debug)]
pub(super) enum End {
    Return(Bytes),
    Revert(Bytes),
    /// Out of gas, or an invalid operation.
    Halt(HaltReason),
}

/// Runs a signed transaction by all rules.
pub(super) fn transact(
    view: View<'_>,
    setting: &Setting,
    sender: Address,
    envelope: &TxEnvelope,
) -> Result<Outcome, InvalidTransaction> {
    let tx = TxEnv {
        tx_type: envelope.tx_type() as u8,
        caller: sender,
        gas_limit: envelope.gas_limit(),
        gas_price: envelope.max_fee_per_gas(),
        gas_priority_fee: envelope.max_priority_fee_per_gas(),
        kind: envelope.kind(),
        value: envelope.value(),
        data: envelope.input().clone(),
        nonce: envelope.nonce(),
        chain_id: envelope.chain_id(),
        access_list: envelope.access_list().cloned().unwrap_or_default(),
        ..TxEnv::default()
    };
    run(view, setting, tx, |_| ())
}

/// Runs `request` as a free transaction of the next block, with any nonce.
pub(super) fn call(
    view: View<'_>,
    setting: &Setting,
    request: &TransactionRequest,
    gas: u64,
) -> Result<Outcome, InvalidTransaction> {
    let tx = TxEnv {
        tx_type: 0,
        caller: request.from.unwrap_or_default(),
        gas_limit: gas,
        gas_price: 0,
        gas_priority_fee: None,
        kind: request.to.unwrap_or(TxKind::Create),
        value: request.value.unwrap_or_default(),
        data: request.input.input().cloned().unwrap_or_default(),
        nonce: request.nonce.unwrap_or_default(),
        chain_id: Some(setting.chain_id),
        ..TxEnv::default()
    };
    run(view, setting, tx, |cfg| {
        cfg.disable_base_fee = true;
        cfg.disable_eip3607 = true;
        cfg.disable_nonce_check = true;
    })
}

fn run(
    view: View<'_>,
    setting: &Setting,
    tx: TxEnv,
    relax: impl FnOnce(&mut CfgEnv),
) -> Result<Outcome, InvalidTransaction> {
    let block = BlockEnv {
        number: U256::from(setting.number),
        timestamp: U256::from(setting.timestamp),
        gas_limit: BLOCK_GAS,
        basefee: setting.base_fee,
        prevrandao: Some(setting.random),
        ..BlockEnv::default()
    };
    let mut evm = Context::mainnet()
        .with_db(WrapDatabaseRef(view))
        .with_block(block)
        .modify_cfg_chained(|cfg| {
            cfg.set_spec_and_mainnet_gas_params(SpecId::PRAGUE);
            cfg.chain_id = setting.chain_id;
            relax(cfg);
        })
        .build_mainnet();
    let ran = evm.transact(tx).map_err(|fault| match fault {
        EVMError::Transaction(fault) => fault,
        other => InvalidTransaction::from(other.to_string()),
    })?;
    let gas_used = ran.result.tx_gas_used();
    let created = ran.result.created_address();
    let (end, logs) = match ran.result {
        ExecutionResult::Success { logs, output, .. } => (End::Return(output.into_data()), logs),
        ExecutionResult::Revert { output, .. } => (End::Revert(output), Vec::new()),
        ExecutionResult::Halt { reason, .. } => (End::Halt(reason), Vec::new()),
    };
    Ok(Outcome {
        end,
        gas_used,
        created,
        logs,
        state: ran.state,
    })
}

/// A run's changes, in a fixed order, and its new code. `known` says which code exists already.
pub(super) fn effects(state: EvmState, known: impl Fn(B256) -> bool) -> (Vec<Bytes>, Vec<Change>) {
    let mut codes = Vec::new();
    let mut changes = Vec::new();
    for (address, touched) in state {
        if !touched.is_touched() {
            continue;
        }
        let gone = touched.is_selfdestructed() || touched.is_empty();
        let code_hash = touched.info.code_hash;
        if let Some(code) = &touched.info.code
            && !gone
            && !known(code_hash)
            && code_hash != KECCAK256_EMPTY
        {
            codes.push(code.original_bytes());
        }
        let mut slots: Vec<_> = touched
            .changed_storage_slots()
            .filter(|_| !gone)
            .map(|(slot, value)| (*slot, value.present_value))
            .collect();
        slots.sort_unstable();
        let account = (!gone).then_some(Account {
            balance: touched.info.balance,
            nonce: touched.info.nonce,
            code_hash,
        });
        changes.push(Change {
            address,
            account,
            slots,
        });
    }
    codes.sort_unstable();
    codes.dedup();
    changes.sort_unstable_by_key(|change| change.address);
    (codes, changes)
}
