//! The data type `cg-cached` as the server sees it: its callbacks.
//!
//! `free` may run on a background thread and so only frees memory. All others run on the main
//! thread or in a forked child. None of them may unwind.

use super::entry_point::guarded;
use crate::engine::codec::{self, Sink, Source, ENCODING_VERSION};
use crate::engine::entry::Entry;
use redis_module::raw;
use std::ffi::{c_char, c_int, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};

/// The name of the type in RDB files: nine characters, for ever.
const NAME: &std::ffi::CStr = c"cg-cached";
const METHODS_VERSION: u64 = 5;
/// Freeing this many bytes counts as one unit of effort; over 64 units the server frees in the
/// background.
const BYTES_PER_EFFORT: usize = 16 * 1024;

static CACHED: AtomicPtr<raw::RedisModuleType> = AtomicPtr::new(null_mut());

/// The type's handle.
#[inline]
pub(super) fn cached() -> *mut raw::RedisModuleType {
    CACHED.load(Relaxed)
}

/// Makes the type known to the server; false if it refuses.
pub(super) fn register(ctx: *mut raw::RedisModuleCtx) -> bool {
    let mut methods = raw::RedisModuleTypeMethods {
        version: METHODS_VERSION,
        rdb_load: Some(load),
        rdb_save: Some(save),
        aof_rewrite: Some(rewrite),
        mem_usage: Some(memory_usage),
        digest: Some(digest),
        free: Some(free),
        free_effort: Some(free_effort),
        copy: Some(copy),
        aux_load: None,
        aux_save: None,
        aux_save_triggers: 0,
        unlink: None,
        defrag: None,
        mem_usage2: None,
        free_effort2: None,
        unlink2: None,
        copy2: None,
        aux_save2: None,
    };
    let handle = call!(RedisModule_CreateDataType(ctx, NAME.as_ptr(), ENCODING_VERSION, &mut methods));
    CACHED.store(handle, Relaxed);
    !handle.is_null()
}

/// The entry behind a value pointer of the server.
///
/// # Safety
/// `value` is a live value of type `cg-cached`.
unsafe fn entry<'v>(value: *const c_void) -> &'v Entry {
    // SAFETY: the caller's promise; such values are made from `Box<Entry>` only.
    unsafe { &*value.cast::<Entry>() }
}

struct Rdb(*mut raw::RedisModuleIO);

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

unsafe extern "C" fn load(io: *mut raw::RedisModuleIO, version: c_int) -> *mut c_void {
    guarded(null_mut(), || match codec::decode(version, &mut Rdb(io)) {
        Ok(entry) => Box::into_raw(Box::new(entry)).cast(),
        Err(reason) => {
            let text = format!("cg-cached: a payload was refused: {reason:?}");
            let text = std::ffi::CString::new(text).unwrap_or_default();
            call!(RedisModule_LogIOError(io, c"warning".as_ptr(), c"%s".as_ptr(), text.as_ptr()));
            null_mut()
        }
    })
}

unsafe extern "C" fn save(io: *mut raw::RedisModuleIO, value: *mut c_void) {
    // SAFETY: the server passes a live value of our type.
    guarded((), || codec::encode(unsafe { entry(value) }, &mut Rdb(io)));
}

/// Emits the command that makes the same entry; the server adds the TTL itself.
unsafe extern "C" fn rewrite(io: *mut raw::RedisModuleIO, key: *mut raw::RedisModuleString, value: *mut c_void) {
    guarded((), || {
        // SAFETY: the server passes a live value of our type.
        let entry = unsafe { entry(value) };
        let bytes = entry.value();
        let meta = [entry.meta.stale_ms, entry.meta.version, u64::from(entry.meta.cost_ms)].map(|n| n.to_string());
        let [stale, version, cost] = meta.each_ref().map(|text| (text.as_ptr().cast::<c_char>(), text.len()));
        call!(RedisModule_EmitAOF(
            io,
            c"CACHE.SETSM".as_ptr(),
            c"sbccbcbcb".as_ptr(),
            key,
            bytes.as_ptr().cast::<c_char>(),
            bytes.len(),
            c"PERSIST".as_ptr(),
            c"STALE".as_ptr(),
            stale.0,
            stale.1,
            c"VERSION".as_ptr(),
            version.0,
            version.1,
            c"COST".as_ptr(),
            cost.0,
            cost.1
        ));
    });
}

unsafe extern "C" fn memory_usage(value: *const c_void) -> usize {
    guarded(0, || {
        // SAFETY: the server passes a live value of our type.
        let bytes = unsafe { entry(value) }.value();
        let body = if bytes.is_empty() { 0 } else { allocated(bytes.as_ptr().cast()) };
        allocated(value) + body
    })
}

/// The bytes the allocator spends on a block.
fn allocated(block: *const c_void) -> usize {
    call!(RedisModule_MallocSize(block.cast_mut()))
}

unsafe extern "C" fn digest(digest: *mut raw::RedisModuleDigest, value: *mut c_void) {
    guarded((), || {
        // SAFETY: the server passes a live value of our type.
        let entry = unsafe { entry(value) };
        let bytes = entry.value();
        call!(RedisModule_DigestAddStringBuffer(digest, bytes.as_ptr().cast(), bytes.len()));
        for number in [entry.meta.stale_ms, entry.meta.version, u64::from(entry.meta.cost_ms)] {
            call!(RedisModule_DigestAddLongLong(digest, number as i64));
        }
        call!(RedisModule_DigestEndSequence(digest));
    });
}

unsafe extern "C" fn free(value: *mut c_void) {
    // SAFETY: the server gives the value up; it was made from `Box<Entry>`.
    guarded((), || drop(unsafe { Box::from_raw(value.cast::<Entry>()) }));
}

unsafe extern "C" fn free_effort(_key: *mut raw::RedisModuleString, value: *const c_void) -> usize {
    // SAFETY: the server passes a live value of our type.
    guarded(1, || 1 + unsafe { entry(value) }.value().len() / BYTES_PER_EFFORT)
}

unsafe extern "C" fn copy(
    _from: *mut raw::RedisModuleString,
    _to: *mut raw::RedisModuleString,
    value: *const c_void,
) -> *mut c_void {
    guarded(null_mut(), || {
        // SAFETY: the server passes a live value of our type.
        let entry = unsafe { entry(value) };
        Box::into_raw(Box::new(Entry::new(entry.value(), entry.meta))).cast()
    })
}
