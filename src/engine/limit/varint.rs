//! Integers of seven bits a byte (LEB128) that can be read from either end.
//!
//! All bytes of an integer but its last have the top bit set, so the end of one integer is where
//! the next one begins, seen from both sides.

/// Bytes of the longest integer.
const BYTES_MAX: usize = 10;

/// Appends `value`. One byte for each seven bits, at least one.
pub(super) fn push(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// The integer at the start of `bytes`, and its length. `None` if it is cut, does not fit, or has
/// a form that [`push`] does not write.
#[inline]
pub(super) fn read(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0;
    for (at, &byte) in bytes.iter().take(BYTES_MAX).enumerate() {
        let bits = u64::from(byte & 0x7f);
        value |= bits << (7 * at);
        if byte < 0x80 {
            let is_shortest = byte > 0 || at == 0;
            return (is_shortest && value >> (7 * at) == bits).then_some((value, at + 1));
        }
    }
    None
}

/// The integer at the end of `bytes`, and where it starts.
#[inline]
pub(super) fn read_back(bytes: &[u8]) -> Option<(u64, usize)> {
    let (_, before) = bytes.split_last()?;
    let start = before.iter().rposition(|byte| *byte < 0x80).map_or(0, |at| at + 1);
    read(bytes.get(start..)?).map(|(value, _)| (value, start))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn integers_are_read_from_both_ends(values: Vec<u64>) {
            let mut bytes = Vec::new();
            values.iter().for_each(|value| push(&mut bytes, *value));
            let (mut at, mut end) = (0, bytes.len());
            for value in &values {
                let (read, len) = read(&bytes[at..]).unwrap();
                prop_assert_eq!(read, *value);
                at += len;
            }
            for value in values.iter().rev() {
                let (read, start) = read_back(&bytes[..end]).unwrap();
                prop_assert_eq!(read, *value);
                end = start;
            }
            prop_assert_eq!((at, end), (bytes.len(), 0));
        }

        #[test]
        fn any_bytes_are_an_integer_or_nothing(bytes: Vec<u8>) {
            let _ = read_back(&bytes);
            if let Some((value, len)) = read(&bytes) {
                let mut again = Vec::new();
                push(&mut again, value);
                prop_assert_eq!(&again, &bytes[..len]);
            }
        }
    }
}
