//! What the lease book has done.

/// Counts since the start of the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseStats {
    /// Leases granted, also by handing over.
    pub leases_granted: u64,
    /// Leases that ended by their deadline.
    pub leases_expired: u64,
    /// Leases their holder gave up.
    pub leases_released: u64,
    /// Leases whose holder reported that the origin failed.
    pub leases_failed: u64,
    /// Leases whose holder's connection closed: bound ones, and those it never heard of.
    pub leases_disconnected: u64,
    /// Leases ended by an invalidation of their key.
    pub leases_voided: u64,
    /// Leases granted ahead of expiry.
    pub early_refreshes: u64,
    /// Leases that passed from one holder to a waiter.
    pub handovers: u64,
    /// Callers that waited.
    pub waits: u64,
    /// Milliseconds they waited, summed when they leave.
    pub wait_ms_total: u64,
    /// Waits that ended by their own deadline.
    pub waits_timed_out: u64,
    /// Waiters answered with a value that they would otherwise have loaded.
    pub loads_avoided: u64,
    /// What those loads would have cost the origin, in milliseconds.
    pub load_ms_avoided: u64,
}
