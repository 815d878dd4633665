//! What a server answers: read within bounds, its texts made harmless before anything is done with them. I/O.
//!
//! This is the one place: whoever answers may be another than we think, or an operator that is older.

use anyhow::{Context as _, Result};
use reqwest::Response;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::sse::Message;
use crate::bodies::read_at_most;
use crate::plain::escape;

/// The most bytes of an answer: 50,000 instances.
const ANSWER_BYTES_MAX: usize = 256 << 20;
/// The most bytes of the answer to a refused request.
const REFUSAL_BYTES_MAX: usize = 1 << 20;

/// The answer to a request, whatever it was.
pub async fn json<T: DeserializeOwned>(response: Response) -> Result<T> {
    let max = if response.status().is_success() { ANSWER_BYTES_MAX } else { REFUSAL_BYTES_MAX };
    let value: Value = serde_json::from_slice(&read_at_most(response, max).await?)?;
    Ok(serde_json::from_value(harmless(value))?)
}

/// A message of a stream.
pub fn message(message: Message) -> Result<Message> {
    // Whatever does harm is outside of ASCII or, as JSON has it, behind a backslash; most has neither.
    if message.data.is_empty() || (message.data.is_ascii() && !message.data.contains(['\\', '\u{7f}'])) {
        return Ok(message);
    }
    let value: Value = serde_json::from_str(&message.data).context("read an event of the operator")?;
    Ok(Message { data: harmless(value).to_string(), ..message })
}

/// The same with all texts, and all names of fields, fit to be shown. Lines stay lines: see [`one_line`].
fn harmless(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(lines(&text)),
        Value::Array(items) => Value::Array(items.into_iter().map(harmless).collect()),
        Value::Object(fields) => {
            Value::Object(fields.into_iter().map(|(key, value)| (escape(&key).into_owned(), harmless(value))).collect())
        }
        other => other,
    }
}

/// The same with each text on one line.
pub fn one_line(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::String(text.lines().collect::<Vec<_>>().join(" ")),
        Value::Array(items) => Value::Array(items.iter().map(one_line).collect()),
        Value::Object(fields) => fields.iter().map(|(key, value)| (key.clone(), one_line(value))).collect(),
        other => other.clone(),
    }
}

/// A text of several lines, each fit to be shown.
pub fn lines(text: &str) -> String {
    text.split('\n').map(escape).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn no_text_and_no_name_of_a_field_stays_as_a_terminal_would_obey_it() {
        let raw = json!({"a\u{1b}[2J": ["x\ny", {"deep": "\u{202e}z"}], "n": 1.5, "ok": "größe", "null": null});
        let shown = r#"{"a\\u{1b}[2J":["x\ny",{"deep":"\\u{202e}z"}],"n":1.5,"ok":"größe","null":null}"#;
        assert_eq!(harmless(raw.clone()).to_string(), shown);
        let of = |data: String| message(Message { event: "set".to_string(), data }).unwrap().data;
        assert_eq!(of(raw.to_string()), shown);
        assert_eq!(
            of(json!({"c1": "\u{9b}31m", "del": "\u{7f}"}).to_string()),
            r#"{"c1":"\\u{9b}31m","del":"\\u{7f}"}"#
        );
        assert_eq!(of(r#"{"a": 1}"#.to_string()), r#"{"a": 1}"#);
        assert_eq!(one_line(&json!({"a": ["x\ny"]})), json!({"a": ["x y"]}));
    }
}
