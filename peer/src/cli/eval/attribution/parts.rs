//! The parts of a study: each trains what its journal lacks, and adds its findings.

use std::time::Instant;

use tributary_compute::model::Base;
use tributary_compute::study::attacks::{assail, self_dealing};
use tributary_compute::study::dataset::Dataset;
use tributary_compute::study::deal::{Dealt, Setting, deal};
use tributary_compute::study::echoing::echoing;
use tributary_compute::study::economy::{COMPARED, prior};
use tributary_compute::study::redundancy::{clusters_left_out, redundancy};
use tributary_compute::study::stability::{candidates, stability};
use tributary_compute::study::table::{CLUSTERS, COST, Finding, OURS, TRUE_RUN, UNROLLED};
use tributary_compute::study::{
    Case, CostPlan, Figure, Journal, Laboratory, Plan, Scores, StudyError, Truth, all, cost, judge, recipe, unrolled,
};
use tributary_compute::train::{Example, Recipe};
use tributary_protocol::id::AccountId;
use tributary_storage::admission::{Admission, Claim};
use tributary_storage::shard::Record;

use crate::cli::eval::foreign::Others;
use crate::cli::eval::load;
use crate::cli::failure::{FAILED, Failure};
use crate::cli::output::Context;

/// Answers for which the run is unrolled, each by a pass as long as a few trainings; fewer where it is quick.
const AUDITED: usize = 16;
const AUDITED_QUICKLY: usize = 8;
/// Trainings between two words about how far a part is.
const TOLD: usize = 10;
/// Recipes that a quick study compares: the plain and the stable one.
const QUICK_RECIPES: usize = 2;

/// How a method comes to its scores.
type Scoring<'a> = dyn Fn() -> Result<Scores, StudyError> + 'a;

/// What the product admits of records that were claimed one after another in the order in which they stand.
fn admitted(dealt: &Dealt) -> Vec<usize> {
    let claim = |(place, example): (usize, &Example)| {
        let mut account = [0; 32];
        account[..4].copy_from_slice(&example.contributor.to_be_bytes());
        let account = AccountId(account);
        let (prompt, completion) = (example.prompt.clone(), example.completion.clone());
        let record = Record::new(prompt, completion, account, String::new());
        Claim { record, account, proven: None, claimed_ms: place as u64, place }
    };
    let admission = Admission::of(dealt.examples.iter().enumerate().map(claim));
    admission.admitted.iter().map(|admitted| admitted.place).collect()
}

/// A study under way.
pub(in crate::cli::eval) struct Study<'a> {
    pub(super) context: &'a Context,
    pub(super) dataset: Dataset,
    pub(super) base: Base,
    pub(super) journal: Journal,
    pub(super) contributors: usize,
    pub(super) quick: bool,
    pub(super) singly: bool,
    pub(super) workers: usize,
    pub(super) findings: Vec<Finding>,
    pub(super) others: Others,
}

impl<'a> Study<'a> {
    /// One deployed run: its truth, then every method.
    pub(super) fn methods(&mut self, setting: Setting, seed: u64) -> Result<(), Failure> {
        let laboratory = self.laboratory(setting, seed, &recipe().stable())?;
        let (quick, singly) = (self.quick, self.singly);
        let plan = self.plan(seed);
        let contributors = laboratory.dealt().contributors;
        self.begin(&laboratory, seed, &format!("{} trainings", plan.trainings(contributors)));
        let truth = Truth::measure(&laboratory, &plan, &self.teller())?;
        let mut case = Case::prepare(&laboratory, seed, &|_, _| {})?;
        let (trainings, clustered) = clusters_left_out(&case, &self.teller())?;
        let mut judged = |name: &str, trainings: usize, truth: &Truth, score: &Scoring<'_>| -> Result<(), Failure> {
            let start = Instant::now();
            let scores = score()?;
            let seconds = start.elapsed().as_secs_f64();
            self.context.say(&format!("  {name}: scored in {seconds:.1} s{}", load()));
            let whose = Finding { trainings, seconds, ..self.of(name) };
            self.add(setting, seed, &whose, judge(truth, &scores)?);
            Ok(())
        };
        for method in all() {
            case.forget();
            judged(method.name(), method.trainings(contributors), &truth, &|| method.scores(&case))?;
        }
        judged(CLUSTERS, trainings, &truth, &|| Ok(clustered.clone()))?;
        let answers = if quick { AUDITED_QUICKLY } else { AUDITED };
        if !singly {
            judged(UNROLLED, 0, &truth.of_first(answers), &|| unrolled(&case, answers))?;
        }
        judged(TRUE_RUN, contributors, &truth, &|| Ok(Scores::of_contributors(truth.without.clone())))?;
        self.costs(&case)?;
        let whose = Finding { setting: setting.name().into(), seed, ..self.of("") };
        self.findings.extend(self.others.judged(&case, &truth, &whose)?);
        Ok(())
    }

    /// What the methods cost that train.
    fn costs(&mut self, case: &Case<'_>) -> Result<(), Failure> {
        for method in all() {
            let own = self.findings.iter().rfind(|finding| finding.method == method.name());
            let Some(own) = own.filter(|own| own.trainings > 0).cloned() else { continue };
            let finding =
                |(measure, figure): (&str, Figure)| Finding { measure: measure.into(), figure, ..own.clone() };
            self.findings.extend(case.index_cost(own.trainings)?.map(finding));
        }
        Ok(())
    }

    /// What two who teach the same are paid.
    pub(super) fn twins(&mut self, seed: u64) -> Result<(), Failure> {
        let laboratory = match self.laboratory(Setting::Twins, seed, &recipe().stable()) {
            Ok(laboratory) => laboratory,
            Err(StudyError::Dataset(why)) => {
                self.context.say(&format!("{}, twins: left out: {why}", self.dataset.name));
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        self.begin(&laboratory, seed, "pairs left out");
        let unseen = (!self.quick).then_some(seed + 1);
        let (rules, found) = redundancy(&laboratory, seed, unseen, &self.teller())?;
        let of = |value: f64| Figure { value, low: value, high: value };
        for row in rules {
            let whose = Finding { trainings: row.trainings, ..self.of(row.rule) };
            let (imbalance, seeds) = (row.imbalance.map(of), row.seeds.map(of));
            let figures = [("twins-joint", row.joint), ("twins-imbalance", imbalance), ("seeds-net-r", seeds)];
            let known = figures.into_iter().filter_map(|(measure, figure)| Some((measure, figure?)));
            self.add(Setting::Twins, seed, &whose, known);
        }
        let figures = [("twins-precision", of(found.precision)), ("twins-recall", of(found.recall))];
        self.add(Setting::Twins, seed, &self.of(CLUSTERS), figures);
        Ok(())
    }

    /// Whether records that say what others' say are found.
    pub(super) fn echoes(&mut self, setting: Setting, seed: u64) -> Result<(), Failure> {
        let laboratory = self.laboratory(setting, seed, &recipe().stable())?;
        self.begin(&laboratory, seed, "records that say what others' say");
        for found in echoing(&laboratory, seed, &self.teller())? {
            self.add(setting, seed, &self.of(found.deal), found.figures);
        }
        Ok(())
    }

    /// What cheats gain.
    pub(super) fn attacks(&mut self, setting: Setting, seed: u64) -> Result<(), Failure> {
        let laboratory = self.laboratory(setting, seed, &recipe().stable())?;
        self.begin(&laboratory, seed, "attacks");
        let begun = |measure: &str| self.context.say(&format!("  attack: {measure}{}", load()));
        let found = assail(&laboratory, seed, &admitted, &begun, &self.teller())?;
        for assault in found {
            let whose = Finding { trainings: assault.trainings, ..self.of(assault.method) };
            self.add(setting, seed, &whose, [(assault.measure, assault.figure)]);
        }
        let figure = self_dealing().map_err(|error| Failure::new(FAILED, error, ""))?;
        let whose = self.of(OURS);
        self.add(setting, seed, &whose, [("self-dealing", figure)]);
        Ok(())
    }

    /// What ways with fewer trainings lose.
    pub(super) fn economy(&mut self, setting: Setting, seed: u64) -> Result<(), Failure> {
        let laboratory = self.laboratory(setting, seed, &recipe().stable())?;
        let plan = self.plan(seed);
        self.begin(&laboratory, seed, "fewer trainings");
        let truth = Truth::measure(&laboratory, &plan, &self.teller())?;
        let case = Case::prepare(&laboratory, seed, &|_, _| {})?;
        for (economy, stands_in) in COMPARED {
            let start = Instant::now();
            let scores = economy.scores(&laboratory, seed, &prior(&case, stands_in)?, &self.teller())?;
            let price = economy.price(laboratory.dealt().contributors);
            let name = format!("{}, {stands_in}: {price:.0} trainings", economy.name());
            self.context.say(&format!("  {name}{}", load()));
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of trainings")]
            let trainings = price.ceil() as usize;
            let whose = Finding { trainings, seconds: start.elapsed().as_secs_f64(), ..self.of(&name) };
            self.add(setting, seed, &whose, judge(&truth, &scores)?);
        }
        Ok(())
    }

    /// What attributing one answer costs.
    pub(super) fn cost(&mut self, seed: u64) -> Result<(), Failure> {
        self.context.say(&format!("one answer, credited to {} contributors{}", CostPlan::USUAL.contributors, load()));
        let whose = Finding { setting: COST.into(), seed, ..self.of(OURS) };
        let finding = |(measure, figure): (&str, Figure)| Finding { measure: measure.into(), figure, ..whose.clone() };
        self.findings.extend(cost(&CostPlan::USUAL)?.into_iter().map(finding));
        Ok(())
    }

    /// How far two true runs agree, by each recipe.
    pub(super) fn recipes(&mut self, setting: Setting, seed: u64) -> Result<(), Failure> {
        let most = if self.quick { QUICK_RECIPES } else { usize::MAX };
        for candidate in candidates().into_iter().take(most) {
            let laboratory = self.laboratory(setting, seed, &candidate.recipe)?;
            self.begin(&laboratory, seed, candidate.name);
            let figures = stability(&laboratory, candidate.seeds, seed, &self.teller())?;
            self.add(setting, seed, &self.of(candidate.name), figures);
        }
        Ok(())
    }

    pub(in crate::cli::eval) fn laboratory(
        &self,
        setting: Setting,
        seed: u64,
        recipe: &Recipe,
    ) -> Result<Laboratory, StudyError> {
        let dealt = deal(&self.dataset, setting, self.contributors, seed)?;
        Laboratory::new(&self.base, recipe, &dealt, Some(self.journal.clone()), self.workers)
    }

    fn begin(&self, laboratory: &Laboratory, seed: u64, what: &str) {
        let dealt = laboratory.dealt();
        let contributors = dealt.contributors;
        self.context.say(&format!("{}, seed {seed}: {contributors} contributors, {what}{}", dealt.name, load()));
    }

    /// Says how far trainings are, now and then.
    fn teller(&self) -> impl Fn(usize, usize) + Sync + use<'a> {
        let context = self.context;
        move |done: usize, of: usize| {
            if done.is_multiple_of(TOLD) || done == of {
                context.say(&format!("  {done} of {of}{}", load()));
            }
        }
    }

    /// What all findings of a method share.
    fn plan(&self, seed: u64) -> Plan {
        let plan = if self.quick { Plan::quick(seed) } else { Plan::full(seed) };
        if self.singly { Plan { subsets: 0, record_subsets: 0, singles: 0, ..plan } } else { plan }
    }

    fn of(&self, method: &str) -> Finding {
        Finding { dataset: self.dataset.name.clone(), method: method.into(), ..Finding::default() }
    }

    fn add(
        &mut self,
        setting: Setting,
        seed: u64,
        whose: &Finding,
        figures: impl IntoIterator<Item = (&'static str, Figure)>,
    ) {
        let finding = |(measure, figure): (&'static str, Figure)| Finding {
            setting: setting.name().into(),
            seed,
            measure: measure.into(),
            figure,
            ..whose.clone()
        };
        self.findings.extend(figures.into_iter().map(finding));
    }
}
