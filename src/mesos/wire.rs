//! The v1 scheduler API's events exactly as their JSON has them, and what they are in our words. Pure.
//!
//! Every field may be absent, unknown fields are passed over, and unknown names of states and event
//! types are no errors: masters of other versions send them.

use anyhow::{Context, Result};
use serde::Deserialize;

use self::offer::{WireInverseOffer, WireOffer};
use crate::model::{MesosEvent, TaskState, TaskUpdate};

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

/// Mesos' way to give an id, in all its APIs.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Id {
    pub(super) value: String,
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
