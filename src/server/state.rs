//! What the module knows beside the keyspace: leases, waiters, parked connections, the timer.
//!
//! None of it is saved or replicated. It is borrowed for moments only, never across a call of the
//! module API: the server calls back into the module from within such calls.

use super::blocked::Parking;
use super::ffi::events::BeforeSleep;
use super::ffi::filter::Filter;
use super::ffi::main_thread::MainThread;
use super::ffi::timer::Timer;
use crate::engine::lease::{LeaseBook, Token};
use crate::engine::time::MonoMillis;
use crate::engine::watch::Watch;

/// The module's state.
pub struct State {
    /// Leases and who waits for them.
    pub book: LeaseBook,
    /// Which connection each waiter is.
    pub parking: Parking,
    /// The timer that is set, and when it fires.
    pub timer: Option<(Timer, MonoMillis)>,
    /// The filter, while it is in place, and what it has seen.
    pub watch: Option<(Filter, Watch)>,
    /// True on a node of a cluster.
    pub in_cluster: bool,
    /// When keys with waiters are next looked at, on a node of a cluster.
    pub probe_at: Option<MonoMillis>,
    /// Whether the module is called before the server sleeps.
    pub before_sleep: BeforeSleep,
    /// When the filter is taken away again, if no lease is out by then.
    pub watch_until: MonoMillis,
}

impl Default for State {
    fn default() -> Self {
        Self {
            // The generator of the thread is a cryptographic one, seeded by the system.
            book: LeaseBook::new(|| Token(rand::random())),
            parking: Parking::default(),
            timer: None,
            watch: None,
            in_cluster: false,
            probe_at: None,
            before_sleep: BeforeSleep::default(),
            watch_until: MonoMillis::default(),
        }
    }
}

/// The one instance.
pub static STATE: MainThread<State> = MainThread::new();
