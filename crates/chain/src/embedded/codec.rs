//! The encoding of log records: big-endian numbers, length-prefixed byte strings.
//!
//! Invariant: the reader never passes the end of its input nor allocates more than it holds.

use alloy::primitives::{Address, B256, U256};

#[derive(Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub(super) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.0.extend(value.to_be_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.0.extend(value.to_be_bytes());
    }

    pub(super) fn u256(&mut self, value: U256) {
        self.0.extend(value.to_be_bytes::<32>());
    }

    pub(super) fn hash(&mut self, value: B256) {
        self.0.extend(value.0);
    }

    pub(super) fn address(&mut self, value: Address) {
        self.0.extend(value.0.0);
    }

    /// u32 length, then the bytes; never near 4 GiB.
    pub(super) fn bytes(&mut self, value: &[u8]) {
        self.count(value.len());
        self.0.extend(value);
    }

    pub(super) fn count(&mut self, value: usize) {
        self.u32(u32::try_from(value).unwrap_or(u32::MAX));
    }
}

/// The input ended early, or a value is invalid.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// Takes values off the front.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(input: &'a [u8]) -> Self {
        Self(input)
    }

    pub(super) fn end(self) -> Result<(), Malformed> {
        self.0.is_empty().then_some(()).ok_or(Malformed)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*head)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[value]| value)
    }

    /// A byte that is 0 or 1.
    pub(super) fn flag(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed),
        }
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_be_bytes)
    }

    pub(super) fn u256(&mut self) -> Result<U256, Malformed> {
        self.array::<32>().map(U256::from_be_bytes)
    }

    pub(super) fn hash(&mut self) -> Result<B256, Malformed> {
        self.array().map(B256::new)
    }

    pub(super) fn address(&mut self) -> Result<Address, Malformed> {
        self.array().map(Address::new)
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(self.u32()?).map_err(|_| Malformed)?;
        let (head, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(head)
    }

    /// A u32 count, then as many values of at least one byte each.
    pub(super) fn list<T>(
        &mut self,
        mut value: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let count = usize::try_from(self.u32()?).map_err(|_| Malformed)?;
        if count > self.0.len() {
            return Err(Malformed);
        }
        (0..count).map(|_| value(self)).collect()
    }
}
