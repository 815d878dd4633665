//! Requests out of bytes as they come: each byte is looked at once, and little is kept. Pure.
//!
//! Limits are Redis' own for a client that has not authenticated, or lower: nothing that a Sentinel is asked is
//! longer, and a client may be anybody.

use bytes::{Buf as _, BytesMut};

/// Words of one request, once it is known who asks, ...
const WORDS_MAX: i64 = 1024;
/// ... and before.
const STRANGER_WORDS_MAX: i64 = 10;
/// Bytes of one request: of its words, or of its line.
pub const REQUEST_BYTES_MAX: usize = 16 << 10;
/// Bytes of a line that tells a number.
const NUMBER_BYTES_MAX: usize = 32;

/// The words of a request: a command's name and its arguments.
pub type Request = Vec<String>;

/// What a client sent is no request. Its connection is closed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// It is told so.
    #[error("ERR Protocol error: {0}")]
    Protocol(String),
    /// It speaks HTTP: a browser, probably, that somebody's page has told to do so. It is told nothing.
    #[error("it speaks HTTP: a web page may be trying to send commands")]
    Http,
}

fn wrong<T>(why: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong::Protocol(why.into()))
}

/// Takes requests off a buffer that is filled.
#[derive(Debug, Default)]
pub struct Reader {
    /// Bytes of the buffer without the end of a line.
    looked: usize,
    /// Words that are still to come.
    missing: i64,
    /// Bytes of the next one, once that is known.
    length: Option<usize>,
    words: Request,
    /// Bytes of the words.
    bytes: usize,
}

impl Reader {
    /// Takes the next request. None: more bytes are needed. Empty: a request of no words, which is passed over.
    pub fn take(&mut self, buffer: &mut BytesMut, stranger: bool) -> Result<Option<Request>, Wrong> {
        loop {
            let more = match (self.missing, buffer.first()) {
                (_, None) => return Ok(None),
                (0, Some(b'*')) => self.count(buffer, stranger)?,
                (0, Some(_)) => return self.line_of_words(buffer),
                _ => self.word(buffer, stranger)?,
            };
            if !more {
                return Ok(None);
            }
            if self.missing == 0 {
                self.bytes = 0;
                return checked(std::mem::take(&mut self.words)).map(Some);
            }
        }
    }

    /// Whether a request has begun and is not whole.
    pub fn is_within(&self, buffer: &BytesMut) -> bool {
        self.missing > 0 || !buffer.is_empty()
    }

    fn line_of_words(&mut self, buffer: &mut BytesMut) -> Result<Option<Request>, Wrong> {
        // What TLS sends first, for which a browser chooses some of the bytes, is no line of words.
        if buffer.first().is_some_and(|byte| is_binary(*byte)) {
            return wrong("this is no command: TLS is not spoken here");
        }
        let Some(line) = self.line(buffer, REQUEST_BYTES_MAX, "too big inline request")? else { return Ok(None) };
        if line.iter().any(|byte| is_binary(*byte)) {
            return wrong("an inline command has no control characters");
        }
        match split(&String::from_utf8_lossy(&line)) {
            Some(words) if words.len() > 2 && words.last().is_some_and(|word| word.starts_with("HTTP/")) => {
                Err(Wrong::Http)
            }
            Some(words) => checked(words).map(Some),
            None => wrong("unbalanced quotes in request"),
        }
    }

    /// Reads how many words follow; whether that was there.
    fn count(&mut self, buffer: &mut BytesMut, stranger: bool) -> Result<bool, Wrong> {
        let Some(line) = self.line(buffer, NUMBER_BYTES_MAX, "too big mbulk count string")? else { return Ok(false) };
        match number(&line).filter(|count| *count <= WORDS_MAX) {
            None => wrong("invalid multibulk length"),
            Some(count) if stranger && count > STRANGER_WORDS_MAX => wrong("unauthenticated multibulk length"),
            Some(count) => {
                self.missing = count.max(0);
                Ok(true)
            }
        }
    }

    /// Reads a word, or its length; whether that was there.
    fn word(&mut self, buffer: &mut BytesMut, stranger: bool) -> Result<bool, Wrong> {
        let Some(length) = self.length else {
            match buffer[0] {
                b'$' => {}
                other => return wrong(format!("expected '$', got '{}'", char::from(other))),
            }
            let Some(line) = self.line(buffer, NUMBER_BYTES_MAX, "too big bulk count string")? else {
                return Ok(false);
            };
            let Some(length) = number(&line).and_then(|length| usize::try_from(length).ok()) else {
                return wrong("invalid bulk length");
            };
            self.bytes = self.bytes.saturating_add(length);
            if self.bytes > REQUEST_BYTES_MAX {
                return wrong(if stranger { "unauthenticated bulk length" } else { "invalid bulk length" });
            }
            self.length = Some(length);
            return Ok(true);
        };
        if buffer.len() < length + 2 {
            return Ok(false);
        }
        self.words.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
        buffer.advance(length + 2);
        (self.length, self.missing) = (None, self.missing - 1);
        Ok(true)
    }

    /// Takes a line off the buffer, and answers it without its end.
    fn line(&mut self, buffer: &mut BytesMut, most: usize, why: &str) -> Result<Option<BytesMut>, Wrong> {
        let end = buffer[self.looked..].iter().position(|byte| *byte == b'\n').map(|at| self.looked + at);
        if end.unwrap_or(buffer.len()) > most {
            return wrong(why);
        }
        let Some(end) = end else {
            self.looked = buffer.len();
            return Ok(None);
        };
        self.looked = 0;
        let mut line = buffer.split_to(end + 1);
        line.truncate(if line[..end].ends_with(b"\r") { end - 1 } else { end });
        Ok(Some(line))
    }
}

/// No text has it.
fn is_binary(byte: u8) -> bool {
    byte < b' ' && !matches!(byte, b'\t' | b'\r' | b'\n')
}

/// What HTTP clients send first, or second: Redis ends such connections, too.
fn checked(words: Request) -> Result<Request, Wrong> {
    let first = words.first().map(|word| word.to_lowercase());
    if first.is_some_and(|word| word == "post" || word == "host:") { Err(Wrong::Http) } else { Ok(words) }
}

/// The number after the first byte of a line, if it is one.
fn number(line: &[u8]) -> Option<i64> {
    std::str::from_utf8(&line[1..]).ok()?.parse().ok()
}

/// The words of a line, as Redis' `sdssplitargs` splits them; none: a quote is not closed.
fn split(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() {
        let (word, after) = word(rest)?;
        words.push(word);
        rest = after.trim_start();
    }
    Some(words)
}

fn word(text: &str) -> Option<(String, &str)> {
    let mut word = String::new();
    let mut chars = text.char_indices();
    let mut quote = None;
    while let Some((at, c)) = chars.next() {
        match (quote, c) {
            (None, c) if c.is_whitespace() => return Some((word, &text[at..])),
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if c == open => {
                let after = &text[at + 1..];
                return after.chars().next().is_none_or(char::is_whitespace).then_some((word, after));
            }
            (Some('"'), '\\') => word.push(escaped(chars.next()?.1)),
            (Some('\''), '\\') if text[at + 1..].starts_with('\'') => {
                chars.next();
                word.push('\'');
            }
            (_, c) => word.push(c),
        }
    }
    quote.is_none().then_some((word, ""))
}

fn escaped(c: char) -> char {
    match c {
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::fmt::Write as _;

    use super::*;
    use crate::linear::assert_linear;

    /// All requests in these pieces, each as long as the cut says, and the rest.
    fn chopped(bytes: &[u8], cuts: &[usize], stranger: bool) -> (Vec<Request>, Option<Wrong>) {
        let (mut reader, mut buffer, mut requests, mut rest) = (Reader::default(), BytesMut::new(), vec![], bytes);
        for cut in cuts.iter().copied().chain([usize::MAX]) {
            let (piece, after) = rest.split_at(cut.min(rest.len()));
            rest = after;
            buffer.extend_from_slice(piece);
            loop {
                match reader.take(&mut buffer, stranger) {
                    Ok(Some(request)) => requests.push(request),
                    Ok(None) => break,
                    Err(wrong) => return (requests, Some(wrong)),
                }
            }
        }
        (requests, None)
    }

    fn all(text: &str) -> Result<Vec<Request>, Wrong> {
        let (requests, wrong) = chopped(text.as_bytes(), &[], false);
        wrong.map_or(Ok(requests), Err)
    }

    #[test]
    fn requests_come_as_lists_or_as_lines() {
        let text = "*2\r\n$8\r\nSENTINEL\r\n$7\r\nmasters\r\nPING\r\n\r\nget \"a b\" 'c\\'d' \"\\n\"\n*0\r\n*-1\r\n*1\r\n$0\r\n\r\n";
        let expected: Vec<Request> = vec![
            vec!["SENTINEL".into(), "masters".into()],
            vec!["PING".into()],
            vec![],
            vec!["get".into(), "a b".into(), "c'd".into(), "\n".into()],
            vec![],
            vec![],
            vec![String::new()],
        ];
        assert_eq!(all(text).unwrap(), expected);
    }

    #[test]
    fn a_request_that_is_not_whole_is_waited_for() {
        let text = "*2\r\n$8\r\nSENTINEL\r\n$7\r\nmasters\r\n";
        for end in 0..text.len() {
            assert_eq!(all(&text[..end]).unwrap(), Vec::<Request>::new(), "{end}");
        }
    }

    #[test]
    fn what_is_no_request_is_told_in_redis_words() {
        let half = format!("*2\r\n$8193\r\n{}\r\n$8192\r\n", "a".repeat(8193));
        for (text, why) in [
            ("*x\r\n", "invalid multibulk length"),
            ("*1025\r\n", "invalid multibulk length"),
            ("*99999999999999999999\r\n", "invalid multibulk length"),
            (&("*1".to_string() + &"0".repeat(40)), "too big mbulk count string"),
            ("*1\r\n+PING\r\n", "expected '$', got '+'"),
            ("*1\r\n$-1\r\n", "invalid bulk length"),
            ("*1\r\n$16385\r\n", "invalid bulk length"),
            ("*1\r\n$9223372036854775807\r\n", "invalid bulk length"),
            (&("*1\r\n$".to_string() + &"0".repeat(40)), "too big bulk count string"),
            (&half, "invalid bulk length"),
            ("get \"a\r\n", "unbalanced quotes in request"),
            ("get \"a\"b\r\n", "unbalanced quotes in request"),
            (&"a".repeat(REQUEST_BYTES_MAX + 1), "too big inline request"),
        ] {
            assert_eq!(all(text), wrong(why), "{text:.20}");
        }
    }

    #[test]
    fn a_stranger_may_say_no_more_than_redis_allows() {
        let refused = |text: &str| chopped(text.as_bytes(), &[], true).1;
        assert_eq!(refused("*11\r\n"), Some(Wrong::Protocol("unauthenticated multibulk length".into())));
        assert_eq!(refused("*2\r\n$16385\r\n"), Some(Wrong::Protocol("unauthenticated bulk length".into())));
        assert_eq!(refused("*3\r\n$4\r\nAUTH\r\n$1\r\na\r\n$1\r\nb\r\n"), None);
    }

    #[test]
    fn http_is_no_way_to_send_commands() {
        let commands = "\r\nSENTINEL FAILOVER orders\r\n";
        for head in [
            "POST / HTTP/1.1",
            "post /x",
            "Host: 127.0.0.1:26379",
            "GET / HTTP/1.1",
            "OPTIONS * HTTP/1.1",
            "PUT /a b HTTP/1.0",
            "PRI * HTTP/2.0",
            "*1\r\n$4\r\nPOST",
            "*2\r\n$5\r\nHost:\r\n$1\r\na",
        ] {
            assert_eq!(
                chopped((head.to_string() + commands).as_bytes(), &[], false),
                (vec![], Some(Wrong::Http)),
                "{head}"
            );
        }
        assert_eq!(all("SENTINEL masters HTTP\r\nPING HTTP/1.1\r\n").map(|requests| requests.len()), Ok(2));
    }

    #[test]
    fn ten_times_the_bytes_take_ten_times_the_time_byte_by_byte() {
        let words = |bytes: usize| format!("*{}\r\n{}", bytes / 20, "$4\r\nword\r\n".repeat(bytes / 20));
        let long: [(&str, &dyn Fn(usize) -> String); 5] = [
            ("words", &words),
            ("a word", &|bytes| format!("*1\r\n${bytes}\r\n{}\r\n", "x".repeat(bytes))),
            ("a line", &|bytes| "x".repeat(bytes)),
            ("spaces", &|bytes| " ".repeat(bytes) + "\n"),
            ("lines", &|bytes| "PING\n".repeat(bytes / 5)),
        ];
        for (what, text) in long {
            assert_linear(what, 1600, text, |text| {
                assert_eq!(chopped(text.as_bytes(), &vec![1; text.len()], false).1, None);
            });
        }
    }

    proptest! {
        #[test]
        fn chopped_requests_are_what_they_are_whole(
            requests in prop::collection::vec(prop::collection::vec("[a-z\r\n$*\"]{0,12}", 1..5), 0..5),
            cuts in prop::collection::vec(0_usize..9, 0..60),
        ) {
            let mut text = String::new();
            for words in &requests {
                write!(text, "*{}\r\n", words.len()).unwrap();
                for word in words {
                    write!(text, "${}\r\n{word}\r\n", word.len()).unwrap();
                }
            }
            prop_assert_eq!(chopped(text.as_bytes(), &cuts, false), (requests, None));
        }

        #[test]
        fn chopped_rubbish_is_what_it_is_whole(
            bytes in prop::collection::vec(prop::sample::select(b"*$12 0-\r\n\"'\\aP".to_vec()), 0..80),
            cuts in prop::collection::vec(0_usize..9, 0..40),
            stranger: bool,
        ) {
            prop_assert_eq!(chopped(&bytes, &cuts, stranger), chopped(&bytes, &[], stranger));
        }

        #[test]
        fn rubbish_never_panics_and_little_of_it_is_kept(bytes: Vec<u8>, cuts in prop::collection::vec(0_usize..50, 0..9)) {
            let _ = chopped(&bytes, &cuts, true);
        }
    }
}
