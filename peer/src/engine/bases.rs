//! The engine's bases: where each lies, and those that are loaded.
//!
//! Invariant: a base is loaded by one job while others that want it wait, and only when it fits into a part of the
//! machine's memory beside the others, of which those not used for longest go first. What is loaded here or being loaded
//! is never forgotten, so all of it counts.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tributary_compute::chat::apart::Renderer;
use tributary_compute::device::Device;
use tributary_compute::gguf::GgufFile;
use tributary_compute::model::{Base, BaseFacts};
use tributary_protocol::id::Hash;

use crate::bases::{Facts, RECORDS_MAX};
use crate::lock::locked;

/// Bases whose places are remembered: all that a node keeps, and as many that are being looked at. The node tells a
/// forgotten one again before a job that needs it.
const BASES_MAX: usize = 2 * RECORDS_MAX;
/// Half precision on the disk is single precision in memory.
const GROWTH: u64 = 2;
/// The part of the engine's memory that bases may take; the rest is for what is computed with them.
const MEMORY_PARTS: (u64, u64) = (4, 5);

struct Slot {
    path: PathBuf,
    memory_bytes: u64,
    base: Mutex<Option<Base>>,
    used: AtomicU64,
}

/// A base, and those that were put away for it.
pub(super) struct Loaded {
    pub(super) base: Base,
    pub(super) put_away: Vec<Hash>,
}

/// The bases of an engine process.
pub(super) struct BaseShelf {
    device: Device,
    memory_bytes: u64,
    /// Who reads and renders their chat templates, where it is not this process.
    renderer: Option<Renderer>,
    slots: Mutex<BTreeMap<Hash, Arc<Slot>>>,
    /// Loading is one at a time, since each one is measured against what is there.
    loading: Mutex<()>,
    clock: AtomicU64,
}

impl BaseShelf {
    /// A shelf whose bases compute on `device`, in an engine that has so much memory.
    pub(super) fn on(device: Device, memory_bytes: u64) -> Self {
        let (slots, loading, clock) = (Mutex::default(), Mutex::default(), AtomicU64::new(0));
        Self { device, memory_bytes, renderer: None, slots, loading, clock }
    }

    /// Bytes that bases may take.
    const fn most_bytes(&self) -> u64 {
        self.memory_bytes / MEMORY_PARTS.1 * MEMORY_PARTS.0
    }

    /// Bytes that are left for what is computed with them.
    pub(super) const fn bytes_beside(&self) -> u64 {
        self.memory_bytes.saturating_sub(self.most_bytes())
    }

    /// The same with chat templates in processes of their own.
    pub(super) fn rendering_by(self, renderer: Option<Renderer>) -> Self {
        Self { renderer, ..self }
    }

    /// Remembers where a base lies.
    pub(super) fn hold(&self, id: Hash, path: PathBuf) {
        let mut slots = locked(&self.slots);
        if slots.get(&id).is_some_and(|slot| slot.path == path) {
            return;
        }
        if slots.len() >= BASES_MAX {
            // Jobs take a slot under this lock, so one that nobody shares is not being loaded either.
            let is_idle = |slot: &Arc<Slot>| Arc::strong_count(slot) == 1 && locked(&slot.base).is_none();
            let idle = slots.iter().filter(|(_, slot)| is_idle(slot));
            let oldest = idle.min_by_key(|(_, slot)| slot.used.load(Ordering::Relaxed)).map(|(id, _)| *id);
            // Where all are loaded the memory is their bound.
            oldest.map(|oldest| slots.remove(&oldest));
        }
        let memory_bytes = memory_of(&path);
        slots.insert(id, Arc::new(Slot { path, memory_bytes, base: Mutex::default(), used: self.now() }));
    }

    /// Forgets a base that is not on the disk any more.
    pub(super) fn forget(&self, id: &Hash) {
        locked(&self.slots).remove(id);
    }

    /// The base, loaded if need be.
    pub(super) fn base(&self, id: Hash) -> Result<Loaded, String> {
        let slot = locked(&self.slots).get(&id).cloned().ok_or_else(|| format!("base {} is not known", id.short()))?;
        slot.used.store(self.now().into_inner(), Ordering::Relaxed);
        if let Some(base) = &*locked(&slot.base) {
            return Ok(Loaded { base: base.clone(), put_away: Vec::new() });
        }
        let _one = locked(&self.loading);
        // Somebody else may have loaded it meanwhile.
        if let Some(base) = &*locked(&slot.base) {
            return Ok(Loaded { base: base.clone(), put_away: Vec::new() });
        }
        let put_away = self.make_room(id, slot.memory_bytes)?;
        let base = Base::load(&slot.path).and_then(|base| base.to_device(&self.device));
        let base = base.map_err(|error| error.to_string())?;
        let base = self.renderer.as_ref().map_or_else(|| base.clone(), |renderer| base.rendering_by(renderer));
        let slots = locked(&self.slots);
        if !slots.get(&id).is_some_and(|held| Arc::ptr_eq(held, &slot)) {
            return Err(format!("base {} was removed while it was loaded", id.short()));
        }
        *locked(&slot.base) = Some(base.clone());
        Ok(Loaded { base, put_away })
    }

    fn now(&self) -> AtomicU64 {
        AtomicU64::new(self.clock.fetch_add(1, Ordering::Relaxed))
    }

    /// Puts away the bases not used for longest until the new one fits.
    fn make_room(&self, id: Hash, wanted: u64) -> Result<Vec<Hash>, String> {
        let most = self.most_bytes();
        if wanted > most {
            return Err(format!(
                "base {} needs about {} MB of memory, {} MB may be used here",
                id.short(),
                wanted / 1_000_000,
                most / 1_000_000
            ));
        }
        let slots = locked(&self.slots);
        let mut loaded: Vec<_> = slots.iter().filter(|(_, slot)| locked(&slot.base).is_some()).collect();
        loaded.sort_by_key(|(_, slot)| slot.used.load(Ordering::Relaxed));
        let mut taken: u64 = loaded.iter().map(|(_, slot)| slot.memory_bytes).sum();
        let mut put_away = Vec::new();
        for (id, slot) in loaded {
            if taken.saturating_add(wanted) <= most {
                break;
            }
            *locked(&slot.base) = None;
            taken = taken.saturating_sub(slot.memory_bytes);
            put_away.push(*id);
        }
        Ok(put_away)
    }
}

/// What loading a file or folder takes: of a GGUF file by what its tensors become, else by the size on the disk.
fn memory_of(path: &Path) -> u64 {
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |found| found.len());
    if path.is_file() {
        let opened = File::open(path).ok().and_then(|file| GgufFile::open(BufReader::new(file)).ok());
        // What is no such file is refused when it is loaded.
        return opened.map_or(0, |file| file.bytes_in_memory()).max(size(path));
    }
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let weights =
        entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "safetensors"));
    weights.map(|path| size(&path)).sum::<u64>().saturating_mul(GROWTH)
}

/// What the node keeps of a base's facts.
pub(super) fn facts_of(base: &Base) -> Facts {
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    let BaseFacts { family, parameters, stored, quantised, context, vocab, chat } = base.facts();
    let (context, vocab) = (count(context), count(vocab));
    Facts { family: family.into(), parameters, stored, quantised, context, vocab, chat }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_builtin(folder: &Path) {
        let files = tributary_almanac::base();
        for (name, bytes) in [
            ("config.json", files.config),
            ("tokenizer.json", files.tokenizer),
            ("model.safetensors", files.safetensors),
        ] {
            std::fs::write(folder.join(name), bytes).unwrap();
        }
    }

    fn refused(shelf: &BaseShelf, id: Hash) -> String {
        shelf.base(id).map(|_| ()).unwrap_err()
    }

    #[test]
    fn a_base_is_loaded_once_and_one_that_cannot_fit_is_refused_unread() {
        let folder = tempfile::tempdir().unwrap();
        write_builtin(folder.path());
        let shelf = BaseShelf::on(Device::Cpu, 2 << 30);
        let id = Hash([1; 32]);
        assert!(refused(&shelf, id).contains("not known"));
        shelf.hold(id, folder.path().to_owned());
        let first = shelf.base(id).unwrap().base;
        // It is there: nobody reads the files again.
        std::fs::remove_file(folder.path().join("config.json")).unwrap();
        assert_eq!(shelf.base(id).unwrap().base.hash(), first.hash());
        let huge = folder.path().join("huge.gguf");
        std::fs::File::create(&huge).unwrap().set_len(1 << 42).unwrap();
        shelf.hold(Hash([2; 32]), huge);
        assert!(refused(&shelf, Hash([2; 32])).contains("MB of memory"));
        // The one that was there stays.
        assert!(locked(&shelf.slots)[&id].base.lock().unwrap().is_some());
    }

    #[test]
    fn a_gguf_file_counts_by_what_its_tensors_become() {
        use candle_core::quantized::{GgmlDType, QTensor};
        use tributary_compute::gguf::{GgufTensor, write};
        let tensor = |kind| {
            let zeros = candle_core::Tensor::zeros((64, 64), candle_core::DType::F32, &Device::Cpu).unwrap();
            GgufTensor { name: "token_embd.weight".into(), tensor: QTensor::quantize(&zeros, kind).unwrap() }
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        let counted = |kind| {
            std::fs::write(&path, write(&[], &[tensor(kind)]).unwrap()).unwrap();
            (memory_of(&path), std::fs::metadata(&path).unwrap().len())
        };
        assert_eq!(counted(GgmlDType::F16).0, 64 * 64 * 4, "half precision becomes single");
        let (memory, disk) = counted(GgmlDType::Q8_0);
        assert_eq!(memory, disk, "blocks stay as they are");
    }

    #[test]
    fn the_idle_base_not_used_for_longest_is_forgotten_and_never_a_loaded_one() {
        let shelf = BaseShelf::on(Device::Cpu, 2 << 30);
        let folder = tempfile::tempdir().unwrap();
        write_builtin(folder.path());
        let id = |number: usize| Hash::of(&number.to_le_bytes());
        shelf.hold(id(0), folder.path().to_owned());
        shelf.base(id(0)).unwrap();
        for number in 1..BASES_MAX {
            shelf.hold(id(number), PathBuf::from(format!("nowhere/{number}")));
        }
        // A job has the second one, as if it were loading it; so the third is the oldest idle one.
        let busy = Arc::clone(&locked(&shelf.slots)[&id(1)]);
        shelf.hold(id(BASES_MAX), PathBuf::from("nowhere"));
        let slots = locked(&shelf.slots);
        assert_eq!(slots.len(), BASES_MAX);
        assert!(slots.contains_key(&id(0)) && slots.contains_key(&id(1)) && !slots.contains_key(&id(2)));
        drop((slots, busy));
        assert!(shelf.base(id(0)).is_ok());
        shelf.forget(&id(0));
        assert!(refused(&shelf, id(0)).contains("not known"));
    }
}
