//! The source's own rules: every file says its job and whether it is pure, and keeps its word. I/O.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A file that is longer has more than one job. Tests at its end are not counted.
const LINES_MAX: usize = 400;

/// What a pure file does not know: it would not be repeatable, or could block.
const IMPURE: &[&str] = &[
    "async ",
    ".await",
    "tokio::",
    "reqwest::",
    "axum::",
    "std::fs",
    "std::net",
    "std::process",
    "std::env",
    "std::thread",
    "Instant::now",
    "SystemTime",
    "Timestamp::now",
    "rand::",
    "HashMap",
    "HashSet",
    "Mutex<",
    "println!",
];

/// What is left for later is left undone. (Cut in two, as this file is read too.)
const LEFT_FOR_LATER: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("todo", "!("),
    concat!("unimple", "mented!("),
];

struct Source {
    path: String,
    text: String,
}

impl Source {
    /// The file without the unit tests at its end.
    fn code(&self) -> &str {
        self.text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or(&self.text)
    }

    /// The first paragraph of the file's own documentation.
    fn job(&self) -> String {
        let lines = self.text.lines().map_while(|line| line.strip_prefix("//! "));
        lines.collect::<Vec<_>>().join(" ")
    }

    fn is_pure(&self) -> bool {
        self.job().contains("Pure.")
    }

    fn is_product(&self) -> bool {
        self.path.starts_with("src/")
    }

    /// The lines of code, without comments, that contain one of the words.
    fn lines_with<'a>(&'a self, words: &'a [&str]) -> impl Iterator<Item = String> + 'a {
        let code = self.code().lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"));
        code.filter(|(_, line)| words.iter().any(|word| line.contains(word)))
            .map(|(i, line)| format!("{}:{}: {}", self.path, i + 1, line.trim()))
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = Vec::new();
    let mut folders: Vec<PathBuf> = ["src", "tests", "benches", "examples"].map(|folder| root.join(folder)).to_vec();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = path.strip_prefix(root).expect("it is below the root").to_string_lossy().into_owned();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") && !name.starts_with("tests/mesos-rig/") {
                sources.push(Source { text: fs::read_to_string(&path).expect("sources can be read"), path: name });
            }
        }
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(sources.len() > 10, "the sources are found");
    sources
}

fn assert_none(violations: &[String], rule: &str) {
    assert!(violations.is_empty(), "{rule}:\n{}", violations.join("\n"));
}

#[test]
fn every_file_begins_with_its_job_and_whether_it_is_pure() {
    let says = |source: &Source| source.job().contains("Pure.") != source.job().contains("I/O");
    // lib.rs is the page of the whole crate.
    let files = sources().into_iter().filter(|source| source.path != "src/lib.rs");
    let violations: Vec<String> = files.filter(|s| !says(s)).map(|s| format!("{}: {:?}", s.path, s.job())).collect();
    assert_none(&violations, "a file begins with a `//!` paragraph that says its job, and either `Pure.` or `I/O.`");
}

#[test]
fn pure_files_know_no_clock_no_randomness_and_no_input_or_output() {
    let sources = sources();
    let pure = sources.iter().filter(|source| source.is_product() && source.is_pure());
    let violations: Vec<String> = pure.flat_map(|source| source.lines_with(IMPURE)).collect();
    assert_none(&violations, "a pure file does without these");
}

#[test]
fn files_have_at_most_400_lines_without_tests() {
    let long = |source: &Source| {
        let lines = source.code().lines().count();
        (lines > LINES_MAX).then(|| format!("{}: {lines}", source.path))
    };
    let violations: Vec<String> = sources().iter().filter(|s| s.is_product()).filter_map(long).collect();
    assert_none(&violations, "a file has at most 400 lines without tests");
}

#[test]
fn nothing_is_left_for_later_and_no_test_is_skipped() {
    let sources = sources();
    let later = |s: &Source| s.text.lines().any(|l| LEFT_FOR_LATER.iter().any(|w| l.contains(w)));
    let skipped = |s: &Source| s.text.contains(concat!("#[ign", "ore"));
    let violations: Vec<String> = sources.iter().filter(|s| later(s) || skipped(s)).map(|s| s.path.clone()).collect();
    assert_none(&violations, "nothing is left for later");
}

#[test]
fn the_product_never_unwraps() {
    let sources = sources();
    let product = sources.iter().filter(|source| source.is_product());
    let violations: Vec<String> = product.flat_map(|source| source.lines_with(&[".unwrap()"])).collect();
    assert_none(&violations, "`expect` says what holds, `unwrap` does not");
}

#[test]
fn what_the_page_of_faults_names_is_there() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/faults.md")).expect("it is there");
    let all: String = sources().into_iter().map(|source| source.text).collect();
    let words: BTreeSet<&str> = all.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    let functions: BTreeSet<&str> = all
        .split("fn ")
        .skip(1)
        .filter_map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next())
        .collect();
    let is_there = |name: &str| match name {
        name if name.chars().any(|c| !c.is_ascii_alphanumeric() && c != '_') => true, // No name.
        name if name.contains('_') => functions.contains(name),
        name => words.contains(name),
    };
    let named: BTreeSet<&str> = page.split('`').skip(1).step_by(2).collect();
    assert!(named.len() > 100, "{} names only", named.len());
    let violations: Vec<String> = named.into_iter().filter(|name| !is_there(name)).map(str::to_string).collect();
    assert_none(&violations, "a test that docs/faults.md names is a function of the sources");
}
