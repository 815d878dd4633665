//! Placement: its rules one by one, and against an oracle that looks at every agent. Pure.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use redisctl::model::{Amount, Offer, Piece, Timestamp};
use redisctl::placement::{Needs, Occupied, Placement as Place, Pool, REMEMBERED_AGENTS_MAX, Reason, Refusal, place};
use redisctl::spec::{Constraint, Operator, Placement, Strategy as Way};
use serde_json::{Value, json};

// --- Builders -------------------------------------------------------------------------------

fn scalar(name: &str, milli: u64) -> Piece {
    Piece { name: name.into(), amount: Amount::Milli(milli), reservations: Value::Null }
}

fn ports(first: u16, last: u16) -> Piece {
    Piece { name: "ports".into(), amount: Amount::Ranges(vec![(first, last)]), reservations: Value::Null }
}

/// An offer of agent `a`, id `o-a`, with 4 CPUs, 100 ports and this much memory.
fn offer(agent: &str, mem_mib: u64, attributes: &[(&str, &str)]) -> Offer {
    Offer {
        id: format!("o-{agent}"),
        agent_id: agent.into(),
        hostname: format!("{agent}.example"),
        host: "10.0.0.1".into(),
        role: "redis".into(),
        attributes: attributes.iter().map(|(k, v)| ((*k).to_string(), (*v).to_string())).collect(),
        unavailable_from: None,
        pieces: vec![scalar("cpus", 4000), scalar("mem", mem_mib * 1000), ports(31000, 31099)],
    }
}

fn pool(offers: impl IntoIterator<Item = Offer>) -> Pool {
    let mut pool = Pool::default();
    offers.into_iter().for_each(|offer| drop(pool.add(offer)));
    pool
}

fn needs(placement: &Placement, mem_mib: u64, distribution: u32) -> Needs<'_> {
    Needs { instance: "orders", mem_mib, cpus_milli: 100, distribution, placement }
}

fn spread_by(attribute: &str) -> Placement {
    Placement { spread_by: Some(attribute.into()), ..Placement::default() }
}

fn constrained(attribute: &str, operator: Operator, values: &[&str]) -> Placement {
    let values = values.iter().map(ToString::to_string).collect();
    let constraint = Constraint { attribute: attribute.into(), operator, values };
    Placement { constraints: vec![constraint], ..Placement::default() }
}

/// Places nodes of one instance one after the other.
fn place_all(needs: &Needs, nodes: usize, pool: &mut Pool) -> Result<Vec<Place>, Refusal> {
    let mut placed: Vec<Place> = Vec::new();
    for _ in 0..nodes {
        let occupied: Vec<_> = placed.iter().map(Place::occupied).collect();
        let next = place(needs, &occupied, pool, 1)?;
        placed.push(next);
    }
    Ok(placed)
}

fn agents(placed: &[Place]) -> Vec<&str> {
    placed.iter().map(|p| p.agent_id.as_str()).collect()
}

// --- Rules ----------------------------------------------------------------------------------

#[test]
fn offers_of_one_role_are_held_for_an_agent_and_reserved_ones_rather_than_others() {
    let of_role = |id: &str, role: &str, reserved: bool| {
        let mut offer = offer("a1", 1000, &[]);
        (offer.id, offer.role) = (id.to_string(), role.to_string());
        for piece in offer.pieces.iter_mut().filter(|_| reserved) {
            piece.reservations = serde_json::json!([{"type": "STATIC", "role": role}]);
        }
        offer
    };
    let mut pool = Pool::default();
    assert_eq!(pool.add(of_role("o1", "a", false)), Vec::<String>::new());
    assert_eq!(pool.add(of_role("o2", "a", false)), Vec::<String>::new(), "the same role adds up");
    assert_eq!(pool.add(of_role("o3", "b", false)), ["o3"], "another role does not");
    assert_eq!(pool.add(of_role("o4", "b", true)), ["o1", "o2"], "but what is reserved goes first");
    assert_eq!(pool.add(of_role("o5", "a", true)), ["o5"]);
    assert_eq!(pool.take_agent("a1"), ["o4"]);
    assert_eq!(pool.add(of_role("o6", "a", false)), Vec::<String>::new(), "when they are gone, others come");
}

#[test]
fn three_nodes_land_on_three_racks() {
    let mut pool = pool([
        offer("a1", 4000, &[("rack", "r1")]),
        offer("a2", 4000, &[("rack", "r1")]),
        offer("a3", 1000, &[("rack", "r2")]),
        offer("a4", 500, &[("rack", "r3")]),
    ]);
    let placement = spread_by("rack");
    let placed = place_all(&needs(&placement, 288, 1), 3, &mut pool).unwrap();
    assert_eq!(agents(&placed), ["a1", "a3", "a4"]);
}

#[test]
fn spreading_is_soft_and_a_fourth_node_shares_a_rack() {
    let mut pool =
        pool([offer("a1", 4000, &[("rack", "r1")]), offer("a2", 4000, &[("rack", "r1")]), offer("a3", 1000, &[])]);
    let placement = spread_by("rack");
    let placed = place_all(&needs(&placement, 288, 1), 3, &mut pool).unwrap();
    assert_eq!(agents(&placed), ["a1", "a3", "a2"], "the agent without a rack counts as one more rack");
}

#[test]
fn racks_stay_even_where_the_distribution_allows_it() {
    let mut pool = pool([
        offer("a1", 1000, &[("rack", "r1")]),
        offer("a2", 4000, &[("rack", "r2")]),
        offer("a3", 4000, &[("rack", "r2")]),
    ]);
    let placement = spread_by("rack");
    let placed = place_all(&needs(&placement, 288, 2), 4, &mut pool).unwrap();
    assert_eq!(agents(&placed), ["a2", "a1", "a3", "a1"]);
}

#[test]
fn spread_goes_to_the_emptiest_agent_and_pack_to_the_fullest_that_fits() {
    let offers = || [offer("a1", 500, &[]), offer("a2", 200, &[]), offer("a3", 900, &[]), offer("a4", 900, &[])];
    let spread = Placement::default();
    assert_eq!(place(&needs(&spread, 288, 1), &[], &mut pool(offers()), 1).unwrap().agent_id, "a3");
    let pack = Placement { strategy: Way::Pack, ..Placement::default() };
    assert_eq!(place(&needs(&pack, 288, 1), &[], &mut pool(offers()), 1).unwrap().agent_id, "a1");
}

#[test]
fn the_distribution_is_never_exceeded() {
    let mut pool = pool([offer("a1", 4000, &[]), offer("a2", 4000, &[])]);
    let placement = Placement { strategy: Way::Pack, ..Placement::default() };
    let needs = needs(&placement, 100, 2);
    let placed = place_all(&needs, 4, &mut pool).unwrap();
    assert_eq!(agents(&placed), ["a1", "a1", "a2", "a2"]);
    let refusal = place_all(&needs, 5, &mut pool).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "needs 100 MiB and a port on an agent that runs fewer than 2 nodes of orders: \
         2 agents have offered, 2 run 2 already"
    );
}

#[test]
fn constraints_are_hard() {
    let offers = || [offer("a1", 900, &[("disk", "hdd")]), offer("a2", 500, &[("disk", "ssd")]), offer("a3", 100, &[])];
    let chosen = |placement: &Placement| {
        place(&needs(placement, 50, 1), &[], &mut pool(offers()), 1).map(|p| p.agent_id).map_err(|r| r.to_string())
    };
    assert_eq!(chosen(&constrained("disk", Operator::In, &["ssd", "nvme"])), Ok("a2".into()));
    assert_eq!(chosen(&constrained("disk", Operator::NotIn, &["hdd"])), Ok("a2".into()));
    assert_eq!(chosen(&constrained("disk", Operator::Exists, &[])), Ok("a1".into()));
    assert_eq!(chosen(&constrained("disk", Operator::DoesNotExist, &[])), Ok("a3".into()));
    assert_eq!(chosen(&constrained("hostname", Operator::In, &["a3.example"])), Ok("a3".into()));
    assert_eq!(
        chosen(&constrained("@zone", Operator::In, &["z1"])).unwrap_err(),
        "needs 50 MiB and a port on an agent (@zone in [z1]) that runs no other node of orders: \
         3 agents have offered, 3 do not satisfy @zone in [z1]"
    );
}

#[test]
fn agents_with_maintenance_ahead_are_refused() {
    let mut window = offer("a1", 900, &[]);
    window.unavailable_from = Some(Timestamp(1));
    let placement = Placement::default();
    let refusal = place(&needs(&placement, 50, 1), &[], &mut pool([window]), 1).unwrap_err();
    assert_eq!(refusal.reasons[0].reason, Reason::Maintenance);
    assert!(refusal.to_string().ends_with(": 1 agent has offered, 1 has maintenance scheduled"), "{refusal}");
}

#[test]
fn offers_of_one_agent_add_up() {
    let mut second = offer("a1", 200, &[]);
    second.id = "o-2".into();
    let mut pool = pool([offer("a1", 200, &[]), second]);
    let placement = Placement::default();
    let placed = place(&needs(&placement, 350, 1), &[], &mut pool, 1).unwrap();
    assert_eq!(placed.offer_ids, ["o-a1", "o-2"]);
    assert_eq!(pool.take_agent("a1"), ["o-a1", "o-2"]);
    assert_eq!(pool.offers_held(), 0);
}

#[test]
fn parts_are_echoed_with_their_own_reservations() {
    let ours = json!([{"type": "DYNAMIC", "role": "redis", "principal": "op"}]);
    let mut mixed = offer("a1", 100, &[]);
    mixed.pieces.push(Piece { name: "mem".into(), amount: Amount::Milli(200_000), reservations: ours.clone() });
    let placement = Placement::default();
    let placed = place(&needs(&placement, 288, 1), &[], &mut pool([mixed]), 1).unwrap();
    let mem: Vec<_> = placed.pieces.iter().filter(|p| p.name == "mem").collect();
    assert_eq!((&mem[0].amount, &mem[0].reservations), (&Amount::Milli(200_000), &ours));
    assert_eq!((&mem[1].amount, &mem[1].reservations), (&Amount::Milli(88_000), &Value::Null));
}

#[test]
fn the_port_depends_on_the_seed_and_on_nothing_else() {
    let placement = Placement::default();
    let port = |seed| place(&needs(&placement, 50, 1), &[], &mut pool([offer("a1", 900, &[])]), seed).unwrap().port;
    assert_eq!(port(7), port(7));
    assert!((0..20).map(port).collect::<BTreeSet<_>>().len() > 10);
}

#[test]
fn a_refusal_counts_every_agent_once_with_the_best_of_them() {
    let mut pool = pool([offer("a1", 900, &[]), offer("a2", 900, &[]), offer("a3", 120, &[])]);
    let placement = Placement::default();
    let refusal = place_all(&needs(&placement, 288, 1), 3, &mut pool).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "needs 288 MiB and a port on an agent that runs no other node of orders: \
         3 agents have offered, 2 run one already, 1 has 120 MiB left"
    );
    assert_eq!(format!("{refusal:#}").rsplit(", ").next(), Some("1 has 120 MiB left (a3.example)"));
}

#[test]
fn a_refusal_tells_missing_cpus_and_ports_apart() {
    let mut slow = offer("a1", 900, &[]);
    slow.pieces[0] = scalar("cpus", 50);
    let mut slower = offer("a2", 900, &[]);
    slower.pieces[0] = scalar("cpus", 20);
    let mut portless = offer("a3", 900, &[]);
    portless.pieces.pop();
    let placement = Placement::default();
    let refusal = place(&needs(&placement, 288, 1), &[], &mut pool([slow, slower, portless]), 1).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "needs 288 MiB, 0.1 CPUs and a port on an agent that runs no other node of orders: \
         3 agents have offered, 2 have at most 0.05 CPUs left, 1 has no port left"
    );
}

#[test]
fn no_offer_yet_is_said() {
    let placement = Placement::default();
    let refusal = place(&needs(&placement, 288, 1), &[], &mut Pool::default(), 1).unwrap_err();
    assert!(refusal.to_string().ends_with(": no agent has offered yet"), "{refusal}");
}

#[test]
fn agents_whose_offers_are_gone_are_remembered_for_the_reason() {
    let mut pool = pool([offer("a1", 900, &[]), offer("a2", 120, &[])]);
    assert_eq!(pool.offer_ids_of_unclaimed_agents(), ["o-a1", "o-a2"]);
    assert_eq!(pool.take_unclaimed(), ["o-a1", "o-a2"]);
    let placement = Placement::default();
    let refusal = place(&needs(&placement, 288, 1), &[], &mut pool, 1).unwrap_err();
    assert!(
        refusal
            .to_string()
            .ends_with(": 2 agents have offered, 1 has 120 MiB left, 1 has room, but its offer has not come back yet"),
        "{refusal}"
    );
    pool.forget_agent("a1");
    pool.forget_agent("a2");
    assert_eq!(pool.agents_seen(), 0);
}

#[test]
fn remembered_agents_are_limited() {
    let mut pool = Pool::default();
    for n in 0..=REMEMBERED_AGENTS_MAX {
        let agent = format!("a{n}");
        pool.add(offer(&agent, 100, &[]));
        pool.take_agent(&agent);
    }
    assert_eq!(pool.agents_seen(), REMEMBERED_AGENTS_MAX);
}

#[test]
fn a_claim_on_later_offers_is_not_released_by_an_older_placement() {
    let mut pool = pool([offer("a1", 300, &[])]);
    let placement = Placement::default();
    let needs = needs(&placement, 288, 5);
    let first = place(&needs, &[], &mut pool, 1).unwrap();
    pool.take_agent("a1");
    let mut again = offer("a1", 300, &[]);
    again.id = "o-again".into();
    pool.add(again);
    let second = place(&needs, &[], &mut pool, 1).unwrap();
    assert_eq!(first.port, second.port);
    assert!(!pool.release(&first));
    assert!(place(&needs, &[], &mut pool, 1).is_err());
    assert!(pool.release(&second));
    assert!(!pool.release(&second));
    assert!(place(&needs, &[], &mut pool, 1).is_ok());
}

#[test]
fn rescinded_offers_are_not_used() {
    let mut pool = pool([offer("a1", 900, &[]), offer("a2", 500, &[])]);
    let placement = Placement::default();
    assert_eq!(place(&needs(&placement, 288, 1), &[], &mut pool, 1).unwrap().agent_id, "a1");
    assert!(pool.remove("o-a1"));
    assert!(!pool.remove("o-a1"));
    assert_eq!(place(&needs(&placement, 100, 1), &[], &mut pool, 1).unwrap().agent_id, "a2");
    assert_eq!(pool.agents().collect::<Vec<_>>(), ["a2"]);
    pool.clear();
    assert_eq!(pool.agents().count(), 0);
    assert_eq!(pool.agents_seen(), 2);
}

// --- Against the oracle ---------------------------------------------------------------------

/// A world in which everything is looked at anew for each question.
#[derive(Default)]
struct Oracle {
    /// By agent: offers that are held.
    offers: BTreeMap<String, Vec<Offer>>,
    /// Agents that ever offered, with the newest offer: it says how the agent is now.
    seen: BTreeMap<String, Offer>,
    /// Placements on held offers.
    claims: Vec<Place>,
}

/// What there is of a resource with some reservations: thousandths, or ports.
type Shares = BTreeMap<(String, String), (u64, BTreeSet<u16>)>;

fn shares<'a>(pieces: impl Iterator<Item = &'a Piece>) -> Shares {
    let mut shares = Shares::new();
    for piece in pieces {
        let share = shares.entry((piece.name.clone(), piece.reservations.to_string())).or_default();
        match &piece.amount {
            Amount::Milli(milli) => share.0 += milli,
            Amount::Ranges(ranges) => share.1.extend(ranges.iter().flat_map(|(a, b)| *a..=*b)),
        }
    }
    shares
}

impl Oracle {
    fn free(&self, agent: &str) -> Shares {
        let mut free = shares(self.offers.get(agent).into_iter().flatten().flat_map(|o| &o.pieces));
        for claim in self.claims.iter().filter(|c| c.agent_id == agent) {
            for (key, (milli, used)) in shares(claim.pieces.iter()) {
                let share = free.get_mut(&key).expect("only what was offered is claimed");
                share.0 = share.0.checked_sub(milli).expect("never more than was offered");
                assert!(used.is_subset(&share.1), "a port is used twice, or was not offered");
                share.1.retain(|port| !used.contains(port));
            }
        }
        free
    }

    fn total(&self, agent: &str, name: &str) -> u64 {
        let of_name = self.free(agent).into_iter().filter(|((n, _), _)| n == name);
        of_name.map(|(_, (milli, ports))| milli + ports.len() as u64).sum()
    }

    /// The agent that the rules name, by looking at all.
    fn choose(&self, needs: &Needs, occupied: &[Place]) -> Option<String> {
        let by = needs.placement.spread_by.as_deref();
        let value = |name: &str, hostname: &str, attributes: &BTreeMap<String, String>| match name {
            "hostname" => Some(hostname.to_string()),
            name => attributes.get(name).cloned(),
        };
        let mut best: Option<((usize, usize, u64, String), String)> = None;
        for (agent, offers) in self.offers.iter().filter(|(_, offers)| !offers.is_empty()) {
            let last = &self.seen[agent];
            let of = |name: &str| value(name, &last.hostname, &last.attributes);
            let satisfied = needs.placement.constraints.iter().all(|c| {
                let listed = of(&c.attribute).is_some_and(|v| c.values.contains(&v));
                match c.operator {
                    Operator::In => listed,
                    Operator::NotIn => !listed,
                    Operator::Exists => of(&c.attribute).is_some(),
                    Operator::DoesNotExist => of(&c.attribute).is_none(),
                }
            });
            let (cpus, mem, ports) = (self.total(agent, "cpus"), self.total(agent, "mem"), self.total(agent, "ports"));
            let nodes = occupied.iter().filter(|p| p.agent_id == *agent).count();
            let fits = cpus >= needs.cpus_milli && mem >= needs.mem_mib * 1000 && ports > 0;
            let available = offers.iter().all(|o| o.unavailable_from.is_none());
            if !satisfied || !fits || !available || nodes >= needs.distribution as usize {
                continue;
            }
            let domain = by.and_then(of).unwrap_or_default();
            let in_domain = occupied
                .iter()
                .filter(|p| by.and_then(|b| value(b, &p.hostname, &p.attributes)).unwrap_or_default() == domain)
                .count();
            let key = match needs.placement.strategy {
                Way::Spread => (in_domain, nodes, u64::MAX - mem, agent.clone()),
                Way::Pack => (in_domain, 0, mem, agent.clone()),
            };
            if best.as_ref().is_none_or(|(least, _)| key < *least) {
                best = Some((key, agent.clone()));
            }
        }
        best.map(|(_, agent)| agent)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Offer { agent: usize, mem_mib: u64, cpus_milli: u64, ports: u16, reserved: bool, window: bool, disk: bool },
    Rescind(usize),
    Take(usize),
    Place { instance: usize, mem_mib: u64, cpus_milli: u64, distribution: u32, placement: Placement, seed: u64 },
    Release(usize),
    DeclineUnclaimed,
}

fn placements() -> impl Strategy<Value = Placement> {
    let constraint = prop_oneof![
        Just(("disk", Operator::In, vec!["ssd"])),
        Just(("disk", Operator::NotIn, vec!["ssd", "nvme"])),
        Just(("rack", Operator::Exists, vec![])),
        Just(("rack", Operator::DoesNotExist, vec![])),
        Just(("hostname", Operator::NotIn, vec!["h1"])),
    ];
    let constraint = constraint.prop_map(|(attribute, operator, values)| Constraint {
        attribute: attribute.into(),
        operator,
        values: values.into_iter().map(String::from).collect(),
    });
    let by = prop::option::of(prop::sample::select(vec!["rack", "hostname", "nonsense"]));
    (any::<bool>(), by, prop::collection::vec(constraint, 0..2)).prop_map(|(pack, by, constraints)| Placement {
        strategy: if pack { Way::Pack } else { Way::Spread },
        spread_by: by.map(String::from),
        constraints,
    })
}

fn steps(agents: usize) -> impl Strategy<Value = Step> {
    let offer = (0..agents, 0u64..6, 0u64..4, 0u16..4, any::<bool>(), prop::bool::weighted(0.1), any::<bool>())
        .prop_map(|(agent, mem, cpus, ports, reserved, window, disk)| Step::Offer {
            agent,
            mem_mib: mem * 100,
            cpus_milli: cpus * 50,
            ports,
            reserved,
            window,
            disk,
        });
    let place = (0usize..3, 1u64..5, 0u64..4, 1u32..3, placements(), any::<u64>()).prop_map(
        |(instance, mem, cpus, distribution, placement, seed)| Step::Place {
            instance,
            mem_mib: mem * 60,
            cpus_milli: cpus * 25,
            distribution,
            placement,
            seed,
        },
    );
    prop_oneof![
        4 => offer,
        6 => place,
        1 => any::<usize>().prop_map(Step::Rescind),
        1 => (0..agents).prop_map(Step::Take),
        2 => any::<usize>().prop_map(Step::Release),
        1 => Just(Step::DeclineUnclaimed),
    ]
}

/// Pool and oracle side by side.
#[derive(Default)]
struct Both {
    pool: Pool,
    oracle: Oracle,
    /// All nodes of each instance, also those on agents whose offers are gone.
    nodes: [Vec<Place>; 3],
    offers: usize,
}

impl Both {
    fn offer(&mut self, step: &Step) {
        let Step::Offer { agent, mem_mib, cpus_milli, ports: count, reserved, window, disk } = step else { return };
        self.offers += 1;
        let racks: &[(&str, &str)] = [&[("rack", "r0")] as &[_], &[("rack", "r1")], &[]][agent % 3];
        let mut new = offer(&format!("a{agent}"), 0, racks);
        new.id = format!("o{}", self.offers);
        new.hostname = format!("h{agent}");
        new.unavailable_from = window.then_some(Timestamp(5));
        if *disk {
            new.attributes.insert("disk".into(), ["ssd", "hdd"][agent % 2].into());
        }
        // Mesos never offers one port twice: each offer has a range of its own.
        let first = 1000 + u16::try_from(self.offers).unwrap() * 8;
        new.pieces = vec![scalar("cpus", *cpus_milli), scalar("mem", mem_mib * 1000)];
        if *count > 0 {
            new.pieces.push(ports(first, first + count - 1));
        }
        if *reserved {
            let ours = json!([{"role": "redis"}]);
            new.pieces.push(Piece { name: "mem".into(), amount: Amount::Milli(50_000), reservations: ours });
        }
        self.oracle.seen.insert(new.agent_id.clone(), new.clone());
        self.oracle.offers.entry(new.agent_id.clone()).or_default().push(new.clone());
        self.pool.add(new);
    }

    fn place(&mut self, step: &Step) {
        let Step::Place { instance, mem_mib, cpus_milli, distribution, placement, seed } = step else { return };
        let needs = Needs {
            instance: "orders",
            mem_mib: *mem_mib,
            cpus_milli: *cpus_milli,
            distribution: *distribution,
            placement,
        };
        let nodes = &self.nodes[*instance];
        let expected = self.oracle.choose(&needs, nodes);
        let occupied: Vec<Occupied> = nodes.iter().map(Place::occupied).collect();
        let generation = self.pool.generation();
        match place(&needs, &occupied, &mut self.pool, *seed) {
            Ok(placed) => {
                assert_eq!(Some(&placed.agent_id), expected.as_ref());
                let total = |name: &str| {
                    placed.pieces.iter().filter(|p| p.name == name).fold((0, vec![]), |(sum, all), p| match &p.amount {
                        Amount::Milli(milli) => (sum + milli, all),
                        Amount::Ranges(ranges) => (sum, ranges.clone()),
                    })
                };
                assert_eq!(total("cpus").0, *cpus_milli);
                assert_eq!(total("mem").0, mem_mib * 1000);
                assert_eq!(total("ports").1, [(placed.port, placed.port)]);
                let held: Vec<_> = self.oracle.offers[&placed.agent_id].iter().map(|o| o.id.clone()).collect();
                assert_eq!(placed.offer_ids, held);
                self.nodes[*instance].push(placed.clone());
                let agent = placed.agent_id.clone();
                self.oracle.claims.push(placed);
                self.oracle.free(&agent); // Panics when more is claimed than was offered.
            }
            Err(refusal) => {
                assert_eq!(expected, None, "{refusal}");
                assert_eq!(refusal.agents, self.oracle.seen.len());
                assert_eq!(refusal.reasons.iter().map(|s| s.agents).sum::<usize>(), refusal.agents, "{refusal}");
                let full = self.oracle.seen.keys().filter(|agent| {
                    let running = occupied.iter().filter(|o| o.agent_id == agent.as_str()).count();
                    running >= *distribution as usize
                });
                let counted = refusal.reasons.iter().find(|s| s.reason == Reason::Occupied).map_or(0, |s| s.agents);
                assert!(counted <= full.count());
                assert_eq!(self.pool.generation(), generation, "a refusal changes nothing");
            }
        }
    }

    fn take(&mut self, agent: &str) -> Vec<String> {
        self.oracle.claims.retain(|c| c.agent_id != *agent);
        self.oracle.offers.remove(agent).into_iter().flatten().map(|o| o.id).collect()
    }

    fn run(&mut self, history: &[Step]) {
        for step in history {
            self.step(step);
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Offer { .. } => self.offer(step),
            Step::Place { .. } => self.place(step),
            Step::Rescind(pick) => {
                let ids: Vec<_> = self.oracle.offers.values().flatten().map(|o| o.id.clone()).collect();
                let Some(id) = (!ids.is_empty()).then(|| ids[pick % ids.len()].clone()) else { return };
                let owner = self.oracle.offers.iter().find(|(_, o)| o.iter().any(|o| o.id == id)).unwrap().0.clone();
                // An agent with claims: only the whole of it is given up, as the caller has to.
                if self.oracle.claims.iter().any(|c| c.agent_id == owner) {
                    assert_eq!(self.pool.take_agent(&owner), self.take(&owner));
                } else {
                    assert!(self.pool.remove(&id));
                    self.oracle.offers.get_mut(&owner).unwrap().retain(|o| o.id != id);
                }
            }
            Step::Take(agent) => {
                let agent = format!("a{agent}");
                assert_eq!(self.pool.take_agent(&agent), self.take(&agent));
            }
            Step::Release(pick) => {
                if self.oracle.claims.is_empty() {
                    return;
                }
                let claim = self.oracle.claims.remove(pick % self.oracle.claims.len());
                assert!(self.pool.release(&claim));
                self.nodes.iter_mut().for_each(|nodes| nodes.retain(|n| *n != claim));
            }
            Step::DeclineUnclaimed => {
                let unclaimed: Vec<_> = self.pool.agents().map(String::from).collect();
                let claimed = |agent: &String| self.oracle.claims.iter().any(|c| c.agent_id == *agent);
                let unclaimed: Vec<_> = unclaimed.into_iter().filter(|agent| !claimed(agent)).collect();
                let expected: Vec<_> = unclaimed.iter().flat_map(|agent| self.take(agent)).collect();
                assert_eq!(self.pool.offer_ids_of_unclaimed_agents(), expected);
                assert_eq!(self.pool.take_unclaimed(), expected);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_decision_is_the_one_of_a_full_scan(history in prop::collection::vec(steps(6), 1..60)) {
        let mut both = Both::default();
        both.run(&history);
    }

    #[test]
    fn releasing_a_plan_restores_the_pool_exactly(
        offers in prop::collection::vec(steps(6), 1..30),
        placement in placements(),
        mem_mib in 1u64..200,
        seed in any::<u64>(),
    ) {
        let mut both = Both::default();
        both.run(&offers.into_iter().filter(|step| matches!(step, Step::Offer { .. })).collect::<Vec<_>>());
        let needs = needs(&placement, mem_mib, 2);
        let mut plan = || {
            let mut placed: Vec<Place> = Vec::new();
            loop {
                let occupied: Vec<_> = placed.iter().map(Place::occupied).collect();
                match place(&needs, &occupied, &mut both.pool, seed) {
                    Ok(next) => placed.push(next),
                    Err(refusal) => {
                        assert!(placed.iter().all(|p| both.pool.release(p)));
                        return (placed, refusal);
                    }
                }
            }
        };
        prop_assert_eq!(plan(), plan());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn so_it_is_with_more_domains_than_are_looked_at_one_by_one(
        history in prop::collection::vec(steps(120), 150..300),
    ) {
        let mut both = Both::default();
        for agent in 0..120 {
            let ssd = agent % 4 == 0;
            both.offer(&Step::Offer {
                agent, mem_mib: 300, cpus_milli: 100, ports: 3, reserved: false, window: false, disk: ssd,
            });
        }
        both.run(&history);
    }
}
