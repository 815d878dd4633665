//! Placement decisions per second on one core with 5,000 agents, beside a plain scan of all agents. I/O (it
//! reads the clock).
//!
//! Each case fills an empty cluster with instances of three nodes until one is refused, so that the
//! whole range from empty to full is in the figure. The scan is the peer in the same run: it looks
//! at every agent for each decision, with the same rules and the same answers.

mod common;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Instant;

use common::{Table, asked_for_tests};
use redisctl::model::{Amount, Offer, Piece};
use redisctl::placement::{Needs, Placement as Place, Pool, place};
use redisctl::spec::{Constraint, Operator, Placement, Strategy};
use serde_json::Value;

const AGENTS: usize = 5_000;
const NODES: usize = 3;
const MEM_MIB: u64 = 288;
const CPUS_MILLI: u64 = 100;
/// The scan is slow: it is measured on its first decisions only.
const SCAN_INSTANCES: usize = 300;

fn piece(name: &str, amount: Amount) -> Piece {
    Piece { name: name.into(), amount, reservations: Value::Null }
}

/// 5,000 agents in 20 racks with 2 to 5 GiB of memory, every second one with an SSD.
fn offers() -> Vec<Offer> {
    let agent = |n: usize| Offer {
        id: format!("8e1cf2f7-offer-O{n}"),
        agent_id: format!("8e1cf2f7-agent-S{n}"),
        hostname: format!("host-{n}.example"),
        host: format!("10.0.{}.{}", n / 250, n % 250),
        role: "redis".into(),
        attributes: BTreeMap::from([
            ("rack".to_string(), format!("r{}", n % 20)),
            ("disk".to_string(), ["ssd", "hdd"][n / 20 % 2].to_string()),
        ]),
        unavailable_from: None,
        pieces: vec![
            piece("cpus", Amount::Milli(4_000)),
            piece("mem", Amount::Milli((2_000 + (n as u64 * 7919) % 3_000) * 1000)),
            piece("ports", Amount::Ranges(vec![(31_000, 32_000)])),
        ],
    };
    (0..AGENTS).map(agent).collect()
}

fn pool() -> Pool {
    let mut pool = Pool::default();
    for offer in offers() {
        pool.add(offer);
    }
    pool
}

/// Places instances until one is refused, or `limit` is reached; the number of decisions.
fn fill(limit: usize, mut decide: impl FnMut(&str, &[Place]) -> Option<Place>) -> usize {
    let mut decisions = 0;
    for n in 0..limit {
        let name = format!("instance-{n}");
        let mut nodes: Vec<Place> = Vec::with_capacity(NODES);
        for _ in 0..NODES {
            decisions += 1;
            let Some(node) = decide(&name, &nodes) else { return decisions };
            nodes.push(node);
        }
        black_box(&nodes);
    }
    decisions
}

fn needs<'a>(instance: &'a str, placement: &'a Placement) -> Needs<'a> {
    Needs { instance, mem_mib: MEM_MIB, cpus_milli: CPUS_MILLI, distribution: 1, placement }
}

/// An agent of the scan.
struct Scanned {
    offer: Offer,
    cpus: u64,
    mem: u64,
    next_port: u16,
}

fn scan(agents: &mut [Scanned], placement: &Placement, nodes: &[Place]) -> Option<Place> {
    let by = placement.spread_by.as_deref();
    let domain = |attributes: &BTreeMap<String, String>| by.and_then(|by| attributes.get(by)).cloned();
    let used: Vec<_> = nodes.iter().map(|n| domain(&n.attributes)).collect();
    let fits = |agent: &&mut Scanned| {
        agent.cpus >= CPUS_MILLI
            && agent.mem >= MEM_MIB * 1000
            && nodes.iter().all(|n| n.agent_id != agent.offer.agent_id)
            && placement
                .constraints
                .iter()
                .all(|c| agent.offer.attributes.get(&c.attribute).is_some_and(|v| c.values.contains(v)))
    };
    let best = agents.iter_mut().filter(fits).min_by_key(|agent| {
        let domain = domain(&agent.offer.attributes);
        let in_domain = used.iter().filter(|used| **used == domain).count();
        let rank = if placement.strategy == Strategy::Pack { agent.mem } else { u64::MAX - agent.mem };
        (in_domain, rank, agent.offer.agent_id.clone())
    })?;
    best.cpus -= CPUS_MILLI;
    best.mem -= MEM_MIB * 1000;
    best.next_port += 1;
    let offer = &best.offer;
    Some(Place {
        agent_id: offer.agent_id.clone(),
        hostname: offer.hostname.clone(),
        host: offer.host.clone(),
        attributes: offer.attributes.clone(),
        port: best.next_port,
        pieces: offer.pieces.clone(),
        offer_ids: vec![offer.id.clone()],
    })
}

#[allow(clippy::cast_precision_loss)] // A rate for people.
fn rate(count: usize, since: Instant) -> f64 {
    count as f64 / since.elapsed().as_secs_f64()
}

fn measure(name: &str, placement: &Placement, table: &mut Table) {
    let mut pool = pool();
    let mut seed = 0;
    let start = Instant::now();
    let decisions = fill(usize::MAX, |instance, nodes| {
        seed += 1;
        let occupied: Vec<_> = nodes.iter().map(Place::occupied).collect();
        place(&needs(instance, placement), &occupied, &mut pool, seed).ok()
    });
    let indexed = rate(decisions, start);

    let scanned = |offer: Offer| Scanned {
        cpus: 4_000,
        mem: match offer.pieces[1].amount {
            Amount::Milli(milli) => milli,
            Amount::Ranges(_) => 0,
        },
        next_port: 31_000,
        offer,
    };
    let mut agents: Vec<_> = offers().into_iter().map(scanned).collect();
    let start = Instant::now();
    let scanned = rate(fill(SCAN_INSTANCES, |_, nodes| scan(&mut agents, placement, nodes)), start);
    println!(
        "placement/{name:<32} {indexed:>9.0} decisions/s ({decisions} until full)   scan {scanned:>6.0}/s   {:>5.0} times",
        indexed / scanned
    );
    let (value, floor) = (format!("{indexed:.0}/s"), format!("scan of all agents {scanned:.0}/s"));
    let figure = format!("placement, 5,000 agents, {name}");
    table.row(&figure, &value, &floor, &format!("{:.0}", indexed / scanned), "20,000/s");
}

/// A full cluster with many instances waiting: how fast they are all told why.
fn refusals(same_pool: bool) {
    let mut pool = pool();
    pool.take_unclaimed();
    let placement = Placement { spread_by: Some("rack".into()), ..Placement::default() };
    let rounds = if same_pool { 20_000 } else { 500 };
    let mut spare = offers().remove(0);
    spare.pieces.clear();
    let start = Instant::now();
    for n in 0..rounds {
        if !same_pool {
            spare.id = format!("spare-{n}");
            pool.add(spare.clone());
        }
        black_box(place(&needs("orders", &placement), &[], &mut pool, n).is_err());
    }
    let name = if same_pool { "refusals, pool unchanged" } else { "refusals, pool changed each time" };
    println!("placement/{name:<32} {:>9.0} refusals/s", rate(usize::try_from(rounds).unwrap_or(0), start));
}

fn main() {
    if asked_for_tests() {
        return; // A test runner looks for tests: there are none here.
    }
    let spread = Placement::default();
    let racks = Placement { spread_by: Some("rack".into()), ..Placement::default() };
    let ssd = Constraint { attribute: "disk".into(), operator: Operator::In, values: vec!["ssd".into()] };
    let constrained = Placement { constraints: vec![ssd], ..racks.clone() };
    let hosts = Placement { spread_by: Some("hostname".into()), ..Placement::default() };
    let pack = Placement { strategy: Strategy::Pack, ..Placement::default() };
    let mut table = Table::default();
    measure("spread", &spread, &mut table);
    measure("spread, by rack", &racks, &mut table);
    measure("spread, by rack, disk in [ssd]", &constrained, &mut table);
    measure("spread, by hostname", &hosts, &mut table);
    measure("pack", &pack, &mut table);
    refusals(true);
    refusals(false);
    table.print();
}
