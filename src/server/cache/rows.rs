//! The commands of entries and leases.

use super::commands::{inspect, lease, read, write};
use crate::server::ffi::entry_point::entry_point;
use crate::server::table::{
    option, required, word, Access, ArgDoc, ArgKind, Command, Keys, Times, BIND, COUNT, KEY, TAG_LIST, WAIT,
};
use std::ffi::CStr;

const KEYS: ArgDoc = ArgDoc { name: c"key", kind: ArgKind::Key, token: None, times: Times::Many };
const TOKEN: ArgDoc = required(c"token", ArgKind::Bytes);
const TTL: ArgDoc = required(c"freshness", ArgKind::OneOf(TTL_FORMS));
const TTL_FORMS: &[ArgDoc] = &[
    required(c"ttl-ms", ArgKind::Integer),
    word(c"unix-ms", c"PXAT", ArgKind::UnixTime),
    word(c"persist", c"PERSIST", ArgKind::Token),
];
const STALE: ArgDoc = option(c"stale-ms", c"STALE", ArgKind::Integer);
const META: ArgDoc = option(c"meta", c"META", ArgKind::Token);
const LEASE: ArgDoc = option(c"lease-ms", c"LEASE", ArgKind::Integer);
const EARLY: ArgDoc = option(c"beta", c"EARLY", ArgKind::Float);
const MAXSTALE: ArgDoc = option(c"stale-ms-max", c"MAXSTALE", ArgKind::Integer);
/// Granting a lease changes no data, so reads are not `write`: hits are served while the server
/// refuses writes. They are not `readonly` either: a client that waited must not believe that it
/// tracks the key, and routers must not send misses to replicas.
const READS: &CStr = c"may-replicate fast blocking";
/// What holders do changes no data.
const HOLDS: &CStr = c"may-replicate fast";
const STALEAT: ArgDoc = option(c"stale-since-unix-ms", c"STALEAT", ArgKind::UnixTime);

/// The rows.
pub static COMMANDS: &[Command] = &[
    Command {
        name: c"cache.getsm",
        enter: entry_point(read::getsm),
        arity: -2,
        flags: READS,
        categories: c"read fast blocking",
        keys: Keys::First(Access::ReadWrite),
        summary: c"Returns the value, or nil and the lease to load it; waits while another caller loads it.",
        complexity: c"O(1) for a hit, O(log N) with N leases and waiters otherwise",
        since: c"0.1.0",
        tips: None,
        args: &[KEY, WAIT, LEASE, EARLY, MAXSTALE, BIND, META],
    },
    Command {
        name: c"cache.mgetsm",
        enter: entry_point(read::mgetsm),
        arity: -3,
        flags: c"may-replicate blocking",
        categories: c"read blocking",
        keys: Keys::Counted(Access::ReadWrite),
        summary: c"Returns a row for each key; waits while other callers load all missing keys.",
        complexity: c"O(K) for K keys, each as with CACHE.GETSM",
        since: c"0.1.0",
        tips: None,
        args: &[required(c"numkeys", ArgKind::Integer), KEYS, WAIT, LEASE, EARLY, MAXSTALE, BIND],
    },
    Command {
        name: c"cache.get",
        enter: entry_point(read::get),
        arity: -2,
        flags: c"readonly fast",
        categories: c"read fast",
        keys: Keys::First(Access::Read),
        summary: c"Returns the value while it is fresh or stale, else nil; never takes a lease, never waits.",
        complexity: c"O(1)",
        since: c"0.1.0",
        tips: None,
        args: &[KEY, META],
    },
    Command {
        name: c"cache.setsm",
        enter: entry_point(write::setsm),
        arity: -4,
        flags: c"write deny-oom fast",
        categories: c"write fast",
        keys: Keys::First(Access::Overwrite),
        summary: c"Stores the value, ends the key's lease and answers every waiter with the value.",
        complexity: c"O(1); the waiters are answered in slices",
        since: c"0.1.0",
        tips: None,
        args: &[
            KEY,
            required(c"value", ArgKind::Bytes),
            TTL,
            STALE,
            option(c"token", c"TOKEN", ArgKind::Bytes),
            option(c"version", c"VERSION", ArgKind::Integer),
            option(c"jitter-percent", c"JITTER", ArgKind::Integer),
            option(c"cost-ms", c"COST", ArgKind::Integer),
            STALEAT,
            option(c"tags", c"TAGS", ArgKind::Block(&[required(c"numtags", ArgKind::Integer), TAG_LIST])),
        ],
    },
    Command {
        name: c"cache.touch",
        enter: entry_point(write::touch),
        arity: -3,
        flags: c"write fast",
        categories: c"write fast",
        keys: Keys::First(Access::ReadWrite),
        summary: c"Gives an entry a new TTL without sending its value, ends its lease and answers its waiters.",
        complexity: c"O(1)",
        since: c"0.1.0",
        tips: None,
        args: &[KEY, TTL, STALE, option(c"token", c"TOKEN", ArgKind::Bytes), STALEAT],
    },
    Command {
        name: c"cache.del",
        enter: entry_point(write::del),
        arity: -2,
        flags: c"write fast",
        categories: c"write fast",
        keys: Keys::All(Access::Delete),
        summary: c"Deletes entries and voids the leases on them, whether they exist or not.",
        complexity: c"O(K) for K keys",
        since: c"0.1.0",
        tips: None,
        args: &[KEYS],
    },
    Command {
        name: c"cache.renew",
        enter: entry_point(lease::renew),
        arity: 4,
        flags: HOLDS,
        categories: c"write fast",
        keys: Keys::First(Access::ReadWrite),
        summary: c"Changes the end of a lease, if it is still the caller's.",
        complexity: c"O(log N) with N leases and waiters",
        since: c"0.1.0",
        tips: None,
        args: &[KEY, TOKEN, required(c"ms", ArgKind::Integer)],
    },
    Command {
        name: c"cache.release",
        enter: entry_point(lease::release),
        arity: 3,
        flags: HOLDS,
        categories: c"write fast",
        keys: Keys::First(Access::ReadWrite),
        summary: c"Ends a lease without a value; the oldest waiter gets a new one.",
        complexity: c"O(log N) with N leases and waiters",
        since: c"0.1.0",
        tips: None,
        args: &[KEY, TOKEN],
    },
    Command {
        name: c"cache.fail",
        enter: entry_point(lease::fail),
        arity: -3,
        flags: HOLDS,
        categories: c"write fast",
        keys: Keys::First(Access::ReadWrite),
        summary:
            c"Reports that the origin failed; waiters get an error, and nobody gets the lease during the retry window.",
        complexity: c"O(log N) with N leases and waiters",
        since: c"0.1.0",
        tips: None,
        args: &[
            KEY,
            TOKEN,
            option(c"retry-ms", c"RETRY", ArgKind::Integer),
            option(c"text", c"MESSAGE", ArgKind::Bytes),
        ],
    },
    Command {
        name: c"cache.inspect",
        enter: entry_point(inspect::inspect),
        arity: 2,
        flags: c"readonly fast",
        categories: c"read fast",
        keys: Keys::First(Access::Read),
        summary: c"Describes an entry and the lease on its key.",
        complexity: c"O(size of the value)",
        since: c"0.1.0",
        tips: None,
        args: &[KEY],
    },
    Command {
        name: c"cache.leases",
        enter: entry_point(inspect::leases),
        arity: -1,
        flags: c"readonly",
        categories: c"read slow",
        keys: Keys::None,
        summary: c"Lists the current leases, those with the most waiters first.",
        complexity: c"O(N log N) with N leases",
        since: c"0.1.0",
        tips: None,
        args: &[COUNT],
    },
];
