//! The embedded chain's accounts, now and at any earlier block.
//!
//! Invariant: [`State::apply`] and [`State::undo`] are inverse, so walking the undos back gives any
//! block's state.

use std::collections::HashMap;
use std::convert::Infallible;

use alloy::primitives::{Address, B256, Bytes, U256};
use revm::bytecode::Bytecode;
use revm::primitives::KECCAK_EMPTY;
use revm::state::AccountInfo;

use super::record::{Account, Change};

/// All accounts as the newest block left them.
#[derive(Debug, Default)]
pub(super) struct State {
    accounts: HashMap<Address, Account>,
    slots: HashMap<(Address, U256), U256>,
    codes: HashMap<B256, Bytecode>,
}

/// What a block replaced.
#[derive(Debug, Default)]
pub(super) struct Undo {
    accounts: Vec<(Address, Option<Account>)>,
    slots: Vec<((Address, U256), U256)>,
}

impl State {
    pub(super) fn account(&self, address: Address) -> Option<Account> {
        self.accounts.get(&address).copied()
    }

    pub(super) fn slot(&self, address: Address, slot: U256) -> U256 {
        self.slots
            .get(&(address, slot))
            .copied()
            .unwrap_or_default()
    }

    pub(super) fn knows_code(&self, hash: B256) -> bool {
        hash == KECCAK_EMPTY || self.codes.contains_key(&hash)
    }

    /// Empty if there is none.
    pub(super) fn code(&self, hash: B256) -> Bytecode {
        self.codes.get(&hash).cloned().unwrap_or_default()
    }

    /// Applies a block's effects; returns how to undo them.
    pub(super) fn apply(&mut self, codes: &[Bytes], changes: &[Change]) -> Undo {
        for code in codes {
            let code = Bytecode::new_legacy(code.clone());
            self.codes.insert(code.hash_slow(), code);
        }
        let mut undo = Undo::default();
        for change in changes {
            let address = change.address;
            let before = self.put_account(address, change.account);
            undo.accounts.push((address, before));
            for (slot, value) in &change.slots {
                let key = (address, *slot);
                undo.slots.push((key, self.put_slot(key, *value)));
            }
        }
        undo
    }

    /// Takes the effects of the newest block back.
    pub(super) fn undo(&mut self, undo: &Undo) {
        for (key, value) in undo.slots.iter().rev() {
            self.put_slot(*key, *value);
        }
        for (address, account) in undo.accounts.iter().rev() {
            self.put_account(*address, *account);
        }
    }

    fn put_account(&mut self, address: Address, account: Option<Account>) -> Option<Account> {
        match account {
            Some(account) => self.accounts.insert(address, account),
            None => self.accounts.remove(&address),
        }
    }

    fn put_slot(&mut self, key: (Address, U256), value: U256) -> U256 {
        let before = if value.is_zero() {
            self.slots.remove(&key)
        } else {
            self.slots.insert(key, value)
        };
        before.unwrap_or_default()
    }
}

/// The state after one block, to run calls on; read-only.
pub(super) struct View<'a> {
    state: &'a State,
    hashes: &'a dyn Fn(u64) -> B256,
    accounts: HashMap<Address, Option<Account>>,
    slots: HashMap<(Address, U256), U256>,
}

impl<'a> View<'a> {
    /// The state before the blocks of `undos`, newest first. `hashes` maps a block number to its
    /// hash.
    pub(super) fn new<'u>(
        state: &'a State,
        hashes: &'a dyn Fn(u64) -> B256,
        undos: impl Iterator<Item = &'u Undo>,
    ) -> Self {
        let mut accounts = HashMap::new();
        let mut slots = HashMap::new();
        for undo in undos {
            accounts.extend(undo.accounts.iter().rev().copied());
            slots.extend(undo.slots.iter().rev().copied());
        }
        Self {
            state,
            hashes,
            accounts,
            slots,
        }
    }

    pub(super) fn account(&self, address: Address) -> Option<Account> {
        match self.accounts.get(&address) {
            Some(account) => *account,
            None => self.state.account(address),
        }
    }

    pub(super) fn slot(&self, address: Address, slot: U256) -> U256 {
        let older = self.slots.get(&(address, slot)).copied();
        older.unwrap_or_else(|| self.state.slot(address, slot))
    }

    pub(super) fn code_of(&self, address: Address) -> Bytes {
        let code = self.account(address).map(|account| account.code_hash);
        code.map(|hash| self.state.code(hash).original_bytes())
            .unwrap_or_default()
    }
}

impl revm::DatabaseRef for View<'_> {
    type Error = Infallible;

    fn basic_ref(&self, address: Address) -> Result<Option<AccountInfo>, Infallible> {
        Ok(self.account(address).map(|account| AccountInfo {
            balance: account.balance,
            nonce: account.nonce,
            code_hash: account.code_hash,
            code: Some(self.state.code(account.code_hash)),
            ..AccountInfo::default()
        }))
    }

    fn code_by_hash_ref(&self, hash: B256) -> Result<Bytecode, Infallible> {
        Ok(self.state.code(hash))
    }

    fn storage_ref(&self, address: Address, slot: U256) -> Result<U256, Infallible> {
        Ok(self.slot(address, slot))
    }

    fn block_hash_ref(&self, number: u64) -> Result<B256, Infallible> {
        Ok((self.hashes)(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(address: u8, balance: Option<u64>, slots: &[(u64, u64)]) -> Change {
        Change {
            address: Address::with_last_byte(address),
            account: balance.map(|balance| Account {
                balance: U256::from(balance),
                nonce: 0,
                code_hash: KECCAK_EMPTY,
            }),
            slots: slots
                .iter()
                .map(|(slot, value)| (U256::from(*slot), U256::from(*value)))
                .collect(),
        }
    }

    #[test]
    fn a_call_at_an_older_block_sees_what_that_block_left() {
        let blocks = [
            vec![change(1, Some(10), &[(0, 1)])],
            vec![
                change(1, Some(20), &[(0, 2), (1, 5)]),
                change(2, Some(1), &[]),
            ],
            vec![change(1, None, &[(0, 0)])],
        ];
        let mut state = State::default();
        let undos: Vec<_> = blocks
            .iter()
            .map(|changes| state.apply(&[], changes))
            .collect();
        let seen = |state: &State, height: usize| {
            let hashes = |_| B256::ZERO;
            let view = View::new(state, &hashes, undos[height..].iter().rev());
            let one = Address::with_last_byte(1);
            let two = Address::with_last_byte(2);
            (
                view.account(one).map(|account| account.balance.to::<u64>()),
                view.account(two).is_some(),
                view.slot(one, U256::ZERO).to::<u64>(),
                view.slot(one, U256::ONE).to::<u64>(),
            )
        };
        let expected = [
            (None, false, 0, 0),
            (Some(10), false, 1, 0),
            (Some(20), true, 2, 5),
            (None, true, 0, 5),
        ];
        for (height, expected) in expected.into_iter().enumerate() {
            assert_eq!(seen(&state, height), expected);
        }
        undos.iter().rev().for_each(|undo| state.undo(undo));
        assert!(state.accounts.is_empty() && state.slots.is_empty());
    }
}
