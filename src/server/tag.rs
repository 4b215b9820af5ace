//! Tags, as the server has them.

pub mod commands;
pub mod index;
pub mod rows;
pub mod sweep;
