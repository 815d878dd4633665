//! One document as a tree of values, with bounds, and the places of its values in the text. Pure.
//!
//! A document is first read into a tree that refuses doubled keys (maps in Rust's types would let
//! the last one win), tags, and more values than any spec has: a few anchors can make a small text
//! expand to gigabytes. Places are not kept in the tree. When an error needs one, the text is read
//! again and the parser is made to fail at the very value: its error tells where that is.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_yaml::Value;

use super::error::{Path, SpecError, Step};

/// The most values of one document, anchors expanded. A spec with 100 lines of redis.conf has 250.
const VALUES_MAX: usize = 10_000;

/// Reads one document. `Ok(None)`: there is nothing in it. The line of an error is that of `text`.
pub(super) fn read(text: &str) -> Result<Option<Value>, SpecError> {
    let state = State { left: Cell::new(VALUES_MAX), refused: RefCell::default() };
    let seed = Branch { state: &state, path: Path::default() };
    let read = if is_json(text) {
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
        Ok(value) => Ok(Some(value)),
        Err((message, line, column)) => {
            let refused = state.refused.take();
            let error = refused.unwrap_or_else(|| SpecError::at(Path::default(), "", format!("not YAML: {message}")));
            Err(SpecError { line, column, ..error })
        }
    }
}

/// Whether the text is JSON as it stands; everything else is read as YAML.
pub(super) fn is_json(text: &str) -> bool {
    text.trim_start().starts_with('{') && serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// Line and column of the value at a path (of the key, where the value is a map or a list), or of
/// the nearest value around it. (1, 1) when the text cannot be read.
pub(super) fn locate(text: &str, tree: &Value, path: &Path) -> (usize, usize) {
    let mut steps = path.0.as_slice();
    while let Some((last, around)) = steps.split_last() {
        let scalar = look_up(tree, steps).is_some_and(|v| !v.is_mapping() && !v.is_sequence());
        let at_key = !scalar && matches!(last, Step::Key(_));
        if let Some(place) = place(text, Probe { steps, at_key }) {
            return place;
        }
        steps = around;
    }
    place(text, Probe { steps: &[], at_key: false }).unwrap_or((1, 1))
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
    left: Cell<usize>,
    refused: RefCell<Option<SpecError>>,
}

struct Branch<'a> {
    state: &'a State,
    path: Path,
}

impl Branch<'_> {
    /// Refuses in our words; the parser adds the place.
    fn refuse<E: Error>(&self, path: Path, value: &str, message: String) -> E {
        *self.state.refused.borrow_mut() = Some(SpecError::at(path, value, message));
        E::custom("refused")
    }

    fn take<E: Error>(&self) -> Result<(), E> {
        let left = self.state.left.get().checked_sub(1).ok_or_else(|| {
            let message = format!("the document has more than {VALUES_MAX} values, anchors expanded");
            self.refuse(Path::default(), "", message)
        })?;
        self.state.left.set(left);
        Ok(())
    }
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
        self.take().map(|()| Value::Bool(v))
    }
    fn visit_i64<E: Error>(self, v: i64) -> Result<Value, E> {
        self.take().map(|()| Value::Number(v.into()))
    }
    fn visit_u64<E: Error>(self, v: u64) -> Result<Value, E> {
        self.take().map(|()| Value::Number(v.into()))
    }
    fn visit_f64<E: Error>(self, v: f64) -> Result<Value, E> {
        self.take().map(|()| Value::Number(v.into()))
    }
    fn visit_str<E: Error>(self, v: &str) -> Result<Value, E> {
        self.take().map(|()| Value::String(v.to_string()))
    }
    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        self.take().map(|()| Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        self.take()?;
        let mut items = Vec::new();
        while let Some(item) =
            access.next_element_seed(Branch { state: self.state, path: self.path.index(items.len()) })?
        {
            items.push(item);
        }
        Ok(Value::Sequence(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        self.take()?;
        let (mut map, mut seen) = (serde_yaml::Mapping::new(), BTreeSet::new());
        while let Some(key) = access.next_key_seed(NewKey { branch: &self, seen: &seen })? {
            let value = access.next_value_seed(Branch { state: self.state, path: self.path.key(&key) })?;
            map.insert(Value::String(key.clone()), value);
            seen.insert(key);
        }
        Ok(Value::Mapping(map))
    }
}

/// A key that has not been seen in its map before.
struct NewKey<'a, 'b> {
    branch: &'a Branch<'b>,
    seen: &'a BTreeSet<String>,
}

impl<'de> DeserializeSeed<'de> for NewKey<'_, '_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<String, D::Error> {
        d.deserialize_str(self)
    }
}

impl Visitor<'_> for NewKey<'_, '_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<String, E> {
        if self.seen.contains(key) {
            let path = self.branch.path.key(key);
            return Err(self.branch.refuse(path, "", "is given twice: keep one of them".to_string()));
        }
        Ok(key.to_string())
    }
}

// ---------------------------------------------------------------------------------------------
// Finding places

/// Tells our own failure from the parser's.
const HERE: &str = "#here#";

/// Reads to the value at a path, and fails there.
#[derive(Clone, Copy)]
struct Probe<'a> {
    steps: &'a [Step],
    at_key: bool,
}

fn place(text: &str, probe: Probe<'_>) -> Option<(usize, usize)> {
    if let Err(err) = probe.deserialize(serde_yaml::Deserializer::from_str(text))
        && err.to_string().contains(HERE)
    {
        return err.location().map(|at| (at.line(), at.column()));
    }
    // JSON that is not YAML: indented by tabs, for example.
    let err = probe.deserialize(&mut serde_json::Deserializer::from_str(text)).err()?;
    err.to_string().contains(HERE).then(|| (err.line(), err.column()))
}

impl<'de> DeserializeSeed<'de> for Probe<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_any(self)
    }
}

impl Probe<'_> {
    fn scalar<E: Error>(self) -> Result<(), E> {
        if self.steps.is_empty() { Err(E::custom(HERE)) } else { Ok(()) }
    }
}

impl<'de> Visitor<'de> for Probe<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HERE)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        self.scalar()
    }
    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        self.scalar()
    }
    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        self.scalar()
    }
    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        self.scalar()
    }
    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        self.scalar()
    }
    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.scalar()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<(), A::Error> {
        let Some((step, rest)) = self.steps.split_first() else { return self.scalar() };
        let mut index = 0;
        loop {
            let more = if *step == Step::Index(index) {
                access.next_element_seed(Probe { steps: rest, at_key: self.at_key })?.is_some()
            } else {
                access.next_element::<IgnoredAny>()?.is_some()
            };
            if !more {
                return Ok(());
            }
            index += 1;
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<(), A::Error> {
        let Some((step, rest)) = self.steps.split_first() else { return self.scalar() };
        let Step::Key(wanted) = step else { return Ok(()) };
        let fail = self.at_key && rest.is_empty();
        while let Some(found) = access.next_key_seed(KeyProbe { wanted, fail })? {
            if found {
                access.next_value_seed(Probe { steps: rest, at_key: self.at_key })?;
            } else {
                access.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

struct KeyProbe<'a> {
    wanted: &'a str,
    fail: bool,
}

impl<'de> DeserializeSeed<'de> for KeyProbe<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<bool, D::Error> {
        d.deserialize_str(self)
    }
}

impl Visitor<'_> for KeyProbe<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<bool, E> {
        let found = key == self.wanted;
        if found && self.fail { Err(E::custom(HERE)) } else { Ok(found) }
    }
}
