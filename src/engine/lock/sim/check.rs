//! What must hold after each step.

use super::keyspace::Value;
use super::world::World;
use crate::engine::id::{Bond, Slot};
use crate::engine::lock::{Holder, Judged, Lock, Mode};

impl World {
    pub fn check(&mut self) {
        self.book.validate();
        let now = self.now().unix;
        for (slot, lock) in self.keyspace.locks() {
            check_holders(slot, lock, lock.live(now).count());
        }
        self.check_beliefs();
        self.check_bonds();
        self.check_replica();
        if self.book.next_doubted().is_none() && self.book.next_due().is_none_or(|at| at > self.now().mono) {
            self.check_lines();
        }
    }

    /// Who was told that it holds a lock does, or its deadline has passed, or the key's.
    fn check_beliefs(&mut self) {
        let now = self.now().unix;
        for belief in self.beliefs.iter().filter(|belief| belief.deadline > now) {
            let Some(Value::Lock(lock, _)) = self.keyspace.0.get(&belief.slot) else {
                panic!("{belief:?}, and the lock is not there");
            };
            let holder = lock.holder(&[belief.owner], now);
            assert!(holder.is_some_and(|holder| holder.fence == belief.fence), "{belief:?} in {lock:?}");
        }
        // Of those who are told that they hold a lock alone, there is one.
        for (at, one) in self.beliefs.iter().enumerate().filter(|(_, belief)| belief.deadline > now) {
            for other in self.beliefs.iter().skip(at + 1).filter(|other| other.deadline > now) {
                let exclusive = self.keyspace.lock(&one.slot).is_some_and(|lock| lock.mode() == Mode::Exclusive);
                assert!(one.slot != other.slot || !exclusive, "{one:?} and {other:?} at once");
            }
        }
    }

    /// Each bond is that of a holder that is there, and none was tied anew that had been forgotten.
    fn check_bonds(&self) {
        for (client, slot, owner) in self.book.ties() {
            let holder = self.keyspace.lock(slot).and_then(|lock| lock.holders().iter().find(|it| it.owner == *owner));
            let tie = holder.and_then(Holder::tie);
            assert_eq!(tie.map(|(client, _)| client), Some(client), "a bond of {owner:?} to {slot:?} is left behind");
            assert!(
                holder.is_none_or(|holder| !self.untied.contains(&(slot.clone(), holder.fence))),
                "{holder:?} was untied"
            );
        }
    }

    fn check_replica(&self) {
        let mut replica = self.replica.clone();
        self.unsent.iter().for_each(|effect| replica.apply(effect.clone()));
        assert_eq!(replica, self.keyspace, "the replica");
    }

    /// Nobody waits who need not, or longer than it wanted, or for a connection that is gone.
    fn check_lines(&self) {
        let now = self.now();
        for (slot, line) in &self.lines {
            if let Some(head) = line.first() {
                let judged = self.judge(slot, head);
                assert_eq!(judged, Judged::Busy, "{head:?} at {slot:?} {:?}", self.keyspace.0.get(slot));
            }
            for waits in line {
                assert!(waits.deadline > now.mono, "{waits:?} waits too long");
                assert!(self.clients.contains(&waits.client), "{waits:?} is gone");
                assert!(!self.owed.contains_key(&waits.id), "{waits:?} has an answer");
            }
        }
        for (slot, lock) in self.keyspace.locks() {
            let untied = |holder: &Holder| self.untied.contains(&(slot.clone(), holder.fence));
            let gone = |holder: &&Holder| {
                let closed = holder.client.is_some_and(|client| !self.clients.contains(&client));
                holder.bond == Bond::Bound && closed && !untied(holder)
            };
            assert!(lock.live(now.unix).find(gone).is_none(), "{slot:?} is bound to nobody: {lock:?}");
        }
    }
}

fn check_holders(slot: &Slot, lock: &Lock, live: usize) {
    let places = match lock.mode() {
        Mode::Exclusive => 1,
        Mode::Shared => usize::MAX,
        Mode::Permits(n) => n as usize,
    };
    assert!(live <= places, "{live} hold {slot:?} of {places}: {lock:?}");
    assert!(lock.holders().len() <= places, "more are written than a file may hold: {lock:?}");
    let rises = lock.holders().windows(2).all(|pair| pair[0].fence < pair[1].fence);
    assert!(rises, "two holders of one number: {lock:?}");
}
