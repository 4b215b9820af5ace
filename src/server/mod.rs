//! The server face: thin, and the only part that touches the module API.
//!
//! Dependencies point one way: `commands → {args, error, keyspace, blocked, pump} → ffi`. Only this
//! file and `ffi::load` know the [`table`] of commands.

pub mod args;
pub mod blocked;
pub mod cluster;
pub mod commands;
pub mod config;
pub mod data;
pub mod delivery;
pub mod error;
pub mod ffi;
pub mod info;
pub mod keyspace;
pub mod locking;
pub mod pacing;
pub mod pump;
pub mod recheck;
pub mod reply;
pub mod state;
pub mod sweep;
pub mod table;
pub mod tagging;
pub mod watching;
