//! `cg-limits`: the type of rate limits.

use crate::engine::codec::{Corrupt, Sink};
use crate::engine::id::DbId;
use crate::engine::limit::codec::{decode, encode, pack, ENCODING_VERSION};
use crate::engine::limit::Limits;
use crate::server::ffi::context::Effect;
use crate::server::ffi::types::{Aof, Data, Digest, Handle, Rdb};
use crate::server::limit::wait;
use crate::server::state::STATE;
use std::ffi::CStr;

static HANDLE: Handle = Handle::new();

impl Data for Limits {
    const NAME: &'static CStr = c"cg-limits";
    const ENCODING_VERSION: i32 = ENCODING_VERSION;

    #[inline]
    fn handle() -> &'static Handle {
        &HANDLE
    }

    fn load(version: i32, source: &mut Rdb) -> Result<Self, Corrupt> {
        decode(version, source)
    }

    fn save(&self, _db: DbId, sink: &mut Rdb) {
        encode(self, sink);
    }

    /// `PERSIST` ends it, since `STATE` sets the TTL: the server adds the key's own, or none. Without
    /// that command a key that had lost its TTL gets one again.
    fn rewrite(&self, _db: DbId, aof: &mut Aof) {
        let (key, state) = (aof.key, pack(self));
        aof.emit(c"CACHE.RATELIMIT", &[Effect::Arg(key), Effect::Word(c"STATE"), Effect::Bytes(&state)]);
        if let Some(persist) = STATE.with(|state| state.persist) {
            aof.emit(persist, &[Effect::Arg(key)]);
        }
    }

    fn digest(&self, _db: DbId, digest: &mut Digest) {
        encode(self, digest);
        digest.end_sequence();
    }

    fn memory(&self, _db: DbId) -> usize {
        self.heap_bytes()
    }

    fn copy(&self, _db: DbId) -> Self {
        self.unmarked()
    }

    /// Whoever waits for its units need not wait any longer.
    fn unlinked(&mut self, db: DbId, key: &[u8]) {
        wait::key_left(db, key);
    }
}

impl Sink for Digest {
    fn put_unsigned(&mut self, value: u64) {
        self.add_number(value);
    }

    fn put_bytes(&mut self, bytes: &[u8]) {
        self.add_bytes(bytes);
    }
}
