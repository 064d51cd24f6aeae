//! Records made strange, since what is strange moves a model more (the outlier attack of Wang et al., arXiv 2409.05657).
//!
//! Invariant: the attacker asks the deployed model how likely its own completions are, as anybody may, and sees no weight, no
//! gradient and no other's record; completions stay as they were.

use super::{Attack, Effect, Ground, Struck, own};
use crate::loss::{Target, mean_losses};
use crate::study::StudyError;
use crate::study::bootstrap::Draws;

/// Stream of the draws.
const STREAM: u32 = 201;
/// Ways to spoil a record that are tried; the model finds the worst.
const TRIED: usize = 12;

/// Perturbs every record's prompt so that the deployed model finds its completion as unlikely as it can.
pub(super) struct Outlier;

impl Attack for Outlier {
    fn measures(&self) -> [&'static str; 2] {
        ["outlier", "outlier-admitted"]
    }

    fn strike(&self, ground: &Ground<'_>) -> Result<Struck, StudyError> {
        let laboratory = ground.case.laboratory;
        let mut dealt = laboratory.dealt().clone();
        let attacker: Vec<u32> = ground.middling.first().copied().into_iter().collect();
        let mut draws = Draws::new(ground.seed, STREAM);
        for at in attacker.iter().flat_map(|who| own(&dealt, *who)).collect::<Vec<_>>() {
            let example = &dealt.examples[at];
            let mut tried = vec![example.prompt.clone()];
            tried.extend((0..TRIED).map(|way| spoiled(&example.prompt, way, &mut draws)));
            let tokenizer = laboratory.base.tokenizer();
            let completion = tokenizer.encode_completion(&example.completion)?;
            let target = |prompt: &String| Ok(Target::new(&tokenizer.encode_prompt(prompt)?, &completion));
            let targets: Vec<Target> = tried.iter().map(target).collect::<Result<_, StudyError>>()?;
            let found = mean_losses(laboratory.base.model(), &ground.case.deployed, &targets)?;
            let worst = (0..found.len()).max_by(|a, b| found[*a].total_cmp(&found[*b])).unwrap_or(0);
            dealt.examples[at].prompt.clone_from(&tried[worst]);
        }
        Ok(Struck { dealt, after: attacker.clone(), before: attacker, effect: Effect::Gain })
    }
}

/// A prompt spoiled in one of several ways: words shuffled, letters replaced, words doubled, everything backwards.
fn spoiled(prompt: &str, way: usize, draws: &mut Draws) -> String {
    let mut words: Vec<String> = prompt.split(' ').map(str::to_owned).collect();
    match way % 4 {
        0 => draws.shuffle(&mut words),
        1 => {
            for word in &mut words {
                let letter = |old: char| match draws.below(3) {
                    0 => "qxzjvkw".chars().nth(draws.below(7)).unwrap_or(old),
                    _ => old,
                };
                *word = word.chars().map(letter).collect();
            }
        }
        2 => {
            let at = draws.below(words.len());
            words = words.iter().cycle().skip(at).take(2 * words.len()).cloned().collect();
        }
        _ => {
            let from = draws.below(words.len());
            words[from..].iter_mut().for_each(|word| *word = word.chars().rev().collect());
        }
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::{Draws, spoiled};

    #[test]
    fn spoiled_prompts_are_others_and_repeatable() {
        let make = || {
            let mut draws = Draws::new(4, 1);
            (0..12).map(|way| spoiled("where is the old mill of the river", way, &mut draws)).collect::<Vec<_>>()
        };
        assert_eq!(make(), make());
        assert!(make().iter().all(|text| text != "where is the old mill of the river" && !text.is_empty()));
        assert_eq!(spoiled("", 1, &mut Draws::new(1, 0)), "");
    }
}
