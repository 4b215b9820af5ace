//! One who waits for several keys at once.
//!
//! It stands in the queue of each, and is answered when none of them is leased to somebody else
//! any more, or as soon as it is handed the lease of one: then it has work to do. It never holds
//! one key while it waits for another, so two such waiters with the same keys in opposite order
//! cannot wait for each other. Its answer is to look at its keys again.

use super::{find_mut, Caller, DbId, DbKey, Due, Flight, Kind, Leases, MonoMillis, Queue, Reply, Waiter, WaiterId};
use std::rc::Rc;

impl Leases {
    /// Lets the caller wait until none of `keys` is leased. `None` if it may not wait: one of them
    /// is not leased, or to the caller itself, or too many wait.
    pub fn wait_for_all(
        &mut self,
        db: DbId,
        keys: &[&[u8]],
        caller: Caller,
        waiters_max: usize,
        now: MonoMillis,
    ) -> Option<WaiterId> {
        let waits = |key: &&[u8]| self.find(db, key).is_some_and(|flight| flight.lease.holder != caller.client);
        if caller.wait_ms == 0 || self.waiters.len() >= waiters_max || keys.is_empty() || !keys.iter().all(waits) {
            return None;
        }
        let db_key = |key: &&[u8]| Some(DbKey { db, key: Rc::clone(self.flights.get_key_value(*key)?.0) });
        let db_keys: Vec<DbKey> = keys.iter().filter_map(db_key).collect();
        Some(self.block(db_keys, Kind::Group, caller, now))
    }

    /// Blocks the caller in the queue of each of `db_keys`.
    pub(super) fn block(&mut self, db_keys: Vec<DbKey>, kind: Kind, caller: Caller, now: MonoMillis) -> WaiterId {
        let deadline = now.after(caller.wait_ms);
        let Caller { client, lease_ms, bond, .. } = caller;
        let places = db_keys.clone();
        let group = if kind == Kind::Group { db_keys.clone() } else { Vec::new() };
        let id = self.waiters.admit(Waiter { client, db_keys, group, kind, since: now, deadline, lease_ms, bond });
        for db_key in places {
            if let Some(flight) = find_mut(&mut self.flights, db_key.db, &db_key.key) {
                flight.groups += usize::from(flight.queue.insert(id) && kind == Kind::Group);
            }
        }
        self.due.insert((deadline, Due::Wait(id)));
        self.stats.waits += 1;
        id
    }

    /// Takes `id` out of every queue it stands in; false if it stood in none.
    pub(super) fn withdraw(&mut self, id: WaiterId) -> bool {
        let Some(waiter) = self.waiters.get_mut(id) else { return false };
        let (kind, db_keys) = (waiter.kind, std::mem::take(&mut waiter.db_keys));
        let mut stood = false;
        for db_key in db_keys {
            if let Some(flight) = find_mut(&mut self.flights, db_key.db, &db_key.key) {
                let removed = flight.queue.remove(&id);
                flight.groups -= usize::from(removed && kind == Kind::Group);
                stood |= removed;
            }
        }
        stood
    }

    /// The key `db_key` is not leased any more: of its `queue`, those who wait for others too go on
    /// waiting for those. What is left waits for this key alone.
    pub(super) fn pass_groups(&mut self, db_key: &DbKey, queue: Queue, groups: usize) -> Queue {
        if groups == 0 {
            return queue;
        }
        let (mut single, mut done) = (Queue::new(), Vec::new());
        for id in queue {
            match self.waiters.get_mut(id) {
                Some(waiter) if waiter.kind == Kind::Group => {
                    waiter.db_keys.retain(|other| other != db_key);
                    if waiter.db_keys.is_empty() {
                        done.push(id);
                    }
                }
                _ => drop(single.insert(id)),
            }
        }
        for id in done {
            if !self.wait_again(id) {
                self.pending.push_one(id, Reply::Look);
            }
        }
        single
    }

    /// Of the keys that `id` waited for, some may have been set, invalidated and leased again: it
    /// goes on waiting for those. False if there are none.
    fn wait_again(&mut self, id: WaiterId) -> bool {
        let Some(waiter) = self.waiters.get(id) else { return false };
        let leased = |db_key: &&DbKey| {
            let flight = self.find(db_key.db, &db_key.key);
            flight.is_some_and(|Flight { lease, .. }| !lease.is_early && !lease.serves_stale)
        };
        let again: Vec<DbKey> = waiter.group.iter().filter(leased).cloned().collect();
        for db_key in &again {
            if let Some(flight) = find_mut(&mut self.flights, db_key.db, &db_key.key) {
                flight.groups += usize::from(flight.queue.insert(id));
            }
        }
        let waits = !again.is_empty();
        if let Some(waiter) = self.waiters.get_mut(id) {
            waiter.db_keys = again;
        }
        waits
    }
}
