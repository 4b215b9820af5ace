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

use super::varint;

/// Bytes in front that may lie idle before the rest is moved there.
const IDLE_BYTES_MIN: usize = 64;
/// The most bytes of a log. Only one filled by hand (`AT`) comes near; what is taken beyond counts
/// as taken with the last run.
const BYTES_MAX: usize = 16 << 20;
/// The most units that all runs together can tell.
const UNITS_MAX: u64 = 1 << 62;
/// The longest log in milliseconds.
const SPAN_MS_MAX: u64 = 1 << 62;

/// One run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Milliseconds since the run before.
    pub gap_ms: u64,
    /// Units; at least 1.
    pub units: u64,
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
    /// O(length).
    pub fn read(bytes: &[u8], last: u64) -> Option<Self> {
        if bytes.is_empty() || bytes.len() > BYTES_MAX {
            return None;
        }
        let mut log = Self { bytes: bytes.to_vec(), last, ..Self::default() };
        let (mut at, mut span_ms) = (0, 0u64);
        while at < bytes.len() {
            let (run, next) = log.run(at)?;
            if at > 0 && run.gap_ms == 0 || run.units > UNITS_MAX {
                return None;
            }
            span_ms = span_ms.checked_add(run.gap_ms).filter(|span| *span <= SPAN_MS_MAX)?;
            log.units = log.units.checked_add(run.units).filter(|units| *units <= UNITS_MAX)?;
            at = next;
        }
        log.origin = last.wrapping_sub(span_ms);
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
        let (value, start) = varint::read_back(self.bytes())?;
        if value & 1 == 0 {
            return Some((Run { gap_ms: value / 2, units: 1 }, self.head + start));
        }
        let (doubled, first) = varint::read_back(self.bytes().get(..start)?)?;
        Some((Run { gap_ms: doubled / 2, units: (value / 2).saturating_add(2) }, self.head + first))
    }

    fn write(&mut self, run: Run) {
        varint::push(&mut self.bytes, run.gap_ms * 2);
        if let Some(beyond) = run.units.checked_sub(2) {
            varint::push(&mut self.bytes, beyond * 2 + 1);
        }
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
        self.units += units;
        let gap_ms = at.wrapping_sub(self.last);
        if gap_ms == 0 || self.bytes.len() >= BYTES_MAX {
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

    /// Takes up to `units` off the last run: how many, and where the run started, or starts.
    pub fn pop(&mut self, units: u64) -> Option<(u64, usize)> {
        let (run, start) = self.last_run()?;
        let popped = run.units.min(units);
        self.units = self.units.saturating_sub(popped);
        self.bytes.truncate(start);
        if popped < run.units {
            self.write(Run { units: run.units - popped, ..run });
        } else {
            self.last = self.last.wrapping_sub(run.gap_ms);
        }
        Some((popped, start))
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
        const RUN_BYTES_MAX: usize = 10;
        if self.bytes.capacity() - self.bytes.len() < RUN_BYTES_MAX {
            self.bytes.reserve_exact((self.bytes.len() / 4).max(RUN_BYTES_MAX));
        }
    }
}
