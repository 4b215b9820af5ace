//! PendingReplies to those who waited for a lock, decided and not yet delivered.
//!
//! One is taken out of turn when its connection closes, so answers are kept by waiter, beside the
//! order in which they were decided. What that leaves in the order is skipped when its turn comes.

use super::{Mode, Owner};
use crate::engine::id::{ClientId, DbKey, WaiterId};
use ahash::AHashMap;
use std::collections::VecDeque;

/// A grant, as the server needs it to tell it or to take it back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// Of which key.
    pub db_key: DbKey,
    /// To whom.
    pub owner: Owner,
    /// On which connection.
    pub client: ClientId,
    /// Its number.
    pub fence: u64,
}

/// What one who waited for a lock is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It holds the lock.
    Granted(Granted),
    /// Its wait ended first.
    TimedOut,
    /// The key is held as something else than it asked for.
    Clash(Mode),
    /// It holds the lock in another mode.
    Otherwise(Mode),
    /// Fencing numbers are used up.
    Exhausted,
    /// The key came to hold a value of another type.
    WrongType,
    /// The key moved to another node of the cluster.
    Moved,
    /// This server no longer decides: it became a replica.
    Readonly,
}

/// PendingReplies in the order in which they were decided.
#[derive(Debug, Default)]
pub(super) struct PendingReplies {
    order: VecDeque<WaiterId>,
    all: AHashMap<WaiterId, Reply>,
}

impl PendingReplies {
    pub fn push(&mut self, id: WaiterId, reply: Reply) {
        self.order.push_back(id);
        self.all.insert(id, reply);
    }

    /// The next to be told.
    pub fn pop(&mut self) -> Option<(WaiterId, Reply)> {
        while let Some(id) = self.order.pop_front() {
            if let Some(reply) = self.take(id) {
                return Some((id, reply));
            }
        }
        None
    }

    /// Takes the answer of `id` out of turn.
    pub fn take(&mut self, id: WaiterId) -> Option<Reply> {
        let reply = self.all.remove(&id);
        if self.all.is_empty() {
            self.order.clear();
            self.order.shrink_to(64);
            self.all.shrink_to(64);
        }
        reply
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    #[cfg(test)]
    pub fn ids(&self) -> impl Iterator<Item = WaiterId> + '_ {
        self.all.keys().copied()
    }
}
