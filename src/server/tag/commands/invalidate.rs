//! `CACHE.INVALIDATE`, `CACHE.MARKSTALE` and `CACHE.TAGDEL`: what concerns all entries of a tag.
//!
//! None of them looks at the entries if they are many: see [`crate::engine::tag`]. A few are
//! deleted at once, so that nothing of them is left when the caller is answered.
//!
//! The callers name tags, not keys, so the server cannot check whether they may change the keys that
//! carry them. That is done here: what follows is for a user who may change any key whatever; for any
//! other the entries are gone through one by one, see [`super::permitted`].

use super::permitted;
use super::tags::{count, distinct, existing, members, reply_count, tag_name, tag_names};
use crate::engine::id::DbId;
use crate::engine::tag::TagIndex;
use crate::engine::time::{UnixMillis, UNIX_MS_MAX};
use crate::server::args::Args;
use crate::server::cache::commit as cache_commit;
use crate::server::error::Error;
use crate::server::event_loop;
use crate::server::ffi::acl::Writable;
use crate::server::ffi::context::{mono_now, unix_now, Arg, Ctx, Effect};
use crate::server::ffi::entry_point::ArgVec;
use crate::server::state::STATE;
use crate::server::tag::index;
use crate::server::tag::index::TAGGING;
use std::ffi::CStr;

/// Up to so many entries are deleted within the command.
pub const AT_ONCE_MAX: usize = 1_000;

/// Of up to so many entries, counted once for each tag, it is found out which are the same.
const UNION_MAX: usize = 4_000;

/// `CACHE.INVALIDATE tag [tag ...]`
pub fn invalidate(ctx: Ctx<'_>, argv: ArgVec<'_>) -> Result<(), Error> {
    let (tags, db) = (distinct(tag_names(ctx, argv, 1)?), ctx.db());
    if let Writable::Some(patterns) = ctx.writable_by(c"CACHE.INVALIDATE") {
        let count = permitted::invalidate(ctx, &tags, &patterns);
        finish(ctx, &tags, count);
        return Ok(());
    }
    let reach = if ctx.situation().replays() { Reach::Many(count(db, &tags)) } else { Reach::of(db, &tags) };
    let inhabited = inhabited(db, &tags);
    let leased = apply(db, &tags, |index, tag| index.invalidate(tag, unix_now()));
    let count = match reach {
        Reach::Few(names) => {
            let names: Vec<_> = names.iter().map(|name| ctx.string(name)).collect();
            let names: Vec<_> = names.iter().map(|name| name.arg()).collect();
            cache_commit::delete(ctx, &names).keys
        }
        Reach::Many(count) => {
            replicate(ctx, c"CACHE.INVALIDATE", &[], &inhabited);
            count
        }
    };
    let now = mono_now();
    STATE.with(|state| leased.iter().for_each(|key| state.leases.void(db, key, now)));
    finish(ctx, &tags, count);
    Ok(())
}

/// `CACHE.MARKSTALE tag [tag ...]`
///
/// Replicas and the AOF are told since when: `STALEAT unix-ms` before the tags. It means that to
/// nobody else, whose tags may have that name.
pub fn markstale(ctx: Ctx<'_>, argv: ArgVec<'_>) -> Result<(), Error> {
    let mut args = Args::new(argv);
    let (mut first, mut since) = (1, unix_now());
    if ctx.situation().replays() && args.next("STALEAT")?.bytes() == b"STALEAT" {
        (first, since) = (3, UnixMillis(args.integer("STALEAT", 0, UNIX_MS_MAX)?));
    }
    let (tags, db) = (distinct(tag_names(ctx, argv, first)?), ctx.db());
    if let Writable::Some(patterns) = ctx.writable_by(c"CACHE.MARKSTALE") {
        let count = permitted::mark_stale(ctx, &tags, &patterns, since);
        finish(ctx, &tags, count);
        return Ok(());
    }
    let count = match Reach::of(db, &tags) {
        Reach::Few(names) => existing(ctx, names).len(),
        Reach::Many(count) => count,
    };
    replicate(ctx, c"CACHE.MARKSTALE", &[Effect::Word(c"STALEAT"), Effect::Number(since.0)], &inhabited(db, &tags));
    apply(db, &tags, |index, tag| index.mark_stale(tag, since));
    finish(ctx, &tags, count);
    Ok(())
}

/// The entries that have any of some tags.
enum Reach {
    /// Their names.
    Few(Vec<Box<[u8]>>),
    /// How many; where a union would take too long, counted once for each tag.
    Many(usize),
}

impl Reach {
    fn of(db: DbId, tags: &[Arg<'_>]) -> Self {
        let count = count(db, tags);
        if count > if tags.len() == 1 { AT_ONCE_MAX } else { UNION_MAX } {
            return Self::Many(count);
        }
        let names = members(db, tags);
        if names.len() > AT_ONCE_MAX {
            return Self::Many(names.len());
        }
        Self::Few(names)
    }
}

/// `CACHE.TAGDEL tag`
pub fn tagdel(ctx: Ctx<'_>, argv: ArgVec<'_>) -> Result<(), Error> {
    let (tag, db) = (tag_name(Args::new(argv).next("tag")?)?, ctx.db());
    if let Writable::Some(patterns) = ctx.writable_by(c"CACHE.TAGDEL") {
        reply_count(ctx, permitted::forget(ctx, tag, &patterns));
        return Ok(());
    }
    replicate(ctx, c"CACHE.TAGDEL", &[], &inhabited(db, &[tag]));
    let count = TAGGING.with(|tagging| tagging.indexes.index_of(db).forget(tag.bytes()));
    event_loop::schedule(ctx);
    reply_count(ctx, count);
    Ok(())
}

/// Those of `tags` that entries have.
fn inhabited<'a>(db: DbId, tags: &[Arg<'a>]) -> Vec<Arg<'a>> {
    tags.iter().copied().filter(|tag| count(db, &[*tag]) > 0).collect()
}

/// Does `act` to each tag, numbered in one count with the leases; the keys with a lease that died.
fn apply(db: DbId, tags: &[Arg<'_>], mut act: impl FnMut(&mut TagIndex, &[u8]) -> usize) -> Vec<Box<[u8]>> {
    for tag in tags {
        let stamp = STATE.with(|state| state.leases.stamp());
        TAGGING.with(|tagging| {
            let index = tagging.indexes.index_of(db);
            index.advance(stamp);
            act(index, tag.bytes());
        });
    }
    TAGGING.with(|tagging| {
        let index = tagging.indexes.index_of(db);
        index.struck().into_iter().filter_map(|id| index.key(id).map(Box::from)).collect()
    })
}

fn replicate(ctx: Ctx<'_>, command: &'static CStr, first: &[Effect<'_>], tags: &[Arg<'_>]) {
    if !tags.is_empty() {
        let words: Vec<_> = first.iter().copied().chain(tags.iter().map(|tag| Effect::Arg(*tag))).collect();
        ctx.replicate(command, &words);
    }
}

fn finish(ctx: Ctx<'_>, tags: &[Arg<'_>], count: usize) {
    TAGGING.with(|tagging| {
        tagging.invalidations += tags.len() as u64;
        tagging.invalidated_keys += count as u64;
    });
    index::forget_history();
    event_loop::schedule(ctx);
    reply_count(ctx, count);
}
