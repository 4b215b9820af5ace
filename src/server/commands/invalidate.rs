//! `CACHE.INVALIDATE`, `CACHE.MARKSTALE` and `CACHE.TAGDEL`: what concerns all entries of a tag.
//!
//! None of them looks at the entries if they are many: see [`crate::engine::tags`]. A few are
//! deleted at once, so that nothing of them is left when the caller is answered.
//!
//! The callers name tags, not keys, so the server cannot check whether they may change the keys that
//! carry them. That is done here: a user who may change any key whatever may do this; for any other
//! the entries are gone through, before anything is changed.

use super::tags::{existing, tag_name, tag_names};
use crate::engine::tags::TagIndex;
use crate::engine::time::UnixMillis;
use crate::engine::waiters::DbId;
use crate::server::args::Args;
use crate::server::error::Error;
use crate::server::ffi::acl::Change;
use crate::server::ffi::context::{mono_now, unix_now, Arg, Ctx, Effect};
use crate::server::ffi::entry_point::ArgVec;
use crate::server::state::STATE;
use crate::server::tagging::{self, TAGGING};
use crate::server::{keyspace, pump};
use std::ffi::CStr;

/// Up to so many entries are deleted within the command.
const AT_ONCE_MAX: usize = 1_000;

/// `CACHE.INVALIDATE tag [tag ...]`
pub fn invalidate(ctx: Ctx<'_>, argv: ArgVec<'_>) -> Result<(), Error> {
    let (tags, db) = (tag_names(argv, 1)?, ctx.db());
    permit(ctx, db, &tags, Change::Delete)?;
    let count = count(db, &tags);
    let few = (count <= AT_ONCE_MAX && !ctx.situation().replays()).then(|| members(db, &tags));
    let inhabited = inhabited(db, &tags);
    let leased = apply(db, &tags, |index, tag, now| index.invalidate(tag, now));
    let count = match few {
        Some(names) => {
            let names: Vec<_> = names.iter().map(|name| ctx.string(name)).collect();
            let names: Vec<_> = names.iter().map(|name| name.arg()).collect();
            keyspace::delete(ctx, &names).keys
        }
        None => {
            replicate(ctx, c"CACHE.INVALIDATE", &inhabited);
            count
        }
    };
    let now = mono_now();
    STATE.with(|state| leased.iter().for_each(|key| state.book.void(db, key, now)));
    finish(ctx, &tags, count);
    Ok(())
}

/// `CACHE.MARKSTALE tag [tag ...]`
pub fn markstale(ctx: Ctx<'_>, argv: ArgVec<'_>) -> Result<(), Error> {
    let (tags, db) = (tag_names(argv, 1)?, ctx.db());
    permit(ctx, db, &tags, Change::Update)?;
    let mut count = count(db, &tags);
    if count <= AT_ONCE_MAX {
        count = existing(ctx, members(db, &tags)).len();
    }
    // In a file that is loaded it is not known when that was: at some time before now.
    let since = |now| if ctx.situation().is_loading() { UnixMillis::default() } else { now };
    replicate(ctx, c"CACHE.MARKSTALE", &inhabited(db, &tags));
    apply(db, &tags, |index, tag, now| index.mark_stale(tag, since(now)));
    finish(ctx, &tags, count);
    Ok(())
}

/// `CACHE.TAGDEL tag`
pub fn tagdel(ctx: Ctx<'_>, argv: ArgVec<'_>) -> Result<(), Error> {
    let (tag, db) = (tag_name(Args::new(argv).next("tag")?)?, ctx.db());
    permit(ctx, db, &[tag], Change::Update)?;
    replicate(ctx, c"CACHE.TAGDEL", &inhabited(db, &[tag]));
    let count = TAGGING.with(|tagging| tagging.book.index_of(db).forget(tag.bytes()));
    pump::schedule(ctx);
    ctx.reply_integer(i64::try_from(count).unwrap_or(i64::MAX));
    Ok(())
}

/// Whether the caller may change all entries that have any of `tags`. O(1) if it may change any key,
/// else O(entries).
fn permit(ctx: Ctx<'_>, db: DbId, tags: &[Arg<'_>], change: Change) -> Result<(), Error> {
    let Some(user) = ctx.user() else { return Ok(()) };
    // No pattern but one for all keys covers a name that nobody could foresee.
    let unforeseen = [&b"\0cacheguard:"[..], &rand::random::<[u8; 16]>()].concat();
    let may = |name: &[u8]| user.may(change, ctx.string(name).arg());
    if may(&unforeseen) || members(db, tags).iter().all(|name| may(name)) {
        return Ok(());
    }
    Err(Error::NoPermission)
}

/// How many entries have the tags, counted once for each tag.
fn count(db: DbId, tags: &[Arg<'_>]) -> usize {
    TAGGING.with(|tagging| {
        let index = tagging.book.index(db);
        index.map_or(0, |index| tags.iter().map(|tag| index.count(tag.bytes())).sum())
    })
}

/// Those of `tags` that entries have.
fn inhabited<'a>(db: DbId, tags: &[Arg<'a>]) -> Vec<Arg<'a>> {
    tags.iter().copied().filter(|tag| count(db, &[*tag]) > 0).collect()
}

/// The names of all entries that have any of `tags` and are not dead, each once.
fn members(db: DbId, tags: &[Arg<'_>]) -> Vec<Box<[u8]>> {
    TAGGING.with(|tagging| {
        let Some(index) = tagging.book.index(db) else { return Vec::new() };
        match tags {
            [tag] => index.keys(tag.bytes()).map(Box::from).collect(),
            _ => {
                let mut names: Vec<Box<[u8]>> =
                    tags.iter().flat_map(|tag| index.keys(tag.bytes())).map(Box::from).collect();
                names.sort_unstable();
                names.dedup();
                names
            }
        }
    })
}

/// Does `act` to each tag, numbered in one count with the leases; the keys with a lease that died.
fn apply(db: DbId, tags: &[Arg<'_>], mut act: impl FnMut(&mut TagIndex, &[u8], UnixMillis) -> usize) -> Vec<Box<[u8]>> {
    let now = unix_now();
    for tag in tags {
        let stamp = STATE.with(|state| state.book.stamp());
        TAGGING.with(|tagging| {
            let index = tagging.book.index_of(db);
            index.advance(stamp);
            act(index, tag.bytes(), now);
        });
    }
    TAGGING.with(|tagging| {
        let index = tagging.book.index_of(db);
        index.struck().into_iter().filter_map(|id| index.key(id).map(Box::from)).collect()
    })
}

fn replicate(ctx: Ctx<'_>, command: &'static CStr, tags: &[Arg<'_>]) {
    if !tags.is_empty() {
        let words: Vec<_> = tags.iter().map(|tag| Effect::Arg(*tag)).collect();
        ctx.replicate(command, &words);
    }
}

fn finish(ctx: Ctx<'_>, tags: &[Arg<'_>], count: usize) {
    TAGGING.with(|tagging| {
        tagging.invalidations += tags.len() as u64;
        tagging.invalidated_keys += count as u64;
    });
    tagging::forget_history();
    pump::schedule(ctx);
    ctx.reply_integer(i64::try_from(count).unwrap_or(i64::MAX));
}
