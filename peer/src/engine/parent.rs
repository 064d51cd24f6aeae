//! The node's side of the engine: starts the process, routes replies to jobs, starts it again when it dies.
//!
//! Invariant: what is sent and what a death means for it change only under the process's lock, so a frame goes to
//! exactly one process at a time. When the engine dies, answers are computed again by the next one and every other open
//! job gets [`Reply::Failed`]; one that did not end in time gets [`Reply::Late`], and its process is ended. Nobody's slow reading holds up another job's replies: an answer's queue holds all of it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;
use tributary_compute::device::Wanted;
use tributary_protocol::id::Hash;

use super::deadlines::Limits;
use super::frames::{self, read, write};
use super::open::{Delivery, Open};
use super::{Ask, EngineFolder, FRAME_MAX_BYTES, Reply};
use crate::lock::locked;

/// Replies of one job that wait to be read, beside the pieces of an answer's text.
const JOB_QUEUE: usize = 64;

/// How often it is looked for jobs that should have ended.
const WATCH_INTERVAL: Duration = Duration::from_millis(250);

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
    memory_bytes: Option<u64>,
    limits: Limits,
    running: tokio::sync::Mutex<Option<Running>>,
    open: Mutex<Open>,
    pid: AtomicU32,
    deaths: AtomicU32,
    is_closing: AtomicBool,
}

/// How an engine runs.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Where models run.
    pub device: Wanted,
    /// What it may take of the memory, where its user says so.
    pub memory_bytes: Option<u64>,
    /// How long jobs may take.
    pub limits: Limits,
}

impl Default for Options {
    fn default() -> Self {
        Self { device: Wanted::Cpu, memory_bytes: None, limits: Limits::default() }
    }
}

/// A handle on the engine process.
#[derive(Clone)]
pub struct EngineHandle(Arc<Shared>);

impl EngineHandle {
    /// A handle that starts `program engine` on `folder` and the processor when it is first needed.
    #[must_use]
    pub fn new(program: PathBuf, folder: EngineFolder) -> Self {
        Self::with(program, folder, Options::default())
    }

    /// The same with what is not usual.
    #[must_use]
    pub fn with(program: PathBuf, folder: EngineFolder, options: Options) -> Self {
        let Options { device, memory_bytes, limits } = options;
        Self(Arc::new(Shared {
            program,
            folder,
            device,
            memory_bytes,
            limits,
            running: tokio::sync::Mutex::default(),
            open: Mutex::new(Open::within(limits)),
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
            open.deadlines.begin(job, ask, Instant::now());
            if ask.is_answer() { open.pending.admit(job, frame) } else { Some(frame) }
        };
        let Some(frame) = frame else { return Ok(receiver) };
        match self.send(&mut running, &frame).await {
            // Whoever reads the process's replies notices its end, and then the answer is sent to the next one.
            Err(EngineError::Gone(_)) if ask.is_answer() => Ok(receiver),
            Err(error) => {
                self.open().unsent(&job);
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
        self.open().stopped(&job);
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

    fn open(&self) -> MutexGuard<'_, Open> {
        locked(&self.0.open)
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
            .args(self.0.memory_bytes.map(|bytes| format!("--memory={bytes}")))
            .env_remove("TRIBUTARY_PASSPHRASE")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()?;
        let input = child.stdin.take().ok_or_else(|| std::io::Error::other("no standard input"))?;
        let output = child.stdout.take().ok_or_else(|| std::io::Error::other("no standard output"))?;
        let pid = child.id().unwrap_or(0);
        self.0.pid.store(pid, Ordering::Relaxed);
        tokio::spawn(self.clone().route(output));
        tokio::spawn(self.clone().watch(pid));
        Ok(Running { child, input })
    }

    /// Ends the process when a job has not ended in time: what else it did is done again by the next one.
    async fn watch(self, pid: u32) {
        while self.pid() == pid {
            self.end_overdue();
            tokio::time::sleep(WATCH_INTERVAL).await;
        }
    }

    fn end_overdue(&self) {
        // Under the lock: the next process is started only after this one's death was told here.
        let mut open = self.open();
        if let Some((job, allowed)) = open.deadlines.overdue(Instant::now()) {
            tracing::warn!(job = %job.short(), "a job hangs: the engine is ended");
            open.late(job, allowed);
            self.kill();
        }
    }

    /// Gives the suspect that is computed now up when its time is over, and ends the process that it hangs in.
    fn watch_suspect(&self) {
        let Some(turn) = self.open().pending.suspect() else { return };
        let handle = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(handle.0.limits.suspect).await;
            // Under the lock, as above.
            let mut open = handle.open();
            if open.pending.suspect() == Some(turn) {
                tracing::warn!(job = %turn.0.short(), "an answer hangs: the engine is ended");
                open.pending.ended(&turn.0);
                open.fail(turn.0, "the engine did not end this answer in time after a process died with it");
                handle.kill();
            }
        });
    }

    /// Ends the process without waiting for whoever writes to it.
    fn kill(&self) {
        let Some(pid) = i32::try_from(self.pid()).ok().and_then(Pid::from_raw) else { return };
        if let Err(error) = kill_process(pid, Signal::KILL) {
            tracing::debug!(%error, "the engine was gone already");
        }
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

/// The frame of a request; one that is too large is refused before anything is written.
fn frame_of(ask: &Ask) -> Result<Vec<u8>, EngineError> {
    frames::frame_of(ask).map_err(EngineError::TooLarge)
}
