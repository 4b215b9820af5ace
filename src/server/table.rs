//! The command table: the only list of commands.
//!
//! From a row the server learns the command's name, arity, flags, keys, ACL categories and
//! documentation; the docs pages and the tests are checked against what it then says.

use super::ffi::entry_point::EntryPoint;
use super::{cache, limit, lock, tag};
use std::ffi::CStr;

/// Every command of the module, but for [`limits::CL_THROTTLE`], which is not always ours.
pub fn commands() -> impl Iterator<Item = &'static Command> {
    [cache::rows::COMMANDS, tag::rows::COMMANDS, lock::rows::COMMANDS, limit::rows::COMMANDS].into_iter().flatten()
}

/// True if the command of that name, in lower case, sees to the leases on its keys itself.
#[must_use]
pub fn minds_leases(name: &[u8]) -> bool {
    [cache::rows::COMMANDS, tag::rows::COMMANDS].into_iter().flatten().any(|row| row.name.to_bytes() == name)
}

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
    /// What a client of a cluster must know that the rest does not say.
    pub tips: Option<&'static CStr>,
    /// Its syntax.
    pub args: &'static [ArgDoc],
}

/// Where the keys of a command are.
#[derive(Clone, Copy)]
pub enum Keys {
    /// It has none.
    None,
    /// The first argument is the only one.
    First(Access),
    /// All arguments are keys.
    All(Access),
    /// The first argument says how many keys follow.
    Counted(Access),
}

/// What a command does to its keys, which decides the permissions it needs.
#[derive(Clone, Copy)]
pub enum Access {
    /// Reads the value.
    Read,
    /// Reads the value and may change what belongs to the key: needs read and write permission.
    ReadWrite,
    /// Replaces the value, looking at nothing of it.
    Overwrite,
    /// Removes the key.
    Delete,
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
    /// How often it comes.
    pub times: Times,
}

/// How often an argument comes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// Once.
    Once,
    /// Once or not at all.
    Optional,
    /// Once or more.
    Many,
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
    /// A number with a fraction.
    Float,
    /// A point in time, in milliseconds since 1970.
    UnixTime,
    /// Just the keyword.
    Token,
    /// One of these.
    OneOf(&'static [ArgDoc]),
    /// All of these, in this order.
    Block(&'static [ArgDoc]),
}

pub const fn required(name: &'static CStr, kind: ArgKind) -> ArgDoc {
    ArgDoc { name, kind, token: None, times: Times::Once }
}

pub const fn word(name: &'static CStr, token: &'static CStr, kind: ArgKind) -> ArgDoc {
    ArgDoc { name, kind, token: Some(token), times: Times::Once }
}

pub const fn option(name: &'static CStr, token: &'static CStr, kind: ArgKind) -> ArgDoc {
    ArgDoc { name, kind, token: Some(token), times: Times::Optional }
}

pub const TAG_LIST: ArgDoc = ArgDoc { name: c"tag", kind: ArgKind::Bytes, token: None, times: Times::Many };
pub const KEY: ArgDoc = required(c"key", ArgKind::Key);
pub const COUNT: ArgDoc = option(c"count", c"COUNT", ArgKind::Integer);
pub const WAIT: ArgDoc = option(c"wait-ms", c"WAIT", ArgKind::Integer);
pub const BIND: ArgDoc = option(c"bind", c"BIND", ArgKind::Token);
