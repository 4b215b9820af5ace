//! What users who may change only some keys did to tags: whether a late write comes too late.
//!
//! Such a user invalidates the entries that it may change, one by one, and nothing is written to the
//! tag. But a lease may be out under which an entry with that tag will be stored. So it is noted
//! which tag, when, and of which keys; the last as rules that only the server understands: here they
//! are bytes, and the same rules are the same *scope*.
//!
//! Each scope has room for [`EVENTS_MAX`] tags. Beyond that its oldest event is forgotten, and only
//! kept that it was *some* tag: then a late write to a key of that scope is refused without need. So
//! whoever invalidates without end harms itself, and no one of another scope.
//!
//! Rejected: to note which of the keys that are leased now the user may change. That is O(leases).

use super::{Standing, TagIndex};
use crate::engine::time::UnixMillis;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// How many tags are remembered for each scope.
pub const EVENTS_MAX: usize = 10_000;

type Bytes = Rc<[u8]>;

/// What happened to one tag, for the keys of one scope.
#[derive(Debug)]
struct Event {
    scope: Bytes,
    past: Past,
}

/// When something was invalidated and marked stale last, 0 if never; and when it was first marked, as
/// far as that is remembered: an entry may be said to have been stale for longer than it has.
#[derive(Clone, Copy, Debug, Default)]
struct Past {
    invalidated: u64,
    marked: u64,
    since: UnixMillis,
}

#[derive(Debug, Default)]
struct Scope {
    /// Its tags, by when something last happened.
    order: BTreeSet<(u64, Bytes)>,
    /// The last of what was forgotten.
    forgotten: Past,
}

#[derive(Debug)]
pub(super) struct Scoped {
    tags: BTreeMap<Bytes, Vec<Event>>,
    scopes: BTreeMap<Bytes, Scope>,
    pub events_max: usize,
    /// Whether something is remembered that nobody will ask for.
    pub is_idle: bool,
}

impl Default for Scoped {
    fn default() -> Self {
        Self { tags: BTreeMap::new(), scopes: BTreeMap::new(), events_max: EVENTS_MAX, is_idle: false }
    }
}

impl Past {
    fn last(self) -> u64 {
        self.invalidated.max(self.marked)
    }

    /// What it means for who began at `sequence`.
    fn standing(self, sequence: u64) -> Standing {
        if self.invalidated > sequence {
            Standing::Dead
        } else if self.marked > sequence {
            Standing::Stale
        } else {
            Standing::Live
        }
    }

    fn note(&mut self, standing: Standing, sequence: u64, now: UnixMillis) {
        match standing {
            Standing::Dead => self.invalidated = sequence,
            Standing::Stale if self.marked == 0 => (self.marked, self.since) = (sequence, now),
            Standing::Stale => self.marked = sequence,
            Standing::Live => {}
        }
    }

    fn merge(&mut self, other: Self) {
        if other.marked > 0 && (self.marked == 0 || other.since < self.since) {
            self.since = other.since;
        }
        self.invalidated = self.invalidated.max(other.invalidated);
        self.marked = self.marked.max(other.marked);
    }
}

impl Scoped {
    pub fn is_empty(&self) -> bool {
        self.scopes.is_empty()
    }

    fn note(&mut self, tag: &[u8], rules: &Bytes, standing: Standing, sequence: u64, now: UnixMillis) {
        let tag: Bytes = self.tags.get_key_value(tag).map_or_else(|| tag.into(), |(tag, _)| Rc::clone(tag));
        let rules = self.scopes.get_key_value(rules).map_or(rules, |(rules, _)| rules).clone();
        let events = self.tags.entry(Rc::clone(&tag)).or_default();
        let at = events.iter().position(|event| event.scope == rules).unwrap_or(events.len());
        if at == events.len() {
            events.push(Event { scope: Rc::clone(&rules), past: Past::default() });
        }
        let Some(event) = events.get_mut(at) else { return };
        let scope = self.scopes.entry(Rc::clone(&rules)).or_default();
        scope.order.remove(&(event.past.last(), Rc::clone(&tag)));
        event.past.note(standing, sequence, now);
        scope.order.insert((event.past.last(), tag));
        if scope.order.len() > self.events_max {
            if let Some((_, oldest)) = scope.order.pop_first() {
                let past = self.drop_event(&oldest, &rules);
                if let Some(scope) = self.scopes.get_mut(&rules) {
                    scope.forgotten.merge(past);
                }
            }
        }
    }

    fn drop_event(&mut self, tag: &Bytes, rules: &Bytes) -> Past {
        let Some(events) = self.tags.get_mut(tag) else { return Past::default() };
        let at = events.iter().position(|event| event.scope == *rules);
        let past = at.map_or(Past::default(), |at| events.swap_remove(at).past);
        if events.is_empty() {
            self.tags.remove(tag);
        }
        past
    }

    /// What happened to `tag` after `sequence`, for the keys of each of the scopes.
    fn since<'a>(&'a self, tag: &[u8], sequence: u64) -> impl Iterator<Item = (&'a Bytes, Standing, UnixMillis)> {
        let events = self.tags.get(tag).into_iter().flatten().map(|event| (&event.scope, event.past));
        let forgotten = self.scopes.iter().map(|(rules, scope)| (rules, scope.forgotten));
        let all = events.chain(forgotten).map(move |(rules, past)| (rules, past.standing(sequence), past.since));
        all.filter(|(_, standing, _)| *standing != Standing::Live)
    }

    /// Nobody will ask who began before `floor`. O(scopes).
    pub fn forget_before(&mut self, floor: u64) {
        self.is_idle = self.scopes.values().any(|scope| scope.is_idle(floor));
    }

    /// Forgets one thing that happened up to `floor`; false if there is none. O(scopes).
    pub fn forget_one(&mut self, floor: u64) -> bool {
        let Some((rules, scope)) = self.scopes.iter_mut().find(|(_, scope)| scope.is_idle(floor)) else {
            self.is_idle = false;
            return false;
        };
        let rules = Rc::clone(rules);
        match scope.order.first().filter(|(at, _)| *at <= floor).cloned() {
            Some(first) => {
                scope.order.remove(&first);
                self.drop_event(&first.1, &rules);
            }
            None => scope.forgotten = Past::default(),
        }
        if self.scopes.get(&rules).is_some_and(|scope| scope.order.is_empty() && scope.forgotten.last() == 0) {
            self.scopes.remove(&rules);
        }
        true
    }
}

impl Scope {
    fn is_idle(&self, floor: u64) -> bool {
        let forgotten = self.forgotten.last();
        self.order.first().is_some_and(|(at, _)| *at <= floor) || forgotten > 0 && forgotten <= floor
    }
}

impl TagIndex {
    /// A user who may change the keys of `scope` made those of them that have `tag` dead, or stale
    /// since `now`. That is noted for late writes alone; what has the tag now is left to
    /// [`Self::kill`] and [`Self::age`]. O(log n).
    pub fn note_scoped(&mut self, tag: &[u8], scope: &Rc<[u8]>, standing: Standing, now: UnixMillis) {
        self.sequence += 1;
        self.scoped.note(tag, scope, standing, self.sequence, now);
    }

    /// What was noted of `tag` after `sequence`, worst of each scope, and for what is stale since
    /// when. Exact, unless it was more than [`EVENTS_MAX`] tags of that scope: then also of others.
    #[must_use]
    pub fn scoped_since(&self, tag: &[u8], sequence: u64) -> Vec<(Rc<[u8]>, Standing, UnixMillis)> {
        if self.scoped.is_empty() {
            return Vec::new();
        }
        let all = self.scoped.since(tag, sequence);
        all.map(|(scope, standing, since)| (Rc::clone(scope), standing, since)).collect()
    }

    /// True if anything is noted for late writes of some keys.
    #[must_use]
    pub fn has_scoped(&self) -> bool {
        !self.scoped.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(7);
    const LATER: UnixMillis = UnixMillis(9);

    fn fates(index: &TagIndex, tag: &[u8], sequence: u64) -> Vec<(&'static str, Standing, u64)> {
        let named = |rules: &[u8]| if rules == b"a" { "a" } else { "b" };
        index
            .scoped_since(tag, sequence)
            .iter()
            .map(|(rules, standing, since)| (named(rules), *standing, since.0))
            .collect()
    }

    fn forget(index: &mut TagIndex) {
        index.forget_before(index.sequence());
        while index.tidy(1) {}
    }

    #[test]
    fn each_scope_has_a_past_of_its_own() {
        let (a, b): (Rc<[u8]>, Rc<[u8]>) = (b"a"[..].into(), b"b"[..].into());
        let mut index = TagIndex::new(1);
        index.note_scoped(b"t", &a, Standing::Stale, NOW);
        index.note_scoped(b"t", &a, Standing::Stale, LATER);
        index.note_scoped(b"t", &b, Standing::Dead, NOW);
        index.note_scoped(b"u", &b, Standing::Stale, LATER);
        assert_eq!(fates(&index, b"t", 0), [("a", Standing::Stale, 7), ("b", Standing::Dead, 0)]);
        assert_eq!(fates(&index, b"t", 2), [("b", Standing::Dead, 0)], "who began then has seen the others");
        assert_eq!(fates(&index, b"u", 3), [("b", Standing::Stale, 9)]);
        assert_eq!((fates(&index, b"t", 4), fates(&index, b"v", 0)), (vec![], vec![]));
        assert!(!index.invalidated_since(b"t", 0) && !index.marked_since(b"t", 0), "it is no past of the tag's");
        assert!(index.info(b"t").is_none() && index.list(0, 9).1.is_empty());
    }

    #[test]
    fn who_has_more_than_it_may_harms_itself_alone() {
        let (a, b): (Rc<[u8]>, Rc<[u8]>) = (b"a"[..].into(), b"b"[..].into());
        let mut index = TagIndex::new(1);
        index.scoped.events_max = 3;
        index.note_scoped(b"t", &b, Standing::Dead, NOW);
        (0..5u8).for_each(|n| index.note_scoped(&[n], &a, Standing::Dead, NOW));
        assert_eq!(fates(&index, b"never", 0), [("a", Standing::Dead, 0)]);
        assert_eq!(fates(&index, b"never", 3), [], "the second of five was forgotten, and had number 3");
        assert_eq!(fates(&index, &[4], 3), [("a", Standing::Dead, 0)]);
        assert_eq!(fates(&index, b"t", 0), [("b", Standing::Dead, 0), ("a", Standing::Dead, 0)]);
        forget(&mut index);
        assert!(index.scoped.is_empty() && index.scoped.tags.is_empty(), "with the last lease all is forgotten");
    }

    #[test]
    fn what_an_older_lease_may_ask_for_is_kept() {
        let a: Rc<[u8]> = b"a"[..].into();
        let mut index = TagIndex::new(1);
        index.note_scoped(b"t", &a, Standing::Dead, NOW);
        index.note_scoped(b"u", &a, Standing::Dead, NOW);
        index.forget_before(1);
        while index.tidy(1) {}
        assert_eq!((fates(&index, b"t", 0).len(), fates(&index, b"u", 1).len()), (0, 1));
        index.note_scoped(b"u", &a, Standing::Stale, NOW);
        assert_eq!(fates(&index, b"u", 1), [("a", Standing::Dead, 7)]);
        assert_eq!(fates(&index, b"u", 2), [("a", Standing::Stale, 7)]);
    }
}
