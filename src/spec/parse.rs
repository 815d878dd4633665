//! From text to instances: several YAML documents or JSON, with every error that can be found. Pure.

use std::collections::BTreeMap;

use serde_yaml::Value;

use super::error::{Path, SpecError};
use super::places::places;
use super::structure::{show, structure};
use super::{RedisInstance, tree, validate};

/// The most bytes of a text with one or many documents.
pub const TEXT_BYTES_MAX: usize = 1 << 20;
/// The most bytes of one document: it is kept under one key of the store, and etcd takes 1.5 MiB at
/// most in one request.
pub const DOCUMENT_BYTES_MAX: usize = 64 << 10;
/// The most documents of a text.
pub const DOCUMENTS_MAX: usize = 1000;
/// The most errors that are told of a text, and looked for: nobody reads more.
pub(super) const ERRORS_MAX: usize = 100;
/// What some editors put at the start of a file, and `cat` in the middle of a text.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// One document of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    /// Which of the documents that have content, counted from 0.
    pub document: usize,
    /// The line of the whole text on which `text` starts, counted from 1.
    pub line: usize,
    /// The document as written, without its separator and blank lines around it.
    pub text: String,
    /// The line of the whole text on which the document starts: the one after its separator.
    first_line: usize,
    /// How many characters stand before it on that line.
    indent: usize,
    /// What it says.
    pub instance: RedisInstance,
}

impl Parsed {
    /// Adds document, line, column and value to errors that were found later, by
    /// [`super::check_change`] or in the store.
    pub fn locate(&self, errors: Vec<SpecError>) -> Vec<SpecError> {
        let Parsed { document, line, ref text, first_line, indent, .. } = *self;
        let piece = Piece { document, first_line, line, indent, text };
        match tree::read(&self.text) {
            Ok(Some(tree)) => piece.locate(&tree, errors),
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
    let pieces = pieces(text);
    if pieces.len() > DOCUMENTS_MAX {
        let count = pieces.len();
        return Err(vec![whole(format!("the text has {count} documents: allowed are {DOCUMENTS_MAX}"))]);
    }
    for piece in pieces {
        match piece.parse() {
            Ok(instance) => parsed.extend(instance.map(|instance| piece.parsed(instance))),
            Err(mut found) => errors.append(&mut found),
        }
        if errors.len() >= ERRORS_MAX {
            break;
        }
    }
    errors.append(&mut named_twice(&parsed));
    errors.sort_by_key(|e| (e.text_line, e.column));
    errors.truncate(ERRORS_MAX);
    if errors.is_empty() { Ok(parsed) } else { Err(errors) }
}

/// Reads exactly one document: the value of an instance's key in the store.
pub fn parse_document(bytes: &[u8]) -> Result<RedisInstance, Vec<SpecError>> {
    if bytes.len() > DOCUMENT_BYTES_MAX {
        let message = format!("the document has {} bytes: allowed are {DOCUMENT_BYTES_MAX}", bytes.len());
        return Err(vec![whole(message)]);
    }
    let text = std::str::from_utf8(bytes).map_err(|err| vec![whole(format!("not UTF-8: {err}"))])?;
    let empty = || vec![whole("the document is empty".to_string())];
    match pieces(text).as_slice() {
        [] => Err(empty()),
        [one] => one.parse()?.ok_or_else(empty),
        more => Err(vec![whole(format!("one document is allowed here: there are {}", more.len()))]),
    }
}

/// The documents of a text that say something, each with its first line and as it will be read.
/// (The column from which on it is read is kept by blanks.)
pub fn split(text: &str) -> Vec<(usize, String)> {
    let padded = |piece: Piece<'_>| (piece.line, " ".repeat(piece.indent) + piece.text);
    pieces(text).into_iter().map(padded).collect()
}

fn whole(message: String) -> SpecError {
    SpecError { line: 1, text_line: 1, column: 1, ..SpecError::at(Path::default(), "", message) }
}

fn named_twice(parsed: &[Parsed]) -> Vec<SpecError> {
    let mut lines: BTreeMap<&str, usize> = BTreeMap::new();
    let mut errors = Vec::new();
    for one in parsed {
        let name = one.instance.metadata.name.as_str();
        if errors.len() >= ERRORS_MAX {
            break;
        }
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
    /// Which of the documents that have content, counted from 0.
    document: usize,
    /// The line of the whole text on which the document starts, counted from 1.
    first_line: usize,
    /// The line of the whole text on which `text` starts.
    line: usize,
    /// How many characters stand before it on that line.
    indent: usize,
    text: &'a str,
}

/// Splits a text at its `---` and `...` lines, or at the ends of JSON values. At the start of a line
/// these marks end a document whatever they stand in, so no parser is needed, and an error in one
/// document does not hide those of the next.
fn pieces(text: &str) -> Vec<Piece<'_>> {
    let text = text.trim_start_matches(BYTE_ORDER_MARK);
    let cuts = json_values(text).unwrap_or_else(|| yaml_documents(text));
    let mut pieces: Vec<Piece<'_>> = cuts.into_iter().filter_map(Piece::trimmed).collect();
    for (document, piece) in pieces.iter_mut().enumerate() {
        piece.document = document;
    }
    pieces
}

/// A part of the whole text, not trimmed: its first line, the characters before it on that line, and itself.
type Cut<'a> = (usize, usize, &'a str);

/// The documents of YAML.
fn yaml_documents(text: &str) -> Vec<Cut<'_>> {
    let mut found = Vec::new();
    let (mut start, mut first_line, mut indent, mut offset) = (0, 1, 0, 0);
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let marked = line.trim_start_matches(BYTE_ORDER_MARK);
        let rest = ["---", "..."].into_iter().find_map(|mark| marked.strip_prefix(mark));
        if let Some(rest) = rest.filter(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace)) {
            found.push((first_line, indent, &text[start..offset]));
            // What stands behind the mark on its line belongs to the document.
            let says_more = !rest.trim().is_empty();
            let skipped = line.len() - if says_more { rest.len() } else { 0 };
            (start, first_line) = (offset + skipped, index + 1 + usize::from(!says_more));
            indent = if says_more { line[..skipped].chars().count() } else { 0 };
        }
        offset += line.len();
    }
    found.push((first_line, indent, &text[start..]));
    found
}

fn text_lines(text: &str) -> usize {
    text.matches('\n').count()
}

/// The values of a text that is JSON from end to end.
fn json_values(text: &str) -> Option<Vec<Cut<'_>>> {
    if !text.trim_start().starts_with('{') {
        return None;
    }
    let (mut found, mut rest, mut line) = (Vec::new(), text, 1);
    while !rest.trim_start().is_empty() {
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<serde::de::IgnoredAny>();
        values.next()?.ok()?;
        let (piece, after) = rest.split_at(values.byte_offset());
        found.push((line, 0, piece));
        rest = after.trim_start_matches(|c: char| c == BYTE_ORDER_MARK || c.is_ascii_whitespace());
        line += text_lines(piece) + text_lines(&after[..after.len() - rest.len()]);
    }
    Some(found)
}

impl<'a> Piece<'a> {
    /// Without blank lines around it, and without YAML directives and what stands before them; none when
    /// nothing but comments is left.
    fn trimmed((first_line, indent, text): Cut<'a>) -> Option<Piece<'a>> {
        let (mut start, mut skipped, mut offset) = (0, 0, 0);
        for (index, line) in text.split_inclusive('\n').enumerate() {
            offset += line.len();
            let line = line.trim_start_matches(BYTE_ORDER_MARK);
            if line.starts_with('%') || (line.trim().is_empty() && skipped == index) {
                (start, skipped) = (offset, index + 1);
            } else if !line.trim().is_empty() && !line.trim_start().starts_with('#') {
                break;
            }
        }
        let text = text[start..].trim_start_matches(BYTE_ORDER_MARK).trim_end();
        let says_something = text.lines().map(str::trim).any(|line| !line.is_empty() && !line.starts_with('#'));
        let indent = if skipped == 0 { indent } else { 0 };
        says_something.then_some(Piece { document: 0, first_line, line: first_line + skipped, indent, text })
    }

    fn parsed(self, instance: RedisInstance) -> Parsed {
        let Piece { document, first_line, line, indent, text } = self;
        Parsed { document, line, text: text.to_string(), first_line, indent, instance }
    }

    /// None: the document says nothing (`null`).
    fn parse(self) -> Result<Option<RedisInstance>, Vec<SpecError>> {
        if self.text.len() > DOCUMENT_BYTES_MAX {
            let message = format!("the document has {} bytes: allowed are {DOCUMENT_BYTES_MAX}", self.text.len());
            return Err(vec![self.place(SpecError::at(Path::default(), "", message), 1, 1)]);
        }
        let tree = match tree::read(self.text) {
            Ok(None) => return Ok(None),
            Ok(Some(tree)) => tree,
            Err(error) => {
                let (line, column) = (error.line.max(1), error.column.max(1));
                return Err(vec![self.place(error, line, column)]);
            }
        };
        let (instance, mut errors) = structure(&tree);
        if let Some(instance) = &instance {
            errors.extend(validate::validate(instance));
        }
        errors.truncate(ERRORS_MAX);
        match instance {
            Some(instance) if errors.is_empty() => Ok(Some(instance)),
            _ => Err(self.locate(&tree, errors)),
        }
    }

    fn locate(self, tree: &Value, errors: Vec<SpecError>) -> Vec<SpecError> {
        let paths: Vec<&Path> = errors.iter().map(|error| &error.path).collect();
        let places = places(self.text, &paths);
        let locate = |(error, (line, column)): (SpecError, (usize, usize))| {
            let value = tree::look_up(tree, &error.path.0).map_or_else(|| error.value.clone(), show);
            self.place(SpecError { value, ..error }, line, column)
        };
        errors.into_iter().zip(places).map(locate).collect()
    }

    /// Adds a place in our text to an error.
    fn place(self, error: SpecError, line: usize, column: usize) -> SpecError {
        let text_line = self.line + line - 1;
        let column = column + if line == 1 { self.indent } else { 0 };
        SpecError { document: self.document, line: text_line - self.first_line + 1, column, text_line, ..error }
    }
}
