//! What the log of the embedded chain holds: its genesis, its blocks with all their effects, and
//! the moves of its clock.
//!
//! A block is stored with its effects, not run again: opening is fast, and a later EVM cannot change a
//! mined block.
//!
//! Numbers are big-endian; `bytes` is u32 length ‖ bytes, `list` is u32 count ‖ values. Version 1:
//!
//! | record | byte 0 | then |
//! |---|---|---|
//! | genesis | 0 | u8 version = 1, u64 chain id, u64 timestamp, list of (20 address, 32 balance) |
//! | block | 1 | 32 hash, u64 timestamp, flag, transaction where the flag is 1, list of bytes (new code), list of change |
//! | clock | 2 | u64 offset: seconds that chain time is ahead of wall time |
//! | revert | 3 | u64 number of the block that is the newest again, u64 offset |
//!
//! | part | bytes |
//! |---|---|
//! | transaction | bytes (EIP-2718), 20 sender, flag success, u64 gas used, flag, 20 created contract where the flag is 1, list of log |
//! | log | 20 address, list of 32 topic, bytes |
//! | change | 20 address, flag exists, (32 balance, u64 nonce, 32 code hash) where it is 1, list of (32 slot, 32 value) |

use alloy::primitives::{Address, B256, Bytes, Log, U256};

use super::codec::{Malformed, Reader, Writer};

const VERSION: u8 = 1;

/// How a new chain begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Genesis {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Accounts funded from the start, wei.
    pub funded: Vec<(Address, U256)>,
}

impl Default for Genesis {
    /// anvil's chain id 31337, nobody funded.
    fn default() -> Self {
        Self {
            chain_id: 31337,
            funded: Vec::new(),
        }
    }
}

impl Genesis {
    /// Also funds `accounts` with 10,000 coins each.
    #[must_use]
    pub fn fund(mut self, accounts: impl IntoIterator<Item = Address>) -> Self {
        let coins = U256::from(10_000) * U256::from(10).pow(U256::from(18));
        let rich = accounts.into_iter().map(|account| (account, coins));
        self.funded.extend(rich);
        self
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    Genesis(Genesis, u64),
    Block(Box<BlockRecord>),
    Clock(u64),
    Revert { block: u64, offset_s: u64 },
}

/// A mined block; numbers are consecutive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BlockRecord {
    pub(super) hash: B256,
    pub(super) timestamp: u64,
    pub(super) transaction: Option<MinedRecord>,
    pub(super) codes: Vec<Bytes>,
    pub(super) changes: Vec<Change>,
}

/// A block's one transaction and its outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MinedRecord {
    pub(super) raw: Bytes,
    pub(super) sender: Address,
    pub(super) success: bool,
    pub(super) gas_used: u64,
    pub(super) created: Option<Address>,
    pub(super) logs: Vec<Log>,
}

/// An account after a block that touched it; `None` if it no longer exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) address: Address,
    pub(super) account: Option<Account>,
    pub(super) slots: Vec<(U256, U256)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) balance: U256,
    pub(super) nonce: u64,
    pub(super) code_hash: B256,
}

impl Record {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        match self {
            Self::Genesis(genesis, timestamp) => {
                w.u8(0);
                w.u8(VERSION);
                w.u64(genesis.chain_id);
                w.u64(*timestamp);
                w.count(genesis.funded.len());
                for (address, balance) in &genesis.funded {
                    w.address(*address);
                    w.u256(*balance);
                }
            }
            Self::Block(block) => {
                w.u8(1);
                w.hash(block.hash);
                w.u64(block.timestamp);
                w.u8(block.transaction.is_some().into());
                if let Some(mined) = &block.transaction {
                    mined.encode(&mut w);
                }
                w.count(block.codes.len());
                block.codes.iter().for_each(|code| w.bytes(code));
                encode_changes(&mut w, &block.changes);
            }
            Self::Clock(offset) => {
                w.u8(2);
                w.u64(*offset);
            }
            Self::Revert { block, offset_s } => {
                w.u8(3);
                w.u64(*block);
                w.u64(*offset_s);
            }
        }
        w.0
    }

    pub(super) fn decode(input: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(input);
        let record = match r.u8()? {
            0 => {
                if r.u8()? != VERSION {
                    return Err(Malformed);
                }
                let chain_id = r.u64()?;
                let timestamp = r.u64()?;
                let funded = r.list(|r| Ok((r.address()?, r.u256()?)))?;
                Self::Genesis(Genesis { chain_id, funded }, timestamp)
            }
            1 => Self::Block(Box::new(BlockRecord {
                hash: r.hash()?,
                timestamp: r.u64()?,
                transaction: optional(&mut r, MinedRecord::decode)?,
                codes: r.list(|r| r.bytes().map(Bytes::copy_from_slice))?,
                changes: r.list(Change::decode)?,
            })),
            2 => Self::Clock(r.u64()?),
            3 => Self::Revert {
                block: r.u64()?,
                offset_s: r.u64()?,
            },
            _ => return Err(Malformed),
        };
        r.end()?;
        Ok(record)
    }
}

/// The changes as in a block record; their digest goes into the block's hash.
pub(super) fn encode_changes(w: &mut Writer, changes: &[Change]) {
    w.count(changes.len());
    for change in changes {
        w.address(change.address);
        w.u8(change.account.is_some().into());
        if let Some(account) = &change.account {
            w.u256(account.balance);
            w.u64(account.nonce);
            w.hash(account.code_hash);
        }
        w.count(change.slots.len());
        for (slot, value) in &change.slots {
            w.u256(*slot);
            w.u256(*value);
        }
    }
}

impl Change {
    fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            address: r.address()?,
            account: optional(r, |r| {
                Ok(Account {
                    balance: r.u256()?,
                    nonce: r.u64()?,
                    code_hash: r.hash()?,
                })
            })?,
            slots: r.list(|r| Ok((r.u256()?, r.u256()?)))?,
        })
    }
}

impl MinedRecord {
    fn encode(&self, w: &mut Writer) {
        w.bytes(&self.raw);
        w.address(self.sender);
        w.u8(self.success.into());
        w.u64(self.gas_used);
        w.u8(self.created.is_some().into());
        if let Some(created) = self.created {
            w.address(created);
        }
        w.count(self.logs.len());
        for log in &self.logs {
            w.address(log.address);
            w.count(log.data.topics().len());
            log.data.topics().iter().for_each(|topic| w.hash(*topic));
            w.bytes(&log.data.data);
        }
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            raw: Bytes::copy_from_slice(r.bytes()?),
            sender: r.address()?,
            success: r.flag()?,
            gas_used: r.u64()?,
            created: optional(r, Reader::address)?,
            logs: r.list(|r| {
                let address = r.address()?;
                let topics = r.list(Reader::hash)?;
                let data = Bytes::copy_from_slice(r.bytes()?);
                Log::new(address, topics, data).ok_or(Malformed)
            })?,
        })
    }
}

fn optional<'a, T>(
    r: &mut Reader<'a>,
    value: impl FnOnce(&mut Reader<'a>) -> Result<T, Malformed>,
) -> Result<Option<T>, Malformed> {
    if r.flag()? {
        value(r).map(Some)
    } else {
        Ok(None)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use alloy::primitives::{address, b256};

    use super::*;

    /// A record of each kind, every part present.
    pub(in super::super) fn samples() -> Vec<Record> {
        let account = address!("00000000000000000000000000000000000000a1");
        let code_hash = b256!("c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470");
        vec![
            Record::Genesis(
                Genesis {
                    chain_id: 31337,
                    funded: vec![(account, U256::from(7))],
                },
                1_700_000_000,
            ),
            Record::Block(Box::new(BlockRecord {
                hash: code_hash,
                timestamp: 1_700_000_001,
                transaction: Some(MinedRecord {
                    raw: Bytes::from_static(&[2, 3]),
                    sender: account,
                    success: true,
                    gas_used: 21_000,
                    created: Some(account),
                    logs: vec![Log::new_unchecked(
                        account,
                        vec![code_hash],
                        Bytes::from_static(&[9]),
                    )],
                }),
                codes: vec![Bytes::from_static(&[0x60, 0x00])],
                changes: vec![Change {
                    address: account,
                    account: Some(Account {
                        balance: U256::from(5),
                        nonce: 1,
                        code_hash,
                    }),
                    slots: vec![(U256::from(1), U256::MAX)],
                }],
            })),
            Record::Clock(2_678_400),
            Record::Revert {
                block: 3,
                offset_s: 4,
            },
        ]
    }

    #[test]
    fn records_keep_the_bytes_that_older_versions_wrote() {
        let golden = include_str!("../../../../tests/golden/chain-records.hex");
        let lines: Vec<_> = golden.lines().collect();
        let samples = samples();
        assert_eq!(lines.len(), samples.len());
        for (line, sample) in lines.into_iter().zip(samples) {
            let bytes = data_encoding::HEXLOWER.decode(line.as_bytes()).unwrap();
            assert_eq!(data_encoding::HEXLOWER.encode(&sample.encode()), line);
            assert_eq!(Record::decode(&bytes), Ok(sample));
        }
    }

    #[test]
    fn cut_or_longer_records_are_refused() {
        for sample in samples() {
            let mut bytes = sample.encode();
            for length in 0..bytes.len() {
                assert_eq!(Record::decode(&bytes[..length]), Err(Malformed));
            }
            bytes.push(0);
            assert_eq!(Record::decode(&bytes), Err(Malformed));
        }
    }
}
