//! One connection to a node: commands out, replies in. I/O.
//!
//! The redis crate writes the commands and parses the replies; the connection itself is a plain
//! stream, not the crate's multiplexed one: that keeps a task and buffers for every idle node, and
//! folds "nobody listens" and "closed by the other side" into one error, which are two facts here.
//! Where a reply ends is found in `reply`, so that probes need no parser and no memory of their own.

use std::io::ErrorKind;
use std::sync::{Arc, LazyLock};

use redis::{Cmd, Value};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::commands::{Failure, accepted};
use super::reply::{Lines, REPLIES_BYTES_MAX, Scan, values};
use super::{command, packed};
use crate::model::{Address, NoAnswer};
use crate::open_files;

/// What is read at once: the replies to one probe, so that it takes one system call, not ten.
const BUFFER_BYTES: usize = 8 << 10;

/// The same for lists, which may be long.
const LIST_BUFFER_BYTES: usize = 64 << 10;

/// A question that every master answers at once, and a replica refuses: as cheap as PING, and tells when
/// somebody has changed the role.
const PING: &[u8] = b"*3\r\n$4\r\nWAIT\r\n$1\r\n0\r\n$1\r\n0\r\n";

/// The longest reply to PING: Redis' longest error has 350 bytes.
const LINE_BYTES_MAX: usize = 512;

/// What replies to PING.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pong {
    /// All is well, and it is a master.
    Well,
    /// It runs a script for long.
    Busy,
    /// Another error: it is a replica, it loads, wants a password.
    Refused,
}

/// Files that connections to nodes may have open, in all of the process.
static FILES: LazyLock<(Arc<Semaphore>, usize)> = LazyLock::new(|| {
    let files = open_files::Shares::of_process().nodes;
    (Arc::new(Semaphore::new(files)), files)
});
/// Connections are kept for later only while such a part of the files is free: others wait for them.
const FREE_PART: usize = 8;

/// A connection that nobody else uses.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    _file: OwnedSemaphorePermit,
}

impl Connection {
    /// Waits until there is a file for it.
    pub async fn dial(address: &Address) -> Result<Self, NoAnswer> {
        let file = FILES.0.clone().acquire_owned().await.expect("it is never closed");
        let stream = TcpStream::connect((address.host.as_str(), address.port)).await.map_err(|e| why(&e))?;
        // Requests are small and wait for their replies; without this they would wait twice.
        let _ = stream.set_nodelay(true);
        Ok(Connection { stream, _file: file })
    }

    /// Waits until one can be dialled. That is no silence of the node's, so wait before its time begins.
    pub async fn room() {
        drop(FILES.0.acquire().await);
    }

    /// Whether there are files enough for connections that nobody uses.
    pub fn may_be_kept() -> bool {
        FILES.0.available_permits() > FILES.1 / FREE_PART
    }

    /// Sends commands in one go and reads their replies into `replies`, whose storage is used again.
    /// After an error the connection is of no more use: replies may still be on their way.
    pub async fn ask(&mut self, request: &[u8], count: usize, replies: &mut Vec<u8>) -> Result<(), NoAnswer> {
        self.stream.write_all(request).await.map_err(|e| why(&e))?;
        read(&mut self.stream, count, replies).await
    }

    /// Does these one after the other, and answers their replies, among which no error may be.
    pub async fn exchange(&mut self, commands: &[Cmd]) -> Result<Vec<Value>, Failure> {
        let mut replies = Vec::new();
        self.ask(&packed(commands), commands.len(), &mut replies).await.map_err(Failure::Lost)?;
        let replies = values(&replies).map_err(Failure::Lost)?;
        accepted(&replies).map_err(|why| Failure::Refused(format!("{why:#}")))?;
        Ok(replies)
    }

    /// The lines of the reply to CLIENT LIST, one by one, fields cut where they are very long: clients choose
    /// their names, and how many they are.
    pub async fn clients(&mut self, kind: &str, each: &mut (dyn FnMut(&str) + Send)) -> Result<(), Failure> {
        let lost = |error: &std::io::Error| Failure::Lost(why(error));
        let request = packed(&[command(&["CLIENT", "LIST", "TYPE", kind])]);
        self.stream.write_all(&request).await.map_err(|e| lost(&e))?;
        let (mut lines, mut buffer) = (Lines::default(), vec![0; LIST_BUFFER_BYTES]);
        loop {
            match self.stream.read(&mut buffer).await.map_err(|e| lost(&e))? {
                0 => return Err(Failure::Lost(NoAnswer::Reset)),
                count if lines.take(&buffer[..count], each)? => return Ok(()),
                _ => {}
            }
        }
    }

    /// Asks for a sign of life, with no memory but the future's.
    pub async fn ping(&mut self) -> Result<Pong, NoAnswer> {
        self.stream.write_all(PING).await.map_err(|e| why(&e))?;
        let (mut line, mut end) = ([0; LINE_BYTES_MAX], 0);
        while !line[..end].ends_with(b"\r\n") {
            match self.stream.read(&mut line[end..]).await {
                Ok(0) if end == line.len() => return Err(NoAnswer::Garbled),
                Ok(0) => return Err(NoAnswer::Reset),
                Ok(count) => end += count,
                Err(error) => return Err(why(&error)),
            }
        }
        match &line[..end] {
            [b':', digits @ .., b'\r', b'\n'] if digits.iter().all(u8::is_ascii_digit) => Ok(Pong::Well),
            line if line.starts_with(b"-BUSY ") => Ok(Pong::Busy),
            line if line.starts_with(b"-") => Ok(Pong::Refused),
            _ => Err(NoAnswer::Garbled),
        }
    }

    /// Waits for bytes that nobody waits for: whether some came, which are thrown away, or the end. The
    /// connection is of no more use then.
    pub async fn hears(&self) -> bool {
        while self.stream.readable().await.is_ok() {
            match self.stream.try_read(&mut [0]) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                read => return read.is_ok_and(|count| count > 0),
            }
        }
        false
    }
}

/// Reads so many whole replies. Fewer come back when the node closes the connection after an error
/// reply ("max number of clients reached").
async fn read(mut stream: impl AsyncRead + Unpin, count: usize, replies: &mut Vec<u8>) -> Result<(), NoAnswer> {
    replies.clear();
    let (mut scan, mut whole, mut end, mut refused) = (Scan::default(), 0, 0, false);
    while whole < count {
        if let Some(next) = scan.next(replies)? {
            refused = replies[end] == b'-';
            end = next;
            whole += 1;
            continue;
        }
        if replies.len() > REPLIES_BYTES_MAX {
            return Err(NoAnswer::Garbled);
        }
        replies.reserve(BUFFER_BYTES);
        match stream.read_buf(replies).await {
            Ok(0) if refused && end == replies.len() => return Ok(()),
            Ok(0) => return Err(NoAnswer::Reset),
            Ok(_) => {}
            Err(error) => return Err(why(&error)),
        }
    }
    // Who says more than was asked is no Redis.
    if replies.len() > end { Err(NoAnswer::Garbled) } else { Ok(()) }
}

/// What an I/O error says of the node. Whatever is not known to come from the node's side (no
/// route, no file descriptors left here) is silence.
fn why(error: &std::io::Error) -> NoAnswer {
    match error.kind() {
        ErrorKind::ConnectionRefused => NoAnswer::Refused,
        ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::BrokenPipe
        | ErrorKind::UnexpectedEof
        | ErrorKind::NotConnected => NoAnswer::Reset,
        _ => NoAnswer::Unreachable,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::reply::text;
    use super::*;

    fn read(bytes: &[u8], count: usize) -> Result<Vec<Value>, NoAnswer> {
        let mut replies = Vec::new();
        futures::executor::block_on(super::read(bytes, count, &mut replies))?;
        let _ = text(&replies);
        values(&replies)
    }

    #[test]
    fn several_replies_are_read_one_by_one() {
        let values = read(b"$2\r\nab\r\n+OK\r\n-BUSY wait\r\n", 3).unwrap();
        assert_eq!(values[..2], [Value::BulkString(b"ab".to_vec()), Value::Okay]);
        assert!(matches!(&values[2], Value::ServerError(error) if error.code() == "BUSY"));
    }

    #[test]
    fn a_cut_reply_is_a_reset_and_another_protocol_is_garbled() {
        assert_eq!(read(b"$20\r\nab", 1), Err(NoAnswer::Reset));
        assert_eq!(read(b"", 1), Err(NoAnswer::Reset));
        assert_eq!(read(b"$2\r\nab\r\n", 2), Err(NoAnswer::Reset));
        assert_eq!(read(b"HTTP/1.1 400 Bad Request\r\n\r\n", 1), Err(NoAnswer::Garbled));
    }

    #[test]
    fn an_error_before_the_end_is_what_was_said() {
        let values = read(b"-ERR max number of clients reached\r\n", 4).unwrap();
        assert!(matches!(&values[..], [Value::ServerError(_)]));
    }

    #[test]
    fn a_reply_without_end_is_garbled() {
        let mut endless = b"$99999999\r\n".to_vec();
        endless.resize(3 << 20, b'x');
        assert_eq!(read(&endless, 1), Err(NoAnswer::Garbled));
    }

    #[test]
    fn absurd_lengths_are_errors() {
        for bytes in ["*2147483647\r\n", "*9223372036854775807\r\n", "$99999999999999999999\r\n", "%-1\r\n"] {
            assert!(read(bytes.as_bytes(), 1).is_err(), "{bytes:?}");
        }
        assert!(read("*1\r\n".repeat(100_000).as_bytes(), 1).is_err());
    }

    proptest! {
        #[test]
        fn rubbish_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300), first in "[$*+:%~>#,_(=|-]") {
            let _ = read(&[first.as_bytes(), &bytes].concat(), 2);
        }

        #[test]
        fn numbers_as_lengths_never_panic(kind in "[$*%~>=|!]", length in any::<i64>(), rest in ".{0,40}") {
            let _ = read(format!("{kind}{length}\r\n{rest}").as_bytes(), 2);
        }
    }
}
