//! What is asked of a key's limits, and what is answered.

use crate::engine::time::DURATION_MS_MAX;

/// The most rules of one key.
pub const RULES_MAX: usize = 16;
/// The most units of a rule, and of a request.
pub const UNITS_MAX: u64 = 1_000_000_000;
/// The most units of a rule that keeps a log: a key may need up to eight bytes for each.
pub const LOGGED_UNITS_MAX: u64 = 1_000_000;

/// How what was taken is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// What was taken in the last window, to the millisecond.
    #[default]
    Sliding,
    /// What was taken since the last multiple of the window, counted from 1970.
    Fixed,
    /// A bucket of `limit` units that leaks `limit` units a window, evenly.
    Gcra,
}

/// At most `limit` units a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Units.
    pub limit: u64,
    /// Length of the window, in milliseconds.
    pub window_ms: u64,
}

/// The rules of a request: at least one, at most [`RULES_MAX`].
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How all of them count.
    pub algorithm: Algorithm,
    rules: [Rule; RULES_MAX],
    len: usize,
}

/// How much a caller wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Units; at least 1.
    pub units: u64,
    /// Whether fewer would do.
    pub amount: Amount,
}

/// Whether fewer units than asked for would do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Amount {
    /// All or none.
    #[default]
    Whole,
    /// As many as there are.
    Partial,
}

/// What a caller is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Units granted; 0: refused.
    pub allowed: u64,
    /// The limit of the rule that speaks.
    pub limit: u64,
    /// What that rule still has.
    pub remaining: u64,
    /// Milliseconds until the same request is allowed if nobody else comes; 0 if it is now, `None`
    /// if it never can be.
    pub retry_after_ms: Option<u64>,
    /// Milliseconds until that rule is whole again.
    pub reset_ms: u64,
}

/// How much of a rule is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The rule.
    pub rule: Rule,
    /// Units that count; may be more than the limit where the rules have changed.
    pub used: u64,
    /// Units that are left.
    pub remaining: u64,
    /// Milliseconds until the rule is whole again if nobody comes.
    pub reset_ms: u64,
}

impl Rule {
    /// True if a rule of `algorithm` may say this.
    #[must_use]
    pub fn is_valid(self, algorithm: Algorithm) -> bool {
        (1..=algorithm.units_max()).contains(&self.limit) && (1..=DURATION_MS_MAX).contains(&self.window_ms)
    }
}

impl Algorithm {
    /// The most units of one of its rules.
    #[must_use]
    pub fn units_max(self) -> u64 {
        match self {
            Self::Sliding => LOGGED_UNITS_MAX,
            Self::Fixed | Self::Gcra => UNITS_MAX,
        }
    }
}

impl Plan {
    /// Without rules yet.
    #[must_use]
    pub fn new(algorithm: Algorithm) -> Self {
        Self { algorithm, rules: [Rule::default(); RULES_MAX], len: 0 }
    }

    /// Adds a rule; false if there are too many.
    pub fn push(&mut self, rule: Rule) -> bool {
        let Some(place) = self.rules.get_mut(self.len) else { return false };
        *place = rule;
        self.len += 1;
        true
    }

    /// The rules, in the order in which they were given.
    #[inline]
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        self.rules.get(..self.len).unwrap_or_default()
    }
}

/// Two plans are equal if they say the same.
impl PartialEq for Plan {
    fn eq(&self, other: &Self) -> bool {
        (self.algorithm, self.rules()) == (other.algorithm, other.rules())
    }
}
