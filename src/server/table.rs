//! The command table: the only list of commands.
//!
//! From a row the server learns the command's name, arity, flags, keys, ACL categories and
//! documentation; the docs pages and the tests are checked against what it then says.

pub mod limits;
mod lock;

use super::commands::{admin, invalidate, lease, read, tags, write};
use super::ffi::entry_point::{entry_point, EntryPoint};
use std::ffi::CStr;

/// Every command of the module, but for [`limits::CL_THROTTLE`], which is not always ours.
pub fn commands() -> impl Iterator<Item = &'static Command> {
    COMMANDS.iter().chain(lock::COMMANDS).chain(limits::COMMANDS)
}

/// True if the command of that name, in lower case, sees to the leases on its keys itself.
#[must_use]
pub fn minds_leases(name: &[u8]) -> bool {
    COMMANDS.iter().any(|row| row.name.to_bytes() == name)
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

const fn required(name: &'static CStr, kind: ArgKind) -> ArgDoc {
    ArgDoc { name, kind, token: None, times: Times::Once }
}

const fn word(name: &'static CStr, token: &'static CStr, kind: ArgKind) -> ArgDoc {
    ArgDoc { name, kind, token: Some(token), times: Times::Once }
}

const fn option(name: &'static CStr, token: &'static CStr, kind: ArgKind) -> ArgDoc {
    ArgDoc { name, kind, token: Some(token), times: Times::Optional }
}

const TAG: ArgDoc = required(c"tag", ArgKind::Bytes);
const TAG_LIST: ArgDoc = ArgDoc { name: c"tag", kind: ArgKind::Bytes, token: None, times: Times::Many };
const CURSOR: ArgDoc = required(c"cursor", ArgKind::Integer);
const STALEAT: ArgDoc = option(c"stale-since-unix-ms", c"STALEAT", ArgKind::UnixTime);
const KEY: ArgDoc = required(c"key", ArgKind::Key);
const KEYS: ArgDoc = ArgDoc { name: c"key", kind: ArgKind::Key, token: None, times: Times::Many };
const TOKEN: ArgDoc = required(c"token", ArgKind::Bytes);
const TTL: ArgDoc = required(c"freshness", ArgKind::OneOf(TTL_FORMS));
const STALE: ArgDoc = option(c"stale-ms", c"STALE", ArgKind::Integer);
const COUNT: ArgDoc = option(c"count", c"COUNT", ArgKind::Integer);
const META: ArgDoc = option(c"meta", c"META", ArgKind::Token);

const TTL_FORMS: &[ArgDoc] = &[
    required(c"ttl-ms", ArgKind::Integer),
    word(c"unix-ms", c"PXAT", ArgKind::UnixTime),
    word(c"persist", c"PERSIST", ArgKind::Token),
];
const WAIT: ArgDoc = option(c"wait-ms", c"WAIT", ArgKind::Integer);
const LEASE: ArgDoc = option(c"lease-ms", c"LEASE", ArgKind::Integer);
const EARLY: ArgDoc = option(c"beta", c"EARLY", ArgKind::Float);
const MAXSTALE: ArgDoc = option(c"stale-ms-max", c"MAXSTALE", ArgKind::Integer);
const BIND: ArgDoc = option(c"bind", c"BIND", ArgKind::Token);

/// Granting a lease changes no data, so reads are not `write`: hits are served while the server
/// refuses writes. They are not `readonly` either: a client that waited must not believe that it
/// tracks the key, and routers must not send misses to replicas.
const READS: &CStr = c"may-replicate fast blocking";
/// For commands without keys: each node answers for its own, and the answers are added up.
const ADDED_UP: Option<&CStr> = Some(c"request_policy:all_shards response_policy:agg_sum");
/// The same where each node's answer stands for itself.
const SIDE_BY_SIDE: Option<&CStr> = Some(c"request_policy:all_shards");
/// The same where the answers must be put together with care.
const SPECIAL: Option<&CStr> = Some(c"nondeterministic_output request_policy:special response_policy:special");
/// What holders do changes no data.
const HOLDS: &CStr = c"may-replicate fast";

/// Those of entries and tags.
static COMMANDS: &[Command] = &[
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
        enter: entry_point(admin::inspect),
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
        enter: entry_point(admin::leases),
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
    Command {
        name: c"cache.invalidate",
        enter: entry_point(invalidate::invalidate),
        arity: -2,
        flags: c"write",
        categories: c"keyspace write fast",
        keys: Keys::None,
        summary: c"Deletes all entries that have any of the given tags, at once for every reader.",
        complexity: c"O(tags); up to 1000 entries are deleted within the command, more in the background",
        since: c"0.1.0",
        tips: ADDED_UP,
        args: &[TAG_LIST],
    },
    Command {
        name: c"cache.markstale",
        enter: entry_point(invalidate::markstale),
        arity: -2,
        flags: c"write",
        categories: c"keyspace write fast",
        keys: Keys::None,
        summary: c"Marks all entries that have any of the given tags as stale.",
        complexity: c"O(tags)",
        since: c"0.1.0",
        tips: ADDED_UP,
        args: &[TAG_LIST],
    },
    Command {
        name: c"cache.tagdel",
        enter: entry_point(invalidate::tagdel),
        arity: 2,
        flags: c"write",
        categories: c"keyspace write fast",
        keys: Keys::None,
        summary: c"Removes a tag from all its entries and keeps the entries.",
        complexity: c"O(1)",
        since: c"0.1.0",
        tips: ADDED_UP,
        args: &[TAG],
    },
    Command {
        name: c"cache.tagkeys",
        enter: entry_point(tags::tagkeys),
        arity: 2,
        flags: c"readonly",
        categories: c"keyspace read slow",
        keys: Keys::None,
        summary: c"Lists the entries that have a tag.",
        complexity: c"O(N) with N entries",
        since: c"0.1.0",
        tips: SIDE_BY_SIDE,
        args: &[TAG],
    },
    Command {
        name: c"cache.tagscan",
        enter: entry_point(tags::tagscan),
        arity: -3,
        flags: c"readonly",
        categories: c"keyspace read slow",
        keys: Keys::None,
        summary: c"Iterates over the entries that have a tag.",
        complexity: c"O(COUNT)",
        since: c"0.1.0",
        tips: SPECIAL,
        args: &[TAG, CURSOR, COUNT],
    },
    Command {
        name: c"cache.tagcount",
        enter: entry_point(tags::tagcount),
        arity: 2,
        flags: c"readonly fast",
        categories: c"keyspace read fast",
        keys: Keys::None,
        summary: c"Counts the entries that have a tag.",
        complexity: c"O(1)",
        since: c"0.1.0",
        tips: ADDED_UP,
        args: &[TAG],
    },
    Command {
        name: c"cache.taginfo",
        enter: entry_point(tags::taginfo),
        arity: 2,
        flags: c"readonly fast",
        categories: c"keyspace read fast",
        keys: Keys::None,
        summary: c"Describes a tag.",
        complexity: c"O(1)",
        since: c"0.1.0",
        tips: SIDE_BY_SIDE,
        args: &[TAG],
    },
    Command {
        name: c"cache.taglist",
        enter: entry_point(tags::taglist),
        arity: -2,
        flags: c"readonly",
        categories: c"keyspace read slow",
        keys: Keys::None,
        summary: c"Iterates over all tags.",
        complexity: c"O(COUNT)",
        since: c"0.1.0",
        tips: SPECIAL,
        args: &[CURSOR, option(c"pattern", c"MATCH", ArgKind::Bytes), COUNT],
    },
    Command {
        name: c"cache.tags",
        enter: entry_point(tags::tags),
        arity: 2,
        flags: c"readonly fast",
        categories: c"read fast",
        keys: Keys::First(Access::Read),
        summary: c"Lists the tags of an entry.",
        complexity: c"O(tags)",
        since: c"0.1.0",
        tips: None,
        args: &[KEY],
    },
    Command {
        name: c"cache.tag",
        enter: entry_point(tags::tag),
        arity: -3,
        flags: c"write deny-oom fast",
        categories: c"write fast",
        keys: Keys::First(Access::ReadWrite),
        summary: c"Adds tags to an entry.",
        complexity: c"O(tags)",
        since: c"0.1.0",
        tips: None,
        args: &[KEY, TAG_LIST],
    },
    Command {
        name: c"cache.untag",
        enter: entry_point(tags::untag),
        arity: -3,
        flags: c"write fast",
        categories: c"write fast",
        keys: Keys::First(Access::ReadWrite),
        summary: c"Removes tags from an entry.",
        complexity: c"O(tags)",
        since: c"0.1.0",
        tips: None,
        args: &[KEY, TAG_LIST],
    },
];
