//! The module API, made safe: the only code in the project that is `unsafe`.
//!
//! Every call goes through [`call!`], which finds the function the server filled in at load time.
//! The handles below (`Ctx`, `Arg`, `Key`, …) can only be made here, from pointers the server gave
//! us, and their lifetime is that of the callback they came with; that is what makes their methods
//! safe to offer to the rest of the server face. Everything runs on the server's main thread, but
//! for freeing values ([`types`]).
//!
//! The crate's own wrappers were rejected for commands: they copy the argument vector and every
//! reply (18 % of a pipelined GET), cannot pass callbacks when blocking, and a panic in them ends
//! the server.

#![allow(unsafe_code)]

macro_rules! call {
    ($name:ident ( $($arg:expr),* $(,)? )) => {
        // SAFETY: the server sets the function pointers before it runs any code of ours; the
        // arguments come from handles, which are live by construction (see the head of `ffi`).
        match unsafe { redis_module::raw::$name } {
            // SAFETY: as above.
            Some(function) => unsafe { function($($arg),*) },
            None => $crate::server::ffi::missing(stringify!($name)),
        }
    };
}

/// True if this server has the function.
macro_rules! has {
    ($name:ident) => {
        // SAFETY: the server sets the function pointers before it runs any code of ours.
        unsafe { redis_module::raw::$name }.is_some()
    };
}

pub mod acl;
pub mod alloc;
pub mod block;
pub mod commands;
pub mod context;
pub mod entry_point;
pub mod events;
pub mod filter;
pub mod key;
pub mod load;
pub mod main_thread;
pub mod taking;
pub mod timer;
mod trim;
pub mod types;

use std::ffi::c_int;

/// What most functions of the module API answer if they did what was asked.
pub(super) const OK: c_int = redis_module::raw::REDISMODULE_OK as c_int;

#[cold]
#[allow(clippy::panic)] // caught by the guard around every callback
fn missing(name: &str) -> ! {
    panic!("this server lacks {name}")
}
