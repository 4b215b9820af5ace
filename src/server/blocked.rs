//! Parked connections and the waiters they are.
//!
//! The engine knows waiters by number, the server knows connections by handle; this file is the
//! only one that knows both. A connection leaves the table exactly once: when its answer is handed
//! to the server, when it is unblocked by an operator, or when it is gone.

use super::error::Error;
use super::ffi::block::{Parked, Tell};
use super::ffi::context::{mono_now, Ctx};
use super::ffi::entry_point::ArgVec;
use super::pump;
use super::state::STATE;
use crate::engine::lock;
use crate::engine::outbox::Answer;
use crate::engine::waiters::{ClientId, Kind, WaiterId};
use ahash::AHashMap;

/// One who waits, in whichever book: each numbers its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Seat {
    /// For a value.
    Lease(WaiterId),
    /// For a lock.
    Lock(WaiterId),
}

/// What one who waited is told.
#[derive(Clone, Debug)]
pub enum Told {
    /// Of a value.
    Lease(Answer),
    /// Of a lock.
    Lock(lock::Answer),
}

/// Which connection each waiter is.
#[derive(Default)]
pub struct Parking {
    parked: AHashMap<Seat, Parked>,
    seats: AHashMap<Parked, Seat>,
}

impl Parking {
    fn insert(&mut self, seat: Seat, parked: Parked) {
        self.parked.insert(seat, parked);
        self.seats.insert(parked, seat);
    }

    /// Gives up the connection of a waiter that is to be answered.
    pub fn take(&mut self, seat: Seat) -> Option<Parked> {
        let parked = self.parked.remove(&seat)?;
        self.seats.remove(&parked);
        if self.parked.is_empty() {
            self.parked.shrink_to_fit();
            self.seats.shrink_to_fit();
        }
        Some(parked)
    }

    fn seat(&self, parked: Parked) -> Option<Seat> {
        self.seats.get(&parked).copied()
    }
}

/// Parks the caller as the waiter in `seat`; `tell` answers it later, or now where the server will not
/// have it.
///
/// # Errors
/// Those of `tell`.
pub fn park(ctx: Ctx<'_>, argv: ArgVec<'_>, seat: Seat, tell: impl Tell) -> Result<(), Error> {
    if let Some(parked) = ctx.park(tell) {
        STATE.with(|state| state.parking.insert(seat, parked));
        return Ok(());
    }
    tell(ctx, argv, &dismiss(seat))
}

/// An operator unblocked a parked connection; what it is to be told.
pub fn unblocked(ctx: Ctx<'_>, parked: Parked) -> Told {
    // A value may have come in this very turn.
    pump::resolve_doubts(ctx, pump::CHANGES_PER_TURN);
    let seat = STATE.with(|state| {
        let seat = state.parking.seat(parked)?;
        state.parking.take(seat).map(|_| seat)
    });
    let told = seat.map_or(Told::Lease(Answer::Leased { left_ms: 0 }), dismiss);
    pump::schedule(ctx);
    told
}

/// Ends a wait: it is told what had been decided for it, or how things stand.
fn dismiss(seat: Seat) -> Told {
    let now = mono_now();
    STATE.with(|state| match seat {
        Seat::Lease(id) => {
            let left_ms = state.book.lease_left_ms(id, now);
            let group = state.book.waiters().get(id).is_some_and(|waiter| waiter.kind == Kind::Group);
            let undecided = if group { Answer::Look } else { Answer::Leased { left_ms } };
            Told::Lease(state.book.leave(id, now).unwrap_or(undecided))
        }
        Seat::Lock(id) => Told::Lock(state.locks.leave(id).unwrap_or(lock::Answer::TimedOut)),
    })
}

/// A parked connection closed, or the server answered it in our place. False if it is not ours
/// any more because its answer has been handed to the server.
pub fn disconnected(ctx: Ctx<'_>, parked: Parked) -> bool {
    let now = mono_now();
    let was_parked = STATE.with(|state| {
        let Some(seat) = state.parking.seat(parked) else { return false };
        state.parking.take(seat);
        match seat {
            Seat::Lease(id) => {
                if let Some(Answer::Won(grant)) = state.book.leave(id, now) {
                    state.book.give_back(&grant, now);
                }
            }
            Seat::Lock(id) => {
                if let Some(lock::Answer::Granted(granted)) = state.locks.leave(id) {
                    state.locks.unheard(&granted);
                }
            }
        }
        true
    });
    pump::schedule(ctx);
    was_parked
}

/// An answer was decided, but the connection was gone before it was written, or was told an error
/// instead: a lease or lock it brought passes to the next in line.
pub fn unheard(ctx: Ctx<'_>, told: &Told) {
    let now = mono_now();
    STATE.with(|state| match told {
        Told::Lease(Answer::Won(grant)) => state.book.give_back(grant, now),
        Told::Lock(lock::Answer::Granted(granted)) => state.locks.unheard(granted),
        Told::Lease(_) | Told::Lock(_) => {}
    });
    pump::schedule(ctx);
}

/// A connection closed: the leases and locks bound to it end.
pub fn closed(ctx: Ctx<'_>, client: ClientId) {
    let now = mono_now();
    let concerns = STATE.with(|state| {
        if let Some((_, watch)) = &mut state.watch {
            watch.forget(client);
        }
        state.locks.disconnect(client) | state.book.disconnect(client, now)
    });
    if concerns {
        pump::schedule(ctx);
    }
}
