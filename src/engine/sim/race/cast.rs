//! Who takes part in the race, and what they say.

use crate::engine::cache::leases::Grant;
use crate::engine::id::{ClientId, DbId, WaiterId};
use crate::engine::sim::model::Place;
use crate::engine::time::MonoMillis;
use std::collections::BTreeMap;

/// A row of the database behind the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Row {
    pub set: DbId,
    pub key: u8,
}

/// How a row was invalidated last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    Alone(Kind),
    InTransaction(Kind),
    Swap,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Delete,
    Set,
    CacheDelete,
    CacheSet,
    Flush,
}

impl Kind {
    pub const ALL: [Self; 5] = [Self::Delete, Self::Set, Self::CacheDelete, Self::CacheSet, Self::Flush];
}

impl Way {
    pub fn all() -> Vec<Self> {
        let alone = Kind::ALL.map(Self::Alone).into_iter();
        alone.chain(Kind::ALL.map(Self::InTransaction)).chain([Self::Swap]).collect()
    }
}

/// What a writer sends; a value is given by the version of its row.
#[derive(Clone, Copy, Debug)]
pub(super) enum Command {
    Delete(Place),
    Set(Place, u64),
    CacheDelete(Place),
    CacheSet(Place, u64),
    Flush(Option<DbId>),
    /// A command of ours that changes nothing.
    Inspect(Place),
}

impl Command {
    pub fn kind(self) -> Option<Kind> {
        let kind = match self {
            Self::Delete(_) => Kind::Delete,
            Self::Set(..) => Kind::Set,
            Self::CacheDelete(_) => Kind::CacheDelete,
            Self::CacheSet(..) => Kind::CacheSet,
            Self::Flush(_) => Kind::Flush,
            Self::Inspect(_) => return None,
        };
        Some(kind)
    }
}

/// What was true when a question was asked.
pub(super) struct Asked {
    pub place: Place,
    pub swaps: u64,
    pub row: Row,
    pub answered: BTreeMap<Row, u64>,
}

pub(super) enum Stage {
    Idle,
    Waits(WaiterId, Asked),
    /// Holds a lease, or did; then, what it read, and how the row was invalidated before.
    Loads(Grant, Option<(Row, u64)>),
}

pub(super) struct Reader {
    pub id: ClientId,
    pub stage: Stage,
}

pub(super) struct Writer {
    pub id: ClientId,
    /// Rows it has changed and not yet invalidated, and where they are cached.
    pub owes: Vec<(Place, Row)>,
    /// When its transaction began, as the server sees it.
    pub began: Option<MonoMillis>,
    /// What it has queued, and the row that is invalidated by it.
    pub queued: Vec<(Command, Option<(Place, Row)>)>,
}

pub(super) struct Cast {
    pub readers: Vec<Reader>,
    pub writers: Vec<Writer>,
    clients_ever: u64,
}

const READERS: usize = 8;
const WRITERS: usize = 4;

impl Cast {
    pub fn new() -> Self {
        let mut cast = Self { readers: Vec::new(), writers: Vec::new(), clients_ever: 0 };
        for _ in 0..READERS {
            let id = cast.connect();
            cast.readers.push(Reader { id, stage: Stage::Idle });
        }
        for _ in 0..WRITERS {
            let id = cast.connect();
            cast.writers.push(Writer { id, owes: Vec::new(), began: None, queued: Vec::new() });
        }
        cast
    }

    pub fn connect(&mut self) -> ClientId {
        self.clients_ever += 1;
        ClientId(self.clients_ever)
    }

    /// True if some writer has changed `row` and its invalidation has not been answered.
    pub fn is_being_changed(&self, row: Row) -> bool {
        let owed = |writer: &Writer| writer.owes.iter().any(|(_, owed)| *owed == row);
        let queued =
            |writer: &Writer| writer.queued.iter().any(|(_, queued)| queued.is_some_and(|(_, queued)| queued == row));
        self.writers.iter().any(|writer| owed(writer) || queued(writer))
    }
}
