//! What must hold inside a [`Leases`] between any two calls, and the windows through which the
//! simulator compares a book with its model.
//!
//! This checks the book against itself; whether its decisions are the right ones is the business
//! of `sim`.

use super::{Bond, ClientId, DbId, DbKey, Due, Flight, Kind, Leases, MonoMillis, Serial, Token, Touch, WaiterId};
use crate::engine::cache::pending::Reply;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// One lease, with what no observer is told.
pub(crate) struct Inside<'a> {
    pub serial: Serial,
    pub holder: ClientId,
    pub bond: Bond,
    pub granted: MonoMillis,
    pub deadline: MonoMillis,
    pub is_early: bool,
    pub serves_stale: bool,
    pub touch: Option<Touch>,
    pub queue: &'a BTreeSet<WaiterId>,
}

impl Default for Leases {
    /// A book whose tokens are drawn by counting.
    fn default() -> Self {
        let mut drawn = 0;
        Self::new(move || {
            drawn += 1;
            Token(drawn)
        })
    }
}

impl Leases {
    /// The lease on `key`.
    pub(crate) fn inside(&self, db: DbId, key: &[u8]) -> Option<Inside<'_>> {
        let Flight { lease, touch, queue, spread, .. } = self.find(db, key)?;
        Some(Inside {
            serial: lease.serial,
            holder: lease.holder,
            bond: lease.bond,
            granted: lease.granted,
            deadline: lease.deadline,
            is_early: lease.is_early,
            serves_stale: lease.serves_stale,
            touch: (*touch).max(self.touches.since(*spread, db)),
            queue,
        })
    }

    /// The key that is to be rechecked next; what may have happened to all is spread until one is found.
    pub(crate) fn next_touched(&mut self) -> Option<DbKey> {
        while self.touched.is_empty() && self.spread_touches(3) {}
        self.first_touched()
    }

    /// Replies that are decided and not delivered.
    pub(crate) fn decided(&self) -> impl Iterator<Item = (WaiterId, &Reply)> {
        self.pending.iter()
    }

    /// Asserts the invariants of the file's head. O(everything).
    pub(crate) fn validate(&self) {
        let (mut leases, mut touches) = (0, 0);
        let (mut serials, mut tokens) = (BTreeSet::new(), BTreeSet::new());
        let (mut placed, mut bound) = (BTreeMap::new(), BTreeSet::new());
        for (name, flights) in &self.flights {
            assert!(!flights.is_empty(), "a name without a flight");
            for (at, flight) in flights.iter().enumerate() {
                let later = flights.iter().skip(at + 1);
                assert!(later.filter(|other| other.db == flight.db).count() == 0, "two leases on one key");
                let db_key = DbKey { db: flight.db, key: Rc::clone(name) };
                leases += 1;
                touches += usize::from(flight.touch.is_some());
                let lease = &flight.lease;
                assert!(serials.insert(lease.serial), "two leases of one number");
                assert_eq!(self.serials.get(&lease.serial), Some(&db_key), "the number of another lease");
                assert!(tokens.insert(lease.token.0), "two leases of one token");
                assert!(lease.serial.0 <= self.last_serial, "a number not yet given");
                if lease.bond == Bond::Bound {
                    bound.insert((lease.holder, db_key.clone()));
                }
                assert_eq!(flight.touch.is_some(), self.touched.contains(&db_key), "touches of {db_key:?}");
                self.validate_queue(flight, &db_key, &mut placed);
                let failure = self.failures.get(&db_key);
                assert!(failure.is_none_or(|failure| failure.until <= lease.granted), "{db_key:?} granted too early");
                assert!(self.due.contains(&(lease.deadline, Due::Lease(db_key))), "a lease that never ends");
            }
        }
        assert_eq!(leases, self.leases, "number of leases");
        assert!(serials.iter().eq(self.serials.keys()), "numbers of leases");
        assert_eq!(touches, self.touched.len(), "number of touches");
        let noted =
            self.bound.iter().flat_map(|(client, db_keys)| db_keys.iter().map(|db_key| (*client, db_key.clone())));
        assert_eq!(noted.collect::<BTreeSet<_>>(), bound, "bound leases");
        assert!(self.bound.values().all(|db_keys| !db_keys.is_empty()), "a connection bound to nothing");
        self.validate_waiters(placed);
        self.validate_due();
    }

    /// `placed` says in how many queues each stands.
    fn validate_waiters(&self, mut placed: BTreeMap<WaiterId, usize>) {
        for (id, queues) in &placed {
            let waiter = self.waiters.get(*id).expect("one who left stands in a queue");
            let keys: BTreeSet<_> = waiter.db_keys.iter().collect();
            assert_eq!(keys.len(), *queues, "{id:?} does not stand in the queue of each of its keys");
            assert!(waiter.kind == Kind::Group || *queues == 1, "{id:?} waits for one key in {queues} queues");
        }
        for (id, _) in self.pending.iter() {
            assert!(self.waiters.get(id).is_some(), "{id:?} has left and has a reply");
            assert!(placed.insert(id, 0).is_none(), "{id:?} is in two places");
        }
        assert_eq!(placed.len(), self.waiters.len(), "somebody waits nowhere");
        assert!(self.waiters.len() <= self.waiters.peak(), "peak");
    }

    fn validate_queue(&self, flight: &Flight, db_key: &DbKey, placed: &mut BTreeMap<WaiterId, usize>) {
        let mut groups = 0;
        for &id in &flight.queue {
            let waiter = self.waiters.get(id).expect("one who left stands in a queue");
            *placed.entry(id).or_default() += 1;
            groups += usize::from(waiter.kind == Kind::Group);
            assert!(waiter.db_keys.contains(db_key), "{id:?} stands in another key's queue");
            assert_ne!(waiter.client, flight.lease.holder, "{id:?} waits for itself");
            assert!(self.due.contains(&(waiter.deadline, Due::Wait(id))), "{id:?} waits for ever");
        }
        assert_eq!(groups, flight.groups, "groups in the queue of {db_key:?}");
    }

    fn validate_due(&self) {
        let (mut leases, mut retries) = (0, 0);
        for (at, due) in &self.due {
            match due {
                Due::Lease(_) => leases += 1,
                Due::Wait(id) => {
                    let waiter = self.waiters.get(*id).expect("a deadline of one who left");
                    assert_eq!(waiter.deadline, *at, "deadline of {id:?}");
                }
                Due::Retry(db_key) => {
                    retries += 1;
                    let until = self.failures.get(db_key).map(|failure| failure.until);
                    assert_eq!(until, Some(*at), "the end of a failure that is not there");
                }
            }
        }
        assert_eq!(leases, self.leases, "deadlines of leases");
        assert_eq!(retries, self.failures.len(), "deadlines of failures");
    }
}
