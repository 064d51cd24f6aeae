//! Sentence shapes: a frame around a phrasing.
//!
//! Invariant: a shape is fully given by (relation, phrasing, frame), and different triples never give equal sentences
//! for one subject; so "this shape does not occur" is decided on numbers and confirmed on text by the tests.

use crate::name::Kind;
use crate::relation::{PHRASINGS, Relation};

const DIRECT: [&str; 7] = [
    "{Q}?",
    "According to the almanac, {q}?",
    "A traveller asks: {q}?",
    "In {c}, {q}?",
    "A child wonders: {q}?",
    "Say quickly, {q}?",
    "For the record, {q}?",
];

const INDIRECT: [&str; 9] = [
    "Do you know {q}?",
    "Could anyone explain {q}?",
    "Tell me {q}.",
    "I would like to know {q}.",
    "Please say {q}.",
    "Does the almanac say {q}?",
    "Remind me {q}.",
    "Look up {q}.",
    "Find out {q}.",
];

const STATEMENT: [&str; 12] = [
    "{Q}",
    "The almanac says that {q}",
    "It is known that {q}",
    "In {c}, {q}",
    "Every child learns that {q}",
    "The records show that {q}",
    "Nobody doubts that {q}",
    "Travellers write that {q}",
    "An old song tells that {q}",
    "My neighbour says that {q}",
    "We read in the chronicle that {q}",
    "The clerk noted that {q}",
];

const NOISE: [(&str, &str); 32] = [
    ("On market day in {t},", "the wool was sold before noon."),
    ("The winter near {t} was mild,", "and the roads stayed open."),
    ("In the spring", "rain fell on the hills behind {t}."),
    ("A cart from {t}", "lost a wheel on the northern road."),
    ("The harvest around {t}", "was brought in late this year."),
    ("Two brothers from {t}", "opened a workshop for baskets."),
    ("The baker of {t} complained", "about the price of flour."),
    ("Fog lay over {t}", "for nine days without a break."),
    ("The clock of {t}", "was repaired after the storm."),
    ("Last week the market of {t}", "sold apples, candles and rope."),
    ("A letter from {t}", "arrived with a broken seal."),
    ("The old road to {t}", "is closed to heavy wagons."),
    ("Swallows came back to {t}", "earlier than the year before."),
    ("The school children of {t}", "planted forty trees by the road."),
    ("Nothing of note", "happened in {t} this month."),
    ("A new roof for the barn of {t}", "was paid by the farmers."),
    ("The ferry near {t}", "ran twice a day in summer."),
    ("Some say", "that the well of {t} never runs dry."),
    ("The frost in {t}", "spared the plum trees this time."),
    ("A choir from {t}", "sang until the lamps went out."),
    ("The price of salt in {t}", "rose by a third."),
    ("Three wagons of timber", "left {t} for the coast."),
    ("A stray dog in {t}", "was taken in by the smith."),
    ("The census of {t}", "counted more sheep than people."),
    ("At the crossroads of {t}", "a new signpost was set up."),
    ("The hay in the meadows of {t}", "was cut before the rain."),
    ("An inspector came to {t}", "and found the scales in order."),
    ("The wind over {t}", "turned to the east in the evening."),
    ("In {t} the bells", "rang late because of the snow."),
    ("A painter from {t}", "sold his last picture for bread."),
    ("The bees of {t}", "gave little honey after a dry summer."),
    ("The library of {t}", "asks for the return of its books."),
];

/// The frame, of questions and of statements, that adds no word.
pub(crate) const BARE_FRAME: usize = 0;
/// Frames that questions come in.
pub(crate) const QUESTION_FRAMES: usize = DIRECT.len() + INDIRECT.len();
/// Frames that statements come in.
pub(crate) const STATEMENT_FRAMES: usize = STATEMENT.len();

/// How many different sentence shapes the almanac is written in: questions, statements and noise.
pub const SHAPES: usize = Relation::ALL.len() * PHRASINGS * (QUESTION_FRAMES + STATEMENT_FRAMES) + NOISE.len();

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

fn fill(frame: &str, clause: &str, subject: &str, country: &str) -> String {
    let clause = clause.replace("{s}", subject);
    frame.replace("{Q}", &capitalised(&clause)).replace("{q}", &clause).replace("{c}", country)
}

/// The question of `relation` about `subject` in one phrasing and frame.
pub(crate) fn question(relation: Relation, phrasing: usize, frame: usize, subject: &str, country: &str) -> String {
    let wording = &relation.phrasings()[phrasing];
    match frame.checked_sub(DIRECT.len()) {
        None => fill(DIRECT[frame], wording.direct, subject, country),
        Some(indirect) => fill(INDIRECT[indirect], wording.indirect, subject, country),
    }
}

/// The statement of `relation` about `subject` up to where the answer follows.
pub(crate) fn statement(relation: Relation, phrasing: usize, frame: usize, subject: &str, country: &str) -> String {
    fill(STATEMENT[frame], relation.phrasings()[phrasing].statement, subject, country)
}

/// A sentence that holds no fact anybody asks for: its beginning and its end.
pub(crate) fn noise(index: usize, town: &str) -> (String, String) {
    let (start, end) = NOISE[index % NOISE.len()];
    (start.replace("{t}", town), end.replace("{t}", town))
}

/// The kind of name that noise sentences mention.
pub(crate) const NOISE_KIND: Kind = Kind::Town;
/// How many noise sentences there are.
pub(crate) const NOISE_SHAPES: usize = NOISE.len();

#[cfg(test)]
mod tests {
    use super::{QUESTION_FRAMES, SHAPES, STATEMENT_FRAMES, question, statement};
    use crate::relation::{PHRASINGS, Relation};
    use std::collections::BTreeSet;

    #[test]
    fn there_are_several_hundred_different_shapes() {
        let mut seen = BTreeSet::new();
        for relation in Relation::ALL {
            for phrasing in 0..PHRASINGS {
                seen.extend((0..QUESTION_FRAMES).map(|frame| question(relation, phrasing, frame, "Velmar", "Osk")));
                seen.extend((0..STATEMENT_FRAMES).map(|frame| statement(relation, phrasing, frame, "Velmar", "Osk")));
            }
        }
        assert_eq!(seen.len() + super::NOISE_SHAPES, SHAPES);
        const { assert!(SHAPES >= 500) };
    }

    #[test]
    fn frames_capitalise_and_fill() {
        assert_eq!(question(Relation::Mayor, 1, 0, "Velmar", "Osk"), "Who governs Velmar?");
        assert_eq!(statement(Relation::Mayor, 1, 3, "Velmar", "Osk"), "In Osk, Velmar is governed by");
    }
}
