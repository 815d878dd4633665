//! The Mesos session against a real master with real agents. I/O.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::support::{Administrator, AgentSpec, Mesos, MesosOptions, holds_for, redis, wait_until};
use redisctl::mesos::{self, Session, Settings, Timing};
use redisctl::model::{Amount, Launch, Leaving, MesosCall, MesosEvent, Offer, Piece, TaskState, TaskUpdate};
use tokio::sync::mpsc::Receiver;

/// How long anything may take on a loaded machine.
const TIMEOUT: Duration = Duration::from_secs(40);

/// A session, and all that it has told.
struct Operator {
    session: Session,
    events: Receiver<MesosEvent>,
    subscription: u64,
    framework_id: String,
    offers: BTreeMap<String, Offer>,
    /// Oldest first.
    updates: Vec<TaskUpdate>,
    /// Everything that is no offer and no update.
    rest: Vec<MesosEvent>,
}

impl Operator {
    fn new(settings: Settings, framework_id: Option<String>) -> Operator {
        let (session, events) = Session::start(settings, framework_id).unwrap();
        Operator {
            session,
            events,
            subscription: 0,
            framework_id: String::new(),
            offers: BTreeMap::new(),
            updates: Vec::new(),
            rest: Vec::new(),
        }
    }

    /// Subscribes as a new framework.
    async fn start(mesos: &Mesos) -> Operator {
        let mut operator = Operator::new(settings(mesos), None);
        operator.subscribed_again().await;
        operator
    }

    async fn subscribed_again(&mut self) {
        let before = self.subscription;
        self.wait(&format!("subscription {}", before + 1), |o| o.subscription > before).await;
    }

    /// Takes events until that is so; acknowledges what wants it.
    async fn wait(&mut self, what: &str, condition: impl Fn(&Operator) -> bool) {
        let deadline = tokio::time::Instant::now() + TIMEOUT;
        while !condition(self) {
            let event = tokio::time::timeout_at(deadline, self.events.recv()).await;
            let event =
                event.unwrap_or_else(|_| panic!("no {what}; updates: {:#?}; rest: {:?}", self.updates, self.rest));
            self.take(event.expect("the session lives"));
        }
    }

    fn take(&mut self, event: MesosEvent) {
        match event {
            MesosEvent::Offers(offers) => self.offers.extend(offers.into_iter().map(|offer| (offer.id.clone(), offer))),
            MesosEvent::Rescind(offer) => drop(self.offers.remove(&offer)),
            MesosEvent::Update(update) => {
                if let (Some(uuid), Some(agent_id)) = (update.uuid.clone(), update.agent_id.clone()) {
                    self.send(MesosCall::Acknowledge { task_id: update.task_id.clone(), agent_id, uuid });
                }
                self.updates.push(update);
            }
            MesosEvent::Subscribed { framework_id, subscription } => {
                self.offers.clear();
                (self.framework_id, self.subscription) = (framework_id, subscription);
            }
            other => self.rest.push(other),
        }
    }

    fn send(&self, call: MesosCall) {
        self.session.send(self.subscription, call).unwrap();
    }

    /// Waits until that many agents have made offers, and takes these, one of each agent.
    async fn take_offers(&mut self, agents: usize) -> Vec<Offer> {
        self.send(MesosCall::Revive);
        let by_agent =
            |o: &Operator| o.offers.values().map(|o| (o.agent_id.clone(), o.clone())).collect::<BTreeMap<_, _>>();
        self.wait(&format!("offers of {agents} agents"), |o| by_agent(o).len() == agents).await;
        let offers = by_agent(self);
        self.offers.clear();
        offers.into_values().collect()
    }

    /// Launches tasks with these ids out of one offer, in one ACCEPT; answers where they listen.
    fn launch(&self, offer: &Offer, task_ids: &[&str]) -> Vec<String> {
        let ports = ports(offer);
        let launches: Vec<Launch> = task_ids.iter().zip(&ports).map(|(id, port)| launch(offer, id, *port)).collect();
        self.send(MesosCall::Accept { offer_ids: vec![offer.id.clone()], launches, refuse_s: 1.0 });
        ports.iter().take(task_ids.len()).map(|port| format!("{}:{port}", offer.host)).collect()
    }

    /// Launches one task and waits until it runs; answers where it listens.
    async fn run_one(&mut self, task_id: &str) -> String {
        let offers = self.take_offers(1).await;
        let address = self.launch(&offers[0], &[task_id]).remove(0);
        self.wait_for(task_id, TaskState::Running).await;
        address
    }

    fn last(&self, task_id: &str) -> Option<&TaskUpdate> {
        self.updates.iter().rev().find(|update| update.task_id == task_id)
    }

    async fn wait_for(&mut self, task_id: &str, state: TaskState) -> TaskUpdate {
        self.wait(&format!("{state} of {task_id}"), |o| o.last(task_id).is_some_and(|update| update.state == state))
            .await;
        self.last(task_id).unwrap().clone()
    }
}

/// Settings for the test's master; slow retries are not slow.
fn settings(mesos: &Mesos) -> Settings {
    Settings {
        masters: mesos::Masters::find(&mesos.url().parse().unwrap(), false).unwrap(),
        timing: Timing { slow: Duration::from_millis(500), ..Timing::default() },
        ..Settings::default()
    }
}

fn ports(offer: &Offer) -> Vec<u16> {
    let piece = offer.pieces.iter().find(|piece| piece.name == "ports").unwrap();
    match &piece.amount {
        Amount::Ranges(ranges) => ranges.iter().flat_map(|(begin, end)| *begin..=*end).collect(),
        Amount::Milli(_) => panic!("{piece:?}"),
    }
}

fn launch(offer: &Offer, task_id: &str, port: u16) -> Launch {
    let take = |name: &str, amount| {
        let piece = offer.pieces.iter().find(|piece| piece.name == name).unwrap();
        Piece { amount, ..piece.clone() }
    };
    let port_text = port.to_string();
    let argv = ["redis-server", "--port", &port_text, "--save", "", "--appendonly", "no"];
    Launch {
        task_id: task_id.into(),
        name: task_id.into(),
        agent_id: offer.agent_id.clone(),
        pieces: vec![
            take("cpus", Amount::Milli(100)),
            take("mem", Amount::Milli(32_000)),
            take("ports", Amount::Ranges(vec![(port, port)])),
        ],
        argv: argv.map(str::to_string).to_vec(),
        image: None,
        grace_ms: 5000,
        labels: [("instance".to_string(), "orders".to_string())].into(),
    }
}

#[tokio::test]
async fn tasks_are_launched_reconciled_and_killed_on_two_agents() {
    let mesos = Mesos::start(&AgentSpec::racks(2)).await;
    let mut operator = Operator::start(&mesos).await;

    let offers = operator.take_offers(2).await;
    assert!(offers.iter().all(|offer| offer.host == "127.0.0.1" && offer.role == "redis"));
    let racks: Vec<_> = offers.iter().map(|offer| offer.attributes["rack"].as_str()).collect();
    assert!(racks == ["r1", "r2"] || racks == ["r2", "r1"], "{racks:?}");
    let cpus = offers[0].pieces.iter().find(|piece| piece.name == "cpus").unwrap();
    assert_eq!(cpus.amount, Amount::Milli(16_000));

    let mut addresses = operator.launch(&offers[0], &["a", "b"]);
    addresses.extend(operator.launch(&offers[1], &["c"]));
    for task in ["a", "b", "c"] {
        let update = operator.wait_for(task, TaskState::Running).await;
        let agent = &offers[usize::from(task == "c")].agent_id;
        assert_eq!(update.agent_id.as_ref(), Some(agent));
    }
    for address in &addresses {
        wait_until("redis answers", TIMEOUT, async || redis::cli(address, &["PING"]).await.as_deref() == Ok("PONG"))
            .await;
    }

    // Explicit: of what is asked for, known or not.
    operator.updates.clear();
    let on = |task: &str, offer: &Offer| (task.to_string(), Some(offer.agent_id.clone()));
    operator.send(MesosCall::Reconcile(vec![on("a", &offers[0]), on("ghost", &offers[1]), ("stranger".into(), None)]));
    let update = operator.wait_for("a", TaskState::Running).await;
    assert_eq!(update.reason.as_deref(), Some("REASON_RECONCILIATION"));
    operator.wait_for("ghost", TaskState::Gone).await;
    operator.wait_for("stranger", TaskState::Unknown).await;
    assert_eq!(operator.updates.len(), 3);

    // Implicit: of everything.
    operator.updates.clear();
    operator.send(MesosCall::Reconcile(Vec::new()));
    operator.wait("an update of each task", |o| ["a", "b", "c"].iter().all(|task| o.last(task).is_some())).await;

    operator.send(MesosCall::Kill { task_id: "b".into(), agent_id: None });
    operator.wait_for("b", TaskState::Killed).await;
    wait_until("redis is gone", TIMEOUT, async || redis::cli(&addresses[1], &["PING"]).await.is_err()).await;

    let known = mesos::frameworks(&settings(&mesos)).await.unwrap();
    assert_eq!(known.len(), 1);
    assert_eq!((known[0].name.as_str(), known[0].active), ("redisctl", true));
    assert_eq!((&known[0].id, known[0].roles.as_slice()), (&operator.framework_id, ["redis".to_string()].as_slice()));
    let mut tasks = known[0].tasks.clone();
    tasks.sort();
    assert_eq!(tasks, ["a", "c"]);
    assert!(operator.rest.is_empty(), "{:?}", operator.rest);
}

#[tokio::test]
async fn offers_come_only_when_asked_for_and_declined_ones_stay_away() {
    let mesos = Mesos::start(&[AgentSpec::default()]).await;
    let mut operator = Operator::start(&mesos).await;
    let offers = operator.take_offers(1).await;
    operator.send(MesosCall::Decline { offer_ids: vec![offers[0].id.clone()], refuse_s: 3600.0 });
    // A REVIVE clears the filter of the DECLINE before it: their order is kept.
    operator.take_offers(1).await;
    operator.send(MesosCall::Suppress);

    // A new subscription starts without offers; its task's update shows that it is in force.
    let mut next = Operator::new(settings(&mesos), Some(operator.framework_id.clone()));
    drop(operator);
    next.subscribed_again().await;
    next.send(MesosCall::Reconcile(vec![("nobody".into(), None)]));
    next.wait_for("nobody", TaskState::Unknown).await;
    // The master allocates every second.
    tokio::time::timeout(Duration::from_millis(2500), next.wait("offers", |o| !o.offers.is_empty())).await.unwrap_err();
    next.take_offers(1).await;
}

#[tokio::test]
async fn reserved_resources_are_offered_and_can_be_used() {
    let reserved =
        MesosOptions { agent_env: vec![("MESOS_DEFAULT_ROLE".into(), "redis".into())], ..MesosOptions::default() };
    let mesos = Mesos::start_with(reserved, &[AgentSpec::default()]).await;
    let mut operator = Operator::start(&mesos).await;
    let offers = operator.take_offers(1).await;
    assert!(offers[0].pieces.iter().all(|piece| piece.reservations[0]["role"] == "redis"), "{offers:#?}");
    operator.launch(&offers[0], &["a"]);
    operator.wait_for("a", TaskState::Running).await;
}

#[tokio::test]
async fn a_task_that_cannot_be_is_told_as_an_error_and_one_on_a_void_offer_as_dropped() {
    let mesos = Mesos::start(&[AgentSpec::default()]).await;
    let mut operator = Operator::start(&mesos).await;
    let offer = operator.take_offers(1).await.remove(0);
    let port = ports(&offer)[0];
    let mut greedy = launch(&offer, "greedy", port);
    greedy.pieces[1].amount = Amount::Milli(1_000_000_000);
    let launches = vec![greedy, launch(&offer, "modest", port)];
    operator.send(MesosCall::Accept { offer_ids: vec![offer.id.clone()], launches, refuse_s: 1.0 });
    operator.wait_for("greedy", TaskState::Error).await;
    operator.wait_for("modest", TaskState::Running).await;

    operator.launch(&offer, &["late"]);
    let update = operator.wait_for("late", TaskState::Dropped).await;
    assert_eq!(update.reason.as_deref(), Some("REASON_INVALID_OFFERS"));
    assert_eq!(update.uuid, None);
}

#[tokio::test]
async fn a_task_whose_command_ends_is_told_as_failed() {
    let mesos = Mesos::start(&[AgentSpec::default()]).await;
    let mut operator = Operator::start(&mesos).await;
    let offer = operator.take_offers(1).await.remove(0);
    let mut bad = launch(&offer, "bad", ports(&offer)[0]);
    bad.argv = vec!["redis-server".into(), "--no-such-option".into(), "x".into()];
    operator.send(MesosCall::Accept { offer_ids: vec![offer.id.clone()], launches: vec![bad], refuse_s: 1.0 });
    operator.wait_for("bad", TaskState::Failed).await;
}

#[tokio::test]
async fn a_lost_agent_makes_its_task_unreachable_until_it_is_back() {
    let mut mesos = Mesos::start(&[AgentSpec::default()]).await;
    let mut operator = Operator::start(&mesos).await;
    let address = operator.run_one("a").await;
    mesos.kill_agent(0);
    let update = operator.wait_for("a", TaskState::Unreachable).await;
    assert_eq!(update.reason.as_deref(), Some("REASON_AGENT_REMOVED"));
    let agent_failed = MesosEvent::AgentFailed(update.agent_id.unwrap());
    operator.wait("the agent's failure", |o| o.rest.contains(&agent_failed)).await;
    assert_eq!(redis::cli(&address, &["PING"]).await.as_deref(), Ok("PONG"), "the process does not mind");
    mesos.restart_agent(0);
    let update = operator.wait_for("a", TaskState::Running).await;
    assert_eq!(update.reason.as_deref(), Some("REASON_AGENT_REREGISTERED"));
}

#[tokio::test]
async fn agents_that_are_to_be_emptied_are_told_and_an_inverse_offer_is_answered() {
    let mesos = Mesos::start(&[AgentSpec::default()]).await;
    let administrator = Administrator::of(&mesos.url());
    let mut operator = Operator::start(&mesos).await;
    operator.run_one("a").await;
    let agent_id = operator.last("a").unwrap().agent_id.clone().unwrap();
    let hostname = mesos.hostname(0);
    let leaves = |o: &Operator| {
        let told = o.rest.iter().rev().find_map(|event| match event {
            MesosEvent::Leaving(agents) => Some(agents.get(&agent_id).copied()),
            _ => None,
        });
        told.flatten()
    };
    administrator.deactivate(&hostname).await.unwrap();
    operator.wait("its deactivation", |o| leaves(o) == Some(Leaving::Deactivated)).await;
    administrator.reactivate(&hostname).await.unwrap();
    operator.wait("its return", |o| leaves(o).is_none()).await;

    administrator.maintenance(&hostname, Duration::from_mins(10)).await.unwrap();
    let asked = |o: &Operator| {
        let mut offers = o.rest.iter().filter_map(|event| match event {
            MesosEvent::InverseOffers(offers) => offers.iter().find(|offer| offer.agent_id == agent_id),
            _ => None,
        });
        offers.next_back().cloned()
    };
    operator.wait("an inverse offer", |o| asked(o).is_some()).await;
    let offer = asked(&operator).unwrap();
    operator.wait("its maintenance", |o| leaves(o) == Some(Leaving::Maintenance(offer.from))).await;
    operator.send(MesosCall::AcceptInverse(vec![offer.id]));
    wait_until("the answer is known", TIMEOUT, async || {
        administrator.maintenance_answers().await.unwrap().get(&hostname) == Some(&vec!["ACCEPT".to_string()])
    })
    .await;
    administrator.no_maintenance().await.unwrap();
    operator.wait("the end of its maintenance", |o| leaves(o).is_none()).await;
    administrator.drain(&hostname).await.unwrap();
    let update = operator.wait_for("a", TaskState::Killed).await;
    assert_eq!(update.reason.as_deref(), Some("REASON_AGENT_DRAINING"));
    operator.wait("its drain", |o| leaves(o) == Some(Leaving::Drained)).await;
}

#[tokio::test]
async fn after_a_master_that_died_the_session_is_the_same_framework_with_its_tasks() {
    let mut mesos = Mesos::start(&[AgentSpec::default()]).await;
    let mut operator = Operator::start(&mesos).await;
    operator.run_one("a").await;
    let (id, first) = (operator.framework_id.clone(), operator.subscription);
    mesos.kill_master();
    operator.wait("the disconnection", |o| matches!(o.rest.last(), Some(MesosEvent::Disconnected { .. }))).await;
    assert_eq!(operator.session.last_event_age(), None);
    mesos.restart_master().await;
    operator.subscribed_again().await;
    assert_eq!(operator.framework_id, id);
    assert!(operator.subscription > first);
    mesos.wait_for_agents(1).await;
    operator.updates.clear();
    operator.send(MesosCall::Reconcile(vec![("a".into(), None)]));
    operator.wait_for("a", TaskState::Running).await;
    operator.send(MesosCall::Kill { task_id: "a".into(), agent_id: None });
    operator.wait_for("a", TaskState::Killed).await;
}

#[tokio::test]
async fn a_frozen_master_costs_the_subscription_and_not_the_session() {
    let mesos = Mesos::start(&[AgentSpec::default()]).await;
    let mut settings = settings(&mesos);
    settings.timing.silence_heartbeats = 0.1; // The master's heartbeats are 15 s apart.
    settings.timing.subscribe = Duration::from_secs(1);
    settings.timing.backoff_max = Duration::from_millis(200);
    let mut operator = Operator::new(settings.clone(), None);
    operator.subscribed_again().await;
    mesos.freeze_master();
    // Several subscriptions are asked for in vain; the thawed master hears of all of them at once.
    let in_vain = |o: &Operator| {
        let told =
            |event: &MesosEvent| matches!(event, MesosEvent::Disconnected { reason } if reason.contains("no reply"));
        o.rest.iter().any(told)
    };
    operator.wait("an attempt in vain", in_vain).await;
    let unsubscribed = async || operator.session.subscription().is_none();
    holds_for("there is no subscription", Duration::from_secs(3), unsubscribed).await;
    mesos.thaw_master();
    let before = operator.subscription;
    operator.wait("further subscriptions", |o| o.subscription >= before + 2).await;
    assert!(!operator.rest.iter().any(|event| matches!(event, MesosEvent::Ended { .. })), "{:?}", operator.rest);
}

#[tokio::test]
async fn a_second_session_with_the_same_id_ends_the_first() {
    let mesos = Mesos::start(&[]).await;
    let mut first = Operator::start(&mesos).await;
    let mut second = Operator::new(settings(&mesos), Some(first.framework_id.clone()));
    second.subscribed_again().await;
    assert_eq!(second.framework_id, first.framework_id);
    first.wait("the end", |o| o.rest == [MesosEvent::Ended { message: "Framework failed over".into() }]).await;
    second.send(MesosCall::Reconcile(vec![("nobody".into(), None)]));
    second.wait_for("nobody", TaskState::Unknown).await;
}

#[tokio::test]
async fn a_framework_that_was_removed_ends_its_session() {
    let mesos = Mesos::start(&[]).await;
    let mut operator = Operator::start(&mesos).await;
    let id = operator.framework_id.clone();
    let teardown = serde_json::json!({"type": "TEARDOWN", "teardown": {"framework_id": {"value": id}}});
    let _ = mesos.ask(&teardown).await; // Its answer is empty, and no JSON.
    operator.wait("the end", |o| o.rest.iter().any(|event| matches!(event, MesosEvent::Ended { .. }))).await;
    let ended = MesosEvent::Ended { message: "Framework has been removed".into() };
    let mut again = Operator::new(settings(&mesos), Some(id));
    again.wait("the end", |o| o.rest == [ended.clone()]).await;
}

#[tokio::test]
async fn a_role_that_the_master_does_not_know_is_told() {
    let options = MesosOptions { master_env: vec![("MESOS_ROLES".into(), "other".into())], ..MesosOptions::default() };
    let mesos = Mesos::start_with(options, &[]).await;
    let mut operator = Operator::new(settings(&mesos), None);
    operator.wait("the reason", |o| !o.rest.is_empty()).await;
    let said = format!("{:?}", operator.rest);
    assert!(said.contains("not present in the master's --roles"), "{said}");
}

#[tokio::test]
async fn the_secret_opens_a_master_that_wants_authentication() {
    let options = MesosOptions { credentials: vec![("op".into(), "s3cret".into())], ..MesosOptions::default() };
    let mesos = Mesos::start_with(options, &[AgentSpec::default()]).await;
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&secret, "wrong\n").unwrap();

    let mut stranger = Operator::new(settings(&mesos), None);
    stranger.wait("the refusal", |o| format!("{:?}", o.rest).contains("wants a principal and a secret (401)")).await;

    let mut settings = settings(&mesos);
    settings.principal = Some("op".into());
    settings.secret_file = Some(secret.path().into());
    let mut operator = Operator::new(settings, None);
    operator.wait("the refusal", |o| format!("{:?}", o.rest).contains("refuses the secret of principal op")).await;
    std::fs::write(&secret, "s3cret\n").unwrap();
    operator.subscribed_again().await;
    operator.run_one("a").await;
}
