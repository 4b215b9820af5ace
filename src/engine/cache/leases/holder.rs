//! What the holder of a lease may do with it, and what happens when it is gone.

use super::{
    find_mut, Answer, Bond, ClientId, DbId, Doubt, Due, End, Failure, Flight, LeaseBook, MonoMillis, Serial, Slot,
    Token, LEASES_MAX,
};
use std::rc::Rc;

/// A lease, as an observer sees it. Durations in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseView {
    /// Of which key.
    pub slot: Slot,
    /// Who holds it.
    pub holder: ClientId,
    /// How long it has been out.
    pub age_ms: u64,
    /// How long it lasts.
    pub left_ms: u64,
    /// Whether it ends with the connection of its holder.
    pub is_bound: bool,
    /// How many wait for it.
    pub waiters: usize,
}

impl LeaseBook {
    /// True if `token` proves the lease that is out on `key`.
    pub fn holds(&mut self, db: DbId, key: &[u8], token: Token, now: MonoMillis) -> bool {
        self.proves(db, key, token, now).is_some()
    }

    /// The number of the lease that is out on `key`, if `token` proves it.
    pub fn proves(&mut self, db: DbId, key: &[u8], token: Token, now: MonoMillis) -> Option<Serial> {
        self.end_overdue(db, key, now);
        self.find(db, key).filter(|flight| flight.lease.token == token).map(|flight| flight.lease.serial)
    }

    /// A number higher than that of every lease so far and lower than that of every later one.
    pub fn stamp(&mut self) -> u64 {
        self.last_serial += 1;
        self.last_serial
    }

    /// The number of the oldest lease that is out.
    #[must_use]
    pub fn oldest(&self) -> Option<Serial> {
        self.serials.first_key_value().map(|(serial, _)| *serial)
    }

    /// Lets the lease last `ms` from `now`. False if it is not the caller's any more.
    pub fn renew(&mut self, db: DbId, key: &[u8], token: Token, ms: u64, now: MonoMillis) -> bool {
        if !self.holds(db, key, token, now) {
            return false;
        }
        let Some((name, _)) = self.flights.get_key_value(key) else { return false };
        let slot = Slot { db, key: Rc::clone(name) };
        let Some(flight) = find_mut(&mut self.flights, db, key) else { return false };
        self.due.remove(&(flight.lease.deadline, Due::Lease(slot.clone())));
        flight.lease.deadline = now.after(ms);
        self.due.insert((flight.lease.deadline, Due::Lease(slot)));
        true
    }

    /// The holder gives the lease up: the oldest waiter takes over. False if it was not its.
    pub fn release(&mut self, db: DbId, key: &[u8], token: Token, now: MonoMillis) -> bool {
        let holds = self.holds(db, key, token, now);
        if holds {
            self.end_if(db, key, End::Released, now, |_| true);
        }
        holds
    }

    /// The holder could not load the value: whoever waits is told so, and for `retry_ms` nobody is
    /// granted the lease. False if it was not its.
    pub fn fail(
        &mut self,
        db: DbId,
        key: &[u8],
        token: Token,
        retry_ms: u64,
        message: Rc<[u8]>,
        now: MonoMillis,
    ) -> bool {
        if !self.holds(db, key, token, now) {
            return false;
        }
        let Some((slot, flight)) = self.close(db, key) else { return false };
        self.tally.leases_failed += 1;
        let failure = Failure { until: now.after(retry_ms), message };
        let queue = self.pass_groups(&slot, flight.queue, flight.groups);
        self.outbox.push(queue, Answer::Failed(failure.clone()));
        // ORDER: the deadline of an earlier failure, over but not yet gone, must not end this one.
        self.forgive(&slot);
        if self.failures.len() < LEASES_MAX {
            self.due.insert((failure.until, Due::Retry(slot.clone())));
            self.failures.insert(slot, failure);
        }
        true
    }

    /// A connection is gone: the leases bound to it end. False if there were none.
    pub fn disconnect(&mut self, client: ClientId, now: MonoMillis) -> bool {
        let Some(slots) = self.bound.remove(&client) else { return false };
        for slot in slots {
            self.end_if(slot.db, &slot.key, End::Disconnected, now, |lease| lease.holder == client);
        }
        true
    }

    /// The lease on `key`.
    #[must_use]
    pub fn view(&self, db: DbId, key: &[u8], now: MonoMillis) -> Option<LeaseView> {
        let (name, flights) = self.flights.get_key_value(key)?;
        let flight = flights.iter().find(|flight| flight.db == db && flight.lease.deadline > now)?;
        Some(flight.view(name, now))
    }

    /// All leases but those that an invalidation is about to end, those with the most waiters first, at most
    /// `count`. O(leases · log leases).
    #[must_use]
    pub fn views(&self, count: usize, now: MonoMillis) -> Vec<LeaseView> {
        let flights = self.flights.iter().flat_map(|(name, flights)| flights.iter().map(move |flight| (name, flight)));
        let stays = |(_, flight): &(&Rc<[u8]>, &Flight)| {
            flight.doubt.max(self.doubts.since(flight.spread, flight.db)) != Some(Doubt::Invalidated)
        };
        let mut views: Vec<_> = flights.filter(stays).map(|(name, flight)| flight.view(name, now)).collect();
        views.sort_by(|a, b| b.waiters.cmp(&a.waiters).then_with(|| a.slot.cmp(&b.slot)));
        views.truncate(count);
        views
    }

    /// The keys that somebody waits for. O(leases).
    #[must_use]
    pub fn waited_for(&self) -> Vec<Slot> {
        let all = self.flights.iter().flat_map(|(key, flights)| flights.iter().map(move |flight| (key, flight)));
        let queued = all.filter(|(_, flight)| !flight.queue.is_empty());
        queued.map(|(key, flight)| Slot { db: flight.db, key: Rc::clone(key) }).collect()
    }

    /// The keys that a lease is out on, of those that `of` says. O(leases).
    #[must_use]
    pub fn leased(&self, of: impl Fn(&[u8]) -> bool) -> Vec<Slot> {
        let some = self.flights.iter().filter(|(key, _)| of(key));
        let all = some.flat_map(|(key, flights)| flights.iter().map(move |flight| (key, flight)));
        all.map(|(key, flight)| Slot { db: flight.db, key: Rc::clone(key) }).collect()
    }

    /// The key whose lease [`Self::expire_next`] would hand over at `now`, if that is what it would do.
    #[must_use]
    pub fn next_handover(&self, now: MonoMillis) -> Option<Slot> {
        let (_, Due::Lease(slot)) = self.due.first().filter(|(at, _)| *at <= now)? else { return None };
        let is_waited_for = !self.find(slot.db, &slot.key)?.queue.is_empty();
        is_waited_for.then(|| slot.clone())
    }

    /// Why nobody is granted the lease on `key` now, if so.
    #[must_use]
    pub fn failure(&self, db: DbId, key: &[u8], now: MonoMillis) -> Option<&Failure> {
        if self.failures.is_empty() {
            return None;
        }
        self.failures.get(&Slot { db, key: key.into() }).filter(|failure| failure.until > now)
    }
}

impl Flight {
    fn view(&self, name: &Rc<[u8]>, now: MonoMillis) -> LeaseView {
        LeaseView {
            slot: Slot { db: self.db, key: Rc::clone(name) },
            holder: self.lease.holder,
            age_ms: now.since(self.lease.granted),
            left_ms: self.lease.deadline.since(now),
            is_bound: self.lease.bond == Bond::Bound,
            waiters: self.queue.len(),
        }
    }
}
