//! Parked connections and the waiters they are.
//!
//! The engine knows waiters by number, the server knows connections by handle; this file is the
//! only one that knows both. A connection leaves the table exactly once: when its answer is handed
//! to the server, when it is unblocked by an operator, or when it is gone.

use crate::engine::cache::outbox::Answer;
use crate::engine::cache::waiters::Kind;
use crate::engine::id::{ClientId, WaiterId};
use crate::engine::time::MonoMillis;
use crate::server::delivery::{hand_out, HandedOver};
use crate::server::error::Error;
use crate::server::event_loop;
use crate::server::ffi::block::{Awaited, Parked, Tell};
use crate::server::ffi::context::{mono_now, Ctx};
use crate::server::lock::wait as lock_wait;
use crate::server::state::STATE;
use ahash::AHashMap;

/// Which connection each waiter is.
#[derive(Default)]
pub struct Parking {
    parked: AHashMap<WaiterId, Parked>,
    waiters: AHashMap<Parked, WaiterId>,
}

impl Parking {
    /// Remembers the connection of a waiter.
    pub fn insert(&mut self, id: WaiterId, parked: Parked) {
        self.parked.insert(id, parked);
        self.waiters.insert(parked, id);
    }

    /// Gives up the connection of a waiter that is to be answered.
    pub fn take(&mut self, id: WaiterId) -> Option<Parked> {
        let parked = self.parked.remove(&id)?;
        self.waiters.remove(&parked);
        if self.parked.is_empty() {
            self.parked.shrink_to_fit();
            self.waiters.shrink_to_fit();
        }
        Some(parked)
    }

    /// Gives up a connection that the server has taken back, and says which waiter it was.
    pub fn leave(&mut self, parked: Parked) -> Option<WaiterId> {
        let id = self.waiters.get(&parked).copied()?;
        self.take(id).map(|_| id)
    }
}

/// Parks the caller as the waiter `id`; `tell` answers it later.
///
/// # Errors
/// [`Error::CannotWait`]; then it waits no longer.
pub fn park(ctx: Ctx<'_>, id: WaiterId, tell: impl Tell<Answer>) -> Result<(), Error> {
    if let Some(parked) = ctx.park(tell) {
        STATE.with(|state| state.parking.insert(id, parked));
        return Ok(());
    }
    // Nothing can have been decided for it yet.
    dismiss(id);
    Err(Error::CannotWait)
}

impl Awaited for Answer {
    fn unblocked(ctx: Ctx<'_>, parked: Parked) -> Self {
        let id = STATE.with(|state| state.parking.leave(parked));
        // A value may have come in this very turn.
        let slots =
            STATE.with(|state| id.and_then(|id| state.book.waiters().get(id)).map(|waiter| waiter.slots.clone()));
        slots.into_iter().flatten().for_each(|slot| event_loop::resolve_doubt(ctx, slot.db, &slot.key));
        let answer = id.map_or(Answer::Leased { left_ms: 0 }, dismiss);
        event_loop::schedule(ctx);
        answer
    }

    fn disconnected(ctx: Ctx<'_>, parked: Parked) -> bool {
        let now = mono_now();
        let was_parked = STATE.with(|state| {
            let Some(id) = state.parking.leave(parked) else { return false };
            if let Some(Answer::Won(grant)) = state.book.leave(id, now) {
                state.book.give_back(&grant, now);
            }
            true
        });
        event_loop::schedule(ctx);
        was_parked
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
    fn unheard(&self, ctx: Ctx<'_>) {
        if let Answer::Won(grant) = self {
            let now = mono_now();
            STATE.with(|state| state.book.give_back(grant, now));
            event_loop::schedule(ctx);
        }
    }
}

/// Ends the wait of `id`: it is told what had been decided for it, or how things stand.
fn dismiss(id: WaiterId) -> Answer {
    let now = mono_now();
    STATE.with(|state| {
        let left_ms = state.book.lease_left_ms(id, now);
        let group = state.book.waiters().get(id).is_some_and(|waiter| waiter.kind == Kind::Group);
        let undecided = if group { Answer::Look } else { Answer::Leased { left_ms } };
        state.book.leave(id, now).unwrap_or(undecided)
    })
}

/// Hands the next answer to the server, if there is one.
pub fn answer_next(now: MonoMillis) -> Option<HandedOver> {
    hand_out(STATE.with(|state| {
        let (id, answer) = state.book.deliver_next(now)?;
        Some((state.parking.take(id), answer))
    }))
}

/// A connection closed: the leases and locks bound to it end.
pub fn closed(ctx: Ctx<'_>, client: ClientId) {
    let now = mono_now();
    let concerns = STATE.with(|state| {
        if let Some((_, watch)) = &mut state.watch {
            watch.forget(client);
        }
        state.book.disconnect(client, now)
    });
    if lock_wait::closed(client) | concerns {
        event_loop::schedule(ctx);
    }
}
