//! Answers that have been decided and not yet been delivered.
//!
//! A value may answer ten thousand waiters at once; writing to so many sockets takes the server a
//! tenth of a second. So the decision moves the whole queue into the outbox in one step, and the
//! server delivers from there a slice at a time, serving other clients in between. Each waiter is
//! in exactly one place, a queue or the outbox, and leaves that place exactly once: that is why
//! each gets exactly one answer.

use super::lease::{Failure, Grant, Served};
use super::waiters::{Queue, WaiterId};
use std::collections::VecDeque;

/// What one who waited is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
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
    answer: Answer,
}

/// Answers in the order in which they were decided.
#[derive(Debug, Default)]
pub struct Outbox {
    batches: VecDeque<Batch>,
}

impl Outbox {
    /// Decides the answer of all `waiters`. O(1), however many they are.
    pub fn push(&mut self, waiters: Queue, answer: Answer) {
        if !waiters.is_empty() {
            self.batches.push_back(Batch { waiters, answer });
        }
    }

    /// Decides the answer of one waiter. Equal answers in a row share a batch, so that a thousand
    /// waits that end together do not make a thousand batches to search in [`Outbox::take`].
    pub fn push_one(&mut self, id: WaiterId, answer: Answer) {
        match self.batches.back_mut() {
            Some(last) if last.answer == answer => {
                last.waiters.insert(id);
            }
            _ => self.push(Queue::from([id]), answer),
        }
    }

    /// The next to be told, oldest decision and oldest waiter first. O(log n).
    pub fn pop(&mut self) -> Option<(WaiterId, Answer)> {
        let batch = self.batches.front_mut()?;
        let id = batch.waiters.pop_first()?;
        let answer = batch.answer.clone();
        if batch.waiters.is_empty() {
            self.batches.pop_front();
        }
        Some((id, answer))
    }

    /// Takes the answer of `id` out of turn, if it has been decided. O(batches · log n).
    pub fn take(&mut self, id: WaiterId) -> Option<Answer> {
        let at = self.batches.iter().position(|batch| batch.waiters.contains(&id))?;
        let batch = self.batches.get_mut(at)?;
        batch.waiters.remove(&id);
        let answer = batch.answer.clone();
        if batch.waiters.is_empty() {
            self.batches.remove(at);
        }
        Some(answer)
    }

    /// True if all have been told.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Outbox {
        /// All that is undelivered, in the order of delivery.
        pub(crate) fn iter(&self) -> impl Iterator<Item = (WaiterId, &Answer)> {
            self.batches.iter().flat_map(|batch| batch.waiters.iter().map(|&id| (id, &batch.answer)))
        }
    }

    fn queue(ids: &[u64]) -> Queue {
        ids.iter().copied().map(WaiterId).collect()
    }

    fn leased(left_ms: u64) -> Answer {
        Answer::Leased { left_ms }
    }

    fn drain(outbox: &mut Outbox) -> Vec<(u64, Answer)> {
        std::iter::from_fn(|| outbox.pop()).map(|(id, answer)| (id.0, answer)).collect()
    }

    #[test]
    fn the_oldest_decision_goes_first_and_in_it_the_oldest_waiter() {
        let mut outbox = Outbox::default();
        let value = Answer::Value(Served { value: b"v"[..].into(), fresh_until: None });
        outbox.push(queue(&[9, 4]), value.clone());
        outbox.push(queue(&[3]), Answer::WrongType);
        assert_eq!(drain(&mut outbox), [(4, value.clone()), (9, value), (3, Answer::WrongType)]);
        assert!(outbox.is_empty());
    }

    #[test]
    fn nobody_is_no_batch() {
        let mut outbox = Outbox::default();
        outbox.push(Queue::new(), Answer::Readonly);
        assert!(outbox.is_empty());
        assert_eq!(outbox.pop(), None);
    }

    #[test]
    fn equal_answers_in_a_row_share_a_batch() {
        let mut outbox = Outbox::default();
        (1..=1_000).for_each(|id| outbox.push_one(WaiterId(id), leased(7)));
        outbox.push_one(WaiterId(1_001), leased(8));
        outbox.push_one(WaiterId(1_002), leased(7));
        assert_eq!(outbox.batches.len(), 3);
        assert_eq!(drain(&mut outbox).len(), 1_002);
    }

    #[test]
    fn an_answer_is_taken_out_of_turn_and_then_gone() {
        let mut outbox = Outbox::default();
        outbox.push(queue(&[1, 2, 3]), leased(5));
        outbox.push(queue(&[4]), Answer::Moved);
        assert_eq!(outbox.take(WaiterId(2)), Some(leased(5)));
        assert_eq!(outbox.take(WaiterId(2)), None);
        assert_eq!(outbox.take(WaiterId(4)), Some(Answer::Moved));
        assert_eq!(outbox.batches.len(), 1, "a batch that was taken whole leaves nothing behind");
        assert_eq!(drain(&mut outbox), [(1, leased(5)), (3, leased(5))]);
    }
}
