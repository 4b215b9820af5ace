//! What happens to locks outside of commands that ask for them: keys go by other hands, connections
//! close, answers are not heard.
//!
//! Some of it is noticed where keys must not be touched. So it is noted, and [`LockBook::step`] says
//! what follows from it once the key can be looked at: before the turn of the event loop ends, and
//! before any command decides about the key.

use super::answer::Granted;
use super::value::Tie;
use super::{Change, Holder, Lock, LockBook, Owner};
use crate::engine::id::{Bond, ClientId, DbId, Slot};
use crate::engine::time::UnixMillis;
use std::rc::Rc;

/// Why a holder is to lose its lock, if it still holds it as it did then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The connection it is bound to closed.
    Closed(ClientId),
    /// It was granted this number on that connection and did not hear of it.
    Unheard(ClientId, u64),
}

impl LockBook {
    /// A grant was decided and nobody heard of it: it is taken back, unless it was told elsewhere.
    pub fn unheard(&mut self, granted: &Granted) {
        let loss = Loss::Unheard(granted.client, granted.fence);
        self.doubted.entry(granted.slot.clone()).or_default().push((Owner::clone(&granted.owner), loss));
    }

    /// A connection closed: what is bound to it is to be released. True if anything is.
    pub fn disconnect(&mut self, client: ClientId) -> bool {
        let bonds = self.bonds.cut(client);
        let any = !bonds.is_empty();
        for (slot, owner) in bonds {
            self.doubted.entry(slot).or_default().push((owner, Loss::Closed(client)));
        }
        any
    }

    /// `change` was made to the lock under `key`, and `untied` holders.
    pub fn committed(&mut self, db: DbId, key: &[u8], change: &Change, untied: Vec<Tie>) {
        let tied = match change {
            Change::Hold { holder, .. } => holder.tie(),
            Change::Drop { .. } | Change::Clear => None,
        };
        if untied.is_empty() && tied.is_none() {
            return;
        }
        let slot = Slot { db, key: key.into() };
        for (client, owner) in untied {
            self.bonds.untie(client, &slot, &owner);
        }
        if let Some((client, owner)) = tied {
            self.bonds.tie(client, slot, owner);
        }
    }

    /// The change that lets the holder `owner` of the lock under `key` hold until `deadline`; `None` if it
    /// holds nothing at `now`. A bond stays as it is; one that was forgotten is not tied again.
    #[must_use]
    pub fn extend(
        &self,
        (db, key): (DbId, &[u8]),
        lock: &Lock,
        owner: &[u8],
        deadline: UnixMillis,
        now: UnixMillis,
    ) -> Option<Change> {
        let mut change = lock.extend(owner, deadline, now)?;
        if let Change::Hold { holder, .. } = &mut change {
            holder.bond = self.bond(db, key, holder);
        }
        Some(change)
    }

    /// Whether a holder of the lock under `key` loses it with its connection. What the value says may be
    /// out of date: a server that becomes a replica forgets all bonds.
    #[must_use]
    pub fn bond(&self, db: DbId, key: &[u8], holder: &Holder) -> Bond {
        let is_tied = |(client, owner)| self.bonds.ties(client, Slot { db, key: key.into() }, owner);
        if holder.tie().is_some_and(is_tied) {
            Bond::Bound
        } else {
            Bond::Free
        }
    }

    /// The lock under `key` is about to leave it, by other hands or by ours: bonds do not follow. True if
    /// somebody waits for the key.
    pub fn removed(&mut self, db: DbId, key: &[u8], lock: &mut Lock) -> bool {
        if !self.bonds.is_empty() {
            for (client, owner) in lock.holders().iter().filter_map(Holder::tie) {
                self.bonds.untie(client, &Slot { db, key: key.into() }, &owner);
            }
        }
        lock.unbind();
        self.doubt(db, key)
    }

    /// The key may have changed. True if somebody waits for it.
    pub fn doubt(&mut self, db: DbId, key: &[u8]) -> bool {
        let Some((name, dbs)) = self.lines.get_key_value(key) else { return false };
        if !dbs.contains_key(&db) {
            return false;
        }
        self.doubted.entry(Slot { db, key: Rc::clone(name) }).or_default();
        true
    }

    /// Every key of database `only` (`None`: of all) went.
    pub fn flushed(&mut self, only: Option<DbId>) {
        self.bonds.forget(only);
        self.doubt_all(only);
    }

    /// The keys of two databases changed places; who waits stays where it is.
    pub fn swapped(&mut self, one: DbId, other: DbId) {
        self.bonds.swap(one, other);
        let doubted = std::mem::take(&mut self.doubted).into_iter();
        self.doubted = doubted.map(|(slot, losses)| (slot.swapped(one, other), losses)).collect();
        self.doubt_all(Some(one));
        self.doubt_all(Some(other));
    }

    fn doubt_all(&mut self, only: Option<DbId>) {
        for (key, dbs) in &self.lines {
            for db in dbs.keys().filter(|db| only.is_none_or(|only| only == **db)) {
                self.doubted.entry(Slot { db: *db, key: Rc::clone(key) }).or_default();
            }
        }
    }

    /// Forgets what was noted about a key that is not this server's to decide about any more.
    pub fn believe(&mut self, slot: &Slot) {
        self.doubted.remove(slot);
    }

    /// A key about which [`Self::step`] has something to say.
    #[must_use]
    pub fn next_doubted(&self) -> Option<Slot> {
        self.doubted.first_key_value().map(|(slot, _)| slot.clone())
    }

    /// `key`, if [`Self::step`] has something to say about it, or somebody waits for it.
    #[must_use]
    pub fn concerned(&self, db: DbId, key: &[u8]) -> Option<Slot> {
        if self.lines.is_empty() && self.doubted.is_empty() {
            return None;
        }
        if let Some((name, _)) = self.lines.get_key_value(key).filter(|(_, dbs)| dbs.contains_key(&db)) {
            return Some(Slot { db, key: Rc::clone(name) });
        }
        let slot = Slot { db, key: key.into() };
        self.doubted.contains_key(&slot).then_some(slot)
    }
}

impl Loss {
    pub(super) fn concerns(self, holder: &Holder) -> bool {
        match self {
            Self::Closed(client) => holder.client == Some(client) && holder.bond == Bond::Bound,
            Self::Unheard(client, fence) => {
                holder.client == Some(client) && holder.fence == fence && !holder.told_twice
            }
        }
    }
}
