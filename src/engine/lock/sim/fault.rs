//! What befalls connections and the whole server: they close, databases go, restarts, failovers.

use super::event::Event;
use super::keyspace::{Effect, Keyspace};
use super::world::World;
use crate::engine::id::{ClientId, DbId, DbKey, WaiterId};
use crate::engine::lock::{Fences, Locks, Reply};
use rand::Rng;
use std::rc::Rc;

impl World {
    /// One of the connections closes; what it was owed is lost.
    pub fn close(&mut self) {
        let client = self.clients.swap_remove(self.rng.random_range(0..self.clients.len()));
        let waits = self.waits(client);
        if let Some((db_key, id)) = waits {
            let at = self.lines.get(&db_key).and_then(|line| line.iter().position(|waits| waits.id == id));
            self.count(Event::LeftFromTheMiddle, at.is_some_and(|at| at > 0));
            self.leave(client, id);
        }
        self.locks.disconnect(client);
        self.connect();
    }

    pub fn unblock(&mut self) {
        let client = self.clients[self.rng.random_range(0..self.clients.len())];
        if let Some((_, id)) = self.waits(client) {
            self.leave(client, id);
        }
    }

    fn waits(&self, client: ClientId) -> Option<(DbKey, WaiterId)> {
        let in_line = self.lines.iter().flat_map(|(db_key, line)| line.iter().map(move |waits| (db_key, waits)));
        let found = in_line.clone().find(|(_, waits)| waits.client == client);
        let owed = || self.owed.iter().find(|(_, owed)| **owed == client).map(|(id, _)| *id);
        let nowhere = DbKey { db: 0, key: Rc::from([]) };
        found.map(|(db_key, waits)| (db_key.clone(), waits.id)).or_else(|| owed().map(|id| (nowhere, id)))
    }

    fn leave(&mut self, client: ClientId, id: WaiterId) {
        let reply = self.locks.leave(id);
        assert_eq!(reply.is_some(), self.owed.remove(&id).is_some(), "{id:?} of {client:?}");
        self.lines.values_mut().for_each(|line| line.retain(|waits| waits.id != id));
        if let Some(Reply::Granted(granted)) = reply {
            self.undelivered(&granted);
        }
    }

    pub fn flush(&mut self, only: Option<DbId>) {
        self.beliefs.retain(|belief| only.is_some_and(|db| db != belief.db_key.db));
        self.happen(Effect::Flush(only));
        self.locks.flushed(only);
    }

    pub fn swap(&mut self, one: DbId, other: DbId) {
        self.beliefs.retain(|belief| belief.db_key.db != one && belief.db_key.db != other);
        self.happen(Effect::Swap(one, other));
        self.locks.swapped(one, other);
        let untied = std::mem::take(&mut self.untied).into_iter();
        self.untied = untied.map(|(db_key, fence)| (db_key.swapped(one, other), fence)).collect();
    }

    fn everybody_leaves(&mut self) {
        let number = self.clients.len();
        self.clients.clear();
        self.lines.clear();
        self.owed.clear();
        self.beliefs.clear();
        self.locks = Locks::default();
        (0..number).for_each(|_| self.connect());
        // Whoever begins has a clock that may differ by less than a minute, and by less than its
        // predecessor ran.
        self.true_ms += 60_001u64.saturating_sub(self.true_ms - self.started_ms);
        self.started_ms = self.true_ms;
        self.behind_ms = self.rng.random_range(0..60_000);
    }

    /// Nothing was on disk.
    pub fn restart(&mut self) {
        self.everybody_leaves();
        (self.keyspace, self.replica) = (Keyspace::default(), Keyspace::default());
        self.replica_fences = Fences::default();
        self.unsent.clear();
        let now = self.now().unix;
        self.locks.fences.begin(now);
        self.count(Event::Restarted, true);
    }

    /// The replica takes over; what it has not been sent is lost.
    pub fn fail_over(&mut self) {
        let lost = !self.unsent.is_empty();
        self.everybody_leaves();
        self.unsent.clear();
        self.keyspace = self.replica.clone();
        self.untie();
        self.locks.fences = self.replica_fences;
        let now = self.now().unix;
        self.locks.fences.begin(now);
        self.count(Event::FailedOver, lost);
    }

    /// It becomes a replica and soon a primary again, with the data it had.
    pub fn demote(&mut self) {
        let waited: Vec<_> = self.lines.values().flatten().map(|waits| (waits.id, waits.client)).collect();
        self.count(Event::RefusedByRole, !waited.is_empty());
        self.lines.clear();
        self.owed.extend(waited);
        self.beliefs.iter_mut().for_each(|belief| belief.bound_to = None);
        self.locks.forget_all(&Reply::Readonly);
        self.untie();
        let now = self.now().unix;
        self.locks.fences.begin(now);
        self.started_ms = self.true_ms;
    }
}
