//! A small world around a lease book: connections that ask, write, wait and die, a keyspace that
//! plain commands change, a clock that leaps, and a server that keeps its promises to the engine
//! (a doubt is resolved before its key is decided upon) and no others.
//!
//! Each [`Action`] is done to the book and to the [`Model`], and followed by a
//! comparison of the two. To add a feature: an action and its weight, its method here, and what
//! it means in the model.

use super::action::{weights, Action, KINDS};
use super::model::{name, Model, Place};
use crate::engine::lease::{Asked, Caller, Doubt, Found, Grant, LeaseBook};
use crate::engine::outbox::Answer;
use crate::engine::time::MonoMillis;
use crate::engine::waiters::{ClientId, DbId, Slot, WaiterId};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::rc::Rc;

pub(super) enum Held {
    /// A fresh value, and when it last came to be under this key.
    Value(Rc<[u8]>),
    WrongType,
}

pub(super) struct Client {
    id: ClientId,
    pub(super) waits: Option<WaiterId>,
    pub(super) grants: Vec<Grant>,
}

pub(super) struct World {
    pub(super) rng: StdRng,
    now: MonoMillis,
    book: LeaseBook,
    model: Model,
    pub(super) keyspace: BTreeMap<Place, Held>,
    /// The step at which each value, by its number, last appeared under a key.
    appeared: Vec<u64>,
    pub(super) clients: Vec<Client>,
    clients_ever: u64,
    pub(super) dbs: DbId,
    pub(super) keys: u8,
    waiters_max: usize,
    pub(super) weights: [u32; KINDS],
    step: u64,
    /// The step at which each waiter began to wait.
    parked: BTreeMap<WaiterId, u64>,
    /// How often each event came about.
    pub seen: BTreeMap<Event, u64>,
}

/// The rarer things that may come about; counted, to know that the search reaches them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Event {
    Parked,
    Crowded,
    AskedForOwnLease,
    AskedWhenOverdue,
    GivenBack,
    GivenBackOutdated,
    GivenBackInDoubt,
    LeftWithAnswer,
    ToldValue,
    ToldLeased,
    ToldWon,
    ToldRefusal,
}

impl Event {
    pub const ALL: [Self; 12] = [
        Self::Parked,
        Self::Crowded,
        Self::AskedForOwnLease,
        Self::AskedWhenOverdue,
        Self::GivenBack,
        Self::GivenBackOutdated,
        Self::GivenBackInDoubt,
        Self::LeftWithAnswer,
        Self::ToldValue,
        Self::ToldLeased,
        Self::ToldWon,
        Self::ToldRefusal,
    ];
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let weights = weights(&mut rng);
        let (dbs, keys) = (rng.random_range(1..=3), rng.random_range(1..=3));
        let waiters_max = rng.random_range(0..40);
        let number = rng.random_range(1..=30);
        let mut world = Self {
            rng,
            now: MonoMillis(0),
            book: LeaseBook::default(),
            model: Model::default(),
            keyspace: BTreeMap::new(),
            appeared: Vec::new(),
            clients: Vec::new(),
            clients_ever: 0,
            dbs,
            keys,
            waiters_max,
            weights,
            step: 0,
            parked: BTreeMap::new(),
            seen: BTreeMap::new(),
        };
        for _ in 0..number {
            let client = world.connect();
            world.clients.push(client);
        }
        world
    }

    pub fn now(&self) -> MonoMillis {
        self.now
    }

    /// Lets `action` happen, and checks everything.
    pub fn act(&mut self, action: Action) {
        self.step += 1;
        match action {
            Action::Ask { who, place, wait_ms, lease_ms } => self.ask(who, place, wait_ms, lease_ms),
            Action::Store { place } => self.store(place),
            Action::Void { place } => {
                self.resolve_at(place);
                self.keyspace.remove(&place);
                self.book.void(place.db, &place.name(), self.now);
                self.model.void(place, self.now);
            }
            Action::Delete { place } => {
                self.doubt(place.key, Doubt::Invalidated);
                self.keyspace.remove(&place);
            }
            Action::Set { place } => {
                self.doubt(place.key, Doubt::Invalidated);
                self.new_value(place);
            }
            Action::Push { place } => {
                self.doubt(place.key, Doubt::Appeared);
                self.keyspace.entry(place).or_insert(Held::WrongType);
            }
            Action::Look { key } => self.doubt(key, Doubt::Appeared),
            Action::Perish { place } => drop(self.keyspace.remove(&place)),
            Action::Flush { only } => {
                self.doubt_all(only);
                self.keyspace.retain(|place, _| only.is_some_and(|db| db != place.db));
            }
            Action::Swap { one, other } => self.swap(one, other),
            Action::Close { who } => {
                self.leave(who);
                self.clients[who] = self.connect();
            }
            Action::Unblock { who } => self.leave(who),
            Action::Deliver { most, lost_percent } => self.deliver(most, lost_percent),
            Action::Resolve { most } => self.resolve(most),
            Action::Pass { ms } => self.now = self.now.after(ms),
            Action::Expire { after_resolving } => self.expire(after_resolving),
            Action::Demote => {
                self.book.forget_all(&Answer::Readonly);
                self.model.forget_all(&Answer::Readonly);
            }
            Action::Migrate { place } => {
                self.book.refuse(&slot(place), &Answer::Moved);
                self.model.refuse(place, Answer::Moved);
            }
            Action::Limit { waiters_max } => self.waiters_max = waiters_max,
        }
        self.check();
    }

    /// Lets time run to its end: everybody is answered, and nothing stays behind.
    pub fn end(&mut self) {
        self.resolve(usize::MAX);
        let enough = 2 * (self.model.waiters() + self.model.leases()) + 2;
        for _ in 0..enough {
            self.deliver(usize::MAX, 0);
            match self.book.next_due() {
                Some(at) => self.now = self.now.max(at),
                None => break,
            }
            self.expire(true);
            self.check();
        }
        assert_eq!((self.model.waiters(), self.model.leases()), (0, 0), "somebody waits for ever");
        assert!(self.book.is_idle() && self.book.next_due().is_none() && self.book.next_doubted().is_none());
        assert!(self.clients.iter().all(|client| client.waits.is_none()), "a client was never answered");
    }

    fn check(&mut self) {
        self.book.validate();
        self.model.agree(&self.book);
        for place in self.keyspace.keys() {
            assert!(
                !self.model.is_leased(*place) || self.model.is_doubted(*place),
                "a lease is out on {place:?}, which holds something"
            );
        }
    }

    fn ask(&mut self, who: usize, place: Place, wait_ms: u64, lease_ms: u64) {
        self.resolve_at(place);
        let Client { id: client, waits: None, .. } = self.clients[who] else { return };
        if self.keyspace.contains_key(&place) {
            return;
        }
        let caller = Caller { client, wait_ms, lease_ms };
        let waiting = self.book.waiters().len();
        let before = self.book.view(place.db, &place.name()).map(|view| (view.holder, view.deadline));
        let asked = self.book.ask(place.db, &place.name(), caller, self.waiters_max, self.now);
        self.model.ask(place, caller, self.waiters_max, self.now, &asked);
        self.count(Event::AskedWhenOverdue, before.is_some_and(|(_, deadline)| deadline <= self.now));
        match asked {
            Asked::Won(grant) => self.clients[who].grants.push(grant),
            Asked::Parked(id) => {
                assert!(waiting < self.waiters_max, "more wait than may");
                self.clients[who].waits = Some(id);
                self.parked.insert(id, self.step);
                self.count(Event::Parked, true);
            }
            Asked::Leased { .. } => {
                self.count(Event::AskedForOwnLease, before.is_some_and(|(holder, _)| holder == client));
                self.count(Event::Crowded, wait_ms > 0 && waiting >= self.waiters_max);
            }
        }
    }

    fn store(&mut self, place: Place) {
        self.resolve_at(place);
        if matches!(self.keyspace.get(&place), Some(Held::WrongType)) {
            return;
        }
        let (key, now) = (place.name(), self.now);
        assert_eq!(self.book.cost_ms(place.db, &key, now), self.model.cost_ms(place, now));
        assert_eq!(self.book.lease_left_ms(&slot(place), now), self.model.lease_left_ms(place, now));
        let value = self.new_value(place);
        self.book.settle(place.db, &key, || Rc::clone(&value), now);
        self.model.settle(place, &value, now);
    }

    fn swap(&mut self, one: DbId, other: DbId) {
        self.doubt_all(Some(one));
        self.doubt_all(Some(other));
        let swapped = |db| if db == one { other } else { one };
        for (place, held) in std::mem::take(&mut self.keyspace) {
            let moves = place.db == one || place.db == other;
            let place = if moves { Place { db: swapped(place.db), ..place } } else { place };
            if let (true, Held::Value(value)) = (moves, &held) {
                self.appeared[number(value)] = self.step;
            }
            self.keyspace.insert(place, held);
        }
    }

    fn leave(&mut self, who: usize) {
        let Some(id) = self.clients[who].waits.take() else { return };
        let answer = self.book.leave(id, self.now);
        self.model.leave(id, self.now, answer.as_ref());
        self.count(Event::LeftWithAnswer, answer.is_some());
        if let Some(Answer::Won(grant)) = answer {
            self.give_back(&grant);
        }
        assert_eq!(self.book.leave(id, self.now), None, "nobody leaves twice");
    }

    fn deliver(&mut self, most: usize, lost_percent: u32) {
        for _ in 0..most {
            let Some((id, answer)) = self.book.deliver_next(self.now) else { return };
            self.model.deliver(id, &answer, self.now);
            let who = self.clients.iter().position(|client| client.waits == Some(id)).expect("one of the connections");
            self.clients[who].waits = None;
            if let Answer::Value(value) = &answer {
                assert!(self.appeared[number(value)] > self.parked[&id], "a value older than the question");
            }
            self.count(told(&answer), true);
            let lost = self.rng.random_range(0..100) < lost_percent;
            if lost {
                self.clients[who] = self.connect();
            }
            match answer {
                Answer::Won(grant) if lost => self.give_back(&grant),
                Answer::Won(grant) => self.clients[who].grants.push(grant),
                _ => {}
            }
        }
    }

    fn give_back(&mut self, grant: &Grant) {
        let place = Place::of(&grant.slot);
        let view = self.book.view(place.db, &place.name()).filter(|view| view.serial == grant.serial);
        let (current, has_heir) = (view.is_some(), view.is_some_and(|view| !view.queue.is_empty()));
        self.count(Event::GivenBack, current);
        self.count(Event::GivenBackOutdated, !current);
        self.count(Event::GivenBackInDoubt, has_heir && self.model.is_doubted(place));
        self.book.give_back(grant, self.now);
        self.model.give_back(place, grant.serial, self.now);
        self.model.agree(&self.book);
    }

    fn expire(&mut self, after_resolving: bool) {
        if after_resolving {
            self.resolve(usize::MAX);
        }
        while self.book.expire_next(self.now) {}
        self.model.expire(self.now);
        self.model.agree_nothing_is_due(&self.book, self.now);
    }

    fn doubt(&mut self, key: u8, doubt: Doubt) {
        let any = self.model.doubt(doubt, |place| place.key == key);
        assert_eq!(self.book.doubt(&name(key), doubt), any, "whether a lease is out on k{key}");
    }

    fn doubt_all(&mut self, only: Option<DbId>) {
        self.book.doubt_all(only, Doubt::Invalidated);
        self.model.doubt(Doubt::Invalidated, |place| only.is_none_or(|db| db == place.db));
    }

    fn resolve(&mut self, most: usize) {
        for _ in 0..most {
            let Some(slot) = self.book.next_doubted() else { return };
            self.resolve_slot(&slot);
        }
    }

    fn resolve_at(&mut self, place: Place) {
        let slot = self.book.doubted(place.db, &place.name());
        assert_eq!(slot.is_some(), self.model.is_doubted(place), "doubt on {place:?}");
        if let Some(slot) = slot {
            assert_eq!(Place::of(&slot), place);
            self.resolve_slot(&slot);
        }
    }

    fn resolve_slot(&mut self, slot: &Slot) {
        let found = match self.keyspace.get(&Place::of(slot)) {
            None => Found::Nothing,
            Some(Held::WrongType) => Found::WrongType,
            Some(Held::Value(value)) => Found::Fresh(Rc::clone(value)),
        };
        self.book.resolve(slot, found.clone(), self.now);
        self.model.resolve(Place::of(slot), found, self.now);
        assert_eq!(self.book.doubted(slot.db, &slot.key), None, "a doubt that comes back");
        self.model.agree(&self.book);
    }

    fn count(&mut self, event: Event, happened: bool) {
        *self.seen.entry(event).or_default() += u64::from(happened);
    }

    /// Puts a value that never was before under `place`.
    fn new_value(&mut self, place: Place) -> Rc<[u8]> {
        let value: Rc<[u8]> = (self.appeared.len() as u64).to_le_bytes()[..].into();
        self.appeared.push(self.step);
        self.keyspace.insert(place, Held::Value(Rc::clone(&value)));
        value
    }

    fn connect(&mut self) -> Client {
        self.clients_ever += 1;
        Client { id: ClientId(self.clients_ever), waits: None, grants: Vec::new() }
    }
}

fn slot(place: Place) -> Slot {
    Slot { db: place.db, key: place.name()[..].into() }
}

/// The number of a value: how many there were before it.
fn number(value: &[u8]) -> usize {
    usize::from_le_bytes(value.try_into().expect("a value of this world"))
}

fn told(answer: &Answer) -> Event {
    match answer {
        Answer::Value(_) => Event::ToldValue,
        Answer::Won(_) => Event::ToldWon,
        Answer::Leased { .. } => Event::ToldLeased,
        Answer::WrongType | Answer::Moved | Answer::Readonly => Event::ToldRefusal,
    }
}
