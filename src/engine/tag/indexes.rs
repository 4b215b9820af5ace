//! The indexes of all databases, and how entries come and go.
//!
//! An entry under a key is entered in the index of its database, where its tags are; while it is
//! under none (it is being loaded, copied, renamed) it carries them along. [`TagIndexes::attach`] and
//! [`TagIndexes::detach`] bring it from one to the other.
//!
//! Each index is of one database, so that SWAPDB exchanges two and FLUSHDB drops one; what is
//! dropped is taken apart in slices.

use super::{Arrival, KeyId, Standing, TagIndex};
use crate::engine::cache::entry::{Carried, Entry, Tags};
use crate::engine::id::DbId;
use crate::engine::time::UnixMillis;
use std::collections::BTreeMap;

/// All tags.
#[derive(Debug)]
pub struct TagIndexes {
    seed: u64,
    indexes: BTreeMap<DbId, Box<TagIndex>>,
    /// Of databases that were emptied.
    dropped: Vec<TagIndex>,
}

/// Entries that are to be deleted.
#[derive(Debug, PartialEq, Eq)]
pub struct Doomed {
    /// Their database.
    pub db: DbId,
    /// Their numbers and names.
    pub entries: Vec<(KeyId, Box<[u8]>)>,
}

impl TagIndexes {
    /// No tags; `seed` as of [`TagIndex::new`].
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, indexes: BTreeMap::new(), dropped: Vec::new() }
    }

    /// The index of `db`, if it was ever needed.
    #[inline]
    #[must_use]
    pub fn index(&self, db: DbId) -> Option<&TagIndex> {
        self.indexes.get(&db).map(|index| &**index)
    }

    /// The index of `db`.
    pub fn index_of(&mut self, db: DbId) -> &mut TagIndex {
        let seed = self.seed;
        self.indexes.entry(db).or_insert_with(|| Box::new(TagIndex::new(seed)))
    }

    /// All of them.
    pub fn indexes(&self) -> impl Iterator<Item = (DbId, &TagIndex)> {
        self.indexes.iter().map(|(db, index)| (*db, &**index))
    }

    /// What the tags of an entry of `db` have done to it. O(tags).
    #[inline]
    #[must_use]
    pub fn standing(&self, db: DbId, entry: &Entry) -> Standing {
        match entry.tags() {
            None => Standing::Live,
            Some(Tags::Indexed(id)) => self.index(db).map_or(Standing::Dead, |index| index.standing(*id)),
            Some(Tags::Carried(carried)) => carried.standing,
        }
    }

    /// Since when an entry of `db` is stale by its tags; the earliest time if nobody knows.
    #[must_use]
    pub fn stale_since(&self, db: DbId, entry: &Entry) -> UnixMillis {
        match entry.tags() {
            None => UnixMillis::default(),
            Some(Tags::Indexed(id)) => self.index(db).map_or(UnixMillis::default(), |index| index.stale_since(*id)),
            Some(Tags::Carried(carried)) => carried.since,
        }
    }

    /// What an entry of `db` would take along. One allocation a tag.
    #[must_use]
    pub fn carried(&self, db: DbId, entry: &Entry) -> Carried {
        match entry.tags() {
            None => Carried::default(),
            Some(Tags::Indexed(id)) => self.index(db).map_or_else(Carried::default, |index| Carried {
                names: index.names(*id).map(Into::into).collect(),
                standing: index.standing(*id),
                since: index.stale_since(*id),
            }),
            Some(Tags::Carried(carried)) => carried.clone(),
        }
    }

    /// An entry came to be under `key` of `db`: what it carries is entered. O(tags).
    pub fn attach(&mut self, db: DbId, key: &[u8], entry: &mut Entry, now: UnixMillis) {
        let Some(Tags::Carried(carried)) = entry.tags() else { return };
        let arrival = Arrival { standing: carried.standing, since: carried.since, bytes: entry.value().len(), now };
        let id = self.index_of(db).insert(key, carried.names.iter().map(|name| &**name), arrival);
        entry.set_tags(Some(Tags::Indexed(id)));
    }

    /// An entry is about to leave `key` of `db`: it takes along what it has there. One that the
    /// server had hidden was given up as gone, and another may have its number now: it is dead.
    /// O(tags).
    pub fn detach(&mut self, db: DbId, key: &[u8], entry: &mut Entry) {
        if let Some(&Tags::Indexed(id)) = entry.tags() {
            let is_known = self.index(db).and_then(|index| index.key(id)) == Some(key);
            let carried = if is_known { self.carried(db, entry) } else { Carried::dead() };
            entry.set_tags(Some(Tags::Carried(carried)));
            if is_known {
                self.index_of(db).remove(id);
            }
        }
    }

    /// All entries of `db` whose keys `of` says were dropped, untold. O(entries).
    pub fn drop_some(&mut self, db: DbId, of: impl Fn(&[u8]) -> bool) {
        if let Some(index) = self.indexes.get_mut(&db) {
            index.drop_some(of);
        }
    }

    /// Takes an entry of `db` that is about to be deleted or overwritten out of the index. O(tags).
    pub fn remove_entry(&mut self, db: DbId, entry: &mut Entry) {
        if let Some(Tags::Indexed(id)) = entry.set_tags(None) {
            self.index_of(db).remove(id);
        }
    }

    /// Up to `n` dead entries, all of one database, for the server to delete.
    #[must_use]
    pub fn doomed(&self, n: usize) -> Option<Doomed> {
        let (db, index) = self.indexes().find(|(_, index)| index.backlog() > 0)?;
        let named = |id: KeyId| Some((id, index.key(id)?.into()));
        Some(Doomed { db, entries: index.doomed(n).into_iter().filter_map(named).collect() })
    }

    /// Entries that wait for the sweep, counted as by [`TagIndex::backlog`].
    #[must_use]
    pub fn backlog(&self) -> usize {
        self.indexes().map(|(_, index)| index.backlog()).sum()
    }

    /// The databases `a` and `b` were exchanged.
    pub fn swap(&mut self, a: DbId, b: DbId) {
        let (of_a, of_b) = (self.indexes.remove(&a), self.indexes.remove(&b));
        self.indexes.extend(of_a.map(|index| (b, index)));
        self.indexes.extend(of_b.map(|index| (a, index)));
    }

    /// Database `only` was emptied, or all of them. O(databases); the rest is for [`Self::tidy`].
    pub fn drop_all(&mut self, only: Option<DbId>) {
        match only {
            Some(db) => self.dropped.extend(self.indexes.remove(&db).map(|index| *index)),
            None => self.dropped.extend(std::mem::take(&mut self.indexes).into_values().map(|index| *index)),
        }
    }

    /// True if more is remembered for late writes than is kept anyway.
    #[must_use]
    pub fn has_history(&self) -> bool {
        self.indexes().any(|(_, index)| index.has_history())
    }

    /// Nobody will ask what happened to tags before `sequence`; see [`TagIndex::forget_before`].
    pub fn forget_before(&mut self, sequence: u64) {
        self.indexes.values_mut().for_each(|index| index.forget_before(sequence));
    }

    /// Does `n` units of what can wait; true if more is left. O(n).
    pub fn tidy(&mut self, n: usize) -> bool {
        if let Some(index) = self.dropped.last_mut() {
            if !index.shed(n) {
                self.dropped.pop();
            }
            return true;
        }
        self.dropped.shrink_to_fit();
        self.indexes.values_mut().map(|index| usize::from(index.tidy(n))).sum::<usize>() > 0
    }

    /// True if [`Self::tidy`] has something to do.
    #[must_use]
    pub fn is_untidy(&self) -> bool {
        !self.dropped.is_empty() || self.indexes().any(|(_, index)| index.is_untidy())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::cache::entry::Meta;

    const NOW: UnixMillis = UnixMillis(7);

    fn entry(tags: &[&[u8]]) -> Entry {
        let mut entry = Entry::new(b"v", Meta::default());
        let names = tags.iter().map(|tag| (*tag).into()).collect();
        entry.set_tags(Some(Tags::Carried(Carried { names, ..Carried::default() })));
        entry
    }

    fn stored(indexes: &mut TagIndexes, db: DbId, key: &[u8], tags: &[&[u8]]) -> Entry {
        let mut entry = entry(tags);
        indexes.attach(db, key, &mut entry, NOW);
        entry
    }

    #[test]
    fn an_entry_that_moves_stays_what_it_was() {
        let mut indexes = TagIndexes::new(1);
        for (event, standing) in [(0, Standing::Live), (1, Standing::Stale), (2, Standing::Dead)] {
            let mut entry = stored(&mut indexes, 0, b"k", &[b"a", b"b"]);
            match event {
                1 => drop(indexes.index_of(0).mark_stale(b"a", UnixMillis(3))),
                2 => drop(indexes.index_of(0).invalidate(b"a", NOW)),
                _ => {}
            }
            indexes.detach(0, b"k", &mut entry);
            assert_eq!((indexes.standing(0, &entry), indexes.index_of(0).len()), (standing, 0));
            indexes.attach(5, b"other", &mut entry, NOW);
            assert_eq!(indexes.standing(5, &entry), standing);
            let since = if standing == Standing::Stale { UnixMillis(3) } else { UnixMillis(0) };
            assert_eq!(indexes.stale_since(5, &entry), since);
            assert_eq!(indexes.doomed(9).is_some(), standing == Standing::Dead);
            indexes.remove_entry(5, &mut entry);
            assert_eq!((entry.tags(), indexes.index_of(5).len(), indexes.backlog()), (None, 0, 0));
        }
    }

    #[test]
    fn an_entry_that_was_given_up_takes_nothing_of_who_has_its_number_now() {
        let mut indexes = TagIndexes::new(1);
        let mut hidden = stored(&mut indexes, 0, b"hidden", &[b"t"]);
        let Some(&Tags::Indexed(id)) = hidden.tags() else { panic!("it is indexed") };
        indexes.index_of(0).remove(id);
        let other = stored(&mut indexes, 0, b"other", &[b"u"]);
        assert_eq!(other.tags(), hidden.tags(), "the number is used again");
        indexes.detach(0, b"hidden", &mut hidden);
        assert_eq!((indexes.standing(0, &hidden), indexes.standing(0, &other)), (Standing::Dead, Standing::Live));
        assert_eq!(indexes.index_of(0).count(b"u"), 1);
    }

    #[test]
    fn keys_that_are_dropped_by_the_slot_leave_the_others() {
        let mut indexes = TagIndexes::new(1);
        (0..3_000u32).for_each(|n| drop(stored(&mut indexes, 0, &n.to_le_bytes(), &[b"t"])));
        indexes.index_of(0).invalidate(b"t", NOW);
        (3_000..6_000u32).for_each(|n| drop(stored(&mut indexes, 0, &n.to_le_bytes(), &[b"t"])));
        indexes.drop_some(0, |key| key.first().is_some_and(|byte| byte % 3 > 0));
        assert_eq!(indexes.index_of(0).keys(b"t").count(), indexes.index_of(0).count(b"t"));
        assert!(indexes.index_of(0).keys(b"t").all(|key| key[0].is_multiple_of(3)));
        assert_eq!((indexes.index_of(0).count(b"t"), indexes.backlog()), (1_008, 1_008));
    }

    #[test]
    fn databases_are_exchanged_and_emptied() {
        let mut indexes = TagIndexes::new(1);
        let entry = stored(&mut indexes, 0, b"k", &[b"t"]);
        indexes.swap(0, 3);
        assert_eq!((indexes.standing(3, &entry), indexes.standing(0, &entry)), (Standing::Live, Standing::Dead));
        assert_eq!(indexes.index(3).map_or(0, |index| index.count(b"t")), 1);
        stored(&mut indexes, 1, b"k", &[b"t"]);
        indexes.drop_all(Some(3));
        assert!(indexes.index(3).is_none() && indexes.index(1).is_some());
        indexes.drop_all(None);
        assert_eq!(indexes.indexes().count(), 0);
        assert!(indexes.is_untidy());
        while indexes.tidy(1) {}
        assert!(indexes.dropped.is_empty());
    }

    #[test]
    fn the_dead_of_all_databases_are_found() {
        let mut indexes = TagIndexes::new(1);
        let mut entries = [2, 4].map(|db| (db, stored(&mut indexes, db, b"k", &[b"t"])));
        for (db, _) in &entries {
            indexes.index_of(*db).invalidate(b"t", NOW);
        }
        for (db, entry) in &mut entries {
            let doomed = indexes.doomed(9).expect("there are more");
            assert_eq!((doomed.db, &*doomed.entries[0].1), (*db, &b"k"[..]));
            indexes.remove_entry(*db, entry);
        }
        assert_eq!((indexes.doomed(9), indexes.backlog()), (None, 0));
    }
}
