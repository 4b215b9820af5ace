//! The pure half of cache-guard: what is decided, and why.
//!
//! Nothing here reads a clock, draws a random number, does I/O or knows the module API: time and
//! randomness are arguments, decisions are return values. That is what lets the simulator in
//! `sim` replay any fault with a seed.

#![forbid(unsafe_code)]

pub mod acl;
pub mod cluster;
pub mod codec;
pub mod entry;
pub mod freshness;
pub mod glob;
pub mod lease;
pub mod lock;
pub mod outbox;
pub mod rate;
#[cfg(test)]
mod sim;
pub mod tags;
pub mod time;
pub mod waiters;
pub mod watch;
