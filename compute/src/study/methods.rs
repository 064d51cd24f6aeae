//! Every method's figures and costs beside each other, as a table in Markdown.
//!
//! Invariant: a method that gave nothing has its row and the reason; figures are means over the seeds of one dataset and setting, with half
//! of the mean interval.

use std::fmt::Write;

use super::bootstrap::Figure;
use super::exchange::Cost;
use super::table::Finding;

/// What a method costs, as measures of [`Finding`]s: seconds before the first question, seconds of all questions, bytes that
/// are kept for each contributor.
const COSTS: [&str; 3] = ["build-seconds", "query-seconds", "bytes-per-contributor"];

/// Columns: measure and heading.
const COLUMNS: [(&str, &str); 14] = [
    ("clds-tenth", "cLDS, tenth"),
    ("clds-half", "cLDS, half"),
    ("loco-r", "per answer r"),
    ("loco-rho", "ρ"),
    ("tv-answer", "misallocated, answer"),
    ("tv-totals", "totals"),
    ("tv-audited-4", "totals, 1 in 4 audited"),
    ("tv-audited-8", "1 in 8"),
    ("tv-settled", "16 times as many, 1 in 16"),
    ("net-r", "net r"),
    ("net-rho", "net ρ"),
    ("auc-mislabelled", "wrong labels"),
    ("auc-poisoned", "poison"),
    ("auc-poisoned-unasked", "poison, unasked"),
];

/// A method that gave no scores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The dataset.
    pub dataset: String,
    /// How it was dealt.
    pub setting: String,
    /// The method.
    pub method: String,
    /// Why.
    pub reason: String,
}

impl Cost {
    /// As figures of measures.
    #[must_use]
    pub fn figures(&self) -> [(&'static str, Figure); 3] {
        let [build, query, kept] = COSTS;
        let of = |value: f64| Figure { value, low: value, high: value };
        [(build, of(self.build_seconds)), (query, of(self.query_seconds)), (kept, of(self.bytes_per_contributor))]
    }
}

/// The tables of all datasets and settings.
#[must_use]
pub fn markdown(findings: &[Finding], missing: &[Missing]) -> String {
    let of_findings = findings.iter().filter(has_column).map(|one| (one.dataset.as_str(), one.setting.as_str()));
    let mut groups: Vec<_> =
        of_findings.chain(missing.iter().map(|one| (one.dataset.as_str(), one.setting.as_str()))).collect();
    groups.sort_unstable();
    groups.dedup();
    let mut text = String::new();
    for (dataset, setting) in groups {
        let own: Vec<&Finding> =
            findings.iter().filter(|one| one.dataset == dataset && one.setting == setting).collect();
        let lacking = missing.iter().filter(|one| one.dataset == dataset && one.setting == setting);
        group(&mut text, &own, lacking);
        // Writing to a string cannot fail.
        let _ =
            writeln!(text, "\n({dataset}, {setting}; seconds of one method alone, nothing shared with another's)\n");
    }
    text
}

/// Whether the table has a column for it: what cheats gain or an answer costs is not a matter of methods.
fn has_column(finding: &&Finding) -> bool {
    COLUMNS.iter().any(|(measure, _)| *measure == finding.measure)
}

fn group<'a>(text: &mut String, findings: &[&Finding], missing: impl Iterator<Item = &'a Missing>) {
    let headings: Vec<&str> = COLUMNS.iter().map(|(_, heading)| *heading).collect();
    let _ = writeln!(text, "| method | trainings | build s | query s | bytes kept | {} |", headings.join(" | "));
    let _ = writeln!(text, "|---|{}", "---|".repeat(4 + COLUMNS.len()));
    let mut order: Vec<&str> = Vec::new();
    for finding in findings.iter().copied().filter(has_column) {
        if !order.contains(&finding.method.as_str()) {
            order.push(&finding.method);
        }
    }
    for method in order {
        let own: Vec<&&Finding> = findings.iter().filter(|finding| finding.method == method).collect();
        let trainings = own.first().map_or(0, |finding| finding.trainings);
        let cost = |measure| mean(&own, measure).map(|figure| figure.value);
        // Methods of ours are not told apart into building and asking: theirs is one time.
        let seconds = cost(COSTS[1]).or_else(|| own.first().map(|finding| finding.seconds));
        let costs = [cost(COSTS[0]).map(whole), seconds.map(whole), cost(COSTS[2]).map(bytes)];
        let costs: Vec<String> = costs.into_iter().map(|cell| cell.unwrap_or_else(nothing)).collect();
        let cells: Vec<String> = COLUMNS.iter().map(|(measure, _)| cell(mean(&own, measure))).collect();
        let _ = writeln!(text, "| {method} | {trainings} | {} | {} |", costs.join(" | "), cells.join(" | "));
    }
    for one in missing {
        let _ = writeln!(
            text,
            "| {} | – | – | – | – | failed: {}{} |",
            one.method,
            one.reason.replace('|', "/"),
            " |".repeat(COLUMNS.len() - 1)
        );
    }
}

/// The mean over seeds.
fn mean(own: &[&&Finding], measure: &str) -> Option<Figure> {
    let found: Vec<Figure> = own.iter().filter(|one| one.measure == measure).map(|one| one.figure).collect();
    let of = |part: fn(&Figure) -> f64| crate::statistics::mean(&found.iter().map(part).collect::<Vec<_>>());
    Some(Figure { value: of(|one| one.value)?, low: of(|one| one.low)?, high: of(|one| one.high)? })
}

fn cell(figure: Option<Figure>) -> String {
    figure.map_or_else(nothing, |Figure { value, low, high }| format!("{value:.2} ± {:.2}", (high - low) / 2.0))
}

fn nothing() -> String {
    "–".into()
}

fn whole(seconds: f64) -> String {
    format!("{seconds:.1}")
}

fn bytes(count: f64) -> String {
    format!("{count:.0}")
}

#[cfg(test)]
mod tests {
    use super::{Cost, Figure, Finding, Missing, markdown};

    fn finding(method: &str, seed: u64, value: f64) -> Finding {
        Finding {
            dataset: "almanac".into(),
            setting: "differing".into(),
            seed,
            method: method.into(),
            trainings: 3,
            seconds: 2.0,
            measure: "clds-half".into(),
            figure: Figure { value, low: value - 0.1, high: value + 0.3 },
        }
    }

    #[test]
    fn seeds_are_averaged_and_what_failed_says_why() {
        let foreign = finding("dattri 1", 1, 0.5);
        let cost = Cost { build_seconds: 1.25, query_seconds: 0.5, bytes_per_contributor: 4096.0 };
        let mut findings = vec![finding("ours", 1, 0.25), finding("ours", 2, 0.75), foreign.clone()];
        let of_cost =
            |(measure, figure): (&str, Figure)| Finding { measure: measure.into(), figure, ..foreign.clone() };
        findings.extend(cost.figures().map(of_cost));
        let elsewhere =
            |setting: &str| Finding { setting: setting.into(), measure: "cost-paid".into(), ..finding("paid", 1, 9.0) };
        findings.extend([elsewhere("differing"), elsewhere("one answer")]);
        let missing = Missing {
            dataset: "almanac".into(),
            setting: "differing".into(),
            method: "dattri 1 EK-FAC".into(),
            reason: "UnboundLocalError: a | b".into(),
        };
        let text = markdown(&findings, &[missing]);
        let row = |name: &str| text.lines().find(|line| line.starts_with(&format!("| {name} |"))).unwrap();
        assert!(row("ours").starts_with("| ours | 3 | – | 2.0 | – | – | 0.50 ± 0.20 | –"), "{text}");
        assert!(row("dattri 1").starts_with("| dattri 1 | 3 | 1.2 | 0.5 | 4096 | – | 0.50 ± 0.20 |"), "{text}");
        assert!(row("dattri 1 EK-FAC").contains("failed: UnboundLocalError: a / b"), "{text}");
        assert!(!text.contains("paid") && !text.contains("one answer"), "what has no column has no row: {text}");
        let bars = |line: &str| line.matches('|').count();
        assert!(
            text.lines().filter(|line| line.starts_with('|')).all(|line| bars(line) == bars(row("ours"))),
            "{text}"
        );
    }
}
