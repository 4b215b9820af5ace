//! What happens to single entries of a tag: for users who may not change all of them.
//!
//! [`TagIndex::kill`] and [`TagIndex::age`] do to one entry what an invalidation and a `mark_stale` do
//! to all that have a tag. The tag itself knows nothing of it.

use super::linear_hash_set::Member;
use super::{KeyId, Standing, TagIndex, NOBODY};
use crate::engine::time::UnixMillis;

impl TagIndex {
    /// The numbers of all entries that have any of `tags` and are not dead, each once. O(members).
    #[must_use]
    pub fn members<'t>(&self, tags: impl Iterator<Item = &'t [u8]>) -> Vec<KeyId> {
        let found = tags.filter_map(|tag| self.find(tag)).filter_map(|tag| self.tags.get(tag));
        let mut ids: Vec<_> = found.flat_map(|tag| tag.members.iter()).map(|mark| KeyId::new(mark.id)).collect();
        ids.sort_unstable();
        ids.dedup();
        ids.retain(|id| self.standing(*id) != Standing::Dead);
        ids
    }

    /// `id` is dead from now on, and among the doomed. False if it was before. O(tags).
    pub fn kill(&mut self, id: KeyId) -> bool {
        if self.standing(id) == Standing::Dead {
            return false;
        }
        let Some(record) = self.keys.get_mut(id.db_key()) else { return false };
        let (tags, stored, bytes): (Vec<u32>, _, _) = (record.tags().collect(), record.stored, record.bytes);
        record.retag(&[]);
        record.floor = Standing::Dead;
        let hash = self.keys.get(id.db_key()).map_or(0, |record| self.hash(record.name()));
        let mark = Member { hash, id: id.db_key() };
        self.unwatch_all(id.db_key(), tags.iter().copied());
        for tag in tags {
            self.leave(tag, stored, bytes, mark);
        }
        self.doomed.entry((NOBODY, 0)).or_default().insert(mark);
        self.backlog += 1;
        true
    }

    /// `id` is stale from now on, if it was not. False if it is dead. O(tags).
    pub fn age(&mut self, id: KeyId, now: UnixMillis) -> bool {
        if self.standing(id) == Standing::Dead {
            return false;
        }
        if let Some(record) = self.keys.get_mut(id.db_key()).filter(|record| record.floor == Standing::Live) {
            (record.floor, record.since) = (Standing::Stale, now);
        }
        true
    }
}
