//! Invalidation, and the work it leaves for later.
//!
//! Nothing here takes longer for a million members than for one. What it leaves, the server does
//! in slices: it deletes the [`TagIndex::doomed`], whose number is the backlog, and calls
//! [`TagIndex::tidy`]. Should it never do so, nothing is wrong but the memory: that is how a replica
//! lives, whose dead entries are deleted by its primary.

use super::linear_hash_set::Member;
use super::{KeyId, TagIndex};
use crate::engine::tag::Standing;
use crate::engine::time::UnixMillis;

impl TagIndex {
    /// Every entry that has `tag` is dead from now on. How many there were; among them may be some
    /// that are dead by another tag and still among the doomed. O(1).
    pub fn invalidate(&mut self, tag: &[u8], now: UnixMillis) -> usize {
        let id = self.find_or_create(tag, now);
        self.sequence += 1;
        let Some(tag) = self.tags.get_mut(id) else { return 0 };
        self.history.recent.remove(&(tag.last_event(), id));
        (tag.invalidated, tag.last_invalidated, tag.has_history) = (self.sequence, now, true);
        tag.invalidations += 1;
        tag.bytes = 0;
        let members = std::mem::take(&mut tag.members);
        let count = members.len();
        self.watch.strike(id);
        if count > 0 {
            self.inhabited -= 1;
            self.backlog += count;
            self.doomed.insert((id, self.sequence), members);
        }
        self.settle(id);
        count
    }

    /// Every entry that has `tag` is stale from now on. How many there are, counted as by
    /// [`Self::invalidate`]. O(1).
    pub fn mark_stale(&mut self, tag: &[u8], now: UnixMillis) -> usize {
        let id = self.find_or_create(tag, now);
        self.sequence += 1;
        let Some(tag) = self.tags.get_mut(id) else { return 0 };
        self.history.recent.remove(&(tag.last_event(), id));
        tag.member(self.sequence, now);
        let count = tag.members.len();
        self.settle(id);
        count
    }

    /// Forgets `tag`: no entry has it any more, and each stays what it is; the dead are still
    /// doomed. What happened to the tag is remembered for late writes, its counts are not. How
    /// many entries had it, counted as by [`Self::invalidate`]. O(1); [`Self::tidy`] does the rest.
    pub fn forget(&mut self, tag: &[u8]) -> usize {
        let Some(id) = self.find(tag) else { return 0 };
        self.names.remove(Member { hash: self.hash(tag), id });
        let Some(tag) = self.tags.get_mut(id) else { return 0 };
        let count = tag.members.len();
        tag.is_forgotten = true;
        let name = std::mem::take(&mut tag.name);
        let (created, last_event, has_history) = (tag.created, tag.last_event(), tag.has_history);
        let (invalidated, marked) = (tag.invalidated, tag.marked);
        self.history.recent.remove(&(last_event, id));
        if count > 0 {
            self.inhabited -= 1;
            self.forgotten.insert(id);
        }
        self.settle(id);
        if has_history && last_event > self.history.floor {
            let heir_id = self.create(name, created);
            if let Some(heir) = self.tags.get_mut(heir_id) {
                (heir.invalidated, heir.marked, heir.has_history) = (invalidated, marked, true);
            }
            self.settle(heir_id);
        }
        count
    }

    /// Up to `n` dead entries, for the server to delete; each stays among the doomed until it is
    /// removed. All are different; none only if there are none. O(n).
    #[must_use]
    pub fn doomed(&self, n: usize) -> Vec<KeyId> {
        let Some((_, members)) = self.doomed.first_key_value() else { return Vec::new() };
        members.iter().take(n).map(|member| KeyId::new(member.id)).collect()
    }

    /// Dead entries that were not removed yet. One that was invalidated under several tags counts
    /// under each.
    #[must_use]
    pub fn backlog(&self) -> usize {
        self.backlog
    }

    /// Does `n` units of what can wait; true if more is left. A unit forgets one tag that nobody
    /// asks for, or takes a tag that was forgotten from one entry: O(its tags).
    pub fn tidy(&mut self, n: usize) -> bool {
        for _ in 0..n {
            if self.history.is_idle() {
                self.forget_oldest();
            } else if let Some(&tag) = self.forgotten.first() {
                self.strip_one(tag);
            } else if !self.scoped.is_idle || !self.scoped.forget_one(self.history.floor) {
                return false;
            }
        }
        self.is_untidy()
    }

    /// True if [`Self::tidy`] has something to do.
    #[must_use]
    pub fn is_untidy(&self) -> bool {
        self.history.is_idle() || !self.forgotten.is_empty() || self.scoped.is_idle
    }

    /// Takes out `n` records, so that an index of millions need not be dropped at once; true while
    /// more remain. O(n).
    pub fn shed(&mut self, n: usize) -> bool {
        let mut left = n;
        while left > 0 {
            let db_keys = self.keys.some(left);
            if db_keys.is_empty() {
                break;
            }
            left -= db_keys.len();
            db_keys.into_iter().for_each(|db_key| self.remove(KeyId::new(db_key)));
        }
        for _ in 0..left {
            if !self.scoped.forget_one(u64::MAX) {
                self.forget_oldest();
            }
        }
        !self.is_empty() || !self.history.recent.is_empty() || !self.scoped.is_empty()
    }

    /// Takes out all records whose keys `of` says. O(records).
    pub fn drop_some(&mut self, of: impl Fn(&[u8]) -> bool) {
        let gone: Vec<u32> =
            self.keys.iter().filter(|(_, record)| of(record.name())).map(|(db_key, _)| db_key).collect();
        gone.into_iter().for_each(|db_key| self.remove(KeyId::new(db_key)));
    }

    /// Takes a forgotten tag from one of its members. That does not count as stored now: the
    /// member may be dead by another tag.
    fn strip_one(&mut self, id: u32) {
        let Some(tag) = self.tags.get(id) else { return };
        let Some(member) = tag.members.iter().next() else { return };
        let Some(record) = self.keys.get_mut(member.id) else { return };
        if let Some(since) = tag.marked_after(record.stored) {
            let is_stale = record.floor == Standing::Stale;
            record.since = if is_stale { record.since.min(since) } else { since };
            record.floor = record.floor.max(Standing::Stale);
        }
        let kept: Vec<u32> = record.tags().filter(|&tag| tag != id).collect();
        record.retag(&kept);
        let (stored, bytes) = (record.stored, record.bytes);
        self.rewatch(member.id, &[id], None);
        self.leave(id, stored, bytes, member);
    }
}
