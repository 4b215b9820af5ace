//! SLIDING: exactly what was taken in the last window.
//!
//! All rules share one log. Each knows how far into it its own window reaches back, and the sum
//! from there on; both only move forward, so a request costs as much as what has grown old since
//! the last one. What no window reaches any more is forgotten when something is taken, and only
//! then: replicas see the takings, not the questions in between, and are to end with the same log.
//! A counter for two neighbouring windows, weighed by their overlap, was rejected: it is constant
//! in memory, and wrong whenever requests are not spread evenly.

use super::few::Few;
use super::log::Log;
use super::rules::Rule;
use super::Counter;
use crate::engine::time::UnixMillis;

/// A log, and how far into it each rule looks.
#[derive(Clone, Debug)]
pub(super) struct Sliding {
    pub log: Log,
    views: Few<View>,
    /// The latest instant at which the views were moved.
    seen: u64,
}

/// How far into the log a rule looks.
#[derive(Clone, Debug)]
struct View {
    rule: Rule,
    /// Where the oldest run in the window starts.
    start: usize,
    /// The instant of the run before that one; the log's origin if there is none.
    before: u64,
    /// The units from there on.
    units: u64,
}

/// Two are equal if they hold the same; how far their rules have looked is derived.
impl PartialEq for Sliding {
    fn eq(&self, other: &Self) -> bool {
        self.log == other.log && self.rules().eq(other.rules())
    }
}

impl View {
    /// Leaves behind what is a window old at `now`.
    #[inline]
    fn advance(&mut self, log: &Log, now: u64) {
        while let Some((run, next)) = log.run(self.start) {
            let at = self.before.wrapping_add(run.gap_ms);
            if now.wrapping_sub(at) < self.rule.window_ms {
                break;
            }
            (self.start, self.before) = (next, at);
            self.units = self.units.saturating_sub(run.units);
        }
    }
}

impl Sliding {
    pub fn new(rules: &[Rule]) -> Self {
        Self::with_log(rules, Log::default())
    }

    pub fn with_log(rules: &[Rule], log: Log) -> Self {
        let view = |rule: &Rule| View { rule: *rule, start: log.start(), before: log.origin, units: log.units };
        Self { views: rules.iter().map(view).collect(), seen: log.last, log }
    }

    pub fn rules(&self) -> impl ExactSizeIterator<Item = Rule> + '_ {
        self.views.iter().map(|view| view.rule)
    }

    /// The units taken at or after `from`, which is not after the last of them.
    pub fn units_since(&self, from: UnixMillis, now: UnixMillis) -> u64 {
        let rule = Rule { limit: 0, window_ms: now.since(from).saturating_add(1) };
        let mut view = View { rule, start: self.log.start(), before: self.log.origin, units: self.log.units };
        view.advance(&self.log, now.0);
        view.units
    }

    /// The runs as `(milliseconds since the one before, units)`, oldest first.
    pub fn runs(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let mut at = self.log.start();
        std::iter::from_fn(move || {
            let (run, next) = self.log.run(at)?;
            at = next;
            Some((run.gap_ms, run.units))
        })
    }

    pub fn take(&mut self, units: u64, now: UnixMillis) {
        self.look_from(now);
        self.views.iter_mut().for_each(|view| view.advance(&self.log, now.0));
        if let Some(widest) = self.views.iter().min_by_key(|view| view.start) {
            let moved = self.log.forget(widest.start, widest.before, widest.units);
            self.views.iter_mut().for_each(|view| view.start -= moved);
        }
        if self.log.is_empty() {
            // ORDER: an empty log begins anew with the first run.
            self.log.push(units, now.0);
            self.look_again();
            return;
        }
        let taken_before = self.log.units;
        let start = self.log.push(units, now.0);
        let taken = self.log.units - taken_before;
        let (end, last) = (self.log.end(), self.log.last);
        for view in self.views.iter_mut() {
            if view.start <= start {
                view.units += taken;
            } else {
                (view.start, view.before) = (end, last);
            }
        }
    }

    pub fn refund(&mut self, units: u64, now: UnixMillis) -> u64 {
        let now = now.max(UnixMillis(self.log.last));
        self.look_from(now);
        self.views.iter_mut().for_each(|view| view.advance(&self.log, now.0));
        let counts = self.views.iter().map(|view| view.units).max().unwrap_or(0);
        let (mut left, origin) = (units.min(counts), self.log.origin);
        let given = left;
        while left > 0 {
            let Some((popped, start)) = self.log.pop(left) else { break };
            left -= popped;
            let (end, last) = (self.log.end(), self.log.last);
            for view in self.views.iter_mut() {
                if view.start <= start {
                    view.units = view.units.saturating_sub(popped);
                } else {
                    (view.start, view.before) = (end, last);
                }
            }
        }
        if self.log.origin != origin {
            self.look_again();
        }
        given - left
    }

    /// Gives back up to `units` of those that were taken at `taken` and still count at `now`.
    pub fn give_back(&mut self, units: u64, taken: UnixMillis, now: UnixMillis) -> u64 {
        if !self.rules().any(|rule| now.since(taken) < rule.window_ms) {
            return 0;
        }
        let given = self.log.take_off(units, taken.0);
        if given > 0 {
            self.look_again();
        }
        given
    }

    /// True if the last taking lies in the future.
    #[inline]
    pub fn is_ahead(&self, now: UnixMillis) -> bool {
        now.0 < self.log.last && !self.log.is_empty()
    }

    /// The last taking was now, and all others as long before it as they were.
    pub fn redate(&mut self, now: UnixMillis) {
        self.log.redate(now.0);
        self.look_again();
    }

    /// The same log under other rules, for the time of `look`.
    pub fn under<T>(&mut self, rules: &[Rule], look: impl FnOnce(&mut Self) -> T) -> T {
        let mut other = Self::with_log(rules, std::mem::take(&mut self.log));
        let seen = look(&mut other);
        self.log = other.log;
        seen
    }

    pub fn counts_until(&self) -> Option<UnixMillis> {
        let widest_ms = self.views.iter().map(|view| view.rule.window_ms).max()?;
        (!self.log.is_empty()).then(|| UnixMillis(self.log.last).after(widest_ms))
    }

    pub fn heap_bytes(&self) -> usize {
        self.log.heap_bytes() + self.views.heap_bytes()
    }

    /// Looks from `now`, which may lie before the last look: then all over again.
    #[inline]
    fn look_from(&mut self, now: UnixMillis) {
        if now.0 < self.seen {
            self.look_again();
        }
        self.seen = now.0;
    }

    fn look_again(&mut self) {
        let (start, before, units) = (self.log.start(), self.log.origin, self.log.units);
        for view in self.views.iter_mut() {
            (view.start, view.before, view.units) = (start, before, units);
        }
        self.seen = self.log.last;
    }
}

impl Counter for Sliding {
    fn rules(&self) -> usize {
        self.views.len()
    }

    fn rule(&self, at: usize) -> Rule {
        self.views.get(at).map_or(Rule::default(), |view| view.rule)
    }

    #[inline]
    fn used(&mut self, at: usize, now: UnixMillis) -> u64 {
        self.look_from(now);
        let Some(view) = self.views.get_mut(at) else { return 0 };
        view.advance(&self.log, now.0);
        view.units
    }

    fn retry_ms(&self, at: usize, units: u64, now: UnixMillis) -> Option<u64> {
        let mut view = self.views.get(at)?.clone();
        let spare = view.rule.limit.checked_sub(units)?;
        while view.units > spare {
            let (run, next) = self.log.run(view.start)?;
            (view.start, view.before) = (next, view.before.wrapping_add(run.gap_ms));
            view.units = view.units.saturating_sub(run.units);
        }
        Some(view.before.wrapping_add(view.rule.window_ms).wrapping_sub(now.0))
    }

    fn reset_ms(&self, at: usize, units: u64, now: UnixMillis) -> u64 {
        let Some(view) = self.views.get(at) else { return 0 };
        let age_ms = if units > 0 { 0 } else { now.0.wrapping_sub(self.log.last) };
        match view.units + units {
            0 => 0,
            _ => view.rule.window_ms.saturating_sub(age_ms),
        }
    }
}
