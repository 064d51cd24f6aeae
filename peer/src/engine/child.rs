//! The engine's side: reads requests, runs each job on a thread of its own, writes replies.
//!
//! Invariant: standard output carries frames and nothing else; a panic in a job becomes [`Reply::Failed`].

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};

use tributary_compute::device::{self, Classes, Wanted};
use tributary_compute::frame;
use tributary_protocol::id::Hash;
use tributary_protocol::wire;

use super::bases::BaseShelf;
use super::context::JobContext;
use super::shelf::Shelf;
use super::{Ask, Done, EngineFolder, FRAME_MAX_BYTES, Reply, jobs, memory, template};
use crate::lock::locked;

/// Replies that wait for the node to read them.
const REPLY_QUEUE: usize = 64;
/// How much lower than the node the engine is scheduled, so that heartbeats go out while it computes.
const NICENESS: i32 = 5;

/// Runs the engine on the files in `folder` and a device that was chosen before, until standard input ends. Its user may
/// allow less memory than there is.
///
/// # Errors
/// When the folder or the device can't be used, or standard input or output breaks.
pub fn run(folder: &Path, wanted: Wanted, allowed_bytes: Option<u64>) -> io::Result<()> {
    lower_priority();
    let memory_bytes = memory::engine_bytes(allowed_bytes);
    // Computing elsewhere instead would be in another class than the node has announced.
    let device = device::open(wanted).map_err(io::Error::other)?;
    if device.is_cpu() {
        // A GPU's driver takes hundreds of gigabytes of addresses that are no memory.
        limit_memory(memory_bytes);
    }
    let shared = EngineFolder::at(folder);
    shared.prepare().map_err(|error| io::Error::other(format!("{}: {error}", folder.display())))?;
    let (replies, waiting) = sync_channel::<Reply>(REPLY_QUEUE);
    let writer = std::thread::spawn(move || {
        let mut out = io::stdout().lock();
        while let Ok(reply) = waiting.recv() {
            frame::write(&mut out, &bounded(reply))?;
        }
        Ok::<(), io::Error>(())
    });
    let class = Classes::of(&device).dense;
    let bases = BaseShelf::on(device, memory_bytes).rendering_by(template::renderer());
    let shelf = Arc::new(Shelf::new(shared, bases));
    let _ = replies.send(Reply::Ready { class });
    let mut input = io::stdin().lock();
    while let Some(frame) = frame::read(&mut input, FRAME_MAX_BYTES)? {
        let ask: Ask = wire::decode(&frame, FRAME_MAX_BYTES).map_err(io::Error::other)?;
        take(ask, &shelf, &replies);
    }
    drop(replies);
    // Jobs still hold the channel; the node is gone, so nobody wants their results.
    if writer.is_finished() {
        return writer.join().map_err(|_| io::Error::other("the writer failed"))?;
    }
    Ok(())
}

/// Keeps a job that runs away from taking the whole machine with it: the engine fails alone beyond its memory.
fn limit_memory(bytes: u64) {
    let resource = rustix::process::Resource::As;
    // Its own limit only: the process that renders templates has another one.
    let maximum = rustix::process::getrlimit(resource).maximum;
    let limit = rustix::process::Rlimit { current: Some(maximum.map_or(bytes, |most| most.min(bytes))), maximum };
    if let Err(error) = rustix::process::setrlimit(resource, limit) {
        tracing::debug!(%error, "the engine runs without a memory limit");
    }
}

/// The frame of a reply; one that is too large becomes the failure of its job.
fn bounded(reply: Reply) -> Vec<u8> {
    let frame = wire::encode(&reply);
    match reply.job() {
        Some(job) if frame.len() > FRAME_MAX_BYTES => {
            let reason = format!("a result of {} bytes is beyond the bound of {FRAME_MAX_BYTES}", frame.len());
            wire::encode(&Reply::Failed { job, reason })
        }
        _ => frame,
    }
}

fn lower_priority() {
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
        tracing::debug!(%error, "the engine keeps the node's priority");
    }
}

fn take(ask: Ask, shelf: &Arc<Shelf>, replies: &SyncSender<Reply>) {
    match ask {
        Ask::Base { id, path } => shelf.bases.hold(id, path.into()),
        Ask::Forget { id } => shelf.forget(&id),
        Ask::Stop { job } => {
            if let Some(stop) = locked(&shelf.stopped).remove(&job) {
                stop.store(true, Ordering::Relaxed);
            }
        }
        other => start(other, shelf, replies),
    }
}

fn start(ask: Ask, shelf: &Arc<Shelf>, replies: &SyncSender<Reply>) {
    let job = ask.job();
    let stop = Arc::new(AtomicBool::new(false));
    locked(&shelf.stopped).insert(job, Arc::clone(&stop));
    let context = JobContext::new(job, Arc::clone(shelf), replies.clone(), stop);
    let spawned = std::thread::Builder::new().name(format!("job {}", job.short())).spawn(move || {
        let ended = catch_unwind(AssertUnwindSafe(|| jobs::perform(&context, ask)));
        locked(&context.shelf.stopped).remove(&context.job);
        context.reply(ended_as(context.job, ended));
    });
    if let Err(error) = spawned {
        let _ = replies.send(Reply::Failed { job, reason: error.to_string() });
    }
}

fn ended_as(job: Hash, ended: std::thread::Result<Result<Done, String>>) -> Reply {
    match ended {
        Ok(Ok(outcome)) => Reply::Done { job, outcome },
        Ok(Err(reason)) => Reply::Failed { job, reason },
        Err(_) => Reply::Failed { job, reason: "the engine panicked in this job".into() },
    }
}
