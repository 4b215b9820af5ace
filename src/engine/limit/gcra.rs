//! GCRA: the leaky bucket as one instant a rule.
//!
//! The generic cell rate algorithm (ITU-T I.371) keeps the *theoretical arrival time*: when the
//! bucket will be empty if nobody comes. A unit moves it by the emission interval, and a request
//! conforms if it then lies no more than the tolerance ahead. With an interval of `window / limit`
//! milliseconds that is a fraction, so all instants are counted in the rule's own parts of a
//! millisecond (`limit` of them): integers, and exact. Nanoseconds were rejected: 3 units a second
//! come to 999 999 999 of them.

use super::few::Few;
use super::rules::Rule;
use super::Counter;
use crate::engine::time::UnixMillis;

/// A bucket a rule.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Gcra {
    pub buckets: Few<Bucket>,
}

/// How a bucket leaks: one unit every `interval / parts` milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    /// The emission interval, in parts of a millisecond.
    pub interval: u64,
    /// How many parts a millisecond has; at least 1.
    pub parts: u64,
    /// How many units the bucket holds.
    pub burst: u64,
}

/// A bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bucket {
    pub pace: Pace,
    /// When it will be empty, in parts of a millisecond since 1970.
    pub empty_at: u128,
}

impl Pace {
    pub fn of(rule: Rule) -> Self {
        Self { interval: rule.window_ms, parts: rule.limit, burst: rule.limit }
    }

    /// How far ahead of now a full bucket's `empty_at` is.
    #[inline]
    pub fn tolerance(self) -> u128 {
        self.cost(self.burst)
    }

    #[inline]
    pub fn cost(self, units: u64) -> u128 {
        u128::from(self.interval) * u128::from(units)
    }

    #[inline]
    pub fn instant(self, at: UnixMillis) -> u128 {
        u128::from(at.0) * u128::from(self.parts)
    }

    /// Parts in milliseconds, rounded up.
    #[inline]
    pub fn ms(self, parts: u128) -> u64 {
        ceil_div(parts, self.parts.into())
    }
}

#[inline]
fn ceil_div(n: u128, by: u128) -> u64 {
    u64::try_from(div(n + by.max(1) - 1, by)).unwrap_or(u64::MAX)
}

/// Division, by the machine's own where both numbers are small, as they nearly always are.
#[inline]
fn div(n: u128, by: u128) -> u128 {
    match (u64::try_from(n), u64::try_from(by.max(1))) {
        (Ok(n), Ok(by)) => (n / by).into(),
        _ => n / by.max(1),
    }
}

impl Bucket {
    pub fn new(pace: Pace) -> Self {
        Self { pace, empty_at: 0 }
    }

    /// With so much in it at `now`, but no more than it holds.
    pub fn filled(pace: Pace, level: u128, now: UnixMillis) -> Self {
        Self { pace, empty_at: pace.instant(now) + level.min(pace.tolerance()) }
    }

    /// What is in it at `now`, in parts of a millisecond.
    #[inline]
    pub fn level(&self, now: UnixMillis) -> u128 {
        self.empty_at.saturating_sub(self.pace.instant(now))
    }

    /// The whole units that fit at `now`.
    #[inline]
    pub fn room(&self, now: UnixMillis) -> u64 {
        let free = self.pace.tolerance().saturating_sub(self.level(now));
        u64::try_from(div(free, self.pace.interval.into())).unwrap_or(u64::MAX)
    }

    /// The units in it at `now`, rounded up.
    pub fn units(&self, now: UnixMillis) -> u64 {
        ceil_div(self.level(now), self.pace.interval.into())
    }

    /// Milliseconds until `units` fit; `None`: never.
    pub fn retry_ms(&self, units: u64, now: UnixMillis) -> Option<u64> {
        let full = self.level(now) + self.pace.cost(units);
        (units <= self.pace.burst).then(|| self.pace.ms(full.saturating_sub(self.pace.tolerance())))
    }

    #[inline]
    pub fn take(&mut self, units: u64, now: UnixMillis) {
        let level = self.level(now) + self.pace.cost(units);
        *self = Self::filled(self.pace, level, now);
    }

    fn refund(&mut self, units: u64, now: UnixMillis) -> u64 {
        let given = self.units(now).min(self.pace.burst).min(units);
        self.drain(self.pace.cost(given).min(self.level(now)));
        given
    }

    /// Of units that were taken at `taken`, at least that is still in the bucket which has not
    /// leaked out of a bucket that held nothing else.
    fn give_back(&mut self, units: u64, taken: UnixMillis, now: UnixMillis) -> u64 {
        let leaked = self.pace.instant(UnixMillis(now.since(taken)));
        let left = self.pace.cost(units).saturating_sub(leaked).min(self.level(now));
        self.drain(left);
        ceil_div(left, self.pace.interval.into())
    }

    /// Takes `parts` out of it, which are in it.
    fn drain(&mut self, parts: u128) {
        self.empty_at = self.empty_at.saturating_sub(parts);
    }

    /// A bucket cannot be more than full. It seems so after a step of the clock.
    #[inline]
    fn is_ahead(&self, now: UnixMillis) -> bool {
        self.level(now) > self.pace.tolerance()
    }
}

impl Gcra {
    pub fn one(bucket: Bucket) -> Self {
        Self { buckets: Few::One([bucket]) }
    }

    pub fn new(rules: &[Rule]) -> Self {
        Self { buckets: rules.iter().map(|rule| Bucket::new(Pace::of(*rule))).collect() }
    }

    #[inline]
    pub fn take(&mut self, units: u64, now: UnixMillis) {
        self.buckets.iter_mut().for_each(|bucket| bucket.take(units, now));
    }

    pub fn refund(&mut self, units: u64, now: UnixMillis) -> u64 {
        self.buckets.iter_mut().map(|bucket| bucket.refund(units, now)).max().unwrap_or(0)
    }

    pub fn give_back(&mut self, units: u64, taken: UnixMillis, now: UnixMillis) -> u64 {
        self.buckets.iter_mut().map(|bucket| bucket.give_back(units, taken, now)).max().unwrap_or(0)
    }

    /// True if any bucket seems more than full.
    #[inline]
    pub fn is_ahead(&self, now: UnixMillis) -> bool {
        self.buckets.iter().any(|bucket| bucket.is_ahead(now))
    }

    /// Those buckets are full now.
    pub fn redate(&mut self, now: UnixMillis) {
        for bucket in self.buckets.iter_mut().filter(|bucket| bucket.is_ahead(now)) {
            *bucket = Bucket::filled(bucket.pace, u128::MAX, now);
        }
    }

    pub fn counts_until(&self) -> Option<UnixMillis> {
        let end = self.buckets.iter().map(|bucket| bucket.pace.ms(bucket.empty_at)).max()?;
        (end > 0).then_some(UnixMillis(end))
    }

    pub fn heap_bytes(&self) -> usize {
        self.buckets.heap_bytes()
    }
}

impl Counter for Gcra {
    fn rules(&self) -> usize {
        self.buckets.len()
    }

    fn limit(&self, at: usize) -> u64 {
        self.buckets.get(at).map_or(0, |bucket| bucket.pace.burst)
    }

    /// The window of a bucket is the time in which it leaks empty when it is full.
    fn rule(&self, at: usize) -> Rule {
        let rule =
            |bucket: &Bucket| Rule { limit: bucket.pace.burst, window_ms: bucket.pace.ms(bucket.pace.tolerance()) };
        self.buckets.get(at).map_or(Rule::default(), rule)
    }

    fn used(&mut self, at: usize, now: UnixMillis) -> u64 {
        self.buckets.get(at).map_or(0, |bucket| bucket.units(now))
    }

    #[inline]
    fn room(&mut self, at: usize, now: UnixMillis) -> u64 {
        self.buckets.get(at).map_or(0, |bucket| bucket.room(now))
    }

    fn retry_ms(&self, at: usize, units: u64, now: UnixMillis) -> Option<u64> {
        self.buckets.get(at)?.retry_ms(units, now)
    }

    #[inline]
    fn reset_ms(&self, at: usize, units: u64, now: UnixMillis) -> u64 {
        self.buckets.get(at).map_or(0, |bucket| bucket.pace.ms(bucket.level(now) + bucket.pace.cost(units)))
    }
}
