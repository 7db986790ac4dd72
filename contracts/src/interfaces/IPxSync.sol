// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

/// @title What makes a storage token contract speak `px-sync`
/// @notice A client tells this dialect from the others by asking ERC-165 for this interface. The id
/// covers the functions below, so none of them may change.
interface IPxSync {
    /// @notice One token, read in one call.
    struct TokenInfo {
        uint256 tokenId;
        address owner;
        uint256 packageId;
        /// Name of the package, such as `5GB`.
        string packageName;
        /// What the token grants, in bytes.
        uint256 sizeInBytes;
        /// Stored bytes as the last sync found them; may be above the size.
        uint256 usage;
        /// Time of the mint, seconds.
        uint64 buyTimestamp;
        /// Time of the last sync, or of the mint before the first; seconds.
        uint64 lastUpdateTimestamp;
        /// Seconds a token may go without a sync.
        uint256 syncWindow;
        /// Counts the mint, every transfer and every registration.
        uint64 epoch;
        /// Key of the usage metadata; empty when the token is not registered.
        string btnsKey;
        /// Whether a sync has landed in this epoch; without one, sequence and root mean nothing.
        bool synced;
        /// Sequence of the newest usage metadata that a sync has taken in this epoch.
        uint64 sequence;
        /// Digest of its root (of the root's CIDv0); zero for none.
        bytes32 root;
        /// The open sync request; zero when none is open.
        bytes32 requestId;
        /// Time of the last sync request, open or closed; zero before the first of this owner.
        uint64 requestedAt;
    }

    /// @notice A sync was asked for: the oracle looks `btnsKey` up and answers through `onReport`.
    event SyncRequested(uint256 indexed tokenId, bytes32 indexed requestId, uint64 epoch, string btnsKey);
    /// @notice A sync has landed.
    event Synced(uint256 indexed tokenId, uint256 usage, uint64 sequence, bytes32 root);
    /// @notice A sync was answered and refused; the request is closed. The codes stand in `PxSync`.
    event SyncFailed(uint256 indexed tokenId, bytes32 indexed requestId, uint8 code);
    /// @notice A key was assigned to a token, by `mint` or `register`.
    event Registered(uint256 indexed tokenId, uint64 epoch, string btnsKey);

    /// @notice Mints a token of a package and assigns its key. The value is the package's price.
    function mint(uint256 packageId, string calldata btnsKey) external payable;

    /// @notice Mints a token of a package without a key; `register` assigns one later.
    function mint(uint256 packageId) external payable;

    /// @notice Assigns a key, for the first time or again. The token's owner alone.
    function register(uint256 tokenId, string calldata btnsKey) external;

    /// @notice Asks the oracle to read the token's usage metadata. Anyone who pays `syncFee`; whoever is
    /// neither the token's owner nor approved has to wait a day after the last request and sync.
    function sync(uint256 tokenId) external payable returns (bytes32 requestId);

    /// @notice The assigned key, empty when the token is not registered.
    function btnsKey(uint256 tokenId) external view returns (string memory);

    /// @notice Counts the mint, every transfer and every registration; 1 after the mint.
    function epoch(uint256 tokenId) external view returns (uint64);

    /// @notice Price of one sync, in wei.
    function syncFee() external view returns (uint256);

    /// @notice Seconds between two sync requests of a token that is not overdue.
    function minSyncInterval() external view returns (uint256);

    /// @notice Seconds a token may go without a sync. It is overdue when the time of the block is
    /// greater than `lastUpdateTimestamp + syncWindow`.
    function syncWindow() external view returns (uint256);

    /// @notice Everything about one token.
    function tokenInfo(uint256 tokenId) external view returns (TokenInfo memory);

    /// @notice The tokens of `owner` from index `from` on, at most `limit`, in no promised order.
    /// How many there are is `balanceOf(owner)`.
    function tokensOf(address owner, uint256 from, uint256 limit) external view returns (TokenInfo[] memory);
}
