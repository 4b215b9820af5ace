//! Who waits for units of a key, in the order of arrival.
//!
//! A line of waiters stands before a key. Only the first of a line is ever weighed: who asks for
//! one unit does not slip past who asks for ten, and so nobody starves. The engine says when the
//! first one's units will exist; the server weighs it then, and comes for the next at once. One
//! that leaves gives its place up.
//!
//! Weighing all and letting through whoever fits was rejected: it is unfair, and costs a look at
//! each waiter for each unit.

use super::rules::{Ask, Plan, Verdict};
use super::Mark;
use crate::engine::id::{DbId, DbKey, WaiterId};
use crate::engine::time::{MonoMillis, UnixMillis};
use crate::engine::wait::{Decided, PendingReplies};
use ahash::AHashMap;
use std::collections::BTreeSet;
use std::rc::Rc;

/// What a waiter waits for.
#[derive(Clone, Debug)]
pub struct Waiter {
    /// The key.
    pub db_key: DbKey,
    /// Its rules.
    pub plan: Plan,
    /// How much of it.
    pub ask: Ask,
    /// Since when.
    pub since: MonoMillis,
    /// When it is refused.
    pub deadline: MonoMillis,
}

/// Units that one who waited was given: what it takes to give them back, if nobody hears of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// How many.
    pub units: u64,
    /// When.
    pub at: UnixMillis,
    /// The value they were taken from.
    pub mark: Mark,
}

/// What one who waited is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Its units were taken from the key.
    Granted(Verdict, Taken),
    /// Its wait ended.
    Refused(Verdict),
    /// The key came to hold a value of another type.
    WrongType,
    /// This server became a replica.
    Readonly,
    /// The key moved to another node of the cluster.
    Moved,
}

impl Decided for (DbKey, Reply) {
    /// Units count from the moment they are taken.
    fn is_grant(&self) -> bool {
        matches!(self.1, Reply::Granted(..))
    }
}

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The first of a line: it gets its units if they exist.
    First(WaiterId),
    /// The first of a line, whose wait ends now: it gets its units or is refused.
    Last(WaiterId),
    /// One further back, whose wait ends now.
    Late(WaiterId),
}

/// The line before one key, for an observer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LineView {
    /// How many stand in it.
    pub waiters: usize,
    /// How long the oldest has waited, in milliseconds.
    pub oldest_ms: u64,
}

#[derive(Debug, Default)]
struct Line {
    waiting: BTreeSet<WaiterId>,
    due: MonoMillis,
}

/// All lines, and the answers that are still on their way.
#[derive(Debug, Default)]
pub struct WaitQueues {
    lines: AHashMap<DbId, AHashMap<Rc<[u8]>, Line>>,
    due: BTreeSet<(MonoMillis, DbKey)>,
    deadlines: BTreeSet<(MonoMillis, WaiterId)>,
    waiters: AHashMap<WaiterId, Waiter>,
    pending: PendingReplies<(DbKey, Reply)>,
    last: u64,
}

impl WaitQueues {
    /// Puts one at the end of its line. If it is the first, its units will exist at `due`.
    pub fn join(&mut self, waiter: Waiter, due: MonoMillis) -> WaiterId {
        self.last += 1;
        let id = WaiterId(self.last);
        let db_key = waiter.db_key.clone();
        let line = self.lines.entry(db_key.db).or_default().entry(Rc::clone(&db_key.key)).or_default();
        if line.waiting.is_empty() {
            line.due = due;
            self.due.insert((due, db_key));
        }
        line.waiting.insert(id);
        self.deadlines.insert((waiter.deadline, id));
        self.waiters.insert(id, waiter);
        id
    }

    /// When the first in line before `key` is weighed next; `None` if nobody waits.
    #[inline]
    #[must_use]
    pub fn due(&self, db: DbId, key: &[u8]) -> Option<MonoMillis> {
        if self.waiters.is_empty() {
            return None;
        }
        self.line(db, key).map(|line| line.due)
    }

    fn line(&self, db: DbId, key: &[u8]) -> Option<&Line> {
        self.lines.get(&db)?.get(key)
    }

    /// One whose turn it is at `now`: first those whose wait ends, then the first of the lines that
    /// are due. It stays where it is. O(log n).
    #[must_use]
    pub fn next_turn(&self, now: MonoMillis) -> Option<Turn> {
        self.next_end(now).or_else(|| {
            let (_, db_key) = self.due.first().filter(|(due, _)| *due <= now)?;
            self.line(db_key.db, &db_key.key)?.waiting.first().copied().map(Turn::First)
        })
    }

    /// One whose wait has ended by `now`. While writes are paused its is the only turn that comes:
    /// it can be refused, which changes nothing. O(log n).
    #[must_use]
    pub fn next_end(&self, now: MonoMillis) -> Option<Turn> {
        let (_, id) = self.deadlines.first().filter(|(deadline, _)| *deadline <= now)?;
        let db_key = &self.waiters.get(id)?.db_key;
        let is_first = self.line(db_key.db, &db_key.key)?.waiting.first() == Some(id);
        Some(if is_first { Turn::Last(*id) } else { Turn::Late(*id) })
    }

    /// What `id` waits for, unless it was told or has left.
    #[must_use]
    pub fn get(&self, id: WaiterId) -> Option<&Waiter> {
        self.waiters.get(&id)
    }

    /// The first of the line before `db_key` is to be weighed at `due`.
    pub fn postpone(&mut self, db_key: &DbKey, due: MonoMillis) {
        let line = self.lines.get_mut(&db_key.db).and_then(|lines| lines.get_mut(&db_key.key));
        if let Some(line) = line {
            self.due.remove(&(line.due, db_key.clone()));
            line.due = due;
            self.due.insert((due, db_key.clone()));
        }
    }

    /// Something changed under `key`: whoever is first before it is weighed at once. True if
    /// anybody waits there.
    pub fn wake(&mut self, db: DbId, key: &[u8]) -> bool {
        if self.due(db, key).is_none() {
            return false;
        }
        self.postpone(&DbKey { db, key: key.into() }, MonoMillis(0));
        true
    }

    /// The same for all keys of database `only`; `None`: of all.
    pub fn wake_all(&mut self, only: Option<DbId>) {
        for db_key in self.db_keys() {
            if only.is_none_or(|db| db == db_key.db) {
                self.postpone(&db_key, MonoMillis(0));
            }
        }
    }

    /// Every key that somebody waits for.
    #[must_use]
    pub fn db_keys(&self) -> Vec<DbKey> {
        self.due.iter().map(|(_, db_key)| db_key.clone()).collect()
    }

    /// Tells `id`, which waits no longer. The next in line is weighed at once. O(log n).
    pub fn tell(&mut self, id: WaiterId, told: Reply) {
        if let Some(waiter) = self.remove(id) {
            self.pending.push(id, (waiter.db_key, told));
        }
    }

    /// Tells all who wait for `db_key`.
    pub fn tell_all(&mut self, db_key: &DbKey, told: &Reply) {
        let waiting = self.line(db_key.db, &db_key.key).map(|line| line.waiting.clone()).unwrap_or_default();
        waiting.into_iter().for_each(|id| self.tell(id, told.clone()));
    }

    /// `id` gives its place up; if it was told already, what, and about which key. O(log n).
    pub fn leave(&mut self, id: WaiterId) -> Option<(DbKey, Reply)> {
        if self.remove(id).is_some() {
            return None;
        }
        self.pending.take(id)
    }

    fn remove(&mut self, id: WaiterId) -> Option<Waiter> {
        let waiter = self.waiters.remove(&id)?;
        self.deadlines.remove(&(waiter.deadline, id));
        let db_key = &waiter.db_key;
        let lines = self.lines.get_mut(&db_key.db)?;
        let line = lines.get_mut(&db_key.key)?;
        let was_first = line.waiting.first() == Some(&id);
        line.waiting.remove(&id);
        if was_first {
            self.due.remove(&(line.due, db_key.clone()));
            line.due = MonoMillis(0);
            self.due.insert((line.due, db_key.clone()));
        }
        if line.waiting.is_empty() {
            self.due.remove(&(line.due, db_key.clone()));
            lines.remove(&db_key.key);
            if lines.is_empty() {
                self.lines.remove(&db_key.db);
            }
        }
        if self.waiters.is_empty() {
            self.waiters.shrink_to_fit();
        }
        Some(waiter)
    }

    /// The next reply to deliver, and about which key.
    pub fn next_reply(&mut self) -> Option<(WaiterId, DbKey, Reply)> {
        self.pending.pop().map(|(id, (db_key, told))| (id, db_key, told))
    }

    /// The keys of two databases changed places; who waits stays where it is.
    pub fn swapped(&mut self, one: DbId, other: DbId) {
        for (db_key, _) in self.pending.iter_mut() {
            *db_key = db_key.clone().swapped(one, other);
        }
    }

    /// True if answers are on their way.
    #[must_use]
    pub fn has_replies(&self) -> bool {
        !self.pending.is_empty()
    }

    /// When the first of a line is to be weighed next.
    #[must_use]
    pub fn next_due(&self) -> Option<MonoMillis> {
        self.due.first().map(|(at, _)| *at)
    }

    /// When the next wait ends.
    #[must_use]
    pub fn next_deadline(&self) -> Option<MonoMillis> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// The line before `key`.
    #[must_use]
    pub fn view(&self, db: DbId, key: &[u8], now: MonoMillis) -> LineView {
        let Some(line) = self.line(db, key) else { return LineView::default() };
        let oldest = line.waiting.first().and_then(|id| self.waiters.get(id));
        LineView { waiters: line.waiting.len(), oldest_ms: oldest.map_or(0, |oldest| now.since(oldest.since)) }
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiters.len()
    }

    /// True if nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::limit::rules::{Algorithm, Amount, Rule};
    use crate::engine::limit::{Change, Limits};
    use crate::engine::time::UnixMillis;
    use proptest::prelude::*;

    fn db_key(key: u8) -> DbKey {
        DbKey { db: 0, key: [key][..].into() }
    }

    fn plan(limit: u64, window_ms: u64) -> Plan {
        let mut plan = Plan::new(Algorithm::Sliding);
        assert!(plan.push(Rule { limit, window_ms }));
        plan
    }

    fn waiter(key: u8, deadline: u64) -> Waiter {
        let ask = Ask { units: 1, amount: Amount::Whole };
        Waiter { db_key: db_key(key), plan: plan(1, 10), ask, since: MonoMillis(0), deadline: MonoMillis(deadline) }
    }

    fn verdict() -> Reply {
        granted(Verdict { allowed: 1, limit: 1, remaining: 0, retry_after_ms: Some(0), reset_ms: 10 })
    }

    fn granted(verdict: Verdict) -> Reply {
        Reply::Granted(verdict, Taken { units: verdict.allowed, at: UnixMillis(0), mark: Mark(1) })
    }

    #[test]
    fn turns_come_in_the_order_of_arrival() {
        let mut lines = WaitQueues::default();
        let ids: Vec<_> = (0..3).map(|_| lines.join(waiter(1, 100), MonoMillis(5))).collect();
        assert_eq!((lines.next_turn(MonoMillis(4)), lines.next_due()), (None, Some(MonoMillis(5))));
        for id in &ids {
            assert_eq!(lines.next_turn(MonoMillis(5)), Some(Turn::First(*id)));
            lines.tell(*id, verdict());
        }
        assert_eq!((lines.next_turn(MonoMillis(999)), lines.next_due(), lines.len()), (None, None, 0));
        let told: Vec<_> = std::iter::from_fn(|| lines.next_reply()).map(|(id, ..)| id).collect();
        assert_eq!(told, ids);
    }

    #[test]
    fn who_leaves_gives_its_place_up() {
        let mut lines = WaitQueues::default();
        let [first, second, third] = [1, 2, 3].map(|_| lines.join(waiter(1, 100), MonoMillis(50)));
        assert_eq!(lines.leave(first), None);
        assert_eq!(lines.next_turn(MonoMillis(0)), Some(Turn::First(second)), "whoever is first now is weighed anew");
        lines.postpone(&db_key(1), MonoMillis(60));
        assert_eq!(lines.leave(third), None);
        assert_eq!(lines.due(0, &[1]), Some(MonoMillis(60)));
        lines.tell(second, verdict());
        assert_eq!(lines.leave(second), Some((db_key(1), verdict())));
        assert_eq!((lines.leave(second), lines.has_replies(), lines.due(0, &[1])), (None, false, None));
    }

    #[test]
    fn a_wait_that_ends_is_told_from_a_turn() {
        let mut lines = WaitQueues::default();
        let [first, second] = [90, 40].map(|deadline| lines.join(waiter(1, deadline), MonoMillis(70)));
        assert_eq!(lines.next_turn(MonoMillis(40)), Some(Turn::Late(second)));
        lines.tell(second, verdict());
        lines.postpone(&db_key(1), MonoMillis(200));
        assert_eq!(lines.next_turn(MonoMillis(90)), Some(Turn::Last(first)));
    }

    #[test]
    fn while_writes_are_paused_waits_still_end() {
        let mut lines = WaitQueues::default();
        let [first, second] = [90, 40].map(|deadline| lines.join(waiter(1, deadline), MonoMillis(10)));
        assert_eq!((lines.next_due(), lines.next_deadline()), (Some(MonoMillis(10)), Some(MonoMillis(40))));
        assert_eq!(lines.next_end(MonoMillis(39)), None, "though the first is due");
        assert_eq!(lines.next_end(MonoMillis(40)), Some(Turn::Late(second)));
        lines.tell(second, verdict());
        assert_eq!(lines.next_end(MonoMillis(90)), Some(Turn::Last(first)));
    }

    #[test]
    fn a_line_shows_how_long_its_oldest_has_waited() {
        let mut lines = WaitQueues::default();
        let at = |since| Waiter { since: MonoMillis(since), ..waiter(1, 100) };
        let [first, _] = [5, 8].map(|since| lines.join(at(since), MonoMillis(50)));
        let view = |lines: &WaitQueues| lines.view(0, &[1], MonoMillis(20));
        assert_eq!(view(&lines), LineView { waiters: 2, oldest_ms: 15 });
        lines.leave(first);
        assert_eq!(view(&lines), LineView { waiters: 1, oldest_ms: 12 });
        assert_eq!(lines.view(0, &[2], MonoMillis(20)), LineView::default());
    }

    /// Whoever hurries a line (its key was given another TTL, say) has the first weighed at once, and
    /// is no reason to let it through: refused, it is weighed again when the server says.
    #[test]
    fn a_line_that_is_hurried_in_vain_goes_on_waiting() {
        let mut lines = WaitQueues::default();
        let [first, _] = [1, 2].map(|_| lines.join(waiter(1, 100), MonoMillis(50)));
        for due in [50, 30, 70] {
            lines.postpone(&db_key(1), MonoMillis(due));
            assert!(lines.wake(0, &[1]));
            assert_eq!(
                (lines.next_due(), lines.next_turn(MonoMillis(0))),
                (Some(MonoMillis(0)), Some(Turn::First(first)))
            );
            lines.postpone(&db_key(1), MonoMillis(due));
            assert_eq!((lines.next_due(), lines.next_turn(MonoMillis(due - 1))), (Some(MonoMillis(due)), None));
        }
    }

    #[test]
    fn a_change_of_a_key_hurries_its_line_alone() {
        let mut lines = WaitQueues::default();
        let [one, _] = [1, 2].map(|key| lines.join(waiter(key, 100), MonoMillis(50)));
        assert!(lines.wake(0, &[1]) && !lines.wake(1, &[1]) && !lines.wake(0, &[3]));
        assert_eq!(lines.next_turn(MonoMillis(0)), Some(Turn::First(one)));
        lines.tell_all(&db_key(1), &Reply::WrongType);
        assert_eq!(lines.next_turn(MonoMillis(0)), None);
        lines.wake_all(Some(3));
        assert_eq!(lines.next_turn(MonoMillis(0)), None);
        lines.wake_all(None);
        assert!(lines.next_turn(MonoMillis(0)).is_some());
    }

    proptest! {
        /// A line is let through in order and at the exact rate, whoever leaves it meanwhile.
        #[test]
        fn a_line_is_paced(limit in 1u64..6, window_ms in 1u64..40, callers in 1usize..40, leaves in prop::collection::vec(any::<bool>(), 40)) {
            let (plan, ask) = (plan(limit, window_ms), Ask { units: 1, amount: Amount::Whole });
            let (mut limits, mut lines) = (Limits::new(&plan), WaitQueues::default());
            let mut waiting = Vec::new();
            for _ in 0..callers {
                let waiter = Waiter { plan, ask, ..waiter(1, u64::MAX) };
                waiting.push(lines.join(waiter, MonoMillis(0)));
            }
            for (id, leaves) in waiting.clone().into_iter().zip(leaves) {
                if leaves {
                    lines.leave(id);
                    waiting.retain(|there| *there != id);
                }
            }
            let (mut now, mut through) = (0, Vec::new());
            while let Some(due) = lines.next_due() {
                now = now.max(due.0);
                while let Some(Turn::First(id)) = lines.next_turn(MonoMillis(now)) {
                    let decision = limits.decide(&plan, ask, UnixMillis(now));
                    if decision.change == Change::Taken {
                        lines.tell(id, granted(decision.verdict));
                        through.push((id, now));
                    } else {
                        let retry_ms = decision.verdict.retry_after_ms.unwrap();
                        prop_assert!(retry_ms > 0);
                        lines.postpone(&db_key(1), MonoMillis(now + retry_ms));
                    }
                }
            }
            prop_assert_eq!(through.iter().map(|(id, _)| *id).collect::<Vec<_>>(), waiting);
            for (place, (_, at)) in through.iter().enumerate() {
                prop_assert_eq!(*at, place as u64 / limit * window_ms);
            }
        }
    }
}
