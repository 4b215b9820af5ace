//! What an observer is shown of each rule.

use super::super::rules::Usage;
use super::super::throttle::Throttle;
use super::*;

proptest! {
    #[test]
    fn what_is_left_is_what_a_call_would_get(plan in any_plan(), calls in calls(), later_ms in pause(), back: bool) {
        let (mut limits, now) = after(&plan, &calls);
        let now = if back { now.before(later_ms) } else { now.after(later_ms) };
        let before = limits.clone();
        let seen = limits.usage(now);
        prop_assert_eq!(&limits, &before, "looking changes nothing");
        prop_assert_eq!(seen.len(), plan.rules().len());
        let fits = limits.peek(&plan, partial(u64::MAX / 4), now).allowed;
        prop_assert_eq!(seen.iter().map(|usage| usage.remaining).min(), Some(fits));
        for (usage, rule) in seen.iter().zip(plan.rules()) {
            prop_assert_eq!(usage.rule, *rule);
            prop_assert_eq!(usage.remaining, rule.limit.saturating_sub(usage.used));
            prop_assert_eq!(usage.used == 0, usage.reset_ms == 0);
            prop_assert!(usage.reset_ms <= rule.window_ms);
        }
    }

    /// A look from before the last taking sees what a decision then would find.
    #[test]
    fn a_peek_after_a_step_back_says_what_the_call_gets(
        plan in any_plan(), other in any_plan(), calls in calls(), back_ms in pause(), ask in ask(), same: bool,
    ) {
        let (mut limits, now) = after(&plan, &calls);
        let (now, plan) = (now.before(back_ms), if same { plan } else { other });
        let before = limits.clone();
        let seen = limits.peek(&plan, ask, now);
        prop_assert_eq!(&limits, &before);
        prop_assert_eq!(limits.decide(&plan, ask, now).verdict, seen);
    }
}

#[test]
fn a_bucket_of_redis_cell_is_shown_with_the_time_it_takes_to_leak_empty() {
    let throttle = Throttle::new(15, 30, 60, 5).unwrap();
    let mut limits = Limits::throttled(&throttle);
    limits.throttle(&throttle, START);
    let rule = Rule { limit: 16, window_ms: 32_000 };
    assert_eq!(limits.usage(START), [Usage { rule, used: 5, remaining: 11, reset_ms: 10_000 }]);
    assert_eq!(limits.usage(START.after(1_999)), [Usage { rule, used: 5, remaining: 11, reset_ms: 8_001 }]);
}
