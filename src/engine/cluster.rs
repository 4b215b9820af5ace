//! Which slot of a cluster a key belongs to.

use std::ops::RangeInclusive;

/// How many slots a cluster has.
const SLOTS: u16 = 16_384;

/// The slot of `key`: CRC-16/XMODEM of it, or of what is between its first braces if that is
/// something. O(key).
#[must_use]
pub fn slot_of(key: &[u8]) -> u16 {
    let hashed = tag_of(key).unwrap_or(key);
    let crc = hashed.iter().fold(0u16, |crc, byte| {
        (0..8)
            .fold(crc ^ (u16::from(*byte) << 8), |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 })
    });
    crc % SLOTS
}

fn tag_of(key: &[u8]) -> Option<&[u8]> {
    let (_, rest) = key.split_at_checked(key.iter().position(|byte| *byte == b'{')? + 1)?;
    let (tag, _) = rest.split_at_checked(rest.iter().position(|byte| *byte == b'}')?)?;
    (!tag.is_empty()).then_some(tag)
}

/// Some slots of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotRanges(Vec<RangeInclusive<u16>>);

impl SlotRanges {
    /// Those of `ranges`.
    #[must_use]
    pub fn new(ranges: impl IntoIterator<Item = RangeInclusive<u16>>) -> Self {
        Self(ranges.into_iter().collect())
    }

    /// Whether `key` belongs to one of them. O(key + ranges).
    #[must_use]
    pub fn have(&self, key: &[u8]) -> bool {
        let slot = slot_of(key);
        self.0.iter().any(|range| range.contains(&slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_servers() {
        // CLUSTER KEYSLOT of each.
        for (key, slot) in [
            (&b""[..], 0),
            (b"123456789", 12_739),
            (b"foo", 12_182),
            (b"{foo}bar", 12_182),
            (b"a{foo}{bar}", 12_182),
            (b"foo{}", slot_of(b"foo{}")),
            (b"{", slot_of(b"{")),
        ] {
            assert_eq!(slot_of(key), slot, "{}", key.escape_ascii());
        }
        assert_ne!(slot_of(b"foo{}"), slot_of(b""), "empty braces do not count");
    }

    #[test]
    fn ranges_have_both_their_ends() {
        let ranges = SlotRanges::new([0..=1, 12_182..=12_182, 12_740..=16_383]);
        assert!(ranges.have(b"") && ranges.have(b"foo") && !ranges.have(b"123456789"));
    }
}
