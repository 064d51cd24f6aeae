//! Duplicates among records: exact ones by id, near ones by MinHash signatures in locality-sensitive buckets
//! (Broder 1997; Leskovec, Rajaraman, Ullman, *Mining of Massive Datasets*, chapter 3).
//!
//! Invariant: the answer depends only on the records and their order; all hash functions have fixed keys, so every
//! peer finds the same duplicates. The earlier record is the original.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use tributary_protocol::id::Hash;

use crate::shard::Record;

/// Hash functions in a signature: the estimate's standard error is 1/√128 at worst, 3.5 % at 80 % similarity.
const SIGNATURE: usize = 128;

/// Values in one bucket's key. With 16 buckets of 8, half of the pairs at 71 % similarity meet, 95 % at 80 %.
const BAND: usize = 8;

/// Words in a shingle.
const SHINGLE_WORDS: usize = 3;

/// Characters in a shingle of a text with few words, such as a short one or one in Chinese.
const SHINGLE_CHARS: usize = 5;

/// Texts with fewer words are shingled by characters.
const FEW_WORDS: usize = 8;

/// Words from which an answer is long: one that is shorter may differ from another by the fact that it tells.
const LONG_ANSWER_WORDS: usize = 16;

/// Marks that tell nothing in a short text.
const SENTENCE_MARKS: [char; 6] = ['.', ',', '?', '!', '"', '\''];

/// Shingles of one record: the first ones stand for a very long text.
const MAX_SHINGLES: usize = 8192;

/// Records compared from one bucket: a flood of near copies must not make the work quadratic.
const MAX_BUCKET: usize = 32;

/// The similarity from which two records are near duplicates, in thousandths.
pub const NEAR_PERMILLE: u16 = 800;

/// Which record another one repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Duplicate {
    /// The earlier record.
    pub of: Hash,
    /// Shared shingles of all shingles (Jaccard), estimated, in thousandths; 1000 for an exact duplicate.
    pub similarity_permille: u16,
    /// Whether prompt and completion are equal to the byte.
    pub exact: bool,
}

type Signature = [u32; SIGNATURE];

/// The records seen so far.
#[derive(Debug)]
pub struct NearIndex {
    near_permille: u16,
    ids: HashSet<Hash>,
    signatures: Vec<(Hash, Signature)>,
    buckets: HashMap<(u8, u64), Vec<u32>>,
}

impl Default for NearIndex {
    fn default() -> Self {
        Self::new(NEAR_PERMILLE)
    }
}

impl NearIndex {
    /// An empty index that reports pairs from `near_permille` thousandths of similarity on.
    #[must_use]
    pub fn new(near_permille: u16) -> Self {
        Self { near_permille, ids: HashSet::new(), signatures: Vec::new(), buckets: HashMap::new() }
    }

    /// Adds a record, or says which earlier one it repeats. A duplicate is not added: what resembles it is compared
    /// with the original.
    pub fn insert(&mut self, record: &Record) -> Option<Duplicate> {
        self.insert_text(record.id, &record.prompt, &record.completion)
    }

    /// As [`NearIndex::insert`], for a record's id and texts.
    pub fn insert_text(&mut self, id: Hash, prompt: &str, completion: &str) -> Option<Duplicate> {
        if self.ids.contains(&id) {
            return Some(Duplicate { of: id, similarity_permille: 1000, exact: true });
        }
        self.insert_copy(id, prompt, completion, |_| true)
    }

    /// As [`NearIndex::insert_text`], where only records count as repeated that `is_copy` takes for it; it is given
    /// their numbers in the order in which they were added.
    pub(crate) fn insert_copy(
        &mut self,
        id: Hash,
        prompt: &str,
        completion: &str,
        is_copy: impl Fn(usize) -> bool,
    ) -> Option<Duplicate> {
        let signature = signature(&format!("{prompt}\n{completion}"));
        let keys = bucket_keys(&signature);
        if let Some(near) = self.nearest(&signature, &keys, is_copy) {
            return Some(near);
        }
        let place = u32::try_from(self.signatures.len()).unwrap_or(u32::MAX);
        for key in keys {
            let bucket = self.buckets.entry(key).or_default();
            if bucket.len() < MAX_BUCKET {
                bucket.push(place);
            }
        }
        self.ids.insert(id);
        self.signatures.push((id, signature));
        None
    }

    /// Originals in the index.
    #[must_use]
    pub fn len(&self) -> usize {
        self.signatures.len()
    }

    /// Whether nothing was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.signatures.is_empty()
    }

    /// The most similar record that shares a bucket, the earliest of equals.
    fn nearest(&self, signature: &Signature, keys: &[(u8, u64)], is_copy: impl Fn(usize) -> bool) -> Option<Duplicate> {
        let mut best: Option<(u16, u32)> = None;
        for place in keys.iter().filter_map(|key| self.buckets.get(key)).flatten() {
            let similarity = similarity_permille(signature, &self.signatures[*place as usize].1);
            let better = best.is_none_or(|(most, first)| similarity > most || (similarity == most && *place < first));
            if similarity >= self.near_permille && better && is_copy(*place as usize) {
                best = Some((similarity, *place));
            }
        }
        let (similarity_permille, place) = best?;
        Some(Duplicate { of: self.signatures[place as usize].0, similarity_permille, exact: false })
    }
}

/// What makes a record that resembles another one say something else: its figures and its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Essence {
    figures: u64,
    answer: u64,
    has_long_answer: bool,
    /// A text of few words whole, since a sign may be what it is about: an operator, a smile.
    short: Option<u64>,
}

impl Essence {
    /// The essence of a record's texts; case, punctuation and spacing don't count.
    pub(crate) fn of(prompt: &str, completion: &str) -> Self {
        let (prompt, completion) = (prompt.to_lowercase(), completion.to_lowercase());
        let answer: Vec<&str> = words(&completion).collect();
        let mut figures: Vec<&str> =
            words(&prompt).chain(words(&completion)).filter(|word| word.contains(char::is_numeric)).collect();
        figures.sort_unstable();
        let hash = |words: &[&str]| shingle_hash(words.join(" ").as_bytes());
        let is_short = words(&prompt).chain(words(&completion)).take(FEW_WORDS).count() < FEW_WORDS;
        let signs = |text: &str| text.replace(|c: char| c.is_whitespace() || SENTENCE_MARKS.contains(&c), "");
        let whole = || shingle_hash(format!("{}\n{}", signs(&prompt), signs(&completion)).as_bytes());
        Self {
            figures: hash(&figures),
            answer: hash(&answer),
            has_long_answer: answer.len() >= LONG_ANSWER_WORDS,
            short: is_short.then(whole),
        }
    }

    /// Whether a record that resembles this one, of `other`, says the same. Long answers resemble each other by the
    /// words that they share; a short one must be equal, since one word of it may be the whole fact.
    pub(crate) fn is_repeated_by(&self, other: &Self) -> bool {
        let have_long_answers = self.has_long_answer && other.has_long_answer;
        self.short == other.short && self.figures == other.figures && (self.answer == other.answer || have_long_answers)
    }
}

/// For each record, which earlier one it repeats.
#[must_use]
pub fn find(records: &[Record], near_permille: u16) -> Vec<Option<Duplicate>> {
    let mut index = NearIndex::new(near_permille);
    records.iter().map(|record| index.insert(record)).collect()
}

/// The shared part of two records' shingles, estimated, in thousandths.
#[must_use]
pub fn similarity(left: &Record, right: &Record) -> u16 {
    let of = |record: &Record| signature(&format!("{}\n{}", record.prompt, record.completion));
    similarity_permille(&of(left), &of(right))
}

fn similarity_permille(left: &Signature, right: &Signature) -> u16 {
    let equal = left.iter().zip(right).filter(|(left, right)| left == right).count();
    u16::try_from(equal * 1000 / SIGNATURE).unwrap_or(1000)
}

/// Odd factors and offsets of the hash functions, drawn once and for all from BLAKE3's output stream.
static FUNCTIONS: LazyLock<Vec<(u64, u64)>> = LazyLock::new(|| {
    let mut stream = blake3::Hasher::new_derive_key("tributary 2026 minhash functions v1").finalize_xof();
    let mut draw = || {
        let mut bytes = [0; 8];
        stream.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    };
    (0..SIGNATURE).map(|_| (draw() | 1, draw())).collect()
});

/// The smallest value of each hash function over the text's shingles.
fn signature(text: &str) -> Signature {
    let mut smallest = [u32::MAX; SIGNATURE];
    for shingle in shingles(text) {
        for (least, (factor, offset)) in smallest.iter_mut().zip(FUNCTIONS.iter()) {
            let value = high_half(shingle.wrapping_mul(*factor).wrapping_add(*offset));
            *least = value.min(*least);
        }
    }
    smallest
}

const fn high_half(value: u64) -> u32 {
    (value >> 32) as u32
}

/// The hashes of the text's shingles: runs of words, or of characters where there are few words. Case, punctuation
/// and spacing don't count.
fn shingles(text: &str) -> Vec<u64> {
    let lower = text.to_lowercase();
    let words: Vec<&str> = words(&lower).collect();
    if words.len() >= FEW_WORDS {
        let runs = words.windows(SHINGLE_WORDS).take(MAX_SHINGLES);
        return runs.map(|run| shingle_hash(run.join(" ").as_bytes())).collect();
    }
    let chars: Vec<char> = words.join(" ").chars().collect();
    if chars.len() < SHINGLE_CHARS {
        return vec![shingle_hash(chars.iter().collect::<String>().as_bytes())];
    }
    let runs = chars.windows(SHINGLE_CHARS).take(MAX_SHINGLES);
    runs.map(|run| shingle_hash(run.iter().collect::<String>().as_bytes())).collect()
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty())
}

fn shingle_hash(bytes: &[u8]) -> u64 {
    let hash = blake3::hash(bytes);
    u64::from_le_bytes(*hash.as_bytes().first_chunk().expect("invariant: a hash has more than 8 bytes"))
}

fn bucket_keys(signature: &Signature) -> Vec<(u8, u64)> {
    let key = |(band, values): (u8, &[u32])| {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        (band, shingle_hash(&bytes))
    };
    (0_u8..).zip(signature.chunks(BAND)).map(key).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop, prop_assert, prop_assert_eq, proptest};
    use tributary_protocol::id::AccountId;

    use super::{NEAR_PERMILLE, NearIndex, find, similarity};
    use crate::shard::Record;

    fn record(prompt: &str, completion: &str) -> Record {
        Record::new(prompt.to_owned(), completion.to_owned(), AccountId([1; 32]), "CC0-1.0".to_owned())
    }

    const LONG: &str = "The harbour of Velmora lies where the river Osk meets the grey sea, and every spring the fishing \
                        fleet leaves it in a long line while the bells of the old lighthouse ring for an hour.";

    #[test]
    fn an_equal_record_is_exact_whoever_sends_it() {
        let first = record("q", LONG);
        let mut copy = first.clone();
        copy.contributor = AccountId([2; 32]);
        let found = find(&[first.clone(), copy], NEAR_PERMILLE);
        assert_eq!(found[0], None);
        let duplicate = found[1].unwrap();
        assert!(duplicate.exact && duplicate.of == first.id && duplicate.similarity_permille == 1000);
    }

    #[test]
    fn case_and_punctuation_do_not_hide_a_copy() {
        let copy = LONG.to_uppercase().replace(',', " ;");
        let duplicate = find(&[record("", LONG), record("", &copy)], NEAR_PERMILLE)[1].unwrap();
        assert!(!duplicate.exact);
        assert_eq!(duplicate.similarity_permille, 1000);
    }

    #[test]
    fn one_changed_word_is_near_and_another_text_is_not() {
        let edited = LONG.replace("grey", "green");
        let other =
            "A recipe for barley soup asks for two onions, a carrot, some thyme and a whole afternoon of slow heat.";
        let found = find(&[record("", LONG), record("", &edited), record("", other)], NEAR_PERMILLE);
        let near = found[1].unwrap();
        assert!((NEAR_PERMILLE..1000).contains(&near.similarity_permille), "{near:?}");
        assert_eq!(found[2], None);
    }

    #[test]
    fn short_texts_with_other_numbers_stay_apart() {
        let found = find(&[record("2 + 2", "4"), record("2 + 3", "5"), record("Hi", ""), record("Ho", "")], 800);
        assert!(found.iter().all(Option::is_none), "{found:?}");
    }

    #[test]
    fn a_signature_never_changes() {
        // Peers compare what they found, so these values are part of the format.
        let first: Vec<u32> = super::signature(LONG)[..3].to_vec();
        assert_eq!(first, GOLDEN);
    }

    const GOLDEN: [u32; 3] = [100_964_513, 327_718_723, 80_565_541];

    #[test]
    fn a_flood_of_near_copies_stays_bounded() {
        let mut index = NearIndex::new(1001);
        for number in 0..200 {
            index.insert(&record(&format!("{number}"), LONG));
        }
        assert!(index.buckets.values().all(|bucket| bucket.len() <= super::MAX_BUCKET));
        assert_eq!(index.len(), 200);
    }

    proptest! {
        #[test]
        fn every_record_is_an_original_or_repeats_an_earlier_one(texts in prop::collection::vec(".{0,60}", 1..30)) {
            let records: Vec<Record> = texts.iter().map(|text| record("", text)).collect();
            let found = find(&records, NEAR_PERMILLE);
            prop_assert_eq!(&found, &find(&records, NEAR_PERMILLE));
            for (place, duplicate) in found.iter().enumerate() {
                let earlier = records[..place].iter().position(|earlier| earlier.id == records[place].id);
                match duplicate {
                    Some(duplicate) => prop_assert!(records[..place].iter().any(|earlier| earlier.id == duplicate.of)),
                    None => prop_assert_eq!(earlier, None),
                }
            }
        }

        #[test]
        fn similarity_is_whole_with_itself_and_the_same_both_ways(left in ".{0,80}", right in ".{0,80}") {
            let (left, right) = (record("", &left), record("", &right));
            prop_assert_eq!(similarity(&left, &left), 1000);
            prop_assert_eq!(similarity(&left, &right), similarity(&right, &left));
        }
    }
}
