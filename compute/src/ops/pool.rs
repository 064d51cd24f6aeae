//! One kernel's work shared between the processor's cores.
//!
//! Invariant: every item is worked on exactly once, whoever does it, and its result depends on the item alone. Nobody
//! waits for somebody else's share, and no item waits for rayon, so that a training on rayon's threads and a step that is
//! served never wait for one another in a circle. The threads are those of candle's quantised kernels, so that the two never
//! compete for a core: they spin for a moment and then sleep, which wakes them in a fraction of what a sleeping thread
//! takes.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};

use candle_core::utils::barrier_pool;

thread_local! {
    /// Whether this thread is inside [`share`]: the pool can't be entered twice.
    static SHARING: Cell<bool> = const { Cell::new(false) };
}

/// Held by who shares. Who finds it held works alone: candle's own lock would be waited for.
static TAKEN: Mutex<()> = Mutex::new(());

/// Threads that share, the caller included.
pub(super) fn threads() -> usize {
    barrier_pool().n_workers() + 1
}

/// Whether this is an item's work: it has one core, and must wait for none of rayon's threads.
pub(super) fn is_shared() -> bool {
    SHARING.get()
}

/// The results of `work` for `0..items`, in order. An item must neither run candle's quantised kernels, which use the same
/// pool, nor wait for rayon.
pub(super) fn share<T: Send + Sync>(items: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let alone = items <= 1 || is_shared();
    let taken = if alone { None } else { free(TAKEN.try_lock()) };
    if taken.is_none() {
        return (0..items).map(work).collect();
    }
    let results: Vec<OnceLock<T>> = (0..items).map(|_| OnceLock::new()).collect();
    let panicked: Mutex<Option<Box<dyn Any + Send>>> = Mutex::new(None);
    barrier_pool().execute_chunked(items, |range| {
        SHARING.set(true);
        for item in range {
            // A panic must not leave the pool locked for everybody after.
            match catch_unwind(AssertUnwindSafe(|| work(item))) {
                Ok(result) => drop(results[item].set(result)),
                Err(payload) => *panicked.lock().unwrap_or_else(PoisonError::into_inner) = Some(payload),
            }
        }
        SHARING.set(false);
    });
    if let Some(payload) = panicked.into_inner().unwrap_or_else(PoisonError::into_inner) {
        resume_unwind(payload);
    }
    results.into_iter().filter_map(OnceLock::into_inner).collect()
}

/// The lock, if nobody holds it; who panicked with it has left nothing half done.
fn free<'a>(lock: Result<MutexGuard<'a, ()>, TryLockError<MutexGuard<'a, ()>>>) -> Option<MutexGuard<'a, ()>> {
    match lock {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use super::share;

    #[test]
    fn results_come_in_order_also_from_within() {
        let inner = |item: usize| share(item, |at| at * item).iter().sum::<usize>();
        let expected: Vec<usize> = (0..50).map(|item| (0..item).sum::<usize>() * item).collect();
        assert_eq!(share(50, inner), expected);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_nobody_else() {
        let bad = catch_unwind(|| share(20, |item| if item == 13 { panic!("thirteen") } else { item }));
        assert!(bad.is_err());
        assert_eq!(share(20, |item| item), (0..20).collect::<Vec<_>>());
    }
}
