//! Which locks end with which connection.
//!
//! The bond itself is a mark on the holder in the value; this is the way from a connection to its
//! marks. An entry may be out of date (a lock that was renamed, swapped or flushed away): what it
//! points to is looked at before anything is released, so that costs a look and no more. Entries
//! go when the holder does, so a connection that takes a million locks leaves nothing behind.

use super::super::waiters::{ClientId, DbId, Slot};
use super::Owner;
use ahash::AHashMap;
use std::collections::BTreeSet;

/// The locks bound to each connection.
#[derive(Debug, Default)]
pub(super) struct Bonds {
    all: AHashMap<ClientId, BTreeSet<(Slot, Owner)>>,
}

impl Bonds {
    pub fn tie(&mut self, client: ClientId, slot: Slot, owner: Owner) {
        self.all.entry(client).or_default().insert((slot, owner));
    }

    pub fn untie(&mut self, client: ClientId, slot: &Slot, owner: &Owner) {
        let Some(bonds) = self.all.get_mut(&client) else { return };
        bonds.remove(&(slot.clone(), Owner::clone(owner)));
        if bonds.is_empty() {
            self.all.remove(&client);
        }
    }

    /// The connection closed.
    pub fn cut(&mut self, client: ClientId) -> BTreeSet<(Slot, Owner)> {
        self.all.remove(&client).unwrap_or_default()
    }

    /// All locks of a database, or of all, are gone.
    pub fn forget(&mut self, only: Option<DbId>) {
        self.all.retain(|_, bonds| {
            bonds.retain(|(slot, _)| only.is_some_and(|db| db != slot.db));
            !bonds.is_empty()
        });
    }

    /// The locks of two databases changed places.
    pub fn swap(&mut self, one: DbId, other: DbId) {
        for bonds in self.all.values_mut() {
            let swapped = |(slot, owner): (Slot, Owner)| (slot.swapped(one, other), owner);
            *bonds = std::mem::take(bonds).into_iter().map(swapped).collect();
        }
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}
