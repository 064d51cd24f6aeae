//! How well scores predict the truth.
//!
//! Invariant: every measure that a method's scores and the truth determine has a figure, and no other; all intervals of one
//! truth are drawn from one seed.

use std::collections::BTreeMap;

use tributary_protocol::limits::AUDIT_ONE_IN;

use super::StudyError;
use super::attributor::Scores;
use super::audit::misallocated_after;
use super::bootstrap::{Figure, figure};
use super::matrix::Matrix;
use super::truth::{Subsets, Truth};
use crate::statistics::{auc, mean, misallocated, parts, pearson, spearman};

/// Every measure with what it means, in the order of tables.
pub const MEASURES: [(&str, &str); 57] = [
    ("clds-tenth", "cLDS, a tenth of the contributors left out"),
    ("clds-half", "cLDS, half of the contributors left out"),
    ("loco-r", "leave one contributor out, r for each answer"),
    ("loco-rho", "the same, rank correlation"),
    ("tv-answer", "fee misallocated, each answer"),
    ("tv-totals", "fee misallocated, totals"),
    ("tv-audited-4", "totals misallocated after an audit, one answer in four"),
    ("tv-audited-8", "totals misallocated after an audit, one answer in eight"),
    ("tv-settled", "the same of sixteen times as many answers, one in sixteen, as epochs are settled"),
    ("net-r", "net totals, r"),
    ("net-rho", "net totals, rank correlation"),
    ("unseen-loco-r", "unseen seeds: r for each answer"),
    ("unseen-tv-totals", "unseen seeds: totals misallocated"),
    ("unseen-net-r", "unseen seeds: net totals, r"),
    ("unseen-net-rho", "unseen seeds: net totals, rank correlation"),
    ("lds-tenth", "record LDS, a tenth left out"),
    ("lds-half", "record LDS, half left out"),
    ("loo-r", "leave one record out, r for each answer"),
    ("auc-mislabelled", "wrong labels found, AUC"),
    ("auc-poisoned", "poison found, AUC"),
    ("auc-poisoned-unasked", "poison found without a question behind its trigger, AUC"),
    ("twins-joint", "two who teach the same: together, as a part of what one alone would get"),
    ("twins-imbalance", "the same: how far they are from half each"),
    ("twins-precision", "the same: the part of the pairs found that are some"),
    ("twins-recall", "the same: the part of them that is found"),
    ("echo-shown", "records that say what another's say, as people are shown them: the part of all"),
    ("echo-precision", "the same: the part of those shown that do"),
    ("echo-recall", "the same: the part of those that do that is shown"),
    ("echo-taught-auc", "the same by what they teach alone, AUC"),
    ("echo-read-auc", "the same by how the base reads them alone, AUC"),
    ("duplicate-2", "duplicating x2: gained beside an average other"),
    ("duplicate-2-admitted", "the same with admission"),
    ("duplicate-4", "duplicating x4: gained beside an average other"),
    ("duplicate-4-admitted", "the same with admission"),
    ("duplicate-8", "duplicating x8: gained beside an average other"),
    ("duplicate-8-admitted", "the same with admission"),
    ("copycat", "a copycat: what the victims lose"),
    ("copycat-admitted", "the same with admission"),
    ("paraphrase", "a copycat in other words: what the victims lose"),
    ("paraphrase-admitted", "the same with admission"),
    ("sybil", "four names for one: share gained"),
    ("sybil-admitted", "the same with admission"),
    ("outlier", "records made strange: share gained"),
    ("outlier-admitted", "the same with admission"),
    ("self-dealing", "paying oneself: gained, as a part of the fee"),
    ("seeds-loco-r", "two seeds of one recipe: r for each answer"),
    ("seeds-net-r", "the same, true net totals, r"),
    ("seeds-net-rho", "the same, rank correlation"),
    ("seeds-tv-totals", "the same, totals that differ"),
    ("seeds-spread", "the same: standard deviation of chance in a credit, nats a token"),
    ("seeds-spreads", "the same: how many of them are best taken off"),
    ("seeds-explained", "the same: what credits shrunk so explain of the other run's squared rises"),
    ("loss", "mean loss of the answers, nats a token"),
    ("cost-paid", "forward passes of an answer that its attribution takes, k = 8"),
    ("cost-linear", "the same, k = 0"),
    ("cost-scan-ms", "scan of the index, ms"),
    ("cost-bytes", "bytes of the index for each number and contributor"),
];

/// One method's figures, by measure.
pub type Judgement = BTreeMap<&'static str, Figure>;

/// The totals after an audit, and of how many answers one is audited.
const AUDITS: [(&str, u32, usize); 3] =
    [("tv-audited-4", 4, 1), ("tv-audited-8", 8, 1), ("tv-settled", AUDIT_ONE_IN.get(), 16)];

/// Seed of the intervals' draws.
const SEED: u64 = 1;

/// Judges scores of all questions, those behind the trigger last.
///
/// # Errors
/// When the scores are not of this truth's contributors, records and questions.
pub fn judge(truth: &Truth, scores: &Scores) -> Result<Judgement, StudyError> {
    let mut found = Found::default();
    if let Some(contributors) = &scores.contributors {
        check(contributors, truth.without.rows(), truth.queries)?;
        found.put("clds-tenth", datamodel(&truth.tenths, contributors));
        found.put("clds-half", datamodel(&truth.halves, contributors));
        against(&mut found, ["loco-r", "loco-rho", "tv-answer", "tv-totals", "net-r", "net-rho"], contributors, truth);
        let (given, due) = (shares(&columns(contributors, truth)), shares(&columns(&truth.without, truth)));
        for (measure, one_in, times) in AUDITS {
            found.put(measure, misallocated_after(SEED, (&given, &due), one_in, times)?);
        }
        if let Some(unseen) = mean_of(&truth.unseen)? {
            let names = ["unseen-loco-r", "", "", "unseen-tv-totals", "unseen-net-r", "unseen-net-rho"];
            against(&mut found, names, contributors, &Truth { without: unseen, ..truth.clone() });
        }
    }
    if let Some(records) = &scores.records {
        check(records, truth.mislabelled.len(), truth.queries)?;
        found.put("lds-tenth", datamodel(&truth.record_tenths, records));
        found.put("lds-half", datamodel(&truth.record_halves, records));
        found.put("loo-r", singles(truth, records));
        // Who was asked nothing behind the trigger says nothing of it.
        if records.columns() > truth.queries {
            let triggered = |row: &[f32]| sum(&row[truth.queries..]);
            found.put("auc-poisoned", ranking(&records.iter().map(triggered).collect::<Vec<_>>(), &truth.poisoned));
        }
    }
    if let Some(suspicion) = &scores.suspicion {
        found.put("auc-poisoned-unasked", ranking(suspicion, &truth.poisoned));
    }
    let negative = |records: &Matrix| records.iter().map(|row| -sum(&row[..truth.queries])).collect();
    if let Some(suspicion) = scores.suspicion.clone().or_else(|| scores.records.as_ref().map(negative)) {
        found.put("auc-mislabelled", ranking(&suspicion, &truth.mislabelled));
    }
    Ok(found.0)
}

#[derive(Default)]
struct Found(Judgement);

impl Found {
    fn put(&mut self, measure: &'static str, figure: Option<Figure>) {
        if let Some(figure) = figure.filter(|_| !measure.is_empty()) {
            self.0.insert(measure, figure);
        }
    }
}

fn check(scores: &Matrix, rows: usize, queries: usize) -> Result<(), StudyError> {
    match scores.rows() == rows && scores.columns() >= queries {
        true => Ok(()),
        false => Err(StudyError::Shape(format!(
            "scores of {} by {}, expected {rows} by {queries} or more",
            scores.rows(),
            scores.columns()
        ))),
    }
}

fn sum(values: &[f32]) -> f64 {
    values.iter().map(|value| f64::from(*value)).sum()
}

/// The measures of single contributors, under `names`.
fn against(found: &mut Found, names: [&'static str; 6], scores: &Matrix, truth: &Truth) {
    let (given, due) = (columns(scores, truth), columns(&truth.without, truth));
    let each = |of: fn(&[f64], &[f64]) -> Option<f64>| -> Vec<Option<f64>> {
        given.iter().zip(&due).map(|(given, due)| of(given, due)).collect()
    };
    found.put(names[0], mean_figure(&each(pearson)));
    found.put(names[1], mean_figure(&each(spearman)));
    found.put(names[2], mean_figure(&each(|given, due| Some(misallocated(given, due)))));
    let (given_shares, due_shares) = (shares(&given), shares(&due));
    let count = [truth.queries, 0];
    found.put(
        names[3],
        figure(SEED, count, |places, _| Some(misallocated(&total(&given_shares, places), &total(&due_shares, places)))),
    );
    found.put(names[4], figure(SEED, count, |places, _| pearson(&total(&given, places), &total(&due, places))));
    found.put(names[5], figure(SEED, count, |places, _| spearman(&total(&given, places), &total(&due, places))));
}

/// Contributors' values for each question that is paid for.
fn columns(matrix: &Matrix, truth: &Truth) -> Vec<Vec<f64>> {
    (0..truth.queries).map(|query| matrix.column(query)).collect()
}

/// Parts of each answer; nobody's where nobody has credit.
fn shares(columns: &[Vec<f64>]) -> Vec<Vec<f64>> {
    columns.iter().map(|column| parts(column).unwrap_or_else(|| vec![0.0; column.len()])).collect()
}

/// Sums over the questions at `places`.
fn total(columns: &[Vec<f64>], places: &[usize]) -> Vec<f64> {
    let mut sums = vec![0.0; columns.first().map_or(0, Vec::len)];
    for place in places {
        sums.iter_mut().zip(&columns[*place]).for_each(|(sum, value)| *sum += value);
    }
    sums
}

/// The mean over questions that have a value.
fn mean_figure(values: &[Option<f64>]) -> Option<Figure> {
    let known: Vec<f64> = values.iter().flatten().copied().collect();
    figure(SEED, [known.len(), 0], |places, _| mean(&places.iter().map(|place| known[*place]).collect::<Vec<_>>()))
}

/// The linear datamodeling score (Park et al., arXiv 2303.14186): for each question the rank correlation, over subsets, of
/// the predicted and the true loss; then the mean over questions.
fn datamodel(subsets: &Subsets, scores: &Matrix) -> Option<Figure> {
    let predicted: Vec<Vec<f64>> = subsets
        .left_out
        .iter()
        .map(|left_out| {
            let mut sums = vec![0.0; scores.columns()];
            for place in left_out {
                sums.iter_mut().zip(scores.row(*place as usize)).for_each(|(sum, score)| *sum += f64::from(*score));
            }
            sums
        })
        .collect();
    let queries = subsets.losses.columns();
    figure(SEED, [queries, predicted.len()], |queries, subset_places| {
        let of = |query: &usize| {
            let given: Vec<f64> = subset_places.iter().map(|subset| predicted[*subset][*query]).collect();
            let due: Vec<f64> =
                subset_places.iter().map(|subset| f64::from(subsets.losses.row(*subset)[*query])).collect();
            spearman(&given, &due)
        };
        mean(&queries.iter().filter_map(of).collect::<Vec<_>>())
    })
}

fn singles(truth: &Truth, records: &Matrix) -> Option<Figure> {
    let places: Vec<usize> = truth.singles.left_out.iter().flatten().map(|place| *place as usize).collect();
    let of = |query: usize| {
        let given: Vec<f64> = places.iter().map(|place| f64::from(records.row(*place)[query])).collect();
        pearson(&given, &truth.single_rises.column(query))
    };
    mean_figure(&(0..truth.queries).map(of).collect::<Vec<_>>())
}

fn ranking(scores: &[f64], marked: &[bool]) -> Option<Figure> {
    figure(SEED, [marked.len(), 0], |places, _| {
        let scores: Vec<f64> = places.iter().map(|place| scores[*place]).collect();
        auc(&scores, &places.iter().map(|place| marked[*place]).collect::<Vec<_>>())
    })
}

fn mean_of(matrices: &[Matrix]) -> Result<Option<Matrix>, StudyError> {
    let Some((first, others)) = matrices.split_first() else { return Ok(None) };
    let mut sum = first.clone();
    for other in others {
        sum.add(other, 1.0)?;
    }
    let factor = crate::ops::narrow(1.0 / matrices.len() as f64);
    Ok(Some(sum.map_rows(|row| row.iter_mut().for_each(|value| *value *= factor))))
}
