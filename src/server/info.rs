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
        let (leases, stats) = (&state.leases, state.leases.stats);
        vec![
            (c"hits", HITS.0.load(Relaxed)),
            (c"stale_hits", STALE_HITS.0.load(Relaxed)),
            (c"misses", MISSES.0.load(Relaxed)),
            (c"sets", SETS.0.load(Relaxed)),
            (c"sets_refused", SETS_REFUSED.0.load(Relaxed)),
            (c"leases", leases.leases() as u64),
            (c"leases_granted", stats.leases_granted),
            (c"leases_expired", stats.leases_expired),
            (c"leases_released", stats.leases_released),
            (c"leases_voided", stats.leases_voided),
            (c"leases_disconnected", stats.leases_disconnected),
            (c"leases_failed", stats.leases_failed),
            (c"early_refreshes", stats.early_refreshes),
            (c"handovers", stats.handovers),
            (c"waiters", leases.waiters().len() as u64),
            (c"waiters_peak", leases.waiters().peak() as u64),
            (c"waits", stats.waits),
            (c"wait_ms_total", stats.wait_ms_total),
            (c"waits_timed_out", stats.waits_timed_out),
            (c"loads_avoided", stats.loads_avoided),
            (c"load_ms_avoided", stats.load_ms_avoided),
            (c"limits_allowed", LIMITS_ALLOWED.0.load(Relaxed)),
            (c"limits_refused", LIMITS_REFUSED.0.load(Relaxed)),
            (c"limits_waiting", state.limit_waits.lines.len() as u64),
            (c"locks_granted", state.locks.stats.granted),
            (c"locks_refused", state.locks.stats.refused),
            (c"locks_waited", state.locks.stats.waited),
            (c"lock_waiters", state.locks.waiters() as u64),
            (c"panics", PANICS.load(Relaxed)),
        ]
    });
    TAGGING.with(|tagging| {
        let indexes = || tagging.indexes.indexes().map(|(_, index)| index);
        fields.extend([
            (c"tags", indexes().map(|index| index.tags() as u64).sum()),
            (c"tagged_keys", indexes().map(|index| index.len() as u64).sum()),
            (c"invalidations", tagging.invalidations),
            (c"invalidated_keys", tagging.invalidated_keys),
            (c"sweep_backlog", tagging.indexes.backlog() as u64),
        ]);
    });
    fields
}
