//! The keyspace of a server in small, and the stream of what happens to it: a primary and its
//! replica apply the same effects.

use crate::engine::id::{DbId, Slot};
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
    Change(Slot, Change),
    Delete(Slot),
    Overwrite(Slot),
    Expire(Slot, Option<UnixMillis>),
    Rename(Slot, Slot),
    Copy(Slot, Slot),
    Flush(Option<DbId>),
    Swap(DbId, DbId),
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Keyspace(pub BTreeMap<Slot, Value>);

impl Keyspace {
    pub fn lock(&self, slot: &Slot) -> Option<&Lock> {
        match self.0.get(slot) {
            Some(Value::Lock(lock, _)) => Some(lock),
            _ => None,
        }
    }

    pub fn locks(&self) -> impl Iterator<Item = (&Slot, &Lock)> {
        self.0.keys().filter_map(|slot| self.lock(slot).map(|lock| (slot, lock)))
    }

    pub fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::Change(slot, change) => self.change(slot, change),
            Effect::Delete(slot) => drop(self.0.remove(&slot)),
            Effect::Overwrite(slot) => drop(self.0.insert(slot, Value::Other)),
            Effect::Expire(slot, at) => {
                if let Some(Value::Lock(_, expires)) = self.0.get_mut(&slot) {
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
            Effect::Flush(only) => self.0.retain(|slot, _| only.is_some_and(|db| db != slot.db)),
            Effect::Swap(one, other) => {
                let swapped = std::mem::take(&mut self.0).into_iter();
                self.0 = swapped.map(|(slot, value)| (slot.swapped(one, other), value)).collect();
            }
        }
    }

    fn change(&mut self, slot: Slot, change: Change) {
        match (self.0.get_mut(&slot), change) {
            (Some(Value::Lock(lock, expires)), change) => {
                lock.apply(change);
                *expires = Some(lock.end());
                if lock.holders().is_empty() {
                    self.0.remove(&slot);
                }
            }
            (None, Change::Hold { mode, holder }) => {
                let expires = Some(holder.deadline);
                self.0.insert(slot, Value::Lock(Lock::new(mode, holder), expires));
            }
            (found, change) => panic!("{change:?} of {found:?}"),
        }
    }
}
