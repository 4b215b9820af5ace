//! Writes that no one shows us when they happen.
//!
//! A blocked command (BLMOVE) is shown when it is sent and runs when another one serves it; a module
//! may write without a command. What such a write puts under a key is found by a look at the keys
//! that somebody waits for, after any write at all was seen: without one, next to nothing can have happened.
//! So an idle server does nothing, and a busy one spends a bounded part of its time, at most
//! [`KEYS_PER_SLICE`] looks every [`SLICE_MS`], and only while somebody waits.
//!
//! Rejected: keyspace notifications, which cost every command that changes a list some 500 instructions,
//! and on most servers for ever. Remembering blocked commands: most began to wait before any lease
//! was out, when nothing was watched.

use crate::engine::cache::leases::Leases;
use crate::engine::time::MonoMillis;

/// Keys that are looked at in one slice.
pub const KEYS_PER_SLICE: usize = 100;
/// Between two slices, in milliseconds.
pub const SLICE_MS: u64 = 10;
/// Between two rounds, in milliseconds.
pub const REST_MS: u64 = 100;

/// When the keys that somebody waits for are looked at.
#[derive(Debug, Default)]
pub struct Recheck {
    /// Something was written since the round began.
    wanted: bool,
    /// A round has begun and is not over.
    runs: bool,
    next: MonoMillis,
}

impl Recheck {
    /// Takes note of a write; true if [`Self::due`] has changed.
    #[inline]
    pub fn wrote(&mut self, leases: &Leases, now: MonoMillis) -> bool {
        if self.wanted || leases.waiters().is_empty() {
            return false;
        }
        self.wanted = true;
        if !self.runs {
            self.next = self.next.max(now);
        }
        !self.runs
    }

    /// When [`Self::run`] next has something to do.
    #[must_use]
    pub fn due(&self) -> Option<MonoMillis> {
        (self.wanted || self.runs).then_some(self.next)
    }

    /// Touches some of the keys that somebody waits for, if it is time to.
    pub fn run(&mut self, leases: &mut Leases, now: MonoMillis) {
        if self.due().is_none_or(|due| now < due) {
            return;
        }
        if !self.runs {
            (self.wanted, self.runs) = (false, true);
        }
        self.runs = !leases.mark_waited_for_touched(KEYS_PER_SLICE);
        self.next = now.after(if self.runs { SLICE_MS } else { REST_MS });
    }
}
