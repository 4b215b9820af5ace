//! What is remembered of tags that have no members: whether a late write comes too late.
//!
//! A lease notes the index's sequence when it is granted; a write under it asks whether one of its
//! tags was invalidated since. So a tag that was invalidated is remembered when its last member is
//! gone, or if it never had one: at most [`RECENT_MAX`] of them. Beyond that the one that was
//! quiet for longest is forgotten, and only that it was *some* tag is kept: two numbers, up to which
//! the answer for every unknown tag is yes. A write is then refused without need, never let through.
//!
//! Rejected: to remember until a time has passed. A lease may last for years.

use super::TagIndex;
use crate::engine::time::UnixMillis;
use std::collections::BTreeSet;

/// How many tags without members are remembered because a late write may ask.
pub const RECENT_MAX: usize = 100_000;

/// How many tags without members are remembered for [`super::TagInfo`] although nobody may ask.
pub const KEPT_MAX: usize = 1_000;

#[derive(Debug)]
pub(super) struct History {
    /// Tags without members or doomed that something happened to, by when.
    pub recent: BTreeSet<(u64, u32)>,
    /// No forgotten tag was invalidated after this.
    pub invalidated: u64,
    /// No forgotten tag was marked stale after this.
    pub marked: u64,
    /// Nobody asks about what happened up to this.
    pub floor: u64,
    pub recent_max: usize,
    pub kept_max: usize,
}

impl Default for History {
    fn default() -> Self {
        let (recent_max, kept_max) = (RECENT_MAX, KEPT_MAX);
        Self { recent: BTreeSet::new(), invalidated: 0, marked: 0, floor: 0, recent_max, kept_max }
    }
}

impl History {
    /// True if one may be forgotten for which nobody can ask.
    pub fn is_idle(&self) -> bool {
        let is_past = self.recent.first().is_some_and(|(at, _)| *at <= self.floor);
        is_past && self.recent.len() > self.kept_max
    }
}

impl TagIndex {
    /// Rises with every [`Self::invalidate`] and [`Self::mark_stale`]: what a lease notes when it
    /// is granted.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The sequence of the next invalidation is `sequence`, or more where it is higher already. For
    /// a server that counts them together with the leases it grants: then a lease's own number says
    /// what to ask [`Self::invalidated_since`].
    pub fn advance(&mut self, sequence: u64) {
        self.sequence = self.sequence.max(sequence.saturating_sub(1));
    }

    /// True if `tag` was invalidated after the index was at `sequence`, whether it had members or
    /// not. Exact, unless more than [`RECENT_MAX`] tags without members were invalidated or marked
    /// stale since: then also true for some that were not. O(1).
    #[must_use]
    pub fn invalidated_since(&self, tag: &[u8], sequence: u64) -> bool {
        self.find(tag).and_then(|tag| self.tags.get(tag)).map_or(self.history.invalidated, |tag| tag.invalidated)
            > sequence
    }

    /// The same for [`Self::mark_stale`].
    #[must_use]
    pub fn marked_since(&self, tag: &[u8], sequence: u64) -> bool {
        self.find(tag).and_then(|tag| self.tags.get(tag)).map_or(self.history.marked, |tag| tag.marked) > sequence
    }

    /// When it was first marked stale after that, as far as that is known.
    #[must_use]
    pub fn marked_after(&self, tag: &[u8], sequence: u64) -> Option<UnixMillis> {
        self.find(tag).and_then(|tag| self.tags.get(tag))?.marked_after(sequence)
    }

    /// Nobody will ask again about a sequence below `sequence`: no older lease is out. With no
    /// lease out at all, that is [`Self::sequence`]. What this makes superfluous goes with
    /// [`Self::tidy`]. O(scopes).
    pub fn forget_before(&mut self, sequence: u64) {
        self.history.floor = self.history.floor.max(sequence.min(self.sequence));
        self.scoped.forget_before(self.history.floor);
    }

    /// True if more is remembered than is kept although nobody may ask.
    #[must_use]
    pub fn has_history(&self) -> bool {
        self.history.recent.len() > self.history.kept_max || !self.scoped.is_empty()
    }

    /// Forgets the tag that was quiet for longest.
    pub(super) fn forget_oldest(&mut self) {
        let Some((at, id)) = self.history.recent.pop_first() else { return };
        if let Some(tag) = self.tags.get(id).filter(|_| at > self.history.floor) {
            self.history.invalidated = self.history.invalidated.max(tag.invalidated);
            self.history.marked = self.history.marked.max(tag.marked);
        }
        self.drop_tag(id);
    }

    pub(super) fn fit_history(&mut self) {
        while self.history.recent.len() > self.history.recent_max {
            self.forget_oldest();
        }
    }
}
