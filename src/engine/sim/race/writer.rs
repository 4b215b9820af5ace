//! Writers: change a row, then invalidate what is cached of it, alone or in a transaction.

use super::cast::{Command, Kind, Way};
use super::{Names, Place, Row, World, DBS};
use crate::engine::cache::plain::Effect;
use rand::Rng;

/// What the filter makes of a command; `None`: it is no concern of a lease, or looks after its own.
fn effect(command: &[u8]) -> Option<Effect> {
    match command {
        b"DEL" | b"UNLINK" | b"SET" => Some(Effect::Keys),
        b"MULTI" => Some(Effect::Queue(true)),
        b"DISCARD" => Some(Effect::Queue(false)),
        b"RESET" => Some(Effect::Reset),
        b"EXEC" => Some(Effect::Exec),
        _ => None,
    }
}

impl World {
    pub(super) fn advance_writer(&mut self) {
        let who = self.rng.random_range(0..self.cast.writers.len());
        let in_multi = self.cast.writers[who].began.is_some();
        match self.rng.random_range(0..100) {
            0..5 => self.inspect(who),
            5..25 => self.invalidate(who),
            25..50 => self.change_a_row(who),
            50..62 if in_multi => self.exec(who),
            62..64 if in_multi => self.abandon(who, b"DISCARD"),
            64..66 if in_multi => self.abort(who),
            50..80 if !in_multi => {
                self.say(who, b"MULTI", &[]);
                self.cast.writers[who].began = Some(self.now);
            }
            66..80 if in_multi => self.change_a_queued_row(who),
            82..84 => self.say(who, b"LLEN", &[]),
            84..87 if !in_multi => self.say(who, b"RESET", &[]),
            // Refused for its argument.
            87..89 => self.say(who, b"MULTI", &[b"surplus"]),
            misstep => self.blunder(who, misstep, in_multi),
        }
    }

    /// What only some histories know, since it makes the server more careful for long.
    fn blunder(&mut self, who: usize, misstep: u32, in_multi: bool) {
        match misstep {
            80..82 if self.habits.close => self.close(who),
            // Refused by an ACL.
            89..91 if self.habits.refuse && !in_multi => self.say(who, b"MULTI", &[]),
            // Errors. Without names they would be taken for those of another that is in a transaction.
            91 | 92 if self.names == Names::Hidden && self.cast.writers.iter().any(|other| other.began.is_some()) => {}
            91 if self.habits.err && !in_multi => self.say(who, b"EXEC", &[]),
            92 if self.habits.err && !in_multi => self.say(who, b"DISCARD", &[]),
            _ => {}
        }
    }

    /// The server shows us a command; what it does is up to the caller.
    fn say(&mut self, who: usize, command: &[u8], args: &[&[u8]]) {
        let writer = &self.cast.writers[who];
        let (id, in_multi) = (writer.id, writer.began.is_some());
        if let Some(effect) = effect(command) {
            self.see(id, effect, args, in_multi);
        }
    }

    /// The row is locked until its invalidation has been answered.
    fn change_a_row(&mut self, who: usize) {
        let place = self.some_place();
        let row = self.row(place);
        if !self.cast.is_being_changed(row) {
            *self.rows.entry(row).or_default() += 1;
            self.cast.writers[who].owes.push((place, row));
        }
    }

    /// The transaction may say first what it invalidates, and be run after the row was changed.
    fn change_a_queued_row(&mut self, who: usize) {
        let gives_no_value = |command| !matches!(command, Command::Set(..) | Command::CacheSet(..));
        let queued = self.cast.writers[who].queued.iter().rfind(|(command, _)| gives_no_value(*command));
        if let Some((_, Some((_, row)))) = queued {
            *self.rows.entry(*row).or_default() += 1;
        }
    }

    /// Invalidates a row that was changed.
    fn invalidate(&mut self, who: usize) {
        let Some((place, row)) = self.cast.writers[who].owes.pop() else { return };
        let version = self.version(row);
        let command = match Kind::ALL[self.rng.random_range(0..Kind::ALL.len())] {
            Kind::Delete => Command::Delete(place),
            Kind::Set => Command::Set(place, version),
            Kind::CacheDelete => Command::CacheDelete(place),
            Kind::CacheSet => Command::CacheSet(place, version),
            Kind::Flush => Command::Flush(self.rng.random_bool(0.5).then_some(place.db)),
        };
        self.say_it(who, command);
        if self.cast.writers[who].began.is_some() {
            self.cast.writers[who].queued.push((command, Some((place, row))));
        } else {
            self.run_alone(who, command);
            self.reply(command, row, Way::Alone);
        }
    }

    fn inspect(&mut self, who: usize) {
        let command = Command::Inspect(self.some_place());
        self.say_it(who, command);
        if self.cast.writers[who].began.is_some() {
            self.cast.writers[who].queued.push((command, None));
        } else {
            self.run_alone(who, command);
        }
    }

    fn run_alone(&mut self, who: usize, command: Command) {
        if !matches!(command, Command::Delete(_) | Command::Set(..) | Command::Flush(_)) {
            self.note_direct(self.cast.writers[who].id);
        }
        self.run(command);
    }

    fn say_it(&mut self, who: usize, command: Command) {
        let (name, place): (&[u8], _) = match command {
            Command::Delete(place) => (if self.rng.random_bool(0.5) { b"DEL" } else { b"UNLINK" }, Some(place)),
            Command::Set(place, _) => (b"SET", Some(place)),
            Command::CacheDelete(place) => (b"CACHE.DEL", Some(place)),
            Command::CacheSet(place, _) => (b"CACHE.SETSM", Some(place)),
            Command::Inspect(place) => (b"CACHE.INSPECT", Some(place)),
            Command::Flush(_) => (b"FLUSHDB", None),
        };
        match place.map(Place::name) {
            Some(key) => self.say(who, name, &[&key, b"value"]),
            None => self.say(who, name, &[]),
        }
    }

    /// The writer knows now that nobody is served anything older.
    fn reply(&mut self, command: Command, row: Row, way: fn(Kind) -> Way) {
        let version = self.version(row);
        self.answered.insert(row, version);
        self.ways.extend(command.kind().map(|kind| (row, way(kind))));
        if let Command::Flush(only) = command {
            for set in (0..DBS).filter(|db| only.is_none_or(|only| only == *db)) {
                let set = self.sets[usize::try_from(set).unwrap()];
                self.ways.extend(self.rows.keys().filter(|row| row.set == set).map(|row| (*row, way(Kind::Flush))));
            }
        }
    }

    fn exec(&mut self, who: usize) {
        self.say(who, b"EXEC", &[]);
        let queued = std::mem::take(&mut self.cast.writers[who].queued);
        self.cast.writers[who].began = None;
        for (command, ..) in &queued {
            self.run(*command);
        }
        for (command, row) in queued {
            if let Some((_, row)) = row {
                self.reply(command, row, Way::InTransaction);
            }
        }
    }

    /// The transaction ends without effect: what was queued is still owed.
    fn abandon(&mut self, who: usize, command: &[u8]) {
        let command = if self.names == Names::Told && self.rng.random_bool(0.3) { b"RESET" } else { command };
        self.say(who, command, &[]);
        self.drop_queue(who);
    }

    /// EXEC fails: a watched key was changed, or a queued command was refused.
    fn abort(&mut self, who: usize) {
        self.say(who, b"EXEC", &[]);
        self.drop_queue(who);
    }

    fn drop_queue(&mut self, who: usize) {
        let writer = &mut self.cast.writers[who];
        writer.began = None;
        writer.owes.extend(writer.queued.drain(..).filter_map(|(_, owed)| owed));
    }

    /// The connection closes, perhaps within a transaction, and the writer connects again.
    fn close(&mut self, who: usize) {
        let gone = self.cast.writers[who].id;
        if let (Some(watch), true) = (&mut self.watch, self.rng.random_bool(0.5)) {
            watch.forget(gone);
        }
        self.drop_queue(who);
        self.cast.writers[who].id = self.cast.connect();
    }
}
