//! A linear hash set against a set, grown, walked and shrunk.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

impl LinearHashSet {
    fn buckets(&self) -> Vec<&Bucket> {
        match self {
            Self::Few(bucket) => vec![bucket],
            Self::Many(table) => (0..table.buckets).map(|at| table.get(at).expect("a bucket")).collect(),
        }
    }

    pub fn allocated(&self, class: impl Fn(usize) -> usize) -> usize {
        let buckets: usize = self.buckets().iter().map(|bucket| class(bucket.capacity() * size_of::<Member>())).sum();
        let Self::Many(table) = self else { return buckets };
        let rows: usize = table.rows.iter().map(|row| class(row.capacity() * size_of::<Bucket>())).sum();
        buckets + rows + class(table.rows.capacity() * size_of::<Vec<Bucket>>()) + class(size_of::<Table>())
    }

    /// Asserts that every mark is where it is looked for, and that nothing is held in vain.
    pub fn validate(&self) {
        let buckets = self.buckets();
        let n = buckets.len();
        assert!(n > 1 || matches!(self, Self::Few(_)), "a table of one bucket");
        assert!(n == 1 || !buckets[n - 1].is_empty(), "the last bucket is empty");
        assert_eq!(buckets.iter().map(|bucket| bucket.len()).sum::<usize>(), self.len(), "number of members");
        for (at, bucket) in buckets.iter().enumerate() {
            assert!(bucket.iter().all(|member| bucket_of(member.hash, n) == at), "a member in the wrong bucket");
            assert!(bucket.capacity() <= bucket.len() + 2 * step(bucket.len()), "a bucket holds too much");
        }
        assert!(self.len() <= 2 * n * LOAD, "too few buckets");
        assert!(n == 1 || self.len() >= n * LOAD / 4, "too many buckets");
    }
}

/// A hash that looks random and never repeats.
fn member(id: u32) -> Member {
    Member { hash: id.wrapping_mul(0x9E37_79B1).rotate_left(9), id }
}

#[test]
fn it_grows_bucket_by_bucket_and_shrinks_to_nothing() {
    let mut members = LinearHashSet::default();
    for id in 0..20_000 {
        members.insert(member(id));
        if id % 97 == 0 || id < 200 {
            members.validate();
        }
    }
    assert!(members.buckets().len() >= 20_000 / LOAD);
    assert!(!members.remove(member(20_000)));
    for id in 0..20_000 {
        assert_eq!(members.find(member(id).hash, |other| other == id), Some(id));
        assert!(members.remove(member(id)));
        assert_eq!(members.find(member(id).hash, |_| true), None);
        if id % 97 == 0 || id > 19_800 {
            members.validate();
        }
    }
    assert_eq!(members.allocated(|bytes| bytes), 0);
}

#[test]
fn it_is_drained_from_its_first_mark_without_stepping_over_empty_buckets() {
    let mut members = LinearHashSet::default();
    (0..10_000).for_each(|id| members.insert(member(id)));
    for left in (0..10_000).rev() {
        let last = members.buckets().last().map(|bucket| bucket.len());
        assert_ne!(last, Some(0));
        let first = members.iter().next().expect("not empty");
        assert!(members.remove(first));
        assert_eq!(members.len(), left);
    }
    assert_eq!(members.allocated(|bytes| bytes), 0);
}

#[test]
fn marks_of_one_hash_are_all_kept_and_walked() {
    let mut members = LinearHashSet::default();
    (0..1_000).for_each(|id| members.insert(Member { hash: 7, id }));
    let mut seen = Vec::new();
    assert_eq!(members.walk(0, usize::MAX, |id| seen.push(id)), 0);
    seen.sort_unstable();
    assert_eq!(seen, (0..1_000).collect::<Vec<_>>());
    (0..1_000).for_each(|id| assert!(members.remove(Member { hash: 7, id })));
    assert!(members.is_empty());
}

#[test]
fn the_ends_of_buckets_cover_the_order_without_gap_or_overlap() {
    for n in 1..=600_usize {
        let mut ends: Vec<u64> = (0..n).map(|at| end_of(at, n)).collect();
        ends.sort_unstable();
        let mut begin = 0;
        for end in ends {
            let at = bucket_of((begin as u32).reverse_bits(), n);
            assert_eq!(end_of(at, n), end, "bucket {at} of {n}");
            assert_eq!(bucket_of(((end - 1) as u32).reverse_bits(), n), at, "last of bucket {at} of {n}");
            begin = end;
        }
        assert_eq!(begin, 1 << 32);
    }
}

#[test]
fn a_cursor_that_was_never_given_is_harmless() {
    let mut members = LinearHashSet::default();
    (0..100).for_each(|id| members.insert(member(id)));
    assert_eq!(members.walk(1 << 32, 10, |_| panic!("nothing is there")), 0);
    assert_eq!(members.walk(u64::MAX, 10, |_| panic!("nothing is there")), 0);
    members.walk(12_345_678, 0, |_| {});
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// However the set changes between the steps of a walk, what is there all along is
    /// returned exactly once.
    #[test]
    fn a_walk_returns_exactly_once_what_is_there_all_along(
        // Each round: how many are toggled, from where on, and how many the walk is to show.
        rounds in proptest::collection::vec((0..1_500_u32, 0..3_000_u32, 0..200_usize), 1..60)
    ) {
        let mut members = LinearHashSet::default();
        let mut there = BTreeSet::new();
        let (mut cursor, mut always, mut seen) = (0, BTreeSet::new(), BTreeMap::new());
        for (toggled, from, count) in rounds {
            for id in (from..from + toggled).map(|id| id % 3_000) {
                if there.remove(&id) {
                    prop_assert!(members.remove(member(id)));
                    always.remove(&id);
                } else {
                    there.insert(id);
                    members.insert(member(id));
                }
            }
            members.validate();
            prop_assert_eq!(members.iter().map(|member| member.id).collect::<BTreeSet<_>>(), there.clone());
            if cursor == 0 {
                (always, seen) = (there.clone(), BTreeMap::new());
            }
            let mut shown = 0;
            cursor = members.walk(cursor, count, |id| {
                shown += 1;
                *seen.entry(id).or_insert(0) += 1;
                assert!(there.contains(&id));
            });
            prop_assert!(shown <= count + 4 * LOAD, "{} shown for {}", shown, count);
            if cursor == 0 {
                prop_assert!(always.iter().all(|id| seen.get(id) == Some(&1)));
            }
        }
    }
}
