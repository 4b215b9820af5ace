//! The contract of the lease book, written down a second time: slowly, plainly and from the other
//! end.
//!
//! Where the book keeps queues, deadlines and an outbox in step with each other, the model has one
//! flat list of waiters and one of leases, and searches them. It predicts every decision; a
//! [`Model`] is told of each call to the book, and [`Model::agree`] then compares all that can be
//! seen. What the contract leaves open it learns from the book and holds it to: the numbers of
//! grants, and the order of answers that say the same.

use crate::engine::lease::{Asked, Caller, Doubt, Found, LeaseBook, Serial, Tally};
use crate::engine::outbox::Answer;
use crate::engine::time::MonoMillis;
use crate::engine::waiters::{ClientId, DbId, Slot, WaiterId};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

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

    pub fn of(slot: &Slot) -> Self {
        match *slot.key {
            [b'k', digit] => Self { db: slot.db, key: digit - b'0' },
            _ => panic!("no key of this world: {slot:?}"),
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
    granted: MonoMillis,
    deadline: MonoMillis,
    doubt: Option<Doubt>,
}

/// What a waiter will be told.
#[derive(Clone, Debug, PartialEq)]
enum Verdict {
    Won(GrantNo),
    Is(Answer),
}

struct Waiter {
    client: ClientId,
    place: Place,
    lease_ms: u64,
    since: MonoMillis,
    deadline: MonoMillis,
    /// The number of the decision, the same for all decided at once, and what it was.
    verdict: Option<(u64, Verdict)>,
}

#[derive(Default)]
pub(super) struct Model {
    leases: BTreeMap<Place, Lease>,
    waiters: BTreeMap<WaiterId, Waiter>,
    serials: Vec<Option<Serial>>,
    serials_seen: BTreeSet<Serial>,
    decisions: u64,
    tally: Tally,
    /// Leases that ended otherwise than the tally counts: by a value, a refusal, a new role.
    leases_done: u64,
    waits_left: u64,
    waits_answered: u64,
    peak: usize,
}

impl Model {
    pub fn ask(&mut self, place: Place, caller: Caller, waiters_max: usize, now: MonoMillis, asked: &Asked) {
        if self.leases.get(&place).is_some_and(|lease| lease.deadline <= now) {
            self.tally.leases_expired += 1;
            self.hand_over(place, now);
        }
        let Some(lease) = self.leases.get(&place) else {
            let Asked::Won(grant) = asked else { panic!("no lease is out, so {caller:?} wins, not {asked:?}") };
            assert_eq!(Place::of(&grant.slot), place, "a grant of another key");
            let number = self.grant(place, caller.client, caller.lease_ms, None, now);
            return self.learn(number, grant.serial);
        };
        if caller.wait_ms == 0 || lease.holder == caller.client || self.waiters.len() >= waiters_max {
            let left_ms = lease.deadline.0 - now.0;
            return assert_eq!(*asked, Asked::Leased { left_ms }, "{caller:?} may not wait");
        }
        let Asked::Parked(id) = asked else { panic!("{caller:?} waits, but is told {asked:?}") };
        assert!(self.waiters.keys().all(|other| other < id), "{id:?} is not the youngest");
        let (client, lease_ms, deadline) = (caller.client, caller.lease_ms, now.after(caller.wait_ms));
        self.waiters.insert(*id, Waiter { client, place, lease_ms, since: now, deadline, verdict: None });
        self.tally.waits += 1;
        self.peak = self.peak.max(self.waiters.len());
    }

    pub fn cost_ms(&self, place: Place, now: MonoMillis) -> Option<u64> {
        self.leases.get(&place).map(|lease| now.0 - lease.granted.0)
    }

    pub fn lease_left_ms(&self, place: Place, now: MonoMillis) -> u64 {
        self.leases.get(&place).map_or(0, |lease| lease.deadline.0.saturating_sub(now.0))
    }

    pub fn settle(&mut self, place: Place, value: &Rc<[u8]>, now: MonoMillis) {
        if let Some(lease) = self.leases.remove(&place) {
            self.leases_done += 1;
            let served = self.decide(place, &Verdict::Is(Answer::Value(Rc::clone(value))));
            self.tally.loads_avoided += served;
            self.tally.load_ms_avoided += served * (now.0 - lease.granted.0);
        }
    }

    pub fn void(&mut self, place: Place, now: MonoMillis) {
        if self.leases.contains_key(&place) {
            self.tally.leases_voided += 1;
            self.hand_over(place, now);
        }
    }

    pub fn refuse(&mut self, place: Place, answer: Answer) {
        if self.leases.remove(&place).is_some() {
            self.leases_done += 1;
            self.decide(place, &Verdict::Is(answer));
        }
    }

    /// What `doubt` means for all keys that `concerns` says. True if there were any.
    pub fn doubt(&mut self, doubt: Doubt, concerns: impl Fn(Place) -> bool) -> bool {
        let mut any = false;
        for (_, lease) in self.leases.iter_mut().filter(|(place, _)| concerns(**place)) {
            any = true;
            if lease.doubt != Some(Doubt::Invalidated) {
                lease.doubt = Some(doubt);
            }
        }
        any
    }

    pub fn is_leased(&self, place: Place) -> bool {
        self.leases.contains_key(&place)
    }

    pub fn is_doubted(&self, place: Place) -> bool {
        self.leases.get(&place).is_some_and(|lease| lease.doubt.is_some())
    }

    pub fn resolve(&mut self, place: Place, found: Found, now: MonoMillis) {
        let Some(doubt) = self.leases.get_mut(&place).and_then(|lease| lease.doubt.take()) else { return };
        match found {
            Found::Fresh(value) => self.settle(place, &value, now),
            Found::WrongType => self.refuse(place, Answer::WrongType),
            Found::Nothing if doubt == Doubt::Invalidated => self.void(place, now),
            Found::Nothing => {}
        }
    }

    /// All that is due, the earliest first; at one instant leases end before waits, so that a
    /// waiter takes over rather than gives up.
    pub fn expire(&mut self, now: MonoMillis) {
        loop {
            let leases = self.leases.iter().map(|(place, lease)| (lease.deadline, Ok(*place)));
            let waits = self.queued().map(|(id, waiter)| (waiter.deadline, Err(id)));
            let first = leases.chain(waits).filter(|(deadline, _)| *deadline <= now).min();
            match first {
                None => return,
                Some((_, Ok(place))) => {
                    self.tally.leases_expired += 1;
                    self.hand_over(place, now);
                }
                Some((_, Err(id))) => self.time_out(id, now),
            }
        }
    }

    /// A waiter leaves, with the answer that was decided for it, if one was.
    pub fn leave(&mut self, id: WaiterId, now: MonoMillis, answer: Option<&Answer>) {
        let Some(waiter) = self.waiters.remove(&id) else {
            return assert_eq!(answer, None, "an answer for {id:?}, who is not there");
        };
        self.waits_left += 1;
        self.tally.wait_ms_total += now.0 - waiter.since.0;
        match (waiter.verdict, answer) {
            (None, None) => {}
            (Some((_, verdict)), Some(answer)) => self.same(waiter.place, &verdict, answer),
            (verdict, answer) => panic!("{id:?} leaves with {answer:?}, but {verdict:?} was decided"),
        }
    }

    /// An answer reaches a waiter: the one decided for it, and nobody is overtaken.
    pub fn deliver(&mut self, id: WaiterId, answer: &Answer, now: MonoMillis) {
        let waiter = self.waiters.remove(&id).unwrap_or_else(|| panic!("{id:?} is answered and does not wait"));
        let (decision, verdict) =
            waiter.verdict.unwrap_or_else(|| panic!("nothing was decided for {id:?}: {answer:?}"));
        self.same(waiter.place, &verdict, answer);
        for (other, (before, theirs)) in self.waiters.iter().filter_map(|(id, w)| Some((id, w.verdict.as_ref()?))) {
            assert!(*before > decision || theirs == &verdict || *before == decision, "{id:?} overtakes {other:?}");
            assert!(*before != decision || *other > id, "{id:?} overtakes the older {other:?}");
        }
        self.waits_answered += 1;
        self.tally.wait_ms_total += now.0 - waiter.since.0;
    }

    pub fn give_back(&mut self, place: Place, serial: Serial, now: MonoMillis) {
        if self.leases.get(&place).is_some_and(|lease| self.serials[lease.number] == Some(serial)) {
            self.tally.leases_disconnected += 1;
            self.hand_over(place, now);
        }
    }

    pub fn forget_all(&mut self, answer: &Answer) {
        self.leases_done += self.leases.len() as u64;
        self.leases.clear();
        let queued: Vec<_> = self.queued().map(|(id, _)| id).collect();
        self.decisions += 1;
        for id in queued {
            self.waiters.get_mut(&id).expect("queued").verdict = Some((self.decisions, Verdict::Is(answer.clone())));
        }
    }

    /// Compares everything that can be seen of `book`, and the model with itself.
    pub fn agree(&mut self, book: &LeaseBook) {
        assert_eq!(book.leases(), self.leases.len(), "leases out");
        assert_eq!(book.waiters().len(), self.waiters.len(), "waiters");
        assert_eq!(book.waiters().peak(), self.peak, "peak of waiters");
        let learnt: Vec<_> =
            self.leases.iter().map(|(place, lease)| (lease.number, self.agree_on(*place, book))).collect();
        learnt.into_iter().for_each(|(number, serial)| self.learn(number, serial));
        let mut decided = 0;
        for (id, answer) in book.decided() {
            decided += 1;
            let waiter = self.waiters.get(&id).unwrap_or_else(|| panic!("{id:?} is to be answered and does not wait"));
            let Some((_, verdict)) = &waiter.verdict else { panic!("{id:?} is to be told {answer:?} for no reason") };
            self.same(waiter.place, verdict, answer);
        }
        assert_eq!(decided, self.waiters.len() - self.queued().count(), "answers decided");
        assert_eq!(book.has_answers(), decided > 0);
        assert_eq!(book.is_idle(), self.leases.is_empty() && self.waiters.is_empty());
        assert_eq!(book.tally, self.tally);
        let t = self.tally;
        let ended = t.leases_expired + t.leases_voided + t.leases_disconnected + self.leases_done;
        assert_eq!(t.leases_granted, ended + self.leases.len() as u64, "each lease ends once");
        assert_eq!(t.waits, self.waits_answered + self.waits_left + self.waiters.len() as u64, "each wait ends once");
        for (id, waiter) in self.queued() {
            assert!(self.leases.contains_key(&waiter.place), "{id:?} waits for nobody");
        }
    }

    /// After what was due at `now` has ended, all that remains lies in the future.
    pub fn agree_nothing_is_due(&self, book: &LeaseBook, now: MonoMillis) {
        let queued = self.queued().map(|(_, waiter)| waiter.deadline);
        assert!(self.leases.values().map(|lease| lease.deadline).chain(queued).all(|deadline| deadline > now));
        assert!(book.next_due().is_none_or(|at| at > now), "something is due and is not done");
    }

    pub fn leases(&self) -> usize {
        self.leases.len()
    }

    pub fn waiters(&self) -> usize {
        self.waiters.len()
    }

    /// Those whose answer is open, oldest first.
    fn queued(&self) -> impl Iterator<Item = (WaiterId, &Waiter)> {
        self.waiters.iter().filter(|(_, waiter)| waiter.verdict.is_none()).map(|(id, waiter)| (*id, waiter))
    }

    fn agree_on(&self, place: Place, book: &LeaseBook) -> Serial {
        let lease = &self.leases[&place];
        let view = book.view(place.db, &place.name()).unwrap_or_else(|| panic!("no lease on {place:?}"));
        assert_eq!(view.holder, lease.holder, "holder of {place:?}");
        assert_eq!((view.granted, view.deadline), (lease.granted, lease.deadline), "times of {place:?}");
        assert_eq!(view.doubt, lease.doubt, "doubt on {place:?}");
        let queue = self.queued().filter(|(_, waiter)| waiter.place == place).map(|(id, _)| id);
        assert!(view.queue.iter().copied().eq(queue), "queue of {place:?}");
        view.serial
    }

    fn grant(&mut self, place: Place, holder: ClientId, ms: u64, doubt: Option<Doubt>, now: MonoMillis) -> GrantNo {
        let number = self.serials.len();
        self.serials.push(None);
        let lease = Lease { number, holder, granted: now, deadline: now.after(ms), doubt };
        assert!(self.leases.insert(place, lease).is_none(), "two leases on {place:?}");
        self.tally.leases_granted += 1;
        number
    }

    /// Ends the lease on `place`; the oldest who waits there holds the next one.
    fn hand_over(&mut self, place: Place, now: MonoMillis) {
        let Some(lease) = self.leases.remove(&place) else { return };
        let Some((id, heir)) = self.queued().find(|(_, waiter)| waiter.place == place) else { return };
        let number = self.grant(place, heir.client, heir.lease_ms, lease.doubt, now);
        self.tally.handovers += 1;
        self.decide_one(id, Verdict::Won(number));
    }

    fn time_out(&mut self, id: WaiterId, now: MonoMillis) {
        let lease = &self.leases[&self.waiters[&id].place];
        let left_ms = lease.deadline.0.saturating_sub(now.0);
        self.tally.waits_timed_out += 1;
        self.decide_one(id, Verdict::Is(Answer::Leased { left_ms }));
    }

    /// Decides for all who wait at `place`; how many they are.
    fn decide(&mut self, place: Place, verdict: &Verdict) -> u64 {
        self.decisions += 1;
        let mut number = 0;
        for waiter in self.waiters.values_mut().filter(|waiter| waiter.place == place && waiter.verdict.is_none()) {
            waiter.verdict = Some((self.decisions, verdict.clone()));
            number += 1;
        }
        number
    }

    fn decide_one(&mut self, id: WaiterId, verdict: Verdict) {
        self.decisions += 1;
        let waiter = self.waiters.get_mut(&id).expect("decided for one who is not there");
        assert_eq!(waiter.verdict, None, "{id:?} is answered twice");
        waiter.verdict = Some((self.decisions, verdict));
    }

    fn same(&self, place: Place, verdict: &Verdict, answer: &Answer) {
        match (verdict, answer) {
            (Verdict::Won(number), Answer::Won(grant)) => {
                assert_eq!(Place::of(&grant.slot), place, "a grant of another key");
                assert_eq!(self.serials[*number], Some(grant.serial), "another grant");
            }
            (Verdict::Is(expected), answer) => assert_eq!(answer, expected),
            (Verdict::Won(_), answer) => panic!("{answer:?} instead of the lease"),
        }
    }

    fn learn(&mut self, number: GrantNo, serial: Serial) {
        match self.serials[number] {
            Some(known) => assert_eq!(known, serial, "a lease changed its number"),
            None => assert!(self.serials_seen.insert(serial), "{serial:?} was used before"),
        }
        self.serials[number] = Some(serial);
    }
}
