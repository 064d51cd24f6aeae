//! Measures span indexes: how long they take to make, what they take of the disk, how long an answer's verbatim spans are
//! looked for, and how large the proof of one is.
//!
//! `cargo run --release -p tributary-examples --example measure_spans -- --folder /tmp/spans --words 1000000`
//!
//! The records are made from a seed: words by Zipf's law, phrases that come again. An answer is made like a record, with
//! pieces of four records in it. Indexes that the folder already has of the same records are not made again.
//!
//! Invariant: records, indexes, answers and what is found are a function of the options; only times differ.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rustix::fs::{Advice, fadvise};
use tributary_examples::option;
use tributary_examples::zipf::{PIECES, Texts, WORDS_OF_PIECE};
use tributary_protocol::id::{AccountId, Hash};
use tributary_protocol::span::{self, Span};
use tributary_protocol::wire;
use tributary_storage::shard::Record;
use tributary_storage::spans::{MAX_ENTRIES, SpanIndex, build, spans_in};

/// Words of a shard at most: with their separators about as many as a node makes an index of (2^25 entries).
const SHARD_WORDS: u64 = 33_000_000;
/// Answers that are looked for with no file in memory: each of them reads anew.
const EVICTED_ANSWERS: usize = 10;

fn main() -> Result<()> {
    let folder = option("--folder", std::env::temp_dir().join("tributary-spans"))?;
    let (seed, words) = (option("--seed", 1_u64)?, option("--words", 1_000_000_u64)?);
    let shards = words.div_ceil(SHARD_WORDS).max(1);
    let texts = Texts::new(seed);
    std::fs::create_dir_all(&folder)?;
    let shards = (0..shards).map(|number| Shard::of(seed, number, words.div_ceil(shards), &folder));
    let shards: Vec<Shard> = shards.collect();
    let built: Vec<Option<Built>> = shards.iter().map(|shard| shard.build(&texts)).collect::<Result<_>>()?;
    let indexes = open(&shards)?;
    println!("| | |\n|---|---|");
    print_sizes(&shards, &indexes)?;
    print_times(&built);
    let records: Vec<u64> = indexes.iter().map(|index| index.roots().records).collect();
    let answers = (0..option("--answers", 50_u64)?).map(|number| Answer::of(&texts, &records, number));
    let answers: Vec<Answer> = answers.collect();
    drop(indexes);
    measure(&shards, &answers)
}

/// A shard's index.
struct Shard {
    number: u64,
    words: u64,
    /// The hash of what its records are made from, in place of that of a shard's file.
    hash: Hash,
    path: PathBuf,
}

/// How long making records and index took.
struct Built {
    records: Duration,
    index: Duration,
}

impl Shard {
    fn of(seed: u64, number: u64, words: u64, folder: &Path) -> Self {
        let hash = Hash::of(&wire::encode(&(seed, number, words)));
        Self { number, words, hash, path: folder.join(format!("{hash}.spans")) }
    }

    /// Makes the index where it isn't there.
    fn build(&self, texts: &Texts) -> Result<Option<Built>> {
        if SpanIndex::open(&self.hash, &self.path).is_ok() {
            return Ok(None);
        }
        let start = Instant::now();
        let records = self.records(texts);
        let made = start.elapsed();
        build(self.hash, &records, MAX_ENTRIES, &self.path)?;
        let built = Built { records: made, index: start.elapsed() - made };
        let seconds = (built.records.as_secs_f64(), built.index.as_secs_f64());
        eprintln!(
            "shard {}: {} records in {:.1} s, index in {:.1} s",
            self.number,
            records.len(),
            seconds.0,
            seconds.1
        );
        Ok(Some(built))
    }

    fn records(&self, texts: &Texts) -> Vec<Record> {
        let (mut records, mut words) = (Vec::new(), 0);
        for number in 0.. {
            if words >= self.words {
                break;
            }
            let own = texts.record(self.number, number);
            words += own.len() as u64;
            let text = texts.text(&own);
            records.push(Record::new(String::new(), text, AccountId([1; 32]), "CC0-1.0".into()));
        }
        records
    }

    /// Has the system forget what it keeps of the file in memory; without effect while it is mapped.
    fn evict(&self) -> Result<()> {
        Ok(fadvise(File::open(&self.path)?, 0, None, Advice::DontNeed)?)
    }
}

fn open(shards: &[Shard]) -> Result<Vec<SpanIndex>> {
    Ok(shards.iter().map(|shard| SpanIndex::open(&shard.hash, &shard.path)).collect::<Result<_, _>>()?)
}

/// An answer's words and where the pieces of records begin in it.
struct Answer {
    words: Vec<u32>,
    pieces: Vec<usize>,
}

impl Answer {
    fn of(texts: &Texts, records: &[u64], number: u64) -> Self {
        let (words, pieces) = texts.answer(records, number);
        Self { words: span::words(&texts.text(&words)).map(|(_, word)| word).collect(), pieces }
    }

    /// How many of the pieces a span covers.
    fn covered(&self, spans: &[(Span, usize)]) -> usize {
        let covers =
            |piece: u64, span: &Span| span.begin <= piece && span.begin + span.words >= piece + WORDS_OF_PIECE as u64;
        self.pieces.iter().filter(|piece| spans.iter().any(|(span, _)| covers(**piece as u64, span))).count()
    }
}

/// Looks for the answers with the files out of memory, in memory, and mapped by an earlier search.
fn measure(shards: &[Shard], answers: &[Answer]) -> Result<()> {
    let opened = |answer: &Answer| Ok(spans_in(&refs(&open(shards)?), &answer.words));
    let evict = || shards.iter().try_for_each(Shard::evict);
    let few = &answers[..answers.len().min(EVICTED_ANSWERS)];
    pass("files out of memory", few, evict, opened)?;
    pass("files in memory as far as earlier rows read them", answers, || Ok(()), opened)?;
    pass("the same again", answers, || Ok(()), opened)?;
    let indexes = open(shards)?;
    let indexes = refs(&indexes);
    let kept = |answer: &Answer| Ok(spans_in(&indexes, &answer.words));
    pass("files kept open", answers, || Ok(()), kept)?;
    let found = pass("the same again", answers, || Ok(()), kept)?;
    let covered: usize = found.iter().zip(answers).map(|(spans, answer)| answer.covered(spans)).sum();
    let (spans, pieces) = (found.iter().map(Vec::len).sum::<usize>(), answers.len() * PIECES);
    println!("| spans found | {spans}; {covered} of {pieces} pieces of records |");
    print_proofs(&indexes, found.iter().zip(answers))
}

/// Searches for each answer, prepared by `prepare`, and prints how long it took.
fn pass<T>(
    what: &str,
    answers: &[Answer],
    prepare: impl Fn() -> Result<()>,
    search: impl Fn(&Answer) -> Result<T>,
) -> Result<Vec<T>> {
    let (mut times, mut processor, mut found) = (Vec::new(), Some(0.0), Vec::new());
    for answer in answers {
        prepare()?;
        let before = processor_ms();
        let (time, own) = timed(|| search(answer))?;
        times.push(time.as_secs_f64() * 1e3);
        processor = processor.and_then(|sum| Some(sum + processor_ms()? - before?));
        found.push(own);
    }
    let (count, (median, most)) = (answers.len(), median_and_most(times));
    let processor = processor.map_or("not known".into(), |sum| format!("{:.1}", sum / count as f64));
    println!(
        "| {what}: {count} answers, ms, median and most; processor's, mean | {median:.1}, {most:.1}; {processor} |"
    );
    Ok(found)
}

/// What all threads of this process have computed, in steps of 10 ms (proc(5), `/proc/pid/stat`), where the system says it:
/// on a machine with other work a search takes longer than it computes.
fn processor_ms() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) * 10.0)
}

fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(Duration, T)> {
    let start = Instant::now();
    let result = work()?;
    Ok((start.elapsed(), result))
}

fn refs(indexes: &[SpanIndex]) -> Vec<&SpanIndex> {
    indexes.iter().collect()
}

fn print_sizes(shards: &[Shard], indexes: &[SpanIndex]) -> Result<()> {
    let (mut bytes, mut entries, mut records) = (0, 0, 0);
    for (shard, index) in shards.iter().zip(indexes) {
        bytes += std::fs::metadata(&shard.path)?.len();
        entries += index.roots().entries;
        records += index.roots().records;
    }
    let words = entries - records;
    println!("| words, records, shards | {words}, {records}, {} |", shards.len());
    println!("| bytes on disk, of a word | {bytes}, {:.2} |", bytes as f64 / words as f64);
    Ok(())
}

fn print_times(built: &[Option<Built>]) {
    let built: Vec<&Built> = built.iter().flatten().collect();
    let seconds = |time: fn(&Built) -> Duration| built.iter().map(|built| time(built)).sum::<Duration>().as_secs_f64();
    let (records, index) = (seconds(|built| built.records), seconds(|built| built.index));
    println!("| made: shards, s of their records, s of their indexes | {}, {records:.1}, {index:.1} |", built.len());
}

/// Proves each answer's most improbable span and has the proof checked against the roots alone.
fn print_proofs<'a>(
    indexes: &[&SpanIndex],
    found: impl Iterator<Item = (&'a Vec<(Span, usize)>, &'a Answer)>,
) -> Result<()> {
    let (mut bytes, mut proving, mut checking) = (Vec::new(), Vec::new(), Vec::new());
    for (spans, answer) in found {
        let Some((span, number)) = spans.first() else { continue };
        let (index, text) = (indexes[*number], &answer.words[usize::try_from(span.begin)?..]);
        let (time, proof) = timed(|| Ok(index.prove(text)))?;
        proving.push(time.as_secs_f64() * 1e6);
        bytes.push(wire::encode(&proof).len() as f64);
        let (time, longest) = timed(|| Ok(span::longest(index.roots(), text, &proof)?))?;
        checking.push(time.as_secs_f64() * 1e6);
        ensure!((longest.words, longest.at) == (span.words, span.at), "the proof shows another match");
    }
    let (proofs, (median, most)) = (bytes.len(), median_and_most(bytes));
    println!("| proof of a longest match: {proofs}, bytes, median and most | {median:.0}, {most:.0} |");
    for (what, times) in [("made", proving), ("checked", checking)] {
        let (median, most) = median_and_most(times);
        println!("| proof {what} in µs, median and most | {median:.0}, {most:.0} |");
    }
    Ok(())
}

fn median_and_most(mut values: Vec<f64>) -> (f64, f64) {
    values.sort_by(f64::total_cmp);
    (values.get(values.len() / 2).copied().unwrap_or(0.0), values.last().copied().unwrap_or(0.0))
}
