//! Reads the last words of tasks that died by themselves from their agents, beside all else. I/O.
//!
//! Nothing waits for it: a death is told and acted upon at once, and what is read comes later as
//! [`MesosEvent::LastWords`]. The agents are asked without our credentials: those are for masters.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use super::Settings;
use super::agents::{Agent, agents};
use super::client::{Http, error_text};
use crate::bodies::read_at_most;
use crate::model::{LastWords, MesosEvent, Output, TaskState, TaskUpdate};

/// Deaths that may wait to be looked at; of more at once nobody reads the last words.
const QUEUE_MAX: usize = 256;
/// Agents that are asked at once.
const ASKED_MAX: usize = 8;
/// For all that an agent is asked of one task.
const PATIENCE: Duration = Duration::from_secs(2);
/// What is read of each file, in bytes, from its end.
const READ_MAX: u64 = 16 << 10;
/// The answer that holds as much: a byte may take six in JSON.
const ANSWER_MAX: usize = 128 << 10;
/// Between two lists of the agents.
const LIST_EVERY: Duration = Duration::from_secs(5);
/// Tasks that are remembered: updates are told again until they are acknowledged.
const REMEMBERED_MAX: usize = 1024;

/// Takes deaths.
pub(super) struct Coroner {
    deaths: mpsc::Sender<(String, TaskUpdate)>,
    known: VecDeque<String>,
}

impl Coroner {
    /// Starts it; it ends when it is dropped or nobody listens.
    pub(super) fn start(http: Arc<Http>, settings: Arc<Settings>, events: mpsc::Sender<MesosEvent>) -> Coroner {
        let (deaths, mut queue) = mpsc::channel::<(String, TaskUpdate)>(QUEUE_MAX);
        tokio::spawn(async move {
            let (files, places) =
                (Arc::new(Files { http, settings, known: Mutex::default() }), Arc::new(Semaphore::new(ASKED_MAX)));
            loop {
                let next = tokio::select! { next = queue.recv() => next, () = events.closed() => None };
                let Some((framework_id, update)) = next else { return };
                let Ok(place) = places.clone().acquire_owned().await else { return };
                let (files, events) = (files.clone(), events.clone());
                tokio::spawn(async move {
                    let words = files.last_words(&framework_id, update).await;
                    let _ = events.send(MesosEvent::LastWords(words)).await; // Unheard: over anyway.
                    drop(place);
                });
            }
        });
        Coroner { deaths, known: VecDeque::new() }
    }

    /// Has the last words of a task read, if it died by itself.
    pub(super) fn see(&mut self, framework_id: &str, update: &TaskUpdate) {
        let by_itself = matches!(update.state, TaskState::Failed | TaskState::Finished);
        if !by_itself || update.agent_id.is_none() || self.known.contains(&update.task_id) {
            return;
        }
        self.known.push_back(update.task_id.clone());
        if self.known.len() > REMEMBERED_MAX {
            self.known.pop_front();
        }
        let _ = self.deaths.try_send((framework_id.to_string(), update.clone())); // Too many at once: told without.
    }
}

/// The files of agents.
struct Files {
    http: Arc<Http>,
    settings: Arc<Settings>,
    /// `host:port` by agent, and when they were listed.
    known: Mutex<(BTreeMap<String, String>, Option<Instant>)>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Piece {
    data: String,
    offset: u64,
}

impl Files {
    async fn last_words(&self, framework_id: &str, update: TaskUpdate) -> LastWords {
        let TaskUpdate { task_id, agent_id, reason, message, .. } = update;
        let agent_id = agent_id.unwrap_or_default();
        let read = match timeout(PATIENCE, self.read(framework_id, &agent_id, &task_id)).await {
            Ok(Ok(output)) => Ok(output),
            Ok(Err(error)) => Err(format!("{error:#}")),
            Err(_) => Err(format!("its agent did not answer within {} s", PATIENCE.as_secs())),
        };
        LastWords { task_id, agent_id, reason, message, read }
    }

    async fn read(&self, framework_id: &str, agent_id: &str, task_id: &str) -> Result<Output> {
        let agent = self.address(agent_id).await?;
        // Tasks of ours have executors of their own, by the same name.
        let folder = format!("/frameworks/{framework_id}/executors/{task_id}/runs/latest");
        let (stderr, stdout) = tokio::join!(
            self.end_of(&agent, format!("{folder}/stderr")),
            self.end_of(&agent, format!("{folder}/stdout"))
        );
        Ok(Output { stderr: stderr?, stdout: stdout? })
    }

    async fn end_of(&self, agent: &str, path: String) -> Result<Vec<u8>> {
        let size = self.piece(agent, &path, -1, 0).await?.offset;
        let from = size.saturating_sub(READ_MAX);
        let offset = i64::try_from(from).context("the file's size")?;
        Ok(self.piece(agent, &path, offset, READ_MAX).await?.data.into_bytes())
    }

    /// With the offset -1: the file's size, as the offset.
    async fn piece(&self, agent: &str, path: &str, offset: i64, length: u64) -> Result<Piece> {
        let query = [("path", path.to_string()), ("offset", offset.to_string()), ("length", length.to_string())];
        let response = self.http.get_of_agent(agent, "/files/read", &query).await?;
        let status = response.status().as_u16();
        if status == 401 || status == 403 {
            bail!("the agent at {agent} wants a login ({status}): see the task's sandbox there");
        }
        ensure!(response.status().is_success(), "the agent at {agent}: {status} {}", error_text(response).await);
        let answer = read_at_most(response, ANSWER_MAX).await.with_context(|| format!("the agent at {agent}"))?;
        serde_json::from_slice(&answer).with_context(|| format!("the answer of the agent at {agent}"))
    }

    async fn address(&self, agent_id: &str) -> Result<String> {
        if let Some(address) = self.known(agent_id) {
            return Ok(address);
        }
        let listed: Vec<Agent> = agents(&self.http, &self.settings).await?;
        let address = |agent: Agent| Some((agent.info.id.value, agent.pid.split_once('@')?.1.to_string()));
        *self.known.lock().expect("no holder panics") =
            (listed.into_iter().filter_map(address).collect(), Some(Instant::now()));
        self.known(agent_id).with_context(|| format!("Mesos does not know where agent {agent_id} is"))
    }

    /// From a list that is fresh, or that has it.
    fn known(&self, agent_id: &str) -> Option<String> {
        let known = self.known.lock().expect("no holder panics");
        let (addresses, listed) = &*known;
        listed.filter(|at| at.elapsed() < LIST_EVERY)?;
        addresses.get(agent_id).cloned()
    }
}
