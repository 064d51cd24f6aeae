//! Signatures: durable statements of accounts, and the envelopes in which nodes exchange messages.
//!
//! Invariant: every signature is over `blake3(domain ‖ network ‖ kind ‖ version ‖ body)`, so no signature made
//! for one purpose, network or version is valid for another; and no body is decoded before its signature,
//! length, clock and sequence were checked, cheapest first (design section 4).

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bincode::{Decode, Encode};
use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

use crate::id::{AccountId, Hash, NodeId, Signature};
use crate::limits::{CLOCK_WINDOW_MS, ENVELOPE_MAX_BYTES, REPLAY_SIGNERS_MAX, REPLAY_WINDOW, REQUEST_MAX_BYTES};
use crate::wire::{self, WireError};

/// The first four bytes of every envelope.
pub const MAGIC: [u8; 4] = *b"TRIB";
/// The version of the wire format.
pub const VERSION: u16 = 1;
const HEADER_BYTES: usize = 4 + 2 + 2 + 4;

/// Which network a signature belongs to; statements of a test network mean nothing on another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct NetworkId(pub Hash);

impl NetworkId {
    /// The network called `name`.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self(Hash(blake3::derive_key("tributary network v1", name.as_bytes())))
    }
}

/// Why an envelope or statement is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Shorter than its header, wrong magic or wrong length.
    #[error("not an envelope: {0}")]
    Header(&'static str),
    /// A version this node does not speak.
    #[error("version {0} is not spoken here")]
    Version(u16),
    /// The bytes do not decode.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The sender's clock is more than two minutes off.
    #[error("sent at {sent_ms} ms, received at {now_ms} ms: outside the clock window")]
    Clock {
        /// When the sender says it was sent.
        sent_ms: u64,
        /// The receiver's time.
        now_ms: u64,
    },
    /// The sequence number was seen before or is too old to tell.
    #[error("replayed sequence number {0}")]
    Replay(u64),
    /// The signature is not the signer's over these bytes.
    #[error("bad signature")]
    Signature,
}

/// Something that can be signed by an account, with the kind that separates its domain.
pub trait Statement: Encode + Decode<()> + Clone {
    /// A number no other statement has.
    const KIND: u16;
}

/// The digest that is signed.
fn digest(domain: &str, network: NetworkId, kind: u16, body: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(domain);
    hasher.update(&network.0.0);
    hasher.update(&kind.to_le_bytes());
    hasher.update(&VERSION.to_le_bytes());
    hasher.update(body);
    *hasher.finalize().as_bytes()
}

const STATEMENT_DOMAIN: &str = "tributary statement v1";
const ENVELOPE_DOMAIN: &str = "tributary envelope v1";

/// The digest an account signs for `statement`; also the statement's identity.
#[must_use]
pub fn statement_digest<T: Statement>(network: NetworkId, statement: &T) -> Hash {
    Hash(digest(STATEMENT_DOMAIN, network, T::KIND, &wire::encode(statement)))
}

/// Signs a digest made by [`statement_digest`].
#[must_use]
pub fn sign_digest(key: &SigningKey, digest: Hash) -> Signature {
    Signature(key.sign(&digest.0).to_bytes())
}

/// Signatures that this thread found good, so that a simulation, where hundreds of nodes get the same bytes,
/// computes each once. It changes no result: a signature that holds once holds always.
#[derive(Default)]
struct Memo {
    capacity: usize,
    found: BTreeSet<[u8; 32]>,
    order: VecDeque<[u8; 32]>,
}

thread_local! {
    static MEMO: RefCell<Memo> = RefCell::default();
}

/// Has this thread remember the last `capacity` signatures it found good; zero, the beginning, remembers none.
pub fn remember_good_signatures(capacity: usize) {
    MEMO.with_borrow_mut(|memo| *memo = Memo { capacity, ..Memo::default() });
}

impl Memo {
    fn insert(&mut self, place: [u8; 32]) {
        if self.capacity == 0 || !self.found.insert(place) {
            return;
        }
        self.order.push_back(place);
        if self.order.len() > self.capacity {
            self.order.pop_front().map(|oldest| self.found.remove(&oldest));
        }
    }
}

/// Checks a signature strictly (RFC 8032 with small-order keys refused).
///
/// # Errors
/// [`EnvelopeError::Signature`] when the key is no key or the signature is not its.
pub fn verify_digest(key: &[u8; 32], digest: Hash, signature: &Signature) -> Result<(), EnvelopeError> {
    if MEMO.with_borrow(|memo| memo.capacity == 0) {
        return verify_once(key, digest, signature);
    }
    let place = *blake3::Hasher::new().update(key).update(&digest.0).update(&signature.0).finalize().as_bytes();
    if MEMO.with_borrow(|memo| memo.found.contains(&place)) {
        return Ok(());
    }
    verify_once(key, digest, signature)?;
    MEMO.with_borrow_mut(|memo| memo.insert(place));
    Ok(())
}

fn verify_once(key: &[u8; 32], digest: Hash, signature: &Signature) -> Result<(), EnvelopeError> {
    let key = VerifyingKey::from_bytes(key).map_err(|_| EnvelopeError::Signature)?;
    key.verify_strict(&digest.0, &ed25519_dalek::Signature::from_bytes(&signature.0))
        .map_err(|_| EnvelopeError::Signature)
}

/// A statement that its account signed; it stays checkable wherever it travels.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Signed<T> {
    /// What is stated.
    pub body: T,
    /// Who states it.
    pub account: AccountId,
    /// Their signature over [`statement_digest`].
    pub signature: Signature,
}

impl<T: Statement> Signed<T> {
    /// Signs `body`.
    pub fn new(network: NetworkId, key: &SigningKey, body: T) -> Self {
        let signature = sign_digest(key, statement_digest(network, &body));
        Self { body, account: AccountId(key.verifying_key().to_bytes()), signature }
    }

    /// The statement's identity: its signed digest.
    #[must_use]
    pub fn id(&self, network: NetworkId) -> Hash {
        statement_digest(network, &self.body)
    }

    /// Checks the signature.
    ///
    /// # Errors
    /// [`EnvelopeError::Signature`] when it is not the account's.
    pub fn verify(&self, network: NetworkId) -> Result<(), EnvelopeError> {
        verify_digest(&self.account.0, self.id(network), &self.signature)
    }
}

#[derive(Debug, Clone, Encode, Decode)]
struct Parts {
    signer: NodeId,
    sequence: u64,
    sent_ms: u64,
    body: Vec<u8>,
    signature: Signature,
}

/// A received and checked envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// The node that signed.
    pub signer: NodeId,
    /// Its sequence number.
    pub sequence: u64,
    /// When it was sent, by the sender's clock, in milliseconds since 1970.
    pub sent_ms: u64,
    /// The kind of the body.
    pub kind: u16,
    /// The body's bytes, not decoded yet.
    pub body: Vec<u8>,
}

fn signed_bytes(signer: NodeId, sequence: u64, sent_ms: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(48 + body.len());
    bytes.extend_from_slice(&signer.0);
    bytes.extend_from_slice(&sequence.to_le_bytes());
    bytes.extend_from_slice(&sent_ms.to_le_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// Seals `body` for sending.
#[must_use]
pub fn seal(key: &SigningKey, network: NetworkId, sequence: u64, sent_ms: u64, kind: u16, body: Vec<u8>) -> Vec<u8> {
    let signer = NodeId(key.verifying_key().to_bytes());
    let signature =
        sign_digest(key, Hash(digest(ENVELOPE_DOMAIN, network, kind, &signed_bytes(signer, sequence, sent_ms, &body))));
    let parts = wire::encode(&Parts { signer, sequence, sent_ms, body, signature });
    let mut envelope = Vec::with_capacity(HEADER_BYTES + parts.len());
    envelope.extend_from_slice(&MAGIC);
    envelope.extend_from_slice(&VERSION.to_le_bytes());
    envelope.extend_from_slice(&kind.to_le_bytes());
    envelope.extend_from_slice(&u32::try_from(parts.len()).unwrap_or(u32::MAX).to_le_bytes());
    envelope.extend_from_slice(&parts);
    envelope
}

/// Whether envelopes of `kind` may use the whole of a request (batches of log entries and audits) or only
/// [`ENVELOPE_MAX_BYTES`].
fn envelope_limit(kind: u16) -> usize {
    if crate::message::is_bulk(kind) { REQUEST_MAX_BYTES } else { ENVELOPE_MAX_BYTES }
}

/// Opens an envelope: header, clock, replay and signature, in this order; the body stays undecoded.
///
/// # Errors
/// Says which check failed. A replay is only recorded for envelopes whose signature holds.
pub fn open(bytes: &[u8], network: NetworkId, now_ms: u64, guard: &mut ReplayGuard) -> Result<Opened, EnvelopeError> {
    let header = bytes.get(..HEADER_BYTES).ok_or(EnvelopeError::Header("shorter than a header"))?;
    if header[..4] != MAGIC {
        return Err(EnvelopeError::Header("wrong magic"));
    }
    let version = u16::from_le_bytes([header[4], header[5]]);
    if version != VERSION {
        return Err(EnvelopeError::Version(version));
    }
    let kind = u16::from_le_bytes([header[6], header[7]]);
    let length = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
    if usize::try_from(length) != Ok(bytes.len() - HEADER_BYTES) {
        return Err(EnvelopeError::Header("length differs from the bytes given"));
    }
    let parts: Parts = wire::decode(&bytes[HEADER_BYTES..], envelope_limit(kind))?;
    if parts.sent_ms.abs_diff(now_ms) > CLOCK_WINDOW_MS {
        return Err(EnvelopeError::Clock { sent_ms: parts.sent_ms, now_ms });
    }
    guard.check(parts.signer, parts.sequence)?;
    let signed = signed_bytes(parts.signer, parts.sequence, parts.sent_ms, &parts.body);
    verify_digest(&parts.signer.0, Hash(digest(ENVELOPE_DOMAIN, network, kind, &signed)), &parts.signature)?;
    guard.record(parts.signer, parts.sequence, now_ms);
    Ok(Opened { signer: parts.signer, sequence: parts.sequence, sent_ms: parts.sent_ms, kind, body: parts.body })
}

/// A signer's newest sequence number and which of the [`REPLAY_WINDOW`] before it were seen.
#[derive(Debug, Clone)]
struct Window {
    newest: u64,
    seen: [u64; REPLAY_WORDS],
    heard_ms: u64,
}

const REPLAY_WORDS: usize = (REPLAY_WINDOW / 64) as usize;

/// Remembers which sequence numbers were seen: the anti-replay window of RFC 4303, section 3.4.3, per signer.
#[derive(Debug, Clone, Default)]
pub struct ReplayGuard {
    windows: BTreeMap<NodeId, Window>,
}

fn slot(sequence: u64) -> (usize, u64) {
    let bit = sequence % REPLAY_WINDOW;
    (usize::try_from(bit / 64).unwrap_or(0), 1 << (bit % 64))
}

impl ReplayGuard {
    fn check(&self, signer: NodeId, sequence: u64) -> Result<(), EnvelopeError> {
        let Some(window) = self.windows.get(&signer) else { return Ok(()) };
        let (word, bit) = slot(sequence);
        let seen = sequence <= window.newest && window.seen[word] & bit != 0;
        if seen || sequence.saturating_add(REPLAY_WINDOW) <= window.newest {
            return Err(EnvelopeError::Replay(sequence));
        }
        Ok(())
    }

    fn record(&mut self, signer: NodeId, sequence: u64, now_ms: u64) {
        if !self.windows.contains_key(&signer) && self.windows.len() >= REPLAY_SIGNERS_MAX {
            self.forget_quietest();
        }
        let fresh = Window { newest: sequence, seen: [0; REPLAY_WORDS], heard_ms: now_ms };
        let window = self.windows.entry(signer).or_insert(fresh);
        window.heard_ms = now_ms;
        window.advance(sequence);
        let (word, bit) = slot(sequence);
        window.seen[word] |= bit;
    }

    fn forget_quietest(&mut self) {
        let quietest = self.windows.iter().min_by_key(|(_, window)| window.heard_ms).map(|(signer, _)| *signer);
        if let Some(signer) = quietest {
            self.windows.remove(&signer);
        }
    }
}

impl Window {
    fn advance(&mut self, sequence: u64) {
        if sequence <= self.newest {
            return;
        }
        if sequence - self.newest >= REPLAY_WINDOW {
            self.seen = [0; REPLAY_WORDS];
        } else {
            for passed in self.newest + 1..sequence {
                let (word, bit) = slot(passed);
                self.seen[word] &= !bit;
            }
            let (word, bit) = slot(sequence);
            self.seen[word] &= !bit;
        }
        self.newest = sequence;
    }
}
