//! SLIDING against a plain list of what was taken when.

use super::*;
use crate::engine::limit::log::Log;
use std::collections::VecDeque;

proptest! {
    #[test]
    fn it_counts_as_a_list_does(rules in rules(), calls in calls()) {
        let plan = plan(Algorithm::Sliding, &rules);
        let (mut limits, mut now) = (Limits::new(&plan), START);
        let mut taken: Vec<(UnixMillis, u64)> = Vec::new();
        for (pause_ms, ask) in calls {
            now = now.after(pause_ms);
            let used = |window_ms: u64| -> u64 {
                taken.iter().filter(|(at, _)| now.since(*at) < window_ms).map(|(_, units)| units).sum()
            };
            let room = rules.iter().map(|(limit, window_ms)| limit - used(*window_ms)).min().unwrap();
            let fits = match ask.amount {
                Amount::Whole if ask.units > room => 0,
                _ => ask.units.min(room),
            };
            prop_assert_eq!(limits.decide(&plan, ask, now).verdict.allowed, fits);
            if fits > 0 {
                taken.push((now, fits));
            }
            for (limit, window_ms) in &rules {
                // Any window that ends with a taking; no other can hold more.
                let ends = taken.iter().map(|(end, _)| {
                    let within = taken.iter().filter(|(at, _)| at <= end && end.since(*at) < *window_ms);
                    within.map(|(_, units)| units).sum::<u64>()
                });
                prop_assert!(ends.max().unwrap_or(0) <= *limit);
            }
        }
    }

    #[test]
    fn giving_back_is_as_if_the_last_had_not_come(
        rules in rules(),
        calls in prop::collection::vec((pause(), ask(), any::<bool>()), 1..60),
    ) {
        let plan = plan(Algorithm::Sliding, &rules);
        let widest_ms = rules.iter().map(|(_, window_ms)| *window_ms).max().unwrap();
        let (mut limits, mut now) = (Limits::new(&plan), START);
        let mut taken: VecDeque<(UnixMillis, u64)> = VecDeque::new();
        for (pause_ms, ask, refunds) in calls {
            now = now.after(pause_ms);
            taken.retain(|(at, _)| now.since(*at) < widest_ms);
            if refunds {
                let mut left = ask.units;
                while let Some((_, units)) = taken.back_mut() {
                    let part = left.min(*units);
                    (*units, left) = (*units - part, left - part);
                    if *units > 0 {
                        break;
                    }
                    taken.pop_back();
                }
                prop_assert_eq!(limits.refund(ask.units, now), ask.units - left);
            } else {
                let allowed = limits.decide(&plan, ask, now).verdict.allowed;
                if allowed > 0 {
                    taken.push_back((now, allowed));
                }
            }
            let room = rules.iter().map(|(limit, window_ms)| {
                let used: u64 = taken.iter().filter(|(at, _)| now.since(*at) < *window_ms).map(|(_, units)| units).sum();
                limit - used
            });
            prop_assert_eq!(limits.peek(&plan, partial(1 << 40), now).allowed, room.min().unwrap());
        }
    }

    /// Pushes at the end, losses at both ends, and reading back what was written.
    #[test]
    fn a_log_is_a_queue(steps in prop::collection::vec((0u8..4, 0u64..1 << 36, 1u64..1 << 24), 1..200)) {
        let (mut log, mut model, mut now) = (Log::default(), VecDeque::<(u64, u64)>::new(), 5u64);
        for (what, gap_ms, units) in steps {
            match (what, model.front().copied()) {
                (0, Some((at, first))) => {
                    let (_, next) = log.run(log.start()).unwrap();
                    let left = log.units - first;
                    log.forget(next, at, left);
                    model.pop_front();
                }
                (1, Some(_)) => {
                    let (popped, _) = log.pop(units).unwrap();
                    let last = model.back_mut().unwrap();
                    prop_assert_eq!(popped, units.min(last.1));
                    last.1 -= popped;
                    if last.1 == 0 {
                        model.pop_back();
                        now = model.back().map_or(log.origin, |(at, _)| *at);
                    }
                }
                (2, Some(_)) => {
                    log.push(units, now);
                    model.back_mut().unwrap().1 += units;
                }
                _ => {
                    now += gap_ms + 1;
                    log.push(units, now);
                    model.push_back((now, units));
                }
            }
            let (mut start, mut at, mut seen) = (log.start(), log.origin, VecDeque::new());
            while let Some((run, next)) = log.run(start) {
                at += run.gap_ms;
                seen.push_back((at, run.units));
                let usual = run.gap_ms < 1 << 34 && run.units <= 1_000_000;
                prop_assert!(next - start <= 8 || !usual);
                start = next;
            }
            prop_assert_eq!(&seen, &model);
            prop_assert_eq!(log.units, model.iter().map(|(_, units)| units).sum::<u64>());
            prop_assert_eq!(log.is_empty(), model.is_empty());
            // No window is as long as the log of this test may become.
            if !log.is_empty() && now - log.origin < DURATION_MS_MAX {
                let read = Log::read(log.bytes(), log.last);
                prop_assert_eq!(read.as_ref(), Some(&log));
            }
        }
    }
}

#[test]
fn a_request_counts_for_exactly_one_window() {
    let plan = plan(Algorithm::Sliding, &[(2, 1_000)]);
    let mut limits = Limits::new(&plan);
    let at = |ms: u64| START.after(ms);
    for ms in [0, 400] {
        assert_eq!(limits.decide(&plan, whole(1), at(ms)).verdict.allowed, 1);
    }
    let refused = limits.decide(&plan, whole(1), at(999)).verdict;
    assert_eq!((refused.allowed, refused.retry_after_ms, refused.reset_ms), (0, Some(1), 401));
    assert_eq!(limits.decide(&plan, whole(1), at(1_000)).verdict.allowed, 1);
    assert_eq!(limits.decide(&plan, whole(1), at(1_399)).verdict.retry_after_ms, Some(1));
    assert_eq!(limits.counts_until(), Some(at(2_000)));
}

#[test]
fn a_full_key_is_small() {
    for (limit, bytes_max) in [(100, 600), (1_000, 5_000), (100_000, 400_000)] {
        for gap_ms in [3, 100, 1_000] {
            let plan = plan(Algorithm::Sliding, &[(limit, limit * gap_ms)]);
            let mut limits = Limits::new(&plan);
            for call in 0..limit * 5 {
                assert_eq!(limits.decide(&plan, whole(1), START.after(call * gap_ms)).verdict.allowed, 1);
            }
            assert!(limits.heap_bytes() <= bytes_max, "limit {limit}, gap {gap_ms}: {}", limits.heap_bytes());
        }
    }
}

/// A refusal looks ahead; if the clock then steps back, though not behind the last taking, what it
/// left behind counts again.
#[test]
fn what_a_refusal_saw_go_counts_again_after_a_step_back() {
    let plan = plan(Algorithm::Sliding, &[(3, 1_000), (2, 100)]);
    let mut limits = Limits::new(&plan);
    assert_eq!(limits.decide(&plan, whole(2), START).verdict.allowed, 2);
    assert_eq!(limits.decide(&plan, whole(2), START.after(500)).verdict.allowed, 0);
    let refused = limits.decide(&plan, whole(1), START.after(50));
    assert_eq!((refused.verdict.limit, refused.verdict.retry_after_ms, refused.change), (2, Some(50), Change::None));
}
