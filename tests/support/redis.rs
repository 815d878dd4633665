//! A real redis-server for a test, and questions to any by redis-cli. I/O.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use super::process::{self, Home, Ports, Process};
use super::wait_until;

/// How long a server may take to answer after its start, on a loaded machine.
const START_TIMEOUT: Duration = Duration::from_secs(15);
/// How long one redis-cli command may take: a frozen server never answers.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(5);

/// One redis-server, without persistence.
pub struct Redis {
    process: Process,
    home: Home,
    port: u16,
    args: Vec<String>,
    _ports: Ports,
}

impl Redis {
    /// Starts a server with these further arguments (`["--replicaof", "127.0.0.1 7000"]`) on a free
    /// port, and waits until it answers.
    pub async fn start(args: &[&str]) -> Redis {
        Redis::start_with(args, &[]).await
    }

    /// The same on this port, which somebody else has leased.
    pub async fn start_on(port: u16, args: &[&str]) -> Redis {
        Redis::spawn(port, Ports::lease(1), args, &[]).await
    }

    /// The same as [`Redis::start`] for one that wants a password, which these options of redis-cli give.
    pub async fn start_with(args: &[&str], options: &[&str]) -> Redis {
        let ports = Ports::lease(1);
        Redis::spawn(ports.next(), ports, args, options).await
    }

    async fn spawn(port: u16, ports: Ports, args: &[&str], options: &[&str]) -> Redis {
        let home = Home::new("redis");
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        let process = spawn(&home, port, &args);
        let redis = Redis { process, home, port, args, _ports: ports };
        let ping = [options, &["PING"]].concat();
        wait_until("redis-server answers", START_TIMEOUT, async || redis.cli(&ping).await).await;
        redis
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `redis-cli ARGS`.
    pub async fn cli(&self, args: &[&str]) -> Result<String, String> {
        cli(&self.address(), args).await
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again after [`Redis::kill`], empty, on the same port.
    pub async fn start_again(&mut self) {
        self.process = spawn(&self.home, self.port, &self.args);
        self.wait_until_it_answers().await;
    }

    /// SIGSTOP: connections stay open, nobody answers.
    pub fn freeze(&self) {
        self.process.freeze();
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.process.thaw();
    }

    async fn wait_until_it_answers(&self) {
        wait_until("redis-server answers", START_TIMEOUT, async || self.cli(&["PING"]).await).await;
    }
}

fn spawn(home: &Home, port: u16, args: &[String]) -> Process {
    let mut command = Command::new("redis-server");
    command
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
        .args(["--repl-diskless-sync-delay", "0"])
        .args(args);
    home.spawn("redis", &mut command)
}

/// `redis-cli ARGS` to the server at `host:port`; its answer without the last line's end.
pub async fn cli(address: &str, args: &[&str]) -> Result<String, String> {
    let (host, port) = address.rsplit_once(':').expect("an address is host:port");
    let args: Vec<&str> = ["-e", "-h", host, "-p", port].into_iter().chain(args.iter().copied()).collect();
    let answer = process::run("redis-cli", &args, b"", COMMAND_TIMEOUT).await?;
    Ok(answer.trim_end().to_string())
}

/// All fields of INFO of the server at `host:port`.
pub async fn info(address: &str) -> Result<BTreeMap<String, String>, String> {
    info_with(address, &[]).await
}

/// The same with options of redis-cli.
pub async fn info_with(address: &str, options: &[&str]) -> Result<BTreeMap<String, String>, String> {
    let answer = cli(address, &[options, &["INFO"]].concat()).await?;
    let fields = answer.lines().filter_map(|line| line.trim_end().split_once(':'));
    Ok(fields.map(|(name, value)| (name.to_string(), value.to_string())).collect())
}
