//! `redisctl create`: a document from a few words, for those who know `mrr create`. I/O.

use anyhow::Result;
use serde_json::{Value, json};

use super::apply::report;
use super::args::{CreateArgs, DocumentForm};
use super::client::{Client, Outcome};
use super::outcome::{Exit, failure};
use super::text::print;
use crate::spec::{API_VERSION, KIND};

/// Runs `redisctl create`.
pub async fn create(client: &Client, args: &CreateArgs) -> Result<Exit> {
    let name = &args.name;
    let document = document(args);
    match args.output {
        Some(DocumentForm::Yaml) => print(&serde_yaml::to_string(&document)?)?,
        Some(DocumentForm::Json) => print(&(serde_json::to_string_pretty(&document)? + "\n"))?,
        None => {}
    }
    if args.output.is_some() && args.dry_run {
        return Ok(Exit::Ok); // As with kubectl: nobody is asked.
    }
    // Revision 0: there must be none of that name.
    match client.put(name, document.to_string(), 0, args.dry_run).await? {
        Some(Outcome::Applied(applied)) => {
            report(client, &applied, args.dry_run, args.wait.then_some(args.timeout)).await
        }
        Some(Outcome::Refused(problem)) => Err(failure(Exit::Usage, problem.lines("nothing was created"))),
        None => {
            let advice = "`redisctl scale` changes its size, `redisctl apply` the rest";
            Err(failure(Exit::Failed, format!("{name} exists already: {advice}")))
        }
    }
}

fn document(args: &CreateArgs) -> Value {
    let mut spec = json!({"replicas": args.replicas, "memory": args.memory});
    if let Some(distribution) = args.distribution {
        spec["distribution"] = distribution.into();
    }
    json!({"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": args.name}, "spec": spec})
}
