//! Replies that have been decided and not yet been delivered.
//!
//! A value may answer ten thousand waiters at once; writing to so many sockets takes the server a
//! tenth of a second. So the decision moves the whole queue to the pending replies in one step, and the
//! server delivers from there a slice at a time, serving other clients in between. Each waiter is
//! in exactly one place, a queue or the pending replies, and leaves that place exactly once: that is why
//! each gets exactly one answer.
//!
//! A lease runs from the moment it is granted, told or not. So grants do not stand behind ten thousand
//! values of another key: they have an order of their own, and the two are served by turns.

use super::waiters::Queue;
use crate::engine::cache::leases::{Failure, Grant, Served};
use crate::engine::id::WaiterId;
use std::collections::VecDeque;

/// What one who waited is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The value that was set; shared by all who are told.
    Value(Served),
    /// Nobody else regenerates any more: the waiter now holds the lease.
    Won(Grant),
    /// Its own wait ended first; the lease of another lasts `left_ms` more.
    Leased {
        /// Milliseconds.
        left_ms: u64,
    },
    /// The holder could not load the value.
    Failed(Failure),
    /// None of its several keys is leased any more, or its wait ended: look at them again.
    Look,
    /// The key came to hold a value of a type that is not ours to serve.
    WrongType,
    /// The key moved to another node of the cluster.
    Moved,
    /// This server no longer decides: it became a replica.
    Readonly,
}

#[derive(Debug)]
struct Batch {
    waiters: Queue,
    reply: Reply,
}

/// Pending replies, grants and others by turns, each in the order in which they were decided.
#[derive(Debug, Default)]
pub struct PendingReplies {
    grants: VecDeque<Batch>,
    others: VecDeque<Batch>,
    /// Whether a grant was the last to be told.
    granted: bool,
}

impl PendingReplies {
    /// Decides the answer of all `waiters`. O(1), however many they are.
    pub fn push(&mut self, waiters: Queue, reply: Reply) {
        if !waiters.is_empty() {
            self.order_of(&reply).push_back(Batch { waiters, reply });
        }
    }

    fn order_of(&mut self, reply: &Reply) -> &mut VecDeque<Batch> {
        match reply {
            Reply::Won(_) => &mut self.grants,
            _ => &mut self.others,
        }
    }

    /// Decides the answer of one waiter. Equal answers in a row share a batch, so that a thousand
    /// waits that end together do not make a thousand batches to search in [`PendingReplies::take`].
    pub fn push_one(&mut self, id: WaiterId, reply: Reply) {
        match self.order_of(&reply).back_mut() {
            Some(last) if last.reply == reply => {
                last.waiters.insert(id);
            }
            _ => self.push(Queue::from([id]), reply),
        }
    }

    /// The next to be told, oldest decision and oldest waiter first. O(log n).
    pub fn pop(&mut self) -> Option<(WaiterId, Reply)> {
        let grants = self.others.is_empty() || !self.granted && !self.grants.is_empty();
        let order = if grants { &mut self.grants } else { &mut self.others };
        let batch = order.front_mut()?;
        self.granted = grants;
        let id = batch.waiters.pop_first()?;
        let reply = batch.reply.clone();
        if batch.waiters.is_empty() {
            order.pop_front();
        }
        Some((id, reply))
    }

    /// Takes the answer of `id` out of turn, if it has been decided. O(batches · log n).
    pub fn take(&mut self, id: WaiterId) -> Option<Reply> {
        take_from(&mut self.grants, id).or_else(|| take_from(&mut self.others, id))
    }

    /// True if all have been told.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.grants.is_empty() && self.others.is_empty()
    }
}

fn take_from(order: &mut VecDeque<Batch>, id: WaiterId) -> Option<Reply> {
    let at = order.iter().position(|batch| batch.waiters.contains(&id))?;
    let batch = order.get_mut(at)?;
    batch.waiters.remove(&id);
    let reply = batch.reply.clone();
    if batch.waiters.is_empty() {
        order.remove(at);
    }
    Some(reply)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::cache::leases::{Serial, Token};
    use crate::engine::id::DbKey;
    use crate::engine::time::MonoMillis;

    impl PendingReplies {
        /// All that is undelivered.
        pub(crate) fn iter(&self) -> impl Iterator<Item = (WaiterId, &Reply)> {
            self.grants.iter().chain(&self.others).flat_map(|batch| batch.waiters.iter().map(|&id| (id, &batch.reply)))
        }
    }

    fn queue(ids: &[u64]) -> Queue {
        ids.iter().copied().map(WaiterId).collect()
    }

    fn leased(left_ms: u64) -> Reply {
        Reply::Leased { left_ms }
    }

    fn drain(pending: &mut PendingReplies) -> Vec<(u64, Reply)> {
        std::iter::from_fn(|| pending.pop()).map(|(id, reply)| (id.0, reply)).collect()
    }

    #[test]
    fn the_oldest_decision_goes_first_and_in_it_the_oldest_waiter() {
        let mut pending = PendingReplies::default();
        let value = Reply::Value(Served { value: b"v"[..].into(), fresh_until: None });
        pending.push(queue(&[9, 4]), value.clone());
        pending.push(queue(&[3]), Reply::WrongType);
        assert_eq!(drain(&mut pending), [(4, value.clone()), (9, value), (3, Reply::WrongType)]);
        assert!(pending.is_empty());
    }

    #[test]
    fn grants_and_other_answers_take_turns() {
        let mut pending = PendingReplies::default();
        pending.push(queue(&[1, 2, 3, 4]), leased(5));
        let db_key = DbKey { db: 0, key: b"k"[..].into() };
        let grant = Grant { serial: Serial(1), db_key, token: Token(7), deadline: MonoMillis(9) };
        pending.push_one(WaiterId(8), Reply::Won(grant.clone()));
        pending.push_one(WaiterId(9), Reply::Won(Grant { serial: Serial(2), ..grant }));
        let order: Vec<_> = drain(&mut pending).into_iter().map(|(id, _)| id).collect();
        assert_eq!(order, [8, 1, 9, 2, 3, 4]);
    }

    #[test]
    fn nobody_is_no_batch() {
        let mut pending = PendingReplies::default();
        pending.push(Queue::new(), Reply::Readonly);
        assert!(pending.is_empty());
        assert_eq!(pending.pop(), None);
    }

    #[test]
    fn equal_answers_in_a_row_share_a_batch() {
        let mut pending = PendingReplies::default();
        (1..=1_000).for_each(|id| pending.push_one(WaiterId(id), leased(7)));
        pending.push_one(WaiterId(1_001), leased(8));
        pending.push_one(WaiterId(1_002), leased(7));
        assert_eq!(pending.others.len(), 3);
        assert_eq!(drain(&mut pending).len(), 1_002);
    }

    #[test]
    fn an_answer_is_taken_out_of_turn_and_then_gone() {
        let mut pending = PendingReplies::default();
        pending.push(queue(&[1, 2, 3]), leased(5));
        pending.push(queue(&[4]), Reply::Moved);
        assert_eq!(pending.take(WaiterId(2)), Some(leased(5)));
        assert_eq!(pending.take(WaiterId(2)), None);
        assert_eq!(pending.take(WaiterId(4)), Some(Reply::Moved));
        assert_eq!(pending.others.len(), 1, "a batch that was taken whole leaves nothing behind");
        assert_eq!(drain(&mut pending), [(1, leased(5)), (3, leased(5))]);
    }
}
