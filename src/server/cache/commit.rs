//! The one place where data changes.
//!
//! Each function does all that a change needs, in the one order that is right: store, TTL, close the
//! key, signal, replicate the effect, notify. What is replicated is what happened (an absolute time,
//! the cost as measured), never the question.
//!
//! A function that announces a change takes the open key by value: from Redis 8.6 on the server looks
//! a key up when it is signalled, expires it if its time is over, and an open handle would point to
//! freed memory ([`crate::server::ffi::key`] checks this in every call).

use crate::engine::cache::entry::{Entry, Meta, Tags};
use crate::engine::tag::{KeyId, Standing};
use crate::engine::time::UnixMillis;
use crate::server::ffi::context::{Arg, Ctx, Effect};
use crate::server::ffi::key::{Holds, Key};
use crate::server::state::STATE;
use crate::server::tag::index;
use crate::server::tag::index::TAGGING;
use std::ffi::CStr;

/// When the freshness of an entry ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FreshUntil {
    /// At that time; its stale period follows, then it goes.
    At(UnixMillis),
    /// Never: the key has no TTL.
    Forever,
}

impl FreshUntil {
    /// That time, if there is one.
    #[must_use]
    pub fn instant(self) -> Option<UnixMillis> {
        match self {
            Self::At(at) => Some(at),
            Self::Forever => None,
        }
    }
}

/// What is stored beside a value.
#[derive(Default)]
pub struct Attributes<'a> {
    /// Freshness, version and cost.
    pub meta: Meta,
    /// The names of its tags.
    pub tags: &'a [Arg<'a>],
    /// Since when it is stale by its tags, if it is.
    pub stale_since: Option<UnixMillis>,
}

impl Attributes<'_> {
    fn is_plain(&self) -> bool {
        self.tags.is_empty() && self.stale_since.is_none()
    }
}

/// Puts an entry under `key`, which is open for writing as `name`. `costs` says whether it or its
/// predecessor has a cost.
pub fn store(
    ctx: Ctx<'_>,
    mut key: Key<'_>,
    name: Arg<'_>,
    value: Arg<'_>,
    (attributes, costs): (&Attributes<'_>, bool),
    fresh: FreshUntil,
) {
    let (meta, db) = (attributes.meta, key.db());
    let mut entry = Entry::new(value.bytes(), meta);
    if !attributes.is_plain() {
        // ORDER: entered before its predecessor is struck out, so that a tag they share lives on.
        let tags = attributes.tags.iter().map(|tag| tag.bytes());
        index::insert(db, name.bytes(), &mut entry, tags, attributes.stale_since);
    }
    // ORDER: storing may drop the TTL, so that is set after.
    if let Some(mut previous) = key.put(entry) {
        index::remove_entry(db, &mut previous);
    }
    key.expire_at(end(fresh, meta));
    key.close();
    ctx.signal_modified(name);
    match fresh {
        FreshUntil::At(at) if meta == Meta::default() && !costs && attributes.stale_since.is_none() => {
            ctx.replicate_pxat(c"CACHE.SETSM", name, value, at.0, attributes.tags);
        }
        _ => {
            let mut words = vec![Effect::Arg(name), Effect::Arg(value)];
            push_freshness(&mut words, fresh);
            // A write that does not say its cost leaves the former one, so 0 has to be said.
            let cost_ms = costs.then_some(meta.cost_ms);
            let tags = attributes.tags.iter().map(|tag| Effect::Arg(*tag));
            push_options(&mut words, meta, cost_ms, attributes.stale_since, tags);
            ctx.replicate(c"CACHE.SETSM", &words);
        }
    }
    ctx.notify(c"cache.setsm", name);
}

/// Re-arms the entry under `key`, which is open for writing as `name` and holds `value`. A native
/// string becomes an entry. It is no longer stale by its tags, unless `stale_since` says so.
pub fn touch(
    ctx: Ctx<'_>,
    mut key: Key<'_>,
    name: Arg<'_>,
    value: &[u8],
    (meta, stale_since): (Meta, Option<UnixMillis>),
    fresh: FreshUntil,
) {
    let db = key.db();
    match key.value_mut::<Entry>() {
        Some(entry) => {
            entry.set_meta(meta);
            if stale_since.is_some() || index::standing(db, entry) != Standing::Live {
                let standing = if stale_since.is_some() { Standing::Stale } else { Standing::Live };
                index::settle(db, name.bytes(), entry, standing, stale_since.unwrap_or_default());
            }
        }
        None => drop(key.put(Entry::new(value, meta))),
    }
    key.expire_at(end(fresh, meta));
    key.close();
    ctx.signal_modified(name);
    replicate_touch(ctx, name, fresh, meta.stale_ms, stale_since);
    ctx.notify(c"cache.touch", name);
}

fn replicate_touch(ctx: Ctx<'_>, name: Arg<'_>, fresh: FreshUntil, stale_ms: u64, stale_since: Option<UnixMillis>) {
    let mut words = vec![Effect::Arg(name)];
    push_freshness(&mut words, fresh);
    push_number(&mut words, c"STALE", stale_ms);
    push_stale_since(&mut words, stale_since);
    ctx.replicate(c"CACHE.TOUCH", &words);
}

/// The tags of the entry under `key`, which is open as `name`, were changed by `command` with `changed`.
pub fn retagged(
    ctx: Ctx<'_>,
    key: Key<'_>,
    (command, event): (&'static CStr, &'static CStr),
    name: Arg<'_>,
    changed: &[Arg<'_>],
) {
    key.close();
    ctx.signal_modified(name);
    let mut words = vec![Effect::Arg(name)];
    words.extend(changed.iter().map(|tag| Effect::Arg(*tag)));
    ctx.replicate(command, &words);
    ctx.notify(event, name);
}

/// What [`delete`] found.
#[derive(Clone, Copy, Debug, Default)]
pub struct Deleted {
    /// Keys that existed.
    pub keys: usize,
    /// Those of them that an invalidation had not taken already.
    pub live: usize,
}

/// Deletes what is under `names`.
pub fn delete(ctx: Ctx<'_>, names: &[Arg<'_>]) -> Deleted {
    let mut live = 0;
    let mut deleted = names.to_vec();
    deleted.retain(|name| {
        let mut key = ctx.open_write(*name);
        let db = key.db();
        let (exists, is_live) = match key.value_mut::<Entry>() {
            Some(entry) => {
                let is_live = index::standing(db, entry) != Standing::Dead;
                index::remove_entry(db, entry);
                (true, is_live)
            }
            None => (!matches!(key.holds(), Holds::Nothing), true),
        };
        if exists {
            key.delete();
            live += usize::from(is_live);
        }
        exists
    });
    tell_deleted(ctx, &deleted);
    Deleted { keys: deleted.len(), live }
}

/// Deletes the entry under `name` if the index knows it as `id`; false if it is not there any more:
/// looking at it can expire it. Nobody is told yet: see [`tell_deleted`].
pub fn delete_dead(ctx: Ctx<'_>, name: Arg<'_>, id: KeyId) -> bool {
    let mut key = ctx.open_write(name);
    let db = key.db();
    let entry = key.value_mut::<Entry>().filter(|entry| entry.tags() == Some(&Tags::Indexed(id)));
    let is_there = entry.is_some();
    if let Some(entry) = entry {
        index::remove_entry(db, entry);
        key.delete();
    }
    is_there
}

/// Tells everybody that `names` were deleted: client-side caches, replicas and the AOF, subscribers.
pub fn tell_deleted(ctx: Ctx<'_>, names: &[Arg<'_>]) {
    if names.is_empty() {
        return;
    }
    names.iter().for_each(|name| ctx.signal_modified(*name));
    replicate_deleted(ctx, names);
    for name in names {
        ctx.notify_deleted(*name);
    }
}

/// Tells replicas and the AOF that `names` were deleted; here they may still be waiting for it.
pub fn replicate_deleted(ctx: Ctx<'_>, names: &[Arg<'_>]) {
    let effect: Vec<_> = names.iter().map(|name| Effect::Arg(*name)).collect();
    // In a cluster one command has keys of one slot, also on its way to who takes the slot over.
    let (command, in_cluster) = STATE.with(|state| (state.deletion, state.in_cluster));
    let batch = if in_cluster { 1 } else { effect.len() };
    effect.chunks(batch).for_each(|keys| ctx.replicate(command, keys));
}

/// The entry under `name`, which the index knows as `id`, is stale since `now` if it was not before.
/// False if it is not there any more.
pub fn mark_stale(ctx: Ctx<'_>, name: Arg<'_>, id: KeyId, now: UnixMillis) -> bool {
    let key = ctx.open_write(name);
    let (db, expires) = (key.db(), key.expires());
    let entry = key.entry().filter(|entry| entry.tags() == Some(&Tags::Indexed(id)));
    let Some(meta) = entry.map(Entry::meta) else { return false };
    // ORDER: replicating may look the key up, so it is closed before.
    drop(key);
    let since = TAGGING.with(|tagging| {
        let index = tagging.indexes.index_of(db);
        index.age(id, now).then(|| index.stale_since(id))
    });
    if since.is_some() {
        let fresh = expires
            .map_or(FreshUntil::Forever, |at| FreshUntil::At(UnixMillis(at.0.saturating_sub(meta.stale_ms).max(1))));
        replicate_touch(ctx, name, fresh, meta.stale_ms, since);
    }
    since.is_some()
}

fn end(fresh: FreshUntil, meta: Meta) -> Option<UnixMillis> {
    fresh.instant().map(|at| at.after(meta.stale_ms))
}

fn push_freshness(words: &mut Vec<Effect<'_>>, fresh: FreshUntil) {
    match fresh {
        FreshUntil::At(at) => words.extend([Effect::Word(c"PXAT"), Effect::Number(at.0)]),
        FreshUntil::Forever => words.push(Effect::Word(c"PERSIST")),
    }
}

/// The options of `CACHE.SETSM` for all that an entry holds beside its value and TTL; what says
/// nothing is left out.
pub fn push_options<'a>(
    words: &mut Vec<Effect<'a>>,
    meta: Meta,
    cost_ms: Option<u32>,
    stale_since: Option<UnixMillis>,
    tags: impl ExactSizeIterator<Item = Effect<'a>>,
) {
    push_number(words, c"STALE", meta.stale_ms);
    push_number(words, c"VERSION", meta.version);
    if let Some(cost_ms) = cost_ms {
        words.extend([Effect::Word(c"COST"), Effect::Number(cost_ms.into())]);
    }
    push_stale_since(words, stale_since);
    if tags.len() > 0 {
        words.extend([Effect::Word(c"TAGS"), Effect::Number(tags.len() as u64)]);
        words.extend(tags);
    }
}

/// An option, left out where it says nothing.
pub fn push_number(words: &mut Vec<Effect<'_>>, word: &'static CStr, number: u64) {
    if number > 0 {
        words.extend([Effect::Word(word), Effect::Number(number)]);
    }
}

fn push_stale_since(words: &mut Vec<Effect<'_>>, since: Option<UnixMillis>) {
    if let Some(since) = since {
        words.extend([Effect::Word(c"STALEAT"), Effect::Number(since.0)]);
    }
}
