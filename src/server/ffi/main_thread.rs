//! State that only the server's main thread touches.
//!
//! All callbacks but `free` run on that thread, one inside the other at times: the server calls us
//! back from within our own calls. So a borrow must never be held across a call of the module API.
//! [`MainThread::with`] takes a closure to make borrows short, and panics (an error reply, see
//! `entry_point`) rather than alias if the rule is broken.

use std::cell::RefCell;

/// A value that is only ever used on the server's main thread.
pub struct MainThread<T>(RefCell<Option<T>>);

// SAFETY: the server runs commands, events, timers, filters and blocked-client callbacks on its
// main thread only, with or without io-threads; the one callback that is not, the freeing of
// values, does not use such state.
unsafe impl<T> Sync for MainThread<T> {}

impl<T: Default> Default for MainThread<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Default> MainThread<T> {
    /// A cell whose value is made on first use.
    #[must_use]
    pub const fn new() -> Self {
        Self(RefCell::new(None))
    }

    /// Lends the value to `use_it`, which must not call the module API.
    pub fn with<R>(&self, use_it: impl FnOnce(&mut T) -> R) -> R {
        use_it(self.0.borrow_mut().get_or_insert_with(T::default))
    }
}
