//! A payload in memory, for the tests of what is written and read.

use super::{Sink, Source};
use proptest::prelude::*;
use std::collections::VecDeque;

/// One field of a payload.
#[derive(Clone, Debug)]
pub enum Field {
    /// An integer.
    Unsigned(u64),
    /// A byte string.
    Bytes(Vec<u8>),
}

/// A payload in memory.
#[derive(Default)]
pub struct Fields(pub VecDeque<Field>);

impl Sink for Fields {
    fn put_unsigned(&mut self, value: u64) {
        self.0.push_back(Field::Unsigned(value));
    }
    fn put_bytes(&mut self, bytes: &[u8]) {
        self.0.push_back(Field::Bytes(bytes.to_vec()));
    }
}

impl Source for Fields {
    fn take_unsigned(&mut self) -> Option<u64> {
        match self.0.pop_front()? {
            Field::Unsigned(n) => Some(n),
            Field::Bytes(_) => None,
        }
    }
    fn take_bytes<T>(&mut self, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
        match self.0.pop_front()? {
            Field::Bytes(b) => Some(read(&b)),
            Field::Unsigned(_) => None,
        }
    }
}

/// Any field.
pub fn field() -> impl Strategy<Value = Field> {
    prop_oneof![any::<u64>().prop_map(Field::Unsigned), any::<Vec<u8>>().prop_map(Field::Bytes)]
}
