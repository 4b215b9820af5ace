//! The server face: thin, and the only part that touches the module API.
//!
//! Dependencies point one way: `commands → {args, error, keyspace, blocked, pump} → ffi`. Only this
//! file and `ffi::load` know the [`table`] of commands.

pub mod args;
pub mod cache;
pub mod cluster;
pub mod config;
pub mod delivery;
pub mod error;
pub mod event_loop;
pub mod ffi;
pub mod info;
pub mod limit;
pub mod lock;
pub mod recheck;
pub mod state;
pub mod table;
pub mod tag;
