//! Entries and their leases, as the server has them.

pub mod commands;
pub mod commit;
pub mod lookup;
pub mod reply;
pub mod rows;
pub mod value;
pub mod wait;
pub mod watch;
