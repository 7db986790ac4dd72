//! `pxfs doctor`: checks everything a drive needs; each line is ok or gives the remedy.
//!
//! Invariant: changes nothing.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use alloy::primitives::U256;
use alloy::providers::Provider;

use super::locate;
use super::mount::{mount_options, runtime};
use super::output::{coins, json_answer, text_answer};
use super::setup::Setup;
use crate::chain::transact::{sync_calldata, update_calldata};
use crate::chain::{Accounting, ChainError, TokenInfo};
use crate::config::{Config, NodeUrl, VolumeKind};
use crate::contracts::token_status;
use crate::control::{Entry, Request};
use crate::exit::{Exit, one_line, without_number};
use crate::node::{self, Gives};
use crate::rpc::Client;

use crate::contracts::{Parts, open_signer, open_wallet};
use crate::status::{CheckAnswer, NodeStatus, Status};

/// Charges assumed per month: one a day.
const DAYS: u64 = 30;

pub(super) fn run(setup: &Setup) -> anyhow::Result<Exit> {
    // A wrong --log is refused.
    setup.start_log("error")?;
    let mut checks = vec![fuse_device(), fusermount()];
    match setup.config_or_demo() {
        Err(error) => checks.push(bad("configuration", one_line(&error))),
        Ok(config) => {
            checks.push(good("configuration is understood".to_owned()));
            checks.extend(of_config(setup, &config));
        }
    }
    let well = checks.iter().all(|check| check.ok);
    if setup.json {
        json_answer(&checks)?
    } else {
        text_answer(&render(&checks))?
    };
    Ok(if well { Exit::Ok } else { Exit::Failure })
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
        check: without_number(&check.into()),
        ok: false,
        fix: Some(without_number(&fix.into())),
    }
}

/// Works, but may be unwanted.
fn doubtful(check: impl Into<String>, fix: impl Into<String>) -> CheckAnswer {
    CheckAnswer {
        ok: true,
        ..bad(check, fix)
    }
}

fn render(checks: &[CheckAnswer]) -> String {
    checks
        .iter()
        .map(|check| match (&check.fix, check.ok) {
            (None, _) => format!("ok    {}", check.check),
            (Some(fix), true) => format!("warn  {}: {fix}", check.check),
            (Some(fix), false) => format!("FAIL  {}: {fix}", check.check),
        })
        .collect::<Vec<_>>()
        .join("\n")
}

const DEVICE: &str = "/dev/fuse";

fn fuse_device() -> CheckAnswer {
    let opened = std::fs::File::options().read(true).write(true).open(DEVICE);
    match opened {
        Ok(_) => good(format!("{DEVICE} can be opened")),
        Err(fault) => {
            let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
            let meta = std::fs::metadata(DEVICE).ok();
            let device = meta.map(|meta| (meta.mode(), meta.gid()));
            let has_module = known.lines().any(|line| line.ends_with("\tfuse"));
            bad(
                format!("{DEVICE}: {fault}"),
                remedy(&fault, device, has_module),
            )
        }
    }
}

/// The remedy if the device cannot be opened, by its mode and group and the kernel's support.
fn remedy(fault: &std::io::Error, device: Option<(u32, u32)>, has_module: bool) -> String {
    const CONTAINER: &str = "start docker or podman with `--device /dev/fuse --cap-add SYS_ADMIN`";
    match device {
        None if has_module => {
            format!("it is missing but the kernel has FUSE: in a container, {CONTAINER}")
        }
        None => "run `modprobe fuse` as root".to_owned(),
        // This mode refuses nobody.
        Some((mode, _)) if mode & 0o006 == 0o006 => match fault.kind() {
            std::io::ErrorKind::PermissionDenied => {
                format!("its mode is right, so in a container, {CONTAINER}")
            }
            _ => "run `modprobe fuse` as root".to_owned(),
        },
        Some((mode, gid)) if mode & 0o060 == 0o060 && gid != 0 => format!(
            "only group {gid} may open it: run `usermod -aG {gid} USER` as root and log in again, or `chmod 666 {DEVICE}`"
        ),
        Some((mode, _)) => format!(
            "its mode is {:o}: run `chmod 666 {DEVICE}` as root, as udev does",
            mode & 0o777
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

fn signer(config: &Config) -> anyhow::Result<String> {
    runtime()?.hold(async {
        let signer = open_signer(config).await?;
        signer.check().await?;
        Ok(format!("{} signs for {}", signer.label(), signer.address()))
    })
}

fn of_config(setup: &Setup, config: &Config) -> Vec<CheckAnswer> {
    let dead = locate::dead(setup).into_iter().map(|path| {
        let shown = path.display();
        bad(
            format!("the drive on {shown} is dead: its pxfs has ended"),
            format!("run `pxfs umount --dead {shown}`, and mount it again"),
        )
    });
    let mut checks: Vec<CheckAnswer> = dead.collect();
    let daemons = match locate::each(setup, None) {
        Ok(daemons) => daemons,
        Err(failure) => {
            checks.push(bad("the drive", failure.message));
            return checks;
        }
    };
    if !daemons.is_empty() {
        checks.extend(daemons.iter().flat_map(|entry| of_daemon(config, entry)));
        return checks;
    }
    checks.extend([
        folder("state folder", "--state-dir", &config.state_dir),
        folder("cache folder", "--cache-dir", &config.cache_dir),
    ]);
    if let Err(failure) = mount_options(config) {
        checks.push(bad("mount options", failure.message));
    }
    let owner = match (config.watched(), &config.signer) {
        (Some(owner), _) => Ok(format!("{owner} is read-only: there is no wallet for it")),
        (None, Some(_)) => signer(config),
        (None, None) => {
            open_wallet(config).map(|wallet| format!("wallet {} opens", wallet.address()))
        }
    };
    checks.push(match &owner {
        Ok(words) => good(words.clone()),
        Err(error) => bad("wallet", one_line(error)),
    });
    if owner.is_ok() {
        checks.extend(of_parts(config));
    }
    checks
}

/// The findings of the daemon that owns state folder, wallet, chain and node.
fn of_daemon(config: &Config, entry: &Entry) -> Vec<CheckAnswer> {
    let status = locate::connect(entry).and_then(|client| client.ask(&Request::Status, |_| {}));
    match status {
        Ok(status) => {
            let mut checks = of_status(&status);
            let quotas = status.tokens.iter().map(|token| token.quota_bytes);
            let needed_bytes = quotas.fold(0, u64::saturating_add);
            // Nodes that do not answer the daemon are reported once.
            let away = nodes_of(&status).filter(|node| !node.ok);
            let away: Vec<&str> = away.map(|node| node.url.as_str()).collect();
            checks.extend(of_node(config, needed_bytes, &away));
            checks
        }
        Err(failure) => vec![bad("the running pxfs", failure.message)],
    }
}

fn folder(what: &str, option: &str, path: &Path) -> CheckAnswer {
    let shown = path.display();
    match std::fs::metadata(path) {
        Err(fault) if fault.kind() == std::io::ErrorKind::NotFound => {
            good(format!("{what} {shown} will be created"))
        }
        Err(fault) => bad(
            format!("{what} {shown}: {fault}"),
            format!("choose another with {option}"),
        ),
        Ok(meta) if !meta.is_dir() => bad(
            format!("{what} {shown} is not a folder"),
            format!("choose another with {option}"),
        ),
        Ok(meta) if meta.uid() != rustix::process::geteuid().as_raw() => bad(
            format!("{what} {shown} belongs to user {}", meta.uid()),
            format!("run as that user, or choose another with {option}"),
        ),
        Ok(meta) if meta.mode() & 0o077 != 0 => bad(
            format!("{what} {shown} is open to other users"),
            format!("run `chmod 700 {shown}`"),
        ),
        Ok(_) => good(format!("{what} {shown} is private")),
    }
}

fn nodes_of(status: &Status) -> impl Iterator<Item = &NodeStatus> {
    std::iter::once(&status.node).chain(status.nodes.iter().skip(1))
}

fn of_status(status: &Status) -> Vec<CheckAnswer> {
    let mut checks = vec![good(format!("mounted on {}", status.mountpoint))];
    checks.extend(status.chains.iter().map(|chain| match &chain.error {
        None => good(format!("chain {} at {} answers", chain.id, chain.url)),
        Some(error) => bad(format!("chain {}", chain.url), error),
    }));
    checks.extend(nodes_of(status).map(|node| match &node.error {
        None => good(format!("node {} answers", node.url)),
        Some(error) => bad(format!("node {}", node.url), error),
    }));
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
                    1 => "1 token".to_owned(),
                    owned => format!("{owned} tokens"),
                };
                checks.push(good(format!("{chain}: {ours}")));
                if let Some(token) = tokens.first() {
                    checks.extend(month(parts, token).await);
                }
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
        checks.extend(of_node(config, needed_bytes, &[]));
        checks
    });
    looked.unwrap_or_else(|error| vec![bad("chain and node", one_line(&error))])
}

/// A month's cost on the contract of `token`, and whether the account has and may spend it.
async fn month(parts: &Parts, token: &TokenInfo) -> Option<CheckAnswer> {
    let chain = &parts.chain;
    let sender = &chain.account.as_ref()?.transactor;
    let (what, times, data) = match token.accounting {
        Accounting::Absolute => ("a sync", 1, sync_calldata(token.id)),
        Accounting::Additive => {
            let data = update_calldata(chain.dialect(), token.id, 0, 0);
            ("a charge", DAYS, data)
        }
        Accounting::ByIssuer => return Some(good(token_status::BY_ISSUER.to_owned())),
    };
    let asked = async {
        let one = sender.gas_of(chain.contract, data, U256::ZERO).await?;
        let provider = chain.endpoint.provider();
        let balance = provider.get_balance(sender.address()).await;
        let balance = balance.map_err(|fault| chain.endpoint.fault(fault))?;
        Ok::<_, ChainError>((one.wei, balance))
    };
    let (one, balance) = match asked.await {
        Ok(told) => told,
        // Not now: a fee is due, or was a moment ago. For a charge that is news.
        Err(_) if token.accounting == Accounting::Absolute => return None,
        Err(fault) => return Some(bad("a month", format!("a charge would fail: {fault}"))),
    };
    let shown = |wei: U256| coins(chain.chain_id, &wei.to_string());
    let all = one.saturating_mul(U256::from(times));
    let check = match times {
        1 => format!("a month needs {what}, at most {}", shown(one)),
        _ => format!(
            "{what} (one per published change) costs at most {}: {} for a month of one a day",
            shown(one),
            shown(all)
        ),
    };
    let most = sender.unasked().bound();
    Some(match most.filter(|most| one > *most) {
        Some(most) => bad(
            check,
            format!(
                "unattended transactions may spend {}: allow more with --max-fee",
                shown(most)
            ),
        ),
        None if balance < all => bad(
            check,
            format!(
                "{} has only {}: send more there",
                sender.address(),
                shown(balance)
            ),
        ),
        None => good(check),
    })
}

/// Each real node not known to be `away`, and its dangerous settings.
fn of_node(config: &Config, needed_bytes: u64, away: &[&str]) -> Vec<CheckAnswer> {
    let nodes = match node::real(config) {
        Ok(nodes) => nodes,
        Err(error) => return vec![bad("the node", one_line(&error))],
    };
    let mut checks = gateways(config);
    for (client, is_first) in nodes {
        if away.contains(&client.label()) {
            continue;
        }
        let (name, needed_bytes) = if is_first {
            ("the node".to_owned(), Some(needed_bytes))
        } else {
            (format!("the node {}", client.label()), None)
        };
        match runtime().and_then(|runtime| runtime.hold(node::look(&client, needed_bytes))) {
            Ok((found, warnings)) => {
                let (is, kind) = (found.agent, found.dialect.as_str());
                checks.push(good(format!("{name} is {is} ({kind})")));
                let warnings = warnings.into_iter();
                checks.extend(
                    warnings.map(|warning| bad(format!("{name}: {}", warning.what), warning.fix)),
                );
                if config.volume == VolumeKind::Plain && is_open(&client) {
                    checks.push(doubtful(
                        format!("{name} answers every user of this machine: they can find a plain volume by its pins, read it, and unpin it"),
                        "if others use this machine, set API.Authorizations there, and give --node-token-file",
                    ));
                }
            }
            Err(error) => checks.push(bad(name, one_line(&error))),
        }
    }
    checks
}

/// Whether anybody who reaches an IPFS node may call it.
fn is_open(client: &Client) -> bool {
    let asked = runtime().and_then(|runtime| runtime.hold(node::is_open(client)));
    // Other checks report one that does not say.
    asked.unwrap_or(false)
}

fn gateways(config: &Config) -> Vec<CheckAnswer> {
    let names = config
        .nodes
        .iter()
        .filter(|node| matches!(node, NodeUrl::Gateway(_)));
    let checks = names.map(|url| {
        let looked = runtime().and_then(|runtime| runtime.hold(node::look_at_gateway(url)));
        match looked {
            Ok(Gives::Blocks) => good(format!(
                "gateway {url} serves single blocks: blocks that the nodes lack are read from it"
            )),
            Ok(Gives::Names) => good(format!(
                "gateway {url} serves whole files by name, to the oracle and the check before a sync: no single blocks are \
                 read from it"
            )),
            Ok(Gives::Nothing) => bad(
                format!("gateway {url} serves no single blocks, as usual for BTFS: nothing is read from it"),
                "use gateway=URL/btns/{name} for the oracle and the check before a sync, which read whole files, or leave it out",
            ),
            Err(error) => bad(format!("gateway {url}"), one_line(&error)),
        }
    });
    checks.collect()
}
