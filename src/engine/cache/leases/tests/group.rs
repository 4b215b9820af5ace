//! Those who wait for several keys at once.

use super::*;

const A: &[u8] = b"a";
const B: &[u8] = b"b";
const C: &[u8] = b"c";

impl Story {
    /// Clients 1, 2, 3 hold the leases on A, B and C.
    fn with_three_leases() -> (Self, [Grant; 3]) {
        let mut story = Self::default();
        let grants = [(1, A), (2, B), (3, C)].map(|(client, key)| story.win_key(client, key));
        (story, grants)
    }

    fn ask_key(&mut self, client: u64, key: &[u8], wait_ms: u64) -> Asked {
        let asked = self.leases.ask(0, key, caller(client, wait_ms, Bond::Free), usize::MAX, self.now);
        self.leases.validate();
        asked
    }

    fn win_key(&mut self, client: u64, key: &[u8]) -> Grant {
        match self.ask_key(client, key, 0) {
            Asked::Won(grant) => grant,
            other => panic!("{client} should have won: {other:?}"),
        }
    }

    fn wait_for(&mut self, client: u64, keys: &[&[u8]], wait_ms: u64) -> Option<WaiterId> {
        let id = self.leases.wait_for_all(0, keys, caller(client, wait_ms, Bond::Free), usize::MAX, self.now);
        self.leases.validate();
        id
    }

    fn group(&mut self, client: u64, keys: &[&[u8]]) -> WaiterId {
        self.wait_for(client, keys, 10_000).expect("all are leased to others")
    }

    fn settle_key(&mut self, key: &[u8]) {
        self.leases.settle(0, key, || served(b"v"), self.now);
        self.leases.validate();
    }

    fn release(&mut self, grant: &Grant) {
        assert!(self.leases.release(0, &grant.db_key.key, grant.token, self.now));
        self.leases.validate();
    }
}

#[test]
fn it_looks_when_the_last_of_its_keys_is_there() {
    let (mut story, _) = Story::with_three_leases();
    let group = story.group(9, &[C, A, B]);
    story.settle_key(A);
    story.settle_key(C);
    assert_eq!(story.replies(), []);
    story.settle_key(B);
    assert_eq!(story.replies(), [(group, Reply::Look)]);
    assert!(story.leases.is_idle());
    assert_eq!(story.leases.next_due(), None);
    assert_eq!(story.leases.stats.loads_avoided, 0, "what it finds is not known");
}

#[test]
fn handed_one_lease_it_waits_for_no_other() {
    let (mut story, [_, b, _]) = Story::with_three_leases();
    let group = story.group(9, &[A, B, C]);
    story.release(&b);
    let grant = story.handed_to(group);
    assert_eq!(&*grant.db_key.key, B);
    story.settle_key(A);
    story.leases.void(0, C, story.now);
    assert_eq!(story.replies(), [], "it left the other queues");
    assert_eq!(story.leases.leases(), 1);
}

#[test]
fn it_stands_in_line_with_those_who_wait_for_one_key() {
    let (mut story, [a, ..]) = Story::with_three_leases();
    let Asked::Blocked(before) = story.ask_key(4, A, 1_000) else { panic!("4 waits") };
    let group = story.group(5, &[A, B]);
    let Asked::Blocked(after) = story.ask_key(6, A, 1_000) else { panic!("6 waits") };
    story.release(&a);
    let first = story.handed_to(before);
    story.release(&first);
    let second = story.handed_to(group);
    story.release(&second);
    story.handed_to(after);
}

#[test]
fn two_with_the_same_keys_in_opposite_order_both_get_on() {
    let mut story = Story::default();
    let (a, b) = (story.win_key(1, A), story.win_key(2, B));
    let (one, other) = (story.group(8, &[A, B]), story.group(9, &[B, A]));
    story.release(&a);
    let first = story.handed_to(one);
    story.release(&b);
    let second = story.handed_to(other);
    assert_eq!((&*first.db_key.key, &*second.db_key.key), (A, B));
}

#[test]
fn nobody_waits_unless_all_are_leased_to_others() {
    let (mut story, _) = Story::with_three_leases();
    assert_eq!(story.wait_for(9, &[A, b"free"], 50), None);
    assert_eq!(story.wait_for(1, &[B, A], 50), None, "one is its own");
    assert_eq!(story.wait_for(9, &[A, B], 0), None);
    assert_eq!(story.wait_for(9, &[], 50), None);
    let none = story.leases.wait_for_all(0, &[A], caller(9, 50, Bond::Free), 0, story.now);
    assert_eq!(none, None, "too many wait");
    assert!(story.leases.waiters().is_empty());
}

#[test]
fn a_key_given_twice_is_waited_for_once() {
    let (mut story, [a, ..]) = Story::with_three_leases();
    let group = story.group(9, &[A, B, A]);
    story.settle_key(A);
    assert_eq!(story.replies(), []);
    story.settle_key(B);
    assert_eq!(story.replies(), [(group, Reply::Look)]);
    assert!(!story.leases.holds(0, A, a.token, story.now));
    let a = story.win_key(1, A);
    let group = story.group(9, &[A, A]);
    story.release(&a);
    story.handed_to(group);
    story.settle_key(A);
}

#[test]
fn its_wait_ends_with_a_look() {
    let (mut story, _) = Story::with_three_leases();
    let group = story.wait_for(9, &[A, B], 40).expect("all are leased to others");
    assert_eq!(story.leases.lease_left_ms(group, story.now), LEASE_MS);
    story.pass(40);
    assert_eq!(story.replies(), [(group, Reply::Look)]);
    assert_eq!(story.leases.stats.waits_timed_out, 1);
    story.settle_key(A);
    story.leases.void(0, B, story.now);
    assert_eq!(story.replies(), []);
}

#[test]
fn a_failure_of_one_key_is_no_reason_to_look_before_the_others_are_there() {
    let (mut story, [a, ..]) = Story::with_three_leases();
    let group = story.group(9, &[A, B]);
    assert!(story.leases.fail(0, A, a.token, 500, b""[..].into(), story.now));
    story.leases.validate();
    assert_eq!(story.replies(), []);
    story.settle_key(B);
    assert_eq!(story.replies(), [(group, Reply::Look)]);
}

#[test]
fn a_refusal_of_one_key_refuses_the_whole() {
    let (mut story, _) = Story::with_three_leases();
    let group = story.group(9, &[A, B]);
    let db_key = DbKey { db: 0, key: A.into() };
    story.leases.refuse(&db_key, &Reply::WrongType);
    story.leases.validate();
    assert_eq!(story.replies(), [(group, Reply::WrongType)]);
    story.group(9, &[B, C]);
    story.leases.forget_all(&Reply::Readonly);
    story.leases.validate();
    assert_eq!(story.replies().len(), 1, "once, not once a key");
}

#[test]
fn it_leaves_all_its_queues_at_once() {
    let (mut story, [a, b, _]) = Story::with_three_leases();
    let group = story.group(9, &[A, B]);
    assert_eq!(story.leases.leave(group, story.now), None);
    story.leases.validate();
    story.release(&a);
    story.release(&b);
    assert_eq!(story.replies(), []);
}

#[test]
fn an_heir_among_them_who_has_not_heard_looks() {
    let (mut story, [a, ..]) = Story::with_three_leases();
    let group = story.group(8, &[A, B]);
    let Asked::Blocked(single) = story.ask_key(9, A, 1_000) else { panic!("9 waits") };
    story.release(&a);
    story.settle_key(A);
    assert_eq!(story.replies(), [(group, Reply::Look), (single, value(b"v"))]);
    story.settle_key(B);
    assert_eq!(story.replies(), []);
}

#[test]
fn it_goes_on_waiting_for_a_key_that_was_leased_again() {
    let (mut story, [_, b, _]) = Story::with_three_leases();
    let group = story.group(9, &[A, B]);
    story.settle_key(A);
    let again = story.win_key(1, A);
    story.settle_key(B);
    assert_eq!(story.replies(), [], "A was invalidated and is loaded again");
    assert!(!story.leases.holds(0, B, b.token, story.now));
    story.release(&again);
    story.handed_to(group);
}

#[test]
fn it_does_not_wait_for_one_who_refreshes_what_it_can_be_served() {
    let asks = |client| caller(client, 0, Bond::Free);
    let (mut story, _) = Story::with_three_leases();
    let group = story.group(9, &[A, B, C]);
    story.settle_key(A);
    story.settle_key(B);
    story.leases.ask_early(0, A, asks(1), story.now).expect("nobody else refreshes");
    assert!(matches!(story.leases.ask_stale(0, B, asks(1), story.now), Asked::Won(_)));
    story.settle_key(C);
    assert_eq!(story.replies(), [(group, Reply::Look)]);
}

#[test]
fn an_heir_who_has_not_heard_comes_even_before_an_older_one_that_waits_again() {
    let (mut story, _) = Story::with_three_leases();
    let group = story.group(9, &[A, B]);
    story.settle_key(A);
    let again = story.win_key(1, A);
    let Asked::Blocked(heir) = story.ask_key(4, A, 30) else { panic!("4 waits") };
    story.release(&again);
    story.settle_key(B);
    assert_eq!(story.leases.waiters().len(), 2, "the group waits for the lease that nobody has heard of");
    story.pass(30);
    story.leases.void(0, A, story.now);
    story.leases.validate();
    let grant = story.handed_to(heir);
    story.release(&grant);
    story.handed_to(group);
}
