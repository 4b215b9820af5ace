//! What plain commands may have done to keys with a lease.
//!
//! They change keys behind our back, some at a moment when the keyspace must not be read. So a
//! change is noted when it is seen coming, and resolved by a look at the key once it has happened:
//! before any command of ours decides upon that key, and before the turn of the event loop ends.

use super::{find_mut, Answer, DbId, Due, Lease, LeaseBook, MonoMillis, Serial, Served, Slot};
use std::collections::VecDeque;
use std::ops::Bound;
use std::rc::Rc;

/// Deadlines, of leases and of waits, that one call of [`LeaseBook::doubt_waited_for`] walks past.
const SCANNED_MAX: usize = 5_000;

/// What a plain command may have done to a key with a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Doubt {
    /// Something was written somewhere: a value may have appeared. If none did, whatever else
    /// changed is no business of the lease.
    Elsewhere,
    /// A value may have appeared; if none did, nothing happened.
    Appeared,
    /// The key was invalidated, even if it did not exist.
    Invalidated,
}

/// What is doubted of all keys: a database was emptied, or a transaction ran unseen. To note that of a
/// million leases in one step would stop the server, so it is noted once and spread to them a few at a
/// time. Whoever asks for one key finds it there already. A lease that is granted later does not have it.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    pending: VecDeque<AboutAll>,
    /// How many there were, of which `pending` are the last that have not reached all leases yet.
    count: u64,
}

#[derive(Debug)]
struct AboutAll {
    number: u64,
    only: Option<DbId>,
    doubt: Doubt,
    /// The first lease that it has not been spread to.
    next: Serial,
}

impl Doubts {
    fn add(&mut self, only: Option<DbId>, doubt: Doubt) {
        self.count += 1;
        let number = self.count;
        let same = |other: &&mut AboutAll| (other.only, other.doubt, other.next) == (only, doubt, Serial(0));
        match self.pending.iter_mut().find(same) {
            // It has not begun to spread: so it can spread as the newer one.
            Some(other) => other.number = number,
            None => self.pending.push_back(AboutAll { number, only, doubt, next: Serial(0) }),
        }
    }

    /// What was doubted of keys of `db` after the first `seen` doubts.
    pub(super) fn since(&self, seen: u64, db: DbId) -> Option<Doubt> {
        let concerns = |about: &&AboutAll| about.number > seen && about.only.is_none_or(|only| only == db);
        self.pending.iter().filter(concerns).map(|about| about.doubt).max()
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn clear(&mut self) {
        self.pending.clear();
    }
}

/// What the keyspace holds when a doubt is resolved.
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

impl LeaseBook {
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
    pub fn doubt(&mut self, key: &[u8], doubt: Doubt) -> bool {
        let Some(name) = self.flights.get_key_value(key).map(|(name, _)| Rc::clone(name)) else { return false };
        for flight in self.flights.get_mut(key).into_iter().flatten() {
            flight.doubt = flight.doubt.max(Some(doubt));
            self.doubted.insert(Slot { db: flight.db, key: Rc::clone(&name) });
        }
        true
    }

    /// Notes the same of every key with a lease, or of those in database `only`. O(1): see
    /// [`Self::spread_doubts`].
    pub fn doubt_all(&mut self, only: Option<DbId>, doubt: Doubt) {
        if !self.serials.is_empty() {
            self.doubts.add(only, doubt);
        }
    }

    /// Notes [`Doubt::Elsewhere`] of up to `count` keys that somebody waits for, going on where the last
    /// call ended; true if that completes a round. O(count) and [`SCANNED_MAX`].
    pub fn doubt_waited_for(&mut self, count: usize) -> bool {
        let from = self.looked_up_to.take().map_or(Bound::Unbounded, Bound::Excluded);
        let (mut found, mut scanned, mut last): (_, _, Option<&(MonoMillis, Due)>) = (Vec::new(), 0, None);
        for at in self.due.range((from, Bound::Unbounded)) {
            if found.len() >= count || scanned >= SCANNED_MAX {
                self.looked_up_to = last.cloned();
                break;
            }
            scanned += 1;
            last = Some(at);
            if let (_, Due::Lease(slot)) = at {
                if self.find(slot.db, &slot.key).is_some_and(|flight| !flight.queue.is_empty()) {
                    found.push(slot.clone());
                }
            }
        }
        found.iter().for_each(|slot| self.note(slot, Doubt::Elsewhere));
        self.looked_up_to.is_none()
    }

    /// Carries what is doubted of all keys to the next `most` leases, oldest first; false if all have it.
    pub fn spread_doubts(&mut self, most: usize) -> bool {
        for _ in 0..most {
            let Some(about_all) = self.doubts.pending.front_mut() else { return false };
            match self.serials.range(about_all.next..).next() {
                Some((serial, slot)) => {
                    about_all.next = Serial(serial.0 + 1);
                    let slot = slot.clone();
                    self.spread_to(slot.db, &slot.key);
                }
                None => drop(self.doubts.pending.pop_front()),
            }
        }
        true
    }

    /// Carries what is doubted of all keys to the lease on `key`.
    pub(super) fn spread_to(&mut self, db: DbId, key: &[u8]) {
        if self.doubts.pending.is_empty() {
            return;
        }
        let Some((name, _)) = self.flights.get_key_value(key) else { return };
        let slot = Slot { db, key: Rc::clone(name) };
        let Some(flight) = find_mut(&mut self.flights, db, key) else { return };
        let doubt = self.doubts.since(flight.spread, db);
        flight.spread = self.doubts.count();
        if let Some(doubt) = doubt {
            self.note(&slot, doubt);
        }
    }

    /// A key whose doubt is to be resolved, if one is known: see [`Self::spread_doubts`].
    #[must_use]
    pub fn first_doubted(&self) -> Option<Slot> {
        self.doubted.first().cloned()
    }

    /// True if there is something to resolve or to spread.
    #[must_use]
    pub fn has_doubts(&self) -> bool {
        !self.doubted.is_empty() || !self.doubts.pending.is_empty()
    }

    /// `key`, if it must be resolved before it is decided upon.
    #[must_use]
    pub fn doubted(&mut self, db: DbId, key: &[u8]) -> Option<Slot> {
        self.spread_to(db, key);
        if self.doubted.is_empty() {
            return None;
        }
        let (name, flights) = self.flights.get_key_value(key)?;
        flights.iter().find(|flight| flight.db == db)?.doubt?;
        Some(Slot { db, key: Rc::clone(name) })
    }

    /// Settles a doubt by what the keyspace was `found` to hold.
    pub fn resolve(&mut self, slot: &Slot, found: Found, now: MonoMillis) {
        // What was doubted of all keys before the look at this one is resolved by it.
        self.spread_to(slot.db, &slot.key);
        self.doubted.remove(slot);
        let Some(flight) = find_mut(&mut self.flights, slot.db, &slot.key) else { return };
        let Lease { is_early, serves_stale, .. } = flight.lease;
        // A value that was there when the lease was granted did not appear since, but it may go.
        let stays = is_early && flight.queue.is_empty();
        let had_value = is_early || serves_stale;
        match (flight.doubt.take(), found) {
            (None, _) | (Some(Doubt::Appeared), Found::Stale) => {}
            (Some(Doubt::Elsewhere), Found::Stale | Found::Nothing) => {}
            (Some(Doubt::Elsewhere | Doubt::Appeared), Found::Fresh(_)) if stays => {}
            (Some(Doubt::Appeared), Found::Nothing) if !had_value => {}
            (Some(_), Found::Fresh(served)) => self.settle(slot.db, &slot.key, || served, now),
            (Some(_), Found::WrongType) => self.refuse(slot, &Answer::WrongType),
            (Some(_), Found::Nothing) => self.void(slot.db, &slot.key, now),
            (Some(Doubt::Invalidated), Found::Stale) => {
                self.void(slot.db, &slot.key, now);
                self.serve_stale(slot);
            }
        }
    }

    /// A stale value came to be under a key whose lease is out: who waits for it can be served.
    fn serve_stale(&mut self, slot: &Slot) {
        let Some(flight) = find_mut(&mut self.flights, slot.db, &slot.key) else { return };
        flight.lease.serves_stale = true;
        let (queue, groups) = (std::mem::take(&mut flight.queue), std::mem::take(&mut flight.groups));
        let queue = self.pass_groups(slot, queue, groups);
        self.outbox.push(queue, Answer::Look);
    }

    /// Notes a doubt about one key. It outlives the lease it was noted under: what has been done to
    /// the key since may concern the next holder too, and the others still wait for the value that
    /// may be there.
    pub fn note(&mut self, slot: &Slot, doubt: Doubt) {
        if let Some(flight) = find_mut(&mut self.flights, slot.db, &slot.key) {
            flight.doubt = flight.doubt.max(Some(doubt));
            self.doubted.insert(slot.clone());
        }
    }
}
