use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::Address;

use super::live::Ground;
use super::parts::{ChainParts, Parts};
use super::state::StateDir;
use super::tokens::Tokens;
use super::{demo, operate};
use crate::cache::Cache;
use crate::chain::Ledger;
use crate::config::{Config, Folders, Layer, VolumeKind};
use crate::control::Request;
use crate::fetch::{DirectorySink, Fetcher, Volumes};
use crate::fs::Drive;
use crate::names::key::NameKey;
use crate::status::{State, TokenStatus};
use crate::types::TokenId;

struct Nobody;

impl Volumes for Nobody {
    fn volume(&self, _: u16) -> Option<Arc<dyn DirectorySink>> {
        None
    }
}

/// A drive on embedded parts with its tokens, not mounted.
struct World {
    parts: Arc<Parts>,
    tokens: Tokens,
    drive: Arc<Drive>,
    _dir: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let state_dir = StateDir::open(&state).unwrap();
        let layout = demo::prepare(&state_dir, &state.join("wallet"))
            .await
            .unwrap();
        let layer = Layer {
            state_dir: Some(state_dir.path().to_owned()),
            rpc_url: vec![layout.rpc_url()],
            node: vec![layout.node_url()],
            volume: Some(VolumeKind::Plain),
            ..Layer::default()
        };
        let config = Config::resolve(layer, &Folders::from_env(|_| None, 0));
        let parts = Arc::new(Parts::build(&config).await.unwrap());
        let cache = Arc::new(Cache::in_memory());
        let drive = Arc::new(Drive::new((0, 0), 0));
        let fetcher = Arc::new(Fetcher::new(
            Arc::clone(&parts.node.store),
            Arc::clone(&cache),
            Arc::new(Nobody),
            Duration::from_secs(30),
        ));
        let tokens = Tokens::new(Ground {
            parts: Arc::clone(&parts),
            state_dir: Arc::new(state_dir),
            cache,
            drive: Arc::clone(&drive),
            fetcher,
        });
        Self {
            parts,
            tokens,
            drive,
            _dir: dir,
        }
    }

    fn chain(&self) -> &ChainParts {
        &self.parts.chain
    }

    async fn mint_bare(&self) -> TokenId {
        let chain = self.chain();
        let minted = chain.transactor.mint_bare(chain.contract, 0).await;
        minted.unwrap().token
    }

    async fn look(&self, token: TokenId) -> TokenStatus {
        self.tokens.refresh().await.unwrap();
        let all = self.tokens.describe("/m");
        all.into_iter().find(|status| status.id == token).unwrap()
    }

    fn directories(&self) -> Vec<String> {
        let volumes = self.drive.volumes();
        volumes.into_iter().map(|(_, name, _)| name).collect()
    }

    async fn end(self) {
        self.tokens.stop_publishing().await;
        tokio::task::spawn_blocking(move || self.tokens.stop())
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_without_a_key_is_shown_read_only_until_it_is_registered() {
    let world = World::new().await;
    let token = world.mint_bare().await;
    let status = world.look(token).await;
    assert_eq!(status.state, State::Unregistered);
    assert!(status.reason.unwrap().contains("pxfs register 1"));
    assert_eq!(world.directories(), ["1"]);
    let volume = world.drive.volumes().remove(0).2;
    assert!(volume.with_quota(|quota| quota.check_change()).is_err());

    let request = Request::Register {
        token,
        print: false,
    };
    operate::answer(&world.parts, &request).await.unwrap();
    let status = world.look(token).await;
    assert_eq!((status.state, status.reason), (State::Ok, None));
    assert_eq!(world.directories(), ["1"]);
    let volume = world.drive.volumes().remove(0).2;
    assert!(volume.with_quota(|quota| quota.check_change()).is_ok());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_given_away_turns_read_only_and_says_to_whom() {
    let world = World::new().await;
    let minted = operate::mint(&world.parts, 0).await.unwrap();
    assert_eq!(world.look(minted.token).await.state, State::Ok);
    let other = Address::repeat_byte(0x77);
    let chain = world.chain();
    let sent = chain
        .transactor
        .transfer(chain.contract, minted.token, other);
    sent.await.unwrap();
    let status = world.look(minted.token).await;
    assert_eq!(status.state, State::ReadOnly);
    assert!(status.reason.unwrap().contains(&other.to_string()));
    let volume = world.drive.volumes().remove(0).2;
    assert!(volume.with_quota(|quota| quota.check_change()).is_err());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_made_elsewhere_is_not_written_under() {
    let world = World::new().await;
    let chain = world.chain();
    let foreign = NameKey::random().unwrap().name();
    let nonce = chain.transactor.next_nonce().await.unwrap();
    let minted = chain.transactor.mint(chain.contract, 0, &foreign, nonce);
    let token = minted.await.unwrap().token;
    let status = world.look(token).await;
    assert_eq!(status.state, State::ForeignKey);
    assert!(status.reason.unwrap().contains("pxfs register 1"));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unused_token_can_sync_because_its_first_document_is_there() {
    let world = World::new().await;
    let minted = operate::mint(&world.parts, 0).await.unwrap();
    assert!(world.parts.node.names.resolve(&minted.name).await.is_ok());
    let oracle = operate::oracle(&world.parts).await.unwrap().unwrap();
    let oracle = tokio::spawn(oracle);
    let request = Request::Sync {
        token: minted.token,
        wait: true,
    };
    let answer = operate::answer(&world.parts, &request).await.unwrap();
    assert_eq!(
        (&answer["usage"], &answer["sequence"]),
        (&0.into(), &0.into())
    );
    oracle.abort();
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_somebody_else_is_neither_synced_nor_registered() {
    let world = World::new().await;
    let minted = operate::mint(&world.parts, 0).await.unwrap();
    let chain = world.chain();
    let other = Address::repeat_byte(0x77);
    let sent = chain
        .transactor
        .transfer(chain.contract, minted.token, other);
    sent.await.unwrap();
    let token = minted.token;
    for request in [
        Request::Sync { token, wait: true },
        Request::Register {
            token,
            print: false,
        },
    ] {
        let error = operate::answer(&world.parts, &request).await.unwrap_err();
        assert_eq!(crate::cli::exit::of(&error), crate::cli::exit::Exit::Token);
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_that_is_prepared_twice_has_one_contract_and_one_token() {
    let world = World::new().await;
    assert!(demo::first_token(&world.parts, 0).await.unwrap().is_some());
    assert!(demo::first_token(&world.parts, 0).await.unwrap().is_none());
    let owned = world.chain().ledger.snapshot().await.unwrap();
    assert_eq!(owned.tokens.len(), 1);
    world.end().await;
}
