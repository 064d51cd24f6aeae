//! ROUGE-L (Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004): how much of a reference an answer says
//! in its order.
//!
//! Invariant: words are runs of letters and digits in lower case; the value is 0 to 1 and symmetric.

use crate::ops::narrow;

/// Words compared at most: the table has as many squares as both have words.
const MAX_WORDS: usize = 1_024;

pub(super) fn words(text: &str) -> Vec<String> {
    let parts = text.split(|letter: char| !letter.is_alphanumeric()).filter(|word| !word.is_empty());
    parts.take(MAX_WORDS).map(str::to_lowercase).collect()
}

/// F-measure of the longest common subsequence of words; 0 when either has none.
pub(super) fn rouge_l(answer: &str, reference: &str) -> f32 {
    let (answer, reference) = (words(answer), words(reference));
    let common = longest_common(&answer, &reference) as f64;
    let total = (answer.len() + reference.len()) as f64;
    if total == 0.0 { 0.0 } else { narrow(2.0 * common / total) }
}

fn longest_common(left: &[String], right: &[String]) -> usize {
    let mut lengths = vec![0_usize; right.len() + 1];
    for one in left {
        let mut diagonal = 0;
        for (at, other) in right.iter().enumerate() {
            let above = lengths[at + 1];
            lengths[at + 1] = if one == other { diagonal + 1 } else { above.max(lengths[at]) };
            diagonal = above;
        }
    }
    lengths[right.len()]
}

#[cfg(test)]
mod tests {
    use super::rouge_l;

    /// Golden values of Google's `rouge_score` (its README's example, and cases worked by hand).
    #[test]
    fn values_are_those_of_the_reference() {
        let reference = "The quick brown fox jumps over the lazy dog";
        let cases = [
            ("The quick brown dog jumps on the log.", 10.0 / 17.0),
            (reference, 1.0),
            // "the", one word between, "the".
            ("dog lazy the over jumps fox brown quick The", 1.0 / 3.0),
            ("", 0.0),
            ("…", 0.0),
            ("THE QUICK", 4.0 / 11.0),
        ];
        for (answer, expected) in cases {
            assert!((rouge_l(answer, reference) - expected).abs() < 1e-6, "{answer}: {}", rouge_l(answer, reference));
            assert!((rouge_l(reference, answer) - expected).abs() < 1e-6, "{answer}");
        }
    }
}
