//! Warnings that come again: said once, then counted. Pure.

use std::collections::BTreeMap;

use crate::model::Timestamp;

/// What was said last of each subject.
#[derive(Debug, Default)]
pub struct Repeats(BTreeMap<String, Said>);

#[derive(Debug)]
struct Said {
    /// The gist: numbers (times, revisions) left out.
    gist: String,
    count: u64,
    since: Timestamp,
}

impl Repeats {
    /// What to say now of the subject; none: it was said, and is counted. Said again with the count at the
    /// tenth time, the hundredth, and so on.
    pub fn say(&mut self, subject: &str, what: &str, now: Timestamp) -> Option<String> {
        let gist: String = what.chars().filter(|c| !c.is_ascii_digit()).collect();
        match self.0.get_mut(subject) {
            Some(said) if said.gist == gist => {
                said.count += 1;
                let round = said.count.checked_ilog10().is_some_and(|n| n > 0 && 10_u64.pow(n) == said.count);
                round.then(|| format!("{what} ({} times since {})", said.count, said.since))
            }
            _ => {
                self.0.insert(subject.to_string(), Said { gist, count: 1, since: now });
                Some(what.to_string())
            }
        }
    }

    /// It is well again: how often it was not, and since when, if that was not all said.
    pub fn over(&mut self, subject: &str) -> Option<String> {
        let said = self.0.remove(subject)?;
        (said.count > 1).then(|| format!("well again after {} failures since {}", said.count, said.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_repeats_is_said_once_then_counted_and_its_end_is_told() {
        let mut repeats = Repeats::default();
        let said: Vec<String> = (0..1000)
            .filter_map(|n| repeats.say("orders", &format!("refused at revision {n}"), Timestamp(n)))
            .collect();
        assert_eq!(said.len(), 4, "{said:?}");
        assert_eq!(said[0], "refused at revision 0");
        assert!(said[3].contains("1000 times since"), "{said:?}");
        assert!(repeats.say("sales", "refused at revision 1", Timestamp(0)).is_some(), "another subject");
        assert!(repeats.say("orders", "no way to it", Timestamp(0)).is_some(), "another reason");
        assert!(repeats.say("orders", "refused at revision 7", Timestamp(0)).is_some(), "the former again");
        assert_eq!(repeats.over("orders"), None, "once is said already");
        assert!(repeats.say("orders", "refused", Timestamp(0)).is_some());
        assert!(repeats.say("orders", "refused", Timestamp(0)).is_none());
        assert!(repeats.over("orders").unwrap().contains("2 failures"));
    }
}
