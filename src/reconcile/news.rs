//! Mesos' part of the world: the session, offers, news of tasks. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{
    Address, Amount, DeathCause, LastWords, Meaning, MesosEvent, Offer, TaskUpdate, Timestamp, parse_task_id,
};
use crate::reconcile::framework;
use crate::reconcile::strangers::Stranger;
use crate::reconcile::world::{Dirty, Instance, Node, Session, World};

/// Last words of an instance's nodes that wait to be told.
const LAST_WORDS_MAX: usize = 16;

/// An address where another process listens is not given to a node for so long (it may be the only one, and free
/// again), ...
pub(super) const AVOID_MS: u64 = 10_000;
/// ... and one where that is only possible, for so long.
const AVOID_DOUBTFUL_MS: u64 = 3_000;

impl World {
    pub(super) fn mesos(&mut self, event: MesosEvent, now: Timestamp) -> Dirty {
        match event {
            MesosEvent::Subscribed { framework_id, subscription } => {
                self.session = Session::Subscribed { subscription, since: now };
                self.framework_id = Some(framework_id);
                self.lose_sight();
                Dirty::all()
            }
            MesosEvent::Disconnected { reason } => {
                self.session = Session::Disconnected(reason);
                self.lose_sight();
                Dirty::all()
            }
            MesosEvent::Ended { message } => {
                let id = self.framework_id.as_deref().unwrap_or("(of no id)");
                self.frozen = Some(framework::ended(&message, id));
                self.doubt = false;
                self.session = Session::Ended(message);
                self.lose_sight();
                Dirty::all()
            }
            MesosEvent::Offers(mut offers) => {
                self.avoided.retain(|_, until| *until > now);
                let taken = self.taken_addresses();
                for offer in &mut offers {
                    withhold_ports(offer, &taken);
                    self.leaving.soften(offer, now);
                }
                for offer in offers {
                    let spare = self.pool.add(offer);
                    self.spare_offers.extend(spare);
                }
                Dirty::default() // Those who wait for offers are known to the controller.
            }
            MesosEvent::Rescind(offer_id) => {
                self.pool.remove(&offer_id);
                Dirty::default()
            }
            MesosEvent::InverseOffers(offers) => {
                let agents = offers.iter().map(|offer| offer.agent_id.clone()).collect();
                for offer in offers {
                    self.leaving.asked(offer);
                }
                self.nodes_on(&agents)
            }
            MesosEvent::RescindInverse(offer_id) => {
                let agents = self.leaving.rescinded(&offer_id).into_iter().collect();
                self.nodes_on(&agents)
            }
            MesosEvent::Leaving(agents) => {
                let changed = self.leaving.listed(agents);
                self.nodes_on(&changed)
            }
            MesosEvent::Update(update) => self.updated(update, now),
            MesosEvent::LastWords(words) => self.heard_last(words, now),
            // Of its tasks the updates tell. It may never offer anything again.
            MesosEvent::AgentFailed(agent_id) => {
                self.pool.forget_agent(&agent_id);
                Dirty::default()
            }
            MesosEvent::CallFailed { task_ids, .. } => {
                for task_id in &task_ids {
                    if let Some((_, node)) = self.node_of(task_id) {
                        node.heard = false; // Whether it was launched is to be asked.
                    }
                }
                Dirty::default()
            }
        }
    }

    /// Kept until they are told in an event.
    fn heard_last(&mut self, words: LastWords, now: Timestamp) -> Dirty {
        let Some((name, _)) = parse_task_id(&words.task_id) else { return Dirty::default() };
        let name = name.to_string();
        let Some(instance) = self.instances.get_mut(&name) else { return Dirty::default() };
        let node = instance.nodes.values().find(|node| node.record.value.task_id == words.task_id);
        if let Some(node) = node.filter(|_| words.cause() == DeathCause::PortTaken) {
            avoid(&mut self.avoided, &node.record.value.address, now.plus_ms(AVOID_MS));
        }
        if instance.last_words.len() < LAST_WORDS_MAX {
            instance.last_words.push(words);
        }
        Dirty::one(&name)
    }

    /// Where recorded nodes listen, and whom they follow. Mesos may offer the port of a node that has
    /// died before that is learned, and replicas follow an address, whoever listens there: a stranger
    /// on a dead master's port would wipe them. And where another process was found: a node cannot listen there.
    fn taken_addresses(&self) -> BTreeSet<Address> {
        let nodes = self.instances.values().flat_map(|instance| instance.nodes.values());
        let followed = |node: &Node| node.answer.as_ref().and_then(|(answer, _)| answer.follows.clone());
        let taken = nodes.flat_map(|node| [Some(node.record.value.address.clone()), followed(node)]).flatten();
        let planned = self.planned.values().flatten().cloned();
        taken.chain(planned).chain(self.avoided.keys().cloned()).collect()
    }

    /// Offers are void, and what is known of tasks may be old: each is to be asked for again.
    fn lose_sight(&mut self) {
        self.pool.clear();
        self.spare_offers.clear();
        self.leaving.forget_asked();
        for stranger in self.strangers.values_mut() {
            (stranger.killed_at, stranger.asked_at) = (None, None);
        }
        for node in self.instances.values_mut().flat_map(|i| i.nodes.values_mut()) {
            node.heard = false;
            node.killed_at = None;
        }
    }

    /// When the first port is free again of those that were avoided at that moment.
    pub(super) fn avoided_until(&self, at: Timestamp) -> Option<Timestamp> {
        self.avoided.values().filter(|until| **until > at).min().copied()
    }

    /// Instances with nodes on these agents.
    fn nodes_on(&self, agents: &BTreeSet<String>) -> Dirty {
        let there = |instance: &Instance| instance.nodes.values().any(|n| agents.contains(&n.record.value.agent_id));
        let names = self.instances.iter().filter(|(_, instance)| there(instance)).map(|(name, _)| name.clone());
        Dirty { all: false, names: names.collect() }
    }

    fn updated(&mut self, update: TaskUpdate, now: Timestamp) -> Dirty {
        if let Some((name, node)) = self.node_of(&update.task_id) {
            let dirty = Dirty::one(name);
            // It never answered: somebody else may have its port, which is known for sure only later, if at all.
            let stillborn = update.state.meaning() == Meaning::Dead && node.answer.is_none();
            let address = node.record.value.address.clone();
            node.hear(update);
            if stillborn {
                avoid(&mut self.avoided, &address, now.plus_ms(AVOID_DOUBTFUL_MS));
            }
            return dirty;
        }
        let acknowledged = update.uuid.is_none();
        let known = self.strangers.get(&update.task_id);
        let stranger = Stranger {
            killed_at: known.and_then(|s| s.killed_at),
            asked_at: known.and_then(|s| s.asked_at),
            acknowledged,
            update,
        };
        if stranger.is_over() {
            self.strangers.remove(&stranger.update.task_id);
        } else {
            self.strangers.insert(stranger.update.task_id.clone(), stranger);
        }
        Dirty::default()
    }
}

/// No node is placed there until then.
pub(super) fn avoid(avoided: &mut BTreeMap<Address, Timestamp>, address: &Address, until: Timestamp) {
    let known = avoided.entry(address.clone()).or_insert(until);
    *known = until.max(*known);
}

/// Takes ports out of an offer; they go back with what is not used of it.
fn withhold_ports(offer: &mut Offer, taken: &BTreeSet<Address>) {
    let at = |port| Address { host: offer.host.clone(), port };
    let ports: Vec<u16> = taken.range(at(0)..=at(u16::MAX)).map(|address| address.port).collect();
    for piece in offer.pieces.iter_mut().filter(|piece| piece.name == "ports") {
        let Amount::Ranges(ranges) = &mut piece.amount else { continue };
        for port in &ports {
            let split = |(first, last): (u16, u16)| {
                let outside = !(first..=last).contains(port);
                let whole = outside.then_some((first, last));
                let below = (!outside && first < *port).then(|| (first, port - 1));
                let above = (!outside && *port < last).then(|| (port + 1, last));
                [whole, below, above].into_iter().flatten()
            };
            *ranges = ranges.drain(..).flat_map(split).collect();
        }
    }
}
