//! How the operating system asks a program to end.
//!
//! Invariant: from [`Signals::watch`] on, an interrupt or a request to terminate ends nothing by itself.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Interrupts and requests to terminate.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Takes them over.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn watch() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// The next one.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
