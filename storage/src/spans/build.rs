//! Making an index.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use libsais::SuffixArrayConstruction;
use tributary_protocol::id::Hash;
use tributary_protocol::merkle::Tree;
use tributary_protocol::span::{PAGE_ENTRIES, SEPARATOR, SpanRoots, page_hash, start_hash, words};

use super::file::header;
use super::{MAX_ENTRIES, SpansError};
use crate::shard::Record;

/// The text of a record as an index has it: prompt and completion, the same words as a person reads.
pub trait SpanText {
    /// The record's id.
    fn id(&self) -> Hash;
    /// Its text.
    fn text(&self) -> String;
}

impl SpanText for Record {
    fn id(&self) -> Hash {
        self.id
    }

    fn text(&self) -> String {
        format!("{}\n{}", self.prompt, self.completion)
    }
}

/// The words of all records, and where each record begins.
pub(super) struct Text {
    pub(super) words: Vec<u32>,
    starts: Vec<u32>,
    ids: Vec<Hash>,
}

impl Text {
    pub(super) fn of<R: SpanText>(records: &[R], most: u64) -> Result<Self, SpansError> {
        let most = most.min(MAX_ENTRIES);
        let mut text = Self { words: Vec::new(), starts: Vec::new(), ids: Vec::new() };
        for record in records {
            text.starts.push(position(text.words.len())?);
            text.ids.push(record.id());
            text.words.extend(words(&record.text()).map(|(_, word)| word));
            text.words.push(SEPARATOR);
            if text.words.len() as u64 > most {
                return Err(SpansError::TooLong { most });
            }
        }
        if text.words.is_empty() {
            return Err(SpansError::Empty);
        }
        Ok(text)
    }

    /// Each word once, in order, with the place of the first suffix that begins with it: as many words and separators
    /// are below it as suffixes.
    pub(super) fn vocabulary(&self) -> Result<Vec<(u32, u32)>, SpansError> {
        let mut sorted = self.words.clone();
        sorted.sort_unstable();
        let mut place = 0;
        let mut vocabulary = Vec::new();
        for equal in sorted.chunk_by(u32::eq) {
            if let Some(word) = equal.first().filter(|word| **word != SEPARATOR) {
                vocabulary.push((*word, position(place)?));
            }
            place += equal.len();
        }
        Ok(vocabulary)
    }

    /// Numbers for the sorter: separators by their place below all words, words by their own order.
    fn ranks(&self, vocabulary: &[(u32, u32)]) -> Result<Vec<i32>, SpansError> {
        let mut separators = 0;
        let rank = |word: &u32| {
            let rank = match vocabulary.binary_search_by_key(word, |(word, _)| *word) {
                Ok(at) => self.starts.len() + at,
                Err(_) => {
                    separators += 1;
                    separators - 1
                }
            };
            i32::try_from(rank).map_err(|_| SpansError::TooLong { most: MAX_ENTRIES })
        };
        self.words.iter().map(rank).collect()
    }
}

fn position(at: usize) -> Result<u32, SpansError> {
    let fits = u64::try_from(at).is_ok_and(|at| at <= MAX_ENTRIES);
    u32::try_from(at).ok().filter(|_| fits).ok_or(SpansError::TooLong { most: MAX_ENTRIES })
}

/// Positions in the order of their suffixes.
pub(super) fn order(text: &Text, vocabulary: &[(u32, u32)]) -> Result<Vec<u32>, SpansError> {
    let mut ranks = text.ranks(vocabulary)?;
    let sorted = SuffixArrayConstruction::for_text_mut(&mut ranks).in_owned_buffer32().single_threaded().run();
    let sorted = sorted.map_err(|error| SpansError::Sort(format!("{error:?}")))?.into_vec();
    sorted.into_iter().map(|at| u32::try_from(at).map_err(|_| SpansError::Sort("a negative position".into()))).collect()
}

/// The place of each position in `order`.
pub(super) fn inverse(order: &[u32]) -> Result<Vec<u32>, SpansError> {
    let mut inverse = vec![0; order.len()];
    for (place, at) in order.iter().enumerate() {
        let entry =
            inverse.get_mut(*at as usize).ok_or_else(|| SpansError::Sort("a position beyond the end".into()))?;
        *entry = position(place)?;
    }
    Ok(inverse)
}

fn pages(entries: &[u32]) -> Tree {
    let page = usize::try_from(PAGE_ENTRIES).unwrap_or(usize::MAX);
    Tree::of(&entries.chunks(page).map(page_hash).collect::<Vec<_>>())
}

/// Makes the index of `shard`, whose records in their order are `records`, as the file `path`, of at most `most` entries;
/// gives what is to be committed. The same records give the same file.
///
/// # Errors
/// When there are no records or too many words, or the disk fails; then there is no file.
pub fn build<R: SpanText>(shard: Hash, records: &[R], most: u64, path: &Path) -> Result<SpanRoots, SpansError> {
    let text = Text::of(records, most)?;
    let vocabulary = text.vocabulary()?;
    let order = order(&text, &vocabulary)?;
    let inverse = inverse(&order)?;
    commit(shard, &text, &vocabulary, [&order, &inverse], path)
}

/// Writes the vocabulary and the lists (order and inverse beside the text) with their trees.
pub(super) fn commit(
    shard: Hash,
    text: &Text,
    vocabulary: &[(u32, u32)],
    [order, inverse]: [&[u32]; 2],
    path: &Path,
) -> Result<SpanRoots, SpansError> {
    let leaves = text.starts.iter().zip(&text.ids).map(|(start, id)| start_hash(u64::from(*start), id));
    let starts = Tree::of(&leaves.collect::<Vec<_>>());
    let trees = [pages(&text.words), pages(order), pages(inverse), starts];
    let roots = SpanRoots {
        shard,
        entries: text.words.len() as u64,
        records: text.starts.len() as u64,
        text: trees[0].root(),
        order: trees[1].root(),
        inverse: trees[2].root(),
        starts: trees[3].root(),
    };
    let draft = path.with_extension("draft");
    let written = write(&draft, &roots, [&text.words, order, inverse, &text.starts], &text.ids, &trees, vocabulary)
        .and_then(|()| std::fs::rename(&draft, path));
    if let Err(error) = written {
        // What is left of it is no index and is written over next time.
        let _ = std::fs::remove_file(&draft);
        return Err(SpansError::io(path, error));
    }
    Ok(roots)
}

fn write(
    path: &Path,
    roots: &SpanRoots,
    lists: [&[u32]; 4],
    ids: &[Hash],
    trees: &[Tree; 4],
    vocabulary: &[(u32, u32)],
) -> std::io::Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    file.write_all(&header(roots, vocabulary.len() as u64))?;
    for entry in lists.into_iter().flatten() {
        file.write_all(&entry.to_le_bytes())?;
    }
    for hash in ids.iter().chain(trees.iter().flat_map(Tree::nodes)) {
        file.write_all(&hash.0)?;
    }
    for (word, place) in vocabulary {
        file.write_all(&word.to_le_bytes())?;
        file.write_all(&place.to_le_bytes())?;
    }
    file.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()
}
