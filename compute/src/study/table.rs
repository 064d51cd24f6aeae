//! The study's table: our figures, the best peer's, the targets.
//!
//! Invariant: a row exists whether or not it was measured, a missed target keeps its true figure, and every figure is the mean
//! over the seeds of one dataset and setting.

use serde::{Deserialize, Serialize};

use super::bootstrap::Figure;
use crate::bench::table::{Row, Target};
use crate::statistics::mean;

/// The method that pays.
pub const OURS: &str = "LOCO-delta, exact k=8";
/// The truth in a method's place: what perfect leave-one-out values would reach.
pub const TRUE_RUN: &str = "the true run itself";
/// The exact tier of records.
pub const UNROLLED: &str = "the run unrolled, audited answers";
/// What finds wrong labels.
const LOSS: &str = "training loss";

/// One method's figure for one measure, on one deployed run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// The dataset.
    pub dataset: String,
    /// How it was dealt.
    pub setting: String,
    /// Seed of deal and deployed run.
    pub seed: u64,
    /// The method.
    pub method: String,
    /// Trainings that it took beside the deployed one.
    pub trainings: usize,
    /// Seconds of its scores, trainings not counted.
    pub seconds: f64,
    /// What was measured.
    pub measure: String,
    /// Its figure.
    pub figure: Figure,
}

/// With what a row compares.
#[derive(Clone, Copy)]
enum Against {
    /// The best of the methods that cost no trainings.
    Best,
    /// A rule.
    Rule(&'static str),
}

struct Spec {
    name: &'static str,
    setting: &'static str,
    measure: &'static str,
    /// The peer's measure, where the product does something before scoring that peers don't.
    beside: &'static str,
    ours: &'static str,
    against: Against,
    target: &'static str,
    lower_is_better: bool,
}

const fn more(
    name: &'static str,
    setting: &'static str,
    measure: &'static str,
    against: Against,
    target: &'static str,
) -> Spec {
    Spec { name, setting, measure, beside: measure, ours: OURS, against, target, lower_is_better: false }
}

const fn less(
    name: &'static str,
    setting: &'static str,
    measure: &'static str,
    against: Against,
    target: &'static str,
) -> Spec {
    Spec { lower_is_better: true, ..more(name, setting, measure, against, target) }
}

/// An attack on the product as it is, with admission, and on peers, which have none.
const fn attack(name: &'static str, measure: &'static str, beside: &'static str, target: &'static str) -> Spec {
    Spec { beside, ..less(name, ALIKE, measure, Against::Best, target) }
}

const ALIKE: &str = "alike";
const DIFFERING: &str = "differing";
const TWINS: &str = "twins";
/// What one answer's attribution costs, on a model of its own.
pub const COST: &str = "one answer";
/// Those who teach the same, found by their records, left out together: what the product does.
pub const CLUSTERS: &str = "clusters left out, rows by gradient";
const PLAIN: Against = Against::Rule("plain recipe");
const STABLE: &str = "stable recipe";
const ALONE: Against = Against::Rule("leave one out");
const EQUAL: Against = Against::Rule("equal split");
const COUNT: Against = Against::Rule("record count");

/// Every row, in the order of the table.
const ROWS: [Spec; 50] = [
    more("alike: cLDS, a tenth left out", ALIKE, "clds-tenth", Against::Best, ">= 0.8"),
    more("alike: cLDS, half left out", ALIKE, "clds-half", Against::Best, ">= 0.8"),
    more("alike: per answer, r", ALIKE, "loco-r", Against::Best, ">= 0.95"),
    more("alike: per answer, rank", ALIKE, "loco-rho", Against::Best, ">= 0.9"),
    less("alike: fee misallocated, answer", ALIKE, "tv-answer", Against::Best, "<= 0.18"),
    less("alike: fee misallocated, totals", ALIKE, "tv-totals", Against::Best, "<= 0.05"),
    less("alike: fee misallocated, totals", ALIKE, "tv-totals", EQUAL, ""),
    less("alike: fee misallocated, totals", ALIKE, "tv-totals", COUNT, ""),
    less("alike: after audit, 1 in 4", ALIKE, "tv-audited-4", Against::Best, "<= 0.05"),
    less("alike: after audit, 1 in 8", ALIKE, "tv-audited-8", Against::Best, "<= 0.05"),
    less("alike: settled, 1 in 16", ALIKE, "tv-settled", Against::Best, "<= 0.05"),
    more("differing: cLDS, tenth left out", DIFFERING, "clds-tenth", Against::Best, ">= 0.8"),
    more("differing: cLDS, half left out", DIFFERING, "clds-half", Against::Best, ">= 0.8"),
    more("differing: per answer, r", DIFFERING, "loco-r", Against::Best, ">= 0.97"),
    less("differing: misallocated, answer", DIFFERING, "tv-answer", Against::Best, "<= 0.18"),
    less("differing: misallocated, totals", DIFFERING, "tv-totals", Against::Best, "<= 0.05"),
    less("differing: misallocated, totals", DIFFERING, "tv-totals", EQUAL, ""),
    less("differing: misallocated, totals", DIFFERING, "tv-totals", COUNT, ""),
    less("differing: after audit, 1 in 4", DIFFERING, "tv-audited-4", Against::Best, "<= 0.05"),
    less("differing: after audit, 1 in 8", DIFFERING, "tv-audited-8", Against::Best, "<= 0.05"),
    less("differing: settled, 1 in 16", DIFFERING, "tv-settled", Against::Best, "<= 0.05"),
    more("differing: net totals, r", DIFFERING, "net-r", Against::Best, ">= 0.97"),
    more("differing: net totals, rank", DIFFERING, "net-rho", Against::Best, ">= 0.9"),
    more("differing: net totals, r", DIFFERING, "net-r", COUNT, ""),
    more("unseen seeds: net totals, r", DIFFERING, "unseen-net-r", Against::Best, ">= 0.93"),
    more("unseen seeds: net totals, rank", DIFFERING, "unseen-net-rho", Against::Best, ">= 0.88"),
    Spec { ours: LOSS, ..more("wrong labels found, AUC", DIFFERING, "auc-mislabelled", Against::Best, ">= 0.85") },
    Spec { ours: UNROLLED, ..more("record LDS, a tenth left out", DIFFERING, "lds-tenth", Against::Best, ">= 0.8") },
    Spec { ours: UNROLLED, ..more("leave one record out, r", DIFFERING, "loo-r", Against::Best, ">= 0.9") },
    Spec { ours: STABLE, ..more("two seeds, differing: net, r", DIFFERING, "seeds-net-r", PLAIN, ">= 0.98") },
    Spec { ours: STABLE, ..more("two seeds, alike: net, r", ALIKE, "seeds-net-r", PLAIN, ">= 0.8") },
    Spec { ours: STABLE, ..less("quality: loss, differing", DIFFERING, "loss", PLAIN, "") },
    Spec { ours: CLUSTERS, ..more("same facts, own words: together", TWINS, "twins-joint", ALONE, ">= 0.9") },
    Spec { ours: CLUSTERS, ..less("same facts: imbalance", TWINS, "twins-imbalance", ALONE, "<= 0.2") },
    Spec { ours: CLUSTERS, ..more("same facts: who is found", TWINS, "twins-recall", ALONE, "") },
    Spec { ours: CLUSTERS, ..more("same facts: found rightly", TWINS, "twins-precision", ALONE, "") },
    attack("duplicating x2: share gained", "duplicate-2-admitted", "duplicate-2", "<= 0.01"),
    attack("duplicating x4: share gained", "duplicate-4-admitted", "duplicate-4", "<= 0.01"),
    attack("duplicating x8: share gained", "duplicate-8-admitted", "duplicate-8", "<= 0.01"),
    attack("  x4, without admission", "duplicate-4", "duplicate-4", ""),
    attack("copycat: victims' loss", "copycat-admitted", "copycat", "<= 0.02"),
    attack("  without admission", "copycat", "copycat", ""),
    attack("copycat in other words: loss", "paraphrase-admitted", "paraphrase", ""),
    attack("four names for one: gain", "sybil-admitted", "sybil", "<= 0"),
    attack("outliers: gain", "outlier-admitted", "outlier", "<= 0.1"),
    attack("paying oneself: gain", "self-dealing", "self-dealing", "<= 0"),
    less("200 contributors: passes, k = 8", COST, "cost-paid", Against::Best, "<= 12"),
    less("200 contributors: passes, k = 0", COST, "cost-linear", Against::Best, "<= 4"),
    less("200 contributors: scan, ms", COST, "cost-scan-ms", Against::Best, "<= 50"),
    less("index, bytes a number", COST, "cost-bytes", Against::Best, "<= 1"),
];

/// The table of one dataset's findings.
#[must_use]
pub fn rows(findings: &[Finding]) -> Vec<Row> {
    ROWS.iter().map(|spec| spec.row(findings)).collect()
}

impl Spec {
    fn row(&self, findings: &[Finding]) -> Row {
        let ours = self.value(findings, self.measure, self.ours);
        let interval = self.interval(findings);
        let peer = match self.against {
            Against::Rule(rule) => Some((rule, self.value(findings, self.beside, rule))),
            Against::Best => self.best(findings).map(|(name, value)| (name, Some(value))),
        };
        let target = Target::parse(self.target);
        let peer_value = peer.and_then(|(_, value)| value);
        let met = target.zip(ours).and_then(|(target, ours)| target.is_met(ours, peer_value));
        let target = target.map(|target| target.to_string());
        let peer = peer.map(|(name, _)| name.to_owned());
        Row { name: self.name, unit: "", ours, interval, peer, peer_value, target, met }
    }

    /// The mean over seeds.
    fn value(&self, findings: &[Finding], measure: &str, method: &str) -> Option<f64> {
        let own = self.own(findings, measure).filter(|finding| finding.method == method);
        mean(&own.map(|finding| finding.figure.value).collect::<Vec<_>>())
    }

    /// The means over seeds of both ends of our figure's intervals: wide rather than narrow.
    fn interval(&self, findings: &[Finding]) -> Option<[f64; 2]> {
        let of_end = |end: fn(&Finding) -> f64| {
            let own = self.own(findings, self.measure).filter(|finding| finding.method == self.ours);
            mean(&own.map(end).collect::<Vec<_>>())
        };
        of_end(|finding| finding.figure.low).zip(of_end(|finding| finding.figure.high)).map(<[f64; 2]>::from)
    }

    fn own<'a>(&'a self, findings: &'a [Finding], measure: &'a str) -> impl Iterator<Item = &'a Finding> {
        findings.iter().filter(move |finding| finding.measure == measure && finding.setting == self.setting)
    }

    /// The best method without trainings of its own, other than ours and the simple rules.
    fn best<'a>(&'a self, findings: &'a [Finding]) -> Option<(&'a str, f64)> {
        let mut names: Vec<&str> = self
            .own(findings, self.beside)
            .filter(|finding| finding.trainings == 0 && finding.method != self.ours)
            .map(|finding| finding.method.as_str())
            .filter(|name| !["equal split", "record count", LOSS, UNROLLED].contains(name))
            .collect();
        names.sort_unstable();
        names.dedup();
        let sign = if self.lower_is_better { -1.0 } else { 1.0 };
        let values = names.into_iter().filter_map(|name| Some((name, self.value(findings, self.beside, name)?)));
        values.max_by(|a, b| (sign * a.1).total_cmp(&(sign * b.1)))
    }
}

#[cfg(test)]
mod tests {
    use super::{DIFFERING, Figure, Finding, OURS, ROWS, rows};
    use crate::bench::table::Target;

    fn finding(method: &str, measure: &str, seed: u64, value: f64) -> Finding {
        Finding {
            dataset: "almanac".into(),
            setting: DIFFERING.into(),
            seed,
            method: method.into(),
            trainings: if method == OURS { 16 } else { 0 },
            seconds: 1.0,
            measure: measure.into(),
            figure: Figure { value, low: value - 0.25, high: value + 0.01 },
        }
    }

    #[test]
    fn seeds_are_averaged_and_the_best_peer_is_named() {
        let findings = [
            finding(OURS, "net-r", 1, 0.99),
            finding(OURS, "net-r", 2, 0.97),
            finding("GradDot", "net-r", 1, 0.9),
            finding("GradDot", "net-r", 2, 0.5),
            finding("BM25", "net-r", 1, 0.8),
            finding("record count", "net-r", 1, 0.95),
        ];
        let rows = rows(&findings);
        assert_eq!(rows.len(), ROWS.len());
        let row = rows.iter().find(|row| row.name == "differing: net totals, r").unwrap();
        assert!((row.ours.unwrap() - 0.98).abs() < 1e-12);
        let [low, high] = row.interval.unwrap();
        assert!((low - 0.73).abs() < 1e-12 && (high - 0.99).abs() < 1e-12, "{low} to {high}");
        assert_eq!((row.peer.as_deref(), row.peer_value, row.met), (Some("BM25"), Some(0.8), Some(true)));
        let row = rows.iter().rfind(|row| row.name == "differing: net totals, r").unwrap();
        assert_eq!((row.peer.as_deref(), row.met), (Some("record count"), None));
    }

    #[test]
    fn less_money_misallocated_is_better() {
        let findings = [finding("GradDot", "tv-totals", 1, 0.2), finding("BM25", "tv-totals", 1, 0.1)];
        let rows = rows(&findings);
        let row = rows.iter().find(|row| row.name == "differing: misallocated, totals").unwrap();
        assert_eq!((row.ours, row.peer.as_deref(), row.met), (None, Some("BM25"), None));
    }

    #[test]
    fn every_target_parses() {
        for spec in &ROWS {
            assert!(spec.target.is_empty() || Target::parse(spec.target).is_some(), "{}", spec.name);
        }
    }
}
