//! What may happen in the simulated world, and how often it is drawn.
//!
//! Each seed multiplies the usual weights by factors of its own, so that some histories are full of
//! dying holders and others of flushes: what always happens at the same rate meets the same states.

use super::model::Place;
use super::world::World;
use crate::engine::waiters::DbId;
use rand::rngs::StdRng;
use rand::Rng;

/// Something that happens. Clients are given by their place in the list.
#[derive(Clone, Copy, Debug)]
pub(super) enum Action {
    /// `GETSM`.
    Ask { who: usize, place: Place, wait_ms: u64, lease_ms: u64 },
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
    /// A command that might have given any key of this name a value, and did not.
    Look { key: u8 },
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
    /// The event ends: doubts are resolved, at most so many.
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

pub(super) const KINDS: usize = 19;
/// How often each kind of action is drawn, before the seed has its say.
const WEIGHTS: [u32; KINDS] = [60, 12, 2, 5, 3, 1, 3, 6, 1, 1, 5, 2, 15, 10, 15, 12, 1, 1, 1];

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
            0 if self.keyspace.contains_key(&place) => Action::Perish { place },
            0 => {
                let wait_ms = if percent < 15 { 0 } else { self.some_ms() };
                Action::Ask { who, place, wait_ms, lease_ms: self.some_ms() }
            }
            1 => Action::Store { place: self.clients[who].grants.last().map_or(place, |grant| Place::of(&grant.slot)) },
            2 => Action::Void { place },
            3 => Action::Delete { place },
            4 => Action::Set { place },
            5 => Action::Push { place },
            6 => Action::Look { key: place.key },
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
            kind => panic!("kind {kind} is not drawn"),
        }
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
