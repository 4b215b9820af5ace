//! Patterns of any bytes, against the plain way to match them.

use cache_guard::engine::glob::{matches, Steps};

/// Elements and text beyond this are only matched, not compared: the plain way costs their product.
const COMPARED_BYTES_MAX: usize = 256;

/// The first byte says how many of the others are the pattern; the rest is the text.
pub fn glob(data: &[u8]) {
    let Some((split, rest)) = data.split_first() else { return };
    let (pattern, text) = rest.split_at(usize::from(*split).min(rest.len()));
    let matched = matches(pattern, text, &mut Steps(usize::MAX));
    if rest.len() <= COMPARED_BYTES_MAX {
        assert_eq!(matched, plainly(&elements(pattern), text));
    }
}

enum Element {
    Any,
    OneOf(Box<[bool; 256]>),
}

fn plain(byte: u8) -> Element {
    one_of(|other| other == byte)
}

fn one_of(is_in: impl Fn(u8) -> bool) -> Element {
    let mut set = Box::new([false; 256]);
    set.iter_mut().zip(0u8..=255).for_each(|(slot, byte)| *slot = is_in(byte));
    Element::OneOf(set)
}

fn elements(pattern: &[u8]) -> Vec<Element> {
    let mut found = Vec::new();
    let mut rest = pattern;
    while let Some((first, more)) = rest.split_first() {
        rest = more;
        found.push(match first {
            b'*' => Element::Any,
            b'?' => one_of(|_| true),
            b'[' => class(&mut rest),
            b'\\' => match more.split_first() {
                Some((escaped, more)) => {
                    rest = more;
                    plain(*escaped)
                }
                None => plain(b'\\'),
            },
            byte => plain(*byte),
        });
    }
    found
}

/// Ranges and bytes up to the closing bracket, or to the end.
fn class(rest: &mut &[u8]) -> Element {
    let is_negated = rest.first() == Some(&b'^');
    *rest = rest.get(usize::from(is_negated)..).unwrap_or_default();
    let mut ranges: Vec<(u8, u8)> = Vec::new();
    loop {
        let taken = match rest {
            [] => break,
            [b']', ..] => {
                *rest = rest.get(1..).unwrap_or_default();
                break;
            }
            [b'\\', escaped, ..] => {
                ranges.push((*escaped, *escaped));
                2
            }
            [from, b'-', to, ..] => {
                ranges.push((*from.min(to), *from.max(to)));
                3
            }
            [byte, ..] => {
                ranges.push((*byte, *byte));
                1
            }
        };
        *rest = rest.get(taken..).unwrap_or_default();
    }
    one_of(|byte| ranges.iter().any(|(from, to)| (*from..=*to).contains(&byte)) != is_negated)
}

/// For each prefix of the text whether the elements so far match it.
fn plainly(elements: &[Element], text: &[u8]) -> bool {
    let mut reached = vec![false; text.len() + 1];
    if let Some(first) = reached.first_mut() {
        *first = true;
    }
    for element in elements {
        let mut next = vec![false; text.len() + 1];
        let mut before = false;
        for (at, slot) in next.iter_mut().enumerate() {
            let here = reached.get(at).copied().unwrap_or_default();
            *slot = match element {
                Element::Any => here || before,
                Element::OneOf(set) => {
                    let byte = at.checked_sub(1).and_then(|last| Some((text.get(last)?, reached.get(last)?)));
                    byte.is_some_and(|(byte, was)| *was && set.get(usize::from(*byte)).copied().unwrap_or_default())
                }
            };
            before = matches!(element, Element::Any) && *slot;
        }
        reached = next;
    }
    reached.last().copied().unwrap_or_default()
}
