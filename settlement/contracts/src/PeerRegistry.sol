// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Ed25519} from "./Ed25519.sol";

/// @title Account keys (ed25519) bound to chain addresses
/// @notice Invariant: the binding is one-to-one, `accountOf[keyOf[a]] == a` wherever `keyOf[a]` is set, and no binding exists that both
/// the ed25519 key and the address have not consented to.
/// @dev The address consents as `msg.sender`. The key consents by an ed25519 signature over the 32-byte
///
///   bindDigest = keccak256(abi.encode(BIND_DOMAIN, block.chainid, address(this), account, edKey, nonceOf[edKey]))
///   BIND_DOMAIN = keccak256("tributary/peer-binding/v1")
///
/// so a signature works for one chain, one registry, one address, one key and one time.
contract PeerRegistry {
    struct Change {
        bytes32 newKey;
        uint64 readyAt;
    }

    bytes32 public constant BIND_DOMAIN = keccak256("tributary/peer-binding/v1");
    /// A longer delay would be a mistyped unit.
    uint64 public constant MAX_DELAY_SECONDS = 90 days;

    /// Time between asking for a rotation or revocation and its effect: counterparties see it coming.
    uint64 public immutable delaySeconds;

    mapping(bytes32 edKey => address account) public accountOf;
    mapping(address account => bytes32 edKey) public keyOf;
    /// Counts the signatures of a key that were used.
    mapping(bytes32 edKey => uint64 nonce) public nonceOf;
    /// The change an address asked for; `readyAt == 0` when none. `newKey == 0` revokes.
    mapping(address account => Change change) public changeOf;

    event Bound(bytes32 indexed edKey, address indexed account);
    event Unbound(bytes32 indexed edKey, address indexed account);
    event ChangeRequested(address indexed account, bytes32 indexed newKey, uint64 readyAt);
    event ChangeCancelled(address indexed account);

    error DelayTooLong();
    error KeyTaken();
    error AccountTaken();
    error BadSignature();
    error NotBound();
    error NoChange();
    error NotReady();

    constructor(uint64 delaySeconds_) {
        if (delaySeconds_ > MAX_DELAY_SECONDS) revert DelayTooLong();
        delaySeconds = delaySeconds_;
    }

    /// What `edKey` signs to be bound to `account` now.
    function bindDigest(address account, bytes32 edKey) public view returns (bytes32) {
        return keccak256(abi.encode(BIND_DOMAIN, block.chainid, address(this), account, edKey, nonceOf[edKey]));
    }

    /// Binds `edKey` to the sender. `r` and `s` are the two halves of the ed25519 signature, bytes as RFC 8032 writes them.
    function bind(bytes32 edKey, bytes32 r, bytes32 s) external {
        if (keyOf[msg.sender] != 0) revert AccountTaken();
        if (accountOf[edKey] != address(0)) revert KeyTaken();
        _useSignature(edKey, r, s);
        _bind(edKey, msg.sender);
    }

    /// Asks to replace the sender's key by `newKey`, which signs as for `bind`. A pending change is replaced and its delay starts anew.
    function requestRotate(bytes32 newKey, bytes32 r, bytes32 s) external {
        if (keyOf[msg.sender] == 0) revert NotBound();
        if (accountOf[newKey] != address(0)) revert KeyTaken();
        _useSignature(newKey, r, s);
        _request(newKey);
    }

    /// Asks to free the sender's key. A pending change is replaced and its delay starts anew.
    function requestRevoke() external {
        if (keyOf[msg.sender] == 0) revert NotBound();
        _request(0);
    }

    function cancelChange() external {
        if (changeOf[msg.sender].readyAt == 0) revert NoChange();
        delete changeOf[msg.sender];
        emit ChangeCancelled(msg.sender);
    }

    /// Anyone may carry out a change whose delay is over.
    function applyChange(address account) external {
        Change memory change = changeOf[account];
        if (change.readyAt == 0) revert NoChange();
        if (block.timestamp < change.readyAt) revert NotReady();
        if (change.newKey != 0 && accountOf[change.newKey] != address(0)) revert KeyTaken();
        delete changeOf[account];
        bytes32 oldKey = keyOf[account];
        delete accountOf[oldKey];
        delete keyOf[account];
        emit Unbound(oldKey, account);
        if (change.newKey != 0) _bind(change.newKey, account);
    }

    function _bind(bytes32 edKey, address account) private {
        accountOf[edKey] = account;
        keyOf[account] = edKey;
        emit Bound(edKey, account);
    }

    function _request(bytes32 newKey) private {
        uint64 readyAt = uint64(block.timestamp) + delaySeconds;
        changeOf[msg.sender] = Change(newKey, readyAt);
        emit ChangeRequested(msg.sender, newKey, readyAt);
    }

    /// Consumes one signature of `edKey` for the sender. A key of small order never verifies: anyone could sign for it.
    function _useSignature(bytes32 edKey, bytes32 r, bytes32 s) private {
        if (!Ed25519.verify(edKey, r, s, bindDigest(msg.sender, edKey))) revert BadSignature();
        ++nonceOf[edKey];
    }
}
