//! FIXED: what was taken since the last multiple of the window.
//!
//! Windows are aligned to 1970-01-01 UTC, the same for all keys: one of a minute begins with each
//! minute of the clock. A window that begins with the first request was rejected: two keys, or one
//! key and a dashboard, would then disagree on when the count starts.

use super::few::Few;
use super::rules::Rule;
use super::Counter;
use crate::engine::time::UnixMillis;

/// The most units that are counted.
pub(super) const UNITS_COUNTED_MAX: u64 = u64::MAX / 2;

/// A count a rule.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Fixed {
    pub counts: Few<Count>,
    /// When something was last taken: all counts are of the windows of that time.
    pub last: UnixMillis,
}

/// What was taken in one window of a rule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Count {
    pub rule: Rule,
    /// Which window, counted from 1970.
    pub window: u64,
    pub units: u64,
}

impl Count {
    pub fn new(rule: Rule, now: UnixMillis) -> Self {
        Self { rule, window: number(rule, now), units: 0 }
    }

    /// What counts at `now`.
    pub fn units_at(&self, now: UnixMillis) -> u64 {
        if number(self.rule, now) > self.window {
            0
        } else {
            self.units
        }
    }

    /// When its window begins.
    pub fn start(&self) -> UnixMillis {
        UnixMillis(self.window.saturating_mul(self.rule.window_ms))
    }

    fn end(&self) -> UnixMillis {
        self.start().after(self.rule.window_ms)
    }
}

/// Which window of `rule` the instant `now` is in.
pub(super) fn number(rule: Rule, now: UnixMillis) -> u64 {
    now.0 / rule.window_ms.max(1)
}

impl Fixed {
    pub fn new(rules: &[Rule]) -> Self {
        let last = UnixMillis(0);
        Self { counts: rules.iter().map(|rule| Count::new(*rule, last)).collect(), last }
    }

    pub fn rules(&self) -> impl ExactSizeIterator<Item = Rule> + '_ {
        self.counts.iter().map(|count| count.rule)
    }

    pub fn take(&mut self, units: u64, now: UnixMillis) {
        for count in self.counts.iter_mut() {
            count.units = count.units_at(now).saturating_add(units).min(UNITS_COUNTED_MAX);
            count.window = number(count.rule, now);
        }
        self.last = now;
    }

    pub fn refund(&mut self, units: u64, now: UnixMillis) -> u64 {
        let mut most = 0;
        for count in self.counts.iter_mut() {
            // A window that is over keeps its count: nothing is given back out of it.
            let given = count.units_at(now).min(units);
            count.units -= given;
            most = most.max(given);
        }
        most
    }

    /// Gives back up to `units` that were taken at `taken`, in each window that is still the same.
    pub fn give_back(&mut self, units: u64, taken: UnixMillis, now: UnixMillis) -> u64 {
        let mut most = 0;
        for count in self.counts.iter_mut().filter(|count| number(count.rule, taken) == count.window) {
            let given = count.units_at(now).min(units);
            count.units -= given;
            most = most.max(given);
        }
        most
    }

    /// True if it counts in a window to come.
    pub fn is_ahead(&self, now: UnixMillis) -> bool {
        self.counts.iter().any(|count| count.window > number(count.rule, now))
    }

    /// A count of a window to come counts in the present one.
    pub fn redate(&mut self, now: UnixMillis) {
        self.counts.iter_mut().for_each(|count| count.window = number(count.rule, now));
        self.last = now;
    }

    pub fn counts_until(&self) -> Option<UnixMillis> {
        self.counts.iter().filter(|count| count.units > 0).map(Count::end).max()
    }

    pub fn heap_bytes(&self) -> usize {
        self.counts.heap_bytes()
    }
}

impl Counter for Fixed {
    fn rules(&self) -> usize {
        self.counts.len()
    }

    fn rule(&self, at: usize) -> Rule {
        self.counts.get(at).map_or(Rule::default(), |count| count.rule)
    }

    fn used(&mut self, at: usize, now: UnixMillis) -> u64 {
        self.counts.get(at).map_or(0, |count| count.units_at(now))
    }

    fn retry_ms(&self, at: usize, units: u64, now: UnixMillis) -> Option<u64> {
        let count = self.counts.get(at)?;
        (units <= count.rule.limit).then(|| count.end().since(now))
    }

    fn reset_ms(&self, at: usize, units: u64, now: UnixMillis) -> u64 {
        match self.counts.get(at) {
            Some(count) if count.units_at(now) + units > 0 => {
                Count { window: number(count.rule, now), ..*count }.end().since(now)
            }
            _ => 0,
        }
    }
}
