//! Which locks end with which connection.
//!
//! The bond itself is a mark on the holder in the value; this is the way from a connection to its
//! marks. Entries go when the holder does or its lock leaves the key, so a connection that takes a
//! million locks leaves nothing behind. What an entry points to is looked at all the same before
//! anything is released. A mark without an entry counts for nothing.

use super::Owner;
use crate::engine::id::{ClientId, DbId, DbKey};
use ahash::AHashMap;
use std::collections::BTreeSet;

/// The locks bound to each connection.
#[derive(Debug, Default)]
pub(super) struct Bonds {
    all: AHashMap<ClientId, BTreeSet<(DbKey, Owner)>>,
}

impl Bonds {
    pub fn tie(&mut self, client: ClientId, db_key: DbKey, owner: Owner) {
        self.all.entry(client).or_default().insert((db_key, owner));
    }

    pub fn untie(&mut self, client: ClientId, db_key: &DbKey, owner: &Owner) {
        let Some(bonds) = self.all.get_mut(&client) else { return };
        bonds.remove(&(db_key.clone(), Owner::clone(owner)));
        if bonds.is_empty() {
            self.cut(client);
        }
    }

    /// True if that lock ends with that connection.
    pub fn ties(&self, client: ClientId, db_key: DbKey, owner: Owner) -> bool {
        self.all.get(&client).is_some_and(|bonds| bonds.contains(&(db_key, owner)))
    }

    /// The connection closed.
    pub fn cut(&mut self, client: ClientId) -> BTreeSet<(DbKey, Owner)> {
        let bonds = self.all.remove(&client).unwrap_or_default();
        if self.all.is_empty() {
            self.all.shrink_to(64);
        }
        bonds
    }

    /// All locks of a database, or of all, are gone.
    pub fn forget(&mut self, only: Option<DbId>) {
        self.all.retain(|_, bonds| {
            bonds.retain(|(db_key, _)| only.is_some_and(|db| db != db_key.db));
            !bonds.is_empty()
        });
        self.all.shrink_to(64);
    }

    /// The locks of two databases changed places.
    pub fn swap(&mut self, one: DbId, other: DbId) {
        for bonds in self.all.values_mut() {
            let swapped = |(db_key, owner): (DbKey, Owner)| (db_key.swapped(one, other), owner);
            *bonds = std::mem::take(bonds).into_iter().map(swapped).collect();
        }
    }

    #[cfg(test)]
    pub fn iter(&self) -> impl Iterator<Item = (ClientId, &DbKey, &Owner)> {
        self.all.iter().flat_map(|(client, bonds)| bonds.iter().map(|(db_key, owner)| (*client, db_key, owner)))
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}
