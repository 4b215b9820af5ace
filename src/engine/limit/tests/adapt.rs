//! Other rules on a key: nothing that still counts is forgotten.

use super::*;

proptest! {
    /// A log that goes over to other windows counts what a list would that forgets what was too
    /// old for the widest window at each taking.
    #[test]
    fn a_log_counts_under_any_windows(
        plans in prop::collection::vec(rules(), 2..4),
        calls in prop::collection::vec((0usize..4, pause(), ask()), 1..60),
    ) {
        let plans: Vec<_> = plans.iter().map(|rules| plan(Algorithm::Sliding, rules)).collect();
        let (mut limits, mut now) = (Limits::new(&plans[0]), START);
        let mut taken: Vec<(UnixMillis, u64)> = Vec::new();
        for (which, pause_ms, ask) in calls {
            now = now.after(pause_ms);
            let plan = &plans[which % plans.len()];
            let room = plan.rules().iter().map(|rule| {
                let inside = taken.iter().filter(|(at, _)| now.since(*at) < rule.window_ms);
                rule.limit.saturating_sub(inside.map(|(_, units)| units).sum())
            });
            let room = room.min().unwrap();
            let fits = if ask.amount == Amount::Whole && ask.units > room { 0 } else { ask.units.min(room) };
            prop_assert_eq!(limits.decide(plan, ask, now).verdict.allowed, fits);
            if fits > 0 {
                let widest_ms = plan.rules().iter().map(|rule| rule.window_ms).max().unwrap();
                taken.retain(|(at, _)| now.since(*at) < widest_ms);
                taken.push((now, fits));
            }
        }
    }

    /// What still counts under the old rules counts under the new ones, up to a full limit: a
    /// caller that changes the rules gets no more at once than a fresh key would give beyond that.
    #[test]
    fn no_change_of_rules_makes_room(
        (before_algorithm, rule) in (algorithm(), rule()),
        after_algorithm in algorithm(),
        limit in 1u64..40,
        calls in calls(),
    ) {
        let before = plan(before_algorithm, &[rule]);
        let (mut limits, now) = after(&before, &calls);
        let counted = rule.0 - limits.peek(&before, partial(1 << 40), now).allowed;
        let plan = plan(after_algorithm, &[(limit, rule.1)]);
        let room = limits.peek(&plan, partial(1 << 40), now).allowed;
        // A bucket leaks, and a fixed window may have begun after what a log still counts.
        let leaks = before.algorithm != Algorithm::Gcra && after_algorithm == Algorithm::Gcra;
        let new_window = after_algorithm == Algorithm::Fixed && before.algorithm == Algorithm::Sliding;
        prop_assert!(leaks || new_window || room <= limit.saturating_sub(counted.min(limit)), "{room} of {limit}, {counted}");
    }

    /// A bucket that takes over from a log holds what it would, had it been there from the start.
    #[test]
    fn a_log_is_replayed_into_a_bucket(gaps in prop::collection::vec((0u64..100, 1u64..4), 1..20), rule in (1u64..9, 50u64..500)) {
        let wide = plan(Algorithm::Sliding, &[(1_000_000, DURATION_MS_MAX)]);
        let bucket = plan(Algorithm::Gcra, &[rule]);
        let (mut log, mut model, mut now) = (Limits::new(&wide), Limits::new(&bucket), START);
        for (gap_ms, units) in gaps {
            now = now.after(gap_ms);
            log.take(&wide, units, now);
            model.take(&bucket, units, now);
        }
        prop_assert_eq!(log.peek(&bucket, whole(1), now), model.peek(&bucket, whole(1), now));
    }

    #[test]
    fn rules_that_refuse_are_not_adopted(first in any_plan(), second in any_plan(), calls in calls(), ask in ask()) {
        let (mut limits, now) = after(&first, &calls);
        let before = limits.clone();
        if limits.decide(&second, ask, now).verdict.allowed == 0 {
            prop_assert_eq!(limits, before);
        }
    }
}

#[test]
fn a_change_of_the_limit_alone_keeps_the_count() {
    for algorithm in ALGORITHMS {
        let (old, new) = (plan(algorithm, &[(10, 60_000)]), plan(algorithm, &[(12, 60_000)]));
        let (mut limits, now) = (Limits::new(&old), UnixMillis(1_200_000_000_000));
        limits.decide(&old, whole(10), now);
        assert_eq!(limits.decide(&new, whole(3), now).verdict.allowed, 0, "{algorithm:?}");
        let verdict = limits.decide(&new, whole(2), now).verdict;
        assert_eq!((verdict.allowed, verdict.remaining), (2, 0), "{algorithm:?}");
        assert_eq!(limits.decide(&old, whole(1), now).verdict.allowed, 0, "{algorithm:?}");
    }
}
