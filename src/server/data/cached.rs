//! `cg-cached`: the type of entries.

use crate::engine::codec::{self, Corrupt, ENCODING_VERSION};
use crate::engine::entry::Entry;
use crate::engine::waiters::DbId;
use crate::server::ffi::context::Effect;
use crate::server::ffi::types::{allocated, Aof, Data, Digest, Handle, Rdb};
use std::ffi::CStr;

static HANDLE: Handle = Handle::new();

impl Data for Entry {
    const NAME: &'static CStr = c"cg-cached";
    const ENCODING_VERSION: i32 = ENCODING_VERSION;

    #[inline]
    fn handle() -> &'static Handle {
        &HANDLE
    }

    fn load(version: i32, source: &mut Rdb) -> Result<Self, Corrupt> {
        codec::decode(version, source)
    }

    fn save(&self, _db: DbId, sink: &mut Rdb) {
        codec::encode(self, sink);
    }

    fn rewrite(&self, _db: DbId, aof: &mut Aof) {
        let key = aof.key;
        let words = [
            Effect::Arg(key),
            Effect::Bytes(self.value()),
            Effect::Word(c"PERSIST"),
            Effect::Word(c"STALE"),
            Effect::Number(self.meta.stale_ms),
            Effect::Word(c"VERSION"),
            Effect::Number(self.meta.version),
            Effect::Word(c"COST"),
            Effect::Number(self.meta.cost_ms.into()),
        ];
        aof.emit(c"CACHE.SETSM", &words);
    }

    fn digest(&self, _db: DbId, digest: &mut Digest) {
        digest.add_bytes(self.value());
        for number in [self.meta.stale_ms, self.meta.version, u64::from(self.meta.cost_ms)] {
            digest.add_number(number);
        }
        digest.end_sequence();
    }

    fn memory(&self, _db: DbId) -> usize {
        allocated(self.block())
    }

    fn copy(&self, _db: DbId) -> Self {
        Self::new(self.value(), self.meta)
    }
}
