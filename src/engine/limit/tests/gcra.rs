//! GCRA against the bucket it stands for: water that leaks, in exact fractions of a unit.

use super::*;

/// Water in the bucket is `parts / window_ms` units, so a unit is `window_ms` parts, and `limit`
/// parts leak a millisecond.
struct Water {
    parts: u128,
    at: UnixMillis,
    limit: u64,
    window_ms: u64,
}

impl Water {
    fn leak(&mut self, now: UnixMillis) {
        let leaked = u128::from(now.since(self.at)) * u128::from(self.limit);
        self.parts = self.parts.saturating_sub(leaked);
        self.at = now;
    }

    fn room(&self) -> u64 {
        let capacity = u128::from(self.limit) * u128::from(self.window_ms);
        u64::try_from((capacity - self.parts) / u128::from(self.window_ms)).unwrap()
    }
}

proptest! {
    #[test]
    fn it_agrees_with_a_leaking_bucket(rules in rules(), calls in calls()) {
        let plan = plan(Algorithm::Gcra, &rules);
        let (mut limits, mut now) = (Limits::new(&plan), START);
        let bucket = |(limit, window_ms): &(u64, u64)| Water { parts: 0, at: START, limit: *limit, window_ms: *window_ms };
        let mut buckets: Vec<_> = rules.iter().map(bucket).collect();
        for (pause_ms, ask) in calls {
            now = now.after(pause_ms);
            buckets.iter_mut().for_each(|water| water.leak(now));
            let room = buckets.iter().map(Water::room).min().unwrap();
            let fits = if ask.amount == Amount::Whole && ask.units > room { 0 } else { ask.units.min(room) };
            let verdict = limits.decide(&plan, ask, now).verdict;
            prop_assert_eq!(verdict.allowed, fits);
            if fits > 0 {
                buckets.iter_mut().for_each(|water| water.parts += u128::from(fits) * u128::from(water.window_ms));
                prop_assert_eq!(verdict.remaining, room - fits);
            }
        }
    }

    /// Over any time, a burst and what leaks meanwhile is all there is.
    #[test]
    fn it_lets_through_a_burst_and_then_the_rate((limit, window_ms) in rule(), calls in calls()) {
        let plan = plan(Algorithm::Gcra, &[(limit, window_ms)]);
        let (mut limits, mut now, mut allowed) = (Limits::new(&plan), START, 0u128);
        for (pause_ms, ask) in calls {
            now = now.after(pause_ms);
            allowed += u128::from(limits.decide(&plan, ask, now).verdict.allowed);
            let leaked = u128::from(now.since(START)) * u128::from(limit) / u128::from(window_ms);
            prop_assert!(allowed <= u128::from(limit) + leaked);
        }
    }
}

#[test]
fn three_a_second_are_three_a_second_for_ever() {
    let plan = plan(Algorithm::Gcra, &[(3, 1_000)]);
    let mut limits = Limits::new(&plan);
    let mut allowed = 0;
    for ms in 0..3_600_000 {
        allowed += limits.decide(&plan, whole(1), START.after(ms)).verdict.allowed;
    }
    assert_eq!(allowed, 3 + 3 * 3_600 - 1, "the burst, and three for each second that has passed whole");
}
