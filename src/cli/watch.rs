//! A watch of the operator's API: a stream of events that is taken up again whenever it breaks. I/O.

use std::time::Duration;

use anyhow::Result;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _};
use reqwest::{RequestBuilder, Response, StatusCode};

use super::answer;
use super::client::Client;
use super::outcome::{Exit, exit_of};
use super::sse::{Message, Parser};

/// Between attempts to take a watch up again: from the first to the last of these, doubled.
const RETRY_MS: (u64, u64) = (200, 5000);
/// After a watch of an instance that does not exist, until we look again.
const ABSENT_RETRY: Duration = Duration::from_millis(100);

/// What a watch tells.
#[derive(Debug, PartialEq, Eq)]
pub enum Signal {
    /// A connection stands, and starts with a list.
    Connected,
    /// An event came.
    Message(Message),
}

/// A stream of events, taken up again whenever it breaks.
pub struct Watch {
    client: Client,
    request: RequestBuilder,
    stream: Option<BoxStream<'static, reqwest::Result<bytes::Bytes>>>,
    parser: Parser,
    pending: std::collections::VecDeque<Signal>,
    /// Failed attempts since the last connection.
    failures: u32,
    /// It has been connected before: from then on a failure is not the end.
    established: bool,
}

impl Watch {
    /// A watch that this request opens.
    pub fn new(client: &Client, request: RequestBuilder) -> Watch {
        Watch {
            client: client.clone(),
            request,
            stream: None,
            parser: Parser::default(),
            pending: std::collections::VecDeque::new(),
            failures: 0,
            established: false,
        }
    }

    /// What comes next. An error is final: the first connection failed, or the stream is not one
    /// of an operator.
    pub async fn next(&mut self) -> Result<Signal> {
        loop {
            if let Some(signal) = self.pending.pop_front() {
                return Ok(signal);
            }
            match &mut self.stream {
                None => self.connect().await?,
                Some(stream) => match stream.next().await {
                    Some(Ok(bytes)) => self.take(&bytes)?,
                    Some(Err(_)) | None => self.lost().await,
                },
            }
        }
    }

    /// The same as a stream, which can be waited for beside others: it loses nothing by that.
    pub fn signals(self) -> impl Stream<Item = Result<Signal>> {
        futures::stream::unfold(self, async |mut watch| Some((watch.next().await, watch)))
    }

    fn take(&mut self, bytes: &[u8]) -> Result<()> {
        for message in self.parser.push(bytes).map_err(anyhow::Error::msg)? {
            if message.event == "resync" {
                self.stream = None; // The list of the next connection makes up for what we missed.
                break;
            }
            self.pending.push_back(Signal::Message(answer::message(message)?));
        }
        Ok(())
    }

    async fn connect(&mut self) -> Result<()> {
        self.parser = Parser::default();
        let request = self.request.try_clone().expect("a request without a body can be sent again");
        match request.send().await {
            Ok(response) if response.status().is_success() => {
                self.client.notes.hear(response.headers(), false);
                self.client.notes.tell();
                self.stream = Some(response.bytes_stream().boxed());
                self.pending.push_back(Signal::Connected);
                self.established = true;
                self.failures = 0;
            }
            Ok(response) if response.status() == StatusCode::NOT_FOUND => self.absent(response).await?,
            Ok(response) if !self.established || response.status().is_client_error() => {
                return Err(self.client.refusal(response).await);
            }
            Err(error) if !self.established => return Err(self.client.unreachable(&error)),
            Ok(_) | Err(_) => self.lost().await,
        }
        Ok(())
    }

    /// The watched instance does not exist: an empty list, once; then we look again.
    async fn absent(&mut self, response: Response) -> Result<()> {
        self.client.notes.hear(response.headers(), false);
        self.client.notes.tell();
        let error = self.client.refusal(response).await;
        if exit_of(&error) != Exit::NotFound {
            return Err(error);
        }
        if self.established && self.failures == 0 {
            tokio::time::sleep(ABSENT_RETRY).await;
        }
        self.established = true;
        self.failures = 0;
        let synced = Message { event: "synced".to_string(), data: String::new() };
        self.pending.extend([Signal::Connected, Signal::Message(synced)]);
        Ok(())
    }

    /// The connection is lost: says so once, and waits before the next attempt.
    async fn lost(&mut self) {
        self.stream = None;
        if self.failures == 1 {
            anstream::eprintln!("the operator at {} does not answer any more: trying again", self.client.server());
        }
        let pause_ms = RETRY_MS.0.saturating_mul(1 << self.failures.min(16)).min(RETRY_MS.1);
        self.failures += 1;
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
    }
}
