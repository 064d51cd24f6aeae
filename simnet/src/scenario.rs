//! Scenarios: who is there, what they want, and what goes wrong meanwhile.
//!
//! Invariant: a scenario and its seed decide everything that happens.

use serde::{Deserialize, Serialize};

use crate::behaviour::Behaviour;
use crate::link::LinkModel;

/// How many peers of each kind; everybody may also be asked for shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Population {
    /// Witnesses that seal batches.
    pub witnesses: u32,
    /// Verifiers.
    pub verifiers: u32,
    /// Workers, liars among them.
    pub workers: u32,
    /// Builders: one for each datanet.
    pub builders: u32,
    /// Contributors, spread evenly over the datanets.
    pub contributors: u32,
    /// Users who ask.
    pub users: u32,
    /// Attackers.
    pub hostile: u32,
}

impl Population {
    /// Everybody, the poster of epochs included.
    #[must_use]
    pub const fn total(&self) -> u32 {
        1 + self.witnesses
            + self.verifiers
            + self.workers
            + self.builders
            + self.contributors
            + self.users
            + self.hostile
    }
}

/// Where in a batch of outputs a peer dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CrashPoint {
    /// Between two inputs.
    Idle,
    /// Before the facts are durable: nothing of the batch happened.
    BeforePersist,
    /// After the facts are durable: nothing else of the batch happened.
    AfterPersist,
    /// After the facts and the first outputs that follow them.
    Midway,
}

impl CrashPoint {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Idle, Self::BeforePersist, Self::AfterPersist, Self::Midway];
}

/// A peer dies when it makes its `nth` fact of a kind durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrashOnFact {
    /// The kind of fact, as [`crate::invariant::kind_of`] names it.
    pub fact: String,
    /// Where in the batch.
    pub point: CrashPoint,
    /// Which of the facts of this kind in the whole world, from zero.
    pub nth: u32,
}

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Faults {
    /// Crashes at random moments.
    pub crashes: u32,
    /// Crashes at given facts.
    pub crashes_on_fact: Vec<CrashOnFact>,
    /// How long a crashed peer is away, in milliseconds: least and most.
    pub downtime_ms: (u64, u64),
    /// Partitions at random moments, each cutting off about a third.
    pub partitions: u32,
    /// How long one lasts, in milliseconds.
    pub partition_ms: u64,
    /// When faults end: links are perfect and nobody crashes any more, in milliseconds from the start.
    pub until_ms: u64,
}

impl Faults {
    /// None.
    #[must_use]
    pub const fn none() -> Self {
        Self {
            crashes: 0,
            crashes_on_fact: Vec::new(),
            downtime_ms: (1_000, 15_000),
            partitions: 0,
            partition_ms: 0,
            until_ms: 0,
        }
    }
}

/// A defect that is built into a world on purpose, to show that its invariants can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sabotage {
    /// A receipt pays its last payment twice.
    PayTwice,
    /// Journals forget receipts.
    ForgetReceipts,
    /// Payers' drivers sign vouchers over twice what is owed.
    InflateVouchers,
    /// The poster adds an atto-OPEN to what somebody earned.
    InflateEpoch,
}

/// A whole scenario.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scenario {
    /// What it is called in reports.
    pub name: String,
    /// Decides every draw.
    pub seed: u64,
    /// Who is there.
    pub population: Population,
    /// How many workers behave otherwise than honestly; they are the cheapest, so that they are tried first.
    pub behaviours: Vec<(Behaviour, u32)>,
    /// Shards that each contributor adds.
    pub shards_each: u32,
    /// Questions in all.
    pub questions: u32,
    /// Part of the answers that are checked, in parts per million.
    pub audit_ppm: u32,
    /// The links.
    pub link: LinkModel,
    /// What goes wrong.
    pub faults: Faults,
    /// Milliseconds between epochs.
    pub epoch_every_ms: u64,
    /// The longest the world may take, in milliseconds.
    pub limit_ms: u64,
    /// A defect on purpose.
    pub sabotage: Option<Sabotage>,
}

impl Scenario {
    /// A small honest network on perfect links.
    #[must_use]
    pub fn small(name: &str, seed: u64) -> Self {
        Self {
            name: name.to_owned(),
            seed,
            population: Population {
                witnesses: 3,
                verifiers: 2,
                workers: 4,
                builders: 1,
                contributors: 2,
                users: 2,
                hostile: 0,
            },
            behaviours: Vec::new(),
            shards_each: 1,
            questions: 12,
            audit_ppm: 300_000,
            link: LinkModel::perfect(),
            faults: Faults::none(),
            epoch_every_ms: 15_000,
            limit_ms: 900_000,
            sabotage: None,
        }
    }

    /// Two hundred and ten peers, some of them liars and attackers, on bad links with crashes and partitions.
    #[must_use]
    pub fn large(name: &str, seed: u64) -> Self {
        let population = Population {
            witnesses: 6,
            verifiers: 12,
            workers: 50,
            builders: 3,
            contributors: 12,
            users: 123,
            hostile: 3,
        };
        Self {
            population,
            behaviours: vec![
                (Behaviour::LyingTrainer, 2),
                (Behaviour::Lazy, 1),
                (Behaviour::LyingAnswerer, 1),
                (Behaviour::Withholding, 2),
            ],
            questions: 150,
            audit_ppm: 150_000,
            link: LinkModel::bad(),
            faults: Faults { crashes: 60, partitions: 2, partition_ms: 10_000, until_ms: 90_000, ..Faults::none() },
            epoch_every_ms: 30_000,
            ..Self::small(name, seed)
        }
    }

    /// With these liars among the workers.
    #[must_use]
    pub fn with_behaviours(mut self, behaviours: &[(Behaviour, u32)]) -> Self {
        self.behaviours = behaviours.to_vec();
        self
    }

    /// With these links, bad until `until_ms`.
    #[must_use]
    pub fn with_link(mut self, link: LinkModel, until_ms: u64) -> Self {
        self.link = link;
        self.faults.until_ms = until_ms;
        self
    }

    /// With a defect on purpose.
    #[must_use]
    pub fn with_sabotage(mut self, sabotage: Sabotage) -> Self {
        self.sabotage = Some(sabotage);
        self
    }
}
