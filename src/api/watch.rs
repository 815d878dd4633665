//! Watches: server-sent events of what changes on the board. I/O.
//!
//! A watch starts with everything there is, then says `synced`, then tells changes. It always tells
//! the newest state of an instance, never a state of before: a slow watcher gets fewer events, not
//! older ones. One that falls too far behind gets `resync`, and its stream ends: it starts again.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream::{self, Stream, StreamExt};
use serde::Serialize;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::Shared;
use super::connect::Connect;
use super::problem::Problem;
use super::selector::Selector;
use super::view::{EventJson, InstanceJson, labels};
use crate::access::{Caller, Level};
use crate::board::{BoardChange, InstanceView};

/// Open watches of one operator: each costs a connection and up to the board's history of changes.
const WATCHERS_MAX: usize = 512;
/// Of these, those of one token; without tokens, of one address.
const WATCHERS_OF_ONE_MAX: usize = WATCHERS_MAX / 2;
/// Signs of life while nothing changes, so that both ends see a dead connection.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Open watches, by who has them.
#[derive(Debug, Default)]
pub struct Watchers {
    all: usize,
    of: BTreeMap<String, usize>,
}

impl Watchers {
    /// How many are open.
    pub fn count(&self) -> usize {
        self.all
    }
}

/// One open watch.
struct Watch {
    watchers: Arc<Mutex<Watchers>>,
    whose: String,
}

impl Watch {
    fn open(watchers: &Arc<Mutex<Watchers>>, whose: String) -> Result<Watch, Problem> {
        let mut held = watchers.lock().expect("no holder panics");
        let of_one = held.of.get(&whose).copied().unwrap_or(0);
        let (most, who) = match of_one {
            WATCHERS_OF_ONE_MAX.. => (WATCHERS_OF_ONE_MAX, format!("watches of {whose}")),
            _ if held.all >= WATCHERS_MAX => (WATCHERS_MAX, "watches".to_string()),
            _ => {
                held.all += 1;
                *held.of.entry(whose.clone()).or_default() += 1;
                return Ok(Watch { watchers: watchers.clone(), whose });
            }
        };
        let detail = format!("{most} {who} are open: end some, or ask another operator");
        Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut held = self.watchers.lock().expect("no holder panics");
        held.all -= 1;
        if let Some(of_one) = held.of.get_mut(&self.whose) {
            *of_one -= 1;
        }
        held.of.retain(|_, of_one| *of_one > 0);
    }
}

/// What a watch is about.
pub struct Scope {
    /// One instance, or all.
    pub name: Option<String>,
    /// Instances with these labels.
    pub selector: Selector,
    /// Instances that this one may look at.
    pub caller: Caller,
}

impl Scope {
    fn contains(&self, view: &InstanceView) -> bool {
        self.name.as_ref().is_none_or(|name| *name == view.name)
            && self.selector.selects(labels(view))
            && self.caller.may(Level::Read, &view.name)
    }
}

/// Turns what a watcher knew and what is now into events.
type Tell = fn(name: &str, before: Option<&InstanceView>, now: Option<&InstanceView>) -> Vec<Event>;

/// Watches instances: `set` and `removed`.
pub fn instances(shared: &Arc<Shared>, scope: Scope) -> Result<Response, Problem> {
    respond(shared, scope, |name, _, now| {
        vec![match now {
            Some(view) => message("set", &InstanceJson::new(view)),
            None => message("removed", &serde_json::json!({"name": name})),
        }]
    })
}

/// Watches where clients connect: `set` and `removed`.
pub fn connects(shared: &Arc<Shared>, scope: Scope) -> Result<Response, Problem> {
    respond(shared, scope, |name, before, now| match (before.map(Connect::new), now.map(Connect::new)) {
        (before, Some(now)) if before.as_ref() != Some(&now) => vec![message("set", &now)],
        (_, Some(_)) => Vec::new(),
        (_, None) => vec![message("removed", &serde_json::json!({"name": name}))],
    })
}

/// Watches the events of instances: `event`.
pub fn events(shared: &Arc<Shared>, scope: Scope) -> Result<Response, Problem> {
    respond(shared, scope, |name, before, now| {
        let known = before.map_or(&[][..], |view| view.events.as_slice());
        let all = now.map_or(&[][..], |view| view.events.as_slice());
        let news = all.iter().filter(|event| !known.contains(event));
        news.map(|event| message("event", &EventJson::new(name, event))).collect()
    })
}

fn message(kind: &str, data: &impl Serialize) -> Event {
    let json = serde_json::to_string(data).expect("views have string keys only, so they are JSON");
    Event::default().event(kind).data(json)
}

fn respond(shared: &Arc<Shared>, scope: Scope, tell: Tell) -> Result<Response, Problem> {
    let open = Watch::open(&shared.watchers, scope.caller.account())?;
    let (stop, caller) = (shared.shutdown.clone(), scope.caller.clone());
    let ends = async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = caller.withdrawn() => {}
        }
    };
    let stream = Watcher::start(Arc::clone(shared), scope, tell).take_until(Box::pin(ends)).map(move |event| {
        let _held = &open; // As long as the stream is.
        Ok::<Event, Infallible>(event)
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}

struct Watcher {
    shared: Arc<Shared>,
    scope: Scope,
    tell: Tell,
    changes: Receiver<BoardChange>,
    /// What was told last, of what is in scope.
    known: BTreeMap<String, Arc<InstanceView>>,
}

impl Watcher {
    fn start(shared: Arc<Shared>, scope: Scope, tell: Tell) -> impl Stream<Item = Event> + Send {
        // First the subscription, then the list: nothing is lost between them.
        let changes = shared.state.board.subscribe();
        let mut views = shared.state.board.list();
        views.retain(|view| scope.contains(view));
        // Made one by one, as they are read: the list of a client that does not read costs no memory.
        let first = views.clone().into_iter().flat_map(move |view| tell(&view.name, None, Some(&view)));
        let known = views.into_iter().map(|view| (view.name.clone(), view)).collect();
        let watcher = Watcher { shared, scope, tell, changes, known };
        let synced = Event::default().event("synced").data("{}");
        let live = stream::unfold(Some(watcher), |watcher| async move { watcher?.next().await });
        stream::iter(first).chain(stream::iter([synced])).chain(live.flat_map(stream::iter))
    }

    /// The next events, and the watcher to go on with; without one, the stream ends.
    async fn next(mut self) -> Option<(Vec<Event>, Option<Watcher>)> {
        loop {
            let name = match self.changes.recv().await {
                Ok(BoardChange::Set(view)) => view.name.clone(),
                Ok(BoardChange::Removed(name)) => name,
                Err(RecvError::Closed) => return None,
                Err(RecvError::Lagged(_)) => {
                    self.shared.state.metrics.watcher_lagged();
                    return Some((vec![Event::default().event("resync").data("{}")], None));
                }
            };
            let events = self.look(&name);
            if !events.is_empty() {
                return Some((events, Some(self)));
            }
        }
    }

    /// What there is to tell of an instance now.
    fn look(&mut self, name: &str) -> Vec<Event> {
        let now = self.shared.state.board.get(name).filter(|view| self.scope.contains(view));
        let before = match &now {
            Some(view) => self.known.insert(name.to_string(), Arc::clone(view)),
            None => self.known.remove(name),
        };
        match (&before, &now) {
            (None, None) => Vec::new(),
            (Some(before), Some(now)) if Arc::ptr_eq(before, now) => Vec::new(),
            _ => (self.tell)(name, before.as_deref(), now.as_deref()),
        }
    }
}
