//! Changes to locks: made here, and sent to replicas and the AOF as what happened.

use crate::engine::id::DbId;
use crate::engine::lock::{Change, Lock, Mode};
use crate::server::cache::commit::push_number;
use crate::server::ffi::context::Effect;
use crate::server::ffi::context::{Arg, Ctx};
use crate::server::ffi::key::Key;
use crate::server::state::STATE;

/// Makes `change` to the lock under `key`, which is open for writing as `name` and holds a lock or
/// nothing. The last holder takes the key along.
///
/// The key is closed before anybody is told: from Redis 8.6 on the server looks a key up when it is signalled,
/// and removes it there if its TTL has passed.
pub fn commit(ctx: Ctx<'_>, mut key: Key<'_>, db: DbId, name: Arg<'_>, change: &Change) {
    let mut untied = Vec::new();
    let left = match (key.value_mut::<Lock>(), change) {
        (Some(lock), change) => {
            untied = lock.apply(change.clone());
            (!lock.holders().is_empty()).then(|| lock.end())
        }
        (None, Change::Hold { mode, holder }) => {
            key.put(Lock::new(*mode, holder.clone()));
            Some(holder.deadline)
        }
        (None, Change::Drop { .. } | Change::Clear) => return,
    };
    // ORDER: storing may drop the TTL, so that is set after.
    if left.is_some() {
        key.expire_at(left);
    } else {
        key.delete();
    }
    drop(key);
    STATE.with(|state| state.locks.committed(db, name.bytes(), change, untied));
    // ORDER: where signalling removes the key, that is replicated, and has to come after the change.
    replicate(ctx, name, change, left.is_some());
    ctx.signal_modified(name);
    match change {
        Change::Hold { .. } => ctx.notify(c"cache.lock", name),
        Change::Drop { .. } | Change::Clear => ctx.notify(c"cache.unlock", name),
    }
    if left.is_none() {
        ctx.notify_deleted(name);
    }
}

fn replicate(ctx: Ctx<'_>, name: Arg<'_>, change: &Change, is_held: bool) {
    match change {
        Change::Hold { mode: Mode::Exclusive, holder } => {
            ctx.replicate_grant(name, &holder.owner, holder.deadline.0, holder.fence);
        }
        Change::Hold { mode, holder } => {
            let mut effect = vec![Effect::Arg(name), Effect::Bytes(&holder.owner)];
            push_number(&mut effect, c"PXAT", holder.deadline.0);
            push_number(&mut effect, c"FENCE", holder.fence);
            match mode {
                Mode::Permits(n) => push_number(&mut effect, c"PERMITS", (*n).into()),
                _ => effect.push(Effect::Word(c"SHARED")),
            }
            ctx.replicate(c"CACHE.LOCK", &effect);
        }
        Change::Drop { owner } if is_held => {
            ctx.replicate(c"CACHE.UNLOCK", &[Effect::Arg(name), Effect::Bytes(owner)]);
        }
        Change::Drop { .. } | Change::Clear => {
            ctx.replicate_deletion(STATE.with(|state| state.deletion), name);
        }
    }
}
