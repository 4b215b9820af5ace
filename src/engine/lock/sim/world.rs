//! A server in small around a lock book, and what happens to it.

use super::event::Event;
use super::keyspace::{Effect, Keyspace, Value};
use crate::engine::id::{Bond, ClientId, DbId, DbKey, WaiterId};
use crate::engine::lock::{
    Asked, Change, Fences, Found, Granted, Judged, Lock, Locks, Mode, Now, Owner, Reply, Request, Term,
};
use crate::engine::time::{MonoMillis, UnixMillis};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

/// One who waits, as the world saw it come.
#[derive(Clone, Debug)]
pub struct Waits {
    pub id: WaiterId,
    pub client: ClientId,
    pub owner: u8,
    pub mode: Mode,
    pub deadline: MonoMillis,
    pub at_least: u64,
}

/// A grant that somebody was told of.
#[derive(Clone, Debug)]
pub struct Belief {
    pub db_key: DbKey,
    pub owner: u8,
    pub fence: u64,
    pub deadline: UnixMillis,
    pub bound_to: Option<ClientId>,
}

pub struct World {
    pub rng: StdRng,
    pub locks: Locks,
    pub keyspace: Keyspace,
    pub replica: Keyspace,
    pub replica_fences: Fences,
    pub unsent: VecDeque<Effect>,
    /// Time as it really passes; the server's wall clock is behind by `behind_ms`.
    pub true_ms: u64,
    pub behind_ms: u64,
    pub started_ms: u64,
    pub clients: Vec<ClientId>,
    last_client: u64,
    pub lines: BTreeMap<DbKey, Vec<Waits>>,
    /// Replies decided, by waiter: what the world expects to be delivered.
    pub owed: BTreeMap<WaiterId, ClientId>,
    pub beliefs: Vec<Belief>,
    pub fences: Vec<u64>,
    /// Numbers whose holders were bound when this server became a replica, or its replica a primary: their
    /// bonds are forgotten.
    pub untied: BTreeSet<(DbKey, u64)>,
    waiters_max: usize,
    dbs: DbId,
    keys: u8,
    owners: u8,
    semaphores: bool,
    pub seen: BTreeMap<Event, u64>,
}

const T0: u64 = 1_800_000_000_000;

impl World {
    pub fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let (dbs, keys, owners) = (rng.random_range(1..=2), rng.random_range(1..=3), rng.random_range(2..=12));
        let (number, semaphores) = (rng.random_range(2..=16), rng.random_bool(0.5));
        let mut world = Self {
            rng,
            locks: Locks::default(),
            keyspace: Keyspace::default(),
            replica: Keyspace::default(),
            replica_fences: Fences::default(),
            unsent: VecDeque::new(),
            true_ms: T0,
            behind_ms: 0,
            started_ms: T0,
            clients: Vec::new(),
            last_client: 0,
            lines: BTreeMap::new(),
            owed: BTreeMap::new(),
            beliefs: Vec::new(),
            fences: Vec::new(),
            untied: BTreeSet::new(),
            waiters_max: 1_000,
            dbs,
            keys,
            owners,
            semaphores,
            seen: BTreeMap::new(),
        };
        world.locks.fences.begin(UnixMillis(T0));
        for _ in 0..number {
            world.connect();
        }
        world
    }

    pub fn now(&self) -> Now {
        Now { unix: UnixMillis(self.true_ms - self.behind_ms), mono: MonoMillis(self.true_ms) }
    }

    pub fn count(&mut self, event: Event, happened: bool) {
        *self.seen.entry(event).or_default() += u64::from(happened);
    }

    pub fn connect(&mut self) {
        self.last_client += 1;
        self.clients.push(ClientId(self.last_client));
    }

    /// Lets something happen, and checks everything.
    pub fn act(&mut self) {
        let (db_key, other) = (self.some_slot(), self.some_slot());
        let percent = self.rng.random_range(0..100u32);
        match self.rng.random_range(0..200) {
            0..70 => self.lock(db_key),
            70..95 => self.unlock(&db_key),
            95..100 => self.extend(&db_key),
            100..104 => self.removed_by(Effect::Delete(db_key.clone()), &[db_key]),
            104..106 => self.removed_by(Effect::Overwrite(db_key.clone()), &[db_key]),
            106..108 => {
                let at = (percent < 80).then(|| self.now().unix.after(u64::from(percent)));
                self.happen(Effect::Expire(db_key, at));
            }
            108 if self.keyspace.0.contains_key(&db_key) && db_key != other => {
                self.count(Event::RenamedAway, self.lines.get(&db_key).is_some_and(|line| !line.is_empty()));
                self.removed_by(Effect::Rename(db_key.clone(), other.clone()), &[db_key, other]);
            }
            109 if self.keyspace.0.contains_key(&db_key) && db_key != other => {
                self.removed_by(Effect::Copy(db_key, other.clone()), &[other]);
            }
            110 => self.flush((percent < 80).then_some(db_key.db)),
            111 => self.swap(db_key.db, other.db),
            112..118 => self.close(),
            118..122 => self.unblock(),
            122..150 => self.deliver(percent),
            150..165 => self.run_event_loop(),
            165..185 => self.pass(percent),
            185 => {
                self.behind_ms = self.rng.random_range(self.behind_ms..60_000);
                self.count(Event::ClockSetBack, true);
            }
            186 if percent < 20 => self.restart(),
            187 if percent < 40 => self.fail_over(),
            188 if percent < 20 => self.demote(),
            189 => self.waiters_max = if percent < 30 { percent as usize / 3 } else { 1_000 },
            190..197 => {
                let most = self.rng.random_range(0..=self.unsent.len());
                self.send(most);
            }
            _ => {}
        }
        self.check();
    }

    fn some_slot(&mut self) -> DbKey {
        let (db, key) = (self.rng.random_range(0..self.dbs), self.rng.random_range(0..self.keys));
        DbKey { db, key: Rc::from([b'k', key]) }
    }

    fn some_mode(&mut self, db_key: &DbKey) -> Mode {
        let is_semaphore = self.semaphores && db_key.key.last().is_some_and(|key| key % 2 == 0);
        match self.rng.random_range(0..100) {
            0..3 => Mode::Permits(self.rng.random_range(1..4)),
            _ if is_semaphore => Mode::Permits(3),
            3..55 => Mode::Exclusive,
            _ => Mode::Shared,
        }
    }

    /// A duration: mostly short, so that deadlines coincide; sometimes long.
    fn some_ms(&mut self) -> u64 {
        match self.rng.random_range(0..10) {
            0..6 => self.rng.random_range(1..30),
            6..9 => self.rng.random_range(1..500),
            _ => self.rng.random_range(1..100_000),
        }
    }

    fn is_waiting(&self, client: ClientId) -> bool {
        self.lines.values().flatten().any(|waits| waits.client == client)
            || self.owed.values().any(|owed| *owed == client)
    }

    fn lock(&mut self, db_key: DbKey) {
        let client = self.clients[self.rng.random_range(0..self.clients.len())];
        if self.is_waiting(client) {
            return;
        }
        let (owner, mode) = (self.rng.random_range(0..self.owners), self.some_mode(&db_key));
        let (ttl_ms, wait_ms) = (self.some_ms(), if self.rng.random_bool(0.2) { 0 } else { self.some_ms() });
        let bond = if self.rng.random_bool(0.2) { Bond::Bound } else { Bond::Free };
        self.settle(&db_key);
        if self.keyspace.0.get(&db_key) == Some(&Value::Other) {
            return;
        }
        let now = self.now();
        let at_least = self.some_number(now);
        let request = Request { owner: Owner::from([owner]), client, mode, term: Term::Lasts(ttl_ms), bond, at_least };
        let line = self.lines.get(&db_key).is_some_and(|line| !line.is_empty());
        let limits = (wait_ms, self.waiters_max);
        match self.locks.ask((db_key.db, &db_key.key), self.keyspace.lock(&db_key), request, limits, now) {
            Asked::Granted { fence, change } => {
                assert!(!line, "a newcomer overtook the line of {db_key:?}");
                self.count(Event::GrantedAtOnce, true);
                self.count(
                    Event::PermitsInUse,
                    matches!(mode, Mode::Permits(2..)) && self.keyspace.lock(&db_key).is_some(),
                );
                assert!(fence >= at_least);
                self.number(fence);
                self.commit(&db_key, change);
                self.believe(&db_key, owner, fence);
            }
            Asked::Again { fence, change } => {
                assert!(fence >= at_least);
                self.count(Event::ToldAgain, true);
                self.number_again(&db_key, fence);
                self.commit(&db_key, change);
                self.believe(&db_key, owner, fence);
            }
            Asked::Blocked(id) => {
                assert!(wait_ms > 0 && self.locks.waiters() <= self.waiters_max);
                let deadline = now.mono.after(wait_ms);
                self.lines.entry(db_key).or_default().push(Waits { id, client, owner, mode, deadline, at_least });
            }
            Asked::Busy => self.count(Event::Crowded, wait_ms > 0),
            Asked::Clash(held) => {
                assert!(mode.clashes(held));
                self.count(Event::Clashed, true);
            }
            Asked::Otherwise(held) => {
                assert!(mode != held && !mode.clashes(held));
                self.count(Event::HeldOtherwise, true);
            }
            Asked::Exhausted => panic!("numbers are used up"),
        }
    }

    fn unlock(&mut self, db_key: &DbKey) {
        let owner = match self.keyspace.lock(db_key) {
            Some(lock) if self.rng.random_bool(0.8) => {
                lock.holders()[self.rng.random_range(0..lock.holders().len())].owner[0]
            }
            _ => self.rng.random_range(0..self.owners),
        };
        self.settle(db_key);
        let before = self.keyspace.clone();
        let now = self.now().unix;
        match self.keyspace.lock(db_key).and_then(|lock| lock.release(&[owner], now)) {
            Some(change) => {
                self.disbelieve(db_key, Some(owner));
                self.commit(db_key, change);
                self.settle(db_key);
            }
            None => assert_eq!(before, self.keyspace),
        }
    }

    fn extend(&mut self, db_key: &DbKey) {
        let (owner, ms) = (self.rng.random_range(0..self.owners), self.some_ms());
        self.settle(db_key);
        let now = self.now().unix;
        let extended = self
            .keyspace
            .lock(db_key)
            .and_then(|lock| self.locks.extend((db_key.db, &db_key.key), lock, &[owner], now.after(ms), now));
        if let Some(change) = extended {
            let Change::Hold { holder, .. } = change.clone() else { panic!("{change:?}") };
            let knew = self.beliefs.iter().any(|belief| belief.db_key == *db_key && belief.owner == owner);
            self.count(Event::ExtendedUnheard, !knew);
            self.commit(db_key, change);
            self.believe(db_key, owner, holder.fence);
            self.settle(db_key);
        }
    }

    pub fn happen(&mut self, effect: Effect) {
        self.keyspace.apply(effect.clone());
        self.unsent.push_back(effect);
    }

    pub fn untie(&mut self) {
        for (db_key, lock) in self.keyspace.locks() {
            self.untied.extend(lock.holders().iter().map(|holder| (db_key.clone(), holder.fence)));
        }
    }

    /// As the server commits a change.
    fn commit(&mut self, db_key: &DbKey, change: Change) {
        let now = self.now().unix;
        let before = self.keyspace.lock(db_key).cloned();
        let untied = before.clone().map_or_else(Vec::new, |mut lock| lock.apply(change.clone()));
        if let (Change::Drop { owner }, Some(lock)) = (&change, &before) {
            let gone = lock.holders().iter().find(|holder| holder.owner == *owner).expect("a drop of nobody");
            self.disbelieve_dropped(db_key, owner[0], gone.deadline <= now);
        }
        if let (Change::Clear, Some(lock)) = (&change, self.keyspace.lock(db_key)) {
            assert!(lock.live(now).next().is_none(), "{lock:?} is cleared");
            self.disbelieve(db_key, None);
        }
        if let Change::Hold { holder, .. } = &change {
            // One owner is one holder, however often it asks: bound as it was when it asked last.
            let mine = |belief: &&mut Belief| belief.db_key == *db_key && belief.owner == holder.owner[0];
            let bound_to = holder.client.filter(|_| holder.bond == Bond::Bound);
            self.beliefs.iter_mut().filter(mine).for_each(|belief| {
                (belief.bound_to, belief.fence) = (bound_to, holder.fence);
            });
        }
        self.happen(Effect::Change(db_key.clone(), change.clone()));
        self.locks.committed(db_key.db, &db_key.key, &change, untied);
        if self.keyspace.lock(db_key).is_none() {
            // As the server deletes it: whoever held it has been taken out of it before.
            before.into_iter().for_each(|mut lock| {
                lock.apply(Change::Clear);
                self.locks.removed(db_key.db, &db_key.key, &mut lock);
            });
        }
    }

    /// As the server asks the book until nothing is left to do about a key.
    fn settle(&mut self, db_key: &DbKey) {
        self.expire_natively(db_key);
        let mut together = 0;
        for turn in 0.. {
            assert!(turn < 1_000, "no end of changes to {db_key:?}");
            let now = self.now();
            let found = match self.keyspace.0.get(db_key) {
                None => Found::Nothing,
                Some(Value::Lock(lock, expires)) => Found::Lock(lock, *expires),
                Some(Value::Other) => Found::WrongType,
            };
            let wrong_type = matches!(found, Found::WrongType);
            let change = self.locks.step(db_key, found, now);
            let held_before = self.keyspace.lock(db_key).is_some();
            self.note_answers(db_key, change.as_ref(), wrong_type);
            let Some(change) = change else { break };
            if let Change::Hold { .. } = change {
                together += 1;
                self.count(Event::GrantedTogether, together > 1);
                self.count(Event::GrantedAfterDeadline, !held_before);
            }
            self.commit(db_key, change);
        }
    }

    /// Compares the line of the book with that of the world, and the difference with `change`.
    fn note_answers(&mut self, db_key: &DbKey, change: Option<&Change>, wrong_type: bool) {
        let left = self.locks.inside(db_key);
        let line = self.lines.entry(db_key.clone()).or_default();
        let gone: Vec<_> = line.iter().filter(|waits| !left.contains(&waits.id)).cloned().collect();
        let head = line.first().cloned();
        line.retain(|waits| left.contains(&waits.id));
        assert_eq!(line.iter().map(|waits| waits.id).collect::<Vec<_>>(), left, "the line of {db_key:?}");
        self.owed.extend(gone.iter().map(|waits| (waits.id, waits.client)));
        if wrong_type {
            self.count(Event::WrongType, !gone.is_empty());
            return;
        }
        let Some(Change::Hold { mode, holder }) = change else { return };
        let mine: Vec<_> = gone.iter().filter(|waits| [waits.owner] == *holder.owner && waits.mode == *mode).collect();
        let refused = gone.len() - mine.len();
        let first = mine.first().expect("a grant to one who does not wait");
        assert!(refused > 0 || head.is_some_and(|head| head.id == first.id), "{first:?} overtook");
        let new = self.fences.last().is_none_or(|last| *last < holder.fence);
        self.count(Event::GrantedAfterWaiting, new);
        self.count(Event::GrantedToTwoOfOneName, mine.len() > 1);
        assert!(mine.iter().all(|waits| waits.at_least <= holder.fence), "{mine:?} are told {}", holder.fence);
        if new {
            self.number(holder.fence);
        }
        self.untied.remove(&(db_key.clone(), holder.fence));
    }

    pub fn expire_natively(&mut self, db_key: &DbKey) {
        let now = self.now().unix;
        if let Some(Value::Lock(_, Some(at))) = self.keyspace.0.get(db_key) {
            if *at < now {
                self.removed_by(Effect::Delete(db_key.clone()), std::slice::from_ref(db_key));
            }
        }
    }

    /// Something happens that removes what is under `db_keys`.
    fn removed_by(&mut self, effect: Effect, db_keys: &[DbKey]) {
        let gone: Vec<(DbKey, Lock)> =
            db_keys.iter().filter_map(|db_key| Some((db_key.clone(), self.keyspace.lock(db_key)?.clone()))).collect();
        db_keys.iter().for_each(|db_key| self.disbelieve(db_key, None));
        self.happen(effect);
        for (db_key, mut lock) in gone {
            self.locks.removed(db_key.db, &db_key.key, &mut lock);
        }
    }

    pub fn undelivered(&mut self, granted: &Granted) {
        self.locks.undelivered(granted);
        self.count(Event::TakenBackUnheard, true);
    }

    /// Some answers go out; some of their receivers are gone.
    fn deliver(&mut self, lost_percent: u32) {
        let most = self.rng.random_range(0..10);
        for _ in 0..most {
            let Some((id, reply)) = self.locks.next_reply() else { break };
            let client = self.owed.remove(&id).expect("a reply that nobody is owed");
            let lost = self.rng.random_range(0..100) < lost_percent / 2;
            match reply {
                Reply::Granted(granted) if lost => self.undelivered(&granted),
                Reply::Granted(granted) => self.hear(client, &granted),
                Reply::TimedOut => self.count(Event::TimedOut, true),
                _ => {}
            }
        }
    }

    pub fn run_event_loop(&mut self) {
        loop {
            while let Some(db_key) = self.locks.next_touched() {
                self.settle(&db_key);
            }
            let now = self.now();
            let before: Vec<_> = self.lines.values().flatten().cloned().collect();
            if !self.locks.expire_next(now) {
                break;
            }
            for waits in before {
                let db_key = self.lines.iter().find(|(_, line)| line.iter().any(|other| other.id == waits.id));
                let db_key = db_key.map(|(db_key, _)| db_key.clone()).expect("it was there");
                if !self.locks.inside(&db_key).contains(&waits.id) {
                    assert!(waits.deadline <= now.mono, "{waits:?} ended early");
                    self.lines.entry(db_key).or_default().retain(|other| other.id != waits.id);
                    self.owed.insert(waits.id, waits.client);
                }
            }
        }
    }

    fn pass(&mut self, percent: u32) {
        self.true_ms += if percent < 3 { 1_000_000 } else { self.some_ms() / 3 };
        if percent < 60 {
            let db_keys: Vec<_> = self.keyspace.0.keys().cloned().collect();
            db_keys.iter().for_each(|db_key| self.expire_natively(db_key));
            self.run_event_loop();
        }
    }

    fn send(&mut self, most: usize) {
        for effect in self.unsent.drain(..most) {
            if let Effect::Change(_, Change::Hold { holder, .. }) = &effect {
                self.replica_fences.see(holder.fence);
            }
            self.replica.apply(effect);
        }
    }

    /// How `db_key` would look to `waits`.
    pub fn judge(&self, db_key: &DbKey, waits: &Waits) -> Judged {
        let now = self.now().unix;
        self.keyspace.lock(db_key).map_or(Judged::Free, |lock| lock.judge(&[waits.owner], waits.mode, now))
    }
}
