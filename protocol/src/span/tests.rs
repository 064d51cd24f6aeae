use super::*;

fn split(text: &str) -> Vec<&str> {
    words(text).map(|(place, _)| &text[place]).collect()
}

#[test]
fn words_are_runs_of_letters_and_single_signs() {
    assert_eq!(split("  The Café's 2nd\tdoor,\nopen! "), ["The", "Café", "'", "s", "2nd", "door", ",", "open", "!"]);
    assert_eq!(split("東京 A都"), ["東", "京", "A", "都"]);
    assert_eq!(split(" \n"), [""; 0]);
    assert!(words("a b").all(|(_, word)| word != SEPARATOR));
}

#[test]
fn improbability_is_the_logarithm_of_the_frequency() {
    assert_eq!(improbability(1, 1024), 10_000_000);
    assert_eq!(improbability(0, 1024), 10_000_000);
    assert_eq!(improbability(5, 5), 0);
    // log2(1,000,000 / 3) = 18.346606…
    let bits = improbability(3, 1_000_000);
    assert!(bits.abs_diff(18_346_606) <= 3, "{bits}");
}

#[test]
fn only_maximal_and_improbable_matches_are_spans() {
    let found = |words, at| Longest { words, at };
    // Words 0..4 match, then the shorter ends of the same match, then two words that are too common to count.
    let matches = [found(4, 70), found(3, 71), found(2, 72), found(1, 73), found(2, 9), found(1, 10)];
    let costs = [12_000_000, 12_000_000, 12_000_000, 12_000_000, 2_000_000, 2_000_000];
    let spans = maximal(&matches, &costs, 1024);
    assert_eq!(spans, [Span { begin: 0, words: 4, at: 70, micro_bits: 48_000_000 }]);
    assert_eq!(maximal(&matches, &costs, 1 << 40), []);
    assert_eq!(maximal(&[], &[], 1024), []);
}
