//! Changes of rate limits: store, TTL, signal, replicate the effect, notify.
//!
//! The key goes when nothing counts any more. What is replicated is what was taken and when: a log
//! is told of the taking (`AT ms` behind the caller's own words where they ask for just that), the
//! small states of the other algorithms are told whole (`STATE`), which costs the server fewer strings.

use crate::engine::rate::codec::pack;
use crate::engine::rate::rules::{Algorithm, Ask, Plan, Verdict};
use crate::engine::rate::throttle::{Throttle, Throttled};
use crate::engine::rate::{Change, Limits};
use crate::engine::time::UnixMillis;
use crate::server::error::Error;
use crate::server::ffi::context::{unix_now, Arg, Ctx, Effect};
use crate::server::ffi::entry_point::ArgVec;
use crate::server::ffi::key::{Holds, Key};

const COMMAND: &std::ffi::CStr = c"CACHE.RATELIMIT";

/// The rules of a request, and all of it as the caller wrote it, where that asks for just what it
/// is given: then `AT` behind it tells what happened.
#[derive(Clone, Copy)]
pub struct Said<'p> {
    /// The rules.
    pub plan: &'p Plan,
    /// The command.
    pub words: Option<ArgVec<'p>>,
}

/// What under a key can be weighed.
enum Found {
    Limits,
    Nothing,
}

fn found(key: &Key<'_>) -> Result<Found, Error> {
    if key.value::<Limits>().is_some() {
        return Ok(Found::Limits);
    }
    match key.holds() {
        Holds::Nothing => Ok(Found::Nothing),
        _ => Err(Error::WrongType),
    }
}

/// Weighs `ask` against what was taken from `name`, and takes what is allowed.
///
/// # Errors
/// [`Error::WrongType`].
#[inline]
pub fn decide(ctx: Ctx<'_>, name: Arg<'_>, plan: Said<'_>, ask: Ask) -> Result<Verdict, Error> {
    let now = unix_now();
    let mut key = ctx.open_write(name);
    if let Some(limits) = key.value_mut::<Limits>() {
        let decision = limits.decide(plan.plan, ask, now);
        match decision.change {
            Change::None => {}
            Change::Taken => commit(ctx, &mut key, name, Done::Taken(plan, decision.verdict.allowed, now)),
            Change::Redated => commit(ctx, &mut key, name, Done::Became),
        }
        return Ok(decision.verdict);
    }
    found(&key)?;
    let mut limits = Limits::new(plan.plan);
    let verdict = limits.decide(plan.plan, ask, now).verdict;
    if verdict.allowed > 0 {
        key.put(limits);
        commit(ctx, &mut key, name, Done::Taken(plan, verdict.allowed, now));
    }
    Ok(verdict)
}

/// What [`decide`] would say; changes nothing.
///
/// # Errors
/// [`Error::WrongType`].
pub fn foresee(ctx: Ctx<'_>, name: Arg<'_>, plan: &Plan, ask: Ask) -> Result<Verdict, Error> {
    let now = unix_now();
    let Some(key) = ctx.open_read(name) else { return Ok(Limits::new(plan).foresee(plan, ask, now)) };
    match key.value::<Limits>() {
        Some(limits) => Ok(limits.foresee(plan, ask, now)),
        None => Err(Error::WrongType),
    }
}

/// Takes `units` from `name` at `at`, asking nobody.
///
/// # Errors
/// [`Error::WrongType`].
pub fn take(ctx: Ctx<'_>, name: Arg<'_>, plan: Said<'_>, units: u64, at: UnixMillis) -> Result<(), Error> {
    let mut key = ctx.open_write(name);
    if let Found::Nothing = found(&key)? {
        key.put(Limits::new(plan.plan));
    }
    if let Some(limits) = key.value_mut::<Limits>() {
        limits.take(plan.plan, units, at);
    }
    commit(ctx, &mut key, name, Done::Taken(plan, units, at));
    Ok(())
}

/// Puts `limits` under `name`, whatever of its type is there.
///
/// # Errors
/// [`Error::WrongType`].
pub fn replace(ctx: Ctx<'_>, name: Arg<'_>, limits: Limits) -> Result<(), Error> {
    let mut key = ctx.open_write(name);
    found(&key)?;
    key.put(limits);
    commit(ctx, &mut key, name, Done::Became);
    Ok(())
}

/// Asks as `CL.THROTTLE` does, and takes what is allowed.
///
/// # Errors
/// [`Error::WrongType`].
pub fn throttle(ctx: Ctx<'_>, name: Arg<'_>, throttle: &Throttle) -> Result<Throttled, Error> {
    let now = unix_now();
    let mut key = ctx.open_write(name);
    if let Some(limits) = key.value_mut::<Limits>() {
        let answer = limits.throttle(throttle, now);
        if answer.changed {
            commit(ctx, &mut key, name, Done::Became);
        }
        return Ok(answer);
    }
    found(&key)?;
    let mut limits = Limits::throttled(throttle);
    let answer = limits.throttle(throttle, now);
    if answer.changed {
        key.put(limits);
        commit(ctx, &mut key, name, Done::Became);
    }
    Ok(answer)
}

/// Gives back up to `units` taken last from the limits under `key`; how many. A key from which
/// nothing counts any more goes.
pub fn refund(ctx: Ctx<'_>, key: &mut Key<'_>, name: Arg<'_>, units: u64, at: UnixMillis) -> u64 {
    let Some(limits) = key.value_mut::<Limits>() else { return 0 };
    let given = limits.refund(units, at);
    if given == 0 {
        return 0;
    }
    let until = limits.counts_until().filter(|until| *until > at);
    match until {
        Some(_) => key.expire_at(until),
        None => key.delete(),
    }
    ctx.signal_modified(name);
    ctx.replicate(
        c"CACHE.REFUND",
        &[Effect::Arg(name), Effect::Number(given), Effect::Word(c"AT"), Effect::Number(at.0)],
    );
    ctx.notify(c"cache.refund", name);
    if until.is_none() {
        ctx.notify_deleted(name);
    }
    given
}

/// What happened to the limits under a key.
enum Done<'p> {
    /// So many units were taken, then, under these rules.
    Taken(Said<'p>, u64, UnixMillis),
    /// They are what they are now.
    Became,
}

fn commit(ctx: Ctx<'_>, key: &mut Key<'_>, name: Arg<'_>, done: Done<'_>) {
    let Some(limits) = key.value::<Limits>() else { return };
    let until = limits.counts_until();
    let state = match done {
        Done::Taken(said, ..) if said.plan.algorithm == Algorithm::Sliding => None,
        Done::Taken(..) | Done::Became => Some(pack(limits)),
    };
    key.expire_at(until);
    ctx.signal_modified(name);
    match (state, done) {
        (Some(state), _) => ctx.replicate_state(COMMAND, name, &state),
        (None, Done::Taken(plan, units, at)) => replicate_taking(ctx, name, plan, units, at),
        (None, Done::Became) => {}
    }
    ctx.notify(c"cache.ratelimit", name);
}

fn replicate_taking(ctx: Ctx<'_>, name: Arg<'_>, said: Said<'_>, units: u64, at: UnixMillis) {
    if let Some(words) = said.words {
        ctx.replicate_at(COMMAND, words, at.0);
        return;
    }
    let mut words = vec![Effect::Arg(name)];
    for rule in said.plan.rules() {
        words.extend([Effect::Number(rule.limit), Effect::Number(rule.window_ms)]);
    }
    words.extend([Effect::Word(c"COST"), Effect::Number(units), Effect::Word(c"AT"), Effect::Number(at.0)]);
    ctx.replicate(COMMAND, &words);
}
