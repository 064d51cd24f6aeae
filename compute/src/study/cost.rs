//! What attributing one answer costs: forward passes of the answer, milliseconds of a scan, bytes of the index.
//!
//! Invariant: in each round everything is measured in turns, and times are told in what the answer's own pass took in that round, so
//! that another load on the machine changes no figure much. Weights and rows are made from fixed seeds.

use std::time::Instant;

use super::StudyError;
use super::bootstrap::Figure;
use crate::attribute::{EXACT_CONTRIBUTORS, Index, Rule, credits_by, gradient, scan};
use crate::bench::Shape;
use crate::linear::Hook;
use crate::lora::{Adapter, FrozenAdapter, LoraConfig, parameter_count};
use crate::loss::{Target, token_losses};
use crate::model::{Base, Mode, Module};
use crate::ops::narrow;
use crate::random::{Stream, uniform};
use crate::statistics::median;

/// Where the rows' numbers begin in one list of them, for each row further along: a prime.
const ROW_STEP: usize = 7_919;

/// An answer and who is credited for it.
#[derive(Debug, Clone, Copy)]
pub struct CostPlan {
    /// The model, of random weights.
    pub shape: Shape,
    /// The adapter's rank, on all seven products.
    pub rank: usize,
    /// Rows of the index.
    pub contributors: u32,
    /// Tokens of the question and of the answer.
    pub tokens: [u32; 2],
    /// Times that everything is measured; the middle figures count.
    pub rounds: usize,
}

impl CostPlan {
    /// A Llama of about 100 million parameters with an adapter of 1.8 million, credited to 200.
    pub const USUAL: Self = Self { shape: Shape::SPEED, rank: 11, contributors: 200, tokens: [64, 192], rounds: 5 };
}

/// Seconds of one round.
struct Round {
    prefill: f64,
    linear: f64,
    exact: f64,
    scan: f64,
}

/// Passes of the answer that its attribution takes by the rule that pays and by first-order estimates alone, milliseconds of the scan
/// of all rows, and bytes of the index for each number of each row. The intervals are the least and the most of all rounds.
///
/// # Errors
/// When the model can't run.
pub fn cost(plan: &CostPlan) -> Result<Vec<(&'static str, Figure)>, StudyError> {
    let base = plan.shape.base()?;
    let config = base.config();
    let lora = LoraConfig {
        rank: plan.rank,
        alpha: 2.0 * plan.rank as f64,
        rslora: false,
        dropout: 0.0,
        target_modules: Module::ALL.to_vec(),
    };
    let numbers = parameter_count(config, &lora);
    let noise: Vec<f32> =
        (0_u64..).take(numbers).map(|at| narrow((uniform(1, Stream::Initial, 0, at) - 0.5) * 0.02)).collect();
    let adapter = Adapter::from_values(config, &lora, &noise)?;
    // Rows of several lengths, as contributors have.
    let row = |contributor: u32| {
        let (from, size) = (contributor as usize * ROW_STEP, narrow(0.1 / f64::from(1 + contributor % 16)));
        noise.iter().cycle().skip(from % numbers).take(numbers).map(|number| number * size).collect::<Vec<f32>>()
    };
    let index = Index::of_deltas(&adapter, (0..plan.contributors).map(|one| (one, row(one))))?;
    let bytes = index.to_bytes().len() as f64 / numbers as f64 / f64::from(plan.contributors);
    let vocab = u32::try_from(config.vocab).unwrap_or(u32::MAX).max(1);
    let [prompt, answer] = plan.tokens.map(|count| (1..=count).map(|at| at * 31 % vocab).collect::<Vec<u32>>());
    let answered = Answered { base: &base, adapter: &adapter, index: &index, prompt: &prompt, answer: &answer };
    let rounds = (0..plan.rounds).map(|_| answered.round()).collect::<Result<Vec<_>, _>>()?;
    let told = |of: &dyn Fn(&Round) -> f64| figure(&rounds.iter().map(of).collect::<Vec<_>>());
    Ok(vec![
        ("cost-paid", told(&|round| round.exact / round.prefill)),
        ("cost-linear", told(&|round| round.linear / round.prefill)),
        ("cost-scan-ms", told(&|round| 1e3 * round.scan)),
        ("cost-bytes", figure(&[bytes])),
    ])
}

struct Answered<'a> {
    base: &'a Base,
    adapter: &'a Adapter,
    index: &'a Index,
    prompt: &'a [u32],
    answer: &'a [u32],
}

impl Answered<'_> {
    fn round(&self) -> Result<Round, StudyError> {
        let target = Target::new(self.prompt, self.answer);
        let frozen = FrozenAdapter::new(self.adapter)?;
        let segments = [(0..target.fed(), Some(&frozen))];
        let pass = || -> Result<(), StudyError> {
            let losses =
                token_losses(self.base.model(), Mode::Infer, Hook::Segments(&segments), std::slice::from_ref(&target))?;
            losses.to_vec1::<f32>()?;
            Ok(())
        };
        let credited = |rule: Rule| -> Result<(), StudyError> {
            credits_by(rule, self.base, self.adapter, self.index, (self.prompt, self.answer))?;
            Ok(())
        };
        let (gradient, _) = gradient(self.base, self.adapter, &target)?;
        let scanned = || -> Result<(), StudyError> {
            std::hint::black_box(scan(self.index, &gradient));
            Ok(())
        };
        Ok(Round {
            prefill: seconds(pass)?,
            linear: seconds(|| credited(Rule::LINEAR))?,
            exact: seconds(|| credited(Rule { exact: EXACT_CONTRIBUTORS, ..Rule::LINEAR }))?,
            scan: seconds(scanned)?,
        })
    }
}

fn seconds(work: impl FnOnce() -> Result<(), StudyError>) -> Result<f64, StudyError> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed().as_secs_f64())
}

/// The middle one between the least and the most.
fn figure(values: &[f64]) -> Figure {
    let extreme = |which: fn(f64, f64) -> f64| values.iter().copied().reduce(which).unwrap_or_default();
    Figure { value: median(values).unwrap_or_default(), low: extreme(f64::min), high: extreme(f64::max) }
}

#[cfg(test)]
mod tests {
    use super::{CostPlan, cost};
    use crate::bench::Shape;

    #[test]
    fn an_answers_attribution_takes_passes_and_an_index_a_byte_a_number() {
        let shape = Shape { hidden: 192, intermediate: 256, layers: 2, heads: 3, vocab: 320 };
        let plan = CostPlan { shape, rank: 4, contributors: 20, tokens: [5, 12], rounds: 1 };
        let figures = cost(&plan).unwrap();
        let value = |name: &str| figures.iter().find(|(one, _)| *one == name).unwrap().1.value;
        assert!(value("cost-paid") > 0.0 && value("cost-linear") > 0.0 && value("cost-scan-ms") > 0.0);
        assert!((1.0..1.1).contains(&value("cost-bytes")), "{}", value("cost-bytes"));
    }
}
