//! A small world around a lease book: connections that ask, write, wait and die, a keyspace that
//! plain commands change, a clock that leaps, and a server that keeps its promises to the engine
//! (a doubt is resolved before its key is decided upon) and no others.
//!
//! Each [`Action`] is done to the book and to the [`Model`], and followed by a
//! comparison of the two. To add a feature: an action and its weight, its method here, and what
//! it means in the model.

use super::action::{weights, Action, Terms, KINDS};
use super::model::{name, Model, Place};
use crate::engine::cache::leases::{Doubt, Found, Grant, LeaseBook, Served};
use crate::engine::cache::outbox::Answer;
use crate::engine::cache::waiters::Kind;
use crate::engine::id::{ClientId, DbId, Slot, WaiterId};
use crate::engine::time::{MonoMillis, UnixMillis};
use event::told;
pub(super) use event::Event;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

mod event;
mod reader;
mod writer;

pub(super) enum Held {
    Value { value: Rc<[u8]>, is_fresh: bool },
    WrongType,
}

/// What a command finds under a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sight {
    Nothing,
    Fresh,
    Stale,
    WrongType,
}

/// A question about several keys.
pub(super) struct Many {
    db: DbId,
    keys: Vec<u8>,
    terms: Terms,
}

pub(super) struct Wait {
    id: WaiterId,
    many: Option<Many>,
}

pub(super) struct Client {
    id: ClientId,
    pub(super) waits: Option<Wait>,
    pub(super) grants: VecDeque<Grant>,
}

pub(super) struct World {
    pub(super) rng: StdRng,
    now: MonoMillis,
    book: LeaseBook,
    model: Model,
    keyspace: BTreeMap<Place, Held>,
    /// The step at which each value, by its number, last came to be fresh under a key.
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

impl World {
    pub fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let weights = weights(&mut rng);
        let (dbs, keys) = (rng.random_range(1..=3), rng.random_range(1..=4));
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

    pub fn sight(&self, place: Place) -> Sight {
        match self.keyspace.get(&place) {
            None => Sight::Nothing,
            Some(Held::WrongType) => Sight::WrongType,
            Some(Held::Value { is_fresh: true, .. }) => Sight::Fresh,
            Some(Held::Value { is_fresh: false, .. }) => Sight::Stale,
        }
    }

    /// A key that holds a fresh value.
    pub fn some_fresh(&self) -> Option<Place> {
        self.keyspace.keys().copied().find(|place| self.sight(*place) == Sight::Fresh)
    }

    /// A key that one refreshes ahead of expiry.
    pub fn some_early(&self) -> Option<Place> {
        self.keyspace.keys().copied().find(|place| self.model.is_early(*place))
    }

    /// A key that one refreshed ahead of expiry, and that others wait for since it has gone.
    pub fn some_early_and_gone(&self) -> Option<Place> {
        let waited = |place: &Place| self.model.is_early(*place) && self.model.is_waited_for(*place);
        self.places().find(|place| waited(place) && self.sight(*place) == Sight::Nothing)
    }

    fn places(&self) -> impl Iterator<Item = Place> {
        let (dbs, keys) = (self.dbs, self.keys);
        (0..dbs).flat_map(move |db| (0..keys).map(move |key| Place { db, key }))
    }

    /// Whether that token of `who` proves a lease.
    pub fn is_live(&self, who: usize, nth: usize) -> bool {
        let grant = &self.clients[who].grants[nth];
        self.book.inside(grant.slot.db, &grant.slot.key).is_some_and(|lease| lease.serial == grant.serial)
    }

    /// Lets `action` happen, and checks everything.
    pub fn act(&mut self, action: Action) {
        self.step += 1;
        match action {
            Action::Ask { who, place, terms } => self.ask(who, place, terms),
            Action::AskMany { who, db, keys, terms } => self.ask_many(who, Many { db, keys, terms }),
            Action::AskEarly { who, place, terms } => self.ask_early(who, place, terms),
            Action::Prove { who, nth, elsewhere, deed } => self.prove(who, nth, elsewhere, deed),
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
            Action::Count { place } => {
                self.doubt(place.key, Doubt::Appeared);
                if self.sight(place) == Sight::Nothing {
                    self.count(
                        Event::AppearedWhileEarly,
                        self.model.is_waited_for(place) && self.model.is_early(place),
                    );
                    self.new_value(place);
                }
            }
            Action::Look { key } => self.doubt(key, Doubt::Appeared),
            Action::Age { place } => {
                if let Some(Held::Value { is_fresh, .. }) = self.keyspace.get_mut(&place) {
                    *is_fresh = false;
                }
            }
            Action::Perish { place } => drop(self.keyspace.remove(&place)),
            Action::Flush { only } => {
                self.doubt_all(only);
                self.keyspace.retain(|place, _| only.is_some_and(|db| db != place.db));
            }
            Action::Swap { one, other } => self.swap(one, other),
            Action::Close { who } => self.close(who),
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
        let mut ran_out = 2 * (self.model.waiters() + self.model.leases()) + 2 + usize::from(self.keys) * 3;
        loop {
            self.deliver(usize::MAX, 0);
            let Some(at) = self.book.next_due() else { break };
            assert!(ran_out > 0 || self.model.waiters() == 0, "somebody waits for ever");
            ran_out = ran_out.saturating_sub(1);
            self.now = self.now.max(at);
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
        *self.seen.entry(Event::GroupWaitedAgain).or_default() += std::mem::take(&mut self.model.waits_again);
        if self.step % 8 == 0 {
            self.model.agree_in_detail(&self.book, self.now, self.places());
        }
        for place in self.keyspace.keys().filter(|place| self.sight(**place) != Sight::Stale) {
            assert!(
                !self.model.is_leased(*place) || self.model.is_doubted(*place) || self.model.is_early(*place),
                "a lease is out on {place:?}, which holds something"
            );
        }
    }

    fn swap(&mut self, one: DbId, other: DbId) {
        self.doubt_all(Some(one));
        self.doubt_all(Some(other));
        let swapped = |db| if db == one { other } else { one };
        for (place, held) in std::mem::take(&mut self.keyspace) {
            let moves = place.db == one || place.db == other;
            let place = if moves { Place { db: swapped(place.db), ..place } } else { place };
            if let (true, Held::Value { value, .. }) = (moves, &held) {
                self.appeared[number(value)] = self.step;
            }
            self.keyspace.insert(place, held);
        }
    }

    /// The connection closes; the server may hear of its wait first, or of the connection.
    fn close(&mut self, who: usize) {
        let gone = self.clients[who].id;
        if self.rng.random_bool(0.5) {
            self.disconnect(gone);
            self.leave(who);
        } else {
            self.leave(who);
            self.disconnect(gone);
        }
        assert_eq!(self.model.bound_to(gone), [], "a lease outlives the connection it is bound to");
        self.clients[who] = self.connect();
    }

    fn disconnect(&mut self, gone: ClientId) {
        let bound = self.model.bound_to(gone);
        self.count(Event::BoundEnded, !bound.is_empty());
        self.count(Event::BoundEndedInDoubt, bound.iter().any(|place| self.model.is_doubted(*place)));
        assert_eq!(self.book.disconnect(gone, self.now), !bound.is_empty(), "whether it was bound to a lease");
        self.model.disconnect(gone, self.now);
        self.model.agree(&self.book);
    }

    fn leave(&mut self, who: usize) {
        let Some(Wait { id, .. }) = self.clients[who].waits.take() else { return };
        let wide = self.model.waiting(id).is_some_and(|(_, places)| places > 1);
        let answer = self.book.leave(id, self.now);
        self.model.leave(id, self.now, answer.as_ref());
        self.count(Event::LeftWithAnswer, answer.is_some());
        self.count(Event::GroupLeft, wide);
        if let Some(Answer::Won(grant)) = answer {
            self.give_back(&grant);
        }
        assert_eq!(self.book.leave(id, self.now), None, "nobody leaves twice");
    }

    fn deliver(&mut self, most: usize, lost_percent: u32) {
        for _ in 0..most {
            let Some((id, answer)) = self.book.deliver_next(self.now) else { return };
            self.model.deliver(id, &answer, self.now);
            let waits = |client: &Client| client.waits.as_ref().is_some_and(|wait| wait.id == id);
            let who = self.clients.iter().position(waits).expect("one of the connections");
            let many = self.clients[who].waits.take().and_then(|wait| wait.many);
            if let Answer::Value(served) = &answer {
                assert!(many.is_none(), "one who waits for several keys is told the value of one");
                assert!(self.appeared[number(&served.value)] > self.parked[&id], "a value older than the question");
            }
            self.count(Event::SinglesLooked, many.is_none() && answer == Answer::Look);
            self.count(told(&answer), true);
            if self.rng.random_range(0..100) < lost_percent {
                if let Answer::Won(grant) = &answer {
                    self.give_back(grant);
                }
                self.disconnect(self.clients[who].id);
                self.clients[who] = self.connect();
                continue;
            }
            if let Answer::Won(grant) = &answer {
                self.take(who, grant.clone());
            }
            self.count(Event::GroupWon, many.is_some() && matches!(answer, Answer::Won(_)));
            if let (Some(many), Answer::Won(_) | Answer::Look) = (many, answer) {
                self.look_at_many(who, &many);
            }
        }
    }

    fn give_back(&mut self, grant: &Grant) {
        let place = Place::of(&grant.slot);
        let inside = self.book.inside(place.db, &place.name()).filter(|lease| lease.serial == grant.serial);
        let (current, has_heir) = (inside.is_some(), inside.is_some_and(|lease| !lease.queue.is_empty()));
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
        let groups: Vec<_> = self.parked.keys().filter(|id| self.waits_in_group(**id)).copied().collect();
        while self.book.expire_next(self.now) {}
        self.model.expire(self.now);
        self.model.agree_nothing_is_due(&self.book, self.now);
        let looks = |id: &WaiterId| self.book.decided().any(|(other, answer)| other == *id && *answer == Answer::Look);
        let timed_out = groups.into_iter().filter(looks).count();
        self.count(Event::GroupTimedOut, timed_out > 0);
        self.parked.retain(|id, _| self.book.waiters().get(*id).is_some());
    }

    fn waits_in_group(&self, id: WaiterId) -> bool {
        self.model.waiting(id).is_some_and(|(kind, _)| kind == Kind::Group)
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
        let place = Place::of(slot);
        let found = match self.keyspace.get(&place) {
            None => Found::Nothing,
            Some(Held::Value { is_fresh: false, .. }) => Found::Stale,
            Some(Held::WrongType) => Found::WrongType,
            Some(Held::Value { value, .. }) => Found::Fresh(self.served(value)),
        };
        let (was_early, leases) =
            (self.model.is_early(place) && self.sight(place) == Sight::Fresh, self.model.leases());
        let narrows = self.model.has_wide_group() && matches!(found, Found::Fresh(_));
        self.book.resolve(slot, found.clone(), self.now);
        self.model.resolve(place, found, self.now);
        assert_eq!(self.book.doubted(slot.db, &slot.key), None, "a doubt that comes back");
        self.count(Event::EarlyLeftAlone, was_early && self.model.leases() == leases);
        self.count(Event::GroupNarrowed, narrows && self.model.leases() < leases);
        self.model.agree(&self.book);
    }

    fn count(&mut self, event: Event, happened: bool) {
        *self.seen.entry(event).or_default() += u64::from(happened);
    }

    /// Puts a value that never was before under `place`.
    fn new_value(&mut self, place: Place) -> Served {
        let value: Rc<[u8]> = (self.appeared.len() as u64).to_le_bytes()[..].into();
        self.appeared.push(self.step);
        self.keyspace.insert(place, Held::Value { value: Rc::clone(&value), is_fresh: true });
        self.served(&value)
    }

    /// Makes the value under `place` fresh again.
    fn rearm(&mut self, place: Place) -> Served {
        let Some(Held::Value { value, is_fresh }) = self.keyspace.get_mut(&place) else { panic!("nothing to touch") };
        *is_fresh = true;
        let value = Rc::clone(value);
        self.appeared[number(&value)] = self.step;
        self.served(&value)
    }

    fn served(&self, value: &Rc<[u8]>) -> Served {
        let fresh_until = Some(UnixMillis(self.appeared[number(value)]));
        Served { value: Rc::clone(value), fresh_until }
    }

    fn connect(&mut self) -> Client {
        self.clients_ever += 1;
        Client { id: ClientId(self.clients_ever), waits: None, grants: VecDeque::new() }
    }
}

fn slot(place: Place) -> Slot {
    Slot { db: place.db, key: place.name()[..].into() }
}

/// The number of a value: how many there were before it.
fn number(value: &[u8]) -> usize {
    usize::from_le_bytes(value.try_into().expect("a value of this world"))
}
