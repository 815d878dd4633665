//! One instance at one moment, built by hand: for tests of the planner. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use redisctl::model::{
    Address, Amount, Answer, Gauges, InstanceRecord, Launch, NoAnswer, NodeRecord, Offer, Piece, Request, RequestKind,
    Role, TaskRecord, TaskState, TaskUpdate, Timestamp, task_id,
};
use redisctl::placement::Pool;
use redisctl::reconcile::action::{Action, Plan, Write};
use redisctl::reconcile::draft::{Observed, PlanSettings};
use redisctl::reconcile::invariants;
use redisctl::reconcile::launch::owned_settings;
use redisctl::reconcile::leaving::LeavingAgents;
use redisctl::reconcile::plan::plan_instance;
use redisctl::reconcile::sight::Sight;
use redisctl::reconcile::world::{Document, Instance, Node, Session, Stored};
use redisctl::spec::{InstanceSpec, RedisInstance, parse_document};
use redisctl::status::{Condition, ConditionType, InstanceStatus};

/// The moment of a scene, unless it is told otherwise.
pub const NOW: Timestamp = Timestamp(1_700_000_000_000);
/// Long before it.
pub const BEFORE: Timestamp = Timestamp(NOW.0 - 3_600_000);

#[derive(Clone)]
pub struct Scene {
    pub instance: Instance,
    pub session: Session,
    pub frozen: Option<String>,
    pub cut_off: Option<Sight>,
    pub leaving: LeavingAgents,
    pub may_roll: bool,
    pub secret: Option<i64>,
    pub now: Timestamp,
    pub offers: Vec<Offer>,
}

pub fn address(ordinal: u32) -> Address {
    Address { host: format!("10.0.0.{ordinal}"), port: 31_000 }
}

pub fn task(ordinal: u32) -> String {
    task_id("orders", ordinal, BEFORE)
}

pub fn document(replicas: u32, more: &str) -> RedisInstance {
    let yaml = format!(
        "{{apiVersion: redisctl/v1, kind: RedisInstance, metadata: {{name: orders}}, spec: {{memory: 64Mi, replicas: {replicas}{more}}}}}"
    );
    parse_document(yaml.as_bytes()).expect("a valid document")
}

/// An offer of agent `x{n}` with room for several nodes.
pub fn offer(n: usize) -> Offer {
    let piece = |name: &str, amount| Piece { name: name.to_string(), amount, reservations: serde_json::Value::Null };
    Offer {
        id: format!("O{n}"),
        agent_id: format!("x{n}"),
        hostname: format!("x{n}.example"),
        host: format!("10.0.1.{n}"),
        role: "redis".to_string(),
        attributes: BTreeMap::from([("rack".to_string(), format!("r{}", n % 3))]),
        unavailable_from: None,
        pieces: vec![
            piece("cpus", Amount::Milli(4000)),
            piece("mem", Amount::Milli(4_000_000)),
            piece("ports", Amount::Ranges(vec![(31_000, 31_099)])),
        ],
    }
}

/// A node that runs since long, answers and is in sync, with 5 keys.
pub fn node(spec: &InstanceSpec, ordinal: u32, master: u32) -> Node {
    let follows = (ordinal != master).then(|| address(master));
    let record = NodeRecord {
        instance: "orders".to_string(),
        ordinal,
        task_id: task(ordinal),
        agent_id: format!("a{ordinal}"),
        hostname: format!("a{ordinal}.example"),
        address: address(ordinal),
        attributes: BTreeMap::new(),
        max_memory: spec.memory.0,
        task_mem_mib: spec.task_mem_mib(),
        cpus_milli: spec.cpus.0,
        image: None,
        config: spec.redis.config.clone(),
        launched_at: BEFORE,
        task: TaskRecord::Running,
        owned: Arc::new(owned_settings(spec, None, None)),
        joined: true,
        deposed: None,
        marked: false,
        stop: None,
    };
    let answer = Answer {
        role: if follows.is_some() { Role::Replica } else { Role::Master },
        follows,
        link_up: true,
        syncing: false,
        loading: false,
        offset: 1000,
        replid: "r".to_string(),
        replid2: String::new(),
        parted_at: None,
        last_io_s: None,
        used_memory: 2_000_000,
        max_memory: spec.memory.0,
        keys: 5,
        connected_replicas: 0,
        replicas: Vec::new(),
        disk_fails: false,
        gauges: Gauges::default(),
    };
    let record = Stored { value: record, revision: 10 + i64::from(ordinal) };
    Node { heard: true, answer: Some((answer, NOW)), ..Node::new(record) }
}

impl Scene {
    /// `orders` is declared, and nothing has been done; five agents have offered.
    pub fn declared(replicas: u32, more: &str) -> Scene {
        let parsed = Ok(document(replicas, more));
        let instance = Instance { document: Some(Document { revision: 7, parsed }), ..Instance::default() };
        let session = Session::Subscribed { subscription: 1, since: BEFORE };
        Scene {
            instance,
            session,
            frozen: None,
            cut_off: None,
            leaving: LeavingAgents::default(),
            may_roll: true,
            secret: None,
            now: NOW,
            offers: (1..=5).map(offer).collect(),
        }
    }

    /// `orders` runs as declared: node 0 is the master, the others follow it.
    pub fn running(replicas: u32, more: &str) -> Scene {
        let mut scene = Scene::declared(replicas, more);
        let spec = document(replicas, more).spec;
        scene.instance.nodes = (0..=replicas).map(|ordinal| (ordinal, node(&spec, ordinal, 0))).collect();
        let confirmations = spec.confirmations();
        let record = InstanceRecord {
            spec,
            labels: BTreeMap::new(),
            spec_revision: 7,
            epoch: 1,
            master: Some(0),
            next_ordinal: replicas + 1,
            initialized: true,
            replid: Some("r".to_string()),
            replid_before: None,
            confirmations,
            unsettled: false,
            rolling: None,
            hung: None,
            auth: None,
            deleting: false,
            created_at: BEFORE,
            failures: 0,
            last_failure: None,
            last_death: None,
        };
        scene.instance.record = Some(Stored { value: record, revision: 9 });
        scene.store_status();
        scene
    }

    /// What is said now is stored.
    pub fn store_status(&mut self) {
        let status = self.plan().status.expect("it exists");
        self.instance.status = Some(Stored { value: status, revision: 20 });
    }

    pub fn node(&mut self, ordinal: u32) -> &mut Node {
        self.instance.nodes.get_mut(&ordinal).expect("it is there")
    }

    pub fn record(&mut self) -> &mut InstanceRecord {
        &mut self.instance.record.as_mut().expect("it is recorded").value
    }

    pub fn answer(&mut self, ordinal: u32) -> &mut Answer {
        &mut self.node(ordinal).answer.as_mut().expect("it answers").0
    }

    /// Mesos tells a state of a node's task.
    pub fn hears(&mut self, ordinal: u32, state: TaskState, reason: &str) {
        let update = TaskUpdate {
            task_id: task(ordinal),
            agent_id: Some(format!("a{ordinal}")),
            state,
            reason: (!reason.is_empty()).then(|| reason.to_string()),
            message: String::new(),
            uuid: None,
        };
        self.node(ordinal).update = Some(update);
    }

    /// Since then, and until now.
    pub fn is_silent(&mut self, ordinal: u32, why: NoAnswer, since: Timestamp) {
        let node = self.node(ordinal);
        (node.silent, node.silent_until) = (Some((why, since)), NOW);
    }

    pub fn falls_silent(&mut self, ordinal: u32) {
        self.is_silent(ordinal, NoAnswer::Refused, NOW);
    }

    /// A node's task has ended.
    pub fn dies(&mut self, ordinal: u32) {
        self.hears(ordinal, TaskState::Failed, "");
        self.falls_silent(ordinal);
    }

    /// An agent is out of sight since then, and so is the node on it.
    pub fn vanishes(&mut self, ordinal: u32, since: Timestamp) {
        self.hears(ordinal, TaskState::Unreachable, "");
        self.is_silent(ordinal, NoAnswer::Timeout, since);
        self.node(ordinal).record.value.task = TaskRecord::Unsure { since, ran: true };
    }

    pub fn asks(&mut self, kind: RequestKind, revision: i64) {
        let request = Request { at: NOW, revision, ..Request::default() };
        self.instance.requests.insert(kind, Stored { value: request, revision: 30 });
    }

    /// The user writes another document.
    pub fn declares(&mut self, replicas: u32, more: &str) {
        self.instance.document = Some(Document { revision: 50, parsed: Ok(document(replicas, more)) });
    }

    /// That document is in force, and every node has its settings that were not refused.
    pub fn accept(&mut self, spec: &InstanceSpec) {
        self.instance.document = None;
        self.record().spec = spec.clone();
        let document = RedisInstance { spec: spec.clone(), ..document(spec.replicas, "") };
        self.instance.document = Some(Document { revision: 7, parsed: Ok(document) });
        for node in self.instance.nodes.values_mut() {
            let taken = spec.redis.config.iter().filter(|(key, value)| node.tries.refusal(key, value).is_none());
            node.record.value.config = taken.map(|(key, value)| (key.clone(), value.clone())).collect();
        }
    }

    pub fn observed<'a>(&'a self, settings: &'a PlanSettings) -> Observed<'a> {
        Observed {
            name: "orders",
            instance: &self.instance,
            session: &self.session,
            frozen: self.frozen.as_deref(),
            cut_off: self.cut_off,
            leaving: &self.leaving,
            may_roll: self.may_roll,
            secret: self.secret,
            settings,
            now: self.now,
        }
    }

    /// The plan, which keeps all rules.
    pub fn plan(&self) -> Plan {
        let mut pool = Pool::default();
        self.offers.iter().cloned().for_each(|offer| drop(pool.add(offer)));
        self.plan_with(&mut pool)
    }

    pub fn plan_with(&self, pool: &mut Pool) -> Plan {
        let settings = PlanSettings::default();
        let o = self.observed(&settings);
        let plan = plan_instance(o, pool);
        let broken = invariants::check(&o, &plan);
        assert!(broken.is_empty(), "{broken:?} by {:?}", plan.view());
        plan
    }

    /// What the user is told.
    pub fn status(&self) -> InstanceStatus {
        self.plan().status.expect("it exists")
    }
}

// --- What a plan says ----------------------------------------------------------------------------

pub fn launched(plan: &Plan) -> Vec<&Launch> {
    plan.launches().collect()
}

/// The tasks that are killed.
pub fn killed(plan: &Plan) -> Vec<&str> {
    let kill = |action: &'static str| action == "kill";
    let steps = plan.steps.iter().filter(|step| kill(step.action.kind()));
    steps
        .filter_map(|step| if let Action::Kill { task_id } = &step.action { Some(task_id.as_str()) } else { None })
        .collect()
}

/// Who is on its way out: taken from its master, or killed.
pub fn going(plan: &Plan) -> Vec<&str> {
    let goes = |action: &'_ Action| matches!(action, Action::Kill { .. } | Action::Detach { cut_clients: false, .. });
    plan.steps.iter().filter(|step| goes(&step.action)).filter_map(|step| step.action.task_id()).collect()
}

/// Who is to be handed the master's role.
pub fn switched_to(plan: &Plan) -> Option<&str> {
    plan.steps.iter().find_map(|step| match &step.action {
        Action::SwitchOver { task_id, .. } => Some(task_id.as_str()),
        _ => None,
    })
}

/// The kinds of all steps.
pub fn kinds(plan: &Plan) -> Vec<&'static str> {
    plan.steps.iter().map(|step| step.action.kind()).collect()
}

/// Reasons of the events that are recorded.
pub fn events(plan: &Plan) -> Vec<&str> {
    let event = |write: &'_ Write| matches!(write, Write::Event(_));
    let events = plan.writes.iter().filter(|write| event(write));
    events
        .filter_map(|write| if let Write::Event(event) = write { Some(event.reason.as_str()) } else { None })
        .collect()
}

/// The record of a node as the plan writes it.
pub fn written(plan: &Plan, ordinal: u32) -> Option<&NodeRecord> {
    plan.writes.iter().find_map(|write| match write {
        Write::Node(node) if node.ordinal == ordinal => Some(node),
        _ => None,
    })
}

/// The record of the instance as the plan writes it.
pub fn state(plan: &Plan) -> Option<&InstanceRecord> {
    plan.writes.iter().find_map(|write| if let Write::State(record) = write { Some(record) } else { None })
}

pub fn waits_for(plan: &Plan, words: &str) -> bool {
    plan.waiting.iter().any(|reason| reason.contains(words))
}

pub fn condition(status: &InstanceStatus, kind: ConditionType) -> &Condition {
    status.condition(kind).expect("every condition is said")
}
