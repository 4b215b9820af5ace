//! What is fuzzed: functions of the engine that take bytes from outside. A target panics where its promise is broken.
//!
//! `fuzz/corpus/<target>/` holds inputs by which each target's ways are reached; `make unit` runs them all, `make fuzz`
//! begins with them. A payload's fields come from a stream of bytes in which every byte string means something, so
//! that a change of one byte of the input is a small change of the payload.

mod bytes;
mod codecs;
mod patterns;

/// Takes any bytes, and returns.
pub type Target = fn(&[u8]);

/// Each target by the name of its corpus.
pub const ALL: &[(&str, Target)] = &[
    ("entry", codecs::entry),
    ("lock", codecs::lock),
    ("limits", codecs::limits),
    ("state", codecs::state),
    ("glob", patterns::glob),
];

/// The target of that name.
#[must_use]
pub fn named(name: &str) -> Target {
    let found = ALL.iter().find(|(known, _)| *known == name).map(|(_, target)| *target);
    assert!(
        found.is_some(),
        "no target {name:?}; FUZZ_TARGET is one of {:?}",
        ALL.iter().map(|(name, _)| *name).collect::<Vec<_>>()
    );
    found.unwrap_or(|_| ())
}
