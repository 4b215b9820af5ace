//! Entries, the leases to regenerate them, and who waits for those.

pub mod codec;
pub mod entry;
pub mod freshness;
pub mod leases;
pub mod pending;
pub mod plain;
pub mod waiters;
