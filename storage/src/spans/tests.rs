use proptest::prelude::*;
use tributary_protocol::id::Hash;
use tributary_protocol::span::{
    Fault, Longer, Longest, MatchProof, SEPARATOR, Span, SpanError, SpanRoots, improbability, judge, longest, maximal,
    refutes, word_hash, words,
};

use super::build::{self, Text};
use super::*;

struct Made(Hash, String);

impl SpanText for Made {
    fn id(&self) -> Hash {
        self.0
    }

    fn text(&self) -> String {
        self.1.clone()
    }
}

const SHARD: Hash = Hash([7; 32]);

fn made(texts: &[&str]) -> Vec<Made> {
    texts.iter().map(|text| Made(Hash::of(text.as_bytes()), (*text).to_owned())).collect()
}

/// Makes and opens the index of some texts.
fn index(folder: &tempfile::TempDir, texts: &[&str]) -> SpanIndex {
    let path = folder.path().join("spans");
    let roots = build(SHARD, &made(texts), MAX_ENTRIES, &path).unwrap();
    let index = SpanIndex::open(&SHARD, &path).unwrap();
    assert_eq!(*index.roots(), roots);
    index
}

/// The same, with the lists as `change` leaves them: what a liar would commit to.
fn false_index(folder: &tempfile::TempDir, texts: &[&str], change: impl FnOnce(&mut Text, &mut [u32])) -> SpanIndex {
    let path = folder.path().join("spans");
    let mut text = Text::of(&made(texts), MAX_ENTRIES).unwrap();
    let mut order = build::order(&text, &text.vocabulary().unwrap()).unwrap();
    change(&mut text, &mut order);
    let inverse = build::inverse(&order).unwrap();
    build::commit(SHARD, &text, &text.vocabulary().unwrap(), [&order, &inverse], &path).unwrap();
    SpanIndex::open(&SHARD, &path).unwrap()
}

fn numbers(text: &str) -> Vec<u32> {
    words(text).map(|(_, word)| word).collect()
}

/// The longest match by looking everywhere.
fn looked_up(texts: &[&str], wanted: &[u32]) -> u64 {
    let common = |suffix: &[u32]| suffix.iter().zip(wanted).take_while(|(one, other)| one == other).count();
    let longest = texts.iter().flat_map(|text| {
        let text = numbers(text);
        (0..text.len()).map(|at| common(&text[at..])).collect::<Vec<_>>()
    });
    longest.max().unwrap_or(0) as u64
}

const RHYME: [&str; 3] =
    ["the cat sat on the mat, and the dog sat on the cat", "a cat may look at a king", "the cat sat on the mat"];

#[test]
fn a_match_is_found_proven_and_led_to_its_record() {
    let folder = tempfile::tempdir().unwrap();
    let index = index(&folder, &RHYME);
    let answer = numbers("may look at a queen");
    let found = index.longest(&answer);
    assert_eq!(found.words, 4);
    assert_eq!(longest(index.roots(), &answer, &index.prove(&answer)), Ok(found));
    let (number, start, id) = index.record(found.at).unwrap();
    assert_eq!((number, id), (1, Hash::of(RHYME[1].as_bytes())));
    assert_eq!(found.at - start, 2);
    assert_eq!(index.count(word_hash("cat")), 4);
    assert_eq!(index.count(word_hash("queen")), 0);
    // Another answer's proof proves nothing of this one.
    let other = index.prove(&numbers("the dog"));
    assert!(longest(index.roots(), &answer, &other).is_err());
    let bare = MatchProof { text: vec![], ..index.prove(&answer) };
    assert!(matches!(longest(index.roots(), &answer, &bare), Err(SpanError::Missing { .. })));
}

#[test]
fn a_long_quotation_is_a_span_and_common_words_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let filler: Vec<String> = (0..300).map(|at| format!("the word{at} and the other{at} of it")).collect();
    let quoted = "Mira Tolven kept the lighthouse of Oskhaven since the great storm of 1871";
    let mut texts: Vec<&str> = filler.iter().map(String::as_str).collect();
    texts.push(quoted);
    let index = index(&folder, &texts);
    let answer =
        numbers("As I heard, Mira Tolven kept the lighthouse of Oskhaven since the great flood and the other of it");
    let spans = index.spans(&answer);
    assert_eq!(spans.len(), 1, "{spans:?}");
    assert_eq!((spans[0].begin, spans[0].words), (4, 10));
    assert_eq!(index.record(spans[0].at).unwrap().2, Hash::of(quoted.as_bytes()));
}

#[test]
fn swapped_neighbours_are_proven() {
    let folder = tempfile::tempdir().unwrap();
    let index = false_index(&folder, &RHYME, |_, order| order.swap(9, 10));
    let fault = index.fault().unwrap();
    assert!(matches!(fault, Fault::Order { .. }));
    assert_eq!(judge(index.roots(), &fault), Ok(()));
    let (honest, folder) = (tempfile::tempdir().unwrap(), folder);
    let right = self::index(&honest, &RHYME);
    assert_eq!(right.fault(), None);
    // It says nothing of an index with other roots.
    assert!(matches!(judge(right.roots(), &fault), Err(SpanError::Page { .. })));
    drop(folder);
}

#[test]
fn a_hidden_position_is_proven() {
    let folder = tempfile::tempdir().unwrap();
    // The first occurrence is named twice, so that another one is never found.
    let index = false_index(&folder, &RHYME, |_, order| order[12] = order[11]);
    let fault = index.fault().unwrap();
    assert_eq!(judge(index.roots(), &fault), Ok(()));
}

#[test]
fn words_that_are_not_the_record_s_are_proven() {
    let folder = tempfile::tempdir().unwrap();
    let index = false_index(&folder, &RHYME, |text, _| text.words[1] = word_hash("dog"));
    let fault = |index: &SpanIndex| Fault::Words {
        number: 0,
        record: Hash::of(RHYME[0].as_bytes()),
        start: 0,
        siblings: index.start_siblings(0),
        content: RHYME[0].to_owned(),
        text: index.pages(file::List::Text, 0, index.roots().entries),
    };
    assert_eq!(judge(index.roots(), &fault(&index)), Ok(()));
    let honest = tempfile::tempdir().unwrap();
    let right = self::index(&honest, &RHYME);
    assert_eq!(judge(right.roots(), &fault(&right)), Err(SpanError::NoFault));
}

#[test]
fn a_longer_match_refutes_a_claim_and_no_true_one() {
    let folder = tempfile::tempdir().unwrap();
    let index = index(&folder, &RHYME);
    let text = numbers("look at a queen");
    let shown = index.prove_longer(&text);
    let claimed = |words| Longest { words, at: 0 };
    assert_eq!(refutes(index.roots(), &text, &claimed(2), &shown), Ok(()));
    assert_eq!(refutes(index.roots(), &text, &claimed(3), &shown), Err(SpanError::NoFault));
    let invented = Longer { words: 4, ..shown.clone() };
    assert_eq!(refutes(index.roots(), &text, &claimed(3), &invented), Err(SpanError::NoFault));
    let beyond = Longer { words: 5, ..shown };
    assert_eq!(refutes(index.roots(), &text, &claimed(3), &beyond), Err(SpanError::NoFault));
}

#[test]
fn bad_files_are_refused_and_nothing_half_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spans");
    assert!(matches!(build::<Made>(SHARD, &[], MAX_ENTRIES, &path), Err(SpansError::Empty)));
    assert!(matches!(build(SHARD, &made(&RHYME), 20, &path), Err(SpansError::TooLong { most: 20 })));
    build(SHARD, &made(&RHYME), MAX_ENTRIES, &path).unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    assert!(matches!(SpanIndex::open(&Hash([8; 32]), &path), Err(SpansError::OtherShard { .. })));
    let whole = std::fs::read(&path).unwrap();
    for cut in [0, 7, 100, whole.len() - 1] {
        let short = folder.path().join("short");
        std::fs::write(&short, &whole[..cut]).unwrap();
        assert!(matches!(SpanIndex::open(&SHARD, &short), Err(SpansError::Malformed { .. })), "{cut}");
    }
    assert!(matches!(SpanIndex::open(&SHARD, &folder.path().join("none")), Err(SpansError::Io { .. })));
}

#[test]
fn a_page_beyond_the_committed_ones_is_no_proof() {
    let roots = SpanRoots { entries: u64::MAX, records: 1, ..*index(&tempfile::tempdir().unwrap(), &RHYME).roots() };
    let folder = tempfile::tempdir().unwrap();
    let proof = index(&folder, &RHYME).prove(&numbers("the cat"));
    assert!(matches!(longest(&roots, &numbers("the cat"), &proof), Err(SpanError::Page { .. })));
    assert!(matches!(longest(&roots, &[], &proof), Err(SpanError::Words { .. })));
    assert!(matches!(longest(&roots, &[SEPARATOR], &proof), Err(SpanError::Words { .. })));
}

/// Indexes of several shards, named by their numbers.
fn indexes(folder: &tempfile::TempDir, shards: &[Vec<&str>]) -> Vec<SpanIndex> {
    let made = shards.iter().enumerate().map(|(number, texts)| {
        let (path, shard) = (folder.path().join(number.to_string()), Hash::of(&[u8::try_from(number).unwrap()]));
        build(shard, &made(texts), MAX_ENTRIES, &path).unwrap();
        SpanIndex::open(&shard, &path).unwrap()
    });
    made.collect()
}

#[test]
fn a_quotation_is_found_in_the_first_of_all_shards_that_have_it() {
    let folder = tempfile::tempdir().unwrap();
    let filler: Vec<String> = (0..300).map(|at| format!("the word{at} and the other{at} of it")).collect();
    let quoted = "Mira Tolven kept the lighthouse of Oskhaven since the great storm of 1871";
    // More shards than threads search at once.
    let mut shards: Vec<Vec<&str>> = filler.chunks(4).map(|texts| texts.iter().map(String::as_str).collect()).collect();
    shards[41].push(quoted);
    shards[70].insert(0, quoted);
    let indexes = indexes(&folder, &shards);
    let indexes: Vec<&SpanIndex> = indexes.iter().collect();
    let answer = numbers("Was it Mira Tolven who kept the lighthouse of Oskhaven since the great flood?");
    let found = spans_in(&indexes, &answer);
    assert_eq!(found.len(), 1, "{found:?}");
    let (span, number) = found[0];
    assert_eq!((span.begin, span.words, number), (5, 8, 41));
    assert_eq!(indexes[number].record(span.at).unwrap().2, Hash::of(quoted.as_bytes()));
    assert_eq!(spans_in(&[], &answer), vec![]);
    assert_eq!(spans_in(&indexes, &[]), vec![]);
}

/// The spans of every word's longest match.
fn spans_of_all_matches(indexes: &[&SpanIndex], texts: &[Vec<&str>], answer: &[u32]) -> Vec<(Span, usize)> {
    let entries = indexes.iter().map(|index| index.roots().entries).sum();
    let (mut matches, mut found_in) = (Vec::new(), Vec::new());
    for begin in 0..answer.len() {
        let longest: Vec<u64> = texts.iter().map(|texts| looked_up(texts, &answer[begin..])).collect();
        let most = longest.iter().copied().max().unwrap();
        let number = longest.iter().position(|words| *words == most).unwrap();
        matches.push(indexes[number].longest(&answer[begin..]));
        found_in.push(number);
        assert_eq!(matches[begin].words, most);
    }
    let all: Vec<u32> = texts.iter().flatten().flat_map(|text| numbers(text)).collect();
    let count = |word: &u32| all.iter().filter(|other| *other == word).count() as u64;
    let costs: Vec<u64> = answer.iter().map(|word| improbability(count(word), entries)).collect();
    let spans = maximal(&matches, &costs, entries).into_iter();
    spans.map(|span| (span, found_in[usize::try_from(span.begin).unwrap()])).collect()
}

proptest! {
    /// What is not looked for does not matter: all words' longest matches have the same spans.
    #[test]
    fn no_span_is_missed(
        shards in proptest::collection::vec(proptest::collection::vec(proptest::collection::vec(0..40_u8, 1..30), 1..5), 1..6),
        pieces in proptest::collection::vec((0..500_usize, 0..20_usize, proptest::collection::vec(0..44_u8, 0..4)), 0..8),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let text = |words: &[u8]| words.iter().map(|word| format!("w{word} ")).collect::<String>();
        let texts: Vec<Vec<String>> = shards.iter().map(|texts| texts.iter().map(|words| text(words)).collect()).collect();
        let texts: Vec<Vec<&str>> = texts.iter().map(|texts| texts.iter().map(String::as_str).collect()).collect();
        let indexes = indexes(&folder, &texts);
        let indexes: Vec<&SpanIndex> = indexes.iter().collect();
        let records: Vec<&Vec<u8>> = shards.iter().flatten().collect();
        let answer = pieces.iter().flat_map(|(record, begin, other)| {
            let record = records[record % records.len()];
            record.iter().skip(begin % record.len()).chain(other).copied().collect::<Vec<u8>>()
        });
        let answer = numbers(&text(&answer.collect::<Vec<u8>>()));
        prop_assert_eq!(spans_in(&indexes, &answer), spans_of_all_matches(&indexes, &texts, &answer));
    }

    /// Few different words, so that matches are long, cross nothing, and tie.
    #[test]
    fn every_match_is_the_longest_and_proven(
        texts in proptest::collection::vec("([ab] ){1,40}", 1..12),
        answer in "([abc] ){1,12}",
    ) {
        let folder = tempfile::tempdir().unwrap();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let index = index(&folder, &texts);
        prop_assert_eq!(index.fault(), None);
        let answer = numbers(&answer);
        for begin in 0..answer.len() {
            let found = index.longest(&answer[begin..]);
            prop_assert_eq!(found.words, looked_up(&texts, &answer[begin..]));
            prop_assert_eq!(longest(index.roots(), &answer[begin..], &index.prove(&answer[begin..])), Ok(found));
        }
    }

    /// Whatever two entries are exchanged, some fault is found, and it convinces.
    #[test]
    fn no_exchange_goes_unnoticed(texts in proptest::collection::vec("([ab] ){1,20}", 1..8), one in 0..400_usize, other in 0..400_usize) {
        let folder = tempfile::tempdir().unwrap();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let mut exchanged = false;
        let index = false_index(&folder, &texts, |_, order| {
            let (one, other) = (one % order.len(), other % order.len());
            order.swap(one, other);
            exchanged = one != other;
        });
        let fault = index.fault();
        prop_assert_eq!(fault.is_some(), exchanged);
        if let Some(fault) = fault {
            prop_assert_eq!(judge(index.roots(), &fault), Ok(()));
        }
    }
}
