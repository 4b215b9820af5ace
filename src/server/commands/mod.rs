//! What each command does, one file a family. A handler parses, asks the engine, commits, replies.

pub mod admin;
pub mod invalidate;
pub mod lease;
pub mod lock;
pub mod look;
mod permitted;
pub mod rate;
pub mod read;
pub mod tags;
pub mod throttle;
pub mod write;
