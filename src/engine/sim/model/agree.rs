//! Where the model and the book are held against each other.

use super::{GrantNo, Kind, Model, Place, Verdict};
use crate::engine::cache::leases::{Leases, Serial, Touch};
use crate::engine::cache::pending::Reply;
use crate::engine::id::WaiterId;
use crate::engine::time::MonoMillis;

impl Model {
    /// A waiter leaves, with the answer that was decided for it, if one was.
    pub fn leave(&mut self, id: WaiterId, now: MonoMillis, reply: Option<&Reply>) {
        let Some(waiter) = self.waiters.remove(&id) else {
            return assert_eq!(reply, None, "a reply for {id:?}, who is not there");
        };
        self.waits_left += 1;
        self.stats.wait_ms_total += now.0 - waiter.since.0;
        match (waiter.verdict, reply) {
            (None, None) => {}
            (Some((_, verdict)), Some(reply)) => self.same(&verdict, reply),
            (verdict, reply) => panic!("{id:?} leaves with {reply:?}, but {verdict:?} was decided"),
        }
    }

    /// An answer reaches a waiter: the one decided for it, and nobody is overtaken, but for the grants of
    /// leases that overtake other answers.
    pub fn deliver(&mut self, id: WaiterId, reply: &Reply, now: MonoMillis) {
        let waiter = self.waiters.remove(&id).unwrap_or_else(|| panic!("{id:?} is answered and does not wait"));
        let (decision, verdict) = waiter.verdict.unwrap_or_else(|| panic!("nothing was decided for {id:?}: {reply:?}"));
        self.same(&verdict, reply);
        let is_grant = |verdict: &Verdict| matches!(verdict, Verdict::Won(_));
        let decided = self.waiters.iter().filter_map(|(id, w)| Some((id, w.verdict.as_ref()?)));
        for (other, (before, theirs)) in decided.filter(|(_, (_, theirs))| is_grant(theirs) == is_grant(&verdict)) {
            assert!(*before > decision || theirs == &verdict || *before == decision, "{id:?} overtakes {other:?}");
            assert!(*before != decision || *other > id, "{id:?} overtakes the older {other:?}");
        }
        self.waits_answered += 1;
        self.stats.wait_ms_total += now.0 - waiter.since.0;
    }

    /// Compares everything that can be seen of `leases`, and the model with itself.
    pub fn agree(&mut self, leases: &Leases) {
        assert_eq!(leases.leases(), self.leases.len(), "leases out");
        assert_eq!(leases.waiters().len(), self.waiters.len(), "waiters");
        assert_eq!(leases.waiters().peak(), self.peak, "peak of waiters");
        let learnt: Vec<_> =
            self.leases.iter().map(|(place, lease)| (lease.number, self.agree_on(*place, leases))).collect();
        learnt.into_iter().for_each(|(number, serial)| self.learn(number, serial));
        let decided: Vec<_> = leases.decided().collect();
        for (id, reply) in &decided {
            let waiter = self.waiters.get(id).unwrap_or_else(|| panic!("{id:?} is to be answered and does not wait"));
            let Some((_, verdict)) = waiter.verdict.clone() else { panic!("{id:?} is told {reply:?} for no reason") };
            self.same(&verdict, reply);
        }
        assert_eq!(decided.len(), self.waiters.len() - self.queued().count(), "replies decided");
        assert_eq!(leases.has_replies(), !decided.is_empty());
        assert_eq!(leases.is_idle(), self.leases.is_empty() && self.waiters.is_empty());
        assert_eq!(leases.stats, self.stats);
        let t = self.stats;
        let ended = t.leases_expired + t.leases_voided + t.leases_disconnected + t.leases_released + t.leases_failed;
        let out = self.leases.len() as u64;
        assert_eq!(t.leases_granted, ended + self.leases_done + out, "each lease ends once");
        assert_eq!(t.waits, self.waits_answered + self.waits_left + self.waiters.len() as u64, "each wait ends once");
        for (id, waiter) in self.queued() {
            let leased = |place: &Place| self.leases.get(place).is_some_and(|lease| lease.holder != waiter.client);
            assert!(
                !waiter.places.is_empty() && waiter.places.iter().all(leased),
                "{id:?} waits for nobody, or itself"
            );
        }
    }

    /// Compares what is told of the keys `at` at `now`: less often needed, and dearer.
    pub fn agree_in_detail(&self, leases: &Leases, now: MonoMillis, at: impl Iterator<Item = Place>) {
        for place in at {
            assert_eq!(leases.failure(place.db, &place.name(), now), self.failure(place, now), "failure of {place:?}");
            let view = leases.view(place.db, &place.name(), now);
            let lease = self.leases.get(&place).filter(|lease| lease.deadline > now);
            assert_eq!(view.is_some(), lease.is_some(), "whether {place:?} is shown");
            if let (Some(view), Some(lease)) = (view, lease) {
                let shown = (view.holder, view.age_ms, view.left_ms, view.waiters);
                let (age_ms, left_ms) = (now.0 - lease.granted.0, lease.deadline.0 - now.0);
                assert_eq!(shown, (lease.holder, age_ms, left_ms, self.queued_at(place).count()), "{place:?}");
            }
        }
        for (id, _) in self.queued() {
            assert_eq!(leases.lease_left_ms(id, now), self.lease_left_ms(id, now), "what {id:?} waits for");
        }
        let waited_for = |place: &&Place| self.is_waited_for(**place);
        let expected: Vec<_> = self.leases.keys().filter(waited_for).copied().collect();
        let mut told: Vec<_> = leases.waited_for().iter().map(Place::of).collect();
        told.sort_unstable();
        assert_eq!(told, expected, "keys that are waited for");
        told.retain(|place| self.leases[place].deadline <= now);
        if let Some(next) = leases.next_handover(now) {
            assert!(told.contains(&Place::of(&next)), "{next:?} will be handed over");
        }
        let views = leases.views(usize::MAX, now);
        let stays = self.leases.values().filter(|lease| lease.touch != Some(Touch::Invalidated));
        assert_eq!(views.len(), stays.count(), "leases shown");
        assert!(views.is_sorted_by_key(|view| std::cmp::Reverse(view.waiters)), "most waiters first");
    }

    /// After what was due at `now` has ended, all that remains lies in the future.
    pub fn agree_nothing_is_due(&self, leases: &Leases, now: MonoMillis) {
        assert!(self.dues().all(|(at, _)| at > now));
        assert!(leases.next_due().is_none_or(|at| at > now), "something is due and is not done");
    }

    fn agree_on(&self, place: Place, leases: &Leases) -> Serial {
        let lease = &self.leases[&place];
        let inside = leases.inside(place.db, &place.name()).unwrap_or_else(|| panic!("no lease on {place:?}"));
        assert_eq!((inside.holder, inside.bond), (lease.holder, lease.bond), "holder of {place:?}");
        assert_eq!((inside.granted, inside.deadline), (lease.granted, lease.deadline), "times of {place:?}");
        assert_eq!(inside.touch, lease.touch, "touch on {place:?}");
        let purpose = (inside.is_early, inside.serves_stale);
        assert_eq!(purpose, (lease.is_early, lease.serves_stale), "purpose of {place:?}");
        assert!(inside.queue.iter().copied().eq(self.queued_at(place).map(|(id, _)| id)), "queue of {place:?}");
        inside.serial
    }

    pub(super) fn same(&mut self, verdict: &Verdict, reply: &Reply) {
        match (verdict, reply) {
            (Verdict::Won(number), Reply::Won(grant)) => {
                self.learn(*number, grant.serial);
                let granted = &self.grants[*number];
                assert_eq!(Place::of(&grant.db_key), granted.place, "a grant of another key");
                assert_eq!(granted.deadline, grant.deadline, "a grant of another length");
                let first = *self.tokens.entry(grant.token.0).or_insert(grant.serial);
                assert_eq!(first, grant.serial, "a token that was given before");
            }
            (Verdict::Is(expected), reply) => assert_eq!(reply, expected),
            (Verdict::Won(_), reply) => panic!("{reply:?} instead of the lease"),
        }
    }

    pub(super) fn learn(&mut self, number: GrantNo, serial: Serial) {
        let known = self.grants[number].serial.replace(serial);
        assert!(known.is_none_or(|known| known == serial), "another grant");
        assert_eq!(*self.serials.entry(serial).or_insert(number), number, "{serial:?} was used before");
    }

    /// Whether some group waits for more than one key.
    pub fn has_wide_group(&self) -> bool {
        self.queued().any(|(_, waiter)| waiter.kind == Kind::Group && waiter.places.len() > 1)
    }
}
