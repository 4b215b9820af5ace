//! Patterns as KEYS and SCAN know them: `*`, `?`, `[a-c]`, `[^a]` and `\` before a plain character.
//!
//! Only the last `*` is ever tried again, which is enough: what an earlier one could give, a later
//! one can take as well. So no pattern costs more than its length times that of the text. The
//! recursive form was rejected: it is exponential in the number of stars. What it did cost is counted,
//! for whoever compares many texts.

/// Steps that may still be made: bytes of a pattern that are looked at, each time anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steps(pub usize);

impl Steps {
    fn take(&mut self, n: usize) {
        self.0 = self.0.saturating_sub(n);
    }
}

/// True if all of `text` matches `pattern`. Takes its steps from `steps`, and goes on where there are
/// none: O(pattern · text).
#[must_use]
pub fn matches(pattern: &[u8], text: &[u8], steps: &mut Steps) -> bool {
    let (mut rest, mut left) = (pattern, text);
    // What follows the last star, and what is left of the text after what it took.
    let mut star: Option<(&[u8], &[u8])> = None;
    loop {
        if let Some((b'*', after)) = rest.split_first() {
            steps.take(1);
            star = Some((after, left));
            rest = after;
            continue;
        }
        let Some((byte, more)) = left.split_first() else {
            return rest.is_empty();
        };
        if let Some(after) = match_one(rest, *byte, steps) {
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
fn match_one<'p>(pattern: &'p [u8], byte: u8, steps: &mut Steps) -> Option<&'p [u8]> {
    steps.take(1);
    match pattern {
        [] => None,
        [b'?', rest @ ..] => Some(rest),
        [b'[', rest @ ..] => match_class(rest, byte, steps),
        [b'\\', escaped, rest @ ..] | [escaped, rest @ ..] => (*escaped == byte).then_some(rest),
    }
}

/// The same for a class of which the bracket was read. One that is not closed ends with the pattern.
fn match_class<'p>(class: &'p [u8], byte: u8, steps: &mut Steps) -> Option<&'p [u8]> {
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
    steps.take(class.len() - rest.len());
    (is_in != negated).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Whether it matches, and in how many steps.
    fn counted(pattern: &[u8], text: &[u8]) -> (bool, usize) {
        let mut steps = Steps(usize::MAX);
        (super::matches(pattern, text, &mut steps), usize::MAX - steps.0)
    }

    fn matches(pattern: &[u8], text: &[u8]) -> bool {
        counted(pattern, text).0
    }

    /// One element of a pattern, written and meant: `None` is a star, else the bytes it takes.
    type Element = (Vec<u8>, Option<Vec<u8>>);

    fn element() -> impl Strategy<Value = Element> {
        let byte = prop_oneof![b'a'..=b'd', Just(b'*'), Just(b'?'), Just(b'['), Just(b']'), Just(b'^'), Just(b'-')];
        let literal = byte.clone().prop_map(|byte| (vec![b'\\', byte], Some(vec![byte])));
        let class = (any::<bool>(), prop::collection::vec((byte.clone(), prop::option::of(byte)), 1..4));
        let class = class.prop_map(|(negated, parts)| {
            let (mut text, mut set) = (if negated { b"[^".to_vec() } else { b"[".to_vec() }, Vec::new());
            for (from, to) in parts {
                match to {
                    // Of a range the ends are not escaped, so they are none that mean something.
                    Some(to) if from.is_ascii_alphabetic() && to.is_ascii_alphabetic() => {
                        text.extend([from, b'-', to]);
                        set.extend(from.min(to)..=from.max(to));
                    }
                    _ => {
                        text.extend([b'\\', from]);
                        set.push(from);
                    }
                }
            }
            text.push(b']');
            (text, Some(if negated { (0..=255).filter(|byte| !set.contains(byte)).collect() } else { set }))
        });
        prop_oneof![
            3 => literal,
            2 => class,
            1 => Just((b"?".to_vec(), Some((0..=255).collect()))),
            2 => Just((b"*".to_vec(), None)),
        ]
    }

    /// Which beginnings of the text the elements so far can take, one element after the other.
    fn model(elements: &[Element], text: &[u8]) -> bool {
        let mut ends = vec![false; text.len() + 1];
        ends[0] = true;
        for (_, set) in elements {
            ends = (0..=text.len())
                .map(|end| match set {
                    None => ends[..=end].contains(&true),
                    Some(set) => end > 0 && ends[end - 1] && set.contains(&text[end - 1]),
                })
                .collect();
        }
        ends[text.len()]
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
    fn no_pattern_costs_more_than_its_length_times_the_texts() {
        let text = b"a".repeat(1_000);
        let class = [&b"*["[..], &b"b".repeat(997), b"]"].concat();
        let classes = [&b"*["[..], &b"a".repeat(497), b"][", &b"b".repeat(497), b"]"].concat();
        let stars = [&b"a*".repeat(499)[..], b"b"].concat();
        let late = [&b"*"[..], &b"a".repeat(498), b"b"].concat();
        for pattern in [class, classes, stars, late, b"*".repeat(1_000), b"[^".repeat(500)] {
            let (_, steps) = counted(&pattern, &text);
            assert!(steps <= (pattern.len() + 1) * (text.len() + 1), "{} steps of {}", steps, pattern.escape_ascii());
        }
        assert!(matches(&b"a*".repeat(500), &[&text[..], b"ab"].concat()));
    }

    #[test]
    fn steps_are_taken_from_what_is_left() {
        let mut steps = Steps(10);
        assert!(super::matches(b"a?c", b"abc", &mut steps));
        assert_eq!(steps, Steps(7));
        assert!(super::matches(b"[a-c]*", &b"a".repeat(100), &mut steps), "and it goes on without");
        assert!(super::matches(b"*b*", b"aaaaaaaaaaab", &mut steps));
        assert_eq!(steps, Steps(0));
    }

    proptest! {
        #[test]
        fn as_the_model(elements in prop::collection::vec(element(), 0..7), text in "[a-d*?^\\[\\]-]{0,9}") {
            let pattern: Vec<u8> = elements.iter().flat_map(|(text, _)| text.clone()).collect();
            prop_assert_eq!(matches(&pattern, text.as_bytes()), model(&elements, text.as_bytes()), "{}", pattern.escape_ascii());
        }

        #[test]
        fn any_bytes_do(pattern: Vec<u8>, text: Vec<u8>) {
            let (_, steps) = counted(&pattern, &text);
            prop_assert!(steps <= (pattern.len() + 1) * (text.len() + 1));
        }
    }
}
