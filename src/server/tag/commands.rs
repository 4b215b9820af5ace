//! The commands of tags.

pub mod invalidate;
pub mod permitted;
pub mod tags;
