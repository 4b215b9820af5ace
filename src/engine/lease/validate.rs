//! What must hold inside a [`LeaseBook`] between any two calls, and the windows through which the
//! simulator compares a book with its model.
//!
//! This checks the book against itself; whether its decisions are the right ones is the business
//! of `sim`.

use super::{ClientId, DbId, Doubt, Due, Flight, LeaseBook, MonoMillis, Serial, Slot, WaiterId};
use crate::engine::outbox::Answer;
use std::collections::BTreeSet;
use std::rc::Rc;

/// One lease, as an observer sees it.
pub(crate) struct LeaseView<'a> {
    pub serial: Serial,
    pub holder: ClientId,
    pub granted: MonoMillis,
    pub deadline: MonoMillis,
    pub doubt: Option<Doubt>,
    pub queue: &'a BTreeSet<WaiterId>,
}

impl LeaseBook {
    /// The lease on `key`.
    pub(crate) fn view(&self, db: DbId, key: &[u8]) -> Option<LeaseView<'_>> {
        let Flight { lease, doubt, queue, .. } = self.find(db, key)?;
        let (serial, holder, granted, deadline) = (lease.serial, lease.holder, lease.granted, lease.deadline);
        Some(LeaseView { serial, holder, granted, deadline, doubt: *doubt, queue })
    }

    /// Answers that are decided and not delivered.
    pub(crate) fn decided(&self) -> impl Iterator<Item = (WaiterId, &Answer)> {
        self.outbox.iter()
    }

    /// Asserts the invariants of the file's head. O(everything).
    pub(crate) fn validate(&self) {
        let (mut leases, mut doubts) = (0, 0);
        let (mut placed, mut serials) = (BTreeSet::new(), BTreeSet::new());
        for (name, flights) in &self.flights {
            assert!(!flights.is_empty(), "a name without a flight");
            for (at, flight) in flights.iter().enumerate() {
                let later = flights.iter().skip(at + 1);
                assert!(later.filter(|other| other.db == flight.db).count() == 0, "two leases on one key");
                let slot = Slot { db: flight.db, key: Rc::clone(name) };
                leases += 1;
                doubts += usize::from(flight.doubt.is_some());
                assert!(serials.insert(flight.lease.serial), "two leases of one number");
                assert!(flight.lease.serial.0 <= self.last_serial, "a number not yet given");
                assert_eq!(flight.doubt.is_some(), self.doubted.contains(&slot), "doubts of {slot:?}");
                self.validate_queue(flight, &slot, &mut placed);
                assert!(self.due.contains(&(flight.lease.deadline, Due::Lease(slot))), "a lease that never ends");
            }
        }
        assert_eq!(leases, self.leases, "number of leases");
        assert_eq!(doubts, self.doubted.len(), "number of doubts");
        for (id, _) in self.outbox.iter() {
            assert!(self.waiters.get(id).is_some(), "{id:?} has left and has an answer");
            assert!(placed.insert(id), "{id:?} is in two places");
        }
        assert_eq!(placed.len(), self.waiters.len(), "somebody waits nowhere");
        assert!(self.waiters.len() <= self.waiters.peak(), "peak");
        self.validate_due();
    }

    fn validate_queue(&self, flight: &Flight, slot: &Slot, placed: &mut BTreeSet<WaiterId>) {
        for &id in &flight.queue {
            let waiter = self.waiters.get(id).expect("one who left stands in a queue");
            assert!(placed.insert(id), "{id:?} is in two places");
            assert_eq!(&waiter.slot, slot, "{id:?} stands in another key's queue");
            assert_ne!(waiter.client, flight.lease.holder, "{id:?} waits for itself");
            assert!(self.due.contains(&(waiter.deadline, Due::Wait(id))), "{id:?} waits for ever");
        }
    }

    fn validate_due(&self) {
        let mut leases = 0;
        for (at, due) in &self.due {
            match due {
                Due::Lease(_) => leases += 1,
                Due::Wait(id) => {
                    let waiter = self.waiters.get(*id).expect("a deadline of one who left");
                    assert_eq!(waiter.deadline, *at, "deadline of {id:?}");
                }
            }
        }
        assert_eq!(leases, self.leases, "deadlines of leases");
    }
}
