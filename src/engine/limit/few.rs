//! A list that is nearly always of one: kept in place, without a block of its own.

use std::ops::{Deref, DerefMut};

/// One of something, or some of it.
#[derive(Clone, Debug)]
pub(super) enum Few<T> {
    One([T; 1]),
    Some(Vec<T>),
}

impl<T> Few<T> {
    /// Bytes beside its own.
    pub fn heap_bytes(&self) -> usize {
        match self {
            Self::One(_) => 0,
            Self::Some(all) => all.capacity() * size_of::<T>(),
        }
    }
}

impl<T> FromIterator<T> for Few<T> {
    fn from_iter<I: IntoIterator<Item = T>>(all: I) -> Self {
        let mut all = all.into_iter();
        match (all.next(), all.next()) {
            (Some(only), None) => Self::One([only]),
            (first, second) => Self::Some(first.into_iter().chain(second).chain(all).collect()),
        }
    }
}

impl<T> Deref for Few<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        match self {
            Self::One(one) => one,
            Self::Some(all) => all,
        }
    }
}

impl<T> DerefMut for Few<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        match self {
            Self::One(one) => one,
            Self::Some(all) => all,
        }
    }
}

/// Two are equal if they hold the same.
impl<T: PartialEq> PartialEq for Few<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}
