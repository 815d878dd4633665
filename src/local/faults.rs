//! Faults on demand, and what can be seen from outside. I/O.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::Cluster;
use super::agent::{Agent, Process};
use super::bag::Bag;
use super::config::AgentSpec;
use super::json::id_of;
use super::state::{Due, State};
use crate::model::TaskState;

/// How long every other update is held back while updates are reordered.
const REORDER_BY: Duration = Duration::from_millis(100);

/// What goes wrong next.
#[derive(Default)]
#[allow(clippy::struct_excessive_bools)] // Each is a switch of its own.
pub(super) struct Faults {
    pub answer: Option<Answer>,
    /// Bytes until the stream is cut.
    pub cut_after: Option<usize>,
    pub lose_accept: bool,
    pub lose_accept_response: bool,
    pub lose_accept_request: bool,
    drop_updates: u32,
    delay_updates: Duration,
    duplicate_updates: bool,
    reorder_updates: bool,
    /// Counts updates while they are reordered.
    update_number: u64,
    /// When the last update of a task is sent: a later one must not overtake it.
    last_sent: BTreeMap<String, Instant>,
}

/// What the master answers to every scheduler call while this is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// 503, as a master without a leader.
    Unavailable,
    /// 307 to this `HOST:PORT`, as a master that does not lead.
    Redirect(String),
}

/// A task on an agent, as an onlooker on that machine sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskView {
    /// Task id.
    pub id: String,
    /// The agent's hostname.
    pub hostname: String,
    /// The newest state that the agent knows.
    pub state: TaskState,
    /// The process; none for a fake server, and when it has ended.
    pub pid: Option<i32>,
    /// The agent's address.
    pub ip: String,
    /// The ports that the task was given.
    pub ports: Vec<u16>,
    /// Where its output is: files `stdout` and `stderr`.
    pub sandbox: PathBuf,
}

impl State {
    /// Sends a status to the framework; here updates are lost, late, doubled or out of order.
    pub fn send_update(&mut self, framework_id: &str, status: &Value) {
        let Some(stream) = self.stream_of(framework_id).map(str::to_string) else { return };
        let faults = &mut self.faults;
        if faults.drop_updates > 0 {
            faults.drop_updates -= 1;
            return;
        }
        let now = Instant::now();
        let mut at = now + faults.delay_updates;
        if faults.reorder_updates {
            faults.update_number += 1;
            if faults.update_number % 2 == 1 {
                at += REORDER_BY;
            }
        }
        faults.last_sent.retain(|_, at| *at > now);
        let task_id = id_of(status, "task_id").unwrap_or_default().to_string();
        let at = faults.last_sent.get(&task_id).map_or(at, |last| at.max(*last));
        let copies = if faults.duplicate_updates { 2 } else { 1 };
        let event = json!({"type": "UPDATE", "update": {"status": status}});
        if at > now {
            faults.last_sent.insert(task_id, at);
        }
        for _ in 0..copies {
            if at > now {
                let framework = framework_id.to_string();
                let due = Due::Deliver { framework, stream: stream.clone(), event: event.clone() };
                self.at(at, due);
            } else {
                self.send(framework_id, &event);
            }
        }
    }
}

impl State {
    /// Nothing passes between the agent and the master any more.
    fn cut_off(&mut self, agent: usize) {
        self.agents[agent].reachable = false;
        if let Some(agent_id) = self.agents[agent].id.clone() {
            self.start_outage(&agent_id);
        }
    }
}

impl Cluster {
    /// One more agent; it registers at once.
    pub fn add_agent(&self, spec: AgentSpec) {
        self.shared.with(|state| {
            state.agents.push(Agent::new(spec));
            state.register(state.agents.len() - 1);
        });
    }

    /// The machine dies: its processes are dead when this returns; its tasks are `TASK_UNREACHABLE` after the agent timeout.
    pub fn kill_machine(&self, hostname: &str) -> Result<()> {
        self.on_agent(hostname, State::machine_died)?;
        self.shared.wait_until_reaped(|agent| agent.spec.hostname == hostname, super::REAP_TIMEOUT);
        Ok(())
    }

    /// `kill -9` of the agent's own process: its tasks run on, and are `TASK_UNREACHABLE` after the
    /// agent timeout.
    pub fn kill_agent(&self, hostname: &str) -> Result<()> {
        self.on_agent(hostname, State::agent_died)
    }

    /// Starts an agent again after [`Cluster::kill_machine`] or [`Cluster::kill_agent`], with the same
    /// agent id: the tasks that are dead are `TASK_FAILED`, the others run on.
    pub fn restart_agent(&self, hostname: &str) -> Result<()> {
        self.on_agent(hostname, State::agent_recovered)
    }

    /// The network between the machine and the master fails; its processes go on. What is sent
    /// meanwhile arrives when it works again.
    pub fn partition_agent(&self, hostname: &str) -> Result<()> {
        self.on_agent(hostname, State::cut_off)
    }

    /// The network works again.
    pub fn heal_agent(&self, hostname: &str) -> Result<()> {
        self.on_agent(hostname, State::link_healed)
    }

    /// The machine hangs: nothing on it runs, nothing on it ends.
    pub fn freeze_machine(&self, hostname: &str) -> Result<()> {
        self.on_agent(hostname, |state, agent| {
            state.signal_all(agent, Signal::STOP);
            state.cut_off(agent);
        })
    }

    /// The machine goes on.
    pub fn thaw_machine(&self, hostname: &str) -> Result<()> {
        self.on_agent(hostname, |state, agent| {
            state.signal_all(agent, Signal::CONT);
            state.link_healed(agent);
        })
    }

    /// Kills the process of a task, as a crash would.
    pub fn kill_task_process(&self, task_id: &str) -> Result<()> {
        self.shared.with(|state| {
            let tasks = state.agents.iter().flat_map(|agent| &agent.tasks);
            let task = tasks.filter(|((_, id), _)| id == task_id).map(|(_, task)| task.process);
            match task.into_iter().find(|process| matches!(process, Process::Group(_) | Process::Fake(_))) {
                Some(process) => state.signal(process, Signal::KILL),
                None => bail!("task {task_id} has no process"),
            }
            Ok(())
        })
    }

    /// The next `n` updates to schedulers are lost. Those with a uuid are sent again later.
    pub fn drop_next_updates(&self, n: u32) {
        self.shared.with(|state| state.faults.drop_updates = n);
    }

    /// Updates to schedulers come this late.
    pub fn delay_updates(&self, by: Duration) {
        self.shared.with(|state| state.faults.delay_updates = by);
    }

    /// Every update comes twice.
    pub fn duplicate_updates(&self, on: bool) {
        self.shared.with(|state| state.faults.duplicate_updates = on);
    }

    /// Updates of different tasks overtake each other; those of one task stay in order.
    pub fn reorder_updates(&self, on: bool) {
        self.shared.with(|state| state.faults.reorder_updates = on);
    }

    /// Takes all offers back.
    pub fn rescind_offers(&self) {
        self.shared.with(|state| {
            let ids: Vec<String> = state.master.offers.keys().cloned().collect();
            state.rescind(&ids);
        });
    }

    /// Cuts the event stream, of now or of the next subscription, after this many more bytes.
    pub fn cut_stream_after(&self, bytes: usize) {
        self.shared.with(|state| state.faults.cut_after = Some(bytes));
    }

    /// The next ACCEPT is answered 202 and forgotten.
    pub fn lose_next_accept(&self) {
        self.shared.with(|state| state.faults.lose_accept = true);
    }

    /// The next ACCEPT is performed, but the connection breaks before the answer.
    pub fn lose_next_accept_response(&self) {
        self.shared.with(|state| state.faults.lose_accept_response = true);
    }

    /// The connection of the next ACCEPT breaks before the master has read it.
    pub fn lose_next_accept_request(&self) {
        self.shared.with(|state| state.faults.lose_accept_request = true);
    }

    /// Answers every scheduler call like this, until it is set to none. Streams stay.
    pub fn answer_calls_with(&self, answer: Option<Answer>) {
        self.shared.with(|state| state.faults.answer = answer);
    }

    /// All tasks that agents know: with a process, or with an update that is not acknowledged.
    pub fn tasks(&self) -> Vec<TaskView> {
        self.shared.with(|state| {
            let mut views = Vec::new();
            for (number, agent) in state.agents.iter().enumerate() {
                for (key, task) in &agent.tasks {
                    let pid = match task.process {
                        Process::Group(pid) => Some(pid.as_raw_nonzero().get()),
                        _ => None,
                    };
                    views.push(TaskView {
                        id: key.1.clone(),
                        hostname: agent.spec.hostname.clone(),
                        state: task.state,
                        pid,
                        ip: agent.spec.ip.clone(),
                        ports: Bag::from_json(&task.info["resources"]).ports(),
                        sandbox: state.sandbox(number, key),
                    });
                }
            }
            views
        })
    }

    /// How many calls schedulers have made, by type (`ACCEPT`, `KILL`, ...).
    pub fn calls(&self) -> BTreeMap<String, u64> {
        self.shared.with(|state| state.calls.clone())
    }

    fn on_agent(&self, hostname: &str, f: impl FnOnce(&mut State, usize)) -> Result<()> {
        self.shared.with(|state| {
            let agent = state.agent_by_host(hostname).with_context(|| format!("no agent is named {hostname}"))?;
            f(state, agent);
            Ok(())
        })
    }
}
