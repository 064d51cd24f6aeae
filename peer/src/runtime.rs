//! Drives [`Node`] with real sockets: takes events in, performs what comes out, in its order.
//!
//! Invariant: facts are durable before any output after them is performed; when they cannot be made durable the
//! node stops with the reason, since it must not promise what it would forget.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{Semaphore, broadcast, mpsc, watch};
use tributary_protocol::id::{Hash, NodeId};
use tributary_protocol::limits::TICK_MS;
use tributary_protocol::node::{Event, Fact, FeeStream, Input, Node, Output, Work};
use tributary_protocol::wire;
use tributary_storage::blobs::BlobStore;
use tributary_storage::journal::{Journal, MAX_BATCH_BYTES};

use crate::answers::Answers;
use crate::cards::Cards;
use crate::handle::{NodeHandle, Request};
use crate::net::control::{Control, ControlEvent, GossipId};
use crate::net::data::{AnswerStream, DataPlane};
use crate::settle::{SettleError, Settlement};
use crate::work::Workshop;

/// Events that a slow listener may lag behind.
pub const EVENT_QUEUE: usize = 1024;
/// Bytes that the journal may keep beside each fact.
const ENTRY_OVERHEAD_BYTES: usize = 256;
/// Misbehaviours after which a peer is banned: one may be an accident of versions, four are none.
const STRIKES_MAX: u32 = 4;
/// Gossip messages whose verdict is open.
const GOSSIP_OPEN_MAX: usize = 4096;
/// Blobs fetched at once for the node itself; the node asks again for what was left out.
const FETCHES_AT_ONCE: usize = 16;
/// Ticks of the node come this often; a quarter of the protocol's interval keeps local networks brisk.
const TICK: Duration = Duration::from_millis(TICK_MS / 4);

/// The parts a runtime drives the node with.
pub struct Parts {
    /// The state machine.
    pub node: Node,
    /// Its journal.
    pub journal: Arc<Journal>,
    /// libp2p.
    pub control: Control,
    /// iroh and quinn.
    pub data: DataPlane,
    /// Jobs.
    pub workshop: Arc<Workshop>,
    /// Answer streams.
    pub answers: Arc<Answers>,
    /// The documents of cards.
    pub cards: Arc<Cards>,
    /// Money.
    pub settlement: Arc<Settlement>,
    /// The handle that jobs and users hold.
    pub handle: NodeHandle,
    /// Events for users.
    pub events: broadcast::Sender<Event>,
    /// The gossip topic of the network.
    pub topic: String,
}

/// What the runtime reads.
pub struct Sources {
    /// Inputs and views.
    pub requests: mpsc::Receiver<Request>,
    /// Control plane.
    pub control: mpsc::Receiver<ControlEvent>,
    /// Questions.
    pub streams: mpsc::Receiver<AnswerStream>,
}

struct Runtime {
    parts: Parts,
    gossip: BTreeMap<u64, GossipId>,
    next_gossip: u64,
    strikes: BTreeMap<NodeId, u32>,
    posting: Arc<tokio::sync::Mutex<()>>,
    reading: Arc<tokio::sync::Mutex<()>>,
    /// Epochs are read one after the other too.
    anchoring: Arc<tokio::sync::Mutex<()>>,
    fetching: Arc<Semaphore>,
    loopback: VecDeque<Vec<u8>>,
}

/// Milliseconds since 1970.
#[must_use]
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Runs the node until it is stopped; an error is why it had to stop by itself.
///
/// # Errors
/// When facts cannot be made durable.
pub async fn run(parts: Parts, mut sources: Sources, failed: watch::Sender<Option<String>>) {
    let mut runtime = Runtime {
        parts,
        gossip: BTreeMap::new(),
        next_gossip: 0,
        strikes: BTreeMap::new(),
        posting: Arc::default(),
        reading: Arc::default(),
        anchoring: Arc::default(),
        fetching: Arc::new(Semaphore::new(FETCHES_AT_ONCE)),
        loopback: VecDeque::new(),
    };
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        let outcome = tokio::select! {
            Some(request) = sources.requests.recv() => match request {
                Request::Input(input) => runtime.take(*input).await,
                Request::View(look) => {
                    look(&runtime.parts.node);
                    Ok(())
                }
                Request::Stop(done) => {
                    let _ = done.send(());
                    return;
                }
            },
            Some(event) = sources.control.recv() => runtime.control(event).await,
            Some(stream) = sources.streams.recv() => {
                let (handle, traffic) = (runtime.parts.handle.clone(), Arc::clone(&runtime.parts.workshop.traffic));
                runtime.parts.answers.accept(stream, handle, traffic);
                Ok(())
            }
            _ = ticks.tick() => runtime.take(Input::Tick).await,
        };
        if let Err(reason) = outcome {
            tracing::error!(%reason, "the node stops: what it accepts cannot be made durable");
            failed.send_replace(Some(reason));
            return;
        }
    }
}

impl Runtime {
    async fn control(&mut self, event: ControlEvent) -> Result<(), String> {
        match event {
            ControlEvent::Message { from, bytes, gossip } => {
                self.parts.workshop.traffic.received(bytes.len());
                match gossip {
                    None => self.take(Input::Message { from, bytes: bytes.to_vec() }).await,
                    Some(gossip) => self.gossip(gossip, bytes.to_vec()).await,
                }
            }
            ControlEvent::PeerConnected(peer) => self.take(Input::Connected(peer)).await,
            ControlEvent::PeerDisconnected(peer) => self.take(Input::Disconnected(peer)).await,
            ControlEvent::Listening(address) => {
                tracing::debug!(address, "listening");
                self.listening().await
            }
            ControlEvent::SendFailed { to, reason, .. } => {
                tracing::debug!(to = %to.short(), %reason, "a message was given up");
                Ok(())
            }
        }
    }

    async fn listening(&mut self) -> Result<(), String> {
        let control = self.parts.control.listen_addrs().await.map_err(|error| error.to_string())?;
        let data = data_addresses(&self.parts.data);
        self.take(Input::Listening { control, data }).await
    }

    async fn gossip(&mut self, gossip: GossipId, bytes: Vec<u8>) -> Result<(), String> {
        self.next_gossip += 1;
        let id = self.next_gossip;
        if self.gossip.len() >= GOSSIP_OPEN_MAX {
            self.gossip.pop_first();
        }
        self.gossip.insert(id, gossip);
        self.take(Input::Gossip { id, bytes }).await
    }

    /// Takes one input and everything the node says to itself because of it.
    async fn take(&mut self, input: Input) -> Result<(), String> {
        self.step(input).await?;
        while let Some(bytes) = self.loopback.pop_front() {
            let from = self.parts.node.id();
            self.step(Input::Message { from, bytes }).await?;
        }
        Ok(())
    }

    async fn step(&mut self, input: Input) -> Result<(), String> {
        for output in self.parts.node.handle(now_ms(), input) {
            self.perform(output).await?;
        }
        Ok(())
    }

    async fn persist(&self, facts: Vec<Fact>) -> Result<(), String> {
        let journal = Arc::clone(&self.parts.journal);
        let entries: Vec<Vec<u8>> = facts.iter().map(wire::encode).collect();
        let written =
            move || batches(&entries).into_iter().try_for_each(|batch| journal.append_durable(batch).map(drop));
        let written = tokio::task::spawn_blocking(written).await.map_err(|error| error.to_string())?;
        written.map_err(|error| error.to_string())
    }

    async fn perform(&mut self, output: Output) -> Result<(), String> {
        match output {
            Output::Persist(facts) => self.persist(facts).await?,
            Output::Send { to, bytes } if to == self.parts.node.id() => self.loopback.push_back(bytes),
            Output::Send { to, bytes } => self.send(to, bytes).await,
            Output::Publish { bytes } => self.publish(bytes).await,
            Output::Validated { id, keep } => self.validated(id, keep).await,
            Output::Fetch { blob, bytes, providers } => self.fetch(blob, bytes, providers, false),
            Output::FetchBody { blob, bytes, providers } => self.fetch(blob, bytes, providers, true),
            Output::Provide { bytes } => {
                self.parts.workshop.keep(bytes).await.map_err(|error| error.to_string())?;
            }
            Output::Learn { peer, control, data } => self.learn(peer, &control, &data).await,
            Output::Start { job, work } => self.start(job, work),
            Output::Stop { job } => self.parts.workshop.stop(job),
            Output::Load { release } => self.parts.workshop.load(*release),
            Output::OpenAnswer { key, worker, bytes } => self.parts.answers.ask(
                key,
                (worker != self.parts.node.id()).then_some(worker),
                bytes,
                self.parts.data.clone(),
                self.parts.handle.clone(),
                Arc::clone(&self.parts.workshop.traffic),
            ),
            Output::FinishAnswer { stream, bytes } => {
                let answers = Arc::clone(&self.parts.answers);
                tokio::spawn(async move { answers.finish(stream, &bytes).await });
            }
            Output::RefuseAnswer { stream, refusal } => {
                let answers = Arc::clone(&self.parts.answers);
                tokio::spawn(async move { answers.refuse(stream, &refusal).await });
            }
            Output::SignVoucher(_)
            | Output::VerifyVoucher(_)
            | Output::PostEpoch(_)
            | Output::ReadFunding(_)
            | Output::ReadEpochs(_) => {
                self.settle(output);
            }
            Output::CheckCard { from, datanet, changes } => {
                let cards = Arc::clone(&self.parts.cards);
                tokio::spawn(async move { cards.check(from, datanet, changes).await });
            }
            Output::Penalise { peer, reason } => self.penalise(peer, &reason).await,
            Output::Event(event) => {
                tracing::debug!(?event, "event");
                match &event {
                    Event::AskFailed { key, .. } => self.parts.answers.give_up(key),
                    Event::AuditDrawn(receipt) => tracing::info!(%receipt, "an answer was drawn to be audited"),
                    _ => {}
                }
                // Nobody may be listening.
                let _ = self.parts.events.send(event);
            }
        }
        Ok(())
    }

    async fn send(&self, to: NodeId, bytes: Vec<u8>) {
        self.parts.workshop.traffic.sent(bytes.len());
        // What does not arrive is sent again by the state machine.
        if let Err(error) = self.parts.control.send(to, bytes).await {
            tracing::debug!(to = %to.short(), %error, "not sent");
        }
    }

    async fn publish(&self, bytes: Vec<u8>) {
        self.parts.workshop.traffic.sent(bytes.len());
        if let Err(error) = self.parts.control.publish(&self.parts.topic, bytes).await {
            tracing::debug!(%error, "not published");
        }
    }

    async fn validated(&mut self, id: u64, keep: Option<bool>) {
        let Some(gossip) = self.gossip.remove(&id) else { return };
        let control = &self.parts.control;
        let told = match keep {
            Some(true) => control.accept(&gossip).await,
            Some(false) => control.reject(&gossip).await,
            None => control.ignore(&gossip).await,
        };
        if let Err(error) = told {
            tracing::debug!(%error, "a gossip verdict came too late");
        }
    }

    fn fetch(&self, blob: Hash, limit: u64, providers: Vec<NodeId>, body: bool) {
        let Ok(slot) = Arc::clone(&self.fetching).try_acquire_owned() else { return };
        let workshop = Arc::clone(&self.parts.workshop);
        tokio::spawn(async move {
            let _slot = slot;
            let here = workshop.store.has(blob).await.unwrap_or(false);
            if !here {
                match workshop.data.fetch(blob, &providers, limit).await {
                    Ok(bytes) => workshop.traffic.fetched(bytes),
                    Err(error) => {
                        tracing::debug!(blob = %blob.short(), %error, "not fetched");
                        return;
                    }
                }
            }
            let input = if body {
                match workshop.store.get(blob).await {
                    Ok(Some(bytes)) => Input::Body { blob, bytes: bytes.to_vec() },
                    _ => return,
                }
            } else {
                Input::Fetched { blob }
            };
            let _ = workshop.node.input(input).await;
        });
    }

    async fn learn(&self, peer: NodeId, control: &[String], data: &[String]) {
        if let Err(error) = self.parts.control.add_peer_addr(peer, control).await {
            tracing::debug!(peer = %peer.short(), %error, "an address is not usable");
        }
        let (iroh, lanes) = parse_data_addresses(data);
        if let Err(error) = self.parts.data.add_peer_addr(peer, &iroh) {
            tracing::debug!(peer = %peer.short(), %error, "an address is not usable");
        }
        self.parts.data.add_lane_addrs(peer, &lanes);
    }

    fn start(&self, job: Hash, work: Work) {
        let head = match &work {
            Work::Train { offer, .. } | Work::Replay { offer, .. } => Some(&offer.body.work.head),
            Work::Answer { .. } | Work::CheckAnswer { .. } | Work::TrueCredits { .. } => None,
        };
        let entries = head.and_then(|head| self.parts.node.datanet(&head.datanet)?.version(head)).unwrap_or_default();
        self.parts.workshop.start(job, work, entries);
    }

    fn settle(&self, output: Output) {
        let settlement = Arc::clone(&self.parts.settlement);
        let handle = self.parts.handle.clone();
        match output {
            Output::SignVoucher(voucher) => {
                tokio::spawn(async move {
                    match settlement.sign_voucher(*voucher).await {
                        Ok(signed) => {
                            let _ = handle.input(Input::VoucherSigned(Box::new(signed))).await;
                        }
                        Err(error) => tracing::debug!(%error, "a voucher is not signed yet"),
                    }
                });
            }
            Output::VerifyVoucher(voucher) if settlement.verify_voucher(&voucher) => {
                tokio::spawn(async move { handle.input(Input::VoucherVerified(voucher)).await });
            }
            Output::PostEpoch(body) => self.post_epoch(*body),
            Output::ReadFunding(streams) => self.read_funding(streams),
            Output::ReadEpochs(epochs) => {
                let Ok(turn) = Arc::clone(&self.anchoring).try_lock_owned() else { return };
                tokio::spawn(async move {
                    let _turn = turn;
                    match settlement.anchored(&epochs).await {
                        Ok(told) => {
                            let _ = handle.input(Input::EpochsRead(told)).await;
                        }
                        Err(error) => tracing::debug!(%error, "which epochs stand is not known yet"),
                    }
                });
            }
            _ => {}
        }
    }

    /// Posts one epoch at a time; the node asks again until it stands.
    fn post_epoch(&self, body: tributary_protocol::batch::EpochBody) {
        let Ok(turn) = Arc::clone(&self.posting).try_lock_owned() else { return };
        let receipts = body.ids().filter_map(|id| self.parts.node.receipt_of(id).cloned()).collect::<Vec<_>>();
        let (settlement, handle) = (Arc::clone(&self.parts.settlement), self.parts.handle.clone());
        tokio::spawn(async move {
            let _turn = turn;
            match settlement.post_epoch(&body, &receipts).await {
                Ok(()) => {
                    let _ = handle.input(Input::EpochPosted { epoch: body.epoch }).await;
                }
                Err(error @ SettleError::NotFunded { .. }) => {
                    tracing::warn!(epoch = body.epoch, %error, "the epoch is given up");
                    let _ = handle.input(Input::EpochUnfunded { epoch: body.epoch }).await;
                }
                Err(error) => tracing::info!(epoch = body.epoch, %error, "the epoch is not anchored yet"),
            }
        });
    }

    /// Reads on the chain which fees arrived; the node asks again until it hears.
    fn read_funding(&self, streams: Vec<FeeStream>) {
        let Ok(turn) = Arc::clone(&self.reading).try_lock_owned() else { return };
        let (settlement, handle) = (Arc::clone(&self.parts.settlement), self.parts.handle.clone());
        tokio::spawn(async move {
            let _turn = turn;
            match settlement.funding(&streams).await {
                Ok((funding, arrived)) => {
                    let _ = handle.input(Input::FundingRead { funding, arrived }).await;
                }
                Err(error) => tracing::debug!(%error, "which fees arrived is not known yet"),
            }
        });
    }

    async fn penalise(&mut self, peer: NodeId, reason: &str) {
        if self.strikes.len() > GOSSIP_OPEN_MAX {
            self.strikes.clear();
        }
        let strikes = self.strikes.entry(peer).or_insert(0);
        *strikes += 1;
        tracing::info!(peer = %peer.short(), %reason, strikes = *strikes, "a peer broke the rules");
        if *strikes >= STRIKES_MAX && peer != self.parts.node.id() {
            let _ = self.parts.control.ban(peer).await;
            self.parts.data.ban(peer);
        }
    }
}

/// The data plane's addresses as a peer record has them: the lane's marked as such.
#[must_use]
pub fn data_addresses(data: &DataPlane) -> Vec<String> {
    let iroh = data.local_addrs().into_iter().map(|addr| format!("iroh:{addr}"));
    iroh.chain(data.lane_addrs().into_iter().map(|addr| format!("lane:{addr}"))).collect()
}

fn parse_data_addresses(texts: &[String]) -> (Vec<SocketAddr>, Vec<SocketAddr>) {
    let of = |kind: &str| texts.iter().filter_map(|text| text.strip_prefix(kind)?.parse().ok()).collect();
    (of("iroh:"), of("lane:"))
}

/// The facts of one step in parts that the journal takes. All are one part, but where a witness's batch of large receipts was
/// read; that it was read is the last fact, so that a crash between two parts has it read again.
fn batches(mut entries: &[Vec<u8>]) -> Vec<&[Vec<u8>]> {
    let mut batches = Vec::new();
    while !entries.is_empty() {
        let mut bytes = 0;
        let fits = |entry: &&Vec<u8>| {
            bytes += entry.len() + ENTRY_OVERHEAD_BYTES;
            bytes <= MAX_BATCH_BYTES
        };
        let (batch, later) = entries.split_at(entries.iter().take_while(fits).count().max(1));
        batches.push(batch);
        entries = later;
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_beyond_a_batch_of_the_journal_are_kept_in_several_in_their_order() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(&folder.path().join("journal")).unwrap();
        let entries: Vec<Vec<u8>> = (0..70).map(|number| vec![number; 1 << 20]).collect();
        assert!(journal.append_durable(&entries).is_err());
        let parts = batches(&entries);
        assert!(parts.len() == 2 && parts.concat() == entries);
        for part in parts {
            journal.append_durable(part).unwrap();
        }
        assert!(batches(&[]).is_empty());
    }
}
