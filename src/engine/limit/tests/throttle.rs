//! `CL.THROTTLE` against redis-cell's arithmetic, written anew in nanoseconds.

use super::super::throttle::{Throttle, Throttled, BURST_MAX, PERIOD_S_MAX};
use super::*;

/// The parameters of a call beside its key.
#[derive(Clone, Copy, Debug)]
struct Call {
    max_burst: i128,
    count: i128,
    period_s: i128,
    quantity: i128,
}

/// The five integers of redis-cell 0.4 for a call at `now` (milliseconds), and what it keeps.
fn redis_cell(call: Call, now: u64, kept: &mut Option<i128>) -> [i128; 5] {
    let now = i128::from(now) * 1_000_000;
    let interval = call.period_s * 1_000_000_000 / call.count;
    let (tolerance, increment) = (interval * (call.max_burst + 1), interval * call.quantity);
    let tat = kept.filter(|tat| *tat > now).unwrap_or(now);
    let early = tat + increment - tolerance - now;
    let limited = early > 0;
    if !limited {
        *kept = Some(tat + increment);
    }
    let ttl = if limited { tat - now } else { tat + increment - now };
    let up = |ns: i128| ns / 1_000_000_000 + i128::from(ns % 1_000_000_000 >= 1_000_000);
    let retry = if limited && increment <= tolerance { up(early) } else { -1 };
    [limited.into(), call.max_burst + 1, ((tolerance - ttl) / interval).max(0), retry, up(ttl)]
}

fn ours(reply: Throttled) -> [i128; 5] {
    let Throttled { limited, limit, remaining, retry_after_s, reset_after_s, .. } = reply;
    [limited.into(), limit.into(), remaining.into(), retry_after_s.map_or(-1, i128::from), reset_after_s.into()]
}

fn call() -> impl Strategy<Value = Call> {
    (0i128..30, 1i128..40, 1i128..100, 0i128..35).prop_map(|(max_burst, count, period_s, quantity)| Call {
        max_burst,
        count,
        period_s,
        quantity,
    })
}

fn throttle(call: Call) -> Throttle {
    let [max_burst, count, period_s, quantity] =
        [call.max_burst, call.count, call.period_s, call.quantity].map(|n| u64::try_from(n).unwrap());
    Throttle::new(max_burst, count, period_s, quantity).unwrap()
}

/// Equal, but for a time to the next try that has less than a millisecond beyond whole seconds:
/// that is where redis-cell says a second too few.
fn agree(ours: [i128; 5], theirs: [i128; 5]) -> bool {
    let rounded_up = ours[3] == theirs[3] + 1 && theirs[3] >= 0;
    let [_, _, _, retry, _] = &ours;
    ours == theirs || rounded_up && ours == [theirs[0], theirs[1], theirs[2], *retry, theirs[4]]
}

proptest! {
    #[test]
    fn it_gives_the_integers_of_redis_cell(calls in prop::collection::vec((0u64..3_000, call()), 1..40), same: bool) {
        let (mut kept, mut limits, mut now) = (None, None, START);
        let first = calls[0].1;
        for (pause_ms, each) in calls {
            now = now.after(pause_ms);
            let call = if same { Call { quantity: each.quantity, ..first } } else { each };
            let throttle = throttle(call);
            let limits = limits.get_or_insert_with(|| Limits::throttled(&throttle));
            let (ours, theirs) = (ours(limits.throttle(&throttle, now)), redis_cell(call, now.0, &mut kept));
            prop_assert!(agree(ours, theirs), "{call:?}: {ours:?}, redis-cell {theirs:?}");
        }
    }

    #[test]
    fn who_comes_back_when_told_is_let_through(calls in prop::collection::vec((0u64..3_000, 1i128..9), 1..40), call in call()) {
        let (mut limits, mut now) = (Limits::throttled(&throttle(call)), START);
        for (pause_ms, quantity) in calls {
            now = now.after(pause_ms);
            let throttle = throttle(Call { quantity, ..call });
            let reply = limits.throttle(&throttle, now);
            if let Some(seconds) = reply.retry_after_s {
                prop_assert!(seconds > 0);
                prop_assert!(!limits.clone().throttle(&throttle, now.after(seconds * 1_000)).limited);
                prop_assert!(limits.clone().throttle(&throttle, now.after(seconds * 1_000 - 1_000)).limited);
            }
        }
    }
}

#[test]
fn the_readme_s_example() {
    let throttle = Throttle::new(15, 30, 60, 1).unwrap();
    let mut limits = Limits::throttled(&throttle);
    assert_eq!(ours(limits.throttle(&throttle, START)), [0, 16, 15, -1, 2]);
    for _ in 0..15 {
        limits.throttle(&throttle, START);
    }
    assert_eq!(ours(limits.throttle(&throttle, START)), [1, 16, 0, 2, 32]);
}

#[test]
fn what_no_bucket_can_do_is_refused() {
    assert!(Throttle::new(0, 1, 1, 1).is_some());
    assert!(Throttle::new(BURST_MAX, 1_000_000_000, 1, 1).is_some());
    assert!(Throttle::new(0, 1, PERIOD_S_MAX, 1).is_some());
    assert!(Throttle::new(1, 1, PERIOD_S_MAX, 1).is_none(), "it leaks for longer than ten years");
    assert!(Throttle::new(0, 1_000_000_001, 1, 1).is_none(), "less than a nanosecond a unit");
}

#[test]
fn a_step_of_the_clock_back_locks_nobody_out() {
    let throttle = Throttle::new(4, 5, 1, 5).unwrap();
    let mut limits = Limits::throttled(&throttle);
    assert!(!limits.throttle(&throttle, START).limited);
    let before = START.before(3_600_000);
    let reply = limits.throttle(&throttle, before);
    assert_eq!((reply.limited, reply.retry_after_s, reply.changed), (true, Some(1), true));
    assert!(!limits.throttle(&throttle, before.after(1_000)).limited);
}
