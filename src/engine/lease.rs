//! Who regenerates a key, and who waits for it: the heart of the stampede protection.
//!
//! A *flight* exists for a key exactly while a lease on it is out. Its holder owes a value; the
//! others queue. It ends in one of three ways, and each waiter is answered exactly once:
//!
//! - **settled**: a value came, from whomever: all waiters get it;
//! - **handed over**: the lease ended without one (expired, released, voided): the oldest waiter
//!   gets the lease, the rest keep waiting; with no waiter left the flight is gone;
//! - **refused**: the key became something that is not ours to serve, or this server a replica.
//!
//! Plain commands change keys behind our back, some at a moment when the keyspace must not be read
//! (inside the server's own delete). Those are noted as a [`Doubt`] and resolved a moment later,
//! before any command of ours looks at that key and before the server turns to the next event.
//!
//! Invariants, checked by `validate` in tests: a waiter is in one queue or in the outbox, never
//! both; every queue belongs to a live lease; every deadline in `due` belongs to a lease or waiter
//! that is still there; no flight lacks a lease.
//!
//! Rejected: a lock key with a TTL in the keyspace. It would be persisted, replicated and visible,
//! expires lazily, and says nothing about who waits.

use super::outbox::{Answer, Outbox};
use super::time::MonoMillis;
use super::waiters::{ClientId, DbId, Queue, Slot, Waiter, WaiterId, Waiters};
use ahash::AHashMap;
use std::collections::BTreeSet;
use std::rc::Rc;

/// The number of one grant of a lease; never reused while the server runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(pub u64);

/// The right to regenerate one key, as its holder knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Which grant.
    pub serial: Serial,
    /// Of which key.
    pub slot: Slot,
}

/// A caller that found no value.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// Its connection.
    pub client: ClientId,
    /// How long it would wait, in milliseconds; 0: not at all.
    pub wait_ms: u64,
    /// How long its lease would last, in milliseconds.
    pub lease_ms: u64,
}

/// What a caller is told that found no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It holds the lease and is to regenerate.
    Won(Grant),
    /// Somebody else does; it waits, and its answer will come through the outbox.
    Parked(WaiterId),
    /// Somebody else does, and it does not wait; the lease lasts `left_ms` more.
    Leased {
        /// Milliseconds.
        left_ms: u64,
    },
}

/// What a plain command may have done to a key with a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Doubt {
    /// A value may have appeared; if none did, nothing happened.
    Appeared,
    /// The key was invalidated, even if it did not exist.
    Invalidated,
}

/// What the keyspace holds when a doubt is resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A value that may be served.
    Fresh(Rc<[u8]>),
    /// Nothing, or a stale value.
    Nothing,
    /// A value of another type.
    WrongType,
}

/// Counts since the start of the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Leases granted, also by handing over.
    pub leases_granted: u64,
    /// Leases that ended by their deadline.
    pub leases_expired: u64,
    /// Leases given back because their holder was gone before it heard of them.
    pub leases_disconnected: u64,
    /// Leases ended by an invalidation of their key.
    pub leases_voided: u64,
    /// Leases that passed from one holder to a waiter.
    pub handovers: u64,
    /// Callers that were parked.
    pub waits: u64,
    /// Milliseconds they were parked, summed when they leave.
    pub wait_ms_total: u64,
    /// Waits that ended by their own deadline.
    pub waits_timed_out: u64,
    /// Waiters answered with a value that they would otherwise have loaded.
    pub loads_avoided: u64,
    /// What those loads would have cost the origin, in milliseconds.
    pub load_ms_avoided: u64,
}

#[derive(Debug)]
struct Lease {
    serial: Serial,
    holder: ClientId,
    granted: MonoMillis,
    deadline: MonoMillis,
}

#[derive(Debug)]
struct Flight {
    db: DbId,
    lease: Lease,
    queue: Queue,
    doubt: Option<Doubt>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Lease(Slot),
    Wait(WaiterId),
}

enum End {
    Expired,
    Disconnected,
    Voided,
}

/// All leases and all who wait for them.
#[derive(Debug, Default)]
pub struct LeaseBook {
    /// By name first: a filter sees names before it knows the database.
    flights: AHashMap<Rc<[u8]>, Vec<Flight>>,
    waiters: Waiters,
    due: BTreeSet<(MonoMillis, Due)>,
    doubted: BTreeSet<Slot>,
    outbox: Outbox,
    last_serial: u64,
    leases: usize,
    /// Counts for INFO.
    pub tally: Tally,
}

impl LeaseBook {
    /// Decides for a caller that found no fresh value under `key`. At most `waiters_max` wait at
    /// once; beyond that a caller is answered as if it would not wait. A connection never waits
    /// for its own lease. A lease past its deadline ends here, though [`Self::expire_next`] has not
    /// come to it yet. O(log n).
    pub fn ask(&mut self, db: DbId, key: &[u8], caller: Caller, waiters_max: usize, now: MonoMillis) -> Asked {
        self.end_if(db, key, End::Expired, now, |lease| lease.deadline <= now);
        let crowded = self.waiters.len() >= waiters_max;
        let Some(flight) = find_mut(&mut self.flights, db, key) else {
            let slot = Slot { db, key: key.into() };
            return Asked::Won(self.grant(slot, Queue::new(), caller.client, caller.lease_ms, now));
        };
        let left_ms = flight.lease.deadline.since(now);
        if caller.wait_ms == 0 || flight.lease.holder == caller.client || crowded {
            return Asked::Leased { left_ms };
        }
        let deadline = now.after(caller.wait_ms);
        let key = self.flights.get_key_value(key).map_or_else(|| key.into(), |(key, _)| Rc::clone(key));
        let waiter =
            Waiter { client: caller.client, slot: Slot { db, key }, since: now, deadline, lease_ms: caller.lease_ms };
        let slot = waiter.slot.clone();
        let id = self.waiters.admit(waiter);
        if let Some(flight) = find_mut(&mut self.flights, db, &slot.key) {
            flight.queue.insert(id);
        }
        self.due.insert((deadline, Due::Wait(id)));
        self.tally.waits += 1;
        Asked::Parked(id)
    }

    /// How long the lease on `key` has been out, in milliseconds: the cost of the regeneration
    /// that a write at `now` ends. `None` if no lease is out.
    #[must_use]
    pub fn cost_ms(&self, db: DbId, key: &[u8], now: MonoMillis) -> Option<u64> {
        self.find(db, key).map(|flight| now.since(flight.lease.granted))
    }

    /// A value was stored under `key`: ends its lease and decides all its waiters' answer. `value`
    /// is called only if somebody waits. O(1) in the number of waiters.
    pub fn settle(&mut self, db: DbId, key: &[u8], value: impl FnOnce() -> Rc<[u8]>, now: MonoMillis) {
        let Some((_, flight)) = self.close(db, key) else { return };
        if flight.queue.is_empty() {
            return;
        }
        let served = flight.queue.len() as u64;
        self.tally.loads_avoided += served;
        self.tally.load_ms_avoided += served * now.since(flight.lease.granted);
        self.outbox.push(flight.queue, Answer::Value(value()));
    }

    /// Invalidates `key`: its lease ends, and the oldest waiter holds the next one. O(log n).
    pub fn void(&mut self, db: DbId, key: &[u8], now: MonoMillis) {
        self.end_if(db, key, End::Voided, now, |_| true);
    }

    /// Notes what a plain command may do to the keys named `key`, in whatever database, and says
    /// whether a lease is out on any of them.
    pub fn doubt(&mut self, key: &[u8], doubt: Doubt) -> bool {
        let Some(name) = self.flights.get_key_value(key).map(|(name, _)| Rc::clone(name)) else { return false };
        for flight in self.flights.get_mut(key).into_iter().flatten() {
            flight.doubt = flight.doubt.max(Some(doubt));
            self.doubted.insert(Slot { db: flight.db, key: Rc::clone(&name) });
        }
        true
    }

    /// Notes the same of every key with a lease, or of those in database `only`. O(leases).
    pub fn doubt_all(&mut self, only: Option<DbId>, doubt: Doubt) {
        for (key, flights) in &mut self.flights {
            for flight in flights.iter_mut().filter(|flight| only.is_none_or(|db| db == flight.db)) {
                flight.doubt = flight.doubt.max(Some(doubt));
                self.doubted.insert(Slot { db: flight.db, key: Rc::clone(key) });
            }
        }
    }

    /// The key whose doubt is to be resolved next.
    #[must_use]
    pub fn next_doubted(&self) -> Option<Slot> {
        self.doubted.first().cloned()
    }

    /// `key`, if it must be resolved before it is decided upon.
    #[must_use]
    pub fn doubted(&self, db: DbId, key: &[u8]) -> Option<Slot> {
        if self.doubted.is_empty() {
            return None;
        }
        let (name, flights) = self.flights.get_key_value(key)?;
        flights.iter().find(|flight| flight.db == db)?.doubt?;
        Some(Slot { db, key: Rc::clone(name) })
    }

    /// Settles a doubt by what the keyspace was `found` to hold.
    pub fn resolve(&mut self, slot: &Slot, found: Found, now: MonoMillis) {
        self.doubted.remove(slot);
        let Some(flight) = find_mut(&mut self.flights, slot.db, &slot.key) else { return };
        match (flight.doubt.take(), found) {
            (Some(_), Found::Fresh(value)) => self.settle(slot.db, &slot.key, || value, now),
            (Some(_), Found::WrongType) => self.refuse(slot, &Answer::WrongType),
            (Some(Doubt::Invalidated), Found::Nothing) => self.void(slot.db, &slot.key, now),
            (Some(Doubt::Appeared) | None, _) => {}
        }
    }

    /// Ends the lease on `slot` and gives all its waiters the same refusal.
    pub fn refuse(&mut self, slot: &Slot, answer: &Answer) {
        if let Some((_, flight)) = self.close(slot.db, &slot.key) {
            self.outbox.push(flight.queue, answer.clone());
        }
    }

    /// Ends what is due at `now`, one lease or wait a call; false if nothing is.
    pub fn expire_next(&mut self, now: MonoMillis) -> bool {
        match self.due.first() {
            Some((at, _)) if *at <= now => {}
            _ => return false,
        }
        match self.due.pop_first() {
            Some((_, Due::Lease(slot))) => self.end_if(slot.db, &slot.key, End::Expired, now, |_| true),
            Some((_, Due::Wait(id))) => self.time_out(id, now),
            None => {}
        }
        true
    }

    /// When [`Self::expire_next`] next has something to do.
    #[must_use]
    pub fn next_due(&self) -> Option<MonoMillis> {
        self.due.first().map(|(at, _)| *at)
    }

    /// The next answer to deliver, and to whom.
    pub fn deliver_next(&mut self, now: MonoMillis) -> Option<(WaiterId, Answer)> {
        let (id, answer) = self.outbox.pop()?;
        self.discharge(id, now);
        Some((id, answer))
    }

    /// A waiter leaves early, with the answer that had been decided for it, if any: its connection
    /// closed or an operator unblocked it. The caller passes an undelivered grant to
    /// [`Self::give_back`]. O(log n).
    pub fn leave(&mut self, id: WaiterId, now: MonoMillis) -> Option<Answer> {
        let answer = self.outbox.take(id);
        if let Some(waiter) = self.discharge(id, now) {
            if let Some(flight) = find_mut(&mut self.flights, waiter.slot.db, &waiter.slot.key) {
                flight.queue.remove(&id);
            }
        }
        answer
    }

    /// A grant that nobody heard of ends at once, if it is still the key's lease.
    pub fn give_back(&mut self, grant: &Grant, now: MonoMillis) {
        let slot = &grant.slot;
        self.end_if(slot.db, &slot.key, End::Disconnected, now, |lease| lease.serial == grant.serial);
    }

    /// Milliseconds until the lease on `slot` ends; 0 if none is out.
    #[must_use]
    pub fn lease_left_ms(&self, slot: &Slot, now: MonoMillis) -> u64 {
        self.find(slot.db, &slot.key).map_or(0, |flight| flight.lease.deadline.since(now))
    }

    /// Up to `count` of the keys that somebody waits for. O(leases).
    #[must_use]
    pub fn waited_for(&self, count: usize) -> Vec<Slot> {
        let queued = |flights: &Vec<Flight>| flights.iter().find(|flight| !flight.queue.is_empty()).map(|f| f.db);
        let slots =
            self.flights.iter().filter_map(|(key, flights)| Some(Slot { db: queued(flights)?, key: Rc::clone(key) }));
        slots.take(count).collect()
    }

    /// Forgets every lease; all who wait are refused with `answer`. For a server that no longer
    /// decides.
    pub fn forget_all(&mut self, answer: &Answer) {
        let flights = std::mem::take(&mut self.flights).into_values().flatten();
        self.outbox.push(flights.flat_map(|flight| flight.queue).collect(), answer.clone());
        self.leases = 0;
        self.due.clear();
        self.doubted.clear();
    }

    /// Leases that are out.
    #[must_use]
    pub fn leases(&self) -> usize {
        self.leases
    }

    /// True if there is neither a lease nor an undelivered answer.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.leases == 0 && self.outbox.is_empty() && self.waiters.is_empty()
    }

    /// True if [`Self::deliver_next`] has something to deliver.
    #[must_use]
    pub fn has_answers(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Who waits.
    #[must_use]
    pub fn waiters(&self) -> &Waiters {
        &self.waiters
    }

    fn find(&self, db: DbId, key: &[u8]) -> Option<&Flight> {
        self.flights.get(key)?.iter().find(|flight| flight.db == db)
    }

    fn grant(&mut self, slot: Slot, queue: Queue, holder: ClientId, lease_ms: u64, now: MonoMillis) -> Grant {
        self.last_serial += 1;
        let serial = Serial(self.last_serial);
        let deadline = now.after(lease_ms);
        let lease = Lease { serial, holder, granted: now, deadline };
        self.due.insert((deadline, Due::Lease(slot.clone())));
        let flight = Flight { db: slot.db, lease, queue, doubt: None };
        self.flights.entry(Rc::clone(&slot.key)).or_default().push(flight);
        self.leases += 1;
        self.tally.leases_granted += 1;
        Grant { serial, slot }
    }

    fn close(&mut self, db: DbId, key: &[u8]) -> Option<(Slot, Flight)> {
        let (name, flights) = self.flights.get_key_value(key)?;
        let slot = Slot { db, key: Rc::clone(name) };
        let at = flights.iter().position(|flight| flight.db == db)?;
        let flights = self.flights.get_mut(key)?;
        let flight = flights.swap_remove(at);
        if flights.is_empty() {
            self.flights.remove(key);
            if self.flights.is_empty() {
                self.flights.shrink_to_fit();
            }
        }
        self.leases -= 1;
        self.due.remove(&(flight.lease.deadline, Due::Lease(slot.clone())));
        if flight.doubt.is_some() {
            self.doubted.remove(&slot);
        }
        Some((slot, flight))
    }

    /// Ends the lease on `key` without a value, if one is out and `is_over` says so.
    fn end_if(&mut self, db: DbId, key: &[u8], end: End, now: MonoMillis, is_over: impl FnOnce(&Lease) -> bool) {
        if !self.find(db, key).is_some_and(|flight| is_over(&flight.lease)) {
            return;
        }
        if let Some((slot, flight)) = self.close(db, key) {
            self.hand_over(slot, flight.queue, flight.doubt, end, now);
        }
    }

    /// A doubt outlives the lease it was noted under: what has been done to the key since may
    /// concern the next holder too, and the others still wait for the value that may be there.
    fn hand_over(&mut self, slot: Slot, mut queue: Queue, doubt: Option<Doubt>, end: End, now: MonoMillis) {
        match end {
            End::Expired => self.tally.leases_expired += 1,
            End::Disconnected => self.tally.leases_disconnected += 1,
            End::Voided => self.tally.leases_voided += 1,
        }
        while let Some(id) = queue.pop_first() {
            let Some((client, lease_ms)) = self.waiters.get(id).map(|w| (w.client, w.lease_ms)) else { continue };
            let grant = self.grant(slot, queue, client, lease_ms, now);
            self.tally.handovers += 1;
            if let Some(doubt) = doubt {
                self.note(&grant.slot, doubt);
            }
            self.outbox.push_one(id, Answer::Won(grant));
            return;
        }
    }

    fn note(&mut self, slot: &Slot, doubt: Doubt) {
        if let Some(flight) = find_mut(&mut self.flights, slot.db, &slot.key) {
            flight.doubt = flight.doubt.max(Some(doubt));
            self.doubted.insert(slot.clone());
        }
    }

    fn time_out(&mut self, id: WaiterId, now: MonoMillis) {
        let Some(slot) = self.waiters.get(id).map(|waiter| waiter.slot.clone()) else { return };
        let Some(flight) = find_mut(&mut self.flights, slot.db, &slot.key) else { return };
        if flight.queue.remove(&id) {
            let left_ms = flight.lease.deadline.since(now);
            self.tally.waits_timed_out += 1;
            self.outbox.push_one(id, Answer::Leased { left_ms });
        }
    }

    fn discharge(&mut self, id: WaiterId, now: MonoMillis) -> Option<Waiter> {
        let waiter = self.waiters.remove(id)?;
        self.due.remove(&(waiter.deadline, Due::Wait(id)));
        self.tally.wait_ms_total += now.since(waiter.since);
        Some(waiter)
    }
}

fn find_mut<'a>(flights: &'a mut AHashMap<Rc<[u8]>, Vec<Flight>>, db: DbId, key: &[u8]) -> Option<&'a mut Flight> {
    flights.get_mut(key)?.iter_mut().find(|flight| flight.db == db)
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod validate;
