//! An open key of the keyspace.
//!
//! By default a key opened for writing counts as modified when it is closed, changed or not: that
//! aborts WATCH and invalidates client-side caches. The module asks the server not to, and says
//! itself what it modified ([`Ctx::signal_modified`]), so that a command which finds that it may
//! not write has changed nothing.
//!
//! The server may expire a key whenever it looks it up, and frees it then, whoever has it open: in a
//! second `OpenKey`, in a command that is called, and from Redis 8.6 on when the key is signalled as
//! modified. So at most one key is open at a time, and none while the server is asked to do any of
//! that. [`expect_none_open`] checks it in every such call, in every build, for two instructions: what
//! it finds is counted and logged as a panic is, and any test that meets it fails.

use super::commands::Reply;
use super::context::{Arg, Ctx};
use super::entry_point::PANICS;
use super::types::Data;
use super::OK;
use crate::engine::cache::entry::Entry;
use crate::engine::id::DbId;
use crate::engine::time::UnixMillis;
use crate::server::state::STATE;
use redis_module::raw;
use std::ffi::{c_int, c_void, CString};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Keys that are open now.
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// Checks that no key is open while `call` may make the server look one up.
#[inline]
pub(super) fn expect_none_open(call: &str) {
    if OPEN.load(Relaxed) != 0 {
        report_open(call);
    }
}

/// It is too late to refuse the call, which may follow a change; and as a rule it does no harm.
#[cold]
fn report_open(call: &str) {
    PANICS.fetch_add(1, Relaxed);
    let text = CString::new(format!("cacheguard: panic: a key is open in {call}")).unwrap_or_default();
    call!(RedisModule_Log(null_mut(), c"warning".as_ptr(), c"%s".as_ptr(), text.as_ptr()));
}

/// A key, open until dropped.
pub struct Key<'c> {
    raw: *mut raw::RedisModuleKey,
    ctx: Ctx<'c>,
}

/// What a key holds.
pub enum Holds<'k> {
    /// It does not exist.
    Nothing,
    /// An entry of ours.
    Entry(&'k Entry),
    /// A native string.
    String,
    /// Anything else.
    Other,
}

impl<'c> Ctx<'c> {
    /// Opens `name` for reading; `None` if it does not exist. Counts as a use of the key.
    #[inline]
    #[must_use]
    pub fn open_read(self, name: Arg<'_>) -> Option<Key<'c>> {
        Key::open(self, name, raw::REDISMODULE_READ).if_exists()
    }

    /// As [`Self::open_read`], without counting as a use of the key.
    #[must_use]
    pub fn open_quietly(self, name: Arg<'_>) -> Option<Key<'c>> {
        Key::open(self, name, raw::REDISMODULE_READ | raw::REDISMODULE_OPEN_KEY_NOTOUCH).if_exists()
    }

    /// Opens `name` for writing, whether it exists or not.
    #[must_use]
    pub fn open_write(self, name: Arg<'_>) -> Key<'c> {
        Key::open(self, name, raw::REDISMODULE_READ | raw::REDISMODULE_WRITE)
    }

    /// Aborts WATCH on `name` and invalidates client-side caches of it.
    pub fn signal_modified(self, name: Arg<'_>) {
        expect_none_open("SignalModifiedKey");
        call!(RedisModule_SignalModifiedKey(self.raw, name.raw));
    }

    /// Runs `act` on the key `name` of database `db`, from outside a command.
    pub fn within<T>(self, db: i32, name: &[u8], act: impl FnOnce(Arg<'_>) -> T) -> T {
        let selected = self.db();
        self.select_db(db);
        let done = act(self.string(name).arg());
        self.select_db(selected);
        done
    }

    /// Runs `look` on the key `name` of database `db`, from outside a command.
    pub fn lookup_at<T>(self, db: i32, name: &[u8], look: impl FnOnce(Option<Key<'_>>, Arg<'_>) -> T) -> T {
        self.within(db, name, |name| look(self.open_read(name), name))
    }

    /// True if another node of the cluster serves `name` now. The server says so when it is asked to
    /// run a command on the key; one of ours, since only those are sure to have their names.
    #[must_use]
    pub fn is_foreign(self, name: &[u8]) -> bool {
        expect_none_open("Call");
        let format = c"b".as_ptr();
        let reply = call!(RedisModule_Call(self.raw, c"CACHE.TAGS".as_ptr(), format, name.as_ptr(), name.len()));
        match Reply::new(reply) {
            Some(_) => false,
            None => std::io::Error::last_os_error().raw_os_error() == Some(libc::EPERM),
        }
    }

    /// Passes the native string under `name` to `read`; `None` if it is gone. `GET` leaves the string as
    /// it is; where an operator took that away it is read directly, and the server then keeps a short
    /// string or a number in its plain form, which takes some more memory.
    pub fn read_string<T>(self, name: Arg<'_>, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
        if STATE.with(|state| state.has_get) {
            self.call_get(name, read)
        } else {
            self.open_read(name).and_then(|mut key| key.read_directly(read))
        }
    }
}

impl<'c> Key<'c> {
    /// Opens `name`; what does not exist and is not to be written is no key.
    #[inline]
    fn open(ctx: Ctx<'c>, name: Arg<'_>, mode: u32) -> Self {
        expect_none_open("OpenKey");
        // Only the main thread opens keys.
        OPEN.store(OPEN.load(Relaxed) + 1, Relaxed);
        Self { raw: call!(RedisModule_OpenKey(ctx.raw, name.raw, mode as c_int)).cast(), ctx }
    }

    fn if_exists(self) -> Option<Self> {
        (!self.raw.is_null()).then_some(self)
    }
}

impl Key<'_> {
    /// Closes the key: what follows may make the server look it up.
    pub fn close(self) {}

    fn read_directly<T>(&mut self, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
        if !matches!(self.holds(), Holds::String) {
            return None;
        }
        let mut len = 0;
        let start = call!(RedisModule_StringDMA(self.raw, &mut len, raw::REDISMODULE_READ as c_int));
        // SAFETY: the key holds a string of `len` bytes there, until it is changed or closed.
        (!start.is_null()).then(|| read(unsafe { std::slice::from_raw_parts(start.cast(), len) }))
    }

    /// What is under the key.
    #[inline]
    #[must_use]
    pub fn holds(&self) -> Holds<'_> {
        if let Some(entry) = self.entry() {
            return Holds::Entry(entry);
        }
        match call!(RedisModule_KeyType(self.raw)) as u32 {
            EMPTY => Holds::Nothing,
            STRING => Holds::String,
            _ => Holds::Other,
        }
    }

    /// The value under the key, if it is one of the type `T`.
    #[inline]
    #[must_use]
    pub fn value<T: Data>(&self) -> Option<&T> {
        // SAFETY: a value of the type is a `T` of ours; it stays while the key is open and `self` is
        // borrowed, since only the main thread changes the keyspace.
        unsafe { self.pointer::<T>().as_ref() }
    }

    /// The same, to be changed in place. Whoever does says so ([`Ctx::signal_modified`]).
    #[must_use]
    pub fn value_mut<T: Data>(&mut self) -> Option<&mut T> {
        // SAFETY: as in `value`; `&mut self` makes this the only reference.
        unsafe { self.pointer::<T>().as_mut() }
    }

    #[inline]
    fn pointer<T: Data>(&self) -> *mut T {
        if call!(RedisModule_ModuleTypeGetType(self.raw)) != T::handle().raw() {
            return null_mut();
        }
        call!(RedisModule_ModuleTypeGetValue(self.raw)).cast()
    }

    /// Puts `value` under the key, in place where one of its type is; that one is returned. Keeps no
    /// TTL.
    pub fn put<T: Data>(&mut self, value: T) -> Option<T> {
        if let Some(held) = self.value_mut::<T>() {
            return Some(std::mem::replace(held, value));
        }
        let value: *mut c_void = Box::into_raw(Box::new(value)).cast();
        let done = call!(RedisModule_ModuleTypeSetValue(self.raw, T::handle().raw(), value));
        assert!(done == OK, "the server refused a value");
        None
    }

    /// The entry under the key, if that is what it holds.
    #[inline]
    #[must_use]
    pub fn entry(&self) -> Option<&Entry> {
        self.value()
    }

    /// The database it is in.
    #[must_use]
    pub fn db(&self) -> DbId {
        call!(RedisModule_GetDbIdFromModuleKey(self.raw))
    }

    /// When the key goes; `None`: never.
    #[must_use]
    pub fn expires(&self) -> Option<UnixMillis> {
        u64::try_from(call!(RedisModule_GetAbsExpire(self.raw))).ok().map(UnixMillis)
    }

    /// Lets the key go at `at`; `None`: never.
    pub fn expire_at(&mut self, at: Option<UnixMillis>) {
        let at = at.map_or(raw::REDISMODULE_NO_EXPIRE.into(), |at| i64::try_from(at.0).unwrap_or(i64::MAX));
        let done = call!(RedisModule_SetAbsExpire(self.raw, at));
        assert!(done == OK, "the server refused a TTL");
    }

    /// Deletes the key; a large value is freed in the background.
    pub fn delete(&mut self) {
        call!(RedisModule_UnlinkKey(self.raw));
    }
}

const EMPTY: u32 = raw::REDISMODULE_KEYTYPE_EMPTY as u32;
const STRING: u32 = raw::REDISMODULE_KEYTYPE_STRING as u32;

impl Drop for Key<'_> {
    fn drop(&mut self) {
        call!(RedisModule_CloseKey(self.raw));
        OPEN.store(OPEN.load(Relaxed).saturating_sub(1), Relaxed);
        let _ = self.ctx;
    }
}
