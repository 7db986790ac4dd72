//! The contracts' interfaces and code: the only file that knows the ABI.
//!
//! Invariant: a test compares every function here with the committed artifacts.

use alloy::primitives::{Address, B256, Bytes, FixedBytes, U256, hex};
use alloy::sol;
use alloy::sol_types::{SolCall, SolInterface, SolStruct, SolValue, eip712_domain};

use super::ChainError;

pub(super) use self::abi::IMulticall3 as Multicall;
pub(super) use self::abi::IPxSync as PxSync;
pub(super) use self::abi::OracleForwarder;
pub(super) use self::additive::{IPxV1 as PxV1, IPxV2 as PxV2};

mod additive;

#[allow(missing_docs, unreachable_pub, reason = "made by a macro")]
mod abi {
    use super::sol;

    sol! {
        /// The part of Multicall3 that pxfs uses.
        interface IMulticall3 {
            struct Call3 {
                address target;
                bool allowFailure;
                bytes callData;
            }
            struct Result {
                bool success;
                bytes returnData;
            }

            function aggregate3(Call3[] calldata calls) external payable returns (Result[] memory results);
        }
    }

    sol! {
        /// The token contract of the dialect `px-sync`.
        #[derive(Debug)]
        interface IPxSync {
            struct TokenInfo {
                uint256 tokenId;
                address owner;
                uint256 packageId;
                string packageName;
                uint256 sizeInBytes;
                uint256 usage;
                uint64 buyTimestamp;
                uint64 lastUpdateTimestamp;
                uint256 syncWindow;
                uint64 epoch;
                string btnsKey;
                bool synced;
                uint64 sequence;
                bytes32 root;
                bytes32 requestId;
                uint64 requestedAt;
            }
            struct Package {
                uint256 id;
                string name;
                uint256 price;
                uint256 size;
                uint256 sizeInBytes;
                string storageUnit;
                uint256 bandwidthLimit;
                bool active;
            }

            event SyncRequested(uint256 indexed tokenId, bytes32 indexed requestId, uint64 epoch, string btnsKey);
            event Synced(uint256 indexed tokenId, uint256 usage, uint64 sequence, bytes32 root);
            event SyncFailed(uint256 indexed tokenId, bytes32 indexed requestId, uint8 code);
            event Transfer(address indexed from, address indexed to, uint256 indexed tokenId);
            event Registered(uint256 indexed tokenId, uint64 epoch, string btnsKey);
            event MetadataUpdate(uint256 _tokenId);
            event BatchMetadataUpdate(uint256 _fromTokenId, uint256 _toTokenId);

            error ERC721NonexistentToken(uint256 tokenId);
            error ERC721InsufficientApproval(address operator, uint256 tokenId);
            error ERC721IncorrectOwner(address sender, uint256 tokenId, address owner);
            error EnforcedPause();

            function mint(uint256 packageId, string calldata btnsKey) external payable;
            function mint(uint256 packageId) external payable;
            function register(uint256 tokenId, string calldata btnsKey) external;
            function sync(uint256 tokenId) external payable returns (bytes32 requestId);
            function btnsKey(uint256 tokenId) external view returns (string memory);
            function epoch(uint256 tokenId) external view returns (uint64);
            function syncFee() external view returns (uint256);
            function minSyncInterval() external view returns (uint256);
            function syncWindow() external view returns (uint256);
            function tokenInfo(uint256 tokenId) external view returns (TokenInfo memory);
            function tokensOf(address owner, uint256 from, uint256 limit) external view returns (TokenInfo[] memory);
            function getAllPackages() external view returns (Package[] memory);
            function upgradeTokenPackage(uint256 tokenId, uint256 packageId) external payable;
            function transferFrom(address from, address to, uint256 tokenId) external;
            function supportsInterface(bytes4 interfaceId) external view returns (bool);
            function forwarder() external view returns (address);
            function isApprovedForAll(address owner, address operator) external view returns (bool);
            function getApproved(uint256 tokenId) external view returns (address);
        }

        struct Report {
            address receiver;
            bytes metadata;
            bytes report;
        }

        /// The forwarder for chains without Chainlink's network.
        #[derive(Debug)]
        interface OracleForwarder {
            function deliver(address receiver, bytes calldata metadata, bytes calldata report, bytes[] calldata signatures) external;
            function digest(address receiver, bytes calldata metadata, bytes calldata report) external view returns (bytes32);
            function operators() external view returns (address[] memory);
            function threshold() external view returns (uint256);
        }
    }
}

/// ERC-165 identifier of `px-sync`: the xor of the selectors in `IPxSync.sol`.
pub(super) const PX_SYNC_ID: FixedBytes<4> = FixedBytes(fold([
    PxSync::mint_0Call::SELECTOR,
    PxSync::mint_1Call::SELECTOR,
    PxSync::registerCall::SELECTOR,
    PxSync::syncCall::SELECTOR,
    PxSync::btnsKeyCall::SELECTOR,
    PxSync::epochCall::SELECTOR,
    PxSync::syncFeeCall::SELECTOR,
    PxSync::minSyncIntervalCall::SELECTOR,
    PxSync::syncWindowCall::SELECTOR,
    PxSync::tokenInfoCall::SELECTOR,
    PxSync::tokensOfCall::SELECTOR,
]));

const fn fold<const N: usize>(selectors: [[u8; 4]; N]) -> [u8; 4] {
    let mut id = [0; 4];
    let mut at = 0;
    while at < N * 4 {
        id[at % 4] ^= selectors[at / 4][at % 4];
        at += 1;
    }
    id
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Seen {
    pub(super) time_s: u64,
    pub(super) block: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) request: B256,
    pub(super) token: U256,
    pub(super) epoch: u64,
    /// For a failure: the number of the block seen.
    pub(super) usage: u64,
    /// For a failure: the time of that block, seconds.
    pub(super) sequence: u64,
    pub(super) root: B256,
    /// 0, or a code of `SyncFailed` from 1 to 127.
    pub(super) error: u8,
}

impl Report {
    /// `abi.encode(requestId, tokenId, epoch, usage, sequence, root, error)`.
    pub(super) fn encode(&self) -> Bytes {
        let words = (
            self.request,
            self.token,
            self.epoch,
            U256::from(self.usage),
            self.sequence,
            self.root,
            U256::from(self.error),
        );
        words.abi_encode_params().into()
    }

    /// Whether the encoded report answers this request.
    pub(super) fn is_about(report: &[u8], request: B256, token: U256, epoch: u64) -> bool {
        let first = (request, token, epoch).abi_encode_params();
        report.len() == 7 * 32 && report.starts_with(&first)
    }

    pub(super) fn code(report: &[u8]) -> Option<u8> {
        report.last().copied()
    }

    /// The block in which the failure `code` was seen.
    pub(super) fn seen(report: &[u8], code: u8) -> Option<Seen> {
        let word = |at: usize| {
            let word = U256::try_from_be_slice(report.get(at * 32..(at + 1) * 32)?)?;
            u64::try_from(word).ok()
        };
        let (block, time_s) = (word(3)?, word(4)?);
        (code != 0 && Self::code(report) == Some(code)).then_some(Seen { time_s, block })
    }
}

/// What the operators sign (`OracleForwarder.digest`, EIP-712), computed here so that no node can
/// substitute another.
pub(super) fn report_digest(
    chain_id: u64,
    forwarder: Address,
    receiver: Address,
    metadata: &Bytes,
    report: &Bytes,
) -> B256 {
    let domain = eip712_domain! {
        name: "PxOracleForwarder",
        version: "1",
        chain_id: chain_id,
        verifying_contract: forwarder,
    };
    let signed = abi::Report {
        receiver,
        metadata: metadata.clone(),
        report: report.clone(),
    };
    signed.eip712_signing_hash(&domain)
}

/// Words for a custom error; `None` if unknown.
pub(super) fn error_words(data: &[u8]) -> Option<String> {
    use PxSync::IPxSyncErrors as Known;
    Some(match Known::abi_decode(data).ok()? {
        Known::ERC721NonexistentToken(fault) => format!("token {} does not exist", fault.tokenId),
        Known::ERC721InsufficientApproval(fault) => {
            format!(
                "token {} is not {}'s to move",
                fault.tokenId, fault.operator
            )
        }
        Known::ERC721IncorrectOwner(fault) => {
            format!("token {} is not of {}", fault.tokenId, fault.sender)
        }
        Known::EnforcedPause(_) => "the contract has paused minting".to_owned(),
    })
}

/// The meaning of a `SyncFailed` code (`PxSync.sol`).
pub(super) fn failure(code: u8) -> &'static str {
    match code {
        1 => "the token's name leads nowhere: flush, and try again",
        2 => "the usage metadata cannot be fetched",
        3 => "the usage metadata is not valid",
        4 => "the usage metadata is of another chain, contract, token or epoch",
        5 => "the token's key is not a name",
        6 => "the oracle itself failed: try again later",
        128 => "the report holds a number out of range",
        129 => "the token was transferred or registered meanwhile",
        130 => "the usage metadata is older than what the chain has",
        131 => "the chain has another root at this sequence",
        _ => "unknown code",
    }
}

/// Creation code of the token contract with constructor arguments.
pub(super) fn token_code(owner: Address, forwarder: Address) -> Result<Bytes, ChainError> {
    let arguments = (owner, forwarder).abi_encode_params();
    creation(
        include_str!("../../../contracts/artifacts/PxSync.json"),
        arguments,
    )
}

/// Creation code of the forwarder with constructor arguments. `operators` must ascend.
pub(super) fn forwarder_code(
    owner: Address,
    operators: &[Address],
    threshold: u64,
) -> Result<Bytes, ChainError> {
    let arguments = (owner, operators.to_vec(), U256::from(threshold)).abi_encode_params();
    creation(
        include_str!("../../../contracts/artifacts/OracleForwarder.json"),
        arguments,
    )
}

pub(super) fn creation(artifact: &str, arguments: Vec<u8>) -> Result<Bytes, ChainError> {
    let broken = || ChainError::Permanent("the built-in contract is damaged".to_owned());
    let artifact: serde_json::Value = serde_json::from_str(artifact).map_err(|_| broken())?;
    let code = artifact.get("bytecode").and_then(|code| code.as_str());
    let mut code = hex::decode(code.ok_or_else(broken)?).map_err(|_| broken())?;
    code.extend(arguments);
    Ok(code.into())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use alloy::sol_types::SolEvent;
    use serde_json::Value;

    use super::*;

    /// `name(type,…)` of each entry of `kind`; for functions with their returns.
    fn signatures(artifact: &str, kind: &str) -> BTreeSet<String> {
        let artifact: Value = serde_json::from_str(artifact).unwrap();
        let entries = artifact["abi"].as_array().unwrap().iter();
        let entries = entries.filter(|entry| entry["type"] == kind);
        entries
            .map(|entry| {
                let inputs = types(&entry["inputs"]);
                format!("{}({inputs})", entry["name"].as_str().unwrap())
            })
            .collect()
    }

    fn types(list: &Value) -> String {
        let types = list.as_array().unwrap().iter().map(|entry| {
            let name = entry["type"].as_str().unwrap();
            match name.strip_prefix("tuple") {
                Some(array) => format!("({}){array}", types(&entry["components"])),
                None => name.to_owned(),
            }
        });
        types.collect::<Vec<_>>().join(",")
    }

    #[test]
    fn every_function_and_event_is_in_the_committed_artifacts() {
        let token = include_str!("../../../contracts/artifacts/PxSync.json");
        let forwarder = include_str!("../../../contracts/artifacts/OracleForwarder.json");
        let functions = signatures(token, "function");
        for signature in PxSync::IPxSyncCalls::SIGNATURES {
            assert!(functions.contains(*signature), "{signature}");
        }
        let events = signatures(token, "event");
        for signature in [
            PxSync::SyncRequested::SIGNATURE,
            PxSync::Synced::SIGNATURE,
            PxSync::SyncFailed::SIGNATURE,
            PxSync::Transfer::SIGNATURE,
            PxSync::Registered::SIGNATURE,
            PxSync::MetadataUpdate::SIGNATURE,
            PxSync::BatchMetadataUpdate::SIGNATURE,
        ] {
            assert!(events.contains(signature), "{signature}");
        }
        let functions = signatures(forwarder, "function");
        for signature in OracleForwarder::OracleForwarderCalls::SIGNATURES {
            assert!(functions.contains(*signature), "{signature}");
        }
    }

    /// A function's return types in the ABI.
    fn answers(artifact: &str, function: &str) -> String {
        let artifact: Value = serde_json::from_str(artifact).unwrap();
        let mut entries = artifact["abi"].as_array().unwrap().iter();
        let entry = entries.find(|entry| entry["name"] == function).unwrap();
        types(&entry["outputs"])
    }

    #[test]
    fn the_older_dialects_are_those_of_the_contracts_that_behave_so() {
        use alloy::sol_types::{SolCall, SolType};
        let v1 = include_str!("../../../contracts/artifacts/PxV1.json");
        let v2 = include_str!("../../../contracts/artifacts/PxV2.json");
        let (functions, older) = (signatures(v2, "function"), signatures(v1, "function"));
        for signature in PxV2::IPxV2Calls::SIGNATURES {
            assert!(functions.contains(*signature), "{signature}");
        }
        for signature in PxV1::IPxV1Calls::SIGNATURES {
            assert!(older.contains(*signature), "{signature}");
        }
        fn answered<C: SolCall>() -> String {
            let name = <C::ReturnTuple<'static> as SolType>::SOL_NAME;
            name.trim_start_matches('(')
                .trim_end_matches(')')
                .to_owned()
        }
        assert_eq!(answers(v2, "pxStorage"), answered::<PxV2::pxStorageCall>());
        assert_eq!(answers(v1, "pxStorage"), answered::<PxV1::pxStorageCall>());
        assert_eq!(answers(v2, "canUpload"), answered::<PxV2::canUploadCall>());
        let package = PxV2::Package::eip712_encode_type();
        assert_eq!(
            format!("Package({})", listed(v2, "getAllPackages")),
            package
        );
        let uploads = PxV2::BandwidthPackage::eip712_encode_type();
        assert_eq!(
            format!(
                "BandwidthPackage({})",
                listed(v2, "getAllBandwidthPackages")
            ),
            uploads
        );
        let package = PxV1::Package::eip712_encode_type();
        assert_eq!(
            format!("Package({})", listed(v1, "getAllPackages")),
            package
        );
    }

    /// Types and names of the fields of the returned struct.
    fn listed(artifact: &str, function: &str) -> String {
        let artifact: Value = serde_json::from_str(artifact).unwrap();
        let mut entries = artifact["abi"].as_array().unwrap().iter();
        let entry = entries.find(|entry| entry["name"] == function).unwrap();
        let fields = entry["outputs"][0]["components"].as_array().unwrap().iter();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let fields = fields.map(|field| text(&field["type"]) + " " + &text(&field["name"]));
        fields.collect::<Vec<_>>().join(",")
    }

    #[test]
    fn structs_have_the_fields_of_the_committed_artifacts() {
        let artifact = include_str!("../../../contracts/artifacts/PxSync.json");
        let returned = |function| listed(artifact, function);
        let info = PxSync::TokenInfo::eip712_encode_type();
        let package = PxSync::Package::eip712_encode_type();
        assert_eq!(format!("TokenInfo({})", returned("tokenInfo")), info);
        assert_eq!(format!("TokenInfo({})", returned("tokensOf")), info);
        assert_eq!(format!("Package({})", returned("getAllPackages")), package);
    }
}
