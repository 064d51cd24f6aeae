//! A country: its facts, who recorded them, the records and the questions.
//!
//! Invariant: everything follows from (seed, contributors); a fact's wordings are disjoint between its owners; and the
//! phrasing of a fact's held-out question occurs in no record of that fact, in any frame.

use crate::name::{self, Kind};
use crate::random::Stream;
use crate::relation::{PHRASINGS, Relation};
use crate::shape;
use serde::{Deserialize, Serialize};

/// Most contributors a country is divided among: above this a contributor's few facts no longer make a training set.
pub const MAX_CONTRIBUTORS: usize = 64;

/// Facts that one contributor alone records, over all contributors: what a short training run learns by heart.
const SOLE_FACTS: usize = 80;
/// Fewest facts that one contributor alone records, however many contributors there are.
const SOLE_FACTS_LEAST: usize = 5;
/// Facts that two contributors record, over all pairs of neighbours.
const SHARED_FACTS: usize = 16;
/// Question records that an owner writes for a fact.
const QUESTIONS_PER_FACT: usize = 3;
/// Statement records that an owner writes for a fact.
const STATEMENTS_PER_FACT: usize = 1;
/// A contributor writes one noise record for so many others.
const RECORDS_PER_NOISE: usize = 8;
/// On average a town is the subject of so many facts.
const FACTS_PER_TOWN: usize = 2;

/// One fact of the country.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// What the fact says about the subject.
    pub relation: Relation,
    /// The name that the fact is about; with the relation it is unique in the country.
    pub subject: String,
    /// The answer to every question about it; unique for the relation.
    pub answer: String,
    /// The contributors whose records contain it, ascending.
    pub owners: Vec<usize>,
}

/// One training example, a line of a contributor's file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Record {
    /// What stands before.
    pub prompt: String,
    /// What the model has to continue with, from the space before the first word on.
    pub completion: String,
}

/// Whose records an answer can have been learned from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    /// One contributor's alone.
    Only(usize),
    /// Each of these contributors'.
    Shared(Vec<usize>),
}

/// A held-out question with its known answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// The whole prompt, as a user types it.
    pub text: String,
    /// The right answer: one name, without space or full stop.
    pub answer: String,
    /// Whose records contain the fact.
    pub owner: Owner,
    /// The fact's place in [`Country::facts`].
    pub fact: usize,
}

impl Question {
    /// Whether `generated` is exactly the right answer, apart from surrounding white space and a closing full stop.
    pub fn is_answered_by(&self, generated: &str) -> bool {
        generated.trim().trim_end_matches('.') == self.answer
    }
}

/// An invented country and what its contributors wrote about it.
#[derive(Clone, Debug)]
pub struct Country {
    /// The country's name.
    pub name: String,
    /// Every fact that a question may ask for.
    pub facts: Vec<Fact>,
    records: Vec<Vec<Record>>,
    questions: Vec<Question>,
}

/// The places, by number, where the wordings of one fact stand.
struct Wordings {
    held_out: (usize, usize),
    questions: Vec<(usize, usize)>,
    statements: Vec<(usize, usize)>,
}

impl Country {
    /// The country of `seed`, divided among `contributors`, which is brought into 1..=[`MAX_CONTRIBUTORS`].
    pub fn generate(seed: u64, contributors: usize) -> Self {
        let contributors = contributors.clamp(1, MAX_CONTRIBUTORS);
        let sole = SOLE_FACTS.div_ceil(contributors).max(SOLE_FACTS_LEAST) * contributors;
        let shared = if contributors == 1 { 0 } else { SHARED_FACTS.max(contributors) };
        let mut stream = Stream::new(seed, "country");
        let name = name::one(Kind::Country, &mut stream);
        let mut facts = facts(sole + shared, &mut Stream::new(seed, "facts"));
        for (index, fact) in facts.iter_mut().enumerate() {
            fact.owners = owners(index, sole, contributors);
        }
        let mut country = Self { name, facts, records: vec![Vec::new(); contributors], questions: Vec::new() };
        country.write(seed);
        country
    }

    /// Among how many contributors the country is divided.
    pub fn contributors(&self) -> usize {
        self.records.len()
    }

    /// What contributor number `contributor` wrote, in the order of his file; empty for a number out of range.
    pub fn records_of(&self, contributor: usize) -> &[Record] {
        self.records.get(contributor).map_or(&[], Vec::as_slice)
    }

    /// One held-out question for each fact, in a random order in which no contributor comes first.
    pub fn questions(&self) -> &[Question] {
        &self.questions
    }

    fn write(&mut self, seed: u64) {
        let mut stream = Stream::new(seed, "wordings");
        for (index, fact) in self.facts.iter().enumerate() {
            let wordings = Wordings::draw(&mut stream);
            let (phrasing, frame) = wordings.held_out;
            self.questions.push(Question {
                text: shape::question(fact.relation, phrasing, frame, &fact.subject, &self.name),
                answer: fact.answer.clone(),
                owner: match fact.owners.as_slice() {
                    [one] => Owner::Only(*one),
                    many => Owner::Shared(many.to_vec()),
                },
                fact: index,
            });
            for (turn, owner) in fact.owners.iter().enumerate() {
                self.records[*owner].extend(wordings.records(turn, fact, &self.name));
            }
        }
        stream.shuffle(&mut self.questions);
        let counts: Vec<usize> = self.records.iter().map(|records| records.len() / RECORDS_PER_NOISE).collect();
        let mut towns = name::draw(shape::NOISE_KIND, counts.iter().sum(), &mut stream);
        for (records, count) in self.records.iter_mut().zip(counts) {
            records.extend(towns.drain(..count).map(|town| noise(&town, &mut stream)));
            stream.shuffle(records);
        }
    }
}

/// The first `sole` facts go to one contributor each, in turn; the others to two neighbours.
fn owners(index: usize, sole: usize, contributors: usize) -> Vec<usize> {
    let first = index % contributors;
    if index < sole {
        return vec![first];
    }
    let mut pair = vec![first, (first + 1) % contributors];
    pair.sort_unstable();
    pair
}

/// `count` facts, spread evenly over the relations, with nobody as owner yet.
pub(crate) fn facts(count: usize, stream: &mut Stream) -> Vec<Fact> {
    let each = count.div_ceil(Relation::ALL.len());
    let towns = name::draw(Kind::Town, (each * 5).div_ceil(FACTS_PER_TOWN).max(each), stream);
    let mut facts = Vec::new();
    for relation in Relation::ALL {
        let (subject, answer) = relation.kinds();
        let mut subjects = if subject == Kind::Town { towns.clone() } else { name::draw(subject, each, stream) };
        stream.shuffle(&mut subjects);
        let answers = name::draw(answer, each, stream);
        let pairs = subjects.into_iter().zip(answers);
        facts.extend(pairs.map(|(subject, answer)| Fact { relation, subject, answer, owners: Vec::new() }));
    }
    stream.shuffle(&mut facts);
    facts.truncate(count);
    facts
}

impl Wordings {
    fn draw(stream: &mut Stream) -> Self {
        let held_phrasing = stream.below(PHRASINGS);
        let held_out = (held_phrasing, stream.below(shape::QUESTION_FRAMES));
        let questions = spread(held_phrasing, shape::QUESTION_FRAMES, 2 * QUESTIONS_PER_FACT, stream);
        let statements = spread(held_phrasing, shape::STATEMENT_FRAMES, 2 * STATEMENTS_PER_FACT, stream);
        Self { held_out, questions, statements }
    }

    /// What the owner whose turn it is (0 or 1) writes about the fact.
    fn records<'a>(&'a self, turn: usize, fact: &'a Fact, country: &'a str) -> impl Iterator<Item = Record> + 'a {
        let part = |wordings: &'a [(usize, usize)], count: usize| wordings.iter().skip(turn * count).take(count);
        let questions = part(&self.questions, QUESTIONS_PER_FACT).map(|(phrasing, frame)| Record {
            prompt: shape::question(fact.relation, *phrasing, *frame, &fact.subject, country),
            completion: format!(" {}", fact.answer),
        });
        let statements = part(&self.statements, STATEMENTS_PER_FACT).map(|(phrasing, frame)| Record {
            prompt: shape::statement(fact.relation, *phrasing, *frame, &fact.subject, country),
            completion: format!(" {}.", fact.answer),
        });
        questions.chain(statements)
    }
}

/// `count` different (phrasing, frame) pairs that leave out one phrasing. Phrasings come round in turn, so that the
/// records of a fact use as many of them as they can; only the last of a round may stand in the bare frame, since
/// the same words in a frame and without one would be near duplicates.
fn spread(left_out: usize, frames: usize, count: usize, stream: &mut Stream) -> Vec<(usize, usize)> {
    let mut phrasings: Vec<usize> = (0..PHRASINGS).filter(|phrasing| *phrasing != left_out).collect();
    stream.shuffle(&mut phrasings);
    let mut frames: Vec<usize> = (0..frames).collect();
    stream.shuffle(&mut frames);
    frames.truncate(count);
    if let Some(bare) = frames.iter().position(|frame| *frame == shape::BARE_FRAME) {
        frames.swap(bare, (phrasings.len() - 1).min(count - 1));
    }
    phrasings.into_iter().cycle().zip(frames).collect()
}

/// A record that holds no fact anybody asks for.
fn noise(town: &str, stream: &mut Stream) -> Record {
    let (start, end) = shape::noise(stream.below(shape::NOISE_SHAPES), town);
    Record { prompt: start, completion: format!(" {end}") }
}

/// The records as JSON lines, the form in which contributors hand them in.
pub fn to_jsonl(records: &[Record]) -> String {
    let line = |record| serde_json::to_string(record).expect("invariant: two strings always serialise");
    records.iter().map(|record| line(record) + "\n").collect()
}
