//! The command table: the only list of commands.
//!
//! From a row the server learns the command's name, arity, flags, keys, ACL categories and
//! documentation; the docs pages and the tests are checked against what it then says.

use super::commands::cache;
use super::ffi::entry_point::{entry_point, EntryPoint};
use std::ffi::CStr;

/// One command.
pub struct Command {
    /// As clients call it.
    pub name: &'static CStr,
    /// What answers it.
    pub enter: EntryPoint,
    /// Number of arguments with the name; negative: at least as many.
    pub arity: i32,
    /// Words the server knows: `write`, `deny-oom`, …
    pub flags: &'static CStr,
    /// ACL categories beside `cacheguard`.
    pub categories: &'static CStr,
    /// Where its keys are, and what it does to them.
    pub keys: Keys,
    /// One sentence for COMMAND DOCS.
    pub summary: &'static CStr,
    /// Its cost.
    pub complexity: &'static CStr,
    /// The release it came with.
    pub since: &'static CStr,
    /// Its syntax.
    pub args: &'static [ArgDoc],
}

/// Where the keys of a command are.
#[derive(Clone, Copy)]
pub enum Keys {
    /// The first argument is the only one.
    First(Access),
}

/// What a command does to its keys, which decides the permissions it needs.
#[derive(Clone, Copy)]
pub enum Access {
    /// Reads the value and may change what belongs to the key: needs read and write permission.
    ReadWrite,
    /// Replaces the value, looking at nothing of it.
    Overwrite,
}

/// One argument of a command's syntax.
#[derive(Clone, Copy)]
pub struct ArgDoc {
    /// What it is called.
    pub name: &'static CStr,
    /// Of which kind it is.
    pub kind: ArgKind,
    /// The keyword before it, if any.
    pub token: Option<&'static CStr>,
    /// May be left out.
    pub optional: bool,
}

/// The kind of an argument.
#[derive(Clone, Copy)]
pub enum ArgKind {
    /// The name of a key.
    Key,
    /// Any bytes.
    Bytes,
    /// A whole number.
    Integer,
    /// A point in time, in milliseconds since 1970.
    UnixTime,
    /// Just the keyword.
    Token,
    /// One of these.
    OneOf(&'static [ArgDoc]),
}

const fn required(name: &'static CStr, kind: ArgKind) -> ArgDoc {
    ArgDoc { name, kind, token: None, optional: false }
}

const fn option(name: &'static CStr, token: &'static CStr, kind: ArgKind) -> ArgDoc {
    ArgDoc { name, kind, token: Some(token), optional: true }
}

const KEY: ArgDoc = required(c"key", ArgKind::Key);

const TTL: &[ArgDoc] = &[
    required(c"ttl-ms", ArgKind::Integer),
    ArgDoc { name: c"unix-ms", kind: ArgKind::UnixTime, token: Some(c"PXAT"), optional: false },
    ArgDoc { name: c"persist", kind: ArgKind::Token, token: Some(c"PERSIST"), optional: false },
];

/// Every command of the module.
pub static COMMANDS: &[Command] = &[
    Command {
        name: c"cache.getsm",
        enter: entry_point(cache::getsm),
        arity: -2,
        flags: c"may-replicate fast blocking",
        categories: c"read fast blocking",
        keys: Keys::First(Access::ReadWrite),
        summary: c"Returns the value, or nil with the lease to regenerate it; waits while another caller does.",
        complexity: c"O(1) for a hit, O(log N) with N leases and waiters otherwise",
        since: c"0.1.0",
        args: &[KEY, option(c"wait-ms", c"WAIT", ArgKind::Integer), option(c"lease-ms", c"LEASE", ArgKind::Integer)],
    },
    Command {
        name: c"cache.setsm",
        enter: entry_point(cache::setsm),
        arity: -4,
        flags: c"write deny-oom fast",
        categories: c"write fast",
        keys: Keys::First(Access::Overwrite),
        summary: c"Stores the value, ends the key's lease and answers every waiter with the value.",
        complexity: c"O(1); the waiters are answered in slices",
        since: c"0.1.0",
        args: &[
            KEY,
            required(c"value", ArgKind::Bytes),
            required(c"freshness", ArgKind::OneOf(TTL)),
            option(c"stale-ms", c"STALE", ArgKind::Integer),
            option(c"version", c"VERSION", ArgKind::Integer),
            option(c"cost-ms", c"COST", ArgKind::Integer),
        ],
    },
];
