//! What a run is, and where it stands.
//!
//! Invariant: a run's state follows from its specification and what the node knows of its tasks; nothing else is kept.

use bincode::{Decode, Encode};
use serde::Serialize;
use tributary_compute::train::Recipe;
use tributary_protocol::datanet::Head;
use tributary_protocol::id::{AccountId, Amount, Hash};
use tributary_protocol::node::{FineTuneCommand, Node, Phase, RequestView};
use tributary_protocol::task::FineTune;

/// What a user wants trained and released.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct RunSpec {
    /// The user's key.
    pub key: Hash,
    /// The release's name.
    pub name: String,
    /// The base's blob.
    pub base: Hash,
    /// The version of the datanet.
    pub head: Head,
    /// The recipe as canonical JSON.
    pub recipe: String,
    /// Its steps.
    pub steps: u32,
    /// The most to pay for all trainings of the run, fees included.
    pub budget: Amount,
    /// When each training must be there, in milliseconds since 1970.
    pub deadline_ms: u64,
    /// Segments of each training to be executed again.
    pub segments_checked: u16,
    /// The fee of one answer.
    pub answer_fee: Amount,
    /// Whether leave-out trainings make an attribution index; without, the adapter cannot be released.
    pub attribution: bool,
    /// Contributors that one is made for, ascending; the other contributors' leave-out adapters are estimated.
    pub trained: Vec<AccountId>,
}

/// Leave-out trainings of a run that says nothing of their number, at least: where there are so many, all are made.
const LEAVE_OUTS_LEAST: usize = 8;

/// Leave-out trainings that tell how far estimates of the other contributors reach, at least, where a person says how many: what one
/// or two of them say may be chance, and the others would be paid nothing.
pub const LEAVE_OUTS_TOLD_BY: u64 = 4;

/// For how many contributors a run makes leave-out trainings: for as many as are wanted, else for half of them. Without the only contributor
/// there is nothing to train on.
#[must_use]
pub fn leave_outs(contributors: usize, wanted: Option<u16>) -> usize {
    match (contributors, wanted) {
        (0 | 1, _) => 0,
        (_, Some(wanted)) => usize::from(wanted).clamp(1, contributors),
        (_, None) => contributors.div_ceil(2).max(LEAVE_OUTS_LEAST).min(contributors),
    }
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// The adapter is being trained.
    Training,
    /// Who teaches the same is being found.
    Clustering,
    /// The leave-out runs are being trained.
    Attributing,
    /// The index is being built.
    Releasing,
    /// Released, or trained when no attribution was wanted.
    Done,
    /// Given up.
    Failed,
    /// Stopped by its requester.
    Stopped,
}

/// A run as its user left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenRun {
    /// What is wanted; after a resumption, until when it is.
    pub spec: RunSpec,
    /// Contributors who teach the same, each cluster ascending; nothing until it was looked for.
    pub clusters: Option<Vec<Vec<AccountId>>>,
    /// Contributors who are left out together for having few records, each pool ascending.
    pub pools: Vec<Vec<AccountId>>,
    /// How often it was resumed: each time, what was given up is offered under a new key.
    pub resumed: u32,
    /// Whether its user wants no more of it.
    pub is_stopped: bool,
    /// Why its release failed when it was tried last, since this process began.
    pub obstacle: Option<String>,
}

impl RunSpec {
    /// The key of a task of this run, after `resumed` resumptions; that of the adapter itself leaves nobody out.
    fn task_key(&self, left_out: &[AccountId], resumed: u32) -> Hash {
        let first = match left_out {
            [] => Hash(blake3::derive_key("tributary run main task v1", &self.key.0)),
            _ => {
                let all = std::iter::once(self.key.0).chain(left_out.iter().map(|account| account.0));
                let all: Vec<u8> = all.flatten().collect();
                Hash(blake3::derive_key("tributary run leave-out task v1", &all))
            }
        };
        if resumed == 0 {
            return first;
        }
        let both = [first.0.as_slice(), &resumed.to_le_bytes()].concat();
        Hash(blake3::derive_key("tributary run resumed task v1", &both))
    }

    /// Contributors of the version, by number.
    pub fn contributors(&self) -> impl Iterator<Item = AccountId> + '_ {
        self.head.logs.iter().map(|log| log.contributor)
    }

    /// Whether a leave-out training is made for a contributor.
    #[must_use]
    pub(super) fn is_left_out(&self, contributor: &AccountId) -> bool {
        self.attribution && self.trained.binary_search(contributor).is_ok()
    }

    /// Trainings of the run, at the most: who is left out with others needs none alone.
    fn tasks(&self) -> u128 {
        let left_out = self.contributors().filter(|contributor| self.is_left_out(contributor)).count();
        u128::try_from(left_out + 1).unwrap_or(1)
    }

    /// The recipe of leave-out trainings: what is compared must have trained as long as the released adapter did, whatever
    /// an evaluation says without a contributor.
    fn leave_out_recipe(&self) -> String {
        let read: Result<Recipe, _> = serde_json::from_str(&self.recipe);
        let evaluates = |recipe: &Recipe| recipe.evaluate_every > 0 || recipe.patience > 0;
        let other = read.ok().filter(evaluates).and_then(|recipe| {
            let recipe = recipe.without_evaluation();
            serde_json::to_string(&recipe).ok()
        });
        other.unwrap_or_else(|| self.recipe.clone())
    }
}

impl OpenRun {
    /// The contributor with those who are left out by the same training, ascending.
    pub(super) fn together_with(&self, account: &AccountId) -> Vec<AccountId> {
        let cluster = self.clusters.iter().flatten().chain(&self.pools).find(|members| members.contains(account));
        cluster.cloned().unwrap_or_else(|| vec![*account])
    }

    /// Whom leave-out trainings leave out: contributors alone, and all of a cluster or pool where a training is wanted for one of
    /// them. Nobody as long as it is not known who teaches the same, and not everybody.
    #[must_use]
    pub fn left_out(&self) -> Vec<Vec<AccountId>> {
        if self.clusters.is_none() {
            return Vec::new();
        }
        let wanted = self.spec.contributors().filter(|contributor| self.spec.is_left_out(contributor));
        let mut sets: Vec<Vec<AccountId>> = wanted.map(|contributor| self.together_with(&contributor)).collect();
        sets.retain(|set| set.len() < self.spec.head.logs.len());
        sets.sort_unstable();
        sets.dedup();
        sets
    }

    /// The clusters that are left out, one of whom may be everybody; nothing as long as it is not known who teaches the same.
    #[must_use]
    pub fn left_out_together(&self) -> Option<Vec<Vec<AccountId>>> {
        let (clusters, left_out) = (self.clusters.as_ref()?, self.left_out());
        let is_left_out = |set: &&Vec<AccountId>| left_out.contains(set) || set.len() == self.spec.head.logs.len();
        Some(clusters.iter().filter(is_left_out).cloned().collect())
    }

    /// Whom each training of the run leaves out; the first nobody.
    #[must_use]
    pub(super) fn trainings(&self) -> Vec<Vec<AccountId>> {
        std::iter::once(Vec::new()).chain(self.left_out()).collect()
    }

    /// The key under which a task is or would be offered.
    fn key(&self, left_out: &[AccountId]) -> Hash {
        self.spec.task_key(left_out, self.resumed)
    }

    /// The key of the newest offer of a task that was not given up, or of the newest at all.
    #[must_use]
    pub fn task_key(&self, node: &Node, left_out: &[AccountId]) -> Hash {
        let is_alive = |key: &Hash| node.request(key).is_some_and(|view| !matches!(view.phase, Phase::Failed(_)));
        let earlier = (0..self.resumed).rev().map(|resumed| self.spec.task_key(left_out, resumed));
        let newest = self.key(left_out);
        std::iter::once(newest).chain(earlier).find(is_alive).unwrap_or(newest)
    }

    /// A task of the run, as far as it was offered.
    #[must_use]
    pub fn task(&self, node: &Node, left_out: &[AccountId]) -> Option<RequestView> {
        node.request(&self.task_key(node, left_out))
    }

    pub(super) fn command(&self, node: &Node, leave_out: Vec<AccountId>) -> FineTuneCommand {
        let spec = &self.spec;
        let (recipe, steps) = match leave_out.is_empty() {
            true => (spec.recipe.clone(), spec.steps),
            false => {
                let result = self.task(node, &[]).and_then(|main| main.result);
                // The one that is compared: of the step whose adapter is released, not of the last that was trained.
                (spec.leave_out_recipe(), result.map_or(spec.steps, |result| result.kept_step.clamp(1, spec.steps)))
            }
        };
        FineTuneCommand {
            key: self.key(&leave_out),
            work: FineTune { base: spec.base, head: spec.head.clone(), recipe, steps, leave_out },
            budget: Amount(spec.budget.0 / spec.tasks()),
            deadline_ms: spec.deadline_ms,
            segments_checked: spec.segments_checked,
        }
    }

    /// Where the run stands, and why it failed if it did.
    #[must_use]
    pub fn state(&self, node: &Node) -> (RunState, Option<String>) {
        let main = self.task(node, &[]);
        let leave_out: Vec<Option<RequestView>> =
            self.left_out().iter().map(|left_out| self.task(node, left_out)).collect();
        let adapter = main.as_ref().and_then(done_adapter);
        let is_released = adapter.is_some_and(|adapter| !self.spec.attribution || node.release_of(&adapter).is_some());
        if self.is_stopped && !is_released {
            return (RunState::Stopped, Some("stopped by its requester".into()));
        }
        let failed = std::iter::once(&main).chain(&leave_out).flatten().find_map(|view| match &view.phase {
            Phase::Failed(reason) => Some(reason.clone()),
            _ => None,
        });
        if failed.is_some() {
            return (RunState::Failed, failed);
        }
        if adapter.is_none() {
            return (RunState::Training, None);
        }
        if is_released {
            return (RunState::Done, None);
        }
        if self.clusters.is_none() {
            return (RunState::Clustering, None);
        }
        let all = leave_out.iter().all(|view| view.as_ref().and_then(done_adapter).is_some());
        match all {
            true => (RunState::Releasing, self.obstacle.clone()),
            false => (RunState::Attributing, None),
        }
    }
}

/// The adapter of a task that is paid and done.
#[must_use]
pub fn done_adapter(view: &RequestView) -> Option<Hash> {
    match view.phase {
        Phase::Done(_) => view.result.as_ref().map(|result| result.adapter),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use tributary_protocol::datanet::LogHead;
    use tributary_protocol::id::DatanetId;
    use tributary_protocol::limits::CONTRIBUTORS_MAX;

    use super::*;

    fn account(number: u8) -> AccountId {
        AccountId([number; 32])
    }

    /// A run of 256 contributors without each of whom a training is wanted, and who are left out together in it.
    fn run(clusters: Option<Vec<Vec<AccountId>>>, pools: Vec<Vec<AccountId>>) -> OpenRun {
        let trained: Vec<AccountId> = (0..=u8::MAX).map(account).collect();
        let log = |contributor: &AccountId| LogHead { contributor: *contributor, length: 1, newest: Hash::default() };
        let logs = trained.iter().map(log).collect();
        let spec = RunSpec {
            key: Hash([1; 32]),
            name: "many".into(),
            base: Hash([2; 32]),
            head: Head { datanet: DatanetId([0; 32]), logs, notes: Vec::new() },
            recipe: "{}".into(),
            steps: 1,
            budget: Amount(0),
            deadline_ms: 0,
            segments_checked: 0,
            answer_fee: Amount(0),
            attribution: true,
            trained,
        };
        OpenRun { spec, clusters, pools, resumed: 0, is_stopped: false, obstacle: None }
    }

    #[test]
    fn a_pool_is_left_out_by_one_training_like_a_cluster() {
        let set = |numbers: &[u8]| numbers.iter().copied().map(account).collect::<Vec<_>>();
        let (clusters, pools) = (vec![set(&[3, 250])], vec![set(&[200, 201, 255]), set(&[240, 241])]);
        assert!(run(None, pools.clone()).left_out().is_empty(), "it is not known yet who teaches the same");
        let run = run(Some(clusters.clone()), pools.clone());
        let left_out = run.left_out();
        assert_eq!(left_out.len(), 256 - 1 - 2 - 1);
        assert!(clusters.iter().chain(&pools).all(|members| left_out.contains(members)));
        let mut all: Vec<AccountId> = left_out.concat();
        all.sort_unstable();
        assert_eq!(all, run.spec.trained, "everybody is left out once");
        assert_eq!((run.together_with(&account(255)), run.left_out_together()), (pools[0].clone(), Some(clusters)));
    }

    #[test]
    fn half_of_the_trainings_are_made_unless_others_are_wanted() {
        assert_eq!(leave_outs(CONTRIBUTORS_MAX, None), CONTRIBUTORS_MAX / 2);
        let wanted = |count| leave_outs(CONTRIBUTORS_MAX, Some(count));
        assert_eq!((wanted(1), wanted(u16::MAX)), (1, CONTRIBUTORS_MAX));
        assert_eq!([1, 2, 8, 9, 40].map(|contributors| leave_outs(contributors, None)), [0, 2, 8, 8, 20]);
    }
}
