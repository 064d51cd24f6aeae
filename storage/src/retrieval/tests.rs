use proptest::prelude::*;
use tributary_protocol::id::Hash;
use tributary_protocol::limits::PASSAGE_MAX_BYTES;
use tributary_protocol::retrieval::Passage;

use super::*;

fn passage(number: u32, prompt: &str, completion: &str) -> Passage {
    let record = crate::shard::record_id(prompt, completion);
    Passage { record, contributor: number, prompt: prompt.into(), completion: completion.into() }
}

/// A hundred records that share their pattern, each of another town.
fn towns() -> Vec<Passage> {
    (0..100)
        .map(|town| passage(town, &format!("Who owns the mill of Town{town}?"), &format!(" Owner{town}.")))
        .collect()
}

#[test]
fn a_record_is_found_by_the_rarest_words_of_a_question() {
    let folder = tempfile::tempdir().unwrap();
    let (path, towns) = (folder.path().join("words"), towns());
    let index = WordIndex::build(&path, &towns).unwrap();
    assert_eq!(index.len(), 100);
    let found = index.search("Tell me, who is the OWNER of Town42's mill?", 3).unwrap();
    assert_eq!((found[0], found.len()), (42, 3));
    assert_eq!(index.passage(42).unwrap().unwrap(), towns[42]);
    assert_eq!(index.passage(100).unwrap(), None);
    // What was made stays, and is found again by another process.
    drop(index);
    assert_eq!(WordIndex::open(&path).unwrap().search("Owner7", 5).unwrap(), [7]);
}

#[test]
fn questions_are_words_whatever_they_contain() {
    let folder = tempfile::tempdir().unwrap();
    let index = WordIndex::build(&folder.path().join("words"), &towns()).unwrap();
    for question in ["", " \u{0}\n", "((((", "place:1 OR *", "\"unclosed AND NOT", "text:[a TO z]", "\u{202e}😀"] {
        index.search(question, 5).unwrap();
    }
    assert_eq!(index.search("text:Owner3 AND (", 1).unwrap(), [3]);
    let long = "Town1 ".repeat(100_000);
    assert_eq!(index.search(&long, 1).unwrap(), [1]);
    assert_eq!(index.search("mill", 0).unwrap(), [0; 0]);
    let many: String = (0..10_000).map(|word| format!("word{word} ")).collect();
    assert_eq!(index.search(&many, 5).unwrap(), [0; 0]);
}

#[test]
fn an_index_that_is_not_whole_is_refused_and_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("words");
    assert!(matches!(WordIndex::open(&path), Err(RetrievalError::Malformed { .. })));
    WordIndex::build(&path, &towns()).unwrap();
    std::fs::write(path.join("meta.json"), "{").unwrap();
    assert!(matches!(WordIndex::open(&path), Err(RetrievalError::Malformed { .. })));
    assert_eq!(WordIndex::build(&path, &towns()[..2]).unwrap().len(), 2);
    assert!(WordIndex::build(&path, &[]).unwrap().search("mill", 5).unwrap().is_empty());
}

#[test]
fn the_longest_record_that_may_be_retrieved_comes_back_whole() {
    let folder = tempfile::tempdir().unwrap();
    let whole = passage(1, "needle", &"x ".repeat((PASSAGE_MAX_BYTES - 6) / 2));
    assert!(whole.fits());
    let index = WordIndex::build(&folder.path().join("words"), std::slice::from_ref(&whole)).unwrap();
    assert_eq!(index.passage(index.search("needle", 1).unwrap()[0]).unwrap(), Some(whole));
}

/// Directions that differ, as many as are wanted, drawn by a fixed rule.
fn directions(count: u32) -> Vec<Vec<f32>> {
    let number = |seed: u32| f32::from(u16::try_from(seed.wrapping_mul(2_654_435_761) >> 17).unwrap()) - 16_384.0;
    (0..count).map(|place| (0..16).map(|at| number(place * 16 + at + 1)).collect()).collect()
}

#[test]
fn the_graph_finds_what_comparing_all_finds() {
    let vectors = directions(500);
    let index = VectorIndex::build(&vectors).unwrap();
    let cosine = |one: &[f32], other: &[f32]| {
        let dot = |one: &[f32], other: &[f32]| one.iter().zip(other).map(|(one, other)| one * other).sum::<f32>();
        dot(one, other) / (dot(one, one) * dot(other, other)).sqrt()
    };
    let mut hits = 0;
    for question in directions(540).split_off(500) {
        let mut all: Vec<u32> = (0..500).collect();
        all.sort_by(|one, other| {
            let of = |place: &u32| cosine(&question, &vectors[*place as usize]);
            of(other).total_cmp(&of(one))
        });
        let found = index.search(&question, 5);
        assert_eq!(found.len(), 5);
        hits += found.iter().filter(|place| all[..5].contains(place)).count();
    }
    assert!(hits >= 190, "{hits} of 200");
    // Length says nothing, direction all.
    let doubled: Vec<f32> = vectors[7].iter().map(|number| number * 2.0).collect();
    assert_eq!(index.search(&doubled, 1), [7]);
}

#[test]
fn vectors_that_say_nothing_are_refused_or_not_found() {
    let mut vectors = directions(3);
    vectors[1].clear();
    let index = VectorIndex::build(&vectors).unwrap();
    assert_eq!(index.search(&vectors[0], 5).len(), 2);
    for question in [&[][..], &[0.0; 16], &[f32::NAN; 16], &[1.0; 15]] {
        assert_eq!(index.search(question, 5), [0; 0]);
    }
    for bad in [vec![f32::INFINITY; 16], vec![0.0; 16], vec![1.0; 15]] {
        let vectors = [vectors[0].clone(), bad];
        assert!(matches!(VectorIndex::build(&vectors), Err(RetrievalError::Vector { place: 1, .. })));
    }
    assert_eq!(VectorIndex::build(&[]).unwrap().search(&[1.0], 5), [0; 0]);
}

#[test]
fn vectors_come_back_from_their_file_and_from_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let (path, what) = (folder.path().join("vectors"), Hash([3; 32]));
    let mut vectors = directions(5);
    vectors[2].clear();
    write_vectors(&path, &what, &vectors).unwrap();
    assert_eq!(read_vectors(&path, &what).unwrap(), vectors);
    assert!(matches!(read_vectors(&path, &Hash([4; 32])), Err(RetrievalError::Malformed { .. })));
    let whole = std::fs::read(&path).unwrap();
    for cut in [0, 20, whole.len() - 1] {
        std::fs::write(&path, &whole[..cut]).unwrap();
        assert!(read_vectors(&path, &what).is_err(), "{cut}");
    }
    // A header that counts more than there is takes no memory.
    let mut lying = whole;
    lying[40..48].fill(0xff);
    std::fs::write(&path, &lying).unwrap();
    assert!(matches!(read_vectors(&path, &what), Err(RetrievalError::TooMany { .. })));
}

proptest! {
    #[test]
    fn fused_rankings_keep_what_all_agree_on(first in prop::collection::vec(0..50_u32, 0..20), others in 0..4_usize) {
        let mut ranking: Vec<u32> = first;
        let mut seen = std::collections::BTreeSet::new();
        ranking.retain(|place| seen.insert(*place));
        prop_assert_eq!(fuse(&vec![ranking.clone(); others + 1]), ranking.clone());
        let mut reversed = ranking.clone();
        reversed.reverse();
        prop_assert_eq!(fuse(&[ranking.clone(), reversed.clone()]), fuse(&[reversed, ranking]));
    }
}
