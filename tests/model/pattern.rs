//! What is written: a text without zeros and with a long period, so that a byte which is lost, moved
//! or another file's is seen. It comes from a table, since these tests compare gigabytes.

use std::sync::OnceLock;

/// The period: a prime, so that chunks and pages do not look alike.
const PERIOD: u64 = 1_048_573;

/// The text once and a half, so that most pieces are one copy.
fn table() -> &'static [u8] {
    static TABLE: OnceLock<Vec<u8>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut text: Vec<u8> = Vec::new();
        for _ in 0..PERIOD {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            text.push((state >> 32) as u8 | 1);
        }
        text.extend_from_within(..PERIOD as usize / 2);
        text
    })
}

/// The phase of text number `text`.
pub(super) fn phase(text: u8) -> u64 {
    u64::from(text) * 4099 % PERIOD
}

/// The phase of a text that was copied from `from` to `to`.
pub(super) fn moved(phase: u64, from: u64, to: u64) -> u64 {
    (phase + from % PERIOD + PERIOD - to % PERIOD) % PERIOD
}

/// The bytes of the text with `phase` that stand at `offset`.
pub(super) fn fill(phase: u64, offset: u64, buffer: &mut [u8]) {
    let mut at = ((offset % PERIOD + phase) % PERIOD) as usize;
    let mut done = 0;
    while done < buffer.len() {
        let some = (table().len() - at).min(buffer.len() - done);
        buffer[done..done + some].copy_from_slice(&table()[at..at + some]);
        done += some;
        at = (at + some) % PERIOD as usize;
    }
}

/// `len` bytes of text number `text` as they stand at `offset`.
pub(crate) fn bytes(text: u8, offset: u64, len: u32) -> Vec<u8> {
    let mut buffer = vec![0; len as usize];
    fill(phase(text), offset, &mut buffer);
    buffer
}
