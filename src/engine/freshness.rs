//! When to refresh, as pure functions of a given random number.
//!
//! [`refreshes_early`] is XFetch: Vattani, Chierichetti, Lowenstein, *Optimal Probabilistic Cache
//! Stampede Prevention*, PVLDB 8(8), 2015. Each reader decides alone, and the closer the end and
//! the dearer the load, the likelier it is to refresh ahead of time.

/// The most `JITTER` may be, in percent.
pub const JITTER_PERCENT_MAX: u64 = 50;

/// Whether a reader refreshes a value `left_ms` before the end of its freshness: whether
/// `-cost · beta · ln(unit)` reaches past that end. `cost_ms` is how long a load takes, `beta` > 1
/// favours earlier refreshes, `unit` is uniform in (0, 1].
///
/// A value that costs nothing, or whose freshness has no end, is never refreshed early.
#[must_use]
pub fn refreshes_early(cost_ms: u32, beta: f64, left_ms: Option<u64>, unit: f64) -> bool {
    let Some(left_ms) = left_ms else { return false };
    cost_ms > 0 && -f64::from(cost_ms) * beta * unit.ln() >= left_ms as f64
}

/// `ttl_ms` moved by at most ±`percent` %, evenly: entries that were written together do not expire
/// together. `unit` is uniform in [0, 1). At least 1.
#[must_use]
pub fn jittered(ttl_ms: u64, percent: u64, unit: f64) -> u64 {
    let reach = ttl_ms as f64 * percent.min(JITTER_PERCENT_MAX) as f64 / 100.0;
    let moved = ttl_ms as f64 + (2.0 * unit - 1.0) * reach;
    (moved.round() as u64).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{rngs::StdRng, Rng, SeedableRng};

    #[test]
    fn free_or_endless_values_are_never_refreshed_early() {
        assert!(!refreshes_early(0, 1.0, Some(0), 1e-300));
        assert!(!refreshes_early(u32::MAX, 1e9, None, 1e-300));
        assert!(refreshes_early(1, 1.0, Some(0), 1.0));
    }

    #[test]
    fn jitter_stays_within_its_bounds_and_uses_all_of_them() {
        let mut rng = StdRng::seed_from_u64(1);
        let drawn: Vec<u64> = (0..10_000).map(|_| jittered(1_000, 10, rng.random())).collect();
        assert!(drawn.iter().all(|ms| (900..=1_100).contains(ms)));
        assert!(drawn.iter().any(|ms| *ms < 910) && drawn.iter().any(|ms| *ms > 1_090));
        assert_eq!(jittered(1, 50, 0.0), 1);
        assert_eq!(jittered(777, 0, 0.99), 777);
    }
}
