//! Rate limits, as the server has them.

pub mod commands;
pub mod commit;
pub mod rows;
pub mod throttle;
pub mod value;
pub mod wait;
