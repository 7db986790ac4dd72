//! Answers as JSON.

use serde::Serialize;
use serde_json::Value;

pub(crate) fn json(answer: impl Serialize) -> anyhow::Result<Value> {
    Ok(serde_json::to_value(answer)?)
}
