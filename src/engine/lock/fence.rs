//! Fencing numbers: each grant has a higher one than all before it.
//!
//! A holder that was paused past its deadline does not know that it lost the lock. So it shows its
//! number to the resource it writes to, which refuses a number lower than one it has seen.
//!
//! The next number is the higher of *the last one issued or seen, plus one* and *the time in
//! microseconds*. The first keeps the order while anything is remembered: every value that is
//! loaded, restored or replicated here is seen. The second keeps it when nothing is: after a
//! restart without persistence, or a failover to a replica that had not heard of the last grants,
//! time has passed that no grant could have used up. A server that starts, and a replica that
//! becomes a primary, begins [`HEAD_START_US`] ahead: as far as a client may have pushed its predecessor
//! ahead of the clock, and then as much again as their clocks may differ by ([`SKEW_US`]).
//!
//! Microseconds since 1970 fit in 53 bits, the integers that JavaScript can tell apart, until 2255.
//!
//! Rejected: a counter in the value, as it starts over when the key is deleted; a counter under a
//! key of its own, as it is lost with the data set and evicted before it.

use super::super::time::{UnixMillis, DURATION_MS_MAX};

/// The highest number there is: 2⁵³ − 1.
pub const FENCE_MAX: u64 = (1 << 53) - 1;
/// How far clocks may differ, in microseconds: a minute.
const SKEW_US: u64 = 60_000_000;
/// How far ahead of the clock a client may ask for a number, in microseconds.
const AHEAD_US: u64 = 60_000_000;
/// How far ahead of its clock a server begins, in microseconds.
const HEAD_START_US: u64 = AHEAD_US + SKEW_US;
const US_PER_MS: u64 = 1_000;

/// The source of fencing numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fences {
    last: u64,
    /// Where this server began, if it did.
    begun: u64,
}

impl Fences {
    /// The next number, at least `at_least`; `None` once they are used up.
    pub fn next(&mut self, now: UnixMillis, at_least: u64) -> Option<u64> {
        let fence = (self.last + 1).max(now.0.saturating_mul(US_PER_MS)).max(at_least);
        (fence <= FENCE_MAX).then(|| {
            self.last = fence;
            fence
        })
    }

    /// A value with this number came to be known: all that are issued from now on are higher.
    pub fn see(&mut self, fence: u64) {
        self.last = self.last.max(fence.min(FENCE_MAX));
    }

    /// This server begins to issue numbers, after another or after itself.
    pub fn begin(&mut self, now: UnixMillis) {
        self.begun = now.0.saturating_mul(US_PER_MS).saturating_add(HEAD_START_US);
        self.see(self.begun);
    }

    /// The highest number issued or seen: the next one is higher.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.last
    }

    /// True if a client may ask for `fence`: a minute ahead of the clock at most, so that a restart that
    /// remembers nothing still surpasses it, or the very next number. A server that has just begun is
    /// ahead of its clock by itself; there it is a minute ahead of the number it began with, so that
    /// servers that were started together can agree on a number.
    #[must_use]
    pub fn admits(&self, fence: u64, now: UnixMillis) -> bool {
        let here = now.0.saturating_mul(US_PER_MS).max(self.begun);
        fence <= here.saturating_add(AHEAD_US).max(self.last.saturating_add(1))
    }

    /// True if a number in a payload is at most ten years ahead: one `RESTORE` shall not use up the
    /// numbers of two centuries. A cluster whose clocks differ must be able to move its locks.
    #[must_use]
    pub fn is_plausible(fence: u64, now: UnixMillis) -> bool {
        fence <= now.after(DURATION_MS_MAX).0.saturating_mul(US_PER_MS).min(FENCE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const T0: u64 = 1_800_000_000_000;

    #[test]
    fn a_clock_set_back_does_not_set_numbers_back() {
        let mut fences = Fences::default();
        let first = fences.next(UnixMillis(T0), 0);
        let second = fences.next(UnixMillis(T0 - 3_600_000), 0);
        assert_eq!(first, Some(T0 * 1_000));
        assert_eq!(second, Some(T0 * 1_000 + 1));
        assert_eq!(fences.next(UnixMillis(T0 + 1), 0), Some(T0 * 1_000 + 1_000));
    }

    #[test]
    fn what_was_seen_or_asked_for_is_surpassed() {
        let mut fences = Fences::default();
        fences.see(T0 * 1_000 + 500);
        assert_eq!(fences.next(UnixMillis(T0), 0), Some(T0 * 1_000 + 501));
        assert_eq!(fences.next(UnixMillis(T0), T0 * 1_000 + 900), Some(T0 * 1_000 + 900));
        assert_eq!(fences.next(UnixMillis(T0), 1), Some(T0 * 1_000 + 901), "asking for less changes nothing");
    }

    #[test]
    fn whatever_a_client_may_ask_for_is_surpassed_after_a_restart_with_a_clock_that_is_behind() {
        let mut fences = Fences::default();
        fences.begin(UnixMillis(T0));
        let now = UnixMillis(T0 + 120_000);
        let most = (0..200_000_000).step_by(1_000_000).map(|ahead| now.0 * 1_000 + ahead);
        let most = most.filter(|fence| fences.admits(*fence, now)).max().unwrap();
        assert_eq!(most, (now.0 + 60_000) * 1_000);
        let before = fences.next(now, most).unwrap();
        let mut restarted = Fences::default();
        restarted.begin(UnixMillis(now.0 - 59_999));
        assert!(restarted.next(UnixMillis(now.0 - 59_999), 0).unwrap() > before);
    }

    #[test]
    fn servers_that_were_started_together_agree_on_a_number() {
        let (mut one, mut other) = (Fences::default(), Fences::default());
        one.begin(UnixMillis(T0));
        other.begin(UnixMillis(T0 + 30_000));
        let number = other.next(UnixMillis(T0 + 30_001), 0).unwrap();
        assert!(one.admits(number, UnixMillis(T0 + 1)));
        assert_eq!(one.next(UnixMillis(T0 + 1), number), Some(number));
    }

    #[test]
    fn the_last_number_is_issued_and_none_after_it() {
        let mut fences = Fences::default();
        fences.see(FENCE_MAX - 1);
        assert_eq!(fences.next(UnixMillis(T0), 0), Some(FENCE_MAX));
        assert_eq!(fences.next(UnixMillis(T0), 0), None);
        assert_eq!(fences.last(), FENCE_MAX);
        fences.see(u64::MAX);
        assert_eq!(fences.next(UnixMillis(u64::MAX), 0), None);
    }

    #[test]
    fn numbers_last_until_the_year_2255() {
        let in_2255 = UnixMillis(9_000_000_000_000);
        assert!(Fences::default().next(in_2255, 0).is_some());
        assert!(Fences::is_plausible(T0 * 1_000 + HEAD_START_US, UnixMillis(T0)));
        assert!(!Fences::is_plausible(FENCE_MAX, UnixMillis(T0)));
        assert!(!Fences::is_plausible(FENCE_MAX + 1, UnixMillis(u64::MAX)));
    }

    #[test]
    fn a_client_may_ask_for_what_a_restart_would_surpass() {
        let mut fences = Fences::default();
        let ahead = T0 * 1_000 + AHEAD_US;
        assert!(fences.admits(ahead, UnixMillis(T0)) && !fences.admits(ahead + 1, UnixMillis(T0)));
        fences.see(ahead + 70);
        assert!(fences.admits(ahead + 71, UnixMillis(T0)) && !fences.admits(ahead + 72, UnixMillis(T0)));
    }

    #[derive(Clone, Copy, Debug)]
    enum Turn {
        Grant,
        Pass(u64),
        /// The clock of the server that runs is set back, and it runs on.
        SetBack(u64),
        /// A client asks for a number that is so far ahead of the server's own clock.
        Ask(u64),
        /// It starts anew and remembers nothing; its clock is behind by so much.
        Restart(u64),
        /// A replica takes over that saw only the numbers up to so many grants ago.
        Failover(usize, u64),
    }

    fn turn() -> impl Strategy<Value = Turn> {
        prop_oneof![
            4 => Just(Turn::Grant),
            2 => (0..=AHEAD_US).prop_map(Turn::Ask),
            2 => (1..100_000u64).prop_map(Turn::Pass),
            1 => (1..1_000_000u64).prop_map(Turn::SetBack),
            1 => (0..60_000u64).prop_map(Turn::Restart),
            1 => (0..5usize, 0..60_000u64).prop_map(|(lag, skew)| Turn::Failover(lag, skew)),
        ]
    }

    proptest! {
        /// Whoever takes over does so after its predecessor ran for longer than their clocks differ.
        #[test]
        fn numbers_rise_through_restarts_and_failovers(turns in proptest::collection::vec(turn(), 0..60)) {
            let (mut fences, mut now, mut behind, mut ran) = (Fences::default(), T0, 0, 0u64);
            fences.begin(UnixMillis(now));
            let mut issued = Vec::new();
            for turn in turns {
                match turn {
                    Turn::Grant => {
                        let fence = fences.next(UnixMillis(now - behind), 0).unwrap();
                        prop_assert!(issued.last().is_none_or(|last| *last < fence));
                        prop_assert!(fence < FENCE_MAX);
                        issued.push(fence);
                    }
                    Turn::Ask(ahead) => {
                        let (here, at) = (UnixMillis(now - behind), (now - behind) * 1_000 + ahead);
                        prop_assert!(fences.admits(at, here));
                        let fence = fences.next(here, at).unwrap();
                        prop_assert!(fence >= at && issued.last().is_none_or(|last| *last < fence));
                        issued.push(fence);
                    }
                    Turn::Pass(ms) => {
                        now += ms;
                        ran += ms;
                    }
                    Turn::SetBack(ms) => behind = ms,
                    Turn::Restart(skew) | Turn::Failover(_, skew) => {
                        now += 60_001u64.saturating_sub(ran);
                        let lag = if let Turn::Failover(lag, _) = turn { lag } else { issued.len() };
                        fences = Fences::default();
                        issued.iter().rev().nth(lag).iter().for_each(|fence| fences.see(**fence));
                        (behind, ran) = (skew, 0);
                        fences.begin(UnixMillis(now - behind));
                    }
                }
            }
        }
    }
}
