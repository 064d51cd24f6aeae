//! Token by token back to text: whole characters only, and nothing of a stop sequence.
//!
//! Invariant: the pieces handed out, joined, are a prefix of what decoding all tokens at once gives, and after
//! [`TextStream::finish`] they are that text up to the first stop sequence. Only where a byte-fallback model writes bytes
//! that are no UTF-8 behind good ones, decoding at once would take back characters already handed out; those stay.

use crate::engine::EngineError;

/// What decoding shows for bytes that are no character yet.
const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;

/// Turns ids into text; the tokenizer behind it must concatenate (byte-level or byte-fallback BPE).
pub(crate) type Decode<'a> = &'a dyn Fn(&[u32]) -> Result<String, EngineError>;

/// The text of a growing answer.
pub(crate) struct TextStream {
    stops: Vec<String>,
    tokens: Vec<u32>,
    /// Tokens before this one are settled; the window from here on gives the context that the decoder needs.
    window: usize,
    /// Tokens of the window whose text is already in `text`.
    read: usize,
    text: String,
    given: usize,
    stopped: bool,
}

impl TextStream {
    pub(crate) fn new(stops: &[String]) -> Self {
        Self {
            stops: stops.to_vec(),
            tokens: Vec::new(),
            window: 0,
            read: 0,
            text: String::new(),
            given: 0,
            stopped: false,
        }
    }

    /// Adds a token and returns the text that is certain now.
    pub(crate) fn push(&mut self, decode: Decode<'_>, token: u32) -> Result<&str, EngineError> {
        self.tokens.push(token);
        self.settle(decode, false)?;
        let end = if self.stopped { self.text.len() } else { self.text.len() - self.held_back() };
        Ok(self.hand_out(end))
    }

    /// Whether a stop sequence was reached: no token may follow.
    pub(crate) fn stopped(&self) -> bool {
        self.stopped
    }

    /// What was held back for a character or a stop sequence that never came.
    pub(crate) fn finish(&mut self, decode: Decode<'_>) -> Result<&str, EngineError> {
        if !self.stopped {
            self.settle(decode, true)?;
        }
        let end = self.text.len();
        Ok(self.hand_out(end))
    }

    /// All text so far, including what is still held back.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    fn settle(&mut self, decode: Decode<'_>, last: bool) -> Result<(), EngineError> {
        let before = decode(&self.tokens[self.window..self.read])?;
        let now = decode(&self.tokens[self.window..])?;
        if now.ends_with(REPLACEMENT) && !last {
            return Ok(());
        }
        let alone;
        let fresh = match now.strip_prefix(before.as_str()) {
            Some(fresh) => fresh,
            None => {
                alone = decode(&self.tokens[self.read..])?;
                alone.as_str()
            }
        };
        if fresh.is_empty() && !last {
            return Ok(());
        }
        self.text.push_str(fresh);
        self.window = self.read;
        self.read = self.tokens.len();
        self.cut_at_stop(fresh.len());
        Ok(())
    }

    /// Cuts the text where the earliest stop sequence begins; only the end of `fresh` bytes can hold a new one.
    fn cut_at_stop(&mut self, fresh: usize) {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let mut from = self.text.len().saturating_sub(fresh + longest);
        while !self.text.is_char_boundary(from) {
            from -= 1;
        }
        let tail = &self.text[from..];
        if let Some(at) = self.stops.iter().filter_map(|stop| tail.find(stop.as_str())).min() {
            self.text.truncate(from + at);
            self.stopped = true;
        }
    }

    /// Bytes at the end that could be the start of a stop sequence.
    fn held_back(&self) -> usize {
        let open = &self.text[self.given..];
        self.stops.iter().map(|stop| overlap(open, stop)).max().unwrap_or(0)
    }

    fn hand_out(&mut self, end: usize) -> &str {
        let from = self.given.min(end);
        self.given = end.max(self.given);
        &self.text[from..end]
    }
}

/// The longest end of `text` that is a proper beginning of `stop`, in bytes.
fn overlap(text: &str, stop: &str) -> usize {
    stop.char_indices().map(|(at, _)| at).rev().find(|&at| text.ends_with(&stop[..at])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::TextStream;
    use crate::engine::EngineError;

    /// A byte-level tokenizer: one token, one byte.
    fn bytes(ids: &[u32]) -> Result<String, EngineError> {
        let raw: Vec<u8> = ids.iter().map(|&id| u8::try_from(id).unwrap()).collect();
        Ok(String::from_utf8_lossy(&raw).into_owned())
    }

    fn stream(input: &[u8], stops: &[&str]) -> (String, Vec<String>) {
        let stops: Vec<String> = stops.iter().map(ToString::to_string).collect();
        let mut stream = TextStream::new(&stops);
        let mut pieces = Vec::new();
        for &byte in input {
            pieces.push(stream.push(&bytes, u32::from(byte)).unwrap().to_owned());
            if stream.stopped() {
                break;
            }
        }
        pieces.push(stream.finish(&bytes).unwrap().to_owned());
        assert_eq!(pieces.concat(), stream.text());
        (pieces.concat(), pieces)
    }

    #[test]
    fn multi_byte_characters_come_whole() {
        let text = "a é 漢字 🦀 e\u{301} z";
        let (all, pieces) = stream(text.as_bytes(), &[]);
        assert_eq!(all, text);
        assert!(pieces.iter().all(|piece| !piece.contains('\u{fffd}')));
    }

    #[test]
    fn broken_bytes_equal_the_lossy_whole() {
        for raw in [&b"ok\xe4\xb8"[..], b"\xffabc", b"a\xe4b\xf0\x9f", b"\xf0\x9f\xa6\x80\x80!"] {
            assert_eq!(stream(raw, &[]).0, String::from_utf8_lossy(raw));
        }
    }

    /// As the decoder `ByteFallback`: a run of bytes that is no UTF-8 as a whole shows one mark for each byte. Ids beyond
    /// bytes are the word "ok".
    fn fallback(ids: &[u32]) -> Result<String, EngineError> {
        let runs = ids.chunk_by(|a, b| (*a < 256) == (*b < 256));
        let texts = runs.map(|run| match run.iter().map(|&id| u8::try_from(id)).collect::<Result<Vec<u8>, _>>() {
            Ok(raw) => String::from_utf8(raw).unwrap_or_else(|error| "\u{fffd}".repeat(error.as_bytes().len())),
            Err(_) => "ok".repeat(run.len()),
        });
        Ok(texts.collect())
    }

    #[test]
    fn bytes_that_spoil_earlier_ones_take_nothing_back() {
        let mut stream = TextStream::new(&[]);
        let ids = "李雷".bytes().map(u32::from).chain([0xE6, 256, 0xE6]);
        let mut said: String = ids.map(|id| stream.push(&fallback, id).unwrap().to_owned()).collect();
        said.push_str(stream.finish(&fallback).unwrap());
        assert_eq!(said, "李雷\u{fffd}ok\u{fffd}");
        assert_eq!(said, stream.text());
    }

    #[test]
    fn a_stop_sequence_ends_the_text_before_it() {
        assert_eq!(stream(b"one two\n\nthree", &["\n\n"]).0, "one two");
        assert_eq!(stream(b"abcabx", &["abx", "y"]).0, "abc");
        assert_eq!(stream("né fin".as_bytes(), &["é "]).0, "n");
    }

    #[test]
    fn a_stop_sequence_that_does_not_complete_is_given_back() {
        let (all, pieces) = stream(b"one\ntwo\n", &["\n\n"]);
        assert_eq!(all, "one\ntwo\n");
        assert!(pieces.iter().any(|piece| piece == "\nt"));
    }
}
