//! What each command does, one file a family. A handler parses, asks the engine, commits, replies.

pub mod cache;
