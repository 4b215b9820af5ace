//! A cached value and its three ages: fresh, stale, gone.
//!
//! An entry does not know when it expires: the key's native TTL does, and *gone* is the server's
//! business. What the entry adds is the length of its stale period, counted back from that TTL:
//!
//! ```text
//! |<-------- fresh -------->|<---- stale_ms ---->| native TTL: gone
//! ```
//!
//! So `EXPIRE`, `PERSIST`, `RESTORE` and `COPY` need no cooperation to stay right, and an entry
//! without a stale period is fresh whenever it can be read: a hit needs neither the clock nor the
//! TTL. An absolute `fresh_until` inside the value was rejected: it contradicts the TTL as soon as
//! a user touches that.
//!
//! Entries may be freed by a background thread, so they own plain memory only.

use crate::engine::tag::{KeyId, Standing};
use crate::engine::time::{UnixMillis, DURATION_MS_MAX};
use std::cell::Cell;

/// What an entry carries beside its value. All durations in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// Length of the stale period at the end of the key's life, at most [`DURATION_MS_MAX`].
    pub stale_ms: u64,
    /// The writer's version; 0 if it gave none.
    pub version: u64,
    /// How long the last regeneration took; 0 if unknown. Saturates at 49 days.
    pub cost_ms: u32,
}

/// A value under a key, with its [`Meta`] and its tags. The fields of the former stand alone, so
/// that an entry without tags takes 48 bytes.
#[derive(Clone, Debug)]
pub struct Entry {
    value: Box<[u8]>,
    stale_ms: u64,
    version: u64,
    cost_ms: u32,
    hits: Cell<u32>,
    tags: Option<Box<Tags>>,
}

const _: () = assert!(size_of::<Entry>() == 48, "an entry has grown");

/// The tags of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tags {
    /// They are in the index of the key's database.
    Indexed(KeyId),
    /// The entry is under no key yet, or was just taken from one: it carries them along.
    Carried(Carried),
}

/// What an entry takes along that is in no index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// The names of its tags, in the order in which they were given.
    pub names: Vec<Box<[u8]>>,
    /// What they have done to it.
    pub standing: Standing,
    /// Since when, if it is stale by them.
    pub since: UnixMillis,
}

impl Carried {
    /// Of an entry of which nothing is known any more.
    #[must_use]
    pub fn dead() -> Self {
        Self { standing: Standing::Dead, ..Self::default() }
    }
}

/// Two entries are equal if they hold the same; how often they were read is a statistic.
impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (&self.value, self.meta(), &self.tags) == (&other.value, other.meta(), &other.tags)
    }
}

/// How old an entry is. `left_ms` is the time to the end of that age, `None` if it has no end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    /// May be served without reserve.
    Fresh {
        /// Until it turns stale or goes.
        left_ms: Option<u64>,
    },
    /// May be served while one caller regenerates it.
    Stale {
        /// Until it goes.
        left_ms: Option<u64>,
    },
}

impl Entry {
    /// An entry of a copy of `value`. One allocation.
    #[must_use]
    pub fn new(value: &[u8], meta: Meta) -> Self {
        let Meta { stale_ms, version, cost_ms } = meta;
        Self { value: value.into(), stale_ms, version, cost_ms, hits: Cell::new(0), tags: None }
    }

    /// Freshness, version and cost.
    #[inline]
    #[must_use]
    pub fn meta(&self) -> Meta {
        Meta { stale_ms: self.stale_ms, version: self.version, cost_ms: self.cost_ms }
    }

    /// Changes them.
    pub fn set_meta(&mut self, meta: Meta) {
        (self.stale_ms, self.version, self.cost_ms) = (meta.stale_ms, meta.version, meta.cost_ms);
    }

    /// Its tags, if it ever had some.
    #[inline]
    #[must_use]
    pub fn tags(&self) -> Option<&Tags> {
        self.tags.as_deref()
    }

    /// Changes them; what they were.
    pub fn set_tags(&mut self, tags: Option<Tags>) -> Option<Tags> {
        match (&mut self.tags, tags) {
            (Some(held), Some(tags)) => Some(std::mem::replace(held, tags)),
            (held, tags) => std::mem::replace(held, tags.map(Box::new)).map(|tags| *tags),
        }
    }

    /// The cached bytes.
    #[must_use]
    pub fn value(&self) -> &[u8] {
        &self.value
    }

    /// The block they are in, for those who ask what it takes.
    #[must_use]
    #[allow(clippy::borrowed_box)]
    pub fn block(&self) -> &Box<[u8]> {
        &self.value
    }

    /// Counts a read.
    #[inline]
    pub fn count_hit(&self) {
        self.hits.set(self.hits.get().saturating_add(1));
    }

    /// How often it was read since it was stored here.
    #[must_use]
    pub fn hits(&self) -> u32 {
        self.hits.get()
    }

    /// True if it is fresh for as long as its key lives, so that no clock is needed to serve it.
    #[must_use]
    pub fn never_stale(&self) -> bool {
        self.stale_ms == 0
    }

    /// The age at `now` of an entry whose key goes at `expires` (`None`: never).
    #[must_use]
    pub fn age(&self, expires: Option<UnixMillis>, now: UnixMillis) -> Age {
        let left_ms = expires.map(|at| at.since(now));
        match left_ms {
            Some(left) if left <= self.stale_ms && self.stale_ms > 0 => Age::Stale { left_ms },
            Some(left) => Age::Fresh { left_ms: Some(left.saturating_sub(self.stale_ms)) },
            None => Age::Fresh { left_ms: None },
        }
    }
}

impl Meta {
    /// True if every field is one a command could have produced.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.stale_ms <= DURATION_MS_MAX
    }
}

// Freed by the server's background thread.
const _: fn() = || {
    fn is_send<T: Send>() {}
    is_send::<Entry>();
};

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(stale_ms: u64) -> Entry {
        Entry::new(b"v", Meta { stale_ms, ..Meta::default() })
    }

    #[test]
    fn turns_stale_exactly_stale_ms_before_it_goes() {
        let (e, end) = (entry(100), Some(UnixMillis(1_000)));
        assert_eq!(e.age(end, UnixMillis(0)), Age::Fresh { left_ms: Some(900) });
        assert_eq!(e.age(end, UnixMillis(899)), Age::Fresh { left_ms: Some(1) });
        assert_eq!(e.age(end, UnixMillis(900)), Age::Stale { left_ms: Some(100) });
        assert_eq!(e.age(end, UnixMillis(999)), Age::Stale { left_ms: Some(1) });
    }

    #[test]
    fn without_a_stale_period_it_is_fresh_while_it_lives() {
        let e = entry(0);
        assert!(e.never_stale());
        assert_eq!(e.age(Some(UnixMillis(5)), UnixMillis(5)), Age::Fresh { left_ms: Some(0) });
    }

    #[test]
    fn without_an_end_it_never_turns_stale_by_itself() {
        assert_eq!(entry(7).age(None, UnixMillis(u64::MAX)), Age::Fresh { left_ms: None });
    }
}
