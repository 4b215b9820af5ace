//! What a holder may do with its lease: prove it, renew it, give it up, fail, and vanish.

use super::*;

const DEAD: bool = false;

impl Story {
    fn win_with(&mut self, caller: Caller) -> Grant {
        match self.leases.ask(0, KEY, caller, usize::MAX, self.now) {
            Asked::Won(grant) => grant,
            other => panic!("{caller:?} should have won: {other:?}"),
        }
    }

    fn holds(&mut self, grant: &Grant) -> bool {
        let holds = self.leases.holds(0, KEY, grant.token, self.now);
        self.leases.validate();
        holds
    }

    fn fail(&mut self, grant: &Grant, retry_ms: u64) -> bool {
        let failed = self.leases.fail(0, KEY, grant.token, retry_ms, b"no route"[..].into(), self.now);
        self.leases.validate();
        failed
    }

    fn failure(&self, until: u64) -> Failure {
        Failure { until: MonoMillis(until), message: b"no route"[..].into() }
    }
}

#[test]
fn a_token_proves_its_own_lease_and_no_other() {
    let mut story = Story::default();
    let first = story.win(1);
    assert!(story.holds(&first));
    assert!(!story.leases.holds(1, KEY, first.token, story.now), "not that of another database");
    assert!(!story.leases.holds(0, b"another", first.token, story.now));
    story.leases.void(0, KEY, story.now);
    assert_eq!(story.holds(&first), DEAD);
    let second = story.win(1);
    assert_ne!(first.token, second.token);
    assert_eq!((story.holds(&first), story.holds(&second)), (DEAD, true));
    story.settle(b"v");
    assert_eq!(story.holds(&second), DEAD, "it ended with the value");
}

#[test]
fn a_token_dies_at_the_deadline_though_the_timer_is_late() {
    let mut story = Story::default();
    let grant = story.win(1);
    let second = story.block(2, 1_000);
    story.now = MonoMillis(LEASE_MS - 1);
    assert!(story.holds(&grant));
    story.now = MonoMillis(LEASE_MS);
    assert_eq!(story.holds(&grant), DEAD);
    let next = story.handed_to(second);
    assert!(story.holds(&next), "asking is what handed it over");
}

#[test]
fn a_renewed_lease_lasts_from_now_and_only_its_holder_renews_it() {
    let mut story = Story::default();
    let grant = story.win(1);
    story.block(2, 10_000);
    story.pass(60);
    assert!(story.leases.renew(0, KEY, grant.token, 500, story.now));
    assert!(!story.leases.renew(0, KEY, Token(u128::MAX), 900, story.now));
    story.leases.validate();
    assert_eq!(story.ask(3, 0), Asked::Leased { left_ms: 500 });
    story.pass(499);
    assert!(story.holds(&grant));
    story.pass(1);
    assert!(!story.leases.renew(0, KEY, grant.token, 500, story.now), "too late");
    assert_eq!(story.leases.stats.leases_expired, 1);
}

#[test]
fn a_lease_may_be_renewed_to_end_sooner() {
    let mut story = Story::default();
    let grant = story.win(1);
    assert!(story.leases.renew(0, KEY, grant.token, 5, story.now));
    story.pass(5);
    assert!(story.leases.is_idle());
    assert_eq!(story.leases.next_due(), None);
}

#[test]
fn a_released_lease_passes_to_the_oldest() {
    let mut story = Story::default();
    let grant = story.win(1);
    let (second, third) = (story.block(2, 1_000), story.block(3, 1_000));
    assert!(story.leases.release(0, KEY, grant.token, story.now));
    assert!(!story.leases.release(0, KEY, grant.token, story.now));
    let next = story.handed_to(second);
    assert!(story.leases.release(0, KEY, next.token, story.now));
    let last = story.handed_to(third);
    assert!(story.leases.release(0, KEY, last.token, story.now));
    assert!(story.leases.is_idle());
    assert_eq!((story.leases.stats.leases_released, story.leases.stats.handovers), (3, 2));
}

#[test]
fn a_failure_is_told_to_all_and_nobody_is_granted_the_lease_for_a_while() {
    let mut story = Story::default();
    let grant = story.win(1);
    let (second, third) = (story.block(2, 1_000), story.block(3, 1_000));
    assert!(story.fail(&grant, 300));
    let failure = story.failure(300);
    assert_eq!(story.replies(), [(second, Reply::Failed(failure.clone())), (third, Reply::Failed(failure.clone()))]);
    assert!(!story.fail(&grant, 900), "its lease is over");
    assert_eq!(story.leases.leases(), 0);
    story.pass(299);
    assert_eq!(story.ask(2, 1_000), Asked::Failed(failure.clone()), "nor does anybody wait");
    assert_eq!(story.leases.ask_early(0, KEY, caller(2, 0, Bond::Free), story.now), None);
    assert_eq!(story.leases.failure(0, KEY, story.now), Some(&failure));
    assert_eq!(story.leases.failure(1, KEY, story.now), None);
    story.pass(1);
    assert_eq!(story.leases.failure(0, KEY, story.now), None);
    story.win(3);
    assert_eq!(story.leases.stats.leases_failed, 1);
}

#[test]
fn a_value_ends_the_failure() {
    let mut story = Story::default();
    let grant = story.win(1);
    assert!(story.fail(&grant, 300));
    story.settle(b"v");
    assert_eq!(story.leases.next_due(), None);
    story.win(2);
}

#[test]
fn a_failure_that_is_over_does_not_end_the_next_one() {
    let mut story = Story::default();
    let first = story.win(1);
    assert!(story.fail(&first, 10));
    story.now = MonoMillis(10);
    let second = story.win(1);
    assert!(story.fail(&second, 1_000));
    story.pass(0);
    assert_eq!(story.ask(2, 50), Asked::Failed(story.failure(1_010)), "the timer of the first one came late");
}

#[test]
fn a_bound_lease_ends_with_its_connection() {
    let mut story = Story::default();
    story.win_with(caller(1, 0, Bond::Bound));
    let second = story.block(2, 1_000);
    story.leases.disconnect(ClientId(9), story.now);
    story.leases.disconnect(ClientId(1), story.now);
    story.leases.validate();
    story.handed_to(second);
    story.leases.disconnect(ClientId(1), story.now);
    story.leases.disconnect(ClientId(2), story.now);
    assert_eq!(story.leases.leases(), 1, "the heir did not bind its lease");
    assert_eq!(story.leases.stats.leases_disconnected, 1);
}

#[test]
fn an_heir_that_asked_for_it_is_bound_too() {
    let mut story = Story::default();
    let grant = story.win(1);
    let Asked::Blocked(second) = story.leases.ask(0, KEY, caller(2, 1_000, Bond::Bound), 9, story.now) else {
        panic!("the second waits")
    };
    story.leases.disconnect(ClientId(1), story.now);
    assert!(story.holds(&grant), "not bound: it outlives its connection");
    story.pass(LEASE_MS);
    story.handed_to(second);
    story.leases.disconnect(ClientId(2), story.now);
    assert!(story.leases.is_idle());
}

#[test]
fn a_connection_is_bound_to_its_own_leases_only() {
    let mut story = Story::default();
    story.win_with(caller(1, 0, Bond::Bound));
    story.settle(b"v");
    let other = story.win(2);
    story.leases.disconnect(ClientId(1), story.now);
    assert!(story.holds(&other), "what ended before does not end again");
}

#[test]
fn an_early_lease_is_one_at_a_time() {
    let mut story = Story::default();
    let asks = |client| caller(client, 50, Bond::Free);
    let early = story.leases.ask_early(0, KEY, asks(1), story.now).expect("nobody else refreshes");
    assert!(story.holds(&early));
    assert_eq!(story.leases.ask_early(0, KEY, asks(2), story.now), None);
    assert!(story.leases.waiters().is_empty(), "who is not chosen has a fresh value: it does not wait");
    story.pass(LEASE_MS);
    assert!(story.leases.ask_early(0, KEY, asks(2), story.now).is_some());
    assert_eq!((story.leases.stats.early_refreshes, story.leases.stats.leases_granted), (2, 2));
}

#[test]
fn once_the_value_is_gone_others_wait_for_the_early_lease() {
    let mut story = Story::default();
    story.leases.ask_early(0, KEY, caller(1, 0, Bond::Free), story.now).expect("nobody else refreshes");
    let second = story.block(2, 50);
    assert_eq!(story.leases.ask_early(0, KEY, caller(3, 50, Bond::Free), story.now), None);
    story.settle(b"v");
    assert_eq!(story.replies(), [(second, value(b"v"))]);
}

#[test]
fn a_command_that_did_nothing_leaves_an_early_lease_alone() {
    let mut story = Story::default();
    let early = story.leases.ask_early(0, KEY, caller(1, 0, Bond::Free), story.now).expect("nobody else refreshes");
    story.touch_then_find(Touch::Appeared, Found::Fresh(served(b"the value that was there")));
    assert!(story.holds(&early));
    story.touch_then_find(Touch::Invalidated, Found::Fresh(served(b"another value")));
    assert_eq!(story.holds(&early), DEAD);
    story.leases.ask_early(0, KEY, caller(1, 0, Bond::Free), story.now).expect("nobody else refreshes");
    let second = story.block(2, 50);
    story.touch_then_find(Touch::Appeared, Found::Fresh(served(b"v")));
    assert_eq!(story.replies(), [(second, value(b"v"))], "somebody found nothing, so this did appear");
}

#[test]
fn an_heir_who_has_not_heard_is_told_the_value() {
    let mut story = Story::default();
    story.win(1);
    let (second, third) = (story.block(2, 1_000), story.block(3, 1_000));
    story.pass(LEASE_MS);
    story.settle(b"v");
    assert_eq!(story.replies(), [(second, value(b"v")), (third, value(b"v"))]);
    assert_eq!((story.leases.stats.loads_avoided, story.leases.stats.handovers), (2, 1));
    assert!(story.leases.is_idle());
}

#[test]
fn an_heir_who_has_heard_is_not_told_twice() {
    let mut story = Story::default();
    story.win(1);
    let (second, third) = (story.block(2, 1_000), story.block(3, 1_000));
    story.pass(LEASE_MS);
    story.handed_to(second);
    story.settle(b"v");
    assert_eq!(story.replies(), [(third, value(b"v"))]);
}

#[test]
fn views_show_the_leases_most_waited_for_first() {
    let mut story = Story::default();
    for (client, db) in [(1, 0), (2, 1), (3, 2)] {
        assert!(matches!(story.ask_in(db, client, 0, 0), Asked::Won(_)));
    }
    assert!(matches!(story.ask_in(1, 4, 50, 9), Asked::Blocked(_)));
    story.now = MonoMillis(30);
    let views = story.leases.views(2, story.now);
    assert_eq!(views.iter().map(|view| (view.db_key.db, view.waiters)).collect::<Vec<_>>(), [(1, 1), (0, 0)]);
    assert_eq!((views[0].age_ms, views[0].left_ms, views[0].is_bound), (30, LEASE_MS - 30, false));
    assert_eq!(story.leases.view(1, KEY, story.now).as_ref(), views.first());
    assert_eq!(story.leases.view(3, KEY, story.now), None);
    assert_eq!(story.leases.view(0, KEY, MonoMillis(LEASE_MS)), None, "it is over, though the timer is late");
}

#[test]
fn who_may_be_served_a_stale_value_never_waits() {
    let mut story = Story::default();
    let asks = |client| caller(client, 50, Bond::Free);
    let Asked::Won(grant) = story.leases.ask_stale(0, KEY, asks(1), story.now) else { panic!("nobody refreshes it") };
    let second = story.leases.ask_stale(0, KEY, asks(2), story.now);
    assert_eq!(second, Asked::Leased { left_ms: LEASE_MS });
    let third = story.block(3, 50);
    story.settle(b"v");
    assert_eq!(story.replies(), [(third, value(b"v"))], "one for whom it was too stale");
    assert!(!story.holds(&grant));
}

#[test]
fn a_lease_on_a_value_ends_when_that_value_goes() {
    let mut story = Story::default();
    for touch in [Touch::Appeared, Touch::Invalidated] {
        story.leases.ask_early(0, KEY, caller(1, 0, Bond::Free), story.now).expect("nobody else refreshes");
        story.touch_then_find(touch, Found::Nothing);
        assert!(matches!(story.leases.ask_stale(0, KEY, caller(1, 0, Bond::Free), story.now), Asked::Won(_)));
        story.touch_then_find(touch, Found::Nothing);
        assert!(story.leases.is_idle(), "{touch:?}");
    }
    assert_eq!(story.leases.stats.leases_voided, 4);
}

#[test]
fn a_stale_value_that_takes_the_place_of_another_is_served_to_all_but_the_next_holder() {
    let mut story = Story::default();
    story.win(1);
    let (second, third) = (story.block(2, 1_000), story.block(3, 1_000));
    story.touch_then_find(Touch::Appeared, Found::Stale);
    assert_eq!(story.replies(), []);
    story.touch_then_find(Touch::Invalidated, Found::Stale);
    let replies = story.replies();
    assert!(matches!(&replies[0], (id, Reply::Won(_)) if *id == second), "{replies:?}");
    assert_eq!(replies[1..], [(third, Reply::Look)]);
}

#[test]
fn an_heir_who_has_not_heard_is_still_the_oldest() {
    let mut story = Story::default();
    story.win(1);
    let (second, third) = (story.block(2, 1_000), story.block(3, 1_000));
    story.pass(LEASE_MS);
    story.leases.void(0, KEY, story.now);
    let grant = story.handed_to(second);
    assert!(story.holds(&grant), "what it is told is true");
    story.leases.void(0, KEY, story.now);
    story.handed_to(third);
}

#[test]
fn a_value_that_is_stale_at_once_is_served_and_left_to_be_refreshed() {
    let mut story = Story::default();
    story.win(1);
    let (first, second) = (story.block(2, 50), story.block(3, 50));
    story.leases.settle_stale(0, KEY, story.now);
    story.leases.validate();
    assert_eq!(story.replies(), [(first, Reply::Look), (second, Reply::Look)]);
    story.win(4);
}

#[test]
fn a_stamp_stands_between_the_leases_before_and_after_it() {
    let mut story = Story::default();
    assert_eq!(story.leases.oldest(), None);
    let before = story.win(1);
    let stamp = story.leases.stamp();
    assert!(before.serial.0 < stamp);
    assert_eq!(story.leases.oldest(), Some(before.serial));
    assert_eq!(story.leases.proves(0, KEY, before.token, story.now), Some(before.serial));
    story.leases.void(0, KEY, story.now);
    assert_eq!(story.leases.proves(0, KEY, before.token, story.now), None);
    assert!(story.win(2).serial.0 > stamp);
    story.leases.forget_all(&Reply::Readonly);
    assert_eq!(story.leases.oldest(), None);
}
