//! What was taken when: a queue of runs, some two bytes each.
//!
//! A run is `(milliseconds since the run before, units)`. The first number is written doubled; a
//! run of more than one unit is followed by a second number, twice the units beyond two, plus one.
//! So the low bit tells the two apart, and the queue can be read from both ends: it loses runs in
//! front as they grow old, and behind as units are given back. What is taken within a millisecond
//! is one run, so a log never has more runs than its window has milliseconds.
//!
//! A run has at most eight bytes, but for one of more than 8 193 units that follows more than half
//! a year of silence: nine. A ring of fixed cells was rejected: it needs four times the memory or
//! a coarser clock. So was `VecDeque`, whose two halves make every reading of a number a branch.
//!
//! Instants here are wall time modulo 2⁶⁴: after a step of the clock the oldest may lie before 1970.
//! The last one never does: it is what a payload tells.

use super::varint;
use crate::engine::time::DURATION_MS_MAX;

/// Bytes in front that may lie idle before the rest is moved there.
const IDLE_BYTES_MIN: usize = 64;
/// No run starts at or behind this many bytes. Only a log filled by hand (`AT`) comes near; what is
/// taken beyond counts as taken with the last run.
const BYTES_MAX: usize = 16 << 20;
/// The most bytes of a run.
const RUN_BYTES_MAX: usize = 20;
/// The most units that all runs together can tell; what is taken beyond is not counted.
const UNITS_MAX: u64 = 1 << 62;

/// One run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Milliseconds since the run before.
    pub gap_ms: u64,
    /// Units; at least 1.
    pub units: u64,
}

impl Run {
    fn append_to(self, bytes: &mut Vec<u8>) {
        varint::push(bytes, self.gap_ms * 2);
        if let Some(beyond) = self.units.checked_sub(2) {
            varint::push(bytes, beyond * 2 + 1);
        }
    }
}

/// Runs, oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Log {
    bytes: Vec<u8>,
    /// Where the first run starts.
    head: usize,
    /// The instant from which the first run's gap counts.
    pub origin: u64,
    /// The instant of the last run; that of the origin if there is none.
    pub last: u64,
    /// The units of all runs.
    pub units: u64,
}

/// Two logs are equal if they tell the same.
impl PartialEq for Log {
    fn eq(&self, other: &Self) -> bool {
        (self.bytes(), self.last) == (other.bytes(), other.last)
    }
}

impl Log {
    /// The log with these bytes, the last run of which was at `last`; `None` if no log has them.
    /// All runs lie within the longest window, and so does the one before the first. O(length).
    pub fn read(bytes: &[u8], last: u64) -> Option<Self> {
        if bytes.is_empty() || bytes.len() >= BYTES_MAX + RUN_BYTES_MAX {
            return None;
        }
        let mut log = Self { bytes: bytes.to_vec(), last, ..Self::default() };
        let (mut at, mut first_gap_ms, mut span_ms) = (0, 0, 0u64);
        while at < bytes.len() {
            let (run, next) = log.run(at).filter(|(run, _)| at < BYTES_MAX && run.gap_ms < DURATION_MS_MAX)?;
            match at {
                0 => first_gap_ms = run.gap_ms,
                _ => span_ms += Some(run.gap_ms).filter(|gap_ms| *gap_ms > 0)?,
            }
            log.units = log.units.checked_add(run.units).filter(|units| *units <= UNITS_MAX)?;
            if span_ms >= DURATION_MS_MAX {
                return None;
            }
            at = next;
        }
        log.origin = last.wrapping_sub(span_ms + first_gap_ms);
        Some(log)
    }

    /// What [`Self::read`] takes.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(self.head..).unwrap_or_default()
    }

    pub fn is_empty(&self) -> bool {
        self.head == self.bytes.len()
    }

    /// Where the first run starts.
    pub fn start(&self) -> usize {
        self.head
    }

    /// Where the next run will start.
    pub fn end(&self) -> usize {
        self.bytes.len()
    }

    pub fn heap_bytes(&self) -> usize {
        self.bytes.capacity()
    }

    /// The run that starts at `at`, and where the next one does.
    #[inline]
    pub fn run(&self, at: usize) -> Option<(Run, usize)> {
        let (doubled, len) = varint::read(self.bytes.get(at..)?)?;
        if doubled & 1 == 1 {
            return None;
        }
        let (gap_ms, next) = (doubled / 2, at + len);
        let rest = self.bytes.get(next..)?;
        match rest.first() {
            Some(byte) if byte & 1 == 1 => {
                let (beyond, len) = varint::read(rest)?;
                Some((Run { gap_ms, units: (beyond / 2).saturating_add(2) }, next + len))
            }
            _ => Some((Run { gap_ms, units: 1 }, next)),
        }
    }

    /// The last run, and where it starts.
    fn last_run(&self) -> Option<(Run, usize)> {
        self.run_before(self.bytes.len())
    }

    /// The run that ends at `end`, and where it starts.
    fn run_before(&self, end: usize) -> Option<(Run, usize)> {
        let bytes = self.bytes.get(self.head..end)?;
        let (value, start) = varint::read_back(bytes)?;
        if value & 1 == 0 {
            return Some((Run { gap_ms: value / 2, units: 1 }, self.head + start));
        }
        let (doubled, first) = varint::read_back(bytes.get(..start)?)?;
        Some((Run { gap_ms: doubled / 2, units: (value / 2).saturating_add(2) }, self.head + first))
    }

    fn write(&mut self, run: Run) {
        run.append_to(&mut self.bytes);
    }

    /// Appends `units` taken at `at`, which is not before the last run. Where that run ends up.
    pub fn push(&mut self, units: u64, at: u64) -> usize {
        let units = units.min(UNITS_MAX - self.units);
        let Some((last, start)) = self.last_run() else {
            self.clear(at);
            self.units = units;
            self.write(Run { gap_ms: 0, units });
            return 0;
        };
        if units == 0 {
            return start;
        }
        self.units += units;
        let gap_ms = at.wrapping_sub(self.last);
        // What lies idle in front does not count: a copy has none of it, and is to end the same.
        if gap_ms == 0 || self.bytes().len() >= BYTES_MAX {
            self.bytes.truncate(start);
            self.write(Run { units: last.units + units, ..last });
            return start;
        }
        self.reserve();
        let start = self.bytes.len();
        self.write(Run { gap_ms, units });
        self.last = at;
        start
    }

    /// Takes up to `units` off the last run: how many, and where the run started, or starts. If the
    /// run before it was before 1970, all move up so that this one is not.
    pub fn pop(&mut self, units: u64) -> Option<(u64, usize)> {
        let (run, start) = self.last_run()?;
        let popped = run.units.min(units);
        self.units = self.units.saturating_sub(popped);
        self.bytes.truncate(start);
        if popped < run.units {
            self.write(Run { units: run.units - popped, ..run });
        } else {
            let before = self.last.wrapping_sub(run.gap_ms);
            let is_real = run.gap_ms <= self.last;
            self.last = before;
            if !is_real {
                self.redate(0);
            }
        }
        Some((popped, start))
    }

    /// Takes up to `units` off the run at the instant `at`, wherever it is: how many. Places and
    /// instants of other runs may change. O(what came since, and its bytes).
    pub fn take_off(&mut self, units: u64, at: u64) -> u64 {
        let Some(age_ms) = self.last.checked_sub(at) else { return 0 };
        let (mut end, mut run_age_ms) = (self.bytes.len(), 0);
        while let Some((run, start)) = self.run_before(end) {
            if run_age_ms > age_ms {
                break;
            }
            if run_age_ms == age_ms {
                return self.take_off_run(units, run, start, end);
            }
            (end, run_age_ms) = (start, run_age_ms + run.gap_ms);
        }
        0
    }

    fn take_off_run(&mut self, units: u64, run: Run, start: usize, end: usize) -> u64 {
        if end == self.bytes.len() {
            return self.pop(units).map_or(0, |(popped, _)| popped);
        }
        let popped = run.units.min(units);
        let left = self.units.saturating_sub(popped);
        let mut instead = Vec::with_capacity(RUN_BYTES_MAX);
        let mut replaced = end;
        if popped < run.units {
            Run { units: run.units - popped, ..run }.append_to(&mut instead);
        } else if start == self.head {
            self.forget(end, self.origin.wrapping_add(run.gap_ms), left);
            return popped;
        } else if let Some((after, next)) = self.run(end) {
            Run { gap_ms: run.gap_ms + after.gap_ms, ..after }.append_to(&mut instead);
            replaced = next;
        }
        self.bytes.splice(start..replaced, instead);
        self.units = left;
        popped
    }

    /// Forgets the runs before `start`, the last of which was at `at`; `units` are left. By how
    /// much the places of all others moved.
    pub fn forget(&mut self, start: usize, at: u64, units: u64) -> usize {
        if start == self.bytes.len() {
            self.clear(at);
            return start;
        }
        (self.head, self.origin, self.units) = (start, at, units);
        if self.head < IDLE_BYTES_MIN || self.head * 3 < self.bytes.len() {
            return 0;
        }
        let moved = std::mem::take(&mut self.head);
        self.bytes.drain(..moved);
        if self.bytes.capacity() > self.bytes.len() * 4 {
            self.bytes.shrink_to(self.bytes.len() * 2);
        }
        moved
    }

    /// Moves all instants so that the last run is at `last`.
    pub fn redate(&mut self, last: u64) {
        let by = self.last.wrapping_sub(last);
        self.last = last;
        self.origin = self.origin.wrapping_sub(by);
    }

    fn clear(&mut self, at: u64) {
        self.bytes.clear();
        (self.head, self.origin, self.last, self.units) = (0, at, at, 0);
    }

    /// Makes room for a run, a quarter more each time: a full log of a thousand is to be small.
    fn reserve(&mut self) {
        const RUN_BYTES_USUAL: usize = 10;
        if self.bytes.capacity() - self.bytes.len() < RUN_BYTES_USUAL {
            self.bytes.reserve_exact((self.bytes.len() / 4).max(RUN_BYTES_USUAL));
        }
    }
}
