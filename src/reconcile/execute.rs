//! Carries plans out: commits their writes, then does their steps. I/O.
//!
//! Nothing is decided here. A plan's writes are one transaction, guarded by our leadership and by
//! the revisions that the plan was made from; when it fails, none of the steps is done. Launches of
//! one round are gathered: one ACCEPT for each agent, after the records of all of them are stored.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures::future::join_all;
use tokio::sync::{Semaphore, mpsc};
use tracing::{debug, info, warn};

use crate::failover::redis::{Redis, SwitchError};
use crate::mesos::Session;
use crate::metrics::Metrics;
use crate::model::{Address, Answer, Launch, MesosCall, Role};
use crate::reconcile::action::{Action, Plan, Step, Write};
use crate::reconcile::offers::DECLINE_S;
use crate::reconcile::tries::{CUT_FOREIGN, END_SCRIPT, MAKE_ROOM};
use crate::reconcile::world::{Done, Event, Note};
use crate::status::InstanceStatus;
use crate::store::{self, Leadership, Store, Txn};

/// How long offers are withheld whose launches could not be recorded: others may want them.
const DECLINE_FAILED_S: f64 = 1.0;

/// How long a switchover waits for the new master to catch up, while writes stand still.
const SWITCH_PATIENCE: Duration = Duration::from_millis(500);

/// What plans are carried out with.
#[derive(Clone)]
pub struct Ports {
    /// Where intents are recorded.
    pub store: Store,
    /// Proof that we may.
    pub leadership: Arc<Leadership>,
    /// Mesos.
    pub mesos: Session,
    /// The subscription that the plans were made for.
    pub subscription: u64,
    /// The nodes.
    pub redis: Redis,
    /// Where outcomes are told.
    pub out: mpsc::Sender<Input>,
    /// Counts and durations.
    pub metrics: Arc<Metrics>,
    /// Places for writes of what is not urgent.
    pub crowd: Arc<Semaphore>,
}

/// What the controller is told.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // Nearly all of them are the large one.
pub enum Input {
    /// Something was learned.
    Event(Event),
    /// The store cannot be watched for now.
    StoreLost(String),
    /// A pass is over.
    Done {
        /// The instance.
        name: String,
        /// Whether all of it was done.
        outcome: Result<(), Failure>,
    },
}

/// Why a pass was not done, as far as the controller acts on it.
#[derive(Clone, Debug)]
pub enum Failure {
    /// Somebody else leads.
    NotLeader,
    /// The store had changed: plan again once the change is seen.
    Conflict(String),
    /// Whether the writes were done is not known: list the store again before planning.
    Unknown(String),
}

impl Failure {
    /// What came of a pass, in a word, for metrics.
    pub fn word(outcome: &Result<(), Failure>) -> &'static str {
        match outcome {
            Ok(()) => "acted",
            Err(Failure::Conflict(_)) => "conflict",
            Err(_) => "failed",
        }
    }
}

/// One instance's share of a round.
#[derive(Clone, Debug)]
pub struct Work {
    /// The instance.
    pub name: String,
    /// What is to be done.
    pub plan: Plan,
    /// The writes as a transaction; empty when there is nothing to write.
    pub txn: Txn,
    /// It has lost its master: its writes wait for nobody's.
    pub urgent: bool,
}

impl Ports {
    /// Carries out the plans of one round whose launches share offers.
    pub async fn perform_round(self, works: Vec<Work>) {
        let committed = join_all(works.into_iter().map(|work| async {
            let outcome = self.commit(&work).await;
            (work, outcome)
        }))
        .await;
        self.accept(&committed).await;
        let finish = committed.into_iter().map(|(work, outcome)| {
            let ports = &self;
            async move {
                let outcome = match outcome {
                    Ok(()) => ports.steps(&work).await,
                    Err(failure) => {
                        ports.leave(&work.plan).await;
                        Err(failure)
                    }
                };
                ports.tell(Input::Done { name: work.name, outcome }).await;
            }
        });
        join_all(finish).await;
    }

    async fn tell(&self, input: Input) {
        // The controller is gone: so is the need to tell it.
        let _ = self.out.send(input).await;
    }

    async fn note(&self, task_id: String, done: Done) {
        self.tell(Input::Event(Event::Noted(Note { task_id, done }))).await;
    }

    /// The node was told by which password its master lets it in.
    async fn note_password(&self, task_id: String, password: Option<String>) {
        if let Some(password) = password {
            self.note(task_id, Done::LogsIn(password)).await;
        }
    }

    async fn commit(&self, work: &Work) -> Result<(), Failure> {
        if work.txn.ops.is_empty() {
            return Ok(());
        }
        // The semaphore is never closed.
        let _place = if work.urgent { None } else { self.crowd.acquire().await.ok() };
        let started = Instant::now();
        let outcome = self.store.commit(work.txn.clone()).await;
        let answered = matches!(outcome, Ok(_) | Err(store::Error::Conflict(_) | store::Error::NotLeader));
        self.metrics.store("commit", started.elapsed(), answered);
        match outcome {
            Ok(revision) => {
                let status: Option<InstanceStatus> = work.plan.status.clone().filter(|_| work.plan.status_changed);
                let (name, writes) = (work.name.clone(), work.plan.writes.clone());
                if let Some(cause) = work.plan.failover {
                    self.metrics.failover(cause);
                }
                for write in &writes {
                    if let Write::Event(event) = write {
                        self.metrics.event(event);
                    }
                }
                self.tell(Input::Event(Event::Committed { name, writes, status, revision })).await;
                Ok(())
            }
            Err(store::Error::NotLeader) => Err(Failure::NotLeader),
            Err(store::Error::Conflict(what)) => Err(Failure::Conflict(what)),
            Err(error) => Err(Failure::Unknown(error.to_string())),
        }
    }

    /// One ACCEPT for each agent, with the launches whose records are stored.
    async fn accept(&self, committed: &[(Work, Result<(), Failure>)]) {
        let mut agents: BTreeMap<&str, (Vec<String>, Vec<Launch>)> = BTreeMap::new();
        for (work, outcome) in committed {
            for claim in &work.plan.claims {
                let entry = agents.entry(&claim.agent_id).or_default();
                for offer_id in &claim.offer_ids {
                    if !entry.0.contains(offer_id) {
                        entry.0.push(offer_id.clone());
                    }
                }
            }
            for launch in work.plan.launches().filter(|_| outcome.is_ok()) {
                agents.entry(&launch.agent_id).or_default().1.push(launch.clone());
            }
        }
        for (agent_id, (offer_ids, launches)) in agents {
            if !self.leadership.is_held() {
                return; // Nothing is launched; whoever leads now finds the records, and asks Mesos.
            }
            let tasks: Vec<String> = launches.iter().map(|launch| launch.task_id.clone()).collect();
            let call = if launches.is_empty() {
                MesosCall::Decline { offer_ids, refuse_s: DECLINE_FAILED_S }
            } else {
                info!(agent = agent_id, tasks = tasks.join(" "), "launching");
                MesosCall::Accept { offer_ids, launches, refuse_s: DECLINE_S }
            };
            let certain = match self.mesos.send(self.subscription, call) {
                Ok(()) => true,
                Err(error) => {
                    warn!(agent = agent_id, "accept offers: {error:#}");
                    false
                }
            };
            for task_id in tasks {
                self.metrics.action("launch", certain);
                self.note(task_id, Done::Launched(certain)).await;
            }
        }
    }

    /// One kind after the other; those of one kind side by side, for they are about different nodes,
    /// and one that hangs holds up none. A step that fails is told to the world, which the next plan is
    /// made from: it ends the changes of roles, and nothing else. Settings are made apart.
    async fn steps(&self, work: &Work) -> Result<(), Failure> {
        let (apart, steps): (Vec<&Step>, Vec<&Step>) = work
            .plan
            .steps
            .iter()
            .filter(|step| !matches!(step.action, Action::Launch(_)))
            .partition(|step| step.action.is_apart());
        let mut roles_end = false;
        for alike in steps.chunk_by(|a, b| a.action.kind() == b.action.kind()) {
            // The store guards writes; acts on others it cannot guard.
            if !self.leadership.is_held() {
                self.leave(&work.plan).await;
                return Err(Failure::NotLeader);
            }
            let changes_roles = alike.iter().any(|step| step.action.changes_roles());
            if changes_roles && roles_end {
                continue;
            }
            let done = join_all(alike.iter().map(|step| self.try_step(&work.name, step))).await;
            roles_end |= changes_roles && done.contains(&false);
        }
        for step in apart {
            let (ports, name, step) = (self.clone(), work.name.clone(), step.clone());
            tokio::spawn(async move { ports.try_step(&name, &step).await });
        }
        Ok(())
    }

    /// Answers whether it was done.
    async fn try_step(&self, instance: &str, step: &Step) -> bool {
        let outcome = self.step(step).await;
        self.metrics.action(step.action.kind(), outcome.is_ok());
        let Err(error) = outcome else { return true };
        warn!(instance, "{error:#}");
        // What is done apart has told its outcome by itself.
        if let Some(task_id) = step.action.task_id().filter(|_| !step.action.is_apart()) {
            self.note(task_id.to_string(), Done::Failed(step.action.kind(), format!("{error:#}"))).await;
        }
        false
    }

    /// What was to be done apart is not begun.
    async fn leave(&self, plan: &Plan) {
        for (task_id, kind) in plan.apart() {
            self.note(task_id.to_string(), Done::Left(kind)).await;
        }
    }

    async fn step(&self, step: &Step) -> anyhow::Result<()> {
        if matches!(step.action, Action::Acknowledge { .. }) {
            debug!("{step}");
        } else {
            info!("{step}");
        }
        match step.action.clone() {
            Action::Launch(_) => unreachable!("launches are gathered in `accept`"),
            Action::Kill { task_id } => {
                let call = MesosCall::Kill { task_id: task_id.clone(), agent_id: None };
                self.mesos.send(self.subscription, call).with_context(|| format!("kill task {task_id}"))?;
                self.note(task_id, Done::Killed).await;
            }
            Action::Follow { task_id, node, master, password } => {
                let done = self.redis.follow(&node, &master, password.as_deref()).await;
                self.note(task_id.clone(), Done::Pointed).await;
                done.with_context(|| format!("make task {task_id} a replica of {master}"))?;
                self.note_password(task_id, password).await;
            }
            Action::Kick { task_id, node, master, password } => {
                let done = self.redis.kick(&node, &master, password.as_deref()).await;
                self.note(task_id.clone(), Done::Pointed).await;
                match done {
                    Ok(()) => self.note_password(task_id, password).await,
                    // It tries by itself each second.
                    Err(error) => debug!("make task {task_id} try its master again: {error:#}"),
                }
            }
            Action::Promote { task_id, node, data } => {
                let answer = self.redis.promote(&node, data.as_ref()).await;
                self.note(task_id.clone(), Done::Pointed).await;
                let answer = answer.with_context(|| format!("make task {task_id} the master"))?;
                let is_master = answer.role == Role::Master;
                self.note(task_id.clone(), Done::Turned(answer)).await;
                if !is_master {
                    bail!("task {task_id} is not made the master: it has not the data any more that it was chosen for");
                }
            }
            Action::Detach { task_id, node, cut_clients } => {
                let answer = if cut_clients { self.redis.fence(&node).await } else { self.redis.detach(&node).await };
                self.note(task_id.clone(), Done::Pointed).await;
                let answer = answer.with_context(|| format!("make task {task_id} follow nobody"))?;
                self.note(task_id, Done::Turned(answer)).await;
            }
            Action::CutForeign { task_id, node, ours } => {
                self.cut(task_id, CUT_FOREIGN, self.redis.cut_foreign(&node, &ours)).await?;
            }
            Action::MakeRoom { task_id, node } => self.cut(task_id, MAKE_ROOM, self.redis.make_room(&node)).await?,
            Action::EndScript { task_id, node } => {
                self.cut(task_id, END_SCRIPT, async { self.redis.end_script(&node).await.map(|()| 0) }).await?;
            }
            Action::SwitchOver { from, task_id, node, epoch, password } => {
                let answer = self.redis.switch_over(&from, &node, password.as_deref(), SWITCH_PATIENCE).await;
                self.switched(task_id, epoch, answer).await?;
            }
            Action::Configure { task_id, node, settings } => {
                self.configure(task_id, &node, &settings).await?;
            }
            Action::Acknowledge { task_id, agent_id, uuid } => {
                let call = MesosCall::Acknowledge { task_id: task_id.clone(), agent_id, uuid: uuid.clone() };
                self.mesos.send(self.subscription, call).with_context(|| format!("acknowledge {task_id}"))?;
                self.note(task_id, Done::Acknowledged(uuid)).await;
            }
        }
        Ok(())
    }

    async fn switched(&self, task_id: String, epoch: u64, answer: Result<Answer, SwitchError>) -> anyhow::Result<()> {
        self.note(task_id.clone(), Done::Pointed).await;
        match answer {
            Ok(answer) => self.note(task_id, Done::Turned(answer)).await,
            Err(SwitchError::BackedOut(why)) => {
                self.note(task_id.clone(), Done::SwitchFailed(epoch, why.clone())).await;
                bail!("hand the master's role to task {task_id}: {why}");
            }
            Err(SwitchError::Unknown(why)) => bail!("hand the master's role to task {task_id}: {why}"),
        }
        Ok(())
    }

    /// Connections are cut, of replicas that are not ours, or of those who have not said who they are; or a script is.
    async fn cut(
        &self,
        task_id: String,
        kind: &'static str,
        cut: impl Future<Output = anyhow::Result<usize>>,
    ) -> anyhow::Result<()> {
        let done = cut.await;
        self.note(task_id.clone(), Done::Cut(kind)).await;
        let count = done.with_context(|| format!("task {task_id}"))?;
        if count > 0 {
            info!(task_id, count, "connections were cut");
        }
        Ok(())
    }

    /// What came of it is told whole: an error is for the log.
    async fn configure(&self, task_id: String, node: &Address, settings: &[(String, String)]) -> anyhow::Result<()> {
        let applied = self.redis.configure(node, settings).await;
        let refused = applied.refused.iter().map(|r| format!("it does not take {} {:?}: {}", r.name, r.value, r.words));
        let told: Vec<String> = refused.chain(applied.failed.clone()).collect();
        self.note(task_id.clone(), Done::Configured(applied)).await;
        if !told.is_empty() {
            bail!("configure task {task_id}: {}", told.join("; "));
        }
        Ok(())
    }
}
