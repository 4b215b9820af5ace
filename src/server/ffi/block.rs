//! Blocked connections: how the server holds one, and how it gives it back.
//!
//! A client is blocked without a deadline of the server's own: on Redis 7.0 such a deadline and
//! our answer falling into one turn lose the reply. The module keeps the deadlines and answers
//! through [`Ctx::release`]; the timeout callback exists only so that `CLIENT UNBLOCK` works.

use super::acl;
use super::context::{micros, Ctx};
use super::entry_point::{answer_command, function, guarded, ArgVec};
use super::OK;
use crate::server::error::Error;
use redis_module::raw;
use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A blocked client. Used once, then gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Blocked(*mut raw::RedisModuleBlockedClient);

struct Delivery<A> {
    reply: A,
    delivered: Cell<bool>,
    made: fn(),
}

/// When the server began to make the replies of this turn, in microseconds; 0: it has not yet.
static TELLING_SINCE: AtomicU64 = AtomicU64::new(0);

/// A new turn: see [`telling_since`].
pub fn restart_telling() {
    acl::forget_checked();
    TELLING_SINCE.store(0, Relaxed);
}

/// When the server began to make the first reply of this turn, in microseconds.
#[must_use]
pub fn telling_since() -> u64 {
    TELLING_SINCE.load(Relaxed)
}

/// What a family of commands tells those it blocked, and who learns what became of them.
pub trait Waits: Sized + 'static {
    /// An operator unblocked a blocked client; what it is to be told.
    fn unblocked(ctx: Ctx<'_>, blocked: Blocked) -> Self;

    /// A blocked client closed, or the server answered it in our place. False if it is not ours
    /// any more because its answer has been handed to the server.
    fn disconnected(ctx: Ctx<'_>, blocked: Blocked) -> bool;

    /// The answer was decided, but the connection was gone before it was written, or was told an
    /// error instead.
    fn undelivered(&self, ctx: Ctx<'_>);

    /// How large the reply is at most, in bytes; `None`: that is known only when it is made.
    fn bytes_max(&self) -> Option<usize> {
        Some(256)
    }
}

/// Answers a connection that waited, in the form its command asked for.
pub trait Tell<A>: Fn(Ctx<'_>, ArgVec<'_>, &A) -> Result<(), Error> + Copy + 'static {}

impl<A, T: Fn(Ctx<'_>, ArgVec<'_>, &A) -> Result<(), Error> + Copy + 'static> Tell<A> for T {}

impl Ctx<'_> {
    /// Blocks the caller, to be answered by `tell`; `None` if it cannot be blocked, and then nothing
    /// was answered. The server is not asked where it would refuse: Valkey 9 takes that for a fault of
    /// the module.
    #[must_use]
    pub fn block<A: Waits, T: Tell<A>>(self, _tell: T) -> Option<Blocked> {
        if self.situation().denies_blocking() {
            return None;
        }
        let (reply, unblock) = (reply::<A, T>, unblock::<A, T>);
        let blocked = call!(RedisModule_BlockClient(self.raw, Some(reply), Some(unblock), Some(release::<A>), 0));
        if blocked.is_null() {
            return None;
        }
        call!(RedisModule_SetDisconnectCallback(blocked, Some(disconnect::<A>)));
        Some(Blocked(blocked))
    }
}

impl Blocked {
    /// Lets the server answer the connection with `reply` as soon as it can. If the connection
    /// is gone by then, [`Waits::undelivered`] is called. In either case `made` is called last.
    pub fn reply<A: Waits>(self, reply: A, made: fn()) {
        let delivery = Box::into_raw(Box::new(Delivery { reply, delivered: Cell::new(false), made }));
        let done = call!(RedisModule_UnblockClient(self.0, delivery.cast()));
        assert!(done == OK, "the server refused to unblock a client");
    }

    fn let_go(self) {
        call!(RedisModule_UnblockClient(self.0, null_mut()));
    }
}

/// Only a user who may still run the command that waited is answered. The server checks that of its own
/// commands when it serves them, but not of a module's.
fn permit(may: bool) -> Result<(), Error> {
    may.then_some(()).ok_or(Error::Withdrawn)
}

/// The server is ready to write the answer.
unsafe extern "C" fn reply<A: Waits, T: Tell<A>>(
    ctx: *mut raw::RedisModuleCtx,
    argv: *mut *mut raw::RedisModuleString,
    argc: c_int,
) -> c_int {
    let data: *const Delivery<A> = call!(RedisModule_GetBlockedClientPrivateData(ctx)).cast_const().cast();
    // SAFETY: the private data of a client unblocked with an answer is a `Delivery`, freed by
    // `release` after this.
    if let Some(delivery) = unsafe { data.as_ref() } {
        if telling_since() == 0 {
            TELLING_SINCE.store(micros(), Relaxed);
        }
        let tell = function::<T>();
        let told = |ctx: Ctx<'_>, args: ArgVec<'_>| {
            permit(ctx.may_still_run(args))?;
            tell(ctx, args, &delivery.reply)?;
            delivery.delivered.set(true);
            Ok(())
        };
        // SAFETY: the server passes the arguments of the command that waited.
        unsafe { answer_command(ctx, argv, argc, told) };
    }
    OK
}

/// `CLIENT UNBLOCK id TIMEOUT` for a connection that is still blocked.
unsafe extern "C" fn unblock<A: Waits, T: Tell<A>>(
    ctx: *mut raw::RedisModuleCtx,
    argv: *mut *mut raw::RedisModuleString,
    argc: c_int,
) -> c_int {
    let blocked = Blocked(call!(RedisModule_GetBlockedClientHandle(ctx)));
    let tell = function::<T>();
    let told = |ctx: Ctx<'_>, args: ArgVec<'_>| {
        let reply = A::unblocked(ctx, blocked);
        permit(ctx.may_run(args)).and_then(|()| tell(ctx, args, &reply)).inspect_err(|_| reply.undelivered(ctx))
    };
    // SAFETY: the server passes the arguments of the command that waited.
    unsafe { answer_command(ctx, argv, argc, told) };
    blocked.let_go();
    OK
}

/// The connection closed, or the server answered it in our place, while it was blocked.
unsafe extern "C" fn disconnect<A: Waits>(ctx: *mut raw::RedisModuleCtx, blocked: *mut raw::RedisModuleBlockedClient) {
    let blocked = Blocked(blocked);
    // After a panic it is kept: one that was given up twice would be freed twice.
    if guarded(false, || A::disconnected(Ctx::new(ctx), blocked)) {
        blocked.let_go();
    }
}

unsafe extern "C" fn release<A: Waits>(ctx: *mut raw::RedisModuleCtx, data: *mut c_void) {
    guarded((), || {
        // SAFETY: the private data was made by `Blocked::reply` and is given back once.
        let delivery = unsafe { Box::from_raw(data.cast::<Delivery<A>>()) };
        if !delivery.delivered.get() {
            delivery.reply.undelivered(Ctx::new(ctx));
        }
        (delivery.made)();
    });
}
