//! Changes of rate limits: store, TTL, signal, replicate the effect, notify.
//!
//! The key goes when nothing counts any more. What is replicated is what was taken and when: a log
//! is told of the taking (`AT ms` behind the caller's own words where they ask for just that), the
//! small states of the other algorithms are told whole (`STATE`), which costs the server fewer strings.

use crate::engine::limit::codec::pack;
use crate::engine::limit::queue::Taken;
use crate::engine::limit::rules::{Algorithm, Ask, Plan, Usage, Verdict, UNITS_MAX};
use crate::engine::limit::throttle::{Throttle, Throttled};
use crate::engine::limit::{Change, Limits, Mark};
use crate::engine::time::UnixMillis;
use crate::server::error::Error;
use crate::server::ffi::context::{unix_now, Arg, Ctx, Effect};
use crate::server::ffi::entry_point::ArgVec;
use crate::server::ffi::key::{Holds, Key};
use crate::server::state::STATE;

const COMMAND: &std::ffi::CStr = c"CACHE.RATELIMIT";

/// When a state that counts nothing goes: it is in no file but one that was made by hand.
const LONG_AGO: UnixMillis = UnixMillis(1);

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
    decide_and(ctx, name, plan, ask, unix_now(), |_| {}).map(|(verdict, ())| verdict)
}

/// The same for one who waited, with what it takes to give its units back.
///
/// # Errors
/// [`Error::WrongType`].
pub fn decide_for_waiter(ctx: Ctx<'_>, name: Arg<'_>, plan: &Plan, ask: Ask) -> Result<(Verdict, Taken), Error> {
    let at = unix_now();
    let mark = |limits: &mut Limits| limits.mark(|| Mark(STATE.with(|state| state.limit_waits.next_mark())));
    let (verdict, mark) = decide_and(ctx, name, Said { plan, words: None }, ask, at, mark)?;
    Ok((verdict, Taken { units: verdict.allowed, at, mark }))
}

/// `see` sees the limits when the decision is made and nobody has been told yet.
#[inline]
fn decide_and<T>(
    ctx: Ctx<'_>,
    name: Arg<'_>,
    plan: Said<'_>,
    ask: Ask,
    now: UnixMillis,
    see: impl FnOnce(&mut Limits) -> T,
) -> Result<(Verdict, T), Error> {
    let mut key = ctx.open_write(name);
    if let Some(limits) = key.value_mut::<Limits>() {
        let decision = limits.decide(plan.plan, ask, now);
        let seen = see(limits);
        match decision.change {
            Change::None => {}
            Change::Taken => commit(ctx, key, name, Done::Taken(plan, decision.verdict.allowed, now)),
            Change::Redated => commit(ctx, key, name, Done::Became),
        }
        return Ok((decision.verdict, seen));
    }
    found(&key)?;
    let mut limits = Limits::new(plan.plan);
    let verdict = limits.decide(plan.plan, ask, now).verdict;
    let seen = see(&mut limits);
    if verdict.allowed > 0 {
        key.put(limits);
        commit(ctx, key, name, Done::Taken(plan, verdict.allowed, now));
    }
    Ok((verdict, seen))
}

/// What [`decide`] would say; changes nothing.
///
/// # Errors
/// [`Error::WrongType`].
pub fn peek(ctx: Ctx<'_>, name: Arg<'_>, plan: &Plan, ask: Ask) -> Result<Verdict, Error> {
    let now = unix_now();
    let Some(mut key) = ctx.open_read(name) else { return Ok(Limits::new(plan).peek(plan, ask, now)) };
    match key.value_mut::<Limits>() {
        Some(limits) => Ok(limits.peek(plan, ask, now)),
        None => Err(Error::WrongType),
    }
}

/// When a refusal of the first who waits for `name` is worth another look: when its units will
/// exist, or sooner if the key goes before that because somebody gave it another TTL.
#[must_use]
pub fn look_again_ms(ctx: Ctx<'_>, name: Arg<'_>, retry_ms: u64) -> u64 {
    let expires = ctx.open_quietly(name).and_then(|key| key.expires());
    // A key is there until its time has passed, so it is gone one millisecond later.
    expires.map_or(retry_ms, |at| retry_ms.min(at.since(unix_now()) + 1))
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
    commit(ctx, key, name, Done::Taken(plan, units, at));
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
    commit(ctx, key, name, Done::Became);
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
        let reply = limits.throttle(throttle, now);
        if reply.changed {
            commit(ctx, key, name, Done::Became);
        }
        return Ok(reply);
    }
    found(&key)?;
    let mut limits = Limits::throttled(throttle);
    let reply = limits.throttle(throttle, now);
    if reply.changed {
        key.put(limits);
        commit(ctx, key, name, Done::Became);
    }
    Ok(reply)
}

/// What [`throttle()`] would say; changes nothing.
///
/// # Errors
/// [`Error::WrongType`].
pub fn foresee_throttle(ctx: Ctx<'_>, name: Arg<'_>, throttle: &Throttle) -> Result<Throttled, Error> {
    let now = unix_now();
    let Some(key) = ctx.open_read(name) else { return Ok(Limits::throttled(throttle).foresee_throttle(throttle, now)) };
    match key.value::<Limits>() {
        Some(limits) => Ok(limits.foresee_throttle(throttle, now)),
        None => Err(Error::WrongType),
    }
}

/// The algorithm under `name` and how much of each of its rules is used; `None` if there is no key.
///
/// # Errors
/// [`Error::WrongType`].
pub fn describe(ctx: Ctx<'_>, name: Arg<'_>) -> Result<Option<(Algorithm, Vec<Usage>)>, Error> {
    let Some(mut key) = ctx.open_quietly(name) else { return Ok(None) };
    let limits = key.value_mut::<Limits>().ok_or(Error::WrongType)?;
    Ok(Some((limits.algorithm(), limits.usage(unix_now()))))
}

/// Which units are given back.
#[derive(Clone, Copy)]
pub enum Which {
    /// Those taken last.
    Last,
    /// Those taken then.
    TakenAt(UnixMillis),
}

/// Gives back up to `units` to `name`, as of `at` or now; how many. A key from which nothing counts
/// any more goes.
///
/// # Errors
/// [`Error::WrongType`].
pub fn refund(ctx: Ctx<'_>, name: Arg<'_>, units: u64, which: Which, at: Option<UnixMillis>) -> Result<u64, Error> {
    let (mut key, now) = (ctx.open_write(name), at.unwrap_or_else(unix_now));
    // A clock that has stepped back is told as such, so that `AT` need not say so of any client.
    if at.is_none() && key.value_mut::<Limits>().is_some_and(|limits| limits.redate(now)) {
        commit(ctx, key, name, Done::Became);
        key = ctx.open_write(name);
    }
    let Some(limits) = key.value_mut::<Limits>() else {
        return found(&key).map(|_| 0);
    };
    let (given, told) = match which {
        Which::Last => {
            let given = limits.refund(units, now);
            (given, given)
        }
        // What a bucket gave back may be less than whole units: replicas are told what was asked for.
        Which::TakenAt(taken) => (limits.give_back(units, taken, now), units),
    };
    if given > 0 {
        refunded(ctx, key, name, told, which, now);
    }
    Ok(given)
}

/// Gives back what `taken` tells, if the key still holds the value it was taken from; whether
/// anything was.
pub fn give_back(ctx: Ctx<'_>, name: Arg<'_>, taken: Taken) -> bool {
    let (at, units) = (unix_now(), taken.units.min(UNITS_MAX));
    let mut key = ctx.open_write(name);
    let given = key
        .value_mut::<Limits>()
        .filter(|limits| limits.is_marked(taken.mark))
        .map_or(0, |limits| limits.give_back(units, taken.at, at));
    if given > 0 {
        refunded(ctx, key, name, units, Which::TakenAt(taken.at), at);
    }
    given > 0
}

/// Units were given back to the limits under `key`.
fn refunded(ctx: Ctx<'_>, mut key: Key<'_>, name: Arg<'_>, units: u64, which: Which, at: UnixMillis) {
    let counts_until = key.value::<Limits>().and_then(Limits::counts_until);
    let until = counts_until.filter(|until| *until > at);
    match until {
        Some(_) => key.expire_at(until),
        None => key.delete(),
    }
    drop(key);
    let mut words = vec![Effect::Arg(name), Effect::Number(units), Effect::Word(c"AT"), Effect::Number(at.0)];
    if let Which::TakenAt(taken) = which {
        words.extend([Effect::Word(c"TAKEN"), Effect::Number(taken.0)]);
    }
    // ORDER: as in `commit`.
    ctx.replicate(c"CACHE.REFUND", &words);
    ctx.signal_modified(name);
    ctx.notify(c"cache.refund", name);
    if until.is_none() {
        ctx.notify_deleted(name);
    }
}

/// What happened to the limits under a key.
enum Done<'p> {
    /// So many units were taken, then, under these rules.
    Taken(Said<'p>, u64, UnixMillis),
    /// They are what they are now.
    Became,
}

/// Consumes the key: the server may look it up, and expire it, in each of the calls that tell of the
/// change.
fn commit(ctx: Ctx<'_>, mut key: Key<'_>, name: Arg<'_>, done: Done<'_>) {
    let Some(limits) = key.value::<Limits>() else { return };
    let until = limits.counts_until().unwrap_or(LONG_AGO);
    let state = match done {
        Done::Taken(said, ..) if said.plan.algorithm == Algorithm::Sliding => None,
        Done::Taken(..) | Done::Became => Some(pack(limits)),
    };
    key.expire_at(Some(until));
    drop(key);
    // ORDER: where signalling removes a key whose time is over (Redis 8.6), its deletion follows the change.
    match (state, done) {
        (Some(state), _) => ctx.replicate_state(COMMAND, name, &state),
        (None, Done::Taken(plan, units, at)) => replicate_taking(ctx, name, plan, units, at),
        (None, Done::Became) => {}
    }
    ctx.signal_modified(name);
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
