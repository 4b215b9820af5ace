//! Which entries carry which tag, and what an invalidation has done to them.
//!
//! The index holds of every tagged key a record with its name, its tags and the *sequence* at which
//! it was stored; of every tag its members and the sequence of its last invalidation. An entry is
//! dead if one of its tags was invalidated after it was stored: so an invalidation is one number,
//! however many entries it concerns, and a read compares one number a tag. The members of an
//! invalidated tag move as a whole to the *doomed*, from where the server deletes them in slices
//! ([`TagIndex::doomed`]); who leaves on other ways is taken out of wherever it stands.
//!
//! The server keeps one index a database: SWAPDB swaps two, FLUSHDB drops one. Give all of them the
//! same seed, and cursors outlive both.
//!
//! Invariants, checked by `validate` in tests: each tag of a record has it in exactly one set of members:
//! among the doomed of the first invalidation after it was stored, else among the tag's members;
//! nothing else is in such a set; no set of doomed is empty; a tag is there exactly while it has
//! members, doomed or a place among the remembered.
//!
//! Rejected: native sets (a copy of each key name a tag, and 50 bytes a membership); a generation
//! number in the tag's name (nobody can list or count, and memory is given back only by expiry);
//! deleting within the command (a million entries take seconds).

use super::time::UnixMillis;
use ahash::RandomState;
use history::History;
use linear_hash_set::{LinearHashSet, Member};
use record::{Record, Tag};
use scoped::Scoped;
use slab::Slab;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use watch::Watch;

mod history;
mod indexes;
mod linear_hash_set;
mod pace;
mod record;
mod scoped;
mod single;
mod slab;
mod sweep;
mod view;
mod watch;

pub use history::{KEPT_MAX, RECENT_MAX};
pub use indexes::{Doomed, TagIndexes};
pub use pace::slice_us;
pub use scoped::EVENTS_MAX;
pub use view::TagInfo;

/// How many tags an entry may carry; the server refuses more.
pub const TAGS_PER_ENTRY_MAX: usize = 128;

/// How long the name of a tag may be; the server refuses longer ones.
pub const TAG_BYTES_MAX: usize = 1_024;

/// Stands for a tag where there is none.
const NOBODY: u32 = u32::MAX;

/// The number of a tagged key; reused once the key is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(NonZeroU32);

/// What its tags have done to an entry, from good to bad.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Nothing: its own age decides.
    #[default]
    Live,
    /// It is stale, whatever its age.
    Stale,
    /// It must not be served, and will be deleted.
    Dead,
}

/// How a key comes into the index.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Live if a value was written; for one that only moved, what it was.
    pub standing: Standing,
    /// Since when, if it is stale.
    pub since: UnixMillis,
    /// What the entry takes, for [`TagInfo::bytes`]; counted up to 4 GiB.
    pub bytes: usize,
    /// When.
    pub now: UnixMillis,
}

/// The tags of one database.
#[derive(Debug)]
pub struct TagIndex {
    keys: Slab<Record>,
    tags: Slab<Tag>,
    /// The tags that have a name, by it.
    names: LinearHashSet,
    hasher: RandomState,
    /// Counts invalidations and `mark_stale`.
    sequence: u64,
    /// By tag and invalidation.
    doomed: BTreeMap<(u32, u64), LinearHashSet>,
    /// Marks in `doomed`.
    backlog: usize,
    /// Tags with a name and members.
    inhabited: usize,
    /// Tags without a name that still have members.
    forgotten: BTreeSet<u32>,
    watch: Watch,
    history: History,
    scoped: Scoped,
}

impl Default for TagIndex {
    fn default() -> Self {
        Self::new(0)
    }
}

impl KeyId {
    fn new(db_key: u32) -> Self {
        Self(NonZeroU32::MIN.saturating_add(db_key))
    }

    fn db_key(self) -> u32 {
        self.0.get() - 1
    }
}

impl TagIndex {
    /// An empty index. From `seed` follow the order of walks and the places in tables: draw it, or
    /// a client can choose names that collide.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            keys: Slab::default(),
            tags: Slab::default(),
            names: LinearHashSet::default(),
            hasher: RandomState::with_seeds(seed, !seed, seed.rotate_left(17), seed.rotate_right(23)),
            sequence: 0,
            doomed: BTreeMap::new(),
            backlog: 0,
            inhabited: 0,
            forgotten: BTreeSet::new(),
            watch: Watch::default(),
            history: History::default(),
            scoped: Scoped::default(),
        }
    }

    /// Enters `key` with `tags`, of which each counts once; at most [`TAGS_PER_ENTRY_MAX`]. Whoever
    /// overwrites a key removes its old record, before or (which keeps [`TagInfo::created`] of a tag
    /// with no other member) at once after. A key that is [`Standing::Dead`] on arrival goes
    /// straight to the doomed, without its tags. O(tags).
    pub fn insert<'a>(&mut self, key: &[u8], tags: impl IntoIterator<Item = &'a [u8]>, arrival: Arrival) -> KeyId {
        let bytes = u32::try_from(arrival.bytes).unwrap_or(u32::MAX);
        let mut numbers = Vec::new();
        if arrival.standing != Standing::Dead {
            let tags = tags.into_iter();
            numbers.reserve(tags.size_hint().0);
            for name in tags {
                let tag = self.find_or_create(name, arrival.now);
                if !numbers.contains(&tag) {
                    numbers.push(tag);
                }
            }
        }
        assert!(numbers.len() <= TAGS_PER_ENTRY_MAX, "an entry of {} tags", numbers.len());
        let mut record = Record::new(key, &numbers, self.sequence, bytes);
        (record.floor, record.since) = (arrival.standing, arrival.since);
        let db_key = self.keys.insert(record);
        let member = Member { hash: self.hash(key), id: db_key };
        for tag in numbers {
            self.join(tag, member, bytes);
        }
        if arrival.standing == Standing::Dead {
            self.doomed.entry((NOBODY, 0)).or_default().insert(member);
            self.backlog += 1;
        }
        KeyId::new(db_key)
    }

    /// Takes out a key that is no more, whatever removed it; nothing if it is not there.
    /// O(tags), with the logarithm of the invalidations that wait for the sweep if it is dead.
    pub fn remove(&mut self, id: KeyId) {
        let Some(record) = self.keys.remove(id.db_key()) else { return };
        let member = Member { hash: self.hash(record.name()), id: id.db_key() };
        self.unwatch(id.db_key(), &record);
        if record.floor == Standing::Dead {
            self.leave_doomed(NOBODY, 0, member);
        }
        for tag in record.tags() {
            self.leave(tag, record.stored, record.bytes, member);
        }
    }

    /// What `id` is now; dead if it is not there. O(tags), no allocation.
    #[inline]
    #[must_use]
    pub fn standing(&self, id: KeyId) -> Standing {
        self.keys.get(id.db_key()).map_or(Standing::Dead, |record| self.standing_of(record))
    }

    /// Since when its tags have made `id` stale; the earliest time if nobody knows. O(tags).
    #[must_use]
    pub fn stale_since(&self, id: KeyId) -> UnixMillis {
        self.keys.get(id.db_key()).map_or(UnixMillis::default(), |record| self.stale_since_of(record))
    }

    fn stale_since_of(&self, record: &Record) -> UnixMillis {
        let floor = (record.floor == Standing::Stale).then_some(record.since);
        let tags = record.tags().filter_map(|tag| self.tags.get(tag));
        let marks = tags.filter_map(|tag| tag.marked_after(record.stored));
        marks.chain(floor).min().unwrap_or_default()
    }

    #[inline]
    fn standing_of(&self, record: &Record) -> Standing {
        let mut worst = record.floor;
        if record.stored == self.sequence {
            return worst; // nothing has happened to any tag since
        }
        for tag in record.tags().filter_map(|tag| self.tags.get(tag)) {
            if tag.invalidated > record.stored {
                return Standing::Dead;
            }
            if tag.marked > record.stored {
                worst = worst.max(Standing::Stale);
            }
        }
        worst
    }

    /// The name of `id`.
    #[must_use]
    pub fn key(&self, id: KeyId) -> Option<&[u8]> {
        self.keys.get(id.db_key()).map(Record::name)
    }

    /// The tags of `id` in the order in which they were given.
    pub fn names(&self, id: KeyId) -> impl Iterator<Item = &[u8]> {
        let record = self.keys.get(id.db_key());
        let tags = record.into_iter().flat_map(Record::tags).filter_map(|tag| self.tags.get(tag));
        tags.filter(|tag| !tag.is_forgotten).map(|tag| &*tag.name)
    }

    /// Gives `id` one tag more; its standing stays, whatever happened to the tag before. False if
    /// it has it already or is dead. The caller sees to [`TAGS_PER_ENTRY_MAX`]. O(tags).
    pub fn add(&mut self, id: KeyId, tag: &[u8], now: UnixMillis) -> bool {
        let is_new = match self.keys.get(id.db_key()) {
            Some(record) if self.standing_of(record) != Standing::Dead => {
                !self.find(tag).is_some_and(|tag| record.tags().any(|other| other == tag))
            }
            _ => false,
        };
        if is_new {
            let tag = self.find_or_create(tag, now);
            self.retag(id.db_key(), None, Some(tag));
        }
        is_new
    }

    /// Takes a tag from `id`; its standing stays. False if it does not have it or is dead. A key
    /// without tags stays until it is removed, or it would forget that it is stale. O(tags).
    pub fn take(&mut self, id: KeyId, tag: &[u8]) -> bool {
        let Some(tag) = self.find(tag) else { return false };
        let has_it = match self.keys.get(id.db_key()) {
            Some(record) => self.standing_of(record) != Standing::Dead && record.tags().any(|other| other == tag),
            None => false,
        };
        if has_it {
            self.retag(id.db_key(), Some(tag), None);
        }
        has_it
    }

    /// Tagged keys, the dead among them.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// True if no key is tagged.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.len() == 0
    }

    /// Tags that have members.
    #[must_use]
    pub fn tags(&self) -> usize {
        self.inhabited
    }

    fn hash(&self, name: &[u8]) -> u32 {
        (self.hasher.hash_one(name) >> 32) as u32
    }

    fn find(&self, name: &[u8]) -> Option<u32> {
        self.names.find(self.hash(name), |tag| self.tags.get(tag).is_some_and(|tag| *tag.name == *name))
    }

    fn find_or_create(&mut self, name: &[u8], now: UnixMillis) -> u32 {
        let Some(id) = self.find(name) else { return self.create(name.into(), now) };
        if let Some(tag) = self.tags.get_mut(id).filter(|tag| tag.is_unknown()) {
            tag.created = now;
        }
        id
    }

    /// A tag that knows only what is no longer known of any tag.
    fn create(&mut self, name: Box<[u8]>, now: UnixMillis) -> u32 {
        let hash = self.hash(&name);
        let id = self.tags.insert(Tag::new(name, now, (self.history.invalidated, self.history.marked)));
        self.names.insert(Member { hash, id });
        id
    }

    /// Drops a tag that nothing refers to.
    fn drop_tag(&mut self, id: u32) {
        if let Some(tag) = self.tags.remove(id) {
            if !tag.is_forgotten {
                self.names.remove(Member { hash: self.hash(&tag.name), id });
            }
        }
    }

    fn join(&mut self, id: u32, member: Member, bytes: u32) {
        let Some(tag) = self.tags.get_mut(id) else { return };
        if tag.members.is_empty() {
            self.inhabited += 1;
            self.history.recent.remove(&(tag.last_event(), id));
        }
        tag.members.insert(member);
        tag.bytes += u64::from(bytes);
    }

    /// Takes a key that was stored at `stored` out of the one set of the tag that it is in.
    fn leave(&mut self, id: u32, stored: u64, bytes: u32, member: Member) {
        let Some(tag) = self.tags.get_mut(id) else { return };
        if tag.invalidated > stored {
            self.leave_doomed(id, stored + 1, member);
        } else {
            let was_there = tag.members.remove(member);
            assert!(was_there, "a member is not in its tag's members");
            tag.bytes -= u64::from(bytes);
            self.inhabited -= usize::from(tag.members.is_empty() && !tag.is_forgotten);
        }
        self.settle(id);
    }

    /// Takes a mark out of the doomed of the tag's first invalidation at or after `since`.
    fn leave_doomed(&mut self, tag: u32, since: u64, member: Member) {
        let Some((&at, members)) = self.doomed.range_mut((tag, since)..=(tag, u64::MAX)).next() else { return };
        let was_there = members.remove(member);
        assert!(was_there, "a dead entry is not among the doomed");
        self.backlog -= 1;
        if members.is_empty() {
            self.doomed.remove(&at);
        }
    }

    fn is_swept(&self, tag: u32) -> bool {
        self.doomed.range((tag, 0)..=(tag, u64::MAX)).next().is_some()
    }

    /// Decides what becomes of a tag that may have lost its last member.
    fn settle(&mut self, id: u32) {
        let Some(tag) = self.tags.get(id) else { return };
        if !tag.members.is_empty() {
            return;
        }
        let (is_forgotten, has_history, last_event) = (tag.is_forgotten, tag.has_history, tag.last_event());
        if is_forgotten {
            self.forgotten.remove(&id);
        }
        if self.is_swept(id) {
            return;
        }
        if is_forgotten || !has_history {
            self.drop_tag(id);
        } else {
            self.history.recent.insert((last_event, id));
            self.fit_history();
        }
    }

    /// Takes one tag from a key that is not dead or gives it one, and drops those that were
    /// forgotten. It counts as stored now: all that happened before is in its floor.
    fn retag(&mut self, db_key: u32, gone: Option<u32>, come: Option<u32>) {
        let Some(record) = self.keys.get(db_key) else { return };
        let (stored, bytes, floor) = (record.stored, record.bytes, self.standing_of(record));
        let since = self.stale_since_of(record);
        let member = Member { hash: self.hash(record.name()), id: db_key };
        let is_gone = |id: u32| Some(id) == gone || self.tags.get(id).is_none_or(|tag| tag.is_forgotten);
        let (lost, mut kept): (Vec<u32>, Vec<u32>) = record.tags().partition(|&tag| is_gone(tag));
        kept.extend(come);
        if let Some(record) = self.keys.get_mut(db_key) {
            record.retag(&kept);
            (record.stored, record.floor, record.since) = (self.sequence, floor, since);
        }
        if let Some(tag) = come {
            self.join(tag, member, bytes);
        }
        self.rewatch(db_key, &lost, come);
        for tag in lost {
            self.leave(tag, stored, bytes, member);
        }
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod validate;
