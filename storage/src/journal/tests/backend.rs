//! A disk in memory that fills up or loses power on command, under the real database.
//!
//! Invariant: after a power cut, what was flushed is there; of each 512-byte sector written since, the old or the new
//! bytes are there, drawn from the seed.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use redb::StorageBackend;

const SECTOR: usize = 512;

#[derive(Debug, Default)]
struct State {
    /// What survives a power cut.
    flushed: Vec<u8>,
    /// What the database sees.
    seen: Vec<u8>,
    /// Writes since the last flush.
    written: Vec<(usize, usize)>,
    room_bytes: Option<u64>,
    cut_after: Option<(u64, u64)>,
    dead: bool,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Disk(Arc<Mutex<State>>);

impl Disk {
    pub(super) fn backend(&self) -> impl StorageBackend {
        self.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(super) fn fill_after_bytes(&self, bytes: u64) {
        self.state().room_bytes = Some(bytes);
    }

    pub(super) fn cut_power_after(&self, operations: u64, seed: u64) {
        self.state().cut_after = Some((operations, seed));
    }

    pub(super) fn cut_power(&self, seed: u64) {
        self.state().cut_power(seed);
    }

    /// Power is back: the disk has what survived.
    pub(super) fn restart(&self) {
        let mut state = self.state();
        if !state.dead {
            state.cut_power(0);
        }
        let seen = state.flushed.clone();
        *state = State { flushed: seen.clone(), seen, ..State::default() };
    }
}

impl State {
    fn cut_power(&mut self, seed: u64) {
        if self.dead {
            return;
        }
        self.dead = true;
        let mut draw = seed;
        // A longer file may have reached the disk before its contents.
        let len = self.seen.len().max(self.flushed.len());
        self.flushed.resize(len, 0);
        for (offset, len) in std::mem::take(&mut self.written) {
            for start in (offset..offset + len).step_by(SECTOR) {
                draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let end = (start + SECTOR).min(offset + len).min(self.seen.len());
                if draw >> 63 == 1 && start < end {
                    self.flushed[start..end].copy_from_slice(&self.seen[start..end]);
                }
            }
        }
    }

    /// Counts an operation; the one at which power is cut fails, and so do all after it.
    fn operate(&mut self) -> io::Result<()> {
        if let Some((left, seed)) = self.cut_after {
            if left == 0 {
                self.cut_power(seed);
            }
            self.cut_after = Some((left.saturating_sub(1), seed));
        }
        if self.dead { Err(io::Error::other("no power")) } else { Ok(()) }
    }

    fn take_room(&mut self, bytes: u64) -> io::Result<()> {
        let Some(room) = self.room_bytes else { return Ok(()) };
        self.room_bytes = Some(room.saturating_sub(bytes));
        if bytes > room { Err(io::Error::from(io::ErrorKind::StorageFull)) } else { Ok(()) }
    }
}

fn place(offset: u64) -> usize {
    usize::try_from(offset).unwrap()
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state().seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.state();
        let bytes = state.seen.get(place(offset)..place(offset) + out.len());
        out.copy_from_slice(bytes.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.state();
        state.operate()?;
        state.seen.resize(place(len), 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state();
        state.operate()?;
        state.flushed = state.seen.clone();
        state.written.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        state.operate()?;
        state.take_room(data.len() as u64)?;
        let end = place(offset) + data.len();
        if end > state.seen.len() {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        state.seen[place(offset)..end].copy_from_slice(data);
        state.written.push((place(offset), data.len()));
        Ok(())
    }
}
