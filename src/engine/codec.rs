//! How values are written and read back, independent of where the bytes go.
//!
//! The server's RDB stream offers two primitives, unsigned integers and byte strings; the two
//! traits here are just those, so that tests can encode into a plain vector. A payload is
//! untrusted (`RESTORE` takes any bytes): reading never panics, checks every range, and a field
//! count from the future is an error rather than a guess.

/// Where a value is written to.
pub trait Sink {
    /// Appends an integer.
    fn put_unsigned(&mut self, value: u64);
    /// Appends a byte string.
    fn put_bytes(&mut self, bytes: &[u8]);
}

/// Where a value is read from. `None` where the input is cut or of another kind.
pub trait Source {
    /// The next integer.
    fn take_unsigned(&mut self) -> Option<u64>;
    /// Passes the next byte string to `read`.
    fn take_bytes<T>(&mut self, read: impl FnOnce(&[u8]) -> T) -> Option<T>;
}

/// Why a payload was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Corrupt {
    /// Written by a later release.
    FutureVersion,
    /// Ends early, or has a field of another kind.
    Cut,
    /// A field holds what no writer produces.
    OutOfRange,
}

#[cfg(test)]
pub mod fields;
