//! What happens to locks outside of commands that ask for them: keys go by other hands, connections
//! close, answers are not heard.
//!
//! Some of it is noticed where keys must not be touched. So it is noted, and [`Locks::step`] says
//! what follows from it once the key can be looked at: before the turn of the event loop ends, and
//! before any command decides about the key.

use super::reply::{Granted, Reply};
use super::value::Tie;
use super::{Change, Holder, Lock, Locks, Owner};
use crate::engine::id::{Bond, ClientId, DbId, DbKey};
use crate::engine::time::UnixMillis;
use std::ops::Bound;
use std::rc::Rc;

/// Why a holder is to lose its lock, if it still holds it as it did then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The connection it is bound to closed.
    Closed(ClientId),
    /// It was granted this number on that connection and did not hear of it.
    Undelivered(ClientId, u64),
}

impl Locks {
    /// A connection did not hear of its grant: that is taken back, unless another one is told of it and may
    /// have heard.
    pub fn undelivered(&mut self, granted: &Granted) {
        let others = granted.told.get().saturating_sub(1);
        granted.told.set(others);
        if others > 0 {
            return;
        }
        let loss = Loss::Undelivered(granted.holder, granted.fence);
        self.touched.entry(granted.db_key.clone()).or_default().push((Owner::clone(&granted.owner), loss));
    }

    /// A connection closed: what is bound to it is to be released. True if anything is.
    pub fn disconnect(&mut self, client: ClientId) -> bool {
        let bonds = self.bonds.cut(client);
        let any = !bonds.is_empty();
        for (db_key, owner) in bonds {
            self.touched.entry(db_key).or_default().push((owner, Loss::Closed(client)));
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
        let db_key = DbKey { db, key: key.into() };
        for (client, owner) in untied {
            self.bonds.untie(client, &db_key, &owner);
        }
        if let Some((client, owner)) = tied {
            self.bonds.tie(client, db_key, owner);
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
        let is_tied = |(client, owner)| self.bonds.ties(client, DbKey { db, key: key.into() }, owner);
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
                self.bonds.untie(client, &DbKey { db, key: key.into() }, &owner);
            }
        }
        lock.unbind();
        self.mark_touched(db, key)
    }

    /// The key may have changed. True if somebody waits for it.
    pub fn mark_touched(&mut self, db: DbId, key: &[u8]) -> bool {
        let Some((name, dbs)) = self.lines.get_key_value(key) else { return false };
        if !dbs.contains_key(&db) {
            return false;
        }
        self.touched.entry(DbKey { db, key: Rc::clone(name) }).or_default();
        true
    }

    /// Every key of database `only` (`None`: of all) went.
    pub fn flushed(&mut self, only: Option<DbId>) {
        self.bonds.forget(only);
        self.mark_all_touched(only);
    }

    /// The keys of two databases changed places; who waits stays where it is.
    pub fn swapped(&mut self, one: DbId, other: DbId) {
        self.bonds.swap(one, other);
        for reply in self.replies.iter_mut() {
            if let Reply::Granted(granted) = reply {
                granted.db_key = granted.db_key.clone().swapped(one, other);
            }
        }
        let touched = std::mem::take(&mut self.touched).into_iter();
        self.touched = touched.map(|(db_key, losses)| (db_key.swapped(one, other), losses)).collect();
        self.mark_all_touched(Some(one));
        self.mark_all_touched(Some(other));
    }

    fn mark_all_touched(&mut self, only: Option<DbId>) {
        for (key, dbs) in &self.lines {
            for db in dbs.keys().filter(|db| only.is_none_or(|only| only == **db)) {
                self.touched.entry(DbKey { db: *db, key: Rc::clone(key) }).or_default();
            }
        }
    }

    /// Forgets what was noted about a key that is not this server's to decide about any more.
    pub fn forget_touched(&mut self, db_key: &DbKey) {
        self.touched.remove(db_key);
    }

    /// A key about which [`Self::step`] has something to say.
    #[must_use]
    pub fn next_touched(&self) -> Option<DbKey> {
        self.touched.first_key_value().map(|(db_key, _)| db_key.clone())
    }

    /// The next such key after `last`, round and round: a long line before one key does not hold up others.
    #[must_use]
    pub fn next_touched_after(&self, last: Option<&DbKey>) -> Option<DbKey> {
        let Some(last) = last else { return self.next_touched() };
        let after = self.touched.range((Bound::Excluded(last), Bound::Unbounded)).next();
        after.map(|(db_key, _)| db_key.clone()).or_else(|| self.next_touched())
    }

    /// `key`, if [`Self::step`] has something to say about it, or somebody waits for it.
    #[must_use]
    pub fn concerned(&self, db: DbId, key: &[u8]) -> Option<DbKey> {
        if self.lines.is_empty() && self.touched.is_empty() {
            return None;
        }
        if let Some((name, _)) = self.lines.get_key_value(key).filter(|(_, dbs)| dbs.contains_key(&db)) {
            return Some(DbKey { db, key: Rc::clone(name) });
        }
        let db_key = DbKey { db, key: key.into() };
        self.touched.contains_key(&db_key).then_some(db_key)
    }
}

impl Loss {
    pub(super) fn concerns(self, holder: &Holder) -> bool {
        match self {
            Self::Closed(client) => holder.client == Some(client) && holder.bond == Bond::Bound,
            Self::Undelivered(client, fence) => {
                holder.client == Some(client) && holder.fence == fence && !holder.told_twice
            }
        }
    }
}
