//! Waiters of keys that moved to another node of a cluster.
//!
//! The server redirects clients that wait for native types when a slot moves, but knows nothing of
//! ours. So on a node of a cluster, while anybody waits, the keys they wait for are looked at once
//! a second, as the server does for its own: those of a foreign slot are answered with an error
//! that makes cluster clients ask again and be redirected.

use super::ffi::context::{mono_now, Ctx};
use super::state::STATE;
use crate::engine::cache::pending::Reply;
use crate::engine::cluster::SlotRanges;
use crate::engine::id::DbId;
use crate::engine::limit::queue;
use crate::engine::lock;
use crate::engine::time::MonoMillis;
use crate::server::event_loop;
use crate::server::event_loop::Budget;
use crate::server::tag::index::TAGGING;

/// How often the keys are looked at, in milliseconds.
const PROBE_MS: u64 = 1_000;
/// The database whose keys move between nodes.
const DB: DbId = 0;

/// When to look next; `None` while nobody waits or there is no cluster.
#[must_use]
pub fn next_probe(now: MonoMillis) -> Option<MonoMillis> {
    STATE.with(|state| {
        let needed = state.in_cluster && state.waiting() > 0;
        state.probe_at = needed.then(|| state.probe_at.unwrap_or_else(|| now.after(PROBE_MS)));
        state.probe_at
    })
}

/// Answers those who wait for a key of a foreign slot, if it is time to look; as many keys each time
/// as the budget allows, until all have been looked at.
pub fn refuse_foreign(ctx: Ctx<'_>, budget: &Budget) {
    let now = mono_now();
    if !STATE.with(|state| state.probe_at.is_some_and(|at| at <= now)) {
        return;
    }
    STATE.with(|state| {
        if state.probing.is_empty() {
            state.probing = state.leases.waited_for();
            state.probing.extend(state.locks.waited_for());
            state.probing.extend(state.limit_waits.lines.db_keys());
        }
    });
    while budget.allows_more() {
        let Some(db_key) = STATE.with(|state| state.probing.pop()) else { break };
        if ctx.is_foreign(&db_key.key) {
            STATE.with(|state| {
                state.leases.refuse(&db_key, &Reply::Moved);
                state.locks.refuse(&db_key, &lock::Reply::Moved);
                state.limit_waits.lines.tell_all(&db_key, &queue::Reply::Moved);
            });
        }
    }
    STATE.with(|state| state.probe_at = (!state.probing.is_empty()).then_some(now));
}

/// Slots that moved away are about to be emptied: nobody here holds or waits for a lease or a lock
/// of theirs any longer. Else a lease would still be good if its slot came back, whatever had become
/// of the key meanwhile. O(leases).
pub fn slots_left(ctx: Ctx<'_>, left: &SlotRanges) {
    STATE.with(|state| {
        for db_key in state.leases.leased(|key| left.have(key)) {
            state.leases.refuse(&db_key, &Reply::Moved);
        }
        for db_key in state.locks.waited_for().into_iter().filter(|db_key| left.have(&db_key.key)) {
            state.locks.refuse(&db_key, &lock::Reply::Moved);
        }
        for db_key in state.limit_waits.lines.db_keys().into_iter().filter(|db_key| left.have(&db_key.key)) {
            state.limit_waits.lines.tell_all(&db_key, &queue::Reply::Moved);
        }
    });
    event_loop::schedule(ctx);
}

/// The keys of these slots are gone all at once, which no value was told.
pub fn slots_dropped(left: &SlotRanges) {
    TAGGING.with(|tagging| tagging.indexes.drop_some(DB, |key| left.have(key)));
}

/// Answers those who wait for a key of a foreign slot whose lease ends next and is over, so that none
/// of them is handed a lease that it cannot use. False if there are none.
pub fn refuse_foreign_due(ctx: Ctx<'_>, now: MonoMillis) -> bool {
    let next = STATE.with(|state| state.in_cluster.then(|| state.leases.next_handover(now)).flatten());
    let foreign = next.filter(|db_key| ctx.is_foreign(&db_key.key));
    if let Some(db_key) = &foreign {
        STATE.with(|state| state.leases.refuse(db_key, &Reply::Moved));
    }
    foreign.is_some()
}
