//! Readers under leases against writers who invalidate: nothing older than an invalidation is ever
//! served as fresh.
//!
//! One row of a database is cached under one key with one tag. A reader takes the lease, reads the
//! row, and writes what it read, with any delay between the steps; a writer changes the row and then
//! invalidates the tag or marks it stale. Other tags are invalidated all the while, more than are
//! remembered.

use super::*;
use crate::engine::cache::leases::{Asked, Caller, Leases, Serial, Token};
use crate::engine::id::{Bond, ClientId};
use crate::engine::time::MonoMillis;

const KEY: &[u8] = b"row";
const TAG: &[u8] = b"rows";
const READERS: usize = 4;

#[derive(Clone, Copy)]
struct Reader {
    token: Token,
    read: Option<u64>,
}

struct Race {
    rng: StdRng,
    indexes: Leases,
    index: TagIndex,
    now: MonoMillis,
    /// The version of the row, of the last invalidation, and of the last mark.
    row: u64,
    invalidated: u64,
    marked: u64,
    cached: Option<(KeyId, u64)>,
    readers: Vec<Reader>,
    /// How often a late write was refused, stored stale, and how often one was in time.
    outcomes: [usize; 3],
}

impl Race {
    fn new(seed: u64) -> Self {
        let mut drawn = 0;
        let indexes = Leases::new(move || {
            drawn += 1;
            Token(drawn)
        });
        Self {
            rng: StdRng::seed_from_u64(seed),
            indexes,
            index: TagIndex::with_limits(3, 1),
            now: MonoMillis(0),
            row: 1,
            invalidated: 0,
            marked: 0,
            cached: None,
            readers: Vec::new(),
            outcomes: [0; 3],
        }
    }

    fn stamp(&mut self) {
        let stamp = self.indexes.stamp();
        self.index.advance(stamp);
    }

    fn ask(&mut self) {
        let caller =
            Caller { client: ClientId(1), wait_ms: 0, lease_ms: self.rng.random_range(1..60), bond: Bond::Free };
        if self.readers.len() < READERS {
            if let Asked::Won(grant) = self.indexes.ask(0, KEY, caller, 0, self.now) {
                self.readers.push(Reader { token: grant.token, read: None });
            }
        }
    }

    fn read(&mut self) {
        let row = self.row;
        let at = self.rng.random_range(0..self.readers.len().max(1));
        if let Some(reader) = self.readers.get_mut(at) {
            reader.read.get_or_insert(row);
        }
    }

    fn write(&mut self) {
        let at = self.rng.random_range(0..self.readers.len().max(1));
        let Some(&Reader { token, read: Some(version) }) = self.readers.get(at) else { return };
        self.readers.swap_remove(at);
        let Some(Serial(serial)) = self.indexes.proves(0, KEY, token, self.now) else { return };
        if self.index.invalidated_since(TAG, serial) {
            self.outcomes[0] += 1;
            return self.indexes.void(0, KEY, self.now);
        }
        let is_stale = self.index.marked_since(TAG, serial);
        self.outcomes[if is_stale { 1 } else { 2 }] += 1;
        let standing = if is_stale { Standing::Stale } else { Standing::Live };
        let old = self.cached.replace((self.index.insert(KEY, [TAG], Arrival { standing, ..LIVE }), version));
        old.into_iter().for_each(|(id, _)| self.index.remove(id));
        self.indexes.settle_stale(0, KEY, self.now);
    }

    fn invalidate(&mut self, tag: &[u8], marks: bool) {
        self.stamp();
        if marks {
            self.index.mark_stale(tag, NOW);
        } else {
            self.index.invalidate(tag, NOW);
        }
        for id in self.index.struck() {
            assert_eq!(self.cached.map(|(cached, _)| cached), Some(id));
            self.indexes.void(0, KEY, self.now);
        }
        let oldest = match self.indexes.oldest() {
            Some(Serial(serial)) => serial,
            None => self.indexes.stamp(),
        };
        self.index.forget_before(oldest);
    }

    fn step(&mut self) {
        self.now = self.now.after(self.rng.random_range(0..4));
        match self.rng.random_range(0..20) {
            0..5 => self.ask(),
            5..9 => self.read(),
            9..13 => self.write(),
            13 => self.row += 1,
            14 => {
                self.invalidate(TAG, false);
                self.invalidated = self.row;
            }
            15 => {
                self.invalidate(TAG, true);
                self.marked = self.row;
            }
            16 => {
                let other = tag(self.rng.random_range(0..9));
                let marks = self.rng.random_bool(0.5);
                self.invalidate(&other, marks);
            }
            17 => {
                self.index.tidy(1);
            }
            18 => {
                for id in self.index.doomed(1) {
                    self.index.remove(id);
                    self.cached = None;
                }
            }
            _ => {
                if let Some((id, _)) = self.cached {
                    self.index.watch(id);
                }
            }
        }
        self.check();
    }

    fn check(&self) {
        let Some((id, version)) = self.cached else { return };
        let standing = self.index.standing(id);
        assert!(
            standing == Standing::Dead || version >= self.invalidated,
            "{version} is served after it was invalidated"
        );
        assert!(standing != Standing::Live || version >= self.marked, "{version} is fresh after it was marked stale");
    }
}

#[test]
fn what_was_read_before_an_invalidation_is_not_served_after_it() {
    let mut outcomes = [0; 3];
    for seed in 0..200 {
        let mut race = Race::new(seed);
        (0..500).for_each(|_| race.step());
        race.index.validate();
        race.outcomes.iter().zip(&mut outcomes).for_each(|(of_this, of_all)| *of_all += of_this);
    }
    assert!(outcomes.iter().all(|count| *count > 500), "refused, stored stale, in time: {outcomes:?}");
}
