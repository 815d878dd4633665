//! HTTP to a master: credentials, redirects followed by hand, and the operator API's look-ups. I/O.

use std::collections::{BTreeMap, VecDeque};
use std::sync::RwLock;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use base64::Engine;
use futures::StreamExt;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, LOCATION};
use reqwest::{Client, Response, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::masters::Masters;
use super::wire::Id;
use super::{SecretFile, Settings};
use crate::bodies::read_at_most;
use crate::offload::elsewhere;
use crate::plain::{NAME_CHARS_MAX, TEXT_CHARS_MAX, plain};

/// The scheduler API.
pub(super) const SCHEDULER_PATH: &str = "/api/v1/scheduler";
/// The operator API.
const OPERATOR_PATH: &str = "/api/v1";
/// Names the subscription that a call belongs to.
pub(super) const STREAM_ID: &str = "mesos-stream-id";

/// Redirects that are followed in one round: a new leader may be unknown to the second master too,
/// but more is a loop.
const REDIRECTS_MAX: usize = 3;
/// What is read of an error's text, in bytes.
const ERROR_TEXT_MAX: usize = 4096;
/// How long an error's text is waited for.
const ERROR_TEXT_WAIT: Duration = Duration::from_secs(2);
/// What is read of an answer of the operator API, in bytes: some 100,000 tasks.
const ANSWER_MAX: usize = 256 << 20;
/// How long the whole answer of the operator API is waited for.
const ANSWER_WAIT: Duration = Duration::from_secs(30);

/// The `host:port` that a master's redirect leads to. Mesos leaves the scheme out: `//host:port/path`.
fn redirect_target(scheme: &str, location: &str) -> Result<String> {
    let absolute = if location.starts_with("//") { format!("{scheme}:{location}") } else { location.to_string() };
    let location = plain(location, NAME_CHARS_MAX);
    let url = Url::parse(&absolute).with_context(|| format!("follow the redirect to {location:?}"))?;
    match (url.host_str(), url.port_or_known_default()) {
        // Never from TLS to plain text.
        (Some(host), Some(port)) if url.scheme() == scheme && host.len() <= NAME_CHARS_MAX => {
            Ok(format!("{host}:{port}"))
        }
        _ => bail!("the redirect to {location:?} does not lead to another master over {scheme}"),
    }
}

/// Why no master took a call.
#[derive(Debug)]
pub(super) struct Failure {
    /// Each master's reason.
    pub(super) reason: String,
    /// Somebody has to mend something: trying soon again is no use.
    pub(super) slow: bool,
}

/// An HTTP client with our credentials.
pub(super) struct Http {
    client: Client,
    scheme: &'static str,
    masters: Masters,
    principal: Option<String>,
    secret_file: Option<SecretFile>,
    authorization: RwLock<Option<HeaderValue>>,
}

impl Http {
    /// A client with a pool of connections of its own. A master that is not listening is noticed
    /// within `settings.timing.connect`; everything else is for the caller to limit.
    pub(super) fn new(settings: &Settings) -> Result<Http> {
        let client = crate::tls::http_with(settings.ca_file.as_deref())?
            .http1_only()
            // An ACCEPT must not be sent twice.
            .retry(reqwest::retry::never())
            .connect_timeout(settings.timing.connect)
            .tcp_keepalive(Duration::from_secs(15))
            .build()
            .context("make an HTTP client")?;
        Ok(Http {
            client,
            scheme: settings.masters.scheme(),
            masters: settings.masters.clone(),
            principal: settings.principal.clone(),
            secret_file: settings.secret_file.clone(),
            authorization: RwLock::default(),
        })
    }

    /// Reads the secret; answers whether it has changed since the last time.
    pub(super) async fn load_credentials(&self) -> Result<bool> {
        let (Some(principal), Some(file)) = (&self.principal, &self.secret_file) else { return Ok(false) };
        let secret = file.read().await?;
        let pair = format!("{principal}:{}", secret.trim_end_matches(['\r', '\n']));
        let encoded = base64::engine::general_purpose::STANDARD.encode(pair);
        let mut header = HeaderValue::from_str(&format!("Basic {encoded}")).context("make the Authorization header")?;
        header.set_sensitive(true);
        let mut known = self.authorization.write().expect("no writer panics");
        let changed = known.as_ref() != Some(&header);
        *known = Some(header);
        Ok(changed)
    }

    /// Posts to one master; the reply is there when its headers are.
    pub(super) async fn post(
        &self,
        master: &str,
        path: &str,
        body: Vec<u8>,
        stream_id: Option<&str>,
    ) -> reqwest::Result<Response> {
        let json = HeaderValue::from_static("application/json");
        let url = format!("{}://{master}{path}", self.scheme);
        let mut request = self.client.post(url).header(CONTENT_TYPE, json.clone()).header(ACCEPT, json).body(body);
        if let Some(header) = self.authorization.read().expect("no writer panics").clone() {
            request = request.header(AUTHORIZATION, header);
        }
        if let Some(stream_id) = stream_id {
            request = request.header(STREAM_ID, stream_id);
        }
        request.send().await
    }

    /// Whether a redirect there is followed. Where we have credentials to lose, only to a master that people or
    /// `ZooKeeper` have named: who takes them takes our tasks as well.
    fn trusts(&self, master: &str) -> bool {
        self.principal.is_none() || self.masters.knows(master)
    }

    /// Asks an agent, without our credentials.
    pub(super) async fn get_of_agent(
        &self,
        agent: &str,
        path: &str,
        query: &[(&str, String)],
    ) -> reqwest::Result<Response> {
        self.client.get(format!("{}://{agent}{path}", self.scheme)).query(query).send().await
    }

    /// One round: posts to the candidates, one after another and wherever they redirect to, until
    /// one answers 2xx. Each has `wait` for it.
    pub(super) async fn post_to_leader(
        &self,
        candidates: Vec<String>,
        path: &str,
        body: &Value,
        wait: Duration,
    ) -> Result<(String, Response), Failure> {
        let body = body.to_string().into_bytes();
        let mut candidates = VecDeque::from(candidates);
        let (mut reasons, mut slow) = (Vec::new(), false);
        let mut redirects = 0;
        while let Some(master) = candidates.pop_front() {
            let reason = match timeout(wait, self.post(&master, path, body.clone(), None)).await {
                Err(_) => format!("no reply within {wait:?}"),
                Ok(Err(error)) => describe(error),
                Ok(Ok(response)) if response.status().is_success() => return Ok((master, response)),
                Ok(Ok(response)) if response.status().is_redirection() => match target_of(self.scheme, &response) {
                    Ok(target) if !self.trusts(&target) => format!(
                        "it redirects to {target}, which is not among the masters of --mesos: the credentials of \
                         {} are not sent there; name it in --mesos if it is a master",
                        self.principal.as_deref().unwrap_or_default()
                    ),
                    Ok(target) if redirects < REDIRECTS_MAX => {
                        redirects += 1;
                        candidates.push_front(target);
                        continue;
                    }
                    Ok(target) => format!("it redirects to {target} after {redirects} other redirects"),
                    Err(error) => format!("{error:#}"),
                },
                Ok(Ok(response)) => self.refusal(response, &mut slow).await,
            };
            reasons.push(format!("{master}: {reason}"));
        }
        Err(Failure { reason: reasons.join("; "), slow })
    }

    /// What a reply says that is neither success nor redirect. Masters without a leader (503) and
    /// masters that are just starting (404) mend themselves.
    async fn refusal(&self, response: Response, slow: &mut bool) -> String {
        let status = response.status().as_u16();
        *slow |= !matches!(status, 404 | 500..=599);
        if status == 401 {
            return match (&self.principal, &self.secret_file) {
                (Some(principal), Some(file)) => {
                    format!("it refuses the secret of principal {principal} in {} (401)", file.path().display())
                }
                _ => "it wants a principal and a secret (401), and none are set".to_string(),
            };
        }
        let text = error_text(response).await;
        // A master would speak of a master::Call.
        if text.contains("agent::Call") {
            return "that is a Mesos agent, not a master".to_string();
        }
        format!("{status} {text}")
    }
}

fn target_of(scheme: &str, response: &Response) -> Result<String> {
    let location = response.headers().get(LOCATION).ok_or_else(|| anyhow!("it redirects, but not to where"))?;
    redirect_target(scheme, location.to_str().context("read where it redirects to")?)
}

/// The error without the URL, which the caller names better.
pub(super) fn describe(error: reqwest::Error) -> String {
    let text = plain(&format!("{:#}", anyhow::Error::from(error.without_url())), TEXT_CHARS_MAX);
    // rustls' words for: no cipher in common.
    if text.contains("HandshakeFailure") { format!("{text}; {CIPHERS}") } else { text }
}

/// Mesos' own ciphers are such that no current TLS library offers them.
const CIPHERS: &str = "the master accepts no cipher that is safe today, as Mesos does by default: start it and the agents \
                       with LIBPROCESS_SSL_CIPHERS=ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES256-GCM-SHA384:\
                       ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384 (or with LIBPROCESS_SSL_ENABLE_TLS_V1_3=true)";

/// The text of an error reply, as far as it is sound: its start, where it is long.
pub(super) async fn error_text(response: Response) -> String {
    let mut bytes = Vec::new();
    let start = async {
        let mut body = response.bytes_stream();
        while let Some(Ok(chunk)) = body.next().await {
            bytes.extend_from_slice(&chunk[..chunk.len().min(ERROR_TEXT_MAX - bytes.len())]);
            if bytes.len() == ERROR_TEXT_MAX {
                break;
            }
        }
    };
    let _ = timeout(ERROR_TEXT_WAIT, start).await; // What came of it is told.
    plain(String::from_utf8_lossy(&bytes).trim(), TEXT_CHARS_MAX)
}

/// A framework that the master knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameworkInfo {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its roles.
    pub roles: Vec<String>,
    /// Whether it is subscribed now.
    pub active: bool,
    /// Ids of its tasks that are not known to have ended.
    pub tasks: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct FrameworksAnswer {
    get_frameworks: GetFrameworks,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct GetFrameworks {
    frameworks: Vec<WireFramework>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct WireFramework {
    framework_info: WireFrameworkInfo,
    active: bool,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct WireFrameworkInfo {
    id: Id,
    name: String,
    role: Option<String>,
    roles: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct TasksAnswer {
    get_tasks: GetTasks,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct GetTasks {
    pending_tasks: Vec<WireTask>,
    tasks: Vec<WireTask>,
    unreachable_tasks: Vec<WireTask>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct WireTask {
    task_id: Id,
    framework_id: Id,
}

/// The frameworks that the master knows, completed ones left out, and their tasks. Needs the right to
/// see them: the master leaves out what it does not show.
pub async fn frameworks(settings: &Settings) -> Result<Vec<FrameworkInfo>> {
    settings.check()?;
    let http = Http::new(settings)?;
    http.load_credentials().await?;
    let frameworks: FrameworksAnswer = ask(&http, settings, "GET_FRAMEWORKS").await?;
    let tasks: TasksAnswer = ask(&http, settings, "GET_TASKS").await?;
    Ok(join(frameworks.get_frameworks, tasks.get_tasks))
}

fn join(frameworks: GetFrameworks, tasks: GetTasks) -> Vec<FrameworkInfo> {
    let mut tasks_of: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for task in [tasks.pending_tasks, tasks.tasks, tasks.unreachable_tasks].into_iter().flatten() {
        tasks_of.entry(task.framework_id.value).or_default().push(task.task_id.value);
    }
    let convert = |entry: WireFramework| {
        let info = entry.framework_info;
        FrameworkInfo {
            tasks: tasks_of.remove(&info.id.value).unwrap_or_default(),
            id: info.id.value,
            name: info.name,
            // Frameworks without MULTI_ROLE have one role, under another name.
            roles: if info.roles.is_empty() { info.role.into_iter().collect() } else { info.roles },
            active: entry.active,
        }
    };
    frameworks.frameworks.into_iter().map(convert).collect()
}

/// Asks the operator API of the leading master.
pub(super) async fn ask<T: DeserializeOwned + Send + 'static>(
    http: &Http,
    settings: &Settings,
    call: &str,
) -> Result<T> {
    let answered = async {
        let candidates = settings.masters.candidates().await.map_err(anyhow::Error::msg)?;
        let (master, response) = http
            .post_to_leader(candidates, OPERATOR_PATH, &json!({"type": call}), settings.timing.subscribe)
            .await
            .map_err(|failure| anyhow!(failure.reason))?;
        let bytes = read_at_most(response, ANSWER_MAX).await.with_context(|| format!("read the answer of {master}"))?;
        let read = elsewhere(move || serde_json::from_slice(&bytes)).await;
        // serde repeats the value that it does not understand, whatever its length.
        let wrong = |error: serde_json::Error| anyhow!(plain(&error.to_string(), TEXT_CHARS_MAX));
        read.map_err(wrong).with_context(|| format!("understand the answer of {master}"))
    };
    timeout(ANSWER_WAIT, answered)
        .await
        .unwrap_or_else(|_| Err(anyhow!("no answer within {ANSWER_WAIT:?}")))
        .with_context(|| format!("ask Mesos for {call}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_leads_to_the_host_and_port_that_it_names() {
        assert_eq!(redirect_target("http", "//10.0.0.2:5050/api/v1/scheduler").unwrap(), "10.0.0.2:5050");
        assert_eq!(redirect_target("http", "http://m.example/x").unwrap(), "m.example:80");
        assert_eq!(redirect_target("https", "//m.example/x").unwrap(), "m.example:443");
        assert_eq!(redirect_target("http", "//[::1]:5050").unwrap(), "[::1]:5050");
        for location in
            ["https://m:5050/", "/elsewhere", "", "//", "file:///etc", &format!("//{}:1", "m".repeat(20_000))]
        {
            let refused = redirect_target("http", location).unwrap_err();
            assert!(format!("{refused:#}").len() < 1000, "{refused:#}");
        }
        assert!(redirect_target("https", "http://m:5050/").is_err());
    }

    #[test]
    fn tasks_are_told_with_their_framework_wherever_the_master_lists_them() {
        let frameworks: FrameworksAnswer = serde_json::from_value(json!({"get_frameworks": {"frameworks": [
            {"framework_info": {"id": {"value": "F1"}, "name": "redisctl", "roles": ["redis"]}, "active": true},
            {"framework_info": {"id": {"value": "F2"}, "name": "old", "role": "*"}}]}}))
        .unwrap();
        let task = |task: &str| json!({"task_id": {"value": task}, "framework_id": {"value": "F1"}});
        let tasks: TasksAnswer = serde_json::from_value(
            json!({"get_tasks": {"tasks": [task("a")], "unreachable_tasks": [task("b")], "completed_tasks": [task("c")]}}),
        )
        .unwrap();
        let joined = join(frameworks.get_frameworks, tasks.get_tasks);
        assert_eq!(joined[0].tasks, ["a", "b"]);
        assert_eq!((joined[0].active, joined[0].roles.as_slice()), (true, ["redis".to_string()].as_slice()));
        assert_eq!((joined[1].active, joined[1].roles.as_slice()), (false, ["*".to_string()].as_slice()));
    }
}
