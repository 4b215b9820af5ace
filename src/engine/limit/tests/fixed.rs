//! FIXED against a count by window.

use super::*;
use std::collections::BTreeMap;

proptest! {
    #[test]
    fn it_counts_by_aligned_windows(rules in rules(), calls in calls()) {
        let plan = plan(Algorithm::Fixed, &rules);
        let (mut limits, mut now) = (Limits::new(&plan), START);
        let mut counts: Vec<BTreeMap<u64, u64>> = vec![BTreeMap::new(); rules.len()];
        for (pause_ms, ask) in calls {
            now = now.after(pause_ms);
            let mut left = Vec::new();
            for ((limit, window_ms), count) in rules.iter().zip(&counts) {
                left.push(limit - count.get(&(now.0 / window_ms)).copied().unwrap_or(0));
            }
            let room = left.into_iter().min().unwrap();
            let fits = if ask.amount == Amount::Whole && ask.units > room { 0 } else { ask.units.min(room) };
            prop_assert_eq!(limits.decide(&plan, ask, now).verdict.allowed, fits);
            for ((_, window_ms), count) in rules.iter().zip(&mut counts) {
                *count.entry(now.0 / window_ms).or_default() += fits;
            }
        }
    }
}

#[test]
fn a_window_begins_with_each_multiple_of_its_length() {
    let plan = plan(Algorithm::Fixed, &[(2, 60_000)]);
    let mut limits = Limits::new(&plan);
    let at = |ms: u64| UnixMillis(1_200_000_000_000 + ms);
    assert_eq!(limits.decide(&plan, whole(2), at(59_000)).verdict.reset_ms, 1_000);
    assert_eq!(limits.decide(&plan, whole(1), at(59_999)).verdict.retry_after_ms, Some(1));
    assert_eq!(limits.decide(&plan, whole(2), at(60_000)).verdict.allowed, 2);
    assert_eq!(limits.counts_until(), Some(at(120_000)));
}
