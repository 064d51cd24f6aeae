//! The node's side of the engine: starts the process, routes replies to jobs, starts it again when it dies.
//!
//! Invariant: what is sent and what a death means for it change only under the process's lock, so a frame goes to
//! exactly one process at a time. When the engine dies, answers are computed again by the next one and every other open
//! job gets [`Reply::Failed`]. Nobody's slow reading holds up another job's replies: an answer's queue holds all of it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;
use tributary_compute::device::Wanted;
use tributary_protocol::id::Hash;
use tributary_protocol::wire;

use super::asking::Limits;
use super::open::{Delivery, Open};
use super::{Ask, EngineFolder, FRAME_MAX_BYTES, Reply};

/// Replies of one job that wait to be read, beside the pieces of an answer's text.
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
    /// A folder whose name is no text.
    #[error("{} is not UTF-8", .0.display())]
    Path(PathBuf),
    /// The process is gone.
    #[error("the engine process is gone: {0}")]
    Gone(std::io::Error),
}

struct Running {
    child: Child,
    input: ChildStdin,
}

struct Shared {
    program: PathBuf,
    folder: EngineFolder,
    device: Wanted,
    limits: Limits,
    running: tokio::sync::Mutex<Option<Running>>,
    open: Mutex<Open>,
    pid: AtomicU32,
    deaths: AtomicU32,
    is_closing: AtomicBool,
}

/// A handle on the engine process.
#[derive(Clone)]
pub struct EngineHandle(Arc<Shared>);

impl EngineHandle {
    /// A handle that starts `program engine` on `folder` and the processor when it is first needed.
    #[must_use]
    pub fn new(program: PathBuf, folder: EngineFolder) -> Self {
        Self::on(program, folder, Wanted::Cpu)
    }

    /// The same on a device.
    #[must_use]
    pub fn on(program: PathBuf, folder: EngineFolder, device: Wanted) -> Self {
        Self::limited(program, folder, device, Limits::default())
    }

    /// The same with other limits.
    #[must_use]
    pub fn limited(program: PathBuf, folder: EngineFolder, device: Wanted, limits: Limits) -> Self {
        Self(Arc::new(Shared {
            program,
            folder,
            device,
            limits,
            running: tokio::sync::Mutex::default(),
            open: Mutex::default(),
            pid: AtomicU32::new(0),
            deaths: AtomicU32::new(0),
            is_closing: AtomicBool::new(false),
        }))
    }

    /// The engine's process id, zero when it does not run.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.0.pid.load(Ordering::Relaxed)
    }

    /// How many processes have ended.
    #[must_use]
    pub fn deaths(&self) -> u32 {
        self.0.deaths.load(Ordering::Relaxed)
    }

    /// The folder that is shared with the process.
    #[must_use]
    pub fn folder(&self) -> &EngineFolder {
        &self.0.folder
    }

    /// Begins a job; its replies come out of the receiver, the last one being done or failed.
    ///
    /// # Errors
    /// When the process cannot be started or reached.
    pub async fn begin(&self, job: Hash, ask: &Ask) -> Result<mpsc::Receiver<Reply>, EngineError> {
        let frame = frame_of(ask)?;
        let pieces = match ask {
            Ask::Answer { decoding, .. } => usize::try_from(decoding.max_tokens).unwrap_or(usize::MAX),
            _ => 0,
        };
        let (replies, receiver) = mpsc::channel(JOB_QUEUE.saturating_add(pieces));
        let mut running = self.0.running.lock().await;
        let frame = {
            let mut open = self.open();
            open.listen(job, replies);
            if is_answer(ask) { open.pending.admit(job, frame) } else { Some(frame) }
        };
        let Some(frame) = frame else { return Ok(receiver) };
        match self.send(&mut running, &frame).await {
            // Whoever reads the process's replies notices its end, and then the answer is sent to the next one.
            Err(EngineError::Gone(_)) if is_answer(ask) => Ok(receiver),
            Err(error) => {
                self.open().forget(&job);
                Err(error)
            }
            Ok(()) => Ok(receiver),
        }
    }

    /// Tells the engine where a base lies, also when it was told before: it may have forgotten.
    ///
    /// # Errors
    /// When the process cannot be started or reached.
    pub async fn hold_base(&self, id: Hash, path: &Path) -> Result<(), EngineError> {
        let path = path.to_str().ok_or_else(|| EngineError::Path(path.to_owned()))?.to_owned();
        let frame = frame_of(&Ask::Base { id, path })?;
        let mut running = self.0.running.lock().await;
        self.send(&mut running, &frame).await?;
        self.open().bases.insert(id, frame);
        Ok(())
    }

    /// Has the engine forget a base whose files are removed.
    pub async fn forget_base(&self, id: Hash) {
        let mut running = self.0.running.lock().await;
        self.open().bases.remove(&id);
        if running.is_some()
            && let Ok(frame) = frame_of(&Ask::Forget { id })
        {
            // A process that is gone knows nothing, and the next one is not told of this base.
            let _ = self.send(&mut running, &frame).await;
        }
    }

    /// Stops a job whose replies nobody wants any more.
    pub async fn stop(&self, job: Hash) {
        let others_waited = self.open().forget(&job);
        if self.pid() == 0 {
            return;
        }
        if let Ok(frame) = frame_of(&Ask::Stop { job }) {
            let _ = self.send(&mut *self.0.running.lock().await, &frame).await;
        }
        if others_waited {
            self.send_waiting().await;
        }
    }

    /// Has a job end soon; it still tells what it leaves.
    pub async fn wind_up(&self, job: Hash) {
        if self.pid() == 0 {
            return;
        }
        if let Ok(frame) = frame_of(&Ask::Stop { job }) {
            let _ = self.send(&mut *self.0.running.lock().await, &frame).await;
        }
    }

    /// Ends the process.
    pub async fn shutdown(&self) {
        self.0.is_closing.store(true, Ordering::Relaxed);
        if let Some(mut running) = self.0.running.lock().await.take() {
            drop(running.input);
            let _ = running.child.start_kill();
            let _ = running.child.wait().await;
        }
    }

    pub(super) fn limits(&self) -> Limits {
        self.0.limits
    }

    pub(super) fn open(&self) -> MutexGuard<'_, Open> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends what waited for a suspect's end.
    async fn send_waiting(&self) {
        let mut running = self.0.running.lock().await;
        let frames = self.open().pending.next();
        self.watch_suspect();
        self.send_all(&mut running, frames).await;
    }

    async fn send_all(&self, running: &mut Option<Running>, frames: Vec<Vec<u8>>) {
        for frame in frames {
            match self.send(running, &frame).await {
                // The next death comes with its own list of what to send.
                Ok(()) | Err(EngineError::Gone(_)) => {}
                Err(error) => return self.abandon(&error.to_string()),
            }
        }
    }

    /// Fails every answer: there will be no process to compute it.
    fn abandon(&self, reason: &str) {
        let mut open = self.open();
        for job in open.pending.abandon() {
            open.fail(job, reason);
        }
    }

    async fn send(&self, running: &mut Option<Running>, frame: &[u8]) -> Result<(), EngineError> {
        if running.is_none() {
            let mut started = self.spawn().map_err(EngineError::Spawn)?;
            let bases: Vec<Vec<u8>> = self.open().bases.values().cloned().collect();
            for base in bases {
                write(&mut started.input, &base).await.map_err(EngineError::Gone)?;
            }
            *running = Some(started);
        }
        let running = running.as_mut().ok_or_else(|| EngineError::Spawn(std::io::Error::other("not started")))?;
        write(&mut running.input, frame).await.map_err(EngineError::Gone)
    }

    fn spawn(&self) -> std::io::Result<Running> {
        if self.0.is_closing.load(Ordering::Relaxed) {
            return Err(std::io::Error::other("the node is stopping"));
        }
        let mut child = Command::new(&self.0.program)
            .arg("engine")
            .arg(self.0.folder.path())
            .args(["--device", self.0.device.name()])
            .env_remove("TRIBUTARY_PASSPHRASE")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()?;
        let input = child.stdin.take().ok_or_else(|| std::io::Error::other("no standard input"))?;
        let output = child.stdout.take().ok_or_else(|| std::io::Error::other("no standard output"))?;
        self.0.pid.store(child.id().unwrap_or(0), Ordering::Relaxed);
        tokio::spawn(self.clone().route(output));
        Ok(Running { child, input })
    }

    /// Passes replies to their jobs until the process ends.
    async fn route(self, mut output: ChildStdout) {
        let reason = loop {
            match read(&mut output).await {
                Ok(Some(reply)) => self.deliver(reply).await,
                Ok(None) => break "the engine process ended".to_owned(),
                Err(error) => break format!("the engine process failed: {error}"),
            }
        };
        self.died(&reason).await;
    }

    async fn deliver(&self, reply: Reply) {
        let Some(job) = reply.job() else { return };
        let Delivery { to, others_waited } = self.open().deliver(job, reply);
        if others_waited {
            // Not here: the process may wait for its replies to be read before it reads on.
            let handle = self.clone();
            tokio::spawn(async move { handle.send_waiting().await });
        }
        if let Some((sender, reply)) = to {
            let _ = sender.send(reply).await;
        }
    }

    /// Nobody reads this process any more: it must not live on, and what it held is failed or sent to the next one.
    async fn died(&self, reason: &str) {
        let mut running = self.0.running.lock().await;
        // Before the process is reaped: its number may be another's after that.
        self.0.pid.store(0, Ordering::Relaxed);
        if let Some(mut dead) = running.take() {
            let _ = dead.child.start_kill();
        }
        self.0.deaths.fetch_add(1, Ordering::Relaxed);
        let frames = self.open().died(reason);
        if !frames.is_empty() {
            tracing::warn!(reason, answers = frames.len(), "the engine is started again for what it held");
        }
        self.watch_suspect();
        self.send_all(&mut running, frames).await;
    }
}

pub(super) const fn is_answer(ask: &Ask) -> bool {
    matches!(ask, Ask::Answer { .. } | Ask::Embed { .. })
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
