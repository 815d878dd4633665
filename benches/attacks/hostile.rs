//! A node that is none: it answers whatever it is asked without end. I/O.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

/// What it sends, by its port: a line, a list of small items, a text that is longer than all bounds.
const KINDS: [(&[u8], &[u8]); 3] =
    [(b"", b"+aaaaaaaaaaaaaaaa"), (b"*30000000\r\n", b":1\r\n:2\r\n"), (b"$1000000\r\n", b"role:master\r\n")];
/// What is sent in one go.
const CHUNK_BYTES: usize = 64 << 10;

/// Listens at the port that is named as a redis-server's is, for ever.
pub fn serve(args: &[String]) {
    let port = args.iter().position(|arg| arg == "--port").and_then(|at| args.get(at + 1)?.parse::<u16>().ok());
    let port = port.expect("a port is named");
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
    for stream in listener.incoming().flatten() {
        std::thread::spawn(move || answer(stream, KINDS[usize::from(port) % KINDS.len()]));
    }
}

fn answer(mut stream: TcpStream, (head, body): (&[u8], &[u8])) {
    let many = body.repeat(CHUNK_BYTES / body.len());
    let _ = stream.read(&mut [0; 1024]); // Whatever it is.
    let mut sent = stream.write_all(head);
    while sent.is_ok() {
        sent = stream.write_all(&many);
    }
}
