//! The client of the operator's HTTP API. I/O.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, IF_MATCH, LOCATION};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::answer;
use super::notes::Notes;
use super::outcome::{Exit, failure};
use super::token;
use super::unreachable::{Unanswered, unreachable};
use super::view::{Applied, AppliedAll, Instance, Items, Placement, Problem};
use super::watch::Watch;
use crate::board::{OperatorView, PlanView};

/// To reach a machine that is up takes milliseconds; longer means that it is not.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// For one answer: applying hundreds of documents to a slow store takes seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// A watch that is silent for so long is given up and taken up again: the operator sends a sign of
/// life far more often.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(45);

/// How documents are sent.
const YAML: &str = "application/yaml";

/// Talks to one operator.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    /// `--ca-file` is given.
    given_ca: bool,
    /// What answers say of the operator itself.
    pub notes: Notes,
}

/// What became of documents.
#[derive(Debug)]
pub enum Outcome {
    /// All of them were applied.
    Applied(Vec<Applied>),
    /// None was, for these reasons.
    Refused(Problem),
}

impl Client {
    /// A client of the operator at `http://HOST:PORT` or `https://HOST:PORT`.
    pub fn new(server: &str, token_file: Option<&Path>, ca_file: Option<&Path>) -> Result<Client> {
        let allowed = "allowed are http://HOST:PORT and https://HOST:PORT";
        let wrong = || failure(Exit::Usage, format!("--server {server:?}: {allowed}"));
        let base: Url = server.parse().map_err(|_| wrong())?;
        if !matches!(base.scheme(), "http" | "https") || !base.has_host() {
            return Err(wrong());
        }
        let usage = |error: anyhow::Error| failure(Exit::Usage, format!("{error:#}"));
        let http = crate::tls::http_with(ca_file).map_err(usage)?.connect_timeout(CONNECT_TIMEOUT);
        let token = token::header(token_file).map_err(usage)?;
        let http = http.default_headers(token.map(|token| (AUTHORIZATION, token)).into_iter().collect());
        let http = http.read_timeout(SILENCE_TIMEOUT).build().context("set up the HTTP client")?;
        Ok(Client { http, base, given_ca: ca_file.is_some(), notes: Notes::default() })
    }

    /// The address, as in `--server`.
    pub fn server(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    pub(super) fn request(&self, method: Method, path: &[&str]) -> RequestBuilder {
        let mut url = self.base.clone();
        url.path_segments_mut().expect("http URLs have paths").pop_if_empty().extend(path);
        self.http.request(method, url)
    }

    /// Instances, by name; those with these labels only.
    pub async fn list(&self, selector: Option<&str>) -> Result<Vec<Instance>> {
        let request = self.request(Method::GET, &["v1", "instances"]);
        let request = request.query(&selector.map(|s| [("labelSelector", s)]));
        let items: Items<Value> = self.answer(request).await?;
        items.items.into_iter().map(|raw| self.read(Instance::from_json(raw))).collect()
    }

    /// One instance; none when there is no such one.
    pub async fn get(&self, name: &str) -> Result<Option<Instance>> {
        let request = self.request(Method::GET, &["v1", "instances", name]);
        match self.answer(request).await {
            Ok(raw) => self.read(Instance::from_json(raw)).map(Some),
            Err(error) if super::outcome::exit_of(&error) == Exit::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// One instance, or an error that says that there is none.
    pub async fn expect(&self, name: &str) -> Result<Instance> {
        let found = self.get(name).await?;
        found.ok_or_else(|| failure(Exit::NotFound, format!("there is no instance {name:?}")))
    }

    /// Applies documents: all of them, or none.
    pub async fn apply(&self, body: String, dry_run: bool) -> Result<Outcome> {
        let request = self.request(Method::POST, &["v1", "instances"]).query(&dry_run.then_some([("dryRun", "true")]));
        let response = self.send(request.header(CONTENT_TYPE, YAML).body(body)).await?;
        self.outcome(response).await
    }

    /// Applies the document of one instance, if the stored one has this revision; none: it has another.
    pub async fn put(&self, name: &str, body: String, revision: i64, dry_run: bool) -> Result<Option<Outcome>> {
        let request = self.request(Method::PUT, &["v1", "instances", name]);
        let request = request.query(&dry_run.then_some([("dryRun", "true")])).header(CONTENT_TYPE, YAML);
        let response = self.send(request.header(IF_MATCH, format!("\"{revision}\"")).body(body)).await?;
        match response.status() {
            StatusCode::PRECONDITION_FAILED => Ok(None),
            _ => self.outcome(response).await.map(Some),
        }
    }

    async fn outcome(&self, response: Response) -> Result<Outcome> {
        if response.status() == StatusCode::UNPROCESSABLE_ENTITY {
            return Ok(Outcome::Refused(self.read(answer::json(response).await)?));
        }
        let applied: AppliedAll = self.read_answer(response).await?;
        Ok(Outcome::Applied(applied.results))
    }

    /// Asks for an instance's deletion.
    pub async fn delete(&self, name: &str) -> Result<()> {
        self.done(self.request(Method::DELETE, &["v1", "instances", name])).await
    }

    /// Asks for an instance whose data is lost to be started again, empty.
    pub async fn recreate(&self, name: &str) -> Result<()> {
        self.done(self.request(Method::POST, &["v1", "instances", name, "recreate"])).await
    }

    /// Asks for another node to be the master; `to`: this one.
    pub async fn failover(&self, name: &str, to: Option<&str>, force: bool) -> Result<()> {
        let body = serde_json::json!({"to": to, "force": force});
        self.done(self.request(Method::POST, &["v1", "instances", name, "failover"]).json(&body)).await
    }

    /// Why nodes of an instance find no place.
    pub async fn placement(&self, name: &str) -> Result<Placement> {
        self.answer(self.request(Method::GET, &["v1", "instances", name, "placement"])).await
    }

    /// Writes a secret.
    pub async fn put_secret(&self, name: &str, text: String) -> Result<()> {
        let request = self.request(Method::PUT, &["v1", "secrets", name]);
        self.done(request.header(CONTENT_TYPE, "text/plain; charset=utf-8").body(text)).await
    }

    /// Deletes a secret.
    pub async fn delete_secret(&self, name: &str) -> Result<()> {
        self.done(self.request(Method::DELETE, &["v1", "secrets", name])).await
    }

    /// What the operator would do now.
    pub async fn plan(&self, name: &str) -> Result<PlanView> {
        self.answer(self.request(Method::GET, &["v1", "instances", name, "plan"])).await
    }

    /// Events of one instance, or of all, oldest first, as they came.
    pub async fn events(&self, name: Option<&str>) -> Result<Vec<Value>> {
        let items: Items<Value> = self.answer(self.request(Method::GET, &events_path(name))).await?;
        Ok(items.items)
    }

    /// The operator itself.
    pub async fn operator(&self) -> Result<OperatorView> {
        self.answer(self.request(Method::GET, &["v1", "operator"])).await
    }

    /// Watches one instance, or all of them, those with these labels only.
    pub fn watch(&self, name: Option<&str>, selector: Option<&str>) -> Watch {
        let mut path = vec!["v1", "instances"];
        path.extend(name);
        let request = self.request(Method::GET, &path).query(&[("watch", "true")]);
        Watch::new(self, request.query(&selector.map(|s| [("labelSelector", s)])))
    }

    /// Watches events of one instance, or of all.
    pub fn watch_events(&self, name: Option<&str>) -> Watch {
        Watch::new(self, self.request(Method::GET, &events_path(name)).query(&[("watch", "true")]))
    }

    pub(super) async fn answer<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T> {
        let response = self.send(request).await?;
        self.read_answer(response).await
    }

    pub(super) async fn done(&self, request: RequestBuilder) -> Result<()> {
        let response = self.send(request).await?;
        if response.status().is_success() { Ok(()) } else { Err(self.refusal(response).await) }
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response> {
        let (http, request) = request.timeout(ANSWER_TIMEOUT).build_split();
        let request = request.context("set up a request")?;
        let is_tried = request.url().query().is_some_and(|query| query.contains("dryRun"));
        let writes = request.method() != Method::GET && !is_tried;
        let response = http.execute(request).await.map_err(|error| self.unreachable(&error))?;
        self.notes.hear(response.headers(), writes && response.status().is_success());
        Ok(response)
    }

    async fn read_answer<T: DeserializeOwned>(&self, response: Response) -> Result<T> {
        if response.status().is_success() {
            self.read(answer::json(response).await)
        } else {
            Err(self.refusal(response).await)
        }
    }

    /// An answer that cannot be read is not an operator's, or not one of our version.
    fn read<T, E: Into<anyhow::Error>>(&self, read: Result<T, E>) -> Result<T> {
        read.map_err(Into::into)
            .with_context(|| format!("{} answers, but not as an operator of version {} does", self.server(), VERSION))
    }

    /// The error that a refused request is.
    pub(super) async fn refusal(&self, response: Response) -> anyhow::Error {
        let status = response.status();
        let path = response.url().path().to_string();
        if let Some(other) = response.headers().get(LOCATION).filter(|_| status.is_redirection()) {
            let told = format!("{} answers {status} to {path} and names {other:?}", self.server());
            return failure(Exit::Failed, format!("{told}: the token is not shown there; --server names operators"));
        }
        let Ok(problem) = answer::json::<Problem>(response).await else {
            return failure(Exit::Failed, format!("{} answers {status} to {path}: no operator does", self.server()));
        };
        let exit = match status {
            StatusCode::NOT_FOUND => Exit::NotFound,
            StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => Exit::Usage,
            _ => Exit::Failed,
        };
        let Problem { title, detail, .. } = problem;
        let told = if detail.is_empty() { title } else { detail };
        let hint = if status == StatusCode::UNAUTHORIZED { token::HINT } else { "" };
        failure(exit, format!("{told}{hint}"))
    }

    /// The error that no answer is.
    pub(super) fn unreachable(&self, error: &reqwest::Error) -> anyhow::Error {
        let server = self.server();
        if error.is_timeout() && !error.is_connect() {
            let waited_s = ANSWER_TIMEOUT.as_secs();
            return failure(Exit::Unreachable, format!("the operator at {server} did not answer within {waited_s} s"));
        }
        let mut causes = vec![error.to_string()];
        let mut cause = std::error::Error::source(error);
        while let Some(next) = cause {
            causes.push(next.to_string());
            cause = next.source();
        }
        let (connected, given_ca) = (!error.is_connect(), self.given_ca);
        unreachable(&Unanswered { server, connected, given_ca, causes: &causes.join(": ") })
    }
}

/// The version of this binary.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

fn events_path(name: Option<&str>) -> Vec<&str> {
    match name {
        Some(name) => vec!["v1", "instances", name, "events"],
        None => vec!["v1", "events"],
    }
}
