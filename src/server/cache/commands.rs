//! The commands of entries and leases. A handler parses, asks the engine, commits, replies.

pub mod inspect;
pub mod lease;
pub mod read;
pub mod write;
