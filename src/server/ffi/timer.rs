//! The module's one timer: it calls [`crate::server::event_loop::turn`] once, when it is due.

use super::context::Ctx;
use super::entry_point::guarded;
use redis_module::raw;
use std::ffi::c_void;

/// A timer that has been set and has not fired.
#[derive(Clone, Copy, Debug)]
pub struct Timer(raw::RedisModuleTimerID);

impl Ctx<'_> {
    /// Lets the event loop run in `delay_ms` milliseconds; 0: once the events at hand are handled.
    #[must_use]
    pub fn set_timer(self, delay_ms: u64) -> Timer {
        let delay_ms = i64::try_from(delay_ms).unwrap_or(i64::MAX);
        Timer(call!(RedisModule_CreateTimer(self.raw, delay_ms, Some(fire), std::ptr::null_mut())))
    }

    /// Forgets a timer that has not fired.
    pub fn stop_timer(self, timer: Timer) {
        call!(RedisModule_StopTimer(self.raw, timer.0, std::ptr::null_mut()));
    }
}

unsafe extern "C" fn fire(ctx: *mut raw::RedisModuleCtx, _data: *mut c_void) {
    let done = guarded(false, || {
        crate::server::event_loop::turn(Ctx::new(ctx));
        true
    });
    if !done {
        guarded((), || crate::server::event_loop::retry(Ctx::new(ctx)));
    }
}
