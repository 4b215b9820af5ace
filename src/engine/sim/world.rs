//! A small world around a lease book: connections that ask, write, wait and die, a keyspace that
//! plain commands change, a clock that leaps, and a server that keeps its promises to the engine
//! (a touched key is rechecked before it is decided upon) and no others.
//!
//! Each [`Action`] is done to the book and to the [`Model`], and followed by a
//! comparison of the two. To add a feature: an action and its weight, its method here, and what
//! it means in the model.

use super::action::{weights, Action, Terms, KINDS};
use super::model::{name, Model, Place};
use crate::engine::cache::leases::{Found, Grant, Leases, Served, Touch};
use crate::engine::cache::pending::Reply;
use crate::engine::cache::waiters::Kind;
use crate::engine::id::{ClientId, DbId, DbKey, WaiterId};
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
pub(super) enum Lookup {
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
    leases: Leases,
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
    blocked: BTreeMap<WaiterId, u64>,
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
            leases: Leases::default(),
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
            blocked: BTreeMap::new(),
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

    pub fn sight(&self, place: Place) -> Lookup {
        match self.keyspace.get(&place) {
            None => Lookup::Nothing,
            Some(Held::WrongType) => Lookup::WrongType,
            Some(Held::Value { is_fresh: true, .. }) => Lookup::Fresh,
            Some(Held::Value { is_fresh: false, .. }) => Lookup::Stale,
        }
    }

    /// A key that holds a fresh value.
    pub fn some_fresh(&self) -> Option<Place> {
        self.keyspace.keys().copied().find(|place| self.sight(*place) == Lookup::Fresh)
    }

    /// A key that one refreshes ahead of expiry.
    pub fn some_early(&self) -> Option<Place> {
        self.keyspace.keys().copied().find(|place| self.model.is_early(*place))
    }

    /// A key that one refreshed ahead of expiry, and that others wait for since it has gone.
    pub fn some_early_and_gone(&self) -> Option<Place> {
        let waited = |place: &Place| self.model.is_early(*place) && self.model.is_waited_for(*place);
        self.places().find(|place| waited(place) && self.sight(*place) == Lookup::Nothing)
    }

    fn places(&self) -> impl Iterator<Item = Place> {
        let (dbs, keys) = (self.dbs, self.keys);
        (0..dbs).flat_map(move |db| (0..keys).map(move |key| Place { db, key }))
    }

    /// Whether that token of `who` proves a lease.
    pub fn is_live(&self, who: usize, nth: usize) -> bool {
        let grant = &self.clients[who].grants[nth];
        self.leases.inside(grant.db_key.db, &grant.db_key.key).is_some_and(|lease| lease.serial == grant.serial)
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
                self.leases.void(place.db, &place.name(), self.now);
                self.model.void(place, self.now);
            }
            Action::Delete { place } => {
                self.mark_touched(place.key, Touch::Invalidated);
                self.keyspace.remove(&place);
            }
            Action::Set { place } => {
                self.mark_touched(place.key, Touch::Invalidated);
                self.new_value(place);
            }
            Action::Push { place } => {
                self.mark_touched(place.key, Touch::Appeared);
                self.keyspace.entry(place).or_insert(Held::WrongType);
            }
            Action::Count { place } => {
                self.mark_touched(place.key, Touch::Appeared);
                if self.sight(place) == Lookup::Nothing {
                    self.count(
                        Event::AppearedWhileEarly,
                        self.model.is_waited_for(place) && self.model.is_early(place),
                    );
                    self.new_value(place);
                }
            }
            Action::Look { key } => self.mark_touched(key, Touch::Appeared),
            Action::Age { place } => {
                if let Some(Held::Value { is_fresh, .. }) = self.keyspace.get_mut(&place) {
                    *is_fresh = false;
                }
            }
            Action::Perish { place } => drop(self.keyspace.remove(&place)),
            Action::Flush { only } => {
                self.mark_all_touched(only);
                self.keyspace.retain(|place, _| only.is_some_and(|db| db != place.db));
            }
            Action::Swap { one, other } => self.swap(one, other),
            Action::Close { who } => self.close(who),
            Action::Unblock { who } => self.leave(who),
            Action::Deliver { most, lost_percent } => self.deliver(most, lost_percent),
            Action::Resolve { most } => self.recheck(most),
            Action::Pass { ms } => self.now = self.now.after(ms),
            Action::Expire { after_resolving } => self.expire(after_resolving),
            Action::Demote => {
                self.leases.forget_all(&Reply::Readonly);
                self.model.forget_all(&Reply::Readonly);
            }
            Action::Migrate { place } => {
                self.leases.refuse(&db_key(place), &Reply::Moved);
                self.model.refuse(place, Reply::Moved);
            }
            Action::Limit { waiters_max } => self.waiters_max = waiters_max,
        }
        self.check();
    }

    /// Lets time run to its end: everybody is answered, and nothing stays behind.
    pub fn end(&mut self) {
        self.recheck(usize::MAX);
        let mut ran_out = 2 * (self.model.waiters() + self.model.leases()) + 2 + usize::from(self.keys) * 3;
        loop {
            self.deliver(usize::MAX, 0);
            let Some(at) = self.leases.next_due() else { break };
            assert!(ran_out > 0 || self.model.waiters() == 0, "somebody waits for ever");
            ran_out = ran_out.saturating_sub(1);
            self.now = self.now.max(at);
            self.expire(true);
            self.check();
        }
        assert_eq!((self.model.waiters(), self.model.leases()), (0, 0), "somebody waits for ever");
        assert!(self.leases.is_idle() && self.leases.next_due().is_none() && self.leases.next_touched().is_none());
        assert!(self.clients.iter().all(|client| client.waits.is_none()), "a client was never answered");
    }

    fn check(&mut self) {
        self.leases.validate();
        self.model.agree(&self.leases);
        *self.seen.entry(Event::GroupWaitedAgain).or_default() += std::mem::take(&mut self.model.waits_again);
        if self.step % 8 == 0 {
            self.model.agree_in_detail(&self.leases, self.now, self.places());
        }
        for place in self.keyspace.keys().filter(|place| self.sight(**place) != Lookup::Stale) {
            assert!(
                !self.model.is_leased(*place) || self.model.is_doubted(*place) || self.model.is_early(*place),
                "a lease is out on {place:?}, which holds something"
            );
        }
    }

    fn swap(&mut self, one: DbId, other: DbId) {
        self.mark_all_touched(Some(one));
        self.mark_all_touched(Some(other));
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
        assert_eq!(self.leases.disconnect(gone, self.now), !bound.is_empty(), "whether it was bound to a lease");
        self.model.disconnect(gone, self.now);
        self.model.agree(&self.leases);
    }

    fn leave(&mut self, who: usize) {
        let Some(Wait { id, .. }) = self.clients[who].waits.take() else { return };
        let wide = self.model.waiting(id).is_some_and(|(_, places)| places > 1);
        let reply = self.leases.leave(id, self.now);
        self.model.leave(id, self.now, reply.as_ref());
        self.count(Event::LeftWithAnswer, reply.is_some());
        self.count(Event::GroupLeft, wide);
        if let Some(Reply::Won(grant)) = reply {
            self.give_back(&grant);
        }
        assert_eq!(self.leases.leave(id, self.now), None, "nobody leaves twice");
    }

    fn deliver(&mut self, most: usize, lost_percent: u32) {
        for _ in 0..most {
            let Some((id, reply)) = self.leases.next_reply(self.now) else { return };
            self.model.deliver(id, &reply, self.now);
            let waits = |client: &Client| client.waits.as_ref().is_some_and(|wait| wait.id == id);
            let who = self.clients.iter().position(waits).expect("one of the connections");
            let many = self.clients[who].waits.take().and_then(|wait| wait.many);
            if let Reply::Value(served) = &reply {
                assert!(many.is_none(), "one who waits for several keys is told the value of one");
                assert!(self.appeared[number(&served.value)] > self.blocked[&id], "a value older than the question");
            }
            self.count(Event::SinglesLooked, many.is_none() && reply == Reply::Look);
            self.count(told(&reply), true);
            if self.rng.random_range(0..100) < lost_percent {
                if let Reply::Won(grant) = &reply {
                    self.give_back(grant);
                }
                self.disconnect(self.clients[who].id);
                self.clients[who] = self.connect();
                continue;
            }
            if let Reply::Won(grant) = &reply {
                self.take(who, grant.clone());
            }
            self.count(Event::GroupWon, many.is_some() && matches!(reply, Reply::Won(_)));
            if let (Some(many), Reply::Won(_) | Reply::Look) = (many, reply) {
                self.look_at_many(who, &many);
            }
        }
    }

    fn give_back(&mut self, grant: &Grant) {
        let place = Place::of(&grant.db_key);
        let inside = self.leases.inside(place.db, &place.name()).filter(|lease| lease.serial == grant.serial);
        let (current, has_heir) = (inside.is_some(), inside.is_some_and(|lease| !lease.queue.is_empty()));
        self.count(Event::GivenBack, current);
        self.count(Event::GivenBackOutdated, !current);
        self.count(Event::GivenBackInDoubt, has_heir && self.model.is_doubted(place));
        self.leases.give_back(grant, self.now);
        self.model.give_back(place, grant.serial, self.now);
        self.model.agree(&self.leases);
    }

    fn expire(&mut self, after_resolving: bool) {
        if after_resolving {
            self.recheck(usize::MAX);
        }
        let groups: Vec<_> = self.blocked.keys().filter(|id| self.waits_in_group(**id)).copied().collect();
        while self.leases.expire_next(self.now) {}
        self.model.expire(self.now);
        self.model.agree_nothing_is_due(&self.leases, self.now);
        let looks = |id: &WaiterId| self.leases.decided().any(|(other, reply)| other == *id && *reply == Reply::Look);
        let timed_out = groups.into_iter().filter(looks).count();
        self.count(Event::GroupTimedOut, timed_out > 0);
        self.blocked.retain(|id, _| self.leases.waiters().get(*id).is_some());
    }

    fn waits_in_group(&self, id: WaiterId) -> bool {
        self.model.waiting(id).is_some_and(|(kind, _)| kind == Kind::Group)
    }

    fn mark_touched(&mut self, key: u8, touch: Touch) {
        let any = self.model.mark_touched(touch, |place| place.key == key);
        assert_eq!(self.leases.mark_touched(&name(key), touch), any, "whether a lease is out on k{key}");
    }

    fn mark_all_touched(&mut self, only: Option<DbId>) {
        self.leases.mark_all_touched(only, Touch::Invalidated);
        self.model.mark_touched(Touch::Invalidated, |place| only.is_none_or(|db| db == place.db));
    }

    fn recheck(&mut self, most: usize) {
        for _ in 0..most {
            let Some(db_key) = self.leases.next_touched() else { return };
            self.resolve_slot(&db_key);
        }
    }

    fn resolve_at(&mut self, place: Place) {
        let db_key = self.leases.touched(place.db, &place.name());
        assert_eq!(db_key.is_some(), self.model.is_doubted(place), "touch on {place:?}");
        if let Some(db_key) = db_key {
            assert_eq!(Place::of(&db_key), place);
            self.resolve_slot(&db_key);
        }
    }

    fn resolve_slot(&mut self, db_key: &DbKey) {
        let place = Place::of(db_key);
        let found = match self.keyspace.get(&place) {
            None => Found::Nothing,
            Some(Held::Value { is_fresh: false, .. }) => Found::Stale,
            Some(Held::WrongType) => Found::WrongType,
            Some(Held::Value { value, .. }) => Found::Fresh(self.served(value)),
        };
        let (was_early, leases) =
            (self.model.is_early(place) && self.sight(place) == Lookup::Fresh, self.model.leases());
        let narrows = self.model.has_wide_group() && matches!(found, Found::Fresh(_));
        self.leases.recheck(db_key, found.clone(), self.now);
        self.model.recheck(place, found, self.now);
        assert_eq!(self.leases.touched(db_key.db, &db_key.key), None, "a touch that comes back");
        self.count(Event::EarlyLeftAlone, was_early && self.model.leases() == leases);
        self.count(Event::GroupNarrowed, narrows && self.model.leases() < leases);
        self.model.agree(&self.leases);
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

fn db_key(place: Place) -> DbKey {
    DbKey { db: place.db, key: place.name()[..].into() }
}

/// The number of a value: how many there were before it.
fn number(value: &[u8]) -> usize {
    usize::from_le_bytes(value.try_into().expect("a value of this world"))
}
