//! What plain commands may have done to keys with a lease.
//!
//! They change keys behind our back, some at a moment when the keyspace must not be read. So a
//! change is noted when it is seen coming, and resolved by a look at the key once it has happened:
//! before any command of ours decides upon that key, and before the turn of the event loop ends.

use super::{find_mut, DbId, DbKey, Due, Lease, Leases, MonoMillis, Reply, Serial, Served};
use std::collections::VecDeque;
use std::ops::Bound;
use std::rc::Rc;

/// Deadlines, of leases and of waits, that one call of [`Leases::mark_waited_for_touched`] walks past.
const SCANNED_MAX: usize = 5_000;

/// What a plain command may have done to a key with a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Touch {
    /// Something was written somewhere: a value may have appeared. If none did, whatever else
    /// changed is no business of the lease.
    Elsewhere,
    /// A value may have appeared; if none did, nothing happened.
    Appeared,
    /// The key was invalidated, even if it did not exist.
    Invalidated,
}

/// What may have happened to all keys: a database was emptied, or a transaction ran unseen. To note that of a
/// million leases in one step would stop the server, so it is noted once and spread to them a few at a
/// time. Whoever asks for one key finds it there already. A lease that is granted later does not have it.
#[derive(Debug, Default)]
pub(super) struct Touches {
    pending: VecDeque<AboutAll>,
    /// How many there were, of which `pending` are the last that have not reached all leases yet.
    count: u64,
}

#[derive(Debug)]
struct AboutAll {
    number: u64,
    only: Option<DbId>,
    touch: Touch,
    /// The first lease that it has not been spread to.
    next: Serial,
}

impl Touches {
    fn add(&mut self, only: Option<DbId>, touch: Touch) {
        self.count += 1;
        let number = self.count;
        let same = |other: &&mut AboutAll| (other.only, other.touch, other.next) == (only, touch, Serial(0));
        match self.pending.iter_mut().find(same) {
            // It has not begun to spread: so it can spread as the newer one.
            Some(other) => other.number = number,
            None => self.pending.push_back(AboutAll { number, only, touch, next: Serial(0) }),
        }
    }

    /// What may have happened to keys of `db` after the first `seen` touches.
    pub(super) fn since(&self, seen: u64, db: DbId) -> Option<Touch> {
        let concerns = |about: &&AboutAll| about.number > seen && about.only.is_none_or(|only| only == db);
        self.pending.iter().filter(concerns).map(|about| about.touch).max()
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn clear(&mut self) {
        self.pending.clear();
    }
}

/// What the keyspace holds when a touched key is rechecked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A value that may be served.
    Fresh(Served),
    /// A value that may be served while somebody refreshes it.
    Stale,
    /// Nothing.
    Nothing,
    /// A value of another type.
    WrongType,
}

impl Leases {
    /// True if a lease is out on a key named `key`, in whatever database.
    #[inline]
    #[must_use]
    pub fn has_lease(&self, key: &[u8]) -> bool {
        self.flights.contains_key(key)
    }

    /// True if a lease is out on `key` that was granted while there was no value.
    #[must_use]
    pub fn was_missing(&self, db: DbId, key: &[u8]) -> bool {
        self.find(db, key).is_some_and(|flight| !flight.lease.is_early && !flight.lease.serves_stale)
    }

    /// Notes what a plain command may do to the keys named `key`, in whatever database, and says
    /// whether a lease is out on any of them.
    pub fn mark_touched(&mut self, key: &[u8], touch: Touch) -> bool {
        let Some(name) = self.flights.get_key_value(key).map(|(name, _)| Rc::clone(name)) else { return false };
        for flight in self.flights.get_mut(key).into_iter().flatten() {
            flight.touch = flight.touch.max(Some(touch));
            self.touched.insert(DbKey { db: flight.db, key: Rc::clone(&name) });
        }
        true
    }

    /// Notes the same of every key with a lease, or of those in database `only`. O(1): see
    /// [`Self::spread_touches`].
    pub fn mark_all_touched(&mut self, only: Option<DbId>, touch: Touch) {
        if !self.serials.is_empty() {
            self.touches.add(only, touch);
        }
    }

    /// Notes [`Touch::Elsewhere`] of up to `count` keys that somebody waits for, going on where the last
    /// call ended; true if that completes a round. O(count) and [`SCANNED_MAX`].
    pub fn mark_waited_for_touched(&mut self, count: usize) -> bool {
        let from = self.looked_up_to.take().map_or(Bound::Unbounded, Bound::Excluded);
        let (mut found, mut scanned, mut last): (_, _, Option<&(MonoMillis, Due)>) = (Vec::new(), 0, None);
        for at in self.due.range((from, Bound::Unbounded)) {
            if found.len() >= count || scanned >= SCANNED_MAX {
                self.looked_up_to = last.cloned();
                break;
            }
            scanned += 1;
            last = Some(at);
            if let (_, Due::Lease(db_key)) = at {
                if self.find(db_key.db, &db_key.key).is_some_and(|flight| !flight.queue.is_empty()) {
                    found.push(db_key.clone());
                }
            }
        }
        found.iter().for_each(|db_key| self.note(db_key, Touch::Elsewhere));
        self.looked_up_to.is_none()
    }

    /// Carries what may have happened to all keys to the next `most` leases, oldest first; false if all have it.
    pub fn spread_touches(&mut self, most: usize) -> bool {
        for _ in 0..most {
            let Some(about_all) = self.touches.pending.front_mut() else { return false };
            match self.serials.range(about_all.next..).next() {
                Some((serial, db_key)) => {
                    about_all.next = Serial(serial.0 + 1);
                    let db_key = db_key.clone();
                    self.spread_to(db_key.db, &db_key.key);
                }
                None => drop(self.touches.pending.pop_front()),
            }
        }
        true
    }

    /// Carries what may have happened to all keys to the lease on `key`.
    pub(super) fn spread_to(&mut self, db: DbId, key: &[u8]) {
        if self.touches.pending.is_empty() {
            return;
        }
        let Some((name, _)) = self.flights.get_key_value(key) else { return };
        let db_key = DbKey { db, key: Rc::clone(name) };
        let Some(flight) = find_mut(&mut self.flights, db, key) else { return };
        let touch = self.touches.since(flight.spread, db);
        flight.spread = self.touches.count();
        if let Some(touch) = touch {
            self.note(&db_key, touch);
        }
    }

    /// A key that is to be rechecked, if one is known: see [`Self::spread_touches`].
    #[must_use]
    pub fn first_touched(&self) -> Option<DbKey> {
        self.touched.first().cloned()
    }

    /// True if there is something to resolve or to spread.
    #[must_use]
    pub fn has_touched(&self) -> bool {
        !self.touched.is_empty() || !self.touches.pending.is_empty()
    }

    /// `key`, if it must be resolved before it is decided upon.
    #[must_use]
    pub fn touched(&mut self, db: DbId, key: &[u8]) -> Option<DbKey> {
        self.spread_to(db, key);
        if self.touched.is_empty() {
            return None;
        }
        let (name, flights) = self.flights.get_key_value(key)?;
        flights.iter().find(|flight| flight.db == db)?.touch?;
        Some(DbKey { db, key: Rc::clone(name) })
    }

    /// Settles a touch by what the keyspace was `found` to hold.
    pub fn recheck(&mut self, db_key: &DbKey, found: Found, now: MonoMillis) {
        // What may have happened to all keys before the look at this one is resolved by it.
        self.spread_to(db_key.db, &db_key.key);
        self.touched.remove(db_key);
        let Some(flight) = find_mut(&mut self.flights, db_key.db, &db_key.key) else { return };
        let Lease { is_early, serves_stale, .. } = flight.lease;
        // A value that was there when the lease was granted did not appear since, but it may go.
        let stays = is_early && flight.queue.is_empty();
        let had_value = is_early || serves_stale;
        match (flight.touch.take(), found) {
            (None, _) | (Some(Touch::Appeared), Found::Stale) => {}
            (Some(Touch::Elsewhere), Found::Stale | Found::Nothing) => {}
            (Some(Touch::Elsewhere | Touch::Appeared), Found::Fresh(_)) if stays => {}
            (Some(Touch::Appeared), Found::Nothing) if !had_value => {}
            (Some(_), Found::Fresh(served)) => self.settle(db_key.db, &db_key.key, || served, now),
            (Some(_), Found::WrongType) => self.refuse(db_key, &Reply::WrongType),
            (Some(_), Found::Nothing) => self.void(db_key.db, &db_key.key, now),
            (Some(Touch::Invalidated), Found::Stale) => {
                self.void(db_key.db, &db_key.key, now);
                self.serve_stale(db_key);
            }
        }
    }

    /// A stale value came to be under a key whose lease is out: who waits for it can be served.
    fn serve_stale(&mut self, db_key: &DbKey) {
        let Some(flight) = find_mut(&mut self.flights, db_key.db, &db_key.key) else { return };
        flight.lease.serves_stale = true;
        let (queue, groups) = (std::mem::take(&mut flight.queue), std::mem::take(&mut flight.groups));
        let queue = self.pass_groups(db_key, queue, groups);
        self.pending.push(queue, Reply::Look);
    }

    /// Notes a touch of one key. It outlives the lease it was noted under: what has been done to
    /// the key since may concern the next holder too, and the others still wait for the value that
    /// may be there.
    pub fn note(&mut self, db_key: &DbKey, touch: Touch) {
        if let Some(flight) = find_mut(&mut self.flights, db_key.db, &db_key.key) {
            flight.touch = flight.touch.max(Some(touch));
            self.touched.insert(db_key.clone());
        }
    }
}
