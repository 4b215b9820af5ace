//! What must hold after each step.

use super::keyspace::Value;
use super::world::World;
use crate::engine::id::{Bond, DbKey};
use crate::engine::lock::{Holder, Judged, Lock, Mode};

impl World {
    pub fn check(&mut self) {
        self.locks.validate();
        let now = self.now().unix;
        for (db_key, lock) in self.keyspace.locks() {
            check_holders(db_key, lock, lock.live(now).count());
        }
        self.check_beliefs();
        self.check_bonds();
        self.check_replica();
        if self.locks.next_touched().is_none() && self.locks.next_due().is_none_or(|at| at > self.now().mono) {
            self.check_lines();
        }
    }

    /// Who was told that it holds a lock does, or its deadline has passed, or the key's.
    fn check_beliefs(&mut self) {
        let now = self.now().unix;
        for belief in self.beliefs.iter().filter(|belief| belief.deadline > now) {
            let Some(Value::Lock(lock, _)) = self.keyspace.0.get(&belief.db_key) else {
                panic!("{belief:?}, and the lock is not there");
            };
            let holder = lock.holder(&[belief.owner], now);
            assert!(holder.is_some_and(|holder| holder.fence == belief.fence), "{belief:?} in {lock:?}");
        }
        // Of those who are told that they hold a lock alone, there is one.
        for (at, one) in self.beliefs.iter().enumerate().filter(|(_, belief)| belief.deadline > now) {
            for other in self.beliefs.iter().skip(at + 1).filter(|other| other.deadline > now) {
                let exclusive = self.keyspace.lock(&one.db_key).is_some_and(|lock| lock.mode() == Mode::Exclusive);
                assert!(one.db_key != other.db_key || !exclusive, "{one:?} and {other:?} at once");
            }
        }
    }

    /// Each bond is that of a holder that is there, and none was tied anew that had been forgotten.
    fn check_bonds(&self) {
        for (client, db_key, owner) in self.locks.ties() {
            let holder =
                self.keyspace.lock(db_key).and_then(|lock| lock.holders().iter().find(|it| it.owner == *owner));
            let tie = holder.and_then(Holder::tie);
            assert_eq!(tie.map(|(client, _)| client), Some(client), "a bond of {owner:?} to {db_key:?} is left behind");
            assert!(
                holder.is_none_or(|holder| !self.untied.contains(&(db_key.clone(), holder.fence))),
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
        for (db_key, line) in &self.lines {
            if let Some(head) = line.first() {
                let judged = self.judge(db_key, head);
                assert_eq!(judged, Judged::Busy, "{head:?} at {db_key:?} {:?}", self.keyspace.0.get(db_key));
            }
            for waits in line {
                assert!(waits.deadline > now.mono, "{waits:?} waits too long");
                assert!(self.clients.contains(&waits.client), "{waits:?} is gone");
                assert!(!self.owed.contains_key(&waits.id), "{waits:?} has a reply");
            }
        }
        for (db_key, lock) in self.keyspace.locks() {
            let untied = |holder: &Holder| self.untied.contains(&(db_key.clone(), holder.fence));
            let gone = |holder: &&Holder| {
                let closed = holder.client.is_some_and(|client| !self.clients.contains(&client));
                holder.bond == Bond::Bound && closed && !untied(holder)
            };
            assert!(lock.live(now.unix).find(gone).is_none(), "{db_key:?} is bound to nobody: {lock:?}");
        }
    }
}

fn check_holders(db_key: &DbKey, lock: &Lock, live: usize) {
    let places = match lock.mode() {
        Mode::Exclusive => 1,
        Mode::Shared => usize::MAX,
        Mode::Permits(n) => n as usize,
    };
    assert!(live <= places, "{live} hold {db_key:?} of {places}: {lock:?}");
    assert!(lock.holders().len() <= places, "more are written than a file may hold: {lock:?}");
    let rises = lock.holders().windows(2).all(|pair| pair[0].fence < pair[1].fence);
    assert!(rises, "two holders of one number: {lock:?}");
}
