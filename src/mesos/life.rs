//! Whether a framework is over, and which of its tasks may live: what Mesos' state proves. I/O.

use std::collections::BTreeSet;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::Settings;
use super::agents::{Agent, agents};
use super::client::{Http, ask};
use super::wire::Id;

/// What Mesos says of a framework.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// It is registered; its tasks run.
    Registered,
    /// It was removed, and its tasks were killed. Its id is never accepted again.
    Removed,
    /// Mesos does not know it, or does not show it to us.
    #[default]
    Unknown,
}

/// A framework and its tasks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Life {
    /// What it is.
    pub standing: Standing,
    /// Tasks that run, as far as Mesos knows.
    pub running: Vec<String>,
    /// Tasks on agents that Mesos does not see: they may run.
    pub unreachable: Vec<String>,
    /// The agents that Mesos sees.
    pub agents: BTreeSet<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct FrameworksAnswer {
    get_frameworks: Frameworks,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Frameworks {
    frameworks: Vec<Framework>,
    completed_frameworks: Vec<Framework>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Framework {
    framework_info: FrameworkInfo,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct FrameworkInfo {
    id: Id,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct TasksAnswer {
    get_tasks: Tasks,
}

#[derive(Deserialize, Default)]
#[serde(default)]
#[allow(clippy::struct_field_names)] // As Mesos calls them.
struct Tasks {
    pending_tasks: Vec<Task>,
    tasks: Vec<Task>,
    unreachable_tasks: Vec<Task>,
    orphan_tasks: Vec<Task>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Task {
    task_id: Id,
    framework_id: Id,
}

/// Asks the leading master what it knows of the framework.
pub async fn life(settings: &Settings, framework_id: &str) -> Result<Life> {
    settings.check()?;
    let http = Http::new(settings)?;
    http.load_credentials().await?;
    let frameworks: FrameworksAnswer = ask(&http, settings, "GET_FRAMEWORKS").await?;
    let tasks: TasksAnswer = ask(&http, settings, "GET_TASKS").await?;
    let agents: Vec<Agent> = agents(&http, settings).await?;
    let agents = agents.into_iter().map(|agent| agent.info.id.value).collect();
    Ok(Life { agents, ..told(&frameworks.get_frameworks, &tasks.get_tasks, framework_id) })
}

fn told(frameworks: &Frameworks, tasks: &Tasks, framework_id: &str) -> Life {
    let has = |list: &[Framework]| list.iter().any(|framework| framework.framework_info.id.value == framework_id);
    let standing = match () {
        () if has(&frameworks.frameworks) => Standing::Registered,
        () if has(&frameworks.completed_frameworks) => Standing::Removed,
        () => Standing::Unknown,
    };
    let its = |lists: &[&Vec<Task>]| {
        let tasks = lists.iter().flat_map(|list| list.iter());
        tasks.filter(|task| task.framework_id.value == framework_id).map(|task| task.task_id.value.clone()).collect()
    };
    Life {
        standing,
        running: its(&[&tasks.pending_tasks, &tasks.tasks, &tasks.orphan_tasks]),
        unreachable: its(&[&tasks.unreachable_tasks]),
        ..Life::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_framework_that_is_registered_is_not_removed_whatever_else_is_listed() {
        let known = |id: &str| Framework { framework_info: FrameworkInfo { id: Id { value: id.into() } } };
        let task =
            |id: &str, of: &str| Task { task_id: Id { value: id.into() }, framework_id: Id { value: of.into() } };
        let frameworks =
            Frameworks { frameworks: vec![known("A")], completed_frameworks: vec![known("A"), known("B")] };
        let tasks = Tasks {
            tasks: vec![task("a", "A"), task("c", "C")],
            orphan_tasks: vec![task("b", "B")],
            unreachable_tasks: vec![task("b2", "B"), task("a2", "A")],
            ..Tasks::default()
        };
        let of = |id| told(&frameworks, &tasks, id);
        assert_eq!(of("A").standing, Standing::Registered);
        assert_eq!((of("B").standing, of("B").running, of("B").unreachable), {
            (Standing::Removed, vec!["b".to_string()], vec!["b2".to_string()])
        });
        assert_eq!((of("C").standing, of("C").running), (Standing::Unknown, vec!["c".to_string()]));
        assert_eq!(of("D"), Life::default());
    }
}
