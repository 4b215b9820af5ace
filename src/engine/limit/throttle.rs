//! The question and the answer of `CL.THROTTLE`, as redis-cell understands them.
//!
//! A bucket of `max_burst + 1` units that leaks `count` units in `period` seconds: GCRA with a
//! burst of its own, on the same state as [`Algorithm::Gcra`](super::rules::Algorithm::Gcra).
//! Two things are redis-cell's way and not ours, so that both give the same integers. The emission
//! interval is cut off to whole nanoseconds. And other parameters on an existing key carry over the
//! *instant* at which the bucket will be empty, not the units in it.
//!
//! Ours and not redis-cell's: the time to the next try is rounded up, so a caller that comes back
//! then is let through; and what remains is exact at any rate (redis-cell divides microseconds that
//! were cut off, and tells more than the limit where the interval is short and the burst is large).

use super::few::Few;
use super::gcra::{Bucket, Gcra, Pace};
use super::rules::UNITS_MAX;
use super::{Limiter, Limits};
use crate::engine::time::{UnixMillis, DURATION_MS_MAX};

const NS_PER_MS: u64 = 1_000_000;
const NS_PER_S: u64 = 1_000_000_000;
/// The longest period, in seconds.
pub const PERIOD_S_MAX: u64 = DURATION_MS_MAX / 1_000;
/// The largest `max_burst`.
pub const BURST_MAX: u64 = UNITS_MAX - 1;

/// What a caller of `CL.THROTTLE` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Throttle {
    pace: Pace,
    /// Units; 0 only looks.
    pub quantity: u64,
}

/// The five integers, and whether something was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Throttled {
    /// True if the caller was refused.
    pub limited: bool,
    /// The most units at once.
    pub limit: u64,
    /// How many are left.
    pub remaining: u64,
    /// Seconds until the same call is let through, rounded up; `None` if it was, or never can be.
    pub retry_after_s: Option<u64>,
    /// Seconds until all are back, rounded up from the millisecond.
    pub reset_after_s: u64,
    /// True if the state changed.
    pub changed: bool,
}

impl Throttle {
    /// `quantity` units of a bucket of `max_burst + 1` that leaks `count` in `period_s` seconds;
    /// all at least 1 but `max_burst` and `quantity`. `None` if the bucket would take longer than
    /// the longest duration to leak empty, or leaks faster than a unit a nanosecond.
    #[must_use]
    pub fn new(max_burst: u64, count: u64, period_s: u64, quantity: u64) -> Option<Self> {
        let interval = period_s.checked_mul(NS_PER_S)?.checked_div(count).filter(|interval| *interval > 0)?;
        let pace = Pace { interval, parts: NS_PER_MS, burst: max_burst.checked_add(1)? };
        (pace.ms(pace.tolerance()) <= DURATION_MS_MAX).then_some(Self { pace, quantity })
    }

    /// The same that takes nothing.
    #[must_use]
    pub fn look(self) -> Self {
        Self { quantity: 0, ..self }
    }

    /// False if the bucket never holds so much.
    #[must_use]
    pub fn can_ever_fit(self) -> bool {
        self.quantity <= self.pace.burst
    }
}

impl Limits {
    /// Nothing taken yet, under the rule of `throttle`.
    #[must_use]
    pub fn throttled(throttle: &Throttle) -> Self {
        Self::of(Limiter::Gcra(Gcra::one(Bucket::new(throttle.pace))))
    }

    /// Asks for `throttle.quantity` units, and takes them if they are there. O(1) on the state of
    /// an earlier call.
    pub fn throttle(&mut self, throttle: &Throttle, now: UnixMillis) -> Throttled {
        let now = now.min(super::INSTANT_MAX);
        let redated = self.redate(now);
        let (reply, taken) = weigh(self.bucket_at(throttle.pace, now), throttle, now);
        if let Some(bucket) = taken {
            self.keep(bucket);
        }
        Throttled { changed: reply.changed || redated, ..reply }
    }

    /// What [`Self::throttle`] would say; changes nothing.
    #[must_use]
    pub fn foresee_throttle(&self, throttle: &Throttle, now: UnixMillis) -> Throttled {
        let now = now.min(super::INSTANT_MAX);
        let bucket = if self.is_ahead(now) {
            let mut copy = self.clone();
            copy.redate(now);
            copy.bucket_at(throttle.pace, now)
        } else {
            self.bucket_at(throttle.pace, now)
        };
        weigh(bucket, throttle, now).0
    }

    /// The bucket as it stands, or with what still counts of another.
    fn bucket_at(&self, pace: Pace, now: UnixMillis) -> Bucket {
        match &self.limiter {
            Limiter::Gcra(limiter) => match &*limiter.buckets {
                [bucket] if bucket.pace.parts == pace.parts => Bucket { pace, ..*bucket },
                _ => self.to_bucket(pace, now),
            },
            _ => self.to_bucket(pace, now),
        }
    }

    fn keep(&mut self, bucket: Bucket) {
        match &mut self.limiter {
            Limiter::Gcra(Gcra { buckets: Few::One([only]) }) if only.pace == bucket.pace => *only = bucket,
            _ => *self = Self::of(Limiter::Gcra(Gcra::one(bucket))),
        }
    }
}

/// The answer to `throttle`, and the bucket with its units in it where it is given them.
fn weigh(mut bucket: Bucket, throttle: &Throttle, now: UnixMillis) -> (Throttled, Option<Bucket>) {
    let Throttle { pace, quantity } = *throttle;
    let limited = bucket.level(now) + pace.cost(quantity) > pace.tolerance();
    let taken = !limited && quantity > 0;
    let retry_after_s = if limited { bucket.retry_ms(quantity, now).map(|ms| ms.div_ceil(1_000)) } else { None };
    if taken {
        bucket.take(quantity, now);
    }
    let reply = Throttled {
        limited,
        limit: pace.burst,
        remaining: bucket.room(now),
        retry_after_s,
        reset_after_s: seconds(bucket.level(now)),
        changed: taken,
    };
    (reply, taken.then_some(bucket))
}

/// Nanoseconds in seconds: what is less than a millisecond is cut off, the rest rounded up.
fn seconds(ns: u128) -> u64 {
    u64::try_from(ns / u128::from(NS_PER_MS)).unwrap_or(u64::MAX).div_ceil(1_000)
}
