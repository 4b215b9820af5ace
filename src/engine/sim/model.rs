//! The contract of the lease book, written down a second time: slowly, plainly and from the other
//! end.
//!
//! Where the leases keep queues, deadlines and pending replies in step with each other, the model has one
//! flat list of waiters and one of leases, and searches them. It predicts every decision; a
//! [`Model`] is told of each call to the book, and [`Model::agree`] then compares all that can be
//! seen. What the contract leaves open it learns from the book and holds it to: the numbers of
//! grants, their tokens, and the order of answers that say the same.

use crate::engine::cache::leases::{Asked, Caller, Failure, Found, Grant, LeaseStats, Serial, Served, Touch};
use crate::engine::cache::pending::Reply;
use crate::engine::cache::waiters::Kind;
use crate::engine::id::{Bond, ClientId, DbId, DbKey, WaiterId};
use crate::engine::time::MonoMillis;
use std::collections::BTreeMap;
use std::rc::Rc;

mod agree;

/// A key of the simulated world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub db: DbId,
    pub key: u8,
}

impl Place {
    pub fn name(self) -> [u8; 2] {
        name(self.key)
    }

    pub fn of(db_key: &DbKey) -> Self {
        match *db_key.key {
            [b'k', digit] => Self { db: db_key.db, key: digit - b'0' },
            _ => panic!("no key of this world: {db_key:?}"),
        }
    }
}

pub(super) fn name(key: u8) -> [u8; 2] {
    [b'k', b'0' + key]
}

/// The model's own number of a grant: its place in the order of granting.
type GrantNo = usize;

struct Lease {
    number: GrantNo,
    holder: ClientId,
    bond: Bond,
    is_early: bool,
    serves_stale: bool,
    granted: MonoMillis,
    deadline: MonoMillis,
    touch: Option<Touch>,
}

/// What a waiter will be told.
#[derive(Clone, Debug, PartialEq)]
enum Verdict {
    Won(GrantNo),
    Is(Reply),
}

struct Waiter {
    client: ClientId,
    /// In the order in which they were given.
    places: Vec<Place>,
    /// All it ever waited for.
    group: Vec<Place>,
    kind: Kind,
    lease_ms: u64,
    bond: Bond,
    since: MonoMillis,
    deadline: MonoMillis,
    /// The number of the decision, the same for all decided at once, and what it was.
    verdict: Option<(u64, Verdict)>,
}

/// What is known of a grant.
struct Granted {
    place: Place,
    deadline: MonoMillis,
    serial: Option<Serial>,
}

/// What falls due; of two at one instant the lesser goes first, so that a waiter takes over rather
/// than gives up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Lease(Place),
    Wait(WaiterId),
    Retry(Place),
}

#[derive(Default)]
pub(super) struct Model {
    leases: BTreeMap<Place, Lease>,
    waiters: BTreeMap<WaiterId, Waiter>,
    failures: BTreeMap<Place, Failure>,
    grants: Vec<Granted>,
    serials: BTreeMap<Serial, GrantNo>,
    tokens: BTreeMap<u128, Serial>,
    decisions: u64,
    stats: LeaseStats,
    /// Leases that ended otherwise than the tally counts: by a value, a refusal, a new role.
    leases_done: u64,
    /// How often a group went on waiting for keys that were leased again.
    pub waits_again: u64,
    waits_left: u64,
    waits_answered: u64,
    peak: usize,
}

impl Model {
    pub fn ask(&mut self, place: Place, caller: Caller, waiters_max: usize, now: MonoMillis, asked: &Asked) {
        self.end_overdue(place, now);
        if let Some(lease) = self.leases.get(&place) {
            if caller.wait_ms == 0 || lease.holder == caller.client || self.waiters.len() >= waiters_max {
                let left_ms = lease.deadline.0 - now.0;
                return assert_eq!(*asked, Asked::Leased { left_ms }, "{caller:?} may not wait");
            }
            let Asked::Blocked(id) = asked else { panic!("{caller:?} waits, but is told {asked:?}") };
            return self.block(*id, vec![place], Kind::Single, caller, now);
        }
        if let Some(failure) = self.failure(place, now) {
            return assert_eq!(*asked, Asked::Failed(failure.clone()), "too early for {caller:?}");
        }
        let Asked::Won(grant) = asked else { panic!("no lease is out, so {caller:?} wins, not {asked:?}") };
        self.grant_told(place, caller, now, grant);
    }

    pub fn ask_stale(&mut self, place: Place, caller: Caller, now: MonoMillis, asked: &Asked) {
        self.ask(place, Caller { wait_ms: 0, ..caller }, 0, now, asked);
        if let Asked::Won(_) = asked {
            self.leases.get_mut(&place).expect("just granted").serves_stale = true;
        }
    }

    pub fn ask_early(&mut self, place: Place, caller: Caller, now: MonoMillis, granted: Option<&Grant>) {
        self.end_overdue(place, now);
        let may = !self.leases.contains_key(&place) && self.failure(place, now).is_none();
        assert_eq!(granted.is_some(), may, "whether {caller:?} refreshes early");
        if let Some(grant) = granted {
            self.grant_told(place, caller, now, grant);
            self.leases.get_mut(&place).expect("just granted").is_early = true;
            self.stats.early_refreshes += 1;
        }
    }

    pub fn wait_for_all(
        &mut self,
        places: Vec<Place>,
        caller: Caller,
        waiters_max: usize,
        now: MonoMillis,
        id: Option<WaiterId>,
    ) {
        let leased = |place| self.leases.get(place).is_some_and(|lease: &Lease| lease.holder != caller.client);
        let may = caller.wait_ms > 0 && self.waiters.len() < waiters_max && !places.is_empty();
        assert_eq!(id.is_some(), may && places.iter().all(leased), "whether {caller:?} waits for {places:?}");
        if let Some(id) = id {
            self.block(id, places, Kind::Group, caller, now);
        }
    }

    pub fn holds(&mut self, place: Place, serial: Option<Serial>, now: MonoMillis) -> bool {
        self.end_overdue(place, now);
        let number = serial.map(|serial| self.serials[&serial]);
        number.is_some() && self.leases.get(&place).map(|lease| lease.number) == number
    }

    pub fn renew(&mut self, place: Place, serial: Option<Serial>, ms: u64, now: MonoMillis) -> bool {
        let holds = self.holds(place, serial, now);
        if holds {
            self.leases.get_mut(&place).expect("held").deadline = now.after(ms);
        }
        holds
    }

    pub fn release(&mut self, place: Place, serial: Option<Serial>, now: MonoMillis) -> bool {
        let holds = self.holds(place, serial, now);
        if holds {
            self.stats.leases_released += 1;
            self.hand_over(place, now);
        }
        holds
    }

    pub fn fail(&mut self, place: Place, serial: Option<Serial>, failure: Failure, now: MonoMillis) -> bool {
        let holds = self.holds(place, serial, now);
        if holds {
            self.leases.remove(&place);
            self.stats.leases_failed += 1;
            self.pass_groups(place);
            self.decide(place, &Verdict::Is(Reply::Failed(failure.clone())));
            self.failures.insert(place, failure);
        }
        holds
    }

    pub fn disconnect(&mut self, client: ClientId, now: MonoMillis) {
        for place in self.bound_to(client) {
            self.stats.leases_disconnected += 1;
            self.hand_over(place, now);
        }
    }

    pub fn bound_to(&self, client: ClientId) -> Vec<Place> {
        let bound = |lease: &Lease| lease.holder == client && lease.bond == Bond::Bound;
        self.leases.iter().filter(|(_, lease)| bound(lease)).map(|(place, _)| *place).collect()
    }

    pub fn cost_ms(&self, place: Place, now: MonoMillis) -> Option<u64> {
        self.leases.get(&place).map(|lease| now.0 - lease.granted.0)
    }

    pub fn settle(&mut self, place: Place, served: &Served, now: MonoMillis) {
        self.failures.remove(&place);
        let Some(lease) = self.leases.remove(&place) else { return };
        self.leases_done += 1;
        self.pass_groups(place);
        let value = Verdict::Is(Reply::Value(served.clone()));
        let mut avoided = 0;
        if let Some(heir) = self.undelivered(lease.number) {
            self.waiters.get_mut(&heir).expect("an heir").verdict = None;
            if self.waiters[&heir].kind == Kind::Group {
                self.decide_one(heir, Verdict::Is(Reply::Look));
            } else {
                self.decide_one(heir, value.clone());
                // The same decision as of those behind it.
                self.decisions -= 1;
                avoided += 1;
            }
        }
        avoided += self.decide(place, &value);
        self.stats.loads_avoided += avoided;
        self.stats.load_ms_avoided += avoided * (now.0 - lease.granted.0);
    }

    pub fn void(&mut self, place: Place, now: MonoMillis) {
        if self.leases.contains_key(&place) {
            self.stats.leases_voided += 1;
            self.hand_over(place, now);
        }
    }

    pub fn refuse(&mut self, place: Place, reply: Reply) {
        if self.leases.remove(&place).is_some() {
            self.leases_done += 1;
            self.decide(place, &Verdict::Is(reply));
        }
    }

    /// What `touch` means for all keys that `concerns` says. True if there were any.
    pub fn mark_touched(&mut self, touch: Touch, concerns: impl Fn(Place) -> bool) -> bool {
        let mut any = false;
        for (_, lease) in self.leases.iter_mut().filter(|(place, _)| concerns(**place)) {
            any = true;
            if lease.touch != Some(Touch::Invalidated) {
                lease.touch = Some(touch);
            }
        }
        any
    }

    pub fn recheck(&mut self, place: Place, found: Found, now: MonoMillis) {
        let waited_for = self.is_waited_for(place);
        let Some(lease) = self.leases.get_mut(&place) else { return };
        let Some(touch) = lease.touch.take() else { return };
        match found {
            // It was there all the time, and one refreshes it.
            Found::Fresh(_) if touch == Touch::Appeared && lease.is_early && !waited_for => {}
            Found::Fresh(served) => self.settle(place, &served, now),
            Found::WrongType => self.refuse(place, Reply::WrongType),
            Found::Nothing if touch == Touch::Invalidated || lease.is_early || lease.serves_stale => {
                self.void(place, now);
            }
            Found::Stale if touch == Touch::Invalidated => {
                self.void(place, now);
                if let Some(lease) = self.leases.get_mut(&place) {
                    lease.serves_stale = true;
                    self.pass_groups(place);
                    self.decide(place, &Verdict::Is(Reply::Look));
                }
            }
            Found::Nothing | Found::Stale => {}
        }
    }

    /// All that is due, the earliest first.
    pub fn expire(&mut self, now: MonoMillis) {
        while let Some((_, due)) = self.dues().filter(|(at, _)| *at <= now).min() {
            match due {
                Due::Lease(place) => {
                    self.stats.leases_expired += 1;
                    self.hand_over(place, now);
                }
                Due::Wait(id) => self.time_out(id, now),
                Due::Retry(place) => drop(self.failures.remove(&place)),
            }
        }
    }

    pub fn give_back(&mut self, place: Place, serial: Serial, now: MonoMillis) {
        if self.leases.get(&place).is_some_and(|lease| self.grants[lease.number].serial == Some(serial)) {
            self.stats.leases_disconnected += 1;
            self.hand_over(place, now);
        }
    }

    pub fn forget_all(&mut self, reply: &Reply) {
        self.leases_done += self.leases.len() as u64;
        self.leases.clear();
        self.failures.clear();
        let queued: Vec<_> = self.queued().map(|(id, _)| id).collect();
        self.decisions += 1;
        for id in queued {
            self.waiters.get_mut(&id).expect("queued").verdict = Some((self.decisions, Verdict::Is(reply.clone())));
        }
    }

    pub fn is_leased(&self, place: Place) -> bool {
        self.leases.contains_key(&place)
    }

    pub fn is_early(&self, place: Place) -> bool {
        self.leases.get(&place).is_some_and(|lease| lease.is_early)
    }

    pub fn is_waited_for(&self, place: Place) -> bool {
        self.queued_at(place).next().is_some()
    }

    pub fn is_doubted(&self, place: Place) -> bool {
        self.leases.get(&place).is_some_and(|lease| lease.touch.is_some())
    }

    /// Why nobody is granted the lease on `place` at `now`, if so.
    pub fn failure(&self, place: Place, now: MonoMillis) -> Option<&Failure> {
        self.failures.get(&place).filter(|failure| failure.until > now)
    }

    /// True if a failure is over and its end has not been noted.
    pub fn has_past_failure(&self, place: Place, now: MonoMillis) -> bool {
        self.failures.get(&place).is_some_and(|failure| failure.until <= now)
    }

    /// How it waits, if its answer is open.
    pub fn waiting(&self, id: WaiterId) -> Option<(Kind, usize)> {
        self.queued().find(|(other, _)| *other == id).map(|(_, waiter)| (waiter.kind, waiter.places.len()))
    }

    /// The waiter that was handed the lease on `place` and has not heard of it.
    pub fn heir(&self, place: Place) -> Option<Kind> {
        let heir = self.undelivered(self.leases.get(&place)?.number)?;
        Some(self.waiters[&heir].kind)
    }

    pub fn leases(&self) -> usize {
        self.leases.len()
    }

    pub fn waiters(&self) -> usize {
        self.waiters.len()
    }

    fn undelivered(&self, number: GrantNo) -> Option<WaiterId> {
        let won = |waiter: &Waiter| matches!(waiter.verdict, Some((_, Verdict::Won(theirs))) if theirs == number);
        self.waiters.iter().find(|(_, waiter)| won(waiter)).map(|(id, _)| *id)
    }

    /// Those whose answer is open, oldest first.
    fn queued(&self) -> impl Iterator<Item = (WaiterId, &Waiter)> {
        self.waiters.iter().filter(|(_, waiter)| waiter.verdict.is_none()).map(|(id, waiter)| (*id, waiter))
    }

    fn queued_at(&self, place: Place) -> impl Iterator<Item = (WaiterId, &Waiter)> {
        self.queued().filter(move |(_, waiter)| waiter.places.contains(&place))
    }

    fn dues(&self) -> impl Iterator<Item = (MonoMillis, Due)> + '_ {
        let leases = self.leases.iter().map(|(place, lease)| (lease.deadline, Due::Lease(*place)));
        let waits = self.queued().map(|(id, waiter)| (waiter.deadline, Due::Wait(id)));
        let retries = self.failures.iter().map(|(place, failure)| (failure.until, Due::Retry(*place)));
        leases.chain(waits).chain(retries)
    }

    fn end_overdue(&mut self, place: Place, now: MonoMillis) {
        if self.leases.get(&place).is_some_and(|lease| lease.deadline <= now) {
            self.stats.leases_expired += 1;
            self.hand_over(place, now);
        }
    }

    fn block(&mut self, id: WaiterId, places: Vec<Place>, kind: Kind, caller: Caller, now: MonoMillis) {
        assert!(self.waiters.keys().all(|other| *other < id), "{id:?} is not the youngest");
        let Caller { client, lease_ms, bond, wait_ms } = caller;
        let deadline = now.after(wait_ms);
        let group = places.clone();
        let since = now;
        self.waiters.insert(id, Waiter { client, places, group, kind, lease_ms, bond, since, deadline, verdict: None });
        self.stats.waits += 1;
        self.peak = self.peak.max(self.waiters.len());
    }

    fn grant_told(&mut self, place: Place, caller: Caller, now: MonoMillis, grant: &Grant) {
        let number = self.grant(place, caller.client, caller.lease_ms, caller.bond, now);
        self.same(&Verdict::Won(number), &Reply::Won(grant.clone()));
    }

    fn grant(&mut self, place: Place, holder: ClientId, ms: u64, bond: Bond, now: MonoMillis) -> GrantNo {
        let (number, deadline) = (self.grants.len(), now.after(ms));
        self.grants.push(Granted { place, deadline, serial: None });
        let lease =
            Lease { number, holder, bond, is_early: false, serves_stale: false, granted: now, deadline, touch: None };
        assert!(self.leases.insert(place, lease).is_none(), "two leases on {place:?}");
        assert!(self.failure(place, now).is_none(), "granted too early after a failure");
        self.stats.leases_granted += 1;
        number
    }

    /// Ends the lease on `place`; the oldest who waits there holds the next one.
    fn hand_over(&mut self, place: Place, now: MonoMillis) {
        let Some(lease) = self.leases.remove(&place) else { return };
        // One who has not heard of that lease comes before all who wait.
        let undelivered = self.undelivered(lease.number).filter(|heir| self.waiters[heir].kind == Kind::Single);
        let oldest = self.queued_at(place).next().map(|(id, _)| id);
        let Some(id) = undelivered.or(oldest) else { return };
        let heir = self.waiters.get_mut(&id).expect("it waits");
        heir.verdict = None;
        let heir = &self.waiters[&id];
        let number = self.grant(place, heir.client, heir.lease_ms, heir.bond, now);
        self.leases.get_mut(&place).expect("just granted").touch = lease.touch;
        self.stats.handovers += 1;
        self.decide_one(id, Verdict::Won(number));
    }

    /// `place` is not leased any more: who waits for others too goes on with those.
    fn pass_groups(&mut self, place: Place) {
        let groups: Vec<_> = self.queued_at(place).filter(|(_, w)| w.kind == Kind::Group).map(|(id, _)| id).collect();
        for id in groups {
            let waiter = self.waiters.get_mut(&id).expect("queued");
            waiter.places.retain(|other| *other != place);
            if waiter.places.is_empty() {
                // Some may have been set, invalidated and leased again.
                let again =
                    |place: &&Place| self.leases.get(place).is_some_and(|lease| !lease.is_early && !lease.serves_stale);
                waiter.places = waiter.group.iter().filter(again).copied().collect();
                self.waits_again += u64::from(!waiter.places.is_empty());
                if waiter.places.is_empty() {
                    self.decide_one(id, Verdict::Is(Reply::Look));
                }
            }
        }
    }

    fn time_out(&mut self, id: WaiterId, now: MonoMillis) {
        let left_ms = self.lease_left_ms(id, now);
        self.stats.waits_timed_out += 1;
        let group = self.waiters[&id].kind == Kind::Group;
        self.decide_one(id, Verdict::Is(if group { Reply::Look } else { Reply::Leased { left_ms } }));
    }

    fn lease_left_ms(&self, id: WaiterId, now: MonoMillis) -> u64 {
        self.leases[&self.waiters[&id].places[0]].deadline.0.saturating_sub(now.0)
    }

    /// Decides for all who wait at `place`; how many they are.
    fn decide(&mut self, place: Place, verdict: &Verdict) -> u64 {
        self.decisions += 1;
        let queued: Vec<_> = self.queued_at(place).map(|(id, _)| id).collect();
        for id in &queued {
            self.waiters.get_mut(id).expect("queued").verdict = Some((self.decisions, verdict.clone()));
        }
        queued.len() as u64
    }

    fn decide_one(&mut self, id: WaiterId, verdict: Verdict) {
        self.decisions += 1;
        let waiter = self.waiters.get_mut(&id).expect("decided for one who is not there");
        assert_eq!(waiter.verdict, None, "{id:?} is answered twice");
        waiter.verdict = Some((self.decisions, verdict));
    }
}

/// What the last holder said, in every failure of this world.
pub(super) fn message() -> Rc<[u8]> {
    b"no route"[..].into()
}
