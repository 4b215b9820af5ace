//! The tags of one entry, the entries of one tag, and all tags: `CACHE.TAGS`, `CACHE.TAG`,
//! `CACHE.UNTAG`, `CACHE.TAGKEYS`, `CACHE.TAGSCAN`, `CACHE.TAGCOUNT`, `CACHE.TAGINFO` and
//! `CACHE.TAGLIST`.

use crate::engine::cache::entry::{Carried, Entry, Tags};
use crate::engine::glob::{self, Steps};
use crate::engine::id::DbId;
use crate::engine::tag::{Standing, TagIndex, TAGS_PER_ENTRY_MAX, TAG_BYTES_MAX};
use crate::server::args::Args;
use crate::server::cache::commit as cache_commit;
use crate::server::error::Error;
use crate::server::ffi::context::{mono_now, unix_now, Arg, Ctx};
use crate::server::ffi::entry_point::ArgVec;
use crate::server::ffi::key::{Holds, Key};
use crate::server::state::STATE;
use crate::server::tag::index;
use crate::server::tag::index::TAGGING;
use ahash::AHashSet;

const COUNT_DEFAULT: u64 = 10;
const COUNT_MAX: u64 = 100_000;
/// How long a pattern for names of tags may be: as long as those.
const PATTERN_BYTES_MAX: usize = TAG_BYTES_MAX;
/// Steps of comparing names with a pattern after which a walk makes a pause: some ten milliseconds.
const MATCH_STEPS_MAX: usize = 4_000_000;

/// Checks the name of a tag.
///
/// # Errors
/// [`Error::TooLong`].
pub fn tag_name(tag: Arg<'_>) -> Result<Arg<'_>, Error> {
    let fits = tag.bytes().len() <= TAG_BYTES_MAX;
    fits.then_some(tag).ok_or(Error::TooLong { name: "tag", bytes_max: TAG_BYTES_MAX })
}

/// Tags that one command may name.
const TAGS_MAX: usize = 10_000;

/// The arguments from `first` on, all of them names of tags; however many in the replication stream.
///
/// # Errors
/// As [`tag_name`], and [`Error::TooMany`].
pub fn tag_names<'c>(ctx: Ctx<'_>, argv: ArgVec<'c>, first: usize) -> Result<Vec<Arg<'c>>, Error> {
    if argv.len() > first + TAGS_MAX && !ctx.situation().replays() {
        return Err(Error::TooMany { what: "tags", most: TAGS_MAX });
    }
    (first..argv.len()).filter_map(|at| argv.get(at)).map(tag_name).collect()
}

/// Those of `names` that exist: some may have expired, and go once they are looked at.
#[must_use]
pub fn existing(ctx: Ctx<'_>, mut names: Vec<Box<[u8]>>) -> Vec<Box<[u8]>> {
    names.retain(|name| ctx.open_quietly(ctx.string(name).arg()).is_some());
    names
}

/// `CACHE.TAGS key`
pub fn tags(ctx: Ctx<'_>, argv: ArgVec<'_>) -> Result<(), Error> {
    let name = Args::new(argv).next("key")?;
    let key = ctx.open_read(name);
    let carried = match key.as_ref().map(Key::holds) {
        Some(Holds::Other) => return Err(Error::WrongType),
        Some(Holds::Entry(entry)) => index::carried(ctx.db(), entry),
        Some(Holds::Nothing | Holds::String) | None => Carried::default(),
    };
    let names = if carried.standing == Standing::Dead { Vec::new() } else { carried.names };
    reply_names(ctx, names.iter().map(|name| &**name));
    Ok(())
}

/// `CACHE.TAG key tag [tag ...]`
pub fn tag(ctx: Ctx<'_>, argv: ArgVec<'_>) -> Result<(), Error> {
    let (name, names) = (Args::new(argv).next("key")?, distinct(tag_names(ctx, argv, 2)?));
    let (mut key, db, now) = (ctx.open_write(name), ctx.db(), unix_now());
    let Some(entry) = live_entry(&mut key)? else {
        ctx.reply_integer(0);
        return Ok(());
    };
    let held = index::carried(db, entry).names;
    let added: Vec<Arg<'_>> = names.into_iter().filter(|tag| !held.iter().any(|held| **held == *tag.bytes())).collect();
    if held.len() + added.len() > TAGS_PER_ENTRY_MAX {
        return Err(Error::TooManyTags);
    }
    match entry.tags() {
        Some(&Tags::Indexed(id)) => TAGGING.with(|tagging| {
            let index = tagging.indexes.index_of(db);
            added.iter().for_each(|tag| {
                index.add(id, tag.bytes(), now);
            });
        }),
        _ if !added.is_empty() => {
            let names = added.iter().map(|tag| tag.bytes().into()).collect();
            entry.set_tags(Some(Tags::Carried(Carried { names, ..Carried::default() })));
            index::attach(db, name.bytes(), entry);
            if STATE.with(|state| state.leases.view(db, name.bytes(), mono_now()).is_some()) {
                index::watch_entry(&key);
            }
        }
        _ => {}
    }
    if !added.is_empty() {
        cache_commit::retagged(ctx, key, (c"CACHE.TAG", c"cache.tag"), name, &added);
    }
    reply_count(ctx, added.len());
    Ok(())
}

/// `CACHE.UNTAG key tag [tag ...]`
pub fn untag(ctx: Ctx<'_>, argv: ArgVec<'_>) -> Result<(), Error> {
    let (name, mut taken) = (Args::new(argv).next("key")?, tag_names(ctx, argv, 2)?);
    let (mut key, db) = (ctx.open_write(name), ctx.db());
    let id = match live_entry(&mut key)?.and_then(|entry| entry.tags()) {
        Some(&Tags::Indexed(id)) => id,
        _ => {
            ctx.reply_integer(0);
            return Ok(());
        }
    };
    // A name that is given twice is not there the second time.
    taken.retain(|tag| TAGGING.with(|tagging| tagging.indexes.index_of(db).take(id, tag.bytes())));
    if !taken.is_empty() {
        cache_commit::retagged(ctx, key, (c"CACHE.UNTAG", c"cache.untag"), name, &taken);
    }
    reply_count(ctx, taken.len());
    Ok(())
}

/// The entry under an open key; `None` if there is none or it was invalidated. A native string
/// cannot have tags.
fn live_entry<'k>(key: &'k mut Key<'_>) -> Result<Option<&'k mut Entry>, Error> {
    if matches!(key.holds(), Holds::Other | Holds::String) {
        return Err(Error::WrongType);
    }
    let db = key.db();
    Ok(key.value_mut::<Entry>().filter(|entry| index::standing(db, entry) != Standing::Dead))
}

/// Each of `names` once, in the order in which they first come.
#[must_use]
pub fn distinct(mut names: Vec<Arg<'_>>) -> Vec<Arg<'_>> {
    let mut seen: AHashSet<&[u8]> = AHashSet::with_capacity(names.len());
    names.retain(|name| seen.insert(name.bytes()));
    names
}

/// `CACHE.TAGKEYS tag`
pub fn tagkeys(ctx: Ctx<'_>, argv: ArgVec<'_>) -> Result<(), Error> {
    let tag = tag_name(Args::new(argv).next("tag")?)?;
    let names = existing(ctx, members(ctx.db(), &[tag]));
    reply_names(ctx, names.iter().map(|name| &**name));
    Ok(())
}

/// The names of all entries that have any of `tags` and are not dead, each once.
#[must_use]
pub fn members(db: DbId, tags: &[Arg<'_>]) -> Vec<Box<[u8]>> {
    TAGGING.with(|tagging| {
        let Some(index) = tagging.indexes.index(db) else { return Vec::new() };
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

/// `CACHE.TAGSCAN tag cursor [COUNT n]`
pub fn tagscan(ctx: Ctx<'_>, argv: ArgVec<'_>) -> Result<(), Error> {
    let mut args = Args::new(argv);
    let tag = tag_name(args.next("tag")?)?;
    let (cursor, walk) = Walk::parse(&mut args, Matching::No)?;
    let (next, names) = TAGGING.with(|tagging| {
        let Some(index) = tagging.indexes.index(ctx.db()) else { return (0, Vec::new()) };
        let (next, names) = index.scan(tag.bytes(), cursor, walk.count);
        (next, names.into_iter().map(Box::from).collect())
    });
    let names = existing(ctx, names);
    reply_walk(ctx, next, names.iter().map(|name| &**name));
    Ok(())
}

/// Tags that are listed before it is asked again whether that is enough.
const LISTED_AT_ONCE: usize = 32;

/// The names of about `count` tags from `cursor` on that fit `pattern`, and where to go on. Fewer if
/// to find out which costs too much.
fn list(index: &TagIndex, mut cursor: u64, count: usize, pattern: Option<&[u8]>) -> (u64, Vec<Box<[u8]>>) {
    let (mut found, mut left, mut budget) = (Vec::new(), count, Steps(MATCH_STEPS_MAX));
    loop {
        let (next, names) = index.list(cursor, left.min(LISTED_AT_ONCE));
        let fits = |name: &&[u8]| pattern.is_none_or(|pattern| glob::matches(pattern, name, &mut budget));
        left = left.saturating_sub(names.len().max(1));
        found.extend(names.into_iter().filter(fits).map(Box::<[u8]>::from));
        if next == 0 || left == 0 || budget.0 == 0 {
            return (next, found);
        }
        cursor = next;
    }
}

/// `CACHE.TAGLIST cursor [MATCH pattern] [COUNT n]`
pub fn taglist(ctx: Ctx<'_>, argv: ArgVec<'_>) -> Result<(), Error> {
    let mut args = Args::new(argv);
    let (cursor, walk) = Walk::parse(&mut args, Matching::Yes)?;
    if walk.pattern.is_some_and(|pattern| pattern.bytes().len() > PATTERN_BYTES_MAX) {
        return Err(Error::TooLong { name: "MATCH", bytes_max: PATTERN_BYTES_MAX });
    }
    let pattern = walk.pattern.map(Arg::bytes);
    let (next, names) = TAGGING.with(|tagging| match tagging.indexes.index(ctx.db()) {
        Some(index) => list(index, cursor, walk.count, pattern),
        None => (0, Vec::new()),
    });
    reply_walk(ctx, next, names.iter().map(|name| &**name));
    Ok(())
}

/// Whether a walk can be restricted to names of a pattern.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Matching {
    Yes,
    No,
}

/// How a walk goes on from its cursor.
struct Walk<'c> {
    count: usize,
    pattern: Option<Arg<'c>>,
}

impl<'c> Walk<'c> {
    fn parse(args: &mut Args<'c>, matching: Matching) -> Result<(u64, Self), Error> {
        let cursor = args.integer("cursor", 0, u64::MAX)?;
        let (mut count, mut pattern) = (None, None);
        while let Some(word) = args.option() {
            match word.as_bytes() {
                b"COUNT" => args.integer_once(&mut count, "COUNT", 1, COUNT_MAX)?,
                b"MATCH" if matching == Matching::Yes => args.once(&mut pattern, "MATCH")?,
                _ => return Err(args.unknown()),
            }
        }
        let count = usize::try_from(count.unwrap_or(COUNT_DEFAULT)).unwrap_or(usize::MAX);
        Ok((cursor, Self { count, pattern }))
    }
}

/// How many entries have the tags, counted once for each tag.
#[must_use]
pub fn count(db: DbId, tags: &[Arg<'_>]) -> usize {
    TAGGING.with(|tagging| {
        let index = tagging.indexes.index(db);
        index.map_or(0, |index| tags.iter().map(|tag| index.count(tag.bytes())).sum())
    })
}

/// `CACHE.TAGCOUNT tag`
pub fn tagcount(ctx: Ctx<'_>, argv: ArgVec<'_>) -> Result<(), Error> {
    let tag = tag_name(Args::new(argv).next("tag")?)?;
    reply_count(ctx, count(ctx.db(), &[tag]));
    Ok(())
}

/// `CACHE.TAGINFO tag`
pub fn taginfo(ctx: Ctx<'_>, argv: ArgVec<'_>) -> Result<(), Error> {
    let tag = tag_name(Args::new(argv).next("tag")?)?;
    let db = ctx.db();
    let info = TAGGING.with(|tagging| tagging.indexes.index(db)?.info(tag.bytes()));
    let number = |field: &[u8], n: Option<u64>| {
        ctx.reply_bytes(field);
        ctx.reply_unsigned(n.unwrap_or(0));
    };
    let time = |field: &[u8], at: Option<u64>| {
        ctx.reply_bytes(field);
        at.map_or_else(|| ctx.reply_nil(), |at| ctx.reply_unsigned(at));
    };
    ctx.reply_map(6);
    number(b"keys", info.map(|info| info.keys as u64));
    number(b"bytes", info.map(|info| info.bytes));
    time(b"created_ms", info.map(|info| info.created.0));
    number(b"invalidations", info.map(|info| info.invalidations));
    time(b"last_invalidated_ms", info.and_then(|info| info.last_invalidated).map(|at| at.0));
    number(b"sweeping", info.map(|info| info.sweeping as u64));
    Ok(())
}

/// Answers with a number of things.
pub fn reply_count(ctx: Ctx<'_>, count: usize) {
    ctx.reply_integer(i64::try_from(count).unwrap_or(i64::MAX));
}

fn reply_walk<'n>(ctx: Ctx<'_>, next: u64, names: impl ExactSizeIterator<Item = &'n [u8]>) {
    ctx.reply_array(2);
    ctx.reply_bytes(next.to_string().as_bytes());
    reply_names(ctx, names);
}

fn reply_names<'n>(ctx: Ctx<'_>, names: impl ExactSizeIterator<Item = &'n [u8]>) {
    ctx.reply_array(names.len());
    names.for_each(|name| ctx.reply_bytes(name));
}
