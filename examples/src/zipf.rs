//! Texts of any length from a seed: words by Zipf's law, phrases that come again, answers with pieces of records.
//!
//! Invariant: a record is a function of the seed, its shard and its number, so pieces are cut from it without keeping it.

/// Different words.
const VOCABULARY: u64 = 200_000;
/// Phrases that come again, by Zipf's law as well.
const PHRASES: u64 = 20_000;
/// Words of a phrase: at least, and of how many lengths.
const PHRASE_WORDS: (u64, u64) = (6, 25);
/// One in this many words begins a phrase.
const WORDS_PER_PHRASE: u64 = 60;
/// Words of records and answers: at least, and of how many lengths.
const TEXT_WORDS: (u64, u64) = (200, 201);
/// Pieces of records in an answer.
pub const PIECES: usize = 4;
/// Words of a piece.
pub const WORDS_OF_PIECE: usize = 20;

/// Steele, Lea and Flood's SplitMix64 (OOPSLA 2014): enough for texts that nobody has to guess.
struct Draws(u64);

impl Draws {
    /// Draws for what `keys` name.
    fn of(keys: [u64; 4]) -> Self {
        keys.into_iter().fold(Self(0), |mut draws, key| Self(draws.next() ^ key))
    }

    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    const fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    const fn length(&mut self, (least, lengths): (u64, u64)) -> u64 {
        least + self.below(lengths)
    }
}

/// Numbers of which each is as frequent as its place in the list says, by Zipf's law with exponent 1.
struct Zipf {
    sums: Vec<u64>,
}

impl Zipf {
    fn over(numbers: u64) -> Self {
        let sums = (1..=numbers).scan(0, |sum, place| {
            *sum += (1_u64 << 40) / place;
            Some(*sum)
        });
        Self { sums: sums.collect() }
    }

    fn draw(&self, draws: &mut Draws) -> usize {
        let at = draws.below(self.sums.last().copied().unwrap_or(1));
        self.sums.partition_point(|sum| *sum <= at)
    }
}

/// All texts of a seed. A word is known by its number, the more frequent the smaller.
pub struct Texts {
    seed: u64,
    vocabulary: Vec<String>,
    words: Zipf,
    phrases: Vec<Vec<usize>>,
    phrase: Zipf,
}

impl Texts {
    /// Those of `seed`.
    pub fn new(seed: u64) -> Self {
        let words = Zipf::over(VOCABULARY);
        let mut draws = Draws::of([seed, 1, 0, 0]);
        let mut phrase = || (0..draws.length(PHRASE_WORDS)).map(|_| words.draw(&mut draws)).collect();
        let phrases = (0..PHRASES).map(|_| phrase()).collect();
        Self { seed, vocabulary: (0..VOCABULARY).map(spelt).collect(), words, phrases, phrase: Zipf::over(PHRASES) }
    }

    /// The words of record `number` of a shard.
    pub fn record(&self, shard: u64, number: u64) -> Vec<usize> {
        self.written(&mut Draws::of([self.seed, 2, shard, number]))
    }

    /// The words of answer `number` with the places of pieces that stand in records, of which each shard has as many as
    /// `records` says.
    pub fn answer(&self, records: &[u64], number: u64) -> (Vec<usize>, Vec<usize>) {
        let mut draws = Draws::of([self.seed, 3, number, 0]);
        let mut words = self.written(&mut draws);
        let part = words.len() / PIECES;
        let mut places = Vec::new();
        for piece in 0..PIECES {
            let (shard, own) = self.any_record(records, &mut draws);
            let from = self.record(shard, own);
            let begin = place(&mut draws, from.len());
            let to = piece * part + place(&mut draws, part);
            words[to..to + WORDS_OF_PIECE].copy_from_slice(&from[begin..begin + WORDS_OF_PIECE]);
            places.push(to);
        }
        (words, places)
    }

    fn any_record(&self, records: &[u64], draws: &mut Draws) -> (u64, u64) {
        let shard = draws.below(records.len().max(1) as u64);
        let own = usize::try_from(shard).ok().and_then(|shard| records.get(shard)).copied().unwrap_or(1);
        (shard, draws.below(own.max(1)))
    }

    fn written(&self, draws: &mut Draws) -> Vec<usize> {
        let length = usize::try_from(draws.length(TEXT_WORDS)).unwrap_or(usize::MAX);
        let mut words = Vec::new();
        while words.len() < length {
            if draws.below(WORDS_PER_PHRASE) == 0 {
                words.extend(&self.phrases[self.phrase.draw(draws)]);
            } else {
                words.push(self.words.draw(draws));
            }
        }
        words.truncate(length);
        words
    }

    /// Words as text.
    pub fn text(&self, words: &[usize]) -> String {
        words.iter().map(|word| self.vocabulary[*word].as_str()).collect::<Vec<_>>().join(" ")
    }
}

/// Where a piece begins in `words` words.
fn place(draws: &mut Draws, words: usize) -> usize {
    let places = words.saturating_sub(WORDS_OF_PIECE).max(1);
    usize::try_from(draws.below(places as u64)).unwrap_or(0)
}

/// A word of its own for each number, the shorter the smaller: a syllable for each two digits.
fn spelt(number: u64) -> String {
    let syllable = |digits: u64| {
        let letter = |letters: &str, at: u64| letters.chars().nth(usize::try_from(at).unwrap_or(0)).unwrap_or('y');
        [letter("bcdfghjklmnpqrstvwxz", digits / 5), letter("aeiou", digits % 5)]
    };
    let mut word = syllable(number % 100).to_vec();
    let mut rest = number / 100;
    while rest > 0 {
        word.splice(0..0, syllable(rest % 100));
        rest /= 100;
    }
    word.into_iter().collect()
}
