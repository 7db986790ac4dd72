//! `deploy`.

use alloy::primitives::Address;

use super::ask::at_most;
use super::mount::runtime;
use super::output::{cancelled, coins, confirm, json_answer, text_answer};
use super::setup::Setup;
use crate::context::StateDir;
use crate::contracts::deploy::Deployer;
use crate::exit::Exit;
use crate::status::DeployAnswer;

pub(super) struct Trust {
    pub(super) operators: Vec<Address>,
    pub(super) threshold: Option<u64>,
    pub(super) forwarder: Option<Address>,
}

pub(super) fn run(setup: &Setup, trust: &Trust, yes: bool) -> anyhow::Result<Exit> {
    setup.start_log("warn")?;
    let config = setup.config_or_demo()?;
    // Stores signed transactions.
    let _state_dir = StateDir::open(&config.state_dir)?;
    let (operators, threshold) = (&trust.operators, trust.threshold);
    let made: DeployAnswer = runtime()?.hold(async {
        let deployer = Deployer::new(&config, operators, threshold, trust.forwarder).await?;
        let deployer = if yes { deployer.unseen() } else { deployer };
        let made = async {
            let price = deployer.price().await?;
            let most = at_most(price.cost_wei);
            let cost = coins(price.chain_id, &most.to_string());
            let what = format!(
                "Deploy px-sync to chain {} ({}), owned and paid by {}: {} gas, at most {cost}",
                price.chain_id, price.at, price.owner, price.gas
            );
            match yes {
                true if !setup.quiet => eprintln!("{what}"),
                true => {}
                false if confirm(&format!("{what}. Go on?")) => {}
                false => return Err(cancelled("deploy", &what).into()),
            }
            deployer.deploy((!yes).then_some(most)).await
        };
        let made = made.await;
        deployer.close().await;
        made
    })?;
    if setup.json {
        return json_answer(&made);
    }
    text_answer(&format!(
        "contract  {}\nforwarder {}\nchain {}, block {}\nnext: `pxfs mint --contract {} --package 0`, with the same --rpc-url and --wallet, and a --node",
        made.contract, made.forwarder, made.chain_id, made.block, made.contract
    ))
}
