//! Entries that were invalidated are deleted here, a few at a time.
//!
//! They are gone for every reader of the module's own already; what is left is to give their memory
//! back, tell replicas, the AOF, client-side caches and subscribers, and let them go from the eyes of
//! other commands. That is done in slices of `sweep-cpu-percent` of every millisecond, by the event loop's
//! timer. Only a primary sweeps: a replica hears of each deletion.

use crate::engine::id::DbId;
use crate::engine::tag::{slice_us, Doomed};
use crate::engine::time::MonoMillis;
use crate::server::cache::commit as cache_commit;
use crate::server::config;
use crate::server::ffi::context::{micros, Ctx};
use crate::server::ffi::filter;
use crate::server::tag::index::TAGGING;

/// Keys deleted and replicated at once: about 50 microseconds.
const BATCH: usize = 32;
/// How long the server rests between two slices, in milliseconds.
const REST_MS: u64 = 1;
/// When to look again while the server holds writes back, in milliseconds.
const PAUSE_MS: u64 = 50;

/// When there is something to do next; `None`: nothing.
#[must_use]
pub fn next_slice(ctx: Ctx<'_>, now: MonoMillis) -> Option<MonoMillis> {
    let is_untidy = TAGGING.with(|tagging| tagging.indexes.is_untidy());
    let has_doomed = || TAGGING.with(|tagging| tagging.indexes.backlog() > 0) && !ctx.situation().is_replica();
    if !is_untidy && !has_doomed() {
        return None;
    }
    Some(now.after(match config::SWEEP_CPU_PERCENT.get() {
        100.. => 0,
        _ if filter::writes_are_paused() => PAUSE_MS,
        _ => REST_MS,
    }))
}

/// Does one slice.
pub fn slice(ctx: Ctx<'_>) {
    if !TAGGING.with(|tagging| tagging.indexes.is_untidy() || tagging.indexes.backlog() > 0) {
        return;
    }
    let end = micros() + slice_us(config::SWEEP_CPU_PERCENT.get(), REST_MS * 1_000);
    let may_write = !ctx.situation().is_replica() && !filter::writes_are_paused();
    let mut more = true;
    while more {
        more = may_write && delete_some(ctx);
        more = TAGGING.with(|tagging| tagging.indexes.tidy(BATCH)) || more;
        more = more && micros() < end;
    }
}

/// Deletes up to [`BATCH`] dead entries; false if there are none.
fn delete_some(ctx: Ctx<'_>) -> bool {
    let Some(Doomed { db, entries }) = TAGGING.with(|tagging| tagging.indexes.doomed(BATCH)) else { return false };
    let selected = ctx.db();
    ctx.select_db(db);
    let names: Vec<_> = entries.iter().map(|(_, name)| ctx.string(name)).collect();
    let mut dead = Vec::with_capacity(names.len());
    for ((id, _), name) in entries.iter().zip(&names) {
        if cache_commit::delete_dead(ctx, name.arg(), *id) {
            dead.push(name.arg());
        } else {
            TAGGING.with(|tagging| tagging.indexes.index_of(db).remove(*id));
        }
    }
    cache_commit::tell_deleted(ctx, &dead);
    ctx.select_db(selected);
    true
}

/// Everything in the indexes of database `only` (`None`: of all) is gone.
pub fn emptied(only: Option<DbId>) {
    TAGGING.with(|tagging| tagging.indexes.drop_all(only));
}

/// Two databases were exchanged.
pub fn exchanged(a: DbId, b: DbId) {
    TAGGING.with(|tagging| tagging.indexes.swap(a, b));
}
