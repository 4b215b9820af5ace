//! Which plain commands matter to a key with a lease.
//!
//! While a lease is out, the server shows us each command before it runs. [`known`] says what such
//! a command may do to keys; it must be cheap for reads, which are most of the traffic, and complete
//! for writes.
//!
//! A command inside MULTI is shown when it is queued and runs when EXEC comes, unseen. So
//! [`Watch`] keeps what each connection has queued, and marks its keys as touched at EXEC. Of a transaction that
//! began before watching did, nothing is known: its EXEC touches every key with a lease. Redis 7.0 does
//! not say which connection sent a command; there all open transactions are taken for one, and for
//! the first [`STRANGER_MS`] every EXEC counts as one of unknown content.

pub mod known;
pub mod recheck;

use self::recheck::Recheck;
use crate::engine::cache::leases::{Leases, Touch};
use crate::engine::id::ClientId;
use crate::engine::time::MonoMillis;
use ahash::AHashMap;

/// How long after watching begins a transaction may still be open that began before, where the
/// server does not say who sent a command. Milliseconds.
pub const STRANGER_MS: u64 = 10_000;
/// How many queued keys are remembered over all connections, and how many open transactions.
pub const QUEUED_KEYS_MAX: usize = 100_000;

/// What a command that was seen does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Each of its keys is touched.
    Keys,
    /// Every key is.
    Everything(Touch),
    /// It runs the commands queued by this connection.
    Exec,
    /// It begins (`true`) or abandons (`false`) a queue of commands.
    Queue(bool),
    /// It abandons one if there is one.
    Reset,
}

/// What connections have queued inside MULTI while commands are watched.
#[derive(Debug)]
pub struct Watch {
    open: AHashMap<Option<ClientId>, Transaction>,
    keys: usize,
    began: MonoMillis,
    /// What EXEC may have done since the last [`Watch::settle`].
    ran: Vec<(Box<[u8]>, Touch)>,
    /// An EXEC of unknown content ran since then.
    ran_unknown: bool,
    /// Commands that the server holds back, to run them unseen later.
    deferred: Vec<(Box<[u8]>, Touch)>,
    /// What those may have done that change keys which they do not name.
    held_back_everywhere: Option<Touch>,
    /// When to look for what was written unseen.
    pub recheck: Recheck,
}

#[derive(Debug, Default)]
struct Transaction {
    /// How many are open under this name; more than one only if connections have no name.
    depth: usize,
    queued: Vec<(Box<[u8]>, Touch)>,
    /// What those of its commands may do that change keys which they do not name.
    everywhere: Option<Touch>,
}

impl Watch {
    /// Begins to watch at `now`.
    #[must_use]
    pub fn new(now: MonoMillis) -> Self {
        Self {
            open: AHashMap::new(),
            keys: 0,
            began: now,
            ran: Vec::new(),
            ran_unknown: false,
            deferred: Vec::new(),
            held_back_everywhere: None,
            recheck: Recheck::default(),
        }
    }

    /// Takes note of a command with `effect` that `client` (`None`: the server does not say who)
    /// sent: for [`Effect::Keys`] on `keys`, else with these arguments. True if a key with a lease is
    /// now touched.
    pub fn see<'a>(
        &mut self,
        leases: &mut Leases,
        effect: Effect,
        client: Option<ClientId>,
        mut keys: impl Iterator<Item = (&'a [u8], Touch)>,
        now: MonoMillis,
    ) -> bool {
        match effect {
            Effect::Queue(true) => {
                // With arguments it is an error that opens nothing.
                if keys.next().is_none() {
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
            Effect::Exec => self.exec(leases, client, now),
            Effect::Everything(touch) => {
                let queued = self.open.get_mut(&client);
                // Without a name the command may be another connection's and run at once.
                let runs = queued.is_none() || client.is_none();
                if let Some(transaction) = queued {
                    transaction.everywhere = transaction.everywhere.max(Some(touch));
                }
                if runs {
                    leases.mark_all_touched(None, touch);
                }
                runs
            }
            Effect::Keys => {
                let queued = self.open.contains_key(&client);
                let mut any = false;
                for (key, touch) in keys {
                    if queued {
                        self.queue(client, key, touch, now);
                    }
                    // Without a name the command may be another connection's and run at once.
                    if !queued || client.is_none() {
                        any |= leases.mark_touched(key, touch);
                    }
                }
                any
            }
        }
    }

    /// True if a command of `client` on `keys` has to be looked at more closely: it would be queued,
    /// or a lease is out on one of them.
    pub fn concerns<'a>(
        &self,
        leases: &Leases,
        client: Option<ClientId>,
        mut keys: impl Iterator<Item = &'a [u8]>,
    ) -> bool {
        !self.open.is_empty() && self.open.contains_key(&client) || keys.any(|key| leases.has_lease(key))
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

    fn queue(&mut self, client: Option<ClientId>, key: &[u8], touch: Touch, now: MonoMillis) {
        if self.keys >= QUEUED_KEYS_MAX {
            self.forget_all(now);
        } else if let Some(transaction) = self.open.get_mut(&client) {
            transaction.queued.push((key.into(), touch));
            self.keys += 1;
        }
    }

    fn exec(&mut self, leases: &mut Leases, client: Option<ClientId>, now: MonoMillis) -> bool {
        let unsure = client.is_none() && now.since(self.began) < STRANGER_MS;
        match self.open.get(&client) {
            Some(transaction) if !unsure => {
                for (key, touch) in &transaction.queued {
                    leases.mark_touched(key, *touch);
                    self.ran.push((key.clone(), *touch));
                }
                if let Some(touch) = transaction.everywhere {
                    leases.mark_all_touched(None, touch);
                    self.ran_unknown = true;
                }
            }
            _ => {
                leases.mark_all_touched(None, Touch::Invalidated);
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

    /// Keeps in mind that a command with `effect`, on `keys`, was held back and will run unseen.
    pub fn defer<'a>(&mut self, effect: Effect, keys: impl Iterator<Item = (&'a [u8], Touch)>) {
        match effect {
            Effect::Keys => {
                for (key, touch) in keys {
                    if self.deferred.len() < QUEUED_KEYS_MAX {
                        self.deferred.push((key.into(), touch));
                    } else {
                        // Too many to be remembered one by one.
                        self.held_back_everywhere = self.held_back_everywhere.max(Some(touch));
                    }
                }
            }
            Effect::Everything(touch) => self.held_back_everywhere = self.held_back_everywhere.max(Some(touch)),
            Effect::Exec => {
                // To be called after [`Self::see`], which found what it runs.
                self.deferred.extend(self.ran.iter().cloned());
                if self.ran_unknown {
                    self.held_back_everywhere = Some(Touch::Invalidated);
                }
            }
            Effect::Queue(_) | Effect::Reset => {}
        }
    }

    /// True if commands were held back that may not have run yet.
    #[must_use]
    pub fn has_deferred(&self) -> bool {
        !self.deferred.is_empty() || self.held_back_everywhere.is_some()
    }

    /// What a command that was held back does to `key`, if there is one. O(commands held back).
    #[must_use]
    pub fn deferred_touch(&self, key: &[u8]) -> Option<Touch> {
        let named = self.deferred.iter().filter(|(held, _)| **held == *key).map(|(_, touch)| *touch);
        named.chain(self.held_back_everywhere).max()
    }

    /// Touches what held back commands may have done by now; `is_over` once all of them have run.
    pub fn mark_deferred_touched(&mut self, leases: &mut Leases, is_over: bool) {
        let believed = |touch| if is_over { touch } else { Touch::Appeared };
        for (key, touch) in &self.deferred {
            leases.mark_touched(key, believed(*touch));
        }
        if let Some(touch) = self.held_back_everywhere {
            leases.mark_all_touched(None, believed(touch));
        }
        if is_over {
            (self.deferred, self.held_back_everywhere) = (Vec::new(), None);
        }
    }

    /// True if there is an open transaction, or [`Self::is_unsettled`].
    #[must_use]
    pub fn has_transactions(&self) -> bool {
        !self.open.is_empty() || self.is_unsettled()
    }

    /// Touches once more what EXEC was to run, now that it has: a command of ours in the same
    /// transaction may have rechecked the key before the command that it was about.
    pub fn settle(&mut self, leases: &mut Leases) {
        for (key, touch) in std::mem::take(&mut self.ran) {
            leases.mark_touched(&key, touch);
        }
        if std::mem::take(&mut self.ran_unknown) {
            leases.mark_all_touched(None, Touch::Appeared);
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
