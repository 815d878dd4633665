//! What benches share: the operator as a process, medians, and the table at the end. I/O.

#![allow(dead_code, unused_imports)] // Each bench uses a part of it.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::Command;
use std::time::{Duration, Instant};

use redisctl::board::OperatorView;

#[path = "../../tests/support/mod.rs"]
pub mod support;

use support::{Home, Ports, Process, wait_until};

/// The binary, built with the profile of benches.
pub const BINARY: &str = env!("CARGO_BIN_EXE_redisctl");
/// How long anything may take before a bench gives up.
pub const TIMEOUT: Duration = Duration::from_mins(2);
/// Rows are appended to this file too, for the one table at the end of `make bench`.
const TABLE_ENV: &str = "REDISCTL_BENCH_TABLE";

/// An operator: the real binary as a process of its own.
pub struct Operator {
    process: Process,
    home: Home,
    args: Vec<String>,
    url: String,
    sentinel: String,
    client: reqwest::Client,
    _ports: Ports,
}

impl Operator {
    /// `redisctl operator` with its default settings, on a free port. Does not wait for anything.
    pub fn spawn(store: &str, mesos: &str) -> Operator {
        Operator::spawn_with(store, mesos, &[])
    }

    /// The same with these words more.
    pub fn spawn_with(store: &str, mesos: &str, more: &[&str]) -> Operator {
        let (ports, home) = (Ports::lease(2), Home::new("bench-operator"));
        let listen = format!("127.0.0.1:{}", ports.next());
        let sentinel = format!("127.0.0.1:{}", ports.next());
        let listen_at = ["--listen", &listen, "--sentinel-listen", &sentinel, "--insecure-no-auth"];
        let args = [&["operator", "--store", store, "--mesos", mesos][..], &listen_at, more].concat();
        let mut operator = Operator {
            process: Process::none(),
            home,
            args: args.into_iter().map(ToString::to_string).collect(),
            url: format!("http://{listen}"),
            sentinel,
            client: redisctl::tls::http().timeout(Duration::from_secs(3)).build().expect("a client"),
            _ports: ports,
        };
        operator.spawn_again();
        operator
    }

    /// Starts it with the same words, after a kill.
    pub fn spawn_again(&mut self) {
        self.process = self.home.spawn("operator", Command::new(BINARY).args(&self.args));
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Where its API listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where it speaks Sentinel's protocol.
    pub fn sentinel(&self) -> &str {
        &self.sentinel
    }

    /// What it has logged since its first start.
    pub fn log(&self) -> String {
        self.home.log("operator")
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.process.pid().expect("it was started").as_raw_nonzero().get()
    }

    /// Its CPU time since its start, user and system.
    pub fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("it runs");
        let fields: Vec<&str> = stat.rsplit_once(") ").expect("a name in parentheses").1.split(' ').collect();
        let ticks = |field: usize| fields[field].parse::<u64>().expect("a number");
        // The 14th and 15th field, in hundredths of a second, which Linux has for all programs.
        Duration::from_millis((ticks(11) + ticks(12)) * 10)
    }

    /// Its resident memory, in MB.
    pub fn rss_mb(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has memory");
        line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") * 1024.0 / 1e6
    }

    /// Waits until it leads, has read the store and is subscribed to Mesos.
    pub async fn wait_until_in_charge(&self) {
        wait_until("the operator is in charge", TIMEOUT, async || {
            assert!(self.process.runs(), "the operator has ended by itself");
            let view: OperatorView = self.client.get(format!("{}/v1/operator", self.url)).send().await?.json().await?;
            anyhow::ensure!(view.leading && view.store_synced && view.mesos == "subscribed", "{view:?}");
            anyhow::Ok(())
        })
        .await;
    }
}

/// A document of small nodes.
pub fn document(name: &str, replicas: u32, distribution: u32) -> String {
    format!(
        "apiVersion: redisctl/v1\nkind: RedisInstance\nmetadata: {{name: {name}}}\nspec: {{auth: none, replicas: {replicas}, \
         memory: 16Mi, cpus: 0.1, distribution: {distribution}, placement: {{spreadBy: rack}}}}\n"
    )
}

/// The middle one.
pub fn median(durations: &[Duration]) -> Duration {
    quantile(durations, 0.5)
}

/// The one below which this part of all lies.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)] // Few durations.
pub fn quantile(durations: &[Duration], part: f64) -> Duration {
    let mut sorted = durations.to_vec();
    sorted.sort();
    sorted[((sorted.len() - 1) as f64 * part).round() as usize]
}

/// Milliseconds for people.
pub fn ms(duration: Duration) -> String {
    let ms = duration.as_secs_f64() * 1e3;
    if ms < 10.0 { format!("{ms:.1} ms") } else { format!("{ms:.0} ms") }
}

/// All of them, for people.
pub fn all_ms(durations: &[Duration]) -> String {
    durations.iter().map(|d| format!("{:.0}", d.as_secs_f64() * 1e3)).collect::<Vec<_>>().join(" ")
}

/// The table at the end: a figure, what it is measured beside, the ratio to each, and the aim.
#[derive(Default)]
pub struct Table(String);

impl Table {
    /// Adds a row.
    pub fn row(&mut self, figure: &str, value: &str, floors: &str, ratio: &str, aim: &str) {
        let _ = writeln!(self.0, "{figure:<52} {value:>14}  {floors:<34} {ratio:<14} {aim}"); // To a String.
    }

    /// Prints it, and adds it to the one of `make bench`.
    pub fn print(&self) {
        println!("\n{:<52} {:>14}  {:<34} {:<14} aim", "figure", "value", "floors", "ratio");
        print!("{}", self.0);
        if let Ok(path) = std::env::var(TABLE_ENV) {
            let file = std::fs::File::options().create(true).append(true).open(path);
            file.and_then(|mut file| file.write_all(self.0.as_bytes())).expect("the table's file can be written");
        }
    }
}

/// A test runner looks for tests in every target: there are none in benches.
pub fn asked_for_tests() -> bool {
    std::env::args().any(|arg| arg == "--list" || arg == "--test")
}
