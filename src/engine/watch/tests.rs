//! Which commands count, and when, told by example.

use super::*;
use crate::engine::lease::{Caller, Found};
use crate::engine::waiters::Bond;

#[test]
fn names_are_known_in_any_case() {
    assert_eq!(effect(b"GET"), Effect::None);
    assert_eq!(effect(b"gEt"), Effect::None);
    assert_eq!(effect(b"DEL"), Effect::Keys(Doubt::Invalidated));
    assert_eq!(effect(b"Unlink"), Effect::Keys(Doubt::Invalidated));
    assert_eq!(effect(b"CACHE.GETSM"), Effect::None);
    assert_eq!(effect(b"exec"), Effect::Exec);
}

#[test]
fn the_unknown_may_give_a_key_a_value() {
    for name in [&b"JSON.SET"[..], b"lpush", b"", b"a-name-that-is-longer-than-any-we-know", b"\xff\0"] {
        assert_eq!(effect(name), Effect::Keys(Doubt::Appeared), "{name:?}");
    }
}

const NAMED: Option<ClientId> = Some(ClientId(7));
const DEL: Effect = Effect::Keys(Doubt::Invalidated);
const MULTI: Effect = Effect::Queue(true);
const DISCARD: Effect = Effect::Queue(false);

/// Asks for a lease that outlasts every test.
const CALLER: Caller = Caller { client: ClientId(1), wait_ms: 0, lease_ms: 1_000_000, bond: Bond::Free };

/// A watch over leases on the keys `a` and `b`.
struct Watched {
    book: LeaseBook,
    watch: Watch,
    now: MonoMillis,
}

impl Watched {
    fn new() -> Self {
        let (mut book, now) = (LeaseBook::default(), MonoMillis(1));
        for key in [b"a", b"b"] {
            book.ask(0, key, CALLER, 0, now);
        }
        Self { book, watch: Watch::new(now), now }
    }

    /// The keys in doubt after `client` sent a command on `keys`; they are resolved.
    fn see(&mut self, client: Option<ClientId>, effect: Effect, keys: &[&str]) -> String {
        let any = self.watch.see(&mut self.book, effect, client, keys.iter().map(|key| key.as_bytes()), self.now);
        let mut doubted = String::new();
        while let Some(slot) = self.book.next_doubted() {
            doubted += std::str::from_utf8(&slot.key).unwrap();
            let doubt = self.book.inside(0, &slot.key).unwrap().doubt;
            assert_eq!(doubt, Some(Doubt::Invalidated));
            self.book.resolve(&slot, Found::Nothing, self.now);
            self.book.ask(0, &slot.key, CALLER, 0, self.now);
        }
        assert_eq!(any, !doubted.is_empty());
        doubted
    }
}

#[test]
fn a_command_outside_a_transaction_counts_at_once() {
    let mut watched = Watched::new();
    for client in [None, NAMED] {
        assert_eq!(watched.see(client, DEL, &["a", "elsewhere"]), "a");
        assert_eq!(watched.see(client, DEL, &["elsewhere"]), "");
        assert_eq!(watched.see(client, Effect::None, &["a"]), "");
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
    // A command of ours in the transaction resolves the doubt and is granted the next lease.
    assert_eq!(watched.see(NAMED, Effect::Exec, &[]), "a");
    assert!(watched.watch.is_unsettled());
    watched.watch.settle(&mut watched.book);
    assert!(!watched.watch.has_transactions());
    assert_eq!(watched.book.next_doubted().map(|slot| slot.key.to_vec()), Some(b"a".to_vec()));
    watched.book.forget_all(&crate::engine::outbox::Answer::Readonly);
    watched.watch.settle(&mut watched.book);
    assert_eq!(watched.book.next_doubted(), None);
}

#[test]
fn what_a_stranger_did_may_have_been_to_give_keys_a_value() {
    let mut watched = Watched::new();
    assert_eq!(watched.see(NAMED, Effect::Exec, &[]), "ab");
    watched.watch.settle(&mut watched.book);
    for key in [b"a", b"b"] {
        assert_eq!(watched.book.inside(0, key).unwrap().doubt, Some(Doubt::Appeared));
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
