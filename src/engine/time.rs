//! Two clocks that cannot be mixed up.
//!
//! [`UnixMillis`] is wall time: it is persisted and replicated, may be stepped by an operator, and
//! decides when a value expires. [`MonoMillis`] never runs backwards and decides when a wait or a
//! lease ends; it means nothing outside this process. Both count milliseconds; arithmetic
//! saturates, so that no duration a client can name overflows. A single `u64` for both was
//! rejected: comparing a lease's end with a key's expiry is then a bug that compiles.

/// The longest duration a command accepts: ten years, in milliseconds.
pub const DURATION_MS_MAX: u64 = 315_360_000_000;

/// The latest point in time a command accepts, in milliseconds since 1970: any duration can still be
/// added to it.
pub const UNIX_MS_MAX: u64 = i64::MAX as u64 / 2;

/// Wall-clock milliseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMillis(pub u64);

/// Milliseconds of a clock that never steps back; its origin is unspecified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MonoMillis(pub u64);

macro_rules! instant {
    ($name:ident) => {
        impl $name {
            /// The instant `ms` milliseconds later.
            #[must_use]
            pub fn after(self, ms: u64) -> Self {
                Self(self.0.saturating_add(ms))
            }

            /// The instant `ms` milliseconds earlier, at the earliest the clock's origin.
            #[must_use]
            pub fn before(self, ms: u64) -> Self {
                Self(self.0.saturating_sub(ms))
            }

            /// Milliseconds from `earlier` to this instant; 0 if it lies in the future.
            #[must_use]
            pub fn since(self, earlier: Self) -> u64 {
                self.0.saturating_sub(earlier.0)
            }
        }
    };
}

instant!(UnixMillis);
instant!(MonoMillis);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        assert_eq!(UnixMillis(5).before(9), UnixMillis(0));
        assert_eq!(UnixMillis(u64::MAX).after(1), UnixMillis(u64::MAX));
        assert_eq!(MonoMillis(3).since(MonoMillis(10)), 0);
        assert_eq!(MonoMillis(10).since(MonoMillis(3)), 7);
    }
}
