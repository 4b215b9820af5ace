//! What the holder of a lease may do with it, and what happens when it is gone.

use super::{
    find_mut, Bond, ClientId, DbId, DbKey, Due, End, Failure, Flight, Leases, MonoMillis, Reply, Serial, Token, Touch,
    LEASES_MAX,
};
use std::rc::Rc;

/// A lease, as an observer sees it. Durations in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseView {
    /// Of which key.
    pub db_key: DbKey,
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

impl Leases {
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
        let db_key = DbKey { db, key: Rc::clone(name) };
        let Some(flight) = find_mut(&mut self.flights, db, key) else { return false };
        self.due.remove(&(flight.lease.deadline, Due::Lease(db_key.clone())));
        flight.lease.deadline = now.after(ms);
        self.due.insert((flight.lease.deadline, Due::Lease(db_key)));
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
        let Some((db_key, flight)) = self.close(db, key) else { return false };
        self.stats.leases_failed += 1;
        let failure = Failure { until: now.after(retry_ms), message };
        let queue = self.pass_groups(&db_key, flight.queue, flight.groups);
        self.pending.push(queue, Reply::Failed(failure.clone()));
        // ORDER: the deadline of an earlier failure, over but not yet gone, must not end this one.
        self.forgive(&db_key);
        if self.failures.len() < LEASES_MAX {
            self.due.insert((failure.until, Due::Retry(db_key.clone())));
            self.failures.insert(db_key, failure);
        }
        true
    }

    /// A connection is gone: the leases bound to it end. False if there were none.
    pub fn disconnect(&mut self, client: ClientId, now: MonoMillis) -> bool {
        let Some(db_keys) = self.bound.remove(&client) else { return false };
        for db_key in db_keys {
            self.end_if(db_key.db, &db_key.key, End::Disconnected, now, |lease| lease.holder == client);
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
            flight.touch.max(self.touches.since(flight.spread, flight.db)) != Some(Touch::Invalidated)
        };
        let mut views: Vec<_> = flights.filter(stays).map(|(name, flight)| flight.view(name, now)).collect();
        views.sort_by(|a, b| b.waiters.cmp(&a.waiters).then_with(|| a.db_key.cmp(&b.db_key)));
        views.truncate(count);
        views
    }

    /// The keys that somebody waits for. O(leases).
    #[must_use]
    pub fn waited_for(&self) -> Vec<DbKey> {
        let all = self.flights.iter().flat_map(|(key, flights)| flights.iter().map(move |flight| (key, flight)));
        let queued = all.filter(|(_, flight)| !flight.queue.is_empty());
        queued.map(|(key, flight)| DbKey { db: flight.db, key: Rc::clone(key) }).collect()
    }

    /// The keys that a lease is out on, of those that `of` says. O(leases).
    #[must_use]
    pub fn leased(&self, of: impl Fn(&[u8]) -> bool) -> Vec<DbKey> {
        let some = self.flights.iter().filter(|(key, _)| of(key));
        let all = some.flat_map(|(key, flights)| flights.iter().map(move |flight| (key, flight)));
        all.map(|(key, flight)| DbKey { db: flight.db, key: Rc::clone(key) }).collect()
    }

    /// The key whose lease [`Self::expire_next`] would hand over at `now`, if that is what it would do.
    #[must_use]
    pub fn next_handover(&self, now: MonoMillis) -> Option<DbKey> {
        let (_, Due::Lease(db_key)) = self.due.first().filter(|(at, _)| *at <= now)? else { return None };
        let is_waited_for = !self.find(db_key.db, &db_key.key)?.queue.is_empty();
        is_waited_for.then(|| db_key.clone())
    }

    /// Why nobody is granted the lease on `key` now, if so.
    #[must_use]
    pub fn failure(&self, db: DbId, key: &[u8], now: MonoMillis) -> Option<&Failure> {
        if self.failures.is_empty() {
            return None;
        }
        self.failures.get(&DbKey { db, key: key.into() }).filter(|failure| failure.until > now)
    }
}

impl Flight {
    fn view(&self, name: &Rc<[u8]>, now: MonoMillis) -> LeaseView {
        LeaseView {
            db_key: DbKey { db: self.db, key: Rc::clone(name) },
            holder: self.lease.holder,
            age_ms: now.since(self.lease.granted),
            left_ms: self.lease.deadline.since(now),
            is_bound: self.lease.bond == Bond::Bound,
            waiters: self.queue.len(),
        }
    }
}
