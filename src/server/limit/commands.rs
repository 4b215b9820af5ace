//! `CACHE.RATELIMIT`, its read-only twin, `CACHE.REFUND` and `CACHE.LIMITINFO`: limits of how much may
//! be done in a time.

use crate::engine::id::DbKey;
use crate::engine::limit::codec::unpack;
use crate::engine::limit::queue::Waiter;
use crate::engine::limit::rules::{Algorithm, Amount, Ask, Plan, Rule, Verdict, RULES_MAX, UNITS_MAX};
use crate::engine::limit::INSTANT_MAX;
use crate::engine::time::{UnixMillis, DURATION_MS_MAX};
use crate::server::args::{Args, Word};
use crate::server::error::Error;
use crate::server::ffi::context::{mono_now, Arg, Ctx};
use crate::server::ffi::entry_point::ArgVec;
use crate::server::limit::commit;
use crate::server::limit::commit::{Said, Which};
use crate::server::limit::wait;
use crate::server::limit::wait::LimitReply;
use crate::server::state::STATE;
use crate::server::{config, info};

/// What a caller asks for beside the key.
struct Terms {
    plan: Plan,
    ask: Ask,
    mode: Mode,
}

/// What is to be done.
#[derive(Clone, Copy)]
enum Mode {
    /// Decide, and wait for so many milliseconds.
    Decide(Option<u64>),
    /// Say what the decision would be.
    Peek,
    /// Take, asking nobody.
    Take(UnixMillis),
}

/// Which command is parsed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// The one that takes.
    Full,
    /// The one that only looks, and so knows neither `WAIT` nor `AT`.
    ReadOnly,
}

impl Terms {
    fn parse(args: &mut Args<'_>, form: Form) -> Result<Self, Error> {
        let mut plan = Plan::new(Algorithm::default());
        loop {
            let limit = args.integer("limit", 1, UNITS_MAX)?;
            let rule = Rule { limit, window_ms: args.integer("window", 1, DURATION_MS_MAX)? };
            if !plan.push(rule) {
                return Err(Error::TooMany { what: "rules", most: RULES_MAX });
            }
            if !args.peek("limit").is_ok_and(|next| starts_a_number(next)) {
                break;
            }
        }
        let (mut cost, mut algorithm, mut wait_ms, mut at) = (None, None, None, None);
        let (mut amount, mut peek) = (Amount::Whole, false);
        while let Some(word) = args.option() {
            match word.as_bytes() {
                b"COST" => args.integer_once(&mut cost, "COST", 1, UNITS_MAX)?,
                b"ALGORITHM" => args.once(&mut algorithm, "ALGORITHM")?,
                b"WAIT" if form == Form::Full => args.integer_once(&mut wait_ms, "WAIT", 0, DURATION_MS_MAX)?,
                b"AT" if form == Form::Full => args.integer_once(&mut at, "AT", 1, INSTANT_MAX.0)?,
                b"PEEK" if !peek => peek = true,
                b"PEEK" => return Err(Error::Repeated("PEEK")),
                b"PARTIAL" if amount == Amount::Whole => amount = Amount::Partial,
                b"PARTIAL" => return Err(Error::Repeated("PARTIAL")),
                _ => return Err(args.unknown()),
            }
        }
        if let Some(name) = algorithm {
            plan.algorithm = parse_algorithm(name)?;
        }
        let units_max = plan.algorithm.units_max();
        if plan.rules().iter().any(|rule| rule.limit > units_max) {
            return Err(Error::NotInteger { name: "limit", min: 1, max: units_max });
        }
        let mode = match (at, peek, wait_ms) {
            (Some(_), true, _) => return Err(Error::Contradiction("AT", "PEEK")),
            (Some(_), _, Some(_)) => return Err(Error::Contradiction("AT", "WAIT")),
            (Some(_), ..) if amount == Amount::Partial => return Err(Error::Contradiction("AT", "PARTIAL")),
            (None, true, Some(_)) => return Err(Error::Contradiction("PEEK", "WAIT")),
            (Some(at), false, None) => Mode::Take(UnixMillis(at)),
            (None, true, None) => Mode::Peek,
            (None, false, wait_ms) => Mode::Decide(wait_ms),
        };
        Ok(Self { plan, ask: Ask { units: cost.unwrap_or(1), amount }, mode })
    }
}

/// True for what can only be meant as a number: options begin with a letter.
fn starts_a_number(arg: Arg<'_>) -> bool {
    arg.bytes().first().is_none_or(|byte| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.'))
}

fn parse_algorithm(name: Arg<'_>) -> Result<Algorithm, Error> {
    match Word::new(name.bytes()).as_bytes() {
        b"SLIDING" => Ok(Algorithm::Sliding),
        b"FIXED" => Ok(Algorithm::Fixed),
        b"GCRA" => Ok(Algorithm::Gcra),
        _ => Err(Error::NotOneOf { name: "ALGORITHM", words: "SLIDING, FIXED or GCRA" }),
    }
}

/// `CACHE.RATELIMIT key limit window [limit window ...] [COST n] [ALGORITHM SLIDING|FIXED|GCRA]
/// [PEEK] [PARTIAL] [WAIT ms] [AT unix-ms]`, or `CACHE.RATELIMIT key STATE payload`
pub fn ratelimit(ctx: Ctx<'_>, argv: ArgVec<'_>) -> Result<(), Error> {
    let mut args = Args::new(argv);
    let name = args.next("key")?;
    if args.peek("limit").is_ok_and(|next| Word::new(next.bytes()).as_bytes() == b"STATE") {
        return restore(ctx, name, &mut args);
    }
    let Terms { plan, ask, mode } = Terms::parse(&mut args, Form::Full)?;
    let plainly = matches!(mode, Mode::Decide(None)) && ask.amount == Amount::Whole;
    let said = Said { plan: &plan, words: plainly.then_some(argv) };
    let ahead_ms = wait::line_ahead_ms(ctx.db(), name.bytes());
    let verdict = match (mode, ahead_ms) {
        (Mode::Take(at), _) => {
            commit::take(ctx, name, said, ask.units, at)?;
            ctx.reply_status(c"OK");
            return Ok(());
        }
        (Mode::Peek, None) => commit::peek(ctx, name, &plan, ask)?,
        (Mode::Decide(_), None) => commit::decide(ctx, name, said, ask)?,
        (Mode::Peek | Mode::Decide(_), Some(ahead_ms)) => wait::behind(commit::peek(ctx, name, &plan, ask)?, ahead_ms),
    };
    if let (Mode::Decide(Some(wait_ms @ 1..)), 0, Some(retry_ms)) = (mode, verdict.allowed, verdict.retry_after_ms) {
        let waiting = STATE.with(|state| state.waiting());
        if waiting < config::max_waiters() && !ctx.is_nested(ctx.situation()) {
            let db_key = DbKey { db: ctx.db(), key: name.bytes().into() };
            let since = mono_now();
            let waiter = Waiter { db_key, plan, ask, since, deadline: since.after(wait_ms) };
            let look_ms = commit::look_again_ms(ctx, name, retry_ms);
            return wait::block(ctx, waiter, look_ms, tell);
        }
    }
    if !matches!(mode, Mode::Peek) {
        count(&verdict);
    }
    reply(ctx, &verdict);
    Ok(())
}

/// `CACHE.RATELIMIT_RO key limit window [limit window ...] [COST n] [ALGORITHM SLIDING|FIXED|GCRA]
/// [PARTIAL] [PEEK]`: what `CACHE.RATELIMIT … PEEK` says, where nothing may be written.
pub fn ratelimit_ro(ctx: Ctx<'_>, argv: ArgVec<'_>) -> Result<(), Error> {
    let mut args = Args::new(argv);
    let name = args.next("key")?;
    let Terms { plan, ask, .. } = Terms::parse(&mut args, Form::ReadOnly)?;
    let verdict = commit::peek(ctx, name, &plan, ask)?;
    let verdict = match wait::line_ahead_ms(ctx.db(), name.bytes()) {
        Some(ahead_ms) => wait::behind(verdict, ahead_ms),
        None => verdict,
    };
    reply(ctx, &verdict);
    Ok(())
}

/// Answers one that waited.
fn tell(ctx: Ctx<'_>, _argv: ArgVec<'_>, paced: &LimitReply) -> Result<(), Error> {
    let verdict = paced.verdict()?;
    count(&verdict);
    reply(ctx, &verdict);
    Ok(())
}

#[inline]
fn count(verdict: &Verdict) {
    if verdict.allowed > 0 {
        info::LIMITS_ALLOWED.add_one();
    } else {
        info::LIMITS_REFUSED.add_one();
    }
}

#[inline]
fn reply(ctx: Ctx<'_>, verdict: &Verdict) {
    let integer = |n: u64| ctx.reply_integer(i64::try_from(n).unwrap_or(i64::MAX));
    ctx.reply_array(5);
    integer(verdict.allowed);
    integer(verdict.limit);
    integer(verdict.remaining);
    match verdict.retry_after_ms {
        Some(ms) => integer(ms),
        None => ctx.reply_integer(-1),
    }
    integer(verdict.reset_ms);
}

/// `CACHE.RATELIMIT key STATE payload`: what an AOF and replicas are told.
fn restore(ctx: Ctx<'_>, name: Arg<'_>, args: &mut Args<'_>) -> Result<(), Error> {
    args.next("STATE")?;
    let payload = args.next("payload")?;
    if args.option().is_some() {
        return Err(args.unknown());
    }
    let limits = unpack(payload.bytes()).map_err(|_| Error::BadPayload)?;
    commit::replace(ctx, name, limits)?;
    wait::wake(ctx, ctx.db(), name.bytes());
    ctx.reply_status(c"OK");
    Ok(())
}

/// `CACHE.REFUND key n [AT unix-ms] [TAKEN unix-ms]`
pub fn refund(ctx: Ctx<'_>, argv: ArgVec<'_>) -> Result<(), Error> {
    let mut args = Args::new(argv);
    let name = args.next("key")?;
    let units = args.integer("units", 1, UNITS_MAX)?;
    let (mut at, mut taken) = (None, None);
    while let Some(word) = args.option() {
        match word.as_bytes() {
            b"AT" => args.integer_once(&mut at, "AT", 1, INSTANT_MAX.0)?,
            b"TAKEN" => args.integer_once(&mut taken, "TAKEN", 1, INSTANT_MAX.0)?,
            _ => return Err(args.unknown()),
        }
    }
    let which = taken.map_or(Which::Last, |taken| Which::TakenAt(UnixMillis(taken)));
    let given = commit::refund(ctx, name, units, which, at.map(UnixMillis))?;
    if given > 0 {
        wait::wake(ctx, ctx.db(), name.bytes());
    }
    ctx.reply_integer(i64::try_from(given).unwrap_or(i64::MAX));
    Ok(())
}

/// `CACHE.LIMITINFO key`
pub fn limitinfo(ctx: Ctx<'_>, argv: ArgVec<'_>) -> Result<(), Error> {
    let name = Args::new(argv).next("key")?;
    let found = commit::describe(ctx, name)?;
    let line = STATE.with(|state| state.limit_waits.lines.view(ctx.db(), name.bytes(), mono_now()));
    ctx.reply_map(4);
    ctx.reply_bytes(b"algorithm");
    match &found {
        None => ctx.reply_nil(),
        Some((Algorithm::Sliding, _)) => ctx.reply_bytes(b"sliding"),
        Some((Algorithm::Fixed, _)) => ctx.reply_bytes(b"fixed"),
        Some((Algorithm::Gcra, _)) => ctx.reply_bytes(b"gcra"),
    }
    let rules = found.map(|(_, rules)| rules).unwrap_or_default();
    ctx.reply_bytes(b"rules");
    ctx.reply_array(rules.len());
    for usage in rules {
        let fields: [(&[u8], u64); 5] = [
            (b"limit", usage.rule.limit),
            (b"window", usage.rule.window_ms),
            (b"used", usage.used),
            (b"remaining", usage.remaining),
            (b"reset_ms", usage.reset_ms),
        ];
        ctx.reply_map(fields.len());
        for (field, number) in fields {
            ctx.reply_bytes(field);
            ctx.reply_unsigned(number);
        }
    }
    ctx.reply_bytes(b"waiting");
    ctx.reply_unsigned(line.waiters as u64);
    ctx.reply_bytes(b"oldest_wait_ms");
    ctx.reply_unsigned(line.oldest_ms);
    Ok(())
}
