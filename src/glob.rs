//! Patterns of names, of Redis' kind: `*`, `?`, `[a-c]`, `[^a]`, `\*`. Pure.

/// Whether a text fits a pattern. It goes back to the last star only, so that no pattern takes long.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
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

fn in_class(class: &[u8], byte: u8) -> bool {
    match class {
        [] => false,
        [from, b'-', to, rest @ ..] => (from.min(to)..=from.max(to)).contains(&&byte) || in_class(rest, byte),
        [one, rest @ ..] => *one == byte || in_class(rest, byte),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

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
        let began = Instant::now();
        let pattern = "*a".repeat(5000) + "b";
        assert!(!matches(pattern.as_bytes(), "a".repeat(200).as_bytes()));
        assert!(began.elapsed() < Duration::from_secs(1));
    }
}
