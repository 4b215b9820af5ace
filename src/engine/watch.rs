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
/// How many queued keys are remembered over all connections.
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
        b"discard" | b"reset" => Effect::Queue(false),
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
            | b"expire"
            | b"pexpire"
            | b"persist"
            | b"expireat"
            | b"pexpireat"
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
        Self { open: AHashMap::new(), keys: 0, began: now }
    }

    /// Takes note of a command with `effect` that `client` (`None`: the server does not say who)
    /// sent with `args`. True if a key with a lease is now in doubt.
    pub fn see<'a>(
        &mut self,
        book: &mut LeaseBook,
        effect: Effect,
        client: Option<ClientId>,
        args: impl Iterator<Item = &'a [u8]>,
        now: MonoMillis,
    ) -> bool {
        match effect {
            Effect::None => false,
            Effect::Queue(true) => {
                let transaction = self.open.entry(client).or_default();
                // MULTI inside MULTI is an error that opens nothing.
                transaction.depth = if client.is_some() { 1 } else { transaction.depth + 1 };
                false
            }
            Effect::Queue(false) => {
                self.end(client);
                false
            }
            Effect::Exec => self.exec(book, client, now),
            Effect::Keys(doubt) => {
                let queued = self.open.contains_key(&client);
                let mut any = false;
                for key in args {
                    if queued {
                        self.queue(client, key, doubt);
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

    fn queue(&mut self, client: Option<ClientId>, key: &[u8], doubt: Doubt) {
        if self.keys >= QUEUED_KEYS_MAX {
            // All open transactions become strangers.
            self.open.clear();
            self.keys = 0;
        } else if let Some(transaction) = self.open.get_mut(&client) {
            transaction.queued.push((key.into(), doubt));
            self.keys += 1;
        }
    }

    fn exec(&mut self, book: &mut LeaseBook, client: Option<ClientId>, now: MonoMillis) -> bool {
        let unsure = client.is_none() && now.since(self.began) < STRANGER_MS;
        let any = match self.open.get(&client) {
            Some(transaction) if !unsure => {
                transaction.queued.iter().fold(false, |any, (key, doubt)| book.doubt(key, *doubt) || any)
            }
            _ => {
                book.doubt_all(None, Doubt::Invalidated);
                true
            }
        };
        self.end(client);
        any
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
                let caller = Caller { client: ClientId(1), wait_ms: 0, lease_ms: 1_000_000 };
                book.ask(0, key, caller, 0, now);
            }
            Self { book, watch: Watch::new(now), now }
        }

        /// The keys in doubt after `client` sent a command on `keys`; they are resolved.
        fn see(&mut self, client: Option<ClientId>, effect: Effect, keys: &[&str]) -> String {
            let any = self.watch.see(&mut self.book, effect, client, keys.iter().map(|key| key.as_bytes()), self.now);
            let mut doubted = String::new();
            while let Some(slot) = self.book.next_doubted() {
                doubted += std::str::from_utf8(&slot.key).unwrap();
                let doubt = self.book.view(0, &slot.key).unwrap().doubt;
                assert_eq!(doubt, Some(Doubt::Invalidated));
                self.book.resolve(&slot, Found::Nothing, self.now);
                let caller = Caller { client: ClientId(1), wait_ms: 0, lease_ms: 1_000_000 };
                self.book.ask(0, &slot.key, caller, 0, self.now);
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
    fn what_is_too_long_to_remember_may_do_anything() {
        let mut watched = Watched::new();
        watched.see(NAMED, MULTI, &[]);
        for _ in 0..=QUEUED_KEYS_MAX {
            watched.see(NAMED, DEL, &["elsewhere"]);
        }
        assert_eq!(watched.watch.keys, 0);
        assert_eq!(watched.see(NAMED, Effect::Exec, &[]), "ab");
    }
}
