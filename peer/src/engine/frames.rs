//! The messages between node and engine as length-framed bytes, on the node's side.
//!
//! Invariant: a message that is too large is refused before anything is written, and never read.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tributary_protocol::wire;

use super::{Ask, FRAME_MAX_BYTES, Reply};

/// The frame of a request, or its size where that is too large.
pub(super) fn frame_of(ask: &Ask) -> Result<Vec<u8>, usize> {
    let frame = wire::encode(ask);
    if frame.len() > FRAME_MAX_BYTES { Err(frame.len()) } else { Ok(frame) }
}

pub(super) async fn write(input: &mut (impl AsyncWrite + Unpin), frame: &[u8]) -> std::io::Result<()> {
    let length = u32::try_from(frame.len()).map_err(std::io::Error::other)?;
    input.write_all(&length.to_le_bytes()).await?;
    input.write_all(frame).await?;
    input.flush().await
}

/// The next reply; `None` at the end of the stream.
pub(super) async fn read(output: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Option<Reply>> {
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
