//! A real etcd server for a test. I/O.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};

use super::process::{self, Home, Ports, Process};
use super::wait_until;

/// How long etcd may take to answer after its start, on a loaded machine.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long one etcdctl command may take, on a loaded machine.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(15);
/// The file that a backup is in.
const BACKUP: &str = "backup.db";

/// One etcd server, its data kept over [`Etcd::stop`] and [`Etcd::start_again`].
pub struct Etcd {
    process: Process,
    home: Home,
    server: Server,
    /// What `etcdctl` is told beside the endpoint: `--user`, `--cacert`.
    speak: Vec<String>,
    _ports: Ports,
}

/// How a server is started.
struct Server {
    ip: String,
    client_port: u16,
    peer_port: u16,
    /// Where it tells of its health without TLS and without a login.
    health_port: u16,
    /// Bytes that its database may have; 0: as many as etcd allows.
    quota: u64,
    tls: bool,
    more: Vec<String>,
}

impl Etcd {
    /// Starts an empty server on free ports, and waits until it answers.
    pub async fn start() -> Etcd {
        Etcd::start_on("127.0.0.1").await
    }

    /// The same, listening on another address of this machine.
    pub async fn start_on(ip: &str) -> Etcd {
        Etcd::start_with(ip, 0).await
    }

    /// With room for so many bytes only: see [`Etcd::fill`].
    pub async fn start_small(quota: u64) -> Etcd {
        Etcd::start_with("127.0.0.1", quota).await
    }

    /// With these arguments too; with TLS when they name a certificate.
    pub async fn start_secured(more: &[&str]) -> Etcd {
        Etcd::start_as("127.0.0.1", 0, more).await
    }

    async fn start_with(ip: &str, quota: u64) -> Etcd {
        Etcd::start_as(ip, quota, &[]).await
    }

    async fn start_as(ip: &str, quota: u64, more: &[&str]) -> Etcd {
        let (ports, home) = (Ports::lease(3), Home::new("etcd"));
        let tls = more.contains(&"--cert-file");
        let more = more.iter().map(ToString::to_string).collect();
        let (client_port, peer_port, health_port) = (ports.next(), ports.next(), ports.next());
        let server = Server { ip: ip.to_string(), client_port, peer_port, health_port, quota, tls, more };
        let process = spawn(&home, &server);
        let etcd = Etcd { process, home, server, speak: Vec::new(), _ports: ports };
        etcd.wait_until_healthy().await;
        etcd
    }

    /// From now on `etcdctl` gets these arguments beside the endpoint.
    pub fn speak(&mut self, args: &[&str]) {
        self.speak = args.iter().map(ToString::to_string).collect();
    }

    /// Where its data and its log are.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// `IP:PORT`.
    pub fn endpoint(&self) -> String {
        format!("{}:{}", self.server.ip, self.server.client_port)
    }

    /// `etcd://IP:PORT/PREFIX`, or `etcds://`.
    pub fn url(&self, prefix: &str) -> String {
        let scheme = if self.server.tls { "etcds" } else { "etcd" };
        format!("{scheme}://{}/{}", self.endpoint(), prefix.trim_matches('/'))
    }

    /// `kill -9`; its data stays.
    pub fn stop(&mut self) {
        self.process.kill();
    }

    /// Starts it again after [`Etcd::stop`], on the same port with the same data.
    pub async fn start_again(&mut self) {
        self.process = spawn(&self.home, &self.server);
        self.wait_until_healthy().await;
    }

    /// `etcdctl snapshot save`: a backup for [`Etcd::restore`].
    pub async fn back_up(&self) {
        self.ctl(&["snapshot", "save", &self.home.path().join(BACKUP).display().to_string()]).await;
    }

    /// Ends the server and starts it again with the data of [`Etcd::back_up`], as an administrator would.
    pub async fn restore(&mut self) {
        self.stop();
        let (data, backup) = (self.home.path().join("etcd/data"), self.home.path().join(BACKUP));
        std::fs::remove_dir_all(&data).expect("there is data");
        let peer = format!("http://127.0.0.1:{}", self.server.peer_port);
        let (backup, data) = (backup.display().to_string(), format!("--data-dir={}", data.display()));
        let member = ["--name=test", &format!("--initial-cluster=test={peer}")].map(str::to_string);
        let at = format!("--initial-advertise-peer-urls={peer}");
        self.ctl(&["snapshot", "restore", &backup, &data, &member[0], &member[1], &at]).await;
        self.start_again().await;
    }

    /// SIGSTOP: connections stay open, nobody answers.
    pub fn freeze(&self) {
        self.process.freeze();
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.process.thaw();
    }

    /// Runs `etcdctl ARGS`; panics when it fails.
    pub async fn ctl(&self, args: &[&str]) -> String {
        self.ctl_with_input(args, b"").await
    }

    /// `etcdctl put KEY`, the value as it is.
    pub async fn put(&self, key: &str, value: &str) {
        self.ctl_with_input(&["put", "--", key], value.as_bytes()).await;
    }

    /// The value of a key.
    pub async fn get(&self, key: &str) -> Option<String> {
        let found = self.ctl(&["get", "--write-out=simple", "--", key]).await;
        let (_, value) = found.split_once('\n')?;
        Some(value.strip_suffix('\n').unwrap_or(value).to_string())
    }

    /// The keys that start with `prefix`.
    pub async fn keys(&self, prefix: &str) -> Vec<String> {
        let found = self.ctl(&["get", "--prefix", "--keys-only", "--", prefix]).await;
        found.lines().filter(|line| !line.is_empty()).map(ToString::to_string).collect()
    }

    /// Deletes a key.
    pub async fn del(&self, key: &str) {
        self.ctl(&["del", "--", key]).await;
    }

    /// Deletes all keys that start with `prefix`.
    pub async fn del_prefix(&self, prefix: &str) {
        self.ctl(&["del", "--prefix", "--", prefix]).await;
    }

    /// The keys that start with `prefix`, and the revision of the last write of each.
    pub async fn revisions(&self, prefix: &str) -> BTreeMap<String, i64> {
        self.numbers(prefix, "mod_revision").await
    }

    /// The keys that start with `prefix`, and how often each was written since it was made.
    pub async fn writes(&self, prefix: &str) -> BTreeMap<String, i64> {
        self.numbers(prefix, "version").await
    }

    async fn numbers(&self, prefix: &str, field: &str) -> BTreeMap<String, i64> {
        let found = self.ctl(&["get", "--prefix", "--keys-only", "--write-out=json", "--", prefix]).await;
        let found: serde_json::Value = serde_json::from_str(&found).expect("etcdctl prints JSON");
        let keys = found["kvs"].as_array().into_iter().flatten();
        let number = |kv: &serde_json::Value| {
            let key = BASE64_STANDARD.decode(kv["key"].as_str()?).ok()?;
            Some((String::from_utf8(key).ok()?, kv[field].as_i64()?))
        };
        keys.map(|kv| number(kv).expect("each key has a name and numbers")).collect()
    }

    /// The revision of the newest write.
    pub async fn revision(&self) -> i64 {
        let found = self.ctl(&["get", "--write-out=json", "--", "no-such-key"]).await;
        let found: serde_json::Value = serde_json::from_str(&found).expect("etcdctl prints JSON");
        found["header"]["revision"].as_i64().expect("each answer has a revision")
    }

    /// Forgets the history before the newest revision.
    pub async fn compact(&self) {
        let revision = self.revision().await;
        self.ctl(&["compact", &revision.to_string()]).await;
    }

    /// Writes until a small one takes no more: it says NOSPACE then, and answers reads only.
    pub async fn fill(&self) {
        let (key, piece) = ("/ballast", "x".repeat(256 << 10));
        while self.try_ctl(&["put", "--", key], piece.as_bytes()).await.is_ok() {}
        let alarms = self.ctl(&["alarm", "list"]).await;
        assert!(alarms.contains("NOSPACE"), "{alarms:?}");
    }

    /// After [`Etcd::fill`]: as its manual says.
    pub async fn make_room(&self) {
        self.del("/ballast").await;
        self.compact().await;
        self.ctl(&["defrag"]).await;
        self.ctl(&["alarm", "disarm"]).await;
    }

    /// The same, with that on its standard input.
    pub async fn ctl_with_input(&self, args: &[&str], input: &[u8]) -> String {
        self.try_ctl(args, input).await.expect("etcdctl succeeds")
    }

    /// Runs `etcdctl ARGS`; an error is what it said.
    pub async fn try_ctl(&self, args: &[&str], input: &[u8]) -> Result<String, String> {
        let endpoints = format!("--endpoints={}", self.endpoint());
        let told = [endpoints.as_str()].into_iter().chain(self.speak.iter().map(String::as_str));
        let args: Vec<&str> = told.chain(args.iter().copied()).collect();
        process::run("etcdctl", &args, input, COMMAND_TIMEOUT).await
    }

    async fn wait_until_healthy(&self) {
        let url = format!("http://127.0.0.1:{}/health", self.server.health_port);
        let client = redisctl::tls::http().build().expect("a client");
        wait_until("etcd is healthy", START_TIMEOUT, async || {
            let answer = client.get(&url).send().await?.text().await?;
            anyhow::ensure!(answer.contains("true"), "{answer}");
            anyhow::Ok(())
        })
        .await;
    }
}

fn spawn(home: &Home, server: &Server) -> Process {
    let scheme = if server.tls { "https" } else { "http" };
    let client = format!("{scheme}://{}:{}", server.ip, server.client_port);
    let peer = format!("http://127.0.0.1:{}", server.peer_port);
    let mut command = Command::new("etcd");
    command
        .args(["--name", "test", "--data-dir", "data"])
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--listen-metrics-urls", &format!("http://127.0.0.1:{}", server.health_port)])
        .args(["--initial-cluster", &format!("test={peer}")])
        .args(["--quota-backend-bytes", &server.quota.to_string()])
        .args(&server.more)
        .env("ETCDCTL_API", "3");
    home.spawn("etcd", &mut command)
}
