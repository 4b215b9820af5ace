//! `CACHE.INSPECT` and `CACHE.LEASES`: looking in, changing nothing.

use crate::engine::cache::entry::{Age, Entry};
use crate::engine::cache::leases::LeaseView;
use crate::server::args::Args;
use crate::server::cache::lookup::lookup;
use crate::server::error::Error;
use crate::server::event_loop;
use crate::server::ffi::context::{mono_now, Ctx};
use crate::server::ffi::entry_point::ArgVec;
use crate::server::state::STATE;
use crate::server::tag::index;

const COUNT_DEFAULT: u64 = 10;
const COUNT_MAX: u64 = 10_000;
/// Time for looking at keys with leases that plain commands may have ended, in microseconds.
const LOOKS_US: u64 = 1_000;

/// `CACHE.INSPECT key`
pub fn inspect(ctx: Ctx<'_>, argv: ArgVec<'_>) -> Result<(), Error> {
    let name = Args::new(argv).next("key")?;
    event_loop::recheck_key(ctx, ctx.db(), name.bytes());
    let looked_up = lookup(ctx, name)?;
    let seen = ctx.open_quietly(name).filter(|_| looked_up.is_some());
    let entry = seen.as_ref().and_then(|key| key.entry());
    let hits = entry.map_or(0, Entry::hits);
    let tags = entry.map(|entry| index::carried(ctx.db(), entry).names).unwrap_or_default();
    let (db, now) = (ctx.db(), mono_now());
    let lease = STATE.with(|state| state.leases.view(db, name.bytes(), now));

    let number = |n: u64| ctx.reply_integer(i64::try_from(n).unwrap_or(i64::MAX));
    let left = |ms: Option<u64>| ctx.reply_integer(ms.map_or(-1, |ms| i64::try_from(ms).unwrap_or(i64::MAX)));
    let age = looked_up.as_ref().map(|looked_up| looked_up.age);
    let meta = looked_up.as_ref().map(|looked_up| looked_up.meta).unwrap_or_default();
    ctx.reply_map(10);
    ctx.reply_bytes(b"state");
    ctx.reply_bytes(match age {
        Some(Age::Fresh { .. }) => b"fresh",
        Some(Age::Stale { .. }) => b"stale",
        None => b"missing",
    });
    ctx.reply_bytes(b"size");
    number(looked_up.as_ref().map_or(0, |looked_up| looked_up.value.len() as u64));
    ctx.reply_bytes(b"fresh_ms");
    left(match age {
        Some(Age::Fresh { left_ms }) => left_ms,
        Some(Age::Stale { .. }) | None => Some(0),
    });
    ctx.reply_bytes(b"stale_ms");
    left(match age {
        Some(Age::Fresh { .. }) => Some(meta.stale_ms),
        Some(Age::Stale { left_ms }) => left_ms,
        None => Some(0),
    });
    ctx.reply_bytes(b"cost_ms");
    number(meta.cost_ms.into());
    ctx.reply_bytes(b"version");
    ctx.reply_unsigned(meta.version);
    ctx.reply_bytes(b"tags");
    ctx.reply_array(tags.len());
    tags.iter().for_each(|tag| ctx.reply_bytes(tag));
    ctx.reply_bytes(b"hits");
    number(hits.into());
    ctx.reply_bytes(b"lease");
    match &lease {
        Some(lease) => reply_lease(ctx, lease),
        None => ctx.reply_nil(),
    }
    ctx.reply_bytes(b"waiters");
    number(lease.map_or(0, |lease| lease.waiters as u64));
    Ok(())
}

fn reply_lease(ctx: Ctx<'_>, lease: &LeaseView) {
    ctx.reply_map(3);
    ctx.reply_bytes(b"client");
    ctx.reply_unsigned(lease.holder.0);
    ctx.reply_bytes(b"left_ms");
    ctx.reply_unsigned(lease.left_ms);
    ctx.reply_bytes(b"bound");
    ctx.reply_integer(lease.is_bound.into());
}

/// `CACHE.LEASES [COUNT n]`
pub fn leases(ctx: Ctx<'_>, argv: ArgVec<'_>) -> Result<(), Error> {
    let mut args = Args::new(argv);
    let mut count = None;
    while let Some(word) = args.option() {
        match word.as_bytes() {
            b"COUNT" => args.integer_once(&mut count, "COUNT", 1, COUNT_MAX)?,
            _ => return Err(args.unknown()),
        }
    }
    event_loop::note_direct(ctx);
    event_loop::recheck_touched(ctx, &event_loop::Budget::of_us(LOOKS_US));
    let (count, now) = (count.unwrap_or(COUNT_DEFAULT), mono_now());
    let leases = STATE.with(|state| state.leases.views(usize::try_from(count).unwrap_or(usize::MAX), now));
    ctx.reply_array(leases.len());
    for lease in leases {
        ctx.reply_map(6);
        ctx.reply_bytes(b"key");
        ctx.reply_bytes(&lease.db_key.key);
        for (field, value) in [
            (&b"db"[..], lease.db_key.db.unsigned_abs().into()),
            (b"client", lease.holder.0),
            (b"age_ms", lease.age_ms),
            (b"left_ms", lease.left_ms),
            (b"waiters", lease.waiters as u64),
        ] {
            ctx.reply_bytes(field);
            ctx.reply_unsigned(value);
        }
    }
    Ok(())
}
