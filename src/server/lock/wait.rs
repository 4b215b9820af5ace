//! Locks between commands: whoever can be granted one is, whatever freed it.
//!
//! The book of the engine says what is to be done about a key; here it is done, until it says
//! nothing more. That happens within the command that frees a lock, and in the event loop for all
//! that no command says: deadlines, connections that close, keys that go by other hands.
//!
//! Commands reach the book by [`open`], [`commit`] and [`block`] only, and each of them sets the timer for
//! what it left to do: no command can grant a lock and tell nobody.
//!
//! While the server holds writes back (`CLIENT PAUSE`, a failover) the data set must not change, so
//! grants wait until that is over. On a replica nobody waits, so nothing is granted.

use super::commit;
use crate::engine::id::{ClientId, DbId, DbKey, WaiterId};
use crate::engine::lock::{Change, Found, Lock, Now, Reply};
use crate::engine::time::MonoMillis;
use crate::server::delivery::{unblock_next, HandedOver};
use crate::server::error::Error;
use crate::server::event_loop;
use crate::server::event_loop::{Budget, PAUSED_MS};
use crate::server::ffi::block::{Blocked, Tell, Waits};
use crate::server::ffi::context::{mono_now, unix_now, Arg, Ctx};
use crate::server::ffi::events;
use crate::server::ffi::filter;
use crate::server::ffi::key::{Holds, Key};
use crate::server::state::STATE;

/// Changes made within a command; what is left of a long line of readers is for the next turn.
const CHANGES_PER_COMMAND: usize = 100;
/// Changes made to one key before the turn looks at the clock again.
const CHANGES_AT_ONCE: usize = 16;

/// The moment, on both clocks.
#[must_use]
pub fn now() -> Now {
    Now { unix: unix_now(), mono: mono_now() }
}

/// `name`, open for writing and holding a lock or nothing, for a command that is to decide about it. Who
/// can be granted it has been.
///
/// # Errors
/// [`Error::WrongType`]; [`Error::Readonly`] on a replica, but for what its primary or a file says.
pub fn open<'c>(ctx: Ctx<'c>, db: DbId, name: Arg<'_>) -> Result<Key<'c>, Error> {
    if STATE.with(|state| state.follows) && !ctx.situation().replays() {
        return Err(Error::Readonly);
    }
    settle_concerned(ctx, db, name);
    open_settled(ctx, name)
}

/// The same for a lock that was found to have a holder past its deadline, which is removed.
///
/// # Errors
/// [`Error::WrongType`].
pub fn open_overdue<'c>(ctx: Ctx<'c>, db: DbId, name: Arg<'_>) -> Result<Key<'c>, Error> {
    settle_now(ctx, &DbKey { db, key: name.bytes().into() }, name);
    open_settled(ctx, name)
}

fn open_settled<'c>(ctx: Ctx<'c>, name: Arg<'_>) -> Result<Key<'c>, Error> {
    let key = ctx.open_write(name);
    match key.value::<Lock>() {
        Some(_) => Ok(key),
        None if matches!(key.holds(), Holds::Nothing) => Ok(key),
        None => Err(Error::WrongType),
    }
}

/// Makes the change that a command decided on; then whoever can be granted the lock is.
pub fn commit(ctx: Ctx<'_>, key: Key<'_>, db: DbId, name: Arg<'_>, change: &Change) {
    commit::commit(ctx, key, db, name, change);
    settle_concerned(ctx, db, name);
}

/// Does what is to be done about a key, if somebody waits for it or something is left to do.
fn settle_concerned(ctx: Ctx<'_>, db: DbId, name: Arg<'_>) {
    if let Some(db_key) = STATE.with(|state| state.locks.concerned(db, name.bytes())) {
        settle_now(ctx, &db_key, name);
    }
}

/// Does it within a command. Whoever was granted the lock is yet to be told, what is left of a long line is
/// yet to be done, and the next deadline may be another one: all of that is the timer's.
fn settle_now(ctx: Ctx<'_>, db_key: &DbKey, name: Arg<'_>) {
    settle(ctx, db_key, name, CHANGES_PER_COMMAND);
    event_loop::schedule(ctx);
}

/// Makes at most so many changes.
fn settle(ctx: Ctx<'_>, db_key: &DbKey, name: Arg<'_>, most: usize) {
    if ctx.situation().is_replica() {
        // What is left of the time before it became one is for its primary to decide.
        STATE.with(|state| state.locks.forget_touched(db_key));
        return;
    }
    for _ in 0..most {
        let (key, now) = (ctx.open_write(name), now());
        let found = found(&key);
        let Some(change) = STATE.with(|state| state.locks.step(db_key, found, now)) else { return };
        commit::commit(ctx, key, db_key.db, name, &change);
    }
}

fn found<'k>(key: &'k Key<'_>) -> Found<'k> {
    match key.value::<Lock>() {
        Some(lock) => Found::Lock(lock, key.expires()),
        None if matches!(key.holds(), Holds::Nothing) => Found::Nothing,
        None => Found::WrongType,
    }
}

/// Settles keys that something happened to, and ends what is due.
pub fn turn(ctx: Ctx<'_>, budget: &Budget) {
    let paused = filter::writes_are_paused();
    let mut last = None;
    while budget.allows_more() {
        let next = if paused { None } else { STATE.with(|state| state.locks.next_touched_after(last.as_ref())) };
        let settles = next.is_some();
        if let Some(db_key) = next {
            settle_anywhere(ctx, &db_key, CHANGES_AT_ONCE);
            last = Some(db_key);
        }
        // By turns: a long line before one key holds up neither other keys nor the ends of waits.
        let now = now();
        if !STATE.with(|state| state.locks.expire_next(now)) && !settles {
            break;
        }
    }
}

fn settle_anywhere(ctx: Ctx<'_>, db_key: &DbKey, most: usize) {
    // A lock that moved away is not free, though its key is gone here.
    if STATE.with(|state| state.in_cluster) && ctx.is_foreign(&db_key.key) {
        STATE.with(|state| {
            state.locks.refuse(db_key, &Reply::Moved);
            state.locks.forget_touched(db_key);
        });
        return;
    }
    ctx.within(db_key.db, &db_key.key, |name| settle(ctx, db_key, name, most));
}

/// When [`turn`] has something to do.
#[must_use]
pub fn next_turn(now: MonoMillis) -> Option<MonoMillis> {
    let (touches, replies, due) = STATE.with(|state| {
        let locks = &state.locks;
        (locks.next_touched().is_some(), locks.has_replies(), locks.next_due())
    });
    let touches = touches.then(|| if filter::writes_are_paused() { now.after(PAUSED_MS) } else { MonoMillis(0) });
    [touches, replies.then_some(MonoMillis(0)), due].into_iter().flatten().min()
}

/// A lock is about to leave its key, by whatever hand. Called from within calls of the module API.
pub fn removed(db: DbId, key: &[u8], lock: &mut Lock) {
    if STATE.with(|state| state.locks.removed(db, key, lock)) {
        event_loop::schedule(events::background());
    }
}

/// This server became a replica.
pub fn demoted() {
    STATE.with(|state| {
        state.follows = true;
        state.locks.forget_all(&Reply::Readonly);
    });
}

/// This server became a primary.
pub fn promoted() {
    let now = unix_now();
    STATE.with(|state| {
        state.follows = false;
        state.locks.fences.begin(now);
    });
}

/// Blocks the caller as the waiter `id`; `tell` answers it later.
///
/// # Errors
/// [`Error::CannotWait`]; then it waits no longer.
pub fn block(ctx: Ctx<'_>, id: WaiterId, tell: impl Tell<Reply>) -> Result<(), Error> {
    event_loop::schedule(ctx);
    if let Some(blocked) = ctx.block(tell) {
        STATE.with(|state| state.lock_clients.insert(id, blocked));
        return Ok(());
    }
    end_wait(id);
    Err(Error::CannotWait)
}

/// Ends a wait: it is told what had been decided for it, or nil.
fn end_wait(id: WaiterId) -> Reply {
    STATE.with(|state| state.locks.leave(id).unwrap_or(Reply::TimedOut))
}

/// Hands the next answer to the server, if there is one.
pub fn answer_next() -> Option<HandedOver> {
    unblock_next(STATE.with(|state| {
        let (id, reply) = state.locks.next_reply()?;
        Some((state.lock_clients.take(id), reply))
    }))
}

/// A connection closed: the locks bound to it are to be released. True if there are any.
pub fn closed(client: ClientId) -> bool {
    STATE.with(|state| state.locks.disconnect(client))
}

impl Waits for Reply {
    fn unblocked(ctx: Ctx<'_>, blocked: Blocked) -> Self {
        let id = STATE.with(|state| state.lock_clients.leave(blocked));
        let reply = id.map_or(Self::TimedOut, end_wait);
        event_loop::schedule(ctx);
        reply
    }

    fn disconnected(ctx: Ctx<'_>, blocked: Blocked) -> bool {
        let was_blocked = STATE.with(|state| {
            let Some(id) = state.lock_clients.leave(blocked) else { return false };
            if let Some(Self::Granted(granted)) = state.locks.leave(id) {
                state.locks.undelivered(&granted);
            }
            true
        });
        event_loop::schedule(ctx);
        was_blocked
    }

    /// A lock it brought passes to the next in line.
    fn undelivered(&self, ctx: Ctx<'_>) {
        if let Self::Granted(granted) = self {
            STATE.with(|state| state.locks.undelivered(granted));
            event_loop::schedule(ctx);
        }
    }
}
