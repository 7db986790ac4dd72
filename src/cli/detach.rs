//! `pxfs detach`: saves or discards what a lost token had not published.

use std::path::{Path, PathBuf};

use super::locate;
use super::mount::runtime;
use super::output::{bytes, cancelled, confirm, json_answer, text_answer};
use super::progress::Progress;
use super::setup::Setup;
use crate::context::StateDir;
use crate::contracts::{self, Parts};
use crate::control::Request;
use crate::exit::{Exit, fail};
use crate::run::detach;
use crate::status::{DetachAnswer, Unsure};
use crate::types::TokenRef;

/// Runs the command; without a save folder it discards.
pub(super) fn run(
    setup: &Setup,
    name: &str,
    save: Option<&Path>,
    yes: bool,
) -> anyhow::Result<Exit> {
    check_name(name)?;
    let save = save.map(whole).transpose()?;
    if save.is_none()
        && !yes
        && !confirm(&format!(
            "Remove the files of {name} that were never uploaded? They cannot be recovered."
        ))
    {
        return Err(cancelled("detach", &format!("removes the local data of {name}")).into());
    }
    let progress = Progress::new(setup.progress);
    let answer = match locate::find(setup, None)? {
        Some(entry) => {
            let request = Request::Detach {
                name: name.to_owned(),
                save,
            };
            locate::connect(&entry)?.ask(&request, |step| {
                progress.set(&step.what, step.amount);
            })?
        }
        None => here(setup, name, save.as_deref(), &progress)?,
    };
    drop(progress);
    show(setup, &answer)
}

fn here(
    setup: &Setup,
    name: &str,
    save: Option<&Path>,
    progress: &Progress,
) -> anyhow::Result<DetachAnswer> {
    setup.start_log("error")?;
    let config = setup.config_or_demo()?;
    let state_dir = StateDir::open(&config.state_dir)?;
    runtime()?.hold(async {
        let all = Parts::all(&config).await?;
        let tell = |what: &str, amount| progress.set(what, amount);
        let ended = detach::end(&all, state_dir, name, save, &tell).await;
        contracts::close_chains(&all).await;
        ended
    })
}

/// `TOKEN`, `TOKEN.detached` or `TOKEN.detached-EPOCH`, after a contract name if there are several.
fn check_name(name: &str) -> anyhow::Result<()> {
    let (token, rest) = name.split_once('.').unwrap_or((name, "detached"));
    let epoch = rest.strip_prefix("detached");
    let known = epoch.is_some_and(|epoch| {
        epoch.is_empty()
            || epoch
                .strip_prefix('-')
                .is_some_and(|number| number.parse::<u64>().is_ok())
    });
    match token.parse::<TokenRef>() {
        Ok(_) if known => Ok(()),
        _ => fail!(
            Usage,
            "detach {name}: give a token, or a directory such as 7.detached"
        ),
    }
}

/// The folder as the daemon, elsewhere, can name it.
fn whole(folder: &Path) -> anyhow::Result<PathBuf> {
    let folder = std::path::absolute(folder)?;
    let shown = folder.display();
    if folder.exists() {
        return Ok(folder.canonicalize()?);
    }
    let (Some(parent), Some(name)) = (folder.parent(), folder.file_name()) else {
        fail!(Usage, "--save {shown}: give a folder");
    };
    match parent.canonicalize() {
        Ok(parent) => Ok(parent.join(name)),
        Err(fault) => fail!(
            Usage,
            "--save {shown}: {fault}: give a folder that can be created"
        ),
    }
}

fn show(setup: &Setup, answer: &DetachAnswer) -> anyhow::Result<Exit> {
    if let Some(unsure) = &answer.unsure {
        show_unsure(setup, answer, unsure)?;
        return Ok(Exit::Damage);
    }
    if setup.json {
        return json_answer(answer);
    }
    match &answer.saved {
        Some(folder) => text_answer(&format!(
            "{} is saved in {folder}: {} in {} files; removed from this machine",
            answer.directory,
            bytes(answer.bytes),
            answer.files
        )),
        None => text_answer(&format!("{} is removed", answer.directory)),
    }
}

/// For a directory with damaged local state.
fn show_unsure(setup: &Setup, answer: &DetachAnswer, unsure: &Unsure) -> anyhow::Result<Exit> {
    if setup.json {
        return json_answer(answer);
    }
    text_answer(&format!(
        "saved what is readable of {} in {}: {} in {} files. Its local state is damaged: {} paths are missing or \
         uncertain, listed in {}. Nothing was removed: check that you have what you need, move {} away, and mount again",
        answer.directory,
        answer.saved.as_deref().unwrap_or_default(),
        bytes(answer.bytes),
        answer.files,
        unsure.paths,
        unsure.list,
        unsure.state
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_named_as_status_shows_it() {
        for name in [
            "1",
            "1.detached",
            "1.detached-3",
            "px-1",
            "my-px-1.detached-3",
        ] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in [
            "",
            "one",
            "1.",
            "1.detached-",
            "1.detached-x",
            "../1",
            "1.det",
            "1-1.detached",
        ] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
