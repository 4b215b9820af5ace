//! The server face: thin, and the only part that touches the module API.
//!
//! One folder for each family of commands ([`cache`], [`tag`], [`lock`], [`limit`]), all of one shape:
//! `rows`, `commands`, `commit`, `value`, `wait`. What they share is beside them: the [`event_loop`],
//! the delivery of replies, arguments and errors, and [`ffi`], which makes the module API safe.

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
