//! What may happen in the simulated world, and how often it is drawn.
//!
//! Each seed multiplies the usual weights by factors of its own, so that some histories are full of
//! dying holders and others of flushes: what always happens at the same rate meets the same states.

use super::model::Place;
use super::world::{Lookup, World};
use crate::engine::id::{Bond, DbId};
use rand::rngs::StdRng;
use rand::Rng;

/// Something that happens. Clients are given by their place in the list.
#[derive(Clone, Debug)]
pub(super) enum Action {
    /// `GETSM`.
    Ask { who: usize, place: Place, terms: Terms },
    /// `MGETSM`.
    AskMany { who: usize, db: DbId, keys: Vec<u8>, terms: Terms },
    /// `GETSM EARLY` by one that was drawn to refresh.
    AskEarly { who: usize, place: Place, terms: Terms },
    /// A command with a token: one of those that `who` was ever granted, or a made-up one.
    Prove { who: usize, nth: Option<usize>, elsewhere: Option<Place>, deed: Deed },
    /// `SETSM` without a token, by a holder or a stranger.
    Store { place: Place },
    /// `CACHE.DEL`.
    Void { place: Place },
    /// `DEL` of a key that may not exist.
    Delete { place: Place },
    /// `SET`.
    Set { place: Place },
    /// `LPUSH`: a wrong type appears where nothing was.
    Push { place: Place },
    /// `INCR`: a value appears where nothing was.
    Count { place: Place },
    /// A command that might have given any key of this name a value, and did not.
    Look { key: u8 },
    /// The value turns stale.
    Age { place: Place },
    /// The key's TTL ends: nobody tells us.
    Perish { place: Place },
    /// `FLUSHDB`, or `FLUSHALL`.
    Flush { only: Option<DbId> },
    /// `SWAPDB`.
    Swap { one: DbId, other: DbId },
    /// The connection closes; if it holds a lease, nobody hears of it again.
    Close { who: usize },
    /// An operator ends its wait.
    Unblock { who: usize },
    /// At most so many answers go out; of their receivers, so many in a hundred are gone.
    Deliver { most: usize, lost_percent: u32 },
    /// The event ends: touched keys are rechecked, at most so many.
    Resolve { most: usize },
    /// Time passes and no timer fires.
    Pass { ms: u64 },
    /// The timer fires.
    Expire { after_resolving: bool },
    /// The server becomes a replica, and a primary again.
    Demote,
    /// The key moves to another node.
    Migrate { place: Place },
    /// The configured limit changes.
    Limit { waiters_max: usize },
}

/// The options of a reader.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub wait_ms: u64,
    pub lease_ms: u64,
    pub bond: Bond,
    /// Whether a stale value will do.
    pub takes_stale: bool,
}

/// What a holder does with its token.
#[derive(Clone, Copy, Debug)]
pub(super) enum Deed {
    /// `SETSM TOKEN`.
    Store,
    /// `TOUCH TOKEN`.
    Touch,
    /// `RENEW`.
    Renew { ms: u64 },
    /// `RELEASE`.
    Release,
    /// `FAIL`.
    Fail { retry_ms: u64 },
}

pub(super) const KINDS: usize = 23;
/// How often each kind of action is drawn, before the seed has its say.
const WEIGHTS: [u32; KINDS] = [60, 12, 2, 5, 3, 3, 3, 6, 1, 1, 5, 2, 15, 10, 15, 12, 1, 1, 1, 20, 12, 25, 6];

/// The weights of one seed.
pub(super) fn weights(rng: &mut StdRng) -> [u32; KINDS] {
    WEIGHTS.map(|weight| weight * [1, 4, 4, 16][rng.random_range(0..4)])
}

impl World {
    /// Draws what happens next.
    pub fn draw(&mut self) -> Action {
        let mut at = self.rng.random_range(0..self.weights.iter().sum());
        let kind = self.weights.iter().position(|weight| at.checked_sub(*weight).map(|rest| at = rest).is_none());
        let place = Place { db: self.rng.random_range(0..self.dbs), key: self.rng.random_range(0..self.keys) };
        let who = self.somebody();
        let percent = self.rng.random_range(0..100);
        match kind.unwrap_or(0) {
            // A hit decides nothing: rather let the key go, so that the next one misses.
            0 if self.sight(place) == Lookup::Fresh && percent < 50 => Action::Age { place },
            0 if matches!(self.sight(place), Lookup::Fresh | Lookup::WrongType) => Action::Perish { place },
            0 => Action::Ask { who, place, terms: self.some_terms() },
            1 => {
                Action::Store { place: self.clients[who].grants.back().map_or(place, |grant| Place::of(&grant.db_key)) }
            }
            2 => Action::Void { place },
            3 => Action::Delete { place },
            4 => Action::Set { place },
            5 if percent < 50 => Action::Push { place },
            5 => Action::Count { place: self.some_early_and_gone().unwrap_or(place) },
            6 => Action::Look { key: self.some_early().unwrap_or(place).key },
            7 => Action::Perish { place },
            8 => Action::Flush { only: (percent < 70).then_some(place.db) },
            9 => Action::Swap { one: place.db, other: self.rng.random_range(0..self.dbs) },
            10 => Action::Close { who },
            11 => Action::Unblock { who },
            12 => {
                let lost_percent = if percent < 50 { 0 } else { percent };
                Action::Deliver { most: self.rng.random_range(0..20), lost_percent }
            }
            13 => Action::Resolve { most: if percent < 50 { 1 } else { usize::MAX } },
            14 => Action::Pass { ms: if percent < 2 { 1_000_000 } else { self.some_ms() / 4 } },
            15 => Action::Expire { after_resolving: percent < 50 },
            16 => Action::Demote,
            17 => Action::Migrate { place },
            18 => Action::Limit { waiters_max: if percent < 30 { percent as usize / 3 } else { 1_000 } },
            19 => {
                let number = self.rng.random_range(1..=4);
                let keys = (0..number).map(|_| self.rng.random_range(0..self.keys)).collect();
                Action::AskMany { who, db: place.db, keys, terms: self.some_terms() }
            }
            20 => Action::AskEarly { who, place: self.some_fresh().unwrap_or(place), terms: self.some_terms() },
            21 => self.some_proof(place),
            22 => Action::Age { place },
            kind => panic!("kind {kind} is not drawn"),
        }
    }

    /// Mostly a live token, often a dead one, sometimes one that nobody drew.
    fn some_proof(&mut self, place: Place) -> Action {
        let all: Vec<_> = (0..self.clients.len())
            .flat_map(|who| (0..self.clients[who].grants.len()).map(move |nth| (who, nth)))
            .collect();
        let live: Vec<_> = all.iter().copied().filter(|(who, nth)| self.is_live(*who, *nth)).collect();
        let among = if self.rng.random_bool(0.7) && !live.is_empty() { live } else { all };
        let known = among.get(self.rng.random_range(0..among.len().max(1))).copied();
        let (who, nth) = known.map_or((0, None), |(who, nth)| (who, Some(nth)));
        let nth = nth.filter(|_| self.rng.random_bool(0.9));
        let elsewhere = self.rng.random_bool(0.05).then_some(place);
        let deed = match self.rng.random_range(0..10) {
            0..2 => Deed::Store,
            2 | 3 => Deed::Touch,
            4 | 5 => Deed::Renew { ms: self.some_ms() },
            6 | 7 => Deed::Release,
            _ => Deed::Fail { retry_ms: if self.rng.random_bool(0.5) { 1 } else { self.some_ms() } },
        };
        Action::Prove { who, nth, elsewhere, deed }
    }

    fn some_terms(&mut self) -> Terms {
        let wait_ms = if self.rng.random_bool(0.15) { 0 } else { self.some_ms() };
        let bond = if self.rng.random_bool(0.3) { Bond::Bound } else { Bond::Free };
        Terms { wait_ms, lease_ms: self.some_ms(), bond, takes_stale: self.rng.random_bool(0.6) }
    }

    /// Rather one that is free to ask than one that waits.
    fn somebody(&mut self) -> usize {
        let (first, second) = (self.any_client(), self.any_client());
        if self.clients[first].waits.is_none() {
            first
        } else {
            second
        }
    }

    fn any_client(&mut self) -> usize {
        self.rng.random_range(0..self.clients.len())
    }

    /// A duration: mostly short, so that deadlines coincide; sometimes long.
    fn some_ms(&mut self) -> u64 {
        match self.rng.random_range(0..10) {
            0..7 => self.rng.random_range(1..20),
            7..9 => self.rng.random_range(1..500),
            _ => self.rng.random_range(1..100_000),
        }
    }
}
