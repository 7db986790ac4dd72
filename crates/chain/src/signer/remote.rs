//! A signer in another process, over JSON-RPC: clef (`account_signTransaction`), or whatever
//! answers `eth_signTransaction` (Web3Signer, a node with accounts).
//!
//! Invariant: each question may face a person. So each signature is requested once, and after a
//! refusal or timeout not again for [`REST`] unless a user asks anew. Every request ends in bounded
//! time with a bounded answer; it holds only the transaction, no URL of a chain or node, and no
//! error shows more of the signer's URL than scheme and host.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use alloy::consensus::TxEnvelope;
use alloy::eips::eip2718::Decodable2718;
use alloy::primitives::{Address, B256, Bytes, TxKind, keccak256};
use alloy::rpc::types::TransactionRequest;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use crate::ChainError;
use pxfs_storage::rpc::host_only;

/// How long a person may take to approve.
const PERSON: Duration = Duration::from_secs(120);
/// How long a refused request rests.
const REST: Duration = Duration::from_secs(600);
/// The timeout of requests without approval.
const MACHINE: Duration = Duration::from_secs(10);
const ANSWER_BYTES: usize = 1 << 20;
const UNKNOWN: i64 = -32601;

/// An external signer and its account.
pub struct RemoteSigner {
    place: Place,
    address: Address,
    /// Recent refusals and reasons, by what the transaction does, ignoring nonce and fees.
    refused: Mutex<HashMap<B256, (Instant, String)>>,
}

/// How to reach it.
struct Place {
    url: reqwest::Url,
    label: String,
    client: reqwest::Client,
    person: Duration,
    /// Whether it speaks clef's dialect, once known.
    is_clef: OnceLock<bool>,
}

enum Fault {
    /// Unknown method.
    Unknown,
    /// Its refusal.
    Refused(String),
    /// Timed out after this long.
    Silent(Duration),
    /// One line about the signer.
    Told(String),
}

#[derive(Deserialize)]
struct Reply {
    result: Option<Value>,
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    code: i64,
    #[serde(default)]
    message: String,
}

impl RemoteSigner {
    /// The signer at `url` for `account`, or for its only account.
    ///
    /// # Errors
    /// [`ChainError::Signer`]: it does not answer, or does not name one account.
    pub async fn open(url: &str, account: Option<Address>) -> Result<Self, ChainError> {
        let place = Place::new(url, PERSON)?;
        let address = match account {
            Some(account) => account,
            None => place.only_account().await?,
        };
        Ok(Self::at(place, address))
    }

    fn at(place: Place, address: Address) -> Self {
        Self {
            place,
            address,
            refused: Mutex::default(),
        }
    }

    /// A user asks: a refused request may be repeated.
    pub(super) fn wanted(&self) {
        self.refused().clear();
    }

    fn refused(&self) -> MutexGuard<'_, HashMap<B256, (Instant, String)>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The account.
    #[must_use]
    pub fn address(&self) -> Address {
        self.address
    }

    /// Scheme and host.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.place.label
    }

    /// Whether it answers; signs nothing and disturbs nobody.
    ///
    /// # Errors
    /// [`ChainError::Signer`].
    pub async fn check(&self) -> Result<(), ChainError> {
        self.place.is_clef().await.map(drop)
    }

    /// Has `request` signed.
    ///
    /// # Errors
    /// [`ChainError::Signer`]: it refuses, times out, or returns no transaction.
    pub(super) async fn sign(
        &self,
        request: &TransactionRequest,
    ) -> Result<TxEnvelope, ChainError> {
        let place = &self.place;
        let what = what(request);
        let now = Instant::now();
        self.refused().retain(|_, (at, _)| now < *at + REST);
        if let Some((_, why)) = self.refused().get(&what) {
            return Err(ChainError::Signer(format!(
                "{why} (it is asked again after {} min, or by the command that wants it)",
                REST.as_secs() / 60
            )));
        }
        let method = match place.is_clef().await? {
            true => "account_signTransaction",
            false => "eth_signTransaction",
        };
        let answer = place
            .ask(method, json!([form(request)]), place.person)
            .await;
        let answer = answer.map_err(|fault| {
            let by_person = matches!(fault, Fault::Refused(_) | Fault::Silent(_));
            let told = place.words(fault, method);
            if by_person {
                self.refused().insert(what, (now, told.clone()));
            }
            ChainError::Signer(told)
        })?;
        // clef and geth wrap it.
        let raw = answer.get("raw").unwrap_or(&answer);
        let raw: Option<Bytes> = raw.as_str().and_then(|raw| raw.parse().ok());
        let decoded = raw.and_then(|raw| TxEnvelope::decode_2718_exact(&raw).ok());
        decoded.ok_or_else(|| {
            ChainError::Signer(format!(
                "{}: its answer is no signed transaction",
                place.label
            ))
        })
    }
}

/// Identifies a transaction's effect.
fn what(request: &TransactionRequest) -> B256 {
    let what = (&request.to, request.value, request.input.input());
    keccak256(format!("{what:?}"))
}

/// Each field once, under the name that clef and geth both know.
fn form(request: &TransactionRequest) -> Value {
    let mut form = serde_json::to_value(request).unwrap_or_default();
    if let Value::Object(fields) = &mut form {
        let to = request.to.as_ref().and_then(TxKind::to);
        // clef warns its user about addresses without checksums.
        for (name, address) in [("from", request.from.as_ref()), ("to", to)] {
            if let Some(address) = address {
                fields.insert(name.to_owned(), json!(address.to_checksum(None)));
            }
        }
        // clef rejects both together, and older signers know only `data`.
        let input = fields.remove("input");
        let data = fields.remove("data").or(input);
        fields.insert("data".to_owned(), data.unwrap_or_else(|| json!("0x")));
        fields.retain(|_, value| !value.is_null());
    }
    form
}

impl Place {
    fn new(url: &str, person: Duration) -> Result<Self, ChainError> {
        let broken = |what: &str| ChainError::Signer(format!("--signer {what}"));
        let parsed = reqwest::Url::parse(url).ok().filter(reqwest::Url::has_host);
        let url = parsed.ok_or_else(|| broken("is no http:// or https:// URL"))?;
        let label = host_only(url.as_str());
        // No redirects: they may send the question anywhere.
        let client = reqwest::Client::builder()
            .connect_timeout(MACHINE)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|fault| broken(&format!("gets no client: {}", fault.without_url())))?;
        Ok(Self {
            url,
            label,
            client,
            person,
            is_clef: OnceLock::new(),
        })
    }

    /// Tested with a method that clef answers without its user.
    async fn is_clef(&self) -> Result<bool, ChainError> {
        if let Some(known) = self.is_clef.get() {
            return Ok(*known);
        }
        const METHOD: &str = "account_version";
        let told = match self.ask(METHOD, json!([]), MACHINE).await {
            Ok(_) => true,
            Err(Fault::Unknown) => false,
            Err(fault) => return Err(self.fault(fault, METHOD)),
        };
        Ok(*self.is_clef.get_or_init(|| told))
    }

    async fn only_account(&self) -> Result<Address, ChainError> {
        let (method, limit) = match self.is_clef().await? {
            true => ("account_list", self.person),
            false => ("eth_accounts", MACHINE),
        };
        let told = self.ask(method, json!([]), limit).await;
        let told = told.map_err(|fault| self.fault(fault, method))?;
        let accounts: Vec<Address> = serde_json::from_value(told).unwrap_or_default();
        match accounts.as_slice() {
            [only] => Ok(*only),
            [] => Err(ChainError::Signer(format!(
                "{} names no account: give it one, or name it by --address 0x…",
                self.label
            ))),
            several => Err(ChainError::Signer(format!(
                "{} has {} accounts: name the one by --address 0x…",
                self.label,
                several.len()
            ))),
        }
    }

    fn fault(&self, fault: Fault, method: &str) -> ChainError {
        ChainError::Signer(self.words(fault, method))
    }

    fn words(&self, fault: Fault, method: &str) -> String {
        let label = &self.label;
        match fault {
            Fault::Unknown => format!("{label} does not know `{method}`: give another --signer"),
            Fault::Refused(why) => format!("{label} refuses `{method}`, so nothing is sent: {why}"),
            Fault::Silent(limit) => format!(
                "{label} has not answered `{method}` within {} s, so nothing is sent: look whether it waits for \
                 somebody, and try again",
                limit.as_secs()
            ),
            Fault::Told(what) => format!("{label} {what}"),
        }
    }

    async fn ask(&self, method: &str, params: Value, limit: Duration) -> Result<Value, Fault> {
        let question = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let asked = async {
            let request = self.client.post(self.url.clone());
            let request = request
                .header("content-type", "application/json")
                .body(question.to_string());
            let mut reply = request.send().await.map_err(|fault| unreached(&fault))?;
            let status = reply.status();
            let mut body = Vec::new();
            while let Some(part) = reply.chunk().await.map_err(|fault| unreached(&fault))? {
                body.extend_from_slice(&part);
                if body.len() > ANSWER_BYTES {
                    return Err(Fault::Told("gives an answer without end".to_owned()));
                }
            }
            match serde_json::from_slice::<Reply>(&body) {
                Ok(reply) => Ok(reply),
                Err(_) => Err(Fault::Told(format!("answers {status}, and no JSON-RPC"))),
            }
        };
        let Ok(reply) = timeout(limit, asked).await else {
            return Err(Fault::Silent(limit));
        };
        match reply? {
            Reply {
                error: Some(refusal),
                ..
            } if refusal.code == UNKNOWN => Err(Fault::Unknown),
            Reply {
                error: Some(refusal),
                ..
            } => Err(Fault::Refused(pxfs_base::text::message(&refusal.message))),
            Reply { result, .. } => Ok(result.unwrap_or_default()),
        }
    }
}

fn unreached(fault: &reqwest::Error) -> Fault {
    let what = match fault.is_connect() {
        true => "cannot be reached",
        false => "breaks the connection off",
    };
    Fault::Told(format!(
        "{what}: nothing is sent; start the signer, or give another --signer"
    ))
}

#[cfg(test)]
mod tests;
