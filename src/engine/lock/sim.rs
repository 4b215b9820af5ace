//! The seeded simulator of locks: hundreds of small histories, everything checked at every step.
//!
//! [`world`] is a server in small: connections that ask, wait and die, a keyspace that plain
//! commands change behind the book's back, a replica that lags, a clock that is set back. [`check`]
//! says what must hold after each step, from what the world itself saw and in the plainest way:
//!
//! - two exclusive holders, a reader beside a writer or more than n of n permits are never live;
//! - numbers rise from grant to grant, through restarts without persistence and failovers;
//! - grants follow the order of arrival, newcomers never overtake, and nobody waits for a lock that
//!   could be granted;
//! - who was granted a lock holds it until its deadline, unless it gave it up, its key went, or its
//!   connection closed; and no longer than that;
//! - each waiter gets exactly one answer;
//! - the changes applied to a replica make the same value.
//!
//! A history is a function of its seed alone: `CACHE_GUARD_SIM_SEED=n cargo test lock::sim` (read
//! when compiling) replays one.

mod belief;
mod check;
mod event;
mod fault;
mod keyspace;
mod world;

use crate::engine::sim::search;
use event::Event;
use std::collections::BTreeMap;
use std::panic::catch_unwind;
use world::World;

const STEPS: usize = 1_500;
const SEEDS_A_PART: u64 = 200;

fn run(seed: u64) -> BTreeMap<Event, u64> {
    catch_unwind(|| {
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            world.act();
        }
        world.seen
    })
    .unwrap_or_else(|_| panic!("the simulator fails with CACHE_GUARD_SIM_SEED={seed}"))
}

fn run_part(part: u64) {
    search(part, SEEDS_A_PART, &Event::ALL, run);
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
