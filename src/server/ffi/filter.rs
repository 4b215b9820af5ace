//! The command filter: the server shows us each command before it runs it.
//!
//! It costs every command of every client, so it is in place only while a lease is out. The cheap
//! way out, a read, comes first.

use super::context::{bytes_of, mono_now, Ctx};
use super::entry_point::guarded;
use super::OK;
use crate::engine::waiters::ClientId;
use crate::engine::watch::{effect, Effect};
use crate::server::pump;
use redis_module::raw;
use std::ffi::c_int;

/// The filter, while it is in place.
#[derive(Clone, Copy, Debug)]
pub struct Filter(*mut raw::RedisModuleCommandFilter);

impl Ctx<'_> {
    /// Begins to watch commands. Not to be called from within the filter.
    #[must_use]
    pub fn watch_commands(self) -> Filter {
        let flags = raw::REDISMODULE_CMDFILTER_NOSELF as c_int;
        Filter(call!(RedisModule_RegisterCommandFilter(self.raw, Some(see), flags)))
    }

    /// Stops watching commands. Not to be called from within the filter.
    pub fn unwatch_commands(self, filter: Filter) {
        call!(RedisModule_UnregisterCommandFilter(self.raw, filter.0));
    }
}

/// True if the filter says which connection sent a command (Redis 7.2 and Valkey).
#[must_use]
pub fn names_clients() -> bool {
    has!(RedisModule_CommandFilterGetClientId)
}

unsafe extern "C" fn see(seen: *mut raw::RedisModuleCommandFilterCtx) {
    guarded((), || {
        let argument = |at| bytes_of(call!(RedisModule_CommandFilterArgGet(seen, at)));
        let effect = effect(argument(0));
        if effect != Effect::None {
            let client = names_clients().then(|| ClientId(call!(RedisModule_CommandFilterGetClientId(seen))));
            let count = call!(RedisModule_CommandFilterArgsCount(seen));
            pump::saw(effect, client, (1..count).map(argument), mono_now());
        }
    });
}

/// True if what `client` sends is queued until its EXEC. It is not where MULTI was refused, nor for
/// the client of the server's own that runs scripts.
#[must_use]
pub fn is_in_transaction(client: ClientId) -> bool {
    // SAFETY: all fields of this plain structure may be zero.
    let mut info: raw::RedisModuleClientInfo = unsafe { std::mem::zeroed() };
    info.version = 1;
    let known = call!(RedisModule_GetClientInfoById((&raw mut info).cast(), client.0)) == OK;
    known && info.flags & u64::from(raw::REDISMODULE_CLIENTINFO_FLAG_MULTI) != 0
}

/// True while the server holds writes back (`CLIENT PAUSE`, a failover). It shows a command that
/// is held back when it arrives, and not again when it runs.
#[must_use]
pub fn holds_writes_back() -> bool {
    call!(RedisModule_AvoidReplicaTraffic()) != 0
}
