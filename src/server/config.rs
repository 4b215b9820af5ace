//! The settings of the module: one table, from which the server's CONFIG, the arguments of
//! `loadmodule` and the defaults are derived.
//!
//! All but two are whole numbers; all but one may be changed while the server runs.

use crate::engine::cache::freshness::JITTER_PERCENT_MAX;
use std::ffi::CStr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};

/// One setting, `cacheguard.<name>` to CONFIG.
pub struct Setting {
    /// Its name, without the module's.
    pub name: &'static CStr,
    /// The least it may be.
    pub min: i64,
    /// The most it may be.
    pub max: i64,
    /// What it is if nobody sets it.
    pub default: i64,
    value: AtomicI64,
}

impl Setting {
    const fn new(name: &'static CStr, min: i64, max: i64, default: i64) -> Self {
        Self { name, min, max, default, value: AtomicI64::new(default) }
    }

    /// Its value now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.value.load(Relaxed).unsigned_abs()
    }

    /// Changes it; the caller has checked the range.
    pub fn set(&self, value: i64) {
        self.value.store(value, Relaxed);
    }
}

const DURATION_MS_MAX: i64 = crate::engine::time::DURATION_MS_MAX as i64;

/// How long a lease lasts where `LEASE` is not given, in milliseconds.
pub static LEASE_MS: Setting = Setting::new(c"lease-ms", 1, DURATION_MS_MAX, 10_000);
/// How long a caller waits where `WAIT` is not given, in milliseconds; 0: not at all.
pub static WAIT_MS: Setting = Setting::new(c"wait-ms", 0, DURATION_MS_MAX, 10_000);
/// How long nobody may retry after a failure where `RETRY` is not given, in milliseconds.
pub static RETRY_MS: Setting = Setting::new(c"retry-ms", 1, DURATION_MS_MAX, 1_000);
/// By how much `ttl` is moved where `JITTER` is not given, in percent.
pub static JITTER_PERCENT: Setting = Setting::new(c"jitter-percent", 0, JITTER_PERCENT_MAX as i64, 0);
/// How many callers wait at once; further ones are answered as with `WAIT 0`.
pub static MAX_WAITERS: Setting = Setting::new(c"max-waiters", 0, 10_000_000, 100_000);

/// How much of a processor the deletion of invalidated entries may take, in percent.
pub static SWEEP_CPU_PERCENT: Setting = Setting::new(c"sweep-cpu-percent", 1, 100, 10);

/// All settings.
pub static SETTINGS: [&Setting; 6] =
    [&LEASE_MS, &WAIT_MS, &RETRY_MS, &JITTER_PERCENT, &MAX_WAITERS, &SWEEP_CPU_PERCENT];

/// How many callers may wait at once.
#[must_use]
pub fn max_waiters() -> usize {
    usize::try_from(MAX_WAITERS.get()).unwrap_or(usize::MAX)
}

/// The name of the one setting that is not a whole number.
pub const EARLY_BETA_NAME: &CStr = c"early-beta";
static EARLY_BETA: AtomicU64 = AtomicU64::new(0);

/// How eagerly values are refreshed ahead of expiry where `EARLY` is not given; 0: not at all.
#[inline]
#[must_use]
pub fn early_beta() -> f64 {
    f64::from_bits(EARLY_BETA.load(Relaxed))
}

/// Changes [`early_beta`]; false if `text` is not a number of at least 0.
pub fn set_early_beta(text: &[u8]) -> bool {
    let beta = super::args::parse_float(text);
    beta.inspect(|beta| EARLY_BETA.store(beta.to_bits(), Relaxed)).is_some()
}

/// The name of the setting that is read once, when the module loads.
pub const CL_THROTTLE_NAME: &CStr = c"cl-throttle";
static CL_THROTTLE: AtomicBool = AtomicBool::new(true);

/// Whether `CL.THROTTLE` is one of the module's commands.
#[must_use]
pub fn cl_throttle() -> bool {
    CL_THROTTLE.load(Relaxed)
}

/// Changes [`cl_throttle`]; false if `text` is neither yes nor no.
pub fn set_cl_throttle(text: &[u8]) -> bool {
    let yes = text.eq_ignore_ascii_case(b"yes");
    CL_THROTTLE.store(yes, Relaxed);
    yes || text.eq_ignore_ascii_case(b"no")
}

/// Sets what the arguments of `loadmodule` say: `name value` pairs, names in any case. What they do not
/// name has its default again: an earlier load that failed may have changed it.
///
/// # Errors
/// A sentence for the server's log.
pub fn load_arguments<'a>(mut words: impl Iterator<Item = &'a [u8]>) -> Result<(), String> {
    set_defaults();
    let mut given: Vec<Vec<u8>> = Vec::new();
    while let Some(name) = words.next() {
        let shown = shown(name);
        let name = name.to_ascii_lowercase();
        let value = words.next();
        if !names().any(|known| known.to_bytes() == name) {
            return Err(unknown(&shown, &name));
        }
        if given.contains(&name) {
            return Err(format!("argument {shown} was given more than once"));
        }
        set_argument(&name, value.ok_or(format!("argument {shown} has no value"))?)
            .map_err(|wanted| format!("argument {shown} must be {wanted}"))?;
        given.push(name);
    }
    Ok(())
}

/// Sets one of [`names`].
///
/// # Errors
/// What it must be.
fn set_argument(name: &[u8], value: &[u8]) -> Result<(), String> {
    if name == EARLY_BETA_NAME.to_bytes() {
        return set_early_beta(value).then_some(()).ok_or("a number of at least 0".to_owned());
    }
    if name == CL_THROTTLE_NAME.to_bytes() {
        return set_cl_throttle(value).then_some(()).ok_or("yes or no".to_owned());
    }
    let Some(setting) = SETTINGS.iter().find(|setting| setting.name.to_bytes() == name) else { return Ok(()) };
    let value = super::args::parse(value)
        .and_then(|value| i64::try_from(value).ok())
        .filter(|value| (setting.min..=setting.max).contains(value))
        .ok_or(format!("an integer from {} to {}", setting.min, setting.max))?;
    setting.set(value);
    Ok(())
}

fn set_defaults() {
    SETTINGS.iter().for_each(|setting| setting.set(setting.default));
    EARLY_BETA.store(0, Relaxed);
    CL_THROTTLE.store(true, Relaxed);
}

/// The names of all settings.
fn names() -> impl Iterator<Item = &'static CStr> {
    SETTINGS.iter().map(|setting| setting.name).chain([EARLY_BETA_NAME, CL_THROTTLE_NAME])
}

/// The error for an argument that is none, with what may have been meant.
fn unknown(shown: &str, name: &[u8]) -> String {
    let all: Vec<_> = names().map(CStr::to_string_lossy).collect();
    let hint = match name {
        b"config" => "; in MODULE LOADEX, CONFIG must come before ARGS",
        _ if name.starts_with(b"cacheguard.") => "; the names of arguments have no 'cacheguard.' in front",
        _ => "",
    };
    format!("unknown argument '{shown}'{hint}. The arguments are {}", all.join(", "))
}

/// An argument as it is shown in the log: not all of a long one.
fn shown(word: &[u8]) -> String {
    String::from_utf8_lossy(word.get(..ARGUMENT_BYTES_SHOWN).unwrap_or(word)).into_owned()
}

const ARGUMENT_BYTES_SHOWN: usize = 64;
