//! Parked connections and the waiters they are.
//!
//! The engine knows waiters by number, the server knows connections by handle; this file is the
//! only one that knows both. A connection leaves the table exactly once: when its answer is handed
//! to the server, when it is unblocked by an operator, or when it is gone.

use super::error::Error;
use super::ffi::block::Parked;
use super::ffi::context::{mono_now, Ctx};
use super::pump;
use super::state::STATE;
use crate::engine::outbox::Answer;
use crate::engine::waiters::WaiterId;
use ahash::AHashMap;

/// Which connection each waiter is.
#[derive(Default)]
pub struct Parking {
    parked: AHashMap<WaiterId, Parked>,
    waiters: AHashMap<Parked, WaiterId>,
}

impl Parking {
    fn insert(&mut self, id: WaiterId, parked: Parked) {
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

    fn waiter(&self, parked: Parked) -> Option<WaiterId> {
        self.waiters.get(&parked).copied()
    }
}

/// Parks the caller as the waiter `id`. Where the server will not have it, the waiter leaves
/// again and the caller is to be answered at once.
///
/// # Errors
/// [`Error::Leased`].
pub fn park(ctx: Ctx<'_>, id: WaiterId) -> Result<(), Error> {
    if let Some(parked) = ctx.park() {
        STATE.with(|state| state.parking.insert(id, parked));
        return Ok(());
    }
    let now = mono_now();
    let left_ms = STATE.with(|state| {
        let slot = state.book.waiters().get(id).map(|waiter| waiter.slot.clone());
        state.book.leave(id, now);
        slot.map_or(0, |slot| state.book.lease_left_ms(&slot, now))
    });
    Err(Error::Leased { left_ms })
}

/// Answers a connection that waited.
pub fn deliver(ctx: Ctx<'_>, answer: &Answer) {
    match answer {
        Answer::Value(value) => ctx.reply_bytes(value),
        Answer::Won(_) => ctx.reply_nil(),
        Answer::Leased { left_ms } => Error::Leased { left_ms: *left_ms }.reply(ctx),
        Answer::WrongType => Error::WrongType.reply(ctx),
        Answer::Moved => Error::Moved.reply(ctx),
        Answer::Readonly => Error::Readonly.reply(ctx),
    }
}

/// An operator unblocked a parked connection: it is told what had been decided for it, or that
/// the key is still leased.
pub fn unblocked(ctx: Ctx<'_>, parked: Parked) {
    let now = mono_now();
    let answer = STATE.with(|state| {
        let id = state.parking.waiter(parked)?;
        state.parking.take(id);
        let slot = state.book.waiters().get(id).map(|waiter| waiter.slot.clone())?;
        let left_ms = state.book.lease_left_ms(&slot, now);
        Some(state.book.leave(id, now).unwrap_or(Answer::Leased { left_ms }))
    });
    deliver(ctx, &answer.unwrap_or(Answer::Leased { left_ms: 0 }));
    pump::schedule(ctx);
}

/// A parked connection closed, or the server answered it in our place. False if it is not ours
/// any more because its answer has been handed to the server.
pub fn disconnected(ctx: Ctx<'_>, parked: Parked) -> bool {
    let now = mono_now();
    let was_parked = STATE.with(|state| {
        let Some(id) = state.parking.waiter(parked) else { return false };
        state.parking.take(id);
        if let Some(Answer::Won(grant)) = state.book.leave(id, now) {
            state.book.give_back(&grant, now);
        }
        true
    });
    pump::schedule(ctx);
    was_parked
}

/// An answer was handed to the server, but the connection was gone before it was written: a
/// lease it brought passes to the next in line.
pub fn unheard(ctx: Ctx<'_>, answer: &Answer) {
    if let Answer::Won(grant) = answer {
        let now = mono_now();
        STATE.with(|state| state.book.give_back(grant, now));
        pump::schedule(ctx);
    }
}
