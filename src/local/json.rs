//! Reading and writing Mesos' JSON: ids, times, uuids. I/O (it reads the clock and makes random ids).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// Nanoseconds in a second.
const NANOS_PER_S: f64 = 1e9;

/// `{"value": ID}`.
pub(super) fn id(value: &str) -> Value {
    json!({"value": value})
}

/// The text of an id field: `object.field.value`.
pub(super) fn id_of<'a>(object: &'a Value, field: &str) -> Option<&'a str> {
    object[field]["value"].as_str()
}

/// The items of an array; none when it is absent.
pub(super) fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// A list of strings.
pub(super) fn texts(value: &Value) -> Vec<String> {
    items(value).filter_map(Value::as_str).map(str::to_string).collect()
}

/// A number, also when written as a string, as Mesos takes it.
pub(super) fn number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| match value.as_str()? {
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        text => text.parse().ok(),
    })
}

/// A `DurationInfo`.
pub(super) fn duration(value: &Value) -> Option<Duration> {
    let nanoseconds = &value["nanoseconds"];
    nanoseconds.as_u64().or_else(|| nanoseconds.as_str()?.parse().ok()).map(Duration::from_nanos)
}

/// Protobuf's own `Duration`, of which whole seconds are enough here.
pub(super) fn seconds(value: &Value) -> Option<Duration> {
    number(&value["seconds"]).and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
}

/// Seconds since the epoch, as in a status.
pub(super) fn now_s() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |t| t.as_secs_f64())
}

/// A `TimeInfo` of now.
pub(super) fn time_info(seconds: f64) -> Value {
    #[allow(clippy::cast_possible_truncation)] // Good for two centuries.
    let nanoseconds = (seconds * NANOS_PER_S) as i64;
    json!({"nanoseconds": nanoseconds})
}

/// A random UUID (version 4) as text.
pub(super) fn uuid() -> String {
    let text = format!("{:032x}", v4());
    [&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]].join("-")
}

/// A random UUID (version 4) as a status carries it: 16 bytes in base64.
pub(super) fn uuid_base64() -> String {
    STANDARD.encode(v4().to_be_bytes())
}

/// Whether this is the base64 of 16 bytes.
pub(super) fn is_uuid_base64(text: &str) -> bool {
    STANDARD.decode(text).is_ok_and(|bytes| bytes.len() == 16)
}

fn v4() -> u128 {
    let mut bytes: [u8; 16] = rand::random();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    u128::from_be_bytes(bytes)
}
