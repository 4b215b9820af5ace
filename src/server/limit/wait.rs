//! Callers that wait for units of a limit.
//!
//! Who is first before a key is weighed when its units will exist, and again at once after whatever
//! changes the key: the timer comes for it, never a retry. Its units are taken in the moment in
//! which its answer is decided; if the connection is gone before the answer is written, they are
//! given back.
//!
//! While the server holds writes back (`CLIENT PAUSE`, a failover, a shutdown) nothing is taken and
//! nothing given back, but waits end when they should: a refusal changes nothing.

use crate::engine::id::{DbId, Slot, WaiterId};
use crate::engine::limit::queue::{Lines, Taken, Told, Turn, Waiter};
use crate::engine::limit::rules::Verdict;
use crate::engine::limit::Mark;
use crate::engine::time::{MonoMillis, UnixMillis};
use crate::server::cache::wait::Parking;
use crate::server::delivery::{hand_out, HandedOver};
use crate::server::error::Error;
use crate::server::event_loop;
use crate::server::event_loop::{Budget, HELD_BACK_MS};
use crate::server::ffi::block::{Awaited, Parked, Tell};
use crate::server::ffi::context::{mono_now, Arg, Ctx};
use crate::server::ffi::events;
use crate::server::ffi::filter;
use crate::server::limit::commit as keyspace;
use crate::server::state::STATE;
use std::collections::BTreeMap;

/// Who waits, and who that is.
#[derive(Default)]
pub struct Pacing {
    /// The order of waiters.
    pub lines: Lines,
    parking: Parking,
    /// Units of answers that nobody heard, by the value and the time they were taken from.
    returns: BTreeMap<(Slot, Mark, UnixMillis), u64>,
    /// While the server holds writes back: when to look again.
    held_back_until: Option<MonoMillis>,
    last_mark: u64,
}

/// An answer, and the key it is about.
pub struct Paced {
    slot: Slot,
    told: Told,
}

impl Paced {
    /// The verdict to reply with.
    ///
    /// # Errors
    /// What the caller is told instead.
    pub fn verdict(&self) -> Result<Verdict, Error> {
        match self.told {
            Told::Granted(verdict, _) | Told::Refused(verdict) => Ok(verdict),
            Told::WrongType => Err(Error::WrongType),
            Told::Readonly => Err(Error::ReadonlyLimit),
            Told::Moved => Err(Error::Moved),
        }
    }
}

impl Pacing {
    /// True if there is something to do now.
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.lines.has_answers() || !self.returns.is_empty() && self.held_back_until.is_none()
    }

    /// When there is something to do next. Waits end, whether writes are held back or not.
    #[must_use]
    pub fn next_due(&self) -> Option<MonoMillis> {
        let returns = (!self.returns.is_empty()).then_some(MonoMillis(0));
        let writes = [returns, self.lines.next_due()].into_iter().flatten().min();
        let writes = writes.map(|due| self.held_back_until.map_or(due, |until| due.max(until)));
        [writes, self.lines.next_deadline()].into_iter().flatten().min()
    }

    /// This server follows another one now, which has all units.
    pub fn forget_all(&mut self) {
        for slot in self.lines.slots() {
            self.lines.tell_all(&slot, &Told::Readonly);
        }
        self.returns.clear();
    }

    /// A mark that no value has been given.
    pub fn next_mark(&mut self) -> u64 {
        self.last_mark += 1;
        self.last_mark
    }

    fn give_back(&mut self, slot: Slot, told: &Told) {
        if let Told::Granted(_, Taken { units, at, mark }) = *told {
            *self.returns.entry((slot, mark, at)).or_default() += units;
        }
    }
}

/// When the first who waits for `key` is weighed next, in milliseconds from now; `None` if nobody
/// waits.
#[inline]
pub fn line_ahead_ms(db: DbId, key: &[u8]) -> Option<u64> {
    let due = STATE.with(|state| state.pacing.lines.due(db, key))?;
    Some(due.since(mono_now()))
}

/// Parks the caller at the end of the line before its key; `tell` answers it later. `look_ms`: when
/// it is to be weighed, if it is the first.
///
/// # Errors
/// [`Error::CannotWait`].
pub fn park(ctx: Ctx<'_>, waiter: Waiter, look_ms: u64, tell: impl Tell<Paced>) -> Result<(), Error> {
    let Some(parked) = ctx.park(tell) else { return Err(Error::CannotWait) };
    let due = mono_now().after(look_ms);
    STATE.with(|state| {
        let id = state.pacing.lines.join(waiter, due);
        state.pacing.parking.insert(id, parked);
    });
    event_loop::schedule(ctx);
    Ok(())
}

/// A value of ours left `key`: by deletion, expiry, or because another one takes its place.
pub fn key_left(db: DbId, key: &[u8]) {
    if STATE.with(|state| state.pacing.lines.hurry(db, key)) {
        event_loop::schedule(events::background());
    }
}

/// Units of `key` were given back.
pub fn hurry(ctx: Ctx<'_>, db: DbId, key: &[u8]) {
    if STATE.with(|state| state.pacing.lines.hurry(db, key)) {
        event_loop::schedule(ctx);
    }
}

/// Takes back what nobody heard of, and lets through whoever's turn it is.
pub fn turn(ctx: Ctx<'_>, now: MonoMillis, budget: &Budget) {
    let idle = STATE.with(|state| state.pacing.lines.is_empty() && state.pacing.returns.is_empty());
    if idle {
        return;
    }
    let held_back = filter::holds_writes_back();
    STATE.with(|state| state.pacing.held_back_until = held_back.then(|| now.after(HELD_BACK_MS)));
    if !held_back {
        take_back(ctx, budget);
    }
    while budget.allows_more() {
        let next = STATE.with(|state| {
            let lines = &state.pacing.lines;
            let turn = if held_back { lines.next_end(now)? } else { lines.next_turn(now)? };
            let (Turn::First(id) | Turn::Last(id) | Turn::Late(id)) = turn;
            lines.get(id).cloned().map(|waiter| (turn, id, waiter))
        });
        let Some((turn, id, waiter)) = next else { break };
        let turn = if held_back { Turn::Late(id) } else { turn };
        weigh(ctx, turn, id, &waiter);
    }
}

/// Gives back units that nobody heard of, to the values they were taken from. A server that follows
/// another one does not: its primary has the data.
fn take_back(ctx: Ctx<'_>, budget: &Budget) {
    if STATE.with(|state| state.pacing.returns.is_empty()) {
        return;
    }
    if ctx.situation().is_replica() {
        STATE.with(|state| state.pacing.returns.clear());
    }
    while budget.allows_more() {
        let next = STATE.with(|state| state.pacing.returns.pop_first());
        let Some(((slot, mark, at), units)) = next else { break };
        let given = ctx.within(slot.db, &slot.key, |name| keyspace::give_back(ctx, name, Taken { units, at, mark }));
        if given {
            STATE.with(|state| state.pacing.lines.hurry(slot.db, &slot.key));
        }
    }
}

/// Weighs one whose turn it is; tells it, or says when to weigh it again.
fn weigh(ctx: Ctx<'_>, turn: Turn, id: WaiterId, waiter: &Waiter) {
    let slot = &waiter.slot;
    let in_cluster = STATE.with(|state| state.in_cluster);
    if in_cluster && ctx.is_foreign(&slot.key) {
        STATE.with(|state| state.pacing.lines.tell_all(slot, &Told::Moved));
        return;
    }
    let (told, look_ms) = ctx.within(slot.db, &slot.key, |name| {
        if let Turn::Late(_) = turn {
            return (refusal(ctx, name, waiter), None);
        }
        match (keyspace::decide_for_waiter(ctx, name, &waiter.plan, waiter.ask), turn) {
            (Err(_), _) => (Told::WrongType, None),
            (Ok((verdict, taken)), _) if verdict.allowed > 0 => (Told::Granted(verdict, taken), None),
            (Ok((verdict, _)), Turn::First(_)) => {
                let look_ms = verdict.retry_after_ms.map(|retry_ms| keyspace::look_again_ms(ctx, name, retry_ms));
                (Told::Refused(verdict), look_ms)
            }
            (Ok((verdict, _)), _) => (Told::Refused(verdict), None),
        }
    });
    let now = mono_now();
    STATE.with(|state| match (&told, look_ms) {
        (Told::WrongType, _) => state.pacing.lines.tell_all(slot, &told),
        (_, Some(look_ms)) => state.pacing.lines.postpone(slot, now.after(look_ms)),
        _ => state.pacing.lines.tell(id, told),
    });
}

/// What a waiter is told whose wait ends before its turn.
fn refusal(ctx: Ctx<'_>, name: Arg<'_>, waiter: &Waiter) -> Told {
    let ahead_ms = line_ahead_ms(waiter.slot.db, name.bytes()).unwrap_or(0);
    match keyspace::foresee(ctx, name, &waiter.plan, waiter.ask) {
        Ok(verdict) => Told::Refused(behind(verdict, ahead_ms)),
        Err(_) => Told::WrongType,
    }
}

/// A verdict for one who may not go before others that wait: refused, until the first of them is
/// weighed at the earliest.
#[must_use]
pub fn behind(verdict: Verdict, ahead_ms: u64) -> Verdict {
    Verdict {
        allowed: 0,
        remaining: verdict.remaining + verdict.allowed,
        retry_after_ms: verdict.retry_after_ms.map(|ms| ms.max(ahead_ms).max(1)),
        ..verdict
    }
}

/// Hands the next answer to the server, if there is one.
pub fn answer_next() -> Option<HandedOver> {
    hand_out(STATE.with(|state| {
        let (id, slot, told) = state.pacing.lines.deliver_next()?;
        Some((state.pacing.parking.take(id), Paced { slot, told }))
    }))
}

impl Awaited for Paced {
    fn unblocked(ctx: Ctx<'_>, parked: Parked) -> Self {
        let (waiter, decided) = STATE.with(|state| {
            let pacing = &mut state.pacing;
            let Some(id) = pacing.parking.leave(parked) else { return (None, None) };
            let waiter = pacing.lines.get(id).cloned();
            (waiter, pacing.lines.leave(id))
        });
        event_loop::schedule(ctx);
        match (waiter, decided) {
            (_, Some((slot, told))) => Self { slot, told },
            (Some(waiter), None) => {
                let told = ctx.within(waiter.slot.db, &waiter.slot.key, |name| refusal(ctx, name, &waiter));
                Self { slot: waiter.slot, told }
            }
            (None, None) => Self { slot: Slot { db: 0, key: [][..].into() }, told: Told::Moved },
        }
    }

    fn disconnected(ctx: Ctx<'_>, parked: Parked) -> bool {
        let was_parked = STATE.with(|state| {
            let pacing = &mut state.pacing;
            let Some(id) = pacing.parking.leave(parked) else { return false };
            if let Some((slot, told)) = pacing.lines.leave(id) {
                pacing.give_back(slot, &told);
            }
            true
        });
        event_loop::schedule(ctx);
        was_parked
    }

    /// The units are given back in the next turn: a connection that is being closed is no place to
    /// write from.
    fn unheard(&self, ctx: Ctx<'_>) {
        STATE.with(|state| state.pacing.give_back(self.slot.clone(), &self.told));
        event_loop::schedule(ctx);
    }
}
