//! Examples, and histories drawn from a seed that are compared step by step with `model`.

use super::model::{Model, Name};
use super::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

mod leased;
mod race;
mod size;

const NOW: UnixMillis = UnixMillis(1_000);
const LIVE: Arrival = Arrival { standing: Standing::Live, since: UnixMillis(0), bytes: 100, now: NOW };

/// A history is drawn from these.
#[derive(Clone, Copy)]
struct Scale {
    keys: usize,
    tags: usize,
    tags_a_key: usize,
    steps: usize,
    /// Every so many steps all is compared.
    compare_every: usize,
    recent_max: usize,
    kept_max: usize,
}

const SMALL: Scale =
    Scale { keys: 24, tags: 7, tags_a_key: 4, steps: 1_500, compare_every: 1, recent_max: 4, kept_max: 2 };
const LARGE: Scale =
    Scale { keys: 1_500, tags: 4, tags_a_key: 3, steps: 6_000, compare_every: 500, recent_max: 100, kept_max: 0 };

/// A walk that is under way, over the keys of a tag or over all tags.
struct Walk {
    tag: Option<Name>,
    cursor: u64,
    /// Who has been there all along.
    always: BTreeSet<Name>,
    seen: BTreeSet<Name>,
}

struct World {
    scale: Scale,
    rng: StdRng,
    index: TagIndex,
    model: Model,
    walks: Vec<Walk>,
    walked: usize,
    now: u64,
}

fn key(n: usize) -> Name {
    format!("key:{n}").into_bytes()
}

fn tag(n: usize) -> Name {
    format!("tag:{n}").into_bytes()
}

fn insert(index: &mut TagIndex, key: &[u8], tags: &[&[u8]]) -> KeyId {
    index.insert(key, tags.iter().copied(), LIVE)
}

impl World {
    fn new(seed: u64, scale: Scale) -> Self {
        let (recent_max, kept_max) = (scale.recent_max, scale.kept_max);
        let (index, model) = (TagIndex::with_limits(recent_max, kept_max), Model::new(recent_max, kept_max));
        let rng = StdRng::seed_from_u64(seed);
        Self { scale, rng, index, model, walks: Vec::new(), walked: 0, now: 0 }
    }

    fn key(&mut self) -> Name {
        key(self.rng.random_range(0..self.scale.keys))
    }

    fn tag(&mut self) -> Name {
        tag(self.rng.random_range(0..self.scale.tags))
    }

    fn now(&mut self) -> UnixMillis {
        self.now += self.rng.random_range(0..5);
        UnixMillis(self.now)
    }

    /// Stores a key as SETSM does, on top of what is there.
    fn store(&mut self, key: &[u8], standing: Standing, since: UnixMillis) {
        let count = self.rng.random_range(0..=self.scale.tags_a_key);
        let tags: Vec<Name> = (0..count).map(|_| self.tag()).collect();
        let arrival = Arrival { standing, since, bytes: self.rng.random_range(0..1_000), now: self.now() };
        let names = tags.iter().map(|tag| &**tag);
        let old = self.model.entries.get(key).map(|entry| entry.id);
        if self.rng.random_bool(0.5) {
            let id = self.index.insert(key, names, arrival);
            old.into_iter().for_each(|old| self.index.remove(old));
            // The same to the model: what is there meanwhile keeps its tags.
            let shadow = b"shadow";
            self.model.insert(shadow, &tags, arrival, id);
            self.model.remove(key);
            let entry = self.model.entries.remove(&shadow[..]).expect("just stored");
            self.model.entries.insert(key.to_vec(), entry);
        } else {
            old.into_iter().for_each(|old| self.index.remove(old));
            self.model.remove(key);
            let id = self.index.insert(key, names, arrival);
            self.model.insert(key, &tags, arrival, id);
        }
    }

    fn remove(&mut self, key: &[u8]) {
        if let Some(entry) = self.model.entries.get(key) {
            self.index.remove(entry.id);
            self.model.remove(key);
        }
    }

    fn rename(&mut self) {
        let (from, to) = (self.key(), self.key());
        let Some(entry) = self.model.entries.get(&from) else { return };
        let (standing, since) = (self.index.standing(entry.id), self.index.stale_since(entry.id));
        self.remove(&from);
        self.store(&to, standing, since);
    }

    /// Deletes some of the doomed, as the sweep does.
    fn sweep(&mut self, n: usize) {
        for id in self.index.doomed(n) {
            let name = self.index.key(id).expect("the doomed are there").to_vec();
            self.remove(&name);
        }
    }

    fn tidy(&mut self, n: usize) {
        self.model.tidy(n);
        while self.index.tidy(n) && self.rng.random_bool(0.8) {
            self.model.tidy(n);
        }
    }

    fn retag(&mut self) {
        let (key, tag, now) = (self.key(), self.tag(), self.now());
        let Some(entry) = self.model.entries.get(&key) else { return };
        let (id, count) = (entry.id, entry.tags());
        if self.rng.random_bool(0.5) && count < TAGS_PER_ENTRY_MAX {
            assert_eq!(self.index.add(id, &tag, now), self.model.add(&key, &tag, now));
        } else {
            assert_eq!(self.index.take(id, &tag), self.model.take(&key, &tag));
        }
    }

    /// What a user does who may change every other key.
    fn single(&mut self, now: UnixMillis) {
        let (one, other, parity, kills) = (self.tag(), self.tag(), self.rng.random_range(0..2), self.rng.random());
        let ids = self.index.members([&*one, &*other].into_iter());
        assert_eq!(ids.len(), self.model.live_under(&[&one, &other]).len(), "members of {one:?} and {other:?}");
        for id in ids {
            let key = self.index.key(id).expect("it is there").to_vec();
            if key.iter().map(|byte| usize::from(*byte)).sum::<usize>() % 2 != parity {
                continue;
            }
            if kills {
                assert!(self.index.kill(id) && !self.index.kill(id) && !self.index.age(id, now));
                self.model.kill(&key);
            } else {
                assert!(self.index.age(id, now));
                self.model.age(&key, now);
            }
        }
    }

    fn step(&mut self) {
        let rare = if self.scale.keys > 100 { 60 } else { 1 };
        let (tag, key, now) = (self.tag(), self.key(), self.now());
        match self.rng.random_range(0..100) {
            0..40 => self.store(&key, Standing::Live, now),
            40..50 => self.remove(&key),
            50..53 => self.rename(),
            53..55 => self.single(now),
            55..67 => self.retag(),
            67..72 => {
                let n = self.rng.random_range(0..8);
                self.sweep(n);
            }
            72..77 => {
                let n = self.rng.random_range(0..6);
                self.tidy(n);
            }
            77..80 => {
                let floor = self.model.sequence.saturating_sub(self.rng.random_range(0..12));
                self.model.floor = self.model.floor.max(floor);
                self.index.forget_before(floor);
            }
            80..84 => {
                let standing = [Standing::Live, Standing::Stale, Standing::Dead][self.rng.random_range(0..3)];
                self.store(&key, standing, UnixMillis(now.0 / 2));
            }
            _ if self.rng.random_range(0..rare) > 0 => self.store(&key, Standing::Live, now),
            84..90 => assert_eq!(self.index.invalidate(&tag, now), self.model.invalidate(&tag, now)),
            90..96 => assert_eq!(self.index.mark_stale(&tag, now), self.model.mark_stale(&tag, now)),
            _ => assert_eq!(self.index.forget(&tag), self.model.forget(&tag)),
        }
        self.keep_walks();
        if self.rng.random_bool(0.3) {
            self.walk();
        }
    }

    /// Who is not there any more need not be found.
    fn keep_walks(&mut self) {
        if self.walks.is_empty() {
            return;
        }
        let inhabited = self.model.inhabited();
        for walk in &mut self.walks {
            let entries = &self.model.entries;
            match &walk.tag {
                Some(tag) => walk.always.retain(|key| entries.get(key).is_some_and(|entry| entry.is_live_under(tag))),
                None => walk.always.retain(|tag| inhabited.contains(tag)),
            }
        }
    }

    fn walk(&mut self) {
        if self.walks.len() < 3 {
            let tag = self.rng.random_bool(0.8).then(|| self.tag());
            let always = match &tag {
                Some(tag) => {
                    let live = self.model.entries.iter().filter(|(_, entry)| entry.is_live_under(tag));
                    live.map(|(key, _)| key.clone()).collect()
                }
                None => self.model.inhabited(),
            };
            self.walks.push(Walk { tag, cursor: 0, always, seen: BTreeSet::new() });
        }
        let at = self.rng.random_range(0..self.walks.len());
        let count = self.rng.random_range(0..50);
        let walk = &mut self.walks[at];
        let (cursor, found) = match &walk.tag {
            Some(tag) => self.index.scan(tag, walk.cursor, count),
            None => self.index.list(walk.cursor, count),
        };
        walk.cursor = cursor;
        for name in found {
            assert!(walk.seen.insert(name.to_vec()), "{name:?} twice in a walk");
            if let Some(tag) = &walk.tag {
                assert!(self.model.entries[name].is_live_under(tag), "{name:?} is not live");
            }
        }
        if cursor == 0 {
            assert!(walk.always.is_subset(&walk.seen), "a walk has missed one");
            self.walks.swap_remove(at);
            self.walked += 1;
        }
    }

    fn compare(&self) {
        self.index.validate();
        let tags: Vec<Name> = (0..=self.scale.tags).map(tag).collect();
        self.model.compare(&self.index, &tags);
    }

    fn run(mut self) {
        for step in 0..self.scale.steps {
            self.step();
            if step % self.scale.compare_every == 0 {
                self.compare();
            }
        }
        self.compare();
        assert!(self.walked > 5, "walks come to an end");
        while self.index.shed(self.rng.random_range(1..100)) {
            self.index.validate();
        }
        assert_eq!(self.index.allocated(), 0, "an empty index holds memory");
    }
}

fn run_seeds(seeds: std::ops::Range<u64>, scale: Scale) {
    for seed in seeds {
        let ran = std::panic::catch_unwind(|| World::new(seed, scale).run());
        assert!(ran.is_ok(), "seed {seed} fails");
    }
}

#[test]
fn small_histories_agree_with_the_model_part_0() {
    run_seeds(0..10, SMALL);
}

#[test]
fn small_histories_agree_with_the_model_part_1() {
    run_seeds(20..30, SMALL);
}

#[test]
fn histories_that_remember_little_agree_with_the_model() {
    run_seeds(40..45, Scale { recent_max: 0, kept_max: 0, ..SMALL });
    run_seeds(50..55, Scale { recent_max: 1, tags: 20, ..SMALL });
}

#[test]
fn large_histories_agree_with_the_model() {
    run_seeds(60..62, LARGE);
}

#[test]
fn a_history_follows_from_its_seed() {
    let run = || {
        let mut world = World::new(7, SMALL);
        (0..1_000).for_each(|_| world.step());
        format!("{:?}", world.index)
    };
    assert_eq!(run(), run());
}

#[test]
fn an_invalidated_entry_is_dead_until_it_is_stored_anew() {
    let mut index = TagIndex::default();
    let old = insert(&mut index, b"k", &[b"a", b"b", b"a"]);
    assert_eq!(index.names(old).collect::<Vec<_>>(), [b"a", b"b"]);
    assert_eq!(index.invalidate(b"b", NOW), 1);
    assert_eq!((index.standing(old), index.backlog()), (Standing::Dead, 1));
    assert_eq!((index.count(b"a"), index.keys(b"a").count()), (1, 0));
    index.remove(old);
    assert_eq!((index.standing(old), index.key(old)), (Standing::Dead, None));
    let new = insert(&mut index, b"k", &[b"a", b"b"]);
    assert_eq!((index.standing(new), index.backlog()), (Standing::Live, 0));
    assert_eq!(index.scan(b"b", 0, 10), (0, vec![&b"k"[..]]));
}

#[test]
fn a_number_that_is_used_again_is_not_confused_with_the_dead() {
    let mut index = TagIndex::default();
    let dead = insert(&mut index, b"dead", &[b"t"]);
    let other = insert(&mut index, b"other", &[b"t"]);
    index.invalidate(b"t", NOW);
    index.remove(dead);
    let new = insert(&mut index, b"new", &[b"t"]);
    assert_eq!(new, dead, "the slot is used again");
    assert_eq!(index.doomed(10), [other]);
    assert_eq!(index.standing(new), Standing::Live);
}

#[test]
fn one_that_only_moved_stays_what_it_was() {
    let mut index = TagIndex::default();
    for standing in [Standing::Stale, Standing::Dead] {
        let id = index.insert(b"k", [&b"t"[..]], Arrival { standing, ..LIVE });
        assert_eq!(index.standing(id), standing);
        assert_eq!(index.doomed(1).contains(&id), standing == Standing::Dead);
        index.remove(id);
    }
    assert_eq!((index.backlog(), index.allocated()), (0, 0));
}

#[test]
fn taking_or_forgetting_a_tag_freshens_nothing() {
    let mut index = TagIndex::default();
    let (taken, forgot) = (insert(&mut index, b"1", &[b"s"]), insert(&mut index, b"2", &[b"f"]));
    let dead = insert(&mut index, b"3", &[b"d", b"f"]);
    index.mark_stale(b"s", NOW);
    index.mark_stale(b"f", NOW);
    index.invalidate(b"d", NOW);
    assert!(index.take(taken, b"s") && !index.take(taken, b"s"));
    assert!(!index.take(dead, b"f") && !index.add(dead, b"x", NOW), "the dead have no say");
    assert_eq!((index.forget(b"f"), index.forget(b"d")), (2, 0));
    assert_eq!((index.count(b"f"), index.names(forgot).count()), (0, 0));
    while index.tidy(1) {}
    assert!(index.forgotten.is_empty());
    index.validate();
    assert_eq!([taken, forgot, dead].map(|id| index.standing(id)), [Standing::Stale, Standing::Stale, Standing::Dead]);
    assert_eq!(index.doomed(9), [dead]);
}

#[test]
fn a_tag_that_comes_later_brings_no_old_invalidation() {
    let mut index = TagIndex::default();
    let id = insert(&mut index, b"k", &[b"a"]);
    index.invalidate(b"b", NOW);
    index.mark_stale(b"b", NOW);
    assert!(index.add(id, b"b", NOW) && !index.add(id, b"b", NOW));
    assert_eq!(index.standing(id), Standing::Live);
    assert_eq!(index.invalidate(b"b", NOW), 1);
    assert_eq!(index.standing(id), Standing::Dead);
}

#[test]
fn a_late_write_is_known_though_its_tag_had_no_members_and_was_forgotten() {
    let mut index = TagIndex::default();
    let before = index.sequence();
    assert_eq!(index.invalidate(b"t", NOW), 0);
    let after = index.sequence();
    index.forget(b"t");
    assert!(index.invalidated_since(b"t", before) && !index.marked_since(b"t", before));
    assert!(!index.invalidated_since(b"t", after) && !index.invalidated_since(b"u", before));
    assert_eq!(index.info(b"t"), None);
}

#[test]
fn too_many_tags_to_remember_make_it_careful_and_not_wrong() {
    let mut index = TagIndex::default();
    let before = index.sequence();
    for n in 0..RECENT_MAX + 10 {
        index.invalidate(&tag(n), NOW);
    }
    assert_eq!(index.remembered(), RECENT_MAX);
    assert!(index.invalidated_since(b"another", before + 9) && !index.invalidated_since(b"another", before + 10));
    assert!(!index.marked_since(b"another", before));
    assert!(index.invalidated_since(&tag(0), before) && index.invalidated_since(&tag(RECENT_MAX), before));
    let id = insert(&mut index, b"k", &[&tag(3)]);
    assert_eq!(index.standing(id), Standing::Live);
    assert!(index.invalidated_since(&tag(3), before), "a tag that comes back is not innocent");
    index.forget_before(index.sequence());
    while index.tidy(100) {}
    assert_eq!(index.remembered(), KEPT_MAX);
}

#[test]
fn a_tag_tells_about_itself() {
    let mut index = TagIndex::default();
    assert_eq!(index.info(b"t"), None);
    index.insert(b"1", [&b"t"[..]], Arrival { now: UnixMillis(5), ..LIVE });
    index.insert(b"2", [&b"t"[..]], Arrival { bytes: usize::MAX, now: UnixMillis(6), ..LIVE });
    let mut info = TagInfo {
        keys: 2,
        bytes: 100 + u64::from(u32::MAX),
        created: UnixMillis(5),
        invalidations: 0,
        last_invalidated: None,
        sweeping: 0,
    };
    assert_eq!(index.info(b"t"), Some(info));
    index.invalidate(b"t", UnixMillis(9));
    (info.keys, info.bytes, info.sweeping) = (0, 0, 2);
    (info.invalidations, info.last_invalidated) = (1, Some(UnixMillis(9)));
    assert_eq!(index.info(b"t"), Some(info));
}

#[test]
fn who_overwrites_before_removing_keeps_the_age_of_a_tag() {
    let mut index = TagIndex::default();
    let old = index.insert(b"k", [&b"t"[..]], Arrival { now: UnixMillis(5), ..LIVE });
    insert(&mut index, b"k", &[b"t"]);
    index.remove(old);
    assert_eq!(index.info(b"t").map(|info| (info.keys, info.created)), Some((1, UnixMillis(5))));
}

#[test]
fn an_unknown_number_is_dead_and_harmless() {
    let mut index = TagIndex::default();
    let gone = insert(&mut index, b"k", &[b"t"]);
    index.remove(gone);
    index.remove(gone);
    assert_eq!((index.standing(gone), index.names(gone).count()), (Standing::Dead, 0));
    assert!(!index.add(gone, b"t", NOW) && !index.take(gone, b"t"));
    assert_eq!((index.tags(), index.allocated()), (0, 0));
}

#[test]
fn it_is_known_since_when_an_entry_is_stale() {
    let mut index = TagIndex::default();
    let first = insert(&mut index, b"1", &[b"a", b"b"]);
    index.mark_stale(b"a", UnixMillis(10));
    let second = insert(&mut index, b"2", &[b"a", b"b"]);
    index.mark_stale(b"b", UnixMillis(20));
    index.mark_stale(b"a", UnixMillis(30));
    assert_eq!([first, second].map(|id| index.stale_since(id)), [UnixMillis(10), UnixMillis(20)]);
    let many: Vec<KeyId> = (40..80)
        .map(|at| {
            let id = insert(&mut index, format!("k{at}").as_bytes(), &[b"a"]);
            index.mark_stale(b"a", UnixMillis(at));
            id
        })
        .collect();
    assert_eq!([first, second].map(|id| index.stale_since(id)), [UnixMillis(10), UnixMillis(20)]);
    assert_eq!(index.stale_since(many[39]), UnixMillis(79));
    assert!(many.iter().zip(40..).all(|(id, at)| index.stale_since(*id) <= UnixMillis(at)), "never too late");
    index.validate();
}
