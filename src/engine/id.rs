//! What things are called: databases, connections, waits, keys.
//!
//! The server knows connections by pointer and keys by handle; the engine knows both by these plain
//! values, which outlive either.

use std::rc::Rc;

/// The number of a database of the server.
pub type DbId = i32;

/// The server's number of a connection; never reused while the server runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u64);

/// One wait of one connection. Rises with arrival, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WaiterId(pub u64);

/// A key in a database, whether it exists or not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DbKey {
    /// The database.
    pub db: DbId,
    /// The name of the key.
    pub key: Rc<[u8]>,
}

impl DbKey {
    /// Where the key is after two databases changed places.
    #[must_use]
    pub fn swapped(self, one: DbId, other: DbId) -> Self {
        let db = match self.db {
            db if db == one => other,
            db if db == other => one,
            db => db,
        };
        Self { db, ..self }
    }
}

/// Whether a lease ends with the connection that got it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bond {
    /// It lasts as long as was said.
    #[default]
    Free,
    /// It ends at the latest when the connection closes.
    Bound,
}
