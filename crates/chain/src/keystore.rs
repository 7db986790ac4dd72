//! Keystore files, version 3 (Web3 Secret Storage): a private key sealed by a password.
//!
//! Invariant: reads what common tools write (scrypt or PBKDF2, AES-128-CTR) within memory and time
//! bounds; writes with scrypt N = 2^17.

use std::path::Path;

use aes::Aes128;
use alloy::primitives::{Address, keccak256};
use ctr::cipher::{KeyIvInit, StreamCipher};
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use serde::Deserialize;
use serde_json::json;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::ChainError;
use super::wallet::refuse;

/// log2 of the scrypt cost for writing: 128 MiB, half a second.
const LOG_N: u8 = 17;
/// The most scrypt work accepted: 128 · N · r · p bytes, of which p parts may be in memory at once.
const SCRYPT_BYTES_MAX: u64 = 1 << 30;
const PBKDF2_ROUNDS_MAX: u32 = 50_000_000;

pub(super) enum Fault {
    /// Not a readable keystore.
    Form(String),
    /// The password is wrong or missing.
    Password(&'static str),
}

impl Fault {
    pub(super) fn at(self, path: &Path) -> ChainError {
        match self {
            Self::Form(what) => refuse(path, &format!("is not a readable keystore: {what}")),
            Self::Password(what) => ChainError::WrongPassword(format!("{} {what}", path.display())),
        }
    }
}

#[derive(Deserialize)]
struct File {
    version: u32,
    #[serde(alias = "Crypto")]
    crypto: Crypto,
}

#[derive(Deserialize)]
struct Crypto {
    cipher: String,
    cipherparams: CipherParams,
    ciphertext: String,
    kdf: String,
    kdfparams: serde_json::Value,
    mac: String,
}

#[derive(Deserialize)]
struct CipherParams {
    iv: String,
}

#[derive(Deserialize)]
struct Scrypt {
    dklen: u32,
    n: u64,
    r: u32,
    p: u32,
    salt: String,
}

#[derive(Deserialize)]
struct Pbkdf2 {
    dklen: u32,
    c: u32,
    prf: String,
    salt: String,
}

/// The private key in the keystore `text`.
pub(super) fn open(text: &str, password: Option<&str>) -> Result<Zeroizing<[u8; 32]>, Fault> {
    let file: File = serde_json::from_str(text).map_err(form)?;
    let crypto = file.crypto;
    if file.version != 3 || crypto.cipher != "aes-128-ctr" {
        return Err(Fault::Form("not version 3 with aes-128-ctr".to_owned()));
    }
    let ciphertext = unhex(&crypto.ciphertext)?;
    let iv: [u8; 16] = array(&crypto.cipherparams.iv)?;
    let mac: [u8; 32] = array(&crypto.mac)?;
    let password = password.ok_or(Fault::Password(
        "is a keystore: give --wallet-password-file FILE",
    ))?;
    let key = match crypto.kdf.as_str() {
        "scrypt" => scrypt_key(
            serde_json::from_value(crypto.kdfparams).map_err(form)?,
            password,
        ),
        "pbkdf2" => pbkdf2_key(
            serde_json::from_value(crypto.kdfparams).map_err(form)?,
            password,
        ),
        other => Err(Fault::Form(format!("unknown kdf `{other}`"))),
    }?;
    if mac_of(&key, &ciphertext) != mac {
        return Err(Fault::Password("does not open with this password"));
    }
    let mut secret = Zeroizing::new([0; 32]);
    if ciphertext.len() != secret.len() {
        return Err(Fault::Form("the key is not of 32 bytes".to_owned()));
    }
    secret.copy_from_slice(&ciphertext);
    apply_cipher(&key, &iv, secret.as_mut_slice());
    Ok(secret)
}

/// The keystore text for `secret` under `password`.
pub(super) fn seal(
    secret: &[u8; 32],
    address: Address,
    password: &str,
) -> Result<Zeroizing<String>, String> {
    let mut random = [0; 64];
    getrandom::fill(&mut random).map_err(|fault| format!("no randomness: {fault}"))?;
    let (salt, rest) = random.split_at(32);
    let (iv, id) = rest.split_at(16);
    let iv: [u8; 16] = iv.try_into().map_err(|_| "no randomness".to_owned())?;
    let params = Scrypt {
        dklen: 32,
        n: 1 << LOG_N,
        r: 8,
        p: 1,
        salt: HEXLOWER.encode(salt),
    };
    let key = scrypt_key(params, password).map_err(|_| "scrypt failed".to_owned())?;
    let mut ciphertext = *secret;
    apply_cipher(&key, &iv, &mut ciphertext);
    let text = json!({
        "version": 3,
        "id": uuid(id),
        "address": HEXLOWER.encode(address.as_slice()),
        "crypto": {
            "cipher": "aes-128-ctr",
            "cipherparams": {"iv": HEXLOWER.encode(&iv)},
            "ciphertext": HEXLOWER.encode(&ciphertext),
            "kdf": "scrypt",
            "kdfparams": {
                "dklen": 32, "n": 1_u64 << LOG_N, "r": 8, "p": 1, "salt": HEXLOWER.encode(salt),
            },
            "mac": HEXLOWER.encode(&mac_of(&key, &ciphertext)),
        },
    });
    Ok(Zeroizing::new(text.to_string() + "\n"))
}

type DerivedKey = Zeroizing<[u8; 32]>;

fn scrypt_key(params: Scrypt, password: &str) -> Result<DerivedKey, Fault> {
    let bytes = params
        .n
        .saturating_mul(128)
        .saturating_mul(u64::from(params.r))
        .saturating_mul(u64::from(params.p));
    let sane = params.n.is_power_of_two() && bytes <= SCRYPT_BYTES_MAX && params.dklen == 32;
    let log_n = u8::try_from(params.n.trailing_zeros()).unwrap_or(u8::MAX);
    let cost = scrypt::Params::new(log_n, params.r, params.p, 32).ok();
    let cost = cost
        .filter(|_| sane)
        .ok_or_else(|| Fault::Form("scrypt parameters out of bounds".to_owned()))?;
    let mut key = DerivedKey::default();
    scrypt::scrypt(
        password.as_bytes(),
        &unhex(&params.salt)?,
        &cost,
        key.as_mut_slice(),
    )
    .map_err(form)?;
    Ok(key)
}

fn pbkdf2_key(params: Pbkdf2, password: &str) -> Result<DerivedKey, Fault> {
    let sane = params.prf == "hmac-sha256"
        && params.dklen == 32
        && (1..=PBKDF2_ROUNDS_MAX).contains(&params.c);
    if !sane {
        return Err(Fault::Form("pbkdf2 parameters out of bounds".to_owned()));
    }
    let mut key = DerivedKey::default();
    let salt = unhex(&params.salt)?;
    pbkdf2::pbkdf2_hmac::<Sha256>(password.as_bytes(), &salt, params.c, key.as_mut_slice());
    Ok(key)
}

fn mac_of(key: &DerivedKey, ciphertext: &[u8]) -> [u8; 32] {
    let (_, mac_key) = key.split_at(16);
    let mut input = Zeroizing::new(mac_key.to_vec());
    input.extend_from_slice(ciphertext);
    keccak256(input.as_slice()).0
}

fn apply_cipher(key: &DerivedKey, iv: &[u8; 16], data: &mut [u8]) {
    let (cipher_key, _) = key.split_at(16);
    let mut key = Zeroizing::new([0; 16]);
    key.copy_from_slice(cipher_key);
    ctr::Ctr128BE::<Aes128>::new((&*key).into(), iv.into()).apply_keystream(data);
}

fn unhex(text: &str) -> Result<Vec<u8>, Fault> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).map_err(form)
}

fn array<const N: usize>(text: &str) -> Result<[u8; N], Fault> {
    let bytes = unhex(text)?;
    bytes
        .try_into()
        .map_err(|_| Fault::Form(format!("a field is not of {N} bytes")))
}

fn form(fault: impl std::fmt::Display) -> Fault {
    Fault::Form(fault.to_string())
}

fn uuid(random: &[u8]) -> String {
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(random) {
        *to = *from;
    }
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = HEXLOWER.encode(&bytes);
    let (a, rest) = hex.split_at(8);
    let (b, rest) = rest.split_at(4);
    let (c, rest) = rest.split_at(4);
    let (d, e) = rest.split_at(4);
    format!("{a}-{b}-{c}-{d}-{e}")
}

#[cfg(test)]
mod tests {
    use alloy::primitives::address;

    use super::super::wallet::Wallet;
    use super::*;

    const SECRET: &str = "7a28b5ba57c53603b0b07b56bba752f7784bf506fa95edc395f5cf6c7514fe9d";

    /// The PBKDF2 vector of the Web3 Secret Storage definition (password `testpassword`), and a
    /// keystore of go-ethereum's test data (password `foobar`).
    const PBKDF2: &str = r#"{"crypto":{"cipher":"aes-128-ctr","cipherparams":{"iv":"6087dab2f9fdbbfaddc31a909735c1e6"},"ciphertext":"5318b4d5bcd28de64ee5559e671353e16f075ecae9f99c7a79a38af5f869aa46","kdf":"pbkdf2","kdfparams":{"c":262144,"dklen":32,"prf":"hmac-sha256","salt":"ae3cd4e7013836a3df6bd7241b12db061dbe2c6785853cce422d148a624ce0bd"},"mac":"517ead924a9d0dc3124507e3393d175ce3ff7c1e96529c6c555ce9e51205e9b2"},"id":"3198bc9c-6672-5ab3-d995-4942343ae5b6","version":3}"#;
    const SCRYPT: &str = r#"{"address":"7ef5a6135f1fd6a02593eedc869c6d41d934aef8","crypto":{"cipher":"aes-128-ctr","ciphertext":"1d0839166e7a15b9c1333fc865d69858b22df26815ccf601b28219b6192974e1","cipherparams":{"iv":"8df6caa7ff1b00c4e871f002cb7921ed"},"kdf":"scrypt","kdfparams":{"dklen":32,"n":8,"p":16,"r":8,"salt":"e5e6ef3f4ea695f496b643ebd3f75c0aa58ef4070e90c80c5d3fb0241bf1595c"},"mac":"6d16dfde774845e4585357f24bce530528bc69f4f84e1e22880d34fa45c273e5"},"id":"950077c7-71e3-4c44-a4a1-143919141ed4","version":3}"#;

    fn opened(text: &str, password: &str) -> Option<String> {
        let secret = open(text, Some(password)).ok()?;
        Some(HEXLOWER.encode(secret.as_slice()))
    }

    #[test]
    fn keystores_of_other_tools_open() {
        assert_eq!(opened(PBKDF2, "testpassword").as_deref(), Some(SECRET));
        let secret = open(SCRYPT, Some("foobar")).ok().unwrap();
        assert_eq!(
            Wallet::from_secret(secret).unwrap().address(),
            address!("7ef5a6135f1fd6a02593eedc869c6d41d934aef8")
        );
        assert!(matches!(
            open(PBKDF2, Some("Testpassword")),
            Err(Fault::Password(_))
        ));
    }

    #[test]
    fn a_hostile_keystore_is_refused_before_it_costs_anything() {
        let hostile = [
            SCRYPT.replace("\"n\":8", "\"n\":1099511627776"),
            SCRYPT.replace("\"n\":8", "\"n\":7"),
            SCRYPT.replace("\"p\":16", "\"p\":1000000"),
            // 128 MiB for each of sixteen.
            SCRYPT.replace("\"n\":8", "\"n\":131072"),
            SCRYPT.replace("\"dklen\":32", "\"dklen\":8"),
            PBKDF2.replace("262144", "4294967295"),
            PBKDF2.replace("\"c\":262144", "\"c\":0"),
            PBKDF2.replace("6087dab2f9fdbbfaddc31a909735c1e6", "60"),
            PBKDF2.replace("\"version\":3", "\"version\":1"),
            PBKDF2.replace("aes-128-ctr", "aes-128-cbc"),
        ];
        for text in hostile {
            assert!(
                matches!(open(&text, Some("testpassword")), Err(Fault::Form(_))),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_written_asks_for_a_costly_guess() {
        let secret: [u8; 32] = array(SECRET).ok().unwrap();
        let text = seal(&secret, Address::ZERO, "p").unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(value["crypto"]["kdfparams"]["n"].as_u64().unwrap() >= 1 << 17);
        assert_eq!(value["id"].as_str().unwrap().len(), 36);
        assert_eq!(opened(&text, "p").as_deref(), Some(SECRET));
    }
}
