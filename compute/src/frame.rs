//! Messages between processes: four bytes of length, little-endian, then so many bytes.
//!
//! Invariant: no frame beyond its reader's bound takes memory.

use std::io::{self, Read, Write};

/// Writes one message.
///
/// # Errors
/// When the stream breaks, or the message is longer than four bytes can say.
pub fn write(out: &mut impl Write, message: &[u8]) -> io::Result<()> {
    let length = u32::try_from(message.len()).map_err(io::Error::other)?;
    out.write_all(&length.to_le_bytes())?;
    out.write_all(message)?;
    out.flush()
}

/// Reads one message of at most `most` bytes; `None` at the end of the stream.
///
/// # Errors
/// When the stream breaks or a message is beyond its bound.
pub fn read(input: &mut impl Read, most: usize) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match input.read_exact(&mut length) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let length = usize::try_from(u32::from_le_bytes(length)).map_err(io::Error::other)?;
    if length > most {
        return Err(io::Error::other(format!("a frame of {length} bytes, at most {most}")));
    }
    let mut message = vec![0; length];
    input.read_exact(&mut message)?;
    Ok(Some(message))
}

#[cfg(test)]
mod tests {
    use super::{read, write};

    #[test]
    fn what_is_written_is_read_until_the_end_and_nothing_beyond_its_bound() {
        let mut stream = Vec::new();
        write(&mut stream, b"one").unwrap();
        write(&mut stream, b"").unwrap();
        let mut rest = stream.as_slice();
        assert_eq!(read(&mut rest, 3).unwrap().as_deref(), Some(b"one".as_slice()));
        assert_eq!(read(&mut rest, 3).unwrap().as_deref(), Some(b"".as_slice()));
        assert_eq!(read(&mut rest, 3).unwrap(), None);
        assert!(read(&mut stream.as_slice(), 2).is_err(), "longer than the bound");
        assert!(read(&mut &stream[..5], 3).is_err(), "cut off");
    }
}
