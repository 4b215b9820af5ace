//! How the server enters the module: one guard around every callback.
//!
//! A panic that crosses into C aborts the server, and with it other people's data. So each entry
//! point catches it, counts it and, where somebody waits for an answer, answers with an error. The
//! hook logs one line and prints no backtrace: printing one makes libc's allocator free what the
//! server's allocator gave out on servers that load modules with RTLD_DEEPBIND.

use super::context::{Arg, Ctx};
use crate::server::error::Error;
use redis_module::raw;
use std::ffi::{c_int, CString};
use std::panic::{catch_unwind, AssertUnwindSafe, PanicHookInfo};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Panics caught since the start of the server.
pub static PANICS: AtomicU64 = AtomicU64::new(0);

/// The arguments of the running command, its name first.
#[derive(Clone, Copy)]
pub struct ArgVec<'c>(&'c [*mut raw::RedisModuleString]);

impl<'c> ArgVec<'c> {
    /// How many there are, the name included.
    #[must_use]
    #[allow(clippy::len_without_is_empty)] // the name is always there
    pub fn len(self) -> usize {
        self.0.len()
    }

    /// One after the other, the name first.
    pub fn iter(self) -> impl Iterator<Item = Arg<'c>> {
        self.0.iter().map(|raw| Arg::new(*raw))
    }

    /// All of them, as the server's functions take them.
    pub(super) fn all(self) -> &'c [*mut raw::RedisModuleString] {
        self.0
    }

    /// What follows the name, as the server's functions take it.
    pub(super) fn words(self) -> &'c [*mut raw::RedisModuleString] {
        self.0.get(1..).unwrap_or_default()
    }

    /// The argument at `at`; the name is at 0.
    #[must_use]
    pub fn get(self, at: usize) -> Option<Arg<'c>> {
        self.0.get(at).map(|raw| Arg::new(*raw))
    }
}

/// The form in which the server calls a command.
pub type EntryPoint = unsafe extern "C" fn(*mut raw::RedisModuleCtx, *mut *mut raw::RedisModuleString, c_int) -> c_int;

/// The function that the server calls for the command that `handler` answers.
#[must_use]
pub const fn entry_point<H>(_handler: H) -> EntryPoint
where
    H: Fn(Ctx<'_>, ArgVec<'_>) -> Result<(), Error> + Copy + 'static,
{
    run_command::<H>
}

unsafe extern "C" fn run_command<H>(
    ctx: *mut raw::RedisModuleCtx,
    argv: *mut *mut raw::RedisModuleString,
    argc: c_int,
) -> c_int
where
    H: Fn(Ctx<'_>, ArgVec<'_>) -> Result<(), Error> + Copy + 'static,
{
    // SAFETY: the server passes the `argc` arguments of a running command.
    unsafe { answer_command(ctx, argv, argc, function::<H>()) };
    super::OK
}

/// The function of which `F` is the type: what C calls cannot carry it along.
pub(super) fn function<F: Copy + 'static>() -> F {
    const { assert!(size_of::<F>() == 0, "a function, not a closure with state") };
    // SAFETY: the type of a function has one value, of no size.
    unsafe { std::ptr::NonNull::<F>::dangling().read() }
}

/// Answers a command under the guard; every path answers exactly once.
///
/// # Safety
/// `argv[..argc]` are the arguments of the command.
#[inline(always)]
pub(super) unsafe fn answer_command(
    ctx: *mut raw::RedisModuleCtx,
    argv: *mut *mut raw::RedisModuleString,
    argc: c_int,
    reply: impl FnOnce(Ctx<'_>, ArgVec<'_>) -> Result<(), Error>,
) {
    // SAFETY: the caller's promise.
    let args = ArgVec(unsafe { std::slice::from_raw_parts(argv, argc as usize) });
    let ctx = Ctx::new(ctx);
    match catch_unwind(AssertUnwindSafe(|| reply(ctx, args))) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => error.reply(ctx),
        Err(_) => {
            PANICS.fetch_add(1, Relaxed);
            Error::Internal.reply(ctx);
        }
    }
}

/// Runs any other callback under the guard; after a panic it answers `otherwise`.
pub fn guarded<R>(otherwise: R, run: impl FnOnce() -> R) -> R {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| {
        PANICS.fetch_add(1, Relaxed);
        otherwise
    })
}

/// Makes panics one line in the server's log.
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(log_panic));
}

fn log_panic(info: &PanicHookInfo<'_>) {
    let line = format!("cacheguard: panic, the command was refused and the server goes on: {info}");
    let line = CString::new(line.replace(['\0', '\n'], " ")).unwrap_or_default();
    call!(RedisModule_Log(std::ptr::null_mut(), c"warning".as_ptr(), c"%s".as_ptr(), line.as_ptr()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_caught_and_counted() {
        let before = PANICS.load(Relaxed);
        assert_eq!(guarded(7, || panic!("on purpose")), 7);
        assert_eq!(guarded(7, || 8), 8);
        assert_eq!(PANICS.load(Relaxed), before + 1);
    }
}
