//! The index of embeddings: a graph over directions, and the file that the vectors are kept in.

use std::io::{BufWriter, Read, Write};
use std::path::Path;

use hnsw_rs::prelude::{DistL2, Hnsw};
use tributary_protocol::id::Hash;

use super::{MAX_DIMENSIONS, MAX_VECTOR_BYTES, MAX_VECTORS, RetrievalError};

/// What a file of vectors begins with.
const MAGIC: [u8; 8] = *b"tribvec1";
/// Bytes before the vectors: the beginning, what they are of, how many, of how many numbers.
const HEADER_BYTES: usize = MAGIC.len() + 32 + 4 + 4;
/// Neighbours of a node of the graph, as the paper advises for hundreds of dimensions.
const NEIGHBOURS: usize = 24;
/// Candidates that are looked at for each when it is made.
const BUILD_BREADTH: usize = 200;
/// Candidates at least that are looked at in a search.
const SEARCH_BREADTH: usize = 128;
/// Levels of the graph: enough for more vectors than an index holds.
const LEVELS: usize = 16;

/// Vectors by direction, in memory: of length one, distances order them as angles do.
pub struct VectorIndex {
    graph: Hnsw<'static, f32, DistL2>,
    dimensions: usize,
}

impl std::fmt::Debug for VectorIndex {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (vectors, dimensions) = (self.graph.get_nb_point(), self.dimensions);
        formatter.debug_struct("VectorIndex").field("vectors", &vectors).field("dimensions", &dimensions).finish()
    }
}

/// The vector's direction: of length one, or none where it says none.
fn direction(vector: &[f32]) -> Option<Vec<f32>> {
    let length = vector.iter().map(|number| f64::from(*number).powi(2)).sum::<f64>().sqrt();
    if !length.is_finite() || length <= f64::MIN_POSITIVE {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, reason = "a part of a whole, rounded to the number it is kept in")]
    let unit = |number: &f32| (f64::from(*number) / length) as f32;
    Some(vector.iter().map(unit).collect())
}

fn check(count: usize, dimensions: usize) -> Result<(), RetrievalError> {
    if count > MAX_VECTORS {
        return Err(RetrievalError::TooMany { most: MAX_VECTORS, what: "vectors" });
    }
    if dimensions > MAX_DIMENSIONS || count.saturating_mul(dimensions).saturating_mul(4) > MAX_VECTOR_BYTES {
        return Err(RetrievalError::TooMany { most: MAX_VECTOR_BYTES, what: "bytes of vectors" });
    }
    Ok(())
}

impl VectorIndex {
    /// The index of `vectors`, named by their places; an empty one has no embedding and is not found.
    ///
    /// # Errors
    /// When there are too many, or one is not like the others.
    pub fn build(vectors: &[Vec<f32>]) -> Result<Self, RetrievalError> {
        let dimensions = vectors.iter().map(Vec::len).find(|length| *length > 0).unwrap_or(0);
        check(vectors.len(), dimensions)?;
        let graph = Hnsw::new(NEIGHBOURS, vectors.len().max(1), LEVELS, BUILD_BREADTH, DistL2);
        for (place, vector) in vectors.iter().enumerate().filter(|(_, vector)| !vector.is_empty()) {
            let unit = direction(vector).filter(|unit| unit.len() == dimensions);
            let unit = unit.ok_or(RetrievalError::Vector { place, dimensions })?;
            graph.insert((&unit, place));
        }
        Ok(Self { graph, dimensions })
    }

    /// The places of about `most` vectors of nearly the direction of `question`, nearest first; nothing where it has
    /// another length, or says no direction.
    #[must_use]
    pub fn search(&self, question: &[f32], most: usize) -> Vec<u32> {
        let unit = direction(question).filter(|unit| unit.len() == self.dimensions);
        let Some(unit) = unit.filter(|_| most > 0 && self.graph.get_nb_point() > 0) else { return Vec::new() };
        let mut found = self.graph.search(&unit, most, SEARCH_BREADTH.max(most));
        found.sort_by(|one, other| one.distance.total_cmp(&other.distance).then(one.d_id.cmp(&other.d_id)));
        found.into_iter().filter_map(|near| u32::try_from(near.d_id).ok()).collect()
    }
}

/// Writes vectors of `what` to a file that appears when it is whole.
///
/// # Errors
/// When there are too many, they have several lengths, or the disk fails.
pub fn write_vectors(path: &Path, what: &Hash, vectors: &[Vec<f32>]) -> Result<(), RetrievalError> {
    let dimensions = vectors.iter().map(Vec::len).find(|length| *length > 0).unwrap_or(0);
    check(vectors.len(), dimensions)?;
    if let Some(place) = vectors.iter().position(|vector| !vector.is_empty() && vector.len() != dimensions) {
        return Err(RetrievalError::Vector { place, dimensions });
    }
    let unfinished = path.with_extension("part");
    write(&unfinished, what, vectors, dimensions).map_err(RetrievalError::io(&unfinished))?;
    std::fs::rename(&unfinished, path).map_err(RetrievalError::io(path))
}

fn write(path: &Path, what: &Hash, vectors: &[Vec<f32>], dimensions: usize) -> std::io::Result<()> {
    let mut file = BufWriter::new(std::fs::File::create(path)?);
    file.write_all(&MAGIC)?;
    file.write_all(&what.0)?;
    for count in [vectors.len(), dimensions] {
        file.write_all(&u32::try_from(count).map_err(std::io::Error::other)?.to_le_bytes())?;
    }
    let none = vec![0.0; dimensions];
    for vector in vectors {
        let numbers = if vector.is_empty() { &none } else { vector };
        numbers.iter().try_for_each(|number| file.write_all(&number.to_le_bytes()))?;
    }
    file.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()
}

/// The vectors of `what` in a file; one of zeros alone is empty.
///
/// # Errors
/// When the file is of something else, or not whole.
pub fn read_vectors(path: &Path, what: &Hash) -> Result<Vec<Vec<f32>>, RetrievalError> {
    let mut file = std::fs::File::open(path).map_err(RetrievalError::io(path))?;
    let mut header = [0; HEADER_BYTES];
    file.read_exact(&mut header).map_err(RetrievalError::io(path))?;
    let (magic, rest) = header.split_at(MAGIC.len());
    let (of, counts) = rest.split_at(32);
    if magic != MAGIC || of != what.0 {
        return Err(RetrievalError::malformed(path, "it begins otherwise"));
    }
    let number = |bytes: &[u8]| {
        let four = bytes.first_chunk::<4>().map_or(0, |four| u32::from_le_bytes(*four));
        usize::try_from(four).unwrap_or(usize::MAX)
    };
    let (count, dimensions) = (number(counts), number(&counts[4..]));
    check(count, dimensions)?;
    let length = file.metadata().map_err(RetrievalError::io(path))?.len();
    if length != (HEADER_BYTES + count * dimensions * 4) as u64 {
        return Err(RetrievalError::malformed(path, "its length is wrong"));
    }
    let mut bytes = Vec::with_capacity(count * dimensions * 4);
    file.read_to_end(&mut bytes).map_err(RetrievalError::io(path))?;
    let numbers: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four)).collect();
    let vector = |place: usize| {
        let own = numbers.get(place * dimensions..(place + 1) * dimensions).unwrap_or_default();
        if own.iter().all(|number| *number == 0.0) { Vec::new() } else { own.to_vec() }
    };
    Ok((0..count).map(vector).collect())
}
