//! The module's data types: what each is called, and how its values are saved, compared and copied.

pub mod cached;
pub mod limits;
pub mod locked;
