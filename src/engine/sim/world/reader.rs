//! What readers do: ask for one key, for several, or to refresh ahead of expiry.

use super::{Event, Lookup, Many, Wait, World};
use crate::engine::cache::leases::{Asked, Caller, Grant};
use crate::engine::cache::waiters::Kind;
use crate::engine::id::ClientId;
use crate::engine::sim::action::Terms;
use crate::engine::sim::model::Place;

impl World {
    pub(super) fn ask(&mut self, who: usize, place: Place, terms: Terms) {
        if self.clients[who].waits.is_some() {
            return;
        }
        self.resolve_at(place);
        match self.sight(place) {
            Lookup::Fresh | Lookup::WrongType => {}
            Lookup::Stale if terms.takes_stale => drop(self.ask_stale(who, place, terms)),
            Lookup::Stale | Lookup::Nothing => {
                if let Asked::Blocked(id) = self.ask_book(who, place, terms, terms.wait_ms) {
                    self.clients[who].waits = Some(Wait { id, many: None });
                }
            }
        }
    }

    /// The question of one that is served a stale value if it does not win.
    fn ask_stale(&mut self, who: usize, place: Place, terms: Terms) -> Asked {
        let caller = caller(self.clients[who].id, terms);
        let asked = self.leases.ask_stale(place.db, &place.name(), caller, self.now);
        self.model.ask_stale(place, caller, self.now, &asked);
        self.count(Event::AskedWhileStale, true);
        if let Asked::Won(grant) = &asked {
            self.take(who, grant.clone());
        }
        asked
    }

    /// The question, to the book and the model.
    fn ask_book(&mut self, who: usize, place: Place, terms: Terms, wait_ms: u64) -> Asked {
        let client = self.clients[who].id;
        let caller = Caller { wait_ms, ..caller(client, terms) };
        let waiting = self.leases.waiters().len();
        let before = self.leases.inside(place.db, &place.name()).map(|lease| (lease.holder, lease.deadline));
        self.count(Event::EarlyWaitedFor, wait_ms > 0 && self.model.is_early(place));
        let asked = self.leases.ask(place.db, &place.name(), caller, self.waiters_max, self.now);
        self.model.ask(place, caller, self.waiters_max, self.now, &asked);
        self.count(Event::AskedWhenOverdue, before.is_some_and(|(_, deadline)| deadline <= self.now));
        match &asked {
            Asked::Won(grant) => self.take(who, grant.clone()),
            Asked::Blocked(id) => {
                assert!(waiting < self.waiters_max, "more wait than may");
                self.blocked.insert(*id, self.step);
                self.count(Event::Blocked, true);
            }
            Asked::Leased { .. } => {
                self.count(Event::AskedForOwnLease, before.is_some_and(|(holder, _)| holder == client));
                self.count(Event::Crowded, wait_ms > 0 && waiting >= self.waiters_max);
            }
            Asked::Failed(_) => self.count(Event::AskedAfterFailure, true),
            Asked::Full => panic!("there is room for more leases"),
        }
        asked
    }

    pub(super) fn ask_early(&mut self, who: usize, place: Place, terms: Terms) {
        self.resolve_at(place);
        if self.sight(place) != Lookup::Fresh || self.clients[who].waits.is_some() {
            return;
        }
        let caller = caller(self.clients[who].id, terms);
        let granted = self.leases.ask_early(place.db, &place.name(), caller, self.now);
        self.model.ask_early(place, caller, self.now, granted.as_ref());
        self.count(Event::WonEarly, granted.is_some());
        self.count(Event::RefusedEarly, granted.is_none());
        if let Some(grant) = granted {
            self.take(who, grant);
        }
    }

    /// Like the server: a key after the other without waiting, then for all that are leased.
    pub(super) fn ask_many(&mut self, who: usize, many: Many) {
        if self.clients[who].waits.is_some() {
            return;
        }
        let Some((won, leased)) = self.look_at_many(who, &many) else { return };
        if won || leased.is_empty() {
            return;
        }
        let names: Vec<_> = leased.iter().map(|place| place.name()).collect();
        let names: Vec<&[u8]> = names.iter().map(|name| &name[..]).collect();
        let caller = caller(self.clients[who].id, many.terms);
        let single = leased.iter().any(|place| self.is_waited_for_by(*place, Kind::Single));
        let id = self.leases.wait_for_all(many.db, &names, caller, self.waiters_max, self.now);
        self.model.wait_for_all(leased, caller, self.waiters_max, self.now, id);
        if let Some(id) = id {
            self.blocked.insert(id, self.step);
            self.count(Event::GroupParked, true);
            self.count(Event::GroupMixed, single && self.model.has_wide_group());
            self.clients[who].waits = Some(Wait { id, many: Some(many) });
        }
    }

    /// Whether a key of `many` was won, and those that are leased to others; `None` if one holds a
    /// wrong type.
    pub(super) fn look_at_many(&mut self, who: usize, many: &Many) -> Option<(bool, Vec<Place>)> {
        let places: Vec<_> = many.keys.iter().map(|key| Place { db: many.db, key: *key }).collect();
        if places.iter().any(|place| self.sight(*place) == Lookup::WrongType) {
            return None;
        }
        let (mut won, mut leased) = (false, Vec::new());
        for place in places {
            self.resolve_at(place);
            let sight = self.sight(place);
            if matches!(sight, Lookup::Fresh | Lookup::WrongType) {
                continue;
            }
            if sight == Lookup::Stale && many.terms.takes_stale {
                won |= matches!(self.ask_stale(who, place, many.terms), Asked::Won(_));
                continue;
            }
            match self.ask_book(who, place, many.terms, 0) {
                Asked::Won(_) => won = true,
                Asked::Leased { .. } => leased.push(place),
                _ => {}
            }
        }
        Some((won, leased))
    }

    fn is_waited_for_by(&self, place: Place, kind: Kind) -> bool {
        let inside = self.leases.inside(place.db, &place.name());
        inside.is_some_and(|lease| lease.queue.iter().any(|id| self.model.waiting(*id).is_some_and(|(k, _)| k == kind)))
    }

    /// The connection learns of a lease of its own.
    pub(super) fn take(&mut self, who: usize, grant: Grant) {
        let grants = &mut self.clients[who].grants;
        if grants.len() == GRANTS_KEPT {
            grants.pop_front();
        }
        grants.push_back(grant);
    }
}

/// How many of its tokens a connection remembers, dead or alive.
const GRANTS_KEPT: usize = 6;

fn caller(client: ClientId, terms: Terms) -> Caller {
    Caller { client, wait_ms: terms.wait_ms, lease_ms: terms.lease_ms, bond: terms.bond }
}
