//! `redisctl apply`: sends documents, says what became of each, waits if asked to. I/O.

use anyhow::Result;

use super::args::ApplyArgs;
use super::client::{Client, Outcome};
use super::documents::{self, Documents};
use super::outcome::{Exit, failure};
use super::text::print;
use super::view::{Applied, Problem};
use super::wait::{Goal, Target, wait};
use crate::spec::Period;

/// Runs `redisctl apply`.
pub async fn apply(client: &Client, args: &ApplyArgs) -> Result<Exit> {
    let documents = documents::read(&args.files)?;
    let applied = send(client, &documents, args.dry_run).await?;
    report(client, &applied, args.dry_run, args.wait.then_some(args.timeout)).await
}

/// Says what became of each document, and waits until all is as declared if there is time for that.
pub async fn report(client: &Client, applied: &[Applied], dry_run: bool, patience: Option<Period>) -> Result<Exit> {
    let note = if dry_run { " (dry run)" } else { "" };
    let lines = applied.iter().map(|a| format!("redisinstance/{} {}{note}\n", a.name, a.result));
    print(&lines.collect::<String>())?;
    if let Some(timeout) = patience {
        let targets = applied.iter().map(|a| Target::accepted(&a.name, a.revision)).collect();
        wait(client, &Goal::Ready, targets, timeout, true).await?;
    }
    Ok(Exit::Ok)
}

/// Sends the documents. When they are refused, the error names the places in the user's files.
pub async fn send(client: &Client, documents: &Documents, dry_run: bool) -> Result<Vec<Applied>> {
    match client.apply(documents.body(), dry_run).await? {
        Outcome::Applied(applied) => Ok(applied),
        Outcome::Refused(problem) => Err(failure(Exit::Usage, refusal(documents, problem))),
    }
}

fn refusal(documents: &Documents, problem: Problem) -> String {
    let Problem { title, detail, errors } = problem;
    if errors.is_empty() {
        return if detail.is_empty() { title } else { detail };
    }
    let lines: Vec<String> = errors.iter().map(|error| format!("  {}", documents.locate(error))).collect();
    let of = if documents.0.len() == 1 { "the document" } else { "the documents" };
    format!("nothing was changed, for {of} cannot be applied:\n{}", lines.join("\n"))
}
