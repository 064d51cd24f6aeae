//! What a run has in common with another one of the same examples at other weights: every step before the first whose batch
//! holds an example that counts otherwise.
//!
//! Invariant: a checkpoint is adopted only where it is, byte for byte, what the run itself would have come to from step 0.

use tributary_protocol::id::Hash;

use super::checkpoint::{Expected, Patience, State};
use super::examples::Split;
use super::recipe::{Order, run_hash};
use super::{Example, Recipe, TrainError};
use crate::lora::parameter_count;
use crate::model::Base;

/// The steps that a run shares with another one.
pub struct Prefix {
    run: Hash,
    keeps_aside: bool,
    other: Expected,
    steps: u32,
}

impl Prefix {
    /// What the run of `recipe` over `examples` shares with that of the `other` recipe over the same examples at other weights.
    /// The recipes may differ in when they evaluate, as that of a leave-out run does from its run's.
    ///
    /// # Errors
    /// When recipe or examples break a bound or differ in more than that, or `recipe` has patience: a state of its run holds what
    /// was evaluated with these weights.
    pub fn of(
        base: &Base,
        recipe: &Recipe,
        examples: &[Example],
        other: (&Recipe, &[Example]),
    ) -> Result<Self, TrainError> {
        let (other_recipe, others) = other;
        recipe.check()?;
        other_recipe.check()?;
        if recipe.patience > 0 || recipe.without_evaluation() != other_recipe.without_evaluation() {
            return Err(TrainError::Recipe("runs of these two recipes share no state".into()));
        }
        if examples.len() != others.len() || !examples.iter().zip(others).all(|(one, other)| is_same(one, other)) {
            return Err(TrainError::Examples("runs of other examples share no state".into()));
        }
        let split = Split::of(base, recipe, examples)?;
        let differs =
            split.trained.iter().map(|one| others.get(one.index).is_none_or(|other| other.weight != one.weight));
        let steps = alike(recipe, &differs.collect::<Vec<_>>());
        let count = parameter_count(base.config(), &recipe.lora().checked()?);
        let run = Some(run_hash(base, other_recipe, others)?);
        let other = Expected { run, count, steps: recipe.steps, keeps_aside: other_recipe.keeps_aside() };
        Ok(Self { run: run_hash(base, recipe, examples)?, keeps_aside: recipe.keeps_aside(), other, steps })
    }

    /// How many steps both runs do alike; never the last one.
    #[must_use]
    pub const fn steps(&self) -> u32 {
        self.steps
    }

    /// A checkpoint of the other run as this run's own.
    ///
    /// # Errors
    /// When the bytes are no checkpoint of the other run, or one of a step that the two don't share.
    pub fn adopt(&self, checkpoint: &[u8]) -> Result<Vec<u8>, TrainError> {
        let state = State::from_bytes(checkpoint, &self.other)?;
        if state.step > self.steps {
            let (step, steps) = (state.step, self.steps);
            return Err(TrainError::Checkpoint(format!("step {step} lies beyond the {steps} that both runs do alike")));
        }
        // What the other run heard of its evaluations is no part of this one, which has heard of none so far.
        let aside = state.aside.filter(|_| self.keeps_aside);
        Ok(State { run: self.run, patience: Patience::new(), aside, ..state }.to_bytes())
    }
}

/// Whether two examples differ in their weights at most.
fn is_same(one: &Example, other: &Example) -> bool {
    let Example { prompt, completion, messages, contributor, weight: _ } = one;
    (prompt, completion, messages, contributor)
        == (&other.prompt, &other.completion, &other.messages, &other.contributor)
}

/// Steps before the first that `differs` for one of its examples, or after which something is evaluated: the last of a recipe
/// is such a one.
fn alike(recipe: &Recipe, differs: &[bool]) -> u32 {
    let last = recipe.steps.saturating_sub(1);
    let most = (0..last).find(|step| recipe.evaluates_after(step + 1)).unwrap_or(last);
    if !differs.contains(&true) {
        return most;
    }
    let mut order = Order::new(recipe.seed, u32::try_from(differs.len()).unwrap_or(u32::MAX));
    let mut is_other = |step: &u32| {
        let batch = order.batch(*step, recipe.batch);
        batch.into_iter().any(|place| differs.get(place as usize).is_none_or(|differs| *differs))
    };
    (0..most).find(|step| is_other(step)).unwrap_or(most)
}
