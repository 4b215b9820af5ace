//! What the module knows beside the keyspace: leases, waiters, blocked clients, the timer.
//!
//! None of it is saved or replicated. It is borrowed for moments only, never across a call of the
//! module API: the server calls back into the module from within such calls.

use super::config;
use super::delivery::Slice;
use super::ffi::events::BeforeSleep;
use super::ffi::filter::Filter;
use super::ffi::main_thread::MainThread;
use super::ffi::timer::Timer;
use super::recheck::Recheck;
use crate::engine::cache::leases::{Leases, Token};
use crate::engine::cache::plain::Watch;
use crate::engine::id::DbKey;
use crate::engine::lock::Locks;
use crate::engine::time::MonoMillis;
use crate::server::cache::wait::BlockedClients;
use crate::server::limit::wait::LimitWaits;
use std::ffi::CStr;

/// The module's state.
pub struct State {
    /// Leases and who waits for them.
    pub leases: Leases,
    /// Who waits for locks, and the numbers they are given.
    pub locks: Locks,
    /// Which connection each of those is.
    pub lock_clients: BlockedClients,
    /// Which connection each waiter is.
    pub blocked_clients: BlockedClients,
    /// Who waits for units of a limit.
    pub limit_waits: LimitWaits,
    /// Which keys that somebody waits for are to be looked at.
    pub recheck: Recheck,
    /// The timer that is set, and when it fires.
    pub timer: Option<(Timer, MonoMillis)>,
    /// The filter, while it is in place, and what it has seen.
    pub watch: Option<(Filter, Watch)>,
    /// True while this server follows another one.
    pub follows: bool,
    /// True on a node of a cluster.
    pub in_cluster: bool,
    /// What deletions are replicated as: where an operator took UNLINK away, DEL, else `CACHE.DEL`.
    pub deletion: &'static CStr,
    /// What takes a TTL away in an AOF; `None` where an operator took that command away.
    pub persist: Option<&'static CStr>,
    /// Whether `GET` is what it is called.
    pub has_get: bool,
    /// When keys with waiters are next looked at, on a node of a cluster.
    pub probe_at: Option<MonoMillis>,
    /// Those of them that have not been looked at yet.
    pub probing: Vec<DbKey>,
    /// Whether the module is called before the server sleeps.
    pub before_sleep: BeforeSleep,
    /// The replies of this turn.
    pub slice: Slice,
    /// When writes were last seen to be held back.
    pub paused_at: MonoMillis,
    /// When the filter is taken away again, if no lease is out by then.
    pub watch_until: MonoMillis,
}

impl Default for State {
    fn default() -> Self {
        Self {
            // The generator of the thread is a cryptographic one, seeded by the system.
            leases: Leases::new(|| Token(rand::random())),
            locks: Locks::default(),
            lock_clients: BlockedClients::default(),
            blocked_clients: BlockedClients::default(),
            limit_waits: LimitWaits::default(),
            recheck: Recheck::default(),
            timer: None,
            watch: None,
            follows: false,
            in_cluster: false,
            deletion: c"UNLINK",
            persist: Some(c"PERSIST"),
            has_get: true,
            probe_at: None,
            probing: Vec::new(),
            before_sleep: BeforeSleep::default(),
            slice: Slice::default(),
            paused_at: MonoMillis::default(),
            watch_until: MonoMillis::default(),
        }
    }
}

/// How long after a pause held back commands may still be on their way, in milliseconds.
const RESUME_MS: u64 = 100;

impl State {
    /// Callers that wait now, for whatever.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.leases.waiters().len() + self.locks.waiters() + self.limit_waits.lines.len()
    }

    /// How many may wait in the one queue that has `own` waiters now, if the others stay as they are.
    #[must_use]
    pub fn waiters_max(&self, own: usize) -> usize {
        (config::max_waiters() + own).saturating_sub(self.waiting())
    }

    /// Touches what commands may have done that the server held back and runs unseen; to be called
    /// in every turn while there are any.
    pub fn mark_deferred_touched(&mut self, paused: bool, now: MonoMillis) {
        if paused {
            self.paused_at = now;
        }
        if let Some((_, watch)) = &mut self.watch {
            if watch.has_deferred() {
                watch.mark_deferred_touched(&mut self.leases, now.since(self.paused_at) >= RESUME_MS);
            }
        }
    }

    /// When keys of held back commands are to be rechecked.
    #[must_use]
    pub fn next_deferred_check(&self, now: MonoMillis) -> Option<MonoMillis> {
        let holds = self.watch.as_ref().is_some_and(|(_, watch)| watch.has_deferred());
        holds.then(|| now.after(RESUME_MS / 5))
    }
}

/// The one instance.
pub static STATE: MainThread<State> = MainThread::new();
