//! How an entry is written and read back, independent of where the bytes go.
//!
//! The server's RDB stream offers two primitives, unsigned integers and byte strings; the two
//! traits here are just those, so that tests can encode into a plain vector. A payload is
//! untrusted (`RESTORE` takes any bytes): reading never panics, checks every range, and a field
//! count from the future is an error rather than a guess.
//!
//! Layout of encoding version 1: `stale_ms`, `version`, `cost_ms`, number of tags (0), value.

use super::entry::{Entry, Meta};

/// The encoding version written by this release; a reader refuses any other.
pub const ENCODING_VERSION: i32 = 1;

/// Where an entry is written to.
pub trait Sink {
    /// Appends an integer.
    fn put_unsigned(&mut self, value: u64);
    /// Appends a byte string.
    fn put_bytes(&mut self, bytes: &[u8]);
}

/// Where an entry is read from. `None` where the input is cut or of another kind.
pub trait Source {
    /// The next integer.
    fn take_unsigned(&mut self) -> Option<u64>;
    /// Passes the next byte string to `read`.
    fn take_bytes<T>(&mut self, read: impl FnOnce(&[u8]) -> T) -> Option<T>;
}

/// Why a payload was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Corrupt {
    /// Written by a later release.
    FutureVersion,
    /// Ends early, or has a field of another kind.
    Cut,
    /// A field holds what no writer produces.
    OutOfRange,
}

/// Writes `entry`. O(size of the value).
pub fn encode(entry: &Entry, sink: &mut impl Sink) {
    sink.put_unsigned(entry.meta.stale_ms);
    sink.put_unsigned(entry.meta.version);
    sink.put_unsigned(u64::from(entry.meta.cost_ms));
    sink.put_unsigned(0);
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
    let (stale_ms, version, cost_ms, tags) = (next()?, next()?, next()?, next()?);
    let cost_ms = u32::try_from(cost_ms).map_err(|_| Corrupt::OutOfRange)?;
    let meta = Meta { stale_ms, version, cost_ms };
    if tags != 0 || !meta.is_valid() {
        return Err(Corrupt::OutOfRange);
    }
    source.take_bytes(|value| Entry::new(value, meta)).ok_or(Corrupt::Cut)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    #[derive(Clone, Debug)]
    enum Field {
        Unsigned(u64),
        Bytes(Vec<u8>),
    }

    #[derive(Default)]
    struct Tape(VecDeque<Field>);

    impl Sink for Tape {
        fn put_unsigned(&mut self, value: u64) {
            self.0.push_back(Field::Unsigned(value));
        }
        fn put_bytes(&mut self, bytes: &[u8]) {
            self.0.push_back(Field::Bytes(bytes.to_vec()));
        }
    }

    impl Source for Tape {
        fn take_unsigned(&mut self) -> Option<u64> {
            match self.0.pop_front()? {
                Field::Unsigned(n) => Some(n),
                Field::Bytes(_) => None,
            }
        }
        fn take_bytes<T>(&mut self, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
            match self.0.pop_front()? {
                Field::Bytes(b) => Some(read(&b)),
                Field::Unsigned(_) => None,
            }
        }
    }

    fn field() -> impl Strategy<Value = Field> {
        prop_oneof![any::<u64>().prop_map(Field::Unsigned), any::<Vec<u8>>().prop_map(Field::Bytes)]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(value: Vec<u8>, stale_ms in 0..=crate::engine::time::DURATION_MS_MAX, version: u64, cost_ms: u32) {
            let entry = Entry::new(&value, Meta { stale_ms, version, cost_ms });
            let mut tape = Tape::default();
            encode(&entry, &mut tape);
            prop_assert_eq!(decode(ENCODING_VERSION, &mut tape), Ok(entry));
            prop_assert!(tape.0.is_empty());
        }

        #[test]
        fn any_input_is_an_entry_or_an_error(fields in proptest::collection::vec(field(), 0..8), version: i32) {
            let _ = decode(version, &mut Tape(fields.clone().into()));
            let _ = decode(ENCODING_VERSION, &mut Tape(fields.into()));
        }

        #[test]
        fn every_cut_is_refused(value: Vec<u8>, keep in 0usize..5) {
            let mut tape = Tape::default();
            encode(&Entry::new(&value, Meta::default()), &mut tape);
            tape.0.truncate(keep);
            prop_assert_eq!(decode(ENCODING_VERSION, &mut tape), Err(Corrupt::Cut));
        }
    }

    #[test]
    fn the_future_and_the_impossible_are_refused() {
        let read = |version, fields: &[u64]| {
            let mut tape = Tape::default();
            fields.iter().for_each(|&n| tape.put_unsigned(n));
            tape.put_bytes(b"v");
            decode(version, &mut tape)
        };
        assert!(read(1, &[0, 0, 0, 0]).is_ok());
        assert_eq!(read(2, &[0, 0, 0, 0]), Err(Corrupt::FutureVersion));
        assert_eq!(read(1, &[0, 0, 0, 1]), Err(Corrupt::OutOfRange));
        assert_eq!(read(1, &[u64::MAX - 1, 0, 0, 0]), Err(Corrupt::OutOfRange));
        assert_eq!(read(1, &[0, 0, 1 << 32, 0]), Err(Corrupt::OutOfRange));
    }
}
