//! What a worker retrieves for a question: records of the version that a model was trained on, by words and by embeddings.
//!
//! For each such version an index of words is made when it is first asked for, and stays in the node's folder; embeddings
//! by the model's base follow in the background, also into a file there, for versions of up to [`EMBEDDED_MAX`] records.
//! Until they stand, words alone decide. All of it can be deleted at any time.
//!
//! Invariant: the records of a pool follow from the release alone, near copies left out as in training; which of them are
//! retrieved is the worker's own finding, and what they explain is measured.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use tributary_protocol::id::{AccountId, Hash};
use tributary_protocol::message::Release;
use tributary_protocol::retrieval::Passage;
use tributary_storage::admission::{Admission, Admitted};
use tributary_storage::retrieval::{RetrievalError, VectorIndex, WordIndex, fuse, read_vectors, write_vectors};

use crate::engine::parent::EngineHandle;
use crate::engine::{Ask, Done};
use crate::lock::locked;

/// Records of a version from which is retrieved: telling near copies apart must not outlast an asker's patience.
pub const POOL_MAX: u64 = 100_000;
/// Records that are embedded: each costs the base a pass, and the node answers others meanwhile.
pub const EMBEDDED_MAX: usize = 4_096;
/// Texts that are embedded at once.
const EMBEDDED_AT_ONCE: usize = 16;
/// Places of each ranking from which the best of both are chosen.
const CANDIDATES: usize = 32;
/// Indexes held open.
const OPEN_MAX: usize = 4;
/// Indexes kept in the folder; the ones made longest ago make room.
const KEPT_MAX: usize = 32;

/// The records that may stand before a question to `release`, of those that were trained: none of a contributor that the
/// release doesn't name, and none that is too long.
#[must_use]
pub fn pool(release: &Release, admission: Admission) -> Vec<Passage> {
    let numbers: BTreeMap<AccountId, u32> =
        release.contributors.iter().map(|contributor| contributor.account).zip(0..).collect();
    let passage = |Admitted { record, account, .. }: Admitted| {
        let contributor = *numbers.get(&account)?;
        let (prompt, completion) = (record.prompt, record.completion);
        Some(Passage { record: record.id, contributor, prompt, completion }).filter(Passage::fits)
    };
    admission.admitted.into_iter().filter_map(passage).collect()
}

/// What the index of a release's pool is called: another list of contributors numbers them otherwise.
#[must_use]
pub fn key_of(release: &Release) -> Hash {
    let parts = [release.head.0, release.contributors_commitment().0, release.base.0].concat();
    Hash(blake3::derive_key("tributary 2026 retrieval pool v2", &parts))
}

/// An open index.
#[derive(Debug)]
pub struct Pool {
    key: Hash,
    words: WordIndex,
    /// The embeddings' index, when it stands.
    vectors: OnceLock<VectorIndex>,
    /// Whether somebody makes it or made it.
    is_embedding: AtomicBool,
    path: PathBuf,
}

/// The indexes of a node.
#[derive(Debug)]
pub struct Retrieval {
    folder: PathBuf,
    open: Mutex<Vec<Arc<Pool>>>,
    /// One index is made at a time: that takes memory by the size of the datanet.
    turn: tokio::sync::Mutex<()>,
}

impl Retrieval {
    /// Indexes in `folder`, which is made when the first one is.
    #[must_use]
    pub fn at(folder: PathBuf) -> Self {
        Self { folder, open: Mutex::default(), turn: tokio::sync::Mutex::new(()) }
    }

    /// The index named `key`, of what `passages` gives where there is none yet.
    ///
    /// # Errors
    /// In words, why there is none.
    pub async fn pool<Passages>(&self, key: Hash, passages: Passages) -> Result<Arc<Pool>, String>
    where
        Passages: Future<Output = Result<Vec<Passage>, String>>,
    {
        let _turn = self.turn.lock().await;
        if let Some(pool) = self.opened(key) {
            return Ok(pool);
        }
        let path = self.folder.join(key.to_string());
        let (there, wanted) = (path.clone(), key);
        let found = blocking(move || open(&there, wanted)).await?;
        let pool = match found {
            Ok(pool) => pool,
            Err(_) => {
                let (passages, folder) = (passages.await?, self.folder.clone());
                blocking(move || make(&folder, &path, key, &passages)).await?.map_err(|error| error.to_string())?
            }
        };
        let pool = Arc::new(pool);
        let mut open = locked(&self.open);
        if open.len() >= OPEN_MAX {
            open.remove(0);
        }
        open.push(Arc::clone(&pool));
        Ok(pool)
    }

    /// The turn of who reads all records of a model.
    pub async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// An index that is open, which is then the one used last.
    fn opened(&self, key: Hash) -> Option<Arc<Pool>> {
        let mut open = locked(&self.open);
        let place = open.iter().position(|pool| pool.key == key)?;
        let pool = open.remove(place);
        open.push(Arc::clone(&pool));
        Some(pool)
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())
}

fn vectors_of(path: &Path) -> PathBuf {
    path.with_extension("vectors")
}

fn open(path: &Path, key: Hash) -> Result<Pool, RetrievalError> {
    let (words, vectors) = (WordIndex::open(path)?, OnceLock::new());
    if let Ok(kept) = read_vectors(&vectors_of(path), &key).and_then(|kept| VectorIndex::build(&kept)) {
        let _ = vectors.set(kept);
    }
    Ok(Pool { key, words, vectors, is_embedding: AtomicBool::new(false), path: path.to_owned() })
}

fn make(folder: &Path, path: &Path, key: Hash, passages: &[Passage]) -> Result<Pool, RetrievalError> {
    let io = |source| RetrievalError::Io { path: folder.to_owned(), source };
    std::fs::create_dir_all(folder).map_err(io)?;
    WordIndex::build(path, passages)?;
    make_room(folder, path).map_err(io)?;
    open(path, key)
}

/// Removes the oldest indexes but `newest` until no more than may be are kept.
fn make_room(folder: &Path, newest: &Path) -> std::io::Result<()> {
    let mut kept = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let (path, about) = entry.and_then(|entry| Ok((entry.path(), entry.metadata()?)))?;
        if about.is_dir() && path != newest {
            kept.push((about.modified()?, path));
        }
    }
    kept.sort();
    let surplus = (kept.len() + 1).saturating_sub(KEPT_MAX);
    for (_, path) in kept.iter().take(surplus) {
        std::fs::remove_dir_all(path)?;
        let _ = std::fs::remove_file(vectors_of(path));
    }
    Ok(())
}

impl Pool {
    /// Whether embeddings decide too.
    #[must_use]
    pub fn is_embedded(&self) -> bool {
        self.vectors.get().is_some()
    }

    /// At most `most` records near `question`, the nearest last; `engine` embeds it by `base`.
    ///
    /// # Errors
    /// In words, when the index is damaged.
    pub async fn nearest(
        self: &Arc<Self>,
        engine: &EngineHandle,
        base: Hash,
        question: &str,
        most: usize,
    ) -> Result<Vec<Passage>, String> {
        let direction = match self.is_embedded() {
            true => embedded(engine, base, vec![question.to_owned()]).await.unwrap_or_default().pop(),
            false => None,
        };
        let (pool, question) = (Arc::clone(self), question.to_owned());
        blocking(move || pool.chosen(&question, direction.as_deref(), most)).await?.map_err(|error| error.to_string())
    }

    fn chosen(&self, question: &str, direction: Option<&[f32]>, most: usize) -> Result<Vec<Passage>, RetrievalError> {
        let mut rankings = vec![self.words.search(question, CANDIDATES)?];
        if let (Some(vectors), Some(direction)) = (self.vectors.get(), direction) {
            rankings.push(vectors.search(direction, CANDIDATES));
        }
        let mut passages = Vec::new();
        for place in fuse(&rankings).into_iter().take(most) {
            passages.extend(self.words.passage(place)?);
        }
        passages.reverse();
        Ok(passages)
    }

    /// Embeds the records in the background, unless that was tried or is too much.
    pub fn embed(self: &Arc<Self>, engine: EngineHandle, base: Hash) {
        let is_wanted = !self.is_embedded() && (1..=EMBEDDED_MAX).contains(&self.words.len());
        if !is_wanted || self.is_embedding.swap(true, Ordering::Relaxed) {
            return;
        }
        let pool = Arc::clone(self);
        tokio::spawn(async move {
            // What failed once is not tried again as long as the pool is open: a record of a stranger may be the reason.
            if let Err(reason) = pool.embed_all(&engine, base).await {
                tracing::warn!(pool = %pool.key.short(), %reason, "records are not embedded; words alone decide");
            }
        });
    }

    async fn embed_all(self: &Arc<Self>, engine: &EngineHandle, base: Hash) -> Result<(), String> {
        let pool = Arc::clone(self);
        let texts = blocking(move || pool.texts()).await?.map_err(|error| error.to_string())?;
        let mut vectors = Vec::with_capacity(texts.len());
        for some in texts.chunks(EMBEDDED_AT_ONCE) {
            if let Ok(found) = embedded(engine, base, some.to_vec()).await {
                vectors.extend(found);
                continue;
            }
            // One that doesn't fit the model's context must not hide the others.
            for text in some {
                let found = embedded(engine, base, vec![text.clone()]).await.unwrap_or_default();
                vectors.push(found.into_iter().next().unwrap_or_default());
            }
        }
        let pool = Arc::clone(self);
        let kept = blocking(move || {
            write_vectors(&vectors_of(&pool.path), &pool.key, &vectors)?;
            let _ = pool.vectors.set(VectorIndex::build(&vectors)?);
            Ok::<_, RetrievalError>(())
        });
        kept.await?.map_err(|error| error.to_string())
    }

    fn texts(&self) -> Result<Vec<String>, RetrievalError> {
        let count = u32::try_from(self.words.len()).unwrap_or(u32::MAX);
        let text = |place| -> Result<String, RetrievalError> {
            Ok(self.words.passage(place)?.map(|passage| passage.text()).unwrap_or_default())
        };
        (0..count).map(text).collect()
    }
}

/// Embeddings by the base alone; none for one text that the model refuses.
async fn embedded(engine: &EngineHandle, base: Hash, inputs: Vec<String>) -> Result<Vec<Vec<f32>>, String> {
    let mut job = [0; 32];
    getrandom::fill(&mut job).map_err(|error| error.to_string())?;
    let (job, is_single) = (Hash(job), inputs.len() == 1);
    match engine.ask(job, &Ask::Embed { job, base, adapter: None, inputs }).await {
        Ok(Done::Embedded { vectors, .. }) => Ok(vectors),
        Ok(Done::Refused { .. }) if is_single => Ok(Vec::new()),
        Ok(Done::Refused { reason, .. }) => Err(reason),
        Ok(other) => Err(format!("the engine answered another question: {other:?}")),
        Err(fault) => Err(fault.to_string()),
    }
}
