//! What the index knows of one key and of one tag.
//!
//! A record of a key is 40 bytes and one allocation, which holds the numbers of its tags and then
//! its name: names are the bulk of an index, so they are stored once, and nowhere in a table.

use super::linear_hash_set::LinearHashSet;
use super::Standing;
use crate::engine::time::UnixMillis;

const TAG_BYTES: usize = 4;

/// A tagged key.
#[derive(Debug)]
pub(super) struct Record {
    /// The index's sequence when it was stored: what happened to its tags until then is not its
    /// business.
    pub stored: u64,
    /// The numbers of its tags, then its name.
    blob: Box<[u8]>,
    /// What the entry takes, as the server said.
    pub bytes: u32,
    tags: u16,
    /// It is at least as bad as this, whatever its tags say.
    pub floor: Standing,
    /// Since when, if `floor` is stale.
    pub since: UnixMillis,
}

const _: () = assert!(size_of::<Record>() == 40, "a record has grown");

impl Record {
    /// One allocation. At most 65 535 tags.
    pub fn new(name: &[u8], tags: &[u32], stored: u64, bytes: u32) -> Self {
        let (floor, since) = (Standing::Live, UnixMillis::default());
        Self { stored, blob: pack(tags, name), bytes, tags: tags.len() as u16, floor, since }
    }

    fn split(&self) -> (&[u8], &[u8]) {
        self.blob.split_at_checked(usize::from(self.tags) * TAG_BYTES).unwrap_or_default()
    }

    pub fn name(&self) -> &[u8] {
        self.split().1
    }

    /// The numbers of its tags, in the order in which they were given.
    #[inline]
    pub fn tags(&self) -> impl Iterator<Item = u32> + '_ {
        let mut rest = self.split().0;
        std::iter::from_fn(move || {
            let (number, more) = rest.split_first_chunk()?;
            rest = more;
            Some(u32::from_le_bytes(*number))
        })
    }

    /// Gives it other tags.
    pub fn retag(&mut self, tags: &[u32]) {
        self.blob = pack(tags, self.name());
        self.tags = tags.len() as u16;
    }

    #[cfg(test)]
    pub fn allocated(&self, class: impl Fn(usize) -> usize) -> usize {
        class(self.blob.len())
    }
}

fn pack(tags: &[u32], name: &[u8]) -> Box<[u8]> {
    let mut blob = Vec::with_capacity(tags.len() * TAG_BYTES + name.len());
    tags.iter().for_each(|tag| blob.extend(tag.to_le_bytes()));
    blob.extend(name);
    blob.into_boxed_slice()
}

/// A tag that has members, is being swept or is remembered.
#[derive(Debug)]
pub(super) struct Tag {
    /// The sequence of its last invalidation; before its first, a bound on what nobody remembers.
    pub invalidated: u64,
    /// The same of its last `mark_stale`.
    pub marked: u64,
    /// When the last times were, oldest first; see [`MARKS_MAX`].
    marks: Vec<(u64, UnixMillis)>,
    /// Who has it, but for those it was invalidated under.
    pub members: LinearHashSet,
    /// What the entries in `members` take.
    pub bytes: u64,
    /// Its name.
    pub name: Box<[u8]>,
    /// When it got its first member or event.
    pub created: UnixMillis,
    /// When it was last invalidated, if `invalidations` is not 0.
    pub last_invalidated: UnixMillis,
    /// How often it was invalidated.
    pub invalidations: u64,
    /// Whether `invalidated` or `marked` is its own.
    pub has_history: bool,
    /// Whether it has no name any more.
    pub is_forgotten: bool,
}

/// How many `mark_stale` of a tag are told apart. Of older ones the time is taken to be that of the
/// one before: an entry is then said to have been stale for longer than it has.
const MARKS_MAX: usize = 8;

impl Tag {
    /// One that only knows `history`, of all tags that nobody remembers.
    pub fn new(name: Box<[u8]>, created: UnixMillis, (invalidated, marked): (u64, u64)) -> Self {
        Self {
            invalidated,
            marked,
            marks: Vec::new(),
            members: LinearHashSet::default(),
            bytes: 0,
            name,
            created,
            last_invalidated: UnixMillis::default(),
            invalidations: 0,
            has_history: false,
            is_forgotten: false,
        }
    }

    /// It was marked stale.
    pub fn member(&mut self, sequence: u64, now: UnixMillis) {
        (self.marked, self.has_history) = (sequence, true);
        if self.marks.len() == MARKS_MAX {
            let (_, earlier) = self.marks.remove(1);
            if let Some((_, time)) = self.marks.get_mut(1) {
                *time = earlier;
            }
        }
        self.marks.push((sequence, now));
    }

    /// When it was first marked stale after `stored`.
    pub fn marked_after(&self, stored: u64) -> Option<UnixMillis> {
        self.marks.iter().find(|(sequence, _)| *sequence > stored).map(|(_, time)| *time)
    }

    /// True if nobody needs to know that it is there: it is remembered for late writes alone.
    pub fn is_unknown(&self) -> bool {
        self.members.is_empty() && self.invalidations == 0
    }

    /// The sequence of the last thing that happened to it.
    pub fn last_event(&self) -> u64 {
        self.invalidated.max(self.marked)
    }
}
