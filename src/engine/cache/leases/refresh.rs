//! Leases on keys that hold a value: one caller refreshes it, all others are served meanwhile.

use super::{find_mut, Asked, Caller, DbId, Grant, Leases, MonoMillis};

impl Leases {
    /// Decides for a caller that may be served a stale value, and so never waits.
    pub fn ask_stale(&mut self, db: DbId, key: &[u8], caller: Caller, now: MonoMillis) -> Asked {
        let asked = self.ask(db, key, Caller { wait_ms: 0, ..caller }, 0, now);
        if let (Asked::Won(_), Some(flight)) = (&asked, find_mut(&mut self.flights, db, key)) {
            flight.lease.serves_stale = true;
        }
        asked
    }

    /// Decides for a caller that was drawn to refresh a value ahead of expiry: at most one such
    /// lease is out a key, and nobody waits for it while the value is fresh.
    pub fn ask_early(&mut self, db: DbId, key: &[u8], caller: Caller, now: MonoMillis) -> Option<Grant> {
        match self.ask(db, key, Caller { wait_ms: 0, ..caller }, 0, now) {
            Asked::Won(grant) => {
                if let Some(flight) = find_mut(&mut self.flights, db, key) {
                    flight.lease.is_early = true;
                }
                self.stats.early_refreshes += 1;
                Some(grant)
            }
            _ => None,
        }
    }
}
