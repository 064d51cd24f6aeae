//! Locking what no panic can leave half changed.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The guard, also after somebody panicked with it.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
