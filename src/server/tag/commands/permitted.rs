//! `CACHE.INVALIDATE`, `CACHE.MARKSTALE` and `CACHE.TAGDEL` by a user who may change some keys only.
//!
//! What the user may not change stays as it is, as if it did not have the tag. So nothing can be
//! written to the tag itself: the entries are gone through, and each is changed for itself and told
//! to replicas as such. The entries are dead, or stale, before the caller is answered; if they are
//! many, their memory is given back afterwards. O(entries of the tags), in one go: a part of them
//! would be no invalidation.
//!
//! For writes that come later, under a lease that is out now, it is noted which tags it was and which
//! keys the user may change.

use super::invalidate::AT_ONCE_MAX;
use crate::engine::tag::{KeyId, Standing};
use crate::engine::time::UnixMillis;
use crate::server::cache::commit as cache_commit;
use crate::server::ffi::acl::Patterns;
use crate::server::ffi::context::{mono_now, unix_now, Arg, Ctx};
use crate::server::state::STATE;
use crate::server::tag::index::TAGGING;

/// Entries of which the names are copied at once.
const CHUNK: usize = 1_000;

/// Invalidates what has any of `tags` and fits `patterns`; how many entries.
pub fn invalidate(ctx: Ctx<'_>, tags: &[Arg<'_>], patterns: &Patterns) -> usize {
    note(ctx, tags, patterns, Standing::Dead, unix_now());
    let ids = permitted(ctx, tags, patterns);
    let few = ids.len() <= AT_ONCE_MAX;
    let mut count = 0;
    for chunk in ids.chunks(CHUNK) {
        let named = named(ctx, chunk);
        let names: Vec<_> = named.iter().map(|(_, name)| ctx.string(name)).collect();
        let names: Vec<_> = names.iter().map(|name| name.arg()).collect();
        if few {
            count += cache_commit::delete(ctx, &names).keys;
        } else {
            kill(ctx, &named);
            cache_commit::replicate_deleted(ctx, &names);
            count += named.len();
        }
        let (db, now) = (ctx.db(), mono_now());
        STATE.with(|state| names.iter().for_each(|name| state.leases.void(db, name.bytes(), now)));
    }
    count
}

/// Lets them be dead for every reader of the module's own, and the sweep delete them.
fn kill(ctx: Ctx<'_>, entries: &[(KeyId, Box<[u8]>)]) {
    let db = ctx.db();
    TAGGING.with(|tagging| {
        let index = tagging.indexes.index_of(db);
        entries.iter().for_each(|(id, _)| {
            index.kill(*id);
        });
    });
}

/// Marks as stale what has any of `tags` and fits `patterns`; how many entries.
pub fn mark_stale(ctx: Ctx<'_>, tags: &[Arg<'_>], patterns: &Patterns, since: UnixMillis) -> usize {
    note(ctx, tags, patterns, Standing::Stale, since);
    each(ctx, tags, patterns, |name, id| cache_commit::mark_stale(ctx, name, id, since))
}

/// Takes `tag` from what fits `patterns`; how many entries had it.
pub fn forget(ctx: Ctx<'_>, tag: Arg<'_>, patterns: &Patterns) -> usize {
    let db = ctx.db();
    each(ctx, &[tag], patterns, |name, id| {
        let Some(key) = ctx.open_quietly(name) else { return false };
        let had = TAGGING.with(|tagging| tagging.indexes.index_of(db).take(id, tag.bytes()));
        if had {
            cache_commit::retagged(ctx, key, (c"CACHE.UNTAG", c"cache.untag"), name, &[tag]);
        }
        had
    })
}

/// Does `act` to what has any of `tags` and fits `patterns`; how often it says true.
fn each(ctx: Ctx<'_>, tags: &[Arg<'_>], patterns: &Patterns, mut act: impl FnMut(Arg<'_>, KeyId) -> bool) -> usize {
    let mut count = 0;
    for chunk in permitted(ctx, tags, patterns).chunks(CHUNK) {
        for (id, name) in named(ctx, chunk) {
            count += usize::from(act(ctx.string(&name).arg(), id));
        }
    }
    count
}

/// Notes it for writes under leases that are out now, if there are any.
fn note(ctx: Ctx<'_>, tags: &[Arg<'_>], patterns: &Patterns, standing: Standing, now: UnixMillis) {
    if STATE.with(|state| state.leases.leases()) == 0 || patterns.are_none() {
        return;
    }
    let (db, scope) = (ctx.db(), patterns.rules());
    for tag in tags {
        let stamp = STATE.with(|state| state.leases.stamp());
        TAGGING.with(|tagging| {
            let index = tagging.indexes.index_of(db);
            index.advance(stamp);
            index.note_scoped(tag.bytes(), &scope, standing, now);
        });
    }
}

/// What has any of `tags` and fits `patterns`.
fn permitted(ctx: Ctx<'_>, tags: &[Arg<'_>], patterns: &Patterns) -> Vec<KeyId> {
    if patterns.are_none() {
        return Vec::new();
    }
    let db = ctx.db();
    let all = TAGGING.with(|tagging| {
        let index = tagging.indexes.index(db);
        index.map_or_else(Vec::new, |index| index.members(tags.iter().map(|tag| tag.bytes())))
    });
    let mut found = Vec::new();
    for chunk in all.chunks(CHUNK) {
        let fitting = named(ctx, chunk).into_iter().filter(|(_, name)| patterns.allow(ctx.string(name).arg()));
        found.extend(fitting.map(|(id, _)| id));
    }
    found
}

/// The names of those entries that are there.
fn named(ctx: Ctx<'_>, ids: &[KeyId]) -> Vec<(KeyId, Box<[u8]>)> {
    let db = ctx.db();
    TAGGING.with(|tagging| {
        let Some(index) = tagging.indexes.index(db) else { return Vec::new() };
        ids.iter().filter_map(|id| Some((*id, index.key(*id)?.into()))).collect()
    })
}
