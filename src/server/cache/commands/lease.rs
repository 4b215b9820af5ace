//! `CACHE.RENEW`, `CACHE.RELEASE` and `CACHE.FAIL`: what the holder of a lease may do with it.

use crate::engine::cache::leases::{Leases, Token};
use crate::engine::time::{MonoMillis, DURATION_MS_MAX};
use crate::server::args::Args;
use crate::server::error::Error;
use crate::server::ffi::context::{mono_now, Arg, Ctx};
use crate::server::ffi::entry_point::ArgVec;
use crate::server::state::STATE;
use crate::server::{config, event_loop};

/// The longest `MESSAGE`, in bytes: it is kept for as long as nobody may retry.
const MESSAGE_BYTES_MAX: usize = 1_024;

/// `CACHE.RENEW key token ms`
pub fn renew(ctx: Ctx<'_>, argv: ArgVec<'_>) -> Result<(), Error> {
    let mut args = Args::new(argv);
    let (name, token) = (args.next("key")?, args.next("token")?);
    let ms = args.integer("ms", 1, DURATION_MS_MAX)?;
    with_lease(ctx, name, token, |leases, db, token, now| leases.renew(db, name.bytes(), token, ms, now));
    Ok(())
}

/// `CACHE.RELEASE key token`
pub fn release(ctx: Ctx<'_>, argv: ArgVec<'_>) -> Result<(), Error> {
    let mut args = Args::new(argv);
    let (name, token) = (args.next("key")?, args.next("token")?);
    with_lease(ctx, name, token, |leases, db, token, now| leases.release(db, name.bytes(), token, now));
    Ok(())
}

/// `CACHE.FAIL key token [RETRY ms] [MESSAGE text]`
pub fn fail(ctx: Ctx<'_>, argv: ArgVec<'_>) -> Result<(), Error> {
    let mut args = Args::new(argv);
    let (name, token) = (args.next("key")?, args.next("token")?);
    let (mut retry_ms, mut message) = (None, None);
    while let Some(word) = args.option() {
        match word.as_bytes() {
            b"RETRY" => args.integer_once(&mut retry_ms, "RETRY", 1, DURATION_MS_MAX)?,
            b"MESSAGE" => args.once(&mut message, "MESSAGE")?,
            _ => return Err(args.unknown()),
        }
    }
    let retry_ms = retry_ms.unwrap_or_else(|| config::RETRY_MS.get());
    let message = message.map_or(&b"the origin failed"[..], Arg::bytes);
    if message.len() > MESSAGE_BYTES_MAX {
        return Err(Error::TooLong { name: "MESSAGE", bytes_max: MESSAGE_BYTES_MAX });
    }
    with_lease(ctx, name, token, |leases, db, token, now| {
        leases.fail(db, name.bytes(), token, retry_ms, message.into(), now)
    });
    Ok(())
}

/// Lets the holder act, and answers 1 if it was the holder, else 0.
fn with_lease(
    ctx: Ctx<'_>,
    name: Arg<'_>,
    token: Arg<'_>,
    act: impl FnOnce(&mut Leases, i32, Token, MonoMillis) -> bool,
) {
    let db = ctx.db();
    event_loop::recheck_key(ctx, db, name.bytes());
    let now = mono_now();
    let held =
        Token::parse(token.bytes()).is_some_and(|token| STATE.with(|state| act(&mut state.leases, db, token, now)));
    event_loop::schedule(ctx);
    ctx.reply_integer(held.into());
}
