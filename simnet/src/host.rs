//! One simulated machine: keys, a node while it is up, and the disk that survives it.
//!
//! Invariant: the journal holds exactly the facts that were made durable, in order, as the bytes a disk would
//! hold; a crash takes everything else.

use std::collections::{BTreeMap, BTreeSet};

use ed25519_dalek::SigningKey;
use tributary_protocol::envelope::NetworkId;
use tributary_protocol::id::{AccountId, Amount, ChainAddress, Hash, NodeId, ReceiptId};
use tributary_protocol::message::Roles;
use tributary_protocol::node::{Fact, Node, NodeConfig};
use tributary_protocol::wire;

use crate::behaviour::Behaviour;

/// The largest fact: an epoch's body.
const FACT_MAX_BYTES: usize = 64 * 1024 * 1024;

/// What a machine is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    Poster,
    Witness,
    Verifier,
    Worker,
    Builder,
    Contributor,
    User,
    Hostile,
}

pub(crate) struct Host {
    pub(crate) part: Part,
    pub(crate) place: u32,
    pub(crate) behaviour: Behaviour,
    pub(crate) id: NodeId,
    pub(crate) account: AccountId,
    pub(crate) address: ChainAddress,
    pub(crate) seed: Hash,
    pub(crate) node: Option<Node>,
    /// Rises at each start; what was begun under another number is lost.
    pub(crate) incarnation: u32,
    pub(crate) journal: Vec<Vec<u8>>,
    pub(crate) receipts_on_disk: BTreeSet<ReceiptId>,
    pub(crate) blobs: BTreeSet<Hash>,
    /// Jobs that run, and the stream of those that answer.
    pub(crate) jobs: BTreeMap<Hash, Option<u64>>,
}

impl Host {
    pub(crate) fn new(seed: u64, part: Part, place: u32, behaviour: Behaviour) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("tributary simnet host v1");
        hasher.update(&seed.to_le_bytes());
        hasher.update(format!("{part:?} {place}").as_bytes());
        let seed = Hash(*hasher.finalize().as_bytes());
        let address = blake3::derive_key("tributary simnet address v1", &seed.0);
        let mut chain_address = [0; 20];
        chain_address.copy_from_slice(&address[..20]);
        let mut host = Self {
            part,
            place,
            behaviour,
            id: NodeId::default(),
            account: AccountId::default(),
            address: ChainAddress(chain_address),
            seed,
            node: None,
            incarnation: 0,
            journal: Vec::new(),
            receipts_on_disk: BTreeSet::new(),
            blobs: BTreeSet::new(),
            jobs: BTreeMap::new(),
        };
        host.id = NodeId(host.node_key().verifying_key().to_bytes());
        host.account = AccountId(host.account_key().verifying_key().to_bytes());
        host
    }

    pub(crate) fn node_key(&self) -> SigningKey {
        SigningKey::from_bytes(&blake3::derive_key("tributary simnet node key v1", &self.seed.0))
    }

    pub(crate) fn account_key(&self) -> SigningKey {
        SigningKey::from_bytes(&blake3::derive_key("tributary simnet account key v1", &self.seed.0))
    }

    pub(crate) fn is_honest(&self) -> bool {
        self.behaviour == Behaviour::Honest
    }

    /// Whether a node runs here when the machine is up.
    pub(crate) fn has_node(&self) -> bool {
        self.behaviour != Behaviour::Hostile
    }

    fn config(&self, network: NetworkId, treasury: ChainAddress, audit_ppm: u32) -> NodeConfig {
        let worker = self.part == Part::Worker;
        // Liars are the cheapest, so that they are tried first; the honest differ a little.
        let cheap = if self.is_honest() { 100 } else { 1 };
        let price = u128::from(cheap + self.place % 7);
        NodeConfig {
            network,
            node_key: self.node_key(),
            account_key: self.account_key(),
            chain_address: self.address,
            treasury,
            roles: Roles {
                worker,
                verifier: self.part == Part::Verifier,
                witness: self.part == Part::Witness,
                poster: self.part == Part::Poster,
            },
            classes: vec![crate::work::CLASS.into()],
            training_price_per_kilostep: Amount(price * 1_000_000_000_000_000),
            training_ms_per_kilostep: 100_000 + u64::from(self.place % 5) * 20_000,
            answer_price: Amount(price * 10_000_000_000),
            training_slots: u32::from(worker),
            audit_ppm,
            epoch_interval_ms: 0,
            entropy: Hash(blake3::derive_key("tributary simnet entropy v1", &self.seed.0)),
        }
    }

    /// Milliseconds this machine needs for `steps` training steps.
    pub(crate) fn training_ms(&self, steps: u32) -> u64 {
        (100_000 + u64::from(self.place % 5) * 20_000) * u64::from(steps) / 1_000
    }

    pub(crate) fn start(&mut self, now_ms: u64, network: NetworkId, treasury: ChainAddress, audit_ppm: u32) {
        let facts: Vec<Fact> =
            self.journal.iter().filter_map(|bytes| wire::decode(bytes, FACT_MAX_BYTES).ok()).collect();
        assert_eq!(facts.len(), self.journal.len(), "every fact that was encoded decodes");
        self.incarnation += 1;
        self.node = Some(Node::new(now_ms, self.config(network, treasury, audit_ppm), facts));
    }

    pub(crate) fn stop(&mut self) {
        self.node = None;
        self.jobs.clear();
        self.incarnation += 1;
    }

    /// Writes a fact to disk; a disk that lies about it returns without having written.
    pub(crate) fn persist(&mut self, fact: &Fact, written: bool) {
        if let Fact::ReceiptKept(signed) = fact {
            self.receipts_on_disk.insert(signed.receipt.id());
        }
        if written {
            self.journal.push(wire::encode(fact));
        }
    }
}
