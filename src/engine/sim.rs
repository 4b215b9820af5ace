//! The seeded simulator: hundreds of small histories, each compared at every step with a model.
//!
//! [`action`] draws what happens (many connections, plain commands behind the engine's back, dying
//! holders, lost answers, a leaping clock), [`world`] lets it happen to a lease book, and [`model`]
//! says in the plainest way what the book must then hold. Checked after every step: at most one
//! live lease a key; every waiter is answered exactly once, oldest first, and nobody waits for
//! ever; nobody wins while another holds a live lease, nor waits for itself; no value is older than
//! the question it answers; nothing due is left undone; the counts add up; and the book's own
//! invariants.
//!
//! A history is a function of its seed alone. When one fails, it runs again, and its last actions
//! are printed; `CACHE_GUARD_SIM_SEED=n cargo test sim` (read when compiling: cargo rebuilds)
//! replays it alone. Property tests with shrinking were rejected: a history here is cheaper to
//! replay than to shrink, and its length is what finds the errors.

mod action;
mod model;
mod race;
mod world;

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;
use std::panic::{catch_unwind, AssertUnwindSafe};
use world::{Event, World};

const STEPS: usize = 2_000;
const SEEDS_A_PART: u64 = 150;
const ACTIONS_SHOWN: usize = 30;
/// How often each event must come about in a part, or the search is not worth its name.
const EVENTS_MIN: u64 = 10;

/// One history. `trace`, if wanted, keeps its last actions.
fn run(seed: u64, mut trace: Option<&mut VecDeque<String>>) -> BTreeMap<Event, u64> {
    let mut world = World::new(seed);
    for step in 1..=STEPS {
        let action = world.draw();
        if let Some(trace) = &mut trace {
            if trace.len() == ACTIONS_SHOWN {
                trace.pop_front();
            }
            trace.push_back(format!("{step:>5} at {:>8} ms: {action:?}", world.now().0));
        }
        world.act(action);
    }
    if let Some(trace) = &mut trace {
        trace.push_back(format!("  end at {:>8} ms", world.now().0));
    }
    world.end();
    world.seen
}

/// [`run`], and what led there if it fails.
fn run_or_tell(seed: u64) -> BTreeMap<Event, u64> {
    catch_unwind(|| run(seed, None)).unwrap_or_else(|_| {
        let mut trace = VecDeque::new();
        let again = catch_unwind(AssertUnwindSafe(|| run(seed, Some(&mut trace))));
        assert!(again.is_err(), "seed {seed} failed and then did not: the engine is not deterministic");
        trace.iter().for_each(|line| eprintln!("{line}"));
        panic!("the simulator fails with CACHE_GUARD_SIM_SEED={seed}");
    })
}

/// Runs part `part` of histories, `seeds` each, or the one that is asked for; each of `events` must have
/// come about often enough. For every simulator whose histories are a function of their seed.
pub(in crate::engine) fn search<E: Copy + Ord + Debug>(
    part: u64,
    seeds: u64,
    events: &[E],
    run: impl Fn(u64) -> BTreeMap<E, u64>,
) {
    if let Some(seed) = option_env!("CACHE_GUARD_SIM_SEED") {
        if part == 0 {
            run(seed.parse().expect("CACHE_GUARD_SIM_SEED is a number"));
        }
        return;
    }
    let mut total = BTreeMap::new();
    for seed in part * seeds..(part + 1) * seeds {
        for (event, count) in run(seed) {
            *total.entry(event).or_insert(0) += count;
        }
    }
    let often = |event: &E| total.get(event).is_some_and(|&count| count >= EVENTS_MIN);
    let missed: Vec<_> = events.iter().filter(|event| !often(event)).collect();
    assert!(missed.is_empty(), "the search misses {missed:?} of {total:?}");
}

fn run_part(part: u64) {
    search(part, SEEDS_A_PART, Event::ALL, run_or_tell);
}

// In parts, so that they run side by side.

#[test]
fn every_history_keeps_the_contract_part_0() {
    run_part(0);
}

#[test]
fn every_history_keeps_the_contract_part_1() {
    run_part(1);
}

#[test]
fn every_history_keeps_the_contract_part_2() {
    run_part(2);
}

#[test]
fn every_history_keeps_the_contract_part_3() {
    run_part(3);
}
