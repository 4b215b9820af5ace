//! The plainest index that keeps the contract: every entry is told at once what became of it.
//!
//! Where [`super::TagIndex`] compares sequences, this goes through all entries. What it says of an
//! index is checked by [`Model::compare`]; which names a walk must return, by the walks in `tests`.

use super::{Arrival, KeyId, Standing, TagIndex, TagInfo};
use crate::engine::time::UnixMillis;
use std::collections::{BTreeMap, BTreeSet};

pub(super) type Name = Vec<u8>;

/// As long as no tag can have been marked stale more often, it is known since when.
const MARKS_EXACT: usize = 8;

/// One tag of an entry.
#[derive(Clone, Debug)]
pub(super) struct Membership {
    /// `None` once the tag was forgotten.
    tag: Option<Name>,
    /// It was invalidated under this tag.
    is_doomed: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub id: KeyId,
    tags: Vec<Membership>,
    pub standing: Standing,
    /// Since when it was ever stale.
    pub since: Option<UnixMillis>,
    bytes: u64,
    was_born_dead: bool,
}

#[derive(Clone, Debug, Default)]
struct Past {
    created: UnixMillis,
    invalidations: u64,
    last_invalidated: UnixMillis,
    /// What the index may be asked, and since when it would say yes.
    invalidated: u64,
    marked: u64,
    has_history: bool,
}

#[derive(Debug)]
pub(super) struct Model {
    pub entries: BTreeMap<Name, Entry>,
    past: BTreeMap<Name, Past>,
    /// Of every tag that ever was: when it was really invalidated and marked stale last.
    truth: BTreeMap<Name, (u64, u64)>,
    pub sequence: u64,
    pub floor: u64,
    horizon: (u64, u64),
    marks: usize,
    recent_max: usize,
    kept_max: usize,
}

impl Entry {
    pub fn has(&self, tag: &[u8]) -> bool {
        self.tags.iter().any(|each| each.tag.as_deref() == Some(tag))
    }

    fn is_member(&self, tag: &[u8]) -> bool {
        self.tags.iter().any(|each| each.tag.as_deref() == Some(tag) && !each.is_doomed)
    }

    /// It has the tag and is not dead.
    pub fn is_live_under(&self, tag: &[u8]) -> bool {
        self.is_member(tag) && self.standing != Standing::Dead
    }

    pub fn tags(&self) -> usize {
        self.tags.len()
    }
}

impl Model {
    pub fn new(recent_max: usize, kept_max: usize) -> Self {
        let (entries, past, truth) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { entries, past, truth, sequence: 0, floor: 0, horizon: (0, 0), marks: 0, recent_max, kept_max }
    }

    pub fn members(&self, tag: &[u8]) -> usize {
        self.entries.values().filter(|entry| entry.is_member(tag)).count()
    }

    fn sweeping(&self, tag: &[u8]) -> usize {
        self.entries.values().filter(|entry| entry.has(tag) && !entry.is_member(tag)).count()
    }

    pub fn backlog(&self) -> usize {
        let doomed = |entry: &Entry| entry.tags.iter().filter(|each| each.is_doomed).count();
        self.entries.values().map(|entry| doomed(entry) + usize::from(entry.was_born_dead)).sum()
    }

    pub fn inhabited(&self) -> BTreeSet<Name> {
        let tags = self.entries.values().flat_map(|entry| &entry.tags).filter(|each| !each.is_doomed);
        tags.filter_map(|each| each.tag.clone()).collect()
    }

    fn touch(&mut self, tag: &[u8], now: UnixMillis) -> &mut Past {
        let is_unknown = self.members(tag) == 0;
        let (invalidated, marked) = self.horizon;
        let past = self.past.entry(tag.to_vec()).or_insert(Past { invalidated, marked, ..Past::default() });
        if is_unknown && past.invalidations == 0 {
            past.created = now;
        }
        past
    }

    pub fn insert(&mut self, key: &[u8], tags: &[Name], arrival: Arrival, id: KeyId) {
        let mut distinct: Vec<Name> = Vec::new();
        if arrival.standing != Standing::Dead {
            for tag in tags.iter().filter(|tag| !distinct.contains(tag)).cloned().collect::<Vec<_>>() {
                if !distinct.contains(&tag) {
                    self.touch(&tag, arrival.now);
                    distinct.push(tag);
                }
            }
        }
        let tags = distinct.into_iter().map(|tag| Membership { tag: Some(tag), is_doomed: false }).collect();
        let was_born_dead = arrival.standing == Standing::Dead;
        let since = (arrival.standing == Standing::Stale).then_some(arrival.since);
        let entry = Entry { id, tags, standing: arrival.standing, since, bytes: arrival.bytes as u64, was_born_dead };
        assert!(self.entries.insert(key.to_vec(), entry).is_none());
    }

    pub fn remove(&mut self, key: &[u8]) {
        self.entries.remove(key);
        self.settle();
    }

    pub fn invalidate(&mut self, tag: &[u8], now: UnixMillis) -> usize {
        let past = self.touch(tag, now);
        past.invalidations += 1;
        (past.last_invalidated, past.has_history) = (now, true);
        self.sequence += 1;
        let sequence = self.sequence;
        self.past.get_mut(tag).expect("touched").invalidated = sequence;
        self.truth.entry(tag.to_vec()).or_default().0 = sequence;
        let mut count = 0;
        for entry in self.entries.values_mut().filter(|entry| entry.is_member(tag)) {
            entry.standing = Standing::Dead;
            count += 1;
            entry
                .tags
                .iter_mut()
                .filter(|each| each.tag.as_deref() == Some(tag))
                .for_each(|each| each.is_doomed = true);
        }
        self.settle();
        count
    }

    pub fn mark_stale(&mut self, tag: &[u8], now: UnixMillis) -> usize {
        self.touch(tag, now).has_history = true;
        self.marks += 1;
        self.sequence += 1;
        let sequence = self.sequence;
        self.past.get_mut(tag).expect("touched").marked = sequence;
        self.truth.entry(tag.to_vec()).or_default().1 = sequence;
        let mut count = 0;
        for entry in self.entries.values_mut().filter(|entry| entry.is_member(tag)) {
            entry.standing = entry.standing.max(Standing::Stale);
            entry.since = entry.since.or(Some(now));
            count += 1;
        }
        self.settle();
        count
    }

    pub fn live_under(&self, tags: &[&[u8]]) -> Vec<&Name> {
        let live = |entry: &Entry| tags.iter().any(|tag| entry.is_live_under(tag));
        self.entries.iter().filter(|(_, entry)| live(entry)).map(|(key, _)| key).collect()
    }

    pub fn kill(&mut self, key: &[u8]) {
        let entry = self.entries.get_mut(key).expect("it is there");
        (entry.standing, entry.was_born_dead) = (Standing::Dead, true);
        entry.tags.clear();
        self.settle();
    }

    pub fn age(&mut self, key: &[u8], now: UnixMillis) {
        let entry = self.entries.get_mut(key).expect("it is there");
        (entry.standing, entry.since) = (Standing::Stale, entry.since.or(Some(now)));
    }

    pub fn forget(&mut self, tag: &[u8]) -> usize {
        let count = self.members(tag);
        for entry in self.entries.values_mut() {
            entry.tags.retain(|each| each.is_doomed || each.tag.as_deref() != Some(tag));
            entry.tags.iter_mut().filter(|each| each.tag.as_deref() == Some(tag)).for_each(|each| each.tag = None);
        }
        if let Some(past) = self.past.remove(tag) {
            let (invalidated, marked, has_history) = (past.invalidated, past.marked, true);
            if past.has_history && invalidated.max(marked) > self.floor {
                self.past.insert(tag.to_vec(), Past { invalidated, marked, has_history, ..Past::default() });
            }
        }
        self.settle();
        count
    }

    pub fn add(&mut self, key: &[u8], tag: &[u8], now: UnixMillis) -> bool {
        match self.entries.get(key) {
            Some(entry) if entry.standing != Standing::Dead && !entry.has(tag) => {}
            _ => return false,
        }
        self.touch(tag, now);
        let entry = self.entries.get_mut(key).expect("it is there");
        entry.tags.push(Membership { tag: Some(tag.to_vec()), is_doomed: false });
        self.settle();
        true
    }

    pub fn take(&mut self, key: &[u8], tag: &[u8]) -> bool {
        let Some(entry) = self.entries.get_mut(key) else { return false };
        if entry.standing == Standing::Dead || !entry.has(tag) {
            return false;
        }
        entry.tags.retain(|each| each.tag.as_deref() != Some(tag));
        self.settle();
        true
    }

    /// At most `n` tags that nobody asks for are forgotten; how many.
    pub fn tidy(&mut self, n: usize) -> usize {
        let recent = self.recent();
        let surplus = recent.len().saturating_sub(self.kept_max);
        let past = recent.iter().filter(|(at, _)| *at <= self.floor).count();
        let count = n.min(surplus).min(past);
        for (_, tag) in recent.into_iter().take(count) {
            self.past.remove(&tag);
        }
        count
    }

    pub fn recent(&self) -> BTreeSet<(u64, Name)> {
        let at = |past: &Past| past.invalidated.max(past.marked);
        let alone = self.past.iter().filter(|(tag, _)| self.members(tag) == 0 && self.sweeping(tag) == 0);
        alone.map(|(tag, past)| (at(past), tag.clone())).collect()
    }

    /// Forgets what the index may forget.
    fn settle(&mut self) {
        let alone: Vec<Name> = self.recent().into_iter().map(|(_, tag)| tag).collect();
        for tag in alone.iter().filter(|tag| !self.past[*tag].has_history).cloned().collect::<Vec<_>>() {
            self.past.remove(&tag);
        }
        let mut recent = self.recent();
        while recent.len() > self.recent_max {
            let (at, tag) = recent.pop_first().expect("more than the most");
            let past = self.past.remove(&tag).expect("it is remembered");
            if at > self.floor {
                self.horizon = (self.horizon.0.max(past.invalidated), self.horizon.1.max(past.marked));
            }
        }
    }

    /// Asserts that `index` answers as this does.
    pub fn compare(&self, index: &TagIndex, tags: &[Name]) {
        assert_eq!((index.sequence(), index.len()), (self.sequence, self.entries.len()));
        assert_eq!((index.backlog(), index.tags()), (self.backlog(), self.inhabited().len()));
        assert_eq!(index.is_empty(), self.entries.is_empty());
        assert_eq!(index.remembered(), self.recent().len(), "remembered tags");
        for (key, entry) in &self.entries {
            assert_eq!(index.key(entry.id), Some(&**key));
            assert_eq!(index.standing(entry.id), entry.standing, "standing of {key:?}");
            if entry.standing == Standing::Stale {
                let since = index.stale_since(entry.id);
                assert!(Some(since) <= entry.since, "{key:?} is stale since {since:?}, not {:?}", entry.since);
                assert!(self.marks > MARKS_EXACT || Some(since) == entry.since, "exact while there are few");
            }
            let names: Vec<_> = entry.tags.iter().filter_map(|each| each.tag.as_deref()).collect();
            assert_eq!(index.names(entry.id).collect::<Vec<_>>(), names, "tags of {key:?}");
        }
        for tag in tags {
            assert_eq!(index.count(tag), self.members(tag), "members of {tag:?}");
            let live = self.entries.iter().filter(|(_, entry)| entry.is_live_under(tag)).map(|(key, _)| &**key);
            let mut keys: Vec<_> = index.keys(tag).collect();
            keys.sort_unstable();
            assert_eq!(keys, live.collect::<Vec<_>>(), "keys of {tag:?}");
            assert_eq!(index.info(tag), self.info(tag), "of {tag:?}");
            self.compare_past(index, tag);
        }
        let (end, mut listed) = index.list(0, usize::MAX);
        listed.sort_unstable();
        assert_eq!((end, listed), (0, self.inhabited().iter().map(|tag| &**tag).collect()));
        self.compare_doomed(index);
    }

    fn info(&self, tag: &[u8]) -> Option<TagInfo> {
        let past = self.past.get(tag)?;
        let keys = self.members(tag);
        let members = self.entries.values().filter(|entry| entry.is_member(tag));
        (keys > 0 || past.invalidations > 0).then(|| TagInfo {
            keys,
            bytes: members.map(|entry| entry.bytes).sum(),
            created: past.created,
            invalidations: past.invalidations,
            last_invalidated: (past.invalidations > 0).then_some(past.last_invalidated),
            sweeping: self.sweeping(tag),
        })
    }

    fn compare_past(&self, index: &TagIndex, tag: &[u8]) {
        let known = self.past.get(tag).map_or(self.horizon, |past| (past.invalidated, past.marked));
        let truth = self.truth.get(tag).copied().unwrap_or_default();
        for sequence in (self.floor..=self.sequence).rev().take(12) {
            let (invalidated, marked) = (index.invalidated_since(tag, sequence), index.marked_since(tag, sequence));
            assert_eq!((invalidated, marked), (known.0 > sequence, known.1 > sequence), "{tag:?} since {sequence}");
            assert!(invalidated || truth.0 <= sequence, "a late write under {tag:?} is let through");
            assert!(marked || truth.1 <= sequence, "a late write under {tag:?} is not stale");
        }
    }

    fn compare_doomed(&self, index: &TagIndex) {
        let dead: BTreeSet<_> =
            self.entries.values().filter(|entry| entry.standing == Standing::Dead).map(|entry| entry.id).collect();
        let doomed = index.doomed(10);
        assert_eq!(doomed.is_empty(), dead.is_empty(), "the dead are swept");
        assert!(doomed.iter().all(|id| dead.contains(id)), "only the dead are");
        assert_eq!(doomed.iter().collect::<BTreeSet<_>>().len(), doomed.len(), "each once");
    }
}
