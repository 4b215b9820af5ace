//! Who holds a lock: the value under its key.
//!
//! Every change to it is a [`Change`], decided on the primary and applied with [`Lock::apply`]
//! there, on replicas and from the AOF alike. `apply` reads no clock and refuses nothing.
//!
//! Holders are kept in the order of their numbers, so that values that were built in different
//! orders are the same value. Which connection a holder is, is known only where it was granted: it
//! is neither saved nor replicated nor compared.
//!
//! The key's TTL is that of the last holder, set anew with each change. A TTL that a user sets ends
//! the lock earlier, as it removes the key; one that a user lengthens or takes away lets nobody hold
//! longer than its own deadline.
//!
//! Values may be freed by a background thread, so they own plain memory only.

use super::super::time::UnixMillis;
use super::Mode;
use crate::engine::id::{Bond, ClientId};
use std::sync::Arc;

/// What one who holds or asks calls itself: any bytes. Shared, since a grant names it in the value,
/// in the change that makes it and in the answer; atomically, since values are freed elsewhere.
pub type Owner = Arc<[u8]>;

/// The counts of references that stand before the bytes of an owner.
const OWNER_OVERHEAD_BYTES: usize = 2 * size_of::<usize>();

/// Room for so many holders is not worth giving back.
const ROOM_KEPT: usize = 16;

/// One who holds a lock.
#[derive(Clone, Debug)]
pub struct Holder {
    /// What it calls itself.
    pub owner: Owner,
    /// The number of its grant.
    pub fence: u64,
    /// When it ceases to hold.
    pub deadline: UnixMillis,
    /// The connection that was granted it, where that is known.
    pub client: Option<ClientId>,
    /// Whether it ceases to hold when that connection closes.
    pub bond: Bond,
    /// Whether its number was told on more than one connection: then it is not taken back because
    /// one of them did not hear it.
    pub told_twice: bool,
}

/// A holder that ceases to hold when a connection closes: which one, and its name.
pub type Tie = (ClientId, Owner);

impl Holder {
    /// What ties it to a connection, if anything does.
    #[must_use]
    pub fn tie(&self) -> Option<Tie> {
        let client = self.client.filter(|_| self.bond == Bond::Bound)?;
        Some((client, Owner::clone(&self.owner)))
    }
}

/// Connections are not part of what a holder is.
impl PartialEq for Holder {
    fn eq(&self, other: &Self) -> bool {
        (&self.owner, self.fence, self.deadline) == (&other.owner, other.fence, other.deadline)
    }
}

/// What is under the key of a lock that somebody holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Lock {
    pub(super) mode: Mode,
    pub(super) holders: Vec<Holder>,
}

/// A change to a lock, or to a missing one.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// This one holds it from now on, or holds it with another deadline.
    Hold {
        /// How.
        mode: Mode,
        /// Who.
        holder: Holder,
    },
    /// The holder of this name does not any more.
    Drop {
        /// Its name.
        owner: Owner,
    },
    /// Nobody holds it any more.
    Clear,
}

/// How a lock looks to one who asks for it, were there no line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judged {
    /// It may be granted.
    Free,
    /// The asker holds it already.
    Same {
        /// Its number.
        fence: u64,
        /// Its deadline.
        deadline: UnixMillis,
    },
    /// The asker holds it already, in another mode.
    Otherwise(Mode),
    /// Others hold it.
    Busy,
    /// Others hold it, as something that cannot be asked for like this.
    Clash(Mode),
}

impl Lock {
    /// The lock that the first holder makes of a free key.
    #[must_use]
    pub fn new(mode: Mode, holder: Holder) -> Self {
        Self { mode, holders: vec![holder] }
    }

    /// How it is held.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// All who hold it, those past their deadline too, in the order of their numbers.
    #[must_use]
    pub fn holders(&self) -> &[Holder] {
        &self.holders
    }

    /// The bytes that the holders take, about.
    #[must_use]
    pub fn holders_bytes(&self) -> usize {
        let owner = |holder: &Holder| holder.owner.len() + OWNER_OVERHEAD_BYTES;
        self.holders.capacity() * size_of::<Holder>() + self.holders.iter().map(owner).sum::<usize>()
    }

    /// Those who hold it at `now`.
    pub fn live(&self, now: UnixMillis) -> impl Iterator<Item = &Holder> {
        self.holders.iter().filter(move |holder| holder.deadline > now)
    }

    /// The holder of that name at `now`. O(holders).
    #[must_use]
    pub fn holder(&self, owner: &[u8], now: UnixMillis) -> Option<&Holder> {
        self.live(now).find(|holder| *holder.owner == *owner)
    }

    /// The change that removes one who is written here and ceased to hold by `now`, or all if nobody
    /// else is.
    #[must_use]
    pub fn overdue(&self, now: UnixMillis) -> Option<Change> {
        let holder = self.holders.iter().find(|holder| holder.deadline <= now)?;
        let all = self.live(now).next().is_none();
        Some(if all { Change::Clear } else { Change::Drop { owner: Owner::clone(&holder.owner) } })
    }

    /// When the first of those who hold it at `now` ceases to.
    #[must_use]
    pub fn next_end(&self, now: UnixMillis) -> Option<UnixMillis> {
        self.live(now).map(|holder| holder.deadline).min()
    }

    /// When the last of its holders ceases to: the end of the key.
    #[must_use]
    pub fn end(&self) -> UnixMillis {
        self.holders.iter().map(|holder| holder.deadline).max().unwrap_or_default()
    }

    /// The highest number in it.
    #[must_use]
    pub fn last_fence(&self) -> u64 {
        self.holders.last().map_or(0, |holder| holder.fence)
    }

    /// How it looks to `owner` that asks for it as `mode`. O(holders).
    #[must_use]
    pub fn judge(&self, owner: &[u8], mode: Mode, now: UnixMillis) -> Judged {
        let mut live = 0;
        for holder in self.live(now) {
            if *holder.owner == *owner {
                return if self.mode == mode {
                    Judged::Same { fence: holder.fence, deadline: holder.deadline }
                } else if mode.clashes(self.mode) {
                    Judged::Clash(self.mode)
                } else {
                    Judged::Otherwise(self.mode)
                };
            }
            live += 1;
        }
        match (self.mode, mode) {
            _ if live == 0 => Judged::Free,
            (held, asked) if asked.clashes(held) => Judged::Clash(held),
            // Those past their deadline take up room until they are removed.
            (held, asked) if held == asked && self.holders.len() < held.places() => Judged::Free,
            _ => Judged::Busy,
        }
    }

    /// The change that lets the holder `owner` go; `None` if it holds nothing at `now`.
    #[must_use]
    pub fn release(&self, owner: &[u8], now: UnixMillis) -> Option<Change> {
        self.holder(owner, now).map(|holder| Change::Drop { owner: Owner::clone(&holder.owner) })
    }

    /// The change that lets the holder `owner` hold until `deadline`; `None` if it holds nothing
    /// at `now`. Whoever asks for it is told that it holds the lock, so a reply that was lost before does
    /// not matter any more.
    #[must_use]
    pub fn extend(&self, owner: &[u8], deadline: UnixMillis, now: UnixMillis) -> Option<Change> {
        let holder = self.holder(owner, now)?.clone();
        Some(Change::Hold { mode: self.mode, holder: Holder { deadline, told_twice: true, ..holder } })
    }

    /// Makes `change`, whatever it says, and returns what tied holders that it replaced or removed. A
    /// lock without holders is to be deleted. O(holders).
    pub fn apply(&mut self, change: Change) -> Vec<Tie> {
        match change {
            Change::Clear => self.clear(),
            Change::Drop { owner } => self.remove(&owner).into_iter().collect(),
            Change::Hold { mode, holder } => {
                let mut untied: Vec<_> = self.remove(&holder.owner).into_iter().collect();
                // On the primary nobody is left then who could be thrown out.
                if mode != self.mode || mode == Mode::Exclusive {
                    untied.append(&mut self.clear());
                    self.mode = mode;
                }
                let order = |other: &Holder| (other.fence, &other.owner) < (holder.fence, &holder.owner);
                let at = self.holders.partition_point(order);
                self.holders.insert(at, holder);
                untied
            }
        }
    }

    /// Forgets which connections the holders are. It is about to leave its key, and bonds do not follow.
    pub(super) fn unbind(&mut self) {
        for holder in &mut self.holders {
            (holder.client, holder.bond) = (None, Bond::Free);
        }
    }

    /// A copy whose holders are bound to no connection, for another key.
    #[must_use]
    pub fn unbound(&self) -> Self {
        let mut copy = self.clone();
        copy.unbind();
        copy
    }

    fn clear(&mut self) -> Vec<Tie> {
        self.holders.drain(..).filter_map(|holder| holder.tie()).collect()
    }

    /// Removes a holder; what tied it, if it was bound. Room that a crowd has left is given back.
    fn remove(&mut self, owner: &[u8]) -> Option<Tie> {
        let at = self.holders.iter().position(|holder| *holder.owner == *owner)?;
        let tie = self.holders.remove(at).tie();
        if self.holders.capacity() > ROOM_KEPT && self.holders.len() < self.holders.capacity() / 4 {
            self.holders.shrink_to(self.holders.len() * 2);
        }
        tie
    }
}

// Freed by the server's background thread.
const _: fn() = || {
    fn is_send<T: Send>() {}
    is_send::<Lock>();
};
