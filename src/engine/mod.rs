//! The pure half of cache-guard: what is decided, and why.
//!
//! Nothing here reads a clock, draws a random number, does I/O or knows the module API: time and
//! randomness are arguments, decisions are return values. That is what lets the simulator in
//! `sim` replay any fault with a seed.

#![forbid(unsafe_code)]

pub mod acl;
pub mod cache;
pub mod cluster;
pub mod codec;
pub mod glob;
pub mod id;
pub mod limit;
pub mod lock;
#[cfg(test)]
mod sim;
pub mod tag;
pub mod time;
pub mod wait;
