//! The command filter: the server shows us each command before it runs it.
//!
//! It costs every command of every client, so it is in place only while a lease is out.

use super::acl;
use super::commands::key_uses;
use super::context::{bytes_of, client_info, Ctx};
use super::entry_point::guarded;
use super::events;
use crate::engine::cache::plain::known::KeyUse;
use crate::engine::id::ClientId;
use crate::server::cache::watch;
use redis_module::raw;
use std::ffi::c_int;
use std::marker::PhantomData;

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

/// A command that the server is about to run or to queue.
#[derive(Clone, Copy)]
pub struct Seen<'f>(*mut raw::RedisModuleCommandFilterCtx, PhantomData<&'f ()>);

impl<'f> Seen<'f> {
    /// How many arguments it has, its name included.
    #[allow(clippy::len_without_is_empty)] // the name is always there
    #[inline]
    #[must_use]
    pub fn len(self) -> usize {
        usize::try_from(call!(RedisModule_CommandFilterArgsCount(self.0))).unwrap_or(0)
    }

    /// The argument at `at`, which is less than [`Self::len`]; the name is at 0.
    #[inline]
    #[must_use]
    pub fn argument(self, at: usize) -> &'f [u8] {
        bytes_of(self.raw_argument(at))
    }

    fn raw_argument(self, at: usize) -> *mut raw::RedisModuleString {
        let at = c_int::try_from(at).unwrap_or(c_int::MAX);
        call!(RedisModule_CommandFilterArgGet(self.0, at))
    }

    /// Who sent it, if the server says.
    #[must_use]
    pub fn client(self) -> Option<ClientId> {
        names_clients().then(|| ClientId(call!(RedisModule_CommandFilterGetClientId(self.0))))
    }

    /// Whether its sender may run it. The server asks that after the filter. Where it does not say who
    /// sends (Redis 7.0), and of scripts and modules, which were asked before, everything is permitted.
    #[must_use]
    pub fn is_permitted(self) -> bool {
        let Some(client) = self.client() else { return true };
        let argv: Vec<_> = (0..self.len()).map(|at| self.raw_argument(at)).collect();
        let db = client_info(client).map_or(0, |info| info.db.into());
        acl::client_may_run(events::background(), (client, db), &argv)
    }

    /// Which of its arguments are keys, and what it does to them, where the server says so. Costs some
    /// hundred instructions.
    #[must_use]
    pub fn keys(self) -> Vec<(usize, Option<KeyUse>)> {
        let argv: Vec<_> = (0..self.len()).map(|at| self.raw_argument(at)).collect();
        key_uses(events::background(), &argv)
    }
}

unsafe extern "C" fn see(seen: *mut raw::RedisModuleCommandFilterCtx) {
    guarded((), || watch::saw(Seen(seen, PhantomData)));
}

/// True if what `client` sends is queued until its EXEC. It is not where MULTI was refused, nor for
/// the client of the server's own that runs scripts.
#[must_use]
pub fn is_in_transaction(client: ClientId) -> bool {
    let flag = u64::from(raw::REDISMODULE_CLIENTINFO_FLAG_MULTI);
    client_info(client).is_some_and(|info| info.flags & flag != 0)
}

/// True while the server holds writes back (`CLIENT PAUSE`, a failover). It shows a command that
/// is held back when it arrives, and not again when it runs.
#[must_use]
pub fn writes_are_paused() -> bool {
    call!(RedisModule_AvoidReplicaTraffic()) != 0
}
