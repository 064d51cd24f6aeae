//! Answer streams: questions and answers between asker and worker, token by token, on the data plane.
//!
//! Frames begin with a tag: `TEXT` a piece of the answer, `LOGPROBS` reports of tokens, before the text that they lead
//! to, `TRANSCRIPT` a part of tokens and fingerprints, `OFFER` the envelope with the worker's receipt offer, `REFUSAL` the
//! kind of a reason in one byte and the reason.
//! The asker's first and only frame is the envelope of the question. A node that answers itself does so with the
//! same frames over a channel.
//!
//! Invariant: an answer counts only when its stream ended with an offer; everything received is bounded.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{broadcast, mpsc};
use tokio::task::AbortHandle;
use tributary_compute::proof::fingerprint_root;
use tributary_protocol::id::{Hash, NodeId};
use tributary_protocol::limits::{ANSWER_TOKENS_MAX, ENVELOPE_MAX_BYTES, LOGPROBS_MAX};
use tributary_protocol::logprobs::{TokenReport, commitment};
use tributary_protocol::node::{AnswerTranscript, Input};
use tributary_protocol::refusal::{Refusal, RefusalKind};
use tributary_protocol::wire;

use crate::bundle::{TRANSCRIPT_MAX_BYTES, Transcript, fingerprints_of};
use crate::handle::NodeHandle;
use crate::lock::locked;
use crate::net::data::{AnswerSender, AnswerStream, DataPlane};
use crate::net::limits::ANSWER_FRAME_BYTES;
use crate::traffic::Traffic;

const TEXT: u8 = 1;
const TRANSCRIPT: u8 = 2;
const OFFER: u8 = 3;
const REFUSAL: u8 = 4;
const LOGPROBS: u8 = 5;
/// Reports in one frame: with twenty tokens beside each and the longest words below a frame's bound.
const REPORTS_PER_FRAME: usize = 8;
/// Bytes of one part of a transcript.
const PART_BYTES: usize = 32 * 1024;
/// How long the asker's first frame may take.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a worker may be silent within an answer: a prefill of a long prompt on a slow machine.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(45);
/// The longest answer text: sixteen bytes a token.
const TEXT_MAX_BYTES: usize = ANSWER_TOKENS_MAX as usize * 16;
/// Pieces that a slow reader may lag behind before it misses some.
const PIECES: usize = 1024;
/// Characters of a worker's reason that are shown.
const REASON_MAX_CHARS: usize = 300;
/// Streams open at once, each way.
const STREAMS_MAX: usize = 256;

/// What happens while an answer comes in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// More text, with the tokens that led to it where their probabilities were asked for.
    Text(String, Vec<TokenReport>),
    /// The answer ended; all its tokens, where they were asked for.
    Tokens(Arc<Vec<TokenReport>>),
    /// The worker failed; the text so far is void and another worker is asked. Without words when it refused for good.
    Retry(String),
}

/// Frames between a node and itself that wait to be taken in.
const LOCAL_FRAMES: usize = 64;

/// Where the frames of an answer go.
enum Sink {
    Peer(AnswerSender),
    Here(mpsc::Sender<Vec<u8>>),
}

impl Sink {
    async fn send(&mut self, frame: Vec<u8>) -> Result<(), String> {
        match self {
            Self::Peer(sender) => sender.send(frame).await.map_err(|error| error.to_string()),
            Self::Here(sender) => sender.send(frame).await.map_err(|_| "the asker went away".to_owned()),
        }
    }

    fn finish(&mut self) {
        if let Self::Peer(sender) = self {
            sender.finish();
        }
    }
}

/// Where they come from.
enum Source {
    Peer(Box<AnswerStream>),
    Here(mpsc::Receiver<Vec<u8>>),
}

impl Source {
    async fn recv(&mut self) -> Result<Option<Vec<u8>>, String> {
        match self {
            Self::Peer(stream) => {
                let frame = stream.recv().await.map_err(|error| error.to_string())?;
                Ok(frame.map(|bytes| bytes.to_vec()))
            }
            Self::Here(receiver) => Ok(receiver.recv().await),
        }
    }

    fn finish(&mut self) {
        if let Self::Peer(stream) = self {
            stream.finish();
        }
    }
}

struct Open {
    sender: Arc<tokio::sync::Mutex<Sink>>,
    transcript: Vec<u8>,
}

/// All open streams of this node.
#[derive(Default)]
pub struct Answers {
    next: AtomicU64,
    open: Mutex<BTreeMap<u64, Open>>,
    listeners: Mutex<BTreeMap<Hash, broadcast::Sender<Piece>>>,
    /// The questions that this node takes an answer to in.
    asking: Mutex<BTreeMap<Hash, AbortHandle>>,
}

fn frame(tag: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(payload.len() + 1);
    frame.push(tag);
    frame.extend_from_slice(payload);
    frame
}

impl Answers {
    /// The worker's side: takes a stream that a peer opened.
    pub fn accept(self: &Arc<Self>, stream: AnswerStream, node: NodeHandle, traffic: Arc<Traffic>) {
        let answers = Arc::clone(self);
        tokio::spawn(async move {
            let from = stream.from;
            let (sender, mut receiver) = stream.split();
            let question = tokio::time::timeout(QUESTION_TIMEOUT, receiver.recv()).await;
            let Ok(Ok(Some(bytes))) = question else { return };
            if bytes.len() > ENVELOPE_MAX_BYTES {
                return;
            }
            traffic.received(bytes.len());
            let Some(id) = answers.open(Sink::Peer(sender)) else { return };
            let _ = node.input(Input::Question { from, stream: id, bytes: bytes.to_vec() }).await;
        });
    }

    /// The number of a new stream, unless too many are open.
    fn open(&self, sink: Sink) -> Option<u64> {
        let mut open = locked(&self.open);
        if open.len() >= STREAMS_MAX {
            return None;
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let sender = Arc::new(tokio::sync::Mutex::new(sink));
        open.insert(id, Open { sender, transcript: Vec::new() });
        Some(id)
    }

    async fn send(&self, stream: u64, frame: Vec<u8>) -> Result<(), String> {
        let sender = locked(&self.open).get(&stream).map(|open| Arc::clone(&open.sender));
        let sender = sender.ok_or("the stream is closed")?;
        let sent = sender.lock().await.send(frame).await;
        sent.inspect_err(|_| {
            locked(&self.open).remove(&stream);
        })
    }

    /// Sends a piece of the answer.
    ///
    /// # Errors
    /// When the asker went away.
    pub async fn text(&self, stream: u64, text: &str, tokens: &[TokenReport]) -> Result<(), String> {
        for part in tokens.chunks(REPORTS_PER_FRAME) {
            self.send(stream, frame(LOGPROBS, &wire::encode(&part.to_vec()))).await?;
        }
        if text.is_empty() {
            return Ok(());
        }
        self.send(stream, frame(TEXT, text.as_bytes())).await
    }

    /// Says that an answer is still worked on: a part of the transcript without bytes.
    ///
    /// # Errors
    /// When the asker went away.
    pub async fn still(&self, stream: u64) -> Result<(), String> {
        self.send(stream, frame(TRANSCRIPT, &[])).await
    }

    /// Returns when the asker went away. While somebody waits for that, nothing can be sent.
    pub async fn gone(&self, stream: u64) {
        let sender = locked(&self.open).get(&stream).map(|open| Arc::clone(&open.sender));
        let Some(sender) = sender else { return };
        let sink = sender.lock().await;
        match &*sink {
            Sink::Peer(sender) => sender.cancelled().await,
            Sink::Here(sender) => sender.closed().await,
        }
    }

    /// Keeps tokens and fingerprints until the answer ends.
    pub fn hold_transcript(&self, stream: u64, transcript: Vec<u8>) {
        if let Some(open) = locked(&self.open).get_mut(&stream) {
            open.transcript = transcript;
        }
    }

    /// Ends an answer with its transcript and the receipt offer.
    pub async fn finish(&self, stream: u64, offer: &[u8]) {
        let transcript = locked(&self.open).get_mut(&stream).map(|open| std::mem::take(&mut open.transcript));
        for part in transcript.unwrap_or_default().chunks(PART_BYTES) {
            if self.send(stream, frame(TRANSCRIPT, part)).await.is_err() {
                return;
            }
        }
        if self.send(stream, frame(OFFER, offer)).await.is_ok() {
            self.close(stream).await;
        }
    }

    /// Ends an answer with a refusal.
    pub async fn refuse(&self, stream: u64, refusal: &Refusal) {
        let payload = [&[refusal.kind.code()], refusal.reason.as_bytes()].concat();
        if self.send(stream, frame(REFUSAL, &payload)).await.is_ok() {
            self.close(stream).await;
        }
    }

    async fn close(&self, stream: u64) {
        let open = locked(&self.open).remove(&stream);
        if let Some(open) = open {
            open.sender.lock().await.finish();
        }
    }

    /// The pieces of the answer to question `key`, from now on.
    pub fn listen(&self, key: Hash) -> broadcast::Receiver<Piece> {
        let mut listeners = locked(&self.listeners);
        if listeners.len() >= STREAMS_MAX {
            listeners.retain(|_, sender| sender.receiver_count() > 0);
        }
        listeners.entry(key).or_insert_with(|| broadcast::channel(PIECES).0).subscribe()
    }

    fn tell(&self, key: Hash, piece: Piece) {
        let mut listeners = locked(&self.listeners);
        if listeners.get(&key).is_some_and(|sender| sender.send(piece).is_err()) {
            listeners.remove(&key);
        }
    }

    /// The asker's side: puts the question and takes the answer in. `worker` is `None` when this node answers itself.
    pub fn ask(
        self: &Arc<Self>,
        key: Hash,
        worker: Option<NodeId>,
        question: Vec<u8>,
        data: DataPlane,
        node: NodeHandle,
        traffic: Arc<Traffic>,
    ) {
        let answers = Arc::clone(self);
        let task = tokio::spawn(async move {
            let taken = match worker {
                Some(worker) => answers.ask_peer(key, worker, question, &data, &traffic).await,
                None => answers.ask_here(key, question, &node).await,
            };
            let input = match taken {
                Ok((offer, transcript)) => Input::AnswerArrived { key, offer, transcript: Box::new(transcript) },
                Err(refusal) => {
                    // What is final ends the question or leads to another worker; there is nothing to say of it yet.
                    let reason = if refusal.kind.is_final() { String::new() } else { refusal.reason.clone() };
                    answers.tell(key, Piece::Retry(reason));
                    Input::AnswerFailed { key, refusal }
                }
            };
            let _ = node.input(input).await;
        });
        let mut asking = locked(&self.asking);
        asking.retain(|_, task| !task.is_finished());
        // What an earlier worker still says of this question would be taken for the new one's.
        if let Some(earlier) = asking.insert(key, task.abort_handle()) {
            earlier.abort();
        }
    }

    /// The question is given up: its stream ends, and with it the worker's computing.
    pub fn give_up(&self, key: &Hash) {
        if let Some(task) = locked(&self.asking).remove(key) {
            task.abort();
        }
    }

    async fn ask_peer(
        &self,
        key: Hash,
        worker: NodeId,
        question: Vec<u8>,
        data: &DataPlane,
        traffic: &Traffic,
    ) -> Result<(Vec<u8>, AnswerTranscript), Refusal> {
        traffic.sent(question.len());
        let mut stream = data.open_answer(worker).await.map_err(|error| error.to_string())?;
        stream.send(question).await.map_err(|error| error.to_string())?;
        self.take(key, Source::Peer(Box::new(stream)), |bytes| traffic.received(bytes)).await
    }

    async fn ask_here(
        &self,
        key: Hash,
        question: Vec<u8>,
        node: &NodeHandle,
    ) -> Result<(Vec<u8>, AnswerTranscript), Refusal> {
        let from = node.view(tributary_protocol::node::Node::id).await.map_err(|error| error.to_string())?;
        let (sender, receiver) = mpsc::channel(LOCAL_FRAMES);
        let stream = self.open(Sink::Here(sender)).ok_or("too many answers at once")?;
        let asked = node.input(Input::Question { from, stream, bytes: question }).await;
        asked.map_err(|error| error.to_string())?;
        self.take(key, Source::Here(receiver), |_| ()).await
    }

    async fn take(
        &self,
        key: Hash,
        mut source: Source,
        count: impl Fn(usize),
    ) -> Result<(Vec<u8>, AnswerTranscript), Refusal> {
        let mut received = Received::default();
        loop {
            let next = tokio::time::timeout(SILENCE_TIMEOUT, source.recv()).await;
            let next = next.map_err(|_| format!("silent for {} s", SILENCE_TIMEOUT.as_secs()))?;
            let Some(bytes) = next? else {
                return Err("the stream ended without a receipt".into());
            };
            count(bytes.len());
            if let Some(text) = received.take(&bytes)? {
                let fresh = received.fresh_tokens();
                self.tell(key, Piece::Text(text, fresh));
            }
            if let Some(offer) = received.offer.take() {
                source.finish();
                let (transcript, tokens) = received.into_transcript()?;
                if !tokens.is_empty() {
                    self.tell(key, Piece::Tokens(Arc::new(tokens)));
                }
                return Ok((offer, transcript));
            }
        }
    }
}

#[derive(Default)]
struct Received {
    text: String,
    tokens: Vec<TokenReport>,
    /// Of these, how many were told of with text.
    told: usize,
    /// Tokens in all of them, those beside the answer's own counted too.
    reported: usize,
    transcript: Vec<u8>,
    offer: Option<Vec<u8>>,
}

impl Received {
    /// Takes one frame; returns new text.
    fn take(&mut self, bytes: &[u8]) -> Result<Option<String>, Refusal> {
        let (tag, payload) = bytes.split_first().ok_or("an empty frame")?;
        match *tag {
            TEXT => {
                let text = std::str::from_utf8(payload).map_err(|_| "the answer is not UTF-8")?;
                if self.text.len() + text.len() > TEXT_MAX_BYTES {
                    return Err("the answer is too long".into());
                }
                self.text.push_str(text);
                return Ok(Some(text.to_owned()));
            }
            LOGPROBS => self.take_tokens(payload)?,
            TRANSCRIPT => {
                if self.transcript.len() + payload.len() > TRANSCRIPT_MAX_BYTES {
                    return Err("the transcript is too long".into());
                }
                self.transcript.extend_from_slice(payload);
            }
            OFFER => self.offer = Some(payload.to_vec()),
            REFUSAL => return Err(refusal_of(payload)),
            other => return Err(format!("a frame of unknown kind {other}").into()),
        }
        Ok(None)
    }

    fn take_tokens(&mut self, payload: &[u8]) -> Result<(), Refusal> {
        let reports: Vec<TokenReport> = wire::decode(payload, ANSWER_FRAME_BYTES).map_err(|error| error.to_string())?;
        self.reported += reports.iter().map(|report| 1 + report.top.len()).sum::<usize>();
        if self.reported > LOGPROBS_MAX as usize || !reports.iter().all(TokenReport::is_well_formed) {
            return Err("the tokens' probabilities are beyond their bound".into());
        }
        self.tokens.extend(reports);
        Ok(())
    }

    /// The tokens that led to the text received now.
    fn fresh_tokens(&mut self) -> Vec<TokenReport> {
        let fresh = self.tokens[self.told..].to_vec();
        self.told = self.tokens.len();
        fresh
    }

    fn into_transcript(self) -> Result<(AnswerTranscript, Vec<TokenReport>), String> {
        let transcript = Transcript::from_bytes(&self.transcript).map_err(|error| error.to_string())?;
        let fingerprints = fingerprint_root(&fingerprints_of(&transcript)?);
        let logprobs = match u32::try_from(self.tokens.len()) {
            Ok(0) => None,
            Ok(count) if self.tokens.iter().map(|report| report.chosen.token).eq(transcript.output_tokens) => {
                Some((count, commitment(&self.tokens)))
            }
            _ => return Err("the probabilities are of other tokens than the answer's".into()),
        };
        let told = AnswerTranscript { text: self.text, fingerprints, logprobs, transcript: self.transcript };
        Ok((told, self.tokens))
    }
}

/// A worker's refusal: its kind and its words, as many as a person reads.
fn refusal_of(payload: &[u8]) -> Refusal {
    let Some((kind, reason)) = payload.split_first() else { return "refused without a reason".into() };
    let reason: String = String::from_utf8_lossy(reason).chars().take(REASON_MAX_CHARS).collect();
    Refusal::new(RefusalKind::of_code(*kind), reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_keeps_its_kind_on_the_stream() {
        let mut received = Received::default();
        let bytes = frame(REFUSAL, &[&[RefusalKind::TooLong.code()], "the prompt has 900 tokens".as_bytes()].concat());
        let refused = received.take(&bytes).unwrap_err();
        assert_eq!(refused, Refusal::new(RefusalKind::TooLong, "the prompt has 900 tokens"));
        assert_eq!(received.take(&[REFUSAL]).unwrap_err().kind, RefusalKind::Transient);
        let endless = frame(REFUSAL, &[b'x'; 60_000]);
        assert_eq!(received.take(&endless).unwrap_err().reason.len(), REASON_MAX_CHARS);
    }
}
