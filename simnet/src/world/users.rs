//! The people: contributors who add shards, builders who have adapters trained, users who ask.
//!
//! Invariant: people remember what they want when their machine crashes, and give the same command under the
//! same key again until they see that it was done.

use tributary_protocol::datanet::{Genesis, Head, Policy, Schema};
use tributary_protocol::decoding::{Decoding, Prompt};
use tributary_protocol::envelope::{NetworkId, Signed};
use tributary_protocol::id::{AccountId, Amount, DatanetId, Hash};
use tributary_protocol::message::{Contributor, Release};
use tributary_protocol::node::{AskCommand, Command, FineTuneCommand, NewShard, Node, Phase};
use tributary_protocol::task::FineTune;

use super::{BEGIN_MS, World};
use crate::chance::Chance;
use crate::host::{Host, Part};
use crate::scenario::Scenario;

/// Contributors of a datanet who attest what they see.
const NOTARIES: usize = 3;
/// Steps of every training.
const STEPS: u32 = 60;
/// Segments of every training that are checked.
const SEGMENTS_CHECKED: u16 = 3;
/// How long a training may take, in milliseconds.
const TRAINING_DEADLINE_MS: u64 = 300_000;
/// How long an answer may take, in milliseconds.
const ANSWER_DEADLINE_MS: u64 = 60_000;
/// Users begin to ask within this many milliseconds of the release.
const ASK_WITHIN_MS: u64 = 40_000;
/// Bytes a shard is said to have.
const SHARD_BYTES: u64 = 100_000;
/// The fee of an answer.
const ANSWER_FEE: Amount = Amount(2_000_000_000_000);
/// The most a user pays for an answer.
const ANSWER_PRICE_MAX: Amount = Amount(100_000_000_000_000);

/// What the people of one datanet want: it, its adapter, and the leave-out runs.
pub(super) struct Plan {
    pub(super) id: DatanetId,
    genesis: Genesis,
    builder: usize,
    pub(super) contributors: Vec<usize>,
    head: Option<Head>,
    /// How often each run was asked for: the adapter's, then the leave-out runs'.
    attempts: Vec<u64>,
    adapter: Option<Hash>,
    released_ms: Option<u64>,
}

struct Question {
    user: usize,
    plan: usize,
    wait_ms: u64,
    attempt: u64,
    done: bool,
}

pub(super) struct Users {
    pub(super) plans: Vec<Plan>,
    questions: Vec<Question>,
    shards_each: u32,
    epoch_every_ms: u64,
    epoch_asked_ms: u64,
}

fn key(purpose: &str, one: usize, two: usize, three: u64) -> Hash {
    Hash(blake3::derive_key("tributary simnet key v1", format!("{purpose} {one} {two} {three}").as_bytes()))
}

fn places_of(hosts: &[Host], part: Part) -> Vec<usize> {
    hosts.iter().enumerate().filter(|(_, host)| host.part == part).map(|(place, _)| place).collect()
}

impl Plan {
    fn new(network: NetworkId, number: usize, builder: usize, contributors: Vec<usize>, hosts: &[Host]) -> Self {
        let owner = &hosts[contributors[0]];
        let genesis = Genesis {
            name: format!("datanet {number}"),
            owners: vec![owner.account],
            licence: "CC0-1.0".into(),
            policy: Policy::Members(contributors.iter().map(|place| hosts[*place].account).collect()),
            schema: Schema::PromptCompletion,
            notaries: contributors.iter().take(NOTARIES).map(|place| hosts[*place].account).collect(),
            created_ms: BEGIN_MS,
        };
        let id = DatanetId(Signed::new(network, &owner.account_key(), genesis.clone()).id(network).0);
        let attempts = vec![0; contributors.len() + 1];
        Self { id, genesis, builder, contributors, head: None, attempts, adapter: None, released_ms: None }
    }
}

impl Users {
    pub(super) fn new(network: NetworkId, scenario: &Scenario, hosts: &[Host], chance: &mut Chance) -> Self {
        let builders = places_of(hosts, Part::Builder);
        let contributors = places_of(hosts, Part::Contributor);
        let plans: Vec<Plan> = builders
            .iter()
            .enumerate()
            .map(|(number, builder)| {
                let theirs = contributors.iter().skip(number).step_by(builders.len().max(1)).copied().collect();
                Plan::new(network, number, *builder, theirs, hosts)
            })
            .collect();
        let users = places_of(hosts, Part::User);
        let questions = (0..scenario.questions)
            .filter_map(|number| {
                let number = usize::try_from(number).ok()?;
                let user = *users.get(number % users.len().max(1))?;
                let plan = number.checked_rem(plans.len())?;
                Some(Question { user, plan, wait_ms: chance.below(ASK_WITHIN_MS), attempt: 0, done: false })
            })
            .collect();
        let epoch_every_ms = scenario.epoch_every_ms;
        Self { plans, questions, shards_each: scenario.shards_each, epoch_every_ms, epoch_asked_ms: BEGIN_MS }
    }

    /// What people still wait for.
    pub(super) fn waiting(&self) -> Vec<String> {
        let plans = self.plans.iter().enumerate().filter(|(_, plan)| plan.released_ms.is_none());
        let questions = self.questions.iter().filter(|question| !question.done).count();
        let mut waiting: Vec<String> =
            plans.map(|(number, plan)| format!("adapter {number} after attempts {:?}", plan.attempts)).collect();
        if questions > 0 {
            waiting.push(format!("{questions} questions"));
        }
        waiting
    }

    pub(super) fn are_done(&self) -> bool {
        self.plans.iter().all(|plan| plan.released_ms.is_some()) && self.questions.iter().all(|question| question.done)
    }
}

impl World {
    /// Everybody looks at his machine and decides what to do next.
    pub(super) fn decide(&mut self) {
        for plan in 0..self.users.plans.len() {
            self.decide_contributors(plan);
            self.decide_builder(plan);
        }
        for question in 0..self.users.questions.len() {
            self.decide_question(question);
        }
        let done = self.users.are_done();
        let every_ms = if done { 4_000 } else { self.users.epoch_every_ms };
        if self.now_ms - self.users.epoch_asked_ms >= every_ms {
            self.users.epoch_asked_ms = self.now_ms;
            self.command(0, Command::CloseEpoch);
        }
    }

    fn decide_contributors(&mut self, plan: usize) {
        let plan = &self.users.plans[plan];
        let (id, genesis, contributors) = (plan.id, plan.genesis.clone(), plan.contributors.clone());
        let owner = contributors[0];
        if self.hosts[owner].node.as_ref().is_some_and(|node| node.datanet(&id).is_none()) {
            self.command(owner, Command::CreateDatanet(genesis));
        }
        for host in contributors {
            self.decide_card(host, id);
            let machine = &mut self.hosts[host];
            let known = machine.node.as_ref().and_then(|node| node.datanet(&id));
            let Some((length, _)) = known.map(|datanet| datanet.log_position(&machine.account)) else { continue };
            if length < u64::from(self.users.shards_each) {
                let shard = key("shard", host, 0, length);
                machine.blobs.insert(shard);
                let new = NewShard { datanet: id, shard, bytes: SHARD_BYTES, records: 100, records_root: shard };
                self.command(host, Command::Contribute(new));
            }
        }
    }

    fn decide_builder(&mut self, plan: usize) {
        if self.users.plans[plan].released_ms.is_some() {
            return;
        }
        if self.users.plans[plan].head.is_none() {
            self.users.plans[plan].head = self.complete_head(plan);
            return;
        }
        for run in 0..self.users.plans[plan].attempts.len() {
            self.decide_run(plan, run);
        }
        if let Some(release) = self.release_of(plan) {
            let (builder, adapter) = (self.users.plans[plan].builder, release.adapter);
            if self.hosts[builder].node.as_ref().is_some_and(|node| node.release_of(&adapter).is_none()) {
                self.command(builder, Command::Release(Box::new(release)));
            }
            // It may have crashed over the command: only what it shows now is there.
            if self.hosts[builder].node.as_ref().is_some_and(|node| node.release_of(&adapter).is_some()) {
                self.users.plans[plan].adapter = Some(adapter);
                self.users.plans[plan].released_ms = Some(self.now_ms);
            }
        }
    }

    /// The datanet's head as the builder's node has it, once every contribution is in it.
    fn complete_head(&self, plan: usize) -> Option<Head> {
        let plan = &self.users.plans[plan];
        let node = self.hosts[plan.builder].node.as_ref()?;
        let head = node.datanet(&plan.id)?.head();
        let whole = head.logs.iter().all(|log| log.length >= u64::from(self.users.shards_each));
        (whole && head.logs.len() == plan.contributors.len()).then_some(head)
    }

    fn left_out(&self, plan: &Plan, run: usize) -> Vec<AccountId> {
        let contributor = run.checked_sub(1).and_then(|place| plan.contributors.get(place));
        contributor.map(|contributor| self.hosts[*contributor].account).into_iter().collect()
    }

    /// Asks for a run that was not asked for yet, or once more when it failed.
    fn decide_run(&mut self, number: usize, run: usize) {
        let plan = &self.users.plans[number];
        let builder = plan.builder;
        let Some(node) = self.hosts[builder].node.as_ref() else { return };
        let mut attempt = plan.attempts[run];
        match node.request(&key("run", number, run, attempt)).map(|view| view.phase) {
            Some(Phase::Failed(_)) => attempt += 1,
            Some(_) => return,
            None => {}
        }
        let Some(head) = plan.head.clone() else { return };
        let leave_out = self.left_out(plan, run);
        let work = FineTune { base: Hash::of(b"base"), head, recipe: "{}".into(), steps: STEPS, leave_out };
        let command = FineTuneCommand {
            key: key("run", number, run, attempt),
            work,
            budget: Amount::OPEN,
            deadline_ms: self.now_ms + TRAINING_DEADLINE_MS,
            segments_checked: SEGMENTS_CHECKED,
        };
        self.users.plans[number].attempts[run] = attempt;
        self.command(builder, Command::FineTune(command));
    }

    /// The release, once all runs are done.
    fn release_of(&self, number: usize) -> Option<Release> {
        let plan = &self.users.plans[number];
        let builder = &self.hosts[plan.builder];
        let node = builder.node.as_ref()?;
        let adapter = adapter_of_run(node, &key("run", number, 0, plan.attempts[0]))?;
        let mut contributors = Vec::new();
        for (place, host) in plan.contributors.iter().enumerate() {
            let run = place + 1;
            let leave_out = adapter_of_run(node, &key("run", number, run, plan.attempts[run]))?;
            let account = self.hosts[*host].account;
            let log = plan.head.as_ref()?.logs.iter().find(|log| log.contributor == account)?;
            contributors.push(Contributor {
                account,
                payout: self.address_of(*host),
                leave_out,
                together: None,
                entries: log.length,
                estimated: false,
            });
        }
        contributors.sort_by_key(|contributor| contributor.account);
        Some(Release {
            name: format!("adapter {number}"),
            adapter,
            base: Hash::of(b"base"),
            datanet: plan.id,
            head: plan.head.as_ref()?.id(),
            contributors,
            notes: plan.head.as_ref()?.notes.iter().map(|log| (log.contributor, log.length)).collect(),
            index: key("index", number, 0, 0),
            answer_fee: ANSWER_FEE,
            builder: builder.address,
            node: builder.id,
            unchecked: 0,
            quality: None,
        })
    }

    fn decide_question(&mut self, number: usize) {
        let question = &self.users.questions[number];
        let plan = &self.users.plans[question.plan];
        let (Some(adapter), Some(released_ms)) = (plan.adapter, plan.released_ms) else { return };
        if question.done || self.now_ms < released_ms + question.wait_ms {
            return;
        }
        let user = question.user;
        let Some(node) = self.hosts[user].node.as_ref() else { return };
        let view = node.ask_view(&key("question", number, user, question.attempt));
        if view.as_ref().is_some_and(|view| view.receipt.is_some()) {
            self.users.questions[number].done = true;
            return;
        }
        let failed = view.as_ref().is_some_and(|view| view.failure.is_some());
        if view.is_some() && !failed {
            return;
        }
        let attempt = question.attempt + u64::from(failed);
        self.users.questions[number].attempt = attempt;
        let command = AskCommand {
            key: key("question", number, user, attempt),
            adapter,
            prompt: Prompt::Text(format!("What is fact {number}?")),
            decoding: Decoding { max_tokens: 32, seed: 7, ..Decoding::default() },
            retrieve: 0,
            price_max: ANSWER_PRICE_MAX,
            deadline_ms: self.now_ms + ANSWER_DEADLINE_MS,
            check: false,
        };
        self.command(user, Command::Ask(command));
    }
}

fn adapter_of_run(node: &Node, key: &Hash) -> Option<Hash> {
    let view = node.request(key)?;
    matches!(view.phase, Phase::Done(_)).then_some(view.result?.adapter)
}
