//! The node's side of the engine: starts the process, routes replies to jobs, starts it again when it dies.
//!
//! Invariant: when the engine dies, every open job gets [`Reply::Failed`] and the next request starts a new one.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;
use tributary_protocol::id::Hash;
use tributary_protocol::wire;

use super::{Ask, FRAME_MAX_BYTES, Reply};

/// Replies of one job that wait to be read.
const JOB_QUEUE: usize = 64;

/// Why the engine could not be used.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The process could not be started.
    #[error("the engine process cannot be started: {0}")]
    Spawn(std::io::Error),
    /// The request is larger than the engine takes.
    #[error("a request of {0} bytes is beyond the engine's bound of {FRAME_MAX_BYTES}")]
    TooLarge(usize),
    /// The process is gone.
    #[error("the engine process is gone: {0}")]
    Gone(std::io::Error),
}

type Jobs = Arc<Mutex<BTreeMap<Hash, mpsc::Sender<Reply>>>>;

struct Running {
    child: Child,
    input: ChildStdin,
    bases: Vec<Hash>,
}

/// A handle on the engine process.
#[derive(Clone)]
pub struct EngineHandle {
    program: PathBuf,
    running: Arc<tokio::sync::Mutex<Option<Running>>>,
    jobs: Jobs,
    pid: Arc<std::sync::atomic::AtomicU32>,
}

fn locked(jobs: &Jobs) -> MutexGuard<'_, BTreeMap<Hash, mpsc::Sender<Reply>>> {
    jobs.lock().unwrap_or_else(PoisonError::into_inner)
}

impl EngineHandle {
    /// A handle that starts `program engine` when it is first needed.
    #[must_use]
    pub fn new(program: PathBuf) -> Self {
        Self { program, running: Arc::default(), jobs: Arc::default(), pid: Arc::default() }
    }

    /// The engine's process id, zero when it does not run.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Begins a job; its replies come out of the receiver, the last one being done or failed.
    ///
    /// # Errors
    /// When the process cannot be started or reached.
    pub async fn begin(&self, job: Hash, ask: &Ask) -> Result<mpsc::Receiver<Reply>, EngineError> {
        let (sender, receiver) = mpsc::channel(JOB_QUEUE);
        locked(&self.jobs).insert(job, sender);
        if let Err(error) = self.send(ask).await {
            locked(&self.jobs).remove(&job);
            return Err(error);
        }
        Ok(receiver)
    }

    /// Has the engine hold a base; does nothing when it does already.
    ///
    /// # Errors
    /// When the process cannot be started or reached.
    pub async fn hold_base(&self, id: Hash, bytes: &[u8]) -> Result<(), EngineError> {
        let mut guard = self.running.lock().await;
        let running = self.started(&mut guard).await?;
        if running.bases.contains(&id) {
            return Ok(());
        }
        let frame = frame_of(&Ask::Base { id, bytes: bytes.to_vec() })?;
        write(&mut running.input, &frame).await.map_err(EngineError::Gone)?;
        running.bases.push(id);
        Ok(())
    }

    /// Stops a job.
    pub async fn stop(&self, job: Hash) {
        locked(&self.jobs).remove(&job);
        if self.pid() != 0 {
            let _ = self.send(&Ask::Stop { job }).await;
        }
    }

    /// Ends the process.
    pub async fn shutdown(&self) {
        if let Some(mut running) = self.running.lock().await.take() {
            drop(running.input);
            let _ = running.child.start_kill();
            let _ = running.child.wait().await;
        }
    }

    async fn send(&self, ask: &Ask) -> Result<(), EngineError> {
        let mut guard = self.running.lock().await;
        let running = self.started(&mut guard).await?;
        let frame = frame_of(ask)?;
        if let Err(error) = write(&mut running.input, &frame).await {
            *guard = None;
            return Err(EngineError::Gone(error));
        }
        Ok(())
    }

    async fn started<'a>(&self, guard: &'a mut Option<Running>) -> Result<&'a mut Running, EngineError> {
        let dead = match guard.as_mut() {
            Some(running) => running.child.try_wait().map_err(EngineError::Gone)?.is_some(),
            None => true,
        };
        if dead {
            *guard = Some(self.spawn().map_err(EngineError::Spawn)?);
        }
        guard.as_mut().ok_or_else(|| EngineError::Spawn(std::io::Error::other("not started")))
    }

    fn spawn(&self) -> std::io::Result<Running> {
        let mut child = Command::new(&self.program)
            .arg("engine")
            .env_remove("TRIBUTARY_PASSPHRASE")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()?;
        let input = child.stdin.take().ok_or_else(|| std::io::Error::other("no standard input"))?;
        let output = child.stdout.take().ok_or_else(|| std::io::Error::other("no standard output"))?;
        self.pid.store(child.id().unwrap_or(0), std::sync::atomic::Ordering::Relaxed);
        tokio::spawn(route(output, Arc::clone(&self.jobs), Arc::clone(&self.pid), Arc::clone(&self.running)));
        Ok(Running { child, input, bases: Vec::new() })
    }
}

/// The frame of a request; one that is too large is refused before anything is written.
fn frame_of(ask: &Ask) -> Result<Vec<u8>, EngineError> {
    let frame = wire::encode(ask);
    if frame.len() > FRAME_MAX_BYTES {
        return Err(EngineError::TooLarge(frame.len()));
    }
    Ok(frame)
}

async fn write(input: &mut ChildStdin, frame: &[u8]) -> std::io::Result<()> {
    let length = u32::try_from(frame.len()).map_err(std::io::Error::other)?;
    input.write_all(&length.to_le_bytes()).await?;
    input.write_all(frame).await?;
    input.flush().await
}

/// Passes replies to their jobs until the process ends, then fails what is open.
async fn route(
    mut output: ChildStdout,
    jobs: Jobs,
    pid: Arc<std::sync::atomic::AtomicU32>,
    running: Arc<tokio::sync::Mutex<Option<Running>>>,
) {
    let own = pid.load(std::sync::atomic::Ordering::Relaxed);
    let reason = loop {
        match read(&mut output).await {
            Ok(Some(reply)) => deliver(&jobs, reply).await,
            Ok(None) => break "the engine process ended".to_owned(),
            Err(error) => break format!("the engine process failed: {error}"),
        }
    };
    // Nobody reads this process any more: it must not live on, or jobs would wait for it for ever.
    let mut guard = running.lock().await;
    if guard.as_ref().is_some_and(|running| running.child.id().is_none_or(|id| id == own)) {
        *guard = None;
    }
    pid.store(0, std::sync::atomic::Ordering::Relaxed);
    let open = std::mem::take(&mut *locked(&jobs));
    for (job, sender) in open {
        let _ = sender.send(Reply::Failed { job, reason: reason.clone() }).await;
    }
}

async fn deliver(jobs: &Jobs, reply: Reply) {
    let Some(job) = reply.job() else { return };
    let last = matches!(reply, Reply::Done { .. } | Reply::Failed { .. });
    let sender = if last { locked(jobs).remove(&job) } else { locked(jobs).get(&job).cloned() };
    if let Some(sender) = sender {
        let _ = sender.send(reply).await;
    }
}

async fn read(output: &mut ChildStdout) -> std::io::Result<Option<Reply>> {
    let mut length = [0; 4];
    match output.read_exact(&mut length).await {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let length = usize::try_from(u32::from_le_bytes(length)).map_err(std::io::Error::other)?;
    if length > FRAME_MAX_BYTES {
        return Err(std::io::Error::other("a reply is beyond its bound"));
    }
    let mut frame = vec![0; length];
    output.read_exact(&mut frame).await?;
    wire::decode(&frame, FRAME_MAX_BYTES).map(Some).map_err(std::io::Error::other)
}
