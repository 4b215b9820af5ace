//! `INFO cacheguard`: what the module has done since the server started.

use super::ffi::entry_point::PANICS;
use super::state::STATE;
use crate::server::tag::index::TAGGING;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A count that only the main thread changes.
pub struct Counter(AtomicU64);

impl Counter {
    const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Counts one more. Cheaper than an atomic addition, which nothing here needs.
    #[inline]
    pub fn add_one(&self) {
        self.0.store(self.0.load(Relaxed) + 1, Relaxed);
    }
}

/// Reads answered with a fresh value.
pub static HITS: Counter = Counter::new();
/// Reads that found no fresh value.
pub static MISSES: Counter = Counter::new();
/// Reads answered with a stale value.
pub static STALE_HITS: Counter = Counter::new();
/// Values stored.
pub static SETS: Counter = Counter::new();
/// Values refused: the lease was another's by then, or the key held a higher version.
pub static SETS_REFUSED: Counter = Counter::new();

/// Requests that a limit let through.
pub static LIMITS_ALLOWED: Counter = Counter::new();
/// Requests that a limit refused.
pub static LIMITS_REFUSED: Counter = Counter::new();

/// Every field and its value.
#[must_use]
pub fn fields() -> Vec<(&'static std::ffi::CStr, u64)> {
    let mut fields = STATE.with(|state| {
        let (book, tally) = (&state.book, state.book.tally);
        vec![
            (c"hits", HITS.0.load(Relaxed)),
            (c"stale_hits", STALE_HITS.0.load(Relaxed)),
            (c"misses", MISSES.0.load(Relaxed)),
            (c"sets", SETS.0.load(Relaxed)),
            (c"sets_refused", SETS_REFUSED.0.load(Relaxed)),
            (c"leases", book.leases() as u64),
            (c"leases_granted", tally.leases_granted),
            (c"leases_expired", tally.leases_expired),
            (c"leases_released", tally.leases_released),
            (c"leases_voided", tally.leases_voided),
            (c"leases_disconnected", tally.leases_disconnected),
            (c"leases_failed", tally.leases_failed),
            (c"early_refreshes", tally.early_refreshes),
            (c"handovers", tally.handovers),
            (c"waiters", book.waiters().len() as u64),
            (c"waiters_peak", book.waiters().peak() as u64),
            (c"waits", tally.waits),
            (c"wait_ms_total", tally.wait_ms_total),
            (c"waits_timed_out", tally.waits_timed_out),
            (c"loads_avoided", tally.loads_avoided),
            (c"load_ms_avoided", tally.load_ms_avoided),
            (c"limits_allowed", LIMITS_ALLOWED.0.load(Relaxed)),
            (c"limits_refused", LIMITS_REFUSED.0.load(Relaxed)),
            (c"limits_waiting", state.pacing.lines.len() as u64),
            (c"locks_granted", state.locks.tally.granted),
            (c"locks_refused", state.locks.tally.refused),
            (c"locks_waited", state.locks.tally.waited),
            (c"lock_waiters", state.locks.waiters() as u64),
            (c"panics", PANICS.load(Relaxed)),
        ]
    });
    TAGGING.with(|tagging| {
        let indexes = || tagging.book.indexes().map(|(_, index)| index);
        fields.extend([
            (c"tags", indexes().map(|index| index.tags() as u64).sum()),
            (c"tagged_keys", indexes().map(|index| index.len() as u64).sum()),
            (c"invalidations", tagging.invalidations),
            (c"invalidated_keys", tagging.invalidated_keys),
            (c"sweep_backlog", tagging.book.backlog() as u64),
        ]);
    });
    fields
}
