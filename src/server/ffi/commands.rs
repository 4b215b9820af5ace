//! What the server says of its commands.
//!
//! No command of the server is known to the module by its name alone: `rename-command` gives
//! commands other names, or takes them away. Where one is needed, it is asked for here whether it is there and
//! does what it should.

use super::context::{Arg, Ctx};
use super::key::expect_none_open;
use crate::engine::cache::plain::known::{Description, KeyUse, Span};
use redis_module::raw;
use std::ffi::{c_char, c_int, CStr};
use std::marker::PhantomData;
use std::ptr::null_mut;

/// What the server answers if it is asked to describe a command.
pub enum Asked {
    /// This.
    Described(Description),
    /// It describes none of that name.
    Unknown,
    /// It describes nothing: an operator took `COMMAND` away.
    Silent,
}

/// What RM_Call answered; freed when dropped.
pub(super) struct Reply(*mut raw::RedisModuleCallReply);

/// A part of a reply.
#[derive(Clone, Copy)]
pub(super) struct Part<'r>(*mut raw::RedisModuleCallReply, PhantomData<&'r Reply>);

impl Reply {
    /// `None` if the server refused the call; why, is the error number of the system.
    pub(super) fn new(raw: *mut raw::RedisModuleCallReply) -> Option<Self> {
        (!raw.is_null()).then(|| Self(raw))
    }

    /// All of it.
    pub(super) fn whole(&self) -> Part<'_> {
        Part(self.0, PhantomData)
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        call!(RedisModule_FreeCallReply(self.0));
    }
}

impl<'r> Part<'r> {
    fn is(self, kind: isize) -> bool {
        call!(RedisModule_CallReplyType(self.0)) as isize == kind
    }

    /// The bytes of a string.
    pub(super) fn bytes(self) -> Option<&'r [u8]> {
        if !self.is(raw::REDISMODULE_REPLY_STRING) {
            return None;
        }
        let mut len = 0;
        let start = call!(RedisModule_CallReplyStringPtr(self.0, &mut len));
        // SAFETY: the reply holds `len` bytes there until it is freed.
        (!start.is_null()).then(|| unsafe { std::slice::from_raw_parts(start.cast(), len) })
    }

    fn number(self) -> Option<i64> {
        self.is(raw::REDISMODULE_REPLY_INTEGER).then(|| call!(RedisModule_CallReplyInteger(self.0)))
    }

    fn at(self, index: usize) -> Option<Self> {
        let is_array = self.is(raw::REDISMODULE_REPLY_ARRAY);
        let part = is_array.then(|| call!(RedisModule_CallReplyArrayElement(self.0, index)));
        part.filter(|part| !part.is_null()).map(|part| Self(part, PhantomData))
    }

    /// The value of a field, of a map as RESP2 has it.
    fn field(self, name: &[u8]) -> Option<Self> {
        (0..self.len())
            .step_by(2)
            .find(|at| self.at(*at).and_then(Self::bytes) == Some(name))
            .and_then(|at| self.at(at + 1))
    }

    fn len(self) -> usize {
        if self.is(raw::REDISMODULE_REPLY_ARRAY) {
            call!(RedisModule_CallReplyLength(self.0))
        } else {
            0
        }
    }

    fn holds(self, word: &[u8]) -> bool {
        (0..self.len()).any(|index| self.at(index).and_then(Self::bytes) == Some(word))
    }
}

impl Ctx<'_> {
    /// Asks for the description of the command that is now called `name`, or `container|name`.
    #[must_use]
    pub fn describe_command(self, name: &[u8]) -> Asked {
        let (format, start) = (c"cb".as_ptr(), name.as_ptr().cast::<c_char>());
        let reply = call!(RedisModule_Call(self.raw, c"COMMAND".as_ptr(), format, c"INFO".as_ptr(), start, name.len()));
        let Some(reply) = Reply::new(reply) else { return Asked::Silent };
        match reply.whole().at(0).and_then(description) {
            Some(description) => Asked::Described(description),
            None => Asked::Unknown,
        }
    }

    /// True if the server has a command that is now called `name`.
    #[must_use]
    pub fn has_command(self, name: &[u8]) -> bool {
        let name = self.string(name);
        command_keys(self, &[name.arg().raw]).is_some()
            || std::io::Error::last_os_error().raw_os_error() != Some(libc::ENOENT)
    }

    /// True if what is now called `name` is the command that was built as `built`.
    #[must_use]
    pub fn is_command(self, name: &CStr, built: &[u8]) -> bool {
        match self.describe_command(name.to_bytes()) {
            Asked::Described(description) => description.full_name == built,
            Asked::Unknown | Asked::Silent => false,
        }
    }

    /// What `GET` answers for `name`; `None` if that is no string.
    pub(super) fn call_get<T>(self, name: Arg<'_>, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
        expect_none_open("Call");
        let reply = call!(RedisModule_Call(self.raw, GET.as_ptr(), c"s".as_ptr(), name.raw));
        Reply::new(reply).and_then(|reply| reply.whole().bytes().map(read))
    }
}

const GET: &CStr = c"GET";

/// From a row of COMMAND INFO.
fn description(row: Part<'_>) -> Option<Description> {
    let part = |at| row.at(at);
    let position = |at| part(at).and_then(Part::number).and_then(|n| isize::try_from(n).ok());
    let flag = |word: &[u8]| part(2).is_some_and(|flags| flags.holds(word));
    let is_movable = flag(b"movablekeys");
    let span = match (position(3)?, position(4)?, position(5)?) {
        (first, last, step) if first > 0 && step > 0 && !is_movable => {
            Some(Span { first: first.unsigned_abs(), last, step: step.unsigned_abs() })
        }
        _ => None,
    };
    Some(Description {
        full_name: part(0)?.bytes()?.to_ascii_lowercase(),
        is_write: flag(b"write"),
        may_add: flag(b"denyoom"),
        may_block: flag(b"blocking"),
        is_about_keys: part(6).is_some_and(|categories| categories.holds(b"@keyspace")),
        has_keys: span.is_some() || is_movable || part(8).is_some_and(|specs| specs.len() > 0),
        span,
        uses: part(8).map(key_specs).unwrap_or_default(),
        has_subcommands: part(9).is_some_and(|subcommands| subcommands.len() > 0),
    })
}

/// Of the key specifications in a row of COMMAND INFO, those that are ranges of positions.
fn key_specs(specs: Part<'_>) -> Vec<(Span, KeyUse)> {
    (0..specs.len()).filter_map(|index| key_spec(specs.at(index)?)).collect()
}

fn key_spec(spec: Part<'_>) -> Option<(Span, KeyUse)> {
    let (begin, find) = (spec.field(b"begin_search")?, spec.field(b"find_keys")?);
    if begin.field(b"type")?.bytes()? != b"index" || find.field(b"type")?.bytes()? != b"range" {
        return None;
    }
    let number = |part: Part<'_>, name| part.field(b"spec")?.field(name)?.number();
    let first = number(begin, b"index")?;
    let last = number(find, b"lastkey")?;
    let span = Span {
        first: usize::try_from(first).ok()?,
        last: isize::try_from(if last < 0 { last } else { first + last }).ok()?,
        step: usize::try_from(number(find, b"keystep")?).ok()?,
    };
    let flags = spec.field(b"flags")?;
    let key_use = if flags.holds(b"RO") || flags.holds(b"not_key") {
        KeyUse::Reads
    } else if [&b"OW"[..], b"RM", b"delete"].into_iter().any(|flag| flags.holds(flag)) {
        KeyUse::Replaces
    } else {
        KeyUse::Changes
    };
    Some((span, key_use))
}

/// Which of the arguments `argv`, a command's name first, are keys, and what the command does to
/// them; `None`: older servers know that only of commands whose keys depend on other arguments.
pub(super) fn key_uses(ctx: Ctx<'_>, argv: &[*mut raw::RedisModuleString]) -> Vec<(usize, Option<KeyUse>)> {
    let key_use = |flags: u32| {
        if flags == 0 {
            None
        } else if flags & (raw::REDISMODULE_CMD_KEY_RO | raw::REDISMODULE_CMD_KEY_NOT_KEY) != 0 {
            Some(KeyUse::Reads)
        } else if flags & TAKES != 0 {
            Some(KeyUse::Replaces)
        } else {
            Some(KeyUse::Changes)
        }
    };
    command_keys(ctx, argv).into_iter().flatten().map(|(at, flags)| (at, key_use(flags))).collect()
}

const TAKES: u32 = raw::REDISMODULE_CMD_KEY_OW | raw::REDISMODULE_CMD_KEY_RM | raw::REDISMODULE_CMD_KEY_DELETE;

/// The positions of keys and their flags; `None` if the server knows of none, and why is the error
/// number of the system.
fn command_keys(ctx: Ctx<'_>, argv: &[*mut raw::RedisModuleString]) -> Option<Vec<(usize, u32)>> {
    let (mut count, mut flags) = (0, null_mut());
    let argc = c_int::try_from(argv.len()).ok()?;
    let start = argv.as_ptr().cast_mut();
    let keys = call!(RedisModule_GetCommandKeysWithFlags(ctx.raw, start, argc, &mut count, &mut flags));
    if keys.is_null() {
        return None;
    }
    let count = usize::try_from(count).unwrap_or(0);
    // SAFETY: the server gave us two arrays of `count` numbers, to be freed by us.
    let (positions, uses) =
        unsafe { (std::slice::from_raw_parts(keys, count), std::slice::from_raw_parts(flags, count)) };
    let numbers = |(at, flags): (&c_int, &c_int)| (usize::try_from(*at).unwrap_or(0), flags.unsigned_abs());
    let found = positions.iter().zip(uses).map(numbers).collect();
    call!(RedisModule_Free(keys.cast()));
    call!(RedisModule_Free(flags.cast()));
    Some(found)
}
