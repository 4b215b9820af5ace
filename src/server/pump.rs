//! What happens between commands: doubts are resolved, deadlines fall due, answers go out.
//!
//! One timer drives it all. It is set to the earliest deadline, or to "as soon as the events at
//! hand are handled" while there is something to do now; with neither, there is no timer, and an
//! idle server spends nothing on ten thousand waiters.
//!
//! Answers go out in slices of [`ANSWERS_PER_TURN`]: each costs the server the write to a socket,
//! and other clients are served between two slices. On Redis 7.0 a connection that is unblocked by
//! an operator between our hand-over and the server's write never gets any reply; so there the
//! slice is handed over in the event that comes right before that write (see
//! `docs/decisions/0001-parking.md`).

use super::blocked;
use super::cluster;
use super::commands::look::{look_into, Sight};
use super::error::Error;
use super::ffi::context::{mono_now, server_version, Arg, Ctx};
use super::ffi::events::{self, BeforeSleep};
use super::ffi::filter;
use super::ffi::key::Key;
use super::locking;
use super::pacing;
use super::state::STATE;
use super::{sweep, tagging};
use crate::engine::lease::{Doubt, Found};
use crate::engine::time::MonoMillis;
use crate::engine::waiters::{ClientId, DbId, Slot};
use crate::engine::watch::{Effect, Watch};

/// Connections answered in one turn of the event loop: about a millisecond of socket writes.
pub const ANSWERS_PER_TURN: usize = 100;
/// Leases and waits ended, doubts resolved, locks changed and callers weighed, in one turn: each.
pub const CHANGES_PER_TURN: usize = 1_000;
/// How often locks and limits look whether the server still holds writes back, in milliseconds.
pub const HELD_BACK_MS: u64 = 20;
/// Where the server does not say who sends a command, the filter stays this long after the last
/// lease, so that few transactions are open that it has not seen begin. Milliseconds.
pub const WATCH_LINGER_MS: u64 = 60_000;

const VERSION_7_2: u32 = 0x0007_0200;

/// The timer fired: does what is due, and sets it again if there is more to come.
pub fn turn(ctx: Ctx<'_>) {
    STATE.with(|state| state.timer = None);
    settle_exec();
    let paused = filter::holds_writes_back();
    STATE.with(|state| state.doubt_held_back(paused, mono_now()));
    resolve_doubts(ctx, CHANGES_PER_TURN);
    cluster::refuse_foreign(ctx);
    let now = mono_now();
    cluster::refuse_foreign_due(ctx, now);
    STATE.with(|state| (0..CHANGES_PER_TURN).any(|_| !state.book.expire_next(now)));
    tagging::forget_if_unasked();
    sweep::slice(ctx);
    locking::turn(ctx);
    pacing::turn(ctx, now);
    if server_version() >= VERSION_7_2 {
        answer_some();
    }
    let more =
        STATE.with(|state| state.book.has_answers() || state.locks.has_answers() || state.pacing.lines.has_answers());
    events::before_sleep(ctx, if more { BeforeSleep::Call } else { BeforeSleep::Rest });
    stop_watching(ctx, now);
    schedule(ctx);
}

/// The server is about to wait for events, and there are answers left. On Redis 7.0 it first writes
/// those that are handed over now; elsewhere the timer hands them over. A timer that is set within a
/// timer fires a millisecond later at the earliest, one that is set here at once.
pub fn before_sleep(ctx: Ctx<'_>) {
    if server_version() < VERSION_7_2 {
        answer_some();
    }
    if let Some((timer, _)) = STATE.with(|state| state.timer.take()) {
        ctx.stop_timer(timer);
    }
    set_timer(ctx, mono_now(), 0);
}

fn answer_some() {
    let now = mono_now();
    for _ in 0..ANSWERS_PER_TURN {
        if !blocked::answer_next(now) && !locking::answer_next() && !pacing::answer_next() {
            break;
        }
    }
}

/// Resolves what plain commands may have done to any key with a lease, to `most` of them.
pub fn resolve_doubts(ctx: Ctx<'_>, most: usize) {
    for _ in 0..most {
        let Some(slot) = STATE.with(|state| state.book.next_doubted()) else { break };
        resolve(ctx, &slot);
    }
}

/// Resolves what plain commands may have done to `key`, before it is decided upon.
pub fn resolve_doubt(ctx: Ctx<'_>, db: DbId, key: &[u8]) {
    note_direct(ctx);
    if let Some(slot) = STATE.with(|state| state.book.doubted(db, key)) {
        resolve(ctx, &slot);
    }
}

/// A command of ours runs. Unless that is inside a transaction or script, transactions that were
/// seen to begin to run are over, and the caller is in none.
pub fn note_direct(ctx: Ctx<'_>) {
    let unsure = STATE.with(|state| state.watch.as_ref().is_some_and(|(_, watch)| watch.has_transactions()));
    if unsure && !ctx.situation().denies_blocking() {
        let client = ctx.client_id();
        STATE.with(|state| state.watch.iter_mut().for_each(|(_, watch)| watch.forget(client)));
        settle_exec();
    }
}

fn settle_exec() {
    STATE.with(|state| {
        if let Some((_, watch)) = &mut state.watch {
            watch.settle(&mut state.book);
        }
    });
}

fn resolve(ctx: Ctx<'_>, slot: &Slot) {
    let found =
        ctx.look_at(slot.db, &slot.key, |key, name| match key.map_or(Ok(None), |key| watch_into(ctx, key, name)) {
            Ok(None) => Found::Nothing,
            Ok(Some(sight)) => sight.served().map_or(Found::Stale, Found::Fresh),
            Err(_) => Found::WrongType,
        });
    let now = mono_now();
    STATE.with(|state| state.book.resolve(slot, found, now));
}

/// What is under an open key, which has a lease.
fn watch_into(ctx: Ctx<'_>, key: Key<'_>, name: Arg<'_>) -> Result<Option<Sight>, Error> {
    tagging::watch_entry(&key);
    look_into(ctx, key, name)
}

/// A command is about to run that may concern a key with a lease.
pub fn saw<'a>(
    effect: Effect,
    client: Option<ClientId>,
    args: impl Iterator<Item = &'a [u8]> + Clone,
    now: MonoMillis,
) {
    let queues = |client| STATE.with(|state| state.watch.as_ref().is_some_and(|(_, watch)| watch.queues(client)));
    let refused = client.filter(|client| queues(*client) && !filter::is_in_transaction(*client));
    let paused = filter::holds_writes_back();
    let doubted = STATE.with(|state| match &mut state.watch {
        Some((_, watch)) => {
            refused.into_iter().for_each(|client| watch.forget(client));
            if let (Effect::Keys(doubt), true) = (effect, paused) {
                watch.hold_back(args.clone(), doubt);
            }
            watch.see(&mut state.book, effect, client, args, now) || paused
        }
        None => false,
    });
    if doubted {
        schedule(events::background());
    }
}

/// Every key of database `only` (`None`: of all) was removed or replaced.
pub fn replaced(ctx: Ctx<'_>, only: Option<DbId>) {
    STATE.with(|state| {
        state.book.doubt_all(only, Doubt::Invalidated);
        state.pacing.lines.hurry_all(only);
    });
    schedule(ctx);
}

/// Sets the timer for what the state now holds, and begins to watch commands once a lease is out.
/// To be called after every change of the lease book, except from within the filter's list.
pub fn schedule(ctx: Ctx<'_>) {
    let now = mono_now();
    let probe = cluster::next_probe(now);
    let sweeps = sweep::next_slice(ctx, now);
    let locks = locking::next_turn(now);
    let (due, starts) = STATE.with(|state| {
        let book = &state.book;
        if book.leases() > 0 {
            state.watch_until = now.after(if filter::names_clients() { 0 } else { WATCH_LINGER_MS });
        }
        let at_once = book.has_answers() || book.next_doubted().is_some() || state.pacing.has_work();
        let due = if at_once { Some(MonoMillis(0)) } else { book.next_due() };
        let lingers = state.watch.is_some() && book.leases() == 0;
        let held_back = state.next_look_at_held_back(now);
        let paced = state.pacing.next_due();
        let dues = [due, probe, sweeps, locks, held_back, paced, lingers.then_some(state.watch_until)];
        (soonest(&dues), book.leases() > 0 && state.watch.is_none())
    });
    if starts {
        let filter = ctx.watch_commands();
        STATE.with(|state| state.watch = Some((filter, Watch::new(now))));
    }
    if let Some(due) = due {
        set_timer(ctx, now, due.since(now));
    }
}

/// The earliest of those that are given.
///
/// Written so that no machine code compares the empty half of a `None`, whose result is never used: memcheck reports that
/// of `flatten().min()`.
fn soonest(dues: &[Option<MonoMillis>]) -> Option<MonoMillis> {
    let at = dues.iter().map(|due| due.map_or(u64::MAX, |at| at.0)).min()?;
    (at < u64::MAX).then_some(MonoMillis(at))
}

fn stop_watching(ctx: Ctx<'_>, now: MonoMillis) {
    let stops = STATE.with(|state| {
        let held_back = state.watch.as_ref().is_some_and(|(_, watch)| watch.holds_back());
        let wanted = state.book.leases() > 0 || held_back || now < state.watch_until;
        if wanted {
            None
        } else {
            state.watch.take()
        }
    });
    if let Some((filter, _)) = stops {
        ctx.unwatch_commands(filter);
    }
}

fn set_timer(ctx: Ctx<'_>, now: MonoMillis, delay_ms: u64) {
    let at = now.after(delay_ms);
    let previous = STATE.with(|state| match state.timer {
        Some((_, set)) if set <= at => Err(()),
        previous => Ok(previous),
    });
    if let Ok(previous) = previous {
        if let Some((timer, _)) = previous {
            ctx.stop_timer(timer);
        }
        let timer = ctx.set_timer(delay_ms);
        STATE.with(|state| state.timer = Some((timer, at)));
    }
}
