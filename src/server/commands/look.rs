//! How the value under a key looks right now: what every family of commands asks first.

use crate::engine::entry::{Age, Entry, Meta};
use crate::engine::lease::Served;
use crate::engine::time::UnixMillis;
use crate::server::error::Error;
use crate::server::ffi::context::{unix_now, Arg, Ctx};
use crate::server::ffi::key::{Holds, Key};
use std::rc::Rc;

/// A value under a key, copied.
#[derive(Clone, Debug)]
pub struct Sight {
    /// The value.
    pub value: Rc<[u8]>,
    /// Whether it is fresh or stale.
    pub age: Age,
    /// What it carries; nothing for a native string.
    pub meta: Meta,
}

/// Looks at `name`; `None` if nothing is there. A native string is fresh until its TTL ends.
///
/// # Errors
/// [`Error::WrongType`].
pub fn look(ctx: Ctx<'_>, name: Arg<'_>) -> Result<Option<Sight>, Error> {
    let Some(key) = ctx.open_read(name) else { return Ok(None) };
    look_into(ctx, key, name)
}

/// Looks at an open key.
///
/// # Errors
/// [`Error::WrongType`].
pub fn look_into(ctx: Ctx<'_>, key: Key<'_>, name: Arg<'_>) -> Result<Option<Sight>, Error> {
    match key.holds() {
        Holds::Nothing => Ok(None),
        Holds::Other => Err(Error::WrongType),
        Holds::Entry(entry) => Ok(Some(Sight { value: entry.value().into(), age: age(entry, &key), meta: entry.meta })),
        Holds::String => {
            let left_ms = key.expires().map(|at| at.since(unix_now()));
            // ORDER: reading it may expire it, and an open key must not go.
            drop(key);
            let sight =
                |value: &[u8]| Sight { value: value.into(), age: Age::Fresh { left_ms }, meta: Meta::default() };
            Ok(ctx.read_string(name, sight))
        }
    }
}

/// The age of an entry under an open key.
#[must_use]
pub fn age(entry: &Entry, key: &Key<'_>) -> Age {
    entry.age(key.expires(), unix_now())
}

impl Sight {
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

    /// For how long it has been stale, in milliseconds; 0 if it is fresh.
    #[must_use]
    pub fn stale_for_ms(&self) -> u64 {
        match self.age {
            Age::Stale { left_ms: Some(left_ms) } => self.meta.stale_ms.saturating_sub(left_ms),
            _ => 0,
        }
    }
}
