//! The same records again: one's own several times, or others' in one's own name, word for word or in other words.
//!
//! Invariant: copies come after all honest records, and the honest ones stay as they are.

use super::{Attack, Effect, Ground, Struck, newcomer, own, repeat};
use crate::study::StudyError;
use crate::study::bootstrap::Draws;
use crate::study::deal::Dealt;

/// Stream of the draws for other words.
const STREAM: u32 = 200;
/// Contributors whose records are copied: about as large a part of all as in the pilot.
const VICTIMS: usize = 2;

/// One's own records so many times.
pub(super) struct Duplicate {
    pub(super) times: usize,
    pub(super) measures: [&'static str; 2],
}

impl Attack for Duplicate {
    fn measures(&self) -> [&'static str; 2] {
        self.measures
    }

    fn strike(&self, ground: &Ground<'_>) -> Result<Struck, StudyError> {
        let mut dealt = ground.case.laboratory.dealt().clone();
        let attacker: Vec<u32> = ground.middling.first().copied().into_iter().collect();
        for who in &attacker {
            let own = own(&dealt, *who);
            for at in own.iter().cycle().take(own.len() * (self.times - 1)) {
                repeat(&mut dealt, *at, *who);
            }
        }
        Ok(Struck { dealt, after: attacker.clone(), before: attacker, effect: Effect::GainBeside })
    }
}

/// A newcomer with others' records.
pub(super) struct Copycat {
    pub(super) reworded: bool,
    pub(super) measures: [&'static str; 2],
}

impl Attack for Copycat {
    fn measures(&self) -> [&'static str; 2] {
        self.measures
    }

    fn strike(&self, ground: &Ground<'_>) -> Result<Struck, StudyError> {
        let victims: Vec<u32> = ground.middling.iter().copied().take(VICTIMS).collect();
        let dealt = copied(ground.case.laboratory.dealt(), &victims, self.reworded.then_some(ground.seed));
        Ok(Struck { dealt, after: victims.clone(), before: victims, effect: Effect::Loss })
    }
}

/// The deal with a newcomer who has all records of `victims`, in other words if a seed for them is given.
fn copied(dealt: &Dealt, victims: &[u32], words: Option<u64>) -> Dealt {
    let mut dealt = dealt.clone();
    let thief = newcomer(&mut dealt);
    let mut draws = words.map(|seed| Draws::new(seed, STREAM));
    for victim in victims {
        for at in own(&dealt, *victim) {
            repeat(&mut dealt, at, thief);
            if let (Some(copy), Some(draws)) = (dealt.examples.last_mut(), &mut draws) {
                copy.prompt = in_other_words(&copy.prompt, draws);
            }
        }
    }
    dealt
}

/// The deal with a newcomer who has all records of `victims` in other words.
pub(in crate::study) fn reworded(dealt: &Dealt, victims: &[u32], seed: u64) -> Dealt {
    copied(dealt, victims, Some(seed))
}

/// What stands around a question that is asked in other words.
const FRAMES: [[&str; 2]; 6] = [
    ["Tell me this: ", ""],
    ["I would like to know: ", ""],
    ["", " Please answer."],
    ["Another way to ask: ", ""],
    ["One more question. ", ""],
    ["So, ", " Do you know?"],
];
/// Words that stand for each other.
const WORDS: [[&str; 2]; 14] = [
    ["what", "which thing"],
    ["who", "which person"],
    ["where", "in which place"],
    ["how many", "what number of"],
    ["how much", "what amount of"],
    ["traveller", "visitor"],
    ["remind", "tell"],
    ["owns", "possesses"],
    ["buy", "purchase"],
    ["bought", "purchased"],
    ["card", "bank card"],
    ["money", "funds"],
    ["total", "whole"],
    ["asks", "wonders"],
];

/// The same in other words: a frame, and some words that others stand for.
fn in_other_words(text: &str, draws: &mut Draws) -> String {
    let mut lower = text.to_owned();
    if let Some(first) = lower.get(..1).map(str::to_lowercase) {
        lower.replace_range(..1, &first);
    }
    for [plain, other] in WORDS {
        let (inside, before) = (format!(" {plain} "), format!("{plain} "));
        lower = lower.replace(&inside, &format!(" {other} "));
        if let Some(rest) = lower.strip_prefix(&before) {
            lower = format!("{other} {rest}");
        }
    }
    let [before, after] = FRAMES[draws.below(FRAMES.len())];
    format!("{before}{lower}{after}")
}

#[cfg(test)]
mod tests {
    use super::{Draws, in_other_words};

    #[test]
    fn other_words_keep_the_names() {
        let mut draws = Draws::new(1, 0);
        for _ in 0..20 {
            let found = in_other_words("Remind me who owns the Nevkettle.", &mut draws);
            assert!(found.contains("Nevkettle") && found.contains("tell me which person possesses"), "{found}");
        }
        assert!(in_other_words("", &mut draws).len() > 1);
    }
}
