//! How the limits of a key are written and read back.
//!
//! One layout, three uses: the RDB stream, the digest, and the payload of `STATE`, by which an AOF
//! rewrite makes the key anew. A payload is untrusted: reading never panics, checks every range,
//! and takes nothing that no writer produces. What it takes can be written and read again, whatever
//! commands change it in between.
//!
//! Layout of encoding version 1: algorithm, number of rules, then
//! - sliding: `limit`, `window_ms` for each rule; the instant of the last run; the log's bytes
//! - fixed: `limit`, `window_ms`, window, units for each rule; the instant of the last taking
//! - GCRA: interval, parts, burst, and the upper and lower half of `empty_at` for each rule

use super::few::Few;
use super::fixed::{number, Count, Fixed, UNITS_COUNTED_MAX};
use super::gcra::{Bucket, Gcra, Pace};
use super::log::Log;
use super::rules::{Algorithm, Rule, RULES_MAX, UNITS_MAX};
use super::sliding::Sliding;
use super::{varint, Limiter, Limits, INSTANT_MAX};
use crate::engine::codec::{Corrupt, Sink, Source};
use crate::engine::time::{UnixMillis, DURATION_MS_MAX};

/// The encoding version written by this release; a reader refuses any other.
pub const ENCODING_VERSION: i32 = 1;

const SLIDING: u64 = 0;
const FIXED: u64 = 1;
const GCRA: u64 = 2;
/// No bucket takes longer than this to leak empty, in parts of a millisecond.
const TOLERANCE_MAX: u128 = DURATION_MS_MAX as u128 * UNITS_MAX as u128;

/// Writes `limits`. O(what is held).
pub fn encode(limits: &Limits, sink: &mut impl Sink) {
    match &limits.limiter {
        Limiter::Sliding(limiter) => {
            begin(sink, SLIDING, limiter.rules().len());
            limiter.rules().for_each(|rule| put_rule(sink, rule));
            sink.put_unsigned(limiter.log.last);
            sink.put_bytes(limiter.log.bytes());
        }
        Limiter::Fixed(limiter) => {
            begin(sink, FIXED, limiter.counts.len());
            for count in limiter.counts.iter() {
                put_rule(sink, count.rule);
                sink.put_unsigned(count.window);
                sink.put_unsigned(count.units);
            }
            sink.put_unsigned(limiter.last.0);
        }
        Limiter::Gcra(limiter) => {
            begin(sink, GCRA, limiter.buckets.len());
            for Bucket { pace, empty_at } in limiter.buckets.iter() {
                let halves = [(empty_at >> 64) as u64, *empty_at as u64];
                [pace.interval, pace.parts, pace.burst].iter().chain(&halves).for_each(|n| sink.put_unsigned(*n));
            }
        }
    }
}

fn begin(sink: &mut impl Sink, algorithm: u64, rules: usize) {
    sink.put_unsigned(algorithm);
    sink.put_unsigned(rules as u64);
}

fn put_rule(sink: &mut impl Sink, rule: Rule) {
    sink.put_unsigned(rule.limit);
    sink.put_unsigned(rule.window_ms);
}

/// Reads what [`encode`] wrote with `version`.
///
/// # Errors
/// [`Corrupt`], whatever the input; it never panics.
pub fn decode(version: i32, source: &mut impl Source) -> Result<Limits, Corrupt> {
    if version != ENCODING_VERSION {
        return Err(Corrupt::FutureVersion);
    }
    let algorithm = take(source)?;
    let rules = take_within(source, 1, RULES_MAX as u64)? as usize;
    let limiter = match algorithm {
        SLIDING => Limiter::Sliding(take_sliding(source, rules)?),
        FIXED => Limiter::Fixed(take_fixed(source, rules)?),
        GCRA => Limiter::Gcra(Gcra { buckets: take_all(rules, || take_bucket(source))? }),
        _ => return Err(Corrupt::OutOfRange),
    };
    Ok(Limits::of(limiter))
}

fn take(source: &mut impl Source) -> Result<u64, Corrupt> {
    source.take_unsigned().ok_or(Corrupt::Cut)
}

fn take_within(source: &mut impl Source, min: u64, max: u64) -> Result<u64, Corrupt> {
    let value = take(source)?;
    (min..=max).contains(&value).then_some(value).ok_or(Corrupt::OutOfRange)
}

fn take_all<T>(count: usize, mut next: impl FnMut() -> Result<T, Corrupt>) -> Result<Few<T>, Corrupt> {
    (0..count).map(|_| next()).collect()
}

fn take_rule(source: &mut impl Source, algorithm: Algorithm) -> Result<Rule, Corrupt> {
    let rule = Rule { limit: take(source)?, window_ms: take(source)? };
    rule.is_valid(algorithm).then_some(rule).ok_or(Corrupt::OutOfRange)
}

fn take_sliding(source: &mut impl Source, rules: usize) -> Result<Sliding, Corrupt> {
    let rules = take_all(rules, || take_rule(source, Algorithm::Sliding))?;
    let last = take_within(source, 0, INSTANT_MAX.0)?;
    let log = source.take_bytes(|bytes| Log::read(bytes, last)).ok_or(Corrupt::Cut)?;
    Ok(Sliding::with_log(&rules, log.ok_or(Corrupt::OutOfRange)?))
}

fn take_fixed(source: &mut impl Source, rules: usize) -> Result<Fixed, Corrupt> {
    let counts: Few<Count> = take_all(rules, || {
        let rule = take_rule(source, Algorithm::Fixed)?;
        let window = take(source)?;
        Ok(Count { rule, window, units: take_within(source, 0, UNITS_COUNTED_MAX)? })
    })?;
    let last = UnixMillis(take_within(source, 0, INSTANT_MAX.0)?);
    let of_that_time = counts.iter().all(|count| count.window == number(count.rule, last));
    of_that_time.then_some(Fixed { counts, last }).ok_or(Corrupt::OutOfRange)
}

fn take_bucket(source: &mut impl Source) -> Result<Bucket, Corrupt> {
    let interval = take_within(source, 1, u64::MAX)?;
    let parts = take_within(source, 1, UNITS_MAX)?;
    let pace = Pace { interval, parts, burst: take_within(source, 1, UNITS_MAX)? };
    let empty_at = u128::from(take(source)?) << 64 | u128::from(take(source)?);
    let within = pace.ms(pace.tolerance()) <= DURATION_MS_MAX
        && pace.tolerance() <= TOLERANCE_MAX
        && empty_at <= pace.instant(INSTANT_MAX) + pace.tolerance();
    within.then_some(Bucket { pace, empty_at }).ok_or(Corrupt::OutOfRange)
}

/// Limits as one byte string: what `STATE` takes.
#[derive(Clone, Debug, Default)]
pub struct Packed(pub Vec<u8>);

impl Sink for Packed {
    #[inline]
    fn put_unsigned(&mut self, value: u64) {
        varint::push(&mut self.0, value);
    }

    fn put_bytes(&mut self, bytes: &[u8]) {
        self.put_unsigned(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }
}

/// Reads a byte string from its start.
struct Unpacking<'b>(&'b [u8]);

impl Source for Unpacking<'_> {
    fn take_unsigned(&mut self) -> Option<u64> {
        let (value, len) = varint::read(self.0)?;
        self.0 = self.0.get(len..)?;
        Some(value)
    }

    fn take_bytes<T>(&mut self, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
        let len = usize::try_from(self.take_unsigned()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(read(bytes))
    }
}

/// `limits` as one byte string, with the version of the encoding.
#[must_use]
pub fn pack(limits: &Limits) -> Vec<u8> {
    let mut packed = Packed(Vec::with_capacity(64));
    packed.put_unsigned(ENCODING_VERSION as u64);
    encode(limits, &mut packed);
    packed.0
}

/// Reads what [`pack`] wrote, all of it.
///
/// # Errors
/// [`Corrupt`], whatever the input; it never panics.
pub fn unpack(bytes: &[u8]) -> Result<Limits, Corrupt> {
    let mut source = Unpacking(bytes);
    let version = i32::try_from(take(&mut source)?).map_err(|_| Corrupt::FutureVersion)?;
    let limits = decode(version, &mut source)?;
    source.0.is_empty().then_some(limits).ok_or(Corrupt::OutOfRange)
}
