//! One frame of the socket.
//!
//! | bytes | content |
//! |---|---|
//! | 4 | length of what follows, big endian, at most 16 MiB |
//! | 1 | version, 1 |
//! | n | one JSON value |
//!
//! Invariant: a length is checked before anything is allocated.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::VERSION;

/// The longest frame: the status of some 20,000 tokens.
const LONGEST: u32 = 16 << 20;

pub(super) fn encode(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let body = serde_json::to_vec(value)?;
    let length = u32::try_from(body.len() + 1)
        .ok()
        .filter(|length| *length <= LONGEST)
        .ok_or_else(|| broken("the answer is too long"))?;
    let mut frame = length.to_be_bytes().to_vec();
    frame.push(VERSION);
    frame.extend(body);
    Ok(frame)
}

fn length(head: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_be_bytes(head);
    match length {
        1..=LONGEST => Ok(length as usize),
        _ => Err(broken("a frame has an invalid length")),
    }
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> io::Result<T> {
    match body.split_first() {
        Some((&VERSION, json)) => Ok(serde_json::from_slice(json)?),
        Some((other, _)) => Err(broken(&format!(
            "it speaks version {other} of the socket protocol and this command version {VERSION}: run the same pxfs version, or restart the drive"
        ))),
        None => Err(broken("an empty frame")),
    }
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The reader has its own deadline.
pub(super) fn read<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<T> {
    let mut head = [0; 4];
    from.read_exact(&mut head)?;
    let mut body = vec![0; length(head)?];
    from.read_exact(&mut body)?;
    decode(&body)
}

/// The writer has its own deadline.
pub(super) fn write(to: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    to.write_all(&encode(value)?)
}

/// Reads one frame, at most `most` bytes long.
pub(super) async fn read_async<T: DeserializeOwned>(
    from: &mut (impl AsyncRead + Unpin),
    most: usize,
) -> io::Result<T> {
    let mut head = [0; 4];
    from.read_exact(&mut head).await?;
    let length = length(head)?;
    if length > most {
        return Err(broken("a request that is too long"));
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body).await?;
    decode(&body)
}

pub(super) async fn write_async(
    to: &mut (impl AsyncWrite + Unpin),
    value: &impl Serialize,
) -> io::Result<()> {
    to.write_all(&encode(value)?).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_comes_back() {
        let frame = encode(&vec![1, 2, 3]).unwrap();
        let back: Vec<u8> = read(&mut frame.as_slice()).unwrap();
        assert_eq!(back, [1, 2, 3]);
    }

    #[test]
    fn a_frame_cut_or_lying_is_an_error_and_takes_no_memory() {
        let frame = encode(&"abc").unwrap();
        for cut in 0..frame.len() {
            assert!(read::<String>(&mut &frame[..cut]).is_err());
        }
        for lie in [0, LONGEST + 1, u32::MAX] {
            let mut bytes = lie.to_be_bytes().to_vec();
            bytes.extend(&frame[4..]);
            assert!(read::<String>(&mut bytes.as_slice()).is_err());
        }
    }

    #[test]
    fn another_version_is_said_so() {
        let mut frame = encode(&"abc").unwrap();
        frame[4] = 9;
        let error = read::<String>(&mut frame.as_slice()).unwrap_err();
        assert!(error.to_string().contains("version 9"), "{error}");
    }
}
