//! Keys that callers wait for, looked at again and again.
//!
//! A lock or a limit goes with its key, and any client may give that key another TTL: `EXPIRE`,
//! `PERSIST`, another module. The server says nothing of a TTL that has passed until somebody looks
//! at the key, which among many keys may take minutes. So while anybody waits, the keys they wait for
//! are looked at: all of them every [`ROUND_MS`], and a key whose TTL ends before that at its end.
//! Looking at a key whose TTL has passed removes it, and its type tells the family that waits
//! ([`super::ffi::types::Data::unlinked`]). The lines of locks are settled anew each time, so that a
//! holder whose deadline the wall clock has jumped over is seen to be over.
//!
//! With many keys a round takes longer: [`KEYS_PER_SLICE`] keys every [`SLICE_MS`] is what it may
//! cost, a percent or two of one processor. While nobody waits it costs nothing.
//!
//! Rejected: to subscribe to the keyspace event `expire`. Each command that sets a TTL would pay some
//! 500 instructions for it, `SET … EX` too; before Redis 8.2 a subscription cannot be ended; and on
//! Valkey 8.1 having one breaks `COPY … DB` for everybody.

use super::ffi::context::{mono_now, unix_now, Ctx};
use super::state::STATE;
use crate::engine::id::DbKey;
use crate::engine::time::MonoMillis;
use crate::server::event_loop::Budget;
use std::collections::BTreeSet;

/// How often each key is looked at, in milliseconds.
const ROUND_MS: u64 = 100;
/// Keys looked at in one turn.
const KEYS_PER_SLICE: usize = 100;
/// The pause between two such turns, in milliseconds.
const SLICE_MS: u64 = 10;

/// Which keys are to be looked at, and when.
#[derive(Default)]
pub struct Recheck {
    /// When the next slice is due; `None` while nobody waits.
    next: Option<MonoMillis>,
    /// The keys of this round that have not been looked at yet.
    rest: Vec<DbKey>,
    /// How long this round lasts at least, in milliseconds.
    round_ms: u64,
    /// Keys whose TTL ends before the next round comes to them, and when.
    ending: BTreeSet<(MonoMillis, DbKey)>,
}

/// When [`turn`] next has something to do; `None` while nobody waits.
#[must_use]
pub fn next_turn(now: MonoMillis) -> Option<MonoMillis> {
    STATE.with(|state| {
        if state.locks.waiters() == 0 && state.limit_waits.lines.is_empty() {
            state.recheck = Recheck::default();
            return None;
        }
        let recheck = &mut state.recheck;
        let next = *recheck.next.get_or_insert(now.after(ROUND_MS));
        Some(recheck.ending.first().map_or(next, |(at, _)| next.min(*at)))
    })
}

/// Looks at the keys whose time has come. What follows from it is the families' to do, later in the
/// same turn of the event loop.
pub fn turn(ctx: Ctx<'_>, now: MonoMillis, budget: &Budget) {
    let (mut db_keys, round_ms) = STATE.with(|state| {
        let recheck = &mut state.recheck;
        let mut db_keys = Vec::new();
        while db_keys.len() < KEYS_PER_SLICE && recheck.ending.first().is_some_and(|(at, _)| *at <= now) {
            db_keys.extend(recheck.ending.pop_first().map(|(_, db_key)| db_key));
        }
        if recheck.next.is_some_and(|next| next <= now) {
            if recheck.rest.is_empty() {
                recheck.rest = state.locks.waited_for();
                recheck.rest.extend(state.limit_waits.lines.db_keys());
                let slices = recheck.rest.len().div_ceil(KEYS_PER_SLICE) as u64;
                recheck.round_ms = ROUND_MS.max(slices * SLICE_MS);
            }
            let left = recheck.rest.len().saturating_sub(KEYS_PER_SLICE);
            db_keys.extend(recheck.rest.drain(left..));
            recheck.next = Some(now.after(if left > 0 { SLICE_MS } else { ROUND_MS }));
        }
        (db_keys, recheck.round_ms)
    });
    while budget.allows_more() {
        let Some(db_key) = db_keys.pop() else { return };
        look_again(ctx, db_key, round_ms);
    }
    STATE.with(|state| {
        state.recheck.rest.append(&mut db_keys);
        state.recheck.next = Some(now.after(SLICE_MS));
    });
}

fn look_again(ctx: Ctx<'_>, db_key: DbKey, round_ms: u64) {
    let expires = ctx.within(db_key.db, &db_key.key, |name| ctx.open_quietly(name).and_then(|key| key.expires()));
    let (unix, mono) = (unix_now(), mono_now());
    // One whose TTL has passed and that is still there stays while writes are held back.
    let left_ms = expires.filter(|at| *at >= unix).map(|at| at.since(unix));
    STATE.with(|state| {
        state.locks.mark_touched(db_key.db, &db_key.key);
        if let Some(left_ms) = left_ms.filter(|left_ms| *left_ms < round_ms) {
            // The server keeps a key through the millisecond in which its TTL ends.
            state.recheck.ending.insert((mono.after(left_ms + 1), db_key));
        }
    });
}
