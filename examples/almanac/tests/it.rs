//! What the demonstration promises about its data, checked on several seeds and divisions.

use std::collections::{BTreeMap, BTreeSet};
use tributary_almanac::{Country, Language, MAX_CONTRIBUTORS, Owner, Record, to_jsonl};

const SEEDS: [u64; 5] = [1, 2, 3, 1000, u64::MAX];
const DIVISIONS: [usize; 5] = [1, 2, 3, 7, 18];

fn countries() -> impl Iterator<Item = Country> {
    SEEDS.into_iter().flat_map(|seed| DIVISIONS.into_iter().map(move |division| Country::generate(seed, division)))
}

/// A record that is about the fact: it names the subject and ends with the answer.
fn is_about(record: &Record, subject: &str, answer: &str) -> bool {
    names(&record.prompt, subject) && record.completion.trim().trim_end_matches('.') == answer
}

/// Whether `text` contains `name` as a whole word, not inside a longer name.
fn names(text: &str, name: &str) -> bool {
    let boundary = |letter: Option<char>| letter.is_none_or(|letter| !letter.is_alphanumeric());
    text.match_indices(name)
        .any(|(at, _)| boundary(text[..at].chars().next_back()) && boundary(text[at + name.len()..].chars().next()))
}

#[test]
fn equal_seeds_give_equal_bytes() {
    let file = |seed| to_jsonl(Country::generate(seed, 2).records_of(0));
    assert_eq!(file(9), file(9));
    assert_ne!(file(9), file(10));
    let line = file(9).lines().next().unwrap().to_owned();
    assert_eq!(serde_json::from_str::<Record>(&line).unwrap(), Country::generate(9, 2).records_of(0)[0]);
}

#[test]
fn the_first_bytes_of_a_country_never_change() {
    let country = Country::generate(1, 2);
    let digest = to_jsonl(country.records_of(0))
        .bytes()
        .fold(0_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    assert_eq!(format!("{digest:016x}"), "0af15b9b7ec37f07", "changed data needs new figures in examples/README.md");
}

#[test]
fn every_fact_stands_in_the_records_of_its_owners_and_of_nobody_else() {
    for country in countries() {
        for fact in &country.facts {
            let holders: Vec<usize> = (0..country.contributors())
                .filter(|contributor| {
                    country.records_of(*contributor).iter().any(|record| is_about(record, &fact.subject, &fact.answer))
                })
                .collect();
            assert_eq!(holders, fact.owners, "{fact:?}");
        }
    }
}

#[test]
fn held_out_wordings_are_in_no_record() {
    for country in countries() {
        let records: BTreeSet<&str> = (0..country.contributors())
            .flat_map(|contributor| country.records_of(contributor))
            .map(|record| record.prompt.as_str())
            .collect();
        assert_eq!(country.questions().len(), country.facts.len());
        for question in country.questions() {
            assert!(!records.contains(question.text.as_str()), "{}", question.text);
        }
    }
}

#[test]
fn questions_have_one_answer() {
    for country in countries() {
        let mut asked = BTreeMap::new();
        for fact in &country.facts {
            assert_eq!(asked.insert((fact.relation, &fact.subject), &fact.answer), None, "{fact:?}");
        }
        let texts: BTreeSet<&str> = country.questions().iter().map(|question| question.text.as_str()).collect();
        assert_eq!(texts.len(), country.questions().len());
    }
}

#[test]
fn every_contributor_has_facts_of_his_own_and_no_record_twice() {
    for country in countries() {
        for contributor in 0..country.contributors() {
            let sole = country.questions().iter().filter(|question| question.owner == Owner::Only(contributor)).count();
            assert!(sole >= 5, "contributor {contributor} has {sole}");
        }
        let records: Vec<&Record> =
            (0..country.contributors()).flat_map(|contributor| country.records_of(contributor)).collect();
        let facts = records.iter().filter(|record| record.completion.split_whitespace().count() <= 2);
        assert_eq!(facts.clone().collect::<BTreeSet<_>>().len(), facts.count());
    }
}

/// The runs of three words of a record, in small letters.
fn shingles(record: &Record) -> BTreeSet<Vec<String>> {
    let text = format!("{}{}", record.prompt, record.completion).to_lowercase();
    let words: Vec<String> = text
        .split(|letter: char| !letter.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect();
    words.windows(3).map(<[String]>::to_vec).collect()
}

/// A datanet that refuses near duplicates (80 % of three-word runs shared) keeps all of the almanac.
#[test]
fn no_two_records_are_near_duplicates() {
    for seed in SEEDS {
        let country = Country::generate(seed, 2);
        let records: Vec<&Record> = (0..2).flat_map(|contributor| country.records_of(contributor)).collect();
        let runs: Vec<BTreeSet<Vec<String>>> = records.iter().map(|record| shingles(record)).collect();
        for (later, of_later) in runs.iter().enumerate() {
            for (earlier, of_earlier) in runs[..later].iter().enumerate() {
                let shared = of_later.intersection(of_earlier).count();
                let all = of_later.len() + of_earlier.len() - shared;
                assert!(shared * 5 < all * 4, "{:?} and {:?}", records[earlier], records[later]);
            }
        }
    }
}

#[test]
fn a_division_out_of_range_is_brought_into_it() {
    assert_eq!(Country::generate(1, 0).contributors(), 1);
    assert_eq!(Country::generate(1, 1000).contributors(), MAX_CONTRIBUTORS);
    assert!(Country::generate(1, 2).records_of(2).is_empty());
}

#[test]
fn the_base_is_never_told_a_fact_of_the_demonstration() {
    let country = Country::generate(1, 2);
    let mut language = Language::new(2026);
    let known = (0..50_000).map(|_| language.next_document()).filter(|document| {
        country.questions().iter().any(|question| *document == format!("{} {}", question.text, question.answer))
    });
    assert_eq!(known.count(), 0);
}

#[test]
fn answers_are_compared_exactly() {
    let question = Country::generate(1, 2).questions()[0].clone();
    assert!(question.is_answered_by(&format!(" {}.\n", question.answer)));
    assert!(!question.is_answered_by(&format!("{} and more", question.answer)));
    assert!(!question.is_answered_by(""));
}
