//! Readers: ask, read the row, write it into the cache, some of them late.

use super::cast::{Asked as Question, Stage};
use super::{Cached, Discipline, Place, Reader, Row, World};
use crate::engine::cache::leases::{Asked, Caller};
use crate::engine::cache::pending::Reply;
use crate::engine::id::Bond;
use rand::Rng;

impl World {
    pub(super) fn advance_reader(&mut self) {
        let who = self.rng.random_range(0..self.cast.readers.len());
        let luck = self.rng.random_range(0..100);
        self.note_direct(self.cast.readers[who].id);
        match std::mem::replace(&mut self.cast.readers[who].stage, Stage::Idle) {
            stage if luck == 0 => self.vanish(who, &stage),
            Stage::Idle => self.ask(who),
            waits @ Stage::Waits(..) => self.cast.readers[who].stage = waits,
            Stage::Loads(grant, None) => {
                let row = self.row(Place::of(&grant.db_key));
                let read = Some((row, self.version(row)));
                self.cast.readers[who].stage = Stage::Loads(grant, read);
            }
            // It takes its time.
            loads @ Stage::Loads(_, Some(_)) if luck < 65 => self.cast.readers[who].stage = loads,
            Stage::Loads(grant, Some((row, version))) => {
                let place = Place::of(&grant.db_key);
                self.resolve_at(place);
                let (db, key) = (place.db, place.name());
                match luck {
                    65..68 => drop(self.leases.release(db, &key, grant.token, self.now)),
                    68..71 => drop(self.leases.fail(db, &key, grant.token, 30, b""[..].into(), self.now)),
                    71..74 if self.leases.renew(db, &key, grant.token, 500, self.now) => {
                        self.cast.readers[who].stage = Stage::Loads(grant, Some((row, version)));
                    }
                    _ => {
                        let live = self.leases.holds(db, &key, grant.token, self.now);
                        self.write(place, row, version, live);
                    }
                }
            }
        }
    }

    /// Writes what was read, or re-arms the value that is there if it is the same.
    fn write(&mut self, place: Place, row: Row, version: u64, is_live: bool) {
        if self.discipline == Discipline::Token && !is_live {
            let late = version < self.answered.get(&row).copied().unwrap_or(0) || row != self.row(place);
            if let (true, Some(way)) = (late, self.ways.get(&row)) {
                *self.saved.entry(*way).or_default() += 1;
            }
            return;
        }
        match self.keyspace.get_mut(&place) {
            Some(cached) if (cached.row, cached.version) == (row, version) => cached.is_fresh = true,
            _ => self.put_row(place, row, version),
        }
        self.settle(place);
    }

    fn ask(&mut self, who: usize) {
        let place = self.some_place();
        let (db, key, id) = (place.db, place.name(), self.cast.readers[who].id);
        let bond = if self.rng.random_bool(0.3) { Bond::Bound } else { Bond::Free };
        let lease_ms = if self.rng.random_bool(0.5) { self.rng.random_range(1..50) } else { 20_000 };
        let mut caller = Caller { client: id, wait_ms: self.rng.random_range(1..300), lease_ms, bond };
        if let Some(cached) = self.keyspace.get(&place).copied().filter(|cached| cached.is_fresh) {
            self.serve(cached, &self.question(place));
            self.resolve_at(place);
            let fresh = self.keyspace.get(&place).is_some_and(|cached| cached.is_fresh);
            if fresh && self.rng.random_bool(0.3) {
                if let Some(grant) = self.leases.ask_early(db, &key, caller, self.now) {
                    self.cast.readers[who].stage = Stage::Loads(grant, None);
                }
            }
            return;
        }
        self.resolve_at(place);
        if self.keyspace.contains_key(&place) {
            caller.wait_ms = 0;
        }
        match self.leases.ask(db, &key, caller, usize::MAX, self.now) {
            Asked::Won(grant) => self.cast.readers[who].stage = Stage::Loads(grant, None),
            Asked::Blocked(id) => self.cast.readers[who].stage = Stage::Waits(id, self.question(place)),
            Asked::Leased { .. } | Asked::Failed(_) | Asked::Full => {}
        }
    }

    fn question(&self, place: Place) -> Question {
        Question { place, swaps: self.swaps, row: self.row(place), answered: self.answered.clone() }
    }

    /// A reader is told that this is fresh.
    fn serve(&mut self, cached: Cached, question: &Question) {
        let due = question.answered.get(&cached.row).copied().unwrap_or(0);
        let of_this_set = cached.row == question.row || self.swaps > question.swaps;
        assert_eq!(cached.row.key, question.place.key, "the value of another key");
        self.broken += u64::from(cached.version < due || !of_this_set);
    }

    pub(super) fn deliver(&mut self) {
        for _ in 0..self.rng.random_range(1..4) {
            let Some((id, reply)) = self.leases.next_reply(self.now) else { return };
            let waits = |reader: &Reader| matches!(&reader.stage, Stage::Waits(waiter, _) if *waiter == id);
            let who = self.cast.readers.iter().position(waits).expect("one of the readers");
            let stage = std::mem::replace(&mut self.cast.readers[who].stage, Stage::Idle);
            let Stage::Waits(_, question) = stage else { panic!("it waits") };
            match reply {
                Reply::Value(served) => {
                    let numbers: Vec<u64> = served
                        .value
                        .chunks_exact(8)
                        .map(|chunk| u64::from_le_bytes(chunk.try_into().unwrap()))
                        .collect();
                    let row = Row { set: numbers[0] as i32, key: numbers[1] as u8 };
                    self.serve(Cached { row, version: numbers[2], is_fresh: true }, &question);
                }
                Reply::Won(grant) => self.cast.readers[who].stage = Stage::Loads(grant, None),
                _ => {}
            }
        }
    }

    /// The connection of a reader closes.
    fn vanish(&mut self, who: usize, stage: &Stage) {
        let gone = self.cast.readers[who].id;
        self.cast.readers[who].id = self.cast.connect();
        if let Stage::Waits(id, _) = stage {
            if let Some(Reply::Won(grant)) = self.leases.leave(*id, self.now) {
                self.leases.give_back(&grant, self.now);
            }
        }
        self.leases.disconnect(gone, self.now);
    }
}
