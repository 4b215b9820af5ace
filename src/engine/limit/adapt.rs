//! Other rules on a key that has been counted by some: what still counts is carried over.
//!
//! Where the new way of counting needs to know more than the old one kept, it assumes the worst:
//! that all was taken as late as it can have been. So nothing that still counts is forgotten, and
//! none of it counts for longer than one new window. A log is replayed and loses nothing. A bucket
//! that would come to hold more than it can is full.

use super::fixed::{Count, Fixed};
use super::gcra::{Bucket, Gcra, Pace};
use super::log::Log;
use super::rules::{Algorithm, Plan, Rule};
use super::sliding::Sliding;
use super::{Limiter, Limits, Mark};
use crate::engine::time::UnixMillis;

impl Limits {
    /// True if it counts by the rules of `plan`.
    #[inline]
    pub(super) fn follows(&self, plan: &Plan) -> bool {
        let rules = plan.rules();
        match (&self.limiter, plan.algorithm) {
            (Limiter::Sliding(limiter), Algorithm::Sliding) => limiter.rules().eq(rules.iter().copied()),
            (Limiter::Fixed(limiter), Algorithm::Fixed) => limiter.rules().eq(rules.iter().copied()),
            (Limiter::Gcra(limiter), Algorithm::Gcra) => {
                limiter.buckets.iter().map(|bucket| bucket.pace).eq(rules.iter().map(|rule| Pace::of(*rule)))
            }
            _ => false,
        }
    }

    /// Goes over to the rules of `plan`, unless it counts by them.
    pub(super) fn adapt(&mut self, plan: &Plan, now: UnixMillis) {
        if !self.follows(plan) {
            *self = self.adapted(plan, now);
        }
    }

    /// The same counted by the rules of `plan`. A log stays what it was, so that what was taken can
    /// be told by its time; all else counts as taken anew. O(what is held).
    pub(super) fn adapted(&self, plan: &Plan, now: UnixMillis) -> Self {
        let rules = plan.rules();
        let limiter = match plan.algorithm {
            Algorithm::Sliding => Limiter::Sliding(self.to_sliding(rules, now)),
            Algorithm::Fixed => Limiter::Fixed(self.to_fixed(rules, now)),
            Algorithm::Gcra => {
                let bucket = |rule: &Rule| self.to_bucket(Pace::of(*rule), now);
                Limiter::Gcra(Gcra { buckets: rules.iter().map(bucket).collect() })
            }
        };
        let stays = matches!((&self.limiter, &limiter), (Limiter::Sliding(_), Limiter::Sliding(_)));
        Self { limiter, mark: if stays { self.mark } else { Mark::default() } }
    }

    fn to_sliding(&self, rules: &[Rule], now: UnixMillis) -> Sliding {
        let (units, at) = match &self.limiter {
            Limiter::Sliding(limiter) => return Sliding::with_log(rules, limiter.log.clone()),
            Limiter::Fixed(limiter) => (most_units(limiter, now), limiter.last.min(now)),
            Limiter::Gcra(limiter) => (fullest(limiter, now), now),
        };
        let mut log = Log::default();
        if units > 0 {
            log.push(units, at.0);
        }
        Sliding::with_log(rules, log)
    }

    fn to_fixed(&self, rules: &[Rule], now: UnixMillis) -> Fixed {
        let last = match &self.limiter {
            Limiter::Sliding(limiter) => UnixMillis(limiter.log.last),
            Limiter::Fixed(limiter) => limiter.last,
            Limiter::Gcra(_) => now,
        };
        let count = |rule: &Rule| {
            let mut count = Count::new(*rule, now);
            count.units = match &self.limiter {
                Limiter::Sliding(limiter) => limiter.units_since(count.start(), now),
                Limiter::Fixed(limiter) => units_since(limiter, count.start()),
                Limiter::Gcra(limiter) => fullest(limiter, now),
            };
            count
        };
        Fixed { counts: rules.iter().map(count).collect(), last: last.min(now) }
    }

    /// A bucket with what still counts.
    pub(super) fn to_bucket(&self, pace: Pace, now: UnixMillis) -> Bucket {
        match &self.limiter {
            Limiter::Sliding(limiter) => replay(limiter, pace, now),
            Limiter::Fixed(limiter) => Bucket::filled(pace, pace.cost(most_units(limiter, now)), now),
            Limiter::Gcra(limiter) => pour(limiter, pace, now),
        }
    }
}

fn most_units(limiter: &Fixed, now: UnixMillis) -> u64 {
    limiter.counts.iter().map(|count| count.units_at(now)).max().unwrap_or(0)
}

fn fullest(limiter: &Gcra, now: UnixMillis) -> u64 {
    limiter.buckets.iter().map(|bucket| bucket.units(now)).max().unwrap_or(0)
}

/// The most that can have been taken since `start`: each count tells of its own window up to the
/// last taking, so the shortest that reaches back to `start` is nearest.
fn units_since(limiter: &Fixed, start: UnixMillis) -> u64 {
    if limiter.last < start {
        return 0;
    }
    let reaching = limiter.counts.iter().filter(|count| count.start() <= start).map(|count| count.units).min();
    reaching.or_else(|| limiter.counts.iter().map(|count| count.units).max()).unwrap_or(0)
}

/// What the bucket would hold, had it counted from the start.
fn replay(limiter: &Sliding, pace: Pace, now: UnixMillis) -> Bucket {
    let (mut level, mut age_ms) = (0u128, now.0.wrapping_sub(limiter.log.origin));
    for (gap_ms, units) in limiter.runs() {
        age_ms = age_ms.wrapping_sub(gap_ms);
        let leaked = u128::from(gap_ms) * u128::from(pace.parts);
        level = (level.saturating_sub(leaked) + pace.cost(units)).min(pace.tolerance());
    }
    Bucket::filled(pace, level.saturating_sub(u128::from(age_ms) * u128::from(pace.parts)), now)
}

/// The units of the buckets that leak no faster are the most that the new one can hold; where all
/// leak faster, nothing better is known than the fullest.
fn pour(limiter: &Gcra, pace: Pace, now: UnixMillis) -> Bucket {
    if let Some(same) = limiter.buckets.iter().find(|bucket| bucket.pace == pace) {
        return *same;
    }
    let slower =
        |of: Pace| u128::from(of.parts) * u128::from(pace.interval) <= u128::from(pace.parts) * u128::from(of.interval);
    let level = |bucket: &Bucket| {
        // Units times the new interval: what is in it is units times its own.
        let scaled = bucket.level(now).min(bucket.pace.tolerance()) * u128::from(pace.interval);
        scaled.div_ceil(u128::from(bucket.pace.interval.max(1)))
    };
    let bound = limiter.buckets.iter().filter(|bucket| slower(bucket.pace)).map(level).min();
    let level = bound.or_else(|| limiter.buckets.iter().map(level).max()).unwrap_or(0);
    Bucket::filled(pace, level, now)
}
