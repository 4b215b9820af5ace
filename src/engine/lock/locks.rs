//! The book of all who wait for locks, and of what is to be done about it.
//!
//! The server tells it what happens (somebody asks, leaves, closes its connection; a key may have
//! changed) and does what [`Locks::step`] says until that says nothing more. Both sides see the
//! value under the key, which only the server may touch: so the book decides on a view of it, and
//! remembers none.

use super::bonds::Bonds;
use super::line::Line;
use super::reply::{Granted, Reply};
use super::touch::Loss;
use super::{Change, Fences, Holder, Judged, Lock, Mode, Now, Owner, Term};
use crate::engine::id::{Bond, ClientId, DbId, DbKey, WaiterId};
use crate::engine::time::{MonoMillis, UnixMillis};
use crate::engine::wait::PendingReplies;
use ahash::AHashMap;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// One who asks for a lock.
#[derive(Clone, Debug)]
pub struct Request {
    /// What it calls itself.
    pub owner: Owner,
    /// Its connection.
    pub client: ClientId,
    /// How it would hold the lock.
    pub mode: Mode,
    /// How long.
    pub term: Term,
    /// Whether it would lose the lock with its connection.
    pub bond: Bond,
    /// The least number it would be given.
    pub at_least: u64,
}

/// What the keyspace holds under a key.
#[derive(Clone, Copy, Debug)]
pub enum Found<'v> {
    /// Nothing: the lock is free.
    Nothing,
    /// A lock, and when its key goes.
    Lock(&'v Lock, Option<UnixMillis>),
    /// A value of another type.
    WrongType,
}

/// What one who asks is told, or does.
#[derive(Clone, Debug, PartialEq)]
pub enum Asked {
    /// It holds the lock, once the change is made; with a number that nobody had before.
    Granted {
        /// The number.
        fence: u64,
        /// What to commit.
        change: Change,
    },
    /// It held the lock already; by that number, unless it asks for a higher one now. The change may give
    /// it more time.
    Again {
        /// The number.
        fence: u64,
        /// What to commit.
        change: Change,
    },
    /// It waits, and its answer comes through [`Locks::next_reply`].
    Blocked(WaiterId),
    /// Others hold the lock or stand in line, and it does not wait.
    Busy,
    /// The key is held, or waited for, as something else.
    Clash(Mode),
    /// It holds the lock in another mode.
    Otherwise(Mode),
    /// Fencing numbers are used up.
    Exhausted,
}

/// Counts since the server started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LockStats {
    /// Locks granted, with a number of their own.
    pub granted: u64,
    /// Requests answered with nil.
    pub refused: u64,
    /// Requests that waited.
    pub waited: u64,
}

/// The line before one key, for an observer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LineView {
    /// How many stand in it.
    pub waiters: usize,
    /// How long the oldest has waited, in milliseconds.
    pub oldest_ms: u64,
}

#[derive(Debug)]
pub(super) struct Waiting {
    pub db_key: DbKey,
    pub request: Request,
    pub since: MonoMillis,
    pub deadline: MonoMillis,
}

/// Keys come first: who can be granted a lock is, before it could be told that it waited too long.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    Look(DbKey),
    Wait(WaiterId),
}

/// All who wait for locks, and the numbers they are given.
#[derive(Debug, Default)]
pub struct Locks {
    pub(super) lines: AHashMap<Rc<[u8]>, BTreeMap<DbId, Line>>,
    pub(super) waiting: AHashMap<WaiterId, Waiting>,
    pub(super) due: BTreeSet<(MonoMillis, Due)>,
    /// Keys to look at, and which of their holders may have lost them.
    pub(super) touched: BTreeMap<DbKey, Vec<(Owner, Loss)>>,
    pub(super) bonds: Bonds,
    pub(super) replies: PendingReplies<Reply>,
    last_waiter: u64,
    /// The source of fencing numbers.
    pub fences: Fences,
    /// Counts for INFO.
    pub stats: LockStats,
}

impl Locks {
    /// Decides for one who asks. What [`Self::step`] had to say about the key has been done. At
    /// most `waiters_max` wait at once, beyond that nobody does. O(holders + log waiters).
    pub fn ask(
        &mut self,
        db_key: (DbId, &[u8]),
        lock: Option<&Lock>,
        request: Request,
        (wait_ms, waiters_max): (u64, usize),
        now: Now,
    ) -> Asked {
        let judged = lock.map_or(Judged::Free, |lock| lock.judge(&request.owner, request.mode, now.unix));
        let line = self.line(db_key.0, db_key.1);
        let waited_for = line.and_then(Line::head).and_then(|id| self.waiting.get(&id)).map(|first| first.request.mode);
        match (judged, waited_for) {
            (Judged::Same { fence, deadline }, _) => match self.number_again(fence, request.at_least, now) {
                Some(fence) => Asked::Again { fence, change: renew(&request, fence, deadline, now) },
                None => Asked::Exhausted,
            },
            (Judged::Otherwise(held), _) => Asked::Otherwise(held),
            (Judged::Clash(held), _) => Asked::Clash(held),
            (_, Some(mode)) if mode.clashes(request.mode) => Asked::Clash(mode),
            (Judged::Free, None) => match self.fences.next(now.unix, request.at_least) {
                Some(fence) => {
                    self.stats.granted += 1;
                    Asked::Granted { fence, change: grant(&request, fence, now) }
                }
                None => Asked::Exhausted,
            },
            _ if wait_ms == 0 || self.waiting.len() >= waiters_max => {
                self.stats.refused += 1;
                Asked::Busy
            }
            _ => Asked::Blocked(self.block(db_key, request, wait_ms, now)),
        }
    }

    /// The number of one who holds the lock already by `fence`: the same, or a new one where that is too
    /// low for it.
    fn number_again(&mut self, fence: u64, at_least: u64, now: Now) -> Option<u64> {
        if at_least <= fence {
            return Some(fence);
        }
        self.fences.next(now.unix, at_least)
    }

    fn block(&mut self, (db, key): (DbId, &[u8]), request: Request, wait_ms: u64, now: Now) -> WaiterId {
        let key = self.lines.get_key_value(key).map_or_else(|| key.into(), |(key, _)| Rc::clone(key));
        let db_key = DbKey { db, key };
        self.last_waiter += 1;
        let (id, deadline) = (WaiterId(self.last_waiter), now.mono.after(wait_ms));
        let line = self.lines.entry(Rc::clone(&db_key.key)).or_default().entry(db).or_default();
        line.join(id, Owner::clone(&request.owner));
        self.due.insert((deadline, Due::Wait(id)));
        if line.look_at.is_none() {
            // Nobody has set an alarm for this key yet.
            self.touched.entry(db_key.clone()).or_default();
        }
        self.waiting.insert(id, Waiting { db_key, request, since: now.mono, deadline });
        self.stats.waited += 1;
        id
    }

    /// The next thing to do about `db_key`, given what is `found` under it: a change to commit, after
    /// which to ask again with what is found then; `None` when the key is as it should be. Grants
    /// go to the oldest first.
    pub fn step(&mut self, db_key: &DbKey, found: Found<'_>, now: Now) -> Option<Change> {
        if let (Found::Lock(lock, _), Some(losses)) = (found, self.touched.get_mut(db_key)) {
            while let Some((owner, loss)) = losses.pop() {
                if let Some(holder) =
                    lock.holders().iter().find(|holder| *holder.owner == *owner && loss.concerns(holder))
                {
                    return Some(Change::Drop { owner: Owner::clone(&holder.owner) });
                }
            }
        }
        let change = match found {
            Found::WrongType => {
                self.refuse(db_key, &Reply::WrongType);
                None
            }
            Found::Nothing => self.advance(db_key, None, None, now),
            Found::Lock(lock, expires) => match lock.overdue(now.unix) {
                Some(change) => Some(change),
                None => self.advance(db_key, Some(lock), expires, now),
            },
        };
        if change.is_none() {
            self.touched.remove(db_key);
        }
        change
    }

    /// Grants to the head of the line if that can be, and sets the alarm if it cannot.
    fn advance(
        &mut self,
        db_key: &DbKey,
        lock: Option<&Lock>,
        expires: Option<UnixMillis>,
        now: Now,
    ) -> Option<Change> {
        loop {
            let id = self.line(db_key.db, &db_key.key)?.head()?;
            let request = self.waiting.get(&id)?.request.clone();
            let at_least = self.highest_asked(db_key, &request);
            let judged = lock.map_or(Judged::Free, |lock| lock.judge(&request.owner, request.mode, now.unix));
            let numbered = match judged {
                Judged::Busy => {
                    let end = lock.and_then(|lock| lock.next_end(now.unix));
                    self.set_alarm(db_key, [end, expires].into_iter().flatten().min(), now);
                    return None;
                }
                Judged::Free => self.fences.next(now.unix, at_least).map(|fence| {
                    self.stats.granted += 1;
                    (fence, grant(&request, fence, now))
                }),
                Judged::Same { fence, deadline } => {
                    self.number_again(fence, at_least, now).map(|fence| (fence, renew(&request, fence, deadline, now)))
                }
                Judged::Otherwise(held) => {
                    self.tell(id, Reply::Otherwise(held));
                    continue;
                }
                Judged::Clash(held) => {
                    self.tell(id, Reply::Clash(held));
                    continue;
                }
            };
            match numbered {
                Some((fence, change)) => return Some(self.tell_granted(db_key, &request, fence, change, now)),
                None => self.tell(id, Reply::Exhausted),
            }
        }
    }

    /// The highest number that any of those asks for who are granted the lock together.
    fn highest_asked(&self, db_key: &DbKey, request: &Request) -> u64 {
        let ids = self.line(db_key.db, &db_key.key).into_iter().flat_map(|line| line.of(&request.owner));
        let same = ids.filter_map(|id| self.waiting.get(&id)).filter(|other| other.request.mode == request.mode);
        same.map(|other| other.request.at_least).max().unwrap_or(request.at_least)
    }

    /// Answers all who wait as that owner in that mode. The change covers the longest of their
    /// terms, and the last of them is the connection that holds.
    fn tell_granted(&mut self, db_key: &DbKey, request: &Request, fence: u64, change: Change, now: Now) -> Change {
        let Change::Hold { mode, mut holder } = change else { return change };
        let line = self.line(db_key.db, &db_key.key);
        let ids = line.into_iter().flat_map(|line| line.of(&request.owner));
        let mut same = Vec::new();
        for (id, other) in ids.filter_map(|id| Some((id, &self.waiting.get(&id)?.request))) {
            if other.mode == mode {
                holder.deadline = holder.deadline.max(other.term.end(now.unix));
                (holder.client, holder.bond) = (Some(other.client), other.bond);
                same.push((id, other.client));
            }
        }
        let last = holder.client.unwrap_or(request.client);
        let told = Rc::new(Cell::new(same.len()));
        for (id, client) in same {
            let (db_key, owner) = (db_key.clone(), Owner::clone(&request.owner));
            let granted = Granted { db_key, owner, client, fence, holder: last, told: Rc::clone(&told) };
            self.tell(id, Reply::Granted(granted));
        }
        Change::Hold { mode, holder }
    }

    fn set_alarm(&mut self, db_key: &DbKey, at: Option<UnixMillis>, now: Now) {
        let look_at = at.map(|at| now.mono.after(at.since(now.unix).max(1)));
        let Some(line) = self.lines.get_mut(&db_key.key).and_then(|dbs| dbs.get_mut(&db_key.db)) else { return };
        if line.look_at == look_at {
            return;
        }
        if let Some(before) = std::mem::replace(&mut line.look_at, look_at) {
            self.due.remove(&(before, Due::Look(db_key.clone())));
        }
        if let Some(at) = look_at {
            self.due.insert((at, Due::Look(db_key.clone())));
        }
    }

    /// Takes `id` out of its line and decides its answer.
    fn tell(&mut self, id: WaiterId, reply: Reply) {
        if self.withdraw(id).is_some() {
            self.replies.push(id, reply);
        }
    }

    /// Takes `id` out of its line, which ends with its last waiter. The next head may be granted
    /// what this one could not.
    fn withdraw(&mut self, id: WaiterId) -> Option<Waiting> {
        let waiting = self.waiting.remove(&id)?;
        self.due.remove(&(waiting.deadline, Due::Wait(id)));
        let db_key = &waiting.db_key;
        let dbs = self.lines.get_mut(&db_key.key)?;
        let line = dbs.get_mut(&db_key.db)?;
        let was_head = line.head() == Some(id);
        line.leave(id, &waiting.request.owner);
        if line.is_empty() {
            if let Some(at) = line.look_at {
                self.due.remove(&(at, Due::Look(db_key.clone())));
            }
            dbs.remove(&db_key.db);
            if dbs.is_empty() {
                self.lines.remove(&db_key.key);
            }
            if self.lines.is_empty() {
                self.lines.shrink_to(64);
                self.waiting.shrink_to(64);
            }
        } else if was_head {
            self.touched.entry(db_key.clone()).or_default();
        }
        Some(waiting)
    }

    /// A waiter leaves early: its connection closed, an operator unblocked it, or it cannot be
    /// blocked. Its answer, if one had been decided; what it was granted is the caller's to give to
    /// [`Self::undelivered`]. O(log n).
    pub fn leave(&mut self, id: WaiterId) -> Option<Reply> {
        self.withdraw(id);
        self.replies.take(id)
    }

    /// Does what is due at `now`, one thing a call; false if nothing is. Between two calls what
    /// [`Self::step`] says is done.
    pub fn expire_next(&mut self, now: Now) -> bool {
        match self.due.first() {
            Some((at, _)) if *at <= now.mono => {}
            _ => return false,
        }
        match self.due.pop_first() {
            Some((_, Due::Look(db_key))) => {
                if let Some(line) = self.lines.get_mut(&db_key.key).and_then(|dbs| dbs.get_mut(&db_key.db)) {
                    line.look_at = None;
                    self.touched.entry(db_key).or_default();
                }
            }
            Some((_, Due::Wait(id))) => {
                self.stats.refused += 1;
                self.tell(id, Reply::TimedOut);
            }
            None => {}
        }
        true
    }

    /// When [`Self::expire_next`] next has something to do.
    #[must_use]
    pub fn next_due(&self) -> Option<MonoMillis> {
        self.due.first().map(|(at, _)| *at)
    }

    /// The next answer to deliver, and to whom.
    pub fn next_reply(&mut self) -> Option<(WaiterId, Reply)> {
        self.replies.pop()
    }

    /// Gives all who wait for `db_key` the same refusal.
    pub fn refuse(&mut self, db_key: &DbKey, reply: &Reply) {
        let ids: Vec<_> = self.line(db_key.db, &db_key.key).into_iter().flat_map(Line::ids).collect();
        for id in ids {
            if self.withdraw(id).is_some() {
                self.replies.push(id, reply.clone());
            }
        }
    }

    /// All who wait are refused with `reply`, and bonds forgotten. For a server that no longer
    /// decides.
    pub fn forget_all(&mut self, reply: &Reply) {
        let mut ids: Vec<_> = self.waiting.keys().copied().collect();
        ids.sort_unstable();
        ids.into_iter().for_each(|id| self.replies.push(id, reply.clone()));
        self.lines.clear();
        self.waiting.clear();
        self.due.clear();
        self.touched.clear();
        self.bonds.forget(None);
    }

    /// True if [`Self::next_reply`] has something to deliver.
    #[must_use]
    pub fn has_replies(&self) -> bool {
        !self.replies.is_empty()
    }

    /// How many wait.
    #[must_use]
    pub fn waiters(&self) -> usize {
        self.waiting.len()
    }

    /// The keys that somebody waits for. O(keys).
    #[must_use]
    pub fn waited_for(&self) -> Vec<DbKey> {
        let db_keys = |(key, dbs): (&Rc<[u8]>, &BTreeMap<DbId, Line>)| {
            let key = Rc::clone(key);
            dbs.keys().map(move |db| DbKey { db: *db, key: Rc::clone(&key) }).collect::<Vec<_>>()
        };
        self.lines.iter().flat_map(db_keys).collect()
    }

    /// The line before `key`.
    #[must_use]
    pub fn view(&self, db: DbId, key: &[u8], now: MonoMillis) -> LineView {
        let Some(line) = self.line(db, key) else { return LineView::default() };
        let oldest = line.head().and_then(|id| self.waiting.get(&id));
        LineView { waiters: line.len(), oldest_ms: oldest.map_or(0, |oldest| now.since(oldest.since)) }
    }

    pub(super) fn line(&self, db: DbId, key: &[u8]) -> Option<&Line> {
        if self.lines.is_empty() {
            return None;
        }
        self.lines.get(key)?.get(&db)
    }
}

fn grant(request: &Request, fence: u64, now: Now) -> Change {
    let holder = Holder {
        owner: Owner::clone(&request.owner),
        fence,
        deadline: request.term.end(now.unix),
        client: Some(request.client),
        bond: request.bond,
        told_twice: false,
    };
    Change::Hold { mode: request.mode, holder }
}

/// The same owner locks again: its number stays, and the later deadline counts.
fn renew(request: &Request, fence: u64, deadline: UnixMillis, now: Now) -> Change {
    let Change::Hold { mode, holder } = grant(request, fence, now) else { return grant(request, fence, now) };
    Change::Hold { mode, holder: Holder { deadline: deadline.max(holder.deadline), told_twice: true, ..holder } }
}
