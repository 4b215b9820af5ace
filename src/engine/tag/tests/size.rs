//! What an index takes.

use super::super::validate::size_class;
use super::*;

/// What an index of `keys` keys with 3 of `tags` tags takes a key.
fn bytes_a_key(keys: usize, tags: usize) -> f64 {
    let mut index = TagIndex::default();
    for n in 0..keys {
        let name = format!("user:{n:07}:profile"); // 20 bytes
        let names = [tag(n % tags), tag(n / 3 % tags), tag(n / 7 % tags + tags)];
        index.insert(name.as_bytes(), names.iter().map(|name| &**name), LIVE);
    }
    let taken = index.allocated();
    for n in 0..keys {
        index.remove(KeyId::new(n as u32));
    }
    assert_eq!(index.allocated(), 0, "an empty index holds memory");
    taken as f64 / keys as f64
}

#[test]
fn a_key_of_20_bytes_takes_at_most_88_bytes_and_16_a_membership() {
    for (keys, tags) in [(20_000, 10), (20_000, 100), (100_000, 1_000), (100_000, 3)] {
        let taken = bytes_a_key(keys, tags);
        println!("{keys} keys, {tags} tags: {taken:.1} bytes a key");
        assert!(taken <= 88.0 + 3.0 * 16.0, "{taken} bytes a key, {keys} keys, {tags} tags");
    }
}

#[test]
fn classes_are_those_of_jemalloc() {
    let classes = [(1, 8), (8, 8), (9, 16), (20, 32), (100, 112), (129, 160), (161, 192), (257, 320), (4_097, 5_120)];
    assert!(classes.iter().all(|&(bytes, class)| size_class(bytes) == class));
}
