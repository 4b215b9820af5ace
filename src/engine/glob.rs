//! Patterns as KEYS and SCAN know them: `*`, `?`, `[a-c]`, `[^a]` and `\` before a plain character.
//!
//! Only the last `*` is ever tried again, which is enough: what an earlier one could give, a later
//! one can take as well. So no pattern costs more than its length times that of the text. The
//! recursive form was rejected: it is exponential in the number of stars.

/// True if all of `text` matches `pattern`. O(pattern · text).
#[must_use]
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut rest, mut left) = (pattern, text);
    // What follows the last star, and what is left of the text after what it took.
    let mut star: Option<(&[u8], &[u8])> = None;
    loop {
        if let Some((b'*', after)) = rest.split_first() {
            star = Some((after, left));
            rest = after;
            continue;
        }
        let Some((byte, more)) = left.split_first() else {
            return rest.is_empty();
        };
        if let Some(after) = match_one(rest, *byte) {
            (rest, left) = (after, more);
            continue;
        }
        let Some((after, taken)) = star else { return false };
        let Some((_, more)) = taken.split_first() else { return false };
        star = Some((after, more));
        (rest, left) = (after, more);
    }
}

/// What is left of `pattern`, which does not begin with a star, if its first element matches `byte`.
fn match_one(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    match pattern {
        [] => None,
        [b'?', rest @ ..] => Some(rest),
        [b'[', rest @ ..] => match_class(rest, byte),
        [b'\\', escaped, rest @ ..] | [escaped, rest @ ..] => (*escaped == byte).then_some(rest),
    }
}

/// The same for a class of which the bracket was read. One that is not closed ends with the pattern.
fn match_class(class: &[u8], byte: u8) -> Option<&[u8]> {
    let (negated, mut rest) = match class {
        [b'^', rest @ ..] => (true, rest),
        _ => (false, class),
    };
    let mut is_in = false;
    loop {
        match rest {
            [] => break,
            [b']', more @ ..] => {
                rest = more;
                break;
            }
            [b'\\', escaped, more @ ..] => {
                is_in |= *escaped == byte;
                rest = more;
            }
            [from, b'-', to, more @ ..] => {
                is_in |= (*from.min(to)..=*from.max(to)).contains(&byte);
                rest = more;
            }
            [plain, more @ ..] => {
                is_in |= *plain == byte;
                rest = more;
            }
        }
    }
    (is_in != negated).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The plain, exponential form.
    fn naive(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern, text) {
            ([b'*', rest @ ..], _) => (0..=text.len()).any(|n| naive(rest, &text[n..])),
            ([], _) => text.is_empty(),
            (_, []) => false,
            (_, [byte, more @ ..]) => match_one(pattern, *byte).is_some_and(|rest| naive(rest, more)),
        }
    }

    #[test]
    fn the_forms_of_the_manual() {
        for (pattern, text, matched) in [
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h*llo", "hllo", true),
            ("h*llo", "heeeello", true),
            ("h[ae]llo", "hello", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-b]llo", "hbllo", true),
            ("h[b-a]llo", "hallo", true),
            ("h[a-b]llo", "hcllo", false),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("[\\]]", "]", true),
            ("a\\", "a\\", true),
            ("[a", "a", true),
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("a*b*c", "a--b--b--c", true),
            ("a*b*c", "a--c--b", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), matched, "{pattern} {text}");
        }
    }

    #[test]
    fn many_stars_cost_little() {
        let (pattern, text) = (b"a*".repeat(5_000), b"a".repeat(4_999));
        assert!(!matches(&pattern, &text));
        assert!(matches(&pattern, &[&text[..], b"ab"].concat()));
    }

    proptest! {
        #[test]
        fn as_the_naive_form(pattern in "[ab*?\\[\\]^\\\\-]{0,8}", text in "[ab\\]-]{0,8}") {
            prop_assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), naive(pattern.as_bytes(), text.as_bytes()));
        }

        #[test]
        fn any_bytes_do(pattern: Vec<u8>, text: Vec<u8>) {
            let _ = matches(&pattern, &text);
        }
    }
}
