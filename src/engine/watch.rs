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
mod tests;
