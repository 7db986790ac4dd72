//! Faults of the storage node on demand, for tests: `--fault FILE` makes the node hang or fail as
//! the file says, and go on as soon as the file says otherwise.
//!
//! One rule a line, `CALL FAULT [TIMES]`; `#` begins a comment; a missing or empty file is no fault.
//! Each change of the file is logged, with the number of blocks sent by then.
//!
//! | word | values |
//! |---|---|
//! | CALL | `all`, `put-many`, `get`, `has`, `pin`, `unpin`, `pins`, `publish`, `resolve` |
//! | FAULT | `hang`, `fail`, `fail-after`, `refuse`, `delay=500ms`, `corrupt`, `drop` |
//!
//! Invariant: an invalid rule is logged and changes nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::config::Span;
use crate::names::fault::{self as names, FaultNames};
use crate::names::{NameError, NameStore};
use crate::store::fault::{Call, Fault, FaultStore};
use crate::store::{BlockStore, StoreError};

/// How often the file is read.
const LOOK: Duration = Duration::from_millis(100);

/// Wraps both stores, and watches `file` while they are used.
pub(crate) fn wrap(
    store: Arc<dyn BlockStore>,
    names: Arc<dyn NameStore>,
    file: &Path,
) -> (Arc<dyn BlockStore>, Arc<dyn NameStore>) {
    let store = Arc::new(FaultStore::new(store));
    let names = Arc::new(FaultNames::new(names));
    let watched = (Arc::downgrade(&store), Arc::downgrade(&names));
    let file = file.to_owned();
    let mut text = read(&file);
    apply(&text, &store, &names);
    tokio::spawn(async move {
        while let (Some(store), Some(names)) = (watched.0.upgrade(), watched.1.upgrade()) {
            let now = read(&file);
            if now != text {
                apply(&now, &store, &names);
                text = now;
            }
            drop((store, names));
            tokio::time::sleep(LOOK).await;
        }
    });
    (store, names)
}

fn read(file: &PathBuf) -> String {
    std::fs::read_to_string(file).unwrap_or_default()
}

fn apply(text: &str, store: &FaultStore, names: &FaultNames) {
    let blocks = store.block_count();
    tracing::info!(blocks, text, "the fault file");
    store.clear();
    names.clear();
    let lines = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default());
    for line in lines.filter(|line| !line.trim().is_empty()) {
        if rule(line, store, names).is_none() {
            tracing::error!(line, "this line of the fault file is not understood");
        }
    }
}

fn rule(line: &str, store: &FaultStore, names: &FaultNames) -> Option<()> {
    let mut words = line.split_whitespace();
    let (call, fault) = (words.next()?, words.next()?);
    let times = words.next().map(str::parse).transpose().ok()?;
    let of_store = parse(
        fault,
        StoreError::Transient("told to fail".to_owned()),
        StoreError::Permanent("told to refuse".to_owned()),
    )?;
    let of_names = parse(
        fault,
        NameError::Transient("told to fail".to_owned()),
        NameError::Permanent("told to refuse".to_owned()),
    )?;
    let calls: &[Call] = match call {
        "all" => &Call::ALL,
        "put-many" => &[Call::PutMany],
        "get" => &[Call::Get],
        "has" => &[Call::Has],
        "pin" => &[Call::Pin],
        "unpin" => &[Call::Unpin],
        "pins" => &[Call::Pins],
        "publish" | "resolve" => &[],
        _ => return None,
    };
    for call in calls {
        store.set(*call, of_store.clone(), times);
    }
    let calls: &[names::Call] = match call {
        "all" => &[names::Call::Publish, names::Call::Resolve],
        "publish" => &[names::Call::Publish],
        "resolve" => &[names::Call::Resolve],
        _ => &[],
    };
    for call in calls {
        names.set(*call, of_names.clone(), times);
    }
    Some(())
}

fn parse<E>(word: &str, transient: E, permanent: E) -> Option<Fault<E>> {
    Some(match word.split_once('=') {
        Some(("delay", span)) => Fault::Delay(span.parse::<Span>().ok()?.0),
        Some(_) => return None,
        None => match word {
            "hang" => Fault::Hang,
            "fail" => Fault::Before(transient),
            "fail-after" => Fault::After(transient),
            "refuse" => Fault::Before(permanent),
            "corrupt" => Fault::Corrupt,
            "drop" => Fault::Drop,
            _ => return None,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::names::memory::MemoryNames;
    use crate::store::BlockStoreExt;
    use crate::store::memory::MemoryStore;

    fn stores() -> (FaultStore, FaultNames) {
        let store = FaultStore::new(Arc::new(MemoryStore::default()));
        let names = FaultNames::new(Arc::new(MemoryNames::new(Arc::new(SystemClock))));
        (store, names)
    }

    #[tokio::test]
    async fn a_rule_strikes_until_the_file_says_otherwise() {
        let (store, names) = stores();
        apply(
            "# nothing yet\npins fail\nresolve refuse 1\n",
            &store,
            &names,
        );
        assert!(matches!(store.pins().await, Err(StoreError::Transient(_))));
        assert!(matches!(
            names.resolve("k").await,
            Err(NameError::Permanent(_))
        ));
        apply("", &store, &names);
        assert_eq!(store.pins().await, Ok(Vec::new()));
        assert!(!matches!(
            names.resolve("k").await,
            Err(NameError::Permanent(_))
        ));
    }

    #[test]
    fn a_rule_that_is_not_understood_changes_nothing() {
        let (store, names) = stores();
        for line in [
            "all",
            "put fail",
            "all explode",
            "all delay=1",
            "all fail x",
            "all hang=1",
        ] {
            assert!(rule(line, &store, &names).is_none(), "{line}");
        }
        for line in [
            "all hang",
            "get delay=500ms 3",
            "put-many fail-after",
            "publish drop",
        ] {
            assert!(rule(line, &store, &names).is_some(), "{line}");
        }
    }
}
