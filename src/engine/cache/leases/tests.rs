//! Leases told by example: each test is one short story about callers of one key.
//!
//! `sim` searches all histories; these show what the rules mean.

use super::*;

mod group;
mod holder;

const KEY: &[u8] = b"k";
const LEASE_MS: u64 = 100;

/// A book, and a clock that the story moves.
#[derive(Default)]
struct Story {
    book: LeaseBook,
    now: MonoMillis,
}

impl Story {
    /// Client `client` finds nothing under the key and would wait `wait_ms`.
    fn ask(&mut self, client: u64, wait_ms: u64) -> Asked {
        self.ask_in(0, client, wait_ms, usize::MAX)
    }

    fn ask_in(&mut self, db: DbId, client: u64, wait_ms: u64, waiters_max: usize) -> Asked {
        let caller = caller(client, wait_ms, Bond::Free);
        let asked = self.book.ask(db, KEY, caller, waiters_max, self.now);
        self.book.validate();
        asked
    }

    fn win(&mut self, client: u64) -> Grant {
        match self.ask(client, 0) {
            Asked::Won(grant) => grant,
            other => panic!("{client} should have won: {other:?}"),
        }
    }

    fn park(&mut self, client: u64, wait_ms: u64) -> WaiterId {
        match self.ask(client, wait_ms) {
            Asked::Parked(id) => id,
            other => panic!("{client} should wait: {other:?}"),
        }
    }

    fn settle(&mut self, value: &[u8]) {
        self.book.settle(0, KEY, || served(value), self.now);
        self.book.validate();
    }

    fn doubt_then_find(&mut self, doubt: Doubt, found: Found) {
        assert!(self.book.doubt(KEY, doubt));
        let slot = self.book.doubted(0, KEY).expect("a doubt was noted");
        assert_eq!(self.book.next_doubted().as_ref(), Some(&slot));
        self.book.resolve(&slot, found, self.now);
        assert_eq!(self.book.next_doubted(), None);
        self.book.validate();
    }

    /// `ms` pass, and what is due then ends.
    fn pass(&mut self, ms: u64) {
        self.now = self.now.after(ms);
        while self.book.expire_next(self.now) {}
        self.book.validate();
    }

    /// Everything that has been decided, delivered.
    fn answers(&mut self) -> Vec<(WaiterId, Answer)> {
        std::iter::from_fn(|| self.book.deliver_next(self.now)).collect()
    }

    /// The one answer that has been decided: the lease, for `id`.
    fn handed_to(&mut self, id: WaiterId) -> Grant {
        match self.answers().as_slice() {
            [(to, Answer::Won(grant))] if *to == id => grant.clone(),
            other => panic!("{id:?} should hold the lease: {other:?}"),
        }
    }
}

fn caller(client: u64, wait_ms: u64, bond: Bond) -> Caller {
    Caller { client: ClientId(client), wait_ms, lease_ms: LEASE_MS, bond }
}

fn served(value: &[u8]) -> Served {
    Served { value: value.into(), fresh_until: Some(UnixMillis(value.len() as u64)) }
}

fn value(bytes: &[u8]) -> Answer {
    Answer::Value(served(bytes))
}

#[test]
fn the_first_wins_and_the_others_get_its_value_oldest_first() {
    let mut story = Story::default();
    story.win(1);
    let (second, third) = (story.park(2, 50), story.park(3, 50));
    story.now = story.now.after(20);
    assert_eq!(story.book.cost_ms(0, KEY, story.now), Some(20));
    story.settle(b"v");
    assert_eq!(story.book.leases(), 0);
    assert_eq!(story.answers(), [(second, value(b"v")), (third, value(b"v"))]);
    assert!(story.book.is_idle());
    assert_eq!(story.book.next_due(), None, "no deadline outlives its wait");
    let tally = story.book.tally;
    assert_eq!((tally.leases_granted, tally.waits, tally.wait_ms_total), (1, 2, 40));
    assert_eq!((tally.loads_avoided, tally.load_ms_avoided), (2, 40));
}

#[test]
fn a_value_that_nobody_waits_for_is_not_copied() {
    let mut story = Story::default();
    story.win(1);
    story.book.settle(0, KEY, || panic!("nobody waits"), story.now);
    story.book.settle(0, KEY, || panic!("no lease is out"), story.now);
    assert!(story.book.is_idle());
}

#[test]
fn who_does_not_wait_is_told_how_long_the_lease_lasts() {
    let mut story = Story::default();
    story.win(1);
    story.pass(30);
    assert_eq!(story.ask(2, 0), Asked::Leased { left_ms: LEASE_MS - 30 });
}

#[test]
fn a_connection_never_waits_for_its_own_lease() {
    let mut story = Story::default();
    story.win(1);
    assert_eq!(story.ask(1, 50), Asked::Leased { left_ms: LEASE_MS });
    let second = story.park(2, 1_000);
    story.pass(LEASE_MS);
    story.handed_to(second);
    assert_eq!(story.ask(2, 50), Asked::Leased { left_ms: LEASE_MS }, "nor for one handed to it");
    story.park(1, 50);
}

#[test]
fn beyond_the_limit_nobody_waits() {
    let mut story = Story::default();
    story.win(1);
    assert!(matches!(story.ask_in(0, 2, 50, 1), Asked::Parked(_)));
    assert_eq!(story.ask_in(0, 3, 50, 1), Asked::Leased { left_ms: LEASE_MS });
    story.settle(b"v");
    story.win(4);
    let still_undelivered = story.ask_in(0, 5, 50, 1);
    assert_eq!(still_undelivered, Asked::Leased { left_ms: LEASE_MS });
    assert_eq!(story.answers().len(), 1);
    assert!(matches!(story.ask_in(0, 5, 50, 1), Asked::Parked(_)));
}

#[test]
fn a_wait_ends_at_its_own_deadline_and_not_before() {
    let mut story = Story::default();
    story.win(1);
    let (short, long) = (story.park(2, 40), story.park(3, 60));
    assert_eq!(story.book.next_due(), Some(MonoMillis(40)));
    story.pass(39);
    assert_eq!(story.answers(), []);
    story.pass(1);
    assert_eq!(story.answers(), [(short, Answer::Leased { left_ms: 60 })]);
    story.settle(b"v");
    assert_eq!(story.answers(), [(long, value(b"v"))]);
    assert_eq!(story.book.tally.waits_timed_out, 1);
}

#[test]
fn a_decided_answer_is_not_overtaken_by_its_deadline() {
    let mut story = Story::default();
    story.win(1);
    let second = story.park(2, 40);
    story.settle(b"v");
    story.pass(1_000);
    assert_eq!(story.answers(), [(second, value(b"v"))]);
    assert_eq!(story.book.tally.waits_timed_out, 0);
}

#[test]
fn an_expired_lease_passes_to_the_oldest_and_the_rest_keep_waiting() {
    let mut story = Story::default();
    let first = story.win(1);
    let (second, third) = (story.park(2, 1_000), story.park(3, 1_000));
    story.pass(LEASE_MS - 1);
    assert_eq!(story.answers(), []);
    story.pass(1);
    let grant = story.handed_to(second);
    assert!(grant.serial > first.serial);
    assert_eq!(grant.deadline, story.now.after(LEASE_MS));
    assert_eq!(story.book.lease_left_ms(third, story.now), LEASE_MS);
    story.pass(LEASE_MS);
    story.handed_to(third);
    story.pass(LEASE_MS);
    assert!(story.book.is_idle(), "with nobody left the lease is gone");
    let tally = story.book.tally;
    assert_eq!((tally.leases_granted, tally.leases_expired, tally.handovers), (3, 3, 2));
}

#[test]
fn a_wait_that_ends_with_the_lease_takes_over() {
    let mut story = Story::default();
    story.win(1);
    let second = story.park(2, LEASE_MS);
    story.pass(LEASE_MS);
    story.handed_to(second);
}

#[test]
fn a_wait_that_ended_before_the_lease_times_out_however_late_the_timer() {
    let mut story = Story::default();
    story.win(1);
    let (second, third) = (story.park(2, LEASE_MS - 1), story.park(3, 10_000));
    story.pass(5_000);
    let mut answers = story.answers();
    answers.sort_by_key(|(id, _)| *id);
    assert_eq!(answers[0], (second, Answer::Leased { left_ms: 0 }));
    assert!(matches!(&answers[1], (id, Answer::Won(_)) if *id == third), "{answers:?}");
    assert_eq!(story.book.next_due(), Some(MonoMillis(5_000 + LEASE_MS)), "the new lease lasts from now");
}

#[test]
fn a_lease_past_its_deadline_holds_nobody_up_before_the_timer_comes() {
    let mut story = Story::default();
    story.win(1);
    story.now = MonoMillis(LEASE_MS);
    story.win(2);
    let third = story.park(3, 1_000);
    story.now = MonoMillis(2 * LEASE_MS);
    assert_eq!(story.ask(4, 0), Asked::Leased { left_ms: LEASE_MS }, "the oldest waiter goes first");
    story.handed_to(third);
    assert_eq!(story.book.tally.leases_expired, 2);
}

#[test]
fn a_waiter_that_leaves_is_skipped_and_costs_nothing() {
    let mut story = Story::default();
    story.win(1);
    let (second, third) = (story.park(2, 1_000), story.park(3, 1_000));
    assert_eq!(story.book.leave(second, story.now), None);
    assert_eq!(story.book.leave(second, story.now), None, "nobody leaves twice");
    story.pass(LEASE_MS);
    story.handed_to(third);
}

#[test]
fn a_grant_nobody_heard_of_passes_on_at_once() {
    let mut story = Story::default();
    story.win(1);
    let (second, third) = (story.park(2, 1_000), story.park(3, 1_000));
    story.pass(LEASE_MS);
    let Some(Answer::Won(grant)) = story.book.leave(second, story.now) else { panic!("it had been handed the lease") };
    story.book.give_back(&grant, story.now);
    story.book.validate();
    story.handed_to(third);
    assert_eq!(story.book.tally.leases_disconnected, 1);
}

#[test]
fn giving_back_an_outdated_grant_changes_nothing() {
    let mut story = Story::default();
    let outdated = story.win(1);
    story.pass(LEASE_MS);
    let current = story.win(2);
    let tally = story.book.tally;
    story.book.give_back(&outdated, story.now);
    assert_eq!(story.book.tally, tally);
    assert!(story.book.holds(0, KEY, current.token, story.now));
    story.book.give_back(&current, story.now);
    story.book.give_back(&current, story.now);
    assert!(story.book.is_idle());
    assert_eq!(story.book.tally.leases_disconnected, 1);
}

#[test]
fn an_invalidation_ends_the_lease_even_if_the_key_did_not_exist() {
    let mut story = Story::default();
    story.win(1);
    let second = story.park(2, 1_000);
    story.doubt_then_find(Doubt::Invalidated, Found::Nothing);
    story.handed_to(second);
    story.book.void(0, KEY, story.now);
    assert!(story.book.is_idle());
    assert_eq!((story.book.tally.leases_voided, story.book.tally.handovers), (2, 1));
}

#[test]
fn a_plain_write_answers_the_waiters() {
    let mut story = Story::default();
    for doubt in [Doubt::Appeared, Doubt::Invalidated] {
        story.win(1);
        let second = story.park(2, 1_000);
        story.doubt_then_find(doubt, Found::Fresh(served(b"v")));
        assert_eq!(story.answers(), [(second, value(b"v"))]);
        assert_eq!(story.book.leases(), 0);
    }
}

#[test]
fn a_value_of_another_type_refuses_the_waiters() {
    let mut story = Story::default();
    story.win(1);
    let second = story.park(2, 1_000);
    story.doubt_then_find(Doubt::Appeared, Found::WrongType);
    assert_eq!(story.answers(), [(second, Answer::WrongType)]);
    assert_eq!(story.book.leases(), 0);
}

#[test]
fn a_command_that_did_nothing_leaves_the_lease_alone() {
    let mut story = Story::default();
    let grant = story.win(1);
    let second = story.park(2, 1_000);
    story.doubt_then_find(Doubt::Appeared, Found::Nothing);
    assert_eq!(story.answers(), []);
    story.book.give_back(&grant, story.now);
    story.handed_to(second);
}

#[test]
fn of_two_doubts_the_invalidation_counts() {
    let mut story = Story::default();
    story.win(1);
    assert!(story.book.doubt(KEY, Doubt::Invalidated));
    story.doubt_then_find(Doubt::Appeared, Found::Nothing);
    assert!(story.book.is_idle());
}

#[test]
fn a_doubt_outlives_the_lease_it_was_noted_under() {
    let mut story = Story::default();
    let grant = story.win(1);
    let (second, third) = (story.park(2, 1_000), story.park(3, 1_000));
    assert!(story.book.doubt(KEY, Doubt::Appeared));
    story.book.give_back(&grant, story.now);
    story.handed_to(second);
    let slot = story.book.doubted(0, KEY).expect("a value may be there, and the third still waits for it");
    story.book.resolve(&slot, Found::Fresh(served(b"v")), story.now);
    assert_eq!(story.answers(), [(third, value(b"v"))]);
}

#[test]
fn a_doubt_concerns_every_database_and_a_flush_only_its_own() {
    let mut story = Story::default();
    assert!(!story.book.doubt(KEY, Doubt::Invalidated), "no lease is out");
    for db in [0, 1, 2] {
        assert!(matches!(story.ask_in(db, 1, 0, 0), Asked::Won(_)));
    }
    assert!(!story.book.doubt(b"another", Doubt::Invalidated));
    story.book.doubt_all(Some(1), Doubt::Invalidated);
    assert_eq!(story.book.doubted(0, KEY), None);
    story.book.doubt(KEY, Doubt::Appeared);
    let mut doubted = Vec::new();
    while let Some(slot) = story.book.next_doubted() {
        doubted.push(slot.db);
        story.book.resolve(&slot, Found::Nothing, story.now);
        story.book.validate();
    }
    assert_eq!(doubted, [0, 1, 2]);
    assert_eq!((story.book.leases(), story.book.tally.leases_voided), (2, 1), "only the flushed one was voided");
    story.book.doubt_all(None, Doubt::Invalidated);
    story.book.forget_all(&Answer::Readonly);
    assert_eq!(story.book.next_doubted(), None);
}

#[test]
fn a_server_that_no_longer_decides_refuses_all_oldest_first() {
    let mut story = Story::default();
    story.win(1);
    let mut ids = Vec::new();
    for client in 2..20 {
        let db = (client % 3) as DbId;
        if let Asked::Parked(id) = story.ask_in(db, client, 1_000, usize::MAX) {
            ids.push(id);
        }
    }
    story.book.forget_all(&Answer::Readonly);
    story.book.validate();
    assert_eq!(story.book.leases(), 0);
    assert_eq!(story.answers(), ids.into_iter().map(|id| (id, Answer::Readonly)).collect::<Vec<_>>());
    assert!(story.book.is_idle());
}

#[test]
fn delivery_takes_turns_with_new_callers() {
    let mut story = Story::default();
    story.win(1);
    let (second, third) = (story.park(2, 1_000), story.park(3, 1_000));
    story.settle(b"old");
    assert_eq!(story.book.deliver_next(story.now), Some((second, value(b"old"))));
    story.win(4);
    let fifth = story.park(5, 1_000);
    story.settle(b"new");
    assert!(story.book.has_answers());
    assert_eq!(story.answers(), [(third, value(b"old")), (fifth, value(b"new"))]);
    assert!(!story.book.has_answers());
}
