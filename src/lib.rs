//! cache-guard: a Redis and Valkey module that makes caching safe from inside the server.
//!
//! **The engine decides, the server does.** [`engine`] is pure: state, arguments and the time
//! go in, a decision comes out. It knows no server, no clock and no randomness of its own, so a
//! simulator can drive it through years of faults in a second. `server` is thin: it parses
//! arguments, opens keys, asks the engine, commits the decision (store, TTL, replicate, notify, in
//! one function) and replies. It knows no rules.
//!
//! A read of a cached value goes one of two ways:
//!
//! ```text
//! CACHE.GETSM k ── key is fresh ─────────────────────────────► value     (no table is touched)
//!               └─ key is missing ── engine::cache::leases
//!                                      ├─ nobody regenerates ► nil       (the caller holds the lease)
//!                                      ├─ somebody does ─────► waits     (server::cache::wait)
//!                                      └─ may not wait ──────► LEASED …
//! CACHE.SETSM k v ttl ── store ── Leases::settle ── all who wait are answered, oldest first
//! ```
//!
//! Leases and waiters live in the engine's tables, outside the keyspace: they are never saved or
//! replicated. Values live in the keyspace as the module type `cg-cached`.

pub mod engine;
#[cfg(feature = "module")]
mod server;
