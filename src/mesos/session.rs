//! The session's handle: what the operator holds to talk to the leading master. I/O.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use super::Settings;
use super::agents::Lookout;
use super::calls::{Current, Lane, Outgoing};
use super::client::Http;
use super::subscriber::{Pulse, Subscriber};
use crate::model::{MesosCall, MesosEvent};

/// Events that may wait for the operator. Reading must not stop, or the master keeps them in its own
/// memory without limit; so when this is full the subscription is given up. 3,000 tasks have some
/// 10,000 updates.
const EVENTS_MAX: usize = 65_536;
/// Calls that may wait for the master, in each lane; as many as updates may want acknowledging.
const CALLS_MAX: usize = 65_536;
/// Tasks in one RECONCILE: the master answers all of them at once.
const RECONCILE_MAX: usize = 1000;
/// Subscriptions found void that may wait to be looked at: all but the newest are old news.
const VOID_MAX: usize = 4;

/// The session: takes calls. It ends when its last clone is dropped; the master then waits for the
/// framework as long as its failover timeout says, and lets its tasks alone.
#[derive(Clone)]
pub struct Session {
    inner: Arc<Inner>,
}

struct Inner {
    calls: mpsc::Sender<Outgoing>,
    acknowledgements: mpsc::Sender<Outgoing>,
    events: mpsc::WeakSender<MesosEvent>,
    current: Current,
    pulse: Arc<Pulse>,
    #[allow(dead_code)] // Held for their drop.
    tasks: [AbortOnDropHandle<()>; 4],
}

/// Why a call was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSent {
    /// Too many calls wait for the master. Try later, if the call still makes sense.
    #[error("{CALLS_MAX} calls wait for the Mesos master already")]
    Full,
    /// The session has ended for good.
    #[error("the Mesos session has ended")]
    Ended,
}

impl Session {
    /// Starts a session, as the framework with that id or as a new one. Must be called within a
    /// tokio runtime.
    ///
    /// The session subscribes, and subscribes again, by itself; a new subscription gets no offers
    /// until [`MesosCall::Revive`] is sent. [`MesosEvent::Ended`] is the last event that counts.
    pub fn start(settings: Settings, framework_id: Option<String>) -> Result<(Session, mpsc::Receiver<MesosEvent>)> {
        settings.check()?;
        let settings = Arc::new(settings);
        let (events, events_out) = mpsc::channel(EVENTS_MAX);
        let (void, void_out) = mpsc::channel(VOID_MAX);
        let (current, current_out) = watch::channel(None);
        // Calls have connections of their own, so that they and the stream do not wait for another.
        let calls_http = Arc::new(Http::new(&settings)?);
        let lane = || {
            let (calls, calls_out) = mpsc::channel(CALLS_MAX);
            let lane = Lane {
                http: calls_http.clone(),
                settings: settings.clone(),
                current: current_out.clone(),
                events: events.clone(),
                void: void.clone(),
            };
            (calls, AbortOnDropHandle::new(tokio::spawn(lane.run(calls_out))))
        };
        let (calls, calls_task) = lane();
        let (acknowledgements, acknowledgements_task) = lane();
        let weak_events = events.downgrade();
        let (http, current_in) = (calls_http.clone(), current_out.clone());
        let lookout = Lookout { http, settings: settings.clone(), current: current_in, events: events.clone() };
        let lookout_task = AbortOnDropHandle::new(tokio::spawn(lookout.run()));
        let subscriber =
            Subscriber::new(settings.clone(), framework_id, calls_http.clone(), events, current, void_out)?;
        let pulse = subscriber.pulse.clone();
        let tasks =
            [calls_task, acknowledgements_task, lookout_task, AbortOnDropHandle::new(tokio::spawn(subscriber.run()))];
        let inner = Inner { calls, acknowledgements, events: weak_events, current: current_out, pulse, tasks };
        Ok((Session { inner: Arc::new(inner) }, events_out))
    }

    /// Sends a call that is meant for that subscription, as its [`MesosEvent::Subscribed`] told it.
    /// Does not wait: the call is queued, and dropped when its subscription ends before its turn.
    ///
    /// Guarantees: calls reach the master in the order of this method's calls, except that
    /// acknowledgements are sent beside the others. An ACCEPT is sent at most once, and of one that
    /// did not get through a [`MesosEvent::CallFailed`] tells. Caveat: 202 from the master says that
    /// it has read a call, not that it will do it.
    pub fn send(&self, subscription: u64, call: MesosCall) -> Result<(), NotSent> {
        match call {
            MesosCall::Reconcile(tasks) if tasks.len() > RECONCILE_MAX => tasks
                .chunks(RECONCILE_MAX)
                .try_for_each(|part| self.queue(subscription, MesosCall::Reconcile(part.to_vec()))),
            call => self.queue(subscription, call),
        }
    }

    fn queue(&self, subscription: u64, call: MesosCall) -> Result<(), NotSent> {
        if self.has_ended() {
            return Err(NotSent::Ended);
        }
        // Acknowledgements need no order among the other calls, and come in crowds just when
        // launches are in a hurry.
        let lane = match call {
            MesosCall::Acknowledge { .. } => &self.inner.acknowledgements,
            _ => &self.inner.calls,
        };
        lane.try_send(Outgoing { subscription, call }).map_err(|error| match error {
            TrySendError::Full(_) => NotSent::Full,
            TrySendError::Closed(_) => NotSent::Ended,
        })
    }

    /// Whether the session has ended for good.
    pub fn has_ended(&self) -> bool {
        self.inner.current.has_changed().is_err()
    }

    /// The number of the subscription in force, if there is one.
    pub fn subscription(&self) -> Option<u64> {
        self.inner.current.borrow().as_ref().map(|subscription| subscription.number)
    }

    /// `host:port` of the leading master, while subscribed.
    pub fn leader(&self) -> Option<String> {
        self.inner.current.borrow().as_ref().map(|subscription| subscription.master.clone())
    }

    /// How long ago the last event came, heartbeats included; none while not subscribed.
    pub fn last_event_age(&self) -> Option<Duration> {
        self.subscription().map(|_| self.inner.pulse.age())
    }

    /// Events that wait for the operator.
    pub fn events_queued(&self) -> usize {
        self.inner.events.upgrade().map_or(0, |events| events.max_capacity() - events.capacity())
    }

    /// Calls that wait for the master.
    pub fn calls_queued(&self) -> usize {
        let queued = |lane: &mpsc::Sender<Outgoing>| lane.max_capacity() - lane.capacity();
        queued(&self.inner.calls) + queued(&self.inner.acknowledgements)
    }
}
