//! `pxfs demo`: a drive with nothing else installed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::mount::{hold, mount_options, runtime, runtime_dir};
use super::output::{bytes, text_answer};
use super::setup::Setup;
use crate::config::{Config, Layer, VolumeKind};
use crate::context::StateDir;
use crate::contracts::Parts;
use crate::exit::of_mount;
use crate::exit::{Exit, fail};
use crate::mount;
use crate::run::daemon::Place;
use crate::run::demo::{first_token, prepare};

pub(super) fn run(setup: &Setup, mountpoint: &Path, package: u64) -> anyhow::Result<Exit> {
    // The configuration file is for a real chain: a demo has its own.
    let mut layer = setup.explicit.clone();
    if layer.volume == Some(VolumeKind::Sealed) {
        fail!(
            Usage,
            "demo: sealed volumes are not available yet: leave out --volume"
        );
    }
    setup.start_log("warn")?;
    make_mountpoint(mountpoint)?;
    let mountpoint = mount::check_mountpoint(mountpoint).map_err(of_mount)?;
    let state = layer
        .state_dir
        .clone()
        .unwrap_or_else(|| setup.folders.demo());
    let state_dir = StateDir::open(&state)?;
    let state = state_dir.path().to_owned();
    // Unused here, but read by every later command: fail now.
    check_file(&state.join("config.toml"))?;
    layer.state_dir = Some(state.clone());
    runtime()?.hold(async {
        let layout = prepare(&state_dir, &state.join("wallet")).await?;
        layer.rpc_url = vec![layout.rpc_url().into()];
        layer.rpc_url_file = None;
        (layer.contract, layer.chain_id) = (Vec::new(), None);
        layer.wallet = Some(layout.wallet.clone());
        layer.wallet_password_file = None;
        (layer.signer, layer.owner) = (None, None);
        layer.address = None;
        layer.volume = Some(VolumeKind::Plain);
        if layer.node.is_empty() {
            layer.node = vec![layout.node_url()];
        }
        let config = Config::resolve(layer, &setup.folders);
        let options = mount_options(&config)?;
        let parts = Arc::new(Parts::build(&config).await?);
        first_token(&parts, package).await?;
        let token = parts
            .chain
            .ledger
            .snapshot()
            .await?
            .tokens
            .into_iter()
            .next();
        let shown = token.map(|token| (token.id.to_string(), token.size_bytes));
        let banner = banner(
            &mountpoint,
            &state,
            shown,
            setup.explicit.state_dir.is_some(),
        );
        let place = Place {
            mountpoint,
            options,
            runtime_dir: runtime_dir(setup)?,
        };
        hold(setup, place, state_dir, vec![parts], || {
            if setup.quiet {
                Ok(())
            } else {
                text_answer(&banner).map(drop)
            }
        })
        .await
    })
}

/// Refuses a demo configuration that was changed.
fn check_file(file: &Path) -> anyhow::Result<()> {
    if !file.exists() {
        return Ok(());
    }
    let why = match Layer::from_file(file) {
        Err(error) => error.to_string(),
        Ok(layer) if layer.rpc_url.is_empty() || layer.node.is_empty() => {
            format!(
                "{}: names no chain or no node, so it is incomplete",
                file.display()
            )
        }
        Ok(_) => return Ok(()),
    };
    fail!(
        Usage,
        "{why}: fix it, or remove it and the demo writes it again"
    )
}

/// Creates the mountpoint; its parent must exist.
fn make_mountpoint(path: &Path) -> anyhow::Result<()> {
    match std::fs::create_dir(path) {
        Err(fault) if fault.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(fault) => fail!(
            Usage,
            "mountpoint {}: {fault}: give a directory that can be created",
            path.display()
        ),
        Ok(()) => Ok(()),
    }
}

fn banner(
    mountpoint: &Path,
    state: &Path,
    token: Option<(String, u64)>,
    own_state: bool,
) -> String {
    let Some((id, size)) = token else {
        return format!(
            "This wallet has no token any more: `{} packages` lists what can be minted.\n\
             Ctrl-C uploads what is pending, and unmounts.",
            program()
        );
    };
    let size = format!(" ({})", bytes(size));
    let drive = mountpoint.join(&id);
    let drive = drive.display();
    let pxfs = program();
    let with = if own_state {
        format!(" --state-dir {}", state.display())
    } else {
        String::new()
    };
    let state = state.display();
    format!(
        "Token {id}{size} is mounted on {drive}\n\
         Its chain, node and wallet are in {state}; run the same command again to find everything there.\n\
         Volumes are plain: what you store is NOT encrypted.\n\
         In another terminal, try:\n\
         \x20 cp -a /etc/ssl {drive}/        copy something in; look with ls, or df -h {drive}\n\
         \x20 {pxfs} status{with}            quota, pending uploads, sync deadline\n\
         \x20 {pxfs} flush{with}             upload everything now and wait\n\
         \x20 {pxfs} dev advance 31d{with}   let 31 days pass: the sync is overdue, writing fails\n\
         \x20 {pxfs} sync {id}{with}            report the usage on chain: writing works again\n\
         Ctrl-C uploads what is pending, and unmounts."
    )
}

/// How to call this program from another terminal.
fn program() -> String {
    let here = std::env::current_exe().and_then(std::fs::canonicalize);
    let Ok(here) = here else {
        return "pxfs".to_owned();
    };
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&paths)
        .map(|folder: PathBuf| folder.join("pxfs"))
        .find(|candidate| candidate.exists())
        .and_then(|candidate| candidate.canonicalize().ok());
    match found {
        Some(found) if found == here => "pxfs".to_owned(),
        _ => here.display().to_string(),
    }
}
