//! What the engine's decisions cost, without a server around them.
//!
//! `cargo bench --no-default-features` runs all; an argument filters by name. Every measurement is
//! of one decision, except where the name says for how many it decides.
#![allow(missing_docs)]

use cache_guard::engine::cache::codec::{decode, encode, ENCODING_VERSION};
use cache_guard::engine::cache::entry::{Carried, Entry, Meta};
use cache_guard::engine::cache::freshness::refreshes_early;
use cache_guard::engine::cache::leases::{Asked, Caller, Leases, Served, Token};
use cache_guard::engine::cache::plain::known::{undescribed, Known, Name};
use cache_guard::engine::codec::{Sink, Source};
use cache_guard::engine::id::{Bond, ClientId, WaiterId};
use cache_guard::engine::time::MonoMillis;
use criterion::{criterion_group, criterion_main, BatchSize, Criterion};
use std::hint::black_box;
use std::rc::Rc;
use std::time::{Duration, Instant};

const CROWD: u64 = 10_000;
const LEASE_MS: u64 = 10_000;
const NOW: MonoMillis = MonoMillis(1_000_000);
const KEY: &[u8] = b"user:1234567:profile";

fn new_book() -> Leases {
    let mut drawn = 0;
    Leases::new(move || {
        drawn += 1;
        Token(drawn)
    })
}

fn caller(client: u64) -> Caller {
    Caller { client: ClientId(client), wait_ms: u64::MAX, lease_ms: LEASE_MS, bond: Bond::Free }
}

fn ask(leases: &mut Leases, key: &[u8], client: u64, now: MonoMillis) -> Asked {
    leases.ask(0, key, caller(client), usize::MAX, now)
}

/// A leases in which one client regenerates the key and `waiters` wait for it.
fn crowded(waiters: u64) -> Leases {
    let mut leases = new_book();
    for client in 0..=waiters {
        ask(&mut leases, KEY, client, NOW);
    }
    leases
}

fn value() -> Rc<[u8]> {
    [b'v'; 100][..].into()
}

fn served() -> Served {
    Served { value: value(), fresh_until: None }
}

fn lease(c: &mut Criterion) {
    let mut alone = new_book();
    c.bench_function("ask and settle, no other lease out", |b| {
        b.iter(|| {
            black_box(ask(&mut alone, KEY, 1, NOW));
            alone.settle(0, KEY, served, NOW);
        });
    });
    let mut busy = new_book();
    for n in 0..CROWD {
        ask(&mut busy, format!("other:{n}").as_bytes(), 1, NOW);
    }
    c.bench_function("ask and settle, 10 000 other leases out", |b| {
        b.iter(|| {
            black_box(ask(&mut busy, KEY, 1, NOW));
            busy.settle(0, KEY, served, NOW);
        });
    });
    c.bench_function("hand over the lease of 10 000 waiters, deliver, wait again", |b| {
        let (mut leases, mut now, mut client) = (crowded(CROWD), NOW, CROWD);
        b.iter(|| {
            now = now.after(LEASE_MS);
            leases.expire_next(now);
            black_box(leases.next_reply(now));
            client += 1;
            ask(&mut leases, KEY, client, now)
        });
    });
}

fn crowd(c: &mut Criterion) {
    c.bench_function("park the 10 000th waiter", |b| {
        let mut leases = crowded(CROWD - 1);
        b.iter_custom(|times| {
            let mut spent = Duration::ZERO;
            for n in 0..times {
                let begun = Instant::now();
                let asked = black_box(ask(&mut leases, KEY, CROWD + n, NOW));
                spent += begun.elapsed();
                if let Asked::Blocked(id) = asked {
                    leases.leave(id, NOW);
                }
            }
            spent
        });
    });
    c.bench_function("a waiter in the midst of 10 000 leaves, another comes", |b| {
        let mut leases = crowded(CROWD - 1);
        let mut newest = CROWD - 1;
        b.iter(|| {
            leases.leave(WaiterId(newest - CROWD / 2), NOW);
            if let Asked::Blocked(WaiterId(id)) = ask(&mut leases, KEY, CROWD + newest, NOW) {
                newest = id;
            }
        });
    });
    c.bench_function("settle 10 000 waiters", |b| {
        let settle = |mut leases: Leases| {
            leases.settle(0, KEY, served, NOW);
            leases
        };
        b.iter_batched(|| crowded(CROWD), settle, BatchSize::PerIteration);
    });
    c.bench_function("deliver 10 000 answers", |b| {
        let settled = || {
            let mut leases = crowded(CROWD);
            leases.settle(0, KEY, served, NOW);
            leases
        };
        let deliver = |mut leases: Leases| {
            while let Some(answer) = leases.next_reply(NOW) {
                black_box(answer);
            }
            leases
        };
        b.iter_batched(settled, deliver, BatchSize::PerIteration);
    });
}

fn holder(c: &mut Criterion) {
    let mut leases = new_book();
    let Asked::Won(grant) = ask(&mut leases, KEY, 1, NOW) else { return };
    c.bench_function("renew a lease", |b| b.iter(|| leases.renew(0, KEY, black_box(grant.token), LEASE_MS, NOW)));
    c.bench_function("settle 1 000 who wait for 10 keys each", |b| {
        let names: Vec<String> = (0..10).map(|n| format!("user:{n}")).collect();
        let keys: Vec<&[u8]> = names.iter().map(|name| name.as_bytes()).collect();
        let waiting = || {
            let mut leases = new_book();
            keys.iter().for_each(|key| drop(ask(&mut leases, key, 0, NOW)));
            for client in 1..=1_000 {
                leases.wait_for_all(0, &keys, caller(client), usize::MAX, NOW);
            }
            leases
        };
        let settle = |mut leases: Leases| {
            keys.iter().for_each(|key| leases.settle(0, key, served, NOW));
            leases
        };
        b.iter_batched(waiting, settle, BatchSize::PerIteration);
    });
    c.bench_function("decide on an early refresh", |b| {
        b.iter(|| refreshes_early(black_box(120), black_box(1.0), black_box(Some(5_000)), black_box(0.3)));
    });
}

fn watch(c: &mut Criterion) {
    const NAMES: [&[u8]; 4] = [b"GET", b"SET", b"HGETALL", b"XADD"];
    let mut known = Known::default();
    for name in NAMES.iter().filter_map(|name| Name::new(name)) {
        known.insert(name.as_bytes(), undescribed(name.as_bytes()), Vec::new());
    }
    for name in NAMES {
        let title = format!("the kind of {}", String::from_utf8_lossy(name));
        let kind = |name| Name::new(name).and_then(|name| known.get(name.as_bytes()));
        c.bench_function(&title, |b| b.iter(|| kind(black_box(name))));
    }
}

/// A payload as plain bytes: lengths and numbers in eight each.
struct Payload(Vec<u8>);
struct Cursor<'a>(&'a [u8]);

impl Sink for Payload {
    fn put_unsigned(&mut self, value: u64) {
        self.0.extend(value.to_le_bytes());
    }
    fn put_bytes(&mut self, bytes: &[u8]) {
        self.put_unsigned(bytes.len() as u64);
        self.0.extend(bytes);
    }
}

impl Source for Cursor<'_> {
    fn take_unsigned(&mut self) -> Option<u64> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*number))
    }
    fn take_bytes<T>(&mut self, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
        let length = usize::try_from(self.take_unsigned()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(read(bytes))
    }
}

fn codec(c: &mut Criterion) {
    let entry = Entry::new(&value(), Meta { stale_ms: 60_000, version: 7, cost_ms: 120 });
    let mut payload = Payload(Vec::with_capacity(1_000));
    c.bench_function("encode an entry of 100 B", |b| {
        b.iter(|| {
            payload.0.clear();
            encode(black_box(&entry), &Carried::default(), &mut payload);
        });
    });
    c.bench_function("decode an entry of 100 B", |b| {
        b.iter(|| decode(ENCODING_VERSION, &mut Cursor(black_box(&payload.0))));
    });
}

fn quick() -> Criterion {
    let (warm_up, measure) = (Duration::from_millis(300), Duration::from_secs(1));
    Criterion::default().warm_up_time(warm_up).measurement_time(measure).sample_size(20)
}

criterion_group! { name = engine; config = quick(); targets = lease, crowd, holder, watch, codec }
criterion_main!(engine);
