//! Label selectors: `team=shop,tier!=cache,canary,!old`. Pure.

use std::collections::BTreeMap;

use crate::plain::plain;

/// The most terms of a selector: each is looked at for each instance.
const TERMS_MAX: usize = 32;
/// How much is shown of a term that is wrong.
const TERM_CHARS_SHOWN: usize = 150;

/// All terms must hold. No terms: everything is selected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector(Vec<Term>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Term {
    Is(String, String),
    IsNot(String, String),
    Has(String),
    HasNot(String),
}

impl std::str::FromStr for Selector {
    type Err = String;

    fn from_str(text: &str) -> Result<Selector, String> {
        if text.trim().is_empty() {
            return Ok(Selector::default());
        }
        let count = text.split(',').count();
        if count > TERMS_MAX {
            return Err(format!("the selector has {count} terms: allowed are {TERMS_MAX}"));
        }
        text.split(',').map(|term| parse(term.trim())).collect::<Result<_, _>>().map(Selector)
    }
}

fn parse(term: &str) -> Result<Term, String> {
    let form = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/'));
    let wrong = || {
        format!(
            "{:?} is not a label selector: allowed are key=value, key!=value, key and !key, with commas between",
            plain(term, TERM_CHARS_SHOWN)
        )
    };
    let pair = |key: &str, value: &str| {
        let (key, value) = (key.trim(), value.trim());
        (!key.is_empty() && form(key) && form(value)).then(|| (key.to_string(), value.to_string())).ok_or_else(wrong)
    };
    if let Some((key, value)) = term.split_once("!=") {
        return pair(key, value).map(|(key, value)| Term::IsNot(key, value));
    }
    if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        return pair(key, value).map(|(key, value)| Term::Is(key, value));
    }
    match term.strip_prefix('!') {
        Some(key) => pair(key, "").map(|(key, _)| Term::HasNot(key)),
        None => pair(term, "").map(|(key, _)| Term::Has(key)),
    }
}

impl Selector {
    /// Whether an instance with these labels is selected.
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|term| match term {
            Term::Is(key, value) => labels.get(key) == Some(value),
            Term::IsNot(key, value) => labels.get(key) != Some(value),
            Term::Has(key) => labels.contains_key(key),
            Term::HasNot(key) => !labels.contains_key(key),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_is_read_in_time_that_grows_with_its_length_and_a_wrong_one_is_not_repeated_in_full() {
        for part in ["a,", "a=b,", "!", "=", "ä"] {
            let text = |bytes: usize| part.repeat(bytes / part.len());
            crate::linear::assert_linear(part, 10_000, text, |text| drop(text.parse::<Selector>()));
            assert!(text(60_000).parse::<Selector>().unwrap_err().len() < 2000, "{part}");
        }
    }

    #[test]
    fn all_terms_of_a_selector_must_hold() {
        let labels = [("team", "shop"), ("canary", "")].map(|(k, v)| (k.to_string(), v.to_string())).into();
        let selects = |text: &str| text.parse::<Selector>().map(|selector| selector.selects(&labels));
        for text in ["", "team=shop", "team == shop, canary", "team!=web", "!old", "canary=", "tier!=cache"] {
            assert_eq!(selects(text), Ok(true), "{text:?}");
        }
        for text in ["team=web", "team=shop,old", "!team", "team!=shop"] {
            assert_eq!(selects(text), Ok(false), "{text:?}");
        }
        for text in ["=shop", "team in (a)", "a,,b", "!", "a=b=c"] {
            assert!(selects(text).is_err(), "{text:?}");
        }
    }
}
