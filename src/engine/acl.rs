//! The rules of a user as the server writes them, taken apart.
//!
//! `ACL LIST` shows flags and passwords, then the rules of the user itself, then *selectors* in
//! parentheses, each with keys, channels and commands, in this order and with a space between any two:
//! `on #1f… ~app:* resetchannels -@all +get (%R~* resetchannels -@all +cache.get)`. No pattern has a
//! space in it, but it may have a parenthesis.

use crate::engine::id::DbId;

/// What a user may do by one selector, or by its own rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector<'a>(Vec<&'a [u8]>);

/// The rules in `acl`, first those of the user itself.
#[must_use]
pub fn selectors(acl: &[u8]) -> Vec<Selector<'_>> {
    let (mut all, mut current, mut is_own) = (Vec::new(), Selector::default(), true);
    for word in acl.split(|byte| *byte == b' ').filter(|word| !word.is_empty()) {
        // No rule begins with a parenthesis.
        let rule = word.strip_prefix(b"(");
        if rule.is_some() {
            all.push(std::mem::take(&mut current).closed(is_own));
            is_own = false;
        }
        current.0.push(rule.unwrap_or(word));
    }
    all.push(current.closed(is_own));
    all
}

impl<'a> Selector<'a> {
    /// Without the parenthesis at its end, which those of the user itself do not have.
    fn closed(mut self, is_own: bool) -> Self {
        if let Some(rule) = self.0.last_mut().filter(|_| !is_own) {
            *rule = rule.strip_suffix(b")").unwrap_or(rule);
        }
        self
    }

    /// Whether it counts in `db`. Valkey 9.1 lists databases (`db=0,3`); elsewhere it always does.
    #[must_use]
    pub fn has_db(&self, db: DbId) -> bool {
        let number = db.to_string();
        self.0.iter().fold(true, |has, rule| match *rule {
            b"alldbs" => true,
            b"resetdbs" => false,
            [b'd', b'b', b'=', list @ ..] => list.split(|byte| *byte == b',').any(|one| one == number.as_bytes()),
            _ => has,
        })
    }

    /// Its rules about commands, in order.
    pub fn commands(&self) -> impl Iterator<Item = &'a [u8]> + '_ {
        self.0.iter().copied().filter(|rule| matches!(rule, [b'+' | b'-', ..]))
    }

    /// Its rules by which keys may be written.
    pub fn writable(&self) -> impl Iterator<Item = &'a [u8]> + '_ {
        self.0.iter().copied().filter(|rule| match *rule {
            b"allkeys" | [b'~', ..] => true,
            [b'%', rest @ ..] => {
                let flags = rest.split(|byte| *byte == b'~').next().unwrap_or_default();
                flags.iter().any(|flag| flag.eq_ignore_ascii_case(&b'W'))
            }
            _ => false,
        })
    }
}

/// The least rules that allow the same keys. A server takes no further pattern after one for all keys.
#[must_use]
pub fn united(mut rules: Vec<&[u8]>) -> Vec<&[u8]> {
    if rules.iter().any(|rule| is_for_all(rule)) {
        return vec![b"~*"];
    }
    rules.sort_unstable();
    rules.dedup();
    rules
}

/// `~*` and the like, but not `~a~*`.
fn is_for_all(rule: &[u8]) -> bool {
    rule == b"allkeys" || rule.splitn(2, |byte| *byte == b'~').nth(1) == Some(b"*")
}

/// The rules on one line, from which the server reads them again whatever bytes are in them.
#[must_use]
pub fn rules_line<'r>(rules: impl IntoIterator<Item = &'r [u8]>) -> Vec<u8> {
    let mut line = Vec::new();
    for rule in rules {
        line.push(b'"');
        rule.iter().for_each(|byte| line.extend(format!("\\x{byte:02x}").bytes()));
        line.extend(b"\" ");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words<'a>(rules: impl Iterator<Item = &'a [u8]>) -> Vec<&'a str> {
        rules.map(|rule| std::str::from_utf8(rule).expect("it is text")).collect()
    }

    #[test]
    fn a_user_is_taken_apart() {
        let acl = b"on nopass sanitize-payload ~a(b) %R~r* %W~w~* %RW~both &c* -@all +get +config|get (~x) %rw~y \
            resetchannels db=0,12 -@all +cache.get) (allkeys resetchannels resetdbs +@all) (+@read)";
        let all = selectors(acl);
        assert_eq!(all.len(), 4);
        assert_eq!(words(all[0].writable()), ["~a(b)", "%W~w~*", "%RW~both"]);
        assert_eq!(words(all[0].commands()), ["-@all", "+get", "+config|get"]);
        assert_eq!(words(all[1].writable()), ["~x)", "%rw~y"]);
        assert_eq!(words(all[1].commands()), ["-@all", "+cache.get"]);
        assert_eq!(words(all[2].writable()), ["allkeys"]);
        assert_eq!(words(all[3].commands()), ["+@read"]);
        let dbs = [0, 1, 2, 12].map(|db| [&all[0], &all[1], &all[2]].map(|selector| selector.has_db(db)));
        assert_eq!(dbs, [[true, true, false], [true, false, false], [true, false, false], [true, true, false]]);
    }

    #[test]
    fn one_without_rules_has_none() {
        assert_eq!(selectors(b""), [Selector::default()]);
        assert_eq!(words(selectors(b"off")[0].writable().chain(selectors(b"off")[0].commands())), [""; 0]);
    }

    #[test]
    fn a_pattern_for_all_keys_makes_others_superfluous() {
        for all in [&b"~*"[..], b"allkeys", b"%W~*", b"%RW~*"] {
            assert_eq!(united(vec![b"~a", all, b"~z"]), [b"~*"]);
        }
        assert_eq!(united(vec![b"~b", b"~a~*", b"%W~**", b"~b"]), [&b"%W~**"[..], b"~a~*", b"~b"]);
    }

    #[test]
    fn a_line_keeps_every_byte() {
        assert_eq!(rules_line([&b"~a\"\\\xff"[..], b"+x"]), br#""\x7e\x61\x22\x5c\xff" "\x2b\x78" "#);
    }

    proptest! {
        #[test]
        fn any_bytes_do(acl: Vec<u8>) {
            for selector in selectors(&acl) {
                let _ = (selector.has_db(1), rules_line(selector.writable()), rules_line(selector.commands()));
            }
        }
    }
}
