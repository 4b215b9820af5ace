//! Replies that are decided and not yet delivered, of locks and of limits.
//!
//! A reply is taken out of turn when the connection that waited for it closes, so replies are kept by
//! waiter, beside the order in which they were decided; what that leaves in the order is skipped when
//! its turn comes. A right that is granted runs from that moment on, delivered or not: so grants do
//! not stand behind a crowd of waits that ended, but the two are delivered by turns.
//!
//! Leases keep theirs in batches ([`crate::engine::cache::pending`]): one value answers ten thousand
//! waiters in one step. Here each reply is a decision of its own.

use super::id::WaiterId;
use ahash::AHashMap;
use std::collections::VecDeque;

/// Room that is kept when the last reply is gone, so that one after the other allocates nothing.
const SPARE: usize = 64;

/// A reply that was decided.
pub trait Decided {
    /// True if it carries a right whose time runs from the decision.
    fn is_grant(&self) -> bool;
}

/// Replies by waiter, grants and others by turns, each in the order in which they were decided.
#[derive(Debug)]
pub struct PendingReplies<R> {
    grants: VecDeque<WaiterId>,
    others: VecDeque<WaiterId>,
    /// Whether a grant was the last to be delivered.
    granted: bool,
    all: AHashMap<WaiterId, R>,
}

impl<R> Default for PendingReplies<R> {
    fn default() -> Self {
        Self { grants: VecDeque::new(), others: VecDeque::new(), granted: false, all: AHashMap::new() }
    }
}

impl<R: Decided> PendingReplies<R> {
    /// Decides the reply of a waiter that has none yet. O(1).
    pub fn push(&mut self, id: WaiterId, reply: R) {
        let order = if reply.is_grant() { &mut self.grants } else { &mut self.others };
        order.push_back(id);
        self.all.insert(id, reply);
    }

    /// The next to be delivered. O(1) amortized.
    pub fn pop(&mut self) -> Option<(WaiterId, R)> {
        loop {
            let grants = self.others.is_empty() || !self.granted && !self.grants.is_empty();
            let order = if grants { &mut self.grants } else { &mut self.others };
            let id = order.pop_front()?;
            if let Some(reply) = self.take(id) {
                self.granted = grants;
                return Some((id, reply));
            }
        }
    }

    /// Takes the reply of `id` out of turn; `None` if none is pending. O(1).
    pub fn take(&mut self, id: WaiterId) -> Option<R> {
        let reply = self.all.remove(&id);
        if self.all.is_empty() {
            for order in [&mut self.grants, &mut self.others] {
                order.clear();
                order.shrink_to(SPARE);
            }
            self.all.shrink_to(SPARE);
        }
        reply
    }

    /// All that are pending, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut R> {
        self.all.values_mut()
    }

    /// True if none is pending.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    #[cfg(test)]
    pub(crate) fn ids(&self) -> impl Iterator<Item = WaiterId> + '_ {
        self.all.keys().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Decided for (u64, bool) {
        fn is_grant(&self) -> bool {
            self.1
        }
    }

    fn pending(replies: &[(u64, bool)]) -> PendingReplies<(u64, bool)> {
        let mut pending = PendingReplies::default();
        replies.iter().for_each(|reply| pending.push(WaiterId(reply.0), *reply));
        pending
    }

    fn drain(pending: &mut PendingReplies<(u64, bool)>) -> Vec<u64> {
        std::iter::from_fn(|| pending.pop())
            .map(|(id, reply)| (id.0, reply.0))
            .inspect(|(id, it)| assert_eq!(id, it))
            .map(|(id, _)| id)
            .collect()
    }

    #[test]
    fn grants_and_others_take_turns_each_in_order() {
        let mut pending = pending(&[(1, false), (2, false), (3, false), (8, true), (9, true)]);
        assert_eq!(drain(&mut pending), [8, 1, 9, 2, 3]);
        assert!(pending.is_empty() && pending.pop().is_none());
    }

    #[test]
    fn one_that_was_taken_is_skipped() {
        let mut pending = pending(&[(1, false), (2, false), (8, true), (9, true)]);
        assert_eq!(pending.take(WaiterId(8)), Some((8, true)));
        assert_eq!(pending.take(WaiterId(8)), None);
        assert_eq!(pending.take(WaiterId(1)), Some((1, false)));
        assert_eq!(drain(&mut pending), [9, 2]);
    }

    #[test]
    fn a_crowd_that_has_gone_holds_little_memory() {
        let all: Vec<_> = (0..10_000).map(|id| (id, id % 2 == 0)).collect();
        let mut pending = pending(&all);
        all.iter().for_each(|(id, _)| assert!(pending.take(WaiterId(*id)).is_some()));
        let room = pending.all.capacity().max(pending.grants.capacity()).max(pending.others.capacity());
        assert!(room <= 2 * SPARE, "{room}");
    }
}
