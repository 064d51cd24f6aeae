//! The models that the engine process holds: bases and their servers, and adapters with their attribution indexes.
//!
//! Invariant: whatever is released here lies whole in the engine's folder, so a new process serves it again without
//! being told; memory holds what was used last, within a bound.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use tributary_compute::attribute::Index;
use tributary_compute::lora::{Adapter, AdapterFiles};
use tributary_compute::model::Base;
use tributary_compute::serve::{Server, ServerConfig};
use tributary_protocol::id::Hash;

use super::EngineFolder;
use super::bases::BaseShelf;
use crate::lock::locked;

/// Bytes of adapters with their indexes that stay in memory between answers, for their credits.
const SERVED_BYTES: u64 = 512 << 20;
/// PEFT's names of an adapter's files.
const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// A released adapter with its index.
pub(super) struct Served {
    pub(super) adapter: Adapter,
    pub(super) index: Index,
    bytes: u64,
}

/// What all jobs share.
pub(super) struct Shelf {
    folder: EngineFolder,
    pub(super) bases: BaseShelf,
    servers: Mutex<BTreeMap<Hash, Arc<Server>>>,
    /// Those used last stand last.
    served: Mutex<Vec<(Hash, Arc<Served>)>>,
    /// The hash of an adapter's two files, by which servers know it, by the blob's hash.
    names: Mutex<BTreeMap<Hash, Hash>>,
    pub(super) stopped: Mutex<BTreeMap<Hash, Arc<AtomicBool>>>,
}

fn text<E: std::fmt::Display>(error: E) -> String {
    error.to_string()
}

impl Shelf {
    pub(super) fn new(folder: EngineFolder, bases: BaseShelf) -> Self {
        Self {
            folder,
            bases,
            servers: Mutex::default(),
            served: Mutex::default(),
            names: Mutex::default(),
            stopped: Mutex::default(),
        }
    }

    pub(super) const fn folder(&self) -> &EngineFolder {
        &self.folder
    }

    /// A base, loaded if need be; servers of those that made room for it end with their last answer.
    pub(super) fn base(&self, id: Hash) -> Result<Base, String> {
        let loaded = self.bases.base(id)?;
        let ended: Vec<_> = loaded.put_away.iter().filter_map(|id| locked(&self.servers).remove(id)).collect();
        // Not under the lock: ending one may take its current step.
        drop(ended);
        Ok(loaded.base)
    }

    /// Forgets a base; its server ends with its last answer.
    pub(super) fn forget(&self, id: &Hash) {
        self.bases.forget(id);
        let ended = locked(&self.servers).remove(id);
        // Ending one may take its current step, and whoever calls this reads on.
        drop(std::thread::spawn(move || drop(ended)));
    }

    /// The server of a base, started when it is first asked for.
    pub(super) fn server(&self, id: Hash) -> Result<Arc<Server>, String> {
        let base = self.base(id)?;
        let mut servers = locked(&self.servers);
        if let Some(server) = servers.get(&id) {
            return Ok(Arc::clone(server));
        }
        let server = Arc::new(Server::start(&base, &ServerConfig::default()).map_err(text)?);
        servers.insert(id, Arc::clone(&server));
        Ok(server)
    }

    /// The name by which `server` knows the kept adapter `id`, which it reads from its folder when it is needed.
    pub(super) fn name_for(&self, server: &Server, id: Hash) -> Result<Hash, String> {
        let known = locked(&self.names).get(&id).copied();
        if let Some(name) = known.filter(|name| server.registry().size(name).is_some()) {
            return Ok(name);
        }
        let missing = |error: &dyn std::fmt::Display| format!("adapter {} can't be served: {error}", id.short());
        let name = server.register(&self.folder.adapter(id)).map_err(|error| missing(&error))?;
        locked(&self.names).insert(id, name);
        Ok(name)
    }

    /// Keeps an adapter with its index, in the folder and in memory.
    pub(super) fn keep(&self, id: Hash, adapter: Adapter, files: &AdapterFiles, index: Index) -> Result<(), String> {
        let bytes = index.to_bytes();
        let name = self.folder.index(id, index.commitment());
        let name = name.file_name().and_then(|name| name.to_str()).ok_or("an index has no name")?.to_owned();
        let kept = [
            (CONFIG.to_owned(), files.config_json.as_slice()),
            (WEIGHTS.to_owned(), files.safetensors.as_slice()),
            (name, bytes.as_slice()),
        ];
        self.folder.keep(id, &kept).map_err(|error| format!("adapter {} can't be kept: {error}", id.short()))?;
        let bytes = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.remember(id, Arc::new(Served { adapter, index, bytes }));
        Ok(())
    }

    /// A kept adapter with its index.
    pub(super) fn served(&self, base: &Base, id: Hash) -> Result<Arc<Served>, String> {
        if let Some(served) = self.recall(id) {
            return Ok(served);
        }
        let failed = |error: &dyn std::fmt::Display| format!("adapter {}: {error}", id.short());
        let commitment = self.folder.commitment(id).map_err(|error| failed(&error))?;
        let read = |path: &std::path::Path| std::fs::read(path).map_err(|error| failed(&error));
        let files = AdapterFiles {
            config_json: read(&self.folder.adapter(id).join(CONFIG))?,
            safetensors: read(&self.folder.adapter(id).join(WEIGHTS))?,
        };
        let adapter = Adapter::from_files(base.config(), &files).map_err(|error| failed(&error))?;
        let bytes = read(&self.folder.index(id, commitment))?;
        let index = Index::from_bytes(&bytes).map_err(|error| failed(&error))?;
        if index.commitment() != commitment {
            return Err(failed(&"its attribution index is damaged"));
        }
        let bytes = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let served = Arc::new(Served { adapter, index, bytes });
        self.remember(id, Arc::clone(&served));
        Ok(served)
    }

    fn recall(&self, id: Hash) -> Option<Arc<Served>> {
        let mut all = locked(&self.served);
        let place = all.iter().position(|(known, _)| *known == id)?;
        let used = all.remove(place);
        let served = Arc::clone(&used.1);
        all.push(used);
        Some(served)
    }

    fn remember(&self, id: Hash, served: Arc<Served>) {
        let mut all = locked(&self.served);
        all.retain(|(known, _)| *known != id);
        all.push((id, served));
        let mut bytes: u64 = all.iter().map(|(_, served)| served.bytes).sum();
        while bytes > SERVED_BYTES && all.len() > 1 {
            bytes -= all.remove(0).1.bytes;
        }
    }
}
