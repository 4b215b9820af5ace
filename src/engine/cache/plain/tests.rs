//! Which commands count, and when, told by example.

use super::*;
use crate::engine::cache::leases::{Caller, Found};
use crate::engine::id::Bond;

const NAMED: Option<ClientId> = Some(ClientId(7));
const DEL: Effect = Effect::Keys;
/// Changes keys that it does not name.
const PURGE: Effect = Effect::Everything(Touch::Invalidated);
const MULTI: Effect = Effect::Queue(true);
const DISCARD: Effect = Effect::Queue(false);

/// Asks for a lease that outlasts every test.
const CALLER: Caller = Caller { client: ClientId(1), wait_ms: 0, lease_ms: 1_000_000, bond: Bond::Free };

/// A watch over leases on the keys `a` and `b`.
struct Watched {
    leases: Leases,
    watch: Watch,
    now: MonoMillis,
}

impl Watched {
    fn new() -> Self {
        let (mut leases, now) = (Leases::default(), MonoMillis(1));
        for key in [b"a", b"b"] {
            leases.ask(0, key, CALLER, 0, now);
        }
        Self { leases, watch: Watch::new(now), now }
    }

    /// The keys touched after `client` sent a command on `keys`; they are rechecked.
    fn see(&mut self, client: Option<ClientId>, effect: Effect, keys: &[&str]) -> String {
        let keys = keys.iter().map(|key| (key.as_bytes(), Touch::Invalidated));
        let any = self.watch.see(&mut self.leases, effect, client, keys, self.now);
        let mut touched = String::new();
        while let Some(db_key) = self.leases.next_touched() {
            touched += std::str::from_utf8(&db_key.key).unwrap();
            let touch = self.leases.inside(0, &db_key.key).unwrap().touch;
            assert_eq!(touch, Some(Touch::Invalidated));
            self.leases.recheck(&db_key, Found::Nothing, self.now);
            self.leases.ask(0, &db_key.key, CALLER, 0, self.now);
        }
        assert_eq!(any, !touched.is_empty());
        touched
    }
}

#[test]
fn a_command_outside_a_transaction_counts_at_once() {
    let mut watched = Watched::new();
    for client in [None, NAMED] {
        assert_eq!(watched.see(client, DEL, &["a", "elsewhere"]), "a");
        assert_eq!(watched.see(client, DEL, &["elsewhere"]), "");
        assert_eq!(watched.see(client, PURGE, &[]), "ab");
    }
}

#[test]
fn a_queued_command_counts_when_it_runs() {
    let mut watched = Watched::new();
    watched.see(NAMED, MULTI, &[]);
    assert_eq!(watched.see(NAMED, DEL, &["a"]), "");
    assert_eq!(watched.see(Some(ClientId(8)), DEL, &["b"]), "b", "another connection queues nothing");
    assert_eq!(watched.see(NAMED, Effect::Exec, &[]), "a");
    assert_eq!(watched.see(NAMED, DEL, &["a"]), "a", "the transaction is over");
    assert_eq!(watched.watch.keys, 0);
}

#[test]
fn a_queued_command_that_names_no_key_counts_when_it_runs() {
    let mut watched = Watched::new();
    watched.see(NAMED, MULTI, &[]);
    assert_eq!(watched.see(NAMED, PURGE, &[]), "");
    assert_eq!(watched.see(NAMED, Effect::Exec, &[]), "ab");
    watched.watch.settle(&mut watched.leases);
    assert!(watched.leases.next_touched().is_some(), "and once more when it has run");
}

#[test]
fn what_was_held_back_counts_once_it_has_run() {
    let mut watched = Watched::new();
    let keys = [(&b"a"[..], Touch::Invalidated)];
    watched.watch.defer(Effect::Keys, keys.into_iter());
    watched.watch.defer(Effect::Exec, keys.into_iter());
    assert!(watched.watch.has_deferred());
    assert_eq!(watched.watch.deferred_touch(b"a"), Some(Touch::Invalidated));
    assert_eq!(watched.watch.deferred_touch(b"b"), None);
    watched.watch.mark_deferred_touched(&mut watched.leases, false);
    assert_eq!(watched.leases.inside(0, b"a").unwrap().touch, Some(Touch::Appeared));
    watched.watch.mark_deferred_touched(&mut watched.leases, true);
    assert_eq!(watched.leases.inside(0, b"a").unwrap().touch, Some(Touch::Invalidated));
    assert_eq!(watched.leases.inside(0, b"b").unwrap().touch, None);
    assert!(!watched.watch.has_deferred());
}

#[test]
fn what_is_held_back_is_never_forgotten_for_being_too_much() {
    let mut watched = Watched::new();
    for _ in 0..QUEUED_KEYS_MAX {
        watched.watch.defer(Effect::Keys, [(&b"elsewhere"[..], Touch::Appeared)].into_iter());
    }
    watched.watch.defer(Effect::Keys, [(&b"a"[..], Touch::Invalidated)].into_iter());
    watched.watch.mark_deferred_touched(&mut watched.leases, true);
    assert_eq!(watched.leases.inside(0, b"a").unwrap().touch, Some(Touch::Invalidated));
    assert!(!watched.watch.has_deferred());
}

#[test]
fn only_what_names_a_leased_key_or_is_queued_is_of_concern() {
    let mut watched = Watched::new();
    let concerns =
        |watched: &Watched, client, key: &[u8]| watched.watch.concerns(&watched.leases, client, [key].into_iter());
    for client in [NAMED, None] {
        assert!(concerns(&watched, client, b"a"));
        assert!(!concerns(&watched, client, b"elsewhere"));
    }
    watched.see(NAMED, MULTI, &[]);
    assert!(concerns(&watched, NAMED, b"elsewhere"));
    assert!(!concerns(&watched, Some(ClientId(8)), b"elsewhere"));
}

#[test]
fn after_a_write_the_keys_that_somebody_waits_for_are_looked_at_once_each() {
    let mut watched = Watched::new();
    let looks = |watched: &mut Watched| {
        watched.watch.recheck.run(&mut watched.leases, watched.now);
        let mut keys = Vec::new();
        while let Some(db_key) = watched.leases.next_touched() {
            keys.push(db_key.key.to_vec());
            watched.leases.recheck(&db_key, Found::Nothing, watched.now);
        }
        keys
    };
    assert!(!watched.watch.recheck.wrote(&watched.leases, watched.now), "nobody waits");
    assert_eq!(watched.watch.recheck.due(), None);
    let waits = Caller { client: ClientId(2), wait_ms: 1_000_000, ..CALLER };
    watched.leases.ask(0, b"b", waits, 10, watched.now);
    assert_eq!(looks(&mut watched), [b""; 0], "nothing was written");
    assert!(watched.watch.recheck.wrote(&watched.leases, watched.now));
    assert!(!watched.watch.recheck.wrote(&watched.leases, watched.now), "that is known");
    assert_eq!(watched.watch.recheck.due(), Some(watched.now));
    assert_eq!(looks(&mut watched), [b"b"]);
    assert_eq!(watched.watch.recheck.due(), None);
    assert!(watched.watch.recheck.wrote(&watched.leases, watched.now));
    let due = watched.watch.recheck.due().unwrap();
    assert!(due > watched.now, "not again at once");
    assert_eq!(looks(&mut watched), [b""; 0]);
    watched.now = due;
    assert_eq!(looks(&mut watched), [b"b"]);
    assert_eq!(watched.leases.leases(), 2, "finding nothing changes nothing");
}

#[test]
fn many_keys_are_looked_at_some_at_a_time() {
    let mut watched = Watched::new();
    for number in 0..10_000u32 {
        for client in [1, 2] {
            let caller = Caller { client: ClientId(client), wait_ms: 1_000_000, ..CALLER };
            watched.leases.ask(0, &number.to_le_bytes(), caller, usize::MAX, watched.now);
        }
    }
    watched.watch.recheck.wrote(&watched.leases, watched.now);
    let (mut seen, mut slices) = (0, 0);
    while let Some(due) = watched.watch.recheck.due() {
        watched.now = watched.now.max(due);
        watched.watch.recheck.run(&mut watched.leases, watched.now);
        let mut slice = 0;
        while let Some(db_key) = watched.leases.next_touched() {
            watched.leases.recheck(&db_key, Found::Nothing, watched.now);
            slice += 1;
        }
        assert!(slice <= recheck::KEYS_PER_SLICE);
        (seen, slices) = (seen + slice, slices + 1);
    }
    assert_eq!(seen, 10_000);
    assert!(slices <= 10_000 / recheck::KEYS_PER_SLICE + 10);
    watched.leases.validate();
}

#[test]
fn a_discarded_command_never_counts() {
    let mut watched = Watched::new();
    watched.see(NAMED, MULTI, &[]);
    watched.see(NAMED, DEL, &["a"]);
    assert_eq!(watched.see(NAMED, DISCARD, &[]), "");
    assert_eq!(watched.see(NAMED, DEL, &["b"]), "b");
    assert!(watched.watch.open.is_empty());
}

#[test]
fn a_transaction_inside_a_transaction_opens_nothing() {
    let mut watched = Watched::new();
    watched.see(NAMED, MULTI, &[]);
    watched.see(NAMED, MULTI, &[]);
    watched.see(NAMED, DEL, &["a"]);
    assert_eq!(watched.see(NAMED, Effect::Exec, &[]), "a");
    assert_eq!(watched.see(NAMED, DEL, &["a"]), "a");
}

#[test]
fn a_refused_transaction_opens_nothing() {
    let mut watched = Watched::new();
    for client in [NAMED, None] {
        watched.see(client, MULTI, &["surplus"]);
        assert_eq!(watched.see(client, DEL, &["a"]), "a");
        assert!(watched.watch.open.is_empty());
    }
    watched.see(NAMED, MULTI, &[]);
    watched.see(NAMED, MULTI, &["surplus"]);
    assert_eq!(watched.see(NAMED, DEL, &["a"]), "", "one that was open stays so");
}

#[test]
fn one_that_is_forgotten_queues_nothing() {
    let mut watched = Watched::new();
    watched.see(NAMED, MULTI, &[]);
    watched.see(NAMED, DEL, &["a"]);
    assert!(watched.watch.queues(ClientId(7)) && !watched.watch.queues(ClientId(8)));
    watched.watch.forget(ClientId(8));
    watched.watch.forget(ClientId(7));
    assert!(!watched.watch.queues(ClientId(7)));
    assert_eq!(watched.watch.keys, 0);
    assert_eq!(watched.see(NAMED, DEL, &["b"]), "b");
}

#[test]
fn a_reset_ends_the_transaction_of_its_own_connection_only() {
    let mut watched = Watched::new();
    watched.see(NAMED, MULTI, &[]);
    watched.see(NAMED, Effect::Reset, &[]);
    assert_eq!(watched.see(NAMED, DEL, &["a"]), "a");
    watched.now = watched.now.after(STRANGER_MS);
    watched.see(None, MULTI, &[]);
    watched.see(None, DEL, &["a"]);
    watched.see(None, Effect::Reset, &[]);
    watched.see(None, MULTI, &[]);
    assert_eq!(watched.see(None, Effect::Exec, &[]), "a", "of the first that began");
}

#[test]
fn a_transaction_whose_beginning_was_missed_may_have_done_anything() {
    let mut watched = Watched::new();
    assert_eq!(watched.see(NAMED, Effect::Exec, &[]), "ab");
}

#[test]
fn without_names_every_command_may_run_at_once_and_again() {
    let mut watched = Watched::new();
    watched.see(None, MULTI, &[]);
    watched.see(None, MULTI, &[]);
    assert_eq!(watched.see(None, DEL, &["a"]), "a");
    assert_eq!(watched.see(None, Effect::Exec, &[]), "ab", "it may have begun before we watched");
    watched.now = watched.now.after(STRANGER_MS);
    assert_eq!(watched.see(None, Effect::Exec, &[]), "a", "of two transactions, the second");
    assert_eq!(watched.watch.keys, 0);
}

#[test]
fn what_a_transaction_did_after_a_doubt_was_resolved_in_it_is_doubted_again() {
    let mut watched = Watched::new();
    watched.see(NAMED, MULTI, &[]);
    watched.see(NAMED, DEL, &["a"]);
    assert!(watched.watch.has_transactions() && !watched.watch.is_unsettled());
    // A command of ours in the transaction rechecks the key and is granted the next lease.
    assert_eq!(watched.see(NAMED, Effect::Exec, &[]), "a");
    assert!(watched.watch.is_unsettled());
    watched.watch.settle(&mut watched.leases);
    assert!(!watched.watch.has_transactions());
    assert_eq!(watched.leases.next_touched().map(|db_key| db_key.key.to_vec()), Some(b"a".to_vec()));
    watched.leases.forget_all(&crate::engine::cache::pending::Reply::Readonly);
    watched.watch.settle(&mut watched.leases);
    assert_eq!(watched.leases.next_touched(), None);
}

#[test]
fn what_a_stranger_did_may_have_been_to_give_keys_a_value() {
    let mut watched = Watched::new();
    assert_eq!(watched.see(NAMED, Effect::Exec, &[]), "ab");
    watched.watch.settle(&mut watched.leases);
    for key in [b"a", b"b"] {
        assert_eq!(watched.leases.inside(0, key).unwrap().touch, Some(Touch::Appeared));
    }
}

#[test]
fn what_is_too_long_to_remember_may_do_anything() {
    let mut watched = Watched::new();
    watched.see(NAMED, MULTI, &[]);
    for _ in 0..=QUEUED_KEYS_MAX {
        watched.see(NAMED, DEL, &["elsewhere"]);
    }
    assert_eq!(watched.watch.keys, 0);
    assert_eq!(watched.see(NAMED, Effect::Exec, &[]), "ab");
}

#[test]
fn without_names_what_was_forgotten_is_not_taken_for_what_came_after() {
    let mut watched = Watched::new();
    watched.now = watched.now.after(STRANGER_MS);
    watched.see(None, MULTI, &[]);
    watched.see(None, DEL, &["a"]);
    for _ in 0..QUEUED_KEYS_MAX {
        watched.see(None, DEL, &["elsewhere"]);
    }
    watched.see(None, MULTI, &[]);
    assert_eq!(watched.see(None, Effect::Exec, &[]), "ab", "it may be the first that runs");
}

#[test]
fn connections_that_vanish_inside_transactions_are_not_remembered_for_ever() {
    let mut watched = Watched::new();
    for client in 0..=QUEUED_KEYS_MAX as u64 {
        watched.see(Some(ClientId(client)), MULTI, &[]);
    }
    assert_eq!(watched.watch.open.len(), 1);
    assert_eq!(watched.see(Some(ClientId(0)), Effect::Exec, &[]), "ab");
}
