//! Similarity of texts: TF-IDF and BM25 over words.
//!
//! Invariant: scores follow from the words of records and questions; no model is asked.

use std::collections::BTreeMap;

use crate::ops::narrow;
use crate::study::attributor::{Attributor, Case, Scores};
use crate::study::{Matrix, StudyError};

/// Words with their counts or weights.
type Words = BTreeMap<String, f64>;

/// Okapi's saturation and length normalisation, as Robertson and Zaragoza (2009) recommend.
const SATURATION: f64 = 1.2;
const LENGTH: f64 = 0.75;

/// Cosine of counts weighted by rarity.
pub(in crate::study) struct TfIdf;

impl Attributor for TfIdf {
    fn name(&self) -> &'static str {
        "TF-IDF"
    }

    fn scores(&self, case: &Case<'_>) -> Result<Scores, StudyError> {
        let (records, queries) = texts(case);
        let corpus = Corpus::of(&records);
        let weigh = |text: &Words| -> Words {
            let weighed: Words =
                text.iter().map(|(word, count)| (word.clone(), count * (1.0 + corpus.rarity(word)))).collect();
            let length = weighed.values().map(|value| value * value).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
            weighed.into_iter().map(|(word, value)| (word, value / length)).collect()
        };
        let (records, queries): (Vec<_>, Vec<_>) =
            (records.iter().map(weigh).collect(), queries.iter().map(weigh).collect());
        let score = |record: &Words, query: &Words| {
            query.iter().map(|(word, value)| value * record.get(word).unwrap_or(&0.0)).sum()
        };
        scores(case, &records, &queries, score)
    }
}

/// Okapi BM25 of the question's words in each record.
pub(in crate::study) struct Bm25;

impl Attributor for Bm25 {
    fn name(&self) -> &'static str {
        "BM25"
    }

    fn scores(&self, case: &Case<'_>) -> Result<Scores, StudyError> {
        let (records, queries) = texts(case);
        let corpus = Corpus::of(&records);
        scores(case, &records, &queries, |record, query| corpus.bm25(record, query))
    }
}

/// How often words stand in how many records.
struct Corpus {
    records: f64,
    mean_length: f64,
    containing: Words,
}

impl Corpus {
    fn of(records: &[Words]) -> Self {
        let mut containing: Words = BTreeMap::new();
        records.iter().flat_map(BTreeMap::keys).for_each(|word| *containing.entry(word.clone()).or_default() += 1.0);
        let count = records.len() as f64;
        let length: f64 = records.iter().flat_map(BTreeMap::values).sum();
        Self { records: count, mean_length: (length / count.max(1.0)).max(1.0), containing }
    }

    fn rarity(&self, word: &str) -> f64 {
        let containing = self.containing.get(word).copied().unwrap_or(0.0);
        (1.0 + (self.records - containing + 0.5) / (containing + 0.5)).ln()
    }

    fn bm25(&self, record: &Words, query: &Words) -> f64 {
        let length: f64 = record.values().sum::<f64>() / self.mean_length;
        let term = |(word, _): (&String, &f64)| {
            let count = record.get(word)?;
            Some(
                self.rarity(word) * count * (SATURATION + 1.0)
                    / (count + SATURATION * (1.0 - LENGTH + LENGTH * length)),
            )
        };
        query.iter().filter_map(term).sum()
    }
}

/// Counted words of records and questions, their answers included.
fn texts(case: &Case<'_>) -> (Vec<Words>, Vec<Words>) {
    let dealt = case.laboratory.dealt();
    let records = dealt.examples.iter().map(|example| words(&example.prompt, &example.completion)).collect();
    let queries = dealt.queries.iter().chain(&dealt.triggered).map(|query| words(&query.prompt, &query.completion));
    (records, queries.collect())
}

fn words(prompt: &str, completion: &str) -> Words {
    let mut counts = BTreeMap::new();
    let all = prompt.split(|c: char| !c.is_alphanumeric()).chain(completion.split(|c: char| !c.is_alphanumeric()));
    for word in all.filter(|word| !word.is_empty()) {
        *counts.entry(word.to_lowercase()).or_insert(0.0) += 1.0;
    }
    counts
}

fn scores(
    case: &Case<'_>,
    records: &[Words],
    queries: &[Words],
    score: impl Fn(&Words, &Words) -> f64,
) -> Result<Scores, StudyError> {
    let row = |record| queries.iter().map(|query| narrow(score(record, query))).collect();
    Ok(Scores::of_records(Matrix::from_rows(records.iter().map(row).collect())?, case))
}

#[cfg(test)]
mod tests {
    use super::{Corpus, words};

    #[test]
    fn rare_words_and_short_records_count_more() {
        let records = [words("the mill", "the river"), words("the mill by the old river bank", ""), words("sea", "")];
        let corpus = Corpus::of(&records);
        let query = words("mill?", "");
        assert!(corpus.bm25(&records[0], &query) > corpus.bm25(&records[1], &query));
        assert!(corpus.bm25(&records[2], &query).abs() < 1e-12);
        assert!(corpus.rarity("sea") > corpus.rarity("mill"));
        // Two of three records: ln(1 + 1.5 / 2.5).
        assert!((corpus.rarity("mill") - 1.6_f64.ln()).abs() < 1e-12);
    }
}
