//! What can be asked about tags.
//!
//! Counts come from the sets' lengths and may include entries that are dead by another tag and
//! still among the doomed; lists look at every entry and leave those out. Names are borrowed from
//! the index: nothing may change it before they are written to the reply.

use super::{KeyId, Standing, TagIndex};
use crate::engine::time::UnixMillis;

/// What is known of a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TagInfo {
    /// Entries that have it, counted as by [`TagIndex::count`].
    pub keys: usize,
    /// What they take: the sum of what their [`super::Arrival`]s said, without the index.
    pub bytes: u64,
    /// When it got its first member, or was invalidated without one. Like the counts, this begins
    /// anew with a tag that lost its last member without ever having been invalidated, was
    /// forgotten, or had no member while [`super::KEPT_MAX`] others were invalidated.
    pub created: UnixMillis,
    /// How often it was invalidated.
    pub invalidations: u64,
    /// When it was last invalidated.
    pub last_invalidated: Option<UnixMillis>,
    /// Entries it was invalidated under that were not removed yet.
    pub sweeping: usize,
}

impl TagIndex {
    /// How many entries have `tag`; among them may be some that are dead by another tag and still
    /// among the doomed. O(1).
    #[must_use]
    pub fn count(&self, tag: &[u8]) -> usize {
        self.find(tag).and_then(|tag| self.tags.get(tag)).map_or(0, |tag| tag.members.len())
    }

    /// The names of all entries that have `tag` and are not dead, in no order. O(members).
    pub fn keys(&self, tag: &[u8]) -> impl Iterator<Item = &[u8]> {
        let tag = self.find(tag).and_then(|tag| self.tags.get(tag));
        tag.into_iter().flat_map(|tag| tag.members.iter()).filter_map(|member| self.live(member.id))
    }

    /// The names of about `count` such entries from `cursor` on, and where to go on; 0: that is
    /// all. A walk begins at 0. An entry that has the tag all through a walk is returned exactly
    /// once, also if it is overwritten or removed and stored again meanwhile. O(count).
    #[must_use]
    pub fn scan(&self, tag: &[u8], cursor: u64, count: usize) -> (u64, Vec<&[u8]>) {
        let Some(tag) = self.find(tag).and_then(|tag| self.tags.get(tag)) else { return (0, Vec::new()) };
        let mut found = Vec::new();
        let next = tag.members.walk(cursor, count, |db_key| found.extend(self.live(db_key)));
        (next, found)
    }

    /// The names of about `count` tags that have members from `cursor` on, as by [`Self::scan`].
    #[must_use]
    pub fn list(&self, cursor: u64, count: usize) -> (u64, Vec<&[u8]>) {
        let mut found = Vec::new();
        let next = self.names.walk(cursor, count, |tag| {
            let tag = self.tags.get(tag).filter(|tag| !tag.members.is_empty());
            found.extend(tag.map(|tag| &*tag.name));
        });
        (next, found)
    }

    /// What is known of `tag`; `None` if it has no members and no invalidation of it is remembered.
    /// O(invalidations of it that wait for the sweep).
    #[must_use]
    pub fn info(&self, tag: &[u8]) -> Option<TagInfo> {
        let id = self.find(tag)?;
        let tag = self.tags.get(id).filter(|tag| !tag.is_unknown())?;
        Some(TagInfo {
            keys: tag.members.len(),
            bytes: tag.bytes,
            created: tag.created,
            invalidations: tag.invalidations,
            last_invalidated: (tag.invalidations > 0).then_some(tag.last_invalidated),
            sweeping: self.doomed.range((id, 0)..=(id, u64::MAX)).map(|(_, members)| members.len()).sum(),
        })
    }

    fn live(&self, db_key: u32) -> Option<&[u8]> {
        (self.standing(KeyId::new(db_key)) != Standing::Dead).then(|| self.key(KeyId::new(db_key)))?
    }
}
