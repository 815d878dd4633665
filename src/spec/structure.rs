//! From a tree of values to the types, with every error and in words that need no programmer. Pure.

use std::collections::BTreeMap;

use serde_yaml::Value;

use super::error::{Path, SHOWN_CHARS_MAX, SpecError, Step, nearest};
use super::{API_VERSION, KIND, Metadata, RedisInstance, tree, validate};
use crate::plain::plain;

/// The most structure errors that are looked for in one document.
const STRUCTURE_ERRORS_MAX: usize = 30;

/// Reads a tree into the types. serde stops at its first error; so the wrong part is replaced by one
/// that passes, and the tree is read again, until it reads or the fault cannot be replaced.
pub(super) fn structure(tree: &Value) -> (Option<RedisInstance>, Vec<SpecError>) {
    let mut tree = tree.clone();
    let mut errors = Vec::new();
    while errors.len() < STRUCTURE_ERRORS_MAX {
        match serde_path_to_error::deserialize(&tree) {
            Ok(instance) => return (Some(instance), errors),
            Err(err) => {
                let path = path_of(err.path());
                let (error, repaired) = explain(&mut tree, &path, &err.into_inner().to_string());
                errors.push(error);
                if !repaired {
                    break;
                }
            }
        }
    }
    (None, errors)
}

fn path_of(path: &serde_path_to_error::Path) -> Path {
    use serde_path_to_error::Segment;
    let step = |segment: &Segment| match segment {
        Segment::Seq { index } => Some(Step::Index(*index)),
        Segment::Map { key } => Some(Step::Key(key.clone())),
        Segment::Enum { .. } | Segment::Unknown => None,
    };
    Path(path.iter().filter_map(step).collect())
}

/// Puts serde's words into ours and takes the fault out of the tree; tells whether it could.
fn explain(tree: &mut Value, path: &Path, message: &str) -> (SpecError, bool) {
    if let Some(field) = quoted(message, "missing field ") {
        let path = path.key(field);
        let repaired = repair(tree, &path.0);
        return (SpecError::at(path, "", "is missing"), repaired);
    }
    if message.contains("duplicate field `replicas`") {
        let repaired = remove(tree, &path.key("slaves").0);
        let message = "replicas and slaves mean the same: give one of them";
        return (SpecError::at(path.key("slaves"), "", message), repaired);
    }
    let error = match quoted(message, "unknown field ") {
        Some(field) => SpecError::at(path.clone(), "", unknown_field(path, field, message)),
        None => SpecError::at(path.clone(), "", in_our_words(path, tree::look_up(tree, &path.0), message)),
    };
    let unknown = message.starts_with("unknown field");
    let repaired = if unknown { remove(tree, &path.0) } else { repair(tree, &path.0) };
    (error, repaired)
}

/// ``quoted("missing field `x` ...", "missing field ")`` is `x`.
fn quoted<'a>(message: &'a str, before: &str) -> Option<&'a str> {
    message.strip_prefix(before)?.strip_prefix('`')?.split('`').next()
}

fn unknown_field(path: &Path, field: &str, message: &str) -> String {
    match path.to_string().as_str() {
        "status" => return "is written by the operator: leave it out".to_string(),
        "metadata.revision" | "metadata.createdAt" | "metadata.deleting" => {
            return "is set by the operator: leave it out".to_string();
        }
        _ => {}
    }
    let fields: Vec<&str> = message.split('`').skip(3).step_by(2).filter(|field| *field != "slaves").collect();
    let meant = nearest(field, fields.iter().copied()).map_or(String::new(), |near| format!("did you mean {near}? "));
    format!("unknown field: {meant}allowed here: {}", fields.join(", "))
}

/// What a field takes, where serde's words are the words of a program.
fn allowed(path: &Path) -> Option<String> {
    Some(match path.to_string().as_str() {
        "spec.masters" => "1".to_string(),
        "spec.replicas" | "spec.slaves" => format!("a whole number from 0 to {}", validate::REPLICAS_MAX),
        "spec.auth" => "generated, none or {secretRef: NAME}".to_string(),
        "spec.distribution" => format!("a whole number from 1 to {}", validate::DISTRIBUTION_MAX),
        _ => return None,
    })
}

fn in_our_words(path: &Path, value: Option<&Value>, message: &str) -> String {
    let shown = value.map(|value| match value {
        Value::Null => "nothing".to_string(),
        Value::String(text) => format!("{text:?}"),
        Value::Sequence(_) => "a list".to_string(),
        Value::Mapping(_) => "a map".to_string(),
        other => show(other),
    });
    if let (Some(shown), Some(allowed)) = (&shown, allowed(path)) {
        return format!("{shown} is not {allowed}");
    }
    if let (Some(shown), Some((_, expected))) =
        (&shown, message.strip_prefix("invalid type: ").and_then(|m| m.rsplit_once(", expected ")))
    {
        return match expected {
            "a string" if matches!(value, Some(Value::Number(_) | Value::Bool(_))) => {
                format!("{shown} is not text: write it in quotes, \"{shown}\"")
            }
            "a string" => format!("{shown} is not text"),
            _ if expected.starts_with("struct ") || expected == "a map" => format!("{shown} is not a map of fields"),
            "a sequence" => format!("{shown} is not a list"),
            "a boolean" => format!("{shown} is not true or false"),
            _ => format!("{shown} is not {expected}"),
        };
    }
    if let Some(variant) = quoted(message, "unknown variant ") {
        let variants: Vec<&str> = message.split('`').skip(3).step_by(2).collect();
        return format!("{variant:?} is not one of {}", variants.join(", "));
    }
    message.to_string()
}

/// Puts a value that passes in the place of a wrong or missing one; what is not required goes.
fn repair(tree: &mut Value, steps: &[Step]) -> bool {
    let keys = steps.iter().rposition(|step| matches!(step, Step::Key(_)));
    let Some((Step::Key(key), around)) = keys.and_then(|last| steps[..=last].split_last()) else { return false };
    let value = match key.as_str() {
        "apiVersion" => Value::from(API_VERSION),
        "kind" => Value::from(KIND),
        "name" | "attribute" => Value::from("placeholder"),
        "memory" => Value::from("1Gi"),
        // One that has nothing against the values beside it.
        "operator" if map_at(tree, around).is_some_and(|map| map.contains_key("values")) => Value::from("in"),
        "operator" => Value::from("exists"),
        "metadata" => serde_yaml::to_value(placeholder().metadata).unwrap_or_default(),
        "spec" => serde_yaml::to_value(placeholder().spec).unwrap_or_default(),
        _ => return remove(tree, &steps[..=around.len()]),
    };
    map_at(tree, around).is_some_and(|map| {
        map.insert(Value::from(key.as_str()), value);
        true
    })
}

fn remove(tree: &mut Value, steps: &[Step]) -> bool {
    let Some((Step::Key(key), around)) = steps.split_last() else { return false };
    map_at(tree, around).is_some_and(|map| map.remove(key.as_str()).is_some())
}

fn map_at<'a>(tree: &'a mut Value, steps: &[Step]) -> Option<&'a mut serde_yaml::Mapping> {
    let value = steps.iter().try_fold(tree, |value, step| match step {
        Step::Key(key) => value.get_mut(key.as_str()),
        Step::Index(index) => value.get_mut(index),
    });
    value?.as_mapping_mut()
}

/// An instance that passes, to stand where one could not be read.
fn placeholder() -> RedisInstance {
    let spec = serde_json::from_value(serde_json::json!({"memory": "1Gi"})).expect("memory is all that is required");
    let metadata = Metadata { name: "placeholder".to_string(), labels: BTreeMap::new() };
    RedisInstance { api_version: API_VERSION.to_string(), kind: KIND.to_string(), metadata, spec }
}

/// A value on one line, cut when it is long.
pub(super) fn show(value: &Value) -> String {
    let mut start = Start(Vec::new());
    let text = match value {
        Value::String(text) => return plain(text, SHOWN_CHARS_MAX),
        other => {
            let _ = serde_json::to_writer(&mut start, other); // Stopped early where it is long.
            String::from_utf8_lossy(&start.0)
        }
    };
    plain(&text, SHOWN_CHARS_MAX)
}

/// The first bytes of what is written: as much as is shown.
struct Start(Vec<u8>);

impl std::io::Write for Start {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        const BYTES_MAX: usize = 4 * SHOWN_CHARS_MAX + 4;
        let taken = bytes.len().min(BYTES_MAX - self.0.len());
        self.0.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
