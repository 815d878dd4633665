//! Who is offered what: allocation, filters, DECLINE, REVIVE, SUPPRESS, RESCIND. I/O (it reads the clock).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::bag::Bag;
use super::config::AgentSpec;
use super::json::{id, number, texts};
use super::state::State;

/// The filter of a call that names none.
const DEFAULT_REFUSE_S: f64 = 5.0;
/// The longest filter.
const REFUSE_MAX_S: f64 = 365.0 * 24.0 * 3600.0;

/// An offer that is out.
#[derive(Clone, Debug)]
pub(super) struct Offer {
    pub id: String,
    pub framework: String,
    pub agent_id: String,
    pub role: String,
    pub resources: Bag,
}

/// What a framework refused: it is not offered this, nor a part of it, for some time.
#[derive(Clone, Debug)]
pub(super) struct Filter {
    pub framework: String,
    agent_id: String,
    role: String,
    resources: Bag,
    until: Instant,
}

impl State {
    /// Offers all that is free to those who want it, the neediest first.
    pub fn allocate(&mut self) {
        let now = Instant::now();
        self.master.filters.retain(|filter| filter.until > now);
        let mut takers = self.takers();
        let mut new: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        let agent_ids: Vec<String> = self.master.agents.keys().cloned().collect();
        for agent_id in agent_ids {
            let registration = &self.master.agents[&agent_id];
            if !registration.is_active() || !registration.free.allocatable() {
                continue;
            }
            let free = registration.free.clone();
            takers.sort();
            let taker = takers.iter_mut().find(|taker| !self.refuses(taker, &agent_id, &free));
            let Some(taker) = taker else { continue };
            taker.share += free.dominant_share(&self.agents[registration.agent].total());
            let offer = Offer {
                id: self.new_offer_id(),
                framework: taker.framework.clone(),
                agent_id: agent_id.clone(),
                role: taker.role.clone(),
                resources: free,
            };
            self.master.agents.get_mut(&agent_id).expect("it was listed").free = Bag::default();
            new.entry(offer.framework.clone()).or_default().push(self.offer_json(&offer));
            self.master.offers.insert(offer.id.clone(), offer);
        }
        for (framework, offers) in new {
            self.send(&framework, &json!({"type": "OFFERS", "offers": {"offers": offers}}));
        }
        self.allocate_inverse();
    }

    /// An id for an offer or an inverse offer.
    pub fn new_offer_id(&mut self) -> String {
        let number = self.master.next_offer;
        self.master.next_offer += 1;
        format!("{}-O{number}", self.master.id)
    }

    /// Everyone who wants offers, with what it has already.
    fn takers(&self) -> Vec<Taker> {
        let mut takers = Vec::new();
        for framework in self.master.frameworks.values().filter(|f| f.subscriber.is_some()) {
            for role in framework.roles.iter().filter(|role| !framework.suppressed.contains(*role)) {
                takers.push(Taker { share: 0, framework: framework.id.clone(), role: role.clone() });
            }
        }
        if takers.len() > 1 {
            for taker in &mut takers {
                taker.share = self.share_of(&taker.framework, &taker.role);
            }
        }
        takers
    }

    fn share_of(&self, framework: &str, role: &str) -> i64 {
        let tasks = self.master.frameworks[framework].tasks.values();
        let used = tasks.filter(|task| task.role == role).map(|task| (&task.agent_id, &task.resources));
        let offers = self.master.offers.values().filter(|o| o.framework == framework && o.role == role);
        let offered = offers.map(|offer| (&offer.agent_id, &offer.resources));
        used.chain(offered)
            .filter_map(|(agent_id, bag)| {
                Some(bag.dominant_share(&self.agents[self.master.agents.get(agent_id)?.agent].total()))
            })
            .sum()
    }

    fn refuses(&self, taker: &Taker, agent_id: &str, free: &Bag) -> bool {
        self.master.filters.iter().any(|filter| {
            filter.framework == taker.framework
                && filter.role == taker.role
                && filter.agent_id == agent_id
                && filter.resources.contains(free)
        })
    }

    /// As an OFFERS event and `GET_FRAMEWORKS` show it.
    pub fn offer_json(&self, offer: &Offer) -> Value {
        let agent = self.master.agents[&offer.agent_id].agent;
        let spec = &self.agents[agent].spec;
        let mut json = json!({
            "id": id(&offer.id),
            "framework_id": id(&offer.framework),
            "agent_id": id(&offer.agent_id),
            "hostname": spec.hostname,
            "url": url(spec),
            "resources": offer.resources.to_json(&json!({"allocation_info": {"role": offer.role}})),
        });
        if let Some(attributes) = super::operator_api::attributes(spec) {
            json["attributes"] = attributes;
        }
        if let Some(unavailability) = self.master.maintenance.unavailability(spec) {
            json["unavailability"] = unavailability.clone();
        }
        json["allocation_info"] = json!({"role": offer.role});
        json
    }

    /// DECLINE.
    pub fn decline(&mut self, framework: &str, call: &Value) {
        for offer_id in super::json::items(&call["offer_ids"]).filter_map(|id| id["value"].as_str()) {
            if let Some(offer) = self.take_offer(framework, offer_id) {
                self.give_back(&offer, &offer.resources.clone(), Some(&call["filters"]));
            }
        }
    }

    /// Takes an offer back from the framework that it was made to.
    pub fn take_offer(&mut self, framework: &str, offer_id: &str) -> Option<Offer> {
        self.master.offers.get(offer_id).filter(|offer| offer.framework == framework)?;
        self.master.offers.remove(offer_id)
    }

    /// Makes what is left of an offer free again, behind a filter if one is given.
    pub fn give_back(&mut self, offer: &Offer, left: &Bag, filters: Option<&Value>) {
        let Some(registration) = self.master.agents.get_mut(&offer.agent_id) else { return };
        registration.free.add(left);
        let Some(filters) = filters else { return };
        if let Some(wait) = refuse_for(filters).filter(|_| !left.is_empty()) {
            let wait = wait.max(self.config.allocation_interval);
            self.master.filters.push(Filter {
                framework: offer.framework.clone(),
                agent_id: offer.agent_id.clone(),
                role: offer.role.clone(),
                resources: left.clone(),
                until: Instant::now() + wait,
            });
        }
    }

    /// REVIVE: no filters, no suppression, and offers at once.
    pub fn revive(&mut self, framework_id: &str, call: &Value) {
        let Some(roles) = self.roles_of_call(framework_id, call) else { return };
        self.master.filters.retain(|f| f.framework != framework_id || !roles.contains(&f.role));
        self.master.maintenance.clear_filters_of(framework_id);
        if let Some(framework) = self.master.frameworks.get_mut(framework_id) {
            framework.suppressed.retain(|role| !roles.contains(role));
        }
        self.allocate();
    }

    /// SUPPRESS: no more offers; those that are out stay.
    pub fn suppress(&mut self, framework_id: &str, call: &Value) {
        let Some(roles) = self.roles_of_call(framework_id, call) else { return };
        if let Some(framework) = self.master.frameworks.get_mut(framework_id) {
            framework.suppressed.extend(roles);
        }
    }

    /// The roles that a call names; all when it names none; none at all when it names a strange one.
    fn roles_of_call(&self, framework_id: &str, call: &Value) -> Option<Vec<String>> {
        let mine = &self.master.frameworks.get(framework_id)?.roles;
        let named = texts(&call["roles"]);
        if named.is_empty() {
            return Some(mine.clone());
        }
        named.iter().all(|role| mine.contains(role)).then_some(named)
    }

    /// Takes all offers and inverse offers of an agent back, and says so.
    pub fn rescind_of(&mut self, agent_id: &str) {
        let offers = self.master.offers.values().filter(|offer| offer.agent_id == agent_id);
        let ids: Vec<String> = offers.map(|offer| offer.id.clone()).collect();
        self.rescind(&ids);
        self.rescind_inverse_of(agent_id);
    }

    /// Takes these offers back, and says so.
    pub fn rescind(&mut self, ids: &[String]) {
        for offer_id in ids {
            let Some(offer) = self.master.offers.remove(offer_id) else { continue };
            self.give_back(&offer, &offer.resources, None);
            self.send(&offer.framework, &json!({"type": "RESCIND", "rescind": {"offer_id": id(offer_id)}}));
        }
    }

    /// Takes a framework's offers back without a word: its stream has ended.
    pub fn void_offers_of(&mut self, framework: &str) {
        let offers = self.master.offers.values().filter(|offer| offer.framework == framework);
        for offer_id in offers.map(|offer| offer.id.clone()).collect::<Vec<_>>() {
            let Some(offer) = self.master.offers.remove(&offer_id) else { continue };
            self.give_back(&offer, &offer.resources, None);
        }
        self.master.maintenance.void_of(framework);
    }
}

/// How long a call's filters refuse; none: not at all.
pub(super) fn refuse_for(filters: &Value) -> Option<Duration> {
    let refuse_s = number(&filters["refuse_seconds"]).unwrap_or(DEFAULT_REFUSE_S);
    let refuse_s = if refuse_s < 0.0 { DEFAULT_REFUSE_S } else { refuse_s.min(REFUSE_MAX_S) };
    (refuse_s > 0.0).then(|| Duration::from_secs_f64(refuse_s))
}

/// Where an agent says that it is.
pub(super) fn url(spec: &AgentSpec) -> Value {
    let address = json!({"hostname": spec.hostname, "ip": spec.ip, "port": super::operator_api::AGENT_PORT});
    json!({"scheme": "http", "address": address, "path": "/slave(1)"})
}

/// A framework's role that wants offers; orders by what it has already.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Taker {
    share: i64,
    framework: String,
    role: String,
}
