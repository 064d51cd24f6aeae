//! Crashes, restarts and partitions.
//!
//! Invariant: a crash takes a machine's memory and nothing of its disk; what was durable must be there again.

use std::collections::BTreeMap;

use tributary_protocol::limits::TICK_MS;
use tributary_protocol::node::{Fact, Input};

use super::{BEGIN_MS, Happening, World};
use crate::chance::Chance;
use crate::invariant::{Violation, kind_of};
use crate::link::Partition;
use crate::scenario::{CrashOnFact, CrashPoint, Scenario};

/// Crashes begin after this many milliseconds.
const FIRST_CRASH_MS: u64 = 4_000;
/// Part of the peers that a partition cuts off, in parts per million.
const CUT_OFF_PPM: u32 = 330_000;

/// What is to go wrong and when.
pub(super) struct Plan {
    crashes: Vec<(u64, usize, CrashPoint)>,
    on_fact: Vec<CrashOnFact>,
    partitions: Vec<Partition>,
    /// Machines that die at their next durable facts.
    doomed: BTreeMap<usize, CrashPoint>,
    facts: BTreeMap<&'static str, u32>,
}

impl Plan {
    pub(super) fn new(scenario: &Scenario, hosts: usize, chance: &mut Chance) -> Self {
        let faults = &scenario.faults;
        let hosts = u64::try_from(hosts).unwrap_or(1);
        let crashes = (0..faults.crashes)
            .map(|_| {
                let at_ms = chance.between(FIRST_CRASH_MS, faults.until_ms.max(FIRST_CRASH_MS));
                let host = usize::try_from(chance.below(hosts)).unwrap_or(0);
                (at_ms, host, chance.pick(&CrashPoint::ALL).copied().unwrap_or(CrashPoint::Idle))
            })
            .collect();
        let partitions = (0..faults.partitions)
            .map(|_| {
                let latest_ms = faults.until_ms.saturating_sub(faults.partition_ms).max(FIRST_CRASH_MS);
                let from_ms = BEGIN_MS + chance.between(FIRST_CRASH_MS, latest_ms);
                let sides = (0..hosts).map(|_| chance.happens(CUT_OFF_PPM)).collect();
                Partition { from_ms, until_ms: from_ms + faults.partition_ms, sides }
            })
            .collect();
        let on_fact = faults.crashes_on_fact.clone();
        Self { crashes, on_fact, partitions, doomed: BTreeMap::new(), facts: BTreeMap::new() }
    }

    pub(super) fn partitions(&self) -> Vec<Partition> {
        self.partitions.clone()
    }

    pub(super) fn crashes(&self) -> Vec<(u64, usize, CrashPoint)> {
        self.crashes.clone()
    }

    /// Whether a machine dies while it makes `facts` durable, and where.
    pub(super) fn crash_due(&mut self, host: usize, facts: &[Fact]) -> Option<CrashPoint> {
        let mut point = self.doomed.remove(&host);
        for fact in facts {
            let kind = kind_of(fact);
            let seen = self.facts.entry(kind).or_default();
            let planned = self.on_fact.iter().find(|planned| planned.fact == kind && planned.nth == *seen);
            point = point.or(planned.map(|planned| planned.point));
            *seen += 1;
        }
        point
    }
}

impl World {
    /// A machine dies now, or at its next durable facts.
    pub(super) fn plan_crash(&mut self, host: usize, point: CrashPoint) {
        if self.hosts[host].node.is_none() {
            return;
        }
        if point == CrashPoint::Idle {
            self.crash(host);
        } else {
            self.faults.doomed.insert(host, point);
        }
    }

    pub(super) fn crash(&mut self, host: usize) {
        self.note("crash", host, &[]);
        self.count("crashes");
        self.hosts[host].stop();
        self.break_streams_of(host);
        let (least_ms, most_ms) = self.scenario.faults.downtime_ms;
        let delay_ms = self.chance.between(least_ms, most_ms);
        self.schedule(delay_ms, Happening::Start { host });
    }

    pub(super) fn start(&mut self, host: usize) {
        self.note("start", host, &[]);
        let (now_ms, network, treasury) = (self.now_ms, self.network, self.treasury);
        self.hosts[host].start(now_ms, network, treasury, self.scenario.audit_ppm);
        self.check_nothing_lost(host);
        let place = u64::try_from(host).unwrap_or(0);
        let control = vec![format!("/ip4/10.0.{}.{}/udp/4001/quic-v1", place / 256, place % 256)];
        self.feed(host, Input::Listening { control, data: Vec::new() });
        let incarnation = self.hosts[host].incarnation;
        let delay_ms = self.chance.below(TICK_MS);
        self.schedule(delay_ms, Happening::Tick { host, incarnation });
    }

    fn check_nothing_lost(&mut self, host: usize) {
        let machine = &self.hosts[host];
        let Some(node) = machine.node.as_ref() else { return };
        let lost = machine.receipts_on_disk.iter().find(|id| node.receipt_of(id).is_none()).copied();
        if let Some(receipt) = lost {
            let node = machine.id;
            self.invariants.report(Violation::ReceiptLost { receipt, node });
        }
    }
}
