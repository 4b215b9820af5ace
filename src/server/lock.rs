//! Locks, as the server has them.

pub mod commands;
pub mod commit;
pub mod rows;
pub mod value;
pub mod wait;
