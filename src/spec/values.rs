//! The values of redis.conf's directives: what each takes, how it is written as words, and whether what a
//! node reads back is what was meant. Pure.
//!
//! A value is a value: no text of a user is ever another directive. So each is of a form that is known
//! here, and `words` says which of its parts Redis takes one by one.

use std::collections::BTreeSet;

/// What a directive takes.
pub(super) enum Takes {
    /// `yes` or `no`.
    YesNo,
    /// A whole number.
    Number(i64, i64),
    /// Bytes, with `k`, `kb`, `m`, `mb`, `g` or `gb`, from and to.
    Bytes(u64, u64),
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// Text of a form.
    Text(Form),
}

/// The forms of texts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Pairs of seconds and changes, or nothing.
    Save,
    /// A class of clients, bytes, bytes and seconds, once or more.
    BufferLimits,
    /// Letters.
    KeyspaceEvents,
    /// Three numbers.
    OomScores,
    /// CPUs: `0-3,6`.
    Cpus,
    /// Numbers up to 100.
    Percentiles,
    /// Text with variables in braces.
    Title,
    /// A locale's name.
    Locale,
    /// Warnings by their names.
    Warnings,
    /// Bytes, or a part of the memory in per cent.
    MemoryPart,
}

use Form::{BufferLimits, Cpus, KeyspaceEvents, Locale, MemoryPart, OomScores, Percentiles, Save, Title, Warnings};
use Takes::{Bytes, Number, OneOf, Text, YesNo};

/// As many as anybody has use for.
const PARTS_MAX: usize = 16;
/// The least output that a replica may have before it: less, and it is cut while it is filled, and begins
/// again, for ever.
const REPLICA_OUTPUT_MIN: u64 = 16 << 20;
/// The least output of other clients, of which operators are some.
const CLIENT_OUTPUT_MIN: u64 = 1 << 20;
/// The least memory of all clients, for the same reason.
const CLIENTS_MEMORY_MIN: u64 = 8 << 20;
const CLIENTS_PERCENT_MIN: u64 = 5;
const INT: u64 = i32::MAX as u64;
const CPUS_MAX: u64 = 1023;
/// Lower ones make the kernel kill others first, who have done nothing.
const OOM_SCORE_MAX: u64 = 1000;
const TITLE_VARIABLES: &[&str] =
    &["{title}", "{listen-addr}", "{server-mode}", "{port}", "{tls-port}", "{unixsocket}", "{config-file}"];
/// The longest title, and the longest name of a locale.
const NAME_CHARS_MAX: usize = 120;
/// What `A` stands for in `notify-keyspace-events`.
const ALL_EVENTS: &str = "g$lshzxetd";

/// What is wrong with a value: what is allowed instead.
pub(super) fn check(takes: &Takes, value: &str) -> Result<(), String> {
    let is = |word: &&str| word.eq_ignore_ascii_case(value);
    let (fits, allowed) = match takes {
        YesNo => (["yes", "no"].iter().any(is), "yes or no".to_string()),
        Number(min, max) => {
            // As Redis reads numbers: no sign, no zero before it.
            let number = value.parse::<i64>().ok().filter(|n| n.to_string() == value);
            (number.is_some_and(|n| (*min..=*max).contains(&n)), format!("a whole number from {min} to {max}"))
        }
        Bytes(min, max) => (
            redis_bytes(value).is_some_and(|n| (*min..=*max).contains(&n)),
            format!("a number of bytes from {min} to {max}, as Redis writes them: 64mb, 1gb, 4096"),
        ),
        OneOf(words) => (words.iter().any(is), format!("one of {}", words.join(", "))),
        Text(form) => (fits(*form, value), form.allowed().to_string()),
    };
    if fits { Ok(()) } else { Err(allowed) }
}

fn fits(form: Form, value: &str) -> bool {
    let words: Vec<&str> = value.split_whitespace().collect();
    match form {
        Save => {
            let pair = |pair: &[&str]| matches!(pair, [s, n] if whole(s, 1, INT) && whole(n, 0, INT));
            value.is_empty() || (!words.is_empty() && words.len() <= 2 * PARTS_MAX && words.chunks(2).all(pair))
        }
        BufferLimits => !words.is_empty() && words.len() <= 4 * PARTS_MAX && words.chunks(4).all(is_buffer_limit),
        KeyspaceEvents => value.len() <= PARTS_MAX && value.chars().all(|c| "AKEg$lshzxetdmn".contains(c)),
        OomScores => words.len() == 3 && words.iter().all(|word| whole(word, 0, OOM_SCORE_MAX)),
        Cpus => value.is_empty() || (value.len() <= NAME_CHARS_MAX && value.split(',').all(are_cpus)),
        Percentiles => words.len() <= PARTS_MAX && words.iter().all(|word| is_percentile(word)),
        Title => is_title(value),
        Locale => {
            let form = |c: char| c.is_ascii_alphanumeric() || "_.-@".contains(c);
            value.len() <= NAME_CHARS_MAX && value.chars().all(form) && !value.starts_with('-')
        }
        Warnings => ["", "ARM64-COW-BUG"].contains(&value),
        MemoryPart => match value.strip_suffix('%') {
            Some(percent) => whole(percent, CLIENTS_PERCENT_MIN, 100),
            None => redis_bytes(value).is_some_and(|n| n == 0 || (CLIENTS_MEMORY_MIN..=LONG).contains(&n)),
        },
    }
}

/// The most bytes that Redis counts.
pub(super) const LONG: u64 = i64::MAX as u64;

fn whole(word: &str, min: u64, max: u64) -> bool {
    word.parse::<u64>().is_ok_and(|n| n.to_string() == word && (min..=max).contains(&n))
}

fn is_buffer_limit(words: &[&str]) -> bool {
    let [class, hard, soft, seconds] = words else { return false };
    let least = match class.to_ascii_lowercase().as_str() {
        "replica" | "slave" => REPLICA_OUTPUT_MIN,
        "normal" | "pubsub" => CLIENT_OUTPUT_MIN,
        _ => return false,
    };
    let bytes = |word: &str| redis_bytes(word).is_some_and(|n| n == 0 || (least..=LONG).contains(&n));
    bytes(hard) && bytes(soft) && whole(seconds, 0, INT)
}

fn are_cpus(range: &str) -> bool {
    let (range, step) = range.split_once(':').unwrap_or((range, "1"));
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let number = |word: &str| whole(word, 0, CPUS_MAX).then(|| word.parse::<u64>().ok()).flatten();
    whole(step, 1, CPUS_MAX) && matches!((number(first), number(last)), (Some(first), Some(last)) if first <= last)
}

fn is_percentile(word: &str) -> bool {
    let form = word.len() <= 10 && word.chars().all(|c| c.is_ascii_digit() || c == '.');
    form && word.starts_with(|c: char| c.is_ascii_digit())
        && word.parse::<f64>().is_ok_and(|number| (0.0..=100.0).contains(&number))
}

fn is_title(value: &str) -> bool {
    let rest = TITLE_VARIABLES.iter().fold(value.to_string(), |text, variable| text.replace(variable, ""));
    let plain = |c: char| (c.is_ascii_graphic() || c == ' ') && !"{}\"'\\".contains(c);
    !value.trim().is_empty() && value.len() <= NAME_CHARS_MAX && rest.chars().all(plain)
}

impl Form {
    fn allowed(self) -> &'static str {
        match self {
            Save => "pairs of whole seconds (1 or more) and changes, such as 3600 1 300 100, or nothing",
            BufferLimits => {
                "CLASS HARD SOFT SECONDS, once or more, such as replica 256mb 64mb 60: CLASS is normal, replica or \
                 pubsub, and the bytes are 0 or at least 1mb, of replicas 16mb (less, and one that is filled would \
                 be cut, and begin again, for ever)"
            }
            KeyspaceEvents => "of the letters A, K, E, g, $, l, s, h, z, x, e, t, d, m and n only, such as Ex",
            OomScores => {
                "three whole numbers from 0 to 1000, such as 0 200 800 (with lower ones the kernel would kill \
                 others first)"
            }
            Cpus => "a list of CPUs such as 0-3,6 or 0-7:2, or nothing",
            Percentiles => "up to 16 numbers from 0 to 100, such as 50 99 99.9",
            Title => {
                "1 to 120 printable characters without quotes and backslashes, with no other words in braces than \
                 {title}, {listen-addr}, {server-mode}, {port}, {tls-port}, {unixsocket} and {config-file}"
            }
            Locale => "a locale's name such as C or en_US.UTF-8",
            Warnings => "ARM64-COW-BUG, or nothing",
            MemoryPart => "0, a number of bytes from 8mb on, or 5% to 100% (below, operators would be cut off)",
        }
    }

    fn has_parts(self) -> bool {
        matches!(self, Save | BufferLimits | OomScores | Percentiles)
    }
}

/// The value as Redis takes it on a line of redis.conf: several words, or one, which may be empty.
pub(super) fn words(takes: &Takes, value: &str) -> Vec<String> {
    let parts: Vec<String> = match takes {
        Text(form) if form.has_parts() => value.split_whitespace().map(ToString::to_string).collect(),
        _ => vec![value.to_string()],
    };
    if parts.is_empty() { vec![String::new()] } else { parts }
}

/// Whether what was read back is what was meant.
pub(super) fn reads_as(takes: &Takes, value: &str, found: &str) -> bool {
    let words = |text: &str| text.split_whitespace().map(ToString::to_string).collect::<Vec<_>>();
    let numbers = |text: &str| text.split_whitespace().map(|w| w.parse::<f64>().ok()).collect::<Vec<_>>();
    match takes {
        // Redis reads the one as the other.
        OneOf(_) if value.eq_ignore_ascii_case("relative") => ["relative", "yes"].contains(&found),
        YesNo | OneOf(_) => value.eq_ignore_ascii_case(found),
        Number(..) => value.parse::<i64>().ok() == found.parse().ok(),
        Bytes(..) | Text(MemoryPart) => {
            value == found || redis_bytes(value).is_some_and(|n| redis_bytes(found) == Some(n))
        }
        Text(Save | OomScores) => words(value) == words(found),
        Text(Percentiles) => numbers(value) == numbers(found),
        Text(KeyspaceEvents) => events(value) == events(found),
        Text(BufferLimits) => {
            let (wanted, found) = (buffer_limits(value), buffer_limits(found));
            let last = |of: &[Limit], class: &str| of.iter().rev().find(|limit| limit.0 == class).cloned();
            wanted.iter().all(|limit| last(&wanted, &limit.0) == last(&found, &limit.0))
        }
        Text(Cpus | Title | Locale | Warnings) => value == found,
    }
}

/// Which events, `A` spelt out. Redis 7.0 does not tell of `n` beside it.
fn events(letters: &str) -> BTreeSet<char> {
    letters.replace('A', ALL_EVENTS).chars().filter(|c| *c != 'n').collect()
}

type Limit = (String, Vec<Option<u64>>);

fn buffer_limits(text: &str) -> Vec<Limit> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let limit = |words: &[&str]| {
        let class = words[0].to_ascii_lowercase().replace("slave", "replica");
        (class, words[1..].iter().map(|word| redis_bytes(word)).collect())
    };
    words.chunks(4).map(limit).collect()
}

/// Redis' own notation: `1k` is 1000 and `1kb` 1024 bytes.
pub(super) fn redis_bytes(value: &str) -> Option<u64> {
    const UNITS: [(&str, u64); 8] = [
        ("kb", 1 << 10),
        ("mb", 1 << 20),
        ("gb", 1 << 30),
        ("k", 1000),
        ("m", 1_000_000),
        ("g", 1_000_000_000),
        ("b", 1),
        ("", 1),
    ];
    let value = value.to_ascii_lowercase();
    let (digits, unit) = UNITS.iter().find_map(|(suffix, unit)| Some((value.strip_suffix(suffix)?, *unit)))?;
    let number: u64 = digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten()?;
    number.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_redis_reads_back_in_its_own_notation_is_what_was_meant() {
        for (takes, value, found) in [
            (YesNo, "Yes", "yes"),
            (OneOf(&["no", "yes", "relative", "absolute"]), "relative", "yes"),
            (Bytes(0, LONG), "64mb", "67108864"),
            (Text(Save), "3600  1 300 100", "3600 1 300 100"),
            (Text(Save), "", ""),
            (Text(KeyspaceEvents), "KEA", "AKE"),
            (Text(KeyspaceEvents), "KEAn", "AKE"),
            (Text(KeyspaceEvents), "gxE", "gxE"),
            (
                Text(BufferLimits),
                "replica 256mb 64mb 60",
                "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60",
            ),
            (Text(BufferLimits), "slave 1gb 0 0 replica 32mb 0 0", "normal 0 0 0 slave 33554432 0 0 pubsub 0 0 0"),
            (Text(Percentiles), "50 99.90", "50 99.9"),
            (Text(MemoryPart), "5%", "5%"),
            (Text(MemoryPart), "100mb", "104857600"),
        ] {
            assert!(reads_as(&takes, value, found), "{value} {found}");
        }
        assert!(!reads_as(&Text(Save), "3600 1", "3600 1 300 100"));
        assert!(!reads_as(&Text(BufferLimits), "replica 256mb 64mb 60", "slave 268435456 67108864 61"));
        assert!(!reads_as(&Number(0, 9), "1", "2"));
        assert!(!reads_as(&Text(KeyspaceEvents), "KEg", "KE"));
    }
}
