//! Whatever payload is taken, and whatever is done to it then, can be written and read again: a state
//! that cannot be would be a file that no server loads.

use super::super::codec::{pack, unpack, Packed};
use super::super::throttle::Throttle;
use super::super::{varint, INSTANT_MAX};
use super::*;
use crate::engine::codec::Sink;

/// Instants of a hostile clock, or of `AT`.
fn instant() -> impl Strategy<Value = UnixMillis> {
    let now = START.0;
    prop_oneof![
        3 => 0u64..4,
        6 => now..now + 500,
        2 => now - 100_000..now + 100_000,
        1 => 0u64..DURATION_MS_MAX * 2,
        2 => INSTANT_MAX.0 - 500..=INSTANT_MAX.0 + 5,
        1 => any::<u64>(),
    ]
    .prop_map(UnixMillis)
}

fn units() -> impl Strategy<Value = u64> {
    prop_oneof![5 => 1u64..30, 1 => 1u64..=super::super::rules::UNITS_MAX]
}

/// What a command can do to a state.
#[derive(Clone, Debug)]
enum Step {
    Decide(Plan, Ask),
    Take(Plan, u64),
    Redate,
    Refund(u64),
    GiveBack(u64, UnixMillis),
    Throttle(Throttle),
    Foresee(Plan, Ask),
    Usage,
}

fn step() -> impl Strategy<Value = Step> {
    let throttle = (0u64..20, 1u64..30, 1u64..60, 0u64..20)
        .prop_map(|(burst, count, period_s, quantity)| Throttle::new(burst, count, period_s, quantity).unwrap());
    prop_oneof![
        5 => (any_plan(), ask()).prop_map(|(plan, ask)| Step::Decide(plan, ask)),
        3 => (any_plan(), units()).prop_map(|(plan, units)| Step::Take(plan, units)),
        4 => units().prop_map(Step::Refund),
        1 => Just(Step::Redate),
        2 => (units(), instant()).prop_map(|(units, taken)| Step::GiveBack(units, taken)),
        1 => throttle.prop_map(Step::Throttle),
        1 => (any_plan(), ask()).prop_map(|(plan, ask)| Step::Foresee(plan, ask)),
        1 => Just(Step::Usage),
    ]
}

fn steps() -> impl Strategy<Value = Vec<(UnixMillis, Step)>> {
    prop::collection::vec((instant(), step()), 1..25)
}

/// Makes the step; whether the state may have changed.
fn make(limits: &mut Limits, at: UnixMillis, step: &Step) -> bool {
    match step {
        Step::Decide(plan, ask) => limits.decide(plan, *ask, at).change != Change::None,
        Step::Take(plan, units) => {
            limits.take(plan, *units, at);
            true
        }
        Step::Redate => limits.redate(at),
        Step::Refund(units) => limits.refund(*units, at) > 0,
        Step::GiveBack(units, taken) => limits.give_back(*units, *taken, at) > 0,
        Step::Throttle(throttle) => limits.throttle(throttle, at).changed,
        Step::Foresee(plan, ask) => {
            let _ = limits.peek(plan, *ask, at);
            false
        }
        Step::Usage => {
            let _ = limits.usage(at);
            false
        }
    }
}

/// A state of any kind, from the start or in its last moments.
fn reached() -> impl Strategy<Value = Limits> {
    (any_plan(), steps()).prop_map(|(plan, steps)| {
        let mut limits = Limits::new(&plan);
        limits.take(&plan, 3, START);
        for (at, step) in steps {
            make(&mut limits, at, &step);
            if limits.counts_until().is_none() {
                limits.take(&plan, 1, at);
            }
        }
        limits
    })
}

/// A payload made of numbers by hand: a log, counts or buckets at the edges of what is taken.
fn forged() -> impl Strategy<Value = Vec<u8>> {
    let number = || {
        prop_oneof![
            4 => 0u64..9,
            2 => instant().prop_map(|at| at.0),
            1 => prop::sample::select(vec![1 << 62, (1 << 62) - 1, u64::MAX / 2, DURATION_MS_MAX, DURATION_MS_MAX - 1, 1_000_000]),
            1 => any::<u64>(),
        ]
    };
    let fields = prop::collection::vec(number(), 2..8);
    let log = prop::collection::vec((number(), number()), 0..6);
    (0u64..3, 1u64..3, fields, log).prop_map(|(algorithm, rules, fields, log)| {
        let mut packed = Packed::default();
        [1, algorithm, rules].iter().chain(&fields).for_each(|n| packed.put_unsigned(*n));
        let mut bytes = Vec::new();
        for (gap_ms, units) in log {
            varint::push(&mut bytes, gap_ms.saturating_mul(2) & !1);
            if units > 1 {
                varint::push(&mut bytes, (units - 2).saturating_mul(2) | 1);
            }
        }
        if algorithm == 0 {
            packed.put_bytes(&bytes);
        }
        packed.0
    })
}

/// A payload that was taken, whoever wrote it.
fn taken() -> impl Strategy<Value = Limits> {
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    let tampered = (reached(), changes).prop_map(|(limits, changes)| {
        let mut packed = pack(&limits);
        for (at, byte) in changes {
            let at = at.index(packed.len());
            packed[at] = byte;
        }
        unpack(&packed).unwrap_or(limits)
    });
    let forged = (forged(), reached()).prop_map(|(packed, limits)| unpack(&packed).unwrap_or(limits));
    prop_oneof![tampered, forged]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn whatever_is_done_to_whatever_was_taken_can_be_read_again(limits in taken(), steps in steps()) {
        let mut limits = limits;
        for (at, step) in steps {
            let before = limits.clone();
            let changed = make(&mut limits, at, &step);
            prop_assert!(changed || limits == before, "{step:?} at {at:?} said that it changed nothing");
            if limits.counts_until().is_none() {
                // The key goes with what counts.
                limits = before;
                continue;
            }
            let packed = pack(&limits);
            let read = unpack(&packed);
            prop_assert_eq!(read.as_ref(), Ok(&limits), "{:?} at {:?}", step, at);
            prop_assert_eq!(&pack(&read.unwrap()), &packed, "one state, one payload");
        }
    }

    /// A replica that got the state as a file, at any moment, goes on like the primary that reached it.
    #[test]
    fn one_that_was_read_goes_on_like_the_one_that_was_written(limits in taken(), steps in steps()) {
        let (mut primary, mut replica) = (limits.clone(), unpack(&pack(&limits)).unwrap());
        for (at, step) in steps {
            make(&mut primary, at, &step);
            make(&mut replica, at, &step);
            prop_assert_eq!(&primary, &replica);
            if primary.counts_until().is_none() {
                break;
            }
        }
    }
}

#[test]
fn units_given_back_in_1970_leave_a_log_that_can_be_read() {
    let plan = plan(Algorithm::Sliding, &[(5, 60_000)]);
    let mut limits = Limits::new(&plan);
    limits.take(&plan, 1, START);
    limits.take(&plan, 1, START.after(50));
    limits.take(&plan, 1, UnixMillis(1));
    assert_eq!(limits.refund(2, UnixMillis(1)), 2);
    assert_eq!(unpack(&pack(&limits)), Ok(limits.clone()));
    assert_eq!(limits.counts_until(), Some(UnixMillis(60_000)), "the one that is left is of 1970, and not before");
}

#[test]
fn who_names_another_hour_does_not_move_what_was_taken() {
    for algorithm in ALGORITHMS {
        let plan = plan(algorithm, &[(5, 60_000)]);
        let mut limits = Limits::new(&plan);
        limits.take(&plan, 2, START);
        let mut model = limits.clone();
        assert_eq!((limits.refund(1, UnixMillis(1)), model.refund(1, START)), (1, 1));
        assert_eq!(limits, model, "{algorithm:?}");
        assert_eq!(
            (limits.refund(1, INSTANT_MAX), &limits),
            (0, &model),
            "{algorithm:?}: nothing counts any more then"
        );
    }
}

/// A log as long as one may be, to which takings are added.
#[test]
fn the_longest_log_can_be_read_however_much_is_taken() {
    let plan = plan(Algorithm::Sliding, &[(1_000_000, DURATION_MS_MAX)]);
    let mut bytes = vec![0];
    while bytes.len() < (16 << 20) - 1 {
        bytes.extend([2]);
    }
    let mut packed = Packed::default();
    [1, 0, 1, 1_000_000, DURATION_MS_MAX, START.0].iter().for_each(|n| packed.put_unsigned(*n));
    packed.put_bytes(&bytes);
    let mut limits = unpack(&packed.0).unwrap();
    for units in [1, 1_000_000_000, 1_000_000_000] {
        limits.take(&plan, units, START.after(DURATION_MS_MAX / 2));
        assert_eq!(unpack(&pack(&limits)), Ok(limits.clone()));
    }
}

#[test]
fn no_payload_tells_of_a_log_that_is_longer_than_any_window() {
    let log = |gaps: &[u64]| {
        let mut packed = Packed::default();
        [1, 0, 1, 5, 60_000, INSTANT_MAX.0].iter().for_each(|n| packed.put_unsigned(*n));
        let mut bytes = Vec::new();
        gaps.iter().for_each(|gap_ms| varint::push(&mut bytes, gap_ms * 2));
        packed.put_bytes(&bytes);
        unpack(&packed.0).is_ok()
    };
    let most = DURATION_MS_MAX - 1;
    assert!(log(&[0]) && log(&[most, most]) && log(&[most, most / 2, most / 2]));
    assert!(!log(&[DURATION_MS_MAX]) && !log(&[0, DURATION_MS_MAX]) && !log(&[0, most, 1]) && !log(&[1 << 62]));
}
