//! `cg-cached`: the type of entries.

use crate::engine::cache::codec::{self, ENCODING_VERSION};
use crate::engine::cache::entry::{Entry, Tags};
use crate::engine::codec::Corrupt;
use crate::engine::id::DbId;
use crate::engine::tag::Standing;
use crate::server::cache::commit::push_options;
use crate::server::ffi::context::Effect;
use crate::server::ffi::types::{allocated, Aof, Data, Digest, Handle, Rdb};
use crate::server::tag::index;
use std::ffi::CStr;

static HANDLE: Handle = Handle::new();

/// What the index holds of an entry with tags, about: a record, a place in a set of members for each.
const RECORD_BYTES: usize = 96;
const MEMBERSHIP_BYTES: usize = 16;

impl Data for Entry {
    const NAME: &'static CStr = c"cg-cached";
    const ENCODING_VERSION: i32 = ENCODING_VERSION;

    #[inline]
    fn handle() -> &'static Handle {
        &HANDLE
    }

    fn load(version: i32, source: &mut Rdb) -> Result<Self, Corrupt> {
        let entry = codec::decode(version, source)?;
        if entry.tags().is_some() {
            index::loaded();
        }
        Ok(entry)
    }

    fn save(&self, db: DbId, sink: &mut Rdb) {
        codec::encode(self, &index::carried(db, self), sink);
    }

    /// Nothing of an entry that is dead: the key is as good as gone.
    fn rewrite(&self, db: DbId, aof: &mut Aof) {
        let (meta, carried, key) = (self.meta(), index::carried(db, self), aof.key);
        if carried.standing == Standing::Dead {
            return;
        }
        let mut words = vec![Effect::Arg(key), Effect::Bytes(self.value()), Effect::Word(c"PERSIST")];
        let stale_since = (carried.standing == Standing::Stale).then_some(carried.since);
        let tags = carried.names.iter().map(|name| Effect::Bytes(name));
        push_options(&mut words, meta, (meta.cost_ms > 0).then_some(meta.cost_ms), stale_since, tags);
        aof.emit(c"CACHE.SETSM", &words);
    }

    fn digest(&self, db: DbId, digest: &mut Digest) {
        let (meta, carried) = (self.meta(), index::carried(db, self));
        digest.add_bytes(self.value());
        for number in [meta.stale_ms, meta.version, u64::from(meta.cost_ms), carried.standing as u64] {
            digest.add_number(number);
        }
        // The dead have no use for their tags.
        if carried.standing != Standing::Dead {
            carried.names.iter().for_each(|name| digest.add_bytes(name));
        }
        digest.end_sequence();
    }

    fn memory(&self, db: DbId) -> usize {
        let index = match self.tags() {
            None => 0,
            Some(Tags::Carried(carried)) => carried.names.iter().map(|name| name.len()).sum(),
            Some(Tags::Indexed(_)) => RECORD_BYTES + MEMBERSHIP_BYTES * index::count(db, self),
        };
        allocated(self.block()) + index
    }

    fn copy(&self, db: DbId) -> Self {
        let mut copy = Self::new(self.value(), self.meta());
        if self.tags().is_some() {
            copy.set_tags(Some(Tags::Carried(index::carried(db, self))));
        }
        copy
    }

    fn unlinked(&mut self, db: DbId, key: &[u8]) {
        index::detach(db, key, self);
    }
}
