//! The framing of the master's event stream (`RecordIO`): `LENGTH LF BYTES`, again and again. Pure.
//!
//! Records know nothing of HTTP chunks: a chunk may end inside a length or hold many records. After
//! a length that makes no sense there is no way to find the next record, so every error is final.

use anyhow::{Result, bail};
use bytes::{Buf, Bytes, BytesMut};

/// The largest record that is taken, in bytes, unless the caller says otherwise: events with
/// thousands of offers have a few MiB, so that more is a broken stream.
pub const RECORD_MAX: usize = 64 << 20;

/// The most digits of a length: a 64-bit number has no more.
const DIGITS_MAX: usize = 20;

/// The most bytes of a line with a length: the digits and some white space around them.
const LINE_MAX: usize = DIGITS_MAX + 12;

/// Turns bytes, as they come, into records.
#[derive(Debug)]
pub struct Decoder {
    record_max: usize,
    buffer: BytesMut,
    /// The length of the record that is being received.
    length: Option<usize>,
}

impl Default for Decoder {
    fn default() -> Self {
        Decoder::new(RECORD_MAX)
    }
}

impl Decoder {
    /// A decoder that refuses records of more than `record_max` bytes.
    pub fn new(record_max: usize) -> Self {
        Decoder { record_max, buffer: BytesMut::new(), length: None }
    }

    /// Takes the next bytes of the stream; ask [`Decoder::next_record`] until it has no more.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole record, if it is here. Empty records are skipped. After an error every further
    /// call is an error.
    pub fn next_record(&mut self) -> Result<Option<Bytes>> {
        loop {
            let Some(length) = self.read_length()? else { return Ok(None) };
            if self.buffer.len() < length {
                return Ok(None);
            }
            self.length = None;
            if length > 0 {
                return Ok(Some(self.buffer.split_to(length).freeze()));
            }
        }
    }

    /// Whether the stream may end here: not inside a record or a length.
    pub fn is_between_records(&self) -> bool {
        self.length.is_none() && self.buffer.iter().all(u8::is_ascii_whitespace)
    }

    /// The length of the record that is being received, once its line is whole. Blank lines are
    /// skipped.
    fn read_length(&mut self) -> Result<Option<usize>> {
        while self.length.is_none() {
            let line_end = self.buffer.iter().take(LINE_MAX).position(|byte| *byte == b'\n');
            let line = &self.buffer[..line_end.unwrap_or(self.buffer.len().min(LINE_MAX))];
            let digits = line.trim_ascii();
            if digits.len() > DIGITS_MAX || !digits.iter().all(u8::is_ascii_digit) {
                bail!("the stream has {:?} where the length of a record belongs", line.escape_ascii().to_string());
            }
            let Some(line_end) = line_end else {
                if line.len() == LINE_MAX {
                    bail!("the stream has {LINE_MAX} bytes without a line end where the length of a record belongs");
                }
                return Ok(None);
            };
            if !digits.is_empty() {
                self.length = Some(self.check_length(digits)?);
            }
            self.buffer.advance(line_end + 1);
        }
        Ok(self.length)
    }

    fn check_length(&self, digits: &[u8]) -> Result<usize> {
        let digits = str::from_utf8(digits)?;
        match digits.parse() {
            Ok(length) if length <= self.record_max => Ok(length),
            _ => bail!("the stream announces a record of {digits} bytes; at most {} are taken", self.record_max),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(records: &[Vec<u8>]) -> Vec<u8> {
        let mut stream = Vec::new();
        for record in records {
            stream.extend(format!("{}\n", record.len()).bytes());
            stream.extend(record);
        }
        stream
    }

    fn decode(decoder: &mut Decoder, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        decoder.feed(bytes);
        let mut records = Vec::new();
        while let Some(record) = decoder.next_record()? {
            records.push(record.to_vec());
        }
        Ok(records)
    }

    fn samples() -> Vec<Vec<u8>> {
        vec![br#"{"type":"HEARTBEAT"}"#.to_vec(), b"1\n2\n3".to_vec(), vec![0; 300], b"x".to_vec()]
    }

    #[test]
    fn a_stream_cut_in_two_at_any_byte_gives_the_same_records() {
        let stream = encode(&samples());
        for cut in 0..=stream.len() {
            let mut decoder = Decoder::default();
            let mut records = decode(&mut decoder, &stream[..cut]).unwrap();
            records.extend(decode(&mut decoder, &stream[cut..]).unwrap());
            assert_eq!(records, samples(), "cut at byte {cut}");
            assert!(decoder.is_between_records());
        }
    }

    #[test]
    fn a_record_is_given_as_soon_as_its_last_byte_is_here() {
        let mut decoder = Decoder::default();
        assert!(decode(&mut decoder, b"5\nhell").unwrap().is_empty());
        assert!(!decoder.is_between_records());
        assert_eq!(decode(&mut decoder, b"o").unwrap(), [b"hello".to_vec()]);
    }

    #[test]
    fn an_end_inside_a_length_or_a_record_is_noticed() {
        let stream = encode(&samples()[..2]);
        let first_end = encode(&samples()[..1]).len();
        for end in 1..stream.len() {
            let mut decoder = Decoder::default();
            decode(&mut decoder, &stream[..end]).unwrap();
            assert_eq!(decoder.is_between_records(), end == first_end, "end at byte {end}");
        }
    }

    #[test]
    fn white_space_blank_lines_and_empty_records_are_skipped() {
        let mut decoder = Decoder::default();
        assert_eq!(decode(&mut decoder, b"\r\n 2 \r\nab\n0\n\n003\ncde").unwrap(), [b"ab".to_vec(), b"cde".to_vec()]);
    }

    #[test]
    fn a_length_that_makes_no_sense_is_an_error_for_good() {
        let rubbish: [&[u8]; 6] =
            [b"HTTP/1.1 200 OK\n", b"-1\n", b"1 2\n", b"99999999999999999999\n", b"123456789012345678901", b"0x10\n"];
        for bytes in rubbish {
            let mut decoder = Decoder::default();
            assert!(decode(&mut decoder, bytes).is_err(), "{}", bytes.escape_ascii());
            assert!(decode(&mut decoder, b"1\na").is_err(), "{}", bytes.escape_ascii());
        }
        assert!(decode(&mut Decoder::default(), &[b' '; LINE_MAX]).is_err());
        assert!(decode(&mut Decoder::default(), b"ab").is_err(), "before the line is whole");
    }

    #[test]
    fn a_record_larger_than_the_limit_is_refused_by_its_length() {
        assert_eq!(decode(&mut Decoder::new(3), b"3\nabc").unwrap().len(), 1);
        let refused = decode(&mut Decoder::new(3), b"4\n").unwrap_err();
        assert_eq!(refused.to_string(), "the stream announces a record of 4 bytes; at most 3 are taken");
    }

    /// What is read, and what makes so many bytes of it.
    type Make<'a> = (&'a str, &'a dyn Fn(usize) -> Vec<u8>);

    #[test]
    fn a_stream_is_read_in_time_that_grows_with_its_length_however_it_is_cut() {
        let one = |bytes: usize| encode(&[vec![b'x'; bytes]]);
        let many = |bytes: usize| encode(&vec![b"{}".to_vec(); bytes / 4]);
        let nothing = |bytes: usize| b"0\n".repeat(bytes / 2);
        let blank = |bytes: usize| vec![b'\n'; bytes];
        let makers: [Make<'_>; 4] = [("one", &one), ("many", &many), ("nothing", &nothing), ("blank", &blank)];
        for (what, make) in makers {
            for piece in [1, 7, 5000, usize::MAX] {
                let read = |stream: &Vec<u8>| {
                    let mut decoder = Decoder::default();
                    for piece in stream.chunks(piece) {
                        decode(&mut decoder, piece).unwrap();
                    }
                };
                crate::linear::assert_linear(&format!("{what} in pieces of {piece}"), 20_000, make, read);
            }
        }
    }

    proptest! {
        #[test]
        fn a_stream_in_any_pieces_gives_its_records(
            records in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..80), 0..12),
            sizes in proptest::collection::vec(1..50usize, 1..40),
        ) {
            let stream = encode(&records);
            let mut decoder = Decoder::default();
            let mut decoded = Vec::new();
            let mut rest = stream.as_slice();
            for size in sizes.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, after) = rest.split_at((*size).min(rest.len()));
                decoded.extend(decode(&mut decoder, piece).unwrap());
                rest = after;
            }
            prop_assert_eq!(decoded, records);
            prop_assert!(decoder.is_between_records());
        }

        #[test]
        fn rubbish_is_an_error_or_a_record_and_never_a_panic(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 0..10),
        ) {
            let mut decoder = Decoder::new(1000);
            for piece in pieces {
                if decode(&mut decoder, &piece).is_err() {
                    break;
                }
            }
        }
    }
}
