//! Where values stand in a text: the places of many of them, found in one reading. Pure.
//!
//! The parser tells places by its errors only. So each value that is looked for is refused when it is
//! met, its place is taken from the error, and the reading goes on behind it.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::error::{Path, Step};
use super::tree::is_json;

/// Line and column, counted from 1.
pub(super) type Place = (usize, usize);

/// The places of the values at these paths (of the key, where the value is a map or a list), each or of
/// the nearest value around it. (1, 1) when the text cannot be read.
pub(super) fn places(text: &str, paths: &[&Path]) -> Vec<Place> {
    let mut wanted = Wanted::default();
    for path in paths {
        wanted.add(&path.0);
    }
    // JSON may be indented by tabs, and YAML may not. Nothing else of it is different, but for a few
    // escapes; there the other reader finds the values, if not the keys.
    let spaced = is_json(text).then(|| text.replace('\t', " "));
    let read = wanted.deserialize(serde_yaml::Deserializer::from_str(spaced.as_deref().unwrap_or(text)));
    if read.is_err() && spaced.is_some() {
        let _ = wanted.deserialize(&mut serde_json::Deserializer::from_str(text)); // What was found is found.
    }
    paths.iter().map(|path| wanted.place(&path.0).unwrap_or((1, 1))).collect()
}

/// A value that is looked for, or is on the way to one; and where it is.
#[derive(Default)]
struct Wanted {
    /// Where its key is; of the document and of a list's item: where it begins.
    start: Cell<Option<Place>>,
    /// Where the value itself is, if it is no map and no list.
    scalar: Cell<Option<Place>>,
    keys: BTreeMap<String, Wanted>,
    items: BTreeMap<usize, Wanted>,
}

impl Wanted {
    fn add(&mut self, path: &[Step]) {
        let mut wanted = self;
        for step in path {
            wanted = match step {
                Step::Key(key) => wanted.keys.entry(key.clone()).or_default(),
                Step::Index(index) => wanted.items.entry(*index).or_default(),
            };
        }
    }

    /// The place of the value at a path, or of the nearest around it.
    fn place(&self, path: &[Step]) -> Option<Place> {
        let further = path.split_first().and_then(|(step, rest)| match step {
            Step::Key(key) => self.keys.get(key)?.place(rest),
            Step::Index(index) => self.items.get(index)?.place(rest),
        });
        further.or(self.scalar.get()).or(self.start.get())
    }

    fn begins_at(&self, place: Option<Place>) {
        if self.start.get().is_none() {
            self.start.set(place);
        }
    }
}

/// Tells our own failure from the parser's.
const HERE: &str = "#here#";

/// The place in one of our own errors: `... #here# at line 3 column 5`.
fn place_of(error: &impl fmt::Display) -> Option<Place> {
    let text = error.to_string();
    let (_, place) = text.rsplit_once(HERE)?;
    let (line, column) = place.strip_prefix(" at line ")?.split_once(" column ")?;
    Some((line.parse().ok()?, column.parse().ok()?))
}

fn is_ours(error: &impl fmt::Display) -> bool {
    error.to_string().contains(HERE)
}

impl<'de> DeserializeSeed<'de> for &Wanted {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        match d.deserialize_any(self) {
            Err(error) if is_ours(&error) => {
                self.scalar.set(place_of(&error));
                Ok(())
            }
            other => other,
        }
    }
}

impl<'de> Visitor<'de> for &Wanted {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a plain value, a list or a map")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Err(E::custom(HERE))
    }
    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Err(E::custom(HERE))
    }
    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        Err(E::custom(HERE))
    }
    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Err(E::custom(HERE))
    }
    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        Err(E::custom(HERE))
    }
    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Err(E::custom(HERE))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<(), A::Error> {
        for index in 0.. {
            let more = match self.items.get(&index) {
                Some(item) => access.next_element_seed(item)?.is_some(),
                None => access.next_element::<IgnoredAny>()?.is_some(),
            };
            if !more {
                break;
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<(), A::Error> {
        while let Some(value) = access.next_key_seed(AnyKey(self))? {
            match value {
                Some(value) => access.next_value_seed(value)?,
                None => drop(access.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

/// A key of a map; answers the value that is looked for under it.
struct AnyKey<'a>(&'a Wanted);

impl<'de, 'a> DeserializeSeed<'de> for AnyKey<'a> {
    type Value = Option<&'a Wanted>;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Option<&'a Wanted>, D::Error> {
        let found = Cell::new(None);
        match d.deserialize_str(Key { around: self.0, found: &found }) {
            Ok(()) => {}
            Err(error) if is_ours(&error) => {
                let place = place_of(&error);
                self.0.begins_at(place);
                found.get().inspect(|value: &&Wanted| value.begins_at(place));
            }
            Err(error) => return Err(error),
        }
        Ok(found.get())
    }
}

struct Key<'a, 'b> {
    around: &'a Wanted,
    found: &'b Cell<Option<&'a Wanted>>,
}

impl Visitor<'_> for Key<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<(), E> {
        self.found.set(self.around.keys.get(key));
        let is_first = self.around.start.get().is_none();
        if is_first || self.found.get().is_some() { Err(E::custom(HERE)) } else { Ok(()) }
    }
}
