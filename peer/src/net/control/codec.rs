//! Framing of direct messages: a big-endian u32 length and that many bytes; the answer is one byte.
//!
//! Invariant: a length above the limit is refused before anything is read, and memory grows with what arrives, not
//! with what is announced. The acknowledgement is a byte, since an empty one would look like a refused stream.

use std::io;

use bytes::Bytes;
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::StreamProtocol;
use libp2p::request_response::Codec;

use crate::net::limits::DIRECT_MAX_BYTES;

/// ASCII "acknowledge".
const ACKNOWLEDGE: u8 = 0x06;

/// The acknowledgement: the receiver's node has the message in its queue.
#[derive(Debug, Clone, Copy)]
pub(super) struct Acknowledged;

/// Reads and writes direct messages.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct DirectCodec;

impl Codec for DirectCodec {
    type Protocol = StreamProtocol;
    type Request = Bytes;
    type Response = Acknowledged;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Bytes>
    where
        T: AsyncRead + Unpin + Send,
    {
        let mut header = [0; 4];
        io.read_exact(&mut header).await?;
        let announced = usize::try_from(u32::from_be_bytes(header)).unwrap_or(usize::MAX);
        if announced > DIRECT_MAX_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("message of {announced} bytes announced")));
        }
        let mut bytes = Vec::new();
        io.take(announced as u64).read_to_end(&mut bytes).await?;
        if bytes.len() < announced {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(bytes.into())
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Acknowledged>
    where
        T: AsyncRead + Unpin + Send,
    {
        let mut byte = [0];
        io.read_exact(&mut byte).await?;
        match byte {
            [ACKNOWLEDGE] => Ok(Acknowledged),
            [other] => Err(io::Error::new(io::ErrorKind::InvalidData, format!("answer {other:#04x}"))),
        }
    }

    async fn write_request<T>(&mut self, _: &StreamProtocol, io: &mut T, request: Bytes) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        let length = u32::try_from(request.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        io.write_all(&length.to_be_bytes()).await?;
        io.write_all(&request).await
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, io: &mut T, _: Acknowledged) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        io.write_all(&[ACKNOWLEDGE]).await
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use futures::io::Cursor;

    use super::{Codec, DirectCodec, StreamProtocol};

    const PROTOCOL: StreamProtocol = StreamProtocol::new("/test");

    async fn read(wire: &[u8]) -> std::io::Result<bytes::Bytes> {
        DirectCodec.read_request(&PROTOCOL, &mut Cursor::new(wire)).await
    }

    #[tokio::test]
    async fn what_is_written_is_read() {
        let mut wire = Vec::new();
        DirectCodec.write_request(&PROTOCOL, &mut wire, "hello".into()).await.unwrap();
        assert_eq!(wire, b"\0\0\0\x05hello");
        assert_eq!(read(&wire).await.unwrap(), "hello");
    }

    #[tokio::test]
    async fn oversized_and_truncated_frames_are_refused() {
        assert_eq!(read(&[0, 0x10, 0, 1]).await.unwrap_err().kind(), ErrorKind::InvalidData);
        assert_eq!(read(&[0xff; 4]).await.unwrap_err().kind(), ErrorKind::InvalidData);
        assert_eq!(read(b"\0\0\0\x05hell").await.unwrap_err().kind(), ErrorKind::UnexpectedEof);
        assert_eq!(read(b"\0\0").await.unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }
}
