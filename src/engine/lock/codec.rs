//! How a lock is written and read back. A payload is untrusted: `RESTORE` takes any bytes.
//!
//! Layout of encoding version 1: mode (0 exclusive, 1 shared, 2 permits), permits (0 but for mode
//! 2), number of holders, and for each: owner, number, deadline. Connections are not written: what
//! they are called means nothing elsewhere.

use super::super::codec::{Corrupt, Sink, Source};
use super::super::time::UnixMillis;
use super::{Holder, Lock, Mode, Owner, FENCE_MAX, HOLDERS_MAX, OWNER_BYTES_MAX};
use crate::engine::id::Bond;
use std::collections::BTreeSet;

/// The encoding version written by this release; a reader refuses any other.
pub const ENCODING_VERSION: i32 = 1;
/// The latest deadline: later ones are no times to the server.
pub const DEADLINE_MS_MAX: u64 = i64::MAX as u64 / 2;

/// Writes `lock`. O(holders).
pub fn encode(lock: &Lock, sink: &mut impl Sink) {
    let (mode, permits) = match lock.mode {
        Mode::Exclusive => (0, 0),
        Mode::Shared => (1, 0),
        Mode::Permits(n) => (2, n),
    };
    sink.put_unsigned(mode);
    sink.put_unsigned(permits.into());
    sink.put_unsigned(lock.holders.len() as u64);
    for holder in &lock.holders {
        sink.put_bytes(&holder.owner);
        sink.put_unsigned(holder.fence);
        sink.put_unsigned(holder.deadline.0);
    }
}

/// Reads what [`encode`] wrote with `version`.
///
/// # Errors
/// [`Corrupt`], whatever the input; it never panics, nor does it believe a count before it has
/// checked it.
pub fn decode(version: i32, source: &mut impl Source) -> Result<Lock, Corrupt> {
    if version != ENCODING_VERSION {
        return Err(Corrupt::FutureVersion);
    }
    let mut next = || source.take_unsigned().ok_or(Corrupt::Cut);
    let (mode, permits, count) = (next()?, next()?, next()?);
    let mode = match (mode, permits) {
        (0, 0) => Mode::Exclusive,
        (1, 0) => Mode::Shared,
        (2, 1..) => Mode::Permits(u32::try_from(permits).map_err(|_| Corrupt::OutOfRange)?),
        _ => return Err(Corrupt::OutOfRange),
    };
    let count = usize::try_from(count).map_err(|_| Corrupt::OutOfRange)?;
    if mode.places() > HOLDERS_MAX || !(1..=mode.places()).contains(&count) {
        return Err(Corrupt::OutOfRange);
    }
    let mut holders: Vec<Holder> = Vec::new();
    for _ in 0..count {
        let holder = decode_holder(source)?;
        let follows = |last: &Holder| (last.fence, &last.owner) < (holder.fence, &holder.owner);
        if !holders.last().is_none_or(follows) {
            return Err(Corrupt::OutOfRange);
        }
        holders.push(holder);
    }
    let owners: BTreeSet<_> = holders.iter().map(|holder| &holder.owner).collect();
    if owners.len() != count {
        return Err(Corrupt::OutOfRange);
    }
    Ok(Lock { mode, holders })
}

fn decode_holder(source: &mut impl Source) -> Result<Holder, Corrupt> {
    let owner = |bytes: &[u8]| (bytes.len() <= OWNER_BYTES_MAX).then(|| Owner::from(bytes));
    let owner = source.take_bytes(owner).ok_or(Corrupt::Cut)?.ok_or(Corrupt::OutOfRange)?;
    let mut next = || source.take_unsigned().ok_or(Corrupt::Cut);
    let (fence, deadline) = (next()?, next()?);
    if !(1..=FENCE_MAX).contains(&fence) || deadline > DEADLINE_MS_MAX {
        return Err(Corrupt::OutOfRange);
    }
    let (client, bond, told_twice) = (None, Bond::Free, false);
    Ok(Holder { owner, fence, deadline: UnixMillis(deadline), client, bond, told_twice })
}

#[cfg(test)]
mod tests {
    use super::super::value::Change;
    use super::*;
    use crate::engine::codec::fields::{Field, Fields};
    use proptest::prelude::*;

    fn holder() -> impl Strategy<Value = Holder> {
        let owner = proptest::collection::vec(any::<u8>(), 0..8);
        (owner, 1..=FENCE_MAX, 0..=DEADLINE_MS_MAX).prop_map(|(owner, fence, deadline)| Holder {
            owner: owner.into(),
            fence,
            deadline: UnixMillis(deadline),
            client: None,
            bond: Bond::Free,
            told_twice: false,
        })
    }

    fn lock() -> impl Strategy<Value = Lock> {
        let modes = prop_oneof![Just(Mode::Exclusive), Just(Mode::Shared), (8..=10_000u32).prop_map(Mode::Permits)];
        (modes, proptest::collection::vec(holder(), 1..8)).prop_map(|(mode, holders)| {
            let mut lock = Lock { mode, holders: Vec::new() };
            holders.into_iter().for_each(|holder| drop(lock.apply(Change::Hold { mode, holder })));
            lock
        })
    }

    fn field() -> impl Strategy<Value = Field> {
        let small = prop_oneof![0..4u64, any::<u64>(), 1..=FENCE_MAX];
        prop_oneof![small.prop_map(Field::Unsigned), any::<Vec<u8>>().prop_map(Field::Bytes)]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(lock in lock()) {
            let mut payload = Fields::default();
            encode(&lock, &mut payload);
            prop_assert_eq!(decode(ENCODING_VERSION, &mut payload), Ok(lock));
            prop_assert!(payload.0.is_empty());
        }

        #[test]
        fn any_input_is_a_lock_or_an_error(fields in proptest::collection::vec(field(), 0..12), version: i32) {
            let _ = decode(version, &mut Fields(fields.clone().into()));
            let _ = decode(ENCODING_VERSION, &mut Fields(fields.into()));
        }

        #[test]
        fn every_cut_is_refused(lock in lock(), cut in 1usize..6) {
            let mut payload = Fields::default();
            encode(&lock, &mut payload);
            let keep = payload.0.len().saturating_sub(cut);
            payload.0.truncate(keep);
            prop_assert_eq!(decode(ENCODING_VERSION, &mut payload), Err(Corrupt::Cut));
        }
    }

    /// Mode, permits, count, then holders of that number and deadline, named `a`, `b`, …
    fn read(version: i32, head: [u64; 3], holders: &[(&[u8], u64, u64)]) -> Result<Lock, Corrupt> {
        let mut payload = Fields::default();
        head.iter().for_each(|&n| payload.put_unsigned(n));
        for (owner, fence, deadline) in holders {
            payload.put_bytes(owner);
            payload.put_unsigned(*fence);
            payload.put_unsigned(*deadline);
        }
        decode(version, &mut payload)
    }

    #[test]
    fn the_future_and_the_impossible_are_refused() {
        let one: &[(&[u8], u64, u64)] = &[(b"a", 1, 1)];
        let two: &[(&[u8], u64, u64)] = &[(b"a", 1, 1), (b"b", 2, 1)];
        assert!(read(1, [0, 0, 1], one).is_ok());
        assert!(read(1, [1, 0, 2], two).is_ok());
        assert!(read(1, [2, 2, 2], two).is_ok());
        assert_eq!(read(2, [0, 0, 1], one), Err(Corrupt::FutureVersion));
        let long = [0; OWNER_BYTES_MAX + 1];
        for (head, holders) in [
            ([3, 0, 1], one),
            ([0, 1, 1], one),
            ([2, 0, 1], one),
            ([2, 1 << 32, 1], one),
            ([2, HOLDERS_MAX as u64 + 1, 1], one),
            ([0, 0, 0], &[]),
            ([0, 0, 2], two),
            ([2, 1, 2], two),
            ([1, 0, u64::MAX], two),
            ([0, 0, 1], &[(b"a", 0, 1)]),
            ([0, 0, 1], &[(b"a", FENCE_MAX + 1, 1)]),
            ([0, 0, 1], &[(b"a", 1, DEADLINE_MS_MAX + 1)]),
            ([1, 0, 2], &[(b"b", 2, 1), (b"a", 1, 1)]),
            ([1, 0, 2], &[(b"a", 1, 1), (b"a", 2, 1)]),
            ([0, 0, 1], &[(&long, 1, 1)]),
        ] {
            assert_eq!(read(1, head, holders), Err(Corrupt::OutOfRange), "{head:?} {holders:?}");
        }
    }
}
