//! Sends the operator's calls to the master, one after another, each for its own subscription. I/O.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::Settings;
use super::call::{self, Reply};
use super::client::{Http, SCHEDULER_PATH, describe, error_text};
use crate::model::{MesosCall, MesosEvent};

/// How often a call is sent before the subscription is taken for broken.
const ATTEMPTS_MAX: u32 = 3;
/// The pause before a call is sent again.
const RESEND_PAUSE: Duration = Duration::from_millis(200);
/// How long the reply to a call is still waited for when its subscription has ended meanwhile.
const LATE_REPLY_WAIT: Duration = Duration::from_secs(1);

/// How long offers are withheld whose ACCEPT did not get through, in seconds.
const DECLINE_FAILED_S: f64 = 1.0;

/// Masters know constraints on offers since then.
const CONSTRAINTS_SINCE: (u32, u32) = (1, 11);

/// What became of a call, as far as offers go.
enum Outcome {
    /// It was taken, or its subscription is void, and its offers with it.
    Settled,
    /// It was not taken for all we know: the master may wait for a word on its offers.
    OffersOut,
}

/// A subscription in force.
#[derive(Debug)]
pub(super) struct Subscription {
    /// Counts the session's subscriptions, from 1.
    pub(super) number: u64,
    pub(super) framework_id: String,
    /// `host:port` of the leading master.
    pub(super) master: String,
    /// What the master knows it by.
    pub(super) stream_id: String,
    /// The master's version.
    pub(super) version: (u32, u32),
}

/// The subscription in force, if there is one.
pub(super) type Current = watch::Receiver<Option<Arc<Subscription>>>;

/// A subscription that a call proved to be void, and how.
pub(super) type Void = (u64, String);

/// A call and the subscription that it is meant for.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) subscription: u64,
    pub(super) call: MesosCall,
}

/// Calls that reach the master in their order: the next is sent when the reply to the last is here.
pub(super) struct Lane {
    pub(super) http: Arc<Http>,
    pub(super) settings: Arc<Settings>,
    pub(super) current: Current,
    pub(super) events: mpsc::Sender<MesosEvent>,
    pub(super) void: mpsc::Sender<Void>,
}

/// What became of one attempt to send a call.
enum Attempt {
    Done,
    /// The subscription is void; the call has not been done.
    Void(String),
    /// The master has not done the call and never will.
    Refused(String),
    /// The call never reached the master.
    Unsent(String),
    /// Whether the master has done the call is not known.
    Uncertain(String),
    /// The credentials were refused, and others are there now.
    NewCredentials,
}

impl Lane {
    /// Sends what comes until nobody can send any more.
    pub(super) async fn run(self, mut queue: mpsc::Receiver<Outgoing>) {
        while let Some(outgoing) = queue.recv().await {
            let subscription = outgoing.subscription;
            let outcome = self.deliver(&outgoing).await;
            if let (Outcome::OffersOut, MesosCall::Accept { offer_ids, .. }) = (outcome, outgoing.call) {
                // Offers that are neither accepted nor declined are never made again. If the ACCEPT
                // was done after all, they are void, and this does nothing; if it is still under way,
                // it comes to nothing, and Mesos says so.
                let call = MesosCall::Decline { offer_ids, refuse_s: DECLINE_FAILED_S };
                self.deliver(&Outgoing { subscription, call }).await;
            }
        }
    }

    /// Sends one call, several times if that is safe and needed.
    async fn deliver(&self, outgoing: &Outgoing) -> Outcome {
        let call = &outgoing.call;
        for attempts_left in (0..ATTEMPTS_MAX).rev() {
            let Some(subscription) = self.subscription(outgoing.subscription) else {
                self.fail(call, "its subscription had ended before it was sent", false).await;
                return Outcome::Settled;
            };
            let reason = match self.attempt(&subscription, call).await {
                Attempt::Done => return Outcome::Settled,
                Attempt::Void(reason) => {
                    self.report_void(&subscription, call, &reason);
                    self.fail(call, &reason, false).await;
                    return Outcome::Settled;
                }
                Attempt::Refused(reason) => {
                    self.refused(call, &reason).await;
                    return Outcome::OffersOut;
                }
                // It may launch tasks, and sent again would tell that they were dropped.
                Attempt::Uncertain(reason) if matches!(call, MesosCall::Accept { .. }) => {
                    self.fail(call, &reason, true).await;
                    return Outcome::OffersOut;
                }
                Attempt::Unsent(reason) | Attempt::Uncertain(reason) => reason,
                Attempt::NewCredentials => "the credentials have changed".to_string(),
            };
            debug!(call = call::name(call), reason, attempts_left, "a call did not get through");
            if attempts_left == 0 {
                self.report_void(&subscription, call, &reason);
                self.fail(call, &reason, false).await;
                return Outcome::Settled;
            }
            sleep(RESEND_PAUSE).await;
        }
        Outcome::Settled
    }

    fn subscription(&self, number: u64) -> Option<Arc<Subscription>> {
        self.current.borrow().clone().filter(|subscription| subscription.number == number)
    }

    async fn attempt(&self, subscription: &Subscription, call: &MesosCall) -> Attempt {
        let timing = &self.settings.timing;
        if matches!(call, MesosCall::Constrain(_)) && subscription.version < CONSTRAINTS_SINCE {
            return Attempt::Done; // There it would do nothing, or not be understood.
        }
        let body = encode(subscription, call, &self.settings);
        let reply = async {
            let sent = self.http.post(&subscription.master, SCHEDULER_PATH, body, Some(&subscription.stream_id)).await;
            match sent {
                Err(error) if error.is_connect() => Err(Attempt::Unsent(describe(error))),
                Err(error) => Err(Attempt::Uncertain(describe(error))),
                Ok(response) => Ok((response.status().as_u16(), error_text(response).await)),
            }
        };
        tokio::pin!(reply);
        let reply = tokio::select! {
            biased;
            reply = timeout(timing.call, &mut reply) => reply,
            () = self.ended(subscription.number) => timeout(LATE_REPLY_WAIT, &mut reply).await,
        };
        let attempt = match reply {
            Err(_) => Attempt::Uncertain("no reply in time".to_string()),
            Ok(Err(attempt)) => attempt,
            Ok(Ok((status, text))) => self.judge(status, &text).await,
        };
        self.settings.metrics.call(call::name(call), matches!(attempt, Attempt::Done));
        attempt
    }

    async fn judge(&self, status: u16, text: &str) -> Attempt {
        let words = format!("the master answers {status} {text}").trim_end().to_string();
        match call::judge(status, text) {
            Reply::Taken => Attempt::Done,
            Reply::NotSubscribed => Attempt::Void(words),
            Reply::Refused => Attempt::Refused(words),
            Reply::Failed => Attempt::Uncertain(words),
            Reply::Credentials => match self.http.load_credentials().await {
                Ok(true) => Attempt::NewCredentials,
                Ok(false) => Attempt::Void(words),
                Err(error) => Attempt::Void(format!("{words}; {error:#}")),
            },
        }
    }

    /// Waits until that subscription is no longer in force.
    async fn ended(&self, number: u64) {
        let mut current = self.current.clone();
        // An error means that the session is over.
        let _ = current.wait_for(|current| current.as_ref().is_none_or(|current| current.number != number)).await;
    }

    fn report_void(&self, subscription: &Subscription, call: &MesosCall, reason: &str) {
        let reason = format!("{} did not get through: {reason}", call::name(call));
        // Full: it has been told already.
        let _ = self.void.try_send((subscription.number, reason));
    }

    async fn refused(&self, call: &MesosCall, reason: &str) {
        warn!(call = call::name(call), reason, "the master refuses a call");
        self.tell(call, reason, false).await;
    }

    /// Of launches the operator must know; everything else it asks for again when it still wants it.
    async fn fail(&self, call: &MesosCall, reason: &str, uncertain: bool) {
        if matches!(call, MesosCall::Accept { .. }) {
            warn!(call = call::name(call), reason, uncertain, "a launch did not get through");
            self.tell(call, reason, uncertain).await;
        } else {
            debug!(call = call::name(call), reason, "a call is dropped");
        }
    }

    async fn tell(&self, call: &MesosCall, message: &str, uncertain: bool) {
        let event = MesosEvent::CallFailed {
            call: call::name(call),
            task_ids: call::task_ids(call),
            message: message.to_string(),
            uncertain,
        };
        // An error means that nobody listens any more.
        let _ = self.events.send(event).await;
    }
}

fn encode(subscription: &Subscription, call: &MesosCall, settings: &Settings) -> Vec<u8> {
    let id = &subscription.framework_id;
    let json = match call {
        MesosCall::Constrain(groups) => call::constrain(settings, id, groups),
        call => call::call(call, id, &settings.roles, settings.containerizer),
    };
    json.to_string().into_bytes()
}
