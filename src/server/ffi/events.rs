//! Events of the server that concern leases and tags: databases emptied or swapped, keys that come
//! by other hands, a change of role, and on Redis 7.0 the moment before connections are written to.

use super::context::{Arg, Ctx};
use super::entry_point::guarded;
use super::{trim, OK};
use crate::engine::cache::pending::Reply;
use crate::engine::id::ClientId;
use crate::server::cache::wait as cache_wait;
use crate::server::cache::watch;
use crate::server::event_loop;
use crate::server::lock::wait as lock_wait;
use crate::server::state::STATE;
use crate::server::tag::{index, sweep};
use redis_module::raw;
use std::ffi::{c_char, c_int, c_void, CStr};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicI32, AtomicPtr, Ordering::Relaxed};

/// The database that a key is just moved from, for servers that leave the caller of MOVE in the
/// other one and replicate it as if it had been called there.
static MOVED_FROM: AtomicI32 = AtomicI32::new(0);
static BACKGROUND: AtomicPtr<raw::RedisModuleCtx> = AtomicPtr::new(null_mut());

/// A context that outlives every callback, for callbacks that have none of their own.
#[must_use]
pub fn background() -> Ctx<'static> {
    Ctx::new(BACKGROUND.load(Relaxed))
}

/// Whether the module is called before the server sleeps.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum BeforeSleep {
    /// It is, once in every turn of the event loop.
    Call,
    /// It is not.
    #[default]
    Rest,
}

/// Subscribes to what the module must hear of; false if the server refuses.
pub(super) fn subscribe(ctx: *mut raw::RedisModuleCtx) -> bool {
    BACKGROUND.store(call!(RedisModule_GetDetachedThreadSafeContext(ctx)), Relaxed);
    hear(ctx, raw::REDISMODULE_EVENT_FLUSHDB, Some(flushed))
        && hear(ctx, raw::REDISMODULE_EVENT_SWAPDB, Some(swapped))
        && hear(ctx, raw::REDISMODULE_EVENT_REPLICATION_ROLE_CHANGED, Some(role_changed))
        && hear(ctx, raw::REDISMODULE_EVENT_CLIENT_CHANGE, Some(client_changed))
        && hear(ctx, raw::REDISMODULE_EVENT_CRON_LOOP, Some(cron_ran))
        && trim::subscribe(Ctx::new(ctx))
        && hear(ctx, raw::REDISMODULE_EVENT_MODULE_CHANGE, Some(modules_changed))
}

/// Begins or ends the calls of [`event_loop::before_sleep`]. Only from a timer: the server's list of
/// subscribers must not change while it walks it. Ending what has not begun would make the server
/// call a null pointer, so what is there already is left alone.
pub fn before_sleep(ctx: Ctx<'_>, wanted: BeforeSleep) {
    if STATE.with(|state| std::mem::replace(&mut state.before_sleep, wanted)) == wanted {
        return;
    }
    let callback: raw::RedisModuleEventCallback = match wanted {
        BeforeSleep::Call => Some(sleeps),
        BeforeSleep::Rest => None,
    };
    hear(ctx.raw, raw::REDISMODULE_EVENT_EVENTLOOP, callback);
}

pub(super) fn hear(ctx: *mut raw::RedisModuleCtx, id: u64, callback: raw::RedisModuleEventCallback) -> bool {
    let event = raw::RedisModuleEvent { id, dataver: 1 };
    call!(RedisModule_SubscribeToServerEvent(ctx, event, callback)) == OK
}

unsafe extern "C" fn flushed(
    ctx: *mut raw::RedisModuleCtx,
    _event: raw::RedisModuleEvent,
    stage: u64,
    data: *mut c_void,
) {
    guarded((), || {
        // SAFETY: the server passes this structure with this event.
        let flush = unsafe { &*data.cast::<raw::RedisModuleFlushInfo>() };
        if stage == raw::REDISMODULE_SUBEVENT_FLUSHDB_END {
            let only = (flush.dbnum >= 0).then_some(flush.dbnum);
            sweep::emptied(only);
            STATE.with(|state| state.locks.flushed(only));
            event_loop::replaced(Ctx::new(ctx), only);
        }
    });
}

unsafe extern "C" fn swapped(
    ctx: *mut raw::RedisModuleCtx,
    _event: raw::RedisModuleEvent,
    _stage: u64,
    data: *mut c_void,
) {
    guarded((), || {
        // SAFETY: the server passes this structure with this event.
        let swap = unsafe { &*data.cast::<raw::RedisModuleSwapDbInfo>() };
        sweep::exchanged(swap.dbnum_first, swap.dbnum_second);
        STATE.with(|state| {
            state.locks.swapped(swap.dbnum_first, swap.dbnum_second);
            state.limit_waits.swapped(swap.dbnum_first, swap.dbnum_second);
        });
        event_loop::replaced(Ctx::new(ctx), Some(swap.dbnum_first));
        event_loop::replaced(Ctx::new(ctx), Some(swap.dbnum_second));
    });
}

unsafe extern "C" fn role_changed(
    ctx: *mut raw::RedisModuleCtx,
    _event: raw::RedisModuleEvent,
    role: u64,
    _data: *mut c_void,
) {
    guarded((), || {
        if role == raw::REDISMODULE_EVENT_REPLROLECHANGED_NOW_REPLICA {
            STATE.with(|state| {
                state.leases.forget_all(&Reply::Readonly);
                state.limit_waits.forget_all();
            });
            lock_wait::demoted();
        } else {
            lock_wait::promoted();
        }
        // A new primary has to delete what its own may have left.
        event_loop::schedule(Ctx::new(ctx));
    });
}

/// Asks to be told of values that come to be under a key by RENAME, MOVE, COPY, RESTORE or a file
/// that is loaded; false if the server refuses.
pub fn hear_of_arrivals(ctx: Ctx<'_>) -> bool {
    let classes = raw::REDISMODULE_NOTIFY_GENERIC | raw::REDISMODULE_NOTIFY_LOADED;
    call!(RedisModule_SubscribeToKeyspaceEvents(ctx.raw, classes as c_int, Some(keyspace_changed))) == OK
}

unsafe extern "C" fn keyspace_changed(
    ctx: *mut raw::RedisModuleCtx,
    class: c_int,
    event: *const c_char,
    key: *mut raw::RedisModuleString,
) -> c_int {
    guarded((), || {
        let ctx = Ctx::new(ctx);
        if class == raw::REDISMODULE_NOTIFY_LOADED as c_int {
            if index::was_loaded() {
                // Redis 7.0 passes a key that must be neither opened nor kept, only read.
                index::arrived(ctx, ctx.string(Arg::new(key).bytes()).arg());
            }
            return;
        }
        // SAFETY: the server passes the name of the event, which ends with a NUL.
        match unsafe { CStr::from_ptr(event) }.to_bytes() {
            b"move_from" => MOVED_FROM.store(ctx.db(), Relaxed),
            b"move_to" => {
                index::arrived(ctx, Arg::new(key));
                if index::move_leaves_caller_in_other_db() {
                    ctx.select_db(MOVED_FROM.load(Relaxed));
                }
            }
            b"rename_to" | b"copy_to" | b"restore" => index::arrived(ctx, Arg::new(key)),
            _ => {}
        }
    });
    OK
}

unsafe extern "C" fn cron_ran(
    ctx: *mut raw::RedisModuleCtx,
    _event: raw::RedisModuleEvent,
    _stage: u64,
    _data: *mut c_void,
) {
    guarded((), || event_loop::watch_over_timer(Ctx::new(ctx)));
}

unsafe extern "C" fn sleeps(
    ctx: *mut raw::RedisModuleCtx,
    _event: raw::RedisModuleEvent,
    stage: u64,
    _data: *mut c_void,
) {
    guarded((), || {
        if stage == raw::REDISMODULE_SUBEVENT_EVENTLOOP_BEFORE_SLEEP {
            event_loop::before_sleep(Ctx::new(ctx));
        }
    });
}

unsafe extern "C" fn client_changed(
    ctx: *mut raw::RedisModuleCtx,
    _event: raw::RedisModuleEvent,
    change: u64,
    data: *mut c_void,
) {
    guarded((), || {
        // SAFETY: the server passes this structure with this event.
        let client = unsafe { &*data.cast::<raw::RedisModuleClientInfo>() };
        if change == raw::REDISMODULE_SUBEVENT_CLIENT_CHANGE_DISCONNECTED {
            cache_wait::closed(Ctx::new(ctx), ClientId(client.id));
        }
    });
}

unsafe extern "C" fn modules_changed(
    _ctx: *mut raw::RedisModuleCtx,
    _event: raw::RedisModuleEvent,
    _change: u64,
    _data: *mut c_void,
) {
    guarded((), watch::forget_commands);
}
