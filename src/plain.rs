//! Texts of others made harmless: cut, on one line, without what moves a cursor or deceives an eye. Pure.
//!
//! What agents, masters, nodes and users write is shown on terminals and in logs. A control character there
//! can move the cursor or end a line; a character that is not seen, or turns the direction of writing, makes
//! a text look like another one.

use std::borrow::Cow;
use std::fmt::Write as _;

/// The most characters of a text that is told: an error's, a task's message.
pub const TEXT_CHARS_MAX: usize = 1000;
/// The most characters of what is told of an instance: all that is wrong with a document, with words around it.
pub const TOLD_CHARS_MAX: usize = 5000;
/// The most characters of a name: of a host, an attribute, a value.
pub const NAME_CHARS_MAX: usize = 255;

/// The text as it may be shown, and not more than so many characters of it.
pub fn plain(text: &str, chars_max: usize) -> String {
    let cut = if text.len() > chars_max { text.char_indices().nth(chars_max) } else { None };
    match cut {
        Some((cut, _)) => format!("{}...", escape(&text[..cut])),
        None => escape(text).into_owned(),
    }
}

/// The text with every character that does harm written out, as `\u{1b}`.
pub fn escape(text: &str) -> Cow<'_, str> {
    if is_plain(text) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\n' | '\r' | '\t' => escaped.extend(c.escape_default()),
            c if is_harmful(c) => write!(escaped, "{}", c.escape_unicode()).expect("a text takes all"),
            c => escaped.push(c),
        }
    }
    Cow::Owned(escaped)
}

/// Whether nothing of the text does harm.
pub fn is_plain(text: &str) -> bool {
    // Most texts have nothing but these, and each plan is full of texts.
    text.bytes().all(|byte| matches!(byte, b' '..=b'~')) || !text.contains(is_harmful)
}

/// Whether something that must be kept as it is, such as an id, may be kept at all.
pub fn is_name(text: &str) -> bool {
    text.len() <= NAME_CHARS_MAX && is_plain(text)
}

/// Controls, what turns the direction of writing, and what is not seen.
pub fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

/// A text of which the middle is left out where it is long: what stands at its end matters too.
pub fn abridge(text: String, chars_max: usize) -> String {
    let count = text.chars().count();
    if count <= chars_max {
        return text;
    }
    let at = |nth: usize| text.char_indices().nth(nth).map_or(text.len(), |(at, _)| at);
    let half = chars_max / 2;
    format!("{}...{}", &text[..at(half)], &text[at(count - half)..])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_moves_a_cursor_or_deceives_an_eye_is_written_out() {
        for (text, shown) in [
            ("größe – ok 漢字", "größe – ok 漢字"),
            ("\u{1b}[2Jx", "\\u{1b}[2Jx"),
            ("a\nb\r\tc", "a\\nb\\r\\tc"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("a\u{202e}b\u{2066}", "a\\u{202e}b\\u{2066}"),
            ("a\u{200b}b\u{feff}", "a\\u{200b}b\\u{feff}"),
            ("\u{7f}\u{0}", "\\u{7f}\\u{0}"),
        ] {
            assert_eq!(plain(text, 100), shown);
        }
    }

    #[test]
    fn a_long_text_is_cut_and_a_long_message_keeps_both_ends() {
        assert_eq!(plain("äöü", 2), "äö...");
        assert_eq!(plain("äöü", 3), "äöü");
        assert_eq!(abridge("abcdefgh".into(), 4), "ab...gh");
        assert_eq!(abridge("abcd".into(), 4), "abcd");
    }

    proptest! {
        #[test]
        fn what_is_shown_is_plain_and_short_and_plain_text_stays_as_it_is(text: String, max in 0usize..50) {
            let shown = plain(&text, max);
            prop_assert!(is_plain(&shown));
            prop_assert!(shown.len() <= max * 10 + 3);
            prop_assert!(!is_plain(&text) || text.chars().count() > max || shown == text);
            prop_assert!(abridge(text, max).chars().count() <= max + 3);
        }
    }
}
