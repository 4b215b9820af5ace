//! The rows of rate limits.

use crate::server::ffi::entry_point::entry_point;
use crate::server::limit::{commands, throttle};
use crate::server::table::{option, required, word, Access, ArgDoc, ArgKind, Command, Keys, Times, KEY, WAIT};

const RULE: &[ArgDoc] = &[required(c"limit", ArgKind::Integer), required(c"window-ms", ArgKind::Integer)];
const ALGORITHMS: &[ArgDoc] = &[
    word(c"sliding", c"SLIDING", ArgKind::Token),
    word(c"fixed", c"FIXED", ArgKind::Token),
    word(c"gcra", c"GCRA", ArgKind::Token),
];
const AT: ArgDoc = option(c"unix-ms", c"AT", ArgKind::UnixTime);

/// The command of redis-cell. A setting, and whoever had it before, decide whether it is ours.
pub static CL_THROTTLE: Command = Command {
    name: c"cl.throttle",
    enter: entry_point(throttle::throttle),
    arity: -5,
    flags: c"write deny-oom fast",
    categories: c"write fast",
    keys: Keys::First(Access::ReadWrite),
    summary: c"Checks a request against a rate limit (GCRA), with the arguments and the reply of redis-cell.",
    complexity: c"O(1)",
    since: c"0.1.0",
    tips: None,
    args: &[
        KEY,
        required(c"max-burst", ArgKind::Integer),
        required(c"count", ArgKind::Integer),
        required(c"period-s", ArgKind::Integer),
        ArgDoc { times: Times::Optional, ..required(c"quantity", ArgKind::Integer) },
    ],
};

/// Those that are always ours.
pub static COMMANDS: &[Command] = &[
    Command {
        name: c"cache.ratelimit",
        enter: entry_point(commands::ratelimit),
        arity: -4,
        flags: c"write deny-oom fast blocking",
        categories: c"write fast blocking",
        keys: Keys::First(Access::ReadWrite),
        summary: c"Checks a request against all given rules, and counts it if it is allowed.",
        complexity: c"O(R) amortized with R rules",
        since: c"0.1.0",
        tips: None,
        args: &[
            KEY,
            ArgDoc { times: Times::Many, ..required(c"rule", ArgKind::Block(RULE)) },
            option(c"units", c"COST", ArgKind::Integer),
            option(c"algorithm", c"ALGORITHM", ArgKind::OneOf(ALGORITHMS)),
            option(c"peek", c"PEEK", ArgKind::Token),
            option(c"partial", c"PARTIAL", ArgKind::Token),
            WAIT,
            AT,
        ],
    },
    Command {
        name: c"cache.ratelimit_ro",
        enter: entry_point(commands::ratelimit_ro),
        arity: -4,
        flags: c"readonly fast",
        categories: c"read fast",
        keys: Keys::First(Access::Read),
        summary: c"Checks a request against all given rules and takes nothing.",
        complexity: c"O(R) amortized with R rules; O(N) with N requests in a sliding window where the rules differ",
        since: c"0.1.0",
        tips: None,
        args: &[
            KEY,
            ArgDoc { times: Times::Many, ..required(c"rule", ArgKind::Block(RULE)) },
            option(c"units", c"COST", ArgKind::Integer),
            option(c"algorithm", c"ALGORITHM", ArgKind::OneOf(ALGORITHMS)),
            option(c"partial", c"PARTIAL", ArgKind::Token),
            option(c"peek", c"PEEK", ArgKind::Token),
        ],
    },
    Command {
        name: c"cache.limitinfo",
        enter: entry_point(commands::limitinfo),
        arity: 2,
        flags: c"readonly fast",
        categories: c"read fast",
        keys: Keys::First(Access::Read),
        summary: c"Describes a rate limit: how much of each rule is used, and how many callers wait.",
        complexity: c"O(R) amortized with R rules",
        since: c"0.1.0",
        tips: None,
        args: &[KEY],
    },
    Command {
        name: c"cache.refund",
        enter: entry_point(commands::refund),
        arity: -3,
        flags: c"write fast",
        categories: c"write fast",
        keys: Keys::First(Access::ReadWrite),
        summary: c"Gives back the units of a rate limit that were taken last; returns how many.",
        complexity: c"O(N) with N requests given back or, with TAKEN, made since",
        since: c"0.1.0",
        tips: None,
        args: &[KEY, required(c"units", ArgKind::Integer), AT, option(c"taken-unix-ms", c"TAKEN", ArgKind::UnixTime)],
    },
];
