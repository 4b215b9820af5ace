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
//! What plain commands do to a key behind our back is the business of `touch`, what its holder may
//! do with a lease that of `holder`, and one who waits for several keys at once that of `group`.
//!
//! Invariants, checked by `validate` in tests: a waiter is in one queue or in the pending replies, never
//! both; every queue belongs to a live lease; every deadline in `due` belongs to a lease or waiter
//! that is still there; no flight lacks a lease.
//!
//! Rejected: a lock key with a TTL in the keyspace. It would be persisted, replicated and visible,
//! expires lazily, and says nothing about who waits.

use super::pending::{PendingReplies, Reply};
use super::waiters::{Kind, Queue, Waiter, Waiters};
use crate::engine::id::{Bond, ClientId, DbId, DbKey, WaiterId};
use crate::engine::time::{MonoMillis, UnixMillis};
use ahash::AHashMap;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

mod group;
mod handover;
mod holder;
mod refresh;
mod stats;
mod token;
mod touch;

use handover::End;
pub use holder::LeaseView;
pub use stats::LeaseStats;
pub use token::Token;
use touch::Touches;
pub use touch::{Found, Touch};

/// How many leases, and how many failures, are remembered at once.
pub const LEASES_MAX: usize = 1_000_000;

/// The number of one grant of a lease; never reused while the server runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(pub u64);

/// The right to regenerate one key, as its holder knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Which grant.
    pub serial: Serial,
    /// Of which key.
    pub db_key: DbKey,
    /// What proves it.
    pub token: Token,
    /// When it ends.
    pub deadline: MonoMillis,
}

/// A value as it is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// The bytes.
    pub value: Rc<[u8]>,
    /// When it turns stale or goes; `None`: never.
    pub fresh_until: Option<UnixMillis>,
}

/// Why a key cannot be regenerated for the time being.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Until when nobody is granted the lease.
    pub until: MonoMillis,
    /// What the last holder said.
    pub message: Rc<[u8]>,
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
    /// Whether its lease would end with its connection.
    pub bond: Bond,
}

/// What a caller is told that found no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It holds the lease and is to regenerate.
    Won(Grant),
    /// Somebody else does; it waits, and its answer will come through the pending replies.
    Blocked(WaiterId),
    /// Somebody else does, and it does not wait; the lease lasts `left_ms` more.
    Leased {
        /// Milliseconds.
        left_ms: u64,
    },
    /// The last holder could not load the value, and it is too early to try again.
    Failed(Failure),
    /// [`LEASES_MAX`] leases are out.
    Full,
}

#[derive(Debug)]
struct Lease {
    serial: Serial,
    token: Token,
    holder: ClientId,
    bond: Bond,
    granted: MonoMillis,
    deadline: MonoMillis,
    /// The waiter it was handed to, who may not have heard of it yet.
    heir: Option<WaiterId>,
    /// Granted ahead of expiry, while the key held a fresh value.
    is_early: bool,
    /// Granted while others were served a stale value.
    serves_stale: bool,
}

#[derive(Debug)]
struct Flight {
    db: DbId,
    lease: Lease,
    queue: Queue,
    /// How many in the queue wait for other keys too.
    groups: usize,
    touch: Option<Touch>,
    /// How many of the touches of all keys are in `touch`, if they concern this one.
    spread: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Lease(DbKey),
    Wait(WaiterId),
    Retry(DbKey),
}

/// All leases and all who wait for them.
pub struct Leases {
    /// By name first: a filter sees names before it knows the database.
    flights: AHashMap<Rc<[u8]>, Vec<Flight>>,
    waiters: Waiters,
    due: BTreeSet<(MonoMillis, Due)>,
    touched: BTreeSet<DbKey>,
    looked_up_to: Option<(MonoMillis, Due)>,
    touches: Touches,
    failures: AHashMap<DbKey, Failure>,
    bound: AHashMap<ClientId, BTreeSet<DbKey>>,
    pending: PendingReplies,
    /// Of the leases that are out.
    serials: BTreeMap<Serial, DbKey>,
    draw_token: Box<dyn FnMut() -> Token>,
    last_serial: u64,
    leases: usize,
    /// Counts for INFO.
    pub stats: LeaseStats,
}

impl Leases {
    /// An empty book. `draw_token` must never give the same token twice, nor one that can be
    /// guessed from others.
    #[must_use]
    pub fn new(draw_token: impl FnMut() -> Token + 'static) -> Self {
        Self {
            flights: AHashMap::new(),
            waiters: Waiters::default(),
            due: BTreeSet::new(),
            touched: BTreeSet::new(),
            looked_up_to: None,
            touches: Touches::default(),
            failures: AHashMap::new(),
            bound: AHashMap::new(),
            pending: PendingReplies::default(),
            serials: BTreeMap::new(),
            draw_token: Box::new(draw_token),
            last_serial: 0,
            leases: 0,
            stats: LeaseStats::default(),
        }
    }

    /// Decides for a caller that found no fresh value under `key`. At most `waiters_max` wait at
    /// once; beyond that a caller is answered as if it would not wait. A connection never waits
    /// for its own lease. A lease past its deadline ends here, though [`Self::expire_next`] has not
    /// come to it yet. O(log n).
    pub fn ask(&mut self, db: DbId, key: &[u8], caller: Caller, waiters_max: usize, now: MonoMillis) -> Asked {
        self.end_overdue(db, key, now);
        if let Some(flight) = self.find(db, key) {
            let left_ms = flight.lease.deadline.since(now);
            let crowded = self.waiters.len() >= waiters_max;
            if caller.wait_ms == 0 || flight.lease.holder == caller.client || crowded {
                return Asked::Leased { left_ms };
            }
            let key = self.flights.get_key_value(key).map_or_else(|| key.into(), |(key, _)| Rc::clone(key));
            return Asked::Blocked(self.block(vec![DbKey { db, key }], Kind::Single, caller, now));
        }
        if let Some(failure) = self.failure(db, key, now) {
            return Asked::Failed(failure.clone());
        }
        if self.leases >= LEASES_MAX {
            return Asked::Full;
        }
        Asked::Won(self.grant(DbKey { db, key: key.into() }, caller, None, now))
    }

    /// How long the lease on `key` has been out, in milliseconds: the cost of the regeneration
    /// that a write at `now` ends. `None` if no lease is out.
    #[must_use]
    pub fn cost_ms(&self, db: DbId, key: &[u8], now: MonoMillis) -> Option<u64> {
        self.find(db, key).map(|flight| now.since(flight.lease.granted))
    }

    /// A value was stored under `key`: ends its lease or failure and decides all its waiters'
    /// answer. `served` is called only if somebody waits. O(1) in the number of waiters, unless
    /// they wait for other keys too.
    pub fn settle(&mut self, db: DbId, key: &[u8], served: impl FnOnce() -> Served, now: MonoMillis) {
        self.land(db, key, || Reply::Value(served()), now);
    }

    /// The same, but the value is stale already: who waits is served it as such, and the next caller
    /// is to refresh it.
    pub fn settle_stale(&mut self, db: DbId, key: &[u8], now: MonoMillis) {
        self.land(db, key, || Reply::Look, now);
    }

    fn land(&mut self, db: DbId, key: &[u8], reply: impl FnOnce() -> Reply, now: MonoMillis) {
        if !self.failures.is_empty() {
            self.forgive(&DbKey { db, key: key.into() });
        }
        let Some((db_key, flight)) = self.close(db, key) else { return };
        let mut queue = self.pass_groups(&db_key, flight.queue, flight.groups);
        // One who was handed the lease and has not heard of it is better told the value.
        if let Some(heir) = flight.lease.heir.filter(|heir| self.pending.take(*heir).is_some()) {
            if self.waits_alone(heir) {
                queue.insert(heir);
            } else {
                self.pending.push_one(heir, Reply::Look);
            }
        }
        if queue.is_empty() {
            return;
        }
        let count = queue.len() as u64;
        self.stats.loads_avoided += count;
        self.stats.load_ms_avoided += count * now.since(flight.lease.granted);
        self.pending.push(queue, reply());
    }

    /// Invalidates `key`: its lease ends, and the oldest waiter holds the next one. O(log n).
    pub fn void(&mut self, db: DbId, key: &[u8], now: MonoMillis) {
        self.end_if(db, key, End::Voided, now, |_| true);
    }

    /// Ends the lease on `db_key` and gives all its waiters the same refusal.
    pub fn refuse(&mut self, db_key: &DbKey, reply: &Reply) {
        if let Some((_, flight)) = self.close(db_key.db, &db_key.key) {
            if flight.groups > 0 {
                for id in &flight.queue {
                    self.withdraw(*id);
                }
            }
            self.pending.push(flight.queue, reply.clone());
        }
    }

    /// Ends what is due at `now`, one lease or wait a call; false if nothing is.
    pub fn expire_next(&mut self, now: MonoMillis) -> bool {
        match self.due.first() {
            Some((at, _)) if *at <= now => {}
            _ => return false,
        }
        match self.due.pop_first() {
            Some((_, Due::Lease(db_key))) => self.end_if(db_key.db, &db_key.key, End::Expired, now, |_| true),
            Some((_, Due::Wait(id))) => self.time_out(id, now),
            Some((_, Due::Retry(db_key))) => drop(self.failures.remove(&db_key)),
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
    pub fn next_reply(&mut self, now: MonoMillis) -> Option<(WaiterId, Reply)> {
        let (id, reply) = self.pending.pop()?;
        self.discharge(id, now);
        Some((id, reply))
    }

    /// A waiter leaves early, with the answer that had been decided for it, if any: its connection
    /// closed or an operator unblocked it. The caller passes an undelivered grant to
    /// [`Self::give_back`]. O(log n).
    pub fn leave(&mut self, id: WaiterId, now: MonoMillis) -> Option<Reply> {
        let reply = self.pending.take(id);
        self.withdraw(id);
        self.discharge(id, now);
        reply
    }

    /// A grant that nobody heard of ends at once, if it is still the key's lease.
    pub fn give_back(&mut self, grant: &Grant, now: MonoMillis) {
        let db_key = &grant.db_key;
        self.end_if(db_key.db, &db_key.key, End::Disconnected, now, |lease| lease.serial == grant.serial);
    }

    /// Milliseconds until the lease ends that `id` waits for; 0 if it waits for none.
    #[must_use]
    pub fn lease_left_ms(&self, id: WaiterId, now: MonoMillis) -> u64 {
        let db_key = self.waiters.get(id).and_then(|waiter| waiter.db_keys.first());
        let flight = db_key.and_then(|db_key| self.find(db_key.db, &db_key.key));
        flight.map_or(0, |flight| flight.lease.deadline.since(now))
    }

    /// Forgets every lease; all who wait are refused with `reply`. For a server that no longer
    /// decides.
    pub fn forget_all(&mut self, reply: &Reply) {
        let flights = std::mem::take(&mut self.flights).into_values().flatten();
        self.pending.push(flights.flat_map(|flight| flight.queue).collect(), reply.clone());
        self.leases = 0;
        self.serials.clear();
        self.due.clear();
        self.touched.clear();
        self.touches.clear();
        self.failures.clear();
        self.bound.clear();
    }

    /// Leases that are out.
    #[must_use]
    pub fn leases(&self) -> usize {
        self.leases
    }

    /// True if there is neither a lease nor an undelivered answer.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.leases == 0 && self.pending.is_empty() && self.waiters.is_empty()
    }

    /// True if a value that is stored now concerns nobody.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.leases == 0 && self.failures.is_empty()
    }

    /// True if [`Self::next_reply`] has something to deliver.
    #[must_use]
    pub fn has_replies(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Who waits.
    #[must_use]
    pub fn waiters(&self) -> &Waiters {
        &self.waiters
    }

    fn find(&self, db: DbId, key: &[u8]) -> Option<&Flight> {
        self.flights.get(key)?.iter().find(|flight| flight.db == db)
    }

    fn grant(&mut self, db_key: DbKey, caller: Caller, heir: Option<WaiterId>, now: MonoMillis) -> Grant {
        self.last_serial += 1;
        let (serial, token) = (Serial(self.last_serial), (self.draw_token)());
        let deadline = now.after(caller.lease_ms);
        let (holder, bond) = (caller.client, caller.bond);
        if bond == Bond::Bound {
            self.bound.entry(holder).or_default().insert(db_key.clone());
        }
        self.due.insert((deadline, Due::Lease(db_key.clone())));
        let lease =
            Lease { serial, token, holder, bond, granted: now, deadline, heir, is_early: false, serves_stale: false };
        let spread = self.touches.count();
        let flight = Flight { db: db_key.db, lease, queue: Queue::new(), groups: 0, touch: None, spread };
        self.flights.entry(Rc::clone(&db_key.key)).or_default().push(flight);
        self.leases += 1;
        self.serials.insert(serial, db_key.clone());
        self.stats.leases_granted += 1;
        Grant { serial, db_key, token, deadline }
    }

    fn close(&mut self, db: DbId, key: &[u8]) -> Option<(DbKey, Flight)> {
        // ORDER: what may have happened to all keys passes on to the next lease on this one.
        self.spread_to(db, key);
        let (name, flights) = self.flights.get_key_value(key)?;
        let db_key = DbKey { db, key: Rc::clone(name) };
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
        self.serials.remove(&flight.lease.serial);
        self.due.remove(&(flight.lease.deadline, Due::Lease(db_key.clone())));
        if flight.touch.is_some() {
            self.touched.remove(&db_key);
        }
        if let Some(db_keys) = self.bound.get_mut(&flight.lease.holder) {
            db_keys.remove(&db_key);
            if db_keys.is_empty() {
                self.bound.remove(&flight.lease.holder);
            }
        }
        Some((db_key, flight))
    }

    fn waits_alone(&self, id: WaiterId) -> bool {
        self.waiters.get(id).is_some_and(|waiter| waiter.kind == Kind::Single)
    }

    fn forgive(&mut self, db_key: &DbKey) {
        if let Some(failure) = self.failures.remove(db_key) {
            self.due.remove(&(failure.until, Due::Retry(db_key.clone())));
        }
    }

    fn time_out(&mut self, id: WaiterId, now: MonoMillis) {
        let left_ms = self.lease_left_ms(id, now);
        let Some(kind) = self.waiters.get(id).map(|waiter| waiter.kind) else { return };
        if self.withdraw(id) {
            self.stats.waits_timed_out += 1;
            let reply = if kind == Kind::Group { Reply::Look } else { Reply::Leased { left_ms } };
            self.pending.push_one(id, reply);
        }
    }

    fn discharge(&mut self, id: WaiterId, now: MonoMillis) -> Option<Waiter> {
        let waiter = self.waiters.remove(id)?;
        self.due.remove(&(waiter.deadline, Due::Wait(id)));
        self.stats.wait_ms_total += now.since(waiter.since);
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
