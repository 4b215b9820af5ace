//! How an entry is written and read back.
//!
//! Layout of encoding version 1: `stale_ms`, `version`, `cost_ms`, standing, number of tags, tags,
//! value. The standing is 0 for a live entry, `u64::MAX` for a dead one, else one more than the time
//! since when it is stale by its tags.

use crate::engine::cache::entry::{Carried, Entry, Meta, Tags};
use crate::engine::codec::{Corrupt, Sink, Source};
use crate::engine::tag::{Standing, TAGS_PER_ENTRY_MAX, TAG_BYTES_MAX};
use crate::engine::time::{UnixMillis, UNIX_MS_MAX};

/// The encoding version written by this release; a reader refuses any other.
pub const ENCODING_VERSION: i32 = 1;

const LIVE: u64 = 0;
const DEAD: u64 = u64::MAX;

/// Writes `entry`, of which `carried` says the tags. O(size of the value).
pub fn encode(entry: &Entry, carried: &Carried, sink: &mut impl Sink) {
    let Meta { stale_ms, version, cost_ms } = entry.meta();
    let standing = match carried.standing {
        Standing::Live => LIVE,
        Standing::Stale => carried.since.0.saturating_add(1).min(DEAD - 1),
        Standing::Dead => DEAD,
    };
    for number in [stale_ms, version, cost_ms.into(), standing, carried.names.len() as u64] {
        sink.put_unsigned(number);
    }
    carried.names.iter().for_each(|name| sink.put_bytes(name));
    sink.put_bytes(entry.value());
}

/// Reads what [`encode`] wrote with `version`.
///
/// # Errors
/// [`Corrupt`], whatever the input; it never panics.
pub fn decode(version: i32, source: &mut impl Source) -> Result<Entry, Corrupt> {
    if version != ENCODING_VERSION {
        return Err(Corrupt::FutureVersion);
    }
    let mut next = || source.take_unsigned().ok_or(Corrupt::Cut);
    let (stale_ms, version, cost_ms, standing, count) = (next()?, next()?, next()?, next()?, next()?);
    let cost_ms = u32::try_from(cost_ms).map_err(|_| Corrupt::OutOfRange)?;
    let count = usize::try_from(count).ok().filter(|count| *count <= TAGS_PER_ENTRY_MAX).ok_or(Corrupt::OutOfRange)?;
    let meta = Meta { stale_ms, version, cost_ms };
    if !meta.is_valid() {
        return Err(Corrupt::OutOfRange);
    }
    let (standing, since) = match standing {
        LIVE => (Standing::Live, UnixMillis::default()),
        DEAD => (Standing::Dead, UnixMillis::default()),
        // `STALEAT` takes no later time: the entry could not be read back from an AOF.
        stale if stale - 1 > UNIX_MS_MAX => return Err(Corrupt::OutOfRange),
        stale => (Standing::Stale, UnixMillis(stale - 1)),
    };
    let mut names = Vec::with_capacity(count);
    for _ in 0..count {
        let name: Box<[u8]> = source.take_bytes(|name| name.into()).ok_or(Corrupt::Cut)?;
        if name.len() > TAG_BYTES_MAX || names.contains(&name) {
            return Err(Corrupt::OutOfRange);
        }
        names.push(name);
    }
    let mut entry = source.take_bytes(|value| Entry::new(value, meta)).ok_or(Corrupt::Cut)?;
    if !names.is_empty() || standing != Standing::Live {
        entry.set_tags(Some(Tags::Carried(Carried { names, standing, since })));
    }
    Ok(entry)
}

#[cfg(test)]
mod reach;
#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::codec::fields::{field, Fields};
    use proptest::prelude::*;

    fn carried() -> impl Strategy<Value = Carried> {
        let names = proptest::collection::hash_set(proptest::collection::vec(any::<u8>(), 0..9), 0..6);
        let standing = prop_oneof![
            Just((Standing::Live, UnixMillis(0))),
            Just((Standing::Dead, UnixMillis(0))),
            (0..=UNIX_MS_MAX).prop_map(|since| (Standing::Stale, UnixMillis(since))),
        ];
        (names, standing).prop_map(|(names, (standing, since))| Carried {
            names: names.into_iter().map(Into::into).collect(),
            standing,
            since,
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            value: Vec<u8>,
            stale_ms in 0..=crate::engine::time::DURATION_MS_MAX,
            version: u64,
            cost_ms: u32,
            carried in carried(),
        ) {
            let mut entry = Entry::new(&value, Meta { stale_ms, version, cost_ms });
            let mut payload = Fields::default();
            encode(&entry, &carried, &mut payload);
            if carried != Carried::default() {
                entry.set_tags(Some(Tags::Carried(carried)));
            }
            prop_assert_eq!(decode(ENCODING_VERSION, &mut payload), Ok(entry));
            prop_assert!(payload.0.is_empty());
        }

        #[test]
        fn any_input_is_an_entry_or_an_error(fields in proptest::collection::vec(field(), 0..8), version: i32) {
            let _ = decode(version, &mut Fields(fields.clone().into()));
            let _ = decode(ENCODING_VERSION, &mut Fields(fields.into()));
        }

        #[test]
        fn every_cut_is_refused(value: Vec<u8>, carried in carried(), keep in 0usize..12) {
            let mut payload = Fields::default();
            encode(&Entry::new(&value, Meta::default()), &carried, &mut payload);
            payload.0.truncate(keep.min(payload.0.len() - 1));
            prop_assert_eq!(decode(ENCODING_VERSION, &mut payload), Err(Corrupt::Cut));
        }
    }

    #[test]
    fn the_future_and_the_impossible_are_refused() {
        let read = |version, fields: &[u64]| {
            let mut payload = Fields::default();
            fields.iter().for_each(|&n| payload.put_unsigned(n));
            payload.put_bytes(b"v");
            decode(version, &mut payload)
        };
        assert!(read(1, &[0, 0, 0, 0, 0]).is_ok());
        assert_eq!(read(2, &[0, 0, 0, 0, 0]), Err(Corrupt::FutureVersion));
        assert_eq!(read(1, &[0, 0, 0, 0, 1]), Err(Corrupt::Cut));
        assert_eq!(read(1, &[0, 0, 0, 0, 129]), Err(Corrupt::OutOfRange));
        assert_eq!(read(1, &[0, 0, 0, UNIX_MS_MAX + 2, 0]), Err(Corrupt::OutOfRange));
        assert_eq!(read(1, &[u64::MAX - 1, 0, 0, 0, 0]), Err(Corrupt::OutOfRange));
        assert_eq!(read(1, &[0, 0, 1 << 32, 0, 0]), Err(Corrupt::OutOfRange));
    }

    #[test]
    fn tags_are_names_of_which_each_comes_once() {
        let read = |names: &[&[u8]]| {
            let mut payload = Fields::default();
            [0, 0, 0, 0, names.len() as u64].iter().for_each(|&n| payload.put_unsigned(n));
            names.iter().for_each(|name| payload.put_bytes(name));
            payload.put_bytes(b"v");
            decode(1, &mut payload).map(drop)
        };
        assert_eq!(read(&[b"", b"a", &[7; TAG_BYTES_MAX]]), Ok(()));
        assert_eq!(read(&[b"a", b"b", b"a"]), Err(Corrupt::OutOfRange));
        assert_eq!(read(&[&[7; TAG_BYTES_MAX + 1]]), Err(Corrupt::OutOfRange));
    }
}
