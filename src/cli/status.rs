//! `pxfs status`: a table, and a line each for drive, node and chain.

use std::collections::BTreeSet;
use std::path::Path;

use jiff::Timestamp;

use super::locate;
use super::output::{bar, bytes, json_answer, share, table, text_answer};
use super::setup::Setup;
use crate::control::{Entry, Request};
use crate::exit::{Exit, Failure};
use crate::status::{State, Status, TokenStatus};

const BAR: u64 = 12;

pub(super) fn run(setup: &Setup, mountpoint: Option<&Path>) -> anyhow::Result<Exit> {
    match &locate::each(setup, mountpoint)?[..] {
        [] => Err(locate::missing(setup, mountpoint).into()),
        [entry] => {
            let status: Status = locate::connect(entry)?.ask(&Request::Status, |_| {})?;
            if setup.json {
                json_answer(&status)
            } else {
                text_answer(&render(&status))
            }
        }
        all => several(setup, all),
    }
}

/// Each drive; one that does not answer hides no other.
fn several(setup: &Setup, entries: &[Entry]) -> anyhow::Result<Exit> {
    let (told, silent) = ask(entries);
    let exit = if setup.json {
        json_answer(&told)?
    } else {
        text_answer(&render_all(&told))?
    };
    match together(silent) {
        None => Ok(exit),
        Some(failure) => Err(failure.into()),
    }
}

/// Each drive's answer, or why there is none.
pub(super) fn ask(entries: &[Entry]) -> (Vec<Status>, Vec<Failure>) {
    let (mut told, mut silent) = (Vec::new(), Vec::new());
    for entry in entries {
        let asked = locate::connect(entry).and_then(|client| client.ask(&Request::Status, |_| {}));
        match asked {
            Ok(status) => told.push(status),
            Err(failure) => silent.push(failure),
        }
    }
    (told, silent)
}

pub(super) fn together(failures: Vec<Failure>) -> Option<Failure> {
    let lines: Vec<String> = failures.iter().map(Failure::to_string).collect();
    let exit = failures.first()?.exit;
    Some(Failure::new(exit, lines.join("; ")))
}

pub(super) fn render_all(all: &[Status]) -> String {
    all.iter().map(render).collect::<Vec<_>>().join("\n\n")
}

fn render(status: &Status) -> String {
    let mut text = format!(
        "{}, mounted for {}\n",
        status.mountpoint,
        elapsed(status.uptime_s)
    );
    let more = status.nodes.iter().skip(1);
    for node in std::iter::once(&status.node).chain(more) {
        let health = health(node.ok, node.error.as_deref());
        text += &format!("node   {}  {health}\n", node.url);
    }
    for chain in &status.chains {
        text += &format!(
            "chain  {} ({}){}, block {}, seen {} ago  {}\n",
            chain.id,
            chain.url,
            dialects(chain.id, &status.tokens),
            chain.block,
            elapsed(chain.age_s),
            health(chain.ok, chain.error.as_deref())
        );
    }
    if status.tokens.is_empty() {
        text + "\nno tokens: `pxfs packages` lists what can be minted"
    } else {
        text + "\n" + &token_table(&status.tokens)
    }
}

/// The dialects on a chain, to print behind it.
fn dialects(chain_id: u64, tokens: &[TokenStatus]) -> String {
    let there = tokens.iter().filter(|token| token.chain_id == chain_id);
    let spoken: BTreeSet<&str> = there.map(|token| token.dialect.as_str()).collect();
    spoken
        .iter()
        .map(|dialect| format!(", {dialect}"))
        .collect()
}

/// The tokens, and below them why a state is not `ok`.
fn token_table(tokens: &[TokenStatus]) -> String {
    let rows = tokens.iter().map(row).collect();
    let heading = [
        "TOKEN",
        "STATE",
        "QUOTA",
        "USED",
        "",
        "FREE",
        "PENDING",
        "UPLOADS",
        "SYNC BEFORE",
    ];
    table(&heading, rows) + &reasons(tokens)
}

fn reasons(tokens: &[TokenStatus]) -> String {
    let mut text = String::new();
    for token in tokens {
        let error = token
            .local
            .as_ref()
            .and_then(|local| local.last_error.as_deref());
        let reason = token.reason.as_deref();
        // The reason is not repeated.
        let error = error.filter(|error| reason.is_none_or(|reason| !alike(reason, error)));
        let plan = plan(token, Timestamp::now());
        for line in [reason, error, plan.as_deref()].into_iter().flatten() {
            // An orphan is no token.
            text += match token.state {
                State::Detached => "\n",
                _ => "\ntoken ",
            };
            text += &format!("{}: {line}", token.directory);
        }
    }
    text
}

/// When pending data is to be published, if commits are spread over their units' time.
fn plan(token: &TokenStatus, now: Timestamp) -> Option<String> {
    let local = token.local.as_ref()?;
    let at = local.next_commit?;
    // Deletions wait even when nothing may grow; failures are not waited for.
    let waits = matches!(token.state, State::Ok | State::Quota | State::Syncing);
    (waits && local.last_error.is_none() && at > now).then(|| {
        format!(
            "next upload planned for {}, so that the upload units last: `pxfs flush` uploads now",
            day(at)
        )
    })
}

fn alike(one: &str, other: &str) -> bool {
    one.contains(other) || other.contains(one)
}

/// The tokens by the chain alone.
pub(super) fn chain_table(tokens: &[TokenStatus]) -> String {
    let rows = tokens.iter().map(|token| {
        vec![
            token.directory.clone(),
            token.state.as_str().to_owned(),
            bytes(token.quota_bytes),
            bytes(token.usage_on_chain_bytes),
            uploads(token),
            deadline(token),
        ]
    });
    let heading = [
        "TOKEN",
        "STATE",
        "QUOTA",
        "AT LAST SYNC",
        "UPLOADS",
        "SYNC BEFORE",
    ];
    table(&heading, rows.collect()) + &reasons(tokens)
}

fn row(token: &TokenStatus) -> Vec<String> {
    let local = token.local.as_ref();
    let used = local.map(|local| local.used_bytes);
    vec![
        token.directory.clone(),
        state(token).to_owned(),
        bytes(token.quota_bytes),
        used.map_or_else(String::new, bytes),
        used.map_or_else(String::new, |used| {
            let quota = token.quota_bytes;
            format!("{} {:>3} %", bar(used, quota, BAR), share(used, quota, 100))
        }),
        local.map_or_else(String::new, |local| bytes(local.free_bytes)),
        local.map_or_else(String::new, |local| match local.pending_files {
            0 if local.pending => "names".to_owned(),
            0 => "-".to_owned(),
            1 => format!("{} in 1 file", bytes(local.pending_bytes)),
            files => format!("{} in {files} files", bytes(local.pending_bytes)),
        }),
        uploads(token),
        deadline(token),
    ]
}

/// The state, or that the quota is nearly full.
fn state(token: &TokenStatus) -> &'static str {
    let used = token.local.as_ref().map_or(0, |local| local.used_bytes);
    match token.state {
        State::Ok if share(used, token.quota_bytes, 100) >= 90 => "nearly full",
        state => state.as_str(),
    }
}

fn uploads(token: &TokenStatus) -> String {
    let left = token.uploads_left;
    left.map_or_else(|| "-".to_owned(), |left| left.to_string())
}

fn deadline(token: &TokenStatus) -> String {
    token.sync_deadline.map_or_else(|| "-".to_owned(), day)
}

fn day(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M UTC").to_string()
}

fn health(ok: bool, error: Option<&str>) -> String {
    match (ok, error) {
        (true, _) => "ok".to_owned(),
        (false, Some(error)) => error.to_owned(),
        (false, None) => "not seen yet".to_owned(),
    }
}

fn elapsed(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{ChainStatus, LocalStatus, NodeStatus};
    use crate::types::TokenId;

    fn status() -> Status {
        let token = TokenStatus {
            id: TokenId::from(7),
            directory: "7".into(),
            chain_id: 31337,
            contract: "0x01".into(),
            dialect: "px-sync".into(),
            path: Some("/m/7".into()),
            volume: Some("plain".into()),
            state: State::Overdue,
            reason: Some("the sync is overdue: run `pxfs sync 7`".into()),
            quota_bytes: 100 << 20,
            local: Some(LocalStatus {
                used_bytes: 25 << 20,
                pending_bytes: 1 << 20,
                pending_files: 3,
                ..LocalStatus::default()
            }),
            uploads_left: None,
            last_sync: None,
            sync_deadline: Timestamp::from_second(86_400).ok(),
            usage_on_chain_bytes: 0,
            name: None,
            epoch: 1,
            sequence: None,
            root: None,
        };
        let chain = ChainStatus {
            id: 31337,
            url: "embedded".into(),
            ok: false,
            block: 2,
            age_s: 90_000,
            error: Some("chain: embedded does not answer".into()),
        };
        Status {
            version: "0".into(),
            mountpoint: "/m".into(),
            uptime_s: 61,
            chains: vec![chain.clone()],
            chain,
            node: NodeStatus {
                kind: "embedded".into(),
                url: "embedded:/n".into(),
                ok: true,
                error: None,
            },
            nodes: Vec::new(),
            tokens: vec![token],
        }
    }

    #[test]
    fn a_status_shows_what_to_do_and_what_is_wrong() {
        let text = render(&status());
        for wanted in [
            "overdue",
            "100.0 MiB",
            "25.0 MiB",
            "[###.........]  25 %",
            "1.0 MiB in 3 files",
            "1970-01-02 00:00 UTC",
            "token 7: the sync is overdue: run `pxfs sync 7`",
            "does not answer",
            "1 d 1 h ago",
            "chain  31337 (embedded), px-sync, block 2",
        ] {
            assert!(text.contains(wanted), "{wanted} is not in:\n{text}");
        }
    }

    #[test]
    fn status_names_a_read_only_node_that_does_not_answer() {
        let mut status = status();
        let away = NodeStatus {
            kind: "btfs".into(),
            url: "http://old:5001".into(),
            ok: false,
            error: Some("cannot be reached".into()),
        };
        status.nodes = vec![status.node.clone(), away];
        let text = render(&status);
        let lines = text.lines().filter(|line| line.starts_with("node"));
        assert_eq!(lines.count(), 2, "{text}");
        assert!(text.contains("node   http://old:5001  "), "{text}");
        assert!(text.contains("cannot be reached"), "{text}");
    }

    #[test]
    fn status_tells_contracts_tokens_apart_and_lists_each_chain() {
        let mut status = status();
        let mut other = status.tokens[0].clone();
        (other.directory, other.chain_id) = ("px-7".into(), 100);
        other.dialect = "px-v2".into();
        status.tokens.push(other);
        let mut chain = status.chains[0].clone();
        (chain.id, chain.url) = (100, "https://rpc".into());
        status.chains.push(chain);
        let text = render(&status);
        for wanted in [
            "\npx-7  ",
            "\ntoken px-7: ",
            "chain  31337 (embedded), px-sync,",
            "chain  100 (https://rpc), px-v2,",
        ] {
            assert!(text.contains(wanted), "{wanted} is not in:\n{text}");
        }
    }

    #[test]
    fn names_that_are_not_published_are_shown_as_pending() {
        let mut token = status().tokens.remove(0);
        let shown = |token: &TokenStatus| row(token)[6].clone();
        if let Some(local) = &mut token.local {
            (local.pending_files, local.pending_bytes, local.pending) = (0, 0, true);
        }
        assert_eq!(shown(&token), "names");
        if let Some(local) = &mut token.local {
            local.pending = false;
        }
        assert_eq!(shown(&token), "-");
    }

    #[test]
    fn status_says_when_pending_data_publishes_and_how_to_hurry() {
        let mut token = status().tokens.remove(0);
        let at: Timestamp = "2026-12-25T05:00:00Z".parse().unwrap();
        let before: Timestamp = "2026-12-24T23:00:00Z".parse().unwrap();
        let set = |token: &mut TokenStatus, state, next_commit| {
            token.state = state;
            if let Some(local) = &mut token.local {
                local.next_commit = next_commit;
            }
        };
        set(&mut token, State::Ok, Some(at));
        let told = plan(&token, before).unwrap();
        assert!(
            told.contains("2026-12-25 05:00 UTC") && told.contains("`pxfs flush`"),
            "{told}"
        );
        // It begins now; it waits for something else; nothing waits.
        assert_eq!(plan(&token, at), None);
        set(&mut token, State::Overdue, Some(at));
        assert_eq!(plan(&token, before), None);
        // The deletion waits for the last unit.
        set(&mut token, State::Quota, Some(at));
        assert!(plan(&token, before).is_some());
        if let Some(local) = &mut token.local {
            local.last_error = Some("the node is full".into());
        }
        assert_eq!(plan(&token, before), None);
        set(&mut token, State::Ok, None);
        assert_eq!(plan(&token, before), None);
    }

    #[test]
    fn what_an_old_epoch_left_is_told_from_the_token_of_today() {
        let mut status = status();
        let mut left = status.tokens[0].clone();
        left.state = State::Detached;
        left.path = Some("/m/7.detached".into());
        left.directory = "7.detached".into();
        status.tokens.push(left);
        let text = render(&status);
        assert!(text.contains("\n7  "), "{text}");
        assert!(text.contains("\n7.detached  "), "{text}");
    }

    #[test]
    fn what_the_chain_knows_is_not_shown_as_what_is_used() {
        let mut token = status().tokens.remove(0);
        token.local = None;
        token.usage_on_chain_bytes = 3 << 20;
        let text = chain_table(std::slice::from_ref(&token));
        assert!(!text.contains("USED") && !text.contains("FREE"), "{text}");
        assert!(
            text.contains("AT LAST SYNC") && text.contains("3.0 MiB"),
            "{text}"
        );
        assert!(text.contains("token 7: the sync is overdue"), "{text}");
        // Nor in a mount that cannot show the token, where its use is unknown.
        let text = token_table(&[token]);
        assert!(!text.contains("3.0 MiB") && !text.contains('['), "{text}");
    }

    #[test]
    fn a_reason_stands_once() {
        let mut status = status();
        let token = &mut status.tokens[0];
        token.reason = Some("another machine published".into());
        if let Some(local) = &mut token.local {
            local.last_error = Some("conflict: another machine published".into());
        }
        let text = render(&status);
        assert_eq!(
            text.matches("another machine published").count(),
            1,
            "{text}"
        );
    }

    #[test]
    fn a_bar_is_full_at_the_quota_and_neither_before_nor_beyond() {
        assert_eq!(bar(99, 100, BAR), "[###########.]");
        assert_eq!(share(1, u64::MAX, 100), 1);
        assert_eq!(share(u64::MAX - 1, u64::MAX, 100), 99);
        let mut token = status().tokens.remove(0);
        token.state = State::Ok;
        let mut shown = |used_bytes| {
            if let Some(local) = &mut token.local {
                local.used_bytes = used_bytes;
            }
            row(&token)[1].clone()
        };
        assert_eq!(shown(80 << 20), "ok");
        assert_eq!(shown(91 << 20), "nearly full");
        assert_eq!(bar(0, 100, BAR), "[............]");
        assert_eq!(bar(1, 100, BAR), "[#...........]");
        assert_eq!(bar(u64::MAX, 100, BAR), "[############]");
        assert_eq!(bar(5, 0, BAR), "[............]");
    }
}
