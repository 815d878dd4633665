//! Passwords are rotated: newer ones are made valid beside those before, which end later, or at once. Pure.

use crate::failover::redis::{MASTER_PASSWORD, master_password};
use crate::model::{EventKind, NodeRecord, Passwords, RequestKind};
use crate::reconcile::draft::Draft;

/// How long the former passwords stay valid, if nobody says otherwise: a day.
pub const KEEP_MS: u64 = 24 * 3_600_000;

/// Begins a rotation that was asked for, and ends one whose time is over.
pub fn rotate(d: &mut Draft) {
    let request = d.o.instance.requests.get(&RequestKind::Rotate).map(|request| request.value.keep_ms);
    if let Some(keep_ms) = request {
        d.done.push(RequestKind::Rotate);
        begin(d, keep_ms.unwrap_or(KEEP_MS));
    }
    end(d);
}

/// Why a rotation cannot be begun. One in an emergency, for a password has leaked, always can.
pub fn refusal(auth: Option<&Passwords>, keep_ms: u64) -> Option<String> {
    match auth {
        None => Some("it has no passwords (spec.auth)".to_string()),
        Some(Passwords { former_until: Some(until), .. }) if keep_ms > 0 => Some(format!(
            "the former passwords are valid until {until}: one after the other; with --keep-former 0s all but the \
             newest end at once"
        )),
        Some(_) => None,
    }
}

fn begin(d: &mut Draft, keep_ms: u64) {
    let (name, now) = (d.o.name.to_string(), d.o.now);
    let Some(record) = &mut d.record else { return };
    if let Some(why) = refusal(record.auth.as_ref(), keep_ms) {
        return d.event(EventKind::Warning, "RotationRefused", name, why);
    }
    let Some(auth) = record.auth else { return };
    let (until, generation) = (now.plus_ms(keep_ms), auth.generation + 1);
    let cut_before = if keep_ms == 0 { Some(generation) } else { auth.cut_before };
    record.auth = Some(Passwords { generation, former_until: Some(until), cut_before, ..auth });
    let message = if keep_ms == 0 {
        "all former ones end as soon as nodes know the new ones, and connections of clients are cut then".to_string()
    } else {
        format!("the former ones are valid until {until}")
    };
    d.event(EventKind::Normal, "PasswordsRotated", name, message);
}

/// The former passwords end when their time is over and nobody of ours uses them any more. Nodes that do not
/// answer are not waited for: they are told when they do.
fn end(d: &mut Draft) {
    let Some(auth) = d.record.as_ref().and_then(|record| record.auth) else { return };
    let Some(until) = auth.former_until else { return };
    if d.o.now < until {
        return d.revisit(until);
    }
    let uses = |node: &NodeRecord| node.owned.get(MASTER_PASSWORD).and_then(|value| master_password(value)?.0.into());
    let behind = |node: &&NodeRecord| {
        let counts = !d.is_master(node.ordinal) && d.answer(node.ordinal).is_some();
        // One that is to end is told nothing more, and keeps the link that it has.
        counts && node.stop.is_none() && !node.task.is_dead() && uses(node) != Some(auth.generation)
    };
    let behind: Vec<String> = d.nodes.values().filter(behind).map(NodeRecord::name).collect();
    if !behind.is_empty() {
        d.wait(format!("the former passwords stay valid, for {} may still use them", behind.join(", ")));
        return;
    }
    let silent = |node: &&NodeRecord| d.answer(node.ordinal).is_none() && !node.task.is_dead();
    let silent: Vec<String> = d.nodes.values().filter(silent).map(NodeRecord::name).collect();
    d.record.as_mut().expect("it was read above").auth = Some(Passwords { former_until: None, ..auth });
    let (kind, message) = if silent.is_empty() {
        (EventKind::Normal, "their time is over".to_string())
    } else {
        let names = silent.join(", ");
        let message =
            format!("their time is over, but {names} cannot be told: there they open until it can, or its end");
        (EventKind::Warning, message)
    };
    d.event(kind, "FormerPasswordsVoid", d.o.name.to_string(), message);
}
