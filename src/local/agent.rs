//! The agents' side of a task: launch, kill, exit, and the death and return of a whole agent. I/O.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};

use super::bag::Bag;
use super::config::AgentSpec;
use super::drain::DrainConfig;
use super::framework::{Task, has_capability, is_terminal};
use super::json::{duration, id, items, uuid};
use super::process::{self, Exit};
use super::state::{Due, State, TaskKey};
use super::updates::Updates;
use crate::model::TaskState;

/// Between SIGTERM and SIGKILL when neither the task nor the call says.
const DEFAULT_GRACE: Duration = Duration::from_secs(3);
/// The same when its framework is removed.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// A machine and the agent on it.
pub(super) struct Agent {
    pub spec: AgentSpec,
    /// Given at the first registration, kept for ever.
    pub id: Option<String>,
    /// The machine runs.
    pub up: bool,
    /// The network between it and the master works.
    pub reachable: bool,
    /// Tasks with a process, or with updates that are not acknowledged.
    pub tasks: BTreeMap<TaskKey, AgentTask>,
    /// What the master sent while the network failed: it arrives when the network works again.
    pub inbox: Vec<Message>,
    /// It kills its tasks and takes no others, until it has none.
    pub draining: Option<DrainConfig>,
    /// Processes that are not reaped yet.
    pub processes: usize,
}

/// What a master sends to an agent.
pub(super) enum Message {
    Launch { key: TaskKey, framework_info: Value, info: Value, role: String },
    Kill { key: TaskKey, grace: Option<Duration> },
    Acknowledge { key: TaskKey, uuid: String },
    Shutdown { framework: String },
    Drain(DrainConfig),
}

/// A task on its agent.
pub(super) struct AgentTask {
    pub framework_info: Value,
    pub info: Value,
    pub role: String,
    pub state: TaskState,
    pub container: String,
    pub updates: Updates,
    pub process: Process,
    /// Which run of a process this is; a report of another run is late.
    pub run: u64,
    pub killing: bool,
}

/// What stands behind a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Process {
    Starting,
    /// A process group of this id.
    Group(Pid),
    /// A fake Redis at this address.
    Fake(SocketAddr),
    Ended,
}

impl Agent {
    pub fn new(spec: AgentSpec) -> Agent {
        let (tasks, inbox) = (BTreeMap::new(), Vec::new());
        Agent { spec, id: None, up: true, reachable: true, tasks, inbox, draining: None, processes: 0 }
    }

    pub fn total(&self) -> Bag {
        Bag::machine(self.spec.cpus, self.spec.mem, self.spec.disk, self.spec.ports)
    }

    pub fn agent_id(&self) -> &str {
        self.id.as_deref().unwrap_or_default()
    }
}

impl AgentTask {
    pub fn new(framework_info: Value, info: Value, role: String, run: u64) -> AgentTask {
        AgentTask {
            framework_info,
            info,
            role,
            state: TaskState::Staging,
            container: uuid(),
            updates: Updates::default(),
            process: Process::Starting,
            run,
            killing: false,
        }
    }

    /// Between SIGTERM and SIGKILL, if the kill does not say.
    pub fn grace(&self) -> Duration {
        duration(&self.info["kill_policy"]["grace_period"]).unwrap_or(DEFAULT_GRACE)
    }

    /// As the agent tells it to a master that does not know it.
    pub fn as_task(&self, agent_id: &str) -> Task {
        Task {
            id: self.info["task_id"]["value"].as_str().unwrap_or_default().to_string(),
            agent_id: agent_id.to_string(),
            info: self.info.clone(),
            role: self.role.clone(),
            resources: Bag::from_json(&self.info["resources"]),
            state: self.state,
            statuses: self.updates.last_forwarded().into_iter().collect(),
            update: self.updates.known(),
        }
    }
}

impl State {
    /// Sends a message to an agent: it arrives at once, late, or never.
    pub fn send_to_agent(&mut self, agent: usize, message: Message) {
        if self.linked(agent) {
            self.deliver(agent, message);
        } else if self.agents[agent].up && !self.agents[agent].reachable {
            self.agents[agent].inbox.push(message);
        }
    }

    /// The network between the agent and the master works again.
    pub fn link_healed(&mut self, agent: usize) {
        self.agents[agent].reachable = true;
        for message in std::mem::take(&mut self.agents[agent].inbox) {
            self.deliver(agent, message);
        }
        self.register(agent);
    }

    fn deliver(&mut self, agent: usize, message: Message) {
        match message {
            Message::Launch { key, framework_info, info, role } => {
                self.agent_launch(agent, &key, framework_info, info, role);
            }
            Message::Kill { key, grace } => self.agent_kill(agent, &key, grace),
            Message::Acknowledge { key, uuid } => self.agent_acknowledged(agent, &key, &uuid),
            Message::Shutdown { framework } => self.agent_shutdown(agent, &framework),
            Message::Drain(config) => self.agent_drain(agent, config),
        }
    }

    fn agent_launch(&mut self, agent: usize, key: &TaskKey, framework_info: Value, info: Value, role: String) {
        let run = self.new_run();
        let mut task = AgentTask::new(framework_info, info, role, run);
        if let Some((state, reason, message)) = self.refusal(&task.info) {
            task.process = Process::Ended;
            self.agents[agent].tasks.insert(key.clone(), task);
            let more = json!({"source": "SOURCE_AGENT", "reason": reason, "message": message});
            return self.push_update(agent, key, state, &more);
        }
        let info = task.info.clone();
        self.agents[agent].tasks.insert(key.clone(), task);
        if self.fakes.is_some() {
            return self.start_fake(agent, key, run, &info);
        }
        let sandbox = self.sandbox(agent, key);
        let agent_id = self.agents[agent].agent_id().to_string();
        let command = process::Command::new(&self.config.task_helper, key, &agent_id, &info, sandbox);
        if process::start(&self.shared(), agent, key.clone(), run, command) {
            self.agents[agent].processes += 1;
        } else {
            self.task_started(agent, key, run, Err("the machine has no thread left".to_string()));
        }
    }

    /// What this kind of agent cannot run: it has neither cgroups nor images, as the test rig's.
    fn refusal(&self, info: &Value) -> Option<(TaskState, &'static str, &'static str)> {
        if self.fakes.is_some() {
            return None;
        }
        let limits = &info["limits"];
        if !limits["mem"].is_null() || !limits["cpus"].is_null() {
            let message = "Memory limits can only be set on tasks launched in Mesos containers when the agent \
                           has loaded the 'cgroups/mem' isolator";
            return Some((TaskState::Dropped, "REASON_GC_ERROR", message));
        }
        let container = &info["container"];
        if !container["mesos"]["image"].is_null() {
            let message = "Failed to launch container: Unsupported container image type: DOCKER";
            return Some((TaskState::Failed, "REASON_CONTAINER_LAUNCH_FAILED", message));
        }
        (!container["docker"].is_null()).then_some((
            TaskState::Failed,
            "REASON_EXECUTOR_TERMINATED",
            "Abnormal executor termination: unknown container",
        ))
    }

    /// Where the task's process runs and its output goes.
    pub fn sandbox(&self, agent: usize, (framework, task): &TaskKey) -> std::path::PathBuf {
        self.work_dir.join(&self.agents[agent].spec.hostname).join(framework).join(task)
    }

    /// The process of a task runs, or could not be started.
    pub fn task_started(&mut self, agent: usize, key: &TaskKey, run: u64, started: Result<Process, String>) {
        let Some(task) = self.run_of(agent, key, run) else {
            if let Ok(process) = started {
                self.signal(process, Signal::KILL); // Its agent died, or its framework was removed.
            }
            return;
        };
        task.process = started.as_ref().map_or(Process::Ended, |process| *process);
        let killing = task.killing;
        self.push_update(agent, key, TaskState::Starting, &json!({}));
        match started {
            Ok(process) if killing => self.signal(process, Signal::TERM),
            Ok(_) => self.push_update(agent, key, TaskState::Running, &json!({})),
            Err(message) => {
                let more = json!({"reason": "REASON_COMMAND_EXECUTOR_FAILED", "message": message});
                self.push_update(agent, key, TaskState::Failed, &more);
            }
        }
    }

    /// The process of a task has ended.
    pub fn task_ended(&mut self, agent: usize, key: &TaskKey, run: u64, exit: Exit) {
        let Some(task) = self.run_of(agent, key, run) else { return };
        task.process = Process::Ended;
        if is_terminal(task.state) {
            return self.forget_if_told(agent, key); // A drain called it gone before it was.
        }
        let state = match exit {
            _ if task.killing => TaskState::Killed,
            Exit::Code(0) => TaskState::Finished,
            _ => TaskState::Failed,
        };
        let mut more = json!({"message": exit.message()});
        if state == TaskState::Failed {
            more["reason"] = "REASON_COMMAND_EXECUTOR_FAILED".into();
        }
        self.push_update(agent, key, state, &more);
    }

    /// Ends a task: SIGTERM now, SIGKILL when the grace period is over.
    pub fn agent_kill(&mut self, agent: usize, key: &TaskKey, grace: Option<Duration>) {
        let Some(task) = self.agents[agent].tasks.get_mut(key) else { return };
        if is_terminal(task.state) {
            return;
        }
        let first = !std::mem::replace(&mut task.killing, true);
        let grace = grace.unwrap_or_else(|| task.grace());
        let (process, run) = (task.process, task.run);
        let tells = has_capability(&task.framework_info, "TASK_KILLING_STATE") && task.state == TaskState::Running;
        if first {
            if tells {
                self.push_update(agent, key, TaskState::Killing, &json!({}));
            }
            self.signal(process, Signal::TERM);
        }
        self.after(grace, Due::KillNow { agent, task: key.clone(), run });
    }

    /// The grace period is over.
    pub fn kill_now(&mut self, agent: usize, key: &TaskKey, run: u64) {
        if let Some(task) = self.run_of(agent, key, run) {
            let process = task.process;
            self.signal(process, Signal::KILL);
        }
    }

    /// The framework was removed: its tasks end, and nobody wants to hear of it.
    pub fn agent_shutdown(&mut self, agent: usize, framework: &str) {
        let keys: Vec<TaskKey> =
            self.agents[agent].tasks.keys().filter(|(owner, _)| owner == framework).cloned().collect();
        for key in keys {
            self.agent_kill(agent, &key, Some(SHUTDOWN_GRACE));
            let task = self.agents[agent].tasks.get_mut(&key).expect("it was listed a moment ago");
            task.updates.mute();
            self.forget_if_told(agent, &key);
        }
    }

    /// The machine dies, and all that runs on it.
    pub fn machine_died(&mut self, agent: usize) {
        self.signal_all(agent, Signal::KILL);
        for key in self.agents[agent].tasks.keys().cloned().collect::<Vec<_>>() {
            let run = self.new_run(); // From now on, reports of its process are late.
            let task = self.agents[agent].tasks.get_mut(&key).expect("it was listed a moment ago");
            task.run = run;
            task.process = Process::Ended;
        }
        self.agent_died(agent);
    }

    /// The agent's own process dies; its tasks run on, and what becomes of them is kept for later.
    pub fn agent_died(&mut self, agent: usize) {
        if std::mem::replace(&mut self.agents[agent].up, false) {
            self.agents[agent].inbox.clear();
            self.link_broken(agent);
        }
    }

    /// The agent starts again: it remembers its tasks, and says which of them are not alive any more.
    pub fn agent_recovered(&mut self, agent: usize) {
        if std::mem::replace(&mut self.agents[agent].up, true) {
            return;
        }
        let tasks = self.agents[agent].tasks.iter();
        let lost = tasks.filter(|(_, task)| !is_terminal(task.state) && task.process == Process::Ended);
        for key in lost.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
            let more = json!({
                "source": "SOURCE_AGENT",
                "reason": "REASON_EXECUTOR_TERMINATED",
                "message": "Executor terminated",
                "executor_id": id(&key.1),
            });
            self.push_update(agent, &key, TaskState::Failed, &more);
        }
        self.after(self.config.reregister_delay, Due::Reregister { agent });
    }

    /// Sends a signal to all that runs on the machine.
    pub fn signal_all(&self, agent: usize, signal: Signal) {
        for task in self.agents[agent].tasks.values() {
            self.signal(task.process, signal);
        }
    }

    /// The master asks for a task that never arrived here.
    pub fn drop_unknown_task(&mut self, agent: usize, key: &TaskKey) {
        let Some(framework) = self.master.frameworks.get(&key.0) else { return };
        let Some(task) = framework.tasks.get(&key.1) else { return };
        let run = 0; // It never ran.
        let mut mine = AgentTask::new(framework.info.clone(), task.info.clone(), task.role.clone(), run);
        mine.process = Process::Ended;
        self.agents[agent].tasks.insert(key.clone(), mine);
        let more = json!({
            "source": "SOURCE_AGENT",
            "reason": "REASON_RECONCILIATION",
            "message": "Reconciliation: task unknown to the agent",
        });
        self.push_update(agent, key, TaskState::Dropped, &more);
    }

    /// The cluster ends.
    pub fn kill_everything(&mut self) {
        for agent in 0..self.agents.len() {
            self.machine_died(agent);
        }
    }

    /// Sends a signal to what stands behind a task.
    pub fn signal(&self, process: Process, signal: Signal) {
        match process {
            // It may have ended a moment ago; its id is still its own, for it is reaped after it is recorded.
            Process::Group(group) => drop(kill_process_group(group, signal)),
            Process::Fake(address) => {
                if let Some(fakes) = &self.fakes {
                    fakes.stop(address, signal);
                }
            }
            Process::Starting | Process::Ended => {}
        }
    }

    /// The task, if this run of it is the current one.
    fn run_of(&mut self, agent: usize, key: &TaskKey, run: u64) -> Option<&mut AgentTask> {
        self.agents[agent].tasks.get_mut(key).filter(|task| task.run == run)
    }

    fn start_fake(&mut self, agent: usize, key: &TaskKey, run: u64, info: &Value) {
        let Some(fakes) = &self.fakes else { return };
        let argv: Vec<String> =
            items(&info["command"]["arguments"]).filter_map(Value::as_str).map(str::to_string).collect();
        fakes.launch(&self.agents[agent].spec.ip, &argv, self.shared(), agent, key.clone(), run);
    }
}
