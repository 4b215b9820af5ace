//! What a caller that waited for a lock is told.

use super::{Mode, Owner};
use crate::engine::id::{ClientId, DbKey};
use crate::engine::wait::Decided;
use std::cell::Cell;
use std::rc::Rc;

/// A grant, as the server needs it to tell it or to take it back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// Of which key.
    pub db_key: DbKey,
    /// To whom.
    pub owner: Owner,
    /// On which connection.
    pub client: ClientId,
    /// Its number.
    pub fence: u64,
    /// The connection that the value names: the last of those that are told of this grant.
    pub holder: ClientId,
    /// Connections that are told of this grant and have not failed to hear of it.
    pub told: Rc<Cell<usize>>,
}

/// What one who waited for a lock is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It holds the lock.
    Granted(Granted),
    /// Its wait ended first.
    TimedOut,
    /// The key is held as something else than it asked for.
    Clash(Mode),
    /// It holds the lock in another mode.
    Otherwise(Mode),
    /// Fencing numbers are used up.
    Exhausted,
    /// The key came to hold a value of another type.
    WrongType,
    /// The key moved to another node of the cluster.
    Moved,
    /// This server no longer decides: it became a replica.
    Readonly,
}

impl Decided for Reply {
    /// A lock is held from the moment it is granted.
    fn is_grant(&self) -> bool {
        matches!(self, Self::Granted(_))
    }
}
