//! The faults: what is done to whom, and how it is undone. I/O.

use std::time::Duration;

use anyhow::Context as _;
use redisctl::model::Role;
use redisctl::status::NodeStatus;
use rustix::process::{Pid, Signal, kill_process};

use crate::support::machines::{cut, heal, machine_of};
use crate::world::{AGENTS, FIRST_OPERATOR, INSTANCES, World, info, keeps_trying};

/// How long a fault waits until an operator leads, and one that destroys data until all is well.
const PATIENCE: Duration = Duration::from_secs(20);

/// Kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    KillMaster,
    StopMaster,
    CutMaster,
    KillReplica,
    StopReplica,
    CutReplica,
    KillAgent,
    StopAgent,
    KillMesos,
    StopMesos,
    KillEtcd,
    StopEtcd,
    KillLeader,
    StopLeader,
    CutLeader,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 15] = [
        Kind::KillMaster,
        Kind::StopMaster,
        Kind::CutMaster,
        Kind::KillReplica,
        Kind::StopReplica,
        Kind::CutReplica,
        Kind::KillAgent,
        Kind::StopAgent,
        Kind::KillMesos,
        Kind::StopMesos,
        Kind::KillEtcd,
        Kind::StopEtcd,
        Kind::KillLeader,
        Kind::StopLeader,
        Kind::CutLeader,
    ];
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Kind::KillMaster => "kill -9 of a master",
            Kind::StopMaster => "SIGSTOP of a master",
            Kind::CutMaster => "a master's machine cut off",
            Kind::KillReplica => "kill -9 of a replica",
            Kind::StopReplica => "SIGSTOP of a replica",
            Kind::CutReplica => "a replica's machine cut off",
            Kind::KillAgent => "kill -9 of a Mesos agent",
            Kind::StopAgent => "SIGSTOP of a Mesos agent",
            Kind::KillMesos => "kill -9 of the Mesos master",
            Kind::StopMesos => "SIGSTOP of the Mesos master",
            Kind::KillEtcd => "kill -9 of etcd",
            Kind::StopEtcd => "SIGSTOP of etcd",
            Kind::KillLeader => "kill -9 of the leader",
            Kind::StopLeader => "SIGSTOP of the leader",
            Kind::CutLeader => "the leader cut off",
        })
    }
}

/// A fault that was tried.
pub struct Tried {
    pub kind: Kind,
    pub at: std::time::Instant,
    /// Whether it could be done.
    pub done: bool,
    /// The instance that it was done to, if to one only.
    pub instance: Option<&'static str>,
}

/// A fault under way.
pub struct Fault {
    /// To whom, for people.
    pub what: String,
    pub instance: Option<&'static str>,
    pub undo: Undo,
}

/// What ends a fault.
pub enum Undo {
    /// The operator's task.
    Nothing,
    Continue(Pid),
    Heal(usize),
    StartAgent(usize),
    ThawAgent(usize),
    StartMesos,
    ThawMesos,
    StartEtcd,
    ThawEtcd,
    StartOperator(usize),
    ThawOperator(usize),
}

/// Does it; `choice` decides to whom. What cannot be done now is left: nobody is the master, say.
pub async fn begin(world: &mut World, kind: Kind, choice: usize) -> anyhow::Result<Fault> {
    let led = async || world.leader().await.map(drop).context("no operator leads");
    keeps_trying(PATIENCE, led).await.map_err(anyhow::Error::msg)?;
    match kind {
        Kind::KillMaster | Kind::StopMaster | Kind::CutMaster => to_node(world, kind, Role::Master, choice).await,
        Kind::KillReplica | Kind::StopReplica | Kind::CutReplica => to_node(world, kind, Role::Replica, choice).await,
        Kind::KillLeader | Kind::StopLeader | Kind::CutLeader => to_leader(world, kind).await,
        Kind::KillAgent | Kind::StopAgent => Ok(to_agent(world, kind, choice % AGENTS)),
        Kind::KillMesos | Kind::StopMesos | Kind::KillEtcd | Kind::StopEtcd => Ok(to_service(world, kind)),
    }
}

/// Undoes it.
pub async fn end(world: &mut World, undo: Undo) {
    match undo {
        Undo::Nothing => {}
        Undo::Continue(pid) => signal(pid, Signal::CONT),
        Undo::Heal(machine) => heal(machine),
        Undo::StartAgent(i) => world.start_agent(i),
        Undo::ThawAgent(i) => world.agents[i].thaw(),
        Undo::StartMesos => world.mesos.restart_master().await,
        Undo::ThawMesos => world.mesos.thaw_master(),
        Undo::StartEtcd => world.etcd.start_again().await,
        Undo::ThawEtcd => world.etcd.thaw(),
        Undo::StartOperator(i) => world.operators[i].spawn_again(),
        Undo::ThawOperator(i) => world.operators[i].thaw(),
    }
}

async fn to_node(world: &World, kind: Kind, role: Role, choice: usize) -> anyhow::Result<Fault> {
    let name = INSTANCES[choice % INSTANCES.len()].0;
    if matches!(kind, Kind::KillMaster | Kind::KillReplica) {
        // Two copies at a time are more than durability one stands.
        world.ready(name, PATIENCE).await.map_err(anyhow::Error::msg)?;
    }
    let status = world.status(name).await?;
    let nodes: Vec<&NodeStatus> = status.nodes.iter().filter(|node| node.role == role).collect();
    anyhow::ensure!(!nodes.is_empty(), "{name} has no {role}");
    let node = nodes[choice / INSTANCES.len() % nodes.len()];
    let what = format!("{} at {}", node.name, node.address);
    if matches!(kind, Kind::CutMaster | Kind::CutReplica) {
        let machine = machine_of(&node.address);
        cut(machine);
        // Nodes of other instances may be there too.
        return Ok(Fault { what, instance: None, undo: Undo::Heal(machine) });
    }
    let info = info(&node.address).await?;
    let pid = info["process_id"].parse().ok().and_then(Pid::from_raw).context("INFO tells the process id")?;
    let kills = matches!(kind, Kind::KillMaster | Kind::KillReplica);
    signal(pid, if kills { Signal::KILL } else { Signal::STOP });
    let undo = if kills { Undo::Nothing } else { Undo::Continue(pid) };
    Ok(Fault { what, instance: Some(name), undo })
}

async fn to_leader(world: &mut World, kind: Kind) -> anyhow::Result<Fault> {
    let i = world.leader().await.context("no operator leads")?;
    let undo = match kind {
        Kind::KillLeader => {
            world.operators[i].kill();
            Undo::StartOperator(i)
        }
        Kind::CutLeader => {
            cut(FIRST_OPERATOR + i);
            Undo::Heal(FIRST_OPERATOR + i)
        }
        _ => {
            world.operators[i].freeze();
            Undo::ThawOperator(i)
        }
    };
    Ok(Fault { what: format!("operator {i}"), instance: None, undo })
}

fn to_agent(world: &mut World, kind: Kind, i: usize) -> Fault {
    let undo = if kind == Kind::KillAgent {
        world.agents[i].kill();
        Undo::StartAgent(i)
    } else {
        world.agents[i].freeze();
        Undo::ThawAgent(i)
    };
    Fault { what: format!("agent-{i}"), instance: None, undo }
}

fn to_service(world: &mut World, kind: Kind) -> Fault {
    let (what, undo) = match kind {
        Kind::KillMesos => {
            world.mesos.kill_master();
            ("it", Undo::StartMesos)
        }
        Kind::StopMesos => {
            world.mesos.freeze_master();
            ("it", Undo::ThawMesos)
        }
        Kind::KillEtcd => {
            world.etcd.stop();
            ("it", Undo::StartEtcd)
        }
        _ => {
            world.etcd.freeze();
            ("it", Undo::ThawEtcd)
        }
    };
    Fault { what: what.to_string(), instance: None, undo }
}

fn signal(pid: Pid, signal: Signal) {
    let _ = kill_process(pid, signal); // The operator may have killed it meanwhile.
}
