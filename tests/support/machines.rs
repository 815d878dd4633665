//! Machines: network namespaces around a bridge, any of which can be cut off. I/O.
//!
//! All of it lives in a network of this process' own: the kernel removes it with the last process,
//! however that ends. A machine's namespace is held by a process that sleeps in it.

use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::mesos::{Mesos, MesosOptions, rig};
use super::process::{Home, Process};
use super::wait_until;

/// Where Mesos' master and the clients are, and whoever needs no machine of its own.
pub const HUB: &str = "10.99.0.1";
/// Machines have the addresses after this one.
const FIRST: usize = 11;
/// Says that the network is our own already.
const OWN_NETWORK_ENV: &str = "REDISCTL_OWN_NETWORK";
const START_TIMEOUT: Duration = Duration::from_secs(5);
/// Machines have a network each, so all agents can use the same ports.
const AGENT_PORT: u16 = 5051;
const TASK_PORTS: &str = "31000-31999";

/// Machines `0..n`.
pub struct Machines {
    home: Home,
    holders: Vec<Process>,
}

/// Goes on in a network of its own: starts this program again there, once.
pub fn enter_own_network() {
    if std::env::var_os(OWN_NETWORK_ENV).is_some() {
        return;
    }
    let program = std::env::current_exe().expect("this program has a file");
    let mut command = Command::new("unshare");
    if !rustix::process::getuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.arg("--net").arg(program).args(std::env::args_os().skip(1)).env(OWN_NETWORK_ENV, "1");
    panic!("start `unshare --net`, which needs root or user namespaces: {}", command.exec());
}

impl Machines {
    /// Starts so many machines, all reachable.
    pub async fn start(count: usize) -> Machines {
        run(Command::new("ip"), "link set lo up");
        run(Command::new("ip"), &format!("link add hub address {} type bridge", mac(HUB)));
        run(Command::new("ip"), &format!("addr add {HUB}/24 dev hub"));
        run(Command::new("ip"), "link set hub up");
        let mut machines = Machines { home: Home::new("machines"), holders: Vec::new() };
        for i in 0..count {
            machines.add(i).await;
            know(|| Command::new("ip"), "hub", &ip(i));
        }
        for i in 0..count {
            let others = (0..count).filter(|other| *other != i).map(ip);
            others.chain([HUB.to_string()]).for_each(|ip| know(|| machines.command(i, "ip"), "eth0", &ip));
        }
        machines
    }

    async fn add(&mut self, i: usize) {
        let holder =
            self.home.spawn(&format!("machine-{i}"), Command::new("unshare").args(["--net", "sleep", "infinity"]));
        self.holders.push(holder);
        let ours = fs::read_link("/proc/self/ns/net").expect("the kernel has namespaces");
        wait_until("the machine has a network of its own", START_TIMEOUT, async || {
            fs::read_link(self.namespace(i)).is_ok_and(|its| its != ours)
        })
        .await;
        let pid = self.holders[i].pid().expect("it runs");
        let cable = format!("link add {} type veth peer name eth0 address {} netns {pid}", port(i), mac(&ip(i)));
        run(Command::new("ip"), &cable);
        run(Command::new("ip"), &format!("link set {} master hub up", port(i)));
        run(self.command(i, "ip"), "link set lo up");
        run(self.command(i, "ip"), &format!("addr add {}/24 dev eth0", ip(i)));
        run(self.command(i, "ip"), "link set eth0 up");
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.holders.len()
    }

    /// A command that runs on that machine.
    pub fn command(&self, i: usize, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.namespace(i).display())).arg(program);
        command
    }

    /// An agent of the Mesos whose master [`start_mesos`] has started; its tasks run on that machine.
    pub fn spawn_agent(&self, i: usize, home: &Home, mesos: &Mesos) -> Process {
        let folder = format!("agent-{i}");
        let master = mesos.master_address().replace("127.0.0.1", HUB);
        let mut command = self.command(i, rig("node").to_str().expect("the path is text"));
        command
            .args(["agent", &AGENT_PORT.to_string()])
            .arg(home.path().join(&folder))
            .args([&master, &folder, &format!("cpus:16;mem:8192;disk:10000;ports:[{TASK_PORTS}]")])
            .env("LIBPROCESS_IP", ip(i));
        home.spawn(&folder, &mut command)
    }

    /// A door to the machine's network.
    pub fn door(&self, i: usize) -> Door {
        Door(File::open(self.namespace(i)).expect("its holder runs"))
    }

    fn namespace(&self, i: usize) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.holders[i].pid().expect("it was started")))
    }
}

/// A Mesos master on the hub, with these further settings (`MESOS_...`), for agents on machines.
pub async fn start_mesos(settings: &[(&str, &str)]) -> Mesos {
    let reachable = [
        ("LIBPROCESS_IP", "0.0.0.0"),
        ("LIBPROCESS_ADVERTISE_IP", HUB),
        ("MESOS_HOSTNAME", HUB), // There are no names here.
    ];
    let all = reachable.iter().chain(settings);
    let master_env = all.map(|(name, value)| ((*name).to_string(), (*value).to_string())).collect();
    Mesos::start_with(MesosOptions { master_env, ..MesosOptions::default() }, &[]).await
}

/// Cuts the machine off: nothing is refused, nothing arrives.
pub fn cut(i: usize) {
    run(Command::new("ip"), &format!("link set {} nomaster", port(i)));
}

/// Takes it back.
pub fn heal(i: usize) {
    run(Command::new("ip"), &format!("link set {} master hub", port(i)));
}

/// A network that a thread can go to.
pub struct Door(File);

impl Door {
    /// The calling thread, and no other, is in that network from now on.
    pub fn enter(&self) {
        let network = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(self.0.as_fd(), network).expect("we made the namespace");
    }
}

/// The machine's address.
pub fn ip(i: usize) -> String {
    format!("10.99.0.{}", FIRST + i)
}

/// The machine that `ip:port` is on.
pub fn machine_of(address: &str) -> usize {
    let (ip, _) = address.split_once(':').expect("an address is ip:port");
    let last = ip.rsplit('.').next().and_then(|last| last.parse::<usize>().ok()).expect("an address of ours");
    last - FIRST
}

/// Fixed, so that nobody has to ask for it: after a split, the kernel would do so once a second only,
/// and that is not to be measured here.
fn mac(ip: &str) -> String {
    let last: u8 = ip.rsplit('.').next().and_then(|last| last.parse().ok()).expect("an address of ours");
    format!("02:00:00:00:00:{last:02x}")
}

fn know(command: impl Fn() -> Command, device: &str, ip: &str) {
    run(command(), &format!("neigh add {ip} lladdr {} dev {device} nud permanent", mac(ip)));
}

/// The bridge's end of the machine's cable.
fn port(i: usize) -> String {
    format!("machine{i}")
}

fn run(mut command: Command, words: &str) {
    let output = command.args(words.split(' ')).output().expect("iproute2 and util-linux are installed");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
