//! One connection to a node: commands out, replies in. I/O.
//!
//! The redis crate writes the commands and reads the replies; the connection itself is a plain
//! stream, not the crate's multiplexed one: that keeps a task and buffers for every idle node, and
//! folds "nobody listens" and "closed by the other side" into one error, which are two facts here.

use std::io::ErrorKind;

use redis::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::model::{Address, NoAnswer};

/// The most bytes that the replies to one request may have. INFO has about 5 kB, and 50 bytes for
/// each database in use.
const REPLIES_BYTES_MAX: u64 = 1 << 20;

/// What is read at once: the replies to one probe, so that it takes one system call, not ten.
const BUFFER_BYTES: usize = 8 << 10;

/// A connection that nobody else uses.
#[derive(Debug)]
pub(super) struct Connection(TcpStream);

impl Connection {
    pub async fn dial(address: &Address) -> Result<Self, NoAnswer> {
        let stream = TcpStream::connect((address.host.as_str(), address.port)).await.map_err(|e| why(&e))?;
        // Requests are small and wait for their replies; without this they would wait twice.
        let _ = stream.set_nodelay(true);
        Ok(Connection(stream))
    }

    /// Sends commands in one go and reads their replies. After an error the connection is of no more
    /// use: replies may still be on their way.
    pub async fn ask(&mut self, request: &[u8], count: usize) -> Result<Vec<Value>, NoAnswer> {
        self.0.write_all(request).await.map_err(|e| why(&e))?;
        replies(&mut self.0, count).await
    }
}

/// Reads replies. Error replies are values like others; fewer than asked for come back when the
/// node closes the connection after one ("max number of clients reached").
async fn replies(stream: impl AsyncRead + Unpin, count: usize) -> Result<Vec<Value>, NoAnswer> {
    let mut stream = BufReader::with_capacity(BUFFER_BYTES, stream).take(REPLIES_BYTES_MAX);
    #[allow(clippy::default_trait_access)] // Its type is of a crate of redis', not of ours.
    let mut decoder = Default::default();
    let mut values = Vec::with_capacity(count);
    for _ in 0..count {
        match redis::parse_redis_value_async(&mut decoder, &mut stream).await {
            Ok(value) => values.push(value),
            Err(_) if stream.limit() == 0 => return Err(NoAnswer::Garbled),
            Err(error) if error.is_connection_dropped() && matches!(values.last(), Some(Value::ServerError(_))) => {
                break;
            }
            Err(error) if error.is_connection_dropped() => return Err(NoAnswer::Reset),
            Err(error) if error.is_io_error() => return Err(NoAnswer::Timeout),
            Err(_) => return Err(NoAnswer::Garbled),
        }
    }
    Ok(values)
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
        _ => NoAnswer::Timeout,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8], count: usize) -> Result<Vec<Value>, NoAnswer> {
        futures::executor::block_on(replies(bytes, count))
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
