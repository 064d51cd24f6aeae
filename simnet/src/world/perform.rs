//! What a driver does: performs a node's outputs on the simulated machine and network.

use std::sync::Arc;

use tributary_protocol::batch::EpochBody;
use tributary_protocol::id::{ChainAddress, Hash, NodeId};
use tributary_protocol::message::Message;
use tributary_protocol::node::{Event, Fact, Input, JobOutcome, Output, Work};
use tributary_protocol::receipt::Voucher;
use tributary_protocol::verification::Outcome;
use tributary_protocol::wire;

use super::{Happening, World};
use crate::behaviour::{self, Behaviour};
use crate::host::Part;
use crate::invariant::{Violation, kind_of};
use crate::scenario::{CrashPoint, Sabotage};
use crate::work;

/// Outputs after the facts that are still performed when a machine dies midway.
const MIDWAY: usize = 2;
/// Where a body begins in an envelope: header, signer, sequence, time and length.
const BODY_AT: usize = 12 + 32 + 8 + 8 + 8;
/// The signature that ends an envelope.
const SIGNATURE_BYTES: usize = 64;

/// Reads a message off the wire without checking who signed it.
pub(super) fn tap(envelope: &[u8]) -> Option<Message> {
    let kind = u16::from_le_bytes([*envelope.get(6)?, *envelope.get(7)?]);
    let body = envelope.get(BODY_AT..envelope.len().checked_sub(SIGNATURE_BYTES)?)?;
    Message::from_body(kind, body).ok()
}

fn kind_on_wire(envelope: &[u8]) -> u16 {
    envelope.get(6..8).map_or(0, |kind| u16::from_le_bytes([kind[0], kind[1]]))
}

/// The signature a driver makes for its chain address; only these bytes are right.
fn chain_signature(voucher: &Voucher) -> Vec<u8> {
    let unsigned = Voucher { signature: Vec::new(), ..voucher.clone() };
    let mut hasher = blake3::Hasher::new_derive_key("tributary simnet chain signature v1");
    hasher.update(&wire::encode(&unsigned));
    let mut signature = vec![0; 65];
    hasher.finalize_xof().fill(&mut signature);
    signature
}

impl World {
    pub(super) fn perform(&mut self, host: usize, outputs: Vec<Output>) {
        let facts =
            outputs.iter().find_map(|output| if let Output::Persist(facts) = output { Some(facts) } else { None });
        let crash = facts.and_then(|facts| self.faults.crash_due(host, facts));
        let mut after = None;
        for output in outputs {
            if let Output::Persist(facts) = output {
                if crash == Some(CrashPoint::BeforePersist) {
                    return self.crash(host);
                }
                self.persist(host, facts);
                if crash == Some(CrashPoint::AfterPersist) {
                    return self.crash(host);
                }
                after = Some(0);
                continue;
            }
            self.perform_one(host, output);
            after = after.map(|count| count + 1);
            if crash == Some(CrashPoint::Midway) && after >= Some(MIDWAY) {
                return self.crash(host);
            }
        }
        if crash.is_some() {
            self.crash(host);
        }
    }

    fn persist(&mut self, host: usize, mut facts: Vec<Fact>) {
        if self.scenario.sabotage == Some(Sabotage::PayTwice) {
            facts.iter_mut().for_each(pay_twice);
        }
        let forgets = self.scenario.sabotage == Some(Sabotage::ForgetReceipts);
        let machine = &mut self.hosts[host];
        for fact in &facts {
            machine.persist(fact, !(forgets && matches!(fact, Fact::ReceiptKept(_))));
        }
        self.invariants.persisted(machine.id, machine.account, &facts);
        for fact in &facts {
            self.note("fact", host, kind_of(fact).as_bytes());
            self.count(format!("fact {}", kind_of(fact)));
        }
    }

    fn perform_one(&mut self, host: usize, output: Output) {
        match output {
            Output::Persist(_) | Output::Learn { .. } => {}
            Output::Send { to, bytes } => self.send(host, to, bytes),
            Output::Publish { bytes } => self.publish(host, &bytes),
            Output::Validated { id, keep } => self.validated(id, keep),
            Output::Fetch { blob, bytes, providers } => {
                if let Some(delay_ms) = self.transfer_blob(host, blob, bytes.min(work::ADAPTER_BYTES), &providers) {
                    self.schedule_local(host, delay_ms, Input::Fetched { blob });
                }
            }
            Output::FetchBody { blob, bytes, providers } => {
                if let Some(delay_ms) = self.transfer_blob(host, blob, bytes, &providers) {
                    let bytes = self.contents.get(&blob).map(|bytes| bytes.to_vec()).unwrap_or_default();
                    self.schedule_local(host, delay_ms, Input::Body { blob, bytes });
                }
            }
            Output::Provide { bytes } => {
                let blob = Hash::of(&bytes);
                self.contents.insert(blob, Arc::from(bytes));
                self.hosts[host].blobs.insert(blob);
            }
            Output::Start { job, work } => self.begin(host, job, work),
            Output::Stop { job } => {
                self.hosts[host].jobs.remove(&job);
            }
            Output::OpenAnswer { key, worker, bytes } => self.open_answer(host, key, worker, bytes),
            Output::FinishAnswer { stream, bytes } => self.finish_answer(stream, bytes),
            Output::RefuseAnswer { stream, refusal } => self.refuse_stream(stream, refusal),
            Output::Load { release } => self.load(host, &release.body),
            Output::SignVoucher(voucher) => self.sign_voucher(host, *voucher),
            Output::VerifyVoucher(voucher) => {
                if chain_signature(&voucher) == voucher.signature {
                    self.schedule_local(host, 1, Input::VoucherVerified(voucher));
                } else {
                    self.count("vouchers refused");
                }
            }
            Output::PostEpoch(body) => self.post_later(host, body),
            Output::ReadFunding(streams) => {
                let funding = self.chain.funding(&streams);
                let arrived = self.chain.arrived();
                self.schedule_local(host, 1, Input::FundingRead { funding, arrived });
            }
            Output::ReadEpochs(epochs) => {
                let told = self.chain.anchored(&epochs);
                self.schedule_local(host, 1, Input::EpochsRead(told));
            }
            Output::CheckCard { from, datanet, changes } => self.check_card(host, from, datanet, changes),
            Output::Penalise { peer, reason } => self.penalised(peer, reason),
            Output::Event(event) => self.event(host, &event),
        }
    }

    fn send(&mut self, host: usize, to: NodeId, bytes: Vec<u8>) {
        self.check_durable(host, &bytes);
        let Some(to) = self.places.get(&to).copied() else { return };
        self.count(format!("sent kind {}", kind_on_wire(&bytes)));
        let bytes: Arc<[u8]> = Arc::from(bytes);
        if to == host {
            return self.schedule(0, Happening::Deliver { to, origin: host, gossip: false, bytes });
        }
        for delay_ms in self.links.send(self.now_ms, host, to, bytes.len(), &mut self.chance) {
            let bytes = Arc::clone(&bytes);
            self.schedule(delay_ms, Happening::Deliver { to, origin: host, gossip: false, bytes });
        }
    }

    pub(super) fn publish(&mut self, host: usize, bytes: &[u8]) {
        self.count(format!("published kind {}", kind_on_wire(bytes)));
        let bytes: Arc<[u8]> = Arc::from(bytes);
        for to in (0..self.hosts.len()).filter(|to| *to != host) {
            for delay_ms in self.links.send(self.now_ms, host, to, bytes.len(), &mut self.chance) {
                let bytes = Arc::clone(&bytes);
                self.schedule(delay_ms, Happening::Deliver { to, origin: host, gossip: true, bytes });
            }
        }
    }

    /// A receipt may leave a machine, and may be acknowledged by it, only once it is on its disk.
    fn check_durable(&mut self, host: usize, bytes: &[u8]) {
        let receipt = match kind_on_wire(bytes) {
            18 | 19 => match tap(bytes) {
                Some(Message::Receipt(signed)) => signed.receipt.id(),
                Some(Message::ReceiptKept(id)) => id,
                _ => return,
            },
            _ => return,
        };
        if !self.hosts[host].receipts_on_disk.contains(&receipt) {
            let node = self.hosts[host].id;
            self.invariants.report(Violation::NotDurable { receipt, node });
        }
    }

    fn validated(&mut self, id: u64, keep: Option<bool>) {
        let origin = usize::try_from(id).ok().and_then(|place| self.hosts.get(place));
        let Some(peer) = origin.filter(|origin| keep == Some(false) && origin.is_honest()).map(|origin| origin.id)
        else {
            return;
        };
        self.invariants.report(Violation::HonestBlamed { peer, reason: "its gossip was rejected".into() });
    }

    fn penalised(&mut self, peer: NodeId, reason: String) {
        let honest = self.places.get(&peer).is_some_and(|place| self.hosts[*place].is_honest());
        self.count(if honest { "honest peers blamed" } else { "attackers blamed" });
        if honest {
            self.invariants.report(Violation::HonestBlamed { peer, reason });
        }
    }

    /// Brings a blob to a machine; says after how long, when somebody who has it can be reached.
    fn transfer_blob(&mut self, host: usize, blob: Hash, bytes: u64, providers: &[NodeId]) -> Option<u64> {
        if self.hosts[host].blobs.contains(&blob) {
            return Some(1);
        }
        let giver = providers.iter().filter_map(|provider| self.places.get(provider).copied()).find(|place| {
            let other = &self.hosts[*place];
            other.node.is_some() && other.blobs.contains(&blob) && !self.links.is_cut(self.now_ms, host, *place)
        })?;
        let delay_ms = self.links.transfer(self.now_ms, giver, host, bytes, &mut self.chance)?;
        self.hosts[host].blobs.insert(blob);
        Some(delay_ms)
    }

    fn load(&mut self, host: usize, release: &tributary_protocol::message::Release) {
        let mut blobs = vec![release.adapter];
        blobs.extend(release.contributors.iter().map(|contributor| contributor.leave_out));
        let everybody: Vec<NodeId> = self.hosts.iter().map(|host| host.id).collect();
        let mut longest_ms = 0;
        for blob in blobs {
            let Some(delay_ms) = self.transfer_blob(host, blob, work::ADAPTER_BYTES, &everybody) else { return };
            longest_ms = longest_ms.max(delay_ms);
        }
        self.schedule_local(host, longest_ms, Input::Serving(release.adapter));
    }

    fn sign_voucher(&mut self, host: usize, mut voucher: Voucher) {
        if self.hosts[host].behaviour == Behaviour::Unfunded {
            return;
        }
        self.chain.fund(voucher.payer_address, voucher.payee, voucher.fees_cumulative);
        if self.scenario.sabotage == Some(Sabotage::InflateVouchers) {
            voucher.cumulative.0 *= 2;
        }
        voucher.signature = chain_signature(&voucher);
        self.schedule_local(host, 2, Input::VoucherSigned(Box::new(voucher)));
    }

    fn post_later(&mut self, host: usize, mut body: Box<EpochBody>) {
        if self.scenario.sabotage == Some(Sabotage::InflateEpoch) {
            body.earned.iter_mut().take(1).for_each(|(_, amount)| amount.0 += 1);
        }
        let delay_ms = self.chance.between(100, 900);
        let incarnation = self.hosts[host].incarnation;
        self.schedule(delay_ms, Happening::Post { host, incarnation, body });
    }

    /// A transaction reached the chain; whether the poster lives to hear of it is another matter.
    pub(super) fn post(&mut self, host: usize, incarnation: u32, body: &EpochBody) {
        let epoch = body.epoch;
        self.note("post", host, &wire::encode(body));
        self.invariants.epoch_posted(body);
        match self.chain.post(body) {
            Ok(()) if self.is_up(host, incarnation) => self.feed(host, Input::EpochPosted { epoch }),
            Ok(()) => {}
            Err(error) => self.invariants.report(Violation::EpochRefused { epoch, reason: error.to_string() }),
        }
    }

    fn begin(&mut self, host: usize, job: Hash, work: Work) {
        let machine = &self.hosts[host];
        let (behaviour, node) = (machine.behaviour, machine.id);
        let (stream, delay_ms, outcome) = match work {
            Work::Train { offer, award } => {
                let task = &offer.body.work;
                let elapsed_ms = machine.training_ms(task.steps);
                if behaviour.trains() {
                    self.report_progress(host, award.task, award.round, task.steps, elapsed_ms);
                }
                (None, elapsed_ms, JobOutcome::Trained(behaviour.train(&node, task, elapsed_ms)))
            }
            Work::Replay { offer, result, worker, segments } => {
                let outcome = self.replay(host, &offer.body.work, &result.body, worker, &segments);
                (None, self.chance.between(300, 2_000), JobOutcome::Replayed(outcome, segments))
            }
            Work::Answer { request, release, stream } => {
                let (answer, transcript) = behaviour.answer(&request.body, &release.body);
                self.streams.remember(stream, transcript);
                (Some(stream), self.chance.between(100, 800), JobOutcome::Answered(answer))
            }
            Work::CheckAnswer { audit, release } => {
                (None, self.chance.between(50, 400), behaviour::check_answer(&audit, &release))
            }
            Work::TrueCredits { audit, release } => {
                (None, self.chance.between(50, 400), behaviour::true_credits(&audit, &release))
            }
        };
        let incarnation = self.hosts[host].incarnation;
        self.hosts[host].jobs.insert(job, stream);
        let silent = match &outcome {
            JobOutcome::Trained(_) => !behaviour.trains(),
            JobOutcome::Answered(_) => !behaviour.answers(),
            _ => false,
        };
        if !silent {
            self.schedule(delay_ms, Happening::JobEnds { host, incarnation, job, outcome: Box::new(outcome) });
        }
    }

    /// Executes segments again, when the worker that has the checkpoints can be reached.
    fn replay(
        &mut self,
        host: usize,
        task: &tributary_protocol::task::FineTune,
        result: &tributary_protocol::verification::TaskResult,
        worker: NodeId,
        segments: &[u32],
    ) -> Outcome {
        let giver = self.places.get(&worker).copied();
        let reached =
            giver.is_some_and(|giver| self.hosts[giver].node.is_some() && !self.links.is_cut(self.now_ms, host, giver));
        if !reached {
            return Outcome::Abstained("the checkpoints could not be fetched".into());
        }
        behaviour::replay(task, result, segments)
    }

    fn report_progress(
        &mut self,
        host: usize,
        task: tributary_protocol::id::TaskId,
        round: u32,
        steps: u32,
        elapsed_ms: u64,
    ) {
        for tenth in 1..10_u32 {
            let progress = tributary_protocol::message::Heartbeat {
                task,
                round,
                step: steps * tenth / 10,
                steps,
                loss_micro_nats: 3_000_000 / u64::from(tenth),
                tokens_per_s: 1_000,
                curve: Vec::new(),
            };
            self.schedule_local(host, elapsed_ms * u64::from(tenth) / 10, Input::Progress(progress));
        }
    }

    pub(super) fn job_ends(&mut self, host: usize, job: Hash, outcome: JobOutcome) {
        if self.hosts[host].jobs.remove(&job).is_none() {
            return;
        }
        self.note("job", host, &job.0);
        if let JobOutcome::Trained(trained) = &outcome {
            let blobs = trained.checkpoints.iter().chain([&trained.adapter]);
            self.hosts[host].blobs.extend(blobs.copied());
        }
        self.feed(host, Input::Finished { job, outcome: Box::new(outcome) });
    }

    fn event(&mut self, host: usize, event: &Event) {
        let name = match event {
            Event::TaskAwarded { .. } => "tasks awarded",
            Event::TaskLapsed { reason, .. } if reason.starts_with("the check failed") => "tasks refuted",
            Event::TaskLapsed { reason, .. } if reason.contains("know its bid") => "bids not kept",
            Event::TaskLapsed { .. } => "tasks lapsed",
            Event::TaskChecked { .. } => "tasks checked",
            Event::TaskDone { .. } => "tasks done",
            Event::TaskFailed { .. } => "tasks failed",
            Event::JobLost { .. } => "jobs lost",
            Event::Answered { .. } => "questions answered",
            Event::AskFailed { .. } => "questions failed",
            Event::AnswerChecked { verdict, .. } if verdict.body.outcome == Outcome::Confirmed => "answers confirmed",
            Event::AnswerChecked { .. } => "answers refuted",
            Event::ProofKept(_) => "proofs kept",
            Event::EpochChecked { agrees: true, .. } => "epochs agreed",
            Event::EpochChecked { agrees: false, .. } => "epochs disputed",
            Event::ForkFound { .. } => "forks found",
            _ => return,
        };
        self.count(name);
        if self.hosts[host].part == Part::Builder {
            self.count(format!("builders: {name}"));
        }
    }

    pub(super) fn address_of(&self, host: usize) -> ChainAddress {
        self.hosts[host].address
    }
}

fn pay_twice(fact: &mut Fact) {
    if let Fact::ReceiptKept(signed) = fact {
        let last = signed.receipt.payments.last().copied();
        signed.receipt.payments.extend(last);
    }
}
