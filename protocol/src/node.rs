//! The node: `handle(now, input) -> outputs`, the one state machine that `peer` and `simnet` both drive.
//!
//! Invariants. Every change of durable state is a [`Fact`] that stands in an [`Output::Persist`] before any
//! output that lets others rely on it; the driver makes facts durable before it performs what follows, so a
//! crash at any instant loses nothing accepted. Replaying the facts gives the same state. Every message may
//! be repeated, so each handler is idempotent, and every wait is repeated on a tick until it is answered.

mod anchors;
mod answering;
mod asker;
mod audits;
mod batches;
mod cards;
mod datanets;
mod epochs;
mod facts;
mod io;
mod notes;
mod peers;
mod phases;
mod proofs;
mod receipts;
mod requester;
mod settling;
mod terms;
mod verifier;
mod view;
mod worker;

use std::collections::BTreeMap;

use ed25519_dalek::SigningKey;

pub use self::asker::{AskCommand, AskView};
pub use self::epochs::closing_facts;
pub use self::facts::{FACT_PART_BYTES, Fact};
pub use self::io::{
    AnswerTranscript, CardFinding, Command, Event, FeeStream, FinishedAnswer, Funding, Input, JobOutcome, NewShard,
    Output, TrainedAdapter, Work,
};
pub use self::peers::PeerView;
pub use self::proofs::KeptProof;
pub use self::requester::{FineTuneCommand, Phase, RequestView, earned, training_price};
pub(crate) use self::terms::method_of;
pub use self::terms::shares_of;
pub use self::view::{Debt, EpochView};

use crate::envelope::{self, NetworkId, ReplayGuard, Signed};
use crate::id::{AccountId, Amount, ChainAddress, Hash, NodeId};
use crate::limits::ANNOUNCE_MS;
use crate::message::{self, Certificate, Message, Roles};

/// Who a node is and what it offers; everything that does not change while it runs.
pub struct NodeConfig {
    /// The network it belongs to.
    pub network: NetworkId,
    /// The key of the node: signs envelopes.
    pub node_key: SigningKey,
    /// The key of the account: signs statements and receipts.
    pub account_key: SigningKey,
    /// Where the account is paid.
    pub chain_address: ChainAddress,
    /// Where the treasury is paid.
    pub treasury: ChainAddress,
    /// What it does for others.
    pub roles: Roles,
    /// The determinism classes it computes in.
    pub classes: Vec<String>,
    /// Its price for a thousand training steps.
    pub training_price_per_kilostep: Amount,
    /// Milliseconds it needs for a thousand training steps, by its own measurement.
    pub training_ms_per_kilostep: u64,
    /// Its price for one answer.
    pub answer_price: Amount,
    /// Trainings it runs at once.
    pub training_slots: u32,
    /// The part of answers it has checked, in parts per million; with none, none is audited for settlement either.
    pub audit_ppm: u32,
    /// As a poster, anchor an epoch by itself about this often, in milliseconds; zero waits for a command.
    pub epoch_interval_ms: u64,
    /// Seed of the nonces it needs; must stay secret.
    pub entropy: Hash,
}

/// The state machine of one peer.
pub struct Node {
    config: NodeConfig,
    id: NodeId,
    account: AccountId,
    certificate: Signed<Certificate>,
    guard: ReplayGuard,
    sequence: u64,
    peers: peers::Peers,
    datanets: datanets::Datanets,
    cards: cards::Cards,
    requester: requester::Requester,
    worker: worker::Worker,
    verifier: verifier::Verifier,
    asker: asker::Asker,
    answering: answering::Answering,
    audits: audits::Audits,
    receipts: receipts::Receipts,
    batches: batches::Batches,
    proofs: proofs::Proofs,
    funding: epochs::FundingRead,
    anchors: anchors::Anchors,
    settling: settling::Settling,
    announced_ms: u64,
    gossiped_ms: u64,
}

/// What one call of [`Node::handle`] gathers.
#[derive(Default)]
struct Out {
    blobs: Vec<Output>,
    facts: Vec<Fact>,
    rest: Vec<Output>,
}

impl Out {
    fn push(&mut self, output: Output) {
        self.rest.push(output);
    }

    /// Puts bytes into the store before the facts that name them become durable.
    fn provide(&mut self, bytes: Vec<u8>) {
        self.blobs.push(Output::Provide { bytes });
    }

    fn event(&mut self, event: Event) {
        self.rest.push(Output::Event(event));
    }

    fn fact(&mut self, fact: Fact) {
        self.facts.push(fact);
    }

    fn into_outputs(self) -> Vec<Output> {
        let mut outputs = self.blobs;
        outputs.reserve(self.rest.len() + 1);
        if !self.facts.is_empty() {
            outputs.push(Output::Persist(self.facts));
        }
        outputs.extend(self.rest);
        outputs
    }
}

/// How long a node's certificate holds after it was made: a day; nodes renew it at each start.
const CERTIFICATE_MS: u64 = 24 * 3_600 * 1_000;

impl Node {
    /// Makes the node at `now_ms` and replays what it had accepted before.
    #[must_use]
    pub fn new(now_ms: u64, config: NodeConfig, facts: Vec<Fact>) -> Self {
        let id = NodeId(config.node_key.verifying_key().to_bytes());
        let account = AccountId(config.account_key.verifying_key().to_bytes());
        let body = Certificate {
            node: id,
            chain_address: config.chain_address,
            expires_ms: now_ms.saturating_add(CERTIFICATE_MS),
        };
        let certificate = Signed::new(config.network, &config.account_key, body);
        let mut node = Self {
            id,
            account,
            certificate,
            guard: ReplayGuard::default(),
            // Rises by one with each envelope, which the replay window counts on, and starts after a restart
            // above all that was used before: nobody sends a thousand envelopes each millisecond.
            sequence: now_ms << 10,
            peers: peers::Peers::default(),
            datanets: datanets::Datanets::default(),
            cards: cards::Cards::default(),
            requester: requester::Requester::default(),
            worker: worker::Worker::default(),
            verifier: verifier::Verifier::default(),
            asker: asker::Asker::default(),
            answering: answering::Answering::default(),
            audits: audits::Audits::default(),
            receipts: receipts::Receipts::default(),
            batches: batches::Batches::default(),
            proofs: proofs::Proofs::default(),
            funding: epochs::FundingRead::default(),
            anchors: anchors::Anchors::new(now_ms),
            settling: settling::Settling::default(),
            announced_ms: 0,
            gossiped_ms: 0,
            config,
        };
        for fact in facts {
            node.apply(fact);
        }
        node
    }

    /// The node's id.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// The account's id.
    #[must_use]
    pub fn account(&self) -> AccountId {
        self.account
    }

    /// The network.
    #[must_use]
    pub fn network(&self) -> NetworkId {
        self.config.network
    }

    /// Takes one input at `now_ms` (milliseconds since 1970) and says what to do.
    pub fn handle(&mut self, now_ms: u64, input: Input) -> Vec<Output> {
        let mut out = Out::default();
        match input {
            Input::Tick => self.tick(now_ms, &mut out),
            Input::Message { from, bytes } => {
                self.receive(now_ms, Some(from), &bytes, &mut out);
            }
            Input::Gossip { id, bytes } => {
                let keep = self.receive(now_ms, None, &bytes, &mut out);
                out.push(Output::Validated { id, keep });
            }
            Input::Connected(peer) => self.peers.connected(peer, true),
            Input::Disconnected(peer) => self.peers.connected(peer, false),
            Input::Listening { control, data } => self.peers.listening(control, data),
            Input::Command(command) => self.command(now_ms, *command, &mut out),
            Input::Progress(progress) => self.worker.progress(progress),
            Input::Finished { job, outcome } => self.finished(now_ms, job, *outcome, &mut out),
            Input::Serving(adapter) => self.worker.serve(adapter),
            Input::Dropped(adapter) => self.worker.drop_served(adapter),
            Input::Fetched { blob } => {
                self.datanets_fetched(blob, &mut out);
                self.requester.fetched(blob);
            }
            Input::Body { blob, bytes } => self.batch_body(now_ms, blob, &bytes, &mut out),
            Input::Question { from, stream, bytes } => self.question(now_ms, from, stream, &bytes, &mut out),
            Input::AnswerArrived { key, offer, transcript } => {
                self.answer_arrived(now_ms, key, &offer, transcript, &mut out);
            }
            Input::AnswerFailed { key, refusal } => self.answer_failed(now_ms, key, refusal, &mut out),
            Input::VoucherSigned(voucher) => self.voucher_signed(now_ms, *voucher, &mut out),
            Input::VoucherVerified(voucher) => self.voucher_verified(now_ms, voucher, &mut out),
            Input::EpochPosted { epoch } => self.epoch_posted(epoch, &mut out),
            Input::EpochUnfunded { epoch } => self.epoch_unfunded(epoch, &mut out),
            Input::FundingRead { funding, arrived } => self.funding_read(&funding, arrived, &mut out),
            Input::EpochsRead(told) => self.epochs_read(now_ms, told, &mut out),
            Input::FalsehoodFound(proof) => {
                self.keep_proof(&proof, &mut out);
            }
            Input::CardChecked { from, datanet, checked } => {
                self.card_checked(now_ms, from, datanet, checked, &mut out);
            }
        }
        out.into_outputs()
    }

    fn tick(&mut self, now_ms: u64, out: &mut Out) {
        if now_ms.saturating_sub(self.announced_ms) >= self.peers.announce_interval_ms() {
            self.announced_ms = now_ms;
            let record = self.own_record();
            self.publish(now_ms, Message::Peer(Box::new(record)), out);
        }
        if now_ms.saturating_sub(self.gossiped_ms) >= ANNOUNCE_MS {
            self.gossiped_ms = now_ms;
            self.announce_datanets(now_ms, out);
            self.announce_cards(now_ms, out);
            self.announce_releases(now_ms, out);
        }
        self.attest(now_ms, out);
        self.datanets_tick(now_ms, out);
        self.requester_tick(now_ms, out);
        self.worker_tick(now_ms, out);
        self.asker_tick(now_ms, out);
        self.audits_tick(now_ms, out);
        self.settling_tick(now_ms, out);
        self.receipts_tick(now_ms, out);
        self.batches_tick(now_ms, out);
        self.epochs_tick(now_ms, out);
        self.anchors_tick(now_ms, out);
    }

    /// Opens one envelope; says whether gossip should carry it on: `Some(true)` keeps, `Some(false)` blames the
    /// sender, `None` drops it silently (a replay, a foreign clock).
    fn receive(&mut self, now_ms: u64, from: Option<NodeId>, bytes: &[u8], out: &mut Out) -> Option<bool> {
        let opened = match envelope::open(bytes, self.config.network, now_ms, &mut self.guard) {
            Ok(opened) => opened,
            Err(envelope::EnvelopeError::Replay(_) | envelope::EnvelopeError::Clock { .. }) => return None,
            Err(error) => {
                self.blame(from, error.to_string(), out);
                return Some(false);
            }
        };
        if from.is_some_and(|from| from != opened.signer) {
            self.blame(from, "sent an envelope of another node as its own".into(), out);
            return Some(false);
        }
        if from.is_none() && !message::is_gossip(opened.kind) {
            self.blame(Some(opened.signer), format!("gossiped a message of kind {}", opened.kind), out);
            return Some(false);
        }
        match Message::from_body(opened.kind, &opened.body) {
            Ok(message) => {
                self.message(now_ms, opened.signer, message, out);
                Some(true)
            }
            Err(error) => {
                self.blame(Some(opened.signer), error.to_string(), out);
                Some(false)
            }
        }
    }

    fn blame(&mut self, peer: Option<NodeId>, reason: String, out: &mut Out) {
        if let Some(peer) = peer {
            out.push(Output::Penalise { peer, reason });
        }
    }

    fn message(&mut self, now_ms: u64, from: NodeId, message: Message, out: &mut Out) {
        match message {
            Message::Peer(record) => self.peer_record(now_ms, from, *record, out),
            Message::Genesis(genesis) => self.genesis(from, *genesis, out),
            Message::Head(head) => self.head(now_ms, from, &head, out),
            Message::GenesisWanted(datanet) => self.genesis_wanted(now_ms, from, datanet, out),
            Message::LogWanted(wanted) => self.log_wanted(now_ms, from, wanted, out),
            Message::LogEntries(entries) => self.log_entries(from, entries, out),
            Message::Offer(offer) => self.offer(now_ms, from, *offer, out),
            Message::BidSealed(bid) => self.bid_sealed(now_ms, from, bid),
            Message::BidOpened(bid) => self.bid_opened(now_ms, from, bid),
            Message::Awarded(award) => self.awarded(now_ms, from, &award, out),
            Message::Heartbeat(beat) => self.heartbeat(now_ms, from, beat, out),
            Message::Cancelled(round) => self.cancelled(now_ms, from, round, out),
            Message::Result(result) => self.result(now_ms, from, *result, out),
            Message::CheckWanted(check) => self.check_wanted(now_ms, from, *check, out),
            Message::Verdict(verdict) => self.verdict(now_ms, from, *verdict, out),
            Message::Accepted(accepted) => self.accepted(now_ms, from, &accepted, out),
            Message::ReceiptOffered(offer) => self.receipt_offered(now_ms, from, *offer, out),
            Message::Receipt(receipt) => self.receipt(now_ms, from, *receipt, out),
            Message::ReceiptKept(id) => self.receipt_acknowledged(from, id, out),
            Message::Voucher(voucher) => self.voucher(from, *voucher, out),
            Message::VoucherKept(amount) => self.voucher_acknowledged(from, amount),
            Message::Release(release) => self.release(now_ms, from, *release, out),
            Message::AuditWanted(audit) => self.audit_wanted(now_ms, from, *audit, out),
            Message::SharesWanted(audit) => self.shares_wanted(now_ms, from, *audit, out),
            Message::Batches(heads) => self.batch_heads(from, heads, out),
            Message::BatchesWanted(start) => self.batches_wanted(now_ms, from, start, out),
            Message::Epoch(head) => self.epoch(now_ms, from, head, out),
            Message::Declined(declined) => self.declined(from, declined),
            Message::CardHead(head) => self.card_head(now_ms, from, &head, out),
            Message::CardWanted(head) => self.card_wanted(now_ms, from, &head, out),
            Message::CardChanges(changes) => self.card_changes(from, changes, out),
            Message::NotesWanted(wanted) => self.notes_wanted(now_ms, from, wanted, out),
            Message::Notes(notes) => self.notes(from, notes, out),
            Message::Question(_) => self.blame(Some(from), "sent a question outside an answer stream".into(), out),
        }
    }

    fn command(&mut self, now_ms: u64, command: Command, out: &mut Out) {
        match command {
            Command::CreateDatanet(genesis) => self.create_datanet(genesis, out),
            Command::Contribute(contribution) => self.contribute(now_ms, contribution, out),
            Command::Commit { datanet, records_root } => self.commit(now_ms, datanet, records_root, out),
            Command::FineTune(command) => self.fine_tune(now_ms, command, out),
            Command::Release(release) => self.publish_release(now_ms, *release, out),
            Command::Ask(command) => self.ask(now_ms, command, out),
            Command::StopFineTune(key) => self.stop_fine_tune(now_ms, key, out),
            Command::CloseEpoch => self.close_epoch(out),
            Command::EditCard { datanet, change } => self.edit_card(now_ms, datanet, change, out),
        }
    }

    fn finished(&mut self, now_ms: u64, job: Hash, outcome: JobOutcome, out: &mut Out) {
        match outcome {
            JobOutcome::Trained(result) => self.trained(now_ms, job, result, out),
            JobOutcome::Replayed(outcome, checked) => self.replayed(now_ms, job, outcome, checked, out),
            JobOutcome::Answered(answer) => self.answered(now_ms, job, &answer, out),
            JobOutcome::AnswerChecked(outcome, checked) => self.answer_checked(now_ms, job, outcome, checked, out),
            JobOutcome::AnswerFalse { reason, checked, proof } => {
                self.answer_false(now_ms, job, reason, checked, &proof, out);
            }
            JobOutcome::TrueCredits(credits) => self.true_credits(now_ms, job, &credits, out),
            JobOutcome::Failed(reason) => self.job_failed(now_ms, job, reason.into(), out),
            JobOutcome::Refused(refusal) => self.job_failed(now_ms, job, refusal, out),
        }
    }

    fn seal(&mut self, now_ms: u64, message: &Message) -> Vec<u8> {
        self.sequence += 1;
        envelope::seal(
            &self.config.node_key,
            self.config.network,
            self.sequence,
            now_ms,
            message.kind(),
            message.to_body(),
        )
    }

    fn send(&mut self, now_ms: u64, to: NodeId, message: &Message, out: &mut Out) {
        let bytes = self.seal(now_ms, message);
        out.push(Output::Send { to, bytes });
    }

    fn publish(&mut self, now_ms: u64, message: Message, out: &mut Out) {
        let bytes = self.seal(now_ms, &message);
        out.push(Output::Publish { bytes });
    }

    /// A secret that only this node can compute and that is the same after a restart.
    fn derived(&self, purpose: &str, subject: &[u8]) -> Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.config.entropy.0);
        hasher.update(purpose.as_bytes());
        hasher.update(&[0]);
        hasher.update(subject);
        Hash(*hasher.finalize().as_bytes())
    }
}

/// Removes the entries of `map` that `keep` refuses once it has more than `limit`.
fn trim<K: Ord + Copy, V>(map: &mut BTreeMap<K, V>, limit: usize, keep: impl Fn(&V) -> bool) {
    if map.len() > limit {
        map.retain(|_, value| keep(value));
    }
}
