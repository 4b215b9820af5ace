//! What happens between commands: touched keys are rechecked, deadlines fall due, answers go out.
//!
//! One timer drives it all. It is set to the earliest deadline, or to "as soon as the events at
//! hand are handled" while there is something to do now; with neither, there is no timer, and an
//! idle server spends nothing on ten thousand waiters.
//!
//! A turn is short, whatever there is to do: each kind of work has a [`Budget`] of time, of which it
//! takes at least one step, and answers go out in slices ([`delivery`]). Other clients are served
//! between two turns. On Redis 7.0 a connection that is unblocked by an operator between our hand-over
//! and the server's write never gets any reply; so there the slice is handed over in the event that
//! comes right before that write (see `docs/decisions/0001-blocked_clients.md`).
//!
//! The server keeps timers of modules by the wall clock, so one that was set before the clock was put
//! back fires late by as much. Its own cron runs by the monotonic clock, some ten times a second: it
//! looks at the timer, and sets one that is overdue anew (see `docs/decisions/0040-steps-of-the-clock.md`).

use super::cluster;
use super::delivery;
use super::error::Error;
use super::ffi::context::{micros, mono_now, server_version, Arg, Ctx};
use super::ffi::events::{self, BeforeSleep};
use super::ffi::filter;
use super::ffi::key::Key;
use super::ffi::timer::Timer;
use super::recheck;
use super::state::STATE;
use crate::engine::cache::leases::{Found, Touch};
use crate::engine::cache::plain::{Effect, Watch};
use crate::engine::id::{ClientId, DbId, DbKey};
use crate::engine::time::MonoMillis;
use crate::server::cache::lookup::{lookup_open, Lookup};
use crate::server::limit::wait as limit_wait;
use crate::server::lock::wait as lock_wait;
use crate::server::tag::{index, sweep};
use std::cell::Cell;

/// Time for each kind of work in one turn, in microseconds.
const WORK_US: u64 = 250;
/// Leases that a touch of all keys reaches before the turn looks at the clock again.
const SPREAD_AT_ONCE: usize = 32;
/// How often locks and limits look whether the server still holds writes back, in milliseconds.
pub const PAUSED_MS: u64 = 20;
/// When to run again after a panic, in milliseconds.
const RETRY_MS: u64 = 100;
/// Where the server does not say who sends a command, the filter stays this long after the last
/// lease, so that few transactions are open that it has not seen begin. Milliseconds.
pub const WATCH_LINGER_MS: u64 = 60_000;

const VERSION_7_2: u32 = 0x0007_0200;

/// How long one kind of work may take in a turn. It allows one step whatever the time.
pub struct Budget {
    end_us: u64,
    steps: Cell<u64>,
    ran_out: Cell<bool>,
}

impl Budget {
    /// So many microseconds from now on.
    #[must_use]
    pub fn of_us(us: u64) -> Self {
        Self { end_us: micros().saturating_add(us), steps: Cell::new(0), ran_out: Cell::new(false) }
    }

    /// True if one more step may be taken.
    #[must_use]
    pub fn allows_more(&self) -> bool {
        let allows = self.steps.replace(self.steps.get() + 1) == 0 || micros() < self.end_us;
        self.ran_out.set(!allows);
        allows
    }
}

/// The timer fired: does what is due, and sets it again if there is more to come.
pub fn turn(ctx: Ctx<'_>) {
    STATE.with(|state| state.timer = None);
    settle_exec();
    let paused = filter::writes_are_paused();
    STATE.with(|state| state.mark_deferred_touched(paused, mono_now()));
    let now = mono_now();
    STATE.with(|state| state.watch.iter_mut().for_each(|(_, watch)| watch.recheck.run(&mut state.leases, now)));
    let mut ran_out = false;
    let mut within_budget = |work: &dyn Fn(&Budget)| {
        let budget = Budget::of_us(WORK_US);
        work(&budget);
        ran_out |= budget.ran_out.get();
    };
    within_budget(&|budget| recheck_touched(ctx, budget));
    within_budget(&|budget| cluster::refuse_foreign(ctx, budget));
    within_budget(&|budget| end_leases(ctx, now, budget));
    index::forget_if_unasked();
    sweep::slice(ctx);
    within_budget(&|budget| recheck::turn(ctx, now, budget));
    within_budget(&|budget| lock_wait::turn(ctx, budget));
    within_budget(&|budget| limit_wait::turn(ctx, now, budget));
    if server_version() >= VERSION_7_2 {
        delivery::begin();
    }
    let goes_on = ran_out || delivery::has_more();
    events::before_sleep(ctx, if goes_on { BeforeSleep::Call } else { BeforeSleep::Rest });
    stop_watching(ctx, now);
    schedule(ctx);
}

/// A run broke off in a panic: what else is due must not wait for the next command.
pub fn retry(ctx: Ctx<'_>) {
    set_timer(ctx, mono_now(), RETRY_MS);
}

/// The server's own cron ran, which no step of the wall clock delays. A timer that should have fired is
/// set anew.
pub fn watch_over_timer(ctx: Ctx<'_>) {
    let now = mono_now();
    let is_overdue = |(_, due): &mut (Timer, MonoMillis)| *due < now;
    if let Some((timer, _)) = STATE.with(|state| state.timer.take_if(is_overdue)) {
        ctx.stop_timer(timer);
        set_timer(ctx, now, 0);
    }
}

/// Ends leases and waits that are over.
fn end_leases(ctx: Ctx<'_>, now: MonoMillis, budget: &Budget) {
    while budget.allows_more() {
        if !cluster::refuse_foreign_due(ctx, now) && !STATE.with(|state| state.leases.expire_next(now)) {
            break;
        }
    }
}

/// The server is about to wait for events, and there are answers left. On Redis 7.0 it first writes
/// those that are handed over now; elsewhere the timer hands them over. A timer that is set within a
/// timer fires a millisecond later at the earliest, one that is set here at once.
pub fn before_sleep(ctx: Ctx<'_>) {
    if server_version() < VERSION_7_2 {
        delivery::begin();
    }
    if let Some((timer, _)) = STATE.with(|state| state.timer.take()) {
        ctx.stop_timer(timer);
    }
    set_timer(ctx, mono_now(), 0);
}

/// Resolves what plain commands may have done to any key with a lease, as far as the budget goes.
pub fn recheck_touched(ctx: Ctx<'_>, budget: &Budget) {
    while budget.allows_more() {
        match STATE.with(|state| state.leases.first_touched()) {
            Some(db_key) => recheck(ctx, &db_key),
            None if STATE.with(|state| state.leases.spread_touches(SPREAD_AT_ONCE)) => {}
            None => break,
        }
    }
}

/// Resolves what plain commands may have done to `key`, before it is decided upon.
pub fn recheck_key(ctx: Ctx<'_>, db: DbId, key: &[u8]) {
    note_direct(ctx);
    if let Some(db_key) = STATE.with(|state| state.leases.touched(db, key)) {
        recheck(ctx, &db_key);
    }
}

/// The same before a write that a lease allows. What came to be under the key unseen ends that lease,
/// and so does a command that was held back until a moment ago: it may have run since.
pub fn recheck_unseen(ctx: Ctx<'_>, db: DbId, key: &[u8]) {
    let deferred = STATE.with(|state| state.watch.as_ref().and_then(|(_, watch)| watch.deferred_touch(key)));
    let ran = deferred.filter(|_| !filter::writes_are_paused());
    let touched = STATE.with(|state| {
        let touch = ran.or(state.leases.was_missing(db, key).then_some(Touch::Elsewhere));
        touch.inspect(|touch| state.leases.note(&DbKey { db, key: key.into() }, *touch)).is_some()
    });
    recheck_key(ctx, db, key);
    if touched && !STATE.with(|state| state.leases.was_missing(db, key)) {
        schedule(ctx);
    }
}

/// A command of ours runs. Unless that is inside a transaction or script, transactions that were
/// seen to begin to run are over, and the caller is in none.
pub fn note_direct(ctx: Ctx<'_>) {
    let unsure = STATE.with(|state| state.watch.as_ref().is_some_and(|(_, watch)| watch.has_transactions()));
    if unsure && !ctx.is_nested(ctx.situation()) {
        let client = ctx.client_id();
        STATE.with(|state| state.watch.iter_mut().for_each(|(_, watch)| watch.forget(client)));
        settle_exec();
    }
}

fn settle_exec() {
    STATE.with(|state| {
        if let Some((_, watch)) = &mut state.watch {
            watch.settle(&mut state.leases);
        }
    });
}

fn recheck(ctx: Ctx<'_>, db_key: &DbKey) {
    let found = ctx.lookup_at(db_key.db, &db_key.key, |key, name| {
        match key.map_or(Ok(None), |key| watch_into(ctx, key, name)) {
            Ok(None) => Found::Nothing,
            Ok(Some(looked_up)) => looked_up.served().map_or(Found::Stale, Found::Fresh),
            Err(_) => Found::WrongType,
        }
    });
    let now = mono_now();
    STATE.with(|state| state.leases.recheck(db_key, found, now));
}

/// What is under an open key, which has a lease.
fn watch_into(ctx: Ctx<'_>, key: Key<'_>, name: Arg<'_>) -> Result<Option<Lookup>, Error> {
    index::watch_entry(&key);
    lookup_open(ctx, key, name)
}

/// A command is about to run that may concern a key with a lease: it has `effect`, on `keys`.
pub fn saw<'a>(
    effect: Effect,
    client: Option<ClientId>,
    keys: impl Iterator<Item = (&'a [u8], Touch)> + Clone,
    now: MonoMillis,
) {
    let queues = |client| STATE.with(|state| state.watch.as_ref().is_some_and(|(_, watch)| watch.queues(client)));
    let refused = client.filter(|client| queues(*client) && !filter::is_in_transaction(*client));
    let paused = filter::writes_are_paused();
    let touched = STATE.with(|state| match &mut state.watch {
        Some((_, watch)) => {
            refused.into_iter().for_each(|client| watch.forget(client));
            let touched = watch.see(&mut state.leases, effect, client, keys.clone(), now);
            if paused {
                watch.defer(effect, keys);
            }
            touched || paused
        }
        None => false,
    });
    if touched {
        schedule(events::background());
    }
}

/// Every key of database `only` (`None`: of all) was removed or replaced.
pub fn replaced(ctx: Ctx<'_>, only: Option<DbId>) {
    STATE.with(|state| {
        state.leases.mark_all_touched(only, Touch::Invalidated);
        state.limit_waits.lines.wake_all(only);
    });
    schedule(ctx);
}

/// Sets the timer for what the state now holds, and begins to watch commands once a lease is out.
/// To be called after every change of the lease book, except from within the filter's list.
pub fn schedule(ctx: Ctx<'_>) {
    let now = mono_now();
    let probe = cluster::next_probe(now);
    let sweeps = sweep::next_slice(ctx, now);
    let locks = lock_wait::next_turn(now);
    let looks = recheck::next_turn(now);
    let (due, starts) = STATE.with(|state| {
        let leases = &state.leases;
        if leases.leases() > 0 {
            state.watch_until = now.after(if filter::names_clients() { 0 } else { WATCH_LINGER_MS });
        }
        let at_once = leases.has_replies() || leases.has_touched() || state.limit_waits.has_work();
        let due = if at_once { Some(MonoMillis(0)) } else { leases.next_due() };
        let lingers = state.watch.is_some() && leases.leases() == 0;
        let deferred = state.next_deferred_check(now);
        let paced = state.limit_waits.next_due();
        let recheck = state.watch.as_ref().and_then(|(_, watch)| watch.recheck.due());
        let lingers = lingers.then_some(state.watch_until);
        let dues = [due, probe, sweeps, locks, looks, deferred, paced, recheck, lingers];
        (soonest(&dues), leases.leases() > 0 && state.watch.is_none())
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
        let deferred = state.watch.as_ref().is_some_and(|(_, watch)| watch.has_deferred());
        let wanted = state.leases.leases() > 0 || deferred || now < state.watch_until;
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
