//! A set of slot numbers, each under a fixed hash, that can be walked while it changes.
//!
//! Linear hashing (Litwin, VLDB 1980): bucket after bucket is split as the set grows and merged as
//! it shrinks, so no call does more than one bucket's work, and a small set is one plain vector.
//! Read with its bits reversed, a hash says where its mark stands in a fixed order, and every
//! bucket is a stretch of that order. A cursor is a place in it: a walk returns each mark that is
//! there all along exactly once, however often it was taken out and put back or the buckets were
//! split meanwhile. That is stronger than SSCAN, whose walks may repeat.
//!
//! Rejected: vectors with the position of every member in its record. Taking out a member moves
//! the last one, and one that is overwritten in the middle of a walk goes to the end and is missed.
//! Also rejected: a `HashSet`; doubling one of a million stalls the server.

/// Marks a bucket, on average, above which a bucket is split.
const LOAD: usize = 32;
/// Buckets a row.
const ROW: usize = 256;

/// One member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub hash: u32,
    pub id: u32,
}

type Bucket = Vec<Member>;

/// Marks, at most one an id.
#[derive(Debug)]
pub(super) enum LinearHashSet {
    Few(Bucket),
    Many(Box<Table>),
}

/// At least two buckets, in rows so that growing moves little. The last bucket has marks.
#[derive(Debug, Default)]
pub(super) struct Table {
    rows: Vec<Vec<Bucket>>,
    buckets: usize,
    len: usize,
}

impl Default for LinearHashSet {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

/// The bucket of `hash` among `n`.
fn bucket_of(hash: u32, n: usize) -> usize {
    let round = n.next_power_of_two();
    let at = hash as usize & (round - 1);
    if at < n {
        at
    } else {
        at - round / 2
    }
}

/// The bucket from which the last of `n` was split; `n` is at least 2.
fn parent_of_last(n: usize) -> usize {
    n - 1 - n.next_power_of_two() / 2
}

/// Where in the order bucket `at` of `n` ends.
fn end_of(at: usize, n: usize) -> u64 {
    let round = n.next_power_of_two();
    let is_split = at >= round / 2 || at + round / 2 < n;
    let bits = if is_split { round.trailing_zeros() } else { round.trailing_zeros() - 1 };
    u64::from((at as u32).reverse_bits()) + (1 << (32 - bits))
}

/// Room for how many more a full bucket of `len` gets: so that it fills a size class of jemalloc.
fn step(len: usize) -> usize {
    match len {
        0 | 1 => 1,
        _ => ((len + 1).next_power_of_two() / 8).max(2),
    }
}

fn push(bucket: &mut Bucket, member: Member) {
    if bucket.len() == bucket.capacity() {
        bucket.reserve_exact(step(bucket.len()));
    }
    bucket.push(member);
}

fn take_out(bucket: &mut Bucket, id: u32) -> bool {
    let Some(at) = bucket.iter().position(|member| member.id == id) else { return false };
    bucket.swap_remove(at);
    fit(bucket);
    true
}

/// Gives back what a bucket has not needed for a while.
fn fit(bucket: &mut Bucket) {
    if bucket.is_empty() || bucket.len() + 2 * step(bucket.len()) < bucket.capacity() {
        bucket.shrink_to(bucket.len());
    }
}

impl Table {
    fn get(&self, at: usize) -> Option<&Bucket> {
        self.rows.get(at / ROW)?.get(at % ROW)
    }

    fn get_mut(&mut self, at: usize) -> Option<&mut Bucket> {
        self.rows.get_mut(at / ROW)?.get_mut(at % ROW)
    }

    fn push_bucket(&mut self, bucket: Bucket) {
        match self.rows.last_mut().filter(|row| row.len() < ROW) {
            Some(row) => row.push(bucket),
            None => self.rows.push(vec![bucket]),
        }
        self.buckets += 1;
    }

    fn pop_bucket(&mut self) -> Bucket {
        let Some(row) = self.rows.last_mut() else { return Vec::new() };
        let bucket = row.pop().unwrap_or_default();
        self.buckets -= 1;
        if row.is_empty() {
            self.rows.pop();
        } else if row.len() * 4 < row.capacity() {
            row.shrink_to(row.len() * 2);
        }
        bucket
    }

    /// One bucket more: what belongs there leaves its parent.
    fn split(&mut self) {
        let n = self.buckets + 1;
        let Some(parent) = self.get_mut(parent_of_last(n)) else { return };
        let goes = |member: &Member| bucket_of(member.hash, n) == n - 1;
        let mut child = Bucket::with_capacity(parent.iter().filter(|member| goes(member)).count());
        child.extend(parent.iter().copied().filter(goes));
        parent.retain(|member| !goes(member));
        fit(parent);
        self.push_bucket(child);
    }

    /// One bucket less: what is there goes back to its parent.
    fn merge(&mut self) {
        let into = parent_of_last(self.buckets);
        let bucket = self.pop_bucket();
        if let Some(parent) = self.get_mut(into) {
            if !bucket.is_empty() {
                parent.reserve_exact(bucket.len());
                parent.extend(bucket);
            }
        }
    }

    fn insert(&mut self, member: Member) {
        let at = bucket_of(member.hash, self.buckets);
        if let Some(bucket) = self.get_mut(at) {
            push(bucket, member);
            self.len += 1;
        }
        if self.len > self.buckets * LOAD {
            self.split();
        }
        self.trim();
    }

    fn remove(&mut self, member: Member) -> bool {
        let at = bucket_of(member.hash, self.buckets);
        if !self.get_mut(at).is_some_and(|bucket| take_out(bucket, member.id)) {
            return false;
        }
        self.len -= 1;
        if self.len < self.buckets * LOAD / 4 {
            self.merge();
        }
        self.trim();
        true
    }

    /// Whoever drains the set from its end is not to step over empty buckets again and again.
    fn trim(&mut self) {
        while self.buckets > 1 && self.get(self.buckets - 1).is_some_and(Vec::is_empty) {
            self.merge();
        }
    }
}

impl LinearHashSet {
    pub fn len(&self) -> usize {
        match self {
            Self::Few(bucket) => bucket.len(),
            Self::Many(table) => table.len,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds `member`, whose id must not be there yet. O(1).
    pub fn insert(&mut self, member: Member) {
        match self {
            Self::Few(bucket) if bucket.len() < LOAD => push(bucket, member),
            Self::Few(bucket) => {
                let mut table = Table { len: bucket.len(), ..Table::default() };
                table.push_bucket(std::mem::take(bucket));
                table.insert(member);
                *self = Self::Many(Box::new(table));
                self.settle();
            }
            Self::Many(table) => table.insert(member),
        }
    }

    /// Takes out `member`; false if it is not there. O(1).
    pub fn remove(&mut self, member: Member) -> bool {
        match self {
            Self::Few(bucket) => take_out(bucket, member.id),
            Self::Many(table) => {
                let was_there = table.remove(member);
                self.settle();
                was_there
            }
        }
    }

    /// The id under `hash` of which `is_it` says so. O(1).
    pub fn find(&self, hash: u32, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let bucket = match self {
            Self::Few(bucket) => bucket,
            Self::Many(table) => table.get(bucket_of(hash, table.buckets))?,
        };
        bucket.iter().find(|member| member.hash == hash && is_it(member.id)).map(|member| member.id)
    }

    /// All, in no order that lasts. The first `n` cost O(n): there are no long empty stretches in
    /// front of them while the set is drained in this order.
    pub fn iter(&self) -> impl Iterator<Item = Member> + '_ {
        let (few, many) = match self {
            Self::Few(bucket) => (Some(bucket), None),
            Self::Many(table) => (None, Some(table.rows.iter().rev().flat_map(|row| row.iter().rev()))),
        };
        few.into_iter().chain(many.into_iter().flatten()).flatten().copied()
    }

    /// Shows `visit` the marks from `cursor` on until it has shown about `count`, at least one
    /// bucket, and says where to go on; 0: all have been seen. A walk begins at 0. O(count).
    pub fn walk(&self, mut cursor: u64, count: usize, mut visit: impl FnMut(u32)) -> u64 {
        let n = match self {
            Self::Few(_) => 1,
            Self::Many(table) => table.buckets,
        };
        let mut worked = 0;
        while let Ok(place) = u32::try_from(cursor) {
            let at = bucket_of(place.reverse_bits(), n);
            let bucket = match self {
                Self::Few(bucket) => Some(bucket),
                Self::Many(table) => table.get(at),
            };
            for member in bucket.into_iter().flatten().filter(|member| member.hash.reverse_bits() >= place) {
                visit(member.id);
            }
            worked += bucket.map_or(0, Vec::len).max(1);
            cursor = end_of(at, n);
            if worked >= count && u32::try_from(cursor).is_ok() {
                return cursor;
            }
        }
        0
    }

    /// A table of one bucket is none.
    fn settle(&mut self) {
        if let Self::Many(table) = self {
            if table.buckets == 1 {
                *self = Self::Few(table.pop_bucket());
            }
        }
    }
}

#[cfg(test)]
mod tests;
