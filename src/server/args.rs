//! A cursor over the arguments of a command; every syntax error is made here.
//!
//! The number of arguments has been checked by the server, from the arity in the command table, so
//! positional arguments are there; options are read one by one until none is left.

use super::error::Error;
use super::ffi::context::Arg;
use super::ffi::entry_point::ArgVec;

/// The arguments after the command's name, in order.
pub struct Args<'c> {
    all: ArgVec<'c>,
    at: usize,
}

impl<'c> Args<'c> {
    /// Stands before the first argument.
    #[must_use]
    pub fn new(all: ArgVec<'c>) -> Self {
        Self { all, at: 1 }
    }

    /// The next argument.
    ///
    /// # Errors
    /// `ERR name is missing` at the end.
    pub fn next(&mut self, name: &'static str) -> Result<Arg<'c>, Error> {
        let arg = self.all.get(self.at).ok_or(Error::Missing(name))?;
        self.at += 1;
        Ok(arg)
    }

    /// The next argument, which stays the next.
    ///
    /// # Errors
    /// `ERR name is missing` at the end.
    pub fn peek(&self, name: &'static str) -> Result<Arg<'c>, Error> {
        self.all.get(self.at).ok_or(Error::Missing(name))
    }

    /// The next argument, an integer from `min` to `max`.
    ///
    /// # Errors
    /// `ERR name must be an integer …`, or `… is missing` at the end.
    pub fn integer(&mut self, name: &'static str, min: u64, max: u64) -> Result<u64, Error> {
        let not_integer = Error::NotInteger { name, min, max };
        let n = parse(self.next(name)?.bytes()).ok_or(not_integer.clone())?;
        (min..=max).contains(&n).then_some(n).ok_or(not_integer)
    }

    /// Reads the value of an option into `db_key`, unless it was given before.
    ///
    /// # Errors
    /// `ERR name was given more than once`, or `… is missing` at the end.
    pub fn once(&mut self, db_key: &mut Option<Arg<'c>>, name: &'static str) -> Result<(), Error> {
        let value = self.next(name)?;
        fill(db_key, value, name)
    }

    /// The same for an integer from `min` to `max`.
    ///
    /// # Errors
    /// As [`Self::once`], or `ERR name must be an integer …`.
    pub fn integer_once(
        &mut self,
        db_key: &mut Option<u64>,
        name: &'static str,
        min: u64,
        max: u64,
    ) -> Result<(), Error> {
        let value = self.integer(name, min, max)?;
        fill(db_key, value, name)
    }

    /// The same for a finite number above 0.
    ///
    /// # Errors
    /// As [`Self::once`], or `ERR name must be a number above 0`.
    pub fn float_once(&mut self, db_key: &mut Option<f64>, name: &'static str) -> Result<(), Error> {
        let value = parse_float(self.next(name)?.bytes()).filter(|value| *value > 0.0);
        fill(db_key, value.ok_or(Error::NotPositive(name))?, name)
    }

    /// The next option in upper case; `None` at the end. An option longer than any we have comes
    /// as an empty word, which no command knows.
    pub fn option(&mut self) -> Option<Word> {
        let arg = self.all.get(self.at)?;
        self.at += 1;
        Some(Word::new(arg.bytes()))
    }

    /// The error for the option just read.
    #[must_use]
    pub fn unknown(&self) -> Error {
        Error::UnknownOption(self.all.get(self.at - 1).map(|arg| arg.bytes().to_vec()).unwrap_or_default())
    }
}

fn fill<T>(db_key: &mut Option<T>, value: T, name: &'static str) -> Result<(), Error> {
    if db_key.is_some() {
        return Err(Error::Repeated(name));
    }
    *db_key = Some(value);
    Ok(())
}

const WORD_BYTES_MAX: usize = 16;

/// An option in upper case.
pub struct Word {
    bytes: [u8; WORD_BYTES_MAX],
    len: usize,
}

impl Word {
    /// `bytes` in upper case; empty if they are too many.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        let mut word = Self { bytes: [0; WORD_BYTES_MAX], len: 0 };
        if let Some(target) = word.bytes.get_mut(..bytes.len()) {
            target.copy_from_slice(bytes);
            target.make_ascii_uppercase();
            word.len = bytes.len();
        }
        word
    }

    /// The word, for a `match`.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// A decimal integer as the server writes it: digits only, no leading zero.
#[must_use]
pub fn parse(digits: &[u8]) -> Option<u64> {
    if digits.len() > 1 && digits.first() == Some(&b'0') || digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |n, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        n.checked_mul(10)?.checked_add(digit)
    })
}

/// A finite decimal number of at least 0, such as `1.5` or `2e-3`.
#[must_use]
pub fn parse_float(text: &[u8]) -> Option<f64> {
    if !text.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'-' | b'+')) {
        return None;
    }
    let value: f64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (value.is_finite() && value >= 0.0).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_digits_and_nothing_else() {
        assert_eq!(parse(b"0"), Some(0));
        assert_eq!(parse(b"18446744073709551615"), Some(u64::MAX));
        for bad in [&b""[..], b"01", b"+1", b"-1", b" 1", b"1 ", b"1.0", b"1e3", b"18446744073709551616", b"\xff"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn floats_are_finite_and_not_negative() {
        assert_eq!(parse_float(b"1.5"), Some(1.5));
        assert_eq!(parse_float(b"2e-3"), Some(0.002));
        for bad in [&b""[..], b"inf", b"nan", b"-1", b"1e999", b" 1", b"0x1", b".", b"\xff"] {
            assert_eq!(parse_float(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn words_know_no_case_and_no_bounds() {
        assert_eq!(Word::new(b"wAit").as_bytes(), b"WAIT");
        assert_eq!(Word::new(b"a-word-longer-than-any-option").as_bytes(), b"");
    }
}
