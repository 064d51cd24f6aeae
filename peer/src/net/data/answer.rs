//! Streams for a request and its answer: frames of bytes in both directions, encrypted by iroh, until one side has
//! finished or cancels.
//!
//! Invariant: dropping a half that was not finished cancels it at the other end; a frame above the limit is refused
//! before its bytes are read. On the wire a stream starts with one version byte from each side, then come frames:
//! a big-endian u32 length and that many bytes.

use bytes::{Buf, Bytes, BytesMut};
use iroh::endpoint::{Connection, ReadError, RecvStream, SendStream, VarInt, WriteError};
use iroh::protocol::{AcceptError, ProtocolHandler};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tributary_protocol::id::NodeId;

use super::connections::Connections;
use crate::net::limits::{ANSWER_FRAME_BYTES, ANSWER_GREETING};
use crate::net::{NetError, identity};

/// The protocol's name in the TLS handshake.
pub(super) const ALPN: &[u8] = b"tributary/answer/1";
/// Both sides greet with it.
const GREETING: u8 = 1;
/// Length prefix of a frame.
const HEADER_BYTES: usize = 4;
/// The other side has lost interest.
const CANCELLED: VarInt = VarInt::from_u32(1);
/// Too many streams wait to be taken.
const BUSY: VarInt = VarInt::from_u32(2);

/// Why a stream ended early.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// The other side cancelled.
    #[error("cancelled by the other side")]
    Cancelled,
    /// The connection is gone.
    #[error("the connection broke: {reason}")]
    Lost {
        /// What iroh said.
        reason: String,
    },
    /// A frame is above the limit.
    #[error("frame of {size} bytes, at most {limit} are allowed")]
    TooLarge {
        /// Bytes of the frame.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The stream ended within a frame.
    #[error("the stream ended within a frame")]
    Truncated,
    /// This side has finished already.
    #[error("already finished")]
    Finished,
}

/// Both halves of a stream.
#[derive(Debug)]
pub struct AnswerStream {
    /// Who is at the other end.
    pub from: NodeId,
    sender: AnswerSender,
    receiver: AnswerReceiver,
}

/// The half that sends.
#[derive(Debug)]
pub struct AnswerSender {
    stream: SendStream,
    finished: bool,
    /// Keeps the connection open.
    _connection: Connection,
}

/// The half that receives.
#[derive(Debug)]
pub struct AnswerReceiver {
    stream: RecvStream,
    /// Bytes received and not yet handed out; survives a cancelled `recv`.
    buffer: BytesMut,
    done: bool,
    /// Keeps the connection open.
    _connection: Connection,
}

impl AnswerStream {
    fn new(connection: &Connection, stream: SendStream, receiving: RecvStream) -> Self {
        Self {
            from: identity::node_of_endpoint(connection.remote_id()),
            sender: AnswerSender { stream, finished: false, _connection: connection.clone() },
            receiver: AnswerReceiver {
                stream: receiving,
                buffer: BytesMut::new(),
                done: false,
                _connection: connection.clone(),
            },
        }
    }

    /// Sends one frame. See [`AnswerSender::send`].
    ///
    /// # Errors
    /// As there.
    pub async fn send(&mut self, frame: impl Into<Bytes>) -> Result<(), AnswerError> {
        self.sender.send(frame).await
    }

    /// The next frame. See [`AnswerReceiver::recv`].
    ///
    /// # Errors
    /// As there.
    pub async fn recv(&mut self) -> Result<Option<Bytes>, AnswerError> {
        self.receiver.recv().await
    }

    /// No more frames from this side. See [`AnswerSender::finish`].
    pub fn finish(&mut self) {
        self.sender.finish();
    }

    /// Waits until the other side wants no more. See [`AnswerSender::cancelled`].
    pub async fn cancelled(&self) {
        self.sender.cancelled().await;
    }

    /// Takes the stream apart, to send and receive at the same time.
    #[must_use]
    pub fn split(self) -> (AnswerSender, AnswerReceiver) {
        (self.sender, self.receiver)
    }
}

impl AnswerSender {
    /// Sends one frame; waits while the other side reads more slowly. A frame whose sending was interrupted leaves
    /// the stream unusable.
    ///
    /// # Errors
    /// [`AnswerError::TooLarge`] above 64 KiB, [`AnswerError::Cancelled`] or [`AnswerError::Lost`].
    pub async fn send(&mut self, frame: impl Into<Bytes>) -> Result<(), AnswerError> {
        let frame = frame.into();
        let too_large = AnswerError::TooLarge { size: frame.len(), limit: ANSWER_FRAME_BYTES };
        let length = match u32::try_from(frame.len()) {
            Ok(length) if frame.len() <= ANSWER_FRAME_BYTES => length,
            _ => return Err(too_large),
        };
        if self.finished {
            return Err(AnswerError::Finished);
        }
        let mut chunks = [Bytes::copy_from_slice(&length.to_be_bytes()), frame];
        self.stream.write_all_chunks(&mut chunks).await.map_err(write_error)
    }

    /// Says that no more frames follow. What was sent still arrives, even when this half is dropped afterwards.
    pub fn finish(&mut self) {
        self.finished = true;
        // An error means that the other side stopped the stream before: it wants nothing.
        let _ = self.stream.finish();
    }

    /// Returns when the other side cancels, is gone, or has received everything after [`AnswerSender::finish`].
    pub async fn cancelled(&self) {
        // Each of the outcomes is one of those three.
        let _ = self.stream.stopped().await;
    }
}

impl Drop for AnswerSender {
    fn drop(&mut self) {
        if !self.finished {
            // An error means that the stream has ended already.
            let _ = self.stream.reset(CANCELLED);
        }
    }
}

impl AnswerReceiver {
    /// The next frame, or `None` when the other side has finished. Interrupting it loses nothing.
    ///
    /// # Errors
    /// [`AnswerError::Cancelled`], [`AnswerError::Lost`], and for a misbehaving sender [`AnswerError::TooLarge`] or
    /// [`AnswerError::Truncated`].
    pub async fn recv(&mut self) -> Result<Option<Bytes>, AnswerError> {
        if !self.fill(HEADER_BYTES).await? {
            return if self.buffer.is_empty() { Ok(None) } else { Err(AnswerError::Truncated) };
        }
        let header = [self.buffer[0], self.buffer[1], self.buffer[2], self.buffer[3]];
        let size = usize::try_from(u32::from_be_bytes(header)).unwrap_or(usize::MAX);
        if size > ANSWER_FRAME_BYTES {
            return Err(AnswerError::TooLarge { size, limit: ANSWER_FRAME_BYTES });
        }
        if !self.fill(HEADER_BYTES + size).await? {
            return Err(AnswerError::Truncated);
        }
        self.buffer.advance(HEADER_BYTES);
        Ok(Some(self.buffer.split_to(size).freeze()))
    }

    /// Reads until `size` bytes are buffered; false if the stream ends before.
    async fn fill(&mut self, size: usize) -> Result<bool, AnswerError> {
        while self.buffer.len() < size && !self.done {
            match self.stream.read_chunk(size - self.buffer.len()).await.map_err(read_error)? {
                Some(chunk) => self.buffer.extend_from_slice(&chunk),
                None => self.done = true,
            }
        }
        Ok(self.buffer.len() >= size)
    }
}

impl Drop for AnswerReceiver {
    fn drop(&mut self) {
        if !self.done {
            // An error means that the stream has ended already.
            let _ = self.stream.stop(CANCELLED);
        }
    }
}

fn write_error(error: WriteError) -> AnswerError {
    match error {
        WriteError::Stopped(_) => AnswerError::Cancelled,
        WriteError::ClosedStream => AnswerError::Finished,
        error => AnswerError::Lost { reason: error.to_string() },
    }
}

fn read_error(error: ReadError) -> AnswerError {
    match error {
        ReadError::Reset(_) => AnswerError::Cancelled,
        error => AnswerError::Lost { reason: error.to_string() },
    }
}

/// Opens a stream to `node`. A kept connection may lead to the node's former life: then it is made anew once.
pub(super) async fn open(connections: &Connections, node: NodeId) -> Result<AnswerStream, NetError> {
    let mut reason = String::new();
    for _ in 0..2 {
        let connection = connections.get(node, ALPN).await?;
        match timeout(ANSWER_GREETING, greet(&connection)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(Refusal::Busy)) => return Err(NetError::Busy { to: node }),
            Ok(Err(Refusal::Broken(error))) => reason = error,
            Err(_) => "no greeting in time".clone_into(&mut reason),
        }
        connections.drop_stale(node, ALPN);
    }
    Err(NetError::Unreachable { node, reason })
}

enum Refusal {
    Busy,
    Broken(String),
}

impl Refusal {
    fn broken(error: impl std::fmt::Display) -> Self {
        Self::Broken(error.to_string())
    }
}

async fn greet(connection: &Connection) -> Result<AnswerStream, Refusal> {
    let (mut sending, receiving) = connection.open_bi().await.map_err(Refusal::broken)?;
    sending.write_all(&[GREETING]).await.map_err(Refusal::broken)?;
    let mut stream = AnswerStream::new(connection, sending, receiving);
    let mut greeting = [0];
    match stream.receiver.stream.read_exact(&mut greeting).await {
        Ok(()) if greeting == [GREETING] => Ok(stream),
        Ok(()) => Err(Refusal::Broken(format!("greeted with {greeting:?}"))),
        Err(iroh::endpoint::ReadExactError::ReadError(ReadError::Reset(BUSY))) => Err(Refusal::Busy),
        Err(error) => Err(Refusal::broken(error)),
    }
}

/// The accepting side.
#[derive(Debug)]
pub(super) struct AnswerProtocol {
    accepted: mpsc::Sender<AnswerStream>,
}

impl AnswerProtocol {
    pub(super) fn new(accepted: mpsc::Sender<AnswerStream>) -> Self {
        Self { accepted }
    }
}

impl ProtocolHandler for AnswerProtocol {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        // As many as the transport allows streams.
        let mut greetings = JoinSet::new();
        loop {
            tokio::select! {
                stream = connection.accept_bi() => {
                    let Ok((sending, receiving)) = stream else { return Ok(()) };
                    let (connection, accepted) = (connection.clone(), self.accepted.clone());
                    greetings.spawn(welcome(connection, sending, receiving, accepted));
                }
                Some(_) = greetings.join_next() => {}
            }
        }
    }
}

/// Greets back and hands the stream to the node, or says that the node has too many.
async fn welcome(
    connection: Connection,
    mut sending: SendStream,
    mut receiving: RecvStream,
    accepted: mpsc::Sender<AnswerStream>,
) {
    let Ok(place) = accepted.try_reserve() else {
        // Errors mean that the other side is gone.
        let _ = sending.reset(BUSY);
        let _ = receiving.stop(BUSY);
        return;
    };
    let mut greeting = [0];
    let greeted = timeout(ANSWER_GREETING, receiving.read_exact(&mut greeting)).await;
    let stream = AnswerStream::new(&connection, sending, receiving);
    if !matches!(greeted, Ok(Ok(()))) || greeting != [GREETING] {
        return;
    }
    let mut stream = stream;
    if stream.sender.stream.write_all(&[GREETING]).await.is_ok() {
        place.send(stream);
    }
}
