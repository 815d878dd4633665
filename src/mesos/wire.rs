//! The v1 scheduler API's events exactly as their JSON has them, and what they are in our words. Pure.
//!
//! Every field may be absent, unknown fields are passed over, and unknown names of states and event
//! types are no errors: masters of other versions send them. Texts are cut and made harmless here, where
//! they enter: agents and executors write what they like. What must be sent back as it came, an id, is passed
//! over with all that it names where that cannot be done.

use anyhow::{Result, anyhow};
use serde::Deserialize;

use self::offer::{WireInverseOffer, WireOffer};
use crate::model::{MesosEvent, TaskState, TaskUpdate};
use crate::plain::{NAME_CHARS_MAX, TEXT_CHARS_MAX, is_name, plain};

mod offer;

pub(super) use self::offer::{Attribute, Domain, Resource, Unavailability, attributes};

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
    // serde repeats the value that it does not understand, whatever its length.
    let wrong = |error: serde_json::Error| {
        anyhow!("read an event of the master: {}", plain(&error.to_string(), TEXT_CHARS_MAX))
    };
    Ok(serde_json::from_slice::<Event>(record).map_err(wrong)?.convert())
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

/// Mesos' way to give an id, in all its APIs.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Id {
    pub(super) value: String,
}

impl Id {
    /// None: it is none that could be kept and sent back.
    fn sound(self) -> Option<String> {
        Some(self.value).filter(|value| is_name(value))
    }
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

impl Event {
    fn convert(self) -> Incoming {
        let kind = plain(&self.r#type, NAME_CHARS_MAX);
        let event = match kind.as_str() {
            "SUBSCRIBED" => return self.subscribed.convert(),
            "HEARTBEAT" => return Incoming::Heartbeat,
            "ERROR" => return Incoming::Error(plain(&self.error.message, TEXT_CHARS_MAX)),
            "FAILURE" => return self.failure.convert(),
            "OFFERS" => {
                let offers = self.offers.offers.into_iter();
                Some(MesosEvent::Offers(offers.filter_map(WireOffer::convert).collect()))
            }
            "INVERSE_OFFERS" => {
                let offers = self.inverse_offers.inverse_offers.into_iter();
                Some(MesosEvent::InverseOffers(offers.filter_map(WireInverseOffer::convert).collect()))
            }
            "RESCIND_INVERSE_OFFER" => {
                self.rescind_inverse_offer.inverse_offer_id.sound().map(MesosEvent::RescindInverse)
            }
            "RESCIND" => self.rescind.offer_id.sound().map(MesosEvent::Rescind),
            "UPDATE" => self.update.status.convert().map(MesosEvent::Update),
            _ => None,
        };
        event.map_or_else(|| Incoming::Ignored(format!("event {kind}")), Incoming::Event)
    }
}

impl Subscribed {
    fn convert(self) -> Incoming {
        match self.framework_id.sound() {
            Some(framework_id) => Incoming::Subscribed {
                framework_id,
                heartbeat_s: self.heartbeat_interval_seconds,
                master_version: plain(&self.master_info.version, NAME_CHARS_MAX),
            },
            None => Incoming::Error("it subscribes us with a framework id that is none".to_string()),
        }
    }
}

impl Failure {
    /// With an executor it is the executor that failed: its task's update says so too.
    fn convert(self) -> Incoming {
        match (self.agent_id, self.executor_id) {
            (Some(agent_id), None) if is_name(&agent_id.value) => {
                Incoming::Event(MesosEvent::AgentFailed(agent_id.value))
            }
            _ => Incoming::Ignored("event FAILURE of an executor".to_string()),
        }
    }
}

impl TaskStatus {
    /// A state that is not known says nothing of the task, in words that show it.
    fn convert(self) -> Option<TaskUpdate> {
        let known = TaskState::ALL.into_iter().find(|state| state.mesos_name() == self.state);
        let message = match known {
            Some(_) => self.message,
            None => format!("a state that is not known, {:?}: {}", plain(&self.state, NAME_CHARS_MAX), self.message),
        };
        // The master refuses to have an empty one acknowledged.
        let uuid = self.uuid.filter(|uuid| !uuid.is_empty());
        let sound = uuid.as_ref().is_none_or(|uuid| is_name(uuid));
        Some(TaskUpdate {
            task_id: self.task_id.sound().filter(|_| sound)?,
            agent_id: self.agent_id.and_then(Id::sound).filter(|id| !id.is_empty()),
            state: known.unwrap_or(TaskState::Unknown),
            reason: self.reason.map(|reason| plain(&reason, NAME_CHARS_MAX)),
            message: plain(&message, TEXT_CHARS_MAX),
            uuid,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{InverseOffer, Timestamp};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn read(event: &Value) -> Incoming {
        parse(event.to_string().as_bytes()).unwrap()
    }

    fn read_update(status: &Value) -> TaskUpdate {
        match read(&json!({"type": "UPDATE", "update": {"status": status}})) {
            Incoming::Event(MesosEvent::Update(update)) => update,
            other => panic!("{other:?}"),
        }
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

    /// Texts that do harm: on a terminal, in a log, in memory.
    fn hostile() -> Vec<String> {
        let mut texts = ["\u{1b}[2J\u{1b}[1;1Hroot#", "a\nERROR forged", "\u{202e}txt", "\u{9b}31m", "\0", "\r"]
            .map(String::from)
            .to_vec();
        texts.push("x".repeat(1_000_000));
        texts.push("\u{1b}".repeat(100_000));
        texts
    }

    #[test]
    fn no_text_of_a_master_an_agent_or_an_executor_comes_in_raw_or_long() {
        for text in hostile() {
            let id = json!({"value": text});
            let sound = json!({"value": "i"});
            let events = [
                json!({"type": text}),
                json!({"type": "ERROR", "error": {"message": text}}),
                json!({"type": "SUBSCRIBED", "subscribed": {"framework_id": id}}),
                json!({"type": "SUBSCRIBED", "subscribed": {"framework_id": sound, "master_info": {"version": text}}}),
                json!({"type": "RESCIND", "rescind": {"offer_id": id}}),
                json!({"type": "RESCIND_INVERSE_OFFER", "rescind_inverse_offer": {"inverse_offer_id": id}}),
                json!({"type": "FAILURE", "failure": {"agent_id": id}}),
                json!({"type": "INVERSE_OFFERS", "inverse_offers": {"inverse_offers": [{"id": id}, {"agent_id": id}]}}),
                json!({"type": "UPDATE", "update": {"status": {"task_id": id}}}),
                json!({"type": "UPDATE", "update": {"status": {"task_id": sound, "uuid": text}}}),
                json!({"type": "UPDATE", "update": {"status": {"task_id": sound, "agent_id": id, "state": text,
                    "reason": text, "message": text}}}),
                json!({"type": "UPDATE", "update": {"status": {"state": "TASK_FAILED", "message": text}}}),
                json!({"type": "OFFERS", "offers": {"offers": [{"id": id}, {"agent_id": id}, {"hostname": text,
                    "url": {"address": {"ip": text}}, "allocation_info": {"role": text},
                    "domain": {"fault_domain": {"region": {"name": text}, "zone": {"name": text}}},
                    "attributes": [{"name": text, "text": {"value": text}}, {"name": "s", "set": {"item": [text, text]}}],
                    "resources": [{"name": text, "scalar": {"value": 1.0}},
                        {"name": "mem", "scalar": {"value": 1.0}, "reservations": [{"role": "r".repeat(20_000)}]}]}]}}),
            ];
            for event in events {
                let told = format!("{:?}", read(&event));
                assert!(told.len() < 40_000, "{} bytes of {}", told.len(), event["type"]);
                // Debug writes out what is raw: `\u{1b}`; what was made harmless before is `\\u{1b}`.
                let raw = told.replace("\\\\", "").contains(r"\u{") || told.replace("\\\\", "").contains(r"\n");
                assert!(!raw, "{told}");
            }
        }
    }

    #[test]
    fn an_error_of_reading_does_not_repeat_what_was_read() {
        let event = json!({"type": "OFFERS", "offers": "x".repeat(1_000_000)});
        assert!(parse(event.to_string().as_bytes()).unwrap_err().to_string().len() < 1200);
        let deep = format!("{{\"type\": {}", "[".repeat(1_000_000));
        assert!(parse(deep.as_bytes()).is_err());
    }

    #[test]
    fn events_are_read_in_time_that_grows_with_their_length() {
        let offers = |count: usize| {
            let offer = json!({"id": {"value": "O"}, "attributes": [{"name": "rack", "text": {"value": "r1"}}],
                "resources": [{"name": "ports", "ranges": {"range": [{"begin": 1, "end": 2}]}}]});
            json!({"type": "OFFERS", "offers": {"offers": vec![offer; count]}}).to_string().into_bytes()
        };
        crate::linear::assert_linear("offers", 300, offers, |record| drop(parse(record)));
        let message = |length: usize| {
            json!({"type": "ERROR", "error": {"message": "\u{1b}".repeat(length)}}).to_string().into_bytes()
        };
        crate::linear::assert_linear("a message", 100_000, message, |record| drop(parse(record)));
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
