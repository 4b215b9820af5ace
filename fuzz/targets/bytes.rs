//! Fields out of bytes, and into them: a byte says what follows.
//!
//! `0..=0xf7`: an integer; below 0xf0 the byte itself, else as many bytes as the lower digit says, little-endian.
//! `0xf8..=0xfe`: a byte string, of which the next byte is the length. `0xff`: a byte string of two bytes of length.
//! A field of the other kind than is asked for is the end, as it is in the server's stream.

use cache_guard::engine::codec::{Sink, Source};

/// Reads fields from an input.
pub struct Fields<'b>(pub &'b [u8]);

impl Fields<'_> {
    fn take(&mut self, count: usize) -> Option<&[u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn take_number(&mut self, bytes: usize) -> Option<u64> {
        Some(self.take(bytes)?.iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte)))
    }
}

impl Source for Fields<'_> {
    fn take_unsigned(&mut self) -> Option<u64> {
        match self.take_number(1)? {
            small @ ..0xf0 => Some(small),
            bytes @ 0xf0..0xf8 => self.take_number((bytes - 0xf0) as usize + 1),
            _ => None,
        }
    }

    fn take_bytes<T>(&mut self, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
        let bytes = match self.take_number(1)? {
            ..0xf8 => return None,
            0xff => self.take_number(2)?,
            _ => self.take_number(1)?,
        };
        self.take(bytes as usize).map(read)
    }
}

/// Fields as they were written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Written(Vec<Field>);

#[derive(Clone, Debug, PartialEq)]
enum Field {
    Unsigned(u64),
    Bytes(Vec<u8>),
}

impl Sink for Written {
    fn put_unsigned(&mut self, value: u64) {
        self.0.push(Field::Unsigned(value));
    }

    fn put_bytes(&mut self, bytes: &[u8]) {
        self.0.push(Field::Bytes(bytes.to_vec()));
    }
}

/// Reads them back, in order.
pub struct Reading<'w>(std::slice::Iter<'w, Field>);

impl Written {
    /// From the first field on.
    pub fn read(&self) -> Reading<'_> {
        Reading(self.0.iter())
    }
}

impl Reading<'_> {
    /// Whether all was read.
    pub fn is_at_end(&self) -> bool {
        self.0.len() == 0
    }
}

impl Source for Reading<'_> {
    fn take_unsigned(&mut self) -> Option<u64> {
        match self.0.next()? {
            Field::Unsigned(value) => Some(*value),
            Field::Bytes(_) => None,
        }
    }

    fn take_bytes<T>(&mut self, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
        match self.0.next()? {
            Field::Bytes(bytes) => Some(read(bytes)),
            Field::Unsigned(_) => None,
        }
    }
}
