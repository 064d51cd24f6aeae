//! Other programs beside ours: runs written for them, and their scores judged by the same truth.
//!
//! Invariant: scores count for the run that they name and for no other; a file that names none of the study's runs is an error,
//! and a method that gave no scores is told with its reason.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde_json::json;
use tributary_compute::study::deal::Setting;
use tributary_compute::study::exchange::{Foreign, ScoresError};
use tributary_compute::study::methods::Missing;
use tributary_compute::study::table::Finding;
use tributary_compute::study::{Case, Figure, Scores, Truth, judge, recipe};

use super::super::failure::{FAILED, Failure};
use super::super::output::Output;
use super::attribution::Study;

impl From<ScoresError> for Failure {
    fn from(error: ScoresError) -> Self {
        Self::new(FAILED, error, "write the scores anew for the run that --export writes")
    }
}

/// Scores of other programs, and what became of them.
pub(super) struct Others {
    read: Vec<Foreign>,
    /// Identities of the runs so far.
    runs: BTreeSet<String>,
    missing: Vec<Missing>,
}

impl Others {
    /// Reads all files.
    pub(super) fn read(files: &[PathBuf]) -> Result<Self, Failure> {
        let read = files.iter().map(|file| Foreign::read(file)).collect::<Result<_, _>>()?;
        Ok(Self { read, runs: BTreeSet::new(), missing: Vec::new() })
    }

    /// Findings of those who scored this run, each like `whose` but for method, time and figure.
    pub(super) fn judged(&mut self, case: &Case<'_>, truth: &Truth, whose: &Finding) -> Result<Vec<Finding>, Failure> {
        if self.read.is_empty() {
            return Ok(Vec::new());
        }
        let run = case.identity()?;
        let (records, questions) = case.shape();
        let mut findings = Vec::new();
        for foreign in self.read.iter().filter(|foreign| foreign.run == run) {
            let method = foreign.method.clone();
            let (matrix, cost) = match foreign.of(records, questions)? {
                Ok(given) => given,
                Err(reason) => {
                    let Finding { dataset, setting, .. } = whose.clone();
                    self.missing.push(Missing { dataset, setting, method, reason: reason.into() });
                    continue;
                }
            };
            let own = Finding { method, seconds: cost.build_seconds + cost.query_seconds, ..whose.clone() };
            let figures = judge(truth, &Scores::of_records(matrix.clone(), case))?.into_iter().chain(cost.figures());
            let finding =
                |(measure, figure): (&str, Figure)| Finding { measure: measure.into(), figure, ..own.clone() };
            findings.extend(figures.map(finding));
        }
        self.runs.insert(run);
        Ok(findings)
    }

    /// Who gave no scores.
    pub(super) fn missing(&self) -> &[Missing] {
        &self.missing
    }

    /// An error when scores were of none of the runs.
    pub(super) fn are_all_judged(&self) -> Result<(), Failure> {
        match self.read.iter().find(|foreign| !self.runs.contains(&foreign.run)) {
            None => Ok(()),
            Some(foreign) => Err(Failure::usage(
                format!("{}: the scores are of another run ({})", foreign.method, foreign.run),
                "give the same dataset, setting, contributors and seeds as for --export",
            )),
        }
    }
}

/// Writes the deployed runs of these deals and seeds.
pub(super) fn export(
    study: &Study<'_>,
    settings: &[Setting],
    seeds: RangeInclusive<u64>,
    folder: &Path,
) -> Result<Output, Failure> {
    let mut names = Vec::new();
    for seed in seeds {
        for setting in settings {
            let laboratory = study.laboratory(*setting, seed, &recipe().stable())?;
            let folder = folder.join(format!("{}-{seed}", setting.name()));
            Case::prepare(&laboratory, seed, &|_, _| {})?.export(&folder)?;
            names.push(folder.display().to_string());
        }
    }
    let text = names.iter().map(|name| format!("{name}\n")).collect();
    Ok(Output::new(json!({"runs": names}), names, text))
}
