//! Who waits, in which order, and until when.
//!
//! A waiter is a number, never a client pointer: the server keeps the connection, the engine keeps
//! the order. Numbers rise with arrival, so an ordered set of them *is* the first-come-first-served
//! queue, and leaving from its middle (a closed connection) costs O(log n) and leaves no trace. A
//! ring buffer with tombstones was rejected: clients that wait and give up in a loop would grow it.

use crate::engine::id::{Bond, ClientId, DbKey, WaiterId};
use crate::engine::time::MonoMillis;
use ahash::AHashMap;
use std::collections::BTreeSet;

/// A queue of waiters, oldest first.
pub type Queue = BTreeSet<WaiterId>;

/// What is known of one who waits.
#[derive(Clone, Debug)]
pub struct Waiter {
    /// The connection.
    pub client: ClientId,
    /// The keys it waits for; empty once it does not any more.
    pub db_keys: Vec<DbKey>,
    /// All keys it ever waited for, if they are several.
    pub group: Vec<DbKey>,
    /// Whether it waits for one key or for several.
    pub kind: Kind,
    /// When it began to wait.
    pub since: MonoMillis,
    /// When it is answered without a value.
    pub deadline: MonoMillis,
    /// How long its lease would last if it were handed one, in milliseconds.
    pub lease_ms: u64,
    /// Whether that lease would end with its connection.
    pub bond: Bond,
}

/// What a waiter waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The value of one key.
    Single,
    /// That none of several keys is leased.
    Group,
}

/// All who wait or whose answer is still on its way.
#[derive(Debug, Default)]
pub struct Waiters {
    all: AHashMap<WaiterId, Waiter>,
    last: u64,
    peak: usize,
}

impl Waiters {
    /// Admits one more and numbers it.
    pub fn admit(&mut self, waiter: Waiter) -> WaiterId {
        self.last += 1;
        let id = WaiterId(self.last);
        self.all.insert(id, waiter);
        self.peak = self.peak.max(self.all.len());
        id
    }

    /// The waiter `id`, unless it has left.
    #[must_use]
    pub fn get(&self, id: WaiterId) -> Option<&Waiter> {
        self.all.get(&id)
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, id: WaiterId) -> Option<&mut Waiter> {
        self.all.get_mut(&id)
    }

    /// Forgets `id` and says what was known of it.
    pub fn remove(&mut self, id: WaiterId) -> Option<Waiter> {
        let waiter = self.all.remove(&id);
        if self.all.is_empty() {
            self.all.shrink_to_fit();
        }
        waiter
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// True if nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The most there ever were at once.
    #[must_use]
    pub fn peak(&self) -> usize {
        self.peak
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiter(client: u64) -> Waiter {
        let db_keys = vec![DbKey { db: 0, key: b"k"[..].into() }];
        let (kind, bond) = (Kind::Single, Bond::Free);
        Waiter {
            client: ClientId(client),
            db_keys,
            group: Vec::new(),
            kind,
            since: MonoMillis(0),
            deadline: MonoMillis(10),
            lease_ms: 5,
            bond,
        }
    }

    #[test]
    fn numbers_rise_with_arrival_and_are_never_reused() {
        let mut waiters = Waiters::default();
        let first = waiters.admit(waiter(1));
        assert_eq!(waiters.remove(first).map(|gone| gone.client), Some(ClientId(1)));
        let second = waiters.admit(waiter(1));
        assert!(second > first);
        assert!(waiters.get(first).is_none());
        assert!(waiters.remove(first).is_none(), "nobody leaves twice");
        assert_eq!(waiters.get(second).map(|there| there.client), Some(ClientId(1)));
    }

    #[test]
    fn the_peak_remembers_the_most_there_were_at_once() {
        let mut waiters = Waiters::default();
        let ids: Vec<_> = (0..3).map(|client| waiters.admit(waiter(client))).collect();
        ids.into_iter().for_each(|id| drop(waiters.remove(id)));
        assert!(waiters.is_empty());
        waiters.admit(waiter(9));
        assert_eq!((waiters.len(), waiters.peak()), (1, 3));
    }

    #[test]
    fn a_crowd_that_has_gone_holds_no_memory() {
        let mut waiters = Waiters::default();
        let ids: Vec<_> = (0..10_000).map(|client| waiters.admit(waiter(client))).collect();
        ids.into_iter().for_each(|id| drop(waiters.remove(id)));
        assert_eq!(waiters.all.capacity(), 0);
    }
}
