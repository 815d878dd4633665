//! What is wrong with a document, and where. Pure.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::plain::{abridge, escape, plain};

/// The most characters of a key, or of a value, that is shown: longer ones say no more to a person.
pub(super) const SHOWN_CHARS_MAX: usize = 80;
/// The most characters of a message: the longest of ours list the fields that are allowed.
const MESSAGE_CHARS_MAX: usize = 1000;

/// One step of a [`Path`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Into the value of a key.
    Key(String),
    /// Into an item of a list, counted from 0.
    Index(usize),
}

/// Where a value stands in a document: `spec.placement.constraints[0].values`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path(pub Vec<Step>);

impl Path {
    /// The path of these keys: `Path::of(["spec", "memory"])`.
    pub fn of<const N: usize>(keys: [&str; N]) -> Path {
        Path(keys.iter().map(|key| Step::Key((*key).to_string())).collect())
    }

    /// One key further in.
    #[must_use]
    pub fn key(&self, key: &str) -> Path {
        let mut path = self.clone();
        path.0.push(Step::Key(key.to_string()));
        path
    }

    /// One item further in.
    #[must_use]
    pub fn index(&self, index: usize) -> Path {
        let mut path = self.clone();
        path.0.push(Step::Index(index));
        path
    }
}

impl fmt::Display for Path {
    /// No deeper than any field is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const STEPS_MAX: usize = 12;
        for (nth, step) in self.0.iter().take(STEPS_MAX).enumerate() {
            match step {
                Step::Key(key) => {
                    f.write_str(if nth == 0 { "" } else { "." })?;
                    f.write_str(&plain(key, SHOWN_CHARS_MAX))?;
                }
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        f.write_str(if self.0.len() > STEPS_MAX { "..." } else { "" })
    }
}

impl Serialize for Path {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// One thing that is wrong with a document.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct SpecError {
    /// Which of the documents of the text that have content, counted from 0.
    pub document: usize,
    /// The line in that document, counted from 1; 0: not known.
    pub line: usize,
    /// The column, counted from 1; 0: not known.
    pub column: usize,
    /// The field, as `spec.redis.config.port`; empty for the document itself.
    #[schema(value_type = String)]
    pub path: Path,
    /// The value as it stands there; empty where there is none.
    pub value: String,
    /// What is wrong, and what is allowed.
    pub message: String,
    /// The line in the whole text, counted from 1; 0: not known. This is the one that people are told.
    #[serde(skip)]
    pub text_line: usize,
}

impl SpecError {
    /// An error at a path that has no place in a text yet.
    pub fn at(path: Path, value: impl fmt::Display, message: impl Into<String>) -> SpecError {
        let message = abridge(escape(&message.into()).into_owned(), MESSAGE_CHARS_MAX);
        SpecError { path, value: plain(&value.to_string(), SHOWN_CHARS_MAX), message, ..SpecError::default() }
    }
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.text_line > 0 {
            write!(f, "line {}: ", self.text_line)?;
        }
        if !self.path.0.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// All errors of a document in one text, for a status message or a log line.
pub fn join_errors(errors: &[SpecError]) -> String {
    errors.iter().map(SpecError::to_string).collect::<Vec<_>>().join("; ")
}

/// The candidate that `word` was most probably meant to be; none when none is near.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    /// Longer words are not typing errors; this also bounds the work.
    const WORD_CHARS_MAX: usize = 64;
    let word = word.to_lowercase();
    if word.chars().count() > WORD_CHARS_MAX {
        return None;
    }
    candidates
        .into_iter()
        .map(|candidate| (distance(&word, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 6)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// How many letters must be added, removed or changed to make `a` into `b`.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let changed = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_is_recognised_and_another_word_is_not() {
        assert_eq!(nearest("memroy", ["masters", "memory"]), Some("memory"));
        assert_eq!(nearest("maxmemory-polcy", ["maxmemory", "maxmemory-policy"]), Some("maxmemory-policy"));
        assert_eq!(nearest("Memory", ["masters", "memory"]), Some("memory"));
        assert_eq!(nearest("volume", ["masters", "memory"]), None);
    }
}
