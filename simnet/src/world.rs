//! The world: virtual time, the queue of what happens next, and the machines it happens to.
//!
//! Invariant: events happen in the order of their time and, at one time, in the order they were scheduled; each
//! handler draws only from the world's own chance, so one seed gives one history.

mod cards;
mod examine;
mod faults;
mod hostile;
mod perform;
mod streams;
mod users;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use tributary_protocol::batch::EpochBody;
use tributary_protocol::envelope::{self, NetworkId};
use tributary_protocol::id::{Amount, ChainAddress, Hash, NodeId};
use tributary_protocol::limits::TICK_MS;
use tributary_protocol::node::{Command, Input, JobOutcome};

use crate::behaviour::Behaviour;
use crate::chain::Chain;
use crate::chance::Chance;
use crate::host::{Host, Part};
use crate::invariant::{Invariants, Violation};
use crate::link::Links;
use crate::report::Report;
use crate::scenario::{CrashPoint, Scenario};

/// When worlds begin, in milliseconds since 1970; any time will do.
const BEGIN_MS: u64 = 1_800_000_000_000;
/// Machines start within this many milliseconds of each other.
const START_SPREAD_MS: u64 = 3_000;
/// Milliseconds between looks at whether the world has come to rest.
const EXAMINE_MS: u64 = 2_000;
/// Signatures found good that are not computed again: what is on its way to everybody at one time.
const SIGNATURES_REMEMBERED: usize = 65_536;
/// Milliseconds between what users decide.
const USERS_MS: u64 = 1_000;

/// What happens to whom.
enum Happening {
    Start { host: usize },
    Tick { host: usize, incarnation: u32 },
    Deliver { to: usize, origin: usize, gossip: bool, bytes: Arc<[u8]> },
    Local { host: usize, incarnation: u32, input: Box<Input> },
    JobEnds { host: usize, incarnation: u32, job: Hash, outcome: Box<JobOutcome> },
    Question { stream: u64, bytes: Vec<u8> },
    StreamTimeout { stream: u64 },
    Post { host: usize, incarnation: u32, body: Box<EpochBody> },
    Crash { host: usize, point: CrashPoint },
    Attack { host: usize },
    Users,
    Examine,
}

struct Scheduled {
    at_ms: u64,
    number: u64,
    happening: Happening,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.at_ms, self.number) == (other.at_ms, other.number)
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at_ms, self.number).cmp(&(other.at_ms, other.number))
    }
}

/// A simulated network.
pub struct World {
    scenario: Scenario,
    network: NetworkId,
    treasury: ChainAddress,
    now_ms: u64,
    number: u64,
    queue: BinaryHeap<Reverse<Scheduled>>,
    hosts: Vec<Host>,
    places: BTreeMap<NodeId, usize>,
    links: Links,
    chance: Chance,
    attack_chance: Chance,
    chain: Chain,
    contents: BTreeMap<Hash, Arc<[u8]>>,
    streams: streams::Streams,
    users: users::Users,
    attackers: hostile::Attackers,
    faults: faults::Plan,
    invariants: Invariants,
    history: blake3::Hasher,
    counts: BTreeMap<String, u64>,
    settled_ms: Option<u64>,
}

fn hosts_of(scenario: &Scenario) -> Vec<Host> {
    let population = &scenario.population;
    let misbehaving = scenario.behaviours.iter().flat_map(|(behaviour, count)| (0..*count).map(move |_| *behaviour));
    let (debtors, liars): (Vec<Behaviour>, Vec<Behaviour>) =
        misbehaving.partition(|behaviour| *behaviour == Behaviour::Unfunded);
    let (mut debtors, mut liars) = (debtors.into_iter(), liars.into_iter());
    let mut hosts = vec![Host::new(scenario.seed, Part::Poster, 0, Behaviour::Honest)];
    let parts = [
        (Part::Witness, population.witnesses),
        (Part::Verifier, population.verifiers),
        (Part::Worker, population.workers),
        (Part::Builder, population.builders),
        (Part::Contributor, population.contributors),
        (Part::User, population.users),
        (Part::Hostile, population.hostile),
    ];
    for (part, count) in parts {
        for place in 0..count {
            let behaviour = match part {
                Part::Worker => liars.next().unwrap_or(Behaviour::Honest),
                Part::User => debtors.next().unwrap_or(Behaviour::Honest),
                Part::Hostile => Behaviour::Hostile,
                _ => Behaviour::Honest,
            };
            hosts.push(Host::new(scenario.seed, part, place, behaviour));
        }
    }
    hosts
}

impl World {
    /// The world of a scenario, before anything happened.
    #[must_use]
    pub fn new(scenario: Scenario) -> Self {
        let network = NetworkId::named("simnet");
        let hosts = hosts_of(&scenario);
        let mut chance = Chance::new(scenario.seed, "world");
        let faults = faults::Plan::new(&scenario, hosts.len(), &mut chance);
        let links = Links::new(scenario.link, faults.partitions(), BEGIN_MS + scenario.faults.until_ms);
        let mut world = Self {
            network,
            treasury: ChainAddress([0xee; 20]),
            now_ms: BEGIN_MS,
            number: 0,
            queue: BinaryHeap::new(),
            places: hosts.iter().enumerate().map(|(place, host)| (host.id, place)).collect(),
            users: users::Users::new(network, &scenario, &hosts, &mut chance),
            hosts,
            links,
            attack_chance: Chance::new(scenario.seed, "attacks"),
            chance,
            chain: Chain::default(),
            contents: BTreeMap::new(),
            streams: streams::Streams::default(),
            attackers: hostile::Attackers::default(),
            faults,
            invariants: Invariants::new(network),
            history: blake3::Hasher::new(),
            counts: BTreeMap::new(),
            settled_ms: None,
            scenario,
        };
        for host in &world.hosts {
            world.chain.bind(host.account, host.address);
        }
        world.schedule_beginning();
        world
    }

    fn schedule_beginning(&mut self) {
        for host in 0..self.hosts.len() {
            let delay_ms = self.chance.below(START_SPREAD_MS);
            let happening =
                if self.hosts[host].has_node() { Happening::Start { host } } else { Happening::Attack { host } };
            self.schedule(delay_ms, happening);
        }
        for (at_ms, host, point) in self.faults.crashes() {
            self.schedule(at_ms, Happening::Crash { host, point });
        }
        self.schedule(USERS_MS, Happening::Users);
        self.schedule(EXAMINE_MS, Happening::Examine);
    }

    /// Lets everything happen until the world is at rest or its time is over, and says what was seen.
    #[must_use]
    pub fn run(self) -> Report {
        envelope::remember_good_signatures(SIGNATURES_REMEMBERED);
        let report = self.run_to_rest();
        envelope::remember_good_signatures(0);
        report
    }

    fn run_to_rest(mut self) -> Report {
        while self.settled_ms.is_none() {
            let Some(Reverse(next)) = self.queue.pop() else { break };
            self.now_ms = next.at_ms;
            if self.elapsed_ms() > self.scenario.limit_ms {
                let missing = self.missing();
                self.invariants.report(Violation::NotSettled { missing });
                break;
            }
            self.happen(next.happening);
        }
        self.report()
    }

    fn elapsed_ms(&self) -> u64 {
        self.now_ms - BEGIN_MS
    }

    fn schedule(&mut self, delay_ms: u64, happening: Happening) {
        self.number += 1;
        let scheduled = Scheduled { at_ms: self.now_ms + delay_ms, number: self.number, happening };
        self.queue.push(Reverse(scheduled));
    }

    fn schedule_local(&mut self, host: usize, delay_ms: u64, input: Input) {
        let incarnation = self.hosts[host].incarnation;
        self.schedule(delay_ms, Happening::Local { host, incarnation, input: Box::new(input) });
    }

    fn count(&mut self, name: impl Into<String>) {
        *self.counts.entry(name.into()).or_default() += 1;
    }

    /// Writes an event into the history.
    fn note(&mut self, kind: &str, host: usize, bytes: &[u8]) {
        self.history.update(&self.now_ms.to_le_bytes());
        self.history.update(kind.as_bytes());
        self.history.update(&u64::try_from(host).unwrap_or(u64::MAX).to_le_bytes());
        self.history.update(bytes);
    }

    fn is_up(&self, host: usize, incarnation: u32) -> bool {
        self.hosts[host].node.is_some() && self.hosts[host].incarnation == incarnation
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Start { host } => self.start(host),
            Happening::Tick { host, incarnation } if self.is_up(host, incarnation) => {
                self.note("tick", host, &[]);
                self.feed(host, Input::Tick);
                self.schedule(TICK_MS, Happening::Tick { host, incarnation });
            }
            Happening::Deliver { to, origin, gossip, bytes } => self.deliver(to, origin, gossip, &bytes),
            Happening::Local { host, incarnation, input } if self.is_up(host, incarnation) => {
                self.note("local", host, &[]);
                self.feed(host, *input);
            }
            Happening::JobEnds { host, incarnation, job, outcome } if self.is_up(host, incarnation) => {
                self.job_ends(host, job, *outcome);
            }
            Happening::Question { stream, bytes } => self.question(stream, bytes),
            Happening::StreamTimeout { stream } => self.break_stream(stream, "no answer came in time"),
            Happening::Post { host, incarnation, body } => self.post(host, incarnation, &body),
            Happening::Crash { host, point } => self.plan_crash(host, point),
            Happening::Attack { host } => self.attack(host),
            Happening::Users => {
                self.decide();
                self.schedule(USERS_MS, Happening::Users);
            }
            Happening::Examine => {
                self.examine();
                self.schedule(EXAMINE_MS, Happening::Examine);
            }
            Happening::Tick { .. } | Happening::Local { .. } | Happening::JobEnds { .. } => {}
        }
    }

    fn deliver(&mut self, to: usize, origin: usize, gossip: bool, bytes: &Arc<[u8]>) {
        self.note("deliver", to, bytes);
        if !self.hosts[to].has_node() {
            return self.attackers.overhear(bytes);
        }
        let id = u64::try_from(origin).unwrap_or(u64::MAX);
        let from = self.hosts[origin].id;
        let bytes = bytes.to_vec();
        self.feed(to, if gossip { Input::Gossip { id, bytes } } else { Input::Message { from, bytes } });
    }

    fn command(&mut self, host: usize, command: Command) {
        self.feed(host, Input::Command(Box::new(command)));
    }

    /// Gives a node an input and performs what it says.
    fn feed(&mut self, host: usize, input: Input) {
        let now_ms = self.now_ms;
        let Some(node) = self.hosts[host].node.as_mut() else { return };
        let outputs = node.handle(now_ms, input);
        self.perform(host, outputs);
    }

    /// What the newest epoch counts of settlement audits.
    fn audits_counted(&self) -> usize {
        let receipts = self.invariants.receipts();
        let counted = self.chain.newest().into_iter().flat_map(EpochBody::ids);
        counted.filter_map(|id| receipts.get(id)).filter(|signed| signed.receipt.audited().is_some()).count()
    }

    fn report(mut self) -> Report {
        let audits = u64::try_from(self.audits_counted()).unwrap_or(u64::MAX);
        self.counts.insert("audits counted".into(), audits);
        let sum = |amounts: &mut dyn Iterator<Item = Amount>| {
            amounts.fold(Amount::ZERO, |sum, amount| Amount(sum.0.saturating_add(amount.0)))
        };
        let receipts = self.invariants.receipts();
        let vouchers = self.hosts.iter().filter_map(|host| host.node.as_ref()).flat_map(|node| node.vouchers());
        Report {
            scenario: self.scenario.name.clone(),
            seed: self.scenario.seed,
            peers: self.hosts.len(),
            virtual_ms: self.settled_ms.unwrap_or(self.now_ms - BEGIN_MS),
            events: self.number,
            history: Hash(*self.history.finalize().as_bytes()),
            receipts: receipts.len(),
            price: sum(&mut receipts.values().map(|signed| signed.receipt.price)),
            epochs: self.chain.epochs(),
            earned: sum(&mut self.chain.balances().values().copied()),
            vouchers: sum(&mut vouchers.map(|voucher| voucher.cumulative)),
            violations: self.invariants.violations().to_vec(),
            counts: self.counts,
        }
    }
}
