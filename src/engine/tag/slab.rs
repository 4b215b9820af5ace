//! Numbered slots for very many small records, in chunks.
//!
//! Growing never moves what is there: a chunk is at most [`CHUNK`] slots, and only the one being
//! filled is reallocated. A vacant slot is used again before a new one is made, and a chunk whose
//! slots are all vacant is given back. `Vec` with a free list was rejected: doubling one of ten
//! million records stalls the server, and it never shrinks.
//!
//! Invariants: `open` lists the chunks that have records and room, `absent` those that have no
//! records; the last chunk has records.

use std::collections::BTreeSet;

/// Slots a chunk; a power of two.
const CHUNK: usize = 512;
const SHIFT: u32 = CHUNK.trailing_zeros();
const NONE: u32 = u32::MAX;

#[derive(Debug)]
enum Slot<T> {
    /// With the next vacant slot of the chunk, or [`NONE`].
    Vacant(u32),
    Used(T),
}

#[derive(Debug)]
struct Chunk<T> {
    slots: Vec<Slot<T>>,
    used: usize,
    vacant: u32,
    /// Its place in `open`, or [`NONE`].
    opened_at: u32,
}

/// Records by slot number.
#[derive(Debug)]
pub(super) struct Slab<T> {
    chunks: Vec<Chunk<T>>,
    open: Vec<u32>,
    absent: BTreeSet<u32>,
    len: usize,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { chunks: Vec::new(), open: Vec::new(), absent: BTreeSet::new(), len: 0 }
    }
}

impl<T> Chunk<T> {
    fn empty() -> Self {
        Self { slots: Vec::new(), used: 0, vacant: NONE, opened_at: NONE }
    }

    fn insert(&mut self, value: T) -> u32 {
        self.used += 1;
        let at = self.vacant;
        if let Some(slot) = self.slots.get_mut(at as usize) {
            if let Slot::Vacant(next) = *slot {
                self.vacant = next;
            }
            *slot = Slot::Used(value);
            return at;
        }
        self.slots.push(Slot::Used(value));
        self.slots.len() as u32 - 1
    }

    fn remove(&mut self, at: u32) -> Option<T> {
        let slot = self.slots.get_mut(at as usize)?;
        let Slot::Used(value) = std::mem::replace(slot, Slot::Vacant(self.vacant)) else {
            return None;
        };
        (self.vacant, self.used) = (at, self.used - 1);
        Some(value)
    }
}

fn chunk_of(id: u32) -> usize {
    (id >> SHIFT) as usize
}

fn slot_of(id: u32) -> u32 {
    id & (CHUNK as u32 - 1)
}

impl<T> Slab<T> {
    /// How many records there are.
    pub fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub fn get(&self, id: u32) -> Option<&T> {
        match self.chunks.get(chunk_of(id))?.slots.get(slot_of(id) as usize)? {
            Slot::Used(value) => Some(value),
            Slot::Vacant(_) => None,
        }
    }

    pub fn get_mut(&mut self, id: u32) -> Option<&mut T> {
        match self.chunks.get_mut(chunk_of(id))?.slots.get_mut(slot_of(id) as usize)? {
            Slot::Used(value) => Some(value),
            Slot::Vacant(_) => None,
        }
    }

    /// Puts `value` into a vacant slot and says which. O(1), at most [`CHUNK`] records are moved.
    pub fn insert(&mut self, value: T) -> u32 {
        let number = self.open.last().copied().unwrap_or_else(|| self.open_chunk());
        let Some(chunk) = self.chunks.get_mut(number as usize) else { return NONE };
        let at = chunk.insert(value);
        self.len += 1;
        if chunk.used == CHUNK {
            chunk.opened_at = NONE;
            self.open.pop();
        }
        (number << SHIFT) | at
    }

    /// Vacates slot `id` and says what was in it. O(1), O(log n) for the last of a chunk.
    pub fn remove(&mut self, id: u32) -> Option<T> {
        self.get(id)?;
        let number = chunk_of(id) as u32;
        let chunk = self.chunks.get_mut(chunk_of(id))?;
        let value = chunk.remove(slot_of(id));
        self.len -= 1;
        if chunk.opened_at == NONE {
            chunk.opened_at = self.open.len() as u32;
            self.open.push(number);
        }
        if chunk.used == 0 {
            self.give_back(number);
        }
        value
    }

    /// Up to `n` slots that are used, all of one chunk; none only if there are none. O(n + [`CHUNK`]).
    pub fn some(&self, n: usize) -> Vec<u32> {
        let Some(chunk) = self.chunks.last() else { return Vec::new() };
        let first = (self.chunks.len() as u32 - 1) << SHIFT;
        let used = (first..).zip(&chunk.slots).filter(|(_, slot)| matches!(slot, Slot::Used(_)));
        used.map(|(id, _)| id).take(n).collect()
    }

    /// All records with their slots. O(slots).
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let ids = 0..(self.chunks.len() * CHUNK) as u32;
        ids.filter_map(|id| Some((id, self.get(id)?)))
    }

    fn open_chunk(&mut self) -> u32 {
        let number = self.absent.pop_first().unwrap_or(self.chunks.len() as u32);
        assert!(number < NONE >> SHIFT, "four billion records");
        if number as usize == self.chunks.len() {
            self.chunks.push(Chunk::empty());
        }
        if let Some(chunk) = self.chunks.get_mut(number as usize) {
            chunk.opened_at = self.open.len() as u32;
        }
        self.open.push(number);
        number
    }

    fn give_back(&mut self, number: u32) {
        let Some(chunk) = self.chunks.get_mut(number as usize) else { return };
        let opened_at = std::mem::replace(chunk, Chunk::empty()).opened_at;
        self.open.swap_remove(opened_at as usize);
        if let Some(&moved) = self.open.get(opened_at as usize) {
            if let Some(chunk) = self.chunks.get_mut(moved as usize) {
                chunk.opened_at = opened_at;
            }
        }
        self.absent.insert(number);
        while self.chunks.last().is_some_and(|chunk| chunk.used == 0) {
            self.chunks.pop();
            self.absent.remove(&(self.chunks.len() as u32));
        }
        if self.chunks.len() * 4 <= self.chunks.capacity() {
            self.chunks.shrink_to(self.chunks.len() * 2);
        }
        if self.open.len() * 4 <= self.open.capacity() {
            self.open.shrink_to(self.open.len() * 2);
        }
    }
}

#[cfg(test)]
impl<T> Slab<T> {
    /// What its allocations take, by `class`.
    pub fn allocated(&self, class: impl Fn(usize) -> usize) -> usize {
        let chunks = self.chunks.iter().map(|chunk| class(chunk.slots.capacity() * size_of::<Slot<T>>()));
        let lists = class(self.chunks.capacity() * size_of::<Chunk<T>>()) + class(self.open.capacity() * 4);
        chunks.sum::<usize>() + lists + self.absent.len() * 8
    }

    /// Asserts the invariants of the file's head.
    pub fn validate(&self) {
        let mut len = 0;
        for (number, chunk) in self.chunks.iter().enumerate() {
            let used = chunk.slots.iter().filter(|slot| matches!(slot, Slot::Used(_))).count();
            assert_eq!(used, chunk.used, "records of chunk {number}");
            let is_open = used > 0 && used < CHUNK;
            assert_eq!(is_open, chunk.opened_at != NONE, "chunk {number} is open");
            assert!(!is_open || self.open[chunk.opened_at as usize] as usize == number, "place of chunk {number}");
            assert_eq!(used == 0, self.absent.contains(&(number as u32)), "chunk {number} is absent");
            assert!(used > 0 || chunk.slots.capacity() == 0, "an absent chunk holds memory");
            let (mut vacant, mut next) = (0, chunk.vacant);
            while next != NONE {
                let Slot::Vacant(after) = chunk.slots[next as usize] else { panic!("{next} is vacant and used") };
                (vacant, next) = (vacant + 1, after);
            }
            assert_eq!(vacant + used, chunk.slots.len(), "vacant slots of chunk {number}");
            len += used;
        }
        assert_eq!(len, self.len, "number of records");
        assert!(self.chunks.last().is_none_or(|chunk| chunk.used > 0), "the last chunk is absent");
        assert_eq!(self.open.len(), self.chunks.iter().filter(|chunk| chunk.opened_at != NONE).count(), "open chunks");
        assert!(self.absent.iter().all(|&number| (number as usize) < self.chunks.len()), "absent chunks");
    }
}
