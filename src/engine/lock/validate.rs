//! What must hold inside a [`Locks`] between any two calls.

use super::locks::Due;
use super::{Locks, Owner};
use crate::engine::id::{ClientId, DbKey, WaiterId};
use std::collections::BTreeSet;
use std::rc::Rc;

impl Locks {
    /// Who waits for `db_key`, oldest first.
    pub(crate) fn inside(&self, db_key: &DbKey) -> Vec<WaiterId> {
        self.line(db_key.db, &db_key.key).into_iter().flat_map(|line| line.ids()).collect()
    }

    /// All bonds: which lock of which owner ends with which connection.
    pub(crate) fn ties(&self) -> impl Iterator<Item = (ClientId, &DbKey, &Owner)> {
        self.bonds.iter()
    }

    /// Asserts the invariants of `lock.rs`. O(everything).
    pub(crate) fn validate(&self) {
        let mut placed = BTreeSet::new();
        let mut due = BTreeSet::new();
        for (key, dbs) in &self.lines {
            assert!(!dbs.is_empty(), "a name without a line");
            for (db, line) in dbs {
                let db_key = DbKey { db: *db, key: Rc::clone(key) };
                assert!(!line.is_empty(), "a line of nobody");
                assert!(
                    line.look_at.is_some() || self.touched.contains_key(&db_key),
                    "a line that nobody looks at: {db_key:?}"
                );
                due.extend(line.look_at.map(|at| (at, Due::Look(db_key.clone()))));
                for id in line.ids() {
                    let waiting = self.waiting.get(&id).expect("one who left stands in a line");
                    assert_eq!(waiting.db_key, db_key, "{id:?} stands in another key's line");
                    assert!(placed.insert(id), "{id:?} stands in two lines");
                    assert!(line.of(&waiting.request.owner).any(|other| other == id), "{id:?} has no name");
                    due.insert((waiting.deadline, Due::Wait(id)));
                }
                let named: usize = line
                    .ids()
                    .map(|id| self.waiting[&id].request.owner.clone())
                    .collect::<BTreeSet<_>>()
                    .iter()
                    .map(|owner| line.of(owner).count())
                    .sum();
                assert_eq!(named, line.len(), "names of those who left");
            }
        }
        assert_eq!(placed.len(), self.waiting.len(), "somebody waits nowhere");
        assert_eq!(due, self.due, "deadlines");
        assert!(self.replies.ids().all(|id| !placed.contains(&id)), "one who waits has a reply");
    }
}
