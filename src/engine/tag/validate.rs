//! What must hold inside a [`TagIndex`] between any two calls, and what it takes.
//!
//! This checks the index against itself; whether its answers are the right ones is the business of
//! `model`.

use super::linear_hash_set::{LinearHashSet, Member};
use super::{Standing, TagIndex, NOBODY};
use std::collections::BTreeMap;

/// What jemalloc takes for an allocation of `bytes`.
pub(super) fn size_class(bytes: usize) -> usize {
    match bytes {
        0 => 0,
        1..=8 => 8,
        9..=128 => bytes.next_multiple_of(16),
        _ => bytes.next_multiple_of(bytes.next_power_of_two() / 8),
    }
}

impl TagIndex {
    /// Remembers as few tags as asked.
    pub(super) fn with_limits(recent_max: usize, kept_max: usize) -> Self {
        let mut index = Self::new(recent_max as u64);
        (index.history.recent_max, index.history.kept_max) = (recent_max, kept_max);
        index
    }

    /// Tags that are remembered without members.
    pub(super) fn remembered(&self) -> usize {
        self.history.recent.len()
    }

    /// What all allocations take, in jemalloc's classes.
    pub(super) fn allocated(&self) -> usize {
        let records = self.keys.iter().map(|(_, record)| record.allocated(size_class)).sum::<usize>();
        let tags = self.tags.iter().map(|(_, tag)| size_class(tag.name.len()) + tag.members.allocated(size_class));
        let doomed = self.doomed.values().map(|members| members.allocated(size_class) + 64);
        let slabs = self.keys.allocated(size_class) + self.tags.allocated(size_class);
        let sets = self.history.recent.len() * 24 + self.forgotten.len() * 8;
        records + tags.sum::<usize>() + doomed.sum::<usize>() + slabs + sets + self.names.allocated(size_class)
    }

    /// Asserts the invariants of the file's head. O(everything).
    pub(super) fn validate(&self) {
        self.keys.validate();
        self.tags.validate();
        self.names.validate();
        let mut placed: BTreeMap<(u32, u64), Vec<Member>> = BTreeMap::new();
        let mut bytes: BTreeMap<u32, u64> = BTreeMap::new();
        for (db_key, record) in self.keys.iter() {
            assert!(record.stored <= self.sequence, "a record from the future");
            let member = Member { hash: self.hash(record.name()), id: db_key };
            if record.floor == Standing::Dead {
                placed.entry((NOBODY, 0)).or_default().push(member);
            }
            let mut seen = Vec::new();
            for id in record.tags() {
                assert!(!seen.contains(&id), "a tag twice on one key");
                seen.push(id);
                let tag = self.tags.get(id).expect("a record has a tag that is gone");
                // Sequence 0 stands for the members.
                let mut place = (id, 0);
                if tag.invalidated > record.stored {
                    let first = self.doomed.keys().find(|(of, at)| *of == id && *at > record.stored);
                    place = *first.expect("a dead entry without an invalidation");
                } else {
                    *bytes.entry(id).or_default() += u64::from(record.bytes);
                }
                placed.entry(place).or_default().push(member);
            }
        }
        for (place, members) in &self.doomed {
            assert_same(members, placed.remove(place), "doomed");
        }
        for (id, tag) in self.tags.iter() {
            assert_eq!(tag.bytes, bytes.remove(&id).unwrap_or(0), "bytes of {:?}", tag.name);
            match placed.remove(&(id, 0)) {
                None => assert!(tag.members.is_empty(), "members that do not have the tag"),
                members => assert_same(&tag.members, members, "members"),
            }
            self.validate_tag(id);
        }
        assert!(placed.is_empty(), "a membership in no set");
        assert_eq!(self.backlog, self.doomed.values().map(LinearHashSet::len).sum::<usize>(), "backlog");
        let inhabited = self.tags.iter().filter(|(_, tag)| !tag.is_forgotten && !tag.members.is_empty());
        assert_eq!(self.inhabited, inhabited.count(), "tags with members");
        let named = self.tags.iter().filter(|(_, tag)| !tag.is_forgotten).count();
        assert_eq!(self.names.len(), named, "names");
        assert!(self.history.recent.len() <= self.history.recent_max, "remembered tags");
        assert!(self.history.recent.iter().all(|(_, id)| self.tags.get(*id).is_some()), "a remembered tag is gone");
        assert!(self.forgotten.iter().all(|id| self.tags.get(*id).is_some()), "a forgotten tag is gone");
    }

    fn validate_tag(&self, id: u32) {
        let tag = self.tags.get(id).expect("it is there");
        assert!(tag.last_event() <= self.sequence, "an event from the future");
        assert_eq!(self.find(&tag.name) == Some(id), !tag.is_forgotten, "{:?} is found by its name", tag.name);
        let is_empty = tag.members.is_empty();
        assert_eq!(
            self.forgotten.contains(&id),
            tag.is_forgotten && !is_empty,
            "{:?} is among the forgotten",
            tag.name
        );
        let is_remembered = is_empty && !self.is_swept(id);
        let is_recent = self.history.recent.contains(&(tag.last_event(), id));
        assert_eq!(is_recent, is_remembered, "{:?} is among the remembered", tag.name);
        assert!(!is_remembered || (tag.has_history && !tag.is_forgotten), "{:?} is there for nothing", tag.name);
    }
}

fn assert_same(members: &LinearHashSet, marks: Option<Vec<Member>>, what: &str) {
    members.validate();
    let mut marks = marks.unwrap_or_else(|| panic!("a set of {what} that nobody belongs in"));
    let mut found: Vec<_> = members.iter().collect();
    marks.sort_by_key(|member| member.id);
    found.sort_by_key(|member| member.id);
    assert_eq!(found, marks, "{what}");
}
