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
use super::{Limits, Mark, Meter};
use crate::engine::time::UnixMillis;

impl Limits {
    /// True if it counts by the rules of `plan`.
    #[inline]
    pub(super) fn follows(&self, plan: &Plan) -> bool {
        let rules = plan.rules();
        match (&self.meter, plan.algorithm) {
            (Meter::Sliding(meter), Algorithm::Sliding) => meter.rules().eq(rules.iter().copied()),
            (Meter::Fixed(meter), Algorithm::Fixed) => meter.rules().eq(rules.iter().copied()),
            (Meter::Gcra(meter), Algorithm::Gcra) => {
                meter.buckets.iter().map(|bucket| bucket.pace).eq(rules.iter().map(|rule| Pace::of(*rule)))
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
        let meter = match plan.algorithm {
            Algorithm::Sliding => Meter::Sliding(self.to_sliding(rules, now)),
            Algorithm::Fixed => Meter::Fixed(self.to_fixed(rules, now)),
            Algorithm::Gcra => {
                let bucket = |rule: &Rule| self.to_bucket(Pace::of(*rule), now);
                Meter::Gcra(Gcra { buckets: rules.iter().map(bucket).collect() })
            }
        };
        let stays = matches!((&self.meter, &meter), (Meter::Sliding(_), Meter::Sliding(_)));
        Self { meter, mark: if stays { self.mark } else { Mark::default() } }
    }

    fn to_sliding(&self, rules: &[Rule], now: UnixMillis) -> Sliding {
        let (units, at) = match &self.meter {
            Meter::Sliding(meter) => return Sliding::with_log(rules, meter.log.clone()),
            Meter::Fixed(meter) => (most_units(meter, now), meter.last.min(now)),
            Meter::Gcra(meter) => (fullest(meter, now), now),
        };
        let mut log = Log::default();
        if units > 0 {
            log.push(units, at.0);
        }
        Sliding::with_log(rules, log)
    }

    fn to_fixed(&self, rules: &[Rule], now: UnixMillis) -> Fixed {
        let last = match &self.meter {
            Meter::Sliding(meter) => UnixMillis(meter.log.last),
            Meter::Fixed(meter) => meter.last,
            Meter::Gcra(_) => now,
        };
        let count = |rule: &Rule| {
            let mut count = Count::new(*rule, now);
            count.units = match &self.meter {
                Meter::Sliding(meter) => meter.units_since(count.start(), now),
                Meter::Fixed(meter) => units_since(meter, count.start()),
                Meter::Gcra(meter) => fullest(meter, now),
            };
            count
        };
        Fixed { counts: rules.iter().map(count).collect(), last: last.min(now) }
    }

    /// A bucket with what still counts.
    pub(super) fn to_bucket(&self, pace: Pace, now: UnixMillis) -> Bucket {
        match &self.meter {
            Meter::Sliding(meter) => replay(meter, pace, now),
            Meter::Fixed(meter) => Bucket::filled(pace, pace.cost(most_units(meter, now)), now),
            Meter::Gcra(meter) => pour(meter, pace, now),
        }
    }
}

fn most_units(meter: &Fixed, now: UnixMillis) -> u64 {
    meter.counts.iter().map(|count| count.units_at(now)).max().unwrap_or(0)
}

fn fullest(meter: &Gcra, now: UnixMillis) -> u64 {
    meter.buckets.iter().map(|bucket| bucket.units(now)).max().unwrap_or(0)
}

/// The most that can have been taken since `start`: each count tells of its own window up to the
/// last taking, so the shortest that reaches back to `start` is nearest.
fn units_since(meter: &Fixed, start: UnixMillis) -> u64 {
    if meter.last < start {
        return 0;
    }
    let reaching = meter.counts.iter().filter(|count| count.start() <= start).map(|count| count.units).min();
    reaching.or_else(|| meter.counts.iter().map(|count| count.units).max()).unwrap_or(0)
}

/// What the bucket would hold, had it counted from the start.
fn replay(meter: &Sliding, pace: Pace, now: UnixMillis) -> Bucket {
    let (mut level, mut age_ms) = (0u128, now.0.wrapping_sub(meter.log.origin));
    for (gap_ms, units) in meter.runs() {
        age_ms = age_ms.wrapping_sub(gap_ms);
        let leaked = u128::from(gap_ms) * u128::from(pace.parts);
        level = (level.saturating_sub(leaked) + pace.cost(units)).min(pace.tolerance());
    }
    Bucket::filled(pace, level.saturating_sub(u128::from(age_ms) * u128::from(pace.parts)), now)
}

/// The units of the buckets that leak no faster are the most that the new one can hold; where all
/// leak faster, nothing better is known than the fullest.
fn pour(meter: &Gcra, pace: Pace, now: UnixMillis) -> Bucket {
    if let Some(same) = meter.buckets.iter().find(|bucket| bucket.pace == pace) {
        return *same;
    }
    let slower =
        |of: Pace| u128::from(of.parts) * u128::from(pace.interval) <= u128::from(pace.parts) * u128::from(of.interval);
    let level = |bucket: &Bucket| {
        // Units times the new interval: what is in it is units times its own.
        let scaled = bucket.level(now).min(bucket.pace.tolerance()) * u128::from(pace.interval);
        scaled.div_ceil(u128::from(bucket.pace.interval.max(1)))
    };
    let bound = meter.buckets.iter().filter(|bucket| slower(bucket.pace)).map(level).min();
    let level = bound.or_else(|| meter.buckets.iter().map(level).max()).unwrap_or(0);
    Bucket::filled(pace, level, now)
}
