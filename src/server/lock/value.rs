//! `cg-locked`: the type of locks.

use crate::engine::codec::Corrupt;
use crate::engine::id::DbId;
use crate::engine::lock::{codec, Fences, Lock, Mode};
use crate::server::ffi::context::{unix_now, Effect};
use crate::server::ffi::events;
use crate::server::ffi::types::{Aof, Data, Digest, Handle, Rdb};
use crate::server::lock::wait;
use crate::server::state::STATE;
use std::ffi::CStr;

static HANDLE: Handle = Handle::new();

impl Data for Lock {
    const NAME: &'static CStr = c"cg-locked";
    const ENCODING_VERSION: i32 = codec::ENCODING_VERSION;

    #[inline]
    fn handle() -> &'static Handle {
        &HANDLE
    }

    /// Numbers that are issued from now on are higher than those of the value. A number that is far
    /// ahead is believed from a file or a primary only.
    fn load(version: i32, source: &mut Rdb) -> Result<Self, Corrupt> {
        let lock = codec::decode(version, source)?;
        if !Fences::is_plausible(lock.last_fence(), unix_now()) {
            let situation = events::background().situation();
            if !situation.replays() && !situation.is_replica() {
                return Err(Corrupt::OutOfRange);
            }
        }
        STATE.with(|state| state.locks.fences.see(lock.last_fence()));
        Ok(lock)
    }

    fn save(&self, _db: DbId, sink: &mut Rdb) {
        codec::encode(self, sink);
    }

    /// `PERSIST` ends it, since each command sets the TTL of the last holder: the server adds the
    /// key's own, or none. Without that command a key that had lost its TTL gets one again.
    fn rewrite(&self, _db: DbId, aof: &mut Aof) {
        let key = aof.key;
        for holder in self.holders() {
            let mut words = vec![
                Effect::Arg(key),
                Effect::Bytes(&holder.owner),
                Effect::Word(c"PXAT"),
                Effect::Number(holder.deadline.0),
                Effect::Word(c"FENCE"),
                Effect::Number(holder.fence),
            ];
            match self.mode() {
                Mode::Exclusive => {}
                Mode::Shared => words.push(Effect::Word(c"SHARED")),
                Mode::Permits(n) => words.extend([Effect::Word(c"PERMITS"), Effect::Number(n.into())]),
            }
            aof.emit(c"CACHE.LOCK", &words);
        }
        if let Some(persist) = STATE.with(|state| state.persist) {
            aof.emit(persist, &[Effect::Arg(key)]);
        }
    }

    fn digest(&self, _db: DbId, digest: &mut Digest) {
        let (mode, permits) = match self.mode() {
            Mode::Exclusive => (0, 0),
            Mode::Shared => (1, 0),
            Mode::Permits(n) => (2, n),
        };
        digest.add_number(mode);
        digest.add_number(permits.into());
        for holder in self.holders() {
            digest.add_bytes(&holder.owner);
            digest.add_number(holder.fence);
            digest.add_number(holder.deadline.0);
        }
        digest.end_sequence();
    }

    fn memory(&self, _db: DbId) -> usize {
        self.holders_bytes()
    }

    /// Bound to no connection: the key it goes to was not locked by anybody.
    fn copy(&self, _db: DbId) -> Self {
        self.unbound()
    }

    fn unlinked(&mut self, db: DbId, key: &[u8]) {
        wait::removed(db, key, self);
    }
}
