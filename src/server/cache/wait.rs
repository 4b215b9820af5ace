//! Blocked connections and the waiters they are.
//!
//! The engine knows waiters by number, the server knows connections by handle; this file is the
//! only one that knows both. A connection leaves the table exactly once: when its answer is handed
//! to the server, when it is unblocked by an operator, or when it is gone.

use crate::engine::cache::pending::Reply;
use crate::engine::cache::waiters::Kind;
use crate::engine::id::{ClientId, WaiterId};
use crate::engine::time::MonoMillis;
use crate::server::delivery::{unblock_next, HandedOver};
use crate::server::error::Error;
use crate::server::event_loop;
use crate::server::ffi::block::{Blocked, Tell, Waits};
use crate::server::ffi::context::{mono_now, Ctx};
use crate::server::lock::wait as lock_wait;
use crate::server::state::STATE;
use ahash::AHashMap;

/// Which connection each waiter is.
#[derive(Default)]
pub struct BlockedClients {
    blocked: AHashMap<WaiterId, Blocked>,
    waiters: AHashMap<Blocked, WaiterId>,
}

impl BlockedClients {
    /// Remembers the connection of a waiter.
    pub fn insert(&mut self, id: WaiterId, blocked: Blocked) {
        self.blocked.insert(id, blocked);
        self.waiters.insert(blocked, id);
    }

    /// Gives up the connection of a waiter that is to be answered.
    pub fn take(&mut self, id: WaiterId) -> Option<Blocked> {
        let blocked = self.blocked.remove(&id)?;
        self.waiters.remove(&blocked);
        if self.blocked.is_empty() {
            self.blocked.shrink_to_fit();
            self.waiters.shrink_to_fit();
        }
        Some(blocked)
    }

    /// Gives up a connection that the server has taken back, and says which waiter it was.
    pub fn leave(&mut self, blocked: Blocked) -> Option<WaiterId> {
        let id = self.waiters.get(&blocked).copied()?;
        self.take(id).map(|_| id)
    }
}

/// Blocks the caller as the waiter `id`; `tell` answers it later.
///
/// # Errors
/// [`Error::CannotWait`]; then it waits no longer.
pub fn block(ctx: Ctx<'_>, id: WaiterId, tell: impl Tell<Reply>) -> Result<(), Error> {
    if let Some(blocked) = ctx.block(tell) {
        STATE.with(|state| state.blocked_clients.insert(id, blocked));
        return Ok(());
    }
    // Nothing can have been decided for it yet.
    end_wait(id);
    Err(Error::CannotWait)
}

impl Waits for Reply {
    fn unblocked(ctx: Ctx<'_>, blocked: Blocked) -> Self {
        let id = STATE.with(|state| state.blocked_clients.leave(blocked));
        // A value may have come in this very turn.
        let db_keys =
            STATE.with(|state| id.and_then(|id| state.leases.waiters().get(id)).map(|waiter| waiter.db_keys.clone()));
        db_keys.into_iter().flatten().for_each(|db_key| event_loop::recheck_key(ctx, db_key.db, &db_key.key));
        let reply = id.map_or(Reply::Leased { left_ms: 0 }, end_wait);
        event_loop::schedule(ctx);
        reply
    }

    fn disconnected(ctx: Ctx<'_>, blocked: Blocked) -> bool {
        let now = mono_now();
        let was_blocked = STATE.with(|state| {
            let Some(id) = state.blocked_clients.leave(blocked) else { return false };
            if let Some(Reply::Won(grant)) = state.leases.leave(id, now) {
                state.leases.give_back(&grant, now);
            }
            true
        });
        event_loop::schedule(ctx);
        was_blocked
    }

    fn bytes_max(&self) -> Option<usize> {
        match self {
            Self::Value(served) => Some(served.value.len() + 256),
            // What is under the key, or under several, is read when the reply is made.
            Self::Won(_) | Self::Look | Self::Failed(_) => None,
            Self::Leased { .. } | Self::WrongType | Self::Moved | Self::Readonly => Some(256),
        }
    }

    /// A lease it brought passes to the next in line.
    fn undelivered(&self, ctx: Ctx<'_>) {
        if let Reply::Won(grant) = self {
            let now = mono_now();
            STATE.with(|state| state.leases.give_back(grant, now));
            event_loop::schedule(ctx);
        }
    }
}

/// Ends the wait of `id`: it is told what had been decided for it, or how things stand.
fn end_wait(id: WaiterId) -> Reply {
    let now = mono_now();
    STATE.with(|state| {
        let left_ms = state.leases.lease_left_ms(id, now);
        let group = state.leases.waiters().get(id).is_some_and(|waiter| waiter.kind == Kind::Group);
        let undecided = if group { Reply::Look } else { Reply::Leased { left_ms } };
        state.leases.leave(id, now).unwrap_or(undecided)
    })
}

/// Hands the next answer to the server, if there is one.
pub fn answer_next(now: MonoMillis) -> Option<HandedOver> {
    unblock_next(STATE.with(|state| {
        let (id, reply) = state.leases.next_reply(now)?;
        Some((state.blocked_clients.take(id), reply))
    }))
}

/// A connection closed: the leases and locks bound to it end.
pub fn closed(ctx: Ctx<'_>, client: ClientId) {
    let now = mono_now();
    let concerns = STATE.with(|state| {
        if let Some((_, watch)) = &mut state.watch {
            watch.forget(client);
        }
        state.leases.disconnect(client, now)
    });
    if lock_wait::closed(client) | concerns {
        event_loop::schedule(ctx);
    }
}
