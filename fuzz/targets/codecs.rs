//! Payloads of any bytes: each is refused, or read to something that is written and read again as the same.
//!
//! The second half is what keeps a file loadable: what a server accepted by `RESTORE` it writes into its RDB file.

use super::bytes::{Fields, Written};
use cache_guard::engine::cache::codec as entry_codec;
use cache_guard::engine::cache::entry::{Carried, Tags};
use cache_guard::engine::limit::codec as limits_codec;
use cache_guard::engine::lock::codec as lock_codec;

/// The payload of `cg-cached`.
pub fn entry(data: &[u8]) {
    let version = entry_codec::ENCODING_VERSION;
    let Ok(entry) = entry_codec::decode(version, &mut Fields(data)) else { return };
    let carried = match entry.tags() {
        Some(Tags::Carried(carried)) => carried.clone(),
        Some(Tags::Indexed(_)) => unreachable!("a payload is in no index"),
        None => Carried::default(),
    };
    let mut written = Written::default();
    entry_codec::encode(&entry, &carried, &mut written);
    let mut reading = written.read();
    assert_eq!(entry_codec::decode(version, &mut reading), Ok(entry));
    assert!(reading.is_at_end());
}

/// The payload of `cg-locked`.
pub fn lock(data: &[u8]) {
    let version = lock_codec::ENCODING_VERSION;
    let Ok(lock) = lock_codec::decode(version, &mut Fields(data)) else { return };
    let mut written = Written::default();
    lock_codec::encode(&lock, &mut written);
    let mut reading = written.read();
    assert_eq!(lock_codec::decode(version, &mut reading), Ok(lock));
    assert!(reading.is_at_end());
}

/// The payload of `cg-limits`.
pub fn limits(data: &[u8]) {
    let version = limits_codec::ENCODING_VERSION;
    let Ok(limits) = limits_codec::decode(version, &mut Fields(data)) else { return };
    let mut written = Written::default();
    limits_codec::encode(&limits, &mut written);
    let mut reading = written.read();
    assert_eq!(limits_codec::decode(version, &mut reading), Ok(limits));
    assert!(reading.is_at_end());
}

/// What `STATE` of `CACHE.RATELIMIT` takes.
pub fn state(data: &[u8]) {
    let Ok(limits) = limits_codec::unpack(data) else { return };
    assert_eq!(limits_codec::unpack(&limits_codec::pack(&limits)), Ok(limits));
}
