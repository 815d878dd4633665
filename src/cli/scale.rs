//! `redisctl scale`: changes the size of an instance in its document, and nothing else of it. I/O.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::apply::report;
use super::args::ScaleArgs;
use super::client::{Client, Outcome};
use super::outcome::{Exit, failure};
use super::view::Instance;
use crate::spec::{API_VERSION, KIND};

/// How often we read and change the document again when somebody else changed it meanwhile.
const RETRIES_MAX: u32 = 3;
/// Until the operator shows what somebody else has just written.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Runs `redisctl scale`.
pub async fn scale(client: &Client, args: &ScaleArgs) -> Result<Exit> {
    let name = &args.name;
    for _ in 0..=RETRIES_MAX {
        let stored = client.expect(name).await?;
        let document = serde_yaml::to_string(&scaled(&stored, args)?).context("write the document")?;
        match client.put(name, document, stored.metadata.revision, args.dry_run).await? {
            Some(Outcome::Applied(applied)) => {
                return report(client, &applied, args.dry_run, args.wait.then_some(args.timeout)).await;
            }
            Some(Outcome::Refused(problem)) => {
                let outcome = format!("nothing was changed, for {name} cannot be scaled so");
                return Err(failure(Exit::Usage, problem.lines(&outcome)));
            }
            None => tokio::time::sleep(RETRY_PAUSE).await,
        }
    }
    let tries = RETRIES_MAX + 1;
    Err(failure(Exit::Failed, format!("{name} was changed by others meanwhile, {tries} times: nothing was done")))
}

/// The declared document with the new sizes. Not typed: what only a newer operator knows stays.
fn scaled(stored: &Instance, args: &ScaleArgs) -> Result<Value> {
    let name = stored.name();
    if let Some(why) = &stored.invalid {
        let advice = "mend it and apply it again";
        return Err(failure(Exit::Failed, format!("the document of {name} is not valid, {advice}: {}", why.trim())));
    }
    let mut spec = stored.spec.clone();
    let Some(fields) = spec.as_object_mut().filter(|_| stored.metadata.revision > 0) else {
        return Err(failure(Exit::Failed, format!("{name} has no document: it is being deleted")));
    };
    let changes = [
        ("memory", args.memory.map(|memory| json!(memory))),
        ("replicas", args.replicas.map(|replicas| json!(replicas))),
        ("cpus", args.cpus.map(|cpus| json!(cpus))),
    ];
    for (field, value) in changes {
        fields.extend(value.map(|value| (field.to_string(), value)));
    }
    let metadata = json!({"name": name, "labels": stored.metadata.labels});
    Ok(json!({"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec}))
}
