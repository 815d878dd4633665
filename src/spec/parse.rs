//! From text to instances: several YAML documents or JSON, with every error that can be found. Pure.

use std::collections::BTreeMap;

use serde_yaml::Value;

use super::error::{Path, SpecError, Step, nearest};
use super::{API_VERSION, KIND, RedisInstance, tree, validate};

/// The most bytes of a text with one or many documents.
pub const TEXT_BYTES_MAX: usize = 1 << 20;
/// The most bytes of one document: it is kept under one key of the store, and etcd takes 1.5 MiB at
/// most in one request.
pub const DOCUMENT_BYTES_MAX: usize = 64 << 10;
/// The most documents of a text.
pub const DOCUMENTS_MAX: usize = 1000;
/// The most errors that are told of a text: nobody reads more.
const ERRORS_MAX: usize = 100;
/// The most structure errors that are looked for in one document.
const STRUCTURE_ERRORS_MAX: usize = 30;

/// One document of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    /// Which of the documents, counted from 1.
    pub document: usize,
    /// The line in the whole text on which it starts, counted from 1.
    pub line: usize,
    /// The document as written, without its separator.
    pub text: String,
    /// What it says.
    pub instance: RedisInstance,
}

impl Parsed {
    /// Adds document, line, column and value to errors that were found later, by
    /// [`super::check_change`] or in the store.
    pub fn locate(&self, errors: Vec<SpecError>) -> Vec<SpecError> {
        let piece = Piece { line: self.line, text: &self.text };
        match tree::read(&self.text) {
            Ok(Some(tree)) => piece.locate(&tree, self.document, errors),
            _ => errors,
        }
    }
}

/// Reads YAML with one document or many, or JSON. Empty documents are skipped. On failure: every
/// error of every document, as far as it can be found.
pub fn parse_documents(text: &str) -> Result<Vec<Parsed>, Vec<SpecError>> {
    let mut parsed: Vec<Parsed> = Vec::new();
    let mut errors = Vec::new();
    if text.len() > TEXT_BYTES_MAX {
        return Err(vec![whole(format!("the text has {} bytes: allowed are {TEXT_BYTES_MAX}", text.len()))]);
    }
    for piece in pieces(text) {
        let document = parsed.len() + 1;
        if document > DOCUMENTS_MAX {
            errors.push(whole(format!("the text has more documents than the {DOCUMENTS_MAX} that are allowed")));
        }
        if errors.len() >= ERRORS_MAX || document > DOCUMENTS_MAX {
            break;
        }
        match piece.parse(document) {
            Ok(None) => {}
            Ok(Some(instance)) => {
                parsed.push(Parsed { document, line: piece.line, text: piece.text.to_string(), instance });
            }
            Err(mut found) => {
                errors.append(&mut found);
                // A place is kept, so that the documents after it are counted right.
                parsed.push(Parsed { document, line: piece.line, text: String::new(), instance: placeholder() });
            }
        }
    }
    errors.append(&mut named_twice(&parsed));
    errors.sort_by_key(|e| (e.line, e.column));
    errors.truncate(ERRORS_MAX);
    if errors.is_empty() { Ok(parsed) } else { Err(errors) }
}

/// Reads exactly one document: the value of an instance's key in the store.
pub fn parse_document(bytes: &[u8]) -> Result<RedisInstance, Vec<SpecError>> {
    let text = std::str::from_utf8(bytes).map_err(|err| vec![whole(format!("not UTF-8: {err}"))])?;
    let mut parsed = parse_documents(text)?;
    match (parsed.pop(), parsed.len()) {
        (None, _) => Err(vec![whole("the document is empty".to_string())]),
        (Some(one), 0) => Ok(one.instance),
        (Some(_), more) => Err(vec![whole(format!("one document is allowed here: there are {}", more + 1))]),
    }
}

fn whole(message: String) -> SpecError {
    SpecError { document: 1, line: 1, column: 1, ..SpecError::at(Path::default(), "", message) }
}

fn named_twice(parsed: &[Parsed]) -> Vec<SpecError> {
    let mut lines: BTreeMap<&str, usize> = BTreeMap::new();
    let mut errors = Vec::new();
    for one in parsed.iter().filter(|one| !one.text.is_empty()) {
        let name = one.instance.metadata.name.as_str();
        if let Some(line) = lines.get(name) {
            let message = format!("{name:?} is declared twice: first by the document that starts on line {line}");
            errors.append(&mut one.locate(vec![SpecError::at(Path::of(["metadata", "name"]), name, message)]));
        }
        lines.entry(name).or_insert(one.line);
    }
    errors
}

// ---------------------------------------------------------------------------------------------
// Splitting

/// The text of one document.
#[derive(Clone, Copy)]
struct Piece<'a> {
    /// The line in the whole text on which it starts, counted from 1.
    line: usize,
    text: &'a str,
}

/// Splits a text at its `---` and `...` lines, or at the ends of JSON values. At the start of a line
/// these marks end a document whatever they stand in, so no parser is needed, and an error in one
/// document does not hide those of the next.
fn pieces(text: &str) -> Vec<Piece<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if let Some(values) = json_values(text) {
        return values;
    }
    let mut found = Vec::new();
    let (mut start, mut start_line, mut offset) = (0, 1, 0);
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let mark = ["---", "..."].into_iter().any(|mark| {
            line.strip_prefix(mark).is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
        });
        if mark {
            found.push((start_line, &text[start..offset]));
            (start, start_line) = (offset + 3, index + 1);
        }
        offset += line.len();
    }
    found.push((start_line, &text[start..]));
    found.into_iter().filter_map(|(line, text)| Piece::trimmed(line, text)).collect()
}

/// The values of a text that is JSON from end to end.
fn json_values(text: &str) -> Option<Vec<Piece<'_>>> {
    if !text.trim_start().starts_with('{') {
        return None;
    }
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<serde::de::IgnoredAny>();
    let (mut found, mut start, mut line) = (Vec::new(), 0, 1);
    while let Some(value) = values.next() {
        value.ok()?;
        let piece = &text[start..values.byte_offset()];
        found.extend(Piece::trimmed(line, piece));
        line += piece.matches('\n').count();
        start = values.byte_offset();
    }
    Some(found)
}

impl<'a> Piece<'a> {
    /// Without blank lines around it and without YAML directives before it; none when nothing but
    /// comments is left.
    fn trimmed(mut line: usize, mut text: &'a str) -> Option<Piece<'a>> {
        while let Some((first, rest)) = text.split_once('\n') {
            if !first.trim().is_empty() && !first.starts_with('%') {
                break;
            }
            (line, text) = (line + 1, rest);
        }
        let text = text.trim_end();
        let says_something = text.lines().map(str::trim).any(|line| !line.is_empty() && !line.starts_with(['#', '%']));
        says_something.then_some(Piece { line, text })
    }

    fn parse(self, document: usize) -> Result<Option<RedisInstance>, Vec<SpecError>> {
        if self.text.len() > DOCUMENT_BYTES_MAX {
            let message = format!("the document has {} bytes: allowed are {DOCUMENT_BYTES_MAX}", self.text.len());
            return Err(vec![SpecError { document, line: self.line, column: 1, ..whole(message) }]);
        }
        let tree = match tree::read(self.text) {
            Ok(None) => return Ok(None),
            Ok(Some(tree)) => tree,
            Err(err) => {
                let line = self.line + err.line.max(1) - 1;
                return Err(vec![SpecError { document, line, column: err.column.max(1), ..err }]);
            }
        };
        let (instance, mut errors) = structure(&tree);
        if let Some(instance) = &instance {
            errors.extend(validate::validate(instance));
        }
        match instance {
            Some(instance) if errors.is_empty() => Ok(Some(instance)),
            _ => Err(self.locate(&tree, document, errors)),
        }
    }

    fn locate(self, tree: &Value, document: usize, errors: Vec<SpecError>) -> Vec<SpecError> {
        let locate = |error: SpecError| {
            let (line, column) = tree::locate(self.text, tree, &error.path);
            let value = tree::look_up(tree, &error.path.0).map_or(error.value, show);
            SpecError { document, line: self.line + line - 1, column, value, ..error }
        };
        errors.into_iter().map(locate).collect()
    }
}

/// A value on one line, cut when it is long.
fn show(value: &Value) -> String {
    /// Longer values say no more to a person.
    const CHARS_MAX: usize = 80;
    let text = match value {
        Value::String(text) => text.clone(),
        other => serde_json::to_string(other).unwrap_or_default(),
    };
    match text.char_indices().nth(CHARS_MAX) {
        Some((cut, _)) => format!("{}...", &text[..cut]),
        None => text,
    }
}

// ---------------------------------------------------------------------------------------------
// Structure

/// Reads a tree into the types. serde stops at its first error; so the wrong part is replaced by one
/// that passes, and the tree is read again, until it reads or the fault cannot be replaced.
fn structure(tree: &Value) -> (Option<RedisInstance>, Vec<SpecError>) {
    let mut tree = tree.clone();
    let mut errors = Vec::new();
    while errors.len() < STRUCTURE_ERRORS_MAX {
        match serde_path_to_error::deserialize(&tree) {
            Ok(instance) => return (Some(instance), errors),
            Err(err) => {
                let path = path_of(err.path());
                let (error, repaired) = explain(&mut tree, path, &err.into_inner().to_string());
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
fn explain(tree: &mut Value, path: Path, message: &str) -> (SpecError, bool) {
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
        Some(field) => SpecError::at(path.clone(), "", unknown_field(&path, field, message)),
        None => SpecError::at(path.clone(), "", in_our_words(&path, tree::look_up(tree, &path.0), message)),
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
    let metadata = super::Metadata { name: "placeholder".to_string(), labels: BTreeMap::new() };
    RedisInstance { api_version: API_VERSION.to_string(), kind: KIND.to_string(), metadata, spec }
}
