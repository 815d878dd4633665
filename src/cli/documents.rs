//! Documents of files, directories and the standard input, joined into one body. I/O in [`read`].
//!
//! The operator checks them all at once and names the document that is wrong: [`Documents::locate`]
//! finds the file and the line that it came from.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::outcome::{Exit, failure};
use super::view::DocumentError;
use crate::files;
use crate::spec;

/// The file names, in a directory, that are read.
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

/// One document of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Its file, as named on the command line.
    pub file: String,
    /// The line of the file where `text` starts, from 1.
    pub first_line: usize,
    /// The document.
    pub text: String,
}

/// The documents of a command, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Documents(pub Vec<Document>);

/// Reads files, directories (their files by name; not those below) and `-`, the standard input.
pub fn read(names: &[PathBuf]) -> Result<Documents> {
    let mut documents = Documents::default();
    for name in names {
        if name.as_os_str() == "-" {
            let text = files::read_whole(std::io::stdin());
            documents.add("standard input", &text.map_err(|e| cannot_read(Path::new("-"), &e))?);
            continue;
        }
        for file in files_of(name)? {
            let text = files::read_text(&file).map_err(|e| cannot_read(&file, &e))?;
            documents.add(&file.display().to_string(), &text);
        }
    }
    if documents.0.is_empty() {
        let names: Vec<String> = names.iter().map(|name| name.display().to_string()).collect();
        return Err(failure(Exit::Usage, format!("no document in {}", names.join(", "))));
    }
    Ok(documents)
}

fn cannot_read(path: &Path, error: &impl std::fmt::Display) -> anyhow::Error {
    failure(Exit::Usage, format!("-f {}: {error}", path.display()))
}

/// The file itself, or the files of a directory that we read, sorted.
fn files_of(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(|e| cannot_read(path, &e))? {
        let file = entry.map_err(|e| cannot_read(path, &e))?.path();
        let extension = file.extension().and_then(|e| e.to_str()).unwrap_or_default();
        if EXTENSIONS.contains(&extension) && file.is_file() {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

impl Documents {
    /// Adds the documents of one file, cut as the operator cuts them; those without content are left out.
    fn add(&mut self, file: &str, text: &str) {
        let document = |(first_line, text)| Document { file: file.to_string(), first_line, text };
        self.0.extend(spec::split(text).into_iter().map(document));
    }

    /// All documents in one body.
    pub fn body(&self) -> String {
        self.0.iter().map(|document| document.text.clone() + "\n").collect::<Vec<_>>().join("---\n")
    }

    /// `orders.yaml:7:11: spec.memory: ...`: an error where the user can find it.
    pub fn locate(&self, error: &DocumentError) -> String {
        let DocumentError { document, line, column, path, message } = error;
        let Some(document) = self.0.get(*document) else { return message.clone() };
        let file_line = document.first_line + line.saturating_sub(1);
        let column = if *line > 0 && *column > 0 { format!(":{column}") } else { String::new() };
        let path = if path.is_empty() { String::new() } else { format!("{path}: ") };
        format!("{}:{file_line}{column}: {path}{message}", document.file)
    }
}

#[cfg(test)]
mod tests {
    use super::Documents;
    use crate::cli::view::DocumentError;

    fn split(text: &str) -> Documents {
        let mut documents = Documents::default();
        documents.add("a.yaml", text);
        documents
    }

    #[test]
    fn documents_without_content_are_left_out_and_lines_are_kept() {
        let documents = split("# first\n---\n\na: 1\n--- # second\nb: 2\n---\n# nothing\n---\t\n...\nc: 3\n...\n");
        let found: Vec<(usize, &str)> = documents.0.iter().map(|d| (d.first_line, d.text.trim())).collect();
        assert_eq!(found, [(4, "a: 1"), (5, "# second\nb: 2"), (11, "c: 3")]);
        assert_eq!(documents.body().matches("---\n").count(), 2);
    }

    #[test]
    fn dashes_within_a_line_or_a_word_do_not_separate() {
        let documents = split("a: x\nb: |\n  ---\n  y\n---z\n");
        assert_eq!(documents.0.len(), 1);
    }

    #[test]
    fn an_error_is_found_in_its_file() {
        let mut documents = split("a: 1\n---\nb: 2\nc: 3\n--- {d: 1}");
        documents.add("b.json", "\u{feff}{\"d\": 4}");
        assert_eq!(documents.body(), "a: 1\n---\nb: 2\nc: 3\n---\n    {d: 1}\n---\n{\"d\": 4}\n");
        let at = |document, line, column| {
            let (path, message) = ("spec.c".to_string(), "is wrong".to_string());
            documents.locate(&DocumentError { document, line, column, path, message })
        };
        assert_eq!(at(0, 1, 1), "a.yaml:1:1: spec.c: is wrong");
        assert_eq!(at(1, 2, 4), "a.yaml:4:4: spec.c: is wrong");
        assert_eq!(at(2, 1, 6), "a.yaml:5:6: spec.c: is wrong");
        assert_eq!(at(3, 1, 0), "b.json:1: spec.c: is wrong");
        assert_eq!(at(1, 0, 0), "a.yaml:3: spec.c: is wrong");
        assert_eq!(at(9, 0, 0), "is wrong");
    }
}
