//! `pxfs doctor`: looks at everything a drive needs; each line is ok or says what to do.
//!
//! Invariant: changes nothing. Called by `cli`.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::exit::{Exit, one_line};
use super::locate;
use super::mount::{mount_options, runtime};
use super::output::{json_answer, text_answer};
use super::setup::Setup;
use crate::chain::Ledger;
use crate::config::Config;
use crate::control::Request;
use crate::run::node;
use crate::run::parts::{Parts, open_wallet};
use crate::status::{CheckAnswer, Status};

/// Runs the command.
pub(super) fn run(setup: &Setup) -> anyhow::Result<Exit> {
    let mut checks = vec![fuse_device(), fusermount()];
    match setup.config_or_demo() {
        Err(error) => checks.push(bad("configuration", one_line(&error))),
        Ok(config) => {
            checks.push(good("configuration is understood".to_owned()));
            checks.extend(of_config(setup, &config));
        }
    }
    let well = checks.iter().all(|check| check.ok);
    match setup.json {
        true => json_answer(&checks)?,
        false => text_answer(&render(&checks))?,
    };
    Ok(match well {
        true => Exit::Ok,
        false => Exit::Failure,
    })
}

fn good(check: String) -> CheckAnswer {
    CheckAnswer {
        check,
        ok: true,
        fix: None,
    }
}

fn bad(check: impl Into<String>, fix: impl Into<String>) -> CheckAnswer {
    CheckAnswer {
        check: check.into(),
        ok: false,
        fix: Some(fix.into()),
    }
}

fn render(checks: &[CheckAnswer]) -> String {
    checks
        .iter()
        .map(|check| match &check.fix {
            None => format!("ok    {}", check.check),
            Some(fix) => format!("FAIL  {}: {fix}", check.check),
        })
        .collect::<Vec<_>>()
        .join("\n")
}

fn fuse_device() -> CheckAnswer {
    match std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/fuse")
    {
        Ok(_) => good("/dev/fuse can be opened".to_owned()),
        Err(fault) => bad(
            format!("/dev/fuse: {fault}"),
            "run `modprobe fuse` as root, or pass the device to the container",
        ),
    }
}

fn fusermount() -> CheckAnswer {
    if rustix::process::geteuid().is_root() {
        return good("root mounts without fusermount3".to_owned());
    }
    match crate::mount::find_fusermount() {
        Some(program) => good(format!("{} is there", program.display())),
        None => bad("fusermount3 is missing", "install the package fuse3"),
    }
}

fn of_config(setup: &Setup, config: &Config) -> Vec<CheckAnswer> {
    let mut checks = vec![folder("state folder", &config.state_dir)];
    if let Err(failure) = mount_options(config) {
        checks.push(bad("mount options", failure.message));
    }
    let owner = match config.address {
        Some(owner) => Ok(format!("{owner} is watched, without its wallet")),
        None => open_wallet(config).map(|wallet| format!("wallet {} opens", wallet.address())),
    };
    checks.push(match &owner {
        Ok(words) => good(words.clone()),
        Err(error) => bad("wallet", one_line(error)),
    });
    // The daemon owns chain and node where it runs: it knows how they are.
    match locate::find(setup, None) {
        Ok(Some(entry)) => {
            let status =
                locate::connect(&entry).and_then(|client| client.ask(&Request::Status, |_| {}));
            match status {
                Ok(status) => {
                    checks.extend(of_status(&status));
                    let quotas = status.tokens.iter().map(|token| token.quota_bytes);
                    checks.extend(of_node(config, quotas.fold(0, u64::saturating_add)));
                }
                Err(failure) => checks.push(bad("the running pxfs", failure.message)),
            }
        }
        Ok(None) if owner.is_ok() => checks.extend(of_parts(config)),
        Ok(None) => {}
        Err(failure) => checks.push(bad("the running pxfs", failure.message)),
    }
    checks
}

fn folder(what: &str, path: &Path) -> CheckAnswer {
    let shown = path.display();
    match std::fs::metadata(path) {
        Err(fault) if fault.kind() == std::io::ErrorKind::NotFound => {
            good(format!("{what} {shown} will be made"))
        }
        Err(fault) => bad(
            format!("{what} {shown}: {fault}"),
            "give another --state-dir",
        ),
        Ok(meta) if !meta.is_dir() => bad(
            format!("{what} {shown} is not a folder"),
            "give another --state-dir",
        ),
        Ok(meta) if meta.uid() != rustix::process::geteuid().as_raw() => bad(
            format!("{what} {shown} belongs to user {}", meta.uid()),
            "run as that user, or give another --state-dir",
        ),
        Ok(meta) if meta.mode() & 0o077 != 0 => bad(
            format!("{what} {shown} can be entered by others"),
            format!("run `chmod 700 {shown}`"),
        ),
        Ok(_) => good(format!("{what} {shown} is ours alone")),
    }
}

fn of_status(status: &Status) -> Vec<CheckAnswer> {
    let node = &status.node;
    let mut checks = vec![good(format!("mounted on {}", status.mountpoint))];
    checks.extend(status.chains.iter().map(|chain| match &chain.error {
        None => good(format!("chain {} at {} answers", chain.id, chain.url)),
        Some(error) => bad(format!("chain {}", chain.url), error),
    }));
    checks.push(match &node.error {
        None => good(format!("node {} answers", node.url)),
        Some(error) => bad(format!("node {}", node.url), error),
    });
    checks
}

fn of_parts(config: &Config) -> Vec<CheckAnswer> {
    if !config.state_dir.exists() && config.rpc.is_empty() {
        return vec![bad(
            "chain",
            "give --rpc-url, or try `pxfs demo MOUNTPOINT`",
        )];
    }
    let looked = runtime().and_then(|runtime| {
        runtime.hold(async {
            let all = Parts::all(config).await?;
            let (mut checks, mut needed_bytes) = (Vec::new(), 0_u64);
            for parts in &all {
                let chain = format!(
                    "chain {} at {}, contract {} ({})",
                    parts.chain.chain_id,
                    parts.chain.endpoint.label(),
                    parts.chain.contract,
                    parts.chain.dialect().name()
                );
                let tokens = parts.chain.ledger.snapshot().await?.tokens;
                let quotas = tokens.iter().map(|token| token.size_bytes);
                needed_bytes = quotas.fold(needed_bytes, u64::saturating_add);
                let ours = match tokens.len() {
                    1 => "1 token is ours".to_owned(),
                    owned => format!("{owned} tokens are ours"),
                };
                checks.push(good(format!("{chain}: {ours}")));
            }
            if let Some(parts) = all.first() {
                let asked = crate::pack::cid::leaf_cid(b"");
                parts.node.store.has(&asked).await?;
                checks.push(good(format!("node {} answers", parts.node.label)));
            }
            Ok((checks, needed_bytes))
        })
    });
    let looked = looked.map(|(mut checks, needed_bytes)| {
        checks.extend(of_node(config, needed_bytes));
        checks
    });
    looked.unwrap_or_else(|error| vec![bad("chain and node", one_line(&error))])
}

/// What each real node is, and which of its settings endanger data.
fn of_node(config: &Config, needed_bytes: u64) -> Vec<CheckAnswer> {
    let nodes = match node::real(config) {
        Ok(nodes) => nodes,
        Err(error) => return vec![bad("the node", one_line(&error))],
    };
    let mut checks = Vec::new();
    for (client, is_first) in nodes {
        let (name, needed_bytes) = match is_first {
            true => ("the node".to_owned(), Some(needed_bytes)),
            false => (format!("the node {}", client.label()), None),
        };
        match runtime().and_then(|runtime| runtime.hold(node::look(&client, needed_bytes))) {
            Ok((found, warnings)) => {
                let (is, kind) = (found.agent, found.dialect.as_str());
                checks.push(good(format!("{name} is {is} ({kind})")));
                let warnings = warnings.into_iter();
                checks.extend(
                    warnings.map(|warning| bad(format!("{name}: {}", warning.what), warning.fix)),
                );
            }
            Err(error) => checks.push(bad(name, one_line(&error))),
        }
    }
    checks
}
