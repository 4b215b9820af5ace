//! What writers and holders do: store, with and without a token, renew, release, fail.

use super::{Event, Held, World};
use crate::engine::cache::leases::{Failure, Serial, Served, Token};
use crate::engine::cache::waiters::Kind;
use crate::engine::sim::action::Deed;
use crate::engine::sim::model::{message, Place};

/// Drawn by nobody.
const FORGED: Token = Token(u128::MAX);

impl World {
    pub(super) fn store(&mut self, place: Place) {
        self.resolve_at(place);
        if matches!(self.keyspace.get(&place), Some(Held::WrongType)) {
            return;
        }
        let served = self.new_value(place);
        self.settle(place, &served);
    }

    fn settle(&mut self, place: Place, served: &Served) {
        let (key, now) = (place.name(), self.now);
        assert_eq!(self.leases.cost_ms(place.db, &key, now), self.model.cost_ms(place, now));
        let heir = self.model.heir(place);
        self.count(Event::HeirToldValue, heir == Some(Kind::Single));
        self.count(Event::HeirLooked, heir == Some(Kind::Group));
        self.count(Event::SettledFailure, self.model.failure(place, now).is_some());
        self.leases.settle(place.db, &key, || served.clone(), now);
        self.model.settle(place, served, now);
    }

    /// A command with a token. One that is dead changes nothing.
    pub(super) fn prove(&mut self, who: usize, nth: Option<usize>, elsewhere: Option<Place>, deed: Deed) {
        let grant = nth.and_then(|nth| self.clients[who].grants.get(nth)).cloned();
        let home = grant.as_ref().map_or(Place { db: 0, key: 0 }, |grant| Place::of(&grant.db_key));
        let place = elsewhere.unwrap_or(home);
        let token = grant.as_ref().map_or(FORGED, |grant| grant.token);
        let serial = grant.as_ref().map(|grant| grant.serial);
        self.resolve_at(place);
        let leased_before = self.model.is_leased(place);
        let live = self.commit(place, token, serial, deed);
        self.count(Event::TokenForged, grant.is_none() && leased_before);
        self.count(Event::TokenElsewhere, grant.is_some() && place != home);
        self.count(Event::TokenDead, grant.is_some() && place == home && !live);
        self.count(Event::TokenLive, live);
        assert!(!(live && grant.is_none()), "a forged token works");
        assert!(!(live && place != home), "a token works on another key");
    }

    /// Does `deed` to the book and the model; whether the token was that of the lease.
    fn commit(&mut self, place: Place, token: Token, serial: Option<Serial>, deed: Deed) -> bool {
        let (db, key, now) = (place.db, place.name(), self.now);
        let (live, expected, event) = match deed {
            Deed::Store | Deed::Touch => {
                let live = self.leases.holds(db, &key, token, now);
                let touched = matches!(deed, Deed::Touch);
                let lands = live && self.lands(place, touched);
                (
                    live,
                    self.model.holds(place, serial, now),
                    match (lands, touched) {
                        (true, true) => Some(Event::Touched),
                        (true, false) => Some(Event::Stored),
                        (false, _) => None,
                    },
                )
            }
            Deed::Renew { ms } => {
                let live = self.leases.renew(db, &key, token, ms, now);
                (live, self.model.renew(place, serial, ms, now), Some(Event::Renewed))
            }
            Deed::Release => {
                let live = self.leases.release(db, &key, token, now);
                (live, self.model.release(place, serial, now), Some(Event::Released))
            }
            Deed::Fail { retry_ms } => {
                let again = self.model.has_past_failure(place, now);
                let live = self.leases.fail(db, &key, token, retry_ms, message(), now);
                self.count(Event::FailedAgain, live && again);
                let failure = Failure { until: now.after(retry_ms), message: message() };
                (live, self.model.fail(place, serial, failure, now), Some(Event::Failed))
            }
        };
        assert_eq!(live, expected, "whether the token of {serial:?} is that of the lease on {place:?}");
        if let (true, Some(event)) = (live, event) {
            self.count(event, true);
            match event {
                Event::Stored => self.store(place),
                Event::Touched => self.touch(place),
                _ => {}
            }
        }
        live
    }

    /// Whether what a live token is given with can be written.
    fn lands(&self, place: Place, touched: bool) -> bool {
        match self.keyspace.get(&place) {
            Some(Held::WrongType) => false,
            Some(Held::Value { .. }) => true,
            None => !touched,
        }
    }

    /// The value that is there is as good as new.
    fn touch(&mut self, place: Place) {
        let served = self.rearm(place);
        self.settle(place, &served);
    }
}
