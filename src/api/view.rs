//! Instances and events as JSON. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::board::InstanceView;
use crate::model::{InstanceEvent, Timestamp};
use crate::spec::{API_VERSION, InstanceSpec, KIND};
use crate::status::InstanceStatus;

/// An instance as the API shows it: the document, and the status beside it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceJson<'a> {
    api_version: &'static str,
    kind: &'static str,
    metadata: MetadataJson<'a>,
    spec: Option<&'a InstanceSpec>,
    status: &'a InstanceStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    invalid: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MetadataJson<'a> {
    name: &'a str,
    labels: &'a BTreeMap<String, String>,
    revision: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    deleting: bool,
    /// What is said is as old as this: the operator cannot read its store since then.
    #[serde(skip_serializing_if = "Option::is_none")]
    stale_since: Option<Timestamp>,
}

impl<'a> InstanceJson<'a> {
    /// The JSON of a view.
    pub fn new(view: &'a InstanceView) -> InstanceJson<'a> {
        InstanceJson {
            api_version: API_VERSION,
            kind: KIND,
            metadata: MetadataJson {
                name: &view.name,
                labels: labels(view),
                revision: view.revision,
                created_at: view.created_at,
                deleting: view.deleting,
                stale_since: None,
            },
            spec: view.instance.as_ref().map(|instance| &instance.spec),
            status: &view.status,
            invalid: view.invalid.as_deref(),
        }
    }
}

impl InstanceJson<'_> {
    /// Says how old it is, if it may be old.
    #[must_use]
    pub fn told_since(mut self, stale_since: Option<Timestamp>) -> Self {
        self.metadata.stale_since = stale_since;
        self
    }
}

/// The labels of an instance; none while there never was a valid document.
pub fn labels(view: &InstanceView) -> &BTreeMap<String, String> {
    static NONE: BTreeMap<String, String> = BTreeMap::new();
    view.instance.as_ref().map_or(&NONE, |instance| &instance.metadata.labels)
}

/// A list of instances.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListJson<'a> {
    api_version: &'static str,
    kind: &'static str,
    items: Vec<InstanceJson<'a>>,
}

impl<'a> ListJson<'a> {
    /// The JSON of views.
    pub fn new(views: impl Iterator<Item = &'a InstanceView>, stale_since: Option<Timestamp>) -> ListJson<'a> {
        let items = views.map(|view| InstanceJson::new(view).told_since(stale_since)).collect();
        ListJson { api_version: API_VERSION, kind: "RedisInstanceList", items }
    }
}

/// An event, with the instance that it belongs to.
#[derive(Serialize)]
pub struct EventJson<'a> {
    instance: &'a str,
    #[serde(flatten)]
    event: &'a InstanceEvent,
}

impl<'a> EventJson<'a> {
    /// The JSON of an event.
    pub fn new(instance: &'a str, event: &'a InstanceEvent) -> EventJson<'a> {
        EventJson { instance, event }
    }

    /// When it last happened.
    pub fn at(&self) -> Timestamp {
        self.event.at
    }
}
