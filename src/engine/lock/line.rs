//! The line before one key: who waits for it, oldest first.
//!
//! Numbers of waiters rise with arrival, so an ordered set of them is the line. Beside it stands
//! who waits under which name: an owner whose reply was lost and that asks again on another
//! connection waits twice, and a grant answers both.

use super::super::time::MonoMillis;
use super::Owner;
use crate::engine::id::WaiterId;
use std::collections::BTreeSet;
use std::ops::Bound;

/// Who waits for one key.
#[derive(Debug, Default)]
pub(super) struct Line {
    queue: BTreeSet<WaiterId>,
    owners: BTreeSet<(Owner, WaiterId)>,
    /// When the key is to be looked at, if nothing happens before.
    pub look_at: Option<MonoMillis>,
}

impl Line {
    pub fn join(&mut self, id: WaiterId, owner: Owner) {
        self.queue.insert(id);
        self.owners.insert((owner, id));
    }

    pub fn leave(&mut self, id: WaiterId, owner: &Owner) {
        self.queue.remove(&id);
        self.owners.remove(&(Owner::clone(owner), id));
    }

    pub fn head(&self) -> Option<WaiterId> {
        self.queue.first().copied()
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub fn len(&self) -> usize {
        self.queue.len()
    }

    pub fn ids(&self) -> impl Iterator<Item = WaiterId> + '_ {
        self.queue.iter().copied()
    }

    /// All who wait under that name, oldest first.
    pub fn of<'a>(&'a self, owner: &'a Owner) -> impl Iterator<Item = WaiterId> + 'a {
        let from = Bound::Included((Owner::clone(owner), WaiterId(0)));
        self.owners.range((from, Bound::Unbounded)).take_while(move |(name, _)| name == owner).map(|(_, id)| *id)
    }
}
