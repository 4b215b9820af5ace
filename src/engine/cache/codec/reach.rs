//! Whatever payload of an entry or a lock is taken, and whatever is done to it then, can be written
//! and read again. That of a limit has tests of its own.

use super::super::entry::{Carried, Entry, Meta, Tags};
use crate::engine::cache::codec::{decode, encode, ENCODING_VERSION};
use crate::engine::codec::fields::{field, Field, Fields};
use crate::engine::codec::Sink;
use crate::engine::id::Bond;
use crate::engine::lock::{codec as lock_codec, Change, Holder, Judged, Lock, Mode, FENCE_MAX};
use crate::engine::tag::{Standing, TAGS_PER_ENTRY_MAX};
use crate::engine::time::{UnixMillis, DURATION_MS_MAX, UNIX_MS_MAX};
use proptest::prelude::*;

/// Integers at the edges of what is taken, and any.
fn number() -> impl Strategy<Value = u64> {
    let edges = vec![0, 1, 2, 3, DURATION_MS_MAX, UNIX_MS_MAX, UNIX_MS_MAX + 1, FENCE_MAX, u64::MAX - 1, u64::MAX];
    prop_oneof![5 => 0u64..5, 3 => prop::sample::select(edges), 1 => any::<u64>()]
}

/// `fields` with some of them replaced.
fn tampered(mut fields: Vec<Field>, changes: Vec<(prop::sample::Index, Field)>) -> Fields {
    for (at, instead) in changes {
        let at = at.index(fields.len());
        fields[at] = instead;
    }
    Fields(fields.into())
}

fn changes() -> impl Strategy<Value = Vec<(prop::sample::Index, Field)>> {
    let instead = prop_oneof![4 => number().prop_map(Field::Unsigned), 1 => field()];
    prop::collection::vec((any::<prop::sample::Index>(), instead), 0..3)
}

fn entry_fields() -> impl Strategy<Value = Vec<Field>> {
    let tags = prop::collection::vec(prop::collection::vec(0u8..3, 0..3), 0..4);
    (number(), number(), any::<u32>(), number(), tags, any::<Vec<u8>>()).prop_map(
        |(stale, version, cost, standing, tags, value)| {
            let numbers = [stale, version, cost.into(), standing, tags.len() as u64].map(Field::Unsigned);
            numbers.into_iter().chain(tags.into_iter().map(Field::Bytes)).chain([Field::Bytes(value)]).collect()
        },
    )
}

/// What commands do to an entry beside replacing it.
#[derive(Clone, Debug)]
enum Step {
    Meta(Meta),
    Stand(Standing, u64),
    Tag(Vec<u8>),
    Untag,
}

fn entry_step() -> impl Strategy<Value = Step> {
    let standing = prop::sample::select(vec![Standing::Live, Standing::Stale, Standing::Dead]);
    prop_oneof![
        (0..=DURATION_MS_MAX, any::<u64>(), any::<u32>()).prop_map(|(stale_ms, version, cost_ms)| Step::Meta(Meta {
            stale_ms,
            version,
            cost_ms
        })),
        (standing, 0..=UNIX_MS_MAX).prop_map(|(standing, since)| Step::Stand(standing, since)),
        prop::collection::vec(any::<u8>(), 0..3).prop_map(Step::Tag),
        Just(Step::Untag),
    ]
}

fn make(entry: &mut Entry, carried: &mut Carried, step: Step) {
    match step {
        Step::Meta(meta) => entry.set_meta(meta),
        Step::Stand(standing, since) => {
            carried.standing = standing;
            carried.since = if standing == Standing::Stale { UnixMillis(since) } else { UnixMillis(0) };
        }
        Step::Tag(name) => {
            let name: Box<[u8]> = name.into();
            if carried.names.len() < TAGS_PER_ENTRY_MAX && !carried.names.contains(&name) {
                carried.names.push(name);
            }
        }
        Step::Untag => drop(carried.names.pop()),
    }
    entry.set_tags((*carried != Carried::default()).then(|| Tags::Carried(carried.clone())));
}

fn holder(owner: &[u8], fence: u64, deadline: UnixMillis) -> Holder {
    Holder { owner: owner.into(), fence, deadline, client: None, bond: Bond::Free, told_twice: false }
}

fn mode() -> impl Strategy<Value = Mode> {
    prop_oneof![Just(Mode::Exclusive), Just(Mode::Shared), (1u32..4).prop_map(Mode::Permits)]
}

fn lock_fields() -> impl Strategy<Value = Vec<Field>> {
    let holders = prop::collection::vec((prop::collection::vec(0u8..3, 0..2), 0u64..3, number()), 1..4);
    (0u64..3, 0u64..4, holders, number()).prop_map(|(mode, permits, holders, from)| {
        let numbers = [mode, permits, holders.len() as u64].map(Field::Unsigned);
        let mut fence = from;
        let holders = holders.into_iter().flat_map(|(owner, gap, deadline)| {
            fence = fence.saturating_add(gap);
            [Field::Bytes(owner), Field::Unsigned(fence), Field::Unsigned(deadline)]
        });
        numbers.into_iter().chain(holders.collect::<Vec<_>>()).collect()
    })
}

/// What LOCK, EXTEND and UNLOCK decide for `owner`, and what is decided about those whose time is over.
fn decided(lock: &Lock, what: u8, owner: &[u8], mode: Mode, (now, ttl_ms): (UnixMillis, u64)) -> Option<Change> {
    match what % 4 {
        0 => lock.release(owner, now),
        1 => lock.extend(owner, now.after(ttl_ms), now),
        2 => lock.overdue(now),
        _ => match lock.judge(owner, mode, now) {
            Judged::Free if lock.overdue(now).is_none() && lock.last_fence() < FENCE_MAX => {
                Some(Change::Hold { mode, holder: holder(owner, lock.last_fence() + 1, now.after(ttl_ms)) })
            }
            Judged::Same { fence, .. } => Some(Change::Hold { mode, holder: holder(owner, fence, now.after(ttl_ms)) }),
            _ => None,
        },
    }
}

fn written(lock: &Lock) -> Fields {
    let mut payload = Fields::default();
    lock_codec::encode(lock, &mut payload);
    payload
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn an_entry_that_was_taken_can_be_read_again(
        fields in entry_fields(), changes in changes(), steps in prop::collection::vec(entry_step(), 0..8),
    ) {
        let Ok(mut entry) = decode(ENCODING_VERSION, &mut tampered(fields, changes)) else { return Ok(()) };
        let mut carried = match entry.tags() {
            Some(Tags::Carried(carried)) => carried.clone(),
            _ => Carried::default(),
        };
        for step in [None].into_iter().chain(steps.into_iter().map(Some)) {
            step.into_iter().for_each(|step| make(&mut entry, &mut carried, step));
            let mut payload = Fields::default();
            encode(&entry, &carried, &mut payload);
            let read = decode(ENCODING_VERSION, &mut payload);
            prop_assert_eq!(read.as_ref(), Ok(&entry));
            prop_assert!(payload.0.is_empty());
        }
    }

    #[test]
    fn a_lock_that_was_taken_can_be_read_again(
        fields in lock_fields(),
        changes in changes(),
        steps in prop::collection::vec(
            (any::<u8>(), prop::collection::vec(0u8..3, 0..2), mode(), 0..=UNIX_MS_MAX - DURATION_MS_MAX, 1..=DURATION_MS_MAX),
            0..12,
        ),
    ) {
        let Ok(mut lock) = lock_codec::decode(1, &mut tampered(fields, changes)) else { return Ok(()) };
        for step in [None].into_iter().chain(steps.into_iter().map(Some)) {
            let change = step.and_then(|(what, owner, mode, now, ttl_ms)| {
                decided(&lock, what, &owner, mode, (UnixMillis(now), ttl_ms))
            });
            change.into_iter().for_each(|change| drop(lock.apply(change)));
            if lock.holders().is_empty() {
                break;
            }
            prop_assert_eq!(lock_codec::decode(1, &mut written(&lock)), Ok(lock.clone()));
            prop_assert_eq!(lock_codec::decode(1, &mut written(&lock.unbound())), Ok(lock.clone()));
        }
    }
}

#[test]
fn the_edges_of_what_is_taken_are_those_of_what_is_written() {
    let mut payload = Fields::default();
    [DURATION_MS_MAX, u64::MAX, u64::from(u32::MAX), UNIX_MS_MAX + 1, 0].iter().for_each(|n| payload.put_unsigned(*n));
    payload.put_bytes(b"");
    let entry = decode(ENCODING_VERSION, &mut payload).unwrap();
    assert!(matches!(entry.tags(), Some(Tags::Carried(Carried { since, .. })) if since.0 == UNIX_MS_MAX));
}
