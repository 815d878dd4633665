//! Redis' protocol as a server speaks it: requests read from bytes, replies written. Pure.
//!
//! Limits are Redis' own for a client that has not authenticated, or near them: nothing that a Sentinel
//! is asked is longer, and a client may be anybody.

use bytes::{Buf, BytesMut};

/// Words of one request.
const WORDS_MAX: i64 = 1024;
/// Bytes of one word.
const WORD_BYTES_MAX: usize = 16 << 10;
/// Bytes of a line: an inline request, or a length.
const LINE_BYTES_MAX: usize = 64 << 10;

/// The words of a request: a command's name and its arguments.
pub type Request = Vec<String>;

/// What a client sent is no request. It is told so, and its connection is closed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("ERR Protocol error: {0}")]
pub struct ProtocolError(String);

fn wrong<T>(why: impl Into<String>) -> Result<T, ProtocolError> {
    Err(ProtocolError(why.into()))
}

/// Takes the first request off the buffer. None: more bytes are needed. Empty: a request of no words,
/// which is passed over.
pub fn take_request(buffer: &mut BytesMut) -> Result<Option<Request>, ProtocolError> {
    match buffer.first() {
        None => Ok(None),
        Some(b'*') => take_words(buffer),
        Some(_) => take_inline(buffer),
    }
}

fn take_inline(buffer: &mut BytesMut) -> Result<Option<Request>, ProtocolError> {
    let Some((line, length)) = line(buffer)? else { return Ok(None) };
    let text = String::from_utf8_lossy(line).into_owned();
    buffer.advance(length);
    match split(&text) {
        Some(words) => Ok(Some(words)),
        None => wrong("unbalanced quotes in request"),
    }
}

fn take_words(buffer: &mut BytesMut) -> Result<Option<Request>, ProtocolError> {
    let Some((count, mut end)) = number(buffer)? else { return Ok(None) };
    let Some(count) = count.filter(|count| *count <= WORDS_MAX) else {
        return wrong("invalid multibulk length");
    };
    let mut words = Vec::new();
    for _ in 0..count.max(0) {
        let rest = &buffer[end..];
        match rest.first() {
            None => return Ok(None),
            Some(b'$') => {}
            Some(other) => return wrong(format!("expected '$', got '{}'", char::from(*other))),
        }
        let Some((length, head)) = number(rest)? else { return Ok(None) };
        let length = length.and_then(|length| usize::try_from(length).ok()).filter(|length| *length <= WORD_BYTES_MAX);
        let Some(length) = length else { return wrong("invalid bulk length") };
        let Some(word) = rest.get(head..head + length + 2) else { return Ok(None) };
        words.push(String::from_utf8_lossy(&word[..length]).into_owned());
        end += head + length + 2;
    }
    buffer.advance(end);
    Ok(Some(words))
}

/// The number after the first byte of a line, where it is one, and the length of all of it.
fn number(bytes: &[u8]) -> Result<Option<(Option<i64>, usize)>, ProtocolError> {
    let Some((line, length)) = line(bytes)? else { return Ok(None) };
    let number = std::str::from_utf8(&line[1..]).ok().and_then(|text| text.parse().ok());
    Ok(Some((number, length)))
}

/// The first line without its end, and its length with it.
fn line(bytes: &[u8]) -> Result<Option<(&[u8], usize)>, ProtocolError> {
    match bytes.iter().take(LINE_BYTES_MAX).position(|byte| *byte == b'\n') {
        Some(end) => Ok(Some((bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]), end + 1))),
        None if bytes.len() >= LINE_BYTES_MAX => wrong("too big inline request"),
        None => Ok(None),
    }
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

/// The version of the protocol that a client wants its replies in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// What a client gets that says nothing.
    #[default]
    Resp2,
    /// After `HELLO 3`.
    Resp3,
}

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// `+OK`.
    Status(String),
    /// `-ERR ...`: the text begins with its code.
    Error(String),
    /// A number.
    Number(i64),
    /// A string.
    Text(String),
    /// A string that is not there.
    NoText,
    /// A list.
    List(Vec<Reply>),
    /// A list that is not there.
    NoList,
    /// Keys with values; a list of both in the older version.
    Map(Vec<(Reply, Reply)>),
    /// What the client did not ask for at this moment; a list in the older version.
    Push(Vec<Reply>),
}

impl Reply {
    /// `+OK`.
    pub fn ok() -> Reply {
        Reply::Status("OK".to_string())
    }

    /// A string.
    pub fn text(text: impl Into<String>) -> Reply {
        Reply::Text(text.into())
    }

    /// A list of strings.
    pub fn texts<T: Into<String>>(texts: impl IntoIterator<Item = T>) -> Reply {
        Reply::List(texts.into_iter().map(Reply::text).collect())
    }

    /// Appends it as the client reads it.
    pub fn write(&self, version: Version, out: &mut Vec<u8>) {
        let newer = version == Version::Resp3;
        match self {
            Reply::Status(text) => line_out(out, '+', text),
            Reply::Error(text) => line_out(out, '-', text),
            Reply::Number(number) => line_out(out, ':', &number.to_string()),
            Reply::Text(text) => {
                line_out(out, '$', &text.len().to_string());
                out.extend_from_slice(text.as_bytes());
                out.extend_from_slice(b"\r\n");
            }
            Reply::NoText | Reply::NoList if newer => line_out(out, '_', ""),
            Reply::NoText => line_out(out, '$', "-1"),
            Reply::NoList => line_out(out, '*', "-1"),
            Reply::List(items) => list_out(out, '*', items, version),
            Reply::Push(items) => list_out(out, if newer { '>' } else { '*' }, items, version),
            Reply::Map(pairs) => {
                let (kind, count) = if newer { ('%', pairs.len()) } else { ('*', 2 * pairs.len()) };
                line_out(out, kind, &count.to_string());
                for (key, value) in pairs {
                    key.write(version, out);
                    value.write(version, out);
                }
            }
        }
    }
}

fn list_out(out: &mut Vec<u8>, kind: char, items: &[Reply], version: Version) {
    line_out(out, kind, &items.len().to_string());
    for item in items {
        item.write(version, out);
    }
}

fn line_out(out: &mut Vec<u8>, kind: char, text: &str) {
    out.extend_from_slice(kind.to_string().as_bytes());
    // A line is one line, whatever a client has put into the name that is quoted in it.
    out.extend(text.bytes().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte }));
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(text: &str) -> Result<Vec<Request>, ProtocolError> {
        let (mut buffer, mut requests) = (BytesMut::from(text), Vec::new());
        while let Some(request) = take_request(&mut buffer)? {
            requests.push(request);
        }
        Ok(requests)
    }

    #[test]
    fn requests_come_as_lists_or_as_lines() {
        let text = "*2\r\n$8\r\nSENTINEL\r\n$7\r\nmasters\r\nPING\r\n\r\nget \"a b\" 'c\\'d' \"\\n\"\n";
        let expected: Vec<Request> = vec![
            vec!["SENTINEL".into(), "masters".into()],
            vec!["PING".into()],
            vec![],
            vec!["get".into(), "a b".into(), "c'd".into(), "\n".into()],
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
        for (text, why) in [
            ("*x\r\n", "invalid multibulk length"),
            ("*1025\r\n", "invalid multibulk length"),
            ("*1\r\n+PING\r\n", "expected '$', got '+'"),
            ("*1\r\n$-1\r\n", "invalid bulk length"),
            ("*1\r\n$16385\r\n", "invalid bulk length"),
            ("get \"a\r\n", "unbalanced quotes in request"),
            ("get \"a\"b\r\n", "unbalanced quotes in request"),
            (&"a".repeat(LINE_BYTES_MAX), "too big inline request"),
        ] {
            assert_eq!(all(text).unwrap_err().to_string(), format!("ERR Protocol error: {why}"), "{text:.20}");
        }
    }

    #[test]
    fn replies_are_written_in_either_version() {
        let reply = Reply::Map(vec![(Reply::text("k"), Reply::List(vec![Reply::Number(1), Reply::NoText]))]);
        let written = |version| {
            let mut out = Vec::new();
            reply.write(version, &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(written(Version::Resp2), "*2\r\n$1\r\nk\r\n*2\r\n:1\r\n$-1\r\n");
        assert_eq!(written(Version::Resp3), "%1\r\n$1\r\nk\r\n*2\r\n:1\r\n_\r\n");
    }

    #[test]
    fn an_error_stays_on_its_line() {
        let mut out = Vec::new();
        Reply::Error("ERR unknown command 'a\r\n+OK'".into()).write(Version::Resp2, &mut out);
        assert_eq!(out, b"-ERR unknown command 'a  +OK'\r\n");
    }

    proptest! {
        #[test]
        fn rubbish_never_panics(bytes: Vec<u8>) {
            let mut buffer = BytesMut::from(&bytes[..]);
            for _ in 0..bytes.len() {
                if !matches!(take_request(&mut buffer), Ok(Some(_))) {
                    break;
                }
            }
        }
    }
}
