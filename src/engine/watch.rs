//! Which plain commands matter to a key with a lease.
//!
//! While a lease is out, the server shows us each command before it runs. [`effect`] says, from
//! its name alone, whether it may invalidate its keys or give them a value. It must be cheap for
//! reads (they are most of the traffic) and complete for writes: a name not listed is taken to be
//! a write that may give any of its arguments a value.
//!
//! A command inside MULTI is shown when it is queued and runs when EXEC comes, unseen. So
//! [`Watch`] keeps what each connection has queued, and doubts it at EXEC. Of a transaction that
//! began before watching did, nothing is known: its EXEC puts every lease in doubt. Redis 7.0 does
//! not say which connection sent a command; there all open transactions are taken for one, and for
//! the first [`STRANGER_MS`] every EXEC counts as one of unknown content.

use super::lease::{Doubt, LeaseBook};
use super::time::MonoMillis;
use super::waiters::ClientId;
use ahash::AHashMap;

/// How long after watching begins a transaction may still be open that began before, where the
/// server does not say who sent a command. Milliseconds.
pub const STRANGER_MS: u64 = 10_000;
/// How many queued keys are remembered over all connections, and how many open transactions.
pub const QUEUED_KEYS_MAX: usize = 100_000;

/// What a command, by its name, may do to the keys among its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing that concerns a lease.
    None,
    /// The keys among its arguments are in doubt.
    Keys(Doubt),
    /// It runs the commands queued by this connection.
    Exec,
    /// It begins (`true`) or abandons (`false`) a queue of commands.
    Queue(bool),
    /// It abandons one if there is one.
    Reset,
}

const NAME_BYTES_MAX: usize = 16;

/// The effect of the command `name` (any case). A `GET` costs a handful of instructions.
#[must_use]
pub fn effect(name: &[u8]) -> Effect {
    if let [g, e, t] = name {
        if [g | 0x20, e | 0x20, t | 0x20] == *b"get" {
            return Effect::None;
        }
    }
    let mut lower = [0; NAME_BYTES_MAX];
    let Some(lower) = lower.get_mut(..name.len()) else { return Effect::Keys(Doubt::Appeared) };
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    match &*lower {
        b"del" | b"unlink" | b"getdel" | b"set" | b"setex" | b"psetex" | b"setnx" | b"getset" | b"mset" | b"msetnx"
        | b"msetex" | b"delex" | b"rename" | b"renamenx" | b"move" | b"copy" | b"restore" | b"restore-asking" => {
            Effect::Keys(Doubt::Invalidated)
        }
        b"multi" => Effect::Queue(true),
        b"discard" => Effect::Queue(false),
        b"reset" => Effect::Reset,
        b"exec" => Effect::Exec,
        _ if is_harmless(lower) => Effect::None,
        _ => Effect::Keys(Doubt::Appeared),
    }
}

/// True for commands that never give a key a value, or that look after their leases themselves.
/// An omission here costs a look at the key, never a wrong answer.
fn is_harmless(lower: &[u8]) -> bool {
    matches!(
        lower,
        b"mget"
            | b"exists"
            | b"ttl"
            | b"pttl"
            | b"type"
            | b"strlen"
            | b"getrange"
            | b"persist"
            | b"touch"
            | b"scan"
            | b"keys"
            | b"hget"
            | b"hgetall"
            | b"hmget"
            | b"smembers"
            | b"sismember"
            | b"zrange"
            | b"zscore"
            | b"lrange"
            | b"llen"
            | b"scard"
            | b"zcard"
            | b"hlen"
            | b"ping"
            | b"echo"
            | b"hello"
            | b"auth"
            | b"select"
            | b"info"
            | b"client"
            | b"config"
            | b"command"
            | b"debug"
            | b"object"
            | b"memory"
            | b"publish"
            | b"subscribe"
            | b"dump"
            | b"eval"
            | b"evalsha"
            | b"fcall"
            | b"flushdb"
            | b"flushall"
            | b"swapdb"
            | b"replconf"
            | b"psync"
            | b"watch"
            | b"unwatch"
    ) || lower.starts_with(b"cache.")
}

/// What connections have queued inside MULTI while commands are watched.
#[derive(Debug)]
pub struct Watch {
    open: AHashMap<Option<ClientId>, Transaction>,
    keys: usize,
    began: MonoMillis,
    /// What EXEC may have done since the last [`Watch::settle`].
    ran: Vec<(Box<[u8]>, Doubt)>,
    /// An EXEC of unknown content ran since then.
    ran_unknown: bool,
    /// Commands that the server holds back, to run them unseen later.
    held_back: Vec<(Box<[u8]>, Doubt)>,
}

#[derive(Debug, Default)]
struct Transaction {
    /// How many are open under this name; more than one only if connections have no name.
    depth: usize,
    queued: Vec<(Box<[u8]>, Doubt)>,
}

impl Watch {
    /// Begins to watch at `now`.
    #[must_use]
    pub fn new(now: MonoMillis) -> Self {
        Self { open: AHashMap::new(), keys: 0, began: now, ran: Vec::new(), ran_unknown: false, held_back: Vec::new() }
    }

    /// Takes note of a command with `effect` that `client` (`None`: the server does not say who)
    /// sent with `args`. True if a key with a lease is now in doubt.
    pub fn see<'a>(
        &mut self,
        book: &mut LeaseBook,
        effect: Effect,
        client: Option<ClientId>,
        mut args: impl Iterator<Item = &'a [u8]>,
        now: MonoMillis,
    ) -> bool {
        match effect {
            Effect::None => false,
            Effect::Queue(true) => {
                // With arguments it is an error that opens nothing.
                if args.next().is_none() {
                    self.begin(client, now);
                }
                false
            }
            // Without a name it is hardly ever sent by one that is in a transaction.
            Effect::Reset if client.is_none() => false,
            Effect::Queue(false) | Effect::Reset => {
                self.end(client);
                false
            }
            Effect::Exec => self.exec(book, client, now),
            Effect::Keys(doubt) => {
                let queued = self.open.contains_key(&client);
                let mut any = false;
                for key in args {
                    if queued {
                        self.queue(client, key, doubt, now);
                    }
                    // Without a name the command may be another connection's and run at once.
                    if !queued || client.is_none() {
                        any |= book.doubt(key, doubt);
                    }
                }
                any
            }
        }
    }

    /// True if `client` is taken to be in a transaction: what it sends is not run before its EXEC.
    #[must_use]
    pub fn queues(&self, client: ClientId) -> bool {
        self.open.contains_key(&Some(client))
    }

    /// `client` is in no transaction: it is gone, or its MULTI was refused.
    pub fn forget(&mut self, client: ClientId) {
        self.end(Some(client));
    }

    fn begin(&mut self, client: Option<ClientId>, now: MonoMillis) {
        if self.open.len() >= QUEUED_KEYS_MAX {
            self.forget_all(now);
        }
        let transaction = self.open.entry(client).or_default();
        // MULTI inside MULTI is an error that opens nothing.
        transaction.depth = if client.is_some() { 1 } else { transaction.depth + 1 };
    }

    /// All open transactions become strangers.
    fn forget_all(&mut self, now: MonoMillis) {
        self.open.clear();
        self.keys = 0;
        self.began = now;
    }

    fn queue(&mut self, client: Option<ClientId>, key: &[u8], doubt: Doubt, now: MonoMillis) {
        if self.keys >= QUEUED_KEYS_MAX {
            self.forget_all(now);
        } else if let Some(transaction) = self.open.get_mut(&client) {
            transaction.queued.push((key.into(), doubt));
            self.keys += 1;
        }
    }

    fn exec(&mut self, book: &mut LeaseBook, client: Option<ClientId>, now: MonoMillis) -> bool {
        let unsure = client.is_none() && now.since(self.began) < STRANGER_MS;
        match self.open.get(&client) {
            Some(transaction) if !unsure => {
                for (key, doubt) in &transaction.queued {
                    book.doubt(key, *doubt);
                    self.ran.push((key.clone(), *doubt));
                }
            }
            _ => {
                book.doubt_all(None, Doubt::Invalidated);
                self.ran_unknown = true;
            }
        }
        self.end(client);
        self.is_unsettled()
    }

    /// True if an EXEC was seen whose commands may have run since.
    #[must_use]
    pub fn is_unsettled(&self) -> bool {
        self.ran_unknown || !self.ran.is_empty()
    }

    /// Keeps in mind that a command on `args` was held back and will run unseen.
    pub fn hold_back<'a>(&mut self, args: impl Iterator<Item = &'a [u8]>, doubt: Doubt) {
        let room = QUEUED_KEYS_MAX.saturating_sub(self.held_back.len());
        self.held_back.extend(args.take(room).map(|key| (key.into(), doubt)));
    }

    /// True if commands were held back that may not have run yet.
    #[must_use]
    pub fn holds_back(&self) -> bool {
        !self.held_back.is_empty()
    }

    /// Doubts what held back commands may have done by now; `is_over` once all of them have run.
    pub fn doubt_held_back(&mut self, book: &mut LeaseBook, is_over: bool) {
        for (key, doubt) in &self.held_back {
            book.doubt(key, if is_over { *doubt } else { Doubt::Appeared });
        }
        if is_over {
            self.held_back = Vec::new();
        }
    }

    /// True if there is an open transaction, or [`Self::is_unsettled`].
    #[must_use]
    pub fn has_transactions(&self) -> bool {
        !self.open.is_empty() || self.is_unsettled()
    }

    /// Doubts once more what EXEC was to run, now that it has: a command of ours in the same
    /// transaction may have resolved the doubt before the command that it was about.
    pub fn settle(&mut self, book: &mut LeaseBook) {
        for (key, doubt) in std::mem::take(&mut self.ran) {
            book.doubt(&key, doubt);
        }
        if std::mem::take(&mut self.ran_unknown) {
            book.doubt_all(None, Doubt::Appeared);
        }
    }

    fn end(&mut self, client: Option<ClientId>) {
        if let Some(transaction) = self.open.get_mut(&client) {
            transaction.depth -= 1;
            if transaction.depth == 0 {
                self.keys -= transaction.queued.len();
                self.open.remove(&client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
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
}
