//! Keys of which it must be told that they died: those with a lease.
//!
//! An invalidation ends the leases on the entries it concerns, and must not look at all of those
//! to find the few. So a key is watched from when a lease on it is granted until it is removed; a
//! key that is watched longer than its lease lasts does no harm, nor does one that is reported
//! twice.

use super::record::Record;
use super::{KeyId, TagIndex, NOBODY};
use std::collections::BTreeSet;

#[derive(Debug, Default)]
pub(super) struct Watch {
    /// By tag and key; each key once with [`NOBODY`] too, for those that have no tag for a while.
    pairs: BTreeSet<(u32, u32)>,
    /// Keys that died and were not told yet.
    struck: Vec<u32>,
}

impl Watch {
    /// All that are watched under `tag` died. O(those).
    pub fn strike(&mut self, tag: u32) {
        while let Some(&pair) = self.pairs.range((tag, 0)..=(tag, u32::MAX)).next() {
            self.pairs.remove(&pair);
            self.struck.push(pair.1);
        }
    }
}

#[cfg(test)]
impl Watch {
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty() && self.struck.is_empty()
    }
}

impl TagIndex {
    /// From now on `id` is among the [`Self::struck`] once it dies by an invalidation. O(tags).
    pub fn watch(&mut self, id: KeyId) {
        let Some(record) = self.keys.get(id.db_key()) else { return };
        self.watch.pairs.extend(record.tags().chain([NOBODY]).map(|tag| (tag, id.db_key())));
    }

    /// The watched keys that died since this was last asked.
    pub fn struck(&mut self) -> Vec<KeyId> {
        std::mem::take(&mut self.watch.struck).into_iter().map(KeyId::new).collect()
    }

    pub(super) fn unwatch(&mut self, db_key: u32, record: &Record) {
        self.unwatch_all(db_key, record.tags());
    }

    /// `db_key`, which has `tags`, is not watched any longer.
    pub(super) fn unwatch_all(&mut self, db_key: u32, tags: impl IntoIterator<Item = u32>) {
        if !self.watch.pairs.is_empty() {
            tags.into_iter().chain([NOBODY]).for_each(|tag| {
                self.watch.pairs.remove(&(tag, db_key));
            });
        }
        if !self.watch.struck.is_empty() {
            self.watch.struck.retain(|struck| *struck != db_key);
        }
    }

    /// `db_key` lost tags and got one.
    pub(super) fn rewatch(&mut self, db_key: u32, lost: &[u32], come: Option<u32>) {
        if self.watch.pairs.contains(&(NOBODY, db_key)) {
            for tag in lost {
                self.watch.pairs.remove(&(*tag, db_key));
            }
            self.watch.pairs.extend(come.map(|tag| (tag, db_key)));
        }
    }
}
