//! What the tag index costs, without a server around it.
//!
//! `cargo bench --no-default-features --bench tags` runs all; an argument filters by name. The
//! index holds a million keys of 20 bytes with 3 tags each: one of 1 000, one of 100 000 and one
//! that all of them have. Every measurement is of one call, except where the name says otherwise.
#![allow(missing_docs, clippy::indexing_slicing)]

use cache_guard::engine::tag::{Arrival, KeyId, Standing, TagIndex};
use cache_guard::engine::time::UnixMillis;
use criterion::{criterion_group, criterion_main, Criterion};
use std::hint::black_box;
use std::time::{Duration, Instant};

const KEYS: usize = 1_000_000;
const NOW: UnixMillis = UnixMillis(1_000_000);
const ARRIVAL: Arrival = Arrival { standing: Standing::Live, since: NOW, bytes: 200, now: NOW };
const ALL: &[u8] = b"all";
const SLICE: usize = 100;

/// A number below `max` that looks random.
fn scatter(n: usize, max: usize) -> usize {
    (n as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(32) as usize % max
}

fn insert(index: &mut TagIndex, n: usize) -> KeyId {
    let key = format!("user:{n:07}:profile");
    let (few, many) = (format!("group:{}", n % 1_000), format!("product:{}", scatter(n, 100_000)));
    index.insert(key.as_bytes(), [few.as_bytes(), many.as_bytes(), ALL], ARRIVAL)
}

fn full() -> (TagIndex, Vec<KeyId>) {
    let mut index = TagIndex::new(1);
    let ids = (0..KEYS).map(|n| insert(&mut index, n)).collect();
    (index, ids)
}

/// The time that `times` calls of `measured` take, each after one of `prepare`.
fn timed<T, U>(times: u64, prepare: impl Fn() -> T, measured: impl Fn(&mut T) -> U) -> Duration {
    let time = |_| {
        let mut subject = prepare();
        let begun = Instant::now();
        black_box(measured(black_box(&mut subject)));
        begun.elapsed()
    };
    (0..times).map(time).sum()
}

fn entries(c: &mut Criterion) {
    let (mut index, mut ids) = full();
    let mut n = 0;
    c.bench_function("standing of an entry, 3 tags", |b| {
        b.iter(|| {
            n += 1;
            index.standing(ids[scatter(n, KEYS)])
        });
    });
    c.bench_function("standing of the same entry again, 3 tags", |b| b.iter(|| index.standing(black_box(ids[7]))));
    c.bench_function("remove and insert an entry, 3 tags, names made", |b| {
        b.iter(|| {
            n += 1;
            let at = scatter(n, KEYS);
            index.remove(ids[at]);
            ids[at] = insert(&mut index, at);
        });
    });
    c.bench_function("the names alone", |b| {
        b.iter(|| {
            n += 1;
            let at = scatter(n, KEYS);
            black_box((format!("user:{at:07}:profile"), format!("group:{}", at % 1_000)));
            black_box(format!("product:{}", scatter(at, 100_000)));
        });
    });
    c.bench_function("late write, 1 tag", |b| b.iter(|| index.invalidated_since(black_box(b"group:7"), 0)));
    c.bench_function("scan, 100 keys", |b| {
        let mut cursor = 0;
        b.iter(|| {
            let (next, names) = index.scan(ALL, cursor, 100);
            cursor = next;
            names.len()
        });
    });
}

fn growth(c: &mut Criterion) {
    c.bench_function("insert 1 000 000 entries, 3 tags, names made", |b| b.iter_with_large_drop(full));
}

fn sweep(c: &mut Criterion) {
    c.bench_function("invalidate, 1 000 000 members", |b| {
        b.iter_custom(|times| timed(times, || full().0, |index| index.invalidate(ALL, NOW)));
    });
    c.bench_function("doomed and remove, 100 entries of 1 000 000", |b| {
        let (mut index, _) = full();
        b.iter_custom(|times| {
            let mut spent = Duration::ZERO;
            for _ in 0..times {
                if index.backlog() < SLICE {
                    index = full().0;
                    index.invalidate(ALL, NOW);
                }
                let begun = Instant::now();
                index.doomed(SLICE).into_iter().for_each(|id| index.remove(id));
                spent += begun.elapsed();
            }
            spent
        });
    });
    c.bench_function("invalidate, no members", |b| {
        let (mut index, mut n) = (TagIndex::new(1), 0_u64);
        b.iter(|| {
            n += 1;
            index.invalidate(&n.to_le_bytes(), NOW)
        });
    });
    c.bench_function("shed 1 000 entries of 1 000 000", |b| {
        let mut index = full().0;
        b.iter_custom(|times| {
            let mut spent = Duration::ZERO;
            for _ in 0..times {
                if index.len() < 1_000 {
                    index = full().0;
                }
                let begun = Instant::now();
                index.shed(1_000);
                spent += begun.elapsed();
            }
            spent
        });
    });
}

fn quick() -> Criterion {
    let (warm_up, measure) = (Duration::from_millis(300), Duration::from_secs(1));
    Criterion::default().warm_up_time(warm_up).measurement_time(measure).sample_size(10)
}

criterion_group! { name = tags; config = quick(); targets = entries, sweep, growth }
criterion_main!(tags);
