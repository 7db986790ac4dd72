//! `pxfs get`, `share`, `fsck`, `export`, `import`: block commands.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use super::locate;
use super::mount::runtime;
use super::output::{bytes, json_answer, text_answer};
use super::progress::Progress;
use super::setup::Setup;
use super::umount;
use crate::archive;
use crate::context::StateDir;
use crate::contracts::{self, Parts};
use crate::control::Request;
use crate::exit::{Exit, fail};
use crate::status::{ArchiveAnswer, FsckAnswer, GetAnswer, ShareAnswer};
use crate::types::TokenRef;

pub(super) fn get(setup: &Setup, cid: String, file: &Path) -> anyhow::Result<Exit> {
    let file = absolute(file)?;
    let answer: GetAnswer = ask(setup, &Request::Get { cid, file })?;
    if setup.json {
        json_answer(&answer)
    } else {
        text_answer(&format!("{}: {}", answer.file, bytes(answer.bytes)))
    }
}

pub(super) fn share(setup: &Setup, path: &Path) -> anyhow::Result<Exit> {
    let shown = path.display();
    if !path.is_file() {
        fail!(Usage, "share {shown}: give a file in a mounted drive");
    }
    locate::require(setup, Some(path))?;
    umount::flush(setup, Some(path))?;
    let mut cid = [0; 128];
    let cid = match rustix::fs::getxattr(path, "user.px.cid", &mut cid) {
        Ok(length) => String::from_utf8_lossy(&cid[..length]).into_owned(),
        Err(fault) => fail!(
            Unpublished,
            "share {shown}: not uploaded yet ({fault}): `pxfs flush` says why"
        ),
    };
    let entry = locate::require(setup, Some(path))?;
    let answer: ShareAnswer = locate::connect(&entry)?.ask(&Request::Share { cid }, |_| {})?;
    if setup.json {
        json_answer(&answer)
    } else {
        text_answer(&answer.cid)
    }
}

pub(super) fn fsck(setup: &Setup, token: &TokenRef, repair: bool) -> anyhow::Result<Exit> {
    let answer: FsckAnswer = ask(
        setup,
        &Request::Fsck {
            token: token.clone(),
            repair,
        },
    )?;
    if setup.json {
        json_answer(&answer)?;
    } else {
        let mut text = format!(
            "token {token}: {} blocks, {} read and verified",
            answer.blocks,
            bytes(answer.bytes)
        );
        if answer.repaired > 0 {
            text.push_str(&format!("\n{} uploaded again", answer.repaired));
        }
        for block in &answer.damaged {
            text.push_str(&format!("\n{}: {} {}", block.path, block.cid, block.reason));
        }
        text_answer(&text)?;
    }
    Ok(if answer.damaged.is_empty() {
        Exit::Ok
    } else {
        Exit::Damage
    })
}

pub(super) fn export(
    setup: &Setup,
    token: &TokenRef,
    file: Option<&Path>,
    tar: Option<&Path>,
) -> anyhow::Result<Exit> {
    let Some(file) = tar.or(file) else {
        fail!(Usage, "export: give a file");
    };
    let request = Request::Export {
        token: token.clone(),
        file: absolute(file)?,
        as_files: tar.is_some(),
    };
    let answer: ArchiveAnswer = ask(setup, &request)?;
    show(setup, token, &answer, "is in")
}

pub(super) fn import(setup: &Setup, token: &TokenRef, file: &Path) -> anyhow::Result<Exit> {
    let file = absolute(file)?;
    let (told, token_of) = (setup.told(), token.clone());
    let request = match told.node.first() {
        // The drive may use another one.
        Some(node) => Request::ImportTo {
            token: token_of,
            file,
            node: node.clone(),
            token_file: told.node_token_file.clone(),
            password_file: told.node_password_file.clone(),
        },
        None => Request::Import {
            token: token_of,
            file,
        },
    };
    let answer: ArchiveAnswer = ask(setup, &request)?;
    show(setup, token, &answer, "is on the node, from")
}

fn show(
    setup: &Setup,
    token: &TokenRef,
    answer: &ArchiveAnswer,
    where_it_is: &str,
) -> anyhow::Result<Exit> {
    if setup.json {
        json_answer(answer)
    } else {
        let mut text = format!(
            "token {token} (root {}) {where_it_is} {}: {} blocks, {}",
            answer.root,
            answer.file,
            answer.blocks,
            bytes(answer.bytes)
        );
        if answer.left_out > 0 {
            text.push_str(&format!("\nwithout {} sockets", answer.left_out));
        }
        text_answer(&text)
    }
}

/// The file as the daemon, elsewhere, can name it.
fn absolute(file: &Path) -> anyhow::Result<PathBuf> {
    let file = std::path::absolute(file)?;
    let shown = file.display();
    let (Some(parent), Some(name)) = (file.parent(), file.file_name()) else {
        fail!(Usage, "{shown}: give a file");
    };
    match parent.canonicalize() {
        Ok(parent) => Ok(parent.join(name)),
        Err(fault) => fail!(Usage, "{shown}: {fault}"),
    }
}

/// Asks the daemon, or works here without a mount.
fn ask<T: DeserializeOwned>(setup: &Setup, request: &Request) -> anyhow::Result<T> {
    let progress = Progress::new(setup.progress);
    if let Some(entry) = locate::find(setup, None)? {
        let answer = locate::connect(&entry)?.ask(request, |step| {
            progress.set(&step.what, step.amount);
        });
        return Ok(answer?);
    }
    setup.start_log("error")?;
    let config = setup.config_or_demo()?;
    let state_dir = StateDir::open(&config.state_dir)?;
    let answer = runtime()?.hold(async {
        let all = Parts::any(&config).await?;
        let tell = |what: &str, amount| progress.set(what, amount);
        let answer = archive::run(&all, state_dir, request, &tell).await;
        contracts::close_chains(&all).await;
        answer
    })?;
    Ok(serde_json::from_value(answer)?)
}
