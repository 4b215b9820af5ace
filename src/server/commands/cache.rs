//! `CACHE.GETSM` and `CACHE.SETSM`: the read and the write of a cache-aside cache.

use crate::engine::entry::{Age, Meta};
use crate::engine::lease::{Asked, Caller};
use crate::engine::time::{UnixMillis, DURATION_MS_MAX};
use crate::server::args::{Args, Word};
use crate::server::error::Error;
use crate::server::ffi::context::{mono_now, unix_now, Arg, Ctx};
use crate::server::ffi::entry_point::ArgVec;
use crate::server::ffi::key::{Holds, Key};
use crate::server::keyspace::{self, FreshUntil};
use crate::server::state::STATE;
use crate::server::{blocked, config, info, pump};

/// `CACHE.GETSM key [WAIT ms] [LEASE ms]`
pub fn getsm(ctx: Ctx<'_>, argv: ArgVec<'_>) -> Result<(), Error> {
    let mut args = Args::new(argv);
    let name = args.next("key")?;
    let terms = Terms::parse(&mut args)?;
    let Some(key) = ctx.open_read(name) else { return miss(ctx, name, terms) };
    match key.holds() {
        Holds::Entry(entry) => {
            if entry.never_stale() || matches!(entry.age(key.expires(), unix_now()), Age::Fresh { .. }) {
                info::HITS.add_one();
                ctx.reply_bytes(entry.value());
                return Ok(());
            }
            stale(ctx, name, key, terms)
        }
        Holds::String => {
            info::HITS.add_one();
            ctx.read_string(name, |value| ctx.reply_bytes(value)).ok_or(Error::WrongType)
        }
        Holds::Other => Err(Error::WrongType),
        Holds::Nothing => miss(ctx, name, terms),
    }
}

/// What a caller of GETSM asks for.
#[derive(Clone, Copy, Default)]
struct Terms {
    wait_ms: Option<u64>,
    lease_ms: Option<u64>,
}

impl Terms {
    fn parse(args: &mut Args<'_>) -> Result<Self, Error> {
        let mut terms = Self::default();
        while let Some(word) = args.option() {
            match word.as_bytes() {
                b"WAIT" => args.integer_once(&mut terms.wait_ms, "WAIT", 0, DURATION_MS_MAX)?,
                b"LEASE" => args.integer_once(&mut terms.lease_ms, "LEASE", 1, DURATION_MS_MAX)?,
                _ => return Err(args.unknown()),
            }
        }
        Ok(terms)
    }
}

/// Nothing may be served: the caller gets the lease, waits, or is told who has it.
fn miss(ctx: Ctx<'_>, name: Arg<'_>, terms: Terms) -> Result<(), Error> {
    match ask(ctx, name, terms.wait_ms.unwrap_or_else(|| config::WAIT_MS.get()), terms)? {
        Asked::Won(_) => ctx.reply_nil(),
        Asked::Leased { left_ms } => return Err(Error::Leased { left_ms }),
        Asked::Parked(id) => blocked::park(ctx, id)?,
    }
    Ok(())
}

/// A stale value may be served while somebody regenerates it: the first caller is to do so.
fn stale(ctx: Ctx<'_>, name: Arg<'_>, key: Key<'_>, terms: Terms) -> Result<(), Error> {
    match ask(ctx, name, 0, terms) {
        Ok(Asked::Won(_)) => ctx.reply_nil(),
        _ => match key.holds() {
            Holds::Entry(entry) => ctx.reply_bytes(entry.value()),
            _ => return Err(Error::WrongType),
        },
    }
    Ok(())
}

fn ask(ctx: Ctx<'_>, name: Arg<'_>, wait_ms: u64, terms: Terms) -> Result<Asked, Error> {
    info::MISSES.add_one();
    let situation = ctx.situation();
    if situation.is_replica() {
        return Err(Error::Readonly);
    }
    let (db, key, now) = (ctx.db(), name.bytes(), mono_now());
    pump::resolve_doubt(ctx, db, key);
    let caller = Caller {
        client: ctx.client_id(),
        wait_ms: if situation.denies_blocking() { 0 } else { wait_ms },
        lease_ms: terms.lease_ms.unwrap_or_else(|| config::LEASE_MS.get()),
    };
    let waiters_max = usize::try_from(config::MAX_WAITERS.get()).unwrap_or(usize::MAX);
    let asked = STATE.with(|state| state.book.ask(db, key, caller, waiters_max, now));
    pump::schedule(ctx);
    Ok(asked)
}

/// `CACHE.SETSM key value ttl|PXAT unix-ms|PERSIST [STALE ms] [VERSION n] [COST ms]`
pub fn setsm(ctx: Ctx<'_>, argv: ArgVec<'_>) -> Result<(), Error> {
    let mut args = Args::new(argv);
    let (name, value) = (args.next("key")?, args.next("value")?);
    let now = unix_now();
    let fresh = parse_fresh_until(&mut args, now)?;
    let mut given = Given::default();
    given.parse(&mut args)?;

    let db = ctx.db();
    pump::resolve_doubt(ctx, db, name.bytes());
    let mut key = ctx.open_write(name);
    let held = match key.holds() {
        Holds::Entry(entry) => Some(entry.meta),
        Holds::Nothing | Holds::String => None,
        Holds::Other => return Err(Error::WrongType),
    };
    if given.version.is_some_and(|version| held.is_some_and(|held| held.version > version)) {
        ctx.reply_nil();
        return Ok(());
    }
    let mono = mono_now();
    let measured = || STATE.with(|state| state.book.cost_ms(db, name.bytes(), mono));
    let cost_ms = given.cost_ms.or_else(measured).or(held.map(|held| held.cost_ms.into()));
    let meta = Meta {
        stale_ms: given.stale_ms.unwrap_or(0),
        version: given.version.unwrap_or(0),
        cost_ms: cost_ms.map_or(0, |ms| u32::try_from(ms).unwrap_or(u32::MAX)),
    };
    info::SETS.add_one();
    if is_over(ctx, fresh, meta, now) {
        keyspace::delete(ctx, &mut key, name);
    } else {
        keyspace::store(ctx, &mut key, name, value, meta, fresh);
    }
    drop(key);
    let ended = STATE.with(|state| {
        let leases = state.book.leases();
        state.book.settle(db, name.bytes(), || value.bytes().into(), mono);
        leases != state.book.leases()
    });
    if ended {
        pump::schedule(ctx);
    }
    ctx.reply_status(c"OK");
    Ok(())
}

/// True if an entry would be gone before it is stored, as `PXAT` in the past. A replica and a
/// server that loads keep it: there the deletion comes from elsewhere.
fn is_over(ctx: Ctx<'_>, fresh: FreshUntil, meta: Meta, now: UnixMillis) -> bool {
    match fresh {
        FreshUntil::At(at) if at.after(meta.stale_ms) <= now => !ctx.situation().replays(),
        _ => false,
    }
}

/// What a caller of SETSM says beside value and TTL.
#[derive(Clone, Copy, Default)]
struct Given {
    stale_ms: Option<u64>,
    version: Option<u64>,
    cost_ms: Option<u64>,
}

impl Given {
    fn parse(&mut self, args: &mut Args<'_>) -> Result<(), Error> {
        while let Some(word) = args.option() {
            match word.as_bytes() {
                b"STALE" => args.integer_once(&mut self.stale_ms, "STALE", 0, DURATION_MS_MAX)?,
                b"VERSION" => args.integer_once(&mut self.version, "VERSION", 0, u64::MAX)?,
                b"COST" => args.integer_once(&mut self.cost_ms, "COST", 0, DURATION_MS_MAX)?,
                _ => return Err(args.unknown()),
            }
        }
        Ok(())
    }
}

fn parse_fresh_until(args: &mut Args<'_>, now: UnixMillis) -> Result<FreshUntil, Error> {
    let first = args.next("ttl")?;
    match Word::new(first.bytes()).as_bytes() {
        b"PXAT" => Ok(FreshUntil::At(UnixMillis(args.integer("PXAT", 1, i64::MAX as u64 / 2)?))),
        b"PERSIST" => Ok(FreshUntil::Forever),
        _ => {
            args.back();
            args.integer("ttl", 1, DURATION_MS_MAX).map(|ttl_ms| FreshUntil::At(now.after(ttl_ms)))
        }
    }
}
