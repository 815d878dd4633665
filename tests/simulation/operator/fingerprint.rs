//! All of an operator that its future depends on, as text: two that agree in it do the same. Pure.

use std::fmt::Write;

use redisctl::reconcile::execute::Input;
use redisctl::reconcile::world::Event;

use super::Operator;

impl Operator {
    /// Names, times and revisions are as they are: whoever compares renames them.
    pub fn fingerprint(&self, out: &mut String) {
        let world = &self.world;
        for (name, instance) in &world.instances {
            let document = instance.document.as_ref().map(|document| document.revision);
            let status = instance.status.as_ref().map(|status| status.revision);
            let (record, nodes, requests) = (&instance.record, &instance.nodes, &instance.requests);
            let _ = write!(out, "{name} {document:?} {status:?} {record:?} {nodes:?} {requests:?}");
        }
        let pool = format!("{:?}", world.pool);
        out.push_str(pool.split("offers: {").next().unwrap_or_default());
        let _ = write!(out, "{:?} {:?} {:?}", world.session, world.framework_id, world.strangers);
        let _ = write!(out, "{:?} {:?}", world.frozen, world.leaving);
        let Operator { token, asked, dirty, busy, wanting, revisits, session_revisit, backoffs, .. } = self;
        let _ = write!(out, "{token:?} {asked:?} {dirty:?} {busy:?} {wanting:?} {revisits:?} {session_revisit:?}");
        let Operator { unknown, synced, probed, probes, calls, watched, listing, late, framework_stored, .. } = self;
        let listing = listing.as_ref().map(|listing| listing.revision);
        let _ =
            write!(out, "{backoffs:?} {unknown:?} {synced} {probed:?} {probes:?} {calls:?} {watched:?} {listing:?}");
        let _ = write!(out, "{late:?} {framework_stored:?}");
        for input in &self.inputs {
            let _ = match input {
                Input::Event(Event::Listed(listing)) => write!(out, "listed {}", listing.revision),
                Input::Event(Event::Changed(changes)) => write!(out, "changed {}", changes.revision),
                Input::Event(Event::Committed { name, revision, .. }) => write!(out, "committed {name} {revision}"),
                other => write!(out, "{other:?}"),
            };
        }
        for round in &self.rounds {
            let _ = write!(out, "{} {:?}", round.subscription, round.accepts);
            for doing in &round.works {
                let steps: Vec<_> = doing.work.plan.steps.iter().map(|step| &step.action).collect();
                let guards = &doing.work.txn.guards;
                let _ = write!(out, "{:?} {} {} {steps:?} {guards:?}", doing.committed, doing.steps, doing.done);
                let _ = write!(out, "{:?}", doing.work.plan.writes);
            }
        }
    }
}
