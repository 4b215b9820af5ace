//! The secret that proves a lease.

use std::fmt;

/// Known to the holder of one lease only. Drawn at random by whoever builds the book: 128 bits, so
/// that none is drawn twice and none can be guessed from others.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Token(pub u128);

const HEX_DIGITS: usize = 32;

impl Token {
    /// Reads what [`fmt::Display`] wrote; `None` for anything else.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let is_hex = |digit: &u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != HEX_DIGITS || !text.iter().all(is_hex) {
            return None;
        }
        u128::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok().map(Self)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Token {
    /// Not the secret itself: this may end up in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_own_text_is_a_token() {
        let token = Token(0xa5);
        let text = token.to_string();
        assert_eq!(Token::parse(text.as_bytes()), Some(token));
        for bad in ["", "a5", &text.to_uppercase(), &format!("{text}0"), &text.replace('0', "+")] {
            assert_eq!(Token::parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
