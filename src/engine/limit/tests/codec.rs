//! Whatever is written is read, and nothing else is.

use super::super::codec::{pack, unpack};
use super::*;
use crate::engine::codec::Corrupt;

fn any_limits() -> impl Strategy<Value = Limits> {
    (any_plan(), calls()).prop_map(|(plan, calls)| {
        let (mut limits, now) = after(&plan, &calls);
        limits.take(&plan, 1, now);
        limits
    })
}

proptest! {
    #[test]
    fn what_is_packed_is_unpacked(limits in any_limits(), pause_ms in pause(), ask in ask(), plan in any_plan()) {
        let packed = pack(&limits);
        let mut read = unpack(&packed).unwrap();
        prop_assert_eq!(&read, &limits);
        let now = START.after(pause_ms);
        prop_assert_eq!(read.decide(&plan, ask, now), limits.clone().decide(&plan, ask, now));
    }

    #[test]
    fn every_cut_and_every_addition_is_refused(limits in any_limits(), at: prop::sample::Index, more: u8) {
        let mut packed = pack(&limits);
        let keep = at.index(packed.len());
        prop_assert!(unpack(&packed[..keep]).is_err());
        packed.push(more);
        prop_assert!(unpack(&packed).is_err());
    }

    #[test]
    fn a_payload_that_was_tampered_with_does_no_harm(
        limits in any_limits(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        calls in prop::collection::vec((any::<u64>(), ask(), any_plan()), 1..6),
    ) {
        let mut packed = pack(&limits);
        for (at, byte) in changes {
            let at = at.index(packed.len());
            packed[at] = byte;
        }
        if let Ok(mut limits) = unpack(&packed) {
            prop_assert_eq!(pack(&limits), packed, "one state, one payload");
            for (at, ask, plan) in calls {
                let at = UnixMillis(at);
                let _ = (limits.peek(&plan, ask, at), limits.decide(&plan, ask, at), limits.refund(ask.units, at));
                let _ = (limits.counts_until(), limits.heap_bytes());
            }
        }
    }

    #[test]
    fn any_bytes_are_limits_or_an_error(bytes: Vec<u8>) {
        let _ = unpack(&bytes);
    }
}

#[test]
fn the_future_and_the_impossible_are_refused() {
    let limits = |algorithm| {
        let plan = plan(algorithm, &[(5, 100)]);
        let mut limits = Limits::new(&plan);
        limits.take(&plan, 3, UnixMillis(100));
        pack(&limits)
    };
    for algorithm in ALGORITHMS {
        let good = limits(algorithm);
        assert!(unpack(&good).is_ok());
        let with = |at: usize, byte: u8| {
            let mut bad = good.clone();
            bad[at] = byte;
            unpack(&bad).unwrap_err()
        };
        assert_eq!(with(0, 2), Corrupt::FutureVersion);
        assert_eq!(with(1, 3), Corrupt::OutOfRange);
        assert_eq!(with(2, 0), Corrupt::OutOfRange, "no rules");
        assert_eq!(with(2, 17), Corrupt::OutOfRange, "too many rules");
        assert_eq!(with(3, 0), Corrupt::OutOfRange, "a limit or an interval of 0");
    }
}
