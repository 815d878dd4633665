//! One document as a tree of values, with bounds. Pure.
//!
//! A document is first read into a tree that refuses doubled keys (maps in Rust's types would let
//! the last one win), tags, and more values and bytes than any spec has: a few anchors can make a small
//! text expand to gigabytes. Places are not kept in the tree: [`super::places`] finds those that errors need.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_yaml::Value;

use super::error::{Path, SpecError, Step};

/// The most values of one document, anchors expanded. A spec with 100 lines of redis.conf has 250.
const VALUES_MAX: usize = 10_000;
/// The most bytes of all its values, anchors expanded: twice what a document may have.
const EXPANDED_BYTES_MAX: usize = 2 * super::DOCUMENT_BYTES_MAX;
/// The most lists and maps in brackets: for each word the parser looks at all that are open. A spec with
/// the most constraints has 80. (JSON is read by another parser, which takes 128 in each other.)
const BRACKETS_MAX: usize = 256;

/// The most lists in lists that one line may begin: no spec has any.
const SIGNS_MAX: usize = 16;

/// Reads one document. `Ok(None)`: there is nothing in it. The line of an error is that of `text`.
pub(super) fn read(text: &str) -> Result<Option<Value>, SpecError> {
    let state = State {
        values_left: Cell::new(VALUES_MAX),
        bytes_left: Cell::new(EXPANDED_BYTES_MAX),
        path: RefCell::default(),
        refused: RefCell::default(),
    };
    let seed = Branch { state: &state };
    let is_json = is_json(text);
    if !is_json && text.bytes().filter(|byte| matches!(byte, b'[' | b'{')).nth(BRACKETS_MAX).is_some() {
        let message = format!("the document has more than {BRACKETS_MAX} opening brackets [ and {{");
        return Err(SpecError::at(Path::default(), "", message));
    }
    let deep =
        |line: &str| line.split_whitespace().take_while(|word| matches!(*word, "-" | "?")).nth(SIGNS_MAX).is_some();
    if !is_json && text.lines().any(deep) {
        let message =
            format!("a line of the document begins with more than {SIGNS_MAX} of - and ?: nothing is so deep");
        return Err(SpecError::at(Path::default(), "", message));
    }
    let read = if is_json {
        let mut json = serde_json::Deserializer::from_str(text);
        seed.deserialize(&mut json).map_err(|err| (err.to_string(), err.line(), err.column()))
    } else {
        seed.deserialize(serde_yaml::Deserializer::from_str(text)).map_err(|err| {
            let (line, column) = err.location().map_or((0, 0), |at| (at.line(), at.column()));
            (err.to_string(), line, column)
        })
    };
    match read {
        Ok(Value::Null) => Ok(None),
        Ok(value) if is_json => Ok(Some(value)),
        Ok(value) => merged(value).map(Some),
        Err((message, line, column)) => {
            let refused = state.refused.take();
            let hint =
                if !is_json && is_indented_by_tab(text, line) { "; a tab cannot indent: use spaces" } else { "" };
            let not_yaml = || SpecError::at(Path::default(), "", format!("not YAML: {message}{hint}"));
            Err(SpecError { line, column, ..refused.unwrap_or_else(not_yaml) })
        }
    }
}

/// YAML's merge keys: what stands under `<<` is part of the map around it, and gives way to what the map says.
/// The values are counted already.
fn merged(mut value: Value) -> Result<Value, SpecError> {
    let wrong = |error: serde_yaml::Error| {
        SpecError::at(Path::of(["<<"]), "", format!("{error}: a merge key takes a map, or a list of maps"))
    };
    value.apply_merge().map_err(wrong)?;
    Ok(value)
}

fn is_indented_by_tab(text: &str, line: usize) -> bool {
    let around = text.lines().skip(line.saturating_sub(2)).take(2);
    around.into_iter().any(|line| line.trim_start_matches(' ').starts_with('\t'))
}

/// Whether the text is JSON as it stands; everything else is read as YAML.
pub(super) fn is_json(text: &str) -> bool {
    text.trim_start().starts_with('{') && serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// The value at a path.
pub(super) fn look_up<'a>(tree: &'a Value, steps: &[Step]) -> Option<&'a Value> {
    steps.iter().try_fold(tree, |value, step| match step {
        Step::Key(key) => value.get(key.as_str()),
        Step::Index(index) => value.get(index),
    })
}

// ---------------------------------------------------------------------------------------------
// Reading

struct State {
    values_left: Cell<usize>,
    bytes_left: Cell<usize>,
    /// Where the reading is: one for all, as copies of a path of long keys would be large.
    path: RefCell<Vec<Step>>,
    refused: RefCell<Option<SpecError>>,
}

impl State {
    /// Reads a value that is one step further in.
    fn below<T, E>(&self, step: Step, read: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        self.path.borrow_mut().push(step);
        let read = read();
        self.path.borrow_mut().pop();
        read
    }

    /// Refuses in our words; the parser adds the place.
    fn refuse<E: Error>(&self, path: Path, message: String) -> E {
        *self.refused.borrow_mut() = Some(SpecError::at(path, "", message));
        E::custom("refused")
    }

    /// Counts a value of so many bytes.
    fn take<E: Error>(&self, bytes: usize) -> Result<(), E> {
        let take = |left: &Cell<usize>, count| left.get().checked_sub(count).map(|rest| left.set(rest));
        let too_many = || {
            self.refuse(Path::default(), format!("the document has more than {VALUES_MAX} values, anchors expanded"))
        };
        let too_long = || {
            let message = format!("the values have more than {EXPANDED_BYTES_MAX} bytes, anchors expanded");
            self.refuse(Path::default(), message)
        };
        take(&self.values_left, 1).ok_or_else(too_many)?;
        take(&self.bytes_left, bytes).ok_or_else(too_long)
    }
}

#[derive(Clone, Copy)]
struct Branch<'a> {
    state: &'a State,
}

impl<'de> DeserializeSeed<'de> for Branch<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Branch<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a plain value, a list or a map")
    }

    fn visit_bool<E: Error>(self, v: bool) -> Result<Value, E> {
        self.state.take(0).map(|()| Value::Bool(v))
    }
    fn visit_i64<E: Error>(self, v: i64) -> Result<Value, E> {
        self.state.take(0).map(|()| Value::Number(v.into()))
    }
    fn visit_u64<E: Error>(self, v: u64) -> Result<Value, E> {
        self.state.take(0).map(|()| Value::Number(v.into()))
    }
    fn visit_f64<E: Error>(self, v: f64) -> Result<Value, E> {
        self.state.take(0).map(|()| Value::Number(v.into()))
    }
    fn visit_str<E: Error>(self, v: &str) -> Result<Value, E> {
        self.state.take(v.len()).map(|()| Value::String(v.to_string()))
    }
    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        self.state.take(0).map(|()| Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        self.state.take(0)?;
        let mut items = Vec::new();
        while let Some(item) = self.state.below(Step::Index(items.len()), || access.next_element_seed(self))? {
            items.push(item);
        }
        Ok(Value::Sequence(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        self.state.take(0)?;
        let (mut map, mut seen) = (serde_yaml::Mapping::new(), BTreeSet::new());
        while let Some(key) = access.next_key_seed(NewKey { state: self.state, seen: &seen })? {
            let value = self.state.below(Step::Key(key.clone()), || access.next_value_seed(self))?;
            map.insert(Value::String(key.clone()), value);
            seen.insert(key);
        }
        Ok(Value::Mapping(map))
    }
}

/// A key that has not been seen in its map before.
struct NewKey<'a> {
    state: &'a State,
    seen: &'a BTreeSet<String>,
}

impl<'de> DeserializeSeed<'de> for NewKey<'_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<String, D::Error> {
        d.deserialize_str(self)
    }
}

impl Visitor<'_> for NewKey<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<String, E> {
        if self.seen.contains(key) {
            let path = Path(self.state.path.borrow().clone()).key(key);
            return Err(self.state.refuse(path, "is given twice: keep one of them".to_string()));
        }
        self.state.take(key.len())?;
        Ok(key.to_string())
    }
}
