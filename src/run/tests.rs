use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use alloy::primitives::{Address, U256};
use alloy::providers::Provider;
use alloy::rpc::client::RpcClient;
use async_trait::async_trait;
use tokio::sync::Notify;

use crate::billing;
use crate::chain::embedded;
use crate::chain::endpoint::Endpoint;
use crate::chain::transact::Transactor;
use crate::clock::{Clock, ManualClock, SystemClock};
use crate::config::{ChainUrl, Config, Folders, Layer, VolumeKind};
use crate::context::MountContext;
use crate::context::StateDir;
use crate::contracts::terms;
use crate::contracts::{ChainParts, Parts};
use crate::control::{Request, Terms};
use crate::fs::{Caller, FsError, Volume};
use crate::names::key::NameKey;
use crate::names::{NameError, NameStore};
use crate::oracle;
use crate::run::demo;
use crate::status::{State, TokenStatus};
use crate::tokens::MountedContracts;
use crate::tokens::Tokens;
use crate::types::{Ino, TokenId};

mod guard;
mod stuck;
mod sync;
mod unchained;
mod unused;

/// Names that answer once two were requested at the same time.
struct Together {
    names: Arc<dyn NameStore>,
    asked: Mutex<HashSet<String>>,
    both: Notify,
}

#[async_trait]
impl NameStore for Together {
    async fn publish(&self, name: &str, record: &[u8]) -> Result<Vec<u8>, NameError> {
        self.names.publish(name, record).await
    }

    async fn resolve(&self, name: &str) -> Result<Vec<u8>, NameError> {
        let both = self.both.notified();
        let asked = {
            let mut asked = self.asked.lock().unwrap();
            asked.insert(name.to_owned());
            asked.len()
        };
        match asked {
            1 => both.await,
            _ => self.both.notify_waiters(),
        }
        self.names.resolve(name).await
    }
}

/// A drive on embedded parts with its tokens, not mounted.
pub(crate) struct World {
    pub(crate) parts: Arc<Parts>,
    tokens: Arc<Tokens>,
    pub(crate) ground: Arc<MountContext>,
    dir: tempfile::TempDir,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::begin(tempfile::tempdir().unwrap()).await
    }

    async fn begin(dir: tempfile::TempDir) -> Self {
        Self::begin_at(dir, None).await
    }

    async fn begin_at(dir: tempfile::TempDir, clock: Option<Arc<dyn Clock>>) -> Self {
        Self::begin_with(dir, |parts| {
            parts.clock = clock.unwrap_or_else(|| Arc::clone(&parts.clock));
        })
        .await
    }

    pub(crate) async fn begin_with(
        dir: tempfile::TempDir,
        change: impl FnOnce(&mut Parts),
    ) -> Self {
        let state = dir.path().join("state");
        let state_dir = StateDir::open(&state).unwrap();
        let layout = demo::prepare(&state_dir, &state.join("wallet"))
            .await
            .unwrap();
        let layer = Layer {
            state_dir: Some(state_dir.path().to_owned()),
            rpc_url: vec![layout.rpc_url().into()],
            node: vec![layout.node_url()],
            volume: Some(VolumeKind::Plain),
            ..Layer::default()
        };
        let config = Config::resolve(layer, &Folders::from_env(|_| None, 0));
        let mut parts = Parts::build(&config).await.unwrap();
        change(&mut parts);
        let parts = Arc::new(parts);
        let ground = MountContext::build(Arc::clone(&parts), Arc::new(state_dir));
        let ground = ground.await.unwrap();
        Self {
            parts,
            tokens: Arc::new(Tokens::new(Arc::clone(&ground))),
            ground,
            dir,
        }
    }

    /// Restarts the process, with the drive unmounted in between.
    async fn again(self) -> Self {
        let dir = self.end().await;
        Self::begin(dir).await
    }

    fn chain(&self) -> &ChainParts {
        &self.parts.chain
    }

    /// What the wallet sends.
    fn sender(&self) -> &Transactor {
        &self.chain().account.as_ref().unwrap().transactor
    }

    async fn mint_bare(&self) -> TokenId {
        let chain = self.chain();
        let minted = self.sender().mint_bare(chain.contract, 0).await;
        minted.unwrap().token
    }

    /// A token's status; opens the token.
    pub(crate) async fn look(&self, token: TokenId) -> TokenStatus {
        self.tokens.refresh().await.unwrap();
        self.tokens.open_for_command(token).await;
        let all = self.tokens.describe("/m");
        all.into_iter().find(|status| status.id == token).unwrap()
    }

    /// From now on commands find the drive's volumes as in a mount.
    pub(crate) fn show(&self) {
        let tokens: std::sync::Weak<dyn crate::context::ShownVolumes> =
            Arc::<Tokens>::downgrade(&self.tokens);
        self.ground.renew_by(tokens);
    }

    pub(crate) fn volume(&self) -> Arc<Volume> {
        self.ground.drive.volumes().remove(0).2
    }

    fn directories(&self) -> Vec<String> {
        self.ground.drive.directories()
    }

    /// Writes a file into a directory of the drive.
    pub(crate) fn write(&self, directory: &str, name: &str, bytes: &[u8]) -> Result<(), FsError> {
        let drive = &self.ground.drive;
        let dir = drive.lookup(Ino::ROOT, directory.as_bytes())?.ino;
        let caller = Caller {
            uid: 0,
            gid: 0,
            umask: 0,
        };
        let (attr, opened) = drive.create(caller, dir, name.as_bytes(), 0o640, 2)?;
        drive.write(attr.ino, opened.fh, 0, bytes, false)?;
        drive.flush(attr.ino, opened.fh)?;
        drive.release(attr.ino, opened.fh);
        Ok(())
    }

    /// Throws away as a file manager does.
    fn throw(&self, directory: &str, name: &str) -> Result<(), FsError> {
        let drive = &self.ground.drive;
        let dir = drive.lookup(Ino::ROOT, directory.as_bytes())?.ino;
        let trash = drive.lookup(Ino::ROOT, b".Trash-0")?.ino;
        let files = drive.lookup(trash, b"files")?.ino;
        drive.rename(dir, name.as_bytes(), files, name.as_bytes(), 0)
    }

    /// Somebody else gets a token.
    async fn give_away(&self, token: TokenId) {
        let chain = self.chain();
        let other = Address::repeat_byte(0x77);
        let sent = self.sender().transfer(chain.contract, token, other);
        sent.await.unwrap();
    }

    pub(crate) async fn flush(&self) {
        self.tokens.all().remove(0).flush().await.unwrap();
    }

    async fn statuses(&self) -> Vec<TokenStatus> {
        self.tokens.refresh().await.unwrap();
        self.tokens.describe("/m")
    }

    pub(crate) async fn end(self) -> tempfile::TempDir {
        let chain = self.parts.chain.embedded.clone();
        self.end_with(chain).await
    }

    /// The same, if it was not told of the `chain` in its folder.
    async fn end_with(self, chain: Option<embedded::Handle>) -> tempfile::TempDir {
        self.tokens.stop_publishing().await;
        let tokens = self.tokens;
        tokio::task::spawn_blocking(move || tokens.stop())
            .await
            .unwrap();
        tokio::task::spawn_blocking(move || chain.unwrap().close())
            .await
            .unwrap();
        self.dir
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_without_a_key_is_read_only_until_registered() {
    let world = World::new().await;
    let token = world.mint_bare().await;
    let status = world.look(token).await;
    assert_eq!(status.state, State::Unregistered);
    assert!(status.reason.unwrap().contains("pxfs register 1"));
    assert_eq!(world.directories(), ["1"]);
    let volume = world.ground.drive.volumes().remove(0).2;
    assert!(volume.with_quota(|quota| quota.check_change()).is_err());

    let request = Request::Register {
        token: token.into(),
        print: false,
        new_volume: false,
    };
    billing::answer(&world.parts, &request).await.unwrap();
    let status = world.look(token).await;
    assert_eq!((status.state, status.reason), (State::Ok, None));
    assert_eq!(world.directories(), ["1"]);
    let volume = world.ground.drive.volumes().remove(0).2;
    assert!(volume.with_quota(|quota| quota.check_change()).is_ok());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unpriced_commands_pay_no_more_gas_than_the_limit() {
    let world = World::new().await;
    let all = [Arc::clone(&world.parts)];
    let bound = |parts: &Parts| parts.chain.account.as_ref().unwrap().transactor.bound();
    let tenth = U256::from(10).pow(U256::from(17));
    assert_eq!(bound(&terms::unseen(&all)[0]), Some(tenth));
    let said = |max_fee, price: Option<U256>, gas_cost: Option<u64>| {
        let terms = Terms {
            max_fee,
            price,
            gas_cost: gas_cost.map(U256::from),
            ..Terms::default()
        };
        bound(&world.parts.under(&terms))
    };
    let seven = Some(U256::from(7));
    assert_eq!(said(None, None, None), Some(tenth));
    assert_eq!(said(seven, None, None), seven);
    // Shown on a terminal with its gas cost, and agreed to: that limit holds, and so does a lower
    // one.
    assert_eq!(said(None, Some(U256::ZERO), Some(7)), seven);
    assert_eq!(said(seven, Some(U256::ZERO), Some(9)), seven);
    assert_eq!(said(Some(U256::from(9)), Some(U256::ZERO), Some(7)), seven);
    // Without a known gas cost, nobody agreed to one.
    assert_eq!(said(None, Some(U256::ZERO), None), Some(tenth));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_given_away_turns_read_only_and_says_to_whom() {
    let world = World::new().await;
    let minted = billing::mint(&world.parts, 0).await.unwrap();
    assert_eq!(world.look(minted.token).await.state, State::Ok);
    let other = Address::repeat_byte(0x77);
    let chain = world.chain();
    let sent = world.sender().transfer(chain.contract, minted.token, other);
    sent.await.unwrap();
    let status = world.look(minted.token).await;
    assert_eq!(status.state, State::ReadOnly);
    assert!(status.reason.unwrap().contains(&other.to_string()));
    let volume = world.ground.drive.volumes().remove(0).2;
    assert!(volume.with_quota(|quota| quota.check_change()).is_err());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_made_elsewhere_is_not_written_under() {
    let world = World::new().await;
    let chain = world.chain();
    let foreign = NameKey::random().name();
    let nonce = world.sender().next_nonce().await.unwrap();
    let minted = world.sender().mint(chain.contract, 0, &foreign, nonce);
    let token = minted.await.unwrap().token;
    let status = world.look(token).await;
    assert_eq!(status.state, State::ForeignKey);
    assert!(status.reason.unwrap().contains("pxfs register 1"));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unused_token_can_sync_because_its_first_document_is_there() {
    let world = World::new().await;
    let minted = billing::mint(&world.parts, 0).await.unwrap();
    assert!(
        world
            .parts
            .node
            .names
            .resolve(&minted.name.unwrap())
            .await
            .is_ok()
    );
    let oracle = oracle::begin(&world.parts).await.unwrap().unwrap();
    let oracle = tokio::spawn(oracle);
    let request = Request::Sync {
        token: minted.token.into(),
        wait: true,
    };
    let answer = billing::answer(&world.parts, &request).await.unwrap();
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
    let minted = billing::mint(&world.parts, 0).await.unwrap();
    let chain = world.chain();
    let other = Address::repeat_byte(0x77);
    let sent = world.sender().transfer(chain.contract, minted.token, other);
    sent.await.unwrap();
    let token = minted.token;
    for request in [
        Request::Sync {
            token: token.into(),
            wait: true,
        },
        Request::Register {
            token: token.into(),
            print: false,
            new_volume: false,
        },
    ] {
        let error = billing::answer(&world.parts, &request).await.unwrap_err();
        assert_eq!(crate::exit::of(&error), crate::exit::Exit::Token);
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

/// Unpublished data of a token given away, until it is saved.
#[tokio::test(flavor = "multi_thread")]
async fn unpublished_data_of_a_transferred_token_can_be_saved() {
    let world = World::new().await;
    let token = billing::mint(&world.parts, 0).await.unwrap().token;
    world.look(token).await;
    world.write("1", "mine", b"precious").unwrap();
    world.write("1", "thrown", b"regretted").unwrap();
    world.throw("1", "thrown").unwrap();
    world.give_away(token).await;
    let statuses = world.statuses().await;
    assert_eq!(world.directories(), ["1.detached"]);
    let [status] = statuses.as_slice() else {
        panic!("{statuses:?}")
    };
    assert_eq!(status.state, State::Detached);
    let reason = status.reason.clone().unwrap();
    assert!(
        reason.contains("`pxfs detach 1 --save DIR | --discard`"),
        "{reason}"
    );
    let local = status.local.clone().unwrap();
    assert_eq!((local.pending_files, local.pending_bytes), (2, 17));
    let refused = world.write("1.detached", "more", b"x").unwrap_err();
    assert!(matches!(refused, FsError::ReadOnly(_)), "{refused}");

    // Also after the next start.
    let world = world.again().await;
    world.statuses().await;
    assert_eq!(world.directories(), ["1.detached"]);
    let folder = world.dir.path().join("saved");
    let quiet = |_: &str, _: crate::control::Amount| {};
    let ended = world
        .tokens
        .detach("1", Some(&folder), &quiet)
        .await
        .unwrap();
    assert_eq!((ended.files, ended.bytes), (2, 17));
    assert_eq!(std::fs::read(folder.join("mine")).unwrap(), b"precious");
    let thrown = folder.join(".Trash-0/files/thrown");
    assert_eq!(std::fs::read(thrown).unwrap(), b"regretted");
    assert_eq!(world.directories(), Vec::<String>::new());
    assert_eq!(world.ground.state_dir.volumes().unwrap(), []);
    let refused = world.tokens.detach("1", None, &quiet).await.unwrap_err();
    assert_eq!(crate::exit::of(&refused), crate::exit::Exit::Token);
    world.end().await;
}

/// The same chain, but no development chain.
fn network(parts: &mut Parts) {
    let below = parts.chain.endpoint.provider().client().transport().clone();
    let client = RpcClient::new(below, true);
    parts.chain.endpoint = Endpoint::new(client, "network", false);
}

/// Pretends that the only volume has seen a much later block, and this size.
fn pretend_kept(world: &World, size_bytes: u64) {
    let volume = world.ground.drive.volumes().remove(0).2;
    let kept = volume.with_quota(|quota| quota.allowance().cloned());
    let mut kept = kept.unwrap();
    kept.seen.block += 1_000;
    kept.size_bytes = size_bytes;
    volume.set_allowance(&kept).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_behind_right_after_a_restart_grants_nothing() {
    let world = World::begin_with(tempfile::tempdir().unwrap(), network).await;
    let token = billing::mint(&world.parts, 0).await.unwrap().token;
    world.look(token).await;
    let before = world.look(token).await.quota_bytes;
    let size = |world: &World| {
        let volume = world.ground.drive.volumes().remove(0).2;
        volume.with_quota(|quota| quota.size_bytes())
    };
    // For example it shrank in a block that the server lacks.
    pretend_kept(&world, before / 2);
    let dir = world.end().await;
    let world = World::begin_with(dir, network).await;
    for _ in 0..2 {
        world.statuses().await;
        assert_eq!(world.directories(), ["1"]);
        assert_eq!(size(&world), before / 2);
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lagging_server_right_after_restart_takes_no_token_away() {
    let clock = Arc::new(ManualClock::at(SystemClock.wall_ns()));
    let begin = |dir| {
        let clock: Arc<dyn Clock> = Arc::<ManualClock>::clone(&clock);
        World::begin_with(dir, |parts| {
            network(parts);
            parts.clock = clock;
        })
    };
    let world = begin(tempfile::tempdir().unwrap()).await;
    let token = billing::mint(&world.parts, 0).await.unwrap().token;
    let size = world.look(token).await.quota_bytes;
    world.write("1", "mine", b"precious").unwrap();
    pretend_kept(&world, size);
    let world = begin(world.end().await).await;
    world.give_away(token).await;
    for _ in 0..2 {
        world.statuses().await;
        assert_eq!(world.directories(), Vec::<String>::new());
    }
    // No server has that block, and the chain goes on without it.
    let wall_ns = clock.wall_ns();
    clock.advance(std::time::Duration::from_secs(301));
    clock.set_wall(wall_ns);
    world.statuses().await;
    assert_eq!(world.directories(), ["1.detached"]);
    world.end().await;
}

/// A provider has many servers, some of which lag.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_chain_view_takes_no_token_away() {
    let world = World::begin_with(tempfile::tempdir().unwrap(), network).await;
    let token = billing::mint(&world.parts, 0).await.unwrap().token;
    world.look(token).await;
    world.write("1", "mine", b"precious").unwrap();
    world.give_away(token).await;
    world.tokens.pretend_seen(1_000_000);
    world.statuses().await;
    assert_eq!(world.directories(), ["1"]);
    world.write("1", "more", b"precious").unwrap();

    // Confirmed: closed at once, set aside at the second check.
    world.tokens.pretend_seen(0);
    world.statuses().await;
    assert_eq!(world.directories(), ["1"]);
    let refused = world.write("1", "late", b"x").unwrap_err();
    assert!(matches!(refused, FsError::ReadOnly(_)), "{refused}");
    world.statuses().await;
    assert_eq!(world.directories(), ["1.detached"]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_starts_a_new_volume_and_retains_unpublished_data() {
    let world = World::new().await;
    let token = billing::mint(&world.parts, 0).await.unwrap().token;
    world.look(token).await;
    world.write("1", "old", b"first").unwrap();
    let register = |new_volume| Request::Register {
        token: token.into(),
        print: false,
        new_volume,
    };
    // Not by mistake.
    let refused = billing::answer(&world.parts, &register(false)).await;
    assert!(refused.unwrap_err().to_string().contains("--new-volume"));
    assert_eq!(world.look(token).await.epoch, 1);

    for _ in 0..2 {
        billing::answer(&world.parts, &register(true))
            .await
            .unwrap();
        world.look(token).await;
        world.write("1", "new", b"second").unwrap();
    }
    let mut directories = world.directories();
    directories.sort();
    assert_eq!(directories, ["1", "1.detached", "1.detached-2"]);
    let world = world.again().await;
    world.look(token).await;
    let mut directories = world.directories();
    directories.sort();
    assert_eq!(directories, ["1", "1.detached", "1.detached-2"]);
    let quiet = |_: &str, _: crate::control::Amount| {};
    let refused = world.tokens.detach("1", None, &quiet).await.unwrap_err();
    assert!(refused.to_string().contains("1.detached-2"), "{refused}");
    world
        .tokens
        .detach("1.detached", None, &quiet)
        .await
        .unwrap();
    world.tokens.detach("1", None, &quiet).await.unwrap();
    assert_eq!(world.directories(), ["1"]);
    let refused = world.tokens.detach("1", None, &quiet).await.unwrap_err();
    assert!(
        refused.to_string().contains("is this wallet's"),
        "{refused}"
    );
    world.write("1", "still", b"writable").unwrap();
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_of_which_all_is_published_leaves_nothing_behind() {
    let world = World::new().await;
    let token = billing::mint(&world.parts, 0).await.unwrap().token;
    world.look(token).await;
    world.write("1", "mine", b"published").unwrap();
    world.tokens.all()[0].flush().await.unwrap();
    world.give_away(token).await;
    let statuses = world.statuses().await;
    // It stays readable while it is shown.
    assert_eq!(world.directories(), ["1"]);
    assert_eq!(statuses[0].state, State::ReadOnly);
    assert_eq!(world.ground.state_dir.volumes().unwrap().len(), 1);
    let world = world.again().await;
    assert!(world.statuses().await.is_empty());
    assert_eq!(world.directories(), Vec::<String>::new());
    assert_eq!(world.ground.state_dir.volumes().unwrap(), []);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_with_unreadable_pending_state_is_not_considered_published() {
    let world = World::new().await;
    let token = billing::mint(&world.parts, 0).await.unwrap().token;
    world.look(token).await;
    world.write("1", "mine", b"published").unwrap();
    let live = Arc::clone(&world.tokens.all()[0]);
    live.flush().await.unwrap();
    assert!(!live.is_pending());
    live.volume.spoil_pending();
    assert!(live.volume.pending().is_err() && live.is_pending());
    let local = world.look(token).await.local.unwrap();
    assert!(local.pending && live.volume.activity().is_none());
    // So it stays when the token is lost.
    world.give_away(token).await;
    let statuses = world.statuses().await;
    assert_eq!(world.directories(), ["1.detached"]);
    assert_eq!(statuses[0].state, State::Detached);
    assert!(statuses[0].local.as_ref().unwrap().pending);
    drop(live);
    world.end().await;
}

/// A reset or lagging chain is no reason to remove anything.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_chain_does_not_know_of_is_never_removed() {
    let world = World::new().await;
    let token = billing::mint(&world.parts, 0).await.unwrap().token;
    world.look(token).await;
    let known = world.ground.state_dir.volumes().unwrap()[0];
    let (mut later, mut other) = (known, known);
    later.epoch = 7;
    other.token.token = TokenId::from(99);
    let world = world.again().await;
    for key in [later, other] {
        crate::durable::create_folder(&world.ground.state_dir.volume(&key)).unwrap();
    }
    world.look(token).await;
    assert_eq!(world.directories(), ["1"]);
    assert_eq!(
        world.ground.state_dir.volumes().unwrap(),
        [known, later, other]
    );
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leftover_that_cannot_be_read_is_told_and_kept() {
    let world = World::new().await;
    let token = billing::mint(&world.parts, 0).await.unwrap().token;
    world.look(token).await;
    let key = world.ground.state_dir.volumes().unwrap()[0];
    world.give_away(token).await;
    let world = world.again().await;
    let journal = world.ground.state_dir.volume(&key).join("journal.redb");
    std::fs::write(&journal, vec![7; 100_000]).unwrap();
    let statuses = world.statuses().await;
    assert_eq!(statuses[0].state, State::Detached);
    let quiet = |_: &str, _: crate::control::Amount| {};
    let folder = world.dir.path().join("saved");
    let refused = world.tokens.detach("1", Some(&folder), &quiet).await;
    let refused = refused.unwrap_err();
    assert_eq!(crate::exit::of(&refused), crate::exit::Exit::Damage);
    assert!(journal.exists());
    world.tokens.detach("1", None, &quiet).await.unwrap();
    assert_eq!(world.ground.state_dir.volumes().unwrap(), []);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebought_token_starts_empty_and_its_unpublished_data_stays() {
    for seen in [true, false] {
        let mut world = World::new().await;
        let token = billing::mint(&world.parts, 0).await.unwrap().token;
        world.look(token).await;
        world.write("1", "mine", b"precious").unwrap();
        if !seen {
            // Everything happens while nothing is mounted.
            let dir = world.end().await;
            world = World::begin(dir).await;
        }
        let chain = world.chain();
        let (mine, buyer) = (chain.owner, chain.operator.as_ref().unwrap());
        let sold = world
            .sender()
            .transfer(chain.contract, token, buyer.wallet.address());
        sold.await.unwrap();
        if seen {
            world.statuses().await;
        }
        let payer = Transactor::new(chain.endpoint.clone(), &buyer.wallet);
        payer.transfer(chain.contract, token, mine).await.unwrap();

        let statuses = world.statuses().await;
        let told: Vec<_> = statuses.iter().map(|one| (one.epoch, one.state)).collect();
        assert_eq!(told, [(3, State::Unregistered), (1, State::Detached)]);
        let mut directories = world.directories();
        directories.sort();
        assert_eq!(directories, ["1", "1.detached"]);
        let request = Request::Register {
            token: token.into(),
            print: false,
            new_volume: false,
        };
        billing::answer(&world.parts, &request).await.unwrap();
        world.look(token).await;
        world.write("1", "mine", b"new").unwrap();
        let folder = world.dir.path().join("saved");
        let quiet = |_: &str, _: crate::control::Amount| {};
        world
            .tokens
            .detach("1", Some(&folder), &quiet)
            .await
            .unwrap();
        assert_eq!(std::fs::read(folder.join("mine")).unwrap(), b"precious");
        assert_eq!(world.directories(), ["1"]);
        world.end().await;
    }
}

/// On contracts without epochs, and after replaced blocks, a token returns to its volume.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_returning_in_the_same_epoch_resumes_its_volume() {
    let world = World::new().await;
    let token = billing::mint(&world.parts, 0).await.unwrap().token;
    world.look(token).await;
    world.write("1", "mine", b"precious").unwrap();
    let live = world.tokens.get(token).unwrap();
    world.tokens.pretend_lost(&live).await;
    drop(live);
    assert_eq!(world.directories(), ["1.detached"]);
    let refused = world.write("1.detached", "more", b"x").unwrap_err();
    assert!(matches!(refused, FsError::ReadOnly(_)), "{refused}");

    let statuses = world.statuses().await;
    let told: Vec<_> = statuses.iter().map(|one| one.state).collect();
    assert_eq!(told, [State::Ok], "{statuses:?}");
    assert_eq!(world.directories(), ["1"]);
    world.write("1", "more", b"again").unwrap();
    // It publishes like any other, and its name counts as a token's.
    world.tokens.get(token).unwrap().flush().await.unwrap();
    let local = world.look(token).await.local.unwrap();
    assert_eq!((local.pending_files, local.last_error), (0, None));
    let quiet = |_: &str, _: crate::control::Amount| {};
    let refused = world.tokens.detach("1", None, &quiet).await.unwrap_err();
    assert!(
        refused.to_string().contains("is this wallet's"),
        "{refused}"
    );
    let world = world.again().await;
    world.look(token).await;
    assert_eq!(world.directories(), ["1"]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_accepted_while_its_token_is_lost_is_retained() {
    let world = World::new().await;
    let token = billing::mint(&world.parts, 0).await.unwrap().token;
    world.look(token).await;
    world.give_away(token).await;
    world.statuses().await;
    assert_eq!(world.directories(), ["1"]);
    // It had passed the check when the token was closed.
    let volume = world.ground.drive.volumes().remove(0).2;
    volume.set_access(crate::fs::Access::Open);
    world.write("1", "late", b"accepted").unwrap();
    let statuses = world.statuses().await;
    assert_eq!(statuses[0].state, State::Detached);
    assert_eq!(world.directories(), ["1.detached"]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_with_a_silent_node_does_not_delay_other_tokens() {
    let world = World::new().await;
    for package in 0..2 {
        let token = billing::mint(&world.parts, package).await.unwrap().token;
        world.look(token).await;
    }
    let dir = world.end().await;
    let world = World::begin_with(dir, |parts| {
        parts.node.names = Arc::new(Together {
            names: Arc::clone(&parts.node.names),
            asked: Mutex::default(),
            both: Notify::new(),
        });
    })
    .await;
    assert_eq!(world.statuses().await.len(), 2);
    assert_eq!(world.directories(), ["1", "2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_unreachable_at_start_does_not_stop_others_mounting() {
    let world = World::new().await;
    billing::mint(&world.parts, 0).await.unwrap();
    let (chain_id, contract) = (world.chain().chain_id, world.chain().contract);
    let dir = world.end().await;
    let state = dir.path().join("state");
    let state_dir = StateDir::open(&state).unwrap();
    let layout = demo::prepare(&state_dir, &state.join("wallet")).await;
    let layout = layout.unwrap();
    let here = ChainUrl {
        chain: Some(chain_id),
        url: layout.rpc_url(),
    };
    let config = |endpoints: Vec<ChainUrl>, contracts: &[String]| {
        let layer = Layer {
            state_dir: Some(state_dir.path().to_owned()),
            rpc_url: endpoints,
            contract: contracts.iter().map(|one| one.parse().unwrap()).collect(),
            node: vec![layout.node_url()],
            volume: Some(VolumeKind::Plain),
            ..Layer::default()
        };
        Config::resolve(layer, &Folders::from_env(|_| None, 0))
    };
    // Nobody listens there, and the contract's dialect is unknown.
    let away: ChainUrl = "100=http://127.0.0.1:1".parse().unwrap();
    let of = |name: &str, chain: u64| format!("{name}={contract}@{chain}");
    let both = config(
        vec![away.clone(), here],
        &[of("two", 100), of("one", chain_id)],
    );
    // Commands need it.
    let refused = Parts::all(&both).await.err().unwrap();
    let exit = crate::exit::of(&refused);
    assert_eq!(exit, crate::exit::Exit::Chain, "{refused:#}");
    let none = config(vec![away], &[of("two", 100)]);
    let refused = Parts::any(&none).await.err().unwrap();
    let exit = crate::exit::of(&refused);
    assert_eq!(exit, crate::exit::Exit::Chain, "{refused:#}");

    let parts = Parts::any(&both).await.unwrap();
    let ground = MountContext::build(Arc::clone(&parts[0]), Arc::new(state_dir)).await;
    let ground = ground.unwrap();
    let holdings = MountedContracts::new(&Arc::clone(&ground).with_others(&parts));
    let patience = std::time::Duration::from_secs(120);
    holdings.look_first(patience).await.unwrap();
    let shown = ground.drive.volumes().into_iter().map(|(_, name, _)| name);
    assert_eq!(shown.collect::<Vec<_>>(), ["one-1"]);
    let chains: Vec<(u64, bool)> = (holdings.chains().iter())
        .map(|chain| (chain.id, chain.ok))
        .collect();
    assert_eq!(chains, [(100, false), (chain_id, true)]);
    holdings.stop_publishing().await;
    tokio::task::spawn_blocking(move || holdings.stop())
        .await
        .unwrap();
    crate::contracts::close_chains(&parts).await;
}

/// No chain check comes between.
#[tokio::test]
async fn state_xattrs_of_a_directory_are_current_when_read() {
    let clock = Arc::new(ManualClock::at(SystemClock.wall_ns()));
    let dir = tempfile::tempdir().unwrap();
    let world = World::begin_at(dir, Some(Arc::<ManualClock>::clone(&clock) as _)).await;
    let token = billing::mint(&world.parts, 0).await.unwrap().token;
    let status = world.look(token).await;
    let root = world.ground.drive.lookup(Ino::ROOT, b"1").unwrap().ino;
    let label = |name: &str| {
        let told = world.ground.drive.getxattr(root, name.as_bytes());
        String::from_utf8(told.unwrap()).unwrap()
    };
    assert_eq!(label("user.px.state"), "ok");
    assert_eq!(Some(label("user.px.name")), status.name);
    clock.advance(std::time::Duration::from_secs(31 * 86_400));
    assert_eq!(label("user.px.state"), "overdue");
    let live = world.tokens.get(token).unwrap();
    live.close("another's");
    assert_eq!(label("user.px.state"), "read-only");
    assert_eq!(label("user.px.token"), "1");
}
