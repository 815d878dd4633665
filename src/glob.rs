//! Patterns of names, of Redis' kind: `*`, `?`, `[a-c]`, `[^a]`, `\*`. Pure.

/// The longest pattern: what is to fit has at most some hundred bytes.
const PATTERN_BYTES_MAX: usize = 1024;

/// Whether a text fits a pattern; nothing fits one that is too long. It goes back to the last star only, so that
/// it takes at most the length of the pattern times that of the text.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    if pattern.len() > PATTERN_BYTES_MAX {
        return false;
    }
    let (mut at, mut read, mut star) = (0, 0, None);
    while read < text.len() {
        if pattern.get(at) == Some(&b'*') {
            at += 1;
            star = Some((at, read));
        } else if let Some(length) = fits_one(&pattern[at..], text[read]) {
            at += length;
            read += 1;
        } else if let Some((after, from)) = star {
            at = after;
            read = from + 1;
            star = Some((after, read));
        } else {
            return false;
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

/// The length of the pattern's first part, if the byte fits it.
fn fits_one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [] => None,
        [b'?', ..] => Some(1),
        [b'[', class @ ..] => {
            let (negated, class) = class.strip_prefix(b"^").map_or((false, class), |class| (true, class));
            let end = class.iter().position(|byte| *byte == b']').unwrap_or(class.len());
            let length = 1 + usize::from(negated) + (end + 1).min(class.len());
            (in_class(&class[..end], byte) != negated).then_some(length)
        }
        [b'\\', wanted, ..] => (*wanted == byte).then_some(2),
        [wanted, ..] => (*wanted == byte).then_some(1),
    }
}

fn in_class(mut class: &[u8], byte: u8) -> bool {
    loop {
        let (fits, rest) = match class {
            [] => return false,
            [from, b'-', to, rest @ ..] => ((from.min(to)..=from.max(to)).contains(&&byte), rest),
            [one, rest @ ..] => (*one == byte, rest),
        };
        if fits {
            return true;
        }
        class = rest;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::linear::thread_time;

    #[test]
    fn patterns_fit_as_redis_has_them() {
        for (pattern, text, fits) in [
            ("*", "", true),
            ("*", "+sdown", true),
            ("+*", "+sdown", true),
            ("-*", "+sdown", false),
            ("?sdown", "-sdown", true),
            ("[+-]sdown", "-sdown", true),
            ("[^+]sdown", "+sdown", false),
            ("[a-c]x", "bx", true),
            ("[c-a]x", "bx", true),
            ("[a-c]x", "dx", false),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "aXbY", false),
            ("a*", "a", true),
            ("", "a", false),
            ("[", "[", false),
            ("[a", "a", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn a_wicked_pattern_takes_no_time() {
        for wicked in ["*a", "*", "*[ab", "[", "?*", "*[^b]", "\\a*"] {
            let pattern = wicked.repeat(PATTERN_BYTES_MAX / wicked.len() - 1) + "b";
            let took = thread_time(|| {
                let _ = matches(pattern.as_bytes(), "a".repeat(200).as_bytes());
            });
            assert!(took < Duration::from_secs(1), "{wicked}: {took:?}");
        }
    }

    #[test]
    fn nothing_fits_a_pattern_that_is_too_long() {
        assert!(matches("*".repeat(PATTERN_BYTES_MAX).as_bytes(), b"a"));
        assert!(!matches("*".repeat(PATTERN_BYTES_MAX + 1).as_bytes(), b"a"));
    }

    proptest::proptest! {
        /// The same as the slow way, which tries everything.
        #[test]
        fn stars_are_matched_as_if_everything_was_tried(pattern in "[ab*?]{0,12}", text in "[ab]{0,10}") {
            proptest::prop_assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), tried(pattern.as_bytes(), text.as_bytes()));
        }
    }

    fn tried(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern, text) {
            ([], text) => text.is_empty(),
            ([b'*', rest @ ..], text) => (0..=text.len()).any(|taken| tried(rest, &text[taken..])),
            ([b'?', rest @ ..], [_, text @ ..]) => tried(rest, text),
            ([one, rest @ ..], [first, text @ ..]) => one == first && tried(rest, text),
            (_, []) => false,
        }
    }
}
