//! Bytes that tell whose they are, for the tests through a mount and those of the file system alone.

/// `len` bytes of the endless text of file `id` from `offset` on. No byte is zero, and two files
/// agree in hardly any, so that a lost, moved or foreign byte is seen.
pub(crate) fn pattern(id: u64, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 8);
    let mut word = offset / 8;
    let skip = usize::try_from(offset % 8).unwrap_or(0);
    while bytes.len() < len + skip {
        let mut x =
            id.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ word.wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^= x >> 31;
        bytes.extend(x.to_le_bytes().map(|byte| byte.max(1)));
        word += 1;
    }
    bytes.drain(..skip);
    bytes.truncate(len);
    bytes
}
