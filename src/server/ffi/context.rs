//! The context of a callback: who calls, what it was given, how it is answered.

use super::key::expect_none_open;
use super::OK;
use crate::engine::id::{ClientId, DbId};
use crate::engine::time::{MonoMillis, UnixMillis};
use redis_module::raw;
use std::ffi::{c_char, c_int, c_long, c_longlong, CStr, CString};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Bytes of all strings that were replied.
static REPLIED: AtomicU64 = AtomicU64::new(0);
/// What a string takes on its way beside its own bytes.
const PER_STRING: u64 = 16;

/// Bytes of all strings that were replied since the start of the server.
#[inline]
#[must_use]
pub fn bytes_replied() -> u64 {
    REPLIED.load(Relaxed)
}

/// The context the server passed to the callback that is running.
#[derive(Clone, Copy)]
pub struct Ctx<'c> {
    pub(super) raw: *mut raw::RedisModuleCtx,
    callback: PhantomData<&'c ()>,
}

/// One argument of the running command: any bytes.
#[derive(Clone, Copy)]
#[repr(transparent)] // a list of them is one of the server's
pub struct Arg<'c> {
    pub(super) raw: *mut raw::RedisModuleString,
    callback: PhantomData<&'c ()>,
}

/// A string of the server that we made, freed when dropped.
pub struct Text<'c> {
    raw: *mut raw::RedisModuleString,
    ctx: Ctx<'c>,
}

impl Text<'_> {
    /// As an argument of other calls.
    #[must_use]
    pub fn arg(&self) -> Arg<'_> {
        Arg::new(self.raw)
    }
}

impl Drop for Text<'_> {
    fn drop(&mut self) {
        call!(RedisModule_FreeString(self.ctx.raw, self.raw));
    }
}

/// How serious a line in the server's log is.
#[derive(Clone, Copy)]
pub enum Level {
    /// Worth acting upon.
    Warning,
}

/// What a role, mode or caller forbids; a snapshot.
#[derive(Clone, Copy)]
pub struct Situation(c_int);

impl<'c> Arg<'c> {
    pub(super) fn new(raw: *mut raw::RedisModuleString) -> Self {
        Self { raw, callback: PhantomData }
    }

    /// The argument's bytes.
    #[must_use]
    pub fn bytes(self) -> &'c [u8] {
        bytes_of(self.raw)
    }
}

/// The bytes of a string of the server, for as long as the caller says it lives.
pub(super) fn bytes_of<'s>(string: *const raw::RedisModuleString) -> &'s [u8] {
    let mut len = 0;
    let start = call!(RedisModule_StringPtrLen(string, &mut len));
    // SAFETY: the server says that `len` bytes start there, for as long as the string lives.
    unsafe { std::slice::from_raw_parts(start.cast(), len) }
}

impl Situation {
    fn has(self, flag: u32) -> bool {
        self.0 & flag as c_int != 0
    }

    /// The caller cannot be blocked: MULTI, a script, a function, a nested call, or a connection that has
    /// subscribed to a channel (Valkey 8.1 and later, RESP3).
    #[must_use]
    pub fn denies_blocking(self) -> bool {
        self.has(raw::REDISMODULE_CTX_FLAGS_DENY_BLOCKING)
    }

    /// A script or function calls. Its calls are made by a client of the server's own, and nothing
    /// tells whose script it is.
    #[must_use]
    pub fn is_script(self) -> bool {
        self.has(raw::REDISMODULE_CTX_FLAGS_LUA)
    }

    /// This server follows another one.
    #[must_use]
    pub fn is_replica(self) -> bool {
        self.has(raw::REDISMODULE_CTX_FLAGS_SLAVE)
    }

    /// This server is a node of a cluster.
    #[must_use]
    pub fn is_cluster(self) -> bool {
        self.has(raw::REDISMODULE_CTX_FLAGS_CLUSTER)
    }

    /// A file is being loaded.
    #[must_use]
    pub fn is_loading(self) -> bool {
        self.has(raw::REDISMODULE_CTX_FLAGS_LOADING) || self.has(raw::REDISMODULE_CTX_FLAGS_ASYNC_LOADING)
    }

    /// The command comes from the replication stream or from a file being loaded.
    #[must_use]
    pub fn replays(self) -> bool {
        self.has(raw::REDISMODULE_CTX_FLAGS_REPLICATED) || self.is_loading()
    }
}

impl<'c> Ctx<'c> {
    pub(super) fn new(raw: *mut raw::RedisModuleCtx) -> Self {
        Self { raw, callback: PhantomData }
    }

    /// The database the caller has selected.
    #[must_use]
    pub fn db(self) -> DbId {
        call!(RedisModule_GetSelectedDb(self.raw))
    }

    /// Selects the database for the calls that follow in this callback.
    pub fn select_db(self, db: DbId) {
        call!(RedisModule_SelectDb(self.raw, db));
    }

    /// A string of the server with these bytes.
    #[must_use]
    pub fn string(self, bytes: &[u8]) -> Text<'c> {
        let raw = call!(RedisModule_CreateString(self.raw, bytes.as_ptr().cast::<c_char>(), bytes.len()));
        Text { raw, ctx: self }
    }

    /// The version of a Valkey server; `None` if it is none.
    #[must_use]
    pub fn valkey_version(self) -> Option<(u32, u32)> {
        let info = call!(RedisModule_GetServerInfo(self.raw, c"server".as_ptr()));
        let version = call!(RedisModule_ServerInfoGetField(self.raw, info, c"valkey_version".as_ptr()));
        let mut found = None;
        if !version.is_null() {
            let text = String::from_utf8_lossy(bytes_of(version)).into_owned();
            let mut numbers = text.split('.').map_while(|number| number.parse().ok());
            found = numbers.next().zip(numbers.next());
            call!(RedisModule_FreeString(self.raw, version));
        }
        call!(RedisModule_FreeServerInfo(self.raw, info));
        found
    }

    /// The calling connection.
    #[must_use]
    pub fn client_id(self) -> ClientId {
        ClientId(call!(RedisModule_GetClientId(self.raw)))
    }

    /// What holds for this call. Costs a few hundred instructions.
    #[must_use]
    pub fn situation(self) -> Situation {
        Situation(call!(RedisModule_GetContextFlags(self.raw)))
    }

    /// The caller is inside MULTI, a script, a function or a nested call: it is answered at once, however
    /// long it would wait. A connection of its own that may not block, as it has subscribed, is not.
    #[must_use]
    pub fn is_nested(self, situation: Situation) -> bool {
        let inside = raw::REDISMODULE_CTX_FLAGS_MULTI | raw::REDISMODULE_CTX_FLAGS_LUA;
        situation.denies_blocking() && (situation.has(inside) || !self.has_subscribed())
    }

    /// The calling connection has subscribed to a channel.
    fn has_subscribed(self) -> bool {
        let flag = u64::from(raw::REDISMODULE_CLIENTINFO_FLAG_PUBSUB);
        client_info(self.client_id()).is_some_and(|info| info.flags & flag != 0)
    }

    /// Writes a line to the server's log.
    pub fn log(self, level: Level, text: &str) {
        let level = match level {
            Level::Warning => c"warning",
        };
        let text = CString::new(text.replace('\0', " ")).unwrap_or_default();
        call!(RedisModule_Log(self.raw, level.as_ptr(), c"%s".as_ptr(), text.as_ptr()));
    }

    /// Answers with a byte string.
    #[inline]
    pub fn reply_bytes(self, bytes: &[u8]) {
        REPLIED.store(bytes_replied() + bytes.len() as u64 + PER_STRING, Relaxed);
        call!(RedisModule_ReplyWithStringBuffer(self.raw, bytes.as_ptr().cast(), bytes.len()));
    }

    /// Answers with a status such as `OK`.
    pub fn reply_status(self, status: &'static CStr) {
        call!(RedisModule_ReplyWithSimpleString(self.raw, status.as_ptr()));
    }

    /// Answers with nil, in the form of the caller's protocol.
    pub fn reply_nil(self) {
        call!(RedisModule_ReplyWithNull(self.raw));
    }

    /// Answers with an error; `text` begins with its code.
    pub fn reply_error(self, text: &str) {
        let text = CString::new(text.replace(['\0', '\r', '\n'], " ")).unwrap_or_default();
        call!(RedisModule_ReplyWithError(self.raw, text.as_ptr()));
    }

    /// Answers with an integer.
    pub fn reply_integer(self, n: i64) {
        call!(RedisModule_ReplyWithLongLong(self.raw, n));
    }

    /// Answers with a number that may exceed an integer's range, and then is told as digits.
    pub fn reply_unsigned(self, n: u64) {
        match i64::try_from(n) {
            Ok(n) => self.reply_integer(n),
            Err(_) => self.reply_bytes(n.to_string().as_bytes()),
        }
    }

    /// Begins a map of `len` pairs; in RESP2 an array of twice as many elements.
    pub fn reply_map(self, len: usize) {
        call!(RedisModule_ReplyWithMap(self.raw, c_long::try_from(len).unwrap_or(0)));
    }

    /// Begins an array of `len` elements.
    pub fn reply_array(self, len: usize) {
        call!(RedisModule_ReplyWithArray(self.raw, c_long::try_from(len).unwrap_or(0)));
    }

    /// Tells subscribers of keyspace events (class `d`) what happened to `key`.
    pub fn notify(self, event: &'static CStr, key: Arg<'_>) {
        expect_none_open("NotifyKeyspaceEvent");
        let class = raw::REDISMODULE_NOTIFY_MODULE;
        call!(RedisModule_NotifyKeyspaceEvent(self.raw, class, event.as_ptr(), key.raw));
    }

    /// Tells subscribers of keyspace events (class `g`) that `key` was deleted; the server does not
    /// when a module deletes.
    pub fn notify_deleted(self, key: Arg<'_>) {
        expect_none_open("NotifyKeyspaceEvent");
        let class = raw::REDISMODULE_NOTIFY_GENERIC;
        call!(RedisModule_NotifyKeyspaceEvent(self.raw, class, c"del".as_ptr(), key.raw));
    }

    /// Sends `command key value PXAT at [TAGS n tag ...]` to replicas and the AOF:
    /// [`Self::replicate`] for the forms that most writes have, without building a list.
    pub fn replicate_pxat(self, command: &'static CStr, key: Arg<'_>, value: Arg<'_>, at: u64, tags: &[Arg<'_>]) {
        expect_none_open("Replicate");
        let (name, pxat, at) = (command.as_ptr(), c"PXAT".as_ptr(), i64::try_from(at).unwrap_or(i64::MAX));
        let done = if tags.is_empty() {
            call!(RedisModule_Replicate(self.raw, name, c"sscl".as_ptr(), key.raw, value.raw, pxat, at))
        } else {
            call!(RedisModule_Replicate(
                self.raw,
                name,
                c"ssclclv".as_ptr(),
                key.raw,
                value.raw,
                pxat,
                at,
                c"TAGS".as_ptr(),
                tags.len() as c_longlong,
                tags.as_ptr(),
                tags.len()
            ))
        };
        assert!(done == OK, "the server refused to replicate {command:?}");
    }

    /// Sends `CACHE.LOCK key owner PXAT at FENCE fence` to replicas and the AOF: what most grants
    /// are, without building a list.
    pub fn replicate_grant(self, key: Arg<'_>, owner: &[u8], at: u64, fence: u64) {
        expect_none_open("Replicate");
        let number = |n: u64| c_longlong::try_from(n).unwrap_or(c_longlong::MAX);
        let done = call!(RedisModule_Replicate(
            self.raw,
            c"CACHE.LOCK".as_ptr(),
            c"sbclcl".as_ptr(),
            key.raw,
            owner.as_ptr().cast::<c_char>(),
            owner.len(),
            c"PXAT".as_ptr(),
            number(at),
            c"FENCE".as_ptr(),
            number(fence)
        ));
        assert!(done == OK, "the server refused to replicate a grant");
    }

    /// Sends `command key` to replicas and the AOF.
    pub fn replicate_deletion(self, command: &'static CStr, key: Arg<'_>) {
        expect_none_open("Replicate");
        let done = call!(RedisModule_Replicate(self.raw, command.as_ptr(), c"s".as_ptr(), key.raw));
        assert!(done == OK, "the server refused to replicate a deletion");
    }

    /// Sends `command` with `args` to replicas and the AOF, in the caller's database.
    pub fn replicate(self, command: &'static CStr, args: &[Effect<'_>]) {
        expect_none_open("Replicate");
        let mut strings = Strings::new(self.raw, args);
        let (start, len) = strings.vector();
        let done = call!(RedisModule_Replicate(self.raw, command.as_ptr(), c"v".as_ptr(), start, len));
        assert!(done == OK, "the server refused to replicate {command:?}");
    }
}

/// The arguments of a replicated command as strings of the server.
pub(super) struct Strings {
    ctx: *mut raw::RedisModuleCtx,
    all: Vec<*mut raw::RedisModuleString>,
    /// Those of `all` that were made here.
    own: Vec<*mut raw::RedisModuleString>,
}

impl Strings {
    pub(super) fn new(ctx: *mut raw::RedisModuleCtx, args: &[Effect<'_>]) -> Self {
        let mut strings = Self { ctx, all: Vec::with_capacity(args.len()), own: Vec::with_capacity(args.len()) };
        for arg in args {
            match *arg {
                Effect::Arg(arg) => strings.all.push(arg.raw),
                Effect::Word(word) => strings.make(word.to_bytes()),
                Effect::Bytes(bytes) => strings.make(bytes),
                Effect::Number(n) => strings.make(n.to_string().as_bytes()),
            }
        }
        strings
    }

    fn make(&mut self, bytes: &[u8]) {
        let string = call!(RedisModule_CreateString(self.ctx, bytes.as_ptr().cast::<c_char>(), bytes.len()));
        self.all.push(string);
        self.own.push(string);
    }

    /// As the server's variadic functions take them.
    pub(super) fn vector(&mut self) -> (*mut *mut raw::RedisModuleString, usize) {
        (self.all.as_mut_ptr(), self.all.len())
    }
}

impl Drop for Strings {
    fn drop(&mut self) {
        for string in &self.own {
            call!(RedisModule_FreeString(self.ctx, *string));
        }
    }
}

/// One argument of a replicated command.
#[derive(Clone, Copy)]
pub enum Effect<'a> {
    /// As the caller gave it; not copied.
    Arg(Arg<'a>),
    /// A keyword.
    Word(&'static CStr),
    /// Any bytes.
    Bytes(&'a [u8]),
    /// A number.
    Number(u64),
}

impl<'a> Effect<'a> {
    /// The same, to be made into a string of its own.
    pub(super) fn copied(self) -> Effect<'a> {
        match self {
            Self::Arg(arg) => Effect::Bytes(arg.bytes()),
            other => other,
        }
    }
}

/// What the server tells of a connection; `None` if there is none of that number.
pub(super) fn client_info(client: ClientId) -> Option<raw::RedisModuleClientInfo> {
    // SAFETY: all fields of this plain structure may be zero.
    let mut info: raw::RedisModuleClientInfo = unsafe { std::mem::zeroed() };
    info.version = 1;
    let known = call!(RedisModule_GetClientInfoById((&raw mut info).cast(), client.0)) == OK;
    known.then_some(info)
}

/// The wall clock.
#[must_use]
pub fn unix_now() -> UnixMillis {
    UnixMillis(u64::try_from(call!(RedisModule_Milliseconds())).unwrap_or(0))
}

/// The monotonic clock.
#[must_use]
pub fn mono_now() -> MonoMillis {
    MonoMillis(call!(RedisModule_MonotonicMicroseconds()) / 1_000)
}

/// The monotonic clock, in microseconds.
#[must_use]
pub fn micros() -> u64 {
    call!(RedisModule_MonotonicMicroseconds())
}

/// The server's version as it tells modules, `0xMMmmpp`; Valkey answers with the Redis version it
/// is compatible with.
#[must_use]
pub fn server_version() -> u32 {
    call!(RedisModule_GetServerVersion()) as u32
}
