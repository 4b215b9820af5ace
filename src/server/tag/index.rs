//! The tags of entries, between the keyspace and the index.
//!
//! The index must follow every way in which a key comes, changes, moves or goes. The module's own
//! commands enter and strike out what they store and delete; whatever else removes a key, the server
//! tells the type of its value ([`crate::server::ffi::types::Data::unlinked`]), and emptied and
//! exchanged databases by events. Whatever else brings one (RENAME, MOVE, COPY, RESTORE, a file
//! being loaded) it announces to those who subscribed, which costs every command that changes a key
//! some 500 instructions: so the module subscribes with the first entry that has tags.

use crate::engine::cache::entry::{Carried, Entry, Tags};
use crate::engine::cache::leases::Serial;
use crate::engine::id::DbId;
use crate::engine::tag::{Arrival, Standing, TagIndexes};
use crate::engine::time::UnixMillis;
use crate::server::event_loop;
use crate::server::ffi::context::{unix_now, Arg, Ctx, Level};
use crate::server::ffi::events;
use crate::server::ffi::key::Key;
use crate::server::ffi::main_thread::MainThread;
use crate::server::state::STATE;
use std::cmp::Reverse;

/// What is known of tags. Borrowed for moments only, as [`STATE`].
pub struct Tagging {
    /// The indexes.
    pub indexes: TagIndexes,
    /// Whether the server tells of keys that come by other hands.
    hears: bool,
    /// Whether the server leaves callers of MOVE in the other database.
    move_leaves_caller_in_other_db: bool,
    /// Whether the value that was loaded last has tags.
    loaded: bool,
    /// Tags that were invalidated or marked stale.
    pub invalidations: u64,
    /// Entries that were.
    pub invalidated_keys: u64,
}

impl Default for Tagging {
    fn default() -> Self {
        let indexes = TagIndexes::new(rand::random());
        Self {
            indexes,
            hears: false,
            move_leaves_caller_in_other_db: false,
            loaded: false,
            invalidations: 0,
            invalidated_keys: 0,
        }
    }
}

/// The one instance.
pub static TAGGING: MainThread<Tagging> = MainThread::new();

/// What its tags have done to an entry of `db`.
#[inline]
#[must_use]
pub fn standing(db: DbId, entry: &Entry) -> Standing {
    match entry.tags() {
        None => Standing::Live,
        Some(_) => TAGGING.with(|tagging| tagging.indexes.standing(db, entry)),
    }
}

/// The same of the entry under `key`; of one without tags it asks nothing.
#[inline]
#[must_use]
pub fn standing_under(key: &Key<'_>, entry: &Entry) -> Standing {
    match entry.tags() {
        None => Standing::Live,
        Some(_) => standing(key.db(), entry),
    }
}

/// Since when an entry of `db` is stale by its tags.
#[must_use]
pub fn stale_since(db: DbId, entry: &Entry) -> UnixMillis {
    TAGGING.with(|tagging| tagging.indexes.stale_since(db, entry))
}

/// The tags of an entry of `db`, and what they have done to it.
#[must_use]
pub fn carried(db: DbId, entry: &Entry) -> Carried {
    match entry.tags() {
        None => Carried::default(),
        Some(_) => TAGGING.with(|tagging| tagging.indexes.carried(db, entry)),
    }
}

/// How many tags an entry of `db` has.
#[must_use]
pub fn count(db: DbId, entry: &Entry) -> usize {
    TAGGING.with(|tagging| match entry.tags() {
        Some(Tags::Indexed(id)) => tagging.indexes.index(db).map_or(0, |index| index.names(*id).count()),
        Some(Tags::Carried(carried)) => carried.names.len(),
        None => 0,
    })
}

/// Enters what `entry` carries, which is about to be or was just put under `key` of `db`.
pub fn attach(db: DbId, key: &[u8], entry: &mut Entry) {
    if let Some(Tags::Carried(_)) = entry.tags() {
        hear();
        let now = unix_now();
        TAGGING.with(|tagging| tagging.indexes.attach(db, key, entry, now));
    }
}

/// Enters a new `entry` with `tags` which is about to be put under `key` of `db`. Stale since
/// `stale_since`, if that is said.
pub fn insert<'a>(
    db: DbId,
    key: &[u8],
    entry: &mut Entry,
    tags: impl Iterator<Item = &'a [u8]>,
    stale_since: Option<UnixMillis>,
) {
    hear();
    let (standing, since) = match stale_since {
        Some(since) => (Standing::Stale, since),
        None => (Standing::Live, UnixMillis::default()),
    };
    let arrival = Arrival { standing, since, bytes: entry.value().len(), now: unix_now() };
    let id = TAGGING.with(|tagging| tagging.indexes.index_of(db).insert(key, tags, arrival));
    entry.set_tags(Some(Tags::Indexed(id)));
}

/// `entry` is about to leave `key` of `db` by other hands, to be freed or put under another.
pub fn detach(db: DbId, key: &[u8], entry: &mut Entry) {
    if entry.tags().is_some() {
        TAGGING.with(|tagging| tagging.indexes.detach(db, key, entry));
    }
}

/// Takes `entry`, which is about to be deleted or was just overwritten, out of the index of `db`.
pub fn remove_entry(db: DbId, entry: &mut Entry) {
    if entry.tags().is_some() {
        TAGGING.with(|tagging| tagging.indexes.remove_entry(db, entry));
    }
}

/// Lets `entry` under `key` of `db` be as its tags now make it: `standing`, which is not dead.
pub fn settle(db: DbId, key: &[u8], entry: &mut Entry, standing: Standing, since: UnixMillis) {
    let names = carried(db, entry).names;
    let was = entry.set_tags(Some(Tags::Carried(Carried { names, standing, since })));
    // ORDER: entered anew before the old is struck out, so that its tags live on.
    attach(db, key, entry);
    if let Some(Tags::Indexed(id)) = was {
        TAGGING.with(|tagging| tagging.indexes.index_of(db).remove(id));
    }
}

/// A value with tags was read from a file or payload; where it goes will be announced.
pub fn loaded() {
    hear();
    TAGGING.with(|tagging| tagging.loaded = true);
}

/// True once after [`loaded`].
pub fn was_loaded() -> bool {
    TAGGING.with(|tagging| std::mem::take(&mut tagging.loaded))
}

/// A value that is not the module's own doing came to be under `name`.
pub fn arrived(ctx: Ctx<'_>, name: Arg<'_>) {
    let Some(mut key) = ctx.open_quietly(name) else { return };
    let db = key.db();
    if let Some(entry) = key.value_mut::<Entry>() {
        attach(db, name.bytes(), entry);
        let is_dead = standing(db, entry) == Standing::Dead;
        key.close();
        if is_dead {
            event_loop::schedule(ctx);
        }
    }
}

/// Valkey 8.1 leaves the caller of MOVE and COPY in the other database if any module listens, and
/// replicates the command as if it had been called there. For MOVE this is put right.
const VALKEY_8_1: (u32, u32) = (8, 1);

/// True on such a server.
pub fn move_leaves_caller_in_other_db() -> bool {
    TAGGING.with(|tagging| tagging.move_leaves_caller_in_other_db)
}

fn hear() {
    if TAGGING.with(|tagging| std::mem::replace(&mut tagging.hears, true)) {
        return;
    }
    let ctx = events::background();
    if !events::hear_of_arrivals(ctx) {
        ctx.log(Level::Warning, "the server does not tell of keys that move: tags may not follow them");
    }
    if ctx.valkey_version() == Some(VALKEY_8_1) {
        TAGGING.with(|tagging| tagging.move_leaves_caller_in_other_db = true);
        let text = "COPY to another database must not be used: with any module that listens to keys, as this one does \
                    now that an entry has tags, Valkey 8.1 replicates it wrongly and leaves its caller there; Valkey 9 \
                    does not";
        ctx.log(Level::Warning, text);
    }
}

/// There is a lease on `name` now, which an invalidation of its entry's tags is to end.
pub fn watch(ctx: Ctx<'_>, name: Arg<'_>) {
    if TAGGING.with(|tagging| tagging.hears) {
        ctx.open_quietly(name).into_iter().for_each(|key| watch_entry(&key));
    }
}

/// The same for an open key.
pub fn watch_entry(key: &Key<'_>) {
    let db = key.db();
    if let Some(Tags::Indexed(id)) = key.value::<Entry>().and_then(Entry::tags) {
        TAGGING.with(|tagging| tagging.indexes.index_of(db).watch(*id));
    }
}

/// What has happened to any of `tags` since the lease `serial` on `name` was granted.
#[must_use]
pub fn fate<'a>(
    ctx: Ctx<'_>,
    name: Arg<'_>,
    tags: impl Iterator<Item = &'a [u8]> + Clone,
    serial: Serial,
) -> (Standing, UnixMillis) {
    let (db, now) = (ctx.db(), unix_now());
    let (all, some) = (fate_of_all(db, tags.clone(), serial, now), fate_of_some(ctx, name, tags, serial));
    match (all, some) {
        ((Standing::Stale, since), Some((Standing::Stale, earlier))) => (Standing::Stale, since.min(earlier)),
        (all, Some(some)) if some.0 > all.0 => some,
        (all, _) => all,
    }
}

/// The same, by users who may change some keys only, if they may change this one.
fn fate_of_some<'a>(
    ctx: Ctx<'_>,
    name: Arg<'_>,
    tags: impl Iterator<Item = &'a [u8]>,
    serial: Serial,
) -> Option<(Standing, UnixMillis)> {
    let db = ctx.db();
    let noted: Vec<_> = TAGGING.with(|tagging| {
        let index = tagging.indexes.index(db).filter(|index| index.has_scoped());
        index.map_or_else(Vec::new, |index| tags.flat_map(|tag| index.scoped_since(tag, serial.0)).collect())
    });
    let mut worst: Option<(Standing, UnixMillis)> = None;
    for (rules, standing, since) in noted {
        // Only what would make it worse is worth asking for.
        let is_worse = worst.is_none_or(|worst| (standing, Reverse(since)) > (worst.0, Reverse(worst.1)));
        if is_worse && ctx.patterns(&rules).allow(name) {
            worst = Some((standing, since));
        }
    }
    worst
}

fn fate_of_all<'a>(
    db: DbId,
    tags: impl Iterator<Item = &'a [u8]>,
    serial: Serial,
    now: UnixMillis,
) -> (Standing, UnixMillis) {
    TAGGING.with(|tagging| {
        let Some(index) = tagging.indexes.index(db) else { return (Standing::Live, now) };
        let mut fate = (Standing::Live, now);
        for tag in tags {
            if index.invalidated_since(tag, serial.0) {
                return (Standing::Dead, now);
            }
            if index.marked_since(tag, serial.0) {
                let since = index.marked_after(tag, serial.0).unwrap_or(now);
                fate = (Standing::Stale, fate.1.min(since));
            }
        }
        fate
    })
}

/// Since when an entry under `name` is to count as stale that was found unmodified under the lease
/// `serial`: since one of its tags was marked stale after that was granted, if one was.
#[must_use]
pub fn fate_of(ctx: Ctx<'_>, name: Arg<'_>, entry: &Entry, serial: Serial) -> Option<UnixMillis> {
    let names = carried(ctx.db(), entry).names;
    match fate(ctx, name, names.iter().map(|name| &**name), serial) {
        (Standing::Stale, since) => Some(since),
        (Standing::Live | Standing::Dead, _) => None,
    }
}

/// Once no lease is out, nobody will ask what happened to tags.
pub fn forget_if_unasked() {
    let has_history = TAGGING.with(|tagging| tagging.indexes.has_history());
    if has_history && STATE.with(|state| state.leases.leases()) == 0 {
        forget_history();
    }
}

/// Lets the index forget what no lease that is out can ask for.
pub fn forget_history() {
    let oldest = STATE.with(|state| match state.leases.oldest() {
        Some(Serial(serial)) => serial,
        None => state.leases.stamp(),
    });
    TAGGING.with(|tagging| tagging.indexes.forget_before(oldest));
}
