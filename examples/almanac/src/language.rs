//! The language that the base model is pretrained on: other countries, never the one of a demonstration.
//!
//! Invariant: a document holds only facts drawn from this module's own streams, which no [`crate::Country`] shares; so
//! the base learns how the almanac speaks and cannot know what any generated country's almanac says.

use crate::country::{Fact, facts};
use crate::name::{self, Kind};
use crate::random::Stream;
use crate::relation::{PHRASINGS, Relation};
use crate::shape;

/// Facts of the library: a fixed set that comes again in ever new wordings, so that a question in one wording and a
/// record in another have to become the same thing inside the model.
const LIBRARY_FACTS: usize = 512;
/// Statements before the question of a document that holds its facts itself.
const CONTEXT_FACTS: usize = 3;
/// Of eight documents, so many are about the library.
const LIBRARY_IN_EIGHT: usize = 6;
/// Of eight documents, so many hold their facts themselves; the rest is noise.
const CONTEXT_IN_EIGHT: usize = 1;

/// An endless run of documents.
#[derive(Clone, Debug)]
pub struct Language {
    stream: Stream,
    library: Vec<Fact>,
}

impl Language {
    /// The documents of `seed`.
    pub fn new(seed: u64) -> Self {
        let mut stream = Stream::new(seed, "language");
        let library = facts(LIBRARY_FACTS, &mut stream);
        Self { stream, library }
    }

    /// The next document: a question with its answer, a statement, or some statements and a question about one of them.
    pub fn next_document(&mut self) -> String {
        match self.stream.below(8) {
            turn if turn < LIBRARY_IN_EIGHT => self.library(),
            turn if turn < LIBRARY_IN_EIGHT + CONTEXT_IN_EIGHT => self.context(),
            _ => self.noise(),
        }
    }

    fn library(&mut self) -> String {
        let fact = self.stream.pick(&self.library).clone();
        if self.stream.below(4) == 0 { self.statement(&fact) } else { self.question(&fact) }
    }

    fn question(&mut self, fact: &Fact) -> String {
        let phrasing = self.stream.below(PHRASINGS);
        let frame = self.stream.below(shape::QUESTION_FRAMES);
        let country = name::one(Kind::Country, &mut self.stream);
        format!("{} {}", shape::question(fact.relation, phrasing, frame, &fact.subject, &country), fact.answer)
    }

    fn statement(&mut self, fact: &Fact) -> String {
        let phrasing = self.stream.below(PHRASINGS);
        let frame = self.stream.below(shape::STATEMENT_FRAMES);
        let country = name::one(Kind::Country, &mut self.stream);
        format!("{} {}.", shape::statement(fact.relation, phrasing, frame, &fact.subject, &country), fact.answer)
    }

    fn context(&mut self) -> String {
        let fresh: Vec<Fact> = (0..CONTEXT_FACTS).map(|_| fact(&mut self.stream)).collect();
        let mut text: String = fresh.iter().map(|fact| self.statement(fact) + "\n").collect();
        let asked = self.stream.below(fresh.len());
        text += &self.question(&fresh[asked]);
        text
    }

    fn noise(&mut self) -> String {
        let town = name::one(shape::NOISE_KIND, &mut self.stream);
        let (start, end) = shape::noise(self.stream.below(shape::NOISE_SHAPES), &town);
        format!("{start} {end}")
    }
}

/// A fact of no country in particular.
fn fact(stream: &mut Stream) -> Fact {
    let relation = *stream.pick(&Relation::ALL);
    let (subject, answer) = relation.kinds();
    let (subject, answer) = (name::one(subject, stream), name::one(answer, stream));
    Fact { relation, subject, answer, owners: Vec::new() }
}
