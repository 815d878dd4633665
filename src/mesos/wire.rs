//! The v1 scheduler API's events exactly as their JSON has them, and what they are in our words. Pure.
//!
//! Every field may be absent, unknown fields are passed over, and unknown names of states and event
//! types are no errors: masters of other versions send them.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use crate::model::{Amount, MesosEvent, Offer, Piece, TaskState, TaskUpdate, Timestamp};

/// An event of the master, in our words.
#[derive(Clone, Debug, PartialEq)]
pub enum Incoming {
    /// The first event of a good subscription.
    Subscribed {
        /// The id that the master gave us or accepted.
        framework_id: String,
        /// Seconds between two heartbeats, where the master says so.
        heartbeat_s: Option<f64>,
        /// `1.11.0`.
        master_version: String,
    },
    /// A sign of life.
    Heartbeat,
    /// The master ends the subscription, for this reason.
    Error(String),
    /// News for the operator.
    Event(MesosEvent),
    /// Nothing that concerns us: what it was.
    Ignored(String),
}

/// Reads one record of the event stream.
pub fn parse(record: &[u8]) -> Result<Incoming> {
    let event: Event = serde_json::from_slice(record).context("read an event of the master")?;
    Ok(event.convert())
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Event {
    r#type: String,
    subscribed: Subscribed,
    offers: Offers,
    rescind: Rescind,
    update: Update,
    failure: Failure,
    error: ErrorMessage,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Id {
    value: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Subscribed {
    framework_id: Id,
    heartbeat_interval_seconds: Option<f64>,
    master_info: MasterInfo,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct MasterInfo {
    version: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Offers {
    offers: Vec<WireOffer>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Rescind {
    offer_id: Id,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Update {
    status: TaskStatus,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Failure {
    agent_id: Option<Id>,
    executor_id: Option<Id>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ErrorMessage {
    message: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct TaskStatus {
    task_id: Id,
    agent_id: Option<Id>,
    state: String,
    reason: Option<String>,
    message: String,
    uuid: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct WireOffer {
    id: Id,
    agent_id: Id,
    hostname: String,
    url: Url,
    domain: Domain,
    allocation_info: AllocationInfo,
    attributes: Vec<Attribute>,
    unavailability: Option<Unavailability>,
    resources: Vec<Resource>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Url {
    address: UrlAddress,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct UrlAddress {
    ip: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Domain {
    fault_domain: FaultDomain,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct FaultDomain {
    region: Name,
    zone: Name,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Name {
    name: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct AllocationInfo {
    role: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Unavailability {
    start: Time,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Time {
    nanoseconds: i64,
}

/// `Attribute` and `Resource` share Mesos' ways to give a value: of these, one is set.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Attribute {
    name: String,
    text: Option<Text>,
    scalar: Option<Scalar>,
    ranges: Option<Ranges>,
    set: Option<Set>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Resource {
    name: String,
    scalar: Option<Scalar>,
    ranges: Option<Ranges>,
    reservations: Option<Value>,
    /// The former form of `reservations`; `*` when unreserved.
    role: String,
    revocable: Option<Value>,
    shared: Option<Value>,
    disk: Option<Value>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Text {
    value: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Scalar {
    value: f64,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Ranges {
    range: Vec<Range>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Range {
    begin: u64,
    end: u64,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Set {
    item: Vec<String>,
}

impl Event {
    fn convert(self) -> Incoming {
        match self.r#type.as_str() {
            "SUBSCRIBED" => Incoming::Subscribed {
                framework_id: self.subscribed.framework_id.value,
                heartbeat_s: self.subscribed.heartbeat_interval_seconds,
                master_version: self.subscribed.master_info.version,
            },
            "HEARTBEAT" => Incoming::Heartbeat,
            "ERROR" => Incoming::Error(self.error.message),
            "OFFERS" => {
                Incoming::Event(MesosEvent::Offers(self.offers.offers.into_iter().map(WireOffer::convert).collect()))
            }
            "RESCIND" => Incoming::Event(MesosEvent::Rescind(self.rescind.offer_id.value)),
            "UPDATE" => Incoming::Event(MesosEvent::Update(self.update.status.convert())),
            "FAILURE" => self.failure.convert(),
            other => Incoming::Ignored(format!("event {other}")),
        }
    }
}

impl Failure {
    /// With an executor it is the executor that failed: its task's update says so too.
    fn convert(self) -> Incoming {
        match (self.agent_id, self.executor_id) {
            (Some(agent_id), None) => Incoming::Event(MesosEvent::AgentFailed(agent_id.value)),
            _ => Incoming::Ignored("event FAILURE of an executor".to_string()),
        }
    }
}

impl TaskStatus {
    /// A state that is not known says nothing of the task, in words that show it.
    fn convert(self) -> TaskUpdate {
        let known = TASK_STATES.into_iter().find(|state| state.mesos_name() == self.state);
        let message = match known {
            Some(_) => self.message,
            None => format!("a state that is not known, {:?}: {}", self.state, self.message),
        };
        TaskUpdate {
            task_id: self.task_id.value,
            agent_id: self.agent_id.map(|id| id.value).filter(|id| !id.is_empty()),
            state: known.unwrap_or(TaskState::Unknown),
            reason: self.reason,
            message,
            // The master refuses to have an empty one acknowledged.
            uuid: self.uuid.filter(|uuid| !uuid.is_empty()),
        }
    }
}

/// Every state that has a name.
const TASK_STATES: [TaskState; 14] = [
    TaskState::Staging,
    TaskState::Starting,
    TaskState::Running,
    TaskState::Killing,
    TaskState::Finished,
    TaskState::Failed,
    TaskState::Killed,
    TaskState::Error,
    TaskState::Lost,
    TaskState::Dropped,
    TaskState::Unreachable,
    TaskState::Gone,
    TaskState::GoneByOperator,
    TaskState::Unknown,
];

impl WireOffer {
    fn convert(self) -> Offer {
        let ip = self.url.address.ip;
        Offer {
            id: self.id.value,
            agent_id: self.agent_id.value,
            host: if ip.is_empty() { self.hostname.clone() } else { ip },
            hostname: self.hostname,
            role: self.allocation_info.role,
            attributes: attributes(self.attributes, self.domain.fault_domain),
            unavailable_from: self.unavailability.map(|u| timestamp(u.start.nanoseconds)),
            pieces: self.resources.into_iter().filter_map(Resource::convert).collect(),
        }
    }
}

/// Attributes as text. An attribute may be there twice: the first counts, as for Mesos itself.
fn attributes(attributes: Vec<Attribute>, fault_domain: FaultDomain) -> BTreeMap<String, String> {
    let mut texts = BTreeMap::new();
    for attribute in attributes {
        let text = attribute.text();
        texts.entry(attribute.name).or_insert(text);
    }
    for (key, name) in [("@region", fault_domain.region.name), ("@zone", fault_domain.zone.name)] {
        if !name.is_empty() {
            texts.insert(key.to_string(), name);
        }
    }
    texts
}

impl Attribute {
    /// In Mesos' notation: `ssd`, `2.5`, `[1-5, 7-9]`, `{a, b}`.
    fn text(&self) -> String {
        if let Some(text) = &self.text {
            text.value.clone()
        } else if let Some(scalar) = &self.scalar {
            scalar.value.to_string()
        } else if let Some(ranges) = &self.ranges {
            let ranges: Vec<String> = ranges.range.iter().map(|r| format!("{}-{}", r.begin, r.end)).collect();
            format!("[{}]", ranges.join(", "))
        } else if let Some(set) = &self.set {
            format!("{{{}}}", set.item.join(", "))
        } else {
            String::new()
        }
    }
}

impl Resource {
    /// `None` for what a database must not be put on, or what we do not use: revocable and shared
    /// resources, volumes and disks of their own, sets.
    fn convert(self) -> Option<Piece> {
        // A reservation in the former form could not be echoed as it came.
        let former_reservation = self.reservations.is_none() && !matches!(self.role.as_str(), "" | "*");
        if self.revocable.is_some() || self.shared.is_some() || self.disk.is_some() || former_reservation {
            return None;
        }
        let amount = match (self.scalar, self.ranges) {
            (Some(scalar), _) => Amount::Milli(milli(scalar.value)),
            (None, Some(ranges)) => Amount::Ranges(ranges.range.iter().filter_map(Range::convert).collect()),
            (None, None) => return None,
        };
        let reservations = self.reservations.filter(|list| list.as_array().is_some_and(|list| !list.is_empty()));
        Some(Piece { name: self.name, amount, reservations: reservations.unwrap_or_default() })
    }
}

impl Range {
    /// The part of the range that can be a port.
    fn convert(&self) -> Option<(u16, u16)> {
        let begin = u16::try_from(self.begin).ok()?;
        let end = u16::try_from(self.end).unwrap_or(u16::MAX);
        (begin <= end).then_some((begin, end))
    }
}

/// Mesos' floating point amount in thousandths: it keeps three decimals. Rubbish is 0.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // `as` saturates; NaN is 0.
fn milli(value: f64) -> u64 {
    (value * 1000.0).round() as u64
}

fn timestamp(nanoseconds: i64) -> Timestamp {
    Timestamp(u64::try_from(nanoseconds / 1_000_000).unwrap_or(0))
}
