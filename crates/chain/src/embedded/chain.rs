//! The embedded chain in memory: blocks, newest state, clock.
//!
//! Invariant: a function of its records in order; a block has the hash in its record.

use std::collections::HashMap;

use alloy::consensus::transaction::SignerRecoverable;
use alloy::consensus::{
    Header, Receipt, ReceiptEnvelope, ReceiptWithBloom, Transaction, TxEnvelope, TxType, proofs,
};
use alloy::eips::eip1559::{BaseFeeParams, INITIAL_BASE_FEE};
use alloy::eips::eip2718::Decodable2718;
use alloy::primitives::{Address, B256, Bloom, Bytes, Log, keccak256, logs_bloom};
use revm::context::result::InvalidTransaction;
use revm::primitives::KECCAK_EMPTY;

use super::codec::Writer;
use super::evm::{self, BLOCK_GAS, End, Setting};
use super::record::{Account, BlockRecord, Change, Genesis, MinedRecord, Record, encode_changes};
use super::state::{State, Undo, View};

/// A block with derived data.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) hash: B256,
    pub(super) header: Header,
    pub(super) mined: Option<Mined>,
    undo: Undo,
}

#[derive(Debug)]
pub(super) struct Mined {
    pub(super) envelope: TxEnvelope,
    pub(super) sender: Address,
    pub(super) success: bool,
    pub(super) created: Option<Address>,
    pub(super) logs: Vec<Log>,
}

/// Why a raw transaction is not mined.
#[derive(Debug)]
pub(super) enum Refusal {
    Malformed(&'static str),
    /// Mined already.
    Known,
    /// It breaks a rule.
    Invalid(InvalidTransaction),
}

#[derive(Debug)]
pub(super) struct Chain {
    pub(super) chain_id: u64,
    genesis: Block,
    /// From number 1.
    blocks: Vec<Block>,
    by_hash: HashMap<B256, u64>,
    by_transaction: HashMap<B256, u64>,
    state: State,
    /// Chain time minus wall time, seconds.
    pub(super) offset_s: u64,
}

impl Chain {
    pub(super) fn new(genesis: &Genesis, timestamp: u64) -> Self {
        let changes: Vec<_> = genesis
            .funded
            .iter()
            .map(|(address, balance)| Change {
                address: *address,
                account: Some(Account {
                    balance: *balance,
                    nonce: 0,
                    code_hash: KECCAK_EMPTY,
                }),
                slots: Vec::new(),
            })
            .collect();
        let header = Header {
            timestamp,
            gas_limit: BLOCK_GAS,
            base_fee_per_gas: Some(INITIAL_BASE_FEE),
            state_root: changes_digest(B256::ZERO, &changes),
            extra_data: Bytes::copy_from_slice(&genesis.chain_id.to_be_bytes()),
            ..Header::default()
        };
        let mut state = State::default();
        state.apply(&[], &changes);
        let genesis_block = Block {
            hash: header.hash_slow(),
            header,
            mined: None,
            undo: Undo::default(),
        };
        Self {
            chain_id: genesis.chain_id,
            by_hash: HashMap::from([(genesis_block.hash, 0)]),
            genesis: genesis_block,
            blocks: Vec::new(),
            by_transaction: HashMap::new(),
            state,
            offset_s: 0,
        }
    }

    /// Applies a record that was mined here or read from the log.
    ///
    /// # Errors
    /// One line, if the record cannot follow the ones before.
    pub(super) fn take(&mut self, record: Record) -> Result<(), String> {
        match record {
            Record::Genesis(..) => Err("a second genesis".to_owned()),
            Record::Block(block) => self.take_block(*block),
            Record::Clock(offset_s) => {
                self.offset_s = offset_s;
                Ok(())
            }
            Record::Revert { block, offset_s } => {
                if block > self.height() {
                    return Err("a revert to a block that is not there".to_owned());
                }
                while self.height() > block {
                    self.pop();
                }
                self.offset_s = offset_s;
                Ok(())
            }
        }
    }

    fn take_block(&mut self, record: BlockRecord) -> Result<(), String> {
        let mined = record.transaction.as_ref().map(open_mined).transpose()?;
        let gas_used = record
            .transaction
            .as_ref()
            .map_or(0, |mined| mined.gas_used);
        let header = self.header(record.timestamp, mined.as_ref(), gas_used, &record.changes);
        if header.hash_slow() != record.hash {
            return Err(format!("block {} does not fit its hash", header.number));
        }
        let undo = self.state.apply(&record.codes, &record.changes);
        self.push(Block {
            hash: record.hash,
            header,
            mined,
            undo,
        });
        Ok(())
    }

    /// The next block's record, with this transaction.
    pub(super) fn mine(&self, raw: Bytes, now: u64) -> Result<(B256, BlockRecord), Refusal> {
        let envelope = TxEnvelope::decode_2718_exact(&raw)
            .map_err(|_| Refusal::Malformed("failed to decode signed transaction"))?;
        if matches!(envelope.tx_type(), TxType::Eip4844 | TxType::Eip7702) {
            return Err(Refusal::Malformed("transaction type not supported"));
        }
        let hash = *envelope.tx_hash();
        if self.by_transaction.contains_key(&hash) {
            return Err(Refusal::Known);
        }
        let sender = envelope
            .recover_signer()
            .map_err(|_| Refusal::Malformed("invalid signature"))?;
        let setting = self.next_setting(now);
        let hashes = |number| self.hash_of(number);
        let view = View::new(&self.state, &hashes, std::iter::empty());
        let outcome = evm::transact(view, &setting, sender, &envelope).map_err(Refusal::Invalid)?;
        let (codes, changes) = evm::effects(outcome.state, |hash| self.state.knows_code(hash));
        let record = MinedRecord {
            raw,
            sender,
            success: matches!(outcome.end, End::Return(_)),
            gas_used: outcome.gas_used,
            created: outcome.created.filter(|_| envelope.kind().is_create()),
            logs: outcome.logs,
        };
        let mined = Mined {
            envelope,
            sender,
            success: record.success,
            created: record.created,
            logs: record.logs.clone(),
        };
        let header = self.header(setting.timestamp, Some(&mined), record.gas_used, &changes);
        let block = BlockRecord {
            hash: header.hash_slow(),
            timestamp: setting.timestamp,
            transaction: Some(record),
            codes,
            changes,
        };
        Ok((hash, block))
    }

    /// The record of an empty next block.
    pub(super) fn mine_empty(&self, now: u64) -> BlockRecord {
        let timestamp = self.next_timestamp(now);
        BlockRecord {
            hash: self.header(timestamp, None, 0, &[]).hash_slow(),
            timestamp,
            transaction: None,
            codes: Vec::new(),
            changes: Vec::new(),
        }
    }

    /// The header of an empty next block.
    pub(super) fn next_header(&self, now: u64) -> Header {
        self.header(self.next_timestamp(now), None, 0, &[])
    }

    /// The state root is no Merkle root but a digest of all changes since the genesis, because
    /// nobody needs proofs.
    fn header(
        &self,
        timestamp: u64,
        mined: Option<&Mined>,
        gas_used: u64,
        changes: &[Change],
    ) -> Header {
        let parent = self.tip();
        let mut header = Header {
            parent_hash: parent.hash,
            number: parent.header.number + 1,
            timestamp,
            gas_limit: BLOCK_GAS,
            gas_used,
            base_fee_per_gas: Some(self.next_base_fee()),
            state_root: changes_digest(parent.header.state_root, changes),
            ..Header::default()
        };
        if let Some(mined) = mined {
            let receipt = mined.receipt(gas_used);
            header.transactions_root = proofs::calculate_transaction_root(&[&mined.envelope]);
            header.receipts_root = proofs::calculate_receipt_root(&[receipt]);
            header.logs_bloom = logs_bloom(&mined.logs);
        }
        header
    }

    pub(super) fn height(&self) -> u64 {
        self.tip().header.number
    }

    pub(super) fn tip(&self) -> &Block {
        self.blocks.last().unwrap_or(&self.genesis)
    }

    pub(super) fn block(&self, number: u64) -> Option<&Block> {
        match usize::try_from(number).ok()?.checked_sub(1) {
            Some(index) => self.blocks.get(index),
            None => Some(&self.genesis),
        }
    }

    pub(super) fn block_by_hash(&self, hash: B256) -> Option<&Block> {
        self.block(*self.by_hash.get(&hash)?)
    }

    pub(super) fn block_of_transaction(&self, hash: B256) -> Option<&Block> {
        self.block(*self.by_transaction.get(&hash)?)
    }

    pub(super) fn range(&self, from: u64, to: u64) -> impl Iterator<Item = &Block> {
        let end = to.min(self.height());
        (from..=end).filter_map(|number| self.block(number))
    }

    pub(super) fn view_at<'a>(&'a self, number: u64, hashes: &'a dyn Fn(u64) -> B256) -> View<'a> {
        let newer = self.blocks.iter().rev();
        let newer = newer.take_while(|block| block.header.number > number);
        View::new(&self.state, hashes, newer.map(|block| &block.undo))
    }

    pub(super) fn hash_of(&self, number: u64) -> B256 {
        self.block(number)
            .map(|block| block.hash)
            .unwrap_or_default()
    }

    /// Wall time plus offset, but never before the parent. (Two blocks may share a second, as on
    /// anvil, so that a burst does not push chain time ahead.)
    pub(super) fn next_timestamp(&self, now: u64) -> u64 {
        let ahead = now.saturating_add(self.offset_s);
        ahead.max(self.tip().header.timestamp)
    }

    pub(super) fn next_base_fee(&self) -> u64 {
        let tip = &self.tip().header;
        tip.next_block_base_fee(BaseFeeParams::ethereum())
            .unwrap_or(INITIAL_BASE_FEE)
    }

    /// The next block, as calls at `latest` and `pending` see it.
    pub(super) fn next_setting(&self, now: u64) -> Setting {
        let tip = self.tip();
        Setting {
            chain_id: self.chain_id,
            number: tip.header.number + 1,
            timestamp: self.next_timestamp(now),
            base_fee: self.next_base_fee(),
            random: keccak256(tip.hash),
        }
    }

    /// Block `number` as calls at it see it.
    pub(super) fn setting_at(&self, block: &Block) -> Setting {
        Setting {
            chain_id: self.chain_id,
            number: block.header.number,
            timestamp: block.header.timestamp,
            base_fee: block.header.base_fee_per_gas.unwrap_or(INITIAL_BASE_FEE),
            random: keccak256(block.header.parent_hash),
        }
    }

    fn push(&mut self, block: Block) {
        let number = block.header.number;
        self.by_hash.insert(block.hash, number);
        if let Some(mined) = &block.mined {
            self.by_transaction
                .insert(*mined.envelope.tx_hash(), number);
        }
        self.blocks.push(block);
    }

    fn pop(&mut self) {
        if let Some(block) = self.blocks.pop() {
            self.by_hash.remove(&block.hash);
            if let Some(mined) = &block.mined {
                self.by_transaction.remove(mined.envelope.tx_hash());
            }
            self.state.undo(&block.undo);
        }
    }
}

impl Mined {
    /// The receipt for the receipts root; a block has one transaction.
    pub(super) fn receipt(&self, gas_used: u64) -> ReceiptEnvelope {
        let receipt = Receipt {
            status: self.success.into(),
            cumulative_gas_used: gas_used,
            logs: self.logs.clone(),
        };
        envelope(self.envelope.tx_type(), receipt, logs_bloom(&self.logs))
    }

    /// What the sender pays for one gas, in wei.
    pub(super) fn gas_price(&self, header: &Header) -> u128 {
        self.envelope.effective_gas_price(header.base_fee_per_gas)
    }
}

/// A receipt in the envelope of its transaction's type.
pub(super) fn envelope<T>(
    kind: TxType,
    receipt: Receipt<T>,
    logs_bloom: Bloom,
) -> ReceiptEnvelope<T> {
    let receipt = ReceiptWithBloom {
        receipt,
        logs_bloom,
    };
    match kind {
        TxType::Legacy => ReceiptEnvelope::Legacy(receipt),
        TxType::Eip2930 => ReceiptEnvelope::Eip2930(receipt),
        TxType::Eip1559 => ReceiptEnvelope::Eip1559(receipt),
        TxType::Eip4844 => ReceiptEnvelope::Eip4844(receipt),
        TxType::Eip7702 => ReceiptEnvelope::Eip7702(receipt),
    }
}

fn open_mined(record: &MinedRecord) -> Result<Mined, String> {
    let envelope = TxEnvelope::decode_2718_exact(&record.raw)
        .map_err(|_| "a transaction is malformed".to_owned())?;
    Ok(Mined {
        envelope,
        sender: record.sender,
        success: record.success,
        created: record.created,
        logs: record.logs.clone(),
    })
}

fn changes_digest(before: B256, changes: &[Change]) -> B256 {
    let mut w = Writer::default();
    w.hash(before);
    encode_changes(&mut w, changes);
    keccak256(w.0)
}
