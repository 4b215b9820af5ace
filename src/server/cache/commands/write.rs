//! `CACHE.SETSM`, `CACHE.TOUCH` and `CACHE.DEL`: what changes entries.

use crate::engine::cache::entry::Meta;
use crate::engine::cache::freshness::{jittered, JITTER_PERCENT_MAX};
use crate::engine::cache::leases::{Serial, Served, Token};
use crate::engine::id::DbId;
use crate::engine::tag::{Standing, TAGS_PER_ENTRY_MAX};
use crate::engine::time::{UnixMillis, DURATION_MS_MAX, UNIX_MS_MAX};
use crate::server::args::{Args, Word};
use crate::server::cache::commit;
use crate::server::cache::commit::{Attributes, FreshUntil};
use crate::server::cache::lookup::{lookup, Lookup};
use crate::server::error::Error;
use crate::server::ffi::context::{mono_now, unix_now, Arg, Ctx};
use crate::server::ffi::entry_point::ArgVec;
use crate::server::ffi::key::Holds;
use crate::server::state::STATE;
use crate::server::tag::commands::tags::{reply_count, tag_name};
use crate::server::tag::index;
use crate::server::{config, event_loop, info};

/// What a caller says beside value and TTL.
#[derive(Clone, Default)]
struct Given<'c> {
    stale_ms: Option<u64>,
    token: Option<Arg<'c>>,
    version: Option<u64>,
    jitter_percent: Option<u64>,
    cost_ms: Option<u64>,
    stale_since: Option<u64>,
    tags: Vec<Arg<'c>>,
}

impl<'c> Given<'c> {
    fn parse(args: &mut Args<'c>) -> Result<Self, Error> {
        let mut given = Self::default();
        while let Some(word) = args.option() {
            match word.as_bytes() {
                b"STALE" => args.integer_once(&mut given.stale_ms, "STALE", 0, DURATION_MS_MAX)?,
                b"TOKEN" => args.once(&mut given.token, "TOKEN")?,
                b"VERSION" => args.integer_once(&mut given.version, "VERSION", 0, u64::MAX)?,
                b"JITTER" => args.integer_once(&mut given.jitter_percent, "JITTER", 0, JITTER_PERCENT_MAX)?,
                b"COST" => args.integer_once(&mut given.cost_ms, "COST", 0, DURATION_MS_MAX)?,
                b"STALEAT" => args.integer_once(&mut given.stale_since, "STALEAT", 0, UNIX_MS_MAX)?,
                b"TAGS" if given.tags.is_empty() => given.tags = parse_tags(args)?,
                b"TAGS" => return Err(Error::Repeated("TAGS")),
                _ => return Err(args.unknown()),
            }
        }
        Ok(given)
    }
}

fn parse_tags<'c>(args: &mut Args<'c>) -> Result<Vec<Arg<'c>>, Error> {
    let count = args.integer("TAGS", 1, TAGS_PER_ENTRY_MAX as u64)?;
    let mut tags = Vec::with_capacity(count as usize);
    for _ in 0..count {
        tags.push(tag_name(args.next("tag")?)?);
    }
    Ok(tags)
}

/// The `ttl` argument: a duration, or one of the absolute forms that replication and the AOF use.
#[derive(Clone, Copy)]
enum Ttl {
    Lasts(u64),
    Absolute(FreshUntil),
}

impl Ttl {
    fn parse(args: &mut Args<'_>) -> Result<Self, Error> {
        match Word::new(args.peek("ttl")?.bytes()).as_bytes() {
            b"PXAT" => {
                args.next("ttl")?;
                let at = args.integer("PXAT", 1, UNIX_MS_MAX)?;
                Ok(Self::Absolute(FreshUntil::At(UnixMillis(at))))
            }
            b"PERSIST" => {
                args.next("ttl")?;
                Ok(Self::Absolute(FreshUntil::Forever))
            }
            _ => Ok(Self::Lasts(args.integer("ttl", 1, DURATION_MS_MAX)?)),
        }
    }

    /// When freshness ends, with the jitter that was asked for or is configured.
    fn fresh_until(self, jitter_percent: Option<u64>, now: UnixMillis) -> Result<FreshUntil, Error> {
        match (self, jitter_percent) {
            (Self::Absolute(_), Some(_)) => Err(Error::Contradiction("JITTER", "PXAT or PERSIST")),
            (Self::Absolute(fresh), None) => Ok(fresh),
            (Self::Lasts(ttl_ms), percent) => {
                let percent = percent.unwrap_or_else(|| config::JITTER_PERCENT.get());
                let ttl_ms = if percent == 0 { ttl_ms } else { jittered(ttl_ms, percent, rand::random()) };
                Ok(FreshUntil::At(now.after(ttl_ms)))
            }
        }
    }
}

/// `CACHE.SETSM key value ttl|PXAT unix-ms|PERSIST [STALE ms] [TOKEN token] [VERSION n]
/// [JITTER percent] [COST ms] [STALEAT unix-ms] [TAGS n tag [tag ...]]`
pub fn setsm(ctx: Ctx<'_>, argv: ArgVec<'_>) -> Result<(), Error> {
    let mut args = Args::new(argv);
    let (name, value) = (args.next("key")?, args.next("value")?);
    let ttl = Ttl::parse(&mut args)?;
    let given = Given::parse(&mut args)?;
    let now = unix_now();
    let fresh = ttl.fresh_until(given.jitter_percent, now)?;

    let db = ctx.db();
    recheck(ctx, db, name, given.token);
    let key = ctx.open_write(name);
    let held = match key.holds() {
        Holds::Entry(entry) if index::standing(db, entry) == Standing::Dead => None,
        Holds::Entry(entry) => Some(entry.meta()),
        Holds::Other => return Err(Error::WrongType),
        Holds::Nothing | Holds::String => None,
    };
    let superseded = given.version.is_some_and(|version| held.is_some_and(|held| held.version > version));
    let right = right_to_write(db, name, given.token);
    if superseded || right == Right::None {
        info::SETS_REFUSED.add_one();
        ctx.reply_nil();
        return Ok(());
    }
    let stale_since = match fate(ctx, name, right, &given.tags) {
        (Standing::Dead, _) => {
            drop(key);
            refuse_late(ctx, db, name);
            return Ok(());
        }
        (Standing::Stale, since) => Some(since),
        (Standing::Live, _) => given.stale_since.map(UnixMillis),
    };
    let cost_ms = given.cost_ms.or_else(|| measured_cost(db, name)).or(held.map(|held| held.cost_ms.into()));
    let meta = Meta {
        stale_ms: given.stale_ms.unwrap_or(0),
        version: given.version.unwrap_or(0),
        cost_ms: cost_ms.map_or(0, |ms| u32::try_from(ms).unwrap_or(u32::MAX)),
    };
    if is_over(ctx, fresh, meta.stale_ms, now) {
        drop(key);
        commit::delete(ctx, &[name]);
    } else {
        let costs = meta.cost_ms > 0 || held.is_some_and(|held| held.cost_ms > 0);
        let attributes = Attributes { meta, tags: &given.tags, stale_since };
        commit::store(ctx, key, name, value, (&attributes, costs), fresh);
    }
    info::SETS.add_one();
    settle(ctx, db, name, stale_since, || Served { value: value.bytes().into(), fresh_until: fresh.instant() });
    ctx.reply_status(c"OK");
    Ok(())
}

/// Finds out what others have done to `name` before it is decided upon.
fn recheck(ctx: Ctx<'_>, db: DbId, name: Arg<'_>, token: Option<Arg<'_>>) {
    match token {
        Some(_) => event_loop::recheck_unseen(ctx, db, name.bytes()),
        None => event_loop::recheck_key(ctx, db, name.bytes()),
    }
}

/// A write that comes after an invalidation of its tags: the lease ends, the next in line takes over.
fn refuse_late(ctx: Ctx<'_>, db: DbId, name: Arg<'_>) {
    let now = mono_now();
    STATE.with(|state| state.leases.void(db, name.bytes(), now));
    event_loop::schedule(ctx);
    info::SETS_REFUSED.add_one();
    ctx.reply_nil();
}

/// What a caller may write by.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Right {
    /// It gave no token: it may write whatever happened.
    Any,
    /// It holds this lease.
    Lease(Serial),
    /// Its lease is over.
    None,
}

/// What has happened to `tags` since the caller's lease was granted, and when it became stale.
fn fate(ctx: Ctx<'_>, name: Arg<'_>, right: Right, tags: &[Arg<'_>]) -> (Standing, UnixMillis) {
    match right {
        Right::Lease(serial) if !tags.is_empty() => index::fate(ctx, name, tags.iter().map(|tag| tag.bytes()), serial),
        _ => (Standing::Live, UnixMillis::default()),
    }
}

/// How long the regeneration took that this write ends, in milliseconds.
fn measured_cost(db: DbId, name: Arg<'_>) -> Option<u64> {
    if STATE.with(|state| state.leases.leases() == 0) {
        return None;
    }
    let now = mono_now();
    STATE.with(|state| state.leases.cost_ms(db, name.bytes(), now))
}

fn right_to_write(db: DbId, name: Arg<'_>, token: Option<Arg<'_>>) -> Right {
    let Some(token) = token else { return Right::Any };
    let now = mono_now();
    let proved = Token::parse(token.bytes())
        .and_then(|token| STATE.with(|state| state.leases.proves(db, name.bytes(), token, now)));
    proved.map_or(Right::None, Right::Lease)
}

/// A value may be served under `name` now: ends its lease and answers its waiters.
fn settle(ctx: Ctx<'_>, db: DbId, name: Arg<'_>, stale_since: Option<UnixMillis>, served: impl FnOnce() -> Served) {
    if STATE.with(|state| state.leases.is_quiet()) {
        return;
    }
    let now = mono_now();
    STATE.with(|state| match stale_since {
        Some(_) => state.leases.settle_stale(db, name.bytes(), now),
        None => state.leases.settle(db, name.bytes(), served, now),
    });
    event_loop::schedule(ctx);
}

/// True if an entry would be gone before it is stored, as `PXAT` in the past. A replica and a
/// server that loads keep it: there the deletion comes from elsewhere.
fn is_over(ctx: Ctx<'_>, fresh: FreshUntil, stale_ms: u64, now: UnixMillis) -> bool {
    fresh.instant().is_some_and(|at| at.after(stale_ms) <= now) && !ctx.situation().replays()
}

/// `CACHE.TOUCH key ttl|PXAT unix-ms|PERSIST [STALE ms] [TOKEN token] [STALEAT unix-ms]`
pub fn touch(ctx: Ctx<'_>, argv: ArgVec<'_>) -> Result<(), Error> {
    let mut args = Args::new(argv);
    let name = args.next("key")?;
    let ttl = Ttl::parse(&mut args)?;
    let (mut stale, mut token, mut stale_since) = (None, None, None);
    while let Some(word) = args.option() {
        match word.as_bytes() {
            b"STALE" => args.integer_once(&mut stale, "STALE", 0, DURATION_MS_MAX)?,
            b"TOKEN" => args.once(&mut token, "TOKEN")?,
            b"STALEAT" => args.integer_once(&mut stale_since, "STALEAT", 0, UNIX_MS_MAX)?,
            _ => return Err(args.unknown()),
        }
    }
    let stale_ms = stale.unwrap_or(0);
    let (db, now) = (ctx.db(), unix_now());
    // The configured jitter is for regenerated values; a caller that touches says what it means.
    let fresh = ttl.fresh_until(matches!(ttl, Ttl::Lasts(_)).then_some(0), now)?;
    recheck(ctx, db, name, token);
    let looked_up = lookup(ctx, name)?;
    let right = right_to_write(db, name, token);
    let Some(Lookup { value, meta, .. }) = looked_up.filter(|_| right != Right::None) else {
        ctx.reply_integer(0);
        return Ok(());
    };
    let key = ctx.open_write(name);
    // Whether it is unmodified was asked when the lease was granted.
    let stale_since = match (right, key.entry()) {
        (Right::Lease(serial), Some(entry)) => index::fate_of(ctx, name, entry, serial),
        _ => None,
    }
    .or(stale_since.map(UnixMillis));
    if is_over(ctx, fresh, stale_ms, now) {
        drop(key);
        commit::delete(ctx, &[name]);
    } else {
        commit::touch(ctx, key, name, &value, (Meta { stale_ms, ..meta }, stale_since), fresh);
    }
    settle(ctx, db, name, stale_since, || Served { value, fresh_until: fresh.instant() });
    ctx.reply_integer(1);
    Ok(())
}

/// `CACHE.DEL key [key ...]`
pub fn del(ctx: Ctx<'_>, argv: ArgVec<'_>) -> Result<(), Error> {
    let names: Vec<Arg<'_>> = (1..argv.len()).filter_map(|at| argv.get(at)).collect();
    // A primary without UNLINK and DEL says it of all that it deletes.
    let refuses = !ctx.situation().replays();
    for name in names.iter().filter(|_| refuses) {
        if ctx.open_read(*name).is_some_and(|key| matches!(key.holds(), Holds::Other)) {
            return Err(Error::WrongType);
        }
    }
    let db = ctx.db();
    names.iter().for_each(|name| event_loop::recheck_key(ctx, db, name.bytes()));
    let deleted = commit::delete(ctx, &names);
    let now = mono_now();
    STATE.with(|state| names.iter().for_each(|name| state.leases.void(db, name.bytes(), now)));
    event_loop::schedule(ctx);
    reply_count(ctx, deleted.live);
    Ok(())
}
