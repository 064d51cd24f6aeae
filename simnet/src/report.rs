//! Reports: what happened in a world, as a table for people and as a structure for programs.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use tributary_protocol::id::{Amount, Hash};

use crate::invariant::Violation;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The scenario.
    pub scenario: String,
    /// The seed that replays it.
    pub seed: u64,
    /// Peers, attackers included.
    pub peers: usize,
    /// Virtual milliseconds until everything was settled.
    pub virtual_ms: u64,
    /// Events in all.
    pub events: u64,
    /// The hash over all events in their order: equal histories, equal hashes.
    pub history: Hash,
    /// How often each thing happened.
    pub counts: BTreeMap<String, u64>,
    /// Receipts.
    pub receipts: usize,
    /// The sum of their prices.
    pub price: Amount,
    /// Epochs on the chain.
    pub epochs: usize,
    /// What the chain says everybody earned beside vouchers.
    pub earned: Amount,
    /// What vouchers promise workers.
    pub vouchers: Amount,
    /// What must not have happened.
    pub violations: Vec<Violation>,
}

impl Report {
    /// How often something happened.
    #[must_use]
    pub fn count(&self, name: &str) -> u64 {
        self.counts.get(name).copied().unwrap_or(0)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} (seed {}): {} peers, {} ms", self.scenario, self.seed, self.peers, self.virtual_ms)?;
        writeln!(f, "  {:<28}{:>12}", "events", self.events)?;
        writeln!(f, "  {:<28}{:>12}", "receipts", self.receipts)?;
        writeln!(f, "  {:<28}{:>12}", "epochs", self.epochs)?;
        writeln!(f, "  {:<28}{:>12}", "price in OPEN", self.price.to_open())?;
        writeln!(f, "  {:<28}{:>12}", "earned in OPEN", self.earned.to_open())?;
        writeln!(f, "  {:<28}{:>12}", "vouchers in OPEN", self.vouchers.to_open())?;
        for (name, count) in &self.counts {
            writeln!(f, "  {name:<28}{count:>12}")?;
        }
        for violation in &self.violations {
            writeln!(f, "  VIOLATED {violation:?}")?;
        }
        write!(f, "  history {}", self.history)
    }
}
