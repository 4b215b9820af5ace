//! The data types as the server sees them: their callbacks.
//!
//! What a type holds and means is said by an implementation of [`Data`] in `server/data`; here each
//! callback of the server is brought to it. `free` may run on a background thread and so only frees
//! memory; `save`, `rewrite` and `digest` may run in a forked child; all others run on the main
//! thread. None of them may unwind.

use super::context::{Arg, Effect, Strings};
use super::entry_point::guarded;
use crate::engine::codec::{Corrupt, Sink, Source};
use crate::engine::id::DbId;
use redis_module::raw;
use std::ffi::{c_int, c_longlong, c_void, CStr};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};

const METHODS_VERSION: u64 = 5;

/// Freeing this many bytes counts as one unit of effort; over 64 units the server frees in the
/// background.
const BYTES_PER_EFFORT: usize = 16 * 1024;

/// A value that is kept under a key. `db` is always the database of that key.
pub trait Data: Sized + Send + 'static {
    /// The name of the type in RDB files: nine characters, for ever.
    const NAME: &'static CStr;
    /// The encoding that [`Self::save`] writes.
    const ENCODING_VERSION: i32;

    /// Where the server's handle of the type is kept.
    fn handle() -> &'static Handle;

    /// Reads what [`Self::save`] wrote with `version`.
    ///
    /// # Errors
    /// [`Corrupt`], whatever the input.
    fn load(version: i32, source: &mut Rdb) -> Result<Self, Corrupt>;

    /// Writes the value to an RDB file or a DUMP.
    fn save(&self, db: DbId, sink: &mut Rdb);

    /// Writes the commands that make the same value under `aof.key`; the server adds the TTL itself.
    fn rewrite(&self, db: DbId, aof: &mut Aof);

    /// Adds to the digest all that a copy of the value must share.
    fn digest(&self, db: DbId, digest: &mut Digest);

    /// The bytes it takes beside its own block.
    fn memory(&self, db: DbId) -> usize;

    /// A copy for another key, which may be in another database.
    fn copy(&self, db: DbId) -> Self;

    /// It is about to leave `key`, to be freed or to be put under another key.
    fn unlinked(&mut self, _db: DbId, _key: &[u8]) {}
}

/// The server's handle of a type.
pub struct Handle(AtomicPtr<raw::RedisModuleType>);

impl Default for Handle {
    fn default() -> Self {
        Self::new()
    }
}

impl Handle {
    /// Of a type that is not registered yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicPtr::new(null_mut()))
    }

    #[inline]
    pub(super) fn raw(&self) -> *mut raw::RedisModuleType {
        self.0.load(Relaxed)
    }
}

/// Makes a type known to the server; false if it refuses.
pub(super) fn register<T: Data>(ctx: *mut raw::RedisModuleCtx) -> bool {
    let mut methods = raw::RedisModuleTypeMethods {
        version: METHODS_VERSION,
        rdb_load: Some(load::<T>),
        rdb_save: Some(save::<T>),
        aof_rewrite: Some(rewrite::<T>),
        mem_usage: None,
        digest: Some(digest::<T>),
        free: Some(free::<T>),
        free_effort: None,
        copy: None,
        aux_load: None,
        aux_save: None,
        aux_save_triggers: 0,
        unlink: None,
        defrag: None,
        mem_usage2: Some(memory_usage::<T>),
        free_effort2: Some(free_effort::<T>),
        unlink2: Some(unlink::<T>),
        copy2: Some(copy::<T>),
        aux_save2: None,
    };
    let handle = call!(RedisModule_CreateDataType(ctx, T::NAME.as_ptr(), T::ENCODING_VERSION, &mut methods));
    T::handle().0.store(handle, Relaxed);
    !handle.is_null()
}

/// The bytes the allocator spends on what a box points to.
#[must_use]
#[allow(clippy::borrowed_box)] // only a box is sure to be a block of its own
pub fn allocated<T: ?Sized>(block: &Box<T>) -> usize {
    if size_of_val::<T>(block) == 0 {
        return 0;
    }
    call!(RedisModule_MallocSize(std::ptr::from_ref::<T>(block).cast_mut().cast()))
}

/// An RDB file or a DUMP that is written or read.
pub struct Rdb(*mut raw::RedisModuleIO);

impl Sink for Rdb {
    fn put_unsigned(&mut self, value: u64) {
        call!(RedisModule_SaveUnsigned(self.0, value));
    }

    fn put_bytes(&mut self, bytes: &[u8]) {
        call!(RedisModule_SaveStringBuffer(self.0, bytes.as_ptr().cast(), bytes.len()));
    }
}

impl Rdb {
    fn failed(&self) -> bool {
        call!(RedisModule_IsIOError(self.0)) != 0
    }
}

impl Source for Rdb {
    fn take_unsigned(&mut self) -> Option<u64> {
        let value = call!(RedisModule_LoadUnsigned(self.0));
        (!self.failed()).then_some(value)
    }

    fn take_bytes<T>(&mut self, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
        let mut len = 0;
        let start = call!(RedisModule_LoadStringBuffer(self.0, &mut len));
        if start.is_null() || self.failed() {
            return None;
        }
        // SAFETY: the server gave us a buffer of `len` bytes, to be freed by us.
        let value = read(unsafe { std::slice::from_raw_parts(start.cast(), len) });
        call!(RedisModule_Free(start.cast()));
        Some(value)
    }
}

/// An AOF that is rewritten, at one key.
pub struct Aof<'k> {
    io: *mut raw::RedisModuleIO,
    /// The key whose value is written.
    pub key: Arg<'k>,
}

impl Aof<'_> {
    /// Appends a command.
    pub fn emit(&mut self, command: &'static CStr, args: &[Effect<'_>]) {
        // The server passes a key that must not be kept, only read.
        let copied: Vec<_> = args.iter().map(|arg| arg.copied()).collect();
        let mut strings = Strings::new(null_mut(), &copied);
        let (start, len) = strings.vector();
        call!(RedisModule_EmitAOF(self.io, command.as_ptr(), c"v".as_ptr(), start, len));
    }
}

/// The digest of a value, by which copies are compared.
pub struct Digest(*mut raw::RedisModuleDigest);

impl Digest {
    /// Adds bytes.
    pub fn add_bytes(&mut self, bytes: &[u8]) {
        call!(RedisModule_DigestAddStringBuffer(self.0, bytes.as_ptr().cast(), bytes.len()));
    }

    /// Adds a number.
    pub fn add_number(&mut self, number: u64) {
        call!(RedisModule_DigestAddLongLong(self.0, number as c_longlong));
    }

    /// Ends a sequence whose order counts.
    pub fn end_sequence(&mut self) {
        call!(RedisModule_DigestEndSequence(self.0));
    }
}

/// The value behind a pointer of the server.
///
/// # Safety
/// `value` is a live value of the type that `T` was registered as.
unsafe fn value<'v, T: Data>(value: *const c_void) -> &'v T {
    // SAFETY: the caller's promise; such values are made from `Box<T>` only.
    unsafe { &*value.cast::<T>() }
}

fn boxed<T: Data>(value: T) -> *mut c_void {
    Box::into_raw(Box::new(value)).cast()
}

unsafe extern "C" fn load<T: Data>(io: *mut raw::RedisModuleIO, version: c_int) -> *mut c_void {
    guarded(null_mut(), || match T::load(version, &mut Rdb(io)) {
        Ok(value) => boxed(value),
        Err(reason) => {
            let text = format!("{}: a payload was refused: {reason:?}", T::NAME.to_string_lossy());
            let text = std::ffi::CString::new(text).unwrap_or_default();
            call!(RedisModule_LogIOError(io, c"warning".as_ptr(), c"%s".as_ptr(), text.as_ptr()));
            null_mut()
        }
    })
}

unsafe extern "C" fn save<T: Data>(io: *mut raw::RedisModuleIO, data: *mut c_void) {
    let db = call!(RedisModule_GetDbIdFromIO(io));
    // SAFETY: the server passes a live value of the type.
    guarded((), || unsafe { value::<T>(data) }.save(db, &mut Rdb(io)));
}

unsafe extern "C" fn rewrite<T: Data>(
    io: *mut raw::RedisModuleIO,
    key: *mut raw::RedisModuleString,
    data: *mut c_void,
) {
    let db = call!(RedisModule_GetDbIdFromIO(io));
    // SAFETY: the server passes a live value of the type.
    guarded((), || unsafe { value::<T>(data) }.rewrite(db, &mut Aof { io, key: Arg::new(key) }));
}

unsafe extern "C" fn memory_usage<T: Data>(
    ctx: *mut raw::RedisModuleKeyOptCtx,
    data: *const c_void,
    _samples: usize,
) -> usize {
    guarded(0, || {
        let db = call!(RedisModule_GetDbIdFromOptCtx(ctx));
        // SAFETY: the server passes a live value of the type.
        call!(RedisModule_MallocSize(data.cast_mut())) + unsafe { value::<T>(data) }.memory(db)
    })
}

unsafe extern "C" fn digest<T: Data>(digest: *mut raw::RedisModuleDigest, data: *mut c_void) {
    guarded((), || {
        let db = call!(RedisModule_GetDbIdFromDigest(digest));
        // SAFETY: the server passes a live value of the type.
        unsafe { value::<T>(data) }.digest(db, &mut Digest(digest));
    });
}

unsafe extern "C" fn free<T: Data>(data: *mut c_void) {
    // SAFETY: the server gives the value up; it was made from `Box<T>`.
    guarded((), || drop(unsafe { Box::from_raw(data.cast::<T>()) }));
}

unsafe extern "C" fn free_effort<T: Data>(ctx: *mut raw::RedisModuleKeyOptCtx, data: *const c_void) -> usize {
    guarded(1, || {
        let db = call!(RedisModule_GetDbIdFromOptCtx(ctx));
        // SAFETY: the server passes a live value of the type.
        1 + unsafe { value::<T>(data) }.memory(db) / BYTES_PER_EFFORT
    })
}

unsafe extern "C" fn unlink<T: Data>(ctx: *mut raw::RedisModuleKeyOptCtx, data: *const c_void) {
    guarded((), || {
        let db = call!(RedisModule_GetDbIdFromOptCtx(ctx));
        let key = Arg::new(call!(RedisModule_GetKeyNameFromOptCtx(ctx)).cast_mut());
        // SAFETY: the server passes a live value of the type, on the main thread and outside of any
        // access of ours to that value: whoever deletes or overwrites a key does not look into it.
        unsafe { &mut *data.cast_mut().cast::<T>() }.unlinked(db, key.bytes());
    });
}

unsafe extern "C" fn copy<T: Data>(ctx: *mut raw::RedisModuleKeyOptCtx, data: *const c_void) -> *mut c_void {
    guarded(null_mut(), || {
        let db = call!(RedisModule_GetDbIdFromOptCtx(ctx));
        // SAFETY: the server passes a live value of the type.
        boxed(unsafe { value::<T>(data) }.copy(db))
    })
}
