//! When to refresh, as pure functions of a given random number.
//!
//! [`refreshes_early`] is XFetch: Vattani, Chierichetti, Lowenstein, *Optimal Probabilistic Cache
//! Stampede Prevention*, PVLDB 8(8), 2015. Each reader decides alone, and the closer the end and
//! the dearer the load, the likelier it is to refresh ahead of time.

/// The most `JITTER` may be, in percent.
pub const JITTER_PERCENT_MAX: u64 = 50;

/// Whether a reader refreshes a value `left_ms` before the end of its freshness: whether
/// `-cost · beta · ln(unit)` reaches past that end. `cost_ms` is how long a load takes, `beta` > 1
/// favours earlier refreshes, `unit` is uniform in (0, 1].
///
/// A value that costs nothing, or whose freshness has no end, is never refreshed early.
#[must_use]
pub fn refreshes_early(cost_ms: u32, beta: f64, left_ms: Option<u64>, unit: f64) -> bool {
    let Some(left_ms) = left_ms else { return false };
    cost_ms > 0 && -f64::from(cost_ms) * beta * unit.ln() >= left_ms as f64
}

/// `ttl_ms` moved by at most ±`percent` %, evenly: entries that were written together do not expire
/// together. `unit` is uniform in [0, 1). At least 1.
#[must_use]
pub fn jittered(ttl_ms: u64, percent: u64, unit: f64) -> u64 {
    let reach = ttl_ms as f64 * percent.min(JITTER_PERCENT_MAX) as f64 / 100.0;
    let moved = ttl_ms as f64 + (2.0 * unit - 1.0) * reach;
    (moved.round() as u64).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{rngs::StdRng, Rng, SeedableRng};

    #[test]
    fn free_or_endless_values_are_never_refreshed_early() {
        assert!(!refreshes_early(0, 1.0, Some(0), 1e-300));
        assert!(!refreshes_early(u32::MAX, 1e9, None, 1e-300));
        assert!(refreshes_early(1, 1.0, Some(0), 1.0));
    }

    #[test]
    fn jitter_stays_within_its_bounds_and_uses_all_of_them() {
        let mut rng = StdRng::seed_from_u64(1);
        let drawn: Vec<u64> = (0..10_000).map(|_| jittered(1_000, 10, rng.random())).collect();
        assert!(drawn.iter().all(|ms| (900..=1_100).contains(ms)));
        assert!(drawn.iter().any(|ms| *ms < 910) && drawn.iter().any(|ms| *ms > 1_090));
        assert_eq!(jittered(1, 50, 0.0), 1);
        assert_eq!(jittered(777, 0, 0.99), 777);
    }

    /// Pearson's statistic is around `cells`, and beyond this in fewer than one of 10 000 trials.
    fn chi_square_max(cells: usize) -> f64 {
        cells as f64 + 4.0 * (2.0 * cells as f64).sqrt()
    }

    /// The chance that one reader refreshes a value `left_ms` before its end: the formula of the paper.
    fn chance(cost_ms: u32, beta: f64, left_ms: u64) -> f64 {
        (-(left_ms as f64) / (f64::from(cost_ms) * beta)).exp()
    }

    /// How badly the decisions of single readers fit the chances of a load that costs `off` times
    /// as much, and in how many cells.
    fn misfit_of_one(off: f64) -> (f64, usize) {
        const DRAWS: u32 = 20_000;
        let mut rng = StdRng::seed_from_u64(2);
        let (mut statistic, mut cells) = (0.0, 0);
        for (cost_ms, beta) in [(20, 1.0), (300, 1.0), (300, 0.5), (1_000, 2.5)] {
            for tenths in [1, 3, 7, 10, 15, 25, 40] {
                let left_ms = (f64::from(cost_ms) * beta * f64::from(tenths) / 10.0) as u64;
                // As the server draws it.
                let mut decides = || refreshes_early(cost_ms, beta, Some(left_ms), 1.0 - rng.random::<f64>());
                let early = (0..DRAWS).filter(|_| decides()).count() as f64;
                let p = chance(cost_ms, beta * off, left_ms);
                let expected = f64::from(DRAWS) * p;
                statistic += (early - expected).powi(2) / (expected * (1.0 - p));
                cells += 1;
            }
        }
        (statistic, cells)
    }

    #[test]
    fn one_reader_decides_as_likely_as_the_paper_says() {
        let (statistic, cells) = misfit_of_one(1.0);
        assert!(statistic < chi_square_max(cells), "chi-square {statistic} of {cells} cells");
        for off in [0.97, 1.03] {
            let (statistic, cells) = misfit_of_one(off);
            assert!(statistic > 2.0 * chi_square_max(cells), "3 % would not be noticed: {statistic} of {cells} cells");
        }
    }

    /// A key that several readers read at the same steady pace, until the first refreshes it.
    struct Pace {
        cost_ms: u32,
        beta: f64,
        readers: i32,
        every_ms: u64,
        /// How long before the end they begin.
        from_ms: u64,
    }

    impl Pace {
        fn reads(&self) -> impl Iterator<Item = u64> {
            (0..=self.from_ms).rev().step_by(usize::try_from(self.every_ms).unwrap())
        }

        /// At which read the first refreshes one key.
        fn first(&self, rng: &mut StdRng) -> usize {
            let mut any = |left_ms| {
                (0..self.readers)
                    .any(|_| refreshes_early(self.cost_ms, self.beta, Some(left_ms), 1.0 - rng.random::<f64>()))
            };
            self.reads().position(&mut any).expect("at the very end everybody refreshes")
        }

        /// The chance of each read to be the first that refreshes: nobody did before, at any read,
        /// and not all decline now.
        fn chances(&self) -> Vec<f64> {
            let mut nobody_yet = 1.0;
            let chances = self.reads().map(|left_ms| {
                let all_decline = (1.0 - chance(self.cost_ms, self.beta, left_ms)).powi(self.readers);
                let first = nobody_yet * (1.0 - all_decline);
                nobody_yet *= all_decline;
                first
            });
            chances.collect()
        }

        /// How badly `keys` keys fit the chances of another pace, and in how many cells.
        fn misfit(&self, other: &Self, keys: usize) -> (f64, usize) {
            const EXPECTED_MIN: f64 = 25.0;
            let mut rng = StdRng::seed_from_u64(3);
            let chances = other.chances();
            let mut counts = vec![0.0; chances.len()];
            (0..keys).for_each(|_| counts[self.first(&mut rng)] += 1.0);
            let (mut statistic, mut cells, mut count, mut expected) = (0.0, 0, 0.0, 0.0);
            for (at, (seen, chance)) in counts.iter().zip(&chances).enumerate() {
                count += seen;
                expected += chance * keys as f64;
                let rest: f64 = chances[at + 1..].iter().sum::<f64>() * keys as f64;
                if (expected >= EXPECTED_MIN && rest >= EXPECTED_MIN) || at + 1 == chances.len() {
                    statistic += (count - expected) * (count - expected) / expected;
                    (cells, count, expected) = (cells + 1, 0.0, 0.0);
                }
            }
            (statistic, cells - 1)
        }
    }

    #[test]
    fn the_first_of_many_steady_readers_refreshes_when_the_paper_says() {
        const KEYS: usize = 4_000;
        let alone = Pace { cost_ms: 50, beta: 1.0, readers: 1, every_ms: 10, from_ms: 500 };
        let few = Pace { cost_ms: 200, beta: 1.0, readers: 3, every_ms: 40, from_ms: 2_400 };
        let crowd = Pace { cost_ms: 30, beta: 2.0, readers: 50, every_ms: 20, from_ms: 900 };
        for pace in [alone, few, crowd] {
            let (statistic, cells) = pace.misfit(&pace, KEYS);
            assert!(cells > 10 && statistic < chi_square_max(cells), "chi-square {statistic} of {cells} cells");
            let dearer = Pace { beta: pace.beta * 1.1, ..pace };
            let (statistic, cells) = pace.misfit(&dearer, KEYS);
            assert!(statistic > chi_square_max(cells), "10 % would not be noticed: {statistic} of {cells} cells");
        }
    }
}
