//! Subscribes to the leading master, reads its events, and subscribes again. I/O.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use reqwest::Response;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{debug, error, info, warn};

use super::calls::{Subscription, Void};
use super::client::{Http, SCHEDULER_PATH, STREAM_ID, describe};
use super::coroner::Coroner;
use super::recordio::Decoder;
use super::wire::{self, Incoming};
use super::{Settings, call};
use crate::model::MesosEvent;
use crate::offload::elsewhere;
use crate::plain::{TEXT_CHARS_MAX, plain};

/// Shortest and longest pause between heartbeats that is believed, in seconds.
const HEARTBEAT_MIN_S: f64 = 0.05;
const HEARTBEAT_MAX_S: f64 = 300.0;
/// Larger events are read on a thread of their own.
const LARGE_BYTES: usize = 256 << 10;
/// The backoff doubles so often at most; it has reached its longest by then.
const DOUBLINGS_MAX: u32 = 16;

/// When the last event came.
pub(super) struct Pulse {
    start: Instant,
    last_ms: AtomicU64,
}

impl Pulse {
    /// Time since the last beat.
    pub(super) fn age(&self) -> Duration {
        self.start.elapsed().saturating_sub(Duration::from_millis(self.last_ms.load(Ordering::Relaxed)))
    }

    fn beat(&self) {
        let now_ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(now_ms, Ordering::Relaxed);
    }
}

/// Holds the subscription.
pub(super) struct Subscriber {
    settings: Arc<Settings>,
    http: Http,
    /// The calls' client, whose credentials are kept as fresh.
    calls_http: Arc<Http>,
    framework_id: Option<String>,
    pub(super) pulse: Arc<Pulse>,
    events: mpsc::Sender<MesosEvent>,
    current: watch::Sender<Option<Arc<Subscription>>>,
    void: mpsc::Receiver<Void>,
    /// The master that led last.
    leader: Option<String>,
    /// Counts subscriptions.
    number: u64,
    /// Rounds and subscriptions in a row that came to nothing.
    failures: u32,
    /// What the operator was last told of being disconnected.
    told: Option<String>,
    coroner: Coroner,
}

/// Why a subscription, or the attempt to get one, is over.
enum End {
    /// Try again: after a pause for people when `slow`.
    Retry { reason: String, slow: bool },
    /// Never try again.
    Final(String),
    /// Nobody listens any more.
    Unheard,
}

fn retry(reason: impl Into<String>) -> End {
    End::Retry { reason: reason.into(), slow: false }
}

fn retry_slowly(reason: impl Into<String>) -> End {
    End::Retry { reason: reason.into(), slow: true }
}

impl Subscriber {
    pub(super) fn new(
        settings: Arc<Settings>,
        framework_id: Option<String>,
        calls_http: Arc<Http>,
        events: mpsc::Sender<MesosEvent>,
        current: watch::Sender<Option<Arc<Subscription>>>,
        void: mpsc::Receiver<Void>,
    ) -> Result<Subscriber> {
        Ok(Subscriber {
            http: Http::new(&settings)?,
            coroner: Coroner::start(calls_http.clone(), settings.clone(), events.clone()),
            settings,
            calls_http,
            framework_id,
            pulse: Arc::new(Pulse { start: Instant::now(), last_ms: AtomicU64::new(0) }),
            events,
            current,
            void,
            leader: None,
            number: 0,
            failures: 0,
            told: None,
        })
    }

    /// Subscribes again and again, until the session ends.
    pub(super) async fn run(mut self) {
        loop {
            let end = match self.open().await {
                Ok((master, response)) => self.follow(master, response).await,
                Err(end) => end,
            };
            match end {
                End::Unheard => return,
                End::Final(message) => {
                    error!(message, "the Mesos session has ended");
                    let _ = self.events.send(MesosEvent::Ended { message }).await; // Unheard: over anyway.
                    return;
                }
                End::Retry { reason, slow } => {
                    self.tell_disconnected(reason).await;
                    tokio::select! {
                        () = sleep(self.pause(slow)) => {}
                        () = self.settings.masters.changed() => {} // It may be one that takes us.
                        () = self.events.closed() => return,
                    }
                }
            }
        }
    }

    /// One round of SUBSCRIBE.
    async fn open(&mut self) -> Result<(String, Response), End> {
        let refused = |error: anyhow::Error| retry_slowly(format!("{error:#}"));
        let loaded = self.http.load_credentials().await;
        loaded.and(self.calls_http.load_credentials().await).map_err(|error| {
            self.failures += 1;
            refused(error)
        })?;
        let body = call::subscribe(&self.settings, self.framework_id.as_deref());
        let wait = self.settings.timing.subscribe;
        let candidates = self.settings.masters.candidates().await.map_err(|reason| {
            self.failures += 1;
            retry(reason)
        })?;
        let candidates = self.leader_first(candidates);
        if !(self.settings.lease.0)() {
            return Err(retry("this operator leads no more"));
        }
        let opened = self.http.post_to_leader(candidates, SCHEDULER_PATH, &body, wait).await;
        opened.map_err(|failure| {
            self.failures += 1;
            self.leader = None;
            End::Retry { reason: failure.reason, slow: failure.slow }
        })
    }

    /// The last leader, then the others.
    fn leader_first(&self, mut masters: Vec<String>) -> Vec<String> {
        if let Some(leader) = &self.leader {
            masters.retain(|master| master != leader);
            masters.insert(0, leader.clone());
        }
        masters
    }

    /// Reads a stream to its end, whatever that is.
    async fn follow(&mut self, master: String, response: Response) -> End {
        let stream_id = response.headers().get(STREAM_ID).and_then(|id| id.to_str().ok()).map(str::to_string);
        let Some(stream_id) = stream_id else {
            self.failures += 1;
            return retry_slowly(format!("{master}: it subscribes us without a Mesos-Stream-Id"));
        };
        let opened_at = Instant::now();
        let silence = self.settings.timing.subscribe;
        let mut stream = EventStream {
            master: master.clone(),
            id: stream_id,
            decoder: Decoder::new(self.settings.record_max),
            subscribed: false,
            silence,
            deadline: opened_at + silence,
        };
        self.number += 1;
        let end = self.read(&mut stream, response.bytes_stream()).await;
        self.current.send_replace(None);
        if stream.subscribed && opened_at.elapsed() >= self.settings.timing.healthy {
            self.failures = 0;
        } else {
            self.failures += 1;
        }
        match end {
            End::Retry { reason, slow } => End::Retry { reason: format!("{master}: {reason}"), slow },
            other => other,
        }
    }

    /// Reads events until the stream breaks, is silent for too long, or is given up.
    async fn read(&mut self, stream: &mut EventStream, body: impl Stream<Item = reqwest::Result<Bytes>>) -> End {
        tokio::pin!(body);
        loop {
            let chunk = tokio::select! {
                chunk = timeout_at(stream.deadline, body.next()) => chunk,
                Some((number, reason)) = self.void.recv() => {
                    if number == self.number {
                        return retry(reason);
                    }
                    continue; // Said of a subscription that is over.
                }
                () = self.events.closed() => return End::Unheard,
            };
            match chunk {
                Err(_) => return retry(format!("no event within {:?}", stream.silence)),
                Ok(None) if stream.decoder.is_between_records() => return retry("the stream of events ended"),
                Ok(None) => return retry("the stream of events ended inside an event"),
                Ok(Some(Err(error))) => return retry(describe(error)),
                Ok(Some(Ok(chunk))) => stream.decoder.feed(&chunk),
            }
            if let Err(end) = self.take_records(stream).await {
                return end;
            }
        }
    }

    /// Takes the events that are whole. Only they count as signs of life: a master that drips bytes
    /// is no better than a silent one.
    async fn take_records(&mut self, stream: &mut EventStream) -> Result<(), End> {
        while let Some(record) = stream.decoder.next_record().map_err(|error| retry(format!("{error:#}")))? {
            let read = if record.len() > LARGE_BYTES {
                elsewhere(move || wire::parse(&record)).await
            } else {
                wire::parse(&record)
            };
            match read {
                Ok(incoming) if stream.subscribed => self.take(incoming)?,
                Ok(incoming) => self.take_first(stream, incoming)?,
                // The framing is sound, so that the next event is too. What this one said, an update
                // or an offer, is told again or found by reconciling.
                Err(error) => error!(error = format!("{error:#}"), "an event of the Mesos master is not understood"),
            }
            self.pulse.beat();
            self.settings.metrics.mesos_event();
            stream.deadline = Instant::now() + stream.silence;
        }
        Ok(())
    }

    /// The first event: SUBSCRIBED, or why not.
    fn take_first(&mut self, stream: &mut EventStream, incoming: Incoming) -> Result<(), End> {
        let Incoming::Subscribed { framework_id, heartbeat_s, master_version } = incoming else {
            return match incoming {
                Incoming::Error(message) => Err(ended_by_master(message)),
                other => {
                    let other = plain(&format!("{other:?}"), TEXT_CHARS_MAX);
                    Err(retry(format!("its first event is not SUBSCRIBED but {other}")))
                }
            };
        };
        if framework_id.is_empty() || self.framework_id.as_ref().is_some_and(|known| *known != framework_id) {
            let known = self.framework_id.as_deref().unwrap_or("a new framework");
            return Err(retry_slowly(format!("it subscribes {known} as {framework_id:?}")));
        }
        info!(framework_id, master = stream.master, master_version, subscription = self.number, "subscribed to Mesos");
        stream.subscribed = true;
        if let Some(heartbeat_s) = heartbeat_s.filter(|seconds| seconds.is_finite()) {
            let heartbeats = self.settings.timing.silence_heartbeats;
            stream.silence = Duration::from_secs_f64(heartbeat_s.clamp(HEARTBEAT_MIN_S, HEARTBEAT_MAX_S) * heartbeats);
        } else {
            stream.silence = self.settings.timing.silence;
        }
        self.told = None;
        self.leader = Some(stream.master.clone());
        self.framework_id = Some(framework_id.clone());
        // In force before the operator knows of it, so that its first calls are not dropped.
        self.current.send_replace(Some(Arc::new(Subscription {
            number: self.number,
            framework_id: framework_id.clone(),
            master: stream.master.clone(),
            stream_id: stream.id.clone(),
            version: version(&master_version),
        })));
        self.pass_on(MesosEvent::Subscribed { framework_id, subscription: self.number })
    }

    /// Any further event.
    fn take(&mut self, incoming: Incoming) -> Result<(), End> {
        match incoming {
            Incoming::Event(event) => return self.pass_on(event),
            Incoming::Error(message) => return Err(ended_by_master(message)),
            Incoming::Heartbeat => {}
            Incoming::Ignored(what) => info!(what, "an event of the Mesos master is passed over"),
            Incoming::Subscribed { .. } => warn!("the Mesos master says SUBSCRIBED twice"),
        }
        Ok(())
    }

    fn pass_on(&mut self, event: MesosEvent) -> Result<(), End> {
        if let (MesosEvent::Update(update), Some(framework_id)) = (&event, &self.framework_id) {
            self.coroner.see(framework_id, update);
        }
        self.events.try_send(event).map_err(|error| match error {
            TrySendError::Full(_) => {
                retry(format!("given up: the operator is {} events behind", self.events.max_capacity()))
            }
            TrySendError::Closed(_) => End::Unheard,
        })
    }

    /// Tells the operator, once for the same reason.
    async fn tell_disconnected(&mut self, reason: String) {
        if self.told.as_ref() == Some(&reason) {
            debug!(reason, failures = self.failures, "still not subscribed to Mesos");
            return;
        }
        warn!(reason, "not subscribed to Mesos");
        self.told = Some(reason.clone());
        let _ = self.events.send(MesosEvent::Disconnected { reason }).await; // Unheard: noticed next.
    }

    /// The pause before the next round: none after a healthy subscription, otherwise random, so that
    /// frameworks do not come back all at once, and longer every time.
    fn pause(&self, slow: bool) -> Duration {
        let timing = &self.settings.timing;
        if slow {
            return timing.slow.mul_f64(rand::random_range(0.5..=1.0));
        }
        let Some(doublings) = self.failures.checked_sub(1) else { return Duration::ZERO };
        let longest = timing.backoff_min.saturating_mul(1 << doublings.min(DOUBLINGS_MAX)).min(timing.backoff_max);
        longest.mul_f64(rand::random_range(0.0..=1.0))
    }
}

/// One reply to SUBSCRIBE, being read.
struct EventStream {
    master: String,
    id: String,
    decoder: Decoder,
    subscribed: bool,
    /// The longest time without an event.
    silence: Duration,
    /// When it is over.
    deadline: Instant,
}

/// `1.11.0` as (1, 11); 0 for what is not said.
fn version(text: &str) -> (u32, u32) {
    let mut parts = text.split('.').map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

/// What the master's own end of a subscription means for the session.
fn ended_by_master(message: String) -> End {
    // Another operator has subscribed with our id, and subscribing again would throw it out in turn;
    // or the id is spent, and another one must not be taken while instances are recorded.
    if message.contains("Framework failed over") || message.contains("Framework has been removed") {
        End::Final(message)
    } else {
        retry_slowly(format!("it ends the subscription: {message}"))
    }
}
