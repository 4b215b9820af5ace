//! Callers that wait for units of a limit.
//!
//! Who is first before a key is weighed when its units will exist, and again at once after whatever
//! changes the key: the timer comes for it, never a retry. Its units are taken in the moment in
//! which its answer is decided; if the connection is gone before the answer is written, they are
//! given back.
//!
//! While the server holds writes back (`CLIENT PAUSE`, a failover, a shutdown) nothing is taken and
//! nothing given back, but waits end when they should: a refusal changes nothing.

use crate::engine::id::{DbId, DbKey, WaiterId};
use crate::engine::limit::queue::{Reply, Taken, Turn, WaitQueues, Waiter};
use crate::engine::limit::rules::Verdict;
use crate::engine::limit::Mark;
use crate::engine::time::{MonoMillis, UnixMillis};
use crate::server::cache::wait::BlockedClients;
use crate::server::delivery::{unblock_next, HandedOver};
use crate::server::error::Error;
use crate::server::event_loop;
use crate::server::event_loop::{Budget, PAUSED_MS};
use crate::server::ffi::block::{Blocked, Tell, Waits};
use crate::server::ffi::context::{mono_now, Arg, Ctx};
use crate::server::ffi::events;
use crate::server::ffi::filter;
use crate::server::limit::commit;
use crate::server::state::STATE;
use std::collections::BTreeMap;

/// Who waits, and who that is.
#[derive(Default)]
pub struct LimitWaits {
    /// The order of waiters.
    pub lines: WaitQueues,
    blocked_clients: BlockedClients,
    /// Units of answers that nobody heard, by the value and the time they were taken from.
    returns: BTreeMap<(DbKey, Mark, UnixMillis), u64>,
    /// While the server holds writes back: when to look again.
    paused_until: Option<MonoMillis>,
    last_mark: u64,
}

/// An answer, and the key it is about.
pub struct LimitReply {
    db_key: DbKey,
    told: Reply,
}

impl LimitReply {
    /// The verdict to reply with.
    ///
    /// # Errors
    /// What the caller is told instead.
    pub fn verdict(&self) -> Result<Verdict, Error> {
        match self.told {
            Reply::Granted(verdict, _) | Reply::Refused(verdict) => Ok(verdict),
            Reply::WrongType => Err(Error::WrongType),
            Reply::Readonly => Err(Error::ReadonlyLimit),
            Reply::Moved => Err(Error::Moved),
        }
    }
}

impl LimitWaits {
    /// True if there is something to do now.
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.lines.has_replies() || !self.returns.is_empty() && self.paused_until.is_none()
    }

    /// When there is something to do next. Waits end, whether writes are held back or not.
    #[must_use]
    pub fn next_due(&self) -> Option<MonoMillis> {
        let returns = (!self.returns.is_empty()).then_some(MonoMillis(0));
        let writes = [returns, self.lines.next_due()].into_iter().flatten().min();
        let writes = writes.map(|due| self.paused_until.map_or(due, |until| due.max(until)));
        [writes, self.lines.next_deadline()].into_iter().flatten().min()
    }

    /// This server follows another one now, which has all units.
    pub fn forget_all(&mut self) {
        for db_key in self.lines.db_keys() {
            self.lines.tell_all(&db_key, &Reply::Readonly);
        }
        self.returns.clear();
    }

    /// The keys of two databases changed places: units that are to be given back go along.
    pub fn swapped(&mut self, one: DbId, other: DbId) {
        self.lines.swapped(one, other);
        let returns = std::mem::take(&mut self.returns).into_iter();
        self.returns =
            returns.map(|((db_key, mark, at), units)| ((db_key.swapped(one, other), mark, at), units)).collect();
    }

    /// A mark that no value has been given.
    pub fn next_mark(&mut self) -> u64 {
        self.last_mark += 1;
        self.last_mark
    }

    fn give_back(&mut self, db_key: DbKey, told: &Reply) {
        if let Reply::Granted(_, Taken { units, at, mark }) = *told {
            *self.returns.entry((db_key, mark, at)).or_default() += units;
        }
    }
}

/// When the first who waits for `key` is weighed next, in milliseconds from now; `None` if nobody
/// waits.
#[inline]
pub fn line_ahead_ms(db: DbId, key: &[u8]) -> Option<u64> {
    let due = STATE.with(|state| state.limit_waits.lines.due(db, key))?;
    Some(due.since(mono_now()))
}

/// Blocks the caller at the end of the line before its key; `tell` answers it later. `look_ms`: when
/// it is to be weighed, if it is the first.
///
/// # Errors
/// [`Error::CannotWait`].
pub fn block(ctx: Ctx<'_>, waiter: Waiter, look_ms: u64, tell: impl Tell<LimitReply>) -> Result<(), Error> {
    let Some(blocked) = ctx.block(tell) else { return Err(Error::CannotWait) };
    let due = mono_now().after(look_ms);
    STATE.with(|state| {
        let id = state.limit_waits.lines.join(waiter, due);
        state.limit_waits.blocked_clients.insert(id, blocked);
    });
    event_loop::schedule(ctx);
    Ok(())
}

/// A value of ours left `key`: by deletion, expiry, or because another one takes its place.
pub fn key_left(db: DbId, key: &[u8]) {
    if STATE.with(|state| state.limit_waits.lines.wake(db, key)) {
        event_loop::schedule(events::background());
    }
}

/// Units of `key` were given back.
pub fn wake(ctx: Ctx<'_>, db: DbId, key: &[u8]) {
    if STATE.with(|state| state.limit_waits.lines.wake(db, key)) {
        event_loop::schedule(ctx);
    }
}

/// Takes back what nobody heard of, and lets through whoever's turn it is.
pub fn turn(ctx: Ctx<'_>, now: MonoMillis, budget: &Budget) {
    let idle = STATE.with(|state| state.limit_waits.lines.is_empty() && state.limit_waits.returns.is_empty());
    if idle {
        return;
    }
    let deferred = filter::writes_are_paused();
    STATE.with(|state| state.limit_waits.paused_until = deferred.then(|| now.after(PAUSED_MS)));
    if !deferred {
        take_back(ctx, budget);
    }
    while budget.allows_more() {
        let next = STATE.with(|state| {
            let lines = &state.limit_waits.lines;
            let turn = if deferred { lines.next_end(now)? } else { lines.next_turn(now)? };
            let (Turn::First(id) | Turn::Last(id) | Turn::Late(id)) = turn;
            lines.get(id).cloned().map(|waiter| (turn, id, waiter))
        });
        let Some((turn, id, waiter)) = next else { break };
        let turn = if deferred { Turn::Late(id) } else { turn };
        weigh(ctx, turn, id, &waiter);
    }
}

/// Gives back units that nobody heard of, to the values they were taken from. A server that follows
/// another one does not: its primary has the data.
fn take_back(ctx: Ctx<'_>, budget: &Budget) {
    if STATE.with(|state| state.limit_waits.returns.is_empty()) {
        return;
    }
    if ctx.situation().is_replica() {
        STATE.with(|state| state.limit_waits.returns.clear());
    }
    while budget.allows_more() {
        let next = STATE.with(|state| state.limit_waits.returns.pop_first());
        let Some(((db_key, mark, at), units)) = next else { break };
        let given = ctx.within(db_key.db, &db_key.key, |name| commit::give_back(ctx, name, Taken { units, at, mark }));
        if given {
            STATE.with(|state| state.limit_waits.lines.wake(db_key.db, &db_key.key));
        }
    }
}

/// Weighs one whose turn it is; tells it, or says when to weigh it again.
fn weigh(ctx: Ctx<'_>, turn: Turn, id: WaiterId, waiter: &Waiter) {
    let db_key = &waiter.db_key;
    let in_cluster = STATE.with(|state| state.in_cluster);
    if in_cluster && ctx.is_foreign(&db_key.key) {
        STATE.with(|state| state.limit_waits.lines.tell_all(db_key, &Reply::Moved));
        return;
    }
    let (told, look_ms) = ctx.within(db_key.db, &db_key.key, |name| {
        if let Turn::Late(_) = turn {
            return (refusal(ctx, name, waiter), None);
        }
        match (commit::decide_for_waiter(ctx, name, &waiter.plan, waiter.ask), turn) {
            (Err(_), _) => (Reply::WrongType, None),
            (Ok((verdict, taken)), _) if verdict.allowed > 0 => (Reply::Granted(verdict, taken), None),
            (Ok((verdict, _)), Turn::First(_)) => {
                let look_ms = verdict.retry_after_ms.map(|retry_ms| commit::look_again_ms(ctx, name, retry_ms));
                (Reply::Refused(verdict), look_ms)
            }
            (Ok((verdict, _)), _) => (Reply::Refused(verdict), None),
        }
    });
    let now = mono_now();
    STATE.with(|state| match (&told, look_ms) {
        (Reply::WrongType, _) => state.limit_waits.lines.tell_all(db_key, &told),
        (_, Some(look_ms)) => state.limit_waits.lines.postpone(db_key, now.after(look_ms)),
        _ => state.limit_waits.lines.tell(id, told),
    });
}

/// What a waiter is told whose wait ends before its turn.
fn refusal(ctx: Ctx<'_>, name: Arg<'_>, waiter: &Waiter) -> Reply {
    let ahead_ms = line_ahead_ms(waiter.db_key.db, name.bytes()).unwrap_or(0);
    match commit::peek(ctx, name, &waiter.plan, waiter.ask) {
        Ok(verdict) => Reply::Refused(behind(verdict, ahead_ms)),
        Err(_) => Reply::WrongType,
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
    unblock_next(STATE.with(|state| {
        let (id, db_key, told) = state.limit_waits.lines.next_reply()?;
        Some((state.limit_waits.blocked_clients.take(id), LimitReply { db_key, told }))
    }))
}

impl Waits for LimitReply {
    fn unblocked(ctx: Ctx<'_>, blocked: Blocked) -> Self {
        let (waiter, decided) = STATE.with(|state| {
            let limit_waits = &mut state.limit_waits;
            let Some(id) = limit_waits.blocked_clients.leave(blocked) else { return (None, None) };
            let waiter = limit_waits.lines.get(id).cloned();
            (waiter, limit_waits.lines.leave(id))
        });
        event_loop::schedule(ctx);
        match (waiter, decided) {
            (_, Some((db_key, told))) => Self { db_key, told },
            (Some(waiter), None) => {
                let told = ctx.within(waiter.db_key.db, &waiter.db_key.key, |name| refusal(ctx, name, &waiter));
                Self { db_key: waiter.db_key, told }
            }
            (None, None) => Self { db_key: DbKey { db: 0, key: [][..].into() }, told: Reply::Moved },
        }
    }

    fn disconnected(ctx: Ctx<'_>, blocked: Blocked) -> bool {
        let was_blocked = STATE.with(|state| {
            let limit_waits = &mut state.limit_waits;
            let Some(id) = limit_waits.blocked_clients.leave(blocked) else { return false };
            if let Some((db_key, told)) = limit_waits.lines.leave(id) {
                limit_waits.give_back(db_key, &told);
            }
            true
        });
        event_loop::schedule(ctx);
        was_blocked
    }

    /// The units are given back in the next turn: a connection that is being closed is no place to
    /// write from.
    fn undelivered(&self, ctx: Ctx<'_>) {
        STATE.with(|state| state.limit_waits.give_back(self.db_key.clone(), &self.told));
        event_loop::schedule(ctx);
    }
}
