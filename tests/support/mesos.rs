//! A real Apache Mesos for a test: a master and agents of tests/mesos-rig. I/O.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use super::process::{self, Home, Ports, Process};
use super::wait_until;

/// The first set-up fetches libmesos and builds the rig.
const SETUP_TIMEOUT: Duration = Duration::from_mins(10);
/// How long a master or an agent may take to be in service, on a loaded machine.
const START_TIMEOUT: Duration = Duration::from_mins(1);
/// How long the master may take to answer one question.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(5);

/// What an agent offers.
#[derive(Clone, Debug)]
pub struct AgentSpec {
    /// Its hostname; absent: `agent-1`, `agent-2`, ...
    pub hostname: Option<String>,
    /// CPUs.
    pub cpus: f64,
    /// Memory in MiB.
    pub mem: u64,
    /// How many ports, at most 99; which is chosen at the start.
    pub ports: u16,
    /// A role, and memory in MiB that is reserved for it beside `mem`.
    pub reserved: Option<(String, u64)>,
    /// Its region and zone; the master is in that of the first agent.
    pub domain: Option<(String, String)>,
    /// Attributes: `rack` and the like.
    pub attributes: BTreeMap<String, String>,
}

impl Default for AgentSpec {
    fn default() -> Self {
        AgentSpec {
            hostname: None,
            cpus: 16.0,
            mem: 8192,
            ports: 99,
            reserved: None,
            domain: None,
            attributes: BTreeMap::new(),
        }
    }
}

impl AgentSpec {
    /// An agent of that rack.
    pub fn rack(rack: &str) -> AgentSpec {
        AgentSpec::default().attribute("rack", rack)
    }

    /// `n` agents of the racks r1, r2, ...
    pub fn racks(n: usize) -> Vec<AgentSpec> {
        (1..=n).map(|i| AgentSpec::rack(&format!("r{i}"))).collect()
    }

    /// The same with an attribute.
    #[must_use]
    pub fn attribute(mut self, name: &str, value: &str) -> Self {
        self.attributes.insert(name.into(), value.into());
        self
    }

    /// The same with this hostname.
    #[must_use]
    pub fn hostname(mut self, hostname: &str) -> Self {
        self.hostname = Some(hostname.into());
        self
    }

    /// The same in a region and a zone.
    #[must_use]
    pub fn within(mut self, region: &str, zone: &str) -> Self {
        self.domain = Some((region.into(), zone.into()));
        self
    }

    /// The same with so many CPUs.
    #[must_use]
    pub fn cpus(mut self, cpus: f64) -> Self {
        self.cpus = cpus;
        self
    }

    /// The same with so much memory, in MiB.
    #[must_use]
    pub fn mem(mut self, mem: u64) -> Self {
        self.mem = mem;
        self
    }

    /// The same with further memory, in MiB, that is reserved for a role.
    #[must_use]
    pub fn reserved(mut self, role: &str, mem: u64) -> Self {
        self.reserved = Some((role.into(), mem));
        self
    }

    /// The same with so many ports.
    #[must_use]
    pub fn ports(mut self, ports: u16) -> Self {
        self.ports = ports;
        self
    }
}

/// Settings of a cluster.
#[derive(Clone, Debug, Default)]
pub struct MesosOptions {
    /// Frameworks must authenticate by HTTP basic authentication: principals and secrets.
    pub credentials: Vec<(String, String)>,
    /// More settings of the master, `MESOS_...`.
    pub master_env: Vec<(String, String)>,
    /// More settings of the agents, `MESOS_...`.
    pub agent_env: Vec<(String, String)>,
}

/// A task as the master knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct SeenTask {
    /// Its id.
    pub id: String,
    /// `TASK_RUNNING` and so on.
    pub state: String,
    /// The id of its agent.
    pub agent_id: String,
    /// Its framework.
    pub framework_id: String,
}

struct Agent {
    process: Process,
    spec: AgentSpec,
    port: u16,
    task_ports: Ports,
    folder: String,
}

/// A master and its agents.
pub struct Mesos {
    master: Process,
    agents: Vec<Agent>,
    home: Home,
    ports: Ports,
    master_port: u16,
    options: MesosOptions,
    client: reqwest::Client,
}

/// Room for the master and this many agents, less one.
const NODES_MAX: u16 = 20;

impl Mesos {
    /// Starts a master and these agents on free ports, and waits until all have registered.
    pub async fn start(agents: &[AgentSpec]) -> Mesos {
        Mesos::start_with(MesosOptions::default(), agents).await
    }

    /// The same with settings.
    pub async fn start_with(options: MesosOptions, agents: &[AgentSpec]) -> Mesos {
        let setup = rig("setup");
        let setup = setup.to_str().expect("the path is text");
        process::run(setup, &[], b"", SETUP_TIMEOUT).await.expect("the Mesos rig can be set up");
        let (ports, home) = (Ports::lease(NODES_MAX), Home::new("mesos"));
        let mut options = options;
        options.master_env.extend(agents.first().and_then(domain));
        let master_port = ports.next();
        let master = spawn_master(&home, master_port, &options);
        let client = redisctl::tls::http().timeout(QUESTION_TIMEOUT).build().expect("a client");
        let mut mesos = Mesos { master, agents: Vec::new(), home, ports, master_port, options, client };
        mesos.wait_for_master().await;
        for agent in agents {
            mesos.spawn_agent(agent.clone());
        }
        mesos.wait_for_agents(agents.len()).await;
        mesos
    }

    /// `127.0.0.1:PORT`.
    pub fn master_address(&self) -> String {
        format!("127.0.0.1:{}", self.master_port)
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.master_address())
    }

    /// The master's log.
    pub fn master_log(&self) -> String {
        self.home.log("master")
    }

    // --- the master

    /// `kill -9` of the master.
    pub fn kill_master(&mut self) {
        self.master.kill();
    }

    /// Starts the master again, on the same port with the same registry, and waits until it answers.
    pub async fn restart_master(&mut self) {
        self.master.kill();
        self.master = spawn_master(&self.home, self.master_port, &self.options);
        self.wait_for_master().await;
    }

    /// SIGSTOP to the master.
    pub fn freeze_master(&self) {
        self.master.freeze();
    }

    /// SIGCONT to the master.
    pub fn thaw_master(&self) {
        self.master.thaw();
    }

    // --- agents

    /// How many agents were started.
    pub fn agent_count(&self) -> usize {
        self.agents.len()
    }

    /// Starts another agent, waits until it has registered, and answers its index.
    pub async fn add_agent(&mut self, spec: AgentSpec) -> usize {
        let before = self.active_agents().await.len();
        self.spawn_agent(spec);
        self.wait_for_agents(before + 1).await;
        self.agents.len() - 1
    }

    /// The agent's hostname: `agent-1` for the first, if not said otherwise.
    pub fn hostname(&self, agent: usize) -> String {
        hostname(&self.agents[agent].spec, agent)
    }

    /// The index of the agent with that hostname.
    pub fn agent_of(&self, hostname: &str) -> usize {
        (0..self.agents.len()).find(|i| self.hostname(*i) == hostname).expect("an agent of that name was started")
    }

    /// `kill -9` of the agent's process only: its tasks run on.
    pub fn kill_agent(&mut self, agent: usize) {
        self.agents[agent].process.kill();
    }

    /// `kill -9` of the agent, its executors and its tasks: the machine is gone.
    pub fn kill_machine(&mut self, agent: usize) {
        self.agents[agent].process.kill();
        process::kill_all_in(&self.folder(agent));
    }

    /// Starts an agent again, with what it had kept on disk. Does not wait: with the master dead, it
    /// could not register.
    pub fn restart_agent(&mut self, agent: usize) {
        self.agents[agent].process.kill();
        let address = self.master_address();
        let a = &self.agents[agent];
        self.agents[agent].process = spawn_agent(&self.home, &self.options, &address, agent, a);
    }

    /// SIGSTOP to the agent's process only.
    pub fn freeze_agent(&self, agent: usize) {
        self.agents[agent].process.freeze();
    }

    /// SIGCONT to the agent's process only.
    pub fn thaw_agent(&self, agent: usize) {
        self.agents[agent].process.thaw();
    }

    /// SIGSTOP to the agent, its executors and its tasks: the machine hangs.
    pub fn freeze_machine(&self, agent: usize) {
        process::signal_all_in(&self.folder(agent), Signal::STOP);
    }

    /// SIGCONT to the agent, its executors and its tasks.
    pub fn thaw_machine(&self, agent: usize) {
        process::signal_all_in(&self.folder(agent), Signal::CONT);
    }

    /// The folder in which the agent and its tasks work.
    pub fn folder(&self, agent: usize) -> PathBuf {
        self.home.path().join(&self.agents[agent].folder)
    }

    /// The folder of everything: each task's process works in it.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    // --- questions

    /// A call of the operator API, as `{"type": "GET_TASKS"}`.
    pub async fn ask(&self, call: &Value) -> anyhow::Result<Value> {
        ask(&self.client, &self.url(), call).await
    }

    /// The tasks that the master holds for alive: launched, running or unreachable, of any framework.
    pub async fn tasks(&self) -> anyhow::Result<Vec<SeenTask>> {
        Mesos::tasks_of(&self.url(), &["pending_tasks", "tasks", "unreachable_tasks", "orphan_tasks"]).await
    }

    /// The tasks of these kinds that the master at `http://HOST:PORT` knows, of any framework.
    pub async fn tasks_of(url: &str, kinds: &[&str]) -> anyhow::Result<Vec<SeenTask>> {
        let client = redisctl::tls::http().timeout(QUESTION_TIMEOUT).build()?;
        let answer = ask(&client, url, &json!({"type": "GET_TASKS"})).await?;
        let tasks = kinds.iter().flat_map(|kind| answer["get_tasks"][kind].as_array().into_iter().flatten());
        Ok(tasks.map(seen).collect())
    }

    /// The hostnames of the agents that are registered and active.
    pub async fn active_agents(&self) -> Vec<String> {
        let Ok(answer) = self.ask(&json!({"type": "GET_AGENTS"})).await else { return Vec::new() };
        let agents = answer["get_agents"]["agents"].as_array().into_iter().flatten();
        let active = agents.filter(|agent| agent["active"] == true);
        active.filter_map(|agent| Some(agent["agent_info"]["hostname"].as_str()?.to_string())).collect()
    }

    /// Waits until exactly `count` agents are registered and active.
    pub async fn wait_for_agents(&self, count: usize) {
        wait_until(&format!("{count} agents are registered"), START_TIMEOUT, async || {
            let agents = self.active_agents().await;
            if agents.len() == count { Ok(()) } else { Err(format!("{agents:?}")) }
        })
        .await;
    }

    async fn wait_for_master(&self) {
        wait_until("the Mesos master answers", START_TIMEOUT, async || self.ask(&json!({"type": "GET_AGENTS"})).await)
            .await;
    }

    fn spawn_agent(&mut self, spec: AgentSpec) {
        let index = self.agents.len();
        let mut agent = Agent {
            process: Process::none(),
            port: self.ports.next(),
            task_ports: Ports::lease(spec.ports),
            folder: format!("agent-{}", index + 1),
            spec,
        };
        agent.process = spawn_agent(&self.home, &self.options, &self.master_address(), index, &agent);
        self.agents.push(agent);
    }
}

async fn ask(client: &reqwest::Client, url: &str, call: &Value) -> anyhow::Result<Value> {
    let request = client.post(format!("{url}/api/v1")).json(call);
    Ok(request.header("Accept", "application/json").send().await?.error_for_status()?.json().await?)
}

/// A program of the rig.
pub fn rig(program: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mesos-rig").join(program)
}

fn hostname(spec: &AgentSpec, agent: usize) -> String {
    spec.hostname.clone().unwrap_or_else(|| format!("agent-{}", agent + 1))
}

fn seen(task: &Value) -> SeenTask {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    SeenTask {
        id: text(&task["task_id"]["value"]),
        state: text(&task["state"]),
        agent_id: text(&task["agent_id"]["value"]),
        framework_id: text(&task["framework_id"]["value"]),
    }
}

fn spawn_master(home: &Home, port: u16, options: &MesosOptions) -> Process {
    let mut command = Command::new(rig("node"));
    command.args(["master", &port.to_string()]).arg(home.path().join("master"));
    if !options.credentials.is_empty() {
        let credentials: Vec<Value> =
            options.credentials.iter().map(|(p, s)| json!({"principal": p, "secret": s})).collect();
        let path = home.path().join("credentials.json");
        std::fs::write(&path, json!({"credentials": credentials}).to_string()).expect("the home can be written");
        command
            .env("MESOS_AUTHENTICATE_HTTP_FRAMEWORKS", "true")
            .env("MESOS_HTTP_FRAMEWORK_AUTHENTICATORS", "basic")
            .env("MESOS_CREDENTIALS", path);
    }
    command.envs(options.master_env.iter().cloned());
    home.spawn("master", &mut command)
}

/// Where an agent, or a master beside it, says that it is.
fn domain(spec: &AgentSpec) -> Option<(String, String)> {
    let (region, zone) = spec.domain.as_ref()?;
    let domain = json!({"fault_domain": {"region": {"name": region}, "zone": {"name": zone}}});
    Some(("MESOS_DOMAIN".to_string(), domain.to_string()))
}

fn spawn_agent(home: &Home, options: &MesosOptions, master: &str, index: usize, agent: &Agent) -> Process {
    let (spec, ports) = (&agent.spec, agent.task_ports.range());
    let reserved = spec.reserved.iter().map(|(role, mem)| format!("mem({role}):{mem};")).collect::<Vec<_>>().concat();
    let (cpus, mem, first, last) = (spec.cpus, spec.mem, ports.start(), ports.end());
    let resources = format!("cpus:{cpus};mem:{mem};{reserved}disk:10000;ports:[{first}-{last}]");
    let attributes: Vec<String> = spec.attributes.iter().map(|(name, value)| format!("{name}:{value}")).collect();
    let mut command = Command::new(rig("node"));
    command
        .args(["agent", &agent.port.to_string()])
        .arg(home.path().join(&agent.folder))
        .args([master, &hostname(spec, index), &resources, &attributes.join(";")])
        .envs(options.agent_env.iter().cloned())
        .envs(domain(spec));
    home.spawn(&agent.folder, &mut command)
}
