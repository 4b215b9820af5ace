//! A lease that ends without a value, and passes to the oldest who waits for the key.

use super::{find_mut, Caller, DbId, DbKey, Flight, Kind, Lease, Leases, MonoMillis, Reply, Waiter};

/// How a lease ends without a value.
pub(super) enum End {
    Expired,
    Released,
    Disconnected,
    Voided,
}

impl Leases {
    /// Ends the lease on `key` if its deadline has passed.
    pub(super) fn end_overdue(&mut self, db: DbId, key: &[u8], now: MonoMillis) {
        self.end_if(db, key, End::Expired, now, |lease| lease.deadline <= now);
    }

    /// Ends the lease on `key` without a value, if one is out and `is_over` says so.
    pub(super) fn end_if(
        &mut self,
        db: DbId,
        key: &[u8],
        end: End,
        now: MonoMillis,
        is_over: impl FnOnce(&Lease) -> bool,
    ) {
        if !self.find(db, key).is_some_and(|flight| is_over(&flight.lease)) {
            return;
        }
        if let Some((db_key, flight)) = self.close(db, key) {
            self.hand_over(db_key, flight, &end, now);
        }
    }

    /// The oldest waiter, if there is one, gets the next lease; the others wait for that.
    fn hand_over(&mut self, db_key: DbKey, flight: Flight, end: &End, now: MonoMillis) {
        match end {
            End::Expired => self.stats.leases_expired += 1,
            End::Released => self.stats.leases_released += 1,
            End::Disconnected => self.stats.leases_disconnected += 1,
            End::Voided => self.stats.leases_voided += 1,
        }
        let Flight { mut queue, mut groups, touch, lease, .. } = flight;
        // One who was handed that lease and has not heard of it comes before all who wait.
        let heir = lease.heir.filter(|heir| self.waits_alone(*heir) && self.pending.take(*heir).is_some());
        let Some(id) = heir.or_else(|| queue.pop_first()) else { return };
        let Some(waiter) = self.waiters.get(id) else { return };
        let Waiter { client, lease_ms, bond, kind, .. } = *waiter;
        if kind == Kind::Group {
            groups -= 1;
            self.withdraw(id);
        }
        let grant = self.grant(db_key, Caller { client, wait_ms: 0, lease_ms, bond }, Some(id), now);
        self.stats.handovers += 1;
        if let Some(next) = find_mut(&mut self.flights, grant.db_key.db, &grant.db_key.key) {
            (next.queue, next.groups) = (queue, groups);
        }
        if let Some(touch) = touch {
            self.note(&grant.db_key, touch);
        }
        self.pending.push_one(id, Reply::Won(grant));
    }
}
