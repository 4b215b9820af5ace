//! What the commands of this server do to keys, as far as a lease is concerned.
//!
//! Nothing is known by a list of names: the server describes each command once, when its name is
//! first seen, and its flags and key specifications decide. So a command that a later release, another module
//! or `rename-command` brings is understood without a release of ours. The one exception is
//! transactions: which command begins, ends or runs one is no flag, and is known by the name under
//! which the server was built with it.
//!
//! Rejected: asking the server about every command as it comes. It costs several hundred
//! instructions; a name that was seen before costs a hash.

use crate::engine::cache::leases::Touch;
use ahash::AHashMap;

/// How many names are remembered. A server has some 500, subcommands included.
pub const NAMES_MAX: usize = 10_000;
/// The longest name that is remembered, with its subcommand.
pub const NAME_BYTES_MAX: usize = 64;

/// What the server says of a command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// The name it was built with, in lower case: `rename-command` does not change it.
    pub full_name: Vec<u8>,
    /// Flag `write`.
    pub is_write: bool,
    /// Flag `denyoom`: it may use more memory, so it may add a value.
    pub may_add: bool,
    /// Flag `blocking`: it may do nothing before another one serves it.
    pub may_block: bool,
    /// Category `@keyspace`: it works on keys, whatever they hold.
    pub is_about_keys: bool,
    /// It has key specifications.
    pub has_keys: bool,
    /// Where its keys are, if that does not depend on the other arguments.
    pub span: Option<Span>,
    /// What it does to the keys in which places, as far as the places do not depend on the other
    /// arguments.
    pub uses: Vec<(Span, KeyUse)>,
    /// Another word says which command it is.
    pub has_subcommands: bool,
}

/// Where among the arguments keys are, counted from the command's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first key.
    pub first: usize,
    /// The last one; negative: counted from the end, which is -1.
    pub last: isize,
    /// From one key to the next.
    pub step: usize,
}

impl Span {
    /// All arguments.
    pub const ALL: Self = Self { first: 1, last: -1, step: 1 };

    /// The positions of keys among `count` arguments, the name included.
    pub fn positions(self, count: usize) -> impl Iterator<Item = usize> + Clone {
        self.range(count).step_by(self.step.max(1))
    }

    /// True if the argument at `at` of `count` is a key. O(1).
    #[must_use]
    pub fn contains(self, at: usize, count: usize) -> bool {
        let range = self.range(count);
        range.contains(&at) && (at - range.start) % self.step.max(1) == 0
    }

    fn range(self, count: usize) -> std::ops::Range<usize> {
        let end = match usize::try_from(self.last) {
            Ok(last) => count.min(last.saturating_add(1)),
            Err(_) => (count + 1).saturating_sub(self.last.unsigned_abs()),
        };
        self.first.max(1)..end
    }
}

/// How much a command may do to its keys, whatever their specifications say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// It may add a value.
    Adds,
    /// It changes what is there.
    Changes,
    /// It may wait first, and do that later.
    Waits,
}

/// What a command may do to keys with a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing.
    Harmless,
    /// Its next word decides.
    Container,
    /// It changes keys that it names.
    Writes {
        /// Where they may be.
        span: Span,
        /// How much it may do to them.
        reach: Reach,
    },
    /// It changes keys that it does not name.
    Everything(Touch),
    /// It begins a transaction.
    Multi,
    /// It runs one.
    Exec,
    /// It abandons one.
    Discard,
    /// It abandons one if there is one.
    Reset,
}

/// Of a command that the server does not describe, since an operator took `COMMAND` away. Only there
/// are commands known by their names: those that may do something to a key that is missing.
#[must_use]
pub fn undescribed(name: &[u8]) -> Kind {
    let may_add = matches!(
        name,
        b"del"
            | b"unlink"
            | b"getdel"
            | b"delex"
            | b"delifeq"
            | b"set"
            | b"setex"
            | b"psetex"
            | b"setnx"
            | b"getset"
            | b"mset"
            | b"msetnx"
            | b"msetex"
            | b"rename"
            | b"renamenx"
            | b"move"
            | b"copy"
            | b"restore"
            | b"append"
            | b"restore-asking"
    );
    let reach = if may_add { Reach::Adds } else { Reach::Changes };
    transactional(name).unwrap_or(Kind::Writes { span: Span::ALL, reach })
}

fn transactional(name: &[u8]) -> Option<Kind> {
    match name {
        b"multi" => Some(Kind::Multi),
        b"exec" => Some(Kind::Exec),
        b"discard" => Some(Kind::Discard),
        b"reset" => Some(Kind::Reset),
        _ => None,
    }
}

impl Description {
    /// The kind of the command.
    #[must_use]
    pub fn kind(&self) -> Kind {
        if let Some(kind) = transactional(&self.full_name) {
            return kind;
        }
        match self {
            Self { has_subcommands: true, .. } => Kind::Container,
            Self { is_write: false, .. } => Kind::Harmless,
            Self { has_keys: true, span, .. } => Kind::Writes { span: span.unwrap_or(Span::ALL), reach: self.reach() },
            // The server announces which databases these empty or exchange.
            _ if matches!(&*self.full_name, b"flushall" | b"flushdb" | b"swapdb") => Kind::Harmless,
            Self { is_about_keys: true, .. } => Kind::Everything(Touch::Invalidated),
            _ => Kind::Everything(Touch::Appeared),
        }
    }
}

impl Description {
    fn reach(&self) -> Reach {
        match self {
            Self { may_block: true, .. } => Reach::Waits,
            Self { may_add: true, .. } => Reach::Adds,
            _ => Reach::Changes,
        }
    }
}

/// What a command does to one of its keys, by the flags of the key's specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyUse {
    /// It only looks.
    Reads,
    /// It overwrites, removes, or takes something away.
    Replaces,
    /// It changes what is there, or adds to it.
    Changes,
}

impl KeyUse {
    /// What it may do to a lease on the key. A change that may add a value invalidates as
    /// overwriting does; one that cannot (EXPIRE, GETEX) does nothing to a key that is missing, nor
    /// does one that waits.
    #[must_use]
    pub fn mark_touched(self, reach: Reach) -> Option<Touch> {
        match (self, reach) {
            (Self::Reads, _) => None,
            (_, Reach::Waits) | (Self::Changes, Reach::Changes) => Some(Touch::Appeared),
            (Self::Replaces, _) | (Self::Changes, Reach::Adds) => Some(Touch::Invalidated),
        }
    }
}

/// A name in lower case, with its subcommand if it has one.
#[derive(Clone, Copy, Debug)]
pub struct Name {
    bytes: [u8; NAME_BYTES_MAX],
    len: usize,
}

impl Name {
    /// `None` if it is too long to be a command's.
    #[inline]
    #[must_use]
    pub fn new(word: &[u8]) -> Option<Self> {
        let mut name = Self { bytes: [0; NAME_BYTES_MAX], len: word.len() };
        let target = name.bytes.get_mut(..word.len())?;
        target.copy_from_slice(word);
        target.make_ascii_lowercase();
        Some(name)
    }

    /// `container|word`.
    #[must_use]
    pub fn subcommand(self, word: &[u8]) -> Option<Self> {
        let mut name = self;
        name.len += 1 + word.len();
        let (bar, rest) = name.bytes.get_mut(self.len..name.len)?.split_first_mut()?;
        *bar = b'|';
        rest.copy_from_slice(word);
        rest.make_ascii_lowercase();
        Some(name)
    }

    /// Its bytes.
    #[inline]
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// A name of up to eight bytes in lower case, as a number; `None` if it is longer or empty. Most
/// names are short, and so are found without a hash table.
#[inline]
#[must_use]
pub fn short_key(word: &[u8]) -> Option<u64> {
    let mut bytes = [0; 8];
    for (target, byte) in bytes.get_mut(..word.len())?.iter_mut().zip(word) {
        *target = byte.to_ascii_lowercase();
    }
    Some(u64::from_le_bytes(bytes)).filter(|key| *key != 0)
}

const SHORT_BITS: u32 = 7;

fn short_place(key: u64) -> usize {
    (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - SHORT_BITS)) as usize
}

/// The kinds of the commands that were seen.
#[derive(Debug, Default)]
pub struct Known {
    /// Of those with short names, each in its place; the last one to come there stays.
    short: Vec<(u64, Kind)>,
    kinds: AHashMap<Box<[u8]>, Kind>,
    /// Of those that write to keys.
    uses: AHashMap<Box<[u8]>, Vec<(Span, KeyUse)>>,
}

impl Known {
    /// The kind of the command with that [`short_key`], if it is at hand.
    #[inline]
    #[must_use]
    pub fn get_short(&self, key: u64) -> Option<Kind> {
        self.short.get(short_place(key)).filter(|(held, _)| *held == key).map(|(_, kind)| *kind)
    }

    /// The kind of the command called `name`, if it was seen before.
    #[inline]
    #[must_use]
    pub fn get(&self, name: &[u8]) -> Option<Kind> {
        self.kinds.get(name).copied()
    }

    /// What the command called `name` does to the key at the position `at` of `count`, if that is known.
    #[must_use]
    pub fn key_use(&self, name: &[u8], at: usize, count: usize) -> Option<KeyUse> {
        let mut uses = self.uses.get(name)?.iter();
        uses.find(|(span, _)| span.contains(at, count)).map(|(_, key_use)| *key_use)
    }

    /// Remembers a kind, and what the command does to which keys.
    pub fn insert(&mut self, name: &[u8], kind: Kind, uses: Vec<(Span, KeyUse)>) {
        if self.kinds.len() >= NAMES_MAX {
            self.clear();
        }
        self.kinds.insert(name.into(), kind);
        if let Some(key) = short_key(name) {
            self.short.resize(1 << SHORT_BITS, (0, Kind::Harmless));
            self.short.get_mut(short_place(key)).into_iter().for_each(|held| *held = (key, kind));
        }
        if matches!(kind, Kind::Writes { .. }) && !uses.is_empty() {
            self.uses.insert(name.into(), uses);
        }
    }

    /// Forgets all: modules came or went.
    pub fn clear(&mut self) {
        self.short.clear();
        self.kinds.clear();
        self.uses.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn positions(first: usize, last: isize, step: usize, count: usize) -> Vec<usize> {
        Span { first, last, step }.positions(count).collect()
    }

    proptest! {
        #[test]
        fn a_position_is_found_without_a_walk(first in 0usize..6, last in -6isize..9, step in 0usize..4, count in 0usize..12, at in 0usize..14) {
            let span = Span { first, last, step };
            prop_assert_eq!(span.contains(at, count), span.positions(count).any(|position| position == at));
        }
    }

    #[test]
    fn keys_are_where_the_server_says() {
        assert_eq!(positions(1, 1, 1, 3), [1]); // SET k v
        assert_eq!(positions(1, -1, 2, 5), [1, 3]); // MSET k v k v
        assert_eq!(positions(1, 2, 1, 3), [1, 2]); // RENAME a b
        assert_eq!(positions(1, -2, 1, 4), [1, 2]); // BLPOP a b timeout
        assert!(positions(1, -1, 1, 1).is_empty());
        assert!(positions(1, 1, 1, 1).is_empty(), "the key is missing: the server will refuse it");
        assert!(positions(2, -9, 0, 4).is_empty());
        assert_eq!(Span::ALL.positions(3).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn flags_decide_and_names_do_not() {
        let span = Span { first: 1, last: 1, step: 1 };
        let read = Description { full_name: b"set".to_vec(), has_keys: true, span: Some(span), ..Default::default() };
        assert_eq!(read.kind(), Kind::Harmless);
        let write = Description { full_name: b"get".to_vec(), is_write: true, ..read };
        assert_eq!(write.kind(), Kind::Writes { span, reach: Reach::Changes });
        let movable = Description { span: None, may_add: true, ..write };
        assert_eq!(movable.kind(), Kind::Writes { span: Span::ALL, reach: Reach::Adds });
        let blocking = Description { may_block: true, ..movable };
        assert_eq!(blocking.kind(), Kind::Writes { span: Span::ALL, reach: Reach::Waits });
    }

    #[test]
    fn what_names_no_keys_may_change_all() {
        let write = Description { full_name: b"cluster|flushslot".to_vec(), is_write: true, ..Default::default() };
        assert_eq!(write.kind(), Kind::Everything(Touch::Appeared));
        let about_keys = Description { is_about_keys: true, ..write };
        assert_eq!(about_keys.kind(), Kind::Everything(Touch::Invalidated));
        for announced in ["flushall", "flushdb", "swapdb"] {
            let description = Description { full_name: announced.into(), ..about_keys.clone() };
            assert_eq!(description.kind(), Kind::Harmless);
        }
    }

    #[test]
    fn transactions_and_containers_are_told_apart() {
        for (name, kind) in
            [("multi", Kind::Multi), ("exec", Kind::Exec), ("discard", Kind::Discard), ("reset", Kind::Reset)]
        {
            let description = Description { full_name: name.into(), ..Default::default() };
            assert_eq!((description.kind(), undescribed(name.as_bytes())), (kind, kind));
        }
        let container = Description { has_subcommands: true, ..Default::default() };
        assert_eq!(container.kind(), Kind::Container);
        assert_eq!(undescribed(b"get"), Kind::Writes { span: Span::ALL, reach: Reach::Changes });
    }

    #[test]
    fn a_change_that_cannot_add_does_nothing_to_a_missing_key() {
        for reach in [Reach::Adds, Reach::Changes, Reach::Waits] {
            assert_eq!(KeyUse::Reads.mark_touched(reach), None);
        }
        assert_eq!(KeyUse::Replaces.mark_touched(Reach::Changes), Some(Touch::Invalidated));
        assert_eq!(KeyUse::Changes.mark_touched(Reach::Adds), Some(Touch::Invalidated));
        assert_eq!(KeyUse::Changes.mark_touched(Reach::Changes), Some(Touch::Appeared));
        assert_eq!(KeyUse::Replaces.mark_touched(Reach::Waits), Some(Touch::Appeared));
    }

    #[test]
    fn names_know_no_case_and_have_a_longest() {
        let name = Name::new(b"XGroup").unwrap();
        assert_eq!(name.as_bytes(), b"xgroup");
        assert_eq!(name.subcommand(b"CREATE").unwrap().as_bytes(), b"xgroup|create");
        assert!(Name::new(&[b'a'; NAME_BYTES_MAX]).is_some_and(|name| name.subcommand(b"").is_none()));
        assert!(Name::new(&[b'a'; NAME_BYTES_MAX + 1]).is_none());
    }

    #[test]
    fn short_names_are_found_at_once() {
        let mut known = Known::default();
        assert_eq!(known.get_short(short_key(b"get").unwrap()), None);
        known.insert(b"get", Kind::Exec, Vec::new());
        known.insert(b"a-longer-name", Kind::Exec, Vec::new());
        assert_eq!(known.get_short(short_key(b"GeT").unwrap()), Some(Kind::Exec));
        assert_eq!(known.get_short(short_key(b"gett").unwrap()), None);
        assert_eq!((short_key(b""), short_key(b"a-longer-name")), (None, None));
        known.clear();
        assert_eq!(known.get_short(short_key(b"get").unwrap()), None);
    }

    #[test]
    fn each_key_has_its_own_use() {
        let mut known = Known::default();
        let at = |position: u8| Span { first: position.into(), last: position.into(), step: 1 };
        let kind = Kind::Writes { span: Span { first: 1, last: 2, step: 1 }, reach: Reach::Adds };
        known.insert(b"copy", kind, vec![(at(1), KeyUse::Reads), (at(2), KeyUse::Replaces)]);
        known.insert(b"get", Kind::Harmless, vec![(at(1), KeyUse::Reads)]);
        assert_eq!(known.key_use(b"copy", 1, 3), Some(KeyUse::Reads));
        assert_eq!(known.key_use(b"copy", 2, 3), Some(KeyUse::Replaces));
        assert_eq!(known.key_use(b"copy", 3, 4), None);
        assert_eq!(known.key_use(b"get", 1, 2), None, "not worth remembering");
        assert_eq!(known.key_use(b"elsewhere", 1, 2), None);
    }

    #[test]
    fn the_memory_of_names_is_bounded() {
        let mut known = Known::default();
        for number in 0..=NAMES_MAX {
            known.insert(number.to_string().as_bytes(), Kind::Harmless, Vec::new());
        }
        assert_eq!(known.kinds.len(), 1);
        assert_eq!(known.get(NAMES_MAX.to_string().as_bytes()), Some(Kind::Harmless));
        known.clear();
        assert_eq!(known.get(NAMES_MAX.to_string().as_bytes()), None);
    }
}
