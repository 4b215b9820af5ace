//! The rules of `lock.rs`, one example each; `sim` is what tries them in every mixture.

use super::*;
use crate::engine::id::{Bond, ClientId, DbKey, WaiterId};
use std::rc::Rc;

/// One key, and the value under it.
#[derive(Default)]
struct Desk {
    locks: Locks,
    lock: Option<Lock>,
    now_ms: u64,
    asked: u64,
}

impl Desk {
    fn now(&self) -> Now {
        Now { unix: UnixMillis(1_000_000 + self.now_ms), mono: MonoMillis(self.now_ms) }
    }

    fn db_key() -> DbKey {
        DbKey { db: 0, key: Rc::from(&b"k"[..]) }
    }

    fn commit(&mut self, change: Change) {
        let untied = match (&mut self.lock, change.clone()) {
            (Some(lock), change) => lock.apply(change),
            (None, Change::Hold { mode, holder }) => {
                self.lock = Some(Lock::new(mode, holder));
                Vec::new()
            }
            (None, change) => panic!("{change:?} of nothing"),
        };
        self.locks.committed(0, b"k", &change, untied);
        self.lock = self.lock.take().filter(|lock| !lock.holders().is_empty());
    }

    fn settle(&mut self) {
        loop {
            let found = self.lock.as_ref().map_or(Found::Nothing, |lock| Found::Lock(lock, None));
            let Some(change) = self.locks.step(&Self::db_key(), found, self.now()) else { break };
            self.commit(change);
        }
    }

    /// Asks on a connection of its own; each term lasts 100 ms.
    fn ask(&mut self, owner: &str, mode: Mode, wait_ms: u64) -> Asked {
        self.asked += 1;
        let owner = Owner::from(owner.as_bytes());
        let (client, term, bond) = (ClientId(self.asked), Term::Lasts(100), Bond::Bound);
        let request = Request { owner, client, mode, term, bond, at_least: 0 };
        self.settle();
        let asked = self.locks.ask((0, b"k"), self.lock.as_ref(), request, (wait_ms, 100), self.now());
        if let Asked::Granted { change, .. } | Asked::Again { change, .. } = &asked {
            self.commit(change.clone());
        }
        asked
    }

    fn waits(&mut self, owner: &str, mode: Mode) -> WaiterId {
        match self.ask(owner, mode, 1_000) {
            Asked::Blocked(id) => id,
            other => panic!("{owner} does not wait: {other:?}"),
        }
    }

    fn unlock(&mut self, owner: &str) {
        let now = self.now().unix;
        let change = self.lock.as_ref().and_then(|lock| lock.release(owner.as_bytes(), now));
        self.commit(change.expect("not the holder"));
        self.settle();
    }

    fn holders(&self) -> Vec<String> {
        let now = self.now().unix;
        let live = self.lock.iter().flat_map(|lock| lock.live(now));
        live.map(|holder| String::from_utf8_lossy(&holder.owner).into_owned()).collect()
    }

    fn replies(&mut self) -> Vec<(WaiterId, Reply)> {
        std::iter::from_fn(|| self.locks.next_reply()).collect()
    }
}

#[test]
fn a_waiting_writer_is_not_overtaken_by_readers() {
    let mut desk = Desk::default();
    desk.ask("reader", Mode::Shared, 0);
    let writer = desk.waits("writer", Mode::Exclusive);
    assert_eq!(desk.ask("late", Mode::Shared, 0), Asked::Busy);
    let (one, two) = (desk.waits("one", Mode::Shared), desk.waits("two", Mode::Shared));
    desk.unlock("reader");
    assert_eq!(desk.holders(), ["writer"]);
    desk.unlock("writer");
    assert_eq!(desk.holders(), ["one", "two"], "readers in a row enter together");
    let told: Vec<_> = desk.replies().into_iter().map(|(id, _)| id).collect();
    assert_eq!(told, [writer, one, two]);
}

#[test]
fn the_readers_behind_a_writer_that_gives_up_enter_at_once() {
    let mut desk = Desk::default();
    desk.ask("reader", Mode::Shared, 0);
    let writer = desk.waits("writer", Mode::Exclusive);
    desk.waits("late", Mode::Shared);
    assert_eq!(desk.locks.leave(writer), None);
    desk.settle();
    assert_eq!(desk.holders(), ["reader", "late"]);
}

#[test]
fn an_owner_that_asks_again_has_the_same_number_and_more_time() {
    let mut desk = Desk::default();
    let Asked::Granted { fence, .. } = desk.ask("me", Mode::Exclusive, 0) else { panic!() };
    desk.now_ms = 60;
    assert!(matches!(desk.ask("me", Mode::Exclusive, 0), Asked::Again { fence: again, .. } if again == fence));
    desk.now_ms = 159;
    assert_eq!(desk.holders(), ["me"]);
    assert_eq!(desk.ask("me", Mode::Shared, 0), Asked::Otherwise(Mode::Exclusive));
    desk.now_ms = 160;
    assert!(matches!(desk.ask("me", Mode::Exclusive, 0), Asked::Granted { fence: new, .. } if new > fence));
}

#[test]
fn an_owner_that_waits_twice_is_granted_once_and_told_twice() {
    let mut desk = Desk::default();
    desk.ask("holder", Mode::Exclusive, 0);
    desk.waits("me", Mode::Exclusive);
    let other = desk.waits("other", Mode::Exclusive);
    desk.waits("me", Mode::Exclusive);
    desk.unlock("holder");
    let replies = desk.replies();
    let fences: Vec<_> = replies
        .iter()
        .map(|(_, reply)| match reply {
            Reply::Granted(granted) => granted.fence,
            reply => panic!("{reply:?}"),
        })
        .collect();
    assert!(fences.len() == 2 && fences[0] == fences[1] && replies.iter().all(|(id, _)| *id != other));
    let [(_, Reply::Granted(first)), _] = &replies[..] else { panic!() };
    desk.locks.undelivered(first);
    desk.settle();
    assert_eq!(desk.holders(), ["me"], "the other connection may have heard of it");
    let [_, (_, Reply::Granted(second))] = &replies[..] else { panic!() };
    desk.locks.undelivered(second);
    desk.settle();
    assert_eq!(desk.holders(), ["other"], "neither has");
}

#[test]
fn a_semaphore_lets_n_in_and_is_of_one_size() {
    let mut desk = Desk::default();
    let three = Mode::Permits(3);
    for owner in ["a", "b", "c"] {
        assert!(matches!(desk.ask(owner, three, 0), Asked::Granted { .. }));
    }
    assert_eq!(desk.ask("d", three, 0), Asked::Busy);
    assert_eq!(desk.ask("d", Mode::Permits(4), 0), Asked::Clash(three));
    assert_eq!(desk.ask("d", Mode::Exclusive, 1_000), Asked::Clash(three));
    desk.waits("d", three);
    desk.unlock("b");
    assert_eq!(desk.holders(), ["a", "c", "d"]);
}

#[test]
fn a_grant_that_nobody_heard_of_passes_on() {
    let mut desk = Desk::default();
    desk.ask("holder", Mode::Exclusive, 0);
    let gone = desk.waits("gone", Mode::Exclusive);
    desk.waits("next", Mode::Exclusive);
    desk.unlock("holder");
    assert_eq!(desk.holders(), ["gone"]);
    let Some(Reply::Granted(granted)) = desk.locks.leave(gone) else { panic!() };
    desk.locks.undelivered(&granted);
    desk.settle();
    assert_eq!(desk.holders(), ["next"]);
}

#[test]
fn a_bound_holder_leaves_with_its_connection_and_only_with_its_last() {
    let mut desk = Desk::default();
    desk.ask("me", Mode::Exclusive, 0);
    desk.ask("me", Mode::Exclusive, 0);
    assert!(!desk.locks.disconnect(ClientId(1)), "it moved to the second connection");
    assert!(desk.locks.disconnect(ClientId(2)));
    desk.settle();
    assert!(desk.holders().is_empty());
}

#[test]
fn numbers_that_are_used_up_are_an_answer() {
    let mut desk = Desk::default();
    desk.ask("holder", Mode::Exclusive, 0);
    let id = desk.waits("next", Mode::Exclusive);
    desk.locks.fences.see(FENCE_MAX);
    desk.unlock("holder");
    assert_eq!(desk.replies(), [(id, Reply::Exhausted)]);
    assert_eq!(desk.ask("another", Mode::Exclusive, 0), Asked::Exhausted);
}

#[test]
fn a_change_makes_the_same_value_whatever_the_order() {
    let holder = |owner: &[u8], fence| Holder {
        owner: owner.into(),
        fence,
        deadline: UnixMillis(fence * 10),
        client: None,
        bond: Bond::Free,
        told_twice: false,
    };
    let hold = |owner, fence| Change::Hold { mode: Mode::Shared, holder: holder(owner, fence) };
    let mut one = Lock::new(Mode::Shared, holder(b"a", 1));
    let mut other = Lock::new(Mode::Shared, holder(b"c", 3));
    [hold(b"b", 2), hold(b"c", 3)].into_iter().for_each(|change| drop(one.apply(change)));
    [hold(b"b", 2), hold(b"a", 1)].into_iter().for_each(|change| drop(other.apply(change)));
    assert_eq!(one, other);
    assert_eq!(one.end(), UnixMillis(30));
    one.apply(Change::Hold { mode: Mode::Exclusive, holder: holder(b"d", 4) });
    assert_eq!(one.holders().len(), 1, "whoever held it in another mode is gone");
}
