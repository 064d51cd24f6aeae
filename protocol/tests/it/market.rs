//! The market between a few nodes: refusals and declines reach who must know them, runs can be stopped, a node
//! answers itself, and epochs count only what is funded. The nodes are real; drivers are played by this file.

#[path = "market/attacks.rs"]
mod attacks;
#[path = "market/auditors.rs"]
mod auditors;
#[path = "market/bids.rs"]
mod bids;
#[path = "market/crowding.rs"]
mod crowding;
#[path = "market/ends.rs"]
mod ends;
#[path = "market/notaries.rs"]
mod notaries;
#[path = "market/settling.rs"]
mod settling;

use std::collections::{BTreeMap, VecDeque};

use ed25519_dalek::SigningKey;
use tributary_protocol::batch::{Anchored, EpochBody};
use tributary_protocol::datanet::{Genesis, Policy, Schema};
use tributary_protocol::decoding::Decoding;
use tributary_protocol::economy;
use tributary_protocol::envelope::{self, NetworkId, ReplayGuard, Signed};
use tributary_protocol::id::{AccountId, Amount, ChainAddress, DatanetId, Hash, NodeId, ReceiptId};
use tributary_protocol::message::{BASE_ALONE, Contributor, Message, Release, Roles};
use tributary_protocol::node::{
    AnswerTranscript, AskCommand, AskView, Command, Fact, FeeStream, FineTuneCommand, FinishedAnswer, Funding, Input,
    JobOutcome, Node, NodeConfig, Output, Phase, TrainedAdapter, Work,
};
use tributary_protocol::proof::{Judgement, Kind, Proof};
use tributary_protocol::receipt::ReceiptOffer;
use tributary_protocol::refusal::{DeclineReason, Refusal, RefusalKind};
use tributary_protocol::retrieval::Context;
use tributary_protocol::task::FineTune;
use tributary_protocol::transcript::Transcript;
use tributary_protocol::wire;

const BEGIN_MS: u64 = 1_800_000_000_000;
const FEE: Amount = Amount(1_000_000);
const TREASURY: ChainAddress = ChainAddress([0xee; 20]);
const PRICE: Amount = Amount(500_000);
const ADAPTER: Hash = Hash([32; 32]);

/// What a node's driver does with questions it is to answer.
#[derive(Clone, PartialEq)]
enum Answers {
    Well,
    InAnotherClass,
    WithoutProbabilities,
    WithFewerProbabilities,
    /// Its node moves weights in the receipt before it signs.
    WithOtherShares,
    Refuses(Refusal),
}

struct Host {
    node: Node,
    facts: Vec<Fact>,
    answers: Answers,
    /// Trainings that run here.
    jobs: BTreeMap<Hash, u32>,
    posted: Vec<EpochBody>,
    questions: u32,
    funding_reads: u32,
}

struct Net {
    now_ms: u64,
    hosts: Vec<Host>,
    queue: VecDeque<(usize, Input)>,
    streams: BTreeMap<u64, (usize, Hash)>,
    transcripts: BTreeMap<u64, AnswerTranscript>,
    next_stream: u64,
    /// The address each account was bound to first.
    bound: BTreeMap<AccountId, ChainAddress>,
    /// What arrived, by paying address and payee.
    fees: BTreeMap<(ChainAddress, ChainAddress), Amount>,
    /// What stands on the chain.
    anchored: BTreeMap<u64, Anchored>,
    /// The chain takes no epoch, since its fees are not there.
    refuses_epochs: bool,
    /// Why somebody was, where a test expects that.
    blamed: Option<Vec<String>>,
    declines: u32,
    /// What each host finds that the only contributor's absence really changes in an answer, in micro-nats.
    found: BTreeMap<usize, i64>,
    /// What was put into the stores.
    provided: Vec<Vec<u8>>,
}

fn key(number: usize) -> SigningKey {
    SigningKey::from_bytes(&[u8::try_from(number + 1).expect("few hosts"); 32])
}

fn address(number: usize) -> ChainAddress {
    ChainAddress([u8::try_from(number + 1).expect("few hosts"); 20])
}

fn beacon(epoch: u64) -> Hash {
    Hash::of(&epoch.to_le_bytes())
}

fn declined_kind() -> u16 {
    Message::KINDS.iter().find(|(_, name)| *name == "Declined").expect("it is a message").0
}

/// The same where many are witnesses and check what others did.
fn verifying(config: NodeConfig) -> NodeConfig {
    NodeConfig { roles: Roles { verifier: true, witness: true, ..config.roles }, audit_ppm: 1, ..config }
}

fn config(number: usize, worker: bool) -> NodeConfig {
    NodeConfig {
        network: NetworkId::named("market"),
        node_key: key(number),
        account_key: key(number + 100),
        chain_address: address(number),
        treasury: TREASURY,
        roles: Roles { worker, verifier: false, witness: false, poster: true },
        classes: vec!["test".into()],
        training_price_per_kilostep: Amount(Amount::OPEN.0 * 10),
        training_ms_per_kilostep: 1_000,
        answer_price: PRICE,
        training_slots: 1,
        audit_ppm: 0,
        epoch_interval_ms: 0,
        entropy: Hash([7; 32]),
    }
}

impl Net {
    /// A network whose members know each other; the first is the user, the rest work, or all do.
    fn new(hosts: usize, user_works: bool) -> Self {
        let host = |number: usize| Host {
            node: Node::new(BEGIN_MS, config(number, number > 0 || user_works), Vec::new()),
            facts: Vec::new(),
            answers: Answers::Well,
            jobs: BTreeMap::new(),
            posted: Vec::new(),
            questions: 0,
            funding_reads: 0,
        };
        let mut net = Self {
            now_ms: BEGIN_MS,
            hosts: (0..hosts).map(host).collect(),
            queue: VecDeque::new(),
            streams: BTreeMap::new(),
            transcripts: BTreeMap::new(),
            next_stream: 0,
            bound: BTreeMap::new(),
            fees: BTreeMap::new(),
            anchored: BTreeMap::new(),
            refuses_epochs: false,
            blamed: None,
            declines: 0,
            found: BTreeMap::new(),
            provided: Vec::new(),
        };
        net.bound = net.hosts.iter().enumerate().map(|(place, host)| (host.node.account(), address(place))).collect();
        net.pass(3);
        net
    }

    /// Lets `seconds` pass, one tick each.
    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now_ms += 1_000;
            for host in 0..self.hosts.len() {
                self.feed(host, Input::Tick);
            }
        }
    }

    fn command(&mut self, host: usize, command: Command) {
        self.feed(host, Input::Command(Box::new(command)));
    }

    fn feed(&mut self, host: usize, input: Input) {
        self.queue.push_back((host, input));
        while let Some((host, input)) = self.queue.pop_front() {
            for output in self.hosts[host].node.handle(self.now_ms, input) {
                self.perform(host, output);
            }
        }
    }

    fn place_of(&self, node: NodeId) -> usize {
        self.hosts.iter().position(|host| host.node.id() == node).expect("a host of this net")
    }

    fn perform(&mut self, host: usize, output: Output) {
        match output {
            Output::Persist(facts) => self.hosts[host].facts.extend(facts),
            Output::Send { to, bytes } => {
                self.declines += u32::from(bytes[6..8] == declined_kind().to_le_bytes());
                let from = self.hosts[host].node.id();
                self.queue.push_back((self.place_of(to), Input::Message { from, bytes }));
            }
            Output::Publish { bytes } => {
                for other in (0..self.hosts.len()).filter(|other| *other != host) {
                    self.queue.push_back((other, Input::Gossip { id: 0, bytes: bytes.clone() }));
                }
            }
            Output::Fetch { blob, .. } => self.queue.push_back((host, Input::Fetched { blob })),
            Output::Load { release } => self.queue.push_back((host, Input::Serving(release.body.adapter))),
            Output::Start { job, work } => self.start(host, job, work),
            Output::Stop { job } => {
                self.hosts[host].jobs.remove(&job);
            }
            Output::OpenAnswer { key, worker, bytes } => {
                let (from, stream) = (self.hosts[host].node.id(), self.next_stream);
                self.next_stream += 1;
                self.streams.insert(stream, (host, key));
                self.queue.push_back((self.place_of(worker), Input::Question { from, stream, bytes }));
            }
            Output::RefuseAnswer { stream, refusal } => {
                let (asker, key) = self.streams[&stream];
                self.queue.push_back((asker, Input::AnswerFailed { key, refusal }));
            }
            Output::FinishAnswer { stream, bytes } => self.finish(host, stream, bytes),
            Output::SignVoucher(_)
            | Output::VerifyVoucher(_)
            | Output::ReadFunding(_)
            | Output::ReadEpochs(_)
            | Output::PostEpoch(_) => self.settle(host, output),
            Output::Provide { bytes } => self.provided.push(bytes),
            Output::Penalise { peer, reason } => match &mut self.blamed {
                Some(blamed) => blamed.push(reason),
                None => panic!("{peer:?} was blamed: {reason}"),
            },
            Output::FetchBody { blob, .. } => {
                let found = self.provided.iter().find(|bytes| Hash::of(bytes) == blob).cloned();
                self.queue.extend(found.map(|bytes| (host, Input::Body { blob, bytes })));
            }
            Output::Validated { .. } | Output::Learn { .. } | Output::CheckCard { .. } | Output::Event(_) => {}
        }
    }

    /// What a node's driver does on the chain.
    fn settle(&mut self, host: usize, output: Output) {
        match output {
            Output::SignVoucher(mut voucher) => {
                voucher.signature = vec![1; 65];
                self.queue.push_back((host, Input::VoucherSigned(voucher)));
            }
            Output::VerifyVoucher(voucher) => self.queue.push_back((host, Input::VoucherVerified(voucher))),
            Output::ReadFunding(streams) => {
                self.hosts[host].funding_reads += 1;
                let funding = streams.iter().map(|stream| self.funding_of(stream)).collect();
                let arrived = Amount(self.fees.values().map(|fees| fees.0).sum());
                self.queue.push_back((host, Input::FundingRead { funding, arrived }));
            }
            Output::ReadEpochs(epochs) => {
                let newest = self.anchored.keys().next_back();
                let told = epochs.iter().chain(newest).filter_map(|epoch| self.anchored.get(epoch)).copied().collect();
                self.queue.push_back((host, Input::EpochsRead(told)));
            }
            Output::PostEpoch(body) if self.refuses_epochs => {
                self.queue.push_back((host, Input::EpochUnfunded { epoch: body.epoch }));
            }
            Output::PostEpoch(body) => {
                self.queue.push_back((host, Input::EpochPosted { epoch: body.epoch }));
                let hash = Hash::of(&wire::encode(&*body));
                self.anchored
                    .insert(body.epoch, Anchored { epoch: body.epoch, body: hash, beacon: beacon(body.epoch) });
                self.hosts[host].posted.push(*body);
            }
            other => panic!("that is nothing for the chain: {other:?}"),
        }
    }

    fn finish(&mut self, host: usize, stream: u64, mut bytes: Vec<u8>) {
        if self.hosts[host].answers == Answers::WithOtherShares {
            bytes = other_shares(host, self.now_ms, &bytes);
        }
        let ((asker, key), transcript) = (self.streams[&stream], self.transcripts[&stream].clone());
        let arrived = Input::AnswerArrived { key, offer: bytes, transcript: Box::new(transcript) };
        self.queue.push_back((asker, arrived));
    }

    fn funding_of(&self, stream: &FeeStream) -> Funding {
        let worker_is_bound = self.bound.get(&stream.worker) == Some(&stream.payee);
        let from = self.bound.get(&stream.payer).copied().filter(|_| worker_is_bound);
        let fees = from.and_then(|from| self.fees.get(&(from, stream.payee)).copied()).unwrap_or_default();
        Funding { stream: *stream, from, fees }
    }

    /// The host again, after a restart with these facts beside its own.
    fn restart(&mut self, host: usize, more: impl IntoIterator<Item = Fact>) {
        self.hosts[host].facts.extend(more);
        self.hosts[host].node = Node::new(self.now_ms, config(host, host > 0), self.hosts[host].facts.clone());
        self.pass(6);
    }

    fn close_epoch(&mut self, host: usize) -> Vec<ReceiptId> {
        self.command(host, Command::CloseEpoch);
        self.hosts[host].posted.last().map(|body| body.ids().copied().collect()).unwrap_or_default()
    }

    fn start(&mut self, host: usize, job: Hash, work: Work) {
        match work {
            Work::Train { offer, .. } => {
                self.hosts[host].jobs.insert(job, offer.body.work.steps);
            }
            Work::Answer { stream, request, .. } => {
                self.hosts[host].questions += 1;
                let outcome = match self.hosts[host].answers.clone() {
                    Answers::Refuses(refusal) => JobOutcome::Refused(refusal),
                    taken => {
                        let text = "Corgill".to_owned();
                        let credits = vec![(0, 900_000)];
                        let sent = Transcript {
                            prompt_tokens: vec![1, 2, 3],
                            output_tokens: vec![4, 5],
                            fingerprints: Vec::new(),
                            credits: credits.clone(),
                            context: Context::default(),
                        };
                        let transcript = sent.to_bytes();
                        let answer = FinishedAnswer {
                            answer: Hash::of(text.as_bytes()),
                            prompt_tokens: 3,
                            answer_tokens: 2,
                            fingerprints: Hash([9; 32]),
                            logprobs: (taken != Answers::WithoutProbabilities)
                                .then_some(Hash([8; 32]))
                                .filter(|_| request.body.decoding.logprobs.is_some()),
                            transcript: Transcript::commitment(&transcript),
                            credits,
                            context: Context::default(),
                            class: if taken == Answers::InAnotherClass { "rare" } else { "test" }.into(),
                        };
                        let fingerprints = answer.fingerprints;
                        let reported = if taken == Answers::WithFewerProbabilities { 1 } else { answer.answer_tokens };
                        let logprobs = answer.logprobs.map(|commitment| (reported, commitment));
                        let transcript = AnswerTranscript { text, fingerprints, logprobs, transcript };
                        self.transcripts.insert(stream, transcript);
                        JobOutcome::Answered(answer)
                    }
                };
                self.queue.push_back((host, Input::Finished { job, outcome: Box::new(outcome) }));
            }
            Work::TrueCredits { .. } => {
                let outcome = match self.found.get(&host) {
                    Some(&settling::STILL_COMPUTING) => return,
                    Some(nats) => JobOutcome::TrueCredits(vec![(0, *nats)]),
                    None => JobOutcome::Failed("no room for the adapters".into()),
                };
                self.queue.push_back((host, Input::Finished { job, outcome: Box::new(outcome) }));
            }
            other => panic!("nobody verifies here: {other:?}"),
        }
    }

    /// The first host releases an adapter; all workers serve it.
    fn release(&mut self) {
        let account = self.hosts[0].node.account();
        let release = Release {
            name: "almanac".into(),
            adapter: ADAPTER,
            base: Hash([22; 32]),
            datanet: DatanetId([4; 32]),
            head: Hash([5; 32]),
            contributors: vec![Contributor {
                account,
                payout: address(0),
                leave_out: BASE_ALONE,
                together: None,
                entries: 1,
                estimated: false,
            }],
            notes: Vec::new(),
            index: Hash([6; 32]),
            answer_fee: FEE,
            builder: address(0),
            node: self.hosts[0].node.id(),
            unchecked: 0,
            quality: None,
        };
        self.command(0, Command::Release(Box::new(release)));
        self.pass(6);
    }

    fn ask(&mut self, number: u8, price_max: Amount) -> AskView {
        self.ask_for(number, price_max, None)
    }

    fn ask_for(&mut self, number: u8, price_max: Amount, logprobs: Option<u8>) -> AskView {
        let command = AskCommand {
            key: Hash([number; 32]),
            adapter: ADAPTER,
            prompt: "What is smoked?".into(),
            decoding: Decoding { max_tokens: 8, logprobs, ..Decoding::default() },
            retrieve: 0,
            price_max,
            deadline_ms: self.now_ms + 120_000,
            check: false,
        };
        self.command(0, Command::Ask(command));
        self.hosts[0].node.ask_view(&Hash([number; 32])).expect("it was asked")
    }

    fn datanet(&mut self) -> DatanetId {
        let genesis = Genesis {
            name: "letters".into(),
            owners: vec![self.hosts[0].node.account()],
            licence: "CC0-1.0".into(),
            policy: Policy::Open,
            schema: Schema::PromptCompletion,
            notaries: Vec::new(),
            created_ms: self.now_ms,
        };
        let network = NetworkId::named("market");
        let id = DatanetId(Signed::new(network, &key(100), genesis.clone()).id(network).0);
        self.command(0, Command::CreateDatanet(genesis));
        id
    }

    fn train(&mut self, number: u8, datanet: DatanetId, budget: Amount) -> Hash {
        self.train_without(number, datanet, budget, Vec::new())
    }

    fn train_without(&mut self, number: u8, datanet: DatanetId, budget: Amount, leave_out: Vec<AccountId>) -> Hash {
        let head = self.hosts[0].node.datanet(&datanet).expect("its owner knows it").head();
        let work = FineTune { base: Hash([22; 32]), head, recipe: "{}".into(), steps: 100, leave_out };
        let key = Hash([number; 32]);
        let deadline_ms = self.now_ms + 600_000;
        self.command(0, Command::FineTune(FineTuneCommand { key, work, budget, deadline_ms, segments_checked: 0 }));
        key
    }

    fn declines(&self, key: &Hash) -> Vec<DeclineReason> {
        let request = self.hosts[0].node.request(key).expect("it was wanted");
        request.declines.into_iter().map(|(_, reason)| reason).collect()
    }
}

/// The receipt offer in an envelope, with a weight that its worker's credits do not give, signed as it must be.
fn other_shares(host: usize, now_ms: u64, bytes: &[u8]) -> Vec<u8> {
    let network = NetworkId::named("market");
    let opened = envelope::open(bytes, network, now_ms, &mut ReplayGuard::default()).expect("its own envelope");
    let message = Message::from_body(opened.kind, &opened.body).expect("its own message");
    let Message::ReceiptOffered(offer) = message else { panic!("an offer ends an answer") };
    let mut receipt = offer.receipt;
    receipt.shares[0].weight -= 1_000;
    receipt.commons += 1_000;
    receipt.payments = economy::split(receipt.price, receipt.worker_part, receipt.policy, &receipt.to, &receipt.shares)
        .expect("a split of true parts");
    let offer = Message::ReceiptOffered(Box::new(ReceiptOffer::new(receipt, &key(host + 100))));
    envelope::seal(&key(host), network, opened.sequence + 500, now_ms, offer.kind(), offer.to_body())
}

fn limit() -> Amount {
    Amount(10 * (FEE.0 + PRICE.0))
}

#[test]
fn a_price_above_the_limit_fails_at_once_and_says_the_price() {
    let mut net = Net::new(3, false);
    net.release();
    let failure = net.ask(1, Amount(FEE.0 + PRICE.0 - 1)).failure.expect("it failed at once");
    assert_eq!(failure.kind, RefusalKind::Price);
    assert_eq!(net.hosts.iter().map(|host| host.questions).sum::<u32>(), 0, "nobody was asked");
    assert!(net.ask(2, Amount(FEE.0 + PRICE.0)).receipt.is_some());
}

#[test]
fn what_every_worker_refuses_for_good_fails_at_once() {
    let mut net = Net::new(3, false);
    net.release();
    let refusal = Refusal::new(RefusalKind::TooLong, "the prompt has 900 tokens, the model's context 512");
    for host in &mut net.hosts {
        host.answers = Answers::Refuses(refusal.clone());
    }
    assert_eq!(net.ask(1, limit()).failure, Some(refusal));
    assert_eq!(net.hosts.iter().map(|host| host.questions).sum::<u32>(), 2, "each was asked once");
}

#[test]
fn one_worker_that_refuses_for_good_does_not_speak_for_the_others() {
    for liar in 1..3 {
        let mut net = Net::new(3, false);
        net.release();
        net.hosts[liar].answers = Answers::Refuses(Refusal::new(RefusalKind::TooLong, "a lie"));
        assert!(net.ask(1, limit()).receipt.is_some(), "worker {liar} lied");
    }
}

#[test]
fn what_is_transient_goes_to_another_worker_and_is_tried_again() {
    let mut net = Net::new(3, false);
    net.release();
    net.hosts[1].answers = Answers::Refuses("busy".into());
    assert!(net.ask(1, limit()).receipt.is_some());
    net.hosts[2].answers = Answers::Refuses("busy".into());
    let waiting = net.ask(2, limit());
    assert!(waiting.receipt.is_none() && waiting.failure.is_none(), "{waiting:?}");
    net.hosts[2].answers = Answers::Well;
    net.pass(3);
    assert!(net.hosts[0].node.ask_view(&Hash([2; 32])).unwrap().receipt.is_some());
}

#[test]
fn a_question_that_came_to_nothing_is_asked_again_by_its_key_and_one_that_was_answered_is_not() {
    let mut net = Net::new(2, false);
    net.release();
    let asked = |net: &Net| net.hosts.iter().map(|host| host.questions).sum::<u32>();
    net.hosts[1].answers = Answers::Refuses(Refusal::new(RefusalKind::Funds, "it did not see the voucher yet"));
    assert!(net.ask(1, limit()).failure.is_some());
    net.hosts[1].answers = Answers::Well;
    let answered = net.ask(1, limit());
    assert!(answered.receipt.is_some() && answered.failure.is_none(), "{answered:?}");
    assert_eq!(net.ask(1, limit()).receipt, answered.receipt);
    assert_eq!(asked(&net), 2);
}

#[test]
fn an_answer_of_a_class_that_its_worker_did_not_announce_is_not_paid() {
    let mut net = Net::new(2, false);
    net.release();
    net.hosts[1].answers = Answers::InAnotherClass;
    assert!(net.ask(1, limit()).receipt.is_none(), "nobody could check it");
    assert_eq!(net.hosts[1].questions, 1);
    net.hosts[1].answers = Answers::Well;
    assert!(net.ask(2, limit()).receipt.is_some());
}

#[test]
fn weights_that_the_workers_own_credits_do_not_give_are_not_paid_and_convict_it() {
    let mut net = Net::new(2, false);
    net.release();
    net.hosts[1].answers = Answers::WithOtherShares;
    assert!(net.ask(1, limit()).receipt.is_none());
    let kept = net.hosts[0].node.proofs().to_vec();
    assert_eq!((kept.len(), kept[0].kind, kept[0].accused), (1, Kind::Sum, net.hosts[1].node.account()));
    let bytes = net.provided.last().expect("the proof is in the store");
    assert_eq!(kept[0].proof, Hash::of(bytes));
    assert!(matches!(Proof::from_bytes(bytes).expect("a proof").judge(), Judgement::Proven(_)));
    // Who was convicted is not asked again, and the proof outlives a restart.
    net.hosts[1].answers = Answers::Well;
    assert!(net.ask(2, limit()).receipt.is_none());
    assert_eq!(net.hosts[1].questions, 1);
    net.restart(0, []);
    assert_eq!(net.hosts[0].node.proofs(), kept);
}

#[test]
fn probabilities_that_were_asked_for_and_do_not_come_are_not_paid() {
    let mut net = Net::new(2, false);
    net.release();
    for (number, answers) in [(1, Answers::WithoutProbabilities), (2, Answers::WithFewerProbabilities)] {
        net.hosts[1].answers = answers;
        assert!(net.ask_for(number, limit(), Some(2)).receipt.is_none());
        assert_eq!(net.hosts[1].questions, u32::from(number));
    }
    assert!(net.ask(3, limit()).receipt.is_some(), "who did not ask for them is not concerned");
    net.hosts[1].answers = Answers::Well;
    assert!(net.ask_for(4, limit(), Some(2)).receipt.is_some());
}

#[test]
fn an_adapter_that_made_room_is_neither_served_nor_loaded_again() {
    let mut net = Net::new(2, false);
    net.release();
    assert!(net.ask(1, limit()).receipt.is_some());
    net.feed(1, Input::Dropped(ADAPTER));
    net.pass(30);
    assert!(net.hosts[1].node.record_view().serving.is_empty());
    assert!(net.ask(2, limit()).receipt.is_none());
}

#[test]
fn a_node_that_alone_serves_a_model_answers_itself_and_owes_only_the_fees() {
    let mut net = Net::new(1, true);
    net.release();
    let receipt = net.ask(1, limit()).receipt.expect("it answers itself");
    let node = &net.hosts[0].node;
    let signed = node.receipt_of(&receipt).unwrap().clone();
    assert_eq!((signed.receipt.payer, signed.receipt.worker), (node.account(), node.account()));
    assert_eq!((signed.receipt.worker_part, signed.receipt.price), (Amount::ZERO, FEE));
    assert!(signed.verify_offline().is_ok());
    let voucher = node.vouchers().next().expect("it holds its own promise");
    assert_eq!((voucher.cumulative, voucher.fees_cumulative), (Amount::ZERO, FEE));
}

#[test]
fn others_are_asked_before_the_node_itself() {
    let mut net = Net::new(2, true);
    net.release();
    let receipt = net.ask(1, limit()).receipt.unwrap();
    let signed = net.hosts[0].node.receipt_of(&receipt).unwrap();
    assert_eq!(signed.receipt.worker, net.hosts[1].node.account());
    net.hosts[1].answers = Answers::Refuses("busy".into());
    let receipt = net.ask(2, limit()).receipt.unwrap();
    assert_eq!(net.hosts[0].node.receipt_of(&receipt).unwrap().receipt.worker, net.hosts[0].node.account());
}
