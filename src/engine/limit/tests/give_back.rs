//! Units that nobody heard of are given back as those that they were, not as those taken last.

use super::*;
use crate::engine::limit::Mark;

/// The calls but for those at the places `without`.
fn without(plan: &Plan, calls: &[(u64, Ask)], without: usize) -> Limits {
    let (mut limits, mut now) = (Limits::new(plan), START);
    for (at, (pause_ms, ask)) in calls.iter().enumerate() {
        now = now.after(*pause_ms);
        if at != without {
            limits.take(plan, ask.units, now);
        }
    }
    limits
}

fn takings() -> impl Strategy<Value = Vec<(u64, Ask)>> {
    prop::collection::vec((0u64..30, (1u64..9).prop_map(whole)), 1..20)
}

proptest! {
    /// A log and a window count then as if they had never been taken.
    #[test]
    fn it_is_as_if_they_had_never_been_taken(
        algorithm in prop::sample::select(vec![Algorithm::Sliding, Algorithm::Fixed]),
        rules in prop::collection::vec((1u64..200, 1u64..200), 1..4),
        calls in takings(),
        which: prop::sample::Index,
        later_ms in 0u64..300,
    ) {
        let plan = plan(algorithm, &rules);
        let which = which.index(calls.len());
        let mut limits = without(&plan, &calls, usize::MAX);
        let (mut model, mut now, mut taken) = (without(&plan, &calls, which), START, START);
        for (at, (pause_ms, _)) in calls.iter().enumerate() {
            now = now.after(*pause_ms);
            taken = if at == which { now } else { taken };
        }
        now = now.after(later_ms);
        let units = calls[which].1.units;
        let given = limits.give_back(units, taken, now);
        prop_assert!(given <= units);
        for look_ms in [0, 1, 50, 200] {
            let at = now.after(look_ms);
            let used = |limits: &mut Limits| limits.usage(at).iter().map(|rule| rule.used).collect::<Vec<_>>();
            prop_assert_eq!(used(&mut limits), used(&mut model), "given back {}", given);
        }
    }

    /// A bucket does not know whose water is left in it: it gives back no more than is sure to be.
    #[test]
    fn a_bucket_is_never_emptier_than_without_them(
        rule in (1u64..30, 1u64..300), calls in takings(), which: prop::sample::Index, later_ms in 0u64..300,
    ) {
        let plan = plan(Algorithm::Gcra, &[rule]);
        let which = which.index(calls.len());
        let (mut limits, mut model, mut now, mut taken) = (Limits::new(&plan), Limits::new(&plan), START, (START, 0));
        for (at, (pause_ms, ask)) in calls.iter().enumerate() {
            now = now.after(*pause_ms);
            let allowed = limits.decide(&plan, partial(ask.units), now).verdict.allowed;
            if at == which {
                taken = (now, allowed);
            } else if allowed > 0 {
                model.take(&plan, allowed, now);
            }
        }
        now = now.after(later_ms);
        if taken.1 > 0 {
            limits.give_back(taken.1, taken.0, now);
        }
        let used = |limits: &mut Limits| limits.usage(now)[0].used;
        prop_assert!(used(&mut limits) >= used(&mut model));
        prop_assert!(later_ms > 0 || which + 1 < calls.len() || used(&mut limits) == used(&mut model), "at once: all of it");
    }

    /// Given back late they do not come out of what others took since.
    #[test]
    fn the_limit_holds_for_all_who_heard(limit in 1u64..40, window_ms in 1u64..100, late_ms in 0u64..200, algorithm in algorithm()) {
        let plan = plan(algorithm, &[(limit, window_ms)]);
        let (mut limits, now) = (Limits::new(&plan), START);
        let undelivered = limits.decide(&plan, partial(limit / 2 + 1), now).verdict.allowed;
        let mark = limits.mark(|| Mark(7));
        let mut delivered = Vec::new();
        let mut ask = |limits: &mut Limits, at: u64| {
            let allowed = limits.decide(&plan, partial(limit), now.after(at)).verdict.allowed;
            delivered.push((at, allowed));
        };
        (0..late_ms).for_each(|at| ask(&mut limits, at));
        if limits.is_marked(mark) {
            limits.give_back(undelivered, now, now.after(late_ms));
        }
        (late_ms..late_ms + 2 * window_ms).for_each(|at| ask(&mut limits, at));
        for from in 0..late_ms + window_ms {
            let inside = delivered.iter().filter(|(at, _)| (from..from + window_ms).contains(at));
            let most = if algorithm == Algorithm::Sliding { limit } else { limit * 2 };
            prop_assert!(inside.map(|(_, units)| units).sum::<u64>() <= most);
        }
    }
}

#[test]
fn a_value_is_known_until_its_times_are_others() {
    for algorithm in ALGORITHMS {
        let (plan, next) = (plan(algorithm, &[(9, 1_000)]), || Mark(3));
        let mut limits = Limits::new(&plan);
        limits.take(&plan, 2, START);
        assert_eq!((limits.mark(next), limits.mark(|| Mark(4))), (Mark(3), Mark(3)));
        limits.take(&plan, 1, START.after(5));
        limits.refund(1, START.after(5));
        assert!(limits.is_marked(Mark(3)));
        assert!(!limits.unmarked().is_marked(Mark(3)), "a copy is another one");
        assert_eq!(limits.give_back(2, START, START.before(5_000)), 0, "the clock has stepped back");
        limits.decide(&plan, whole(9), START.before(5_000));
        assert!(!limits.is_marked(Mark(3)), "dated anew");
    }
}

#[test]
fn a_log_keeps_its_mark_under_other_rules_and_nothing_else_does() {
    for algorithm in ALGORITHMS {
        let mut limits = Limits::new(&plan(algorithm, &[(9, 1_000)]));
        limits.take(&plan(algorithm, &[(9, 1_000)]), 2, START);
        limits.mark(|| Mark(3));
        limits.take(&plan(algorithm, &[(8, 2_000)]), 1, START);
        assert_eq!(limits.is_marked(Mark(3)), algorithm == Algorithm::Sliding);
    }
}
