//! What leases want to know of tags.

use super::*;

#[test]
fn who_is_watched_is_told_of_when_it_dies() {
    let mut index = TagIndex::default();
    let [lost, stays, gone] = [b"1", b"2", b"3"].map(|key| insert(&mut index, key, &[b"t", b"u"]));
    insert(&mut index, b"4", &[b"t"]);
    [lost, gone].into_iter().for_each(|id| index.watch(id));
    index.remove(gone);
    index.mark_stale(b"t", NOW);
    assert_eq!(index.struck(), []);
    index.invalidate(b"t", NOW);
    assert_eq!((index.struck(), index.struck()), (vec![lost], vec![]));
    index.remove(stays);
    let retagged = insert(&mut index, b"5", &[b"v"]);
    index.watch(retagged);
    index.take(retagged, b"v");
    index.add(retagged, b"w", NOW);
    index.invalidate(b"v", NOW);
    assert_eq!(index.struck(), [], "it has that tag no more");
    index.invalidate(b"w", NOW);
    assert_eq!(index.struck(), [retagged]);
    [lost, retagged].into_iter().for_each(|id| index.remove(id));
    assert!(index.watch.is_empty());
}

#[test]
fn leases_and_invalidations_can_share_one_count() {
    let mut index = TagIndex::default();
    index.advance(7);
    index.invalidate(b"t", NOW);
    assert_eq!([5, 6, 7, 8].map(|lease| index.invalidated_since(b"t", lease)), [true, true, false, false]);
    index.advance(9);
    index.mark_stale(b"t", UnixMillis(3));
    assert_eq!(
        [6, 8, 9].map(|lease| index.marked_after(b"t", lease)),
        [Some(UnixMillis(3)), Some(UnixMillis(3)), None]
    );
    index.advance(2);
    assert_eq!(index.sequence(), 9, "it never goes back");
}
