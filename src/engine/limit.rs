//! Rate limits: how many units a key may spend in a window, by three algorithms and several rules.
//!
//! A key holds one [`Limits`]: what was taken, as one of three meters counts it.
//!
//! ```text
//! SLIDING  a log of what was taken when        exact; memory grows with the limit
//! FIXED    a count a window, windows aligned   cheapest to explain; twice the limit around a border
//! GCRA     one instant a rule                  smallest; a full burst, then evenly spaced
//! ```
//!
//! **Decide, then take.** [`Limits::decide`] weighs a request against all rules and takes its units
//! from all of them or from none. [`Limits::take`] takes without asking, at a given time: that is
//! the effect that replicas and the AOF see, and `decide` does nothing else to the state, so both
//! end with the same bytes. What is merely derived (how far a rule has looked into the log) is
//! neither saved nor compared.
//!
//! **The clock may step.** Forward, things are over earlier than they should be; nothing can be
//! done about that. Back, what was taken seems to lie in the future, and is dated to now: nothing
//! is forgotten, and nobody is locked out for longer than one window. That is the one thing that a
//! refusal may change. Deciding against the old dates until the clock has caught up was rejected:
//! an hour's step would lock everybody out for an hour.

mod adapt;
pub mod codec;
mod few;
mod fixed;
mod gcra;
mod log;
pub mod queue;
pub mod rules;
mod sliding;
#[cfg(test)]
mod tests;
pub mod throttle;
mod varint;

use super::time::UnixMillis;
use fixed::Fixed;
use gcra::Gcra;
use rules::{Algorithm, Amount, Ask, Plan, Rule, Usage, Verdict};
use sliding::Sliding;

/// The latest instant that is counted with; a later one is taken as this.
pub const INSTANT_MAX: UnixMillis = UnixMillis(i64::MAX as u64 / 2);

/// What was taken from a key, and under which rules.
#[derive(Clone, Debug)]
pub struct Limits {
    limiter: Limiter,
    mark: Mark,
}

/// By which a value is known again as long as what was taken from it can be told from the rest: see
/// [`Limits::mark`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(pub u64);

/// Two are equal if they hold the same; by what they are known is no part of that.
impl PartialEq for Limits {
    fn eq(&self, other: &Self) -> bool {
        self.limiter == other.limiter
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Limiter {
    Sliding(Sliding),
    Fixed(Fixed),
    Gcra(Gcra),
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What the caller is told.
    pub verdict: Verdict,
    /// What has to be stored and replicated.
    pub change: Change,
}

/// How a decision changed the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Not at all.
    None,
    /// The units allowed were taken.
    Taken,
    /// Refused, but the clock had stepped back and the state was dated anew.
    Redated,
}

/// What a meter knows of each of its rules, numbered as they were given. The clock has not stepped
/// back since the meter was dated.
trait Counter {
    /// How many rules there are.
    fn rules(&self) -> usize;
    /// The rule `at`.
    fn rule(&self, at: usize) -> Rule;
    /// The most that it lets through at once.
    fn limit(&self, at: usize) -> u64 {
        self.rule(at).limit
    }
    /// Units that count now; a part of one counts as one.
    fn used(&mut self, at: usize, now: UnixMillis) -> u64;
    /// Units that it would let through now.
    fn room(&mut self, at: usize, now: UnixMillis) -> u64 {
        self.limit(at).saturating_sub(self.used(at, now))
    }
    /// Milliseconds until it has room for `units`, for which it has none now; `None`: never.
    fn retry_ms(&self, at: usize, units: u64, now: UnixMillis) -> Option<u64>;
    /// Milliseconds until all of its room is back, once `units` more are taken.
    fn reset_ms(&self, at: usize, units: u64, now: UnixMillis) -> u64;
}

macro_rules! each_meter {
    ($limits:expr, $limiter:ident => $do:expr) => {
        match $limits {
            Limiter::Sliding($limiter) => $do,
            Limiter::Fixed($limiter) => $do,
            Limiter::Gcra($limiter) => $do,
        }
    };
}

impl Limits {
    /// Nothing taken yet.
    #[must_use]
    pub fn new(plan: &Plan) -> Self {
        Self::of(match plan.algorithm {
            Algorithm::Sliding => Limiter::Sliding(Sliding::new(plan.rules())),
            Algorithm::Fixed => Limiter::Fixed(Fixed::new(plan.rules())),
            Algorithm::Gcra => Limiter::Gcra(Gcra::new(plan.rules())),
        })
    }

    fn of(limiter: Limiter) -> Self {
        Self { limiter, mark: Mark::default() }
    }

    /// Weighs `ask` against the rules of `plan` and takes what is allowed. Rules other than those
    /// of the last request replace them once something is taken under them.
    ///
    /// O(rules) amortized; a refused request of many units looks at as many entries of a log.
    pub fn decide(&mut self, plan: &Plan, ask: Ask, now: UnixMillis) -> Decision {
        let now = now.min(INSTANT_MAX);
        let redated = self.redate(now);
        let verdict = if self.follows(plan) {
            self.decide_as_is(ask, now)
        } else {
            let mut next = self.adapted(plan, now);
            let verdict = next.decide_as_is(ask, now);
            if verdict.allowed > 0 {
                *self = next;
            }
            verdict
        };
        let change = match verdict.allowed {
            0 if redated => Change::Redated,
            0 => Change::None,
            _ => Change::Taken,
        };
        Decision { verdict, change }
    }

    #[inline]
    fn decide_as_is(&mut self, ask: Ask, now: UnixMillis) -> Verdict {
        each_meter!(&mut self.limiter, limiter => {
            let verdict = weigh(limiter, ask, now);
            if verdict.allowed > 0 {
                limiter.take(verdict.allowed, now);
            }
            verdict
        })
    }

    /// What [`Self::decide`] would say. Changes nothing but how far its rules have looked: so a crowd
    /// that asks costs no copy of a long log.
    pub fn peek(&mut self, plan: &Plan, ask: Ask, now: UnixMillis) -> Verdict {
        let now = now.min(INSTANT_MAX);
        let follows = self.follows(plan);
        match (&mut self.limiter, plan.algorithm) {
            // A log that lies ahead is weighed as it will be dated: as long ago as it was at its end.
            (Limiter::Sliding(limiter), Algorithm::Sliding) => {
                let now = if limiter.is_ahead(now) { UnixMillis(limiter.log.last) } else { now };
                match follows {
                    true => weigh(limiter, ask, now),
                    false => limiter.under(plan.rules(), |limiter| weigh(limiter, ask, now)),
                }
            }
            (Limiter::Sliding(limiter), _) if !limiter.is_ahead(now) => {
                each_meter!(&mut self.adapted(plan, now).limiter, limiter => weigh(limiter, ask, now))
            }
            _ => {
                let mut copy = self.clone();
                copy.redate(now);
                copy.adapt(plan, now);
                each_meter!(&mut copy.limiter, limiter => weigh(limiter, ask, now))
            }
        }
    }

    /// Takes `units` at `at` under the rules of `plan`, asking nobody: the effect of a decision.
    pub fn take(&mut self, plan: &Plan, units: u64, at: UnixMillis) {
        let at = at.min(INSTANT_MAX);
        self.redate(at);
        self.adapt(plan, at);
        each_meter!(&mut self.limiter, limiter => limiter.take(units, at));
    }

    /// Gives back up to `units` of those that were taken last and still count at `at`; how many.
    /// With several rules, the most that any of them was given back. If it is 0, nothing changed.
    ///
    /// An `at` before the last taking is as good as that: what was taken keeps its time, so that
    /// nobody who names an hour can undo a limit. A clock that has stepped back is another matter:
    /// see [`Self::redate`].
    pub fn refund(&mut self, units: u64, at: UnixMillis) -> u64 {
        let at = at.min(INSTANT_MAX);
        each_meter!(&mut self.limiter, limiter => limiter.refund(units, at))
    }

    /// Gives back up to `units` of those that were taken at `taken` and still count at `at`,
    /// whatever was taken since; how many. If it is 0, nothing changed.
    ///
    /// A log is told just those. A count of a window and a bucket do not know who took what: there
    /// as many go as are sure to be left of them. After a step of the clock back none are.
    pub fn give_back(&mut self, units: u64, taken: UnixMillis, at: UnixMillis) -> u64 {
        let at = at.min(INSTANT_MAX);
        if taken > at || self.is_ahead(at) {
            return 0;
        }
        each_meter!(&mut self.limiter, limiter => limiter.give_back(units, taken, at))
    }

    /// The mark by which this value is known again; `next` if it has none yet. Copies have none, and
    /// it loses its own as soon as the time of what was taken is not what it was.
    pub fn mark(&mut self, next: impl FnOnce() -> Mark) -> Mark {
        if self.mark == Mark::default() {
            self.mark = next();
        }
        self.mark
    }

    /// True if it is still the value that was given `mark`.
    #[must_use]
    pub fn is_marked(&self, mark: Mark) -> bool {
        self.mark == mark
    }

    /// The same for another key.
    #[must_use]
    pub fn unmarked(&self) -> Self {
        Self { limiter: self.limiter.clone(), mark: Mark::default() }
    }

    /// How much of each rule is used at `now`, in the order of the rules.
    pub fn usage(&mut self, now: UnixMillis) -> Vec<Usage> {
        let mut now = now.min(INSTANT_MAX);
        let mut copy = match &mut self.limiter {
            Limiter::Sliding(limiter) => {
                now = if limiter.is_ahead(now) { UnixMillis(limiter.log.last) } else { now };
                return usage(limiter, now);
            }
            _ => self.clone(),
        };
        copy.redate(now);
        each_meter!(&mut copy.limiter, limiter => usage(limiter, now))
    }

    /// When nothing counts any more; `None` if nothing does now.
    #[must_use]
    pub fn counts_until(&self) -> Option<UnixMillis> {
        each_meter!(&self.limiter, limiter => limiter.counts_until()).map(|at| at.min(INSTANT_MAX))
    }

    /// How requests are counted.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        match self.limiter {
            Limiter::Sliding(_) => Algorithm::Sliding,
            Limiter::Fixed(_) => Algorithm::Fixed,
            Limiter::Gcra(_) => Algorithm::Gcra,
        }
    }

    /// How much there is to free or to copy, in bytes beside the value itself.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        each_meter!(&self.limiter, limiter => limiter.heap_bytes())
    }

    /// True if anything lies in the future of `now`.
    #[inline]
    fn is_ahead(&self, now: UnixMillis) -> bool {
        each_meter!(&self.limiter, limiter => limiter.is_ahead(now))
    }

    /// Dates what lies in the future of `now` to now; true if anything did, and then the state is
    /// another one.
    #[inline]
    pub fn redate(&mut self, now: UnixMillis) -> bool {
        let now = now.min(INSTANT_MAX);
        let is_ahead = self.is_ahead(now);
        if is_ahead {
            self.mark = Mark::default();
            each_meter!(&mut self.limiter, limiter => limiter.redate(now));
        }
        is_ahead
    }
}

fn usage(limiter: &mut impl Counter, now: UnixMillis) -> Vec<Usage> {
    let rules = 0..limiter.rules();
    let each = |at| {
        let (rule, used) = (limiter.rule(at), limiter.used(at, now));
        Usage { rule, used, remaining: limiter.room(at, now), reset_ms: limiter.reset_ms(at, 0, now) }
    };
    rules.map(each).collect()
}

/// What `ask` gets from all rules together. The tightest rule speaks: of several that refuse, the
/// one that refuses longest; of several that allow, the one with the least left, then the one that
/// takes longest to be whole again; then the first.
#[inline]
fn weigh(limiter: &mut impl Counter, ask: Ask, now: UnixMillis) -> Verdict {
    let (mut tightest, mut room) = (0, u64::MAX);
    for at in 0..limiter.rules() {
        let left = limiter.room(at, now);
        let longer = || limiter.reset_ms(at, ask.units, now) > limiter.reset_ms(tightest, ask.units, now);
        if left < room || left == room && at > 0 && longer() {
            (tightest, room) = (at, left);
        }
    }
    let allowed = match ask.amount {
        Amount::Whole if ask.units > room => 0,
        Amount::Whole => ask.units,
        Amount::Partial => ask.units.min(room),
    };
    if allowed == 0 {
        return refuse(limiter, ask, now);
    }
    Verdict {
        allowed,
        limit: limiter.limit(tightest),
        remaining: room - allowed,
        retry_after_ms: Some(0),
        reset_ms: limiter.reset_ms(tightest, allowed, now),
    }
}

#[cold]
fn refuse(limiter: &mut impl Counter, ask: Ask, now: UnixMillis) -> Verdict {
    let needed = match ask.amount {
        Amount::Whole => ask.units,
        Amount::Partial => 1,
    };
    let mut longest = Verdict { allowed: 0, limit: 0, remaining: 0, retry_after_ms: Some(0), reset_ms: 0 };
    for at in 0..limiter.rules() {
        let room = limiter.room(at, now);
        if room >= needed {
            continue;
        }
        let retry_after_ms = limiter.retry_ms(at, needed, now);
        let (this, so_far) = (retry_after_ms.unwrap_or(u64::MAX), longest.retry_after_ms.unwrap_or(u64::MAX));
        if this > so_far {
            let (limit, reset_ms) = (limiter.limit(at), limiter.reset_ms(at, 0, now));
            longest = Verdict { allowed: 0, limit, remaining: room, retry_after_ms, reset_ms };
        }
    }
    longest
}
