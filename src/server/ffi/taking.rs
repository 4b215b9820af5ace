//! Replicating what a rate limit allowed, in as few new strings as can be.
//!
//! Each string of a replicated command costs the server some 350 instructions to make and to free
//! again, whether anybody listens or not. So keywords are made once, and the caller's own words are
//! passed on.

use super::context::{Arg, Ctx};
use super::entry_point::ArgVec;
use super::key::expect_none_open;
use super::OK;
use redis_module::raw;
use std::ffi::{c_char, CStr};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};

/// A keyword as a string of the server, made when it is first used and kept.
struct Word(&'static CStr, AtomicPtr<raw::RedisModuleString>);

impl Word {
    const fn new(word: &'static CStr) -> Self {
        Self(word, AtomicPtr::new(null_mut()))
    }

    fn raw(&self) -> *mut raw::RedisModuleString {
        let made = self.1.load(Relaxed);
        if !made.is_null() {
            return made;
        }
        let bytes = self.0.to_bytes();
        let string = call!(RedisModule_CreateString(null_mut(), bytes.as_ptr().cast::<c_char>(), bytes.len()));
        self.1.store(string, Relaxed);
        string
    }
}

static AT: Word = Word::new(c"AT");
static STATE: Word = Word::new(c"STATE");

impl Ctx<'_> {
    /// Sends `command key STATE payload` to replicas and the AOF.
    pub fn replicate_state(self, command: &'static CStr, key: Arg<'_>, payload: &[u8]) {
        expect_none_open("Replicate");
        let (name, form, start) = (command.as_ptr(), c"ssb".as_ptr(), payload.as_ptr().cast::<c_char>());
        let done = call!(RedisModule_Replicate(self.raw, name, form, key.raw, STATE.raw(), start, payload.len()));
        assert!(done == OK, "the server refused to replicate {command:?}");
    }

    /// Sends the running command with `AT at` behind its own words to replicas and the AOF.
    pub fn replicate_at(self, command: &'static CStr, argv: ArgVec<'_>, at: u64) {
        expect_none_open("Replicate");
        let (name, at) = (command.as_ptr(), i64::try_from(at).unwrap_or(i64::MAX));
        // A vector (`v`) costs more than the strings one by one, so the usual number is spelt out.
        let done = match *argv.words() {
            [key, limit, window] => {
                call!(RedisModule_Replicate(self.raw, name, c"ssssl".as_ptr(), key, limit, window, AT.raw(), at))
            }
            ref words => {
                let (form, start) = (c"vsl".as_ptr(), words.as_ptr());
                call!(RedisModule_Replicate(self.raw, name, form, start, words.len(), AT.raw(), at))
            }
        };
        assert!(done == OK, "the server refused to replicate {command:?}");
    }
}
