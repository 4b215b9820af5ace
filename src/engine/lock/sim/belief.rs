//! What those who ask were told: the numbers they were given, and which locks they take for theirs.

use super::event::Event;
use super::world::{Belief, World};
use crate::engine::id::{Bond, ClientId, DbKey};
use crate::engine::lock::{Granted, Now};
use rand::Rng;

impl World {
    /// Mostly none; sometimes the number that the clock will come to within a minute.
    pub fn some_number(&mut self, now: Now) -> u64 {
        if self.rng.random_bool(0.9) {
            return 0;
        }
        let fence = now.unix.0 * 1_000 + self.rng.random_range(0..60_000_000);
        assert!(self.locks.fences.admits(fence, now.unix));
        fence
    }

    /// The number of one who is told again: the one it had, or a new one. It says anew whether it is bound.
    pub fn number_again(&mut self, db_key: &DbKey, fence: u64) {
        let raised = self.fences.last().is_none_or(|last| *last < fence);
        self.count(Event::NumberRaised, raised);
        if raised {
            self.number(fence);
        }
        self.untied.remove(&(db_key.clone(), fence));
    }

    /// A new number: higher than all before it.
    pub fn number(&mut self, fence: u64) {
        assert!(self.fences.last().is_none_or(|last| *last < fence), "number {fence} after {:?}", self.fences.last());
        self.fences.push(fence);
    }

    /// `owner` is told that it holds `db_key`, as its value says.
    pub fn believe(&mut self, db_key: &DbKey, owner: u8, fence: u64) {
        let lock = self.keyspace.lock(db_key).expect("a grant of a lock that is not there");
        let holder = lock.holders().iter().find(|holder| *holder.owner == [owner]).expect("a grant to nobody");
        assert_eq!(holder.fence, fence);
        let (deadline, bound_to) = (holder.deadline, holder.client.filter(|_| holder.bond == Bond::Bound));
        self.disbelieve(db_key, Some(owner));
        self.beliefs.push(Belief { db_key: db_key.clone(), owner, fence, deadline, bound_to });
    }

    pub fn disbelieve(&mut self, db_key: &DbKey, owner: Option<u8>) {
        self.beliefs.retain(|belief| belief.db_key != *db_key || owner.is_some_and(|owner| owner != belief.owner));
    }

    pub fn disbelieve_dropped(&mut self, db_key: &DbKey, owner: u8, overdue: bool) {
        let mine = |belief: &&Belief| belief.db_key == *db_key && belief.owner == owner;
        if let Some(belief) = self.beliefs.iter().find(mine) {
            assert!(overdue || belief.bound_to.is_some_and(|client| !self.clients.contains(&client)), "{belief:?}");
        }
        self.count(Event::ReleasedByClosing, !overdue && self.beliefs.iter().any(|belief| mine(&belief)));
        self.disbelieve(db_key, Some(owner));
    }

    /// A grant is heard of; by then it may be over.
    pub fn hear(&mut self, client: ClientId, granted: &Granted) {
        assert_eq!(client, granted.client);
        let (db_key, now) = (granted.db_key.clone(), self.now().unix);
        let Some(lock) = self.keyspace.lock(&db_key) else { return };
        if lock.holder(&granted.owner, now).is_some_and(|holder| holder.fence == granted.fence) {
            self.believe(&db_key, granted.owner[0], granted.fence);
        }
    }
}
