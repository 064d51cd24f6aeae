//! Getting bases: from files of this machine, from the program itself, or from peers.
//!
//! Invariant: nothing of a base is fetched before its manifest and its size are known to fit, and none is used before
//! the engine loaded it once from the folder that holds exactly its files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tributary_protocol::id::{Hash, NodeId};
use tributary_protocol::node::Node;
use tributary_storage::base::{self, BaseError, BaseFile, BaseManifest, MANIFEST_MAX_BYTES};
use tributary_storage::blobs::BlobStore;

use super::{FETCH_PAUSE, FETCH_TRIES, JobError, Workshop};
use crate::bases::{BUILTIN, BaseRecord, FROM_HUB, FROM_PEER, Facts, Origin};
use crate::engine::asking::AskFault;
use crate::runtime::now_ms;

/// Why a base was not taken.
#[derive(Debug, thiserror::Error)]
pub enum BaseFault {
    /// The files are no base that can be computed.
    #[error("{0}")]
    Refused(String),
    /// It is larger than this node takes.
    #[error("the base has {bytes} bytes, this node takes at most {limit}")]
    OverLimit {
        /// All files together.
        bytes: u64,
        /// What the node's user set.
        limit: u64,
    },
    /// It does not fit beside what is pinned or in use.
    #[error(
        "{bytes} bytes do not fit: bases and served adapters take {taken} of {limit}, and too little of it is unused"
    )]
    NoRoom {
        /// What is wanted.
        bytes: u64,
        /// What is there.
        taken: u64,
        /// What the node's user set.
        limit: u64,
    },
    /// Another base or model has its name.
    #[error("{kind} {id} is called {name} already", id = id.short())]
    NameTaken {
        /// What has it.
        kind: &'static str,
        /// Which.
        id: Hash,
        /// The name.
        name: String,
    },
    /// It is needed, or no more can be kept.
    #[error("{0}")]
    InTheWay(String),
    /// The engine died twice while it loaded the base, which need not be the base's fault.
    #[error("the engine ended each time it loaded the base: {0}")]
    EngineEnded(String),
    /// This machine failed.
    #[error("{0}")]
    Machine(String),
}

impl From<BaseError> for BaseFault {
    fn from(error: BaseError) -> Self {
        match error {
            BaseError::OverLimit { bytes, limit } => Self::OverLimit { bytes, limit },
            BaseError::Manifest(error) => Self::Refused(error.to_string()),
            BaseError::Io { .. } => Self::Refused(error.to_string()),
            BaseError::Store(error) => Self::Machine(error.to_string()),
        }
    }
}

pub(super) fn machine(error: impl ToString) -> BaseFault {
    BaseFault::Machine(error.to_string())
}

/// What the engine loads of a base's folder.
fn loaded_from(folder: &Path, manifest: &BaseManifest) -> PathBuf {
    if manifest.is_gguf() { folder.join(base::GGUF) } else { folder.to_owned() }
}

impl Workshop {
    /// Takes the model at `path` into the store, checked by the engine before anybody hears of it.
    ///
    /// # Errors
    /// When it is no model that can be computed, too large, or the disk refuses.
    pub async fn import_base(&self, path: &Path, origin: Origin) -> Result<BaseRecord, BaseFault> {
        if self.bases.is_full().map_err(machine)? {
            return Err(BaseFault::InTheWay("this node keeps no more bases".into()));
        }
        let looked = path.to_owned();
        let sources = tokio::task::spawn_blocking(move || base::sources(&looked)).await.map_err(machine)??;
        let bytes: u64 = sources.iter().filter_map(|source| Some(std::fs::metadata(&source.path).ok()?.len())).sum();
        if bytes <= self.bases.limit_bytes() {
            self.make_room(bytes).await?;
        }
        let had = self.had().await.map_err(machine)?;
        let manifest = base::import(&self.store, &sources, self.bases.limit_bytes()).await?;
        let id = manifest.id();
        let turn = self.bases.turn(id);
        let _mine = turn.lock().await;
        let made = match self.free_name(&origin.name, Some((id, &origin.source))).await {
            Ok(()) => self.sound(&manifest, origin).await,
            Err(fault) => Err(fault),
        };
        match made {
            Ok(record) => {
                self.store.put(Bytes::from(manifest.to_bytes())).await.map_err(machine)?;
                Ok(record)
            }
            Err(fault) => {
                // One that was here before under another name stays.
                if self.bases.record(&id).map_err(machine)?.is_none() {
                    self.discard(&manifest, &had).await;
                }
                Err(fault)
            }
        }
    }

    /// Sees that no other base of this node and no released model has a name; the states of one model of a hub share
    /// theirs.
    ///
    /// # Errors
    /// Names what has it, or says what of this machine failed.
    pub async fn free_name(&self, name: &str, base: Option<(Hash, &str)>) -> Result<(), BaseFault> {
        let taken = |kind, id| BaseFault::NameTaken { kind, id, name: name.to_owned() };
        let others = self.bases.all().map_err(machine)?;
        let is_version = |other: &BaseRecord| {
            base.is_some_and(|(id, source)| {
                id == other.id || (source.starts_with(FROM_HUB) && source == other.origin.source)
            })
        };
        if let Some(other) = others.iter().find(|other| other.origin.name == name && !is_version(other)) {
            return Err(taken("base", other.id));
        }
        let wanted = name.to_owned();
        let look = move |node: &tributary_protocol::node::Node| {
            let mut named = node.releases().filter(|release| release.body.name == wanted);
            named.next().map(|release| release.body.adapter)
        };
        match self.node.view(look).await.map_err(machine)? {
            Some(adapter) => Err(taken("model", adapter)),
            None => Ok(()),
        }
    }

    /// The base that comes with the program, in the store.
    ///
    /// # Errors
    /// When the disk refuses.
    pub async fn builtin_base(&self) -> Result<Hash, BaseFault> {
        self.bases.builtin.get_or_try_init(|| self.take_builtin()).await.copied()
    }

    async fn take_builtin(&self) -> Result<Hash, BaseFault> {
        let files = tributary_almanac::base();
        let mut listed = Vec::new();
        for (name, bytes) in [
            ("config.json", files.config),
            ("tokenizer.json", files.tokenizer),
            ("model.safetensors", files.safetensors),
        ] {
            let hash = Hash::of(bytes);
            if !self.store.has(hash).await.map_err(machine)? {
                self.store.put(Bytes::from_static(bytes)).await.map_err(machine)?;
            }
            listed.push(BaseFile { name: name.into(), hash, bytes: bytes.len() as u64 });
        }
        let manifest = BaseManifest::new(listed).map_err(machine)?;
        self.store.put(Bytes::from(manifest.to_bytes())).await.map_err(machine)?;
        let id = manifest.id();
        let turn = self.bases.turn(id);
        let _mine = turn.lock().await;
        let origin = Origin { name: BUILTIN.into(), source: BUILTIN.into(), ..Origin::default() };
        self.sound(&manifest, origin).await?;
        Ok(id)
    }

    /// Fetches a base if need be and has the engine ready to load it.
    ///
    /// # Errors
    /// When it cannot be had, is too large for this node, or is none.
    pub async fn hold_base(&self, base: Hash, providers: &[NodeId]) -> Result<(), JobError> {
        self.room.touch(base);
        let turn = self.bases.turn(base);
        let _mine = turn.lock().await;
        let bytes = self.blob(base, providers, MANIFEST_MAX_BYTES).await?;
        let manifest = BaseManifest::from_bytes(&bytes).map_err(|error| error.to_string())?;
        let mut had: BTreeSet<Hash> = manifest.files().iter().map(|file| file.hash).collect();
        if !base::folder_of(self.bases.root(), base).is_dir() {
            had = self.had().await?;
            self.check_limit(&manifest).map_err(|fault| fault.to_string())?;
            self.make_room(manifest.total_bytes()).await.map_err(|fault| format!("base {}: {fault}", base.short()))?;
            for file in manifest.files() {
                self.whole(file, providers).await?;
            }
        }
        let name = format!("from peers {}", base.short());
        let origin = Origin { name, source: FROM_PEER.into(), ..Origin::default() };
        match self.sound(&manifest, origin).await {
            Ok(_) => Ok(()),
            Err(fault) => {
                // Its peers have it still; what nobody could load here must not fill the disk unnoticed.
                if matches!(fault, BaseFault::Refused(_) | BaseFault::EngineEnded(_)) {
                    self.discard(&manifest, &had).await;
                }
                Err(format!("base {}: {fault}", base.short()).into())
            }
        }
    }

    /// What the engine loads of a base that is here.
    ///
    /// # Errors
    /// When it is not here.
    pub async fn base_path(&self, id: Hash) -> Result<PathBuf, JobError> {
        let bytes = self.blob(id, &[], MANIFEST_MAX_BYTES).await?;
        let manifest = BaseManifest::from_bytes(&bytes).map_err(|error| error.to_string())?;
        Ok(loaded_from(&base::folder_of(self.bases.root(), id), &manifest))
    }

    /// Unpins a base and removes its folder. Files that another base has stay.
    ///
    /// # Errors
    /// When it is not known or the disk refuses.
    pub async fn remove_base(&self, id: Hash) -> Result<BaseRecord, BaseFault> {
        let turn = self.bases.turn(id);
        let _mine = turn.lock().await;
        let known = self.bases.record(&id).map_err(machine)?;
        let record = known.ok_or_else(|| BaseFault::Refused(format!("base {} is not here", id.short())))?;
        let bytes = self.store.get(id).await.map_err(machine)?;
        self.bases.forget(&id).map_err(machine)?;
        match bytes.and_then(|bytes| BaseManifest::from_bytes(&bytes).ok()) {
            Some(manifest) => self.discard(&manifest, &BTreeSet::new()).await,
            None => {
                self.engine.forget_base(id).await;
                base::remove_folder(self.bases.root(), id)?;
            }
        }
        self.store.remove(id).await.map_err(machine)?;
        Ok(record)
    }

    /// The folder of the base, made if need be, loaded by the engine if it never was, and told to the engine.
    async fn sound(&self, manifest: &BaseManifest, origin: Origin) -> Result<BaseRecord, BaseFault> {
        let id = manifest.id();
        let folder = base::materialise(&self.store, manifest, self.bases.root()).await?;
        let path = loaded_from(&folder, manifest);
        self.engine.hold_base(id, &path).await.map_err(machine)?;
        if let Some(known) = self.bases.record(&id).map_err(machine)? {
            if !origin.says_more_than(&known.origin) {
                return Ok(known);
            }
            let record = BaseRecord { origin, ..known };
            self.bases.keep(&record).map_err(machine)?;
            return Ok(record);
        }
        let facts = self.inspect(id).await?;
        let record = BaseRecord { id, origin, facts, bytes: manifest.total_bytes(), added_ms: now_ms() };
        self.bases.keep(&record).map_err(machine)?;
        Ok(record)
    }

    async fn inspect(&self, id: Hash) -> Result<Facts, BaseFault> {
        self.engine.inspect(id).await.map_err(|fault| match fault {
            AskFault::Failed(reason) => BaseFault::Refused(reason),
            AskFault::Died(reason) => BaseFault::EngineEnded(reason),
            other => machine(other),
        })
    }

    fn check_limit(&self, manifest: &BaseManifest) -> Result<(), BaseFault> {
        let (bytes, limit) = (manifest.total_bytes(), self.bases.limit_bytes());
        if bytes > limit { Err(BaseFault::OverLimit { bytes, limit }) } else { Ok(()) }
    }

    /// Sees that a file of a base is here whole; never in memory as a whole.
    async fn whole(&self, file: &BaseFile, providers: &[NodeId]) -> Result<(), JobError> {
        let mut reason = "nobody provides it".to_owned();
        for attempt in 0..FETCH_TRIES {
            if let Some(bytes) = self.store.size(file.hash).await.map_err(|error| error.to_string())? {
                let same = bytes == file.bytes;
                if !same {
                    return Err(format!("{} has {bytes} bytes, not {}", file.name, file.bytes).into());
                }
                return Ok(());
            }
            if attempt > 0 {
                tokio::time::sleep(FETCH_PAUSE).await;
            }
            match self.data.fetch(file.hash, providers, file.bytes).await {
                Ok(bytes) => self.traffic.fetched(bytes),
                Err(error) => reason = error.to_string(),
            }
        }
        Err(format!("{} of the base cannot be fetched: {reason}", file.name).into())
    }

    /// What the store holds now.
    async fn had(&self) -> Result<BTreeSet<Hash>, String> {
        Ok(self.store.list().await.map_err(|error| error.to_string())?.into_iter().collect())
    }

    /// Gives back what a base took on the disk, apart from what was here before it, and what bases, datanets and released
    /// models have too: a stranger's manifest can name any file.
    async fn discard(&self, manifest: &BaseManifest, had: &BTreeSet<Hash>) {
        self.engine.forget_base(manifest.id()).await;
        if let Err(error) = base::remove_folder(self.bases.root(), manifest.id()) {
            tracing::warn!(%error, "the folder of a base stays");
        }
        let Ok(mut shared) = self.node.view(named_by_others).await else {
            return tracing::warn!("the files of a base stay: what else needs them is not known");
        };
        shared.extend(had);
        for record in self.bases.all().unwrap_or_default() {
            if let Ok(Some(bytes)) = self.store.get(record.id).await
                && let Ok(other) = BaseManifest::from_bytes(&bytes)
            {
                shared.extend(other.files().iter().map(|file| file.hash));
            }
        }
        for file in manifest.files().iter().filter(|file| !shared.contains(&file.hash)) {
            if let Err(error) = self.store.remove(file.hash).await {
                tracing::warn!(%error, name = file.name, "a file of a base stays");
            }
        }
        // A second name of each file lay in the folder; now the disk is free.
        match self.store.sweep().await {
            Ok(true) => {}
            Ok(false) => tracing::warn!("removed files stay on the disk until the next start"),
            Err(error) => tracing::warn!(%error, "removed files stay on the disk until the next start"),
        }
    }
}

/// Files that datanets and released models name.
fn named_by_others(node: &Node) -> BTreeSet<Hash> {
    let shards = node.datanets().flat_map(|datanet| datanet.all_entries().map(|entry| entry.body.shard));
    let released = node.releases().flat_map(|release| {
        let left_out = release
            .body
            .contributors
            .iter()
            .flat_map(|one| [Some(one.leave_out), one.together.map(|set| set.without)])
            .flatten();
        left_out.chain([release.body.adapter, release.body.index])
    });
    shards.chain(released).collect()
}
