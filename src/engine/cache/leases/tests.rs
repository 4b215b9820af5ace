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
    leases: Leases,
    now: MonoMillis,
}

impl Story {
    /// Client `client` finds nothing under the key and would wait `wait_ms`.
    fn ask(&mut self, client: u64, wait_ms: u64) -> Asked {
        self.ask_in(0, client, wait_ms, usize::MAX)
    }

    fn ask_in(&mut self, db: DbId, client: u64, wait_ms: u64, waiters_max: usize) -> Asked {
        let caller = caller(client, wait_ms, Bond::Free);
        let asked = self.leases.ask(db, KEY, caller, waiters_max, self.now);
        self.leases.validate();
        asked
    }

    fn win(&mut self, client: u64) -> Grant {
        match self.ask(client, 0) {
            Asked::Won(grant) => grant,
            other => panic!("{client} should have won: {other:?}"),
        }
    }

    fn block(&mut self, client: u64, wait_ms: u64) -> WaiterId {
        match self.ask(client, wait_ms) {
            Asked::Blocked(id) => id,
            other => panic!("{client} should wait: {other:?}"),
        }
    }

    fn settle(&mut self, value: &[u8]) {
        self.leases.settle(0, KEY, || served(value), self.now);
        self.leases.validate();
    }

    fn touch_then_find(&mut self, touch: Touch, found: Found) {
        assert!(self.leases.mark_touched(KEY, touch));
        let db_key = self.leases.touched(0, KEY).expect("a touch was noted");
        assert_eq!(self.leases.next_touched().as_ref(), Some(&db_key));
        self.leases.recheck(&db_key, found, self.now);
        assert_eq!(self.leases.next_touched(), None);
        self.leases.validate();
    }

    /// `ms` pass, and what is due then ends.
    fn pass(&mut self, ms: u64) {
        self.now = self.now.after(ms);
        while self.leases.expire_next(self.now) {}
        self.leases.validate();
    }

    /// Everything that has been decided, delivered.
    fn replies(&mut self) -> Vec<(WaiterId, Reply)> {
        std::iter::from_fn(|| self.leases.next_reply(self.now)).collect()
    }

    /// The one answer that has been decided: the lease, for `id`.
    fn handed_to(&mut self, id: WaiterId) -> Grant {
        match self.replies().as_slice() {
            [(to, Reply::Won(grant))] if *to == id => grant.clone(),
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

fn value(bytes: &[u8]) -> Reply {
    Reply::Value(served(bytes))
}

#[test]
fn the_first_wins_and_the_others_get_its_value_oldest_first() {
    let mut story = Story::default();
    story.win(1);
    let (second, third) = (story.block(2, 50), story.block(3, 50));
    story.now = story.now.after(20);
    assert_eq!(story.leases.cost_ms(0, KEY, story.now), Some(20));
    story.settle(b"v");
    assert_eq!(story.leases.leases(), 0);
    assert_eq!(story.replies(), [(second, value(b"v")), (third, value(b"v"))]);
    assert!(story.leases.is_idle());
    assert_eq!(story.leases.next_due(), None, "no deadline outlives its wait");
    let stats = story.leases.stats;
    assert_eq!((stats.leases_granted, stats.waits, stats.wait_ms_total), (1, 2, 40));
    assert_eq!((stats.loads_avoided, stats.load_ms_avoided), (2, 40));
}

#[test]
fn a_value_that_nobody_waits_for_is_not_copied() {
    let mut story = Story::default();
    story.win(1);
    story.leases.settle(0, KEY, || panic!("nobody waits"), story.now);
    story.leases.settle(0, KEY, || panic!("no lease is out"), story.now);
    assert!(story.leases.is_idle());
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
    let second = story.block(2, 1_000);
    story.pass(LEASE_MS);
    story.handed_to(second);
    assert_eq!(story.ask(2, 50), Asked::Leased { left_ms: LEASE_MS }, "nor for one handed to it");
    story.block(1, 50);
}

#[test]
fn beyond_the_limit_nobody_waits() {
    let mut story = Story::default();
    story.win(1);
    assert!(matches!(story.ask_in(0, 2, 50, 1), Asked::Blocked(_)));
    assert_eq!(story.ask_in(0, 3, 50, 1), Asked::Leased { left_ms: LEASE_MS });
    story.settle(b"v");
    story.win(4);
    let still_undelivered = story.ask_in(0, 5, 50, 1);
    assert_eq!(still_undelivered, Asked::Leased { left_ms: LEASE_MS });
    assert_eq!(story.replies().len(), 1);
    assert!(matches!(story.ask_in(0, 5, 50, 1), Asked::Blocked(_)));
}

#[test]
fn a_wait_ends_at_its_own_deadline_and_not_before() {
    let mut story = Story::default();
    story.win(1);
    let (short, long) = (story.block(2, 40), story.block(3, 60));
    assert_eq!(story.leases.next_due(), Some(MonoMillis(40)));
    story.pass(39);
    assert_eq!(story.replies(), []);
    story.pass(1);
    assert_eq!(story.replies(), [(short, Reply::Leased { left_ms: 60 })]);
    story.settle(b"v");
    assert_eq!(story.replies(), [(long, value(b"v"))]);
    assert_eq!(story.leases.stats.waits_timed_out, 1);
}

#[test]
fn a_decided_answer_is_not_overtaken_by_its_deadline() {
    let mut story = Story::default();
    story.win(1);
    let second = story.block(2, 40);
    story.settle(b"v");
    story.pass(1_000);
    assert_eq!(story.replies(), [(second, value(b"v"))]);
    assert_eq!(story.leases.stats.waits_timed_out, 0);
}

#[test]
fn an_expired_lease_passes_to_the_oldest_and_the_rest_keep_waiting() {
    let mut story = Story::default();
    let first = story.win(1);
    let (second, third) = (story.block(2, 1_000), story.block(3, 1_000));
    story.pass(LEASE_MS - 1);
    assert_eq!(story.replies(), []);
    story.pass(1);
    let grant = story.handed_to(second);
    assert!(grant.serial > first.serial);
    assert_eq!(grant.deadline, story.now.after(LEASE_MS));
    assert_eq!(story.leases.lease_left_ms(third, story.now), LEASE_MS);
    story.pass(LEASE_MS);
    story.handed_to(third);
    story.pass(LEASE_MS);
    assert!(story.leases.is_idle(), "with nobody left the lease is gone");
    let stats = story.leases.stats;
    assert_eq!((stats.leases_granted, stats.leases_expired, stats.handovers), (3, 3, 2));
}

#[test]
fn a_wait_that_ends_with_the_lease_takes_over() {
    let mut story = Story::default();
    story.win(1);
    let second = story.block(2, LEASE_MS);
    story.pass(LEASE_MS);
    story.handed_to(second);
}

#[test]
fn a_wait_that_ended_before_the_lease_times_out_however_late_the_timer() {
    let mut story = Story::default();
    story.win(1);
    let (second, third) = (story.block(2, LEASE_MS - 1), story.block(3, 10_000));
    story.pass(5_000);
    let mut replies = story.replies();
    replies.sort_by_key(|(id, _)| *id);
    assert_eq!(replies[0], (second, Reply::Leased { left_ms: 0 }));
    assert!(matches!(&replies[1], (id, Reply::Won(_)) if *id == third), "{replies:?}");
    assert_eq!(story.leases.next_due(), Some(MonoMillis(5_000 + LEASE_MS)), "the new lease lasts from now");
}

#[test]
fn a_lease_past_its_deadline_holds_nobody_up_before_the_timer_comes() {
    let mut story = Story::default();
    story.win(1);
    story.now = MonoMillis(LEASE_MS);
    story.win(2);
    let third = story.block(3, 1_000);
    story.now = MonoMillis(2 * LEASE_MS);
    assert_eq!(story.ask(4, 0), Asked::Leased { left_ms: LEASE_MS }, "the oldest waiter goes first");
    story.handed_to(third);
    assert_eq!(story.leases.stats.leases_expired, 2);
}

#[test]
fn a_waiter_that_leaves_is_skipped_and_costs_nothing() {
    let mut story = Story::default();
    story.win(1);
    let (second, third) = (story.block(2, 1_000), story.block(3, 1_000));
    assert_eq!(story.leases.leave(second, story.now), None);
    assert_eq!(story.leases.leave(second, story.now), None, "nobody leaves twice");
    story.pass(LEASE_MS);
    story.handed_to(third);
}

#[test]
fn a_grant_nobody_heard_of_passes_on_at_once() {
    let mut story = Story::default();
    story.win(1);
    let (second, third) = (story.block(2, 1_000), story.block(3, 1_000));
    story.pass(LEASE_MS);
    let Some(Reply::Won(grant)) = story.leases.leave(second, story.now) else { panic!("it had been handed the lease") };
    story.leases.give_back(&grant, story.now);
    story.leases.validate();
    story.handed_to(third);
    assert_eq!(story.leases.stats.leases_disconnected, 1);
}

#[test]
fn giving_back_an_outdated_grant_changes_nothing() {
    let mut story = Story::default();
    let outdated = story.win(1);
    story.pass(LEASE_MS);
    let current = story.win(2);
    let stats = story.leases.stats;
    story.leases.give_back(&outdated, story.now);
    assert_eq!(story.leases.stats, stats);
    assert!(story.leases.holds(0, KEY, current.token, story.now));
    story.leases.give_back(&current, story.now);
    story.leases.give_back(&current, story.now);
    assert!(story.leases.is_idle());
    assert_eq!(story.leases.stats.leases_disconnected, 1);
}

#[test]
fn an_invalidation_ends_the_lease_even_if_the_key_did_not_exist() {
    let mut story = Story::default();
    story.win(1);
    let second = story.block(2, 1_000);
    story.touch_then_find(Touch::Invalidated, Found::Nothing);
    story.handed_to(second);
    story.leases.void(0, KEY, story.now);
    assert!(story.leases.is_idle());
    assert_eq!((story.leases.stats.leases_voided, story.leases.stats.handovers), (2, 1));
}

#[test]
fn a_plain_write_answers_the_waiters() {
    let mut story = Story::default();
    for touch in [Touch::Appeared, Touch::Invalidated] {
        story.win(1);
        let second = story.block(2, 1_000);
        story.touch_then_find(touch, Found::Fresh(served(b"v")));
        assert_eq!(story.replies(), [(second, value(b"v"))]);
        assert_eq!(story.leases.leases(), 0);
    }
}

#[test]
fn a_value_of_another_type_refuses_the_waiters() {
    let mut story = Story::default();
    story.win(1);
    let second = story.block(2, 1_000);
    story.touch_then_find(Touch::Appeared, Found::WrongType);
    assert_eq!(story.replies(), [(second, Reply::WrongType)]);
    assert_eq!(story.leases.leases(), 0);
}

#[test]
fn a_command_that_did_nothing_leaves_the_lease_alone() {
    let mut story = Story::default();
    let grant = story.win(1);
    let second = story.block(2, 1_000);
    story.touch_then_find(Touch::Appeared, Found::Nothing);
    assert_eq!(story.replies(), []);
    story.leases.give_back(&grant, story.now);
    story.handed_to(second);
}

#[test]
fn of_two_doubts_the_invalidation_counts() {
    let mut story = Story::default();
    story.win(1);
    assert!(story.leases.mark_touched(KEY, Touch::Invalidated));
    story.touch_then_find(Touch::Appeared, Found::Nothing);
    assert!(story.leases.is_idle());
}

#[test]
fn a_doubt_outlives_the_lease_it_was_noted_under() {
    let mut story = Story::default();
    let grant = story.win(1);
    let (second, third) = (story.block(2, 1_000), story.block(3, 1_000));
    assert!(story.leases.mark_touched(KEY, Touch::Appeared));
    story.leases.give_back(&grant, story.now);
    story.handed_to(second);
    let db_key = story.leases.touched(0, KEY).expect("a value may be there, and the third still waits for it");
    story.leases.recheck(&db_key, Found::Fresh(served(b"v")), story.now);
    assert_eq!(story.replies(), [(third, value(b"v"))]);
}

#[test]
fn a_doubt_concerns_every_database_and_a_flush_only_its_own() {
    let mut story = Story::default();
    assert!(!story.leases.mark_touched(KEY, Touch::Invalidated), "no lease is out");
    for db in [0, 1, 2] {
        assert!(matches!(story.ask_in(db, 1, 0, 0), Asked::Won(_)));
    }
    assert!(!story.leases.mark_touched(b"another", Touch::Invalidated));
    story.leases.mark_all_touched(Some(1), Touch::Invalidated);
    assert_eq!(story.leases.touched(0, KEY), None);
    story.leases.mark_touched(KEY, Touch::Appeared);
    let mut touched = Vec::new();
    while let Some(db_key) = story.leases.next_touched() {
        touched.push(db_key.db);
        story.leases.recheck(&db_key, Found::Nothing, story.now);
        story.leases.validate();
    }
    assert_eq!(touched, [0, 1, 2]);
    assert_eq!((story.leases.leases(), story.leases.stats.leases_voided), (2, 1), "only the flushed one was voided");
    story.leases.mark_all_touched(None, Touch::Invalidated);
    story.leases.forget_all(&Reply::Readonly);
    assert_eq!(story.leases.next_touched(), None);
}

#[test]
fn a_server_that_no_longer_decides_refuses_all_oldest_first() {
    let mut story = Story::default();
    story.win(1);
    let mut ids = Vec::new();
    for client in 2..20 {
        let db = (client % 3) as DbId;
        if let Asked::Blocked(id) = story.ask_in(db, client, 1_000, usize::MAX) {
            ids.push(id);
        }
    }
    story.leases.forget_all(&Reply::Readonly);
    story.leases.validate();
    assert_eq!(story.leases.leases(), 0);
    assert_eq!(story.replies(), ids.into_iter().map(|id| (id, Reply::Readonly)).collect::<Vec<_>>());
    assert!(story.leases.is_idle());
}

#[test]
fn delivery_takes_turns_with_new_callers() {
    let mut story = Story::default();
    story.win(1);
    let (second, third) = (story.block(2, 1_000), story.block(3, 1_000));
    story.settle(b"old");
    assert_eq!(story.leases.next_reply(story.now), Some((second, value(b"old"))));
    story.win(4);
    let fifth = story.block(5, 1_000);
    story.settle(b"new");
    assert!(story.leases.has_replies());
    assert_eq!(story.replies(), [(third, value(b"old")), (fifth, value(b"new"))]);
    assert!(!story.leases.has_replies());
}
