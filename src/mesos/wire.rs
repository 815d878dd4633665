//! The v1 scheduler API's events exactly as their JSON has them, and what they are in our words. Pure.
//!
//! Every field may be absent, unknown fields are passed over, and unknown names of states and event
//! types are no errors: masters of other versions send them.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use crate::model::{Amount, InverseOffer, MesosEvent, Offer, Piece, TaskState, TaskUpdate, Timestamp};

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
    inverse_offers: InverseOffers,
    rescind_inverse_offer: RescindInverse,
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
struct InverseOffers {
    inverse_offers: Vec<WireInverseOffer>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct WireInverseOffer {
    id: Id,
    agent_id: Id,
    unavailability: Unavailability,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RescindInverse {
    inverse_offer_id: Id,
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
pub(super) struct Unavailability {
    start: Time,
}

impl Unavailability {
    pub(super) fn from(&self) -> Timestamp {
        timestamp(self.start.nanoseconds)
    }
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
            "INVERSE_OFFERS" => {
                let offers = self.inverse_offers.inverse_offers.into_iter();
                Incoming::Event(MesosEvent::InverseOffers(offers.map(WireInverseOffer::convert).collect()))
            }
            "RESCIND_INVERSE_OFFER" => {
                Incoming::Event(MesosEvent::RescindInverse(self.rescind_inverse_offer.inverse_offer_id.value))
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
        let known = TaskState::ALL.into_iter().find(|state| state.mesos_name() == self.state);
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

impl WireInverseOffer {
    fn convert(self) -> InverseOffer {
        InverseOffer { id: self.id.value, agent_id: self.agent_id.value, from: self.unavailability.from() }
    }
}

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
            unavailable_from: self.unavailability.as_ref().map(Unavailability::from),
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

/// The largest amount that is believed, in thousandths: sums of many stay far from overflow.
const MILLI_MAX: f64 = 1e15;

/// Mesos' floating point amount in thousandths: it keeps three decimals. Rubbish is 0.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Clamped before; NaN is 0.
fn milli(value: f64) -> u64 {
    (value * 1000.0).round().clamp(0.0, MILLI_MAX) as u64
}

fn timestamp(nanoseconds: i64) -> Timestamp {
    Timestamp(u64::try_from(nanoseconds / 1_000_000).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn read(event: &Value) -> Incoming {
        parse(event.to_string().as_bytes()).unwrap()
    }

    fn read_offer(offer: &Value) -> Offer {
        match read(&json!({"type": "OFFERS", "offers": {"offers": [offer]}})) {
            Incoming::Event(MesosEvent::Offers(mut offers)) => offers.remove(0),
            other => panic!("{other:?}"),
        }
    }

    fn read_pieces(resources: &Value) -> Vec<Piece> {
        read_offer(&json!({"resources": resources})).pieces
    }

    fn read_update(status: &Value) -> TaskUpdate {
        match read(&json!({"type": "UPDATE", "update": {"status": status}})) {
            Incoming::Event(MesosEvent::Update(update)) => update,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_offer_is_read_with_all_that_placement_needs() {
        let offer = read_offer(&json!({
            "id": {"value": "O812"}, "framework_id": {"value": "F"}, "agent_id": {"value": "S4"}, "hostname": "n7",
            "url": {"scheme": "http", "address": {"hostname": "n7", "ip": "10.0.1.7", "port": 5051}},
            "domain": {"fault_domain": {"region": {"name": "eu-1"}, "zone": {"name": "rack-b"}}},
            "allocation_info": {"role": "redis/prod"},
            "attributes": [
                {"name": "rack", "type": "TEXT", "text": {"value": "r2"}},
                {"name": "rack", "type": "TEXT", "text": {"value": "second"}},
                {"name": "speed", "type": "SCALAR", "scalar": {"value": 2.5}},
                {"name": "level", "type": "SCALAR", "scalar": {"value": 4.0}},
                {"name": "rows", "type": "RANGES", "ranges": {"range": [{"begin": 1, "end": 5}, {"begin": 7, "end": 9}]}},
                {"name": "disks", "type": "SET", "set": {"item": ["ssd", "hdd"]}},
                {"name": "odd", "type": "NEW"}],
            "unavailability": {"start": {"nanoseconds": 1_767_225_600_123_456_789_i64}},
            "resources": [{"name": "cpus", "type": "SCALAR", "scalar": {"value": 3.5}}]}));
        let attributes = [
            ("@region", "eu-1"),
            ("@zone", "rack-b"),
            ("disks", "{ssd, hdd}"),
            ("level", "4"),
            ("odd", ""),
            ("rack", "r2"),
            ("rows", "[1-5, 7-9]"),
            ("speed", "2.5"),
        ];
        assert_eq!(
            offer,
            Offer {
                id: "O812".into(),
                agent_id: "S4".into(),
                hostname: "n7".into(),
                host: "10.0.1.7".into(),
                role: "redis/prod".into(),
                attributes: attributes.map(|(key, value)| (key.to_string(), value.to_string())).into(),
                unavailable_from: Some(Timestamp(1_767_225_600_123)),
                pieces: vec![Piece { name: "cpus".into(), amount: Amount::Milli(3500), reservations: Value::Null }],
            }
        );
    }

    #[test]
    fn the_hostname_stands_in_for_an_address_that_is_not_given() {
        assert_eq!(read_offer(&json!({"hostname": "n7"})).host, "n7");
    }

    #[test]
    fn pieces_of_one_resource_stay_apart_and_keep_their_reservations() {
        let reservations = json!([{"type": "STATIC", "role": "redis"}]);
        let pieces = read_pieces(&json!([
            {"name": "mem", "scalar": {"value": 1024.0}, "reservations": [], "role": "*"},
            {"name": "mem", "scalar": {"value": 512.001}, "reservations": reservations},
        ]));
        assert_eq!(pieces[0].reservations, Value::Null);
        assert_eq!(pieces[1].reservations, reservations);
        assert_eq!(
            pieces.iter().map(|piece| piece.amount.clone()).collect::<Vec<_>>(),
            [Amount::Milli(1_024_000), Amount::Milli(512_001)]
        );
    }

    #[test]
    fn resources_that_a_database_must_not_use_are_left_out() {
        let pieces = read_pieces(&json!([
            {"name": "cpus", "scalar": {"value": 1.0}, "revocable": {}},
            {"name": "disk", "scalar": {"value": 1.0}, "disk": {"persistence": {"id": "v"}}},
            {"name": "disk", "scalar": {"value": 1.0}, "disk": {"source": {"type": "MOUNT"}}},
            {"name": "disk", "scalar": {"value": 1.0}, "shared": {}},
            {"name": "mem", "scalar": {"value": 1.0}, "role": "other"},
            {"name": "zones", "type": "SET", "set": {"item": ["a"]}},
            {"name": "disk", "scalar": {"value": 7.0}},
        ]));
        assert_eq!(pieces.len(), 1);
        assert_eq!(pieces[0].amount, Amount::Milli(7000));
    }

    #[test]
    fn port_ranges_are_clipped_to_what_can_be_a_port() {
        let ranges = json!([{"begin": 31000, "end": 31009}, {"begin": 65530, "end": 70000},
            {"begin": 70000, "end": 80000}, {"begin": 9, "end": 8}]);
        let pieces = read_pieces(&json!([{"name": "ports", "ranges": {"range": ranges}}]));
        assert_eq!(pieces[0].amount, Amount::Ranges(vec![(31000, 31009), (65530, 65535)]));
    }

    #[test]
    fn amounts_that_make_no_sense_are_nothing() {
        let amounts = [0.1, 0.0004, -1.0, f64::NAN, f64::INFINITY].map(milli);
        assert_eq!(amounts, [100, 0, 0, 0, 1_000_000_000_000_000]);
    }

    #[test]
    fn every_state_is_read_by_its_name_and_an_unknown_one_says_nothing_of_the_task() {
        for state in TaskState::ALL {
            assert_eq!(read_update(&json!({"state": state.mesos_name(), "message": "m"})).state, state);
        }
        let update = read_update(&json!({"state": "TASK_SLEEPING", "message": "zzz"}));
        assert_eq!(update.state, TaskState::Unknown);
        assert_eq!(update.message, r#"a state that is not known, "TASK_SLEEPING": zzz"#);
    }

    #[test]
    fn an_update_wants_acknowledging_only_with_a_uuid() {
        let status = json!({"task_id": {"value": "t"}, "agent_id": {"value": "S1"}, "state": "TASK_FAILED",
            "reason": "REASON_EXECUTOR_TERMINATED", "message": "gone", "uuid": "bZ0vXw==", "timestamp": 1.25,
            "container_status": {"executor_pid": 1}});
        assert_eq!(
            read_update(&status),
            TaskUpdate {
                task_id: "t".into(),
                agent_id: Some("S1".into()),
                state: TaskState::Failed,
                reason: Some("REASON_EXECUTOR_TERMINATED".into()),
                message: "gone".into(),
                uuid: Some("bZ0vXw==".into()),
            }
        );
        assert_eq!(read_update(&json!({"uuid": "", "state": "TASK_LOST"})).uuid, None);
    }

    #[test]
    fn other_events_are_read_or_passed_over() {
        let subscribed = read(&json!({"type": "SUBSCRIBED", "subscribed": {"framework_id": {"value": "F"},
            "heartbeat_interval_seconds": 15.0, "master_info": {"version": "1.11.0", "ip": 1}}}));
        let expected =
            Incoming::Subscribed { framework_id: "F".into(), heartbeat_s: Some(15.0), master_version: "1.11.0".into() };
        assert_eq!(subscribed, expected);
        assert_eq!(read(&json!({"type": "HEARTBEAT"})), Incoming::Heartbeat);
        assert_eq!(read(&json!({"type": "ERROR", "error": {"message": "no"}})), Incoming::Error("no".into()));
        let rescind = json!({"type": "RESCIND", "rescind": {"offer_id": {"value": "O1"}}});
        assert_eq!(read(&rescind), Incoming::Event(MesosEvent::Rescind("O1".into())));
        let failure = json!({"type": "FAILURE", "failure": {"agent_id": {"value": "S1"}}});
        assert_eq!(read(&failure), Incoming::Event(MesosEvent::AgentFailed("S1".into())));
        let inverse = json!({"type": "INVERSE_OFFERS", "inverse_offers": {"inverse_offers": [{"id": {"value": "I1"},
            "framework_id": {"value": "F"}, "agent_id": {"value": "S1"}, "resources": [],
            "unavailability": {"start": {"nanoseconds": 1_767_225_600_123_456_789_i64}}}]}});
        let offer = InverseOffer { id: "I1".into(), agent_id: "S1".into(), from: Timestamp(1_767_225_600_123) };
        assert_eq!(read(&inverse), Incoming::Event(MesosEvent::InverseOffers(vec![offer])));
        let rescind =
            json!({"type": "RESCIND_INVERSE_OFFER", "rescind_inverse_offer": {"inverse_offer_id": {"value": "I1"}}});
        assert_eq!(read(&rescind), Incoming::Event(MesosEvent::RescindInverse("I1".into())));
        for event in [
            json!({"type": "FAILURE", "failure": {"agent_id": {"value": "S1"}, "executor_id": {"value": "e"}}}),
            json!({"type": "SOMETHING_NEW", "something_new": [1]}),
            json!({}),
        ] {
            assert!(matches!(read(&event), Incoming::Ignored(_)), "{event}");
        }
    }

    proptest! {
        #[test]
        fn rubbish_is_an_error_and_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn values_of_any_kind_where_an_event_has_others_never_panic(
            number in any::<f64>(), integer in any::<i64>(), text in ".{0,20}",
        ) {
            for value in [json!(number), json!(integer), json!(text), json!([text]), json!({"value": number}), Value::Null] {
                for event in [
                    json!({"type": value}),
                    json!({"type": "OFFERS", "offers": {"offers": [{"resources": [{"scalar": value, "ranges": value}]}]}}),
                    json!({"type": "OFFERS", "offers": {"offers": [{"unavailability": {"start": {"nanoseconds": value}}}]}}),
                    json!({"type": "UPDATE", "update": {"status": {"uuid": value, "state": value}}}),
                    json!({"type": "SUBSCRIBED", "subscribed": {"heartbeat_interval_seconds": value}}),
                ] {
                    let _ = parse(event.to_string().as_bytes());
                }
            }
        }
    }
}
