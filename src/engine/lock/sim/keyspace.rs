//! The keyspace of a server in small, and the stream of what happens to it: a primary and its
//! replica apply the same effects.

use crate::engine::id::{DbId, DbKey};
use crate::engine::lock::{Change, Lock};
use crate::engine::time::UnixMillis;
use std::collections::BTreeMap;

/// What is under a key.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Lock(Lock, Option<UnixMillis>),
    Other,
}

/// Something that happened to the keyspace.
#[derive(Clone, Debug)]
pub enum Effect {
    Change(DbKey, Change),
    Delete(DbKey),
    Overwrite(DbKey),
    Expire(DbKey, Option<UnixMillis>),
    Rename(DbKey, DbKey),
    Copy(DbKey, DbKey),
    Flush(Option<DbId>),
    Swap(DbId, DbId),
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Keyspace(pub BTreeMap<DbKey, Value>);

impl Keyspace {
    pub fn lock(&self, db_key: &DbKey) -> Option<&Lock> {
        match self.0.get(db_key) {
            Some(Value::Lock(lock, _)) => Some(lock),
            _ => None,
        }
    }

    pub fn locks(&self) -> impl Iterator<Item = (&DbKey, &Lock)> {
        self.0.keys().filter_map(|db_key| self.lock(db_key).map(|lock| (db_key, lock)))
    }

    pub fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::Change(db_key, change) => self.change(db_key, change),
            Effect::Delete(db_key) => drop(self.0.remove(&db_key)),
            Effect::Overwrite(db_key) => drop(self.0.insert(db_key, Value::Other)),
            Effect::Expire(db_key, at) => {
                if let Some(Value::Lock(_, expires)) = self.0.get_mut(&db_key) {
                    *expires = at;
                }
            }
            Effect::Rename(from, to) => {
                let value = match self.0.remove(&from).expect("RENAME of nothing") {
                    Value::Lock(lock, expires) => Value::Lock(lock.unbound(), expires),
                    Value::Other => Value::Other,
                };
                self.0.insert(to, value);
            }
            Effect::Copy(from, to) => {
                let copy = match self.0.get(&from).expect("COPY of nothing") {
                    Value::Lock(lock, expires) => Value::Lock(lock.unbound(), *expires),
                    Value::Other => Value::Other,
                };
                self.0.insert(to, copy);
            }
            Effect::Flush(only) => self.0.retain(|db_key, _| only.is_some_and(|db| db != db_key.db)),
            Effect::Swap(one, other) => {
                let swapped = std::mem::take(&mut self.0).into_iter();
                self.0 = swapped.map(|(db_key, value)| (db_key.swapped(one, other), value)).collect();
            }
        }
    }

    fn change(&mut self, db_key: DbKey, change: Change) {
        match (self.0.get_mut(&db_key), change) {
            (Some(Value::Lock(lock, expires)), change) => {
                lock.apply(change);
                *expires = Some(lock.end());
                if lock.holders().is_empty() {
                    self.0.remove(&db_key);
                }
            }
            (None, Change::Hold { mode, holder }) => {
                let expires = Some(holder.deadline);
                self.0.insert(db_key, Value::Lock(Lock::new(mode, holder), expires));
            }
            (found, change) => panic!("{change:?} of {found:?}"),
        }
    }
}
