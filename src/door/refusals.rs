//! What happens again and again is said once, and then counted. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::Timestamp;

/// How often what was counted is said.
pub const SAY_EVERY: Duration = Duration::from_mins(1);
/// Kinds that are told apart; whatever comes beyond is counted together.
const KINDS_MAX: usize = 16;

/// Counts of what happens, by kind: the first is said at once, the others when a minute is over.
#[derive(Debug, Default)]
pub struct Refusals {
    since: BTreeMap<String, (Timestamp, u64)>,
}

impl Refusals {
    /// It happened: what is to be said now, if anything.
    pub fn note(&mut self, kind: &str, now: Timestamp) -> Option<String> {
        let kind = if self.since.contains_key(kind) || self.since.len() < KINDS_MAX { kind } else { "others" };
        if let Some((_, more)) = self.since.get_mut(kind) {
            *more += 1;
            return None;
        }
        self.since.insert(kind.to_string(), (now, 0));
        Some(kind.to_string())
    }

    /// What is to be said of that which was counted for a minute. What did not happen again is forgotten, so that
    /// it is said at once the next time.
    pub fn due(&mut self, now: Timestamp) -> Vec<String> {
        let mut due = Vec::new();
        self.since.retain(|kind, (since, more)| {
            let passed_ms = now.0.saturating_sub(since.0);
            if u128::from(passed_ms) < SAY_EVERY.as_millis() {
                return true;
            }
            if *more > 0 {
                let seconds = passed_ms / 1000;
                due.push(format!("{kind}: {} times more within {seconds} s", grouped(*more)));
            }
            let again = *more > 0;
            (*since, *more) = (now, 0);
            again
        });
        due
    }
}

/// A number as people read it: 1,234.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_repeats_is_said_once_and_then_counted_each_minute() {
        let (mut refusals, at) = (Refusals::default(), |s: u64| Timestamp(1000 * s));
        assert_eq!(refusals.note("a flood", at(0)).as_deref(), Some("a flood"));
        for _ in 0..1234 {
            assert_eq!(refusals.note("a flood", at(1)), None);
        }
        assert_eq!(refusals.due(at(59)), Vec::<String>::new());
        assert_eq!(refusals.due(at(60)), ["a flood: 1,234 times more within 60 s"]);
        assert_eq!(refusals.note("a flood", at(61)), None, "it goes on");
        assert_eq!(refusals.due(at(121)), ["a flood: 1 times more within 61 s"]);
        assert_eq!(refusals.due(at(190)), Vec::<String>::new());
        assert_eq!(refusals.note("a flood", at(191)).as_deref(), Some("a flood"), "it begins anew");
    }

    #[test]
    fn many_kinds_take_no_memory() {
        let mut refusals = Refusals::default();
        let said = (0..1000).filter_map(|i| refusals.note(&format!("kind {i}"), Timestamp(0))).count();
        assert_eq!((said, refusals.since.len()), (KINDS_MAX + 1, KINDS_MAX + 1));
    }
}
