//! Where a node's replies end, and what they say: each byte is looked at once, as it comes. Pure.
//!
//! A node may be anybody (a stranger on its port, a process gone mad), so all that it sends has a bound, and what
//! announces that it will be more is given up at once, not when it has come.

use std::borrow::Cow;

use redis::Value;

use super::commands::{Failure, REFUSES};
use crate::model::NoAnswer;

/// The most bytes that the replies to one request may have. INFO has about 5 kB, 60 bytes for each database in use
/// and 80 for each replica. (What clients make long is read by [`Lines`].)
pub(super) const REPLIES_BYTES_MAX: usize = 1 << 20;
/// Replies inside replies: EXEC answers with a list of them.
const DEPTH_MAX: usize = 4;
/// Items of all lists together. A transaction has some ten, a pattern of CONFIG GET some hundred.
const ITEMS_MAX: usize = 4096;
/// A line: Redis' longest error has 350 bytes, and may quote a word.
const LINE_BYTES_MAX: usize = 16 << 10;

/// Finds the ends of replies (RESP2) in bytes that become more.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// Where the item begins that is not whole yet.
    item: usize,
    /// Up to here its line has been looked at.
    looked: usize,
    /// Where its text ends, once its line has told.
    text_end: Option<usize>,
    /// Items that are missing in each list that is open.
    missing: [usize; DEPTH_MAX],
    depth: usize,
    items: usize,
}

impl Scan {
    /// Where the next whole reply ends; none: more bytes are needed. The bytes are those of before, and more.
    pub fn next(&mut self, bytes: &[u8]) -> Result<Option<usize>, NoAnswer> {
        loop {
            let end = match self.text_end {
                Some(end) => end,
                None => match self.line(bytes)? {
                    Some(end) => end,
                    None => return Ok(None),
                },
            };
            if end > bytes.len() {
                self.text_end = Some(end);
                return Ok(None);
            }
            (self.item, self.looked, self.text_end) = (end, end, None);
            if self.close() {
                return Ok(Some(end));
            }
        }
    }

    /// Looks for the end of the item's line. The end of the item, which may lie beyond the bytes; for a list with
    /// items it is its line's, and the list is open then.
    fn line(&mut self, bytes: &[u8]) -> Result<Option<usize>, NoAnswer> {
        let Some(&kind) = bytes.get(self.item) else { return Ok(None) };
        if !b"+-:$*".contains(&kind) {
            return Err(NoAnswer::Garbled);
        }
        let line_end = loop {
            match bytes[self.looked..].iter().position(|byte| *byte == b'\n') {
                Some(at) if self.looked + at > self.item && bytes[self.looked + at - 1] == b'\r' => {
                    break self.looked + at + 1;
                }
                Some(at) => self.looked += at + 1,
                None => self.looked = bytes.len(),
            }
            if self.looked - self.item > LINE_BYTES_MAX {
                return Err(NoAnswer::Garbled);
            }
            if self.looked == bytes.len() {
                return Ok(None);
            }
        };
        self.items += 1;
        if self.items > ITEMS_MAX || line_end - self.item > LINE_BYTES_MAX {
            return Err(NoAnswer::Garbled);
        }
        if kind != b'$' && kind != b'*' {
            return Ok(Some(line_end));
        }
        let Some(count) = count(&bytes[self.item + 1..line_end - 2])? else { return Ok(Some(line_end)) };
        let most = if kind == b'$' { REPLIES_BYTES_MAX } else { ITEMS_MAX - self.items };
        if count > most {
            return Err(NoAnswer::Garbled);
        }
        if kind == b'$' {
            return Ok(Some(line_end + count + 2));
        }
        if count > 0 {
            // One more than there are, for the list's own line is about to be closed.
            *self.missing.get_mut(self.depth).ok_or(NoAnswer::Garbled)? = count + 1;
            self.depth += 1;
        }
        Ok(Some(line_end))
    }

    /// An item is whole: whether a reply is.
    fn close(&mut self) -> bool {
        while let Some(level) = self.depth.checked_sub(1) {
            self.missing[level] -= 1;
            if self.missing[level] > 0 {
                return false;
            }
            self.depth = level;
        }
        true
    }
}

/// The number of a line; none: -1, which is nil.
fn count(digits: &[u8]) -> Result<Option<usize>, NoAnswer> {
    let number = std::str::from_utf8(digits).ok().and_then(|text| text.parse::<i64>().ok());
    match number.ok_or(NoAnswer::Garbled)? {
        -1 => Ok(None),
        number => usize::try_from(number).map(Some).map_err(|_| NoAnswer::Garbled),
    }
}

/// Whole replies as values. Error replies are values like others.
pub(super) fn values(replies: &[u8]) -> Result<Vec<Value>, NoAnswer> {
    let (mut scan, mut begin, mut values) = (Scan::default(), 0, Vec::new());
    while let Some(end) = scan.next(replies)? {
        values.push(redis::parse_redis_value(&replies[begin..end]).map_err(|_| NoAnswer::Garbled)?);
        begin = end;
    }
    Ok(values)
}

/// Whole replies that are all texts, as one; lines between them tell their lengths.
pub(super) fn text(replies: &[u8]) -> Result<Cow<'_, str>, NoAnswer> {
    let (mut scan, mut begin) = (Scan::default(), 0);
    while let Some(end) = scan.next(replies)? {
        match replies[begin] {
            b'$' if !replies[begin..].starts_with(b"$-1") => begin = end,
            b'-' => return Err(NoAnswer::of_error(&String::from_utf8_lossy(&replies[begin..end]))),
            _ => return Err(NoAnswer::Garbled),
        }
    }
    Ok(String::from_utf8_lossy(replies))
}

// ---------------------------------------------------------------------------------------------
// Lists that clients make long

/// The most bytes of a list: 10,000 clients (Redis' `maxclients`) with names of 6 kB.
const LIST_BYTES_MAX: usize = 64 << 20;
/// What is kept of a field of a line: addresses, users and our own names are shorter.
const FIELD_BYTES_MAX: usize = 128;
/// What is kept of a line: CLIENT LIST's have 30 fields.
const FIELDS_BYTES_MAX: usize = 4096;

/// One reply of lines with fields between spaces (CLIENT LIST), read line by line: nothing of it is kept but the
/// line that is on its way. Clients choose names, and their lengths, so fields are cut.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// The reply's first line, until it is whole.
    head: Vec<u8>,
    /// Bytes of the text that are still to come, and of its end.
    left: Option<usize>,
    line: Vec<u8>,
    /// Bytes of the field that is on its way.
    field: usize,
}

/// What ends a text.
const END: usize = 2;

impl Lines {
    /// Takes bytes as they come, and hands on each line. Whether the reply is whole.
    pub fn take(&mut self, mut bytes: &[u8], each: &mut (dyn FnMut(&str) + Send)) -> Result<bool, Failure> {
        if self.left.is_none() {
            let end = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |at| at + 1);
            if self.head.len() + end > LINE_BYTES_MAX {
                return Err(Failure::Lost(NoAnswer::Garbled));
            }
            self.head.extend_from_slice(&bytes[..end]);
            bytes = &bytes[end..];
            self.left = self.announced()?;
        }
        let Some(left) = self.left.as_mut() else { return Ok(false) };
        let text = &bytes[..bytes.len().min(left.saturating_sub(END))];
        *left = left.saturating_sub(bytes.len());
        let whole = *left == 0;
        for byte in text {
            self.add(*byte, each);
        }
        if whole {
            self.hand_on(each);
        }
        Ok(whole)
    }

    fn announced(&self) -> Result<Option<usize>, Failure> {
        let Some(line) = self.head.strip_suffix(b"\r\n") else { return Ok(None) };
        match line.split_first() {
            Some((b'$', digits)) => {
                let length = count(digits).map_err(Failure::Lost)?.filter(|length| *length <= LIST_BYTES_MAX);
                length.map(|length| Some(length + END)).ok_or(Failure::Lost(NoAnswer::Garbled))
            }
            Some((b'-', why)) => Err(Failure::Refused(format!("{REFUSES}{}", String::from_utf8_lossy(why)))),
            _ => Err(Failure::Lost(NoAnswer::Garbled)),
        }
    }

    fn add(&mut self, byte: u8, each: &mut (dyn FnMut(&str) + Send)) {
        match byte {
            b'\n' => self.hand_on(each),
            b' ' => self.field = 0,
            _ => self.field += 1,
        }
        if byte != b'\n' && self.field <= FIELD_BYTES_MAX && self.line.len() < FIELDS_BYTES_MAX {
            self.line.push(byte);
        }
    }

    fn hand_on(&mut self, each: &mut (dyn FnMut(&str) + Send)) {
        if !self.line.is_empty() {
            each(&String::from_utf8_lossy(&self.line));
        }
        self.line.clear();
        self.field = 0;
    }
}

/// An error reply as Redis wrote it.
pub(super) fn words(error: &redis::ServerError) -> String {
    format!("{} {}", error.code(), error.details().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::linear::assert_linear;

    /// Reads replies in these pieces, until so many are whole.
    fn read(pieces: &[&[u8]], count: usize) -> Result<Vec<usize>, NoAnswer> {
        let (mut scan, mut bytes, mut ends) = (Scan::default(), Vec::new(), Vec::new());
        for piece in pieces {
            bytes.extend_from_slice(piece);
            while ends.len() < count {
                let Some(end) = scan.next(&bytes)? else { break };
                ends.push(end);
            }
        }
        Ok(ends)
    }

    fn list(pieces: &[&[u8]]) -> Result<(bool, Vec<String>), Failure> {
        let (mut lines, mut told, mut whole) = (Lines::default(), Vec::new(), false);
        for piece in pieces {
            whole = lines.take(piece, &mut |line| told.push(line.to_string()))?;
        }
        Ok((whole, told))
    }

    fn chop<'a>(mut bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
        let mut pieces = Vec::new();
        for cut in cuts {
            let (piece, rest) = bytes.split_at((*cut).min(bytes.len()));
            pieces.push(piece);
            bytes = rest;
        }
        pieces.push(bytes);
        pieces
    }

    const READ_BYTES: usize = 1 << 10;
    /// What a node may send without end, so many bytes of it, all within bounds.
    fn long(kind: usize, bytes: usize) -> Vec<u8> {
        match kind {
            0 => [format!("${bytes}\r\n").into_bytes(), vec![b'x'; bytes], b"\r\n".to_vec()].concat(),
            1 => b"+OK\r\n".repeat(bytes / 400),
            2 => [format!("*{}\r\n", bytes / 400).into_bytes(), b":1\r\n".repeat(bytes / 400)].concat(),
            3 => b"*1\r\n*1\r\n*1\r\n+\r\n".repeat(bytes / 1600),
            4 => [b"+".to_vec(), vec![b'\n'; bytes / 100]].concat(),
            _ => [b"-".to_vec(), vec![b'\r'; bytes / 100]].concat(),
        }
    }

    #[test]
    fn ten_times_the_bytes_take_ten_times_the_time() {
        for kind in 0..6 {
            assert_linear(
                &format!("kind {kind}"),
                100_000,
                // Byte by byte, as whoever wants to cost us most sends them. To take it to pieces is no part of reading.
                |bytes| long(kind, bytes).leak().chunks(if kind == 0 { READ_BYTES } else { 1 }).collect::<Vec<&[u8]>>(),
                |pieces| drop(read(pieces, usize::MAX).unwrap()),
            );
        }
        let clients = |bytes: usize| {
            let text = [vec![b'x'; bytes / 2], b" a=1\n".repeat(bytes / 10)].concat();
            let sent = [format!("${}\r\n", text.len()).into_bytes(), text, b"\r\n".to_vec()].concat();
            sent.leak().chunks(7).collect::<Vec<&[u8]>>()
        };
        assert_linear("a list of clients", 100_000, clients, |pieces| {
            assert!(list(pieces).unwrap().0);
        });
    }

    #[test]
    fn what_is_beyond_a_bound_is_given_up_when_it_is_announced_or_at_the_bound() {
        for announced in [
            "*30000000\r\n",
            "*4097\r\n",
            "*2147483647\r\n",
            "*9223372036854775807\r\n",
            "*-2\r\n",
            "$-2\r\n",
            "$1048577\r\n",
            "$99999999999999999999\r\n",
            "$\r\n",
            "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n",
            "%1\r\n",
            "HTTP/1.1 400 Bad Request\r\n",
        ] {
            assert_eq!(read(&[announced.as_bytes()], 1), Err(NoAnswer::Garbled), "{announced:?}");
        }
        for kind in [b"+".as_slice(), b"-", b":", b"$", b"*"] {
            let endless = [kind, &vec![b'1'; LINE_BYTES_MAX + 1]].concat();
            assert_eq!(read(&[&endless], 1), Err(NoAnswer::Garbled));
        }
        assert_eq!(read(&[&b"+\r\n".repeat(ITEMS_MAX + 1)], usize::MAX), Err(NoAnswer::Garbled));
        let nested = [b"*2\r\n*4000\r\n".to_vec(), b":1\r\n".repeat(4000), b"*4000\r\n".to_vec()].concat();
        assert_eq!(read(&[&nested], 1), Err(NoAnswer::Garbled));
        let lost = Err(Failure::Lost(NoAnswer::Garbled));
        for head in ["$67108865\r\n", "$-1\r\n", "*1\r\n", "+OK\r\n", "\r\n", &"$1".repeat(LINE_BYTES_MAX)] {
            assert_eq!(list(&[head.as_bytes()]), lost, "{head:.20}");
        }
        assert!(matches!(list(&[b"-NOPERM no\r\n"]), Err(Failure::Refused(why)) if why.contains("NOPERM no")));
    }

    #[test]
    fn a_long_name_of_a_client_costs_no_memory_and_hides_nobody() {
        let text = format!("id=1 name={} user=app\nid=2 name=redisctl:7 user=x\n", "n".repeat(5_000_000));
        let sent = format!("${}\r\n{text}\r\n", text.len());
        let pieces: Vec<&[u8]> = sent.as_bytes().chunks(64 << 10).collect();
        let (whole, lines) = list(&pieces).unwrap();
        let name = format!("name={}", "n".repeat(FIELD_BYTES_MAX - 5));
        assert!(whole);
        assert_eq!(lines, [format!("id=1 {name} user=app"), "id=2 name=redisctl:7 user=x".to_string()]);
    }

    fn reply() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            "[+:-][a-z0-9\n]{0,9}[a-z]".prop_map(|line| line + "\r\n"),
            "[a-z\r\n$*]{0,20}".prop_map(|text| format!("${}\r\n{text}\r\n", text.len())),
            Just("$-1\r\n".to_string()),
            Just("*-1\r\n".to_string()),
        ];
        leaf.prop_recursive(3, 20, 4, |inner| {
            prop::collection::vec(inner, 0..4).prop_map(|items| format!("*{}\r\n{}", items.len(), items.concat()))
        })
    }

    proptest! {
        #[test]
        fn chopped_replies_are_what_they_are_whole(
            replies in prop::collection::vec(reply(), 1..6),
            cuts in prop::collection::vec(0_usize..9, 0..60),
        ) {
            let all = replies.concat();
            let mut end = 0;
            let ends: Vec<usize> = replies.iter().map(|reply| { end += reply.len(); end }).collect();
            prop_assert_eq!(read(&[all.as_bytes()], usize::MAX), Ok(ends.clone()));
            prop_assert_eq!(read(&chop(all.as_bytes(), &cuts), usize::MAX), Ok(ends));
        }

        #[test]
        fn chopped_rubbish_is_what_it_is_whole(
            bytes in "[$*+:0-9\r\n-]{0,60}",
            cuts in prop::collection::vec(0_usize..9, 0..20),
        ) {
            let whole = read(&[bytes.as_bytes()], usize::MAX);
            prop_assert_eq!(read(&chop(bytes.as_bytes(), &cuts), usize::MAX), whole);
        }

        #[test]
        fn a_chopped_list_is_what_it_is_whole(
            text in "[a-z =\n]{0,300}",
            cuts in prop::collection::vec(0_usize..30, 0..20),
        ) {
            let sent = format!("${}\r\n{text}\r\n", text.len());
            let lines: Vec<String> = text.split('\n').filter(|line| !line.is_empty()).map(Into::into).collect();
            prop_assert_eq!(list(&[sent.as_bytes()]), Ok((true, lines.clone())));
            let told = list(&chop(sent.as_bytes(), &cuts)).unwrap().1;
            prop_assert_eq!(told, lines);
        }

        #[test]
        fn lists_of_rubbish_never_panic(pieces in prop::collection::vec(any::<Vec<u8>>(), 0..5), first in "[$-]?[0-9]{0,3}\r?\n?") {
            let mut all = vec![first.as_bytes()];
            all.extend(pieces.iter().map(Vec::as_slice));
            let _ = list(&all);
        }
    }
}
