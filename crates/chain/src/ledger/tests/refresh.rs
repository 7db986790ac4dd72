//! A check costs the same for one token and for five hundred.

use alloy::consensus::TxEnvelope;
use alloy::eips::eip2718::Encodable2718;
use alloy::network::{EthereumWallet, NetworkTransactionBuilder, TransactionBuilder};
use alloy::primitives::B256;
use alloy::rpc::types::TransactionRequest;

use super::*;
use crate::http::{Limits, Servers};
use crate::tests::anvil::Anvil;
use crate::transact::mint_bare_calldata;

/// More than one page, and more than one block could mint.
const MANY: u64 = 500;

/// A flaky chain and the account that acts on it.
pub(super) struct Counted {
    meddler: Meddler,
    payer: Transactor,
    _anvil: Option<Anvil>,
}

impl Counted {
    fn both() -> [Self; 2] {
        // A node's usual gas for a call; anvil's default is a block's.
        let anvil = Anvil::start(&["--gas-limit", "50000000"]);
        let servers = Servers::new(&[anvil.url()], None, Limits::default()).unwrap();
        let over_http = (BoxTransport::new(servers), Some(anvil));
        let embedded = (BoxTransport::new(embedded_handle()), None);
        [embedded, over_http].map(|(below, _anvil)| {
            let meddler = Meddler::new(below);
            let payer = Transactor::new(meddler.endpoint(), &rich());
            Self {
                meddler,
                payer,
                _anvil,
            }
        })
    }

    async fn deploy(&self, dialect: Dialect) -> Address {
        if dialect == Dialect::PxSync {
            let operators = [self.payer.address()];
            let made = crate::deploy::deploy(&self.payer, &operators, 1).await;
            return made.unwrap().contract;
        }
        let contract = older(&self.payer, dialect).await;
        add_package(&self.payer, contract, dialect).await;
        contract
    }

    async fn multicall(&self) -> Address {
        let artifact = include_str!("../../../../../contracts/artifacts/Multicall.json");
        let code = creation(artifact, Vec::new()).unwrap();
        let made = self.payer.send(None, code, U256::ZERO, None).await;
        made.unwrap().contract_address.unwrap()
    }

    pub(super) fn of(meddler: Meddler, payer: &Transactor) -> Self {
        Self {
            meddler,
            payer: payer.clone(),
            _anvil: None,
        }
    }

    /// Mints `count` tokens of package 1 without waiting for each.
    pub(super) async fn mint(&self, contract: Address, dialect: Dialect, count: u64, price: U256) {
        if dialect != Dialect::PxSync {
            for _ in 0..count {
                self.payer.mint_for(contract, 1, price).await.unwrap();
            }
            return;
        }
        let signer = EthereumWallet::from(rich().signer().clone());
        let first = self.payer.next_nonce().await.unwrap();
        let endpoint = self.meddler.endpoint();
        let chain_id = endpoint.chain_id().await.unwrap();
        let mut last = B256::ZERO;
        for some in (first..first + count).collect::<Vec<_>>().chunks(100) {
            let mut batch = BatchRequest::new(endpoint.provider().client());
            let mut sent = Vec::new();
            for &nonce in some {
                let request = TransactionRequest::default()
                    .to(contract)
                    .with_input(mint_bare_calldata(1))
                    .with_value(price)
                    .with_nonce(nonce)
                    .with_chain_id(chain_id)
                    .with_gas_limit(1_000_000)
                    .with_max_fee_per_gas(10_000_000_000)
                    .with_max_priority_fee_per_gas(1);
                let signed: TxEnvelope = request.build(&signer).await.unwrap();
                let raw = Bytes::from(signed.encoded_2718());
                sent.push(batch.add_call("eth_sendRawTransaction", &(raw,)).unwrap());
            }
            batch.send().await.unwrap();
            for sent in sent {
                last = sent.await.unwrap();
            }
        }
        // The nonce may advance before its block shows.
        let mined = async || {
            let receipt = endpoint.provider().get_transaction_receipt(last);
            receipt.await.unwrap()
        };
        while mined().await.is_none() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }

    /// Requests and calls of a second check.
    async fn cost(&self, ledger: &ContractLedger, tokens: u64) -> (u64, usize) {
        assert_eq!(ledger.snapshot().await.unwrap().tokens.len() as u64, tokens);
        self.meddler.asked();
        self.meddler.packets();
        let snapshot = ledger.snapshot().await.unwrap();
        let cost = (self.meddler.packets(), self.meddler.asked().len());
        assert_eq!(snapshot.tokens.len() as u64, tokens);
        let one = &snapshot.tokens[snapshot.tokens.len() / 2];
        assert_eq!(one, &ledger.token(one.id).await.unwrap());
        cost
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_tokens_are_looked_at_in_as_many_requests_as_one() {
    for site in Counted::both() {
        let multicall = site.multicall().await;
        for dialect in [Dialect::PxSync, Dialect::PxV2, Dialect::PxV1] {
            let contract = site.deploy(dialect).await;
            let ledger = |multicall| {
                let endpoint = site.meddler.endpoint().with_multicall(multicall);
                ContractLedger::new(endpoint, contract, site.payer.address())
            };
            let price = ledger(None).packages().await.unwrap()[1].price;
            let (batched, together) = (ledger(None), ledger(Some(multicall)));
            let many_tokens = match dialect {
                Dialect::PxSync => MANY,
                Dialect::PxV2 | Dialect::PxV1 => MANY / 4,
            };
            site.mint(contract, dialect, 1, price).await;
            let one = [site.cost(&batched, 1).await, site.cost(&together, 1).await];
            site.mint(contract, dialect, many_tokens - 1, price).await;
            let many = [
                site.cost(&batched, many_tokens).await,
                site.cost(&together, many_tokens).await,
            ];
            let name = dialect.name();
            // The newest block, and one request for all tokens.
            assert_eq!([one[0].0, one[1].0], [2, 2], "{name}");
            assert_eq!([many[0].0, many[1].0], [2, 2], "{name}");
            // A chain that mines on demand needs two block requests.
            assert_eq!((one[1].1, many[1].1), (3, 3), "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn oversized_multicalls_are_split_and_nothing_is_missed() {
    let [site, _] = Counted::both();
    let multicall = site.multicall().await;
    for dialect in [Dialect::PxSync, Dialect::PxV2] {
        let contract = site.deploy(dialect).await;
        let endpoint = site.meddler.endpoint().with_multicall(Some(multicall));
        let ledger = ContractLedger::new(endpoint, contract, site.payer.address());
        let price = ledger.packages().await.unwrap()[1].price;
        site.mint(contract, dialect, 250, price).await;
        assert_eq!(ledger.snapshot().await.unwrap().tokens.len(), 250);
        // Longer requests are refused, as for lack of gas.
        site.meddler.refuse(|asked| {
            let data = asked.params[0]["input"].as_str().unwrap_or_default();
            let short = asked.method == "eth_call" && data.len() > 9_000;
            short.then_some((-32000, "out of gas"))
        });
        assert_eq!(ledger.snapshot().await.unwrap().tokens.len(), 250);
        // The size is remembered: no refusal next time.
        site.meddler.packets();
        assert_eq!(ledger.snapshot().await.unwrap().tokens.len(), 250);
        assert_eq!(site.meddler.packets(), 2, "{}", dialect.name());
        site.meddler.refuse(|_| None);
    }
}

#[tokio::test]
async fn a_chain_with_multicall3_is_known_by_itself() {
    let anvil = Anvil::start(&[]);
    let endpoint = Endpoint::http(anvil.url()).unwrap();
    let artifact = include_str!("../../../../../contracts/artifacts/Multicall.json");
    let artifact: serde_json::Value = serde_json::from_str(artifact).unwrap();
    let code = artifact["deployedBytecode"].as_str().unwrap();
    let place = "0xcA11bde05977b3631167028862bE2a173976CA11";
    let client = endpoint.provider().client();
    let set = client.request::<_, serde_json::Value>("anvil_setCode", (place, code));
    set.await.unwrap();
    let payer = Transactor::new(endpoint.clone(), &rich());
    let contract = older(&payer, Dialect::PxV2).await;
    let token = payer.mint_for(contract, 0, U256::ZERO).await.unwrap().token;
    let servers = Servers::new(&[anvil.url()], None, Limits::default()).unwrap();
    let meddler = Meddler::new(BoxTransport::new(servers));
    let ledger = ContractLedger::new(meddler.endpoint(), contract, payer.address());
    assert_eq!(ids(&ledger.snapshot().await.unwrap()), [token]);
    meddler.asked();
    ledger.snapshot().await.unwrap();
    let asked = meddler.asked();
    let to = asked
        .iter()
        .find(|asked| asked.method == "eth_call")
        .unwrap();
    let to = to.params[0]["to"].as_str().unwrap().to_lowercase();
    assert_eq!(to, place.to_lowercase());
}
