//! Runs the real binary: to its end, or live with its lines as they come. I/O.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::fake::Fake;

/// For what takes milliseconds on an idle machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What a command did.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub out: String,
    pub err: String,
}

/// The binary, with none of our settings in its environment.
pub fn redisctl(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_redisctl"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("REDISCTL_") || name == "NO_COLOR") {
        command.env_remove(name);
    }
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a command to its end.
pub fn run(args: &[&str]) -> Ended {
    ended(&mut redisctl(args))
}

/// Runs a command to its end.
pub fn ended(command: &mut Command) -> Ended {
    let output = command.output().expect("the binary runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output is UTF-8");
    Ended { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
}

/// Runs a command against a toy.
pub fn run_at(fake: &Fake, args: &[&str]) -> Ended {
    ended(redisctl(args).env("REDISCTL_SERVER", fake.url()))
}

/// Runs a command against a toy, with a standard input.
pub fn run_with_input(fake: &Fake, args: &[&str], input: &str) -> Ended {
    let mut child =
        redisctl(args).env("REDISCTL_SERVER", fake.url()).stdin(Stdio::piped()).spawn().expect("the binary runs");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output is UTF-8");
    Ended { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
}

/// A command that goes on; killed when dropped.
pub struct Live {
    child: Child,
    lines: Receiver<String>,
}

impl Live {
    /// Starts a command against a toy. Lines of its errors are marked by `! `.
    pub fn start(fake: &Fake, args: &[&str]) -> Live {
        let mut child = redisctl(args).env("REDISCTL_SERVER", fake.url()).spawn().expect("the binary runs");
        let (send, lines) = channel();
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let send_err = send.clone();
        std::thread::spawn(move || BufReader::new(out).lines().try_for_each(|l| send.send(l.unwrap())));
        std::thread::spawn(move || {
            BufReader::new(err).lines().try_for_each(|l| send_err.send(format!("! {}", l.unwrap())))
        });
        Live { child, lines }
    }

    /// The next line.
    pub fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("a line")
    }

    /// The next lines, up to one that contains `text`.
    pub fn until(&self, text: &str) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = Vec::new();
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => lines.push(line),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    panic!("no line with {text:?}, only {lines:#?}")
                }
            }
            if lines.last().unwrap().contains(text) {
                return lines;
            }
        }
    }

    /// Waits for its end; its exit code.
    pub fn code(mut self) -> i32 {
        wait_until("the command ends", || self.child.try_wait().unwrap()).code().unwrap_or(-1)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Polls until there is an answer.
pub fn wait_until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = condition() {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
