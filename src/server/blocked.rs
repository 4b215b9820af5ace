//! Parked connections and the waiters they are.
//!
//! The engine knows waiters by number, the server knows connections by handle; this file is the
//! only one that knows both. A connection leaves the table exactly once: when its answer is handed
//! to the server, when it is unblocked by an operator, or when it is gone.

use super::error::Error;
use super::ffi::block::{Awaited, Parked, Tell};
use super::ffi::context::{mono_now, Ctx};
use super::ffi::entry_point::ArgVec;
use super::locking;
use super::pump;
use super::state::STATE;
use crate::engine::outbox::Answer;
use crate::engine::time::MonoMillis;
use crate::engine::waiters::{ClientId, Kind, WaiterId};
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

/// Parks the caller as the waiter `id`; `tell` answers it later, or now where the server will not
/// have it.
///
/// # Errors
/// Those of `tell`.
pub fn park(ctx: Ctx<'_>, argv: ArgVec<'_>, id: WaiterId, tell: impl Tell<Answer>) -> Result<(), Error> {
    if let Some(parked) = ctx.park(tell) {
        STATE.with(|state| state.parking.insert(id, parked));
        return Ok(());
    }
    tell(ctx, argv, &dismiss(id))
}

impl Awaited for Answer {
    fn unblocked(ctx: Ctx<'_>, parked: Parked) -> Self {
        // A value may have come in this very turn.
        pump::resolve_doubts(ctx, pump::CHANGES_PER_TURN);
        let id = STATE.with(|state| state.parking.leave(parked));
        let answer = id.map_or(Answer::Leased { left_ms: 0 }, dismiss);
        pump::schedule(ctx);
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
        pump::schedule(ctx);
        was_parked
    }

    /// A lease it brought passes to the next in line.
    fn unheard(&self, ctx: Ctx<'_>) {
        if let Answer::Won(grant) = self {
            let now = mono_now();
            STATE.with(|state| state.book.give_back(grant, now));
            pump::schedule(ctx);
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

/// Hands the next answer to the server; false if there is none.
pub fn answer_next(now: MonoMillis) -> bool {
    hand_out(STATE.with(|state| {
        let (id, answer) = state.book.deliver_next(now)?;
        Some((state.parking.take(id), answer))
    }))
}

/// Hands an answer to the server, if there is one; its connection may be gone already. False if there
/// is none.
pub fn hand_out<A: Awaited>(next: Option<(Option<Parked>, A)>) -> bool {
    let Some((parked, answer)) = next else { return false };
    if let Some(parked) = parked {
        parked.answer(answer);
    }
    true
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
    if locking::closed(client) | concerns {
        pump::schedule(ctx);
    }
}
