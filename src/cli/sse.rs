//! Server-sent events: bytes in, messages out. Pure.

/// The longest message that is taken, in bytes. An instance of 200 nodes is 100 KiB; a stream
/// beyond this is not one of ours, and must not eat our memory.
const MESSAGE_MAX: usize = 16 << 20;
/// The most lines of a message: ours have one.
const LINES_MAX: usize = 1000;

/// One event of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its name; `message` when it has none.
    pub event: String,
    /// Its data, lines joined.
    pub data: String,
}

/// Takes the bytes of a stream as they come, split anywhere.
///
/// Lines may end in LF or CRLF (a CR alone, which the standard also allows, is never sent by us).
#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    event: String,
    data: Vec<String>,
    size: usize,
}

impl Parser {
    /// The messages that end within these bytes, or why this is not a stream of ours.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Message>, String> {
        let mut messages = Vec::new();
        for part in bytes.split_inclusive(|b| *b == b'\n') {
            self.size += part.len();
            if self.size > MESSAGE_MAX {
                return Err(format!("a message of the stream is longer than {MESSAGE_MAX} bytes"));
            }
            if self.data.len() > LINES_MAX {
                return Err(format!("a message of the stream has more than {LINES_MAX} lines"));
            }
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                messages.extend(self.line(&String::from_utf8_lossy(&line)));
            }
        }
        Ok(messages)
    }

    fn line(&mut self, line: &str) -> Option<Message> {
        let line = line.trim_end_matches(['\n', '\r']);
        if line.is_empty() {
            return self.end_of_message();
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => self.event = value.to_string(),
            "data" => self.data.push(value.to_string()),
            _ => {} // A comment (its field is empty), `id` or `retry`: not used here.
        }
        None
    }

    fn end_of_message(&mut self) -> Option<Message> {
        self.size = 0;
        let event = std::mem::take(&mut self.event);
        let data = std::mem::take(&mut self.data).join("\n");
        if event.is_empty() && data.is_empty() {
            return None;
        }
        let event = if event.is_empty() { "message".to_string() } else { event };
        Some(Message { event, data })
    }
}

#[cfg(test)]
mod tests {
    use super::{MESSAGE_MAX, Message, Parser};

    fn message(event: &str, data: &str) -> Message {
        Message { event: event.into(), data: data.into() }
    }

    const STREAM: &str =
        ": hello\n\nevent: set\ndata: {\"name\":\"größe\"}\n\nevent:synced\n\ndata: a\r\ndata:b\r\n\r\n";

    fn expected() -> Vec<Message> {
        vec![message("set", "{\"name\":\"größe\"}"), message("synced", ""), message("message", "a\nb")]
    }

    #[test]
    fn a_stream_gives_the_same_messages_wherever_it_is_cut() {
        let bytes = STREAM.as_bytes();
        for cut in 0..=bytes.len() {
            let mut parser = Parser::default();
            let mut messages = parser.push(&bytes[..cut]).unwrap();
            messages.extend(parser.push(&bytes[cut..]).unwrap());
            assert_eq!(messages, expected(), "cut at {cut}");
        }
    }

    #[test]
    fn comments_ids_and_unknown_fields_are_skipped() {
        let mut parser = Parser::default();
        assert_eq!(parser.push(b":\n\nid: 1\nretry: 5\nfoo\n\nevent: e\nid: 2\n\n"), Ok(vec![message("e", "")]));
    }

    #[test]
    fn a_message_without_end_is_refused_before_it_fills_the_memory() {
        let mut parser = Parser::default();
        let chunk = vec![b'x'; MESSAGE_MAX / 4];
        assert!((0..4).all(|_| parser.push(&chunk).is_ok()));
        assert!(parser.push(&chunk).unwrap_err().contains("longer than"));
    }

    #[test]
    fn a_stream_is_read_in_time_that_grows_with_its_length_however_it_is_cut() {
        let stream = |bytes: usize| "data: a\n\n".repeat(bytes / 9) + "data: " + &"x".repeat(bytes);
        crate::linear::assert_linear("a stream", 100_000, stream, |stream| {
            let mut parser = Parser::default();
            for piece in stream.as_bytes().chunks(7) {
                parser.push(piece).unwrap();
            }
        });
        let lines = "data:\n".repeat(super::LINES_MAX + 2);
        assert!(Parser::default().push(lines.as_bytes()).unwrap_err().contains("lines"));
    }

    proptest::proptest! {
        #[test]
        fn rubbish_never_panics(bytes: Vec<u8>) {
            let _ = Parser::default().push(&bytes);
        }
    }
}
