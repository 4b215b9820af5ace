//! Locks: one holder, many readers or n permits; first come, first served; every grant numbered.
//!
//! Who *holds* a lock is a value under its key ([`Lock`]): persisted, replicated, visible, with the
//! key's native TTL as the end of the last holder. A missing key is a free lock, so that whatever
//! removes the key frees it. Who *waits* stands in a line of the [`Locks`], in memory and on the
//! primary only.
//!
//! A decision is a [`Change`] to the value. The server applies it and sends the same change to
//! replicas and the AOF, which apply it with the same function and without a look at any clock:
//! that is why they end up with the same value. [`Locks::step`] says what is to change next
//! about a key that somebody waits for; the server calls it until nothing is.
//!
//! Rules:
//! - a newcomer never overtakes the line, not even where it could share the lock with its holders:
//!   so a waiting writer is not starved by readers;
//! - the head of the line is granted as long as it can be: so readers in a row enter together;
//! - a holder past its deadline is nobody, though it is still written in the value;
//! - the owner that locks again is told the number it has, and the later of both deadlines counts;
//! - a key is a lock (exclusive and shared) or a semaphore of n at a time, never both.
//!
//! Invariants, checked by `validate` and the simulator: a waiter is in a line or has an answer,
//! never both; every line has a waiter and every waiter a deadline; two exclusive holders, a reader
//! beside a writer or more than n holders of n permits are never live at once; numbers rise.
//!
//! Rejected: a line in the value. It would outlive the connections that stand in it, and each
//! arrival would be a write to replicas and to disk.

mod bonds;
pub mod codec;
mod fence;
mod line;
mod locks;
mod reply;
mod touch;
mod value;

pub use fence::{Fences, FENCE_MAX};
pub use locks::{Asked, Found, LineView, LockStats, Locks, Request};
pub use reply::{Granted, Reply};
pub use touch::Loss;
pub use value::{Change, Holder, Judged, Lock, Owner, Tie};

use super::time::{MonoMillis, UnixMillis};

/// The most that hold one key at once, and the most permits of a semaphore.
pub const HOLDERS_MAX: usize = 10_000;
/// The longest owner, in bytes.
pub const OWNER_BYTES_MAX: usize = 1_024;

/// What holding a key means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// Nobody else holds it.
    Exclusive,
    /// Others may hold it in the same mode.
    Shared,
    /// So many hold it at once.
    Permits(u32),
}

impl Mode {
    /// How many may hold the key at once.
    #[must_use]
    pub fn places(self) -> usize {
        match self {
            Self::Exclusive => 1,
            Self::Shared => HOLDERS_MAX,
            Self::Permits(n) => usize::try_from(n).unwrap_or(HOLDERS_MAX),
        }
    }

    /// True if a key that is one of the two cannot be asked for as the other: a lock and a
    /// semaphore, or semaphores of different size.
    #[must_use]
    pub fn clashes(self, other: Self) -> bool {
        match (self, other) {
            (Self::Permits(n), Self::Permits(m)) => n != m,
            (Self::Permits(_), _) | (_, Self::Permits(_)) => true,
            _ => false,
        }
    }
}

/// Until when a grant lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Term {
    /// So many milliseconds from the grant.
    Lasts(u64),
    /// Until then.
    Until(UnixMillis),
}

impl Term {
    /// When a grant made at `now` ends.
    #[must_use]
    pub fn end(self, now: UnixMillis) -> UnixMillis {
        match self {
            Self::Lasts(ms) => now.after(ms),
            Self::Until(at) => at,
        }
    }
}

/// The same moment on both clocks: holders' deadlines are wall time, waits are not.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Wall time.
    pub unix: UnixMillis,
    /// The clock of waits.
    pub mono: MonoMillis,
}

#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod validate;
