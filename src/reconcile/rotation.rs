//! Passwords are rotated: newer ones are made valid beside those before, which end later. Pure.

use crate::failover::redis::{MASTER_PASSWORD, master_password};
use crate::model::{EventKind, NodeRecord, Passwords, RequestKind};
use crate::reconcile::draft::Draft;

/// How long the former passwords stay valid, if nobody says otherwise: a day.
const KEEP_MS: u64 = 24 * 3_600_000;

/// Begins a rotation that was asked for, and ends one whose time is over.
pub fn rotate(d: &mut Draft) {
    let request = d.o.instance.requests.get(&RequestKind::Rotate).map(|request| request.value.keep_ms);
    if let Some(keep_ms) = request {
        d.done.push(RequestKind::Rotate);
        begin(d, keep_ms.unwrap_or(KEEP_MS));
    }
    end(d);
}

fn begin(d: &mut Draft, keep_ms: u64) {
    let (name, now) = (d.o.name.to_string(), d.o.now);
    let Some(record) = &mut d.record else { return };
    let (kind, reason, message) = match record.auth {
        None => (EventKind::Warning, "RotationRefused", "it has no passwords (spec.auth)".to_string()),
        Some(Passwords { former_until: Some(until), .. }) => (
            EventKind::Warning,
            "RotationRefused",
            format!("the former passwords are valid until {until}: one after the other"),
        ),
        Some(Passwords { generation, former_until: None, open }) => {
            let until = now.plus_ms(keep_ms);
            record.auth = Some(Passwords { generation: generation + 1, former_until: Some(until), open });
            (EventKind::Normal, "PasswordsRotated", format!("the former ones are valid until {until}"))
        }
    };
    d.event(kind, reason, name, message);
}

/// The former passwords end when their time is over and nobody of ours uses them any more.
fn end(d: &mut Draft) {
    let auth = d.record.as_ref().and_then(|record| record.auth);
    let Some(Passwords { generation, former_until: Some(until), open }) = auth else { return };
    if d.o.now < until {
        return d.revisit(until);
    }
    let uses = |node: &NodeRecord| node.owned.get(MASTER_PASSWORD).and_then(|value| master_password(value)?.0.into());
    let behind =
        |node: &&NodeRecord| !node.task.is_dead() && !d.is_master(node.ordinal) && uses(node) != Some(generation);
    let behind: Vec<String> = d.nodes.values().filter(behind).map(NodeRecord::name).collect();
    if !behind.is_empty() {
        d.wait(format!("the former passwords stay valid, for {} may still use them", behind.join(", ")));
        return;
    }
    d.record.as_mut().expect("it was read above").auth = Some(Passwords { generation, former_until: None, open });
    d.event(EventKind::Normal, "FormerPasswordsVoid", d.o.name.to_string(), "their time is over".to_string());
}
