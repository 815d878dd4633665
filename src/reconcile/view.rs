//! An instance as the API shows it. Pure.

use std::sync::Arc;

use crate::board::{InstanceView, PlanView};
use crate::model::RequestKind;
use crate::reconcile::action::Plan;
use crate::reconcile::world::Instance;
use crate::spec::{API_VERSION, KIND, Metadata, RedisInstance};

/// The view of an instance whose plan was just made.
pub fn instance_view(name: &str, instance: &Instance, plan: &Plan) -> InstanceView {
    let view = stored_view(name, instance);
    InstanceView { status: plan.status.clone().unwrap_or(view.status), plan: Some(plan.view()), ..view }
}

/// The same when the store has not taken what was to be recorded: nothing of it is done, and that is what is waited for.
pub fn unrecorded_view(view: &InstanceView, instance: &Instance, why: &str) -> InstanceView {
    let why = format!("the store has not recorded what is to be done, so nothing of it is done: {why}");
    let mut view = view.clone();
    view.status.epoch = instance.record.as_ref().map_or(0, |record| record.value.epoch);
    view.status.waiting = vec![why.clone()];
    view.plan = view.plan.map(|plan| PlanView { waiting: vec![why], ..plan });
    view
}

/// The view of an instance as it is stored: what a standby knows.
pub fn stored_view(name: &str, instance: &Instance) -> InstanceView {
    let record = instance.record.as_ref().map(|record| &record.value);
    let document = instance.document.as_ref();
    let declared = document.and_then(|document| document.parsed.as_ref().ok()).cloned();
    let last_good = record.map(|record| RedisInstance {
        api_version: API_VERSION.to_string(),
        kind: KIND.to_string(),
        metadata: Metadata { name: name.to_string(), labels: record.labels.clone() },
        spec: record.spec.clone(),
    });
    InstanceView {
        name: name.to_string(),
        instance: declared.or(last_good),
        invalid: document.and_then(|document| document.parsed.as_ref().err()).cloned(),
        revision: document.map_or(0, |document| document.revision),
        created_at: record.map(|record| record.created_at),
        status: instance.status.as_ref().map(|status| status.value.clone()).unwrap_or_default(),
        plan: None,
        events: instance.events.as_ref().map_or_else(Arc::default, |events| events.value.clone()),
        deleting: record.is_some_and(|record| record.deleting) || instance.requests.contains_key(&RequestKind::Delete),
    }
}
