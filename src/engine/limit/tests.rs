//! What holds for every algorithm, with one rule and with several, whatever the clock does.
//!
//! Each algorithm is also compared with a naive model of its own, in the modules below.

mod adapt;
mod codec;
mod fixed;
mod gcra;
mod give_back;
mod reach;
mod sliding;
mod throttle;
mod usage;

use super::rules::{Algorithm, Amount, Ask, Plan, Rule, Verdict};
use super::{Change, Decision, Limits};
use crate::engine::time::{UnixMillis, DURATION_MS_MAX};
use proptest::prelude::*;

const ALGORITHMS: [Algorithm; 3] = [Algorithm::Sliding, Algorithm::Fixed, Algorithm::Gcra];

fn plan(algorithm: Algorithm, rules: &[(u64, u64)]) -> Plan {
    let mut plan = Plan::new(algorithm);
    rules.iter().for_each(|(limit, window_ms)| assert!(plan.push(Rule { limit: *limit, window_ms: *window_ms })));
    plan
}

fn whole(units: u64) -> Ask {
    Ask { units, amount: Amount::Whole }
}

fn partial(units: u64) -> Ask {
    Ask { units, amount: Amount::Partial }
}

fn algorithm() -> impl Strategy<Value = Algorithm> {
    prop::sample::select(&ALGORITHMS[..])
}

/// Small numbers, so that limits are reached, and now and then large ones.
fn rule() -> impl Strategy<Value = (u64, u64)> {
    let limit = prop_oneof![8 => 1u64..20, 1 => 1u64..=1_000_000];
    (limit, prop_oneof![8 => 1u64..200, 1 => 1u64..=DURATION_MS_MAX])
}

fn rules() -> impl Strategy<Value = Vec<(u64, u64)>> {
    prop::collection::vec(rule(), 1..4)
}

fn any_plan() -> impl Strategy<Value = Plan> {
    (algorithm(), rules()).prop_map(|(algorithm, rules)| plan(algorithm, &rules))
}

fn ask() -> impl Strategy<Value = Ask> {
    let units = prop_oneof![6 => Just(1u64), 3 => 1u64..25, 1 => 1u64..=1_000_000_000];
    (units, any::<bool>()).prop_map(|(units, part)| if part { partial(units) } else { whole(units) })
}

/// Milliseconds between two calls.
fn pause() -> impl Strategy<Value = u64> {
    prop_oneof![3 => Just(0u64), 5 => 0u64..60, 1 => 0u64..1_000, 1 => 0u64..=DURATION_MS_MAX]
}

/// Calls and the pauses before them, on a clock that does not step.
fn calls() -> impl Strategy<Value = Vec<(u64, Ask)>> {
    prop::collection::vec((pause(), ask()), 1..60)
}

const START: UnixMillis = UnixMillis(1_700_000_000_123);

/// The state after `calls`, and the time then.
fn after(plan: &Plan, calls: &[(u64, Ask)]) -> (Limits, UnixMillis) {
    let (mut limits, mut now) = (Limits::new(plan), START);
    for (pause_ms, ask) in calls {
        now = now.after(*pause_ms);
        limits.decide(plan, *ask, now);
    }
    (limits, now)
}

/// The state of a replica that is told of what was taken.
fn follow(replica: &mut Limits, plan: &Plan, change: Change, verdict: Verdict, primary: &Limits, now: UnixMillis) {
    match change {
        Change::None => {}
        Change::Taken => replica.take(plan, verdict.allowed, now),
        Change::Redated => *replica = super::codec::unpack(&super::codec::pack(primary)).unwrap(),
    }
}

proptest! {
    #[test]
    fn refused_one_ms_before_and_allowed_at_it(plan in any_plan(), calls in calls(), ask in ask()) {
        let (mut limits, now) = after(&plan, &calls);
        let Decision { verdict, .. } = limits.clone().decide(&plan, ask, now);
        match (verdict.allowed, verdict.retry_after_ms) {
            (0, None) => {
                let most = plan.rules().iter().map(|rule| rule.limit).min().unwrap();
                prop_assert!(ask.units > most && ask.amount == Amount::Whole);
            }
            (0, Some(ms)) => {
                prop_assert!(ms > 0);
                let before = limits.decide(&plan, ask, now.after(ms - 1));
                prop_assert_eq!((before.verdict.allowed, before.change), (0, Change::None));
                let at = limits.decide(&plan, ask, now.after(ms)).verdict.allowed;
                prop_assert!(at > 0 && (at == ask.units || ask.amount == Amount::Partial));
            }
            (allowed, retry) => prop_assert!(allowed <= ask.units && retry == Some(0)),
        }
    }

    #[test]
    fn it_is_whole_again_at_reset_and_not_before(algorithm in algorithm(), rule in rule(), calls in calls()) {
        let plan = plan(algorithm, &[rule]);
        let (mut limits, now) = after(&plan, &calls);
        let verdict = limits.decide(&plan, whole(1), now).verdict;
        prop_assert!(verdict.reset_ms > 0);
        let all = whole(rule.0);
        prop_assert_eq!(limits.peek(&plan, all, now.after(verdict.reset_ms - 1)).allowed, 0);
        prop_assert_eq!(limits.peek(&plan, all, now.after(verdict.reset_ms)).allowed, rule.0);
        prop_assert!(limits.counts_until() <= Some(now.after(verdict.reset_ms)));
    }

    /// A rule that sees only what all of them allowed is a key of its own with just that rule.
    #[test]
    fn several_rules_take_from_all_or_from_none(algorithm in algorithm(), rules in rules(), calls in calls()) {
        let together = plan(algorithm, &rules);
        let alone: Vec<_> = rules.iter().map(|rule| plan(algorithm, &[*rule])).collect();
        let mut all = Limits::new(&together);
        let mut each: Vec<_> = alone.iter().map(Limits::new).collect();
        let mut now = START;
        for (pause_ms, ask) in calls {
            now = now.after(pause_ms);
            let before = all.clone();
            let verdict = all.decide(&together, ask, now).verdict;
            let alone_would = each.iter_mut().zip(&alone).map(|(limits, plan)| limits.peek(plan, ask, now));
            let would: Vec<_> = alone_would.collect();
            prop_assert_eq!(verdict.allowed, would.iter().map(|verdict| verdict.allowed).min().unwrap());
            if verdict.allowed == 0 {
                prop_assert_eq!(&all, &before);
                let longest = would.iter().map(|verdict| verdict.retry_after_ms.unwrap_or(u64::MAX)).max().unwrap();
                prop_assert_eq!(verdict.retry_after_ms.unwrap_or(u64::MAX), longest);
                continue;
            }
            for (limits, plan) in each.iter_mut().zip(&alone) {
                limits.take(plan, verdict.allowed, now);
            }
            let left = each.iter_mut().zip(&alone).map(|(limits, plan)| room(limits, plan, now)).min().unwrap();
            prop_assert_eq!(verdict.remaining, left);
        }
    }

    #[test]
    fn a_peek_says_what_the_call_gets_and_changes_nothing(plan in any_plan(), calls in calls(), asked in ask()) {
        let (mut limits, now) = after(&plan, &calls);
        let before = limits.clone();
        let seen = limits.peek(&plan, asked, now);
        prop_assert_eq!(&limits, &before);
        prop_assert_eq!(limits.decide(&plan, asked, now).verdict, seen);
    }

    /// Wherever the clock goes, whoever keeps trying is let through within one window of a clock
    /// that has stopped stepping.
    #[test]
    fn no_step_of_the_clock_locks_anybody_out(
        plan in any_plan(),
        calls in prop::collection::vec((any::<u64>(), pause(), ask()), 1..30),
        end in 0u64..1 << 61,
    ) {
        let mut limits = Limits::new(&plan);
        let mut now = START;
        for (step, pause_ms, ask) in calls {
            now = match step % 4 {
                0 => UnixMillis(step),
                1 => now.before(pause_ms),
                _ => now.after(pause_ms),
            };
            limits.decide(&plan, ask, now);
        }
        let now = UnixMillis(end);
        let verdict = limits.decide(&plan, whole(1), now).verdict;
        let window_ms = plan.rules().iter().map(|rule| rule.window_ms).max().unwrap();
        let wait_ms = verdict.retry_after_ms.unwrap();
        prop_assert!(wait_ms <= window_ms, "{wait_ms} > {window_ms}");
        prop_assert!(verdict.allowed == 1 || limits.decide(&plan, whole(1), now.after(wait_ms)).verdict.allowed == 1);
        prop_assert!(limits.counts_until() <= Some(now.after(wait_ms).after(window_ms)));
    }

    /// Nothing is let through sooner because the clock stepped back.
    #[test]
    fn a_step_back_forgets_nothing(plan in any_plan(), calls in calls(), back_ms in 1u64..=DURATION_MS_MAX) {
        let (mut limits, now) = after(&plan, &calls);
        let stood_still = limits.peek(&plan, whole(1), now);
        let stepped = limits.decide(&plan, whole(1), now.before(back_ms)).verdict;
        let fixed_window_is_new = plan.algorithm == Algorithm::Fixed;
        prop_assert!(stepped.allowed <= stood_still.allowed || fixed_window_is_new);
        prop_assert!(stepped.remaining <= stood_still.remaining || fixed_window_is_new || stepped.allowed == 0);
    }

    #[test]
    fn what_is_given_back_was_taken(
        plan in any_plan(),
        calls in prop::collection::vec((pause(), ask(), any::<bool>()), 1..60),
    ) {
        let (mut limits, mut now) = (Limits::new(&plan), START);
        let (mut taken, mut given) = (0, 0);
        for (pause_ms, ask, refunds) in calls {
            now = now.after(pause_ms);
            if refunds {
                let before = limits.peek(&plan, partial(u64::MAX / 4), now);
                let back = limits.refund(ask.units, now);
                prop_assert!(back <= ask.units);
                given += back;
                let after = limits.peek(&plan, partial(u64::MAX / 4), now);
                prop_assert!(after.allowed >= before.allowed && after.allowed - before.allowed <= back);
            } else {
                taken += limits.decide(&plan, ask, now).verdict.allowed;
            }
            prop_assert!(given <= taken);
        }
    }

    #[test]
    fn what_was_just_taken_is_given_back_whole(plan in any_plan(), calls in calls(), ask in ask()) {
        let (mut limits, now) = after(&plan, &calls);
        let mut before = limits.clone();
        let allowed = limits.decide(&plan, ask, now).verdict.allowed;
        prop_assert_eq!(limits.refund(allowed, now), allowed);
        for units in [1, 2, 5, ask.units] {
            prop_assert_eq!(limits.peek(&plan, whole(units), now), before.peek(&plan, whole(units), now));
        }
    }

    /// A replica that is told only of changes ends with the same bytes, whatever was asked between.
    #[test]
    fn effects_give_a_replica_the_same_state(
        plans in prop::collection::vec(any_plan(), 1..3),
        calls in prop::collection::vec((any::<u8>(), pause(), ask()), 1..60),
    ) {
        let (mut primary, mut replica, mut now) = (Limits::new(&plans[0]), Limits::new(&plans[0]), START);
        for (draw, pause_ms, ask) in calls {
            now = if draw % 8 == 0 { now.before(pause_ms) } else { now.after(pause_ms) };
            let plan = &plans[usize::from(draw) % plans.len()];
            if draw % 8 == 1 {
                let given = primary.refund(ask.units, now);
                prop_assert_eq!(replica.refund(ask.units, now), given);
            } else {
                let Decision { verdict, change } = primary.decide(plan, ask, now);
                follow(&mut replica, plan, change, verdict, &primary, now);
            }
            prop_assert_eq!(super::codec::pack(&primary), super::codec::pack(&replica));
        }
    }

    #[test]
    fn any_instant_and_any_amount_is_survived(
        plan in any_plan(),
        calls in prop::collection::vec((any::<u64>(), any::<u64>(), any::<u8>()), 1..20),
    ) {
        let mut limits = Limits::new(&plan);
        for (at, units, what) in calls {
            let at = UnixMillis(at);
            match what % 4 {
                0 => limits.take(&plan, (units % super::rules::UNITS_MAX).max(1), at),
                1 => drop(limits.refund(units, at)),
                2 => drop(limits.peek(&plan, partial(units.max(1)), at)),
                _ => drop(limits.decide(&plan, whole(units.max(1)), at)),
            }
            let _ = (limits.counts_until(), limits.heap_bytes());
        }
    }
}

/// What a rule of its own has left.
fn room(limits: &mut Limits, plan: &Plan, now: UnixMillis) -> u64 {
    match limits.peek(plan, whole(u64::MAX / 4), now) {
        Verdict { allowed: 0, remaining, .. } => remaining,
        verdict => panic!("allowed {verdict:?}"),
    }
}

#[test]
fn the_tightest_rule_speaks() {
    for algorithm in ALGORITHMS {
        let plan = plan(algorithm, &[(10, 600_000), (3, 1_000), (3, 60_000)]);
        let (mut limits, now) = (Limits::new(&plan), UnixMillis(1_200_000_000_000));
        let spoke = limits.decide(&plan, whole(1), now).verdict;
        assert_eq!((spoke.allowed, spoke.limit, spoke.remaining), (1, 3, 2));
        let longest_ms = if algorithm == Algorithm::Gcra { 20_000 } else { 60_000 };
        assert_eq!(spoke.reset_ms, longest_ms, "of two with as little left, the one that takes longer");
        limits.decide(&plan, whole(2), now);
        let refused = limits.decide(&plan, whole(1), now).verdict;
        assert_eq!((refused.allowed, refused.limit, refused.remaining), (0, 3, 0));
        assert_eq!(refused.retry_after_ms, Some(longest_ms), "the one that refuses longest");
        let never = limits.decide(&plan, whole(11), now).verdict;
        assert_eq!((never.limit, never.retry_after_ms), (10, None), "of those that never let it through, the first");
    }
}

#[test]
fn a_hundred_thousand_a_second_are_counted_one_by_one() {
    for algorithm in ALGORITHMS {
        let plan = plan(algorithm, &[(100_000, 1_000)]);
        let (mut limits, start) = (Limits::new(&plan), UnixMillis(1_200_000_000_000));
        let at = |call: u64| start.after(call / 400);
        let allowed: u64 = (0..400_000).map(|call| limits.decide(&plan, whole(1), at(call)).verdict.allowed).sum();
        let leaked = if algorithm == Algorithm::Gcra { 99_900 } else { 0 };
        assert_eq!(allowed, 100_000 + leaked, "{algorithm:?}");
        assert!(limits.heap_bytes() < 20_000, "{algorithm:?} needs {}", limits.heap_bytes());
    }
}
