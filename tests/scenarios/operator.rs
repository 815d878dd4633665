//! An operator under test: the real binary as a process of its own. I/O.

use std::process::Command;
use std::time::Duration;

use redisctl::board::OperatorView;
use serde_json::Value;

use crate::support::{Home, Ports, Process, process, wait_until};

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_redisctl");
/// How long the API may take to come up, on a loaded machine.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// How long an operator that was asked to end may take.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the API may take to answer: a frozen operator never does.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// One operator process and how it is started.
pub struct Operator {
    process: Process,
    home: Home,
    /// The program and its arguments.
    words: Vec<String>,
    listen: String,
    sentinel: String,
    client: reqwest::Client,
    _ports: Ports,
}

impl Operator {
    /// `redisctl operator` on a free port. Does not wait for anything.
    pub fn spawn(store: &str, mesos: &str, more: &[&str]) -> Operator {
        Operator::spawn_by(&Command::new(BINARY), "127.0.0.1", store, mesos, more)
    }

    /// The same on the machine with that address, where `program` starts the binary.
    pub fn spawn_by(program: &Command, ip: &str, store: &str, mesos: &str, more: &[&str]) -> Operator {
        let (ports, home) = (Ports::lease(2), Home::new("operator"));
        let (listen, sentinel) = (format!("{ip}:{}", ports.next()), format!("{ip}:{}", ports.next()));
        let program = [program.get_program()].into_iter().chain(program.get_args());
        let program = program.map(|word| word.to_str().expect("it is text"));
        let args = [
            "operator",
            "--store",
            store,
            "--mesos",
            mesos,
            "--listen",
            &listen,
            "--sentinel-listen",
            &sentinel,
            "--insecure-no-auth",
        ];
        let client = redisctl::tls::http().timeout(ANSWER_TIMEOUT).build().expect("a client");
        let mut operator = Operator {
            process: Process::none(),
            home,
            words: program.chain(args).chain(more.iter().copied()).map(ToString::to_string).collect(),
            listen,
            sentinel,
            client,
            _ports: ports,
        };
        operator.spawn_again();
        operator
    }

    /// Starts it with the same words, after a kill.
    pub fn spawn_again(&mut self) {
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]).env("REDISCTL_LOG_LEVEL", "info,redisctl=debug").env("RUST_BACKTRACE", "1");
        self.process = self.home.spawn("operator", &mut command);
    }

    /// Where its API listens.
    pub fn url(&self) -> String {
        format!("http://{}", self.listen)
    }

    /// Where it answers as a Redis Sentinel.
    pub fn sentinel(&self) -> &str {
        &self.sentinel
    }

    /// Whether its process runs; one that ended by itself does not.
    pub fn runs(&self) -> bool {
        self.process.runs()
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// SIGSTOP.
    pub fn freeze(&self) {
        self.process.freeze();
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.process.thaw();
    }

    /// SIGTERM, and waits for its end.
    pub async fn end(&mut self) {
        if self.process.runs() {
            self.process.terminate();
            wait_until("the operator ends after SIGTERM", END_TIMEOUT, async || !self.process.runs()).await;
        }
    }

    /// What it has logged since its first start.
    pub fn log(&self) -> String {
        self.home.log("operator")
    }

    /// GET of a path of its API.
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let answer = self.client.get(format!("{}{path}", self.url())).send().await?;
        let (code, text) = (answer.status(), answer.text().await?);
        anyhow::ensure!(code.is_success(), "GET {path}: {code}: {text}");
        Ok(serde_json::from_str(&text)?)
    }

    /// What it says of itself.
    pub async fn view(&self) -> anyhow::Result<OperatorView> {
        Ok(serde_json::from_value(self.get("/v1/operator").await?)?)
    }

    /// Waits until its API answers.
    pub async fn wait_until_it_answers(&self) {
        wait_until("the operator's API answers", START_TIMEOUT, async || {
            assert!(self.runs(), "the operator has ended by itself");
            self.view().await
        })
        .await;
    }

    /// Waits until it leads, has read the store and is subscribed to Mesos.
    pub async fn wait_until_in_charge(&self, timeout: Duration) {
        wait_until("the operator is in charge", timeout, async || {
            assert!(self.runs(), "the operator has ended by itself");
            let view = self.view().await?;
            anyhow::ensure!(view.leading && view.store_synced && view.mesos == "subscribed", "{view:?}");
            anyhow::Ok(())
        })
        .await;
    }

    /// `redisctl ARGS` against this operator, with `input` on its standard input.
    pub async fn cli(&self, args: &[&str], input: &str, timeout: Duration) -> Result<String, String> {
        let url = self.url();
        let args: Vec<&str> = args.iter().copied().chain(["--server", &url]).collect();
        process::run(BINARY, &args, input.as_bytes(), timeout).await
    }
}
