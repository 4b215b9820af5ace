//! How the value under a key looks right now: what every family of commands asks first.

use crate::engine::cache::entry::{Age, Entry, Meta};
use crate::engine::cache::leases::Served;
use crate::engine::tag::Standing;
use crate::engine::time::UnixMillis;
use crate::server::error::Error;
use crate::server::ffi::context::{unix_now, Arg, Ctx};
use crate::server::ffi::key::{Holds, Key};
use crate::server::tag::index;
use std::rc::Rc;

/// A value under a key, copied.
#[derive(Clone, Debug)]
pub struct Lookup {
    /// The value.
    pub value: Rc<[u8]>,
    /// Whether it is fresh or stale.
    pub age: Age,
    /// What it carries; nothing for a native string.
    pub meta: Meta,
    /// For how long it has been stale, in milliseconds; 0 if it is fresh.
    pub stale_for_ms: u64,
}

/// Looks at `name`; `None` if nothing is there, or an entry that was invalidated. A native string is
/// fresh until its TTL ends.
///
/// # Errors
/// [`Error::WrongType`].
pub fn lookup(ctx: Ctx<'_>, name: Arg<'_>) -> Result<Option<Lookup>, Error> {
    let Some(key) = ctx.open_read(name) else { return Ok(None) };
    lookup_open(ctx, key, name)
}

/// Looks at an open key.
///
/// # Errors
/// [`Error::WrongType`].
pub fn lookup_open(ctx: Ctx<'_>, key: Key<'_>, name: Arg<'_>) -> Result<Option<Lookup>, Error> {
    match key.holds() {
        Holds::Nothing => Ok(None),
        Holds::Other => Err(Error::WrongType),
        Holds::Entry(entry) => Ok(age(entry, &key).map(|age| Lookup {
            value: entry.value().into(),
            age,
            meta: entry.meta(),
            stale_for_ms: stale_for_ms(entry, age, &key),
        })),
        Holds::String => {
            let left_ms = key.expires().map(|at| at.since(unix_now()));
            // ORDER: reading it may expire it, and an open key must not go.
            drop(key);
            let (age, meta) = (Age::Fresh { left_ms }, Meta::default());
            Ok(ctx.read_string(name, |value| Lookup { value: value.into(), age, meta, stale_for_ms: 0 }))
        }
    }
}

/// The age of an entry under an open key; `None` if it was invalidated.
#[must_use]
pub fn age(entry: &Entry, key: &Key<'_>) -> Option<Age> {
    match index::standing_under(key, entry) {
        Standing::Live => Some(entry.age(key.expires(), unix_now())),
        Standing::Stale => Some(Age::Stale { left_ms: key.expires().map(|at| at.since(unix_now())) }),
        Standing::Dead => None,
    }
}

fn stale_for_ms(entry: &Entry, age: Age, key: &Key<'_>) -> u64 {
    let Age::Stale { left_ms } = age else { return 0 };
    let by_age = left_ms.map_or(0, |left_ms| entry.meta().stale_ms.saturating_sub(left_ms));
    match index::standing_under(key, entry) {
        Standing::Stale => by_age.max(unix_now().since(index::stale_since(key.db(), entry))),
        _ => by_age,
    }
}

impl Lookup {
    /// The value as waiters are served it; `None` if it is stale.
    #[must_use]
    pub fn served(self) -> Option<Served> {
        match self.age {
            Age::Fresh { left_ms } => {
                let now: UnixMillis = unix_now();
                Some(Served { value: self.value, fresh_until: left_ms.map(|ms| now.after(ms)) })
            }
            Age::Stale { .. } => None,
        }
    }
}
