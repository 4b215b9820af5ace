//! How much of the server the sweep may take.

/// The longest slice, in microseconds: a pause that other clients hardly notice.
pub const SLICE_US_MAX: u64 = 2_000;

/// How long a slice may take so that it and a rest of `rest_us` after it use `percent` of the time;
/// both in microseconds. At most [`SLICE_US_MAX`], which makes it less than that share of more than
/// two thirds; at 100 percent there is no rest, and half of that each time.
#[must_use]
pub fn slice_us(percent: u64, rest_us: u64) -> u64 {
    match percent {
        100.. => SLICE_US_MAX / 2,
        percent => (rest_us * percent / (100 - percent)).clamp(1, SLICE_US_MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slice_and_rest_are_in_the_proportion_asked_for() {
        for percent in 1..=66 {
            let slice = slice_us(percent, 1_000);
            let share = slice as f64 * 100.0 / (slice + 1_000) as f64;
            assert!((share - percent as f64).abs() < 0.2, "{percent} percent came to {share}");
        }
        assert!((67..=100).all(|percent| slice_us(percent, 1_000) <= SLICE_US_MAX));
    }
}
