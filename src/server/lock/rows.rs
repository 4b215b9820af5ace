//! The commands of locks.

use crate::server::ffi::entry_point::entry_point;
use crate::server::lock::commands;
use crate::server::table::{option, required, word, Access, ArgDoc, ArgKind, Command, Keys, BIND, KEY, WAIT};
use std::ffi::CStr;

const TERMS: &[ArgDoc] = &[required(c"ttl-ms", ArgKind::Integer), word(c"unix-ms", c"PXAT", ArgKind::UnixTime)];
const OWNER: ArgDoc = required(c"owner", ArgKind::Bytes);
const COMPLEXITY: &CStr = c"O(H + log N) with H holders of the key and N waiters";

/// Those of locks.
pub static COMMANDS: &[Command] = &[
    Command {
        name: c"cache.lock",
        enter: entry_point(commands::lock),
        arity: -4,
        flags: c"write deny-oom fast blocking",
        categories: c"write fast blocking",
        keys: Keys::First(Access::ReadWrite),
        summary: c"Takes a lock and returns its fencing number, or nil; can wait in a queue.",
        complexity: COMPLEXITY,
        since: c"0.1.0",
        tips: None,
        args: &[
            KEY,
            OWNER,
            required(c"duration", ArgKind::OneOf(TERMS)),
            WAIT,
            option(c"shared", c"SHARED", ArgKind::Token),
            option(c"permits", c"PERMITS", ArgKind::Integer),
            BIND,
            option(c"fence", c"FENCE", ArgKind::Integer),
        ],
    },
    Command {
        name: c"cache.unlock",
        enter: entry_point(commands::unlock),
        arity: 3,
        flags: c"write fast",
        categories: c"write fast",
        keys: Keys::First(Access::ReadWrite),
        summary: c"Releases a lock if the owner holds it; the next waiter gets it.",
        complexity: COMPLEXITY,
        since: c"0.1.0",
        tips: None,
        args: &[KEY, OWNER],
    },
    Command {
        name: c"cache.extend",
        enter: entry_point(commands::extend),
        arity: 4,
        flags: c"write fast",
        categories: c"write fast",
        keys: Keys::First(Access::ReadWrite),
        summary: c"Sets the end of a lock to a time from now, if the owner holds it.",
        complexity: COMPLEXITY,
        since: c"0.1.0",
        tips: None,
        args: &[KEY, OWNER, required(c"ttl-ms", ArgKind::Integer)],
    },
    Command {
        name: c"cache.lockinfo",
        enter: entry_point(commands::lockinfo),
        arity: 2,
        flags: c"readonly fast",
        categories: c"read fast",
        keys: Keys::First(Access::Read),
        summary: c"Describes who holds a lock and who waits for it.",
        complexity: c"O(H) with H holders of the key",
        since: c"0.1.0",
        tips: None,
        args: &[KEY],
    },
];
