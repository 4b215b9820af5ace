//! `CL.THROTTLE`: the command of redis-cell, for clients that call it already.

use crate::engine::limit::rules::UNITS_MAX;
use crate::engine::limit::throttle::{Throttle, Throttled, BURST_MAX, PERIOD_S_MAX};
use crate::engine::time::DURATION_MS_MAX;
use crate::server::args::Args;
use crate::server::error::Error;
use crate::server::ffi::context::{Arg, Ctx};
use crate::server::ffi::entry_point::ArgVec;
use crate::server::info;
use crate::server::limit::commit;
use crate::server::limit::wait;

/// `CL.THROTTLE key max_burst count period [quantity]`
pub fn throttle(ctx: Ctx<'_>, argv: ArgVec<'_>) -> Result<(), Error> {
    let mut args = Args::new(argv);
    let name = args.next("key")?;
    let max_burst = args.integer("max_burst", 0, BURST_MAX)?;
    let count = args.integer("count", 1, UNITS_MAX)?;
    let period_s = args.integer("period", 1, PERIOD_S_MAX)?;
    let quantity = if argv.len() > 5 { args.integer("quantity", 0, UNITS_MAX)? } else { 1 };
    if args.option().is_some() {
        return Err(args.unknown());
    }
    let too_slow = Error::TooLate { what: "max_burst at this rate", ms_max: DURATION_MS_MAX };
    let throttle = Throttle::new(max_burst, count, period_s, quantity).ok_or(too_slow)?;
    let reply = match wait::line_ahead_ms(ctx.db(), name.bytes()) {
        _ if quantity == 0 => commit::foresee_throttle(ctx, name, &throttle)?,
        Some(ahead_ms) => behind(ctx, name, &throttle, ahead_ms)?,
        None => commit::throttle(ctx, name, &throttle)?,
    };
    if reply.limited {
        info::LIMITS_REFUSED.add_one();
    } else if quantity > 0 {
        info::LIMITS_ALLOWED.add_one();
    }
    let integer = |n: u64| ctx.reply_integer(i64::try_from(n).unwrap_or(i64::MAX));
    ctx.reply_array(5);
    ctx.reply_integer(reply.limited.into());
    integer(reply.limit);
    integer(reply.remaining);
    match reply.retry_after_s {
        Some(seconds) => integer(seconds),
        None => ctx.reply_integer(-1),
    }
    integer(reply.reset_after_s);
    Ok(())
}

/// Others wait for units of the key: the caller may not go before them.
fn behind(ctx: Ctx<'_>, name: Arg<'_>, throttle: &Throttle, ahead_ms: u64) -> Result<Throttled, Error> {
    let look = commit::foresee_throttle(ctx, name, &throttle.look())?;
    let alone = commit::foresee_throttle(ctx, name, throttle)?;
    let in_line_s = ahead_ms.div_ceil(1_000).max(1);
    let retry_after_s = throttle.can_ever_fit().then(|| in_line_s.max(alone.retry_after_s.unwrap_or(0)));
    Ok(Throttled { limited: true, retry_after_s, ..look })
}
