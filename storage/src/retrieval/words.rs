//! The index of words: BM25 over the texts of all records.

use std::path::Path;

use tantivy::collector::TopDocs;
use tantivy::query::{BooleanQuery, Query, TermQuery};
use tantivy::schema::{
    Field, INDEXED, IndexRecordOption, STORED, Schema, TextFieldIndexing, TextOptions, Value, document::TantivyDocument,
};
use tantivy::{Index, IndexReader, IndexWriter, ReloadPolicy, Searcher, Term};
use tributary_protocol::limits::PASSAGE_MAX_BYTES;
use tributary_protocol::retrieval::Passage;
use tributary_protocol::wire;

use super::{MAX_PASSAGES, MAX_QUERY_WORDS, MAX_TEXT_BYTES, RetrievalError};

/// Memory that tantivy may take while it makes an index; fifteen megabytes are the least it works with.
const WRITER_BYTES: usize = 64 << 20;
/// Bytes of a stored record: its text, its id and its numbers.
const STORED_MAX_BYTES: usize = PASSAGE_MAX_BYTES + 256;
/// Bytes of the sum behind it: a worker signs what stands there, and a changed letter would convict it.
const SUM_BYTES: usize = 32;
/// tantivy's own name of the analyser that takes words apart at what is no letter or figure, in lower case, for any language.
const ANALYSER: &str = "default";

struct Fields {
    place: Field,
    passage: Field,
    text: Field,
}

fn schema() -> (Schema, Fields) {
    let mut builder = Schema::builder();
    let words = TextFieldIndexing::default().set_tokenizer(ANALYSER).set_index_option(IndexRecordOption::WithFreqs);
    let fields = Fields {
        place: builder.add_u64_field("place", INDEXED | STORED),
        passage: builder.add_bytes_field("passage", STORED),
        text: builder.add_text_field("text", TextOptions::default().set_indexing_options(words)),
    };
    (builder.build(), fields)
}

/// An index of records by their words, in a folder of its own.
pub struct WordIndex {
    index: Index,
    reader: IndexReader,
    fields: Fields,
}

impl std::fmt::Debug for WordIndex {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("WordIndex").field("records", &self.len()).finish_non_exhaustive()
    }
}

impl WordIndex {
    /// Makes the index of `passages` in `folder`, which appears when it is whole; what was there goes.
    ///
    /// # Errors
    /// When there are too many, or the disk fails.
    pub fn build(folder: &Path, passages: &[Passage]) -> Result<Self, RetrievalError> {
        if passages.len() > MAX_PASSAGES {
            return Err(RetrievalError::TooMany { most: MAX_PASSAGES, what: "records" });
        }
        if passages.iter().map(|one| one.prompt.len() + one.completion.len()).sum::<usize>() > MAX_TEXT_BYTES {
            return Err(RetrievalError::TooMany { most: MAX_TEXT_BYTES, what: "bytes of text" });
        }
        let unfinished = folder.with_extension("part");
        for old in [&unfinished, &folder.to_owned()] {
            if old.exists() {
                std::fs::remove_dir_all(old).map_err(RetrievalError::io(old))?;
            }
        }
        std::fs::create_dir_all(&unfinished).map_err(RetrievalError::io(&unfinished))?;
        write(&unfinished, passages)?;
        std::fs::rename(&unfinished, folder).map_err(RetrievalError::io(folder))?;
        Self::open(folder)
    }

    /// Opens an index. The folder is the node's own; each record has a sum of its own, which is held against it when it is read.
    ///
    /// # Errors
    /// When there is none, or it is another one.
    pub fn open(folder: &Path) -> Result<Self, RetrievalError> {
        let index = Index::open_in_dir(folder).map_err(|error| RetrievalError::malformed(folder, error.to_string()))?;
        let (schema, fields) = schema();
        if index.schema() != schema {
            return Err(RetrievalError::malformed(folder, "it has other fields"));
        }
        let reader = index.reader_builder().reload_policy(ReloadPolicy::Manual).try_into()?;
        Ok(Self { index, reader, fields })
    }

    fn searcher(&self) -> Searcher {
        self.reader.searcher()
    }

    /// How many records it has.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::try_from(self.searcher().num_docs()).unwrap_or(usize::MAX)
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The places of at most `most` records that share words with `question`, the likeliest first, by BM25.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn search(&self, question: &str, most: usize) -> Result<Vec<u32>, RetrievalError> {
        let terms = self.terms(question)?;
        if terms.is_empty() || most == 0 {
            return Ok(Vec::new());
        }
        let searcher = self.searcher();
        let query = |term| Box::new(TermQuery::new(term, IndexRecordOption::WithFreqs)) as Box<dyn Query>;
        let query = BooleanQuery::union(terms.into_iter().map(query).collect());
        let found = searcher.search(&query, &TopDocs::with_limit(most).order_by_score())?;
        let mut ranked = Vec::with_capacity(found.len());
        for (score, address) in found {
            let document: TantivyDocument = searcher.doc(address)?;
            let place = document.get_first(self.fields.place).and_then(|value| value.as_u64());
            ranked.extend(place.and_then(|place| Some((score, u32::try_from(place).ok()?))));
        }
        ranked.sort_by(|(one, earlier), (other, later)| other.total_cmp(one).then(earlier.cmp(later)));
        Ok(ranked.into_iter().map(|(_, place)| place).collect())
    }

    /// The different words of a question as the index has them.
    fn terms(&self, question: &str) -> Result<Vec<Term>, RetrievalError> {
        let mut analyser = self.index.tokenizer_for_field(self.fields.text)?;
        let mut stream = analyser.token_stream(question);
        let mut terms: Vec<Term> = Vec::new();
        while terms.len() < MAX_QUERY_WORDS && stream.advance() {
            let term = Term::from_field_text(self.fields.text, &stream.token().text);
            if !terms.contains(&term) {
                terms.push(term);
            }
        }
        Ok(terms)
    }

    /// The record at a place.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn passage(&self, place: u32) -> Result<Option<Passage>, RetrievalError> {
        let searcher = self.searcher();
        let term = Term::from_field_u64(self.fields.place, place.into());
        let query = TermQuery::new(term, IndexRecordOption::Basic);
        let found = searcher.search(&query, &TopDocs::with_limit(1).order_by_score())?;
        let Some((_, address)) = found.first() else { return Ok(None) };
        let document: TantivyDocument = searcher.doc(*address)?;
        let bytes = document.get_first(self.fields.passage).and_then(|value| value.as_bytes());
        Ok(bytes.and_then(stored))
    }
}

/// A record as it was stored; none where its bytes have changed since.
fn stored(bytes: &[u8]) -> Option<Passage> {
    let (content, sum) = bytes.split_last_chunk::<SUM_BYTES>()?;
    (blake3::hash(content).as_bytes() == sum).then(|| wire::decode(content, STORED_MAX_BYTES).ok())?
}

fn with_sum(passage: &Passage) -> Vec<u8> {
    let mut bytes = wire::encode(passage);
    let sum = blake3::hash(&bytes);
    bytes.extend(sum.as_bytes());
    bytes
}

fn write(folder: &Path, passages: &[Passage]) -> Result<(), RetrievalError> {
    let (schema, fields) = schema();
    let index = Index::create_in_dir(folder, schema)?;
    let mut writer: IndexWriter = index.writer_with_num_threads(1, WRITER_BYTES)?;
    for (place, passage) in (0_u64..).zip(passages) {
        let mut document = TantivyDocument::default();
        document.add_u64(fields.place, place);
        document.add_bytes(fields.passage, &with_sum(passage));
        document.add_text(fields.text, passage.text());
        writer.add_document(document)?;
    }
    writer.commit()?;
    Ok(writer.wait_merging_threads()?)
}
