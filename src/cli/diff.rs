//! `redisctl diff`: what applying files would change in what is declared. I/O in [`diff`] only.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::apply::send;
use super::args::DiffArgs;
use super::client::Client;
use super::documents::{self, Document};
use super::outcome::{Exit, exit_of, failure};
use super::text::{BAD, GOOD, PLAIN, STRONG, print, styled};
use super::view::Instance;
use crate::spec::RedisInstance;

/// Unchanged lines that are shown around changed ones.
const CONTEXT_LINES: usize = 3;

/// Runs `redisctl diff`. Like diff(1) it ends with 1 when there are differences, so that every
/// other failure must not: it ends with 2, or with a code of its own above that.
pub async fn diff(client: &Client, args: &DiffArgs) -> Result<Exit> {
    let different = differences(client, args).await.map_err(|error| match exit_of(&error) {
        Exit::Failed => failure(Exit::Usage, format!("{error:#}")),
        _ => error,
    })?;
    Ok(if different { Exit::Failed } else { Exit::Ok })
}

async fn differences(client: &Client, args: &DiffArgs) -> Result<bool> {
    let documents = documents::read(&args.files)?;
    // The operator's check says most precisely what is wrong with them, if anything is.
    send(client, &documents, true).await?;
    let mut different = false;
    for document in &documents.0 {
        let wanted: RedisInstance =
            serde_yaml::from_str(&document.text).with_context(|| format!("{}: read the document", document.file))?;
        let declared = client.get(&wanted.metadata.name).await?;
        let text = compare(declared.as_ref(), &wanted, document)?;
        different |= !text.is_empty();
        print(&text)?;
    }
    Ok(different)
}

/// The difference between what is declared and what a document wants; empty when there is none.
fn compare(declared: Option<&Instance>, wanted: &RedisInstance, document: &Document) -> Result<String> {
    let name = &wanted.metadata.name;
    let wanted_yaml = normal(name, &json!(wanted.metadata.labels), &serde_json::to_value(&wanted.spec)?)?;
    let declared = declared.filter(|instance| !instance.spec.is_null());
    let (declared_yaml, revision) = match declared {
        Some(instance) => {
            let yaml = normal(name, &json!(instance.metadata.labels), &instance.spec)?;
            (yaml, format!("declared, revision {}", instance.metadata.revision))
        }
        None => (String::new(), "not declared".to_string()),
    };
    let hunks = hunks(&declared_yaml, &wanted_yaml);
    if hunks.is_empty() {
        return Ok(String::new());
    }
    let head = format!("--- redisinstance/{name} ({revision})\n+++ redisinstance/{name} ({})\n", document.file);
    Ok(styled(head.trim_end(), STRONG) + "\n" + &hunks)
}

/// Both sides in the same form: every field, in the types' order.
fn normal(name: &str, labels: &Value, spec: &Value) -> Result<String> {
    Ok(serde_yaml::to_string(&json!({"metadata": {"name": name, "labels": labels}, "spec": spec}))?)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Both,
    Old,
    New,
}

/// Changed lines with some of those around them, as `diff -u` prints them.
fn hunks(old: &str, new: &str) -> String {
    let old: Vec<&str> = old.lines().collect();
    let new: Vec<&str> = new.lines().collect();
    let lines = merge(&old, &new);
    let is_shown = |i: usize| {
        let near = i.saturating_sub(CONTEXT_LINES)..(i + CONTEXT_LINES + 1).min(lines.len());
        lines[near].iter().any(|(side, _)| *side != Side::Both)
    };
    let mut text = String::new();
    let (mut old_line, mut new_line, mut inside) = (1, 1, false);
    for (i, (side, line)) in lines.iter().enumerate() {
        if is_shown(i) {
            if !inside {
                text += &format!("@@ -{old_line} +{new_line} @@\n");
            }
            let (mark, style) = match side {
                Side::Both => (' ', PLAIN),
                Side::Old => ('-', BAD),
                Side::New => ('+', GOOD),
            };
            text += &styled(&format!("{mark}{line}"), style);
            text.push('\n');
        }
        inside = is_shown(i);
        old_line += usize::from(*side != Side::New);
        new_line += usize::from(*side != Side::Old);
    }
    text
}

/// Both texts in one, by their longest common subsequence. Quadratic: documents are short.
fn merge<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<(Side, &'a str)> {
    // common[i][j]: the length of the longest common subsequence of old[i..] and new[j..].
    let mut common = vec![vec![0usize; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            common[i][j] =
                if old[i] == new[j] { common[i + 1][j + 1] + 1 } else { common[i + 1][j].max(common[i][j + 1]) };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut lines = Vec::with_capacity(old.len() + new.len());
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            lines.push((Side::Both, old[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == new.len() || (i < old.len() && common[i + 1][j] >= common[i][j + 1]) {
            lines.push((Side::Old, old[i]));
            i += 1;
        } else {
            lines.push((Side::New, new[j]));
            j += 1;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::hunks;

    fn plain(old: &str, new: &str) -> String {
        anstream::adapter::strip_str(&hunks(old, new)).to_string()
    }

    #[test]
    fn equal_texts_have_no_hunks() {
        assert_eq!(plain("a\nb\n", "a\nb\n"), "");
    }

    #[test]
    fn a_changed_line_is_shown_with_those_around_it() {
        let old = "1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11\n12\n13\n";
        let new = "1\n2\n3\n4\n5\n6\nseven\n8\n9\n10\n11\n12\n13\n14\n";
        assert_eq!(plain(old, new), "@@ -4 +4 @@\n 4\n 5\n 6\n-7\n+seven\n 8\n 9\n 10\n 11\n 12\n 13\n+14\n");
        assert_eq!(plain("", "a\n"), "@@ -1 +1 @@\n+a\n");
    }

    proptest::proptest! {
        #[test]
        fn each_side_can_be_read_back_from_the_merge(old: Vec<u8>, new: Vec<u8>) {
            let lines = |bytes: &[u8]| bytes.iter().map(|b| (b % 4).to_string()).collect::<Vec<_>>();
            let (old, new) = (lines(&old), lines(&new));
            let old: Vec<&str> = old.iter().map(String::as_str).collect();
            let new: Vec<&str> = new.iter().map(String::as_str).collect();
            let merged = super::merge(&old, &new);
            let side = |other| merged.iter().filter(|(s, _)| *s != other).map(|(_, l)| *l).collect::<Vec<_>>();
            proptest::prop_assert_eq!(side(super::Side::New), old);
            proptest::prop_assert_eq!(side(super::Side::Old), new);
        }
    }
}
